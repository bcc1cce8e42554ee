"""Strong views of images and of a teacher's labels of them (Alonso et al., ICCV 2021, arXiv 2104.13415, as released).

What happens is drawn for the batch, as released; how colours change and how wide a blur is, for each image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.losses import IGNORE
from udaseg.ops.mixing import class_mask, mix

FLIP = 0.5  # chance of a mirrored batch
JITTER = 0.8  # chance of changed colours
SCALES = (0.75, 1.75)  # of a rescaled batch, uniform
KERNEL, SIGMA = 23, (0.1, 1.5)  # of the blur, sigma uniform


class View(NamedTuple):
    image: Tensor  # (B, 3, H, W) float, RGB in [0, 1]
    labels: Tensor  # (B, H, W) int64, 255 = ignore
    confidence: Tensor  # (B, H, W) float in [0, 1], of the labels


def draw_majority(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """For each image floor(n / 2) + 1 of its n classes at random, without 255; none where nothing is labelled.

    Args:
        labels: (B, H, W) int64.
        generator: on the CPU.

    Returns:
        B tensors (k,) int64, without repetition.
    """
    if labels.dim() != 3:
        raise ValueError(f"labels (B, H, W) expected, found {tuple(labels.shape)}")
    chosen = []
    for label in labels:
        classes = label[label != IGNORE].unique()
        order = torch.randperm(len(classes), generator=generator)
        chosen.append(classes[order[: len(classes) // 2 + 1].to(classes.device)])
    return chosen


def paste_mask(labels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, H, W) bool: where each image gets pixels of the next one, the last one of the first: those of the classes
    that `draw_majority` gives from labels (B, H, W) of the giver."""
    return class_mask(labels, draw_majority(labels, generator)).roll(-1, dims=0)


def pasted(mask: Tensor, maps: Tensor) -> Tensor:
    """Maps (B, ...) of the next image where the mask (B, H, W) is set, of the image itself elsewhere."""
    return mix(mask, maps.roll(-1, dims=0), maps)


def rescaled(view: View, factor: float, place: tuple[float, float]) -> View:
    """The view `factor` times as large in a frame of its old size: cut where it is larger, with a border (black, label
    255, confidence 0) where it is smaller.

    Args:
        view: is not changed.
        factor: of height and width, positive.
        place: of the cut, from top to bottom and from left to right, in [0, 1); a border is as wide on all sides.
    """
    height, width = view.labels.shape[-2:]
    size = (max(1, int(height * factor)), max(1, int(width * factor)))
    with torch.autocast(view.image.device.type, enabled=False):
        image = F.interpolate(view.image, size, mode="bilinear")
        confidence = F.interpolate(view.confidence[:, None], size, mode="bilinear")[:, 0]
        # By the rule that puts pixel centres where the bilinear one has them.
        labels = F.interpolate(view.labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
    if factor > 1:
        top, left = (int(p * (large - small + 1)) for p, large, small in zip(place, size, (height, width), strict=True))
        cut = (..., slice(top, top + height), slice(left, left + width))
        return View(image[cut], labels[cut], confidence[cut])
    down, right = height - size[0], width - size[1]
    border = (right // 2, right - right // 2, down // 2, down - down // 2)
    return View(F.pad(image, border), F.pad(labels, border, value=IGNORE), F.pad(confidence, border))


def strong_view(
    view: View, mixing: float, jitter: float, blur: float, rescale: float, generator: torch.Generator
) -> View:
    """ClassMix among the images, then scale, flip, colours and blur.

    Args:
        view: is not changed.
        mixing: chance of ClassMix, in which each image gets a majority of the next one's classes (released 0.75).
        jitter: strength of brightness and contrast in [0, 1]; saturation changes by half of it, hue by a third
            (released 0.25, in 80 % of the batches).
        blur: chance of a Gaussian blur (released 0.2). The release's sigma is 0.1 down and 1.5 across, by the library's
            reading of the range that it gives; here it is drawn from the range.
        rescale: chance of another scale (released 0.8).
        generator: on the CPU. How colours change is drawn from the global one, as torchvision does it.

    Raises:
        ValueError: shapes do not fit.
    """
    # Here, because every command that reads the methods' SPECs imports this module, and torchvision takes two seconds.
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
        view = rescaled(view, SCALES[0] + scale * (SCALES[1] - SCALES[0]), (top, left))
    if flips < FLIP:
        view = View(*(maps.flip(-1) for maps in view))
    changes = []
    if jitter and jitters < JITTER:
        changes.append(v2.ColorJitter(jitter, jitter, jitter / 2, jitter / 3))
    if blurs < blur:
        largest = 2 * min(view.labels.shape[-2:]) - 1  # the kernel reaches beyond the edge by less than the image
        changes.append(v2.GaussianBlur(min(KERNEL, largest), SIGMA))
    if changes:
        augment = v2.Compose(changes)
        with torch.autocast(view.image.device.type, enabled=False):  # the blur is a convolution
            view = view._replace(image=torch.stack([augment(image) for image in view.image]).clamp(0, 1))
    return view
