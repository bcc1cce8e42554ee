"""Losses of confidence-regularised self-training, and the pooled mean of CBST.

Zou et al., "Confidence Regularized Self-Training", ICCV 2019, arXiv 1908.09822.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def soft_cross_entropy(logits: Tensor, soft: Tensor) -> Tensor:
    """-Σ q log p, the mean over the pixels that have a soft label q; 0, connected to the graph, where none has.

    The released code gives NaN in the last case (a mean over nothing).

    Args:
        logits: (B, C, H, W), real.
        soft: (B, C, H, W), sum 1 over C, or 0 in all classes (ignored).
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


def kld_regulariser(logits: Tensor, selected: Tensor, strength: Tensor) -> Tensor:
    """CRST's model regulariser (MRKLD): how far the predictions at selected pixels are from uniform.

    Σ_b r_b Σ_px -(1/C) Σ_c log p_c, divided by the number of selected pixels of the images with r_b not 0. Up to a
    constant the inner sum is the Kullback-Leibler divergence from the uniform distribution to the prediction.
    0, connected to the graph, where no pixel counts; the released code gives NaN where the batch has no label at all.

    Args:
        logits: (B, C, H, W), real.
        selected: (B, H, W) bool, the pixels that have a pseudo-label.
        strength: (B,) factor r_b of each image; the release gives source images 0 and target images the weight of the
            term, with which it multiplies the term once more.
    """
    if logits.dim() != 4 or selected.shape != (logits.shape[0], *logits.shape[2:]) or selected.dtype != torch.bool:
        raise ValueError(
            f"logits (B, C, H, W) and a mask (B, H, W) expected, found {tuple(logits.shape)} and "
            f"{tuple(selected.shape)} {selected.dtype}"
        )
    if strength.shape != logits.shape[:1]:
        raise ValueError(f"a strength for each of {logits.shape[0]} images expected, found {tuple(strength.shape)}")
    distance = -logits.log_softmax(dim=1).mean(dim=1)  # (B, H, W)
    total = (distance * selected * strength[:, None, None]).sum()
    return total / (selected & (strength != 0)[:, None, None]).sum().clamp(min=1)


def pooled(means: Sequence[Tensor], pixels: Sequence[Tensor]) -> list[Tensor]:
    """Means over the parts of a batch as what each adds to the mean over the whole batch.

    Args:
        means: (), the mean of each part; 0 where it has no pixel.
        pixels: (), the number of pixels of each part.
    """
    if len(means) != len(pixels):
        raise ValueError(f"as many numbers of pixels as means expected, found {len(pixels)} and {len(means)}")
    every = torch.stack([count.float() for count in pixels]).sum().clamp(min=1)
    return [mean * (count / every) for mean, count in zip(means, pixels, strict=True)]
