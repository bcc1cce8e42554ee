"""The smallest run that is one: its resolved spec, coloured blocks or a prepared set to train on, its stepper."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from udaseg.data.batches.streams import Batch, Labelled, Target
from udaseg.data.batches.strong import strong_view
from udaseg.data.batches.views import Geometry
from udaseg.data.datasets.objects import NAMES, ObjectsData
from udaseg.data.sets.images import write_png
from udaseg.data.sets.prepare import prepare
from udaseg.data.sets.read import DIGESTS, digest, fingerprint_of
from udaseg.engine.step import Stepper
from udaseg.methods import METHODS
from udaseg.methods.base import Context
from udaseg.nets.build import build_network
from udaseg.nets.feature_bank import ClassBank
from udaseg.nets.translator import Generator
from udaseg.runs.files import read_json, write_json
from udaseg.runs.spec import TrainSpec
from udaseg.validation import validate

torch.set_num_threads(1)

CPU = torch.device("cpu")
CLASSES = ["road", "sky", "car"]
EXACT = {"threads": 1, "determinism": "strict", "instructions": "native"}
VIEW = {"batch": 2, "crop": [64, 64], "scale": [1.0, 1.0], "flip": 0.5, "jitter": 0.0, "blur": 0.0}
SOURCE_VIEW = VIEW | {"portion": 1.0, "max_class_share": 1.0, "rare": None, "labelled_target": None}
TARGET_VIEW = VIEW | {"mine": 0.0}
SPEC: dict[str, Any] = {
    "kind": "train",
    "folder": "results/tiny",
    "seed": 0,
    "source": "data/sets/source",
    "target": "data/sets/target",
    "classes": CLASSES,
    "init": {"student": "scratch"},
    "init_sums": {},
    "labels": None,
    "network": {
        "name": "small", "depth": 50, "head": "aspp", "aspp": "paper", "feature_norm": False, "norm": "train",
    },
    "optim": {
        "name": "adamw", "lr": 1e-3, "head_lr_factor": 1.0, "momentum": 0.9, "weight_decay": 0.0, "schedule": "poly",
        "power": 0.9, "schedule_iterations": None, "warmup_iterations": 0, "backbone_lr_multiplicity": 1,
        "clip_gradient": None,
    },
    "train": {
        "iterations": 100, "source": SOURCE_VIEW, "target": TARGET_VIEW, "accumulate": 1, "precision": "fp32",
        **EXACT, "workers": 0, "log_every": 1, "monitor_every": 2, "checkpoint_every": 2,
    },
    "monitor": None,
    "code": "0",
}  # fmt: skip


def train_spec(method: str = "source_only", **changes: Any) -> TrainSpec:
    """A spec with the method's defaults; mappings among the changes are laid upon those of `SPEC`."""
    declared = METHODS[method].SPEC
    knobs = declared.Config.model_validate(changes.pop("knobs", {}))
    weights = {term: declared.weights[term] for term in declared.existing(knobs)} | changes.pop("weights", {})
    content = SPEC | {"method": method, "knobs": knobs.model_dump(mode="json"), "weights": weights}
    for key, value in changes.items():
        content[key] = {**content[key], **value} if key in ("network", "optim", "train") else value
    return validate(TrainSpec, content)


def needed(spec: TrainSpec) -> list[str]:
    """The views that a batch of this run must hold."""
    declared = METHODS[spec.method].SPEC
    return declared.streams(declared.Config.model_validate(spec.knobs), spec.weights)


def stepper(spec: TrainSpec, seed: int | None = None) -> Stepper:
    """A new method of the spec and what steps it; `seed` gives it other initial weights than the spec's."""
    method = METHODS[spec.method]
    channels = build_network(spec.network, len(spec.classes), levels=1, seed=0).feature_channels["embedding"]
    prototypes = torch.randn(len(spec.classes), channels, generator=torch.Generator().manual_seed(0))
    context = Context(
        knobs=method.SPEC.Config.model_validate(spec.knobs),
        weights=method.SPEC.active(spec.weights),
        classes=spec.classes,
        network=spec.network,
        seed=spec.seed if seed is None else seed,
        initial={"translator": ("a translator", translator())},
        artifacts={
            "prototypes": prototypes,
            "counts": torch.ones(len(spec.classes)),
            "prior": torch.full((len(spec.classes),), 1 / len(spec.classes)),
        },
    )
    made = Stepper(spec, method(context), CPU)
    made.method.train()
    for module in made.method.modules():
        if isinstance(module, ClassBank):  # filled, as an untrained teacher is sure of nothing
            module.bank.copy_(torch.randn(module.bank.shape, generator=torch.Generator().manual_seed(0)))
            module.counts.fill_(module.bank.shape[1])
    return made


