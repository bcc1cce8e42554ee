"""Distillation between two views of the same images (DiGA, CVPR 2023, arXiv 2304.02222)."""

import torch
from torch import Tensor


def cross_view_distillation(student: Tensor, teacher: Tensor, damping: float = 1.0) -> Tensor:
    """Each view's student learns the other view's teacher: the mean cross-entropy with its probabilities.

    CE(teacher's clean, student's mixed) + damping * CE(teacher's mixed, student's clean), each a mean over all pixels,
    those without a label too, at the temperature 1. The teacher gets no gradient.

    Args:
        student: (2B, C, H, W) logits, of the clean views and then of the mixed ones.
        teacher: (2B, C, H, W) logits of the same views.
        damping: of the second direction (paper: none, 1; released 0.5 for GTA5, 0.25 for SYNTHIA).

    Raises:
        ValueError: shapes do not fit, or the views do not come in pairs.
    """
    if student.dim() != 4 or student.shape != teacher.shape or len(student) % 2:
        raise ValueError(
            f"logits (2B, C, H, W) of student and teacher expected, found {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    clean, mixed = student.log_softmax(dim=1).chunk(2)
    with torch.no_grad():
        clean_probs, mixed_probs = teacher.softmax(dim=1).chunk(2)
    return -((clean_probs * mixed).sum(dim=1).mean() + damping * (mixed_probs * clean).sum(dim=1).mean())
