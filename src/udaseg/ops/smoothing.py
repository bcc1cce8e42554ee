"""Smoothing of predictions without labels (PLCA, NeurIPS 2020, arXiv 2011.00147)."""

import torch
from torch import Tensor


def label_smoothing(logits: Tensor, threshold: float) -> Tensor:
    """With u = -(1/C) Σ_c log p_c of each pixel: mean(u), or as released mean((u / threshold - 1) u).

    u is least, log C, where the prediction is uniform, so descending on its mean flattens predictions: the smoothing
    that the paper speaks of. In the release's form the bracket is a constant of the graph, and negative where u is
    below the threshold of 10: there descending makes predictions sharper, and the value is below 0. It pulls u
    towards the threshold.

    Args:
        logits: (B, C, h, w), real; computed in float32 or wider, also under autocast.
        threshold: released 10; 0 or less gives the textbook's mean(u).

    Returns:
        ().

    Raises:
        ValueError: the logits have another shape.
    """
    if logits.dim() != 4:
        raise ValueError(f"logits (B, C, h, w) expected, found {tuple(logits.shape)}")
    distance = -logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1).mean(dim=1)  # (B, h, w)
    if threshold <= 0:
        return distance.mean()
    return ((distance.detach() / threshold - 1) * distance).mean()
