"""Toytown: an embedded pair of street-scene domains, drawn on request.

The source looks like a game engine's street (flat saturated colours, crisp edges), the target like the same kind of
street through a camera (`look` lists every difference). Image `index` of a split is a pure function of (world,
domain, split, index, size); worlds are independent draws of the same kind of scene.
"""

import random
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from udaseg.data.datasets.base import DatasetParams, Item, require_split
from udaseg.data.datasets.toytown.look import look_of
from udaseg.data.datasets.toytown.paint import paint
from udaseg.data.datasets.toytown.patches import NAMES
from udaseg.data.datasets.toytown.scene import build
from udaseg.seeding import seed_for
from udaseg.types import Positive, Size, Split


def render(domain: str, world: int, split: str, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) uint8 RGB and label (H, W) uint8, index in NAMES."""
    draw = random.Random(seed_for(world, f"toytown.{domain}.{split}", index))
    look = look_of(domain, world)
    return paint(build(draw, look), look, world, size, draw)


_drawn = lru_cache(maxsize=2)(render)  # an item's image and its label are usually asked for one after the other


class Toytown:
    """One domain of Toytown in one world."""

    names = NAMES

    def __init__(self, domain: str, world: int, size: tuple[int, int], counts: dict[str, int]) -> None:
        self.domain, self.world, self.size, self.counts = domain, world, size, counts
        self.splits = list(counts)

    def items(self, split: str) -> list[Item]:
        require_split(split, self.splits, f"toytown ({self.domain})")
        return [self._item(split, index) for index in range(self.counts[split])]

    def _item(self, split: str, index: int) -> Item:
        drawn = partial(_drawn, self.domain, self.world, split, index, self.size)
        return Item(f"{split}_{index:05d}", lambda: drawn()[0].copy(), lambda: drawn()[1].copy())


class ToytownData(DatasetParams):
    """One of the two embedded domains of procedural street scenes."""

    kind: Literal["toytown"]
    domain: Literal["source", "target"]
    """The look: a game engine's, or a camera's."""
    world: int
    """Seed of the generated world, independent of the seeds of runs."""
    size: Size
    """Height and width of the drawn images, in pixels."""
    counts: dict[Split, Positive]
    """Images per split."""

    def splits(self) -> list[str]:
        return list(self.counts)

    def open(self, unpacked: Path | None = None) -> Toytown:
        return Toytown(self.domain, self.world, self.size, dict(self.counts.items()))
