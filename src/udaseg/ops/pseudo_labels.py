"""Pseudo-labels of a teacher, and how much they are trusted (DACS, WACV 2021; DAFormer, CVPR 2022)."""

from typing import NamedTuple

import torch
from torch import Tensor

from udaseg.ops.losses import IGNORE


class WeightedLabels(NamedTuple):
    labels: Tensor  # (B, H, W) int64, class indices; 255 where a pixel is not valid
    weight: Tensor  # (B, H, W) float32 in [0, 1], of each pixel in a loss
    quality: Tensor  # () float32, the share of pixels of the whole batch that are confident


@torch.no_grad()
def confidence_weighted(
    logits: Tensor, threshold: float, ignore_top: int = 0, ignore_bottom: int = 0, valid: Tensor | None = None
) -> WeightedLabels:
    """The most probable class of every pixel, all weighted by the share of pixels of the batch that are confident.

    An unsure pixel keeps its label: only the common weight shrinks.

    Args:
        logits: (B, C, H, W), of the teacher at the size of the images.
        threshold: least probability of a confident pixel (DACS 0.968).
        ignore_top, ignore_bottom: rows of weight 0 (DAFormer 15 and 120 of 512: the teacher errs at the image's edge
            and on the car's bonnet); they count for the share. More rows than there are is no error: all are 0.
        valid: (B, H, W) bool, False for pixels that belong to no image: label 255, weight 0, out of the share.

    Raises:
        ValueError: logits of another shape, a mask that does not fit them, or a negative number of rows.
    """
    if logits.dim() != 4:
        raise ValueError(f"logits (B, C, H, W) expected, found {tuple(logits.shape)}")
    if valid is not None and valid.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(f"valid (B, H, W) of logits {tuple(logits.shape)} expected, found {tuple(valid.shape)}")
    if ignore_top < 0 or ignore_bottom < 0:
        raise ValueError(f"rows to ignore must be 0 or more, found {ignore_top} and {ignore_bottom}")
    confidence, labels = logits.softmax(dim=1).max(dim=1)
    confident = confidence >= threshold
    if valid is None:
        quality = confident.sum() / confident.numel()
    else:
        quality = (confident & valid).sum() / valid.sum().clamp(min=1)
        labels = labels.masked_fill(~valid, IGNORE)
    weight = quality.expand(labels.shape).clone()
    weight[:, :ignore_top] = 0
    weight[:, max(weight.shape[1] - ignore_bottom, 0) :] = 0
    return WeightedLabels(labels, weight if valid is None else weight * valid, quality)
