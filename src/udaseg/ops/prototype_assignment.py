"""Assigning pixels to class prototypes by optimal transport, in the classes' shares: the labels that CPSL learns from.

Li et al., "Class-Balanced Pixel-Level Self-Labeling for Domain Adaptive Semantic Segmentation", CVPR 2022, arXiv
2203.09744. Features are maps (B, D, h, w) or rows (n, D); prototypes are (K, D), one for each class, of any length, and
are compared by cosines. A class that was not seen has a prototype of zeros. Its cosine is 0, which beats negative ones,
as it does in the release; here such a class takes no part.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.class_balance import usable_prior

# Logit of a class that takes no part. Finite, so that 0 log 0 does not become NaN further on; its exponential is 0.
UNSEEN = -1e4


@torch.no_grad()
def sinkhorn(scores: Tensor, prior: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignment of N rows to K classes whose shares approach a prior (CPSL, CVPR 2022, as released).

    Entropy-regularised optimal transport (Cuturi, NeurIPS 2013): exp(scores / epsilon) is scaled in turn, the classes
    to their priors and the rows to a sum of 1. After many rounds this is the transport plan between uniform rows and
    the prior, times N; after the released 3, the classes' shares are still some hundredths off. The computation uses
    logarithms, so scores of any scale neither overflow nor vanish; the release's exponentials overflow from a score of
    4.4 on, and subtracting the maximum first does not help.

    A class with a prior of 0 gets exactly 0, and the others are assigned as if it did not exist; the release gives NaN.
    A prior of all zeros counts as uniform.

    Args:
        scores: (N, K), finite, on any scale; computed in float32 or wider. They get no gradient.
        prior: (K,), at least 0; only its proportions count.
        epsilon: above 0; the smaller, the harder the assignment (released 0.05).
        iterations: rounds, at least 1 (released 3).

    Returns:
        (N, K) in [0, 1], float32 or float64 as the scores; each row sums to 1.

    Raises:
        ValueError: shapes do not fit, epsilon is not positive or there is no round.
    """
    if scores.dim() != 2 or prior.shape != scores.shape[1:] or epsilon <= 0 or iterations < 1:
        raise ValueError(
            f"scores (N, K), a prior (K,), epsilon above 0 and at least 1 iteration expected, found "
            f"{tuple(scores.shape)}, {tuple(prior.shape)}, {epsilon} and {iterations}"
        )
    with torch.autocast(scores.device.type, enabled=False):
        wide = torch.promote_types(scores.dtype, torch.float32)
        kernel = scores.to(wide) / epsilon
        prior = prior.to(wide)
        wanted = torch.where(prior.any(), prior, 1.0)
        present = wanted > 0
        plan, potential = kernel, torch.zeros_like(wanted)
        for _ in range(iterations):
            potential = potential + wanted.log() - plan.logsumexp(dim=0)
            # An absent class is masked each time: from the second round on, its potential is -inf - (-inf).
            plan = (kernel + potential.masked_fill(~present, -torch.inf)).log_softmax(dim=1)
        return plan.exp()


def seen_classes(prototypes: Tensor) -> Tensor:
    """(K,) bool: which of the prototypes (K, D) are not zeros."""
    return prototypes.detach().ne(0).any(dim=1)


def cosine_logits(features: Tensor, prototypes: Tensor, temperature: float, seen: Tensor | None = None) -> Tensor:
    """Cosines of features (B, D, h, w) and prototypes (K, D), over the temperature: (B, K, h, w), finite.

    At least float32 also under autocast. A feature of zeros has the cosine 0 to all.

    Args:
        features, prototypes: see above. Gradients reach both.
        temperature: above 0 (released 0.08).
        seen: (K,) bool; the other classes get `UNSEEN`. None, or no class seen: all take part.

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


def row_scores(rows: Tensor, prototypes: Tensor, normalise: bool = True) -> Tensor:
    """Products (n, K) of rows (n, D) of length 1 and prototypes (K, D), brought to length 1 if `normalise`.

    At least float32, also under autocast; gradients reach both.

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
    """q, the rows' labels: their assignment to the classes, together with the queue's rows, in the prior's shares.

    Args:
        scores: (n, K) of the rows.
        prior: (K,), see `sinkhorn`; a class of share 0 is not assigned.
        epsilon, rounds: see `sinkhorn`, where the rounds are its iterations.
        earlier: (Q, K) scores of the queue's rows. None: no queue, because it is not full yet.

    Returns:
        (n, K), each row sums to 1; without a graph.
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
    """The prior (K,) for `balanced_assignment`: at least 1e-6 for each class that was seen (K,) bool, 0 for others."""
    return usable_prior(prior).masked_fill(_absent(seen), 0.0)


def _unit(prototypes: Tensor) -> Tensor:
    """Prototypes of length 1. Zeros stay zeros, with a gradient of 0 where the division's would be enormous."""
    return F.normalize(prototypes, dim=1).masked_fill(~seen_classes(prototypes)[:, None], 0.0)


def _absent(seen: Tensor) -> Tensor:
    """(K,) bool: which classes do not take part; none where no class was seen."""
    return ~seen & seen.any()
