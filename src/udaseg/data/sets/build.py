"""Decode, check and write a data set once, so that training and evaluation read only checked files of one form."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from udaseg.data.datasets.base import Dataset, Item
from udaseg.data.sets.contact_sheet import contact_sheet
from udaseg.data.sets.images import write_png
from udaseg.data.sets.read import DIGESTS, EVALUATED, STATISTICS, PreparedSet, digest, fingerprint_of
from udaseg.data.sets.statistics import SplitStatistics
from udaseg.errors import UserError
from udaseg.runs.files import sha256, write_json
from udaseg.types import IGNORE


def prepare(
    name: str,
    dataset: Dataset,
    spec: dict[str, Any],
    classes: Sequence[str],
    size: tuple[int, int] | None,
    destination: Path,
) -> None:
    """Write the prepared set `destination` (see `PreparedSet`), which appears by rename when everything in it is right.

    Args:
        name: what messages call the set.
        dataset: gives the items; they are decoded one at a time.
        spec: the data set's spec as plain data; its splits are prepared.
        classes: the study's classes; train ids are indices in it. A class that only the data set has becomes 255.
        size: (H, W) of training inputs (image bicubic, label nearest); None: native, which then must be one size.
        destination: replaced if it is there. Only one process at a time may write it; the caller sees to that.

    Raises:
        UserError: one message with every unreadable image, size mismatch, unknown id and missing partner. Nothing is
            left behind then.
    """
    shared = [entry for entry in dataset.names if entry in classes]
    if not shared:
        raise UserError(
            f"data set {name}: none of its classes ({', '.join(dataset.names)}) is one of the study's "
            f"({', '.join(classes)}); correct the class map or the study's class list"
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = destination.with_name(f".{destination.name}.part")
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
    try:
        folder.mkdir()
        build = _Build(folder, tuple(dataset.names), tuple(classes), size)
        for split in splits_of(spec):
            build.add_split(split, dataset)
        if build.problems:
            listing = "\n".join(f"  {problem}" for problem in build.problems)
            raise UserError(f"data set {name}: {len(build.problems)} problems; nothing was written\n{listing}")
        build.finish(name, spec)
        if destination.exists():
            shutil.rmtree(destination)
        folder.rename(destination)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def splits_of(spec: dict[str, Any]) -> list[str]:
    """The splits a data set's spec promises, in the order train, val, test."""
    order = ("train", *EVALUATED)
    given: Iterable[str] = spec.get("counts") or spec.get("lists") or spec.get("splits_present") or order
    return [split for split in order if split in set(given)]


@dataclass
class _Build:
    """A prepared set while it is written, and what is found out on the way."""

    folder: Path
    names: tuple[str, ...]  # the data set's classes
    classes: tuple[str, ...]  # the study's
    size: tuple[int, int] | None  # of training inputs; None until the first image when they stay native
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
        if found is None or self.problems:  # with a problem nothing will be written, but all of them are looked for
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
        """Write what describes the whole set."""
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
        write_png(self.folder / "contact.png", np.asarray(contact_sheet(PreparedSet(self.folder))))


def _text(size: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in size)
