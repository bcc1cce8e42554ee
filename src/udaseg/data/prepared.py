"""Reading a prepared set: the folder that `udaseg.data.prepare` writes and that training and evaluation read."""

from pathlib import Path
from typing import Any

import numpy as np

from udaseg.data.images import read_ids, read_image
from udaseg.errors import UserError
from udaseg.runs import read_json

EVALUATED = ("val", "test")  # splits whose labels are also kept at native size


class PreparedSet:
    """One prepared data set. Labels are train ids: index in `classes`, or 255."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError when `folder` is no whole prepared set."""
        if not (folder / "set.json").is_file():
            raise UserError(
                f"{folder}: not a prepared data set (no set.json in it); run the prepare step that makes it"
            )
        content = read_json(folder / "set.json")
        self.folder = folder
        self.name: str = content["name"]
        self.spec: dict[str, Any] = content["spec"]
        self.size: tuple[int, int] = (content["size"][0], content["size"][1])  # of training inputs: height, width
        self.classes: tuple[str, ...] = tuple(content["classes"])
        self.only_here: tuple[str, ...] = tuple(content["only_here"])  # the data set's classes that the study ignores
        self.fingerprint: str = content["fingerprint"]
        self._splits: dict[str, dict[str, dict[str, Any]]] = {
            split: {entry["name"]: entry for entry in content["splits"][split]}
            for split in ("train", *EVALUATED)
            if split in content["splits"]
        }

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def names(self, split: str) -> list[str]:
        """The names of the split's images, sorted. Raises UserError when the set has no such split."""
        return list(self._entries(split))

    def labelled(self, split: str) -> bool:
        """Whether every image of the split has labels."""
        return all(entry["labelled"] for entry in self._entries(split).values())

    def has_label(self, split: str, name: str) -> bool:
        """Whether this image has labels."""
        return bool(self._entry(split, name)["labelled"])

    def image(self, split: str, name: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB at the training input's size."""
        return read_image(self._path(split, "images", name))

    def label(self, split: str, name: str) -> np.ndarray:
        """(H, W) uint8 train ids at the training input's size. Raises UserError when the image has no labels."""
        self._require_label(split, name)
        return read_ids(self._path(split, "labels", name))

    def native_label(self, split: str, name: str) -> np.ndarray:
        """(h, w) uint8 train ids at the size in which the image was published: what scores are computed on.

        Raises:
            UserError: the image has no labels, or the split is train, whose native labels are not kept.
        """
        if split not in EVALUATED:
            raise UserError(f"split {split} of set {self.name} is not for evaluation: only {', '.join(EVALUATED)} are")
        self._require_label(split, name)
        return read_ids(self._path(split, "native", name))

    def statistics(self) -> dict[str, Any]:
        """The content of statistics.json; for every split what `SplitStatistics.result` says."""
        content: dict[str, Any] = read_json(self.folder / "statistics.json")
        return content

    def _entries(self, split: str) -> dict[str, dict[str, Any]]:
        if split not in self._splits:
            raise UserError(f"set {self.name} has no split {split}; it has {', '.join(self._splits)}")
        return self._splits[split]

    def _entry(self, split: str, name: str) -> dict[str, Any]:
        entries = self._entries(split)
        if name not in entries:
            raise UserError(f"split {split} of set {self.name} has no image '{name}'")
        return entries[name]

    def _path(self, split: str, kind: str, name: str) -> Path:
        self._entry(split, name)
        return self.folder / split / kind / f"{name}.png"

    def _require_label(self, split: str, name: str) -> None:
        if not self.has_label(split, name):
            raise UserError(
                f"split {split} of set {self.name} has no labels: '{name}' can neither supervise nor score; "
                "take a split with labels, or give the data set a labels folder"
            )
