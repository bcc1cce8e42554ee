"""The geometry of a strongly augmented view (ProDA, CVPR 2021), replayed on maps of the same scene.

Positions are continuous: the centre of the first of h x w cells is at (0.5, 0.5), so a map at a quarter resolution is
sampled at the same places as the picture. Operations are inverse maps ("what is seen here was there") with PIL's
conventions: shears start from the upper left corner, and rotations are counter-clockwise about the centre.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.types import Fidelity

Name = Literal["flip", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"]
Operation = tuple[Name, float]  # amount: share (shear), pixels (translate), degrees (rotate), unused (flip)
Rows = list[list[float]]

RELEASED_ORDER: tuple[Name, ...] = ("flip", "shear_x", "shear_y", "translate_x", "translate_y", "rotate")


@dataclass(frozen=True)
class Warp:
    """The geometric changes of a picture.

    Args:
        operations: in the order in which they were applied.
        cutout: x0, y0, x1, y1 in pixels of the result, painted over last; x1 and y1 are outside.

    Raises:
        ValueError: an unknown operation.
    """

    operations: tuple[Operation, ...]
    cutout: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if stray := {name for name, _ in self.operations} - set(RELEASED_ORDER):
            raise ValueError(f"operations {', '.join(RELEASED_ORDER)} expected, found {', '.join(sorted(stray))}")

    @torch.no_grad()
    def apply(
        self, maps: Tensor, scale: float, mode: Literal["bilinear", "nearest"], convention: Fidelity = "paper"
    ) -> tuple[Tensor, Tensor]:
        """Warp maps of the picture into the strong view, without a gradient.

        "paper": all operations form one transformation, which is sampled once. Maps of any scale stay aligned with the
        picture, and what one operation moves out of the picture and another one back is visible. "released": ProDA's
        replay, which differs from what happened to the picture: operations run one by one in `RELEASED_ORDER`, only
        the last of two equal ones counts, translations and cut-out are floored to cells, and `translate_x` goes too
        far by a factor of w / h.

        Args:
            maps: (C, h, w); of any dtype for "nearest", floating for "bilinear".
            scale: cells of `maps` per pixel of the picture: 1 for the picture itself, 1/4 for a map of a quarter. The
                picture is (h / scale, w / scale) pixels in size.
            mode: with "released" only "nearest".

        Returns:
            The warped maps (C, h, w) of the same dtype, 0 where not valid, and (h, w) bool: False outside the picture
            and in the cut-out.

        Raises:
            ValueError: another shape or name; "bilinear" of integers or in the released convention.
        """
        if maps.dim() != 3:
            raise ValueError(f"maps (C, h, w) expected, found {tuple(maps.shape)}")
        if mode not in ("bilinear", "nearest") or convention not in ("paper", "released"):
            raise ValueError(f"'bilinear' or 'nearest', 'paper' or 'released' expected, found {mode!r}, {convention!r}")
        if mode == "bilinear" and (convention == "released" or not maps.is_floating_point()):
            raise ValueError(f"'bilinear' is for floating maps in the paper's convention, found {maps.dtype}")
        if convention == "released":
            cells, valid = self._released_cells(maps, scale)
            warped = _taken(maps, cells)
        else:
            x, y, valid = self._positions(maps, scale)
            warped = _nearest(maps, x, y) if mode == "nearest" else _bilinear(maps, x, y)
        return warped.masked_fill(~valid, 0), valid

    def _positions(self, maps: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """The positions in `maps` of the cells' centres, x and y (h, w) in cells, and whether each is valid."""
        height, width = maps.shape[1:]
        inverse = torch.eye(3, dtype=torch.float64)
        for name, amount in self.operations:
            inverse = inverse @ torch.tensor(_inverse_rows(name, amount, (height, width), scale), dtype=torch.float64)
        # In float64, and without a division by the size: positions after flips and translations are exact.
        column = torch.arange(width, dtype=torch.float64, device=maps.device) + 0.5
        row = torch.arange(height, dtype=torch.float64, device=maps.device)[:, None] + 0.5
        x, y = (along * column + down * row + shift for along, down, shift in inverse[:2].tolist())
        valid = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        if self.cutout is not None:
            x0, y0, x1, y1 = (edge * scale for edge in self.cutout)
            valid = valid & ~((column >= x0) & (column < x1) & (row >= y0) & (row < y1))
        return x, y, valid

    def _released_cells(self, maps: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """The number of the cell that each cell comes from (h, w), counted row by row, and whether it is valid."""
        height, width = maps.shape[1:]
        numbers = torch.arange(1, height * width + 1, dtype=torch.float32, device=maps.device)
        numbers = numbers.view(1, 1, height, width)
        last_amounts = dict(self.operations)
        for name in RELEASED_ORDER:
            if name not in last_amounts:
                continue
            amount = last_amounts[name]
            if name.startswith("translate"):
                amount = math.floor(amount * scale)  # cells
            if name == "translate_x":
                amount *= width / height  # the release's slip
            rows = _inverse_rows(name, amount, (height, width), 1.0)
            grid = _normalised_grid(rows, (height, width), maps.device)
            numbers = F.grid_sample(numbers, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        if self.cutout is not None:
            x0, y0, x1, y1 = (math.floor(edge * scale) for edge in self.cutout)
            numbers[..., y0:y1, x0:x1] = 0
        cells = numbers[0, 0].long() - 1
        return cells.clamp(min=0), cells >= 0


def _inverse_rows(name: Name, amount: float, size: tuple[int, int], scale: float) -> Rows:
    """The 3x3 matrix from a position (x, y, 1) after an operation to that before it, in cells.

    Args:
        amount: as in `Operation`.
        size: height and width of the map.
        scale: cells per pixel.
    """
    height, width = size
    if name == "flip":
        return [[-1, 0, width], [0, 1, 0], [0, 0, 1]]
    if name == "shear_x":
        return [[1, amount, 0], [0, 1, 0], [0, 0, 1]]
    if name == "shear_y":
        return [[1, 0, 0], [amount, 1, 0], [0, 0, 1]]
    if name == "translate_x":
        return [[1, 0, amount * scale], [0, 1, 0], [0, 0, 1]]
    if name == "translate_y":
        return [[1, 0, 0], [0, 1, amount * scale], [0, 0, 1]]
    cos, sin = math.cos(math.radians(amount)), math.sin(math.radians(amount))
    x, y = width / 2, height / 2
    return [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y], [0, 0, 1]]


def _normalised_grid(rows: Rows, size: tuple[int, int], device: torch.device) -> Tensor:
    """`_inverse_rows` as places for `grid_sample` (1, h, w, 2), each axis from -1 to 1, in the release's float32."""
    height, width = size
    (a, b, c), (d, e, f), _ = rows
    across = (a, b * height / width, 2 * c / width + a + b * height / width - 1)
    down = (d * width / height, e, 2 * f / height + d * width / height + e - 1)
    x = torch.linspace(-1, 1, width, device=device) * (width - 1) / width
    y = (torch.linspace(-1, 1, height, device=device) * (height - 1) / height)[:, None]
    # Not affine_grid: positions halfway between two cells are common, and there its matrix product rounds to either
    # side, depending on the processor.
    return torch.stack([along * x + other * y + shift for along, other, shift in (across, down)], -1)[None]


def _nearest(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    # By number: keeps any dtype, and a position on the border between two cells goes to the same side everywhere.
    height, width = maps.shape[1:]
    return _taken(maps, _clamped(y.floor(), height) * width + _clamped(x.floor(), width))


def _bilinear(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    # Not grid_sample: it divides by the size and multiplies again, which moves even the identity off the centres.
    height, width = maps.shape[1:]
    x0, y0 = (x - 0.5).floor(), (y - 0.5).floor()
    along, down = (x - 0.5 - x0).to(maps.dtype), (y - 0.5 - y0).to(maps.dtype)
    left, right = _clamped(x0, width), _clamped(x0 + 1, width)
    upper, lower = (
        torch.lerp(_taken(maps, start + left), _taken(maps, start + right), along)
        for start in (_clamped(y0, height) * width, _clamped(y0 + 1, height) * width)
    )
    return torch.lerp(upper, lower, down)


def _clamped(cells: Tensor, length: int) -> Tensor:
    """Rows or columns; beyond the border, the one on it."""
    return cells.clamp(0, length - 1).long()


def _taken(maps: Tensor, cells: Tensor) -> Tensor:
    """Cells of (C, h, w) by their numbers (h, w), counted row by row."""
    return maps.flatten(1).index_select(1, cells.flatten()).view(maps.shape)
