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
    if logits.dim() != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]) or labels.is_floating_point():
        raise ValueError(
            f"logits (B, C, H, W) and integer labels (B, H, W) expected, found {tuple(logits.shape)} and "
            f"{tuple(labels.shape)} {labels.dtype}"
        )
    # One row a pixel: on CUDA only this form of the loss has a deterministic backward pass.
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    total = F.cross_entropy(rows, labels.reshape(-1).long(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def resize(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """`logits` (B, C, h, w) bilinearly resized to (B, C, *size), corners aligned, as the field's papers do it."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)
