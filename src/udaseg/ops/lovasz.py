"""Lovász-Softmax: a smooth stand-in for 1 - intersection over union, the mean over classes.

Berman, Triki, Blaschko, "The Lovász-Softmax loss", CVPR 2018, arXiv 1705.08790; part of PLCA's source loss.
"""

import torch
from torch import Tensor

from udaseg.ops.losses import require_labelled
from udaseg.ops.precision import at_least_float32
from udaseg.types import IGNORE


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovász-Softmax over all pixels of the batch together, averaged over the classes that are in the labels.

    For a class c, the errors |1[y = c] - p_c| are sorted in descending order, and each is multiplied by what its pixel
    adds to the Jaccard loss once all pixels with larger errors count as wrong. Without a labelled pixel the loss is 0,
    connected to the graph; with a single one it is 1 - p_c. PLCA's release returns an empty tensor in the first case
    and fails in the second. On several devices the release averages over each device's own classes; here one process
    sees the whole batch.

    Args:
        logits: (B, C, H, W), real; computed in float32 or wider, also under autocast.
        labels: (B, H, W) int64, class indices below C or 255 (ignored).

    Returns:
        (), in [0, 1].

    Raises:
        ValueError: shapes or the labels' type do not fit.
    """
    require_labelled(logits, labels)
    probs = at_least_float32(logits).softmax(dim=1)
    labelled = labels != IGNORE
    total, present = probs.new_zeros(()), probs.new_zeros(())
    # Class by class, because sorting needs a multiple of the map's size in RAM.
    for index, prob in enumerate(probs.unbind(dim=1)):
        foreground = labels == index
        errors = (foreground.to(prob.dtype) - prob).abs()
        total = total + (errors * _jaccard_weights(errors, foreground, labelled)).sum()  # 0 for a class not present
        present += foreground.any()
    return total / present.clamp(min=1)


@torch.no_grad()
def _jaccard_weights(errors: Tensor, foreground: Tensor, labelled: Tensor) -> Tensor:
    """The Lovász extension's gradient in the errors of one class: same shape as `errors`, sum 1 over labelled pixels.

    Once all pixels down to this one count as wrong, I foreground pixels are still right, and the union of prediction
    and truth is U. A foreground pixel takes 1 from I, which costs 1/U; any other adds 1 to U, which costs
    I/(U - 1) - I/U. Counts are integers, so they are exact and their cumulative sums are deterministic on CUDA, unlike
    those of floats. The published code subtracts Jaccard values, which loses most digits over many pixels.

    Args:
        errors: any shape, in [0, 1].
        foreground: bool, which pixels are of the class; all False gives weights of 0.
        labelled: bool, where it is False the weight is 0.
    """
    order = errors.masked_fill(~labelled, -1.0).flatten().sort(descending=True, stable=True).indices
    right = foreground.flatten()[order]
    wrong = (labelled & ~foreground).flatten()[order]
    size = right.sum()
    intersection = size - right.cumsum(0)
    union = (size + wrong.cumsum(0)).to(errors.dtype)
    added = intersection / union.clamp(min=1) / (union - 1).clamp(min=1)
    weights = torch.where(right, 1 / union.clamp(min=1), added * wrong)
    return torch.empty_like(weights).scatter_(0, order, weights).view(errors.shape)