def translator() -> dict[str, torch.Tensor]:
    """The tensors of a small generator that changes what it is given."""
    generator = torch.Generator().manual_seed(0)
    made = Generator(width=4, blocks=1).state_dict()
    return {name: torch.randn(tensor.shape, generator=generator) * 0.2 for name, tensor in made.items()}


def batch(index: int, views: Iterable[str] = ("source", "target"), size: int = 64) -> Batch:
    """Two images a stream of blocks whose colours tell their class; the target's colours are others.

    The target's crops are cut out of wider images, the second one mirrored; a tenth of their pseudo-labels is absent.
    """
    views = set(views)
    source, label = _blocks(2 * index, (size, size), [[0.8, 0.2, 0.2], [0.2, 0.8, 0.2], [0.2, 0.2, 0.8]])
    given = Labelled(source, label) if "source" in views else Labelled()
    return Batch(given, _target(index, size, views) if "target" in views else Target())


def _target(index: int, size: int, views: set[str]) -> Target:
    wide = size + 32
    full, label = _blocks(2 * index + 1, (size, wide), [[0.9, 0.6, 0.4], [0.4, 0.6, 0.1], [0.3, 0.5, 0.9]])
    geometry = tuple(Geometry((size, wide), (0, 16), (size, size), flip) for flip in (False, True))

    def cut(maps: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        views = [one.at(scale).apply(part, "nearest")[0] for one, part in zip(geometry, maps, strict=True)]
        return torch.stack(views)

    image = cut(full)
    generator = torch.Generator().manual_seed(index)
    absent = torch.rand(label.shape, generator=generator) < 0.1
    soft = torch.nn.functional.one_hot(label[:, ::4, ::4], len(CLASSES)).movedim(-1, 1) * 0.7 + 0.1
    strong, warps = zip(*(strong_view(one, generator) for one in image), strict=True)
    every = {
        "target": {"image": image, "valid": torch.ones_like(image[:, 0], dtype=torch.bool)},
        "target.pseudo": {"pseudo": cut(label.masked_fill(absent, 255)[:, None])[:, 0]},
        "target.soft": {"soft": cut(soft, 1 / 4)},
        "target.full": {"full": full, "geometry": geometry},
        "target.strong": {"strong": torch.stack(strong), "warps": warps},
    }
    return Target(**{name: value for view in every if view in views for name, value in every[view].items()})


def _blocks(seed: int, size: tuple[int, int], colours: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(len(colours), (2, size[0] // 16, size[1] // 16), generator=generator)
    label = classes.repeat_interleave(16, 1).repeat_interleave(16, 2)
    image = torch.tensor(colours)[label].movedim(-1, 1)
    noise = torch.randn(image.shape, generator=generator)
    return (image + 0.1 * noise).clamp(0, 1), label


def steps(run: Stepper, first: int, last: int) -> None:
    """Steps number `first` up to but not including `last`, each on its own batch."""
    for index in range(first, last):
        run(index, [batch(index, needed(run.spec))])


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same tensors, bit by bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def prepare_objects(root: Path, counts: dict[str, int], world: int = 1, name: str = "objects") -> Path:
    """A prepared set of procedural objects, 32 x 48 from 48 x 72; its folder."""
    content = {"kind": "objects", "world": world, "size": [48, 72], "counts": counts}
    dataset = validate(ObjectsData, content)
    folder = root / f"{name}-{world}"
    prepare(name, dataset.open(), content, list(NAMES), (32, 48), folder)
    return folder


def relabel(folder: Path, name: str, label: np.ndarray | None) -> None:
    """Give a training image this label (H, W) uint8, or none, as if the set had been prepared with it."""
    path = f"train/labels/{name}.png"
    digests, content = read_json(folder / DIGESTS), read_json(folder / "set.json")
    if label is None:
        del digests[path]
        next(entry for entry in content["splits"]["train"] if entry["name"] == name)["labelled"] = False
    else:
        write_png(folder / path, label)
        digests[path] = digest(label)
    write_json(folder / DIGESTS, digests)
    write_json(folder / "set.json", content | {"fingerprint": fingerprint_of(content["classes"], digests)})


def objects_spec(source: Path, target: Path | None, method: str = "source_only", **changes: Any) -> TrainSpec:
    """A run of a few steps on sets of `prepare_objects`."""
    smaller = {"crop": [32, 32], "scale": [1.0, 1.5]}
    views = {"source": SOURCE_VIEW | smaller, "target": TARGET_VIEW | smaller}
    train = {"iterations": 6} | views | changes.pop("train", {})
    return train_spec(
        method, source=str(source), target=str(target) if target else None, classes=list(NAMES),
        monitor=changes.pop("monitor", "val" if target else None), train=train, **changes,
    )  # fmt: skip
