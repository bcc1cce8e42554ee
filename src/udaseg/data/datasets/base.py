"""What every dataset gives: its own class names, and items per split that are decoded only when asked."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from udaseg.errors import UserError

if TYPE_CHECKING:
    from udaseg.config.schema import DatasetSpec


@dataclass(frozen=True)
class Item:
    """One image of a split, not decoded yet. Decoding raises UserError naming the file if it cannot be used."""

    name: str  # stem, unique within the split, of [A-Za-z0-9._-]
    image: Callable[[], np.ndarray]  # () -> (H, W, 3) uint8 RGB
    label: Callable[[], np.ndarray] | None  # () -> (H, W) uint8 index in the dataset's `names` or 255; None: unlabelled


class Dataset(Protocol):
    @property
    def names(self) -> tuple[str, ...]:
        """The class names this dataset can give: its own vocabulary, not the study's."""
        ...

    def items(self, split: str) -> list[Item]:
        """The split's items, sorted by name; UserError if the dataset has no such split."""
        ...


# The modules are imported only when asked for: a study of real images never loads the renderer, nor the reverse.
MODULES = {
    "toytown": "udaseg.data.datasets.toytown",
    "objects": "udaseg.data.datasets.objects",
    "folder": "udaseg.data.datasets.folder",
    "camvid": "udaseg.data.datasets.camvid",
}


def open_dataset(spec: DatasetSpec, mirror: Path | None, downloads: Path) -> Dataset:
    """The dataset of `spec`. `mirror` (a folder that stands in for the network) and `downloads` (where fetched files
    are kept) concern only datasets that are fetched."""
    if spec.kind not in MODULES:
        raise UserError(f"dataset kind '{spec.kind}' is unknown; valid kinds: {', '.join(MODULES)}")
    module = importlib.import_module(MODULES[spec.kind])
    if spec.kind == "camvid":
        dataset: Dataset = module.open_camvid(spec, mirror, downloads)
    else:
        dataset = getattr(module, f"open_{spec.kind}")(spec)
    return dataset


def require_split(split: str, available: list[str], what: str) -> None:
    """Raises UserError unless `split` is one of `available`, the splits of the dataset called `what`."""
    if split not in available:
        raise UserError(f"{what} has no split '{split}'; its splits: {', '.join(sorted(available))}")
