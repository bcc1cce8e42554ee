"""Scoring a network on a labelled split: logits resized to the label's native size, argmax, one confusion matrix."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from udaseg.data.sets.images import write_png
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.aggregated import Aggregated
from udaseg.engine.metrics import confusion_matrix, scores
from udaseg.engine.predict import load_predictor, predictions
from udaseg.engine.sets import require_finished
from udaseg.machine.environment import make_exact
from udaseg.runs.counts import FILE, image_counts, write_counts
from udaseg.runs.files import read_json, write_json
from udaseg.runs.spec import EvaluateSpec


def evaluate(spec: EvaluateSpec, build: Path, device: torch.device) -> None:
    """Score the last and the best weights of a run.

    Writes scores, the counts of each image and pictures of the first predictions into `build`. A class set's score from
    aggregated predictions is named `<set>_aggregated`, because it is not comparable with a plain one.

    Raises:
        UserError: the run is not finished, or saw other data than the set now holds.
    """
    make_exact(spec)
    run, prepared = Path(spec.run), PreparedSet(Path(spec.set))
    require_finished(run, [prepared])
    result = read_json(run / "result.json")
    pictures = set(prepared.names(spec.split)[: spec.pictures])
    share = spec.protocol.aggregate
    suffix = "" if share is None else "_aggregated"
    class_sets = {f"{name}{suffix}": members for name, members in spec.class_sets.items()}
    counts: list[np.ndarray] = []  # of each image, with the last weights
    scored: dict[str, Any] = {}
    for which, file in (("last", "model.safetensors"), ("best", "best.safetensors")):
        if not (run / file).is_file():  # a run without a monitored split has no best weights weights
            continue
        loaded = load_predictor(spec.network, len(spec.classes), run / file, device)
        net = loaded if share is None else Aggregated(loaded, share)
        total = np.zeros((len(spec.classes), len(spec.classes)), dtype=np.int64)
        for name, found, label in predictions(net, prepared, spec.split, spec.protocol, device):
            confusion = confusion_matrix(found, label, len(spec.classes))
            total += confusion
            if which == "last":
                counts.append(image_counts(confusion))
                if name in pictures:
                    write_png(build / "pictures" / f"{name}.png", found)
        scored[which] = scores(total, spec.classes, class_sets) | result[which]
    protocol = spec.protocol.model_dump(mode="json") | {
        "dataset": prepared.name,
        "split": spec.split,
        "input": list(prepared.size),
        "images": len(prepared.names(spec.split)),
        "resize": "logits to the label's native size, bilinear, align_corners=True, then argmax",
    }
    write_counts(build / FILE, np.array(counts))
    write_json(
        build / "metrics.json",
        {"classes": spec.classes, "protocol": protocol, "data": prepared.fingerprint, "scores": scored},
    )
