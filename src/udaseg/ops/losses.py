"""Cross-entropies: plain, weighted, class-balanced, with soft labels, and symmetric ones that tolerate label noise.

Where no pixel is labelled, each of these losses is 0 and connected to the graph. Released code takes a mean over
nothing there and gives NaN.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.class_balance import pixel_weights
from udaseg.types import IGNORE

CONFIDENCE_POWER = 6  # of a teacher's confidence in `confident_cross_entropy` (as released)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels.

    Args:
        logits: (B, C, H, W), real.
        labels: (B, H, W) int64, class indices below C or 255 (ignored).

    Raises:
        ValueError: shapes or the labels' type do not fit.
    """
    rows, flat = _rows(logits, labels)
    total = F.cross_entropy(rows, flat, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted cross-entropy, averaged over all pixels including ignored ones: many of these shrink the loss.

    DAFormer computes all its cross-entropies like this, DACS that of the mixed images.

    Args:
        logits: (B, C, H, W), real.
        labels: (B, H, W) int64, class indices below C or 255 (a loss of 0).
        weight: (B, H, W), weight of each pixel; None: 1 everywhere.

    Raises:
        ValueError: shapes or the labels' type do not fit.
    """
    rows, flat = _rows(logits, labels)
    if weight is None:
        return F.cross_entropy(rows, flat, ignore_index=IGNORE, reduction="sum") / flat.numel()
    if weight.shape != labels.shape:
        raise ValueError(f"weight {tuple(labels.shape)} as the labels expected, found {tuple(weight.shape)}")
    return (F.cross_entropy(rows, flat, ignore_index=IGNORE, reduction="none") * weight.reshape(-1)).mean()


def balanced_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Mean cross-entropy over the labelled pixels, each weighted by its class.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64, 255 = ignore.
        weights: (C,) class weights. The sum is divided by the sum of the pixels' weights, as torch does it. None: 1.
    """
    if weights is None:
        return cross_entropy(logits, labels)
    of_pixels = pixel_weights(labels, weights)
    mean = weighted_cross_entropy(logits, labels, of_pixels)
    return mean * of_pixels.numel() / of_pixels.sum().clamp(min=torch.finfo(of_pixels.dtype).tiny)


def confident_cross_entropy(
    logits: Tensor, labels: Tensor, confidence: Tensor, ramp: float, weights: Tensor | None
) -> Tensor:
    """ramp * mean(class weight * confidence^6 * cross-entropy), averaged over all pixels including ignored ones.

    Alonso et al., ICCV 2021, arXiv 2104.13415, as released.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64, 255 = ignore.
        confidence: (B, H, W) in [0, 1], the teacher's.
        ramp: in [0, 1], see `ops.schedules.ramp_up`.
        weights: (C,) class weights. None: 1.
    """
    trust = ramp * confidence**CONFIDENCE_POWER
    if weights is not None:
        trust = trust * pixel_weights(labels, weights)
    return weighted_cross_entropy(logits, labels, trust)


def soft_cross_entropy(logits: Tensor, soft: Tensor) -> Tensor:
    """-Σ q log p, averaged over the pixels that have a soft label q (Zou et al., ICCV 2019, arXiv 1908.09822).

    Args:
        logits: (B, C, H, W), real.
        soft: (B, C, H, W), sums to 1 over C, or 0 in all classes (ignored).

    Raises:
        ValueError: the shapes differ.
    """
    if logits.dim() != 4 or soft.shape != logits.shape:
        raise ValueError(
            f"logits and soft labels (B, C, H, W) expected, found {tuple(logits.shape)} and {tuple(soft.shape)}"
        )
    total = -(soft * logits.log_softmax(dim=1)).sum()
    return total / has_label(soft).sum().clamp(min=1)


def has_label(soft: Tensor) -> Tensor:
    """(B, H, W) bool: the pixels of soft labels (B, C, H, W) that are not 0 in all classes."""
    return (soft != 0).any(dim=1)


def pooled(means: Sequence[Tensor], pixels: Sequence[Tensor]) -> list[Tensor]:
    """What the mean of each part of a batch contributes to the mean over the whole batch.

    Args:
        means: (), the mean of each part; 0 where it has no pixel.
        pixels: (), the number of pixels of each part.

    Raises:
        ValueError: not as many numbers of pixels as means.
    """
    if len(means) != len(pixels):
        raise ValueError(f"as many numbers of pixels as means expected, found {len(pixels)} and {len(means)}")
    every = torch.stack([count.float() for count in pixels]).sum().clamp(min=1)
    return [mean * (count / every) for mean, count in zip(means, pixels, strict=True)]


def reverse_cross_entropy(logits: Tensor, labels: Tensor, least_prob: float = 1e-7, zero: float = 1e-4) -> Tensor:
    """Cross-entropy with the roles of labels and predictions swapped (Wang et al., ICCV 2019): -Σ_k p_k log(onehot_k).

    The zeros of the one-hot label count as `zero`, so a pixel's loss is -log(zero) (1 - p_label) = 9.21 (1 - p_label).

    Args:
        logits: (B, C, h, w).
        labels: (B, h, w) int64, 255 = ignore.
        least_prob: smaller probabilities count as this and get no gradient (as released).
        zero: stands in for the zeros under the logarithm (as released).

    Raises:
        ValueError: shapes or the labels' type do not fit.
    """
    require_labelled(logits, labels)
    probs = logits.softmax(dim=1).clamp(least_prob, 1.0)
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    labels = labels[:, None]
    others = probs.masked_fill((labels == classes) | (labels == IGNORE), 0.0)
    return -math.log(zero) * others.sum() / (labels != IGNORE).sum().clamp(min=1)


def symmetric_cross_entropy(logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * cross-entropy + beta * reverse cross-entropy, means over the labelled pixels.

    Args:
        logits: (B, C, h, w).
        labels: (B, h, w) int64, 255 = ignore.
        alpha, beta: at least 0 (ProDA 0.1 and 1).
    """
    return alpha * cross_entropy(logits, labels) + beta * reverse_cross_entropy(logits, labels)


def require_labelled(logits: Tensor, labels: Tensor) -> None:
    """ValueError unless these are logits (B, C, H, W) and integer labels (B, H, W) of the same pixels."""
    if logits.dim() != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]) or labels.is_floating_point():
        raise ValueError(
            f"logits (B, C, H, W) and integer labels (B, H, W) expected, found {tuple(logits.shape)} and "
            f"{tuple(labels.shape)} {labels.dtype}"
        )


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, C, H, W) as rows (B*H*W, C), and labels (B, H, W) as (B*H*W,).

    Only in this form does the loss have a deterministic backward pass on CUDA.
    """
    require_labelled(logits, labels)
    return logits.movedim(1, -1).reshape(-1, logits.shape[1]), labels.reshape(-1).long()
