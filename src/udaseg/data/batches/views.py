"""How a prepared image becomes a training input: one record of the geometry, one of the colours.

A record can be applied to a picture, a label map or any other map of the same scene, and at another resolution, so that
they stay aligned to the pixel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from udaseg.config.training import View


@dataclass(frozen=True)
class Geometry:
    """Resize, then crop, then flip. Sizes and offsets are in pixels of the resized image, (height, width) each.

    The crop may reach beyond the image; positions outside are marked as not valid.
    """

    resized: tuple[int, int]
    offset: tuple[int, int]
    crop: tuple[int, int]
    flip: bool

    def at(self, scale: float) -> "Geometry":
        """The same geometry for maps that have `scale` times as many cells a side (1/4: a stride-4 map).

        All numbers are rounded down, as in ProDA's release. This includes negative offsets, so that the map moves by
        one cell when the crop moves by one cell's pixels, and a crop of whole cells covers the same part of both.
        """

        def scaled(pair: tuple[int, int]) -> tuple[int, int]:
            return math.floor(pair[0] * scale), math.floor(pair[1] * scale)

        return Geometry(scaled(self.resized), scaled(self.offset), scaled(self.crop), self.flip)

    def apply(self, tensor: Tensor, mode: Literal["bilinear", "nearest", "aligned"]) -> tuple[Tensor, Tensor]:
        """Carry a map (C, H, W) into the view.

        Returns the view (C, h, w) of the same dtype, 0 outside the image, and the mask (h, w) of valid positions, bool.
        `nearest` is for labels and `bilinear` for pictures: both place pixel centres alike, so that a label stays on
        its pixel. `aligned` is for maps that a network computed, whose outermost cells belong to the picture's corners
        (`align_corners=True`, not smoothed).
        """
        if tuple(tensor.shape[-2:]) != self.resized:
            if mode == "bilinear":
                tensor = functional.interpolate(tensor[None], self.resized, mode="bilinear", antialias=True)[0]
            elif mode == "aligned":
                tensor = functional.interpolate(tensor[None], self.resized, mode="bilinear", align_corners=True)[0]
            else:
                tensor = functional.interpolate(tensor[None].float(), self.resized, mode="nearest-exact")[0].to(tensor)
        (top, left), (height, width) = self.offset, self.crop
        bottom, right = top + height - self.resized[0], left + width - self.resized[1]
        tensor = tensor[..., max(top, 0) : top + height, max(left, 0) : left + width]
        padding = (max(-left, 0), max(right, 0), max(-top, 0), max(bottom, 0))
        valid = torch.ones(tensor.shape[-2:], dtype=torch.bool, device=tensor.device)
        if any(padding):
            tensor, valid = functional.pad(tensor, padding), functional.pad(valid, padding)
        return (tensor.flip(-1), valid.flip(-1)) if self.flip else (tensor, valid)


def draw_geometry(view: View, size: tuple[int, int], generator: torch.Generator) -> Geometry:
    """A random geometry for an image of `size` (height, width)."""
    random = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    factor = view.scale[0] + (view.scale[1] - view.scale[0]) * random[0]
    resized = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))

    def offset(room: int, chance: float) -> int:
        # With less image than crop, `room` is negative and the image lies somewhere inside the crop.
        return int(chance * (room + 1)) if room >= 0 else -int(chance * (1 - room))

    top, left = offset(resized[0] - view.crop[0], random[1]), offset(resized[1] - view.crop[1], random[2])
    return Geometry(resized, (top, left), view.crop, random[3] < view.flip)


TRIES = 10  # draws of a crop until one is accepted (DAFormer); the last one is used in any case


def draw_accepted(
    view: View, size: tuple[int, int], generator: torch.Generator, accept: Callable[[Geometry], bool]
) -> Geometry:
    """A random geometry that `accept` accepts, or the last of `TRIES`."""
    for _ in range(TRIES):
        geometry = draw_geometry(view, size, generator)
        if accept(geometry):
            break
    return geometry


def centred_at(geometry: Geometry, pixel: tuple[int, int], size: tuple[int, int]) -> Geometry:
    """The geometry with its crop centred at `pixel` (row, column) of an image of `size`, shifted to stay inside it."""

    def start(axis: int) -> int:
        room = geometry.resized[axis] - geometry.crop[axis]
        centre = int((pixel[axis] + 0.5) * geometry.resized[axis] / size[axis])
        return min(max(centre - geometry.crop[axis] // 2, 0), room) if room > 0 else geometry.offset[axis]

    return replace(geometry, offset=(start(0), start(1)))


def crop_then_resize(stored: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """What `geometry.apply(stored, "aligned")` gives, computed for the cells of the crop only.

    Args:
        stored: (C, h, w), any real dtype; covers the whole image at any resolution.
        geometry: at the scale of the result.

    Returns:
        The view (C, *crop) float32, and the mask (*crop) bool of cells inside the image.
    """
    (low, high, share), rows = _taps(stored.shape[-2], geometry, 0)
    tall = stored[:, low].float().lerp(stored[:, high].float(), share[:, None])
    (low, high, share), columns = _taps(stored.shape[-1], geometry, 1)
    view = tall[:, :, low].lerp(tall[:, :, high], share)
    valid = rows[:, None] & columns
    return (view.flip(-1), valid.flip(-1)) if geometry.flip else (view, valid)


def _taps(length: int, geometry: Geometry, axis: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """For each cell of the crop along an axis: the two stored cells it lies between, its share of the way from one to
    the other, and whether it lies inside the image."""
    resized = geometry.resized[axis]
    cells = torch.arange(geometry.crop[axis]) + geometry.offset[axis]
    places = (cells.double() * (length - 1) / max(resized - 1, 1)).clamp(0, length - 1)
    low = places.floor().long()
    return (low, (low + 1).clamp(max=length - 1), (places - low).float()), (cells >= 0) & (cells < resized)


def jitter_colours(image: Tensor, view: View, generator: torch.Generator) -> Tensor:
    """Random brightness, contrast, saturation, hue and blur of an image (3, H, W) in [0, 1], in this order."""
    # Imported late: every command that reads the methods' SPECs loads this module, and torchvision takes two seconds.
    from torchvision.transforms.v2 import functional as colours

    random = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    if view.jitter:
        brightness, contrast, saturation, hue = (view.jitter * (2 * chance - 1) for chance in random[:4])
        image = colours.adjust_brightness(image, 1 + brightness)
        image = colours.adjust_contrast(image, 1 + contrast)
        image = colours.adjust_saturation(image, 1 + saturation)
        image = colours.adjust_hue(image, hue / 4)
    if random[4] < view.blur:
        image = colours.gaussian_blur(image, kernel_size=[5, 5], sigma=[0.3 + random[5], 0.3 + random[5]])
    return image
