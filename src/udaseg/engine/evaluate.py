"""Scoring a network on a labelled split: logits resized to the label's native size, argmax, one confusion matrix."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from udaseg.config import Protocol
from udaseg.data.images import write_png
from udaseg.data.prepared import PreparedSet
from udaseg.engine.environment import make_exact
from udaseg.engine.metrics import confusion_matrix, scores
from udaseg.engine.predict import load_predictor, predict_scores, to_tensor
from udaseg.engine.sets import require_finished
from udaseg.nets.base import SegmentationNet
from udaseg.runs import read_json, write_json
from udaseg.specs import EvaluateSpec


def predictions(
    net: SegmentationNet, prepared: PreparedSet, split: str, protocol: Protocol, device: torch.device
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, predicted label and true label, both (H, W) uint8 at native size, of each image of a split.

    The network's mode is as before when the generator ends.
    """
    training = net.training
    net.eval()
    try:
        for name in prepared.names(split):
            label = prepared.native_label(split, name)
            image = to_tensor(prepared.image(split, name)).to(device)
            found = predict_scores(net, image, (label.shape[0], label.shape[1]), protocol).argmax(1)[0]
            yield name, found.to(torch.uint8).cpu().numpy(), label
    finally:
        net.train(training)


def evaluate(spec: EvaluateSpec, build: Path, device: torch.device) -> None:
    """Score the last and the best weights of a run; write metrics.json and the first predictions into `build`."""
    make_exact(spec.threads, device)
    run, prepared = Path(spec.run), PreparedSet(Path(spec.set))
    require_finished(run, [prepared])
    result = read_json(run / "result.json")
    pictures = set(prepared.names(spec.split)[: spec.pictures])
    scored: dict[str, Any] = {}
    for which, file in (("last", "model.safetensors"), ("best", "best.safetensors")):
        if not (run / file).is_file():  # a run without a monitored split has no best
            continue
        net = load_predictor(spec.network, len(spec.classes), run / file, device)
        total = np.zeros((len(spec.classes), len(spec.classes)), dtype=np.int64)
        for name, found, label in predictions(net, prepared, spec.split, spec.protocol, device):
            total += confusion_matrix(found, label, len(spec.classes))
            if which == "last" and name in pictures:
                write_png(build / "pictures" / f"{name}.png", found)
        scored[which] = scores(total, spec.classes, spec.class_sets) | result[which]
    protocol = spec.protocol.model_dump(mode="json") | {
        "dataset": prepared.name,
        "split": spec.split,
        "input": list(prepared.size),
        "images": len(prepared.names(spec.split)),
        "resize": "logits to the label's native size, bilinear, align_corners=True, then argmax",
    }
    write_json(
        build / "metrics.json",
        {"classes": spec.classes, "protocol": protocol, "data": prepared.fingerprint, "scores": scored},
    )
