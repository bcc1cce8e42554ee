"""Class-balanced self-labelling: pixels are clustered about prototypes, in the classes' shares (CPSL, CVPR 2022).

Li et al., "Class-Balanced Pixel-Level Self-Labeling for Domain Adaptive Semantic Segmentation", arXiv 2203.09744.
Features are maps (B, D, h, w) or rows (n, D), prototypes (K, D), one for each class, of any length: they are compared
by cosines. A class that was not seen has a prototype of zeros. Its cosine is 0, by which it would win over negative
ones, as it does in the release; here it does not take part.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.class_balance import usable_prior
from udaseg.ops.consistency import structure_kl
from udaseg.ops.transport import sinkhorn

# Of a class that does not take part. Finite, so that 0 log 0 does not become NaN further on; its exponential is 0.
UNSEEN = -1e4


def seen_classes(prototypes: Tensor) -> Tensor:
    """(K,) bool: which of the prototypes (K, D) are not zeros."""
    return prototypes.detach().ne(0).any(dim=1)


def cosine_logits(features: Tensor, prototypes: Tensor, temperature: float, seen: Tensor | None = None) -> Tensor:
    """Cosines of features (B, D, h, w) and prototypes (K, D), over the temperature: (B, K, h, w), finite.

    At least float32 also under autocast. A feature of zeros has the cosine 0 to all.

    Args:
        features, prototypes: see above. Gradients reach both.
        temperature: above 0 (released 0.08).
        seen: (K,) bool; others get `UNSEEN`. None, or no class seen: all take part.

    Raises:
        ValueError: shapes do not fit, or the temperature is not positive.
    """
    if features.dim() != 4 or prototypes.dim() != 2 or features.shape[1] != prototypes.shape[1] or temperature <= 0:
        raise ValueError(
            f"features (B, D, h, w), prototypes (K, D) and a temperature above 0 expected, found "
            f"{tuple(features.shape)}, {tuple(prototypes.shape)} and {temperature}"
        )
    with torch.autocast(features.device.type, enabled=False):
        wide = torch.promote_types(features.dtype, torch.float32)
        maps = features.to(wide).flatten(2)
        # The product is divided, not the features: it has fewer channels.
        length = torch.linalg.vector_norm(maps, dim=1, keepdim=True).clamp(min=1e-12)
        logits = _unit(prototypes.to(wide)) @ maps / length / temperature
    logits = logits.unflatten(2, features.shape[2:])
    return logits if seen is None else logits.masked_fill(_absent(seen)[:, None, None], UNSEEN)


def cosine_weights(features: Tensor, prototypes: Tensor, temperature: float, seen: Tensor | None = None) -> Tensor:
    """P_SL, the softmax of `cosine_logits`: (B, K, h, w) in [0, 1] that sum to 1 over the classes."""
    return cosine_logits(features, prototypes, temperature, seen).softmax(dim=1)


def row_scores(rows: Tensor, prototypes: Tensor, normalise: bool = True) -> Tensor:
    """Products (n, K) of rows (n, D) of length 1 and prototypes (K, D) brought to length 1, or (not `normalise`) as
    they are. At least float32 also under autocast; gradients reach both.

    Raises:
        ValueError: shapes do not fit.
    """
    if rows.dim() != 2 or prototypes.dim() != 2 or rows.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"rows (n, D) and prototypes (K, D) expected, found {tuple(rows.shape)} and {tuple(prototypes.shape)}"
        )
    with torch.autocast(rows.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(rows.dtype, prototypes.dtype), torch.float32)
        prototypes = prototypes.to(wide)
        return rows.to(wide) @ (_unit(prototypes) if normalise else prototypes).T


def balanced_assignment(
    scores: Tensor, prior: Tensor, epsilon: float, rounds: int, earlier: Tensor | None = None
) -> Tensor:
    """q, what the rows are taught: their assignment to the classes, with the queue's rows, in the prior's shares.

    Args:
        scores: (n, K) of the rows.
        prior: (K,), see `sinkhorn`; what is 0 is not assigned.
        epsilon, rounds: see `sinkhorn`.
        earlier: (Q, K) scores of the queue's rows. None: without a queue, which is not full yet.

    Returns:
        (n, K), each row with the sum 1, without a graph.
    """
    everything = scores.detach() if earlier is None else torch.cat([earlier.to(scores), scores.detach()])
    return sinkhorn(everything, prior, epsilon, rounds)[len(everything) - len(scores) :]


def self_label_loss(scores: Tensor, assignment: Tensor, temperature: float, seen: Tensor | None = None) -> Tensor:
    """L_SL of one image: mean cross-entropy -sum_k q_k log softmax_k(scores / temperature); 0 without rows.

    Args:
        scores: (n, K), see `row_scores`.
        assignment: (n, K), q; gets no gradient.
        temperature: above 0 (released 0.08).
        seen: (K,) bool, classes that take part; q is 0 for others. None, or no class seen: all.
    """
    if scores.dim() != 2 or assignment.shape != scores.shape or temperature <= 0:
        raise ValueError(
            f"scores and assignment (n, K) and a temperature above 0 expected, found {tuple(scores.shape)}, "
            f"{tuple(assignment.shape)} and {temperature}"
        )
    logits = scores / temperature
    if seen is not None:
        logits = logits.masked_fill(_absent(seen), UNSEEN)
    return -(assignment.detach() * logits.log_softmax(dim=1)).sum() / max(1, len(scores))


def assigned_prior(prior: Tensor, seen: Tensor) -> Tensor:
    """The prior (K,) as it is assigned by: at least 1e-6 for each class that was seen (K,) bool, 0 for others."""
    return usable_prior(prior).masked_fill(_absent(seen), 0.0)


def prototype_consistency(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """L_REG as released: KL(teacher || student) of their assignments to prototypes, over pixels of the mask, by K.

    The release's mask has K channels, by which the loss is divided, too. 0, connected, where the mask is empty.

    Args:
        student_logits: (B, K, h, w) of the strong view, see `cosine_logits`.
        teacher_logits: (B, K, h, w) of the weak view, carried into the strong one; gets no gradient.
        mask: (B, h, w) bool, where the weak view is known.
        temperature: divides both; 1 where `cosine_logits` did it.
    """
    return structure_kl(student_logits / temperature, (teacher_logits / temperature).softmax(dim=1), mask)


def view_consistency(strong_logits: Tensor, weak_probs: Tensor, mask: Tensor) -> Tensor:
    """L_REG of the paper: symmetric KL between the class probabilities of both views, KL(w || s) + KL(s || w).

    Mean over the pixels of the mask; 0, connected to the graph, where it is empty. Gradients reach both.

    Args:
        strong_logits: (B, C, h, w) of the strong view.
        weak_probs: (B, C, h, w) of the weak view, carried into the strong one; may hold zeros.
        mask: (B, h, w) bool, where the weak view is known.

    Raises:
        ValueError: shapes do not fit.
    """
    if strong_logits.dim() != 4 or weak_probs.shape != strong_logits.shape or mask.shape != strong_logits[:, 0].shape:
        raise ValueError(
            f"strong and weak (B, C, h, w) and a mask (B, h, w) expected, found {tuple(strong_logits.shape)}, "
            f"{tuple(weak_probs.shape)} and {tuple(mask.shape)}"
        )
    weak_log = weak_probs.clamp(min=torch.finfo(weak_probs.dtype).tiny).log()
    strong_log = strong_logits.log_softmax(dim=1)
    divergence = ((weak_probs - strong_log.exp()) * (weak_log - strong_log)).sum(dim=1)
    return divergence.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def _unit(prototypes: Tensor) -> Tensor:
    """Prototypes of length 1; zeros stay zeros, and get a gradient of 0 where the division's would be enormous."""
    return F.normalize(prototypes, dim=1).masked_fill(~seen_classes(prototypes)[:, None], 0.0)


def _absent(seen: Tensor) -> Tensor:
    """(K,) bool: which classes do not take part; none where no class was seen."""
    return ~seen & seen.any()
