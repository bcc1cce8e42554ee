"""Scores from one integer confusion matrix over a whole data set. NumPy only, because reports use it, too."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from udaseg.types import IGNORE


def confusion_matrix(prediction: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """Pixel counts (classes, classes) int64: rows are the ground truth, columns the prediction.

    Args:
        prediction: integers of any shape, below `classes`.
        label: integers of the same shape; pixels whose label is 255 do not count.
        classes: number of classes.
    """
    valid = label != IGNORE
    cells = label[valid].astype(np.int64) * classes + prediction[valid].astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def class_ious(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class (C,) float64; nan where a class is absent from both ground truth and prediction."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def scores(confusion: np.ndarray, classes: Sequence[str], class_sets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """IoU of each class, mean IoU of each class set, and pixel accuracy, as fractions; None where undefined.

    A set's score is the mean IoU of its defined classes, from the full matrix: predictions of classes outside the set
    count as errors, as they would in use.
    """
    ious = dict(zip(classes, class_ious(confusion).tolist(), strict=True))
    defined = {name: value for name, value in ious.items() if not np.isnan(value)}

    def mean(members: Sequence[str]) -> float | None:
        values = [defined[name] for name in members if name in defined]
        return float(np.mean(values)) if values else None

    total = int(confusion.sum())
    return {
        "confusion": confusion.tolist(),
        "iou": {name: defined.get(name) for name in classes},
        "undefined": [name for name in classes if name not in defined],
        "sets": {name: mean(members) for name, members in class_sets.items()},
        "pixel_accuracy": float(np.diag(confusion).sum() / total) if total else None,
    }
