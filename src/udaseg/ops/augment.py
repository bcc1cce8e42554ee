"""Strong augmentation of the colours of mixed images (DACS, WACV 2021; DAFormer, CVPR 2022)."""

import math

import torch
from torch import Tensor

JITTER_THRESHOLD = 0.2  # which a uniform draw must exceed; the releases' settings call it a probability
SIGMA = (0.15, 1.15)  # of the blur, uniform


def blur_kernel(length: int) -> int:
    """Length of the blur's kernel along an axis of `length` pixels: a tenth of it, rounded up, and odd (512: 51).

    So it always reaches less far than the image does, as its reflection at the edges requires.
    """
    tenth = math.ceil(0.1 * length)
    return tenth if tenth % 2 else tenth - 1


def strong_augmentation(images: Tensor, jitter: float, blur: float, generator: torch.Generator) -> Tensor:
    """Colour jitter (of 80 % of the batches) and Gaussian blur (of a share `blur` of them), as released.

    Whether, is drawn for the batch; how, for each image. The latter is drawn from the global generator, as torchvision
    does it. Brightness is scaled, as torchvision does it; the releases' kornia of the time added to it.

    Args:
        images: (B, 3, H, W) float, RGB in [0, 1].
        jitter: strength of brightness, contrast, saturation and hue alike, in [0, 0.5] (DACS 0.25, DAFormer 0.2).
        blur: chance of the blur (0.5).
        generator: on the CPU.

    Returns:
        (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: images of another shape.
    """
    # Here, because every command that reads the methods' SPECs imports this module, and torchvision takes two seconds.
    from torchvision.transforms import v2

    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images (B, 3, H, W) expected, found {tuple(images.shape)}")
    jitter_draw, blur_draw = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    changes = []
    if jitter and jitter_draw > JITTER_THRESHOLD:
        changes.append(v2.ColorJitter(jitter, jitter, jitter, jitter))
    if blur_draw >= 1 - blur:
        height, width = images.shape[-2:]
        changes.append(v2.GaussianBlur([blur_kernel(width), blur_kernel(height)], SIGMA))
    if not changes:
        return images
    augment = v2.Compose(changes)
    with torch.autocast(images.device.type, enabled=False):  # the blur is a convolution, images are not to be rounded
        return torch.stack([augment(image) for image in images]).clamp(0, 1)
