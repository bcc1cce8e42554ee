"""Pasting a rectangle (CutMix, Yun et al., ICCV 2019; for segmentation French et al., BMVC 2020)."""

import torch
from torch import Tensor


def half_rectangle(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A random rectangle of half the area, up to rounding, of any shape that fits, anywhere inside (as CPSL released).

    Its height is 0.5 to 1 of the whole, log-uniform, and its width what is left.

    Args:
        size: (H, W), each at least 1.
        generator: on the CPU.

    Returns:
        (H, W) bool, on the CPU.

    Raises:
        ValueError: a side below 1.
    """
    if min(size) < 1:
        raise ValueError(f"size (H, W) of at least 1 x 1 expected, found {size}")
    share, down, right = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    height, width = (round(side * 0.5**part) for side, part in zip(size, (share, 1 - share), strict=True))
    top, left = round((size[0] - height) * down), round((size[1] - width) * right)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask
