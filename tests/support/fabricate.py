"""Invents a study's finished run folders, so that reports and tracking can be tested without training anything.

Every number is made up by a seeded generator; only the shape of the files is real. Used by tests only.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from udaseg.runs.counts import FILE, image_counts, write_counts
from udaseg.runs.files import write_json
from udaseg.runs.folder import publish

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
IMAGES = 80  # that are scored


@dataclass(frozen=True)
class Stage:
    """One invented stage. Stages of one `key` are one run, whichever recipes have them."""

    name: str
    method: str
    level: float  # about its mIoU
    terms: dict[str, float]  # term -> its value at the start
    logs: tuple[str, ...] = ()
    key: str = ""  # the method's name unless given
    rule: str | None = None  # of the pseudo-labels it is trained on, made by the stage before
    labelled_target: int = 0

    @property
    def run(self) -> str:
        return self.key or self.method


SEG = {"seg": 1.9}
ADVERSARIAL = SEG | {"adv": 0.7, "disc": 0.69}
PRODA = SEG | {"sce": 2.4, "consist": 0.05, "reg": 8.5}
PLCA = SEG | {"associate": 4.1, "smooth": -0.9}
BANK = SEG | {"contrast": 0.6}
DISTIL = SEG | {"distill": 1.2, "kd": 0.4}
WARMUP = Stage("warmup", "adaptsegnet", 0.66, ADVERSARIAL, ("domain_accuracy",))
FIRST = Stage("stage1", "proda", 0.71, PRODA, ("confident",), rule="soft")
TITLES = {
    "source_only": "Source only",
    "adabn": "AdaBN",
    "dann": "DANN",
    "adaptsegnet": "AdaptSegNet",
    "adaptsegnet_multi": "AdaptSegNet, multi-level",
    "cbst": "CBST, three rounds",
    "proda": "ProDA, stages 1 to 3",
    "proda_released": "ProDA, stages 1 to 3 (released KD)",
    "plca": "PLCA",
    "plca_aggregated": "PLCA",
    "source_only_100": "Source and labelled target",
    "memory_bank_100": "Memory bank",
    "memory_bank_30": "Memory bank",
    "oracle": "Oracle",
}
STAGES = {
    "source_only": [Stage("main", "source_only", 0.52, SEG)],
    "adabn": [Stage("main", "adabn", 0.60, SEG)],
    "dann": [Stage("main", "dann", 0.63, SEG | {"domain": 0.69}, ("domain_accuracy", "reversal"))],
    "adaptsegnet": [replace(WARMUP, name="main")],
    "adaptsegnet_multi": [
        Stage(
            "main",
            "adaptsegnet_multi",
            0.68,
            SEG | {"seg_aux": 2.1, "adv": 0.7, "adv_aux": 0.7, "disc": 0.69},
            ("domain_accuracy",),
        )
    ],
    "cbst": [
        WARMUP,
        *(
            Stage(f"round{i}", "cbst", 0.66 + 0.015 * i, SEG | {"pseudo": 1.4}, key=f"cbst{i}", rule="class_balanced")
            for i in (1, 2, 3)
        ),
    ],
    "proda": [
        WARMUP,
        FIRST,
        Stage("stage2", "proda", 0.73, DISTIL, ("confident",), "proda2", "threshold"),
        Stage("stage3", "proda", 0.74, DISTIL, ("confident",), "proda3", "threshold"),
    ],
    "proda_released": [
        WARMUP,
        FIRST,
        Stage("stage2", "proda", 0.72, DISTIL, ("confident",), "proda_released2", "threshold"),
        Stage("stage3", "proda", 0.725, DISTIL, ("confident",), "proda_released3", "threshold"),
    ],
    "plca": [Stage("main", "plca", 0.67, PLCA)],
    "plca_aggregated": [Stage("main", "plca", 0.67, PLCA)],
    "source_only_100": [Stage("main", "source_only", 0.6, SEG, key="source_only_100", labelled_target=100)],
    "memory_bank_100": [WARMUP, Stage("main", "memory_bank", 0.7, BANK, ("stored",), "bank100", None, 100)],
    "memory_bank_30": [
        Stage("labelled", "memory_bank", 0.65, BANK, ("stored",), "bank30", None, 30),
        Stage("main", "proda", 0.68, DISTIL, key="distilled", rule="threshold"),
    ],
    "oracle": [Stage("main", "oracle", 0.80, {"seg": 1.7})],
}


@dataclass(frozen=True)
class Point:
    """One invented point of a sweep."""

    name: str
    stages: list[Stage]
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """One invented sweep. Its reference is a point without values, or the one whose runs are the recipe's own."""

    title: str
    recipe: str
    points: list[Point]
    over: dict[str, list[Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # point -> reason


def _dann(gamma: float, domain: float) -> Point:
    main = STAGES["dann"][0]
    values = {"main.knobs.gamma": gamma, "main.weights.domain": domain}
    own = {} if (gamma, domain) == (10.0, 0.5) else {"key": f"dann-{gamma}-{domain}"}
    level = main.level - 0.01 * abs(gamma - 10) / 5 - 0.03 * abs(domain - 0.5)
    return Point(f"gamma={gamma}, domain={domain}", [replace(main, level=level, **own)], values)


def _sized(size: int) -> Point:
    stage = Stage("main", "pipa", 0.7 - abs(size - 48) / 400, SEG | {"mix": 1.2, "patch": 3.0}, key=f"pipa{size}")
    return Point(f"patch_size={size}x{size}", [stage], {"main.knobs.patch_size": [size, size]})


SWEEPS = {
    "grid": Sweep(
        "DANN: gamma x domain",
        "dann",
        [_dann(gamma, domain) for gamma in (5.0, 10.0, 20.0) for domain in (0.05, 0.5, 1.0)],
        over={"main.knobs.gamma": [5.0, 10.0, 20.0], "main.weights.domain": [0.05, 0.5, 1.0]},
    ),
    "patch_size": Sweep(
        "PiPa: patch size",
        "pipa",
        [_sized(size) for size in (24, 32, 48, 64)],
        over={"main.knobs.patch_size": [[size, size] for size in (24, 32, 48, 64)]},
    ),
    "parts": Sweep(
        "ProDA: parts",
        "proda",
        [
            Point("full", STAGES["proda"]),
            Point("warm up only", STAGES["proda"][:1]),
            Point(
                "no structure learning",
                [WARMUP, replace(FIRST, level=0.70, key="unstructured")],
                {"stage1.weights.consist": 0.0},
            ),
        ],
        skipped={"stage 1 without labels": "stage1.weights: seg cannot be turned off"},
    ),
}
AGGREGATED = {"plca_aggregated": 0.5}  # the share of recipes whose predictions are aggregated before they are scored


def fabricate(
    root: Path,
    recipes: tuple[str, ...] = tuple(STAGES),
    seeds: tuple[int, ...] = (0, 1, 2),
    iterations: int = 600,
    pictures: int = 3,
    pretrain: bool = True,
    absent: tuple[str, ...] = ("train",),
    sweeps: tuple[str, ...] = (),
) -> Path:
    """Write a study under `root`, with paths relative to it; returns the path of its report spec (relative too).

    `recipes` are names in STAGES, `sweeps` in SWEEPS.
    """
    scenes = {f"target_{index:03d}": _scene(index) for index in range(pictures)}
    target = _write_set(root, "target", scenes)
    source = _write_set(root, "source", {})
    entries: list[dict[str, Any]] = []
    start = Path("results/objects/source_only/seed=0-0000000000")
    if pretrain:
        pretraining = Stage("pretraining", "source_only", 0.4, {"seg": 2.0})
        _write_run(root, start, pretraining, 0, iterations, 0.4, {"student": "scratch"}, (str(source), None))
    rows = [(recipe, TITLES[recipe], STAGES[recipe], {}) for recipe in recipes]
    for name in sweeps:
        for point in SWEEPS[name].points:
            member = {"sweep": name, "base": SWEEPS[name].recipe, "point": point.values}
            rows.append((f"{name}/{point.name}", f"{SWEEPS[name].title}, {point.name}", point.stages, member))
    for seed in seeds:
        for recipe, title, stages, member in rows:
            before = start if pretrain else None
            for stage in stages:
                code = f"{hash_of(stage.run, seed):08x}10"
                folder = Path(f"results/toytown_source-toytown_target/{stage.method}/seed={seed}-{code}")
                evaluation = folder / f"evaluate-{code[::-1]}1{int(recipe in AGGREGATED)}"
                rng = np.random.default_rng(hash_of(stage.run, seed))
                level = stage.level + 0.02 * rng.standard_normal()
                quality = None
                if stage.rule:
                    assert before is not None
                    quality = before / f"label-{hash_of(stage.rule, 0):08x}10" / f"quality-{code}"
                    if not (root / quality).is_dir():
                        _write_quality(root, quality, rng, stage.rule, level, absent)
                if not (root / folder).is_dir():
                    init = {"student": str(before or "scratch")}
                    labels = str(quality.parent) if quality else None
                    sets = (str(source), str(target))
                    _write_run(root, folder, stage, seed, iterations, level, init, sets, labels)
                if not (root / evaluation).is_dir():
                    share = AGGREGATED.get(recipe)
                    _write_evaluation(root, evaluation, rng, level, absent, scenes, iterations, share)
                entries.append(
                    {
                        "recipe": recipe,
                        "title": title,
                        "stage": stage.name,
                        "final": stage is stages[-1],
                        "seed": seed,
                        "run": str(folder),
                        "evaluation": str(evaluation),
                        "quality": str(quality) if quality else None,
                        "labelled_target": stage.labelled_target,
                        "overrides": "levels=2" if recipe == "adaptsegnet_multi" else "",
                    }
                    | member
                )
                before = folder
    spec = {
        "kind": "report",
        "study": "demo",
        "classes": CLASSES,
        "class_sets": SETS,
        "baseline": "source_only",
        "oracle": "oracle",
        "recipes": [name for name, *_ in rows],
        "runs": entries,
        "sweeps": [_sweep_entry(name) for name in sweeps],
        "skipped": [
            {"sweep": name, "point": point, "reason": reason}
            for name in sweeps
            for point, reason in SWEEPS[name].skipped.items()
        ],
        "translations": [],
        "data": {"source": str(source), "target": str(target)},
        "networks": {"small": "small", "deeplabv2": "deeplabv2, ResNet-{depth}"},
        "output": "reports/demo",
        "code": "c0de" * 4,
    }
    path = Path("state/specs/report-demo-12345678.yaml")
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def _sweep_entry(name: str) -> dict[str, Any]:
    """What a report's spec says of a sweep."""
    sweep = SWEEPS[name]
    own = [[stage.run for stage in STAGES[sweep.recipe]]] if sweep.recipe in STAGES else []
    plain = [point.name for point in sweep.points if [stage.run for stage in point.stages] in own]
    return {
        "name": name,
        "title": sweep.title,
        "recipe": sweep.recipe,
        "over": sweep.over,
        "reference": f"{name}/{plain[0]}" if plain else None,
        "points": {f"{name}/{point.name}": point.name for point in sweep.points},
    }


def hash_of(name: str, seed: int) -> int:
    """A number that is the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{name}/{seed}".encode()).digest()[:4], "big")


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
    stage: Stage,
    seed: int,
    iterations: int,
    level: float,
    init: dict[str, str],
    sets: tuple[str, str | None],
    labels: str | None = None,
) -> None:
    classes, terms = CLASSES, stage.terms
    rng = np.random.default_rng(seed + 100)
    build = root / folder.parent / f"{folder.name}.build"
    build.mkdir(parents=True)
    spec = {
        "kind": "train",
        "folder": str(folder),
        "method": stage.method,
        "seed": seed,
        "init": init,
        "labels": labels,
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
        logged = {name: float(np.clip(0.9 - 0.35 * done + rng.normal(0, 0.02), 0, 1)) for name in stage.logs}
        lines.append(
            {"iteration": iteration, "terms": values, "logs": logged, "lr": {"network": 2.5e-4 * (1 - done) ** 0.9}}
        )
        if iteration % 100 == 0 or iteration == iterations:
            iou: dict[str, float | None] = {name: float(level * (1 - np.exp(-4 * done))) for name in classes[:-1]}
            miou = float(level * (1 - np.exp(-4 * done)) + rng.normal(0, 0.01))
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
            "python": "3.11.2",
            "threads": 1,
            "code": "c0de" * 16,
        },
    )
    (build / "model.safetensors").write_bytes(np.random.default_rng(hash_of(str(folder), seed)).bytes(64))
    data = {"source": "5" * 64} | ({"target": "7" * 64} if sets[1] else {})
    write_json(build / "result.json", {"last": {"iteration": iterations}, "data": data})
    publish(build, root / folder, folder.name.rsplit("-", 1)[1], "train")


def _write_quality(
    root: Path, folder: Path, rng: np.random.Generator, rule: str, level: float, absent: tuple[str, ...]
) -> None:
    build = root / folder.parent / f"{folder.name}.build"
    weights = np.array([0 if name in absent else 2.0 ** -(index % 8) for index, name in enumerate(CLASSES)])
    truth = (900_000 * weights / weights.sum()).astype(int)
    share = {"soft": 1.0, "threshold": 0.7, "class_balanced": 0.3}[rule]
    ease = np.clip(level + 0.3 - 0.5 * np.arange(len(CLASSES)) / len(CLASSES) + rng.normal(0, 0.02, len(CLASSES)), 0, 1)
    selected = (share * truth * ease).astype(int)
    judged = (0.98 * selected).astype(int)
    counts = {"selected": selected, "truth": truth, "judged": judged, "correct": (judged * ease).astype(int)}
    content = {
        "classes": CLASSES,
        "rule": rule,
        "images": 30,
        "labelled": True,
        "total": 1_000_000,
        "thresholds": dict.fromkeys(CLASSES, 0.9) if rule == "class_balanced" else None,
    }
    content |= {name: dict(zip(CLASSES, map(int, values), strict=True)) for name, values in counts.items()}
    write_json(build / "quality.json", content)
    publish(build, root / folder, folder.name.rsplit("-", 1)[1], "quality")


def _write_evaluation(
    root: Path,
    folder: Path,
    rng: np.random.Generator,
    level: float,
    absent: tuple[str, ...],
    scenes: dict[str, np.ndarray],
    iterations: int,
    aggregate: float | None,
) -> None:
    build = root / folder.parent / f"{folder.name}.build"
    if aggregate is not None:
        level += 0.03
    scores = {
        "last": _score(rng, level, CLASSES, absent, iterations, level - 0.01),
        "best": _score(rng, level + 0.004, CLASSES, absent, iterations - 100, level),
    }
    if aggregate is not None:
        for score in scores.values():
            score["sets"] = {f"{name}_aggregated": value for name, value in score["sets"].items()}
    protocol = {
        "dataset": "toytown_target",
        "split": "test",
        "input": [SIZE[0] // 2, SIZE[1] // 2],
        "window": None,
        "flip": False,
        "scales": [1.0],
        "aggregate": aggregate,
        "images": IMAGES,
        "resize": "logits to the label's native size, bilinear, then argmax",
    }
    confusion = np.array(scores["last"]["confusion"])
    shares = np.full(IMAGES, 1 / IMAGES)
    images = np.stack([[rng.multinomial(cell, shares) for cell in row] for row in confusion], axis=0)  # (C, C, N)
    write_counts(build / FILE, np.array([image_counts(image) for image in np.moveaxis(images, -1, 0)]))
    write_json(build / "metrics.json", {"classes": CLASSES, "protocol": protocol, "scores": scores})
    (build / "spec.yaml").write_text(yaml.safe_dump({"kind": "evaluate", "split": "test"}))
    for name, label in scenes.items():
        wrong = rng.random((SIZE[0] // 8, SIZE[1] // 8)) > level + 0.15
        guess = np.where(np.kron(wrong, np.ones((8, 8), dtype=bool)), (label + 1) % len(CLASSES), label % len(CLASSES))
        _save(build / "pictures" / f"{name}.png", guess.astype(np.uint8))
    publish(build, root / folder, folder.name.rsplit("-", 1)[1], "evaluate")


def _score(
    rng: np.random.Generator,
    level: float,
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
        share = np.clip(level + ease[row] + 0.15, 0.02, 0.99)
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
