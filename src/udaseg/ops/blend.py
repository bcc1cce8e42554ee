"""Strong augmentation of colours, blended with the picture it was made of (DiGA, CVPR 2023, arXiv 2304.02222)."""

from typing import NamedTuple

import torch
from torch import Tensor

JITTER = (0.4, 0.4, 0.2, 0.1)  # of brightness, contrast, saturation and hue (released)
KERNEL, SIGMA = 3, 2.0  # of the blur (released)
SHARPNESS = 0.5  # largest factor, uniform from 0: below 1 it smooths, in spite of its name (released)


class Chances(NamedTuple):
    """Of the changes, each in [0, 1]; drawn for every image by itself."""

    jitter: float
    grey: float
    blur: float
    sharpness: float


def blended_augmentation(images: Tensor, share: float, chances: Chances, generator: torch.Generator) -> Tensor:
    """share * A(images) + (1 - share) * images, where A jitters colours, takes them away, blurs and smooths.

    The release hands A the pictures less their mean, of which it keeps what is positive, and brings them to [-1, 1].
    Here A and the blend are in [0, 1]. Brightness is scaled, as torchvision does it.

    Args:
        images: (B, 3, H, W) float, RGB in [0, 1].
        share: of what is augmented, in [0, 1] (released 0.4 in the warm-up, 0.3 in self-training).
        chances: of the changes.
        generator: on the CPU; it decides which changes there are. How colours are jittered is drawn from the global
            one, as torchvision does it.

    Returns:
        (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: images of another shape.
    """
    # Here, because every command that reads the methods' SPECs imports this module, and torchvision takes two seconds.
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional

    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images (B, 3, H, W) expected, found {tuple(images.shape)}")
    draws = torch.rand(len(images), 5, generator=generator, dtype=torch.float64).tolist()
    jitter = v2.ColorJitter(*JITTER)
    augmented = []
    with torch.autocast(images.device.type, enabled=False):  # the blur is a convolution, images are not to be rounded
        for image, (jitters, greys, blurs, sharpens, factor) in zip(images, draws, strict=True):
            if jitters < chances.jitter:
                image = jitter(image)
            if greys < chances.grey:
                image = functional.rgb_to_grayscale(image, num_output_channels=3)
            if blurs < chances.blur and min(image.shape[-2:]) > KERNEL // 2:  # as far as its reflection reaches
                image = functional.gaussian_blur(image, [KERNEL, KERNEL], [SIGMA, SIGMA])
            if sharpens < chances.sharpness:
                image = functional.adjust_sharpness(image, SHARPNESS * factor)
            augmented.append(image)
        return torch.lerp(images, torch.stack(augmented), share).clamp(0, 1)
