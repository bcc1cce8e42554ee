"""Shares of the classes: of an image's pixels, of what is drawn from it, and of a whole domain (CPSL, CVPR 2022).

"Class-balanced" means in proportion to the classes' shares, not equally many of each (Li et al., arXiv 2203.09744).
Labels are (B, h, w) int64, 255 = ignore. Pixels are indices into B*h*w, row by row. What is drawn depends on labels and
the CPU generator, not on the device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.losses import IGNORE


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """(B, C) float32: share of each class in all pixels of each image, the ignored ones too, delta of the paper."""
    return _pixels(labels, classes) / max(1, labels[0].numel())


def sample_counts(labels: Tensor, classes: int, samples: int) -> Tensor:
    """(B, C) int64: how many of an image's `samples` pixels are of each class, floor(samples * share) (paper's M_c).

    They may be fewer than `samples` in all; a class with less than 1 / samples of the image gets none.
    """
    if samples < 0:
        raise ValueError(f"at least 0 samples expected, found {samples}")
    return samples * _pixels(labels, classes) // max(1, labels[0].numel())


@torch.no_grad()
def draw_balanced(labels: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Random pixels, so many of each image and class, or all there are: (n,) int64, by image, then by class.

    Args:
        labels: (B, h, w).
        counts: (B, C) int64, see `sample_counts`.
        generator: on the CPU.
    """
    _check(labels)
    if counts.dim() != 2 or len(counts) != len(labels) or counts.is_floating_point():
        raise ValueError(f"integer counts ({len(labels)}, C) expected, found {tuple(counts.shape)} {counts.dtype}")
    keys = _keys(labels, counts.shape[1]).cpu()
    wanted = F.pad(counts.cpu(), (0, 1)).flatten()  # none of the ignored ones
    order = torch.randperm(len(keys), generator=generator)
    ordered, places = keys[order].sort(stable=True)  # so that those of one image and class are in random order
    sizes = keys.bincount(minlength=len(wanted))
    rank = torch.arange(len(keys)) - (sizes.cumsum(0) - sizes)[ordered]
    return order[places[rank < wanted[ordered]]].to(labels.device)


@torch.no_grad()
def draw_uniform(labels: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """The first `samples` labelled pixels of each image in one random order for all: (n,) int64, by image.

    As released, where every pixel has a label. An image with fewer labelled pixels gives all it has.
    """
    _check(labels)
    there = (labels != IGNORE).flatten(1).cpu()
    order = torch.randperm(there.shape[1], generator=generator)
    there = there[:, order]
    image, place = (there & (there.cumsum(1) <= samples)).nonzero(as_tuple=True)
    return (image * len(order) + order[place]).to(labels.device)


def moving_prior(prior: Tensor, shares: Tensor, keep: float) -> Tensor:
    """keep * prior + (1 - keep) * shares, both (C,): the distribution follows the labels, image by image (paper).

    It is not brought back to the sum 1: ignored pixels take from it. See `usable_prior`.

    Raises:
        ValueError: shapes do not fit, or `keep` is not in [0, 1].
    """
    if prior.dim() != 1 or shares.shape != prior.shape or not 0 <= keep <= 1:
        raise ValueError(
            f"prior and shares (C,) and keep in [0, 1] expected, found {tuple(prior.shape)}, {tuple(shares.shape)} and "
            f"{keep}"
        )
    return keep * prior + (1 - keep) * shares


def usable_prior(prior: Tensor, least: float = 1e-6) -> Tensor:
    """The prior (C,) with the sum 1 and (before that) at least `least` for each class; the release gives NaN at 0."""
    raised = prior.clamp(min=least)
    return raised / raised.sum()


def _pixels(labels: Tensor, classes: int) -> Tensor:
    """(B, C) int64: pixels of each class in each image."""
    _check(labels)
    images = len(labels)
    counted = _keys(labels, classes).bincount(minlength=images * (classes + 1))
    return counted.view(images, classes + 1)[:, :classes]


def _keys(labels: Tensor, classes: int) -> Tensor:
    """(B*h*w,) int64: one number for each image and class; what is no class below `classes` counts as that."""
    images = torch.arange(len(labels), device=labels.device)[:, None, None]
    return (labels.clamp(max=classes) + (classes + 1) * images).flatten()


def _check(labels: Tensor) -> None:
    if labels.dim() != 3 or not len(labels) or labels.is_floating_point():
        raise ValueError(f"integer labels (B, h, w) expected, found {tuple(labels.shape)} {labels.dtype}")
