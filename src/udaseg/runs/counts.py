"""What the scores of an evaluation are made of, image by image: the report's test draws images from it. NumPy only.

Not in `engine.metrics`, which training uses too: there it would make another run of every training.
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
    """Hits, truth pixels and predicted pixels of each class (C, 3) int64.

    `confusion` (C, C) holds counts, rows are the truth, columns the prediction (`metrics.confusion_matrix`): pixels
    whose label is 255 are in none of the three. IoU = hits / (truth + predicted − hits), of one image and of summed
    counts of several.
    """
    return np.stack([np.diag(confusion), confusion.sum(1), confusion.sum(0)], axis=1).astype(np.int64)


def write_counts(path: Path, counts: np.ndarray) -> None:
    """Write counts (N, C, 3) of N images. Equal counts give equal bytes: the archive holds no time of writing."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, counts=counts.astype(np.int32))  # no image has more pixels than that
    write_bytes(path, buffer.getvalue())


def read_counts(path: Path, confusion: np.ndarray) -> np.ndarray:
    """The counts (N, C, 3) int64 that `write_counts` wrote, of images whose confusion matrices sum to `confusion`.

    Raises:
        UserError: the file is missing, damaged, or of another evaluation than the confusion matrix (C, C).
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
