"""Losses on a mean teacher's labels, and their schedules (Alonso et al., ICCV 2021, arXiv 2104.13415)."""

import math
from typing import Literal

import torch
from torch import Tensor

from udaseg.ops.class_weights import pixel_weights
from udaseg.ops.losses import IGNORE, resize, weighted_cross_entropy

POWER = 6  # of the teacher's confidence (as released)
STEEPNESS = 5  # of the ramp (as released)


def ramp_up(iteration: int, length: int) -> float:
    """exp(-5 (1 - iteration / length)^2) before `length`, 1 from it on."""
    return 1.0 if iteration >= length else math.exp(-STEEPNESS * (1 - iteration / length) ** 2)


def cosine_keep(progress: float, least: float) -> float:
    """Share of a moving average that is kept: from `least` at the start of training (0) to 1 at its end (1)."""
    return 1 - (1 - least) * (math.cos(math.pi * progress) + 1) / 2


@torch.no_grad()
def teacher_labels(logits: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """A teacher's most probable classes, and how probable they are.

    Args:
        logits: (B, C, h, w).
        valid: (B, H, W) bool, False for pixels that belong to no image.

    Returns:
        Labels (B, H, W) int64, 255 where not valid, and confidence (B, H, W) float32 in [0, 1].
    """
    confidence, labels = resize(logits.float(), valid.shape[-2:]).softmax(dim=1).max(dim=1)
    return labels.masked_fill(~valid, IGNORE), confidence


def confident_cross_entropy(
    logits: Tensor, labels: Tensor, confidence: Tensor, ramp: float, weights: Tensor | None
) -> Tensor:
    """ramp * mean(class weight * confidence^6 * cross-entropy) over all pixels, the ignored ones too.

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W) int64, 255 = ignore.
        confidence: (B, H, W), in [0, 1].
        ramp: see `ramp_up`.
        weights: (C,), of the classes. None: 1.
    """
    trust = ramp * confidence**POWER
    if weights is not None:
        trust = trust * pixel_weights(labels, weights)
    return weighted_cross_entropy(logits, labels, trust)


def normalised_entropy(logits: Tensor, valid: Tensor, form: Literal["paper", "released"]) -> Tensor:
    """Mean entropy of the predictions at valid pixels, as a share of the highest; 0, connected, where none is valid.

    Args:
        logits: (B, C, H, W), at least two classes.
        valid: (B, H, W) bool.
        form: "released": the release's script for domain adaptation multiplies the entropies by a mask with one
            dimension too many. Every entropy counts as often as its place is valid in the images of the batch, so that
            the term is B times as large where all is valid.

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.dim() != 4 or valid.shape != (logits.shape[0], *logits.shape[2:]) or valid.dtype != torch.bool:
        raise ValueError(
            f"logits (B, C, H, W) and a mask (B, H, W) expected, found {tuple(logits.shape)} and "
            f"{tuple(valid.shape)} {valid.dtype}"
        )
    log_probs = logits.log_softmax(dim=1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=1) / math.log(logits.shape[1])
    counted = valid if form == "paper" else valid.sum(dim=0)
    return (entropy * counted).sum() / valid.sum().clamp(min=1)
