"""Supervised loss and the resizing of logits that every method shares."""

import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels; 0, connected to the graph, where no pixel is labelled.

    The released code of AdaptSegNet gives NaN in the last case (a mean over nothing).

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
    """Weighted cross-entropy, the mean over all pixels, the ignored ones too: many of them shrink the loss.

    So DAFormer takes every mean and DACS that of the mixed images; 0, connected to the graph, where nothing is
    labelled or all weights are 0.

    Args:
        logits: (B, C, H, W), real.
        labels: (B, H, W) int64, class indices below C or 255 (a loss of 0).
        weight: (B, H, W), of each pixel; None: 1 everywhere.

    Raises:
        ValueError: shapes or the labels' type do not fit.
    """
    rows, flat = _rows(logits, labels)
    if weight is None:
        return F.cross_entropy(rows, flat, ignore_index=IGNORE, reduction="sum") / flat.numel()
    if weight.shape != labels.shape:
        raise ValueError(f"weight {tuple(labels.shape)} as the labels expected, found {tuple(weight.shape)}")
    return (F.cross_entropy(rows, flat, ignore_index=IGNORE, reduction="none") * weight.reshape(-1)).mean()


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, C, H, W) and labels (B, H, W) as one row a pixel, (B*H*W, C) and (B*H*W,), if they fit.

    On CUDA only this form of the loss has a deterministic backward pass.
    """
    if logits.dim() != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]) or labels.is_floating_point():
        raise ValueError(
            f"logits (B, C, H, W) and integer labels (B, H, W) expected, found {tuple(logits.shape)} and "
            f"{tuple(labels.shape)} {labels.dtype}"
        )
    return logits.movedim(1, -1).reshape(-1, logits.shape[1]), labels.reshape(-1).long()


def resize(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """`logits` (B, C, h, w) bilinearly resized to (B, C, *size), corners aligned, as the field's papers do it."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)
