"""Giving an image another one's look, without training."""

import torch
from torch import Tensor

from udaseg.ops.precision import rounded_sqrt

# sRGB's primaries in XYZ under D65 (IEC 61966-2-1).
WHITE = (0.95047, 1.0, 1.08883)
TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
KNEE = 6 / 29  # below it CIE's cube root is linear
SMALLEST = 0.01  # standard deviation in L*a*b* below which a channel counts as constant: it is invisible
ABSENT = 1e-6  # amplitude, as a share of the largest possible one, below which a frequency has no phase


def rgb_to_lab(images: Tensor) -> Tensor:
    """CIE L*a*b* (D65) of sRGB images.

    Args:
        images: (B, 3, H, W) real, in [0, 1].

    Returns:
        (B, 3, H, W): L in [0, 100], a and b about in [-128, 128].

    Raises:
        ValueError: images of another shape.
    """
    _require_images(images)
    linear = torch.where(images <= 0.04045, images / 12.92, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    ratios = _mixed(linear, _matrix(images))
    roots = torch.where(ratios > KNEE**3, ratios.clamp(min=KNEE**3) ** (1 / 3), ratios / (3 * KNEE**2) + 4 / 29)
    x, y, z = roots.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`; colours outside of sRGB are clipped to [0, 1] in each channel.

    Raises:
        ValueError: another shape than (B, 3, H, W).
    """
    _require_images(lab)
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    roots = torch.stack([y + a / 500, y, y - b / 200], 1)
    ratios = torch.where(roots > KNEE, roots**3, 3 * KNEE**2 * (roots - 4 / 29))
    linear = _mixed(ratios, torch.linalg.inv(_matrix(lab))).clamp(0, 1)
    return torch.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    ).clamp(0, 1)


def lab_transfer(source: Tensor, target: Tensor) -> Tensor:
    """Source images with the mean and standard deviation of the target's colours, channel by channel of L*a*b*.

    Reinhard et al., "Color transfer between images", IEEE CG&A 2001, in another space of opponent colours. If a
    source channel is constant, it only takes the target's mean; if the target's is constant, the result is, too.

    Args:
        source, target: (B, 3, H, W) and (B, 3, H', W') real, in [0, 1]; image i takes the look of target image i.

    Returns:
        (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: other shapes, or numbers of images that differ.
    """
    _require_pairs(source, target)
    content, look = rgb_to_lab(source), rgb_to_lab(target)
    centred = content - _mean(content)
    spread = rounded_sqrt((centred**2).mean((2, 3), keepdim=True))
    wanted = rounded_sqrt(((look - _mean(look)) ** 2).mean((2, 3), keepdim=True))
    factor = torch.where(spread > SMALLEST, wanted / spread.clamp(min=SMALLEST), 1.0)
    return lab_to_rgb(centred * factor + _mean(look))


def fourier_transfer(source: Tensor, target: Tensor, share: float) -> Tensor:
    """Source images with the target's amplitudes at low frequencies; their phase, and so their layout, is kept.

    Yang & Soatto, "FDA: Fourier Domain Adaptation for Semantic Segmentation", CVPR 2020. The frequencies of at
    most floor(min(H, W) * share) cycles along both axes are exchanged, as released; if that is 0, only the mean. Both
    signs of a frequency are exchanged, so the result is real. A frequency that is absent from the source has no phase
    and stays absent; the release uses the phase of rounding errors, or 0.

    Args:
        source, target: (B, 3, H, W) real, in [0, 1], of one size; image i takes the look of target image i.
        share: half the exchanged square's side over the image's shorter side, in [0, 0.5) (paper 0.01, 0.05, 0.09).

    Returns:
        (B, 3, H, W) clipped to [0, 1].

    Raises:
        ValueError: other shapes, sizes or numbers of images that differ, or another share.
    """
    _require_pairs(source, target)
    if source.shape != target.shape:
        raise ValueError(f"images of one size expected, found {tuple(source.shape)} and {tuple(target.shape)}")
    if not 0 <= share < 0.5:
        raise ValueError(f"share: from 0 to below 0.5 expected, found {share}")
    height, width = source.shape[-2:]
    reach = int(min(height, width) * share)
    content, look = torch.fft.rfft2(source), torch.fft.rfft2(target)
    down = torch.fft.fftfreq(height, 1 / height, device=source.device).round().abs() <= reach
    across = torch.arange(content.shape[-1], device=source.device) <= reach
    present = content.abs() > ABSENT * height * width
    present[..., 0, 0] = True  # the phase of the mean is always 0
    amplitude = torch.where(down[:, None] & across & present, look.abs(), content.abs())
    return torch.fft.irfft2(torch.polar(amplitude, content.angle()), (height, width)).clamp(0, 1)


def _mean(images: Tensor) -> Tensor:
    return images.mean((2, 3), keepdim=True)


def _matrix(images: Tensor) -> Tensor:
    """Linear RGB to X, Y, Z, each divided by the white's, as (3, 3)."""
    return images.new_tensor(TO_XYZ) / images.new_tensor(WHITE)[:, None]


def _mixed(images: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix, images)


def _require_images(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"real images (B, 3, H, W) expected, found {tuple(images.shape)} {images.dtype}")


def _require_pairs(source: Tensor, target: Tensor) -> None:
    _require_images(source)
    _require_images(target)
    if len(source) != len(target):
        raise ValueError(f"a target image for each source image expected, found {len(source)} and {len(target)}")
