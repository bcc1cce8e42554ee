"""What every data set provides: its parameters, its class names, and images per split, decoded only on request."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from udaseg.data.archives.archive import Archive
from udaseg.errors import UserError
from udaseg.validation import Model

SHOWN = 5  # names listed in a message that could list thousands


@dataclass(frozen=True)
class Item:
    """One image of a split, not decoded yet. Decoding raises UserError, naming the file, if it cannot be used."""

    name: str
    """File stem of [A-Za-z0-9._-], unique within the split."""
    image: Callable[[], np.ndarray]
    """() → (H, W, 3) uint8 RGB."""
    label: Callable[[], np.ndarray] | None
    """() → (H, W) uint8, index in the data set's `names`, or 255 for ignored pixels. None: the image has no labels."""


class Dataset(Protocol):
    """An opened data set."""

    @property
    def names(self) -> tuple[str, ...]:
        """The data set's own classes, which need not be the study's."""
        ...

    @property
    def splits(self) -> Sequence[str]:
        """Its splits, among train, val and test."""
        ...

    def items(self, split: str) -> list[Item]:
        """The split's items, sorted by name; UserError if the data set has no such split."""
        ...


class DatasetParams(Model):
    """The parameters of one data set. A kind of data set is a subclass, and an entry of `DATASETS`."""

    archive: ClassVar[Archive | None] = None
    """The published archive that holds the data. None: nothing needs to be downloaded."""

    kind: str
    """The key of `DATASETS`."""

    @abstractmethod
    def splits(self) -> list[str]:
        """The splits that the data set has."""

    def has_labels(self) -> bool:
        """Whether its images have labels."""
        return True

    @abstractmethod
    def open(self, unpacked: Path | None = None) -> Dataset:
        """The data set. `unpacked` is the folder with the verified files of `archive`, if there is one.

        Raises:
            UserError: the parameters do not fit the files.
        """


def some(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def require_split(split: str, available: Sequence[str], what: str) -> None:
    """Raises UserError unless `split` is one of `available`, the splits of the data set called `what`."""
    if split not in available:
        raise UserError(f"{what} has no split '{split}'; its splits: {', '.join(sorted(available))}")
