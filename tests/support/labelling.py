"""Runs, specs and finished label folders for the tests of the offline passes."""

from pathlib import Path
from typing import Any

import torch
from support.tiny import CPU, EXACT, objects_spec

from udaseg.config.training import Network
from udaseg.data.datasets.objects import NAMES
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.checkpoint import save_tensors
from udaseg.engine.predict import load_predictor
from udaseg.nets.base import SegmentationNet
from udaseg.nets.build import build_network
from udaseg.offline.label import label
from udaseg.runs.files import write_json, write_yaml
from udaseg.runs.folder import publish
from udaseg.runs.spec import LabelSpec, QualitySpec
from udaseg.validation import validate

SIZE = (30, 46)
QUARTER = (7, 11)
OBJECTS = {"kind": "objects", "world": 2, "size": [48, 72], "counts": {"train": 3, "val": 1}}
PROTOCOL = {"window": None, "flip": False, "scales": [1.0], "fusion": "mean", "aggregate": None}
RULE: dict[str, Any] = {
    "rule": "threshold", "protocol": PROTOCOL, "threshold": 0.5, "portion": 0.3, "every": 4, "mine_below": 0.05,
    "sharpness": 0.25, "min_pixels": 5, "prototypes": "target",
}  # fmt: skip
AVERAGED = PROTOCOL | {"flip": True, "scales": [1.0, 1.5]}


def network() -> Network:
    return objects_spec(Path("source"), None).network


def finished_run(folder: Path, source: Path, target: Path, bias: float = 0.0) -> Path:
    """A run's folder in which a network lies that is sure of some pixels and not of others.

    `bias` is added to the logits of the first class: with a large one, no other class is ever predicted.
    """
    spec = objects_spec(source, target)
    net = build_network(spec.network, len(NAMES), levels=1, seed=3)
    with torch.no_grad():
        for branch in net.head.branches:
            branch.weight.mul_(15)
        net.head.branches[0].bias[0] += bias
    save_tensors(folder / "build" / "model.safetensors", net.state_dict())
    sets = {"source": PreparedSet(source), "target": PreparedSet(target)}
    seen = {stream: prepared.fingerprint for stream, prepared in sets.items()}
    write_json(folder / "build" / "result.json", {"data": seen})
    write_yaml(folder / "build" / "spec.yaml", spec.model_dump(mode="json"))
    publish(folder / "build", folder / "run", "run", "train")
    return folder / "run"


def net_of(run: Path) -> SegmentationNet:
    return load_predictor(network(), len(NAMES), run / "model.safetensors", CPU)


def label_spec(run: Path, target: Path, folder: str = "", source: Path | None = None, **changes: Any) -> LabelSpec:
    """The spec of a label job; the changes are those of the rule."""
    content = {
        "kind": "label", "folder": folder or f"{run}/label-0", "run": str(run), "set": str(target),
        "source": None if source is None else str(source), "classes": list(NAMES),
        "network": network().model_dump(), **EXACT, "labels": RULE | changes, "code": "0",
    }  # fmt: skip
    return validate(LabelSpec, content)


def labelled(root: Path, run: Path, target: Path, **changes: Any) -> Path:
    """The published folder of labels below `root`."""
    spec = label_spec(run, target, **changes)
    label(spec, root / "build", CPU)
    publish(root / "build", root / "labels", "labels", "label")
    return root / "labels"


def quality_spec(labels: Path, target: Path, folder: str = "", **changes: Any) -> QualitySpec:
    content = {
        "kind": "quality", "folder": folder or f"{labels}/quality-0", "labels": str(labels), "set": str(target),
        "classes": list(NAMES), "code": "0",
    }  # fmt: skip
    return validate(QualitySpec, content | changes)
