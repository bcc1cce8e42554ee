"""Invents a study's finished run folders, so that reports and tracking can be tested without training anything.

Every number is made up by a seeded generator; only the shape of the files is real. Used by tests only.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from udaseg.runs import publish, write_json

CLASSES = [
    "road",
    "sidewalk",
    "building",
    "fence",
    "pole",
    "traffic_sign",
    "vegetation",
    "sky",
    "person",
    "car",
    "train",
]
SETS = {"mIoU11": CLASSES, "mIoU4": ["road", "building", "sky", "car"]}
SIZE = (96, 192)
QUALITY = {
    "source_only": 0.52,
    "adabn": 0.60,
    "dann": 0.63,
    "adaptsegnet": 0.66,
    "adaptsegnet_multi": 0.68,
    "oracle": 0.80,
}
TITLES = {
    "source_only": "Source only",
    "adabn": "AdaBN",
    "dann": "DANN",
    "adaptsegnet": "AdaptSegNet",
    "adaptsegnet_multi": "AdaptSegNet, multi-level",
    "oracle": "Oracle",
}
TERMS = {
    "source_only": {"seg": 1.9},
    "adabn": {"seg": 1.9},
    "oracle": {"seg": 1.7},
    "dann": {"seg": 1.9, "domain": 0.69},
    "adaptsegnet": {"seg": 1.9, "adv": 0.7, "disc": 0.69},
    "adaptsegnet_multi": {"seg": 1.9, "seg_aux": 2.1, "adv": 0.7, "adv_aux": 0.7, "disc": 0.69},
}
LOGS = {
    "dann": ["domain_accuracy", "reversal"],
    "adaptsegnet": ["domain_accuracy"],
    "adaptsegnet_multi": ["domain_accuracy"],
}


def fabricate(
    root: Path,
    recipes: tuple[str, ...] = tuple(QUALITY),
    seeds: tuple[int, ...] = (0, 1, 2),
    iterations: int = 600,
    pictures: int = 3,
    pretrain: bool = True,
    absent: tuple[str, ...] = ("train",),
) -> Path:
    """Write a study under `root`, with paths relative to it; returns the path of its report spec (relative too)."""
    classes = CLASSES
    scenes = {f"target_{index:03d}": _scene(index) for index in range(pictures)}
    target = _write_set(root, "target", scenes)
    source = _write_set(root, "source", {})
    entries: list[dict[str, Any]] = []
    start = Path("results/objects/source_only/seed=0-0000000000")
    if pretrain:
        _write_run(
            root,
            start,
            "source_only",
            0,
            iterations,
            {"seg": 2.0},
            [],
            0.4,
            {"student": "scratch"},
            (str(source), None),
        )
    for recipe in recipes:
        for seed in seeds:
            code = f"{hash_of(recipe, seed):08x}10"
            folder = Path(f"results/toytown_source-toytown_target/{recipe}/seed={seed}-{code}")
            rng = np.random.default_rng(hash_of(recipe, seed))
            quality = QUALITY[recipe] + 0.02 * rng.standard_normal()
            init = {"student": str(start)} if pretrain else {"student": "scratch"}
            _write_run(
                root,
                folder,
                recipe,
                seed,
                iterations,
                TERMS[recipe],
                LOGS.get(recipe, []),
                quality,
                init,
                (str(source), str(target)),
            )
            evaluation = folder / f"evaluate-{code[::-1]}10"
            _write_evaluation(root, evaluation, rng, quality, classes, absent, scenes, iterations)
            entries.append(
                {
                    "recipe": recipe,
                    "title": TITLES[recipe],
                    "stage": "main",
                    "final": True,
                    "seed": seed,
                    "run": str(folder),
                    "evaluation": str(evaluation),
                    "overrides": "levels=2" if recipe == "adaptsegnet_multi" else "",
                }
            )
    spec = {
        "kind": "report",
        "study": "demo",
        "classes": classes,
        "class_sets": SETS,
        "baseline": "source_only",
        "oracle": "oracle",
        "recipes": list(recipes),
        "runs": entries,
        "data": {"source": str(source), "target": str(target)},
        "output": "reports/demo",
    }
    path = Path("state/specs/report-demo-12345678.yaml")
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def hash_of(recipe: str, seed: int) -> int:
    """A number that is the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{recipe}/{seed}".encode()).digest()[:4], "big")


