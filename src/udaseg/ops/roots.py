"""A square root whose last bit does not depend on the CPU."""

import torch
from torch import Tensor


def rounded_sqrt(numbers: Tensor) -> Tensor:
    """The correctly rounded square root of float32 or narrower numbers, of any shape; of float64 ones, the usual root.

    On CPUs, PyTorch takes MKL's, which starts from an approximation that each maker's CPUs have another one of, and is
    off by the last bit for one float32 number in five. Taken in float64, that error is rounded away.

    Raises:
        ValueError: whole numbers.
    """
    if not numbers.is_floating_point():
        raise ValueError(f"real numbers expected, found {numbers.dtype}")
    return numbers.to(torch.float64).sqrt().to(numbers.dtype)
