"""Decode, check and write a data set once, so that training and evaluation read only checked files of one form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from udaseg.data.datasets.base import Dataset, Item
from udaseg.data.sets.images import write_png
from udaseg.data.sets.read import DIGESTS, EVALUATED, STATISTICS, digest, fingerprint_of
from udaseg.data.sets.statistics import SplitStatistics
from udaseg.errors import UserError
from udaseg.runs.files import sha256, write_json
from udaseg.types import IGNORE


def build(
    name: str,
    dataset: Dataset,
    spec: dict[str, Any],
    classes: Sequence[str],
    size: tuple[int, int] | None,
    folder: Path,
) -> None:
    """Write the prepared set of a data set into the empty `folder` (see `PreparedSet` for what is in it).

    Args:
        name: what messages call the set.
        dataset: provides the images of all its splits; they are decoded one at a time.
        spec: the data set's parameters as plain data, recorded in the set.
        classes: the study's classes; train ids are indices in it. A class that only the data set has becomes 255.
        size: (H, W) of training inputs (images bicubic, labels nearest); None: native, which then must be one size.

    Raises:
        UserError: no class in common; or one message with every unreadable image, size mismatch, unknown id and
            missing partner.
    """
    if not set(dataset.names) & set(classes):
        raise UserError(
            f"data set {name}: none of its classes ({', '.join(dataset.names)}) is one of the study's "
            f"({', '.join(classes)}); correct the class map or the study's class list"
        )
    building = _Build(folder, tuple(dataset.names), tuple(classes), size)
    for split in ("train", *EVALUATED):
        if split in dataset.splits:
            building.add_split(split, dataset)
    if building.problems:
        listing = "\n".join(f"  {problem}" for problem in building.problems)
        raise UserError(f"data set {name}: {len(building.problems)} problems; nothing was written\n{listing}")
    building.finish(name, spec)


@dataclass
class _Build:
    """A prepared set that is being written, and what has been found on the way."""

    folder: Path
    names: tuple[str, ...]  # the data set's classes
    classes: tuple[str, ...]  # the study's
    size: tuple[int, int] | None  # of training inputs; None before the first image where sizes stay native
    problems: list[str] = field(default_factory=list)
    splits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)  # path in the set → digest of what lies there
    statistics: dict[str, SplitStatistics] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.native = self.size is None
        self.train_ids = np.full(256, IGNORE, dtype=np.uint8)  # the data set's ids → train ids
        for index, entry in enumerate(self.names):
            if entry in self.classes:
                self.train_ids[index] = self.classes.index(entry)

    def add_split(self, split: str, dataset: Dataset) -> None:
        try:
            items = dataset.items(split)
        except UserError as error:
            self.problems.append(str(error))
            return
        self.splits[split] = []
        self.statistics[split] = SplitStatistics(self.names, self.classes)
        for item in items:
            self._add_item(split, item)

    def _add_item(self, split: str, item: Item) -> None:
        found = self._checked(split, item)
        if found is None or self.problems:  # after the first problem, items are only checked for more of them
            return
        image, label = found
        assert self.size is not None  # `_checked` has set it
        width_height = self.size[::-1]
        small_image = Image.fromarray(image).resize(width_height, Image.Resampling.BICUBIC)
        self._write(f"{split}/images/{item.name}.png", np.asarray(small_image))
        if label is not None:
            native = self.train_ids[label]
            small = np.asarray(Image.fromarray(native).resize(width_height, Image.Resampling.NEAREST))
            self._write(f"{split}/labels/{item.name}.png", small)
            if split in EVALUATED:
                self._write(f"{split}/native/{item.name}.png", native)
            self.statistics[split].add(item.name, label, native, small)
        self.splits[split].append({"name": item.name, "labelled": label is not None, "native": list(image.shape[:2])})

    def _checked(self, split: str, item: Item) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The item's image and label; None when it has problems, which are noted then."""
        before = len(self.problems)
        image = self._decoded(split, item.image)
        label = None if item.label is None else self._decoded(split, item.label)
        if image is not None:
            size = (image.shape[0], image.shape[1])
            if label is not None and label.shape != size:
                self.problems.append(
                    f"{split}: '{item.name}': the image is {_text(size)}, its label map {_text(label.shape)} (height x "
                    "width); they must be equal"
                )
            if self.native:
                self.size = self.size or size
                if size != self.size:
                    self.problems.append(
                        f"{split}: '{item.name}' is {_text(size)}, the images before it {_text(self.size)}; without a "
                        "size for training inputs all must be equal: give a size"
                    )
        return None if image is None or len(self.problems) > before else (image, label)

    def _decoded(self, split: str, decode: Callable[[], np.ndarray]) -> np.ndarray | None:
        try:
            return decode()
        except UserError as error:
            self.problems.append(f"{split}: {error}")
            return None

    def _write(self, path: str, pixels: np.ndarray) -> None:
        write_png(self.folder / path, pixels)
        self.digests[path] = digest(pixels)

    def finish(self, name: str, spec: dict[str, Any]) -> None:
        """Write the files that describe the whole set; set.json, which marks it as finished, comes last."""
        assert self.size is not None  # no split is empty
        splits = {split: statistics.result() for split, statistics in self.statistics.items()}
        write_json(self.folder / STATISTICS, {"classes": list(self.classes), "splits": splits})
        self.digests[STATISTICS] = sha256(self.folder / STATISTICS)
        write_json(self.folder / DIGESTS, self.digests)
        content = {
            "name": name,
            "spec": spec,
            "size": list(self.size),
            "classes": list(self.classes),
            "splits": self.splits,
            "only_here": sorted(set(self.names) - set(self.classes)),
            "fingerprint": fingerprint_of(self.classes, self.digests),
        }
        write_json(self.folder / "set.json", content)


def _text(size: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in size)
