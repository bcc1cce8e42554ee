"""Procedural objects in many styles, on which the small network is pretrained: they play the part of ImageNet.

Each image shows a few shapes over a background, and what a shape is made of (flat colour, gradient, stripes, checks,
grain), its outline, the light and the lens are drawn independently of what shape it is. So a network has to look at
outlines. Nothing in it resembles a street, and no number is taken from Toytown's target.
"""

import math
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from udaseg.data.datasets.base import DatasetParams, Item, require_split
from udaseg.seeding import seed_for
from udaseg.types import Positive, Size, Split

OVERSAMPLE = 2
TURN = 2 * math.pi


def _arc(radius: float, start: float, end: float, count: int = 24, shift: float = 0.0) -> list[tuple[float, float]]:
    angles = [start + (end - start) * k / (count - 1) for k in range(count)]
    return [(radius * math.cos(a) + shift, radius * math.sin(a)) for a in angles]


def _crescent() -> list[tuple[float, float]]:
    """A disc of radius 1 less a disc of radius 0.85 about (0.55, 0)."""
    x = (1.0 - 0.85**2 + 0.55**2) / (2 * 0.55)  # where the two circles meet
    outer, inner = math.acos(x), math.atan2(math.sqrt(1 - x * x), x - 0.55)
    return _arc(1.0, outer, TURN - outer) + _arc(0.85, TURN - inner, inner, shift=0.55)


