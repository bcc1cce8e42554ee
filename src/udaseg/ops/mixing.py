"""Pasting and masking: ClassMix (Olsson et al., WACV 2021), as DACS uses it, and MIC's block masks (CVPR 2023)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def draw_classes(labels: Tensor, generator: torch.Generator, per: Literal["image", "batch"]) -> list[Tensor]:
    """For each image a random half, rounded up, of the classes that are there; 255 is a class like any other.

    Args:
        labels: (B, H, W) int64.
        generator: on the CPU.
        per: "image": half of the image's own classes (DACS); "batch": half of those of all images, so that a draw may
            hold no class of the image that it is for (DAFormer).

    Returns:
        B tensors (n,) int64, without repetition.

    Raises:
        ValueError: labels of another shape, or `per` is something else.
    """
    if labels.dim() != 3 or per not in ("image", "batch"):
        raise ValueError(
            f"labels (B, H, W) and per 'image' or 'batch' expected, found {tuple(labels.shape)} and {per!r}"
        )
    chosen = []
    for label in labels:
        classes = torch.unique(label if per == "image" else labels)
        order = torch.randperm(len(classes), generator=generator)
        chosen.append(classes[order[: (len(classes) + 1) // 2].to(classes.device)])
    return chosen


def class_mask(labels: Tensor, chosen: Sequence[Tensor]) -> Tensor:
    """Where an image's labels (B, H, W) are among the classes chosen for it: (B, H, W) bool."""
    if len(chosen) != len(labels):
        raise ValueError(f"classes of {len(labels)} images expected, found those of {len(chosen)}")
    return torch.stack([torch.isin(label, classes) for label, classes in zip(labels, chosen, strict=True)])


def mix(mask: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """`source` where the mask is set, `target` elsewhere.

    Args:
        mask: (B, H, W) bool.
        source, target: images (B, C, H, W), or labels or weights (B, H, W), of one shape.

    Raises:
        ValueError: shapes do not fit.
    """
    fits = source.shape == target.shape and (source.shape[0], *source.shape[-2:]) == mask.shape
    if mask.dim() != 3 or not fits or source.dim() not in (3, 4):
        raise ValueError(
            f"mask (B, H, W) and two tensors (B, C, H, W) or (B, H, W) expected, found {tuple(mask.shape)}, "
            f"{tuple(source.shape)} and {tuple(target.shape)}"
        )
    return torch.where(mask if source.dim() == 3 else mask[:, None], source, target)


def block_grid(size: tuple[int, int], block: int) -> tuple[int, int]:
    """Rows and columns of blocks of about `block` pixels a side in maps of `size`, at least one of each.

    Halves are rounded to the even number, as released: 96 pixels are 2 blocks of 64, which are then 48 pixels tall.
    """
    return max(1, round(size[0] / block)), max(1, round(size[1] / block))


def draw_blocks(batch: int, size: tuple[int, int], block: int, generator: torch.Generator) -> Tensor:
    """What `block_mask` decides by: (B, 1, *block_grid), uniform in [0, 1); the generator is on the CPU."""
    return torch.rand(batch, 1, *block_grid(size, block), generator=generator)


def block_mask(size: tuple[int, int], block: int, ratio: float, uniform: Tensor) -> Tensor:
    """Which pixels stay when random blocks of an image are masked (MIC, CVPR 2023).

    Args:
        size: (H, W) of the images.
        block: side of a block in pixels, about (MIC 64 in crops of 1024, 32 in crops of 512).
        ratio: share of the blocks that is masked, on average (MIC 0.7).
        uniform: (B, 1, *block_grid(size, block)) in [0, 1), see `draw_blocks`.

    Returns:
        (B, 1, H, W) bool, True where a pixel stays.

    Raises:
        ValueError: `uniform` is of another shape.
    """
    grid = block_grid(size, block)
    if uniform.dim() != 4 or tuple(uniform.shape[1:]) != (1, *grid):
        raise ValueError(f"uniform (B, 1, {grid[0]}, {grid[1]}) expected, found {tuple(uniform.shape)}")
    return F.interpolate((uniform > ratio).float(), size=size, mode="nearest").bool()
