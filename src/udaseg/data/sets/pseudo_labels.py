"""Reading a label folder: pseudo-labels of a target's training images that `udaseg.offline.label` wrote."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from udaseg.data.sets.images import read_ids
from udaseg.errors import UserError
from udaseg.runs.files import read_json
from udaseg.types import IGNORE

HARD = ("threshold", "class_balanced", "argmax")  # rules whose labels are train ids at the training input's size
SOFT = ("entropy", "soft")  # rules whose labels are 8-bit probabilities at a quarter of that size
WITH_PROTOTYPES = ("argmax", "soft")  # rules that leave prototypes beside the labels


class PseudoLabels:
    """The pseudo-labels in one folder. The caller has checked the folder with `runs.folder.require_whole`."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError when `folder` holds no pseudo-labels."""
        if not (folder / "labels.json").is_file():
            raise UserError(f"{folder}: no pseudo-labels (no labels.json in it); run the label step that makes them")
        content = read_json(folder / "labels.json")
        self.folder = folder
        self.rule: str = content["rule"]
        self.classes: list[str] = content["classes"]
        self.thresholds: dict[str, float | None] | None = content["thresholds"]
        self.mine: list[int] = [self.classes.index(name) for name in content["mine"]]  # what crops are centred on
        self.data: str = content["data"]  # fingerprint of the set whose training images are labelled

    def hard(self, name: str) -> np.ndarray:
        """(H, W) uint8 train ids at the training input's size, 255 where there is no label.

        Raises:
            UserError: the rule gives soft labels, or the image has none.
        """
        self._require_rule(HARD, "hard")
        return read_ids(self.folder / "labels" / f"{name}.png")

    def soft(self, name: str) -> Tensor:
        """(C, H // 4, W // 4) uint8, 255 times the classes' probabilities; 0 in all classes where there is no label.

        Cells are placed as by bilinear resizing with aligned corners. Because of rounding, sums are not exactly 255.

        Raises:
            UserError: the rule gives hard labels, or the image has none.
        """
        self._require_rule(SOFT, "soft")
        return self._tensors(self.folder / "soft" / f"{name}.safetensors")["soft"]

    def artifacts(self) -> dict[str, Tensor]:
        """The other results of the labelling pass, float32; empty unless the rule is among `WITH_PROTOTYPES`.

        "prototypes" (C, D); "counts" (C,), the number of images in each prototype's mean; "prior" (C,), the classes'
        shares of the predicted pixels.

        Raises:
            UserError: they should exist, but do not.
        """
        return self._tensors(self.folder / "artifacts.safetensors") if self.rule in WITH_PROTOTYPES else {}

    def _require_rule(self, rules: tuple[str, ...], what: str) -> None:
        if self.rule not in rules:
            raise UserError(
                f"{self.folder}: its labels were made by the rule '{self.rule}'; {what} ones are made by the rules "
                f"{' and '.join(rules)} (labels.rule)"
            )

    def _tensors(self, path: Path) -> dict[str, Tensor]:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path}: cannot be read as safetensors ({error}); remove the folder {self.folder} to have the labels "
                "made again"
            ) from None


def hardened(soft: Tensor) -> np.ndarray:
    """The most probable classes (h, w) uint8 of stored soft labels (C, h, w); 255 where all classes are 0."""
    values = soft.numpy()
    label = values.argmax(0).astype(np.uint8)  # the first one of equals
    return np.where(values.any(0), label, np.uint8(IGNORE))


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each class, (C,) int64, in integer train ids of any shape; 255 is not counted."""
    return np.bincount(labels.ravel(), minlength=classes)[:classes]


def quartered(label: np.ndarray) -> np.ndarray:
    """Train ids (H, W) → (H // 4, W // 4): the pixels nearest to the cells of a soft label map (aligned corners)."""
    rows, columns = (np.rint(np.linspace(0, length - 1, length // 4)).astype(int) for length in label.shape)
    return label[np.ix_(rows, columns)]
