"""Assignment of rows to classes with given shares: entropy-regularised optimal transport (Cuturi, NeurIPS 2013)."""

import torch
from torch import Tensor


@torch.no_grad()
def sinkhorn(scores: Tensor, prior: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignment of N rows to K classes whose shares approach a prior (CPSL, CVPR 2022, as released).

    exp(scores / epsilon) is scaled in turn: the classes to their priors, then the rows to a sum of 1. After many rounds
    that is the transport plan between uniform rows and the prior, times N; after the released 3 the classes' shares are
    still some hundredths off. It is done on logarithms, so that scores of any scale neither overflow nor vanish; the
    release's exponentials do from a score of 4.4 on, and subtracting the maximum first does not mend it.

    A class with a prior of 0 gets exactly 0, and the others are as if it was not there; the release gives NaN. A prior
    of zeros only says nothing: it counts as a uniform one.

    Args:
        scores: (N, K), finite, on any scale; float32 or wider inside, whatever they come in. Gets no gradient.
        prior: (K,), at least 0; only its proportions count, whatever they sum to.
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
        there = wanted > 0
        plan, potential = kernel, torch.zeros_like(wanted)
        for _ in range(iterations):
            potential = potential + wanted.log() - plan.logsumexp(dim=0)
            # A class that is not there: -inf - (-inf) in the second round.
            plan = (kernel + potential.masked_fill(~there, -torch.inf)).log_softmax(dim=1)
        return plan.exp()
