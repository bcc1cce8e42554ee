"""Pasting parts of one image into another, and masking parts of it: which pixels, and the mixing itself.

ClassMix (Olsson et al., WACV 2021) as DACS, DAFormer and the memory bank use it; the classes of a labelled image that
DiGA keeps in CrDoMix and in its cross mix (CVPR 2023, arXiv 2304.02222); CutMix (Yun et al., ICCV 2019; for
segmentation French et al., BMVC 2020); MIC's block masks (CVPR 2023). Generators are on the CPU.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.types import IGNORE


def draw_classes(labels: Tensor, generator: torch.Generator, per: Literal["image", "batch"]) -> list[Tensor]:
    """For each image a random half, rounded up, of the classes present; 255 is a class like any other.

    Args:
        labels: (B, H, W) int64.
        generator: for the draws.
        per: "image": half of the image's own classes (DACS); "batch": half of those of the whole batch, so a draw may
            hold none of its image's classes (DAFormer).

    Returns:
        B tensors (n,) int64, without repetition.

    Raises:
        ValueError: labels of another shape, or `per` is something else.
    """
    if per not in ("image", "batch"):
        raise ValueError(f"per: 'image' or 'batch' expected, found {per!r}")
    _require_labels(labels)
    drawn = []
    for label in labels:
        classes = torch.unique(label if per == "image" else labels)
        drawn.append(_some(classes, (len(classes) + 1) // 2, generator))
    return drawn


def draw_kept(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """For each image a random half, rounded down, of the classes present; 255 counts as one of them (DiGA).

    Of a single class nothing is kept, as released.

    Args:
        labels: (B, H, W) int64.
        generator: for the draws.

    Returns:
        B tensors (n,) int64, without repetition.

    Raises:
        ValueError: labels of another shape.
    """
    _require_labels(labels)
    classes = [label.unique() for label in labels]
    return [_some(present, len(present) // 2, generator) for present in classes]


def draw_majority(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """For each image floor(n / 2) + 1 of its n classes at random, without 255 (memory bank, as released).

    Args:
        labels: (B, H, W) int64.
        generator: for the draws.

    Returns:
        B tensors (k,) int64, without repetition; empty where nothing is labelled.

    Raises:
        ValueError: labels of another shape.
    """
    _require_labels(labels)
    classes = [label[label != IGNORE].unique() for label in labels]
    return [_some(present, len(present) // 2 + 1, generator) for present in classes]


def class_mask(labels: Tensor, chosen: Sequence[Tensor]) -> Tensor:
    """Where an image's labels (B, H, W) are among the classes chosen for it: (B, H, W) bool.

    Raises:
        ValueError: classes for another number of images.
    """
    if len(chosen) != len(labels):
        raise ValueError(f"classes of {len(labels)} images expected, found those of {len(chosen)}")
    return torch.stack([torch.isin(label, classes) for label, classes in zip(labels, chosen, strict=True)])


def kept_mask(labels: Tensor, chosen: list[Tensor]) -> Tensor:
    """As `class_mask`, but 255 is always kept, as in DiGA's release: an image without labels is kept whole.

    For a batch without labels the release uses the mask of its last step.
    """
    return class_mask(labels, chosen) | (labels == IGNORE)


def paste_mask(labels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, H, W) bool: where each image gets pixels of the next one, the last image those of the first.

    They are the pixels of the classes that `draw_majority` draws from the giving image's labels (B, H, W).
    """
    return class_mask(labels, draw_majority(labels, generator)).roll(-1, dims=0)


def mix(mask: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """`source` where the mask is set, `target` elsewhere.

    Args:
        mask: (B, H, W) bool.
        source, target: images (B, C, H, W), or labels or pixel weights (B, H, W), of one shape.

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


def pasted(mask: Tensor, maps: Tensor) -> Tensor:
    """Maps (B, ...) of the next image where the mask (B, H, W) is set, of the image itself elsewhere."""
    return mix(mask, maps.roll(-1, dims=0), maps)


def half_rectangle(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A random rectangle of half the area, up to rounding, anywhere inside (CutMix, as in CPSL's release).

    Its height is 0.5 to 1 of the whole, log-uniform; its width follows from the area.

    Args:
        size: (H, W), each at least 1.
        generator: for the draws.

    Returns:
        (H, W) bool, on the CPU.

    Raises:
        ValueError: a side below 1.
    """
    if min(size) < 1:
        raise ValueError(f"size (H, W) of at least 1 x 1 expected, found {size}")
    share, down, right = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    height, width = (round(side * 0.5**part) for side, part in zip(size, (share, 1 - share), strict=True))
    top, left = round((size[0] - height) * down), round((size[1] - width) * right)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def block_grid(size: tuple[int, int], block: int) -> tuple[int, int]:
    """Rows and columns of blocks of about `block` pixels a side in maps of `size`, at least one of each.

    Halves are rounded to the even number, as released: 96 pixels make 2 blocks of 64, each then 48 pixels tall.
    """
    return max(1, round(size[0] / block)), max(1, round(size[1] / block))


def draw_blocks(batch: int, size: tuple[int, int], block: int, generator: torch.Generator) -> Tensor:
    """The random numbers by which `block_mask` decides: (B, 1, *block_grid), uniform in [0, 1)."""
    return torch.rand(batch, 1, *block_grid(size, block), generator=generator)


def block_mask(size: tuple[int, int], block: int, ratio: float, uniform: Tensor) -> Tensor:
    """Which pixels stay visible when random blocks of an image are masked (MIC, CVPR 2023).

    Args:
        size: (H, W) of the images.
        block: side of a block in pixels, about (MIC 64 in crops of 1024, 32 in crops of 512).
        ratio: share of the blocks that is masked, on average (MIC 0.7).
        uniform: (B, 1, *block_grid(size, block)) in [0, 1), see `draw_blocks`.

    Returns:
        (B, 1, H, W) bool, True where a pixel stays visible.

    Raises:
        ValueError: `uniform` is of another shape.
    """
    grid = block_grid(size, block)
    if uniform.dim() != 4 or tuple(uniform.shape[1:]) != (1, *grid):
        raise ValueError(f"uniform (B, 1, {grid[0]}, {grid[1]}) expected, found {tuple(uniform.shape)}")
    return F.interpolate((uniform > ratio).float(), size=size, mode="nearest").bool()


def _some(classes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the classes (n,), at random and without repetition."""
    order = torch.randperm(len(classes), generator=generator)
    return classes[order[:count].to(classes.device)]


def _require_labels(labels: Tensor) -> None:
    if labels.dim() != 3:
        raise ValueError(f"labels (B, H, W) expected, found {tuple(labels.shape)}")
