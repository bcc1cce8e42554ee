"""Which images are seen how often."""

import torch
from torch import Tensor


def rare_class_probabilities(counts: Tensor, temperature: float) -> Tensor:
    """Chance of each class to be drawn, the higher the rarer it is (DAFormer's rare class sampling, CVPR 2022).

    The softmax of (1 - f) / temperature over the classes that are there, f being a class's share of the pixels; in
    float32 as released, which shows at small temperatures.

    Args:
        counts: (F, C) int64, pixels of each class in each file.
        temperature: DAFormer 0.01; towards infinity all classes become equally likely.

    Returns:
        (C,) float32 that sum to 1; 0 for a class without a pixel. All 0 where no file has any.

    Raises:
        ValueError: counts of another shape or type, or a temperature that is not positive.
    """
    if counts.dim() != 2 or counts.is_floating_point() or temperature <= 0:
        raise ValueError(
            f"integer counts (F, C) and a positive temperature expected, found {tuple(counts.shape)} {counts.dtype} "
            f"and {temperature}"
        )
    totals = counts.sum(0)
    present = totals > 0
    shares = totals[present] / totals.sum()
    probabilities = torch.zeros(totals.shape, dtype=torch.float32, device=counts.device)
    probabilities[present] = torch.softmax((1 - shares) / temperature, dim=0)
    return probabilities
