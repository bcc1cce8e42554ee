"""Losses on predictions alone, without labels: they keep predictions from hardening, or make them sure."""

import math
from typing import Literal

import torch
from torch import Tensor

from udaseg.ops.maps import masked_mean
from udaseg.ops.precision import at_least_float32
from udaseg.types import Fidelity

Regulariser = Literal["mrkld", "mrent"]


def regulariser(logits: Tensor, mask: Tensor | None = None, kind: Regulariser = "mrkld") -> Tensor:
    """Keeps predictions from collapsing or hardening: low where they are uniform (Zou et al., ICCV 2019).

    Args:
        logits: (B, C, h, w).
        mask: (B, h, w) bool, the pixels that count. None: all.
        kind: "mrkld": mean of -log p over pixels and classes, which is the divergence of the prediction from the
            uniform one up to a constant (ProDA's release; the paper's equation is a sum). "mrent": mean over pixels of
            Σ_k p_k log p_k.

    Raises:
        ValueError: unknown kind, or a mask of another shape.
    """
    if kind not in ("mrkld", "mrent"):
        raise ValueError(f"kind: 'mrkld' or 'mrent' expected, found {kind!r}")
    log_probs = logits.log_softmax(dim=1)
    pixels = -log_probs.mean(dim=1) if kind == "mrkld" else (log_probs.exp() * log_probs).sum(dim=1)
    return pixels.mean() if mask is None else masked_mean(pixels, mask)


def kld_regulariser(logits: Tensor, selected: Tensor, strength: Tensor) -> Tensor:
    """CRST's model regulariser (MRKLD): how far the predictions at selected pixels are from uniform.

    Σ_b r_b Σ_px -(1/C) Σ_c log p_c, divided by the number of selected pixels of the images whose r_b is not 0. Up to a
    constant the inner sum is the Kullback-Leibler divergence from the uniform distribution to the prediction. It is 0,
    connected to the graph, where no pixel counts; the release gives NaN where the batch has no label at all.

    Args:
        logits: (B, C, H, W), real.
        selected: (B, H, W) bool, the pixels that have a pseudo-label.
        strength: (B,), factor r_b of each image. The release gives source images 0 and target images the weight of the
            term, by which it multiplies the term once more.

    Raises:
        ValueError: shapes or types do not fit.
    """
    _require_mask(logits, selected)
    if strength.shape != logits.shape[:1]:
        raise ValueError(f"a strength for each of {logits.shape[0]} images expected, found {tuple(strength.shape)}")
    distance = -logits.log_softmax(dim=1).mean(dim=1)  # (B, H, W)
    total = (distance * selected * strength[:, None, None]).sum()
    return total / (selected & (strength != 0)[:, None, None]).sum().clamp(min=1)


def label_smoothing(logits: Tensor, threshold: float) -> Tensor:
    """PLCA's smoothing (NeurIPS 2020), from u = -(1/C) Σ_c log p_c of each pixel: mean(u), or the release's form of it.

    u is smallest, log C, where the prediction is uniform, so minimising mean(u) flattens predictions: this is the
    smoothing that the paper describes. The release computes mean((u / threshold - 1) u) with a constant bracket, which
    pulls u towards the threshold. The bracket is negative where u is below it: there predictions become sharper, and
    the value is below 0.

    Args:
        logits: (B, C, h, w), real; computed in float32 or wider, also under autocast.
        threshold: released 10; with 0 or less the loss is mean(u).

    Returns:
        ().

    Raises:
        ValueError: the logits have another shape.
    """
    if logits.dim() != 4:
        raise ValueError(f"logits (B, C, h, w) expected, found {tuple(logits.shape)}")
    distance = -at_least_float32(logits).log_softmax(dim=1).mean(dim=1)  # (B, h, w)
    if threshold <= 0:
        return distance.mean()
    return ((distance.detach() / threshold - 1) * distance).mean()


def normalised_entropy(logits: Tensor, valid: Tensor, form: Fidelity) -> Tensor:
    """Mean entropy of the predictions at valid pixels, as a share of the highest (Alonso et al., ICCV 2021).

    It is 0, connected to the graph, where no pixel is valid.

    Args:
        logits: (B, C, H, W), at least two classes.
        valid: (B, H, W) bool.
        form: "released": the release's script for domain adaptation multiplies the entropies by a mask with one
            dimension too many. Each entropy then counts as often as its position is valid in the images of the batch,
            so the term is B times as large where all pixels are valid.

    Raises:
        ValueError: shapes or types do not fit.
    """
    _require_mask(logits, valid)
    log_probs = logits.log_softmax(dim=1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=1) / math.log(logits.shape[1])
    counted = valid if form == "paper" else valid.sum(dim=0)
    return (entropy * counted).sum() / valid.sum().clamp(min=1)


def _require_mask(logits: Tensor, mask: Tensor) -> None:
    if logits.dim() != 4 or mask.shape != (logits.shape[0], *logits.shape[2:]) or mask.dtype != torch.bool:
        raise ValueError(
            f"logits (B, C, H, W) and a mask (B, H, W) expected, found {tuple(logits.shape)} and "
            f"{tuple(mask.shape)} {mask.dtype}"
        )
