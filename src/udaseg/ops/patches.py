"""Two overlapping crops of one image, and which cells of their feature maps show the same place.

They are cut as in PiPa (ACM MM 2023, arXiv 2211.07609), whose release takes this from Context-Aware Consistency (CVPR
2021). Sizes, offsets and shifts are (height, width) in pixels; cells of maps are `stride` pixels a side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TRIES = 50  # to draw a shift with the wanted overlap; after that the crops are identical, as released

Pair = tuple[int, int]


class Box(NamedTuple):
    """A rectangle of pixels; bottom and right are the first ones outside."""

    top: int
    left: int
    bottom: int
    right: int


class CropPair(NamedTuple):
    """Resize the image, cut two crops, then mirror each crop independently."""

    resized: Pair  # of the image
    size: Pair  # of each crop
    first: Pair  # offset of the first crop
    second: Pair  # of the second crop: a multiple of the stride away
    flips: tuple[bool, bool]

    @property
    def boxes(self) -> tuple[Box, Box]:
        """The area that both show, in the pixels of each crop before mirroring."""
        return overlap_of(self.first, self.second, self.size), overlap_of(self.second, self.first, self.size)

    @property
    def iou(self) -> float:
        """Intersection over union of the crops' areas; 0 if they do not overlap."""
        box = self.boxes[0]
        shared = (box.bottom - box.top) * (box.right - box.left)
        return shared / (2 * self.size[0] * self.size[1] - shared)

    def apply(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Both crops (C, *size) of an image (C, H, W), float; resized bilinearly, with antialiasing."""
        if tuple(image.shape[-2:]) != self.resized:
            image = F.interpolate(image[None], self.resized, mode="bilinear", antialias=True)[0]
        first, second = (
            image[..., top : top + self.size[0], left : left + self.size[1]] for top, left in (self.first, self.second)
        )
        return _mirrored(first, self.flips[0]), _mirrored(second, self.flips[1])


def overlap_of(offset: Pair, other: Pair, size: Pair) -> Box:
    """The area that a crop at `offset` shares with one at `other`, both of `size`, in the first crop's pixels.

    If they do not overlap, the box is empty: its bottom equals its top, or its right its left.
    """
    spans = []
    for here, there, length in zip(offset, other, size, strict=True):
        start = min(max(there - here, 0), length)
        spans.append((start, max(length + min(there - here, 0), start)))
    (top, bottom), (left, right) = spans
    return Box(top, left, bottom, right)


def resized_to(image: Pair, factor: float) -> Pair:
    """Size of an image of size `image` resized by `factor`."""
    return round(image[0] * factor), round(image[1] * factor)


def draw_pair(
    image: Pair,
    size: Pair,
    scale: tuple[float, float],
    iou: tuple[float, float],
    stride: int,
    generator: torch.Generator,
) -> CropPair:
    """A random pair of crops: the first anywhere, the second shifted so that the two overlap as requested.

    The shift is uniform over the multiples of the stride that keep the crop within the image. It is drawn again until
    the IoU is within its bounds; after 50 draws the crops are identical.

    Args:
        image: size of the image.
        size: size of the crops.
        scale: bounds of the uniform factor by which the image is resized first.
        iou: bounds of the crops' intersection over union (released 0.1 and 1).
        stride: of the shifts (released 8).
        generator: on the CPU; the number of draws is always the same.

    Raises:
        ValueError: the crop is larger than the resized image.
    """
    by_scale, down, across, *mirror = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    tries = torch.rand(TRIES, 2, generator=generator, dtype=torch.float64).tolist()
    resized = resized_to(image, scale[0] + (scale[1] - scale[0]) * by_scale)
    room = (resized[0] - size[0], resized[1] - size[1])
    if min(room) < 0:
        raise ValueError(f"crops of at most the resized image, {resized}, expected, found {size}")
    first = (int(down * (room[0] + 1)), int(across * (room[1] + 1)))
    pair = CropPair(resized, size, first, first, (mirror[0] < 0.5, mirror[1] < 0.5))
    for chances in tries:
        shifted = pair._replace(second=_shifted(first, room, stride, chances))
        if iou[0] <= shifted.iou <= iou[1]:
            return shifted
    return pair


def _shifted(first: Pair, room: Pair, stride: int, chances: Sequence[float]) -> Pair:
    """`first` moved along each axis by a multiple of the stride, to a place between 0 and `room`."""

    def along(axis: int) -> int:
        least = first[axis] % stride
        places = (room[axis] - least) // stride + 1
        return least + stride * int(chances[axis] * places)

    return along(0), along(1)


def upright(maps: Tensor, flips: Sequence[bool]) -> Tensor:
    """Maps (B, ..., w) of crops with the mirroring undone, so that both crops of an image have one orientation.

    Raises:
        ValueError: the numbers of flips and maps differ.
    """
    if len(flips) != len(maps):
        raise ValueError(f"a flip for each of {len(maps)} maps expected, found {len(flips)}")
    return torch.stack([_mirrored(one, flip) for one, flip in zip(maps, flips, strict=True)])


def to_cells(maps: Tensor, size: Pair, stride: int) -> Tensor:
    """Maps (B, D, h, w) of upright crops of `size`, averaged over cells of `stride` pixels a side.

    Raises:
        ValueError: the maps are coarser than the cells.
    """
    finer = min(maps.shape[-2] // max(size[0] // stride, 1), maps.shape[-1] // max(size[1] // stride, 1))
    if finer < 1:
        raise ValueError(
            f"maps of crops {size} with cells of at most {stride} pixels expected, found {tuple(maps.shape)}"
        )
    return F.avg_pool2d(maps, finer) if finer > 1 else maps


def corresponding_cells(
    boxes: Sequence[tuple[Box, Box]],
    size: Pair,
    stride: int,
    most: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Cells of both crops' upright maps that show the same place, image by image, row by row.

    Args:
        boxes: for each of B images, what the crops share, see `CropPair.boxes`; coordinates are divided by the stride
            and rounded down, as released.
        size: (h, w) of the maps.
        stride: pixels of a cell's side.
        most: largest number of cells of an image, drawn without replacement; None: all cells.
        generator: on the CPU, for this draw; None: the global one.

    Returns:
        Two (n,) int64 on the CPU, indices into the maps of all first and then all second crops, flattened to 2*B*h*w.
    """
    cells = torch.arange(2 * len(boxes) * size[0] * size[1]).view(2, len(boxes), *size)
    found = []
    for image, pair in enumerate(boxes):
        first, second = (
            own[box.top // stride : box.bottom // stride, box.left // stride : box.right // stride].flatten()
            for own, box in zip(cells[:, image], pair, strict=True)
        )
        kept = slice(None) if most is None else torch.randperm(len(first), generator=generator)[:most]
        found.append(torch.stack([first[kept], second[kept]]))
    first, second = torch.cat(found, dim=1)
    return first, second


def _mirrored(maps: Tensor, flip: bool) -> Tensor:
    return maps.flip(-1) if flip else maps
