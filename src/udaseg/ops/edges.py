"""Boundaries of a label map, and a loss that preserves what an image shows there."""

import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def label_edges(labels: Tensor) -> Tensor:
    """Pixels whose 3x3 neighbourhood holds two labels or more: a line two pixels wide along each boundary.

    Args:
        labels: (B, H, W) integer; 255 is a label like any other, because unlabelled areas are often objects.

    Returns:
        (B, H, W) bool.

    Raises:
        ValueError: labels of another shape or type.
    """
    if labels.dim() != 3 or labels.is_floating_point():
        raise ValueError(f"integer labels (B, H, W) expected, found {tuple(labels.shape)} {labels.dtype}")
    numbers = labels.float()  # exact: ids are small
    highest, lowest = (sign * F.max_pool2d(sign * numbers, 3, stride=1, padding=1) for sign in (1, -1))
    return highest != lowest


def edge_loss(image: Tensor, other: Tensor, labels: Tensor) -> Tensor:
    """How much the Laplacians of two images' brightness differ at the boundaries of a label map.

    A change of colour or brightness that is the same on both sides of a boundary costs nothing, unlike in DiGA's
    release, which compares the colours themselves. The absolute difference is averaged over all pixels, as released, so
    it is 0 without boundaries.

    Args:
        image, other: (B, 3, H, W) real, RGB in [0, 1].
        labels: (B, H, W) integer, see `label_edges`.

    Raises:
        ValueError: shapes do not fit.
    """
    if image.shape != other.shape or image.dim() != 4 or image.shape[1] != 3:
        raise ValueError(f"two images (B, 3, H, W) expected, found {tuple(image.shape)} and {tuple(other.shape)}")
    if labels.shape != (len(image), *image.shape[2:]):
        raise ValueError(f"labels of the images {tuple(image.shape)} expected, found {tuple(labels.shape)}")
    change = ((other - image) * image.new_tensor(LUMA)[:, None, None]).sum(1)
    return (_laplacian(change).abs() * label_edges(labels)).mean()


def _laplacian(maps: Tensor) -> Tensor:
    """Sum of the four neighbours minus four times the pixel, of (B, H, W), with replicated borders."""
    down, across = maps.diff(dim=1), maps.diff(dim=2)
    return F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0)) + F.pad(across, (0, 1)) - F.pad(across, (1, 0))
