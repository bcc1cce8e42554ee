"""Class weights by median frequency, from labels and pseudo-labels (Alonso et al., ICCV 2021, arXiv 2104.13415)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.losses import cross_entropy, weighted_cross_entropy


def count_classes(labels: Tensor, classes: int) -> Tensor:
    """(classes,) int64: pixels of each class among labels of any shape; what is no class index below it is ignored."""
    return labels.flatten().clamp(max=classes).bincount(minlength=classes + 1)[:classes]


def balanced_weights(counts: Tensor) -> Tensor:
    """sqrt(median count / count) for each class; a class without pixels gets the largest weight of the others.

    The median is that of the classes that have pixels. The release takes it over all of them, by which all weights
    become 0 or NaN where most classes are missing.

    Args:
        counts: (C,) integer, pixels of each class.

    Returns:
        (C,) float32, positive; 1 for all where no class has a pixel.
    """
    if counts.dim() != 1 or counts.is_floating_point():
        raise ValueError(f"integer counts (C,) expected, found {tuple(counts.shape)} {counts.dtype}")
    seen = counts > 0
    numbers = counts.double()
    weights = (numbers.masked_fill(~seen, torch.nan).nanquantile(0.5) / numbers.clamp(min=1)).sqrt()
    weights = torch.where(seen, weights, weights.masked_fill(~seen, 0).max())
    return torch.where(seen.any(), weights, 1.0).float()


def pixel_weights(labels: Tensor, weights: Tensor) -> Tensor:
    """The weights (C,) of the labels (B, H, W) as a map; 0 where a label is no class index below C."""
    return F.pad(weights, (0, 1))[labels.clamp(max=len(weights))]


def balanced_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Mean cross-entropy over the labelled pixels, weighted by their classes; 0, connected, where there are none.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64, 255 = ignore.
        weights: (C,), of the classes; the sum is divided by that of the pixels' weights, as torch does it. None: 1.
    """
    if weights is None:
        return cross_entropy(logits, labels)
    of_pixels = pixel_weights(labels, weights)
    mean = weighted_cross_entropy(logits, labels, of_pixels)
    return mean * of_pixels.numel() / of_pixels.sum().clamp(min=torch.finfo(of_pixels.dtype).tiny)
