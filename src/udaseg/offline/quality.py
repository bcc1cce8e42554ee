"""Pseudo-labels against ground truth: how many there are and how many are right. Nothing that trains reads the result.

This is the only place that looks at the ground truth of a target's training images.
"""

from pathlib import Path

import numpy as np

from udaseg.data.sets.pseudo_labels import HARD, PseudoLabels, class_counts, hardened, quartered
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.sets import require_classes
from udaseg.errors import UserError
from udaseg.runs.files import write_json
from udaseg.runs.folder import require_whole
from udaseg.runs.spec import QualitySpec
from udaseg.types import IGNORE


def quality(spec: QualitySpec, build: Path) -> None:
    """Write quality.json into `build`: for each class, how many pixels have a pseudo-label and how many are right.

    Hard labels are judged at the training input's size, soft ones by their most probable class at a quarter of it,
    against the nearest pixel's ground truth. If some training image has no ground truth, only the coverage is counted.

    Raises:
        UserError: the labels are incomplete, or were made for other data or classes than the set has.
    """
    labels, prepared = _opened(spec)
    labelled = prepared.labelled("train")
    names = prepared.names("train")
    classes = len(spec.classes)
    total, selected, truth, correct, judged = 0, *np.zeros((4, classes), dtype=np.int64)
    for name in names:
        found = labels.hard(name) if labels.rule in HARD else hardened(labels.soft(name))
        total += found.size
        selected += class_counts(found, classes)
        if labelled:
            true = prepared.label("train", name)
            if labels.rule not in HARD:
                true = quartered(true)
            truth += class_counts(true, classes)
            correct += class_counts(found[found == true], classes)
            judged += class_counts(found[true != IGNORE], classes)

    def named(counts: np.ndarray) -> dict[str, int]:
        return dict(zip(spec.classes, counts.tolist(), strict=True))

    content = {
        "classes": spec.classes,
        "rule": labels.rule,
        "images": len(names),
        "labelled": labelled,
        "total": total,
        "selected": named(selected),
        "truth": named(truth) if labelled else None,
        "correct": named(correct) if labelled else None,
        "judged": named(judged) if labelled else None,
        "thresholds": labels.thresholds,
    }
    write_json(build / "quality.json", content)


def _opened(spec: QualitySpec) -> tuple[PseudoLabels, PreparedSet]:
    require_whole(Path(spec.labels))
    labels, prepared = PseudoLabels(Path(spec.labels)), PreparedSet(Path(spec.set))
    if labels.data != prepared.fingerprint:
        raise UserError(
            f"{labels.folder}: its labels are of other images than those of {prepared.folder} (the fingerprints in "
            "labels.json and set.json differ); remove the folder, so that the labels are made again"
        )
    require_classes(labels.folder, labels.classes, spec.classes)
    require_classes(prepared.folder, prepared.classes, spec.classes)
    return labels, prepared
