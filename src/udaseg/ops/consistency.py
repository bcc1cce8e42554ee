"""Learning from noisy labels of the target: rectified labels and losses that bear their errors (ProDA, CVPR 2021).

Maps are (B, C, h, w), labels (B, h, w) with 255 = ignore. Where nothing is left to learn from, a loss is 0, connected
to the graph; the release gives NaN there.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.losses import IGNORE, cross_entropy

Regulariser = Literal["mrkld", "mrent"]


class Rectified(NamedTuple):
    labels: Tensor  # (B, h, w) int64, 255 = ignore
    confidence: Tensor  # (B, h, w) in [0, 1], 0 where the soft label is empty


def rectified_labels(soft: Tensor, weights: Tensor | None = None, threshold: float = 0.0) -> Rectified:
    """Hard labels argmax_k w_k p_k from fixed soft labels and online weights (ProDA).

    A pixel whose product is 0 for all classes is ignored; the release calls it class 0 there.

    Args:
        soft: (B, C, h, w), at least 0; all 0 where there is no label.
        weights: (B, C, h, w), at least 0, see `ops.prototypes.assignment_weights`. None: the soft labels as they are.
        threshold: pixels are ignored whose confidence, max_k / sum_k of the product, is below it.

    Raises:
        ValueError: shapes do not fit.
    """
    if soft.dim() != 4 or (weights is not None and weights.shape != soft.shape):
        found = None if weights is None else tuple(weights.shape)
        raise ValueError(f"soft labels and weights (B, C, h, w) expected, found {tuple(soft.shape)} and {found}")
    product = soft if weights is None else soft * weights
    total = product.sum(dim=1)
    empty = total <= 0
    confidence = product.amax(dim=1) / total.masked_fill(empty, 1.0)
    ignored = empty | (confidence < threshold)
    return Rectified(product.argmax(dim=1).masked_fill(ignored, IGNORE), confidence)


def reverse_cross_entropy(logits: Tensor, labels: Tensor, least_prob: float = 1e-7, zero: float = 1e-4) -> Tensor:
    """Cross-entropy with labels and predictions exchanged (Wang et al., ICCV 2019): -sum_k p_k log(onehot_k).

    The zeros of the one-hot label count as `zero`, so that a pixel's loss is -log(zero) (1 - p_label), 9.21 (1 - p).

    Args:
        logits: (B, C, h, w).
        labels: (B, h, w) int64, 255 = ignore.
        least_prob: smaller probabilities count as this, and get no gradient (as released).
        zero: what stands for the logarithm's 0 (as released).
    """
    if logits.dim() != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits (B, C, h, w) and labels (B, h, w) expected, found {tuple(logits.shape)}, {tuple(labels.shape)}"
        )
    probs = logits.softmax(dim=1).clamp(least_prob, 1.0)
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    labels = labels[:, None]
    others = probs.masked_fill((labels == classes) | (labels == IGNORE), 0.0)
    return -math.log(zero) * others.sum() / (labels != IGNORE).sum().clamp(min=1)


def symmetric_cross_entropy(logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * cross-entropy + beta * reverse cross-entropy, means over labelled pixels (ProDA: 0.1 and 1).

    Args:
        logits: (B, C, h, w).
        labels: (B, h, w) int64, 255 = ignore.
        alpha, beta: at least 0.
    """
    return alpha * cross_entropy(logits, labels) + beta * reverse_cross_entropy(logits, labels)


def regulariser(logits: Tensor, mask: Tensor | None = None, kind: Regulariser = "mrkld") -> Tensor:
    """What keeps predictions from collapsing or hardening: low where they are uniform (Zou et al., ICCV 2019).

    "mrkld": mean of -log p over pixels and classes, the divergence of the prediction from the uniform one up to a
    constant (ProDA; the paper's equation is a sum, the release's mean is followed). "mrent": mean over pixels of
    sum_k p_k log p_k.

    Args:
        logits: (B, C, h, w).
        mask: (B, h, w) bool, pixels that count. None: all.
        kind: see above.
    """
    if kind not in ("mrkld", "mrent"):
        raise ValueError(f"kind: 'mrkld' or 'mrent' expected, found {kind!r}")
    log_probs = logits.log_softmax(dim=1)
    pixels = -log_probs.mean(dim=1) if kind == "mrkld" else (log_probs.exp() * log_probs).sum(dim=1)
    return _masked_mean(pixels, mask)


def structure_kl(student_logits: Tensor, teacher_probs: Tensor, mask: Tensor) -> Tensor:
    """Divergence of the student's assignment to prototypes from the teacher's (ProDA).

    The mean over the pixels of the mask of KL(teacher || student) / C: the release's mask has C channels, by which the
    loss is divided, too; the paper's equation is a plain sum.

    Args:
        student_logits: (B, C, h, w) of the strong view, see `ops.prototypes.assignment_logits`.
        teacher_probs: (B, C, h, w) of the weak view, carried into the strong one; gets no gradient.
        mask: (B, h, w) bool, where the teacher's assignment is known.
    """
    if student_logits.shape != teacher_probs.shape or mask.shape != student_logits[:, 0].shape:
        raise ValueError(
            f"student and teacher (B, C, h, w) and a mask (B, h, w) expected, found {tuple(student_logits.shape)}, "
            f"{tuple(teacher_probs.shape)} and {tuple(mask.shape)}"
        )
    divergence = F.kl_div(student_logits.log_softmax(dim=1), teacher_probs.detach(), reduction="none")
    return _masked_mean(divergence.mean(dim=1), mask)


def distillation_kl(student_logits: Tensor, teacher_logits: Tensor, kd: Literal["paper", "released"]) -> Tensor:
    """Divergence of the student's prediction from a frozen teacher's (ProDA), mean over pixels and classes.

    Args:
        student_logits: (B, C, h, w).
        teacher_logits: (B, C, h, w), gets no gradient.
        kd: "paper": KL(teacher || student). "released": the student's probabilities stand where their logarithms
            belong (a slip that the authors confirm); its gradient is a small fraction of the meant one's and points
            elsewhere.
    """
    if kd not in ("paper", "released"):
        raise ValueError(f"kd: 'paper' or 'released' expected, found {kd!r}")
    if student_logits.dim() != 4 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student and teacher logits (B, C, h, w) expected, found {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}"
        )
    student = student_logits.log_softmax(dim=1) if kd == "paper" else student_logits.softmax(dim=1)
    return F.kl_div(student, teacher_logits.detach().softmax(dim=1), reduction="none").mean()


def _masked_mean(pixels: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (B, h, w) over the mask; 0 where it is empty."""
    if mask is None:
        return pixels.mean()
    if mask.shape != pixels.shape:
        raise ValueError(f"a mask {tuple(pixels.shape)} expected, found {tuple(mask.shape)}")
    return pixels.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
