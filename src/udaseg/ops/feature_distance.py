"""DAFormer's distance to the features of the initial encoder, on cells of thing classes (CVPR 2022)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.types import IGNORE


@torch.no_grad()
def shrink_labels(labels: Tensor, size: tuple[int, int], classes: int, min_share: float) -> Tensor:
    """Labels (B, H, W) at the size (h, w) of a feature map: each cell's most frequent label.

    A cell gets 255 if less than `min_share` of its pixels agree, or if most of them are ignored: 255 counts as a class.
    Map and labels cover the same image, so cell i of h consists of the rows from floor(i H/h) to ceil((i+1) H/h) - 1.
    If h divides H, these are blocks of H/h rows, as released; otherwise (DeepLabv2 has 65 rows for 512 of the image)
    neighbouring cells share a row, and no row is left out.

    Args:
        labels: int64, class indices below `classes` or 255.
        size: (h, w), at most (H, W).
        classes: C.
        min_share: in (0, 1] (DAFormer 0.75).

    Returns:
        (B, h, w) int64.

    Raises:
        ValueError: shapes or the labels' type do not fit.
    """
    if labels.dim() != 3 or labels.is_floating_point() or size[0] > labels.shape[1] or size[1] > labels.shape[2]:
        raise ValueError(
            f"integer labels (B, H, W) of at least {tuple(size)} expected, found {tuple(labels.shape)} {labels.dtype}"
        )
    kinds = torch.tensor([*range(classes), IGNORE], device=labels.device)
    shares = F.adaptive_avg_pool2d((labels[:, None] == kinds.view(-1, 1, 1)).float(), size)
    share, winner = shares.max(dim=1)
    return kinds[winner].masked_fill(share < min_share, IGNORE)


def thing_cells(labels: Tensor, size: tuple[int, int], things: Sequence[int], classes: int, min_share: float) -> Tensor:
    """Cells (B, h, w), bool, of a feature map whose label is one of the `things`, see `shrink_labels`."""
    small = shrink_labels(labels, size, classes, min_share)
    return torch.isin(small, torch.tensor(things, dtype=torch.int64, device=labels.device))


def feature_distance(features: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Mean Euclidean distance of two feature maps over the cells of the mask.

    It is 0, connected to the graph, if the mask is empty (the release gives NaN). At distance 0 the gradient is 0.

    Args:
        features, reference: (B, D, h, w), real; the reference gets no gradient.
        mask: (B, h, w) bool.

    Raises:
        ValueError: shapes do not fit.
    """
    if features.dim() != 4 or features.shape != reference.shape or mask.shape != (len(features), *features.shape[2:]):
        raise ValueError(
            f"two feature maps (B, D, h, w) and a mask (B, h, w) expected, found {tuple(features.shape)}, "
            f"{tuple(reference.shape)} and {tuple(mask.shape)}"
        )
    distance = torch.linalg.vector_norm(features - reference.detach(), dim=1)
    return (distance * mask).sum() / mask.sum().clamp(min=1)
