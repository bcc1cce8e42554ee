"""Maps over an image: resizing them, averaging them over a mask, and taking the vectors of some of their pixels."""

import torch.nn.functional as F
from torch import Tensor

from udaseg.types import IGNORE


def resize(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """`logits` (B, C, h, w) bilinearly resized to (B, C, *size), corners aligned, as the field's papers do it."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)


def nearest(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps (B, H, W) of any dtype at another size, (B, *size): each cell takes the value of one pixel, as released."""
    return F.interpolate(maps[:, None].float(), size=size, mode="nearest")[:, 0].to(maps.dtype)


def masked_mean(maps: Tensor, mask: Tensor) -> Tensor:
    """Mean of maps (B, h, w) over a mask (B, h, w) bool; 0, connected to the graph, where the mask is empty.

    Raises:
        ValueError: the shapes differ.
    """
    if mask.shape != maps.shape:
        raise ValueError(f"a mask {tuple(maps.shape)} expected, found {tuple(mask.shape)}")
    return maps.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def as_rows(maps: Tensor) -> Tensor:
    """(B, D, h, w) -> (B*h*w, D)."""
    return maps.movedim(1, -1).flatten(0, 2)


def take_pixels(maps: Tensor, indices: Tensor) -> Tensor:
    """Vectors of maps (B, D, h, w) at `indices` (...) into B*h*w: (..., D).

    Raises:
        ValueError: maps of another shape.
    """
    if maps.dim() != 4:
        raise ValueError(f"maps (B, D, h, w) expected, found {tuple(maps.shape)}")
    pixels = maps.shape[2] * maps.shape[3]
    return maps.flatten(2)[indices // pixels, :, indices % pixels]


def labelled_rows(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The labelled vectors of features (B, D, h, w), as rows (M, D), and their labels (M,).

    Args:
        features: (B, D, h, w).
        labels: (B, h, w) int64, 255 = ignore.

    Raises:
        ValueError: the shapes do not fit.
    """
    if features.dim() != 4 or labels.shape != (features.shape[0], *features.shape[2:]):
        raise ValueError(
            f"features (B, D, h, w) and labels (B, h, w) expected, found {tuple(features.shape)} and "
            f"{tuple(labels.shape)}"
        )
    labelled = labels != IGNORE
    return features.movedim(1, -1)[labelled], labels[labelled]