# Outlines about the origin, within a circle of radius about 1. A ring is one outline with a seam.
SHAPES: dict[str, list[tuple[float, float]]] = {
    "disc": _arc(0.9, 0.0, TURN),
    "square": [(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)],
    "triangle": [(0.0, -1.0), (0.9, 0.7), (-0.9, 0.7)],
    "star": [
        (r * math.sin(TURN * k / 10), -r * math.cos(TURN * k / 10))
        for k, r in zip(range(10), 5 * (1.0, 0.42), strict=True)
    ],
    "ring": _arc(1.0, 0.0, TURN) + _arc(0.58, TURN, 0.0),
    "cross": [
        (-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
        (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3),
    ],
    "bar": [(-1.2, -0.2), (1.2, -0.2), (1.2, 0.2), (-1.2, 0.2)],
    "crescent": _crescent(),
    "heart": [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in (TURN * k / 32 for k in range(32))
    ],
    "arrow": [(-1.0, -0.24), (0.1, -0.24), (0.1, -0.75), (1.0, 0.0), (0.1, 0.75), (0.1, 0.24), (-1.0, 0.24)],
}  # fmt: skip
NAMES = ("background", *SHAPES)


def render(world: int, split: str, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) uint8 RGB and label (H, W) uint8, index in NAMES."""
    generator = np.random.default_rng(seed_for(world, f"objects.{split}", index))
    height, width = size
    picture = _filling(generator, height, width)
    label = np.zeros(size, dtype=np.uint8)
    for _ in range(generator.integers(2, 7) * max(1, round(width / height))):
        kind = int(generator.integers(len(SHAPES)))
        radius = height * generator.uniform(0.09, 0.3)
        middle = generator.uniform(0.0, width), generator.uniform(0.0, height)
        outline = _outline(generator, SHAPES[NAMES[1 + kind]], radius)
        rows, columns, coverage = _cover(outline, middle, size)
        if not coverage.size:
            continue
        filling = _filling(generator, *coverage.shape)
        if generator.random() < 0.35:
            inner = _cover(0.86 * outline, middle, size, (rows, columns))[2][..., None]
            filling = inner * filling + (1 - inner) * generator.uniform(0, 1, 3).astype(np.float32)
        alpha = coverage[..., None]
        picture[rows, columns] += alpha * (filling - picture[rows, columns])
        label[rows, columns][coverage >= 0.5] = 1 + kind
    return _photograph(generator, picture), label


def _outline(generator: np.random.Generator, shape: list[tuple[float, float]], radius: float) -> np.ndarray:
    """The shape turned, stretched and scaled: (N, 2) pixels about the origin."""
    angle, stretch = generator.uniform(0, TURN), generator.uniform(0.75, 1.0)
    cos, sin = math.cos(angle), math.sin(angle)
    return radius * np.array(shape) * (1.0, stretch) @ np.array([[cos, sin], [-sin, cos]])


def _cover(
    outline: np.ndarray, middle: tuple[float, float], size: tuple[int, int], box: tuple[slice, slice] | None = None
) -> tuple[slice, slice, np.ndarray]:
    """The rows and columns a shape touches (or those of `box`) and how much of each of their pixels it covers, 0..1."""
    points = outline + middle
    if box is None:
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        box = (
            slice(max(0, int(y0)), max(0, min(size[0], int(y1) + 2))),
            slice(max(0, int(x0)), max(0, min(size[1], int(x1) + 2))),
        )
    rows, columns = box
    height, width = max(0, rows.stop - rows.start), max(0, columns.stop - columns.start)
    if height == 0 or width == 0:
        return rows, columns, np.zeros((0, 0), dtype=np.float32)
    mask = Image.new("L", (OVERSAMPLE * width, OVERSAMPLE * height))
    shifted = OVERSAMPLE * (points - (columns.start, rows.start))
    ImageDraw.Draw(mask).polygon(shifted.ravel().tolist(), fill=255)
    return rows, columns, np.asarray(mask.reduce(OVERSAMPLE), dtype=np.float32) / 255


def _filling(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A surface (H, W, 3) float32 in 0..1, of two colours mixed by a flat, graded, striped, checked or grainy field."""
    first, second = generator.uniform(0, 1, (2, 3)).astype(np.float32)
    if generator.random() < 0.4:  # two shades of one colour, so that edges inside a shape are often weak
        second = np.clip(first + generator.uniform(-0.25, 0.25), 0, 1).astype(np.float32)
    kind = generator.integers(5)
    angle, period = generator.uniform(0, TURN), generator.uniform(5.0, 24.0)
    y, x = np.ogrid[0:height, 0:width]
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    field: np.ndarray
    if kind == 0:
        field = np.zeros((height, width))
    elif kind == 1:
        field = (along - along.min()) / max(1.0, float(np.ptp(along)))
    elif kind == 2:
        field = along % period < period / 2
    elif kind == 3:
        field = (along % period < period / 2) ^ (across % period < period / 2)
    else:
        coarse = generator.uniform(0, 1, (max(2, int(height / period * 2)), max(2, int(width / period * 2))))
        field = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
    return first + (second - first) * np.asarray(field, dtype=np.float32)[..., None]


def _photograph(generator: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Coloured light that falls off across the picture, then now and then blur and grain: float32, 0..1 → uint8."""
    height, width = picture.shape[:2]
    light = generator.uniform(0.6, 1.25) * generator.uniform(0.8, 1.2, 3)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope_y, slope_x = generator.uniform(-0.25, 0.25, 2)
    picture = picture * light.astype(np.float32) * (1 + slope_y * y + slope_x * x).astype(np.float32)[..., None]
    if generator.random() < 0.4:
        sharp = Image.fromarray((255 * np.clip(picture, 0, 1)).astype(np.uint8))
        blurred = sharp.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 1.6)))
        picture = np.asarray(blurred, dtype=np.float32) / 255
    if generator.random() < 0.5:
        grain = generator.standard_normal(picture.shape, dtype=np.float32)
        picture = picture + np.float32(generator.uniform(0.01, 0.1)) * grain
    return (255 * np.clip(picture, 0, 1) + 0.5).astype(np.uint8)


class Objects:
    """The objects of one world."""

    names = NAMES

    def __init__(self, world: int, size: tuple[int, int], counts: dict[str, int]) -> None:
        self.world, self.size, self.counts = world, size, counts
        self.splits = list(counts)

    def items(self, split: str) -> list[Item]:
        require_split(split, self.splits, "the objects data set")
        return [self._item(split, index) for index in range(self.counts[split])]

    def _item(self, split: str, index: int) -> Item:
        drawn = partial(render, self.world, split, index, self.size)
        return Item(f"{split}_{index:05d}", lambda: drawn()[0], lambda: drawn()[1])


class ObjectsData(DatasetParams):
    """Procedural objects in many styles, on which the small network is pretrained."""

    kind: Literal["objects"]
    world: int
    """Seed of the generated world, independent of the seeds of runs."""
    size: Size
    """Height and width of the drawn images, in pixels."""
    counts: dict[Split, Positive]
    """Images per split."""

    def splits(self) -> list[str]:
        return list(self.counts)

    def open(self, unpacked: Path | None = None) -> Objects:
        return Objects(self.world, self.size, dict(self.counts.items()))
