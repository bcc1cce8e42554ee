"""Pixel counts of every evaluated image, from which the report's significance test draws images. NumPy only.

They are apart from `engine.metrics`, because that module is part of the fingerprint of every training.
"""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from udaseg.errors import UserError
from udaseg.runs.files import write_bytes

FILE = "counts.npz"
DAMAGED = (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)  # what np.load raises


def image_counts(confusion: np.ndarray) -> np.ndarray:
    """Hits, truth pixels and predicted pixels of each class (C, 3) int64, without pixels whose label is 255.

    Args:
        confusion: (C, C) counts, a row for each true and a column for each predicted class (`engine.metrics`).

    IoU = hits / (truth + predicted - hits), for one image and for the sums over several.
    """
    return np.stack([np.diag(confusion), confusion.sum(1), confusion.sum(0)], axis=1).astype(np.int64)


def write_counts(path: Path, counts: np.ndarray) -> None:
    """Write counts (N, C, 3) of N images. Equal counts give equal bytes: the archive has no time stamps."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, counts=counts.astype(np.int32))  # no image has more pixels than that
    write_bytes(path, buffer.getvalue())


def read_counts(path: Path, confusion: np.ndarray) -> np.ndarray:
    """The counts (N, C, 3) int64 that `write_counts` wrote; `confusion` (C, C) is the matrix of all images together.

    Raises:
        UserError: the file is missing or damaged, or does not belong to this confusion matrix.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            counts: np.ndarray = content["counts"].astype(np.int64)
    except DAMAGED as error:
        raise UserError(f"{path}: cannot be read as counts of images ({error}); evaluate the run again") from None
    expected = image_counts(confusion)
    if counts.shape[1:] != expected.shape or (counts.sum(0) != expected).any():
        raise UserError(
            f"{path}: its counts, of shape {counts.shape}, do not sum to the confusion matrix in metrics.json beside "
            "it; remove the folder and evaluate the run again"
        )
    return counts