def _scene(index: int) -> np.ndarray:
    """A label map (H, W) uint8 with a bit of every class but the last, and some ignored pixels."""
    rng = np.random.default_rng(index)
    height, width = SIZE
    label = np.full(SIZE, CLASSES.index("sky"), dtype=np.uint8)
    label[height // 3 :] = CLASSES.index("building")
    label[height // 2 :, : width // 3] = CLASSES.index("vegetation")
    label[2 * height // 3 :] = CLASSES.index("road")
    label[2 * height // 3 : 3 * height // 4] = CLASSES.index("sidewalk")
    for name, size in (
        ("car", (18, 40)),
        ("person", (26, 8)),
        ("pole", (50, 3)),
        ("fence", (12, 30)),
        ("traffic_sign", (8, 8)),
    ):
        top, left = int(rng.integers(30, height - size[0])), int(rng.integers(0, width - size[1]))
        label[top : top + size[0], left : left + size[1]] = CLASSES.index(name)
    label[-4:] = 255
    return label


def _write_set(root: Path, role: str, scenes: dict[str, np.ndarray]) -> Path:
    folder = Path(f"data/sets/toytown_{role}-abcdef12")
    rng = np.random.default_rng(7)
    for name, label in scenes.items():
        colours = rng.integers(40, 220, (256, 3))
        noise = rng.normal(0, 12, (*SIZE, 3))
        picture = np.clip(colours[label] + noise, 0, 255).astype(np.uint8)
        _save(root / folder / "test/images" / f"{name}.png", picture[::2, ::2])
        _save(root / folder / "test/labels" / f"{name}.png", label[::2, ::2])
        _save(root / folder / "test/native" / f"{name}.png", label)
    entries = [{"name": name, "labelled": True, "native": list(SIZE)} for name in scenes]
    content = {
        "name": f"toytown_{role}",
        "spec": {"kind": "toytown", "domain": role, "world": 0},
        "classes": CLASSES,
        "size": [SIZE[0] // 2, SIZE[1] // 2],
        "splits": {"test": entries},
        "only_here": [],
        "fingerprint": role[0] * 64,
    }
    write_json(root / folder / "set.json", content)
    train = {"pixels": {"train_000": [9] * len(CLASSES)}, "totals": {name: 9 * (name != "train") for name in CLASSES}}
    write_json(root / folder / "statistics.json", {"classes": CLASSES, "splits": {"train": train}})
    return folder


def _write_run(
    root: Path,
    folder: Path,
    method: str,
    seed: int,
    iterations: int,
    terms: dict[str, float],
    logs: list[str],
    quality: float,
    init: dict[str, str],
    sets: tuple[str, str | None],
) -> None:
    classes = CLASSES
    rng = np.random.default_rng(seed + 100)
    build = root / folder.parent / f"{folder.name}.build"
    build.mkdir(parents=True)
    spec = {
        "kind": "train",
        "folder": str(folder),
        "method": method,
        "seed": seed,
        "init": init,
        "network": {"name": "small", "norm": "train"},
        "train": {
            "iterations": iterations,
            "source": {"batch": 4, "crop": [48, 96]},
            "precision": "fp32",
            "threads": 1,
        },
        "weights": dict.fromkeys(terms, 1.0),
        "classes": classes,
        "source": sets[0],
        "target": sets[1],
        "knobs": {"by colour": {"#804080": "road"}},
        "monitor": "val",
        "code": "c0de" * 16,
    }
    (build / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    lines: list[dict[str, Any]] = []
    for iteration in range(20, iterations + 1, 20):
        done = iteration / iterations
        values = {
            name: float(start * (np.exp(-3 * done) if name.startswith("seg") else 1 - 0.2 * done) + rng.normal(0, 0.03))
            for name, start in terms.items()
        }
        logged = {name: float(np.clip(0.9 - 0.35 * done + rng.normal(0, 0.02), 0, 1)) for name in logs}
        lines.append(
            {"iteration": iteration, "terms": values, "logs": logged, "lr": {"network": 2.5e-4 * (1 - done) ** 0.9}}
        )
        if iteration % 100 == 0 or iteration == iterations:
            iou: dict[str, float | None] = {name: float(quality * (1 - np.exp(-4 * done))) for name in classes[:-1]}
            miou = float(quality * (1 - np.exp(-4 * done)) + rng.normal(0, 0.01))
            lines.append(
                {"iteration": iteration, "monitor": {"split": "val", "mIoU11": miou, "iou": iou | {classes[-1]: None}}}
            )
    (build / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pace = 0.1 + 0.02 * len(terms) + 0.001 * seed
    write_json(
        build / "cost.json",
        {
            "seconds": pace * iterations,
            "iterations": iterations,
            "seconds_per_iteration": pace,
            "attempts": 1,
            "peak_memory_mib": 700.0 + 40 * len(terms),
            "device": "cpu",
            "finished": f"2026-01-0{seed + 1}T12:00:00+00:00",
        },
    )
    write_json(
        build / "env.json",
        {
            "versions": {"torch": "2.15.0", "numpy": "2.4.0"},
            "commit": "0123456789abcdef",
            "dirty": False,
            "device": "cpu",
            "host": "somewhere",
            "python": "3.11.2",
            "threads": 1,
            "code": "c0de" * 16,
        },
    )
    (build / "model.safetensors").write_bytes(rng.bytes(64))
    data = {"source": "5" * 64} | ({"target": "7" * 64} if sets[1] else {})
    write_json(build / "result.json", {"last": {"iteration": iterations}, "data": data})
    publish(build, root / folder, folder.name.rsplit("-", 1)[1], "train")


def _write_evaluation(
    root: Path,
    folder: Path,
    rng: np.random.Generator,
    quality: float,
    classes: list[str],
    absent: tuple[str, ...],
    scenes: dict[str, np.ndarray],
    iterations: int,
) -> None:
    build = root / folder.parent / f"{folder.name}.build"
    scores = {
        "last": _score(rng, quality, classes, absent, iterations, quality - 0.01),
        "best": _score(rng, quality + 0.004, classes, absent, iterations - 100, quality),
    }
    protocol = {
        "dataset": "toytown_target",
        "split": "test",
        "input": [SIZE[0] // 2, SIZE[1] // 2],
        "window": None,
        "flip": False,
        "scales": [1.0],
        "images": 80,
        "resize": "logits to the label's native size, bilinear, then argmax",
    }
    write_json(build / "metrics.json", {"classes": classes, "protocol": protocol, "scores": scores})
    (build / "spec.yaml").write_text(yaml.safe_dump({"kind": "evaluate", "split": "test"}))
    for name, label in scenes.items():
        wrong = rng.random((SIZE[0] // 8, SIZE[1] // 8)) > quality + 0.15
        guess = np.where(np.kron(wrong, np.ones((8, 8), dtype=bool)), (label + 1) % len(classes), label % len(classes))
        _save(build / "pictures" / f"{name}.png", guess.astype(np.uint8))
    publish(build, root / folder, folder.name.rsplit("-", 1)[1], "evaluate")


def _score(
    rng: np.random.Generator,
    quality: float,
    classes: list[str],
    absent: tuple[str, ...],
    iteration: int,
    monitor: float,
) -> dict[str, Any]:
    count = len(classes)
    ease = np.linspace(0.45, -0.55, count) * 0.4
    confusion = np.zeros((count, count), dtype=np.int64)
    for row, name in enumerate(classes):
        if name in absent:
            continue
        share = np.clip(quality + ease[row] + 0.15, 0.02, 0.99)
        total = int(20_000 * (1.2 - row / count))
        others = [column for column in range(count) if column != row and classes[column] not in absent]
        wrong = rng.multinomial(int(total * (1 - share)), np.full(len(others), 1 / len(others)))
        confusion[row, row] = int(total * share)
        confusion[row, others] = wrong
    hits, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    iou = {name: (float(hits[i] / union[i]) if union[i] else None) for i, name in enumerate(classes)}
    sets = {key: float(np.mean([iou[name] for name in names if iou[name] is not None])) for key, names in SETS.items()}
    return {
        "iteration": iteration,
        "monitor": monitor,
        "confusion": confusion.tolist(),
        "iou": iou,
        "undefined": [name for name in classes if iou[name] is None],
        "sets": sets,
        "pixel_accuracy": float(hits.sum() / confusion.sum()),
    }


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
