"""Divergences between two predictions for the same pixels: of two views, or of a student and its teacher.

Maps are (B, C, h, w). A mean over the pixels of a mask is 0, connected to the graph, where the mask is empty.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.maps import masked_mean
from udaseg.types import Fidelity


def structure_kl(student_logits: Tensor, teacher_probs: Tensor, mask: Tensor) -> Tensor:
    """Divergence of the student's assignment to prototypes from the teacher's (ProDA, CVPR 2021).

    Mean over the pixels of the mask of KL(teacher || student) / C. The release's mask has C channels, which is where
    the division by C comes from; the paper's equation is a plain sum.

    Args:
        student_logits: (B, C, h, w) of the strong view, see `ops.prototypes.assignment_logits`.
        teacher_probs: (B, C, h, w) of the weak view, warped into the strong one; gets no gradient.
        mask: (B, h, w) bool, where the teacher's assignment is known.

    Raises:
        ValueError: shapes do not fit.
    """
    _require_alike(student_logits, teacher_probs, mask)
    divergence = F.kl_div(student_logits.log_softmax(dim=1), teacher_probs.detach(), reduction="none")
    return masked_mean(divergence.mean(dim=1), mask)


def prototype_consistency(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """CPSL's L_REG as released: `structure_kl` of student and teacher, from logits at a temperature.

    Args:
        student_logits: (B, K, h, w) of the strong view, see `ops.prototype_assignment.cosine_logits`.
        teacher_logits: (B, K, h, w) of the weak view, warped into the strong one; gets no gradient.
        mask: (B, h, w) bool, where the weak view is known.
        temperature: divides both; 1 if the logits are already divided by it.
    """
    return structure_kl(student_logits / temperature, (teacher_logits / temperature).softmax(dim=1), mask)


def view_consistency(strong_logits: Tensor, weak_probs: Tensor, mask: Tensor) -> Tensor:
    """CPSL's L_REG as in the paper: symmetric divergence of the views' class probabilities, KL(w || s) + KL(s || w).

    Mean over the pixels of the mask. Gradients reach both.

    Args:
        strong_logits: (B, C, h, w) of the strong view.
        weak_probs: (B, C, h, w) of the weak view, warped into the strong one; may hold zeros.
        mask: (B, h, w) bool, where the weak view is known.

    Raises:
        ValueError: shapes do not fit.
    """
    _require_alike(strong_logits, weak_probs, mask)
    weak_log = weak_probs.clamp(min=torch.finfo(weak_probs.dtype).tiny).log()
    strong_log = strong_logits.log_softmax(dim=1)
    divergence = ((weak_probs - strong_log.exp()) * (weak_log - strong_log)).sum(dim=1)
    return masked_mean(divergence, mask)


def distillation_kl(student_logits: Tensor, teacher_logits: Tensor, kd: Fidelity) -> Tensor:
    """Divergence of the student's prediction from a frozen teacher's (ProDA), mean over pixels and classes.

    Args:
        student_logits: (B, C, h, w).
        teacher_logits: (B, C, h, w), gets no gradient.
        kd: "paper": KL(teacher || student). "released": the student's probabilities stand where their logarithms
            belong, a slip that the authors confirm. Its gradient is a small fraction of the intended one and points
            elsewhere.

    Raises:
        ValueError: shapes differ, or `kd` is something else.
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


def cross_view_distillation(student: Tensor, teacher: Tensor, damping: float = 1.0) -> Tensor:
    """The student learns each view from the teacher's prediction for the other view (DiGA, CVPR 2023).

    CE(teacher's clean, student's mixed) + damping * CE(teacher's mixed, student's clean) at temperature 1, each a mean
    over all pixels, labelled or not. The teacher gets no gradient.

    Args:
        student: (2B, C, H, W) logits, first of the clean views and then of the mixed ones.
        teacher: (2B, C, H, W) logits of the same views.
        damping: weight of the second direction (paper 1; released 0.5 for GTA5, 0.25 for SYNTHIA).

    Raises:
        ValueError: shapes do not fit, or the number of views is odd.
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


def _require_alike(first: Tensor, second: Tensor, mask: Tensor) -> None:
    if first.dim() != 4 or first.shape != second.shape or mask.shape != first[:, 0].shape:
        raise ValueError(
            f"two maps (B, C, h, w) and a mask (B, h, w) expected, found {tuple(first.shape)}, {tuple(second.shape)} "
            f"and {tuple(mask.shape)}"
        )
