"""Strong augmentation of batches of images, and of their labels where geometry changes.

The generator that the functions take decides whether a change happens. How colours change and how wide a blur is comes
from the global generator, as in torchvision. Brightness is scaled, as torchvision does it; the releases of DACS and
DAFormer use a kornia that added to it. Autocast is off for all changes, because it would round the images.

torchvision is imported inside the functions: every command that reads the methods' SPECs imports this module, and
importing torchvision takes two seconds.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.mixing import paste_mask, pasted
from udaseg.types import IGNORE

# DACS and DAFormer
JITTER_THRESHOLD = 0.2  # a uniform draw must exceed it; the releases' settings call it a probability
BLUR_SIGMA = (0.15, 1.15)  # in pixels, uniform
# DiGA, as released
BLEND_JITTER = (0.4, 0.4, 0.2, 0.1)  # of brightness, contrast, saturation and hue
BLEND_KERNEL, BLEND_SIGMA = 3, 2.0  # of the blur, in pixels
BLEND_SHARPNESS = 0.5  # largest sharpness factor, uniform from 0: below 1 it smooths, in spite of its name
# Memory bank, as released
VIEW_FLIP = 0.5  # chance that a batch is mirrored
VIEW_JITTER = 0.8  # chance that its colours change
VIEW_SCALES = (0.75, 1.75)  # of a rescaled batch, uniform
VIEW_KERNEL, VIEW_SIGMA = 23, (0.1, 1.5)  # of the blur, in pixels; sigma is uniform


def blur_kernel(length: int) -> int:
    """Odd length of the blur's kernel along an axis of `length` pixels: a tenth of it, rounded up (512: 51).

    It thus always reaches less far than the image, as the reflection at its edges requires.
    """
    tenth = math.ceil(0.1 * length)
    return tenth if tenth % 2 else tenth - 1


def strong_augmentation(images: Tensor, jitter: float, blur: float, generator: torch.Generator) -> Tensor:
    """Colour jitter, for 80 % of the batches, and Gaussian blur, as DACS (WACV 2021) and DAFormer (CVPR 2022) do it.

    Whether to apply each is drawn once for the batch; how, for each image.

    Args:
        images: (B, 3, H, W) float, RGB in [0, 1].
        jitter: strength of brightness, contrast, saturation and hue alike, in [0, 0.5] (DACS 0.25, DAFormer 0.2).
        blur: chance of the blur (released 0.5).
        generator: on the CPU.

    Returns:
        (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: images of another shape.
    """
    from torchvision.transforms import v2

    _require_images(images)
    jitter_draw, blur_draw = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    changes = []
    if jitter and jitter_draw > JITTER_THRESHOLD:
        changes.append(v2.ColorJitter(jitter, jitter, jitter, jitter))
    if blur_draw >= 1 - blur:
        height, width = images.shape[-2:]
        changes.append(v2.GaussianBlur([blur_kernel(width), blur_kernel(height)], BLUR_SIGMA))
    if not changes:
        return images
    augment = v2.Compose(changes)
    with torch.autocast(images.device.type, enabled=False):
        return torch.stack([augment(image) for image in images]).clamp(0, 1)


class Chances(NamedTuple):
    """Chance of each change in [0, 1]; drawn for every image by itself."""

    jitter: float
    grey: float
    blur: float
    sharpness: float


def blended_augmentation(images: Tensor, share: float, chances: Chances, generator: torch.Generator) -> Tensor:
    """share * A(images) + (1 - share) * images, where A jitters colours, removes them, blurs and smooths.

    DiGA (CVPR 2023, arXiv 2304.02222). Its release gives A the images less their mean, keeps what is positive, and
    scales the result to [-1, 1]. Here A and the blend are in [0, 1].

    Args:
        images: (B, 3, H, W) float, RGB in [0, 1].
        share: of the augmented image, in [0, 1] (released 0.4 in the warm-up, 0.3 in self-training).
        chances: of the changes.
        generator: on the CPU.

    Returns:
        (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: images of another shape.
    """
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional

    _require_images(images)
    draws = torch.rand(len(images), 5, generator=generator, dtype=torch.float64).tolist()
    jitter = v2.ColorJitter(*BLEND_JITTER)
    augmented = []
    with torch.autocast(images.device.type, enabled=False):
        for image, (jitters, greys, blurs, sharpens, factor) in zip(images, draws, strict=True):
            if jitters < chances.jitter:
                image = jitter(image)
            if greys < chances.grey:
                image = functional.rgb_to_grayscale(image, num_output_channels=3)
            if blurs < chances.blur and min(image.shape[-2:]) > BLEND_KERNEL // 2:  # what its reflection needs
                image = functional.gaussian_blur(image, [BLEND_KERNEL] * 2, [BLEND_SIGMA] * 2)
            if sharpens < chances.sharpness:
                image = functional.adjust_sharpness(image, BLEND_SHARPNESS * factor)
            augmented.append(image)
        return torch.lerp(images, torch.stack(augmented), share).clamp(0, 1)


class View(NamedTuple):
    image: Tensor  # (B, 3, H, W) float, RGB in [0, 1]
    labels: Tensor  # (B, H, W) int64, 255 = ignore
    confidence: Tensor  # (B, H, W) float in [0, 1], of the labels


def strong_view(
    view: View, mixing: float, jitter: float, blur: float, rescale: float, generator: torch.Generator
) -> View:
    """ClassMix among the images of a batch, then scale, flip, colours and blur, as in the memory bank's release.

    Alonso et al., ICCV 2021, arXiv 2104.13415. What happens is drawn for the batch; how colours change and how wide
    the blur is, for each image.

    Args:
        view: is not changed.
        mixing: chance of ClassMix, in which each image gets a majority of the next one's classes (released 0.75).
        jitter: strength of brightness and contrast in [0, 1]; saturation changes by half of it, hue by a third
            (released 0.25, for 80 % of the batches).
        blur: chance of a Gaussian blur (released 0.2). The release's library reads its range of sigmas as 0.1 down and
            1.5 across; here sigma is drawn from the range.
        rescale: chance of another scale (released 0.8).
        generator: on the CPU.

    Raises:
        ValueError: shapes do not fit.
    """
    from torchvision.transforms import v2

    if view.image.shape != (len(view.labels), 3, *view.labels.shape[1:]) or view.confidence.shape != view.labels.shape:
        raise ValueError(
            f"images (B, 3, H, W), labels and confidence (B, H, W) expected, found {tuple(view.image.shape)}, "
            f"{tuple(view.labels.shape)} and {tuple(view.confidence.shape)}"
        )
    mixes, scales, scale, top, left, flips, jitters, blurs = torch.rand(
        8, generator=generator, dtype=torch.float64
    ).tolist()
    if mixes < mixing:
        mask = paste_mask(view.labels, generator)
        view = View(*(pasted(mask, maps) for maps in view))
    if scales < rescale:
        view = rescaled(view, VIEW_SCALES[0] + scale * (VIEW_SCALES[1] - VIEW_SCALES[0]), (top, left))
    if flips < VIEW_FLIP:
        view = View(*(maps.flip(-1) for maps in view))
    changes = []
    if jitter and jitters < VIEW_JITTER:
        changes.append(v2.ColorJitter(jitter, jitter, jitter / 2, jitter / 3))
    if blurs < blur:
        largest = 2 * min(view.labels.shape[-2:]) - 1  # the kernel must reach less far than the image
        changes.append(v2.GaussianBlur(min(VIEW_KERNEL, largest), VIEW_SIGMA))
    if changes:
        augment = v2.Compose(changes)
        with torch.autocast(view.image.device.type, enabled=False):
            view = view._replace(image=torch.stack([augment(image) for image in view.image]).clamp(0, 1))
    return view


def rescaled(view: View, factor: float, place: tuple[float, float]) -> View:
    """The view scaled by `factor` in a frame of its old size.

    A larger view is cut; a smaller one gets a border (black, label 255, confidence 0) that is as wide on all sides.

    Args:
        view: is not changed.
        factor: of height and width, positive.
        place: of the cut, from top to bottom and from left to right, each in [0, 1).
    """
    height, width = view.labels.shape[-2:]
    size = (max(1, int(height * factor)), max(1, int(width * factor)))
    with torch.autocast(view.image.device.type, enabled=False):
        image = F.interpolate(view.image, size, mode="bilinear")
        confidence = F.interpolate(view.confidence[:, None], size, mode="bilinear")[:, 0]
        # nearest-exact puts pixel centres where bilinear has them.
        labels = F.interpolate(view.labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
    if factor > 1:
        top, left = (int(p * (large - small + 1)) for p, large, small in zip(place, size, (height, width), strict=True))
        cut = (..., slice(top, top + height), slice(left, left + width))
        return View(image[cut], labels[cut], confidence[cut])
    down, right = height - size[0], width - size[1]
    border = (right // 2, right - right // 2, down // 2, down - down // 2)
    return View(F.pad(image, border), F.pad(labels, border, value=IGNORE), F.pad(confidence, border))


def _require_images(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images (B, 3, H, W) expected, found {tuple(images.shape)}")
