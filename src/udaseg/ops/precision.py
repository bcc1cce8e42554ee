"""Where rounding matters: computing in float32 at least, and a square root that rounds alike on every CPU."""

import torch
from torch import Tensor


def at_least_float32(numbers: Tensor) -> Tensor:
    """Real numbers of any shape as float32, or as float64 if they are float64."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def rounded_sqrt(numbers: Tensor) -> Tensor:
    """The correctly rounded square root of numbers of any shape, float32 or narrower; the usual root of float64.

    On CPUs PyTorch uses MKL's root. It starts from an approximation that differs between CPU makers, and its last bit
    is wrong for one float32 number in five. Computing it in float64 rounds that error away.

    Raises:
        ValueError: the numbers are integers.
    """
    if not numbers.is_floating_point():
        raise ValueError(f"real numbers expected, found {numbers.dtype}")
    return numbers.to(torch.float64).sqrt().to(numbers.dtype)
