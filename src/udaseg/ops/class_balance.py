"""How often classes occur, and what follows from it: priors, class weights, and drawing pixels and images.

Labels are (B, h, w) int64, 255 = ignore. Pixels are indices into B*h*w, row by row. What is drawn depends on labels and
the CPU generator, not on the device. CPSL's "class-balanced" (Li et al., CVPR 2022, arXiv 2203.09744) means in
proportion to the classes' shares, not equally many of each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.types import IGNORE


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """(B, C) float32: share of each class in all pixels of each image, including ignored ones (CPSL's delta)."""
    return _pixels(labels, classes) / max(1, labels[0].numel())


def sample_counts(labels: Tensor, classes: int, samples: int) -> Tensor:
    """(B, C) int64: how many of an image's `samples` pixels to draw of each class, floor(samples * share) (CPSL's M_c).

    The total may be lower than `samples`; a class with less than 1 / samples of the image gets none.
    """
    if samples < 0:
        raise ValueError(f"at least 0 samples expected, found {samples}")
    return samples * _pixels(labels, classes) // max(1, labels[0].numel())


@torch.no_grad()
def draw_balanced(labels: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Random pixels, `counts` of each image and class, or all there are: (n,) int64, by image, then by class.

    Args:
        labels: (B, h, w).
        counts: (B, C) int64, see `sample_counts`.
        generator: on the CPU.
    """
    _check(labels)
    if counts.dim() != 2 or len(counts) != len(labels) or counts.is_floating_point():
        raise ValueError(f"integer counts ({len(labels)}, C) expected, found {tuple(counts.shape)} {counts.dtype}")
    keys = _keys(labels, counts.shape[1]).cpu()
    wanted = F.pad(counts.cpu(), (0, 1)).flatten()  # none of the ignored pixels
    order = torch.randperm(len(keys), generator=generator)
    ordered, places = keys[order].sort(stable=True)  # stable: pixels of one image and class stay in random order
    sizes = keys.bincount(minlength=len(wanted))
    rank = torch.arange(len(keys)) - (sizes.cumsum(0) - sizes)[ordered]
    return order[places[rank < wanted[ordered]]].to(labels.device)


@torch.no_grad()
def draw_uniform(labels: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """The first `samples` labelled pixels of each image in one random order for all images: (n,) int64, by image.

    As in CPSL's release, where every pixel is labelled. An image with fewer labelled pixels gives all it has.
    """
    _check(labels)
    labelled = (labels != IGNORE).flatten(1).cpu()
    order = torch.randperm(labelled.shape[1], generator=generator)
    labelled = labelled[:, order]
    image, place = (labelled & (labelled.cumsum(1) <= samples)).nonzero(as_tuple=True)
    return (image * len(order) + order[place]).to(labels.device)


def moving_prior(prior: Tensor, shares: Tensor, keep: float) -> Tensor:
    """keep * prior + (1 - keep) * shares, both (C,): the prior follows the labels, image by image (CPSL's paper).

    The result does not sum to 1, because ignored pixels count in the shares. See `usable_prior`.

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
    """The prior (C,) raised to at least `least` in each class, then scaled to sum 1; the release gives NaN at 0."""
    raised = prior.clamp(min=least)
    return raised / raised.sum()


def rare_class_probabilities(counts: Tensor, temperature: float) -> Tensor:
    """Chance of drawing each class, higher for rarer ones (DAFormer's rare class sampling, CVPR 2022).

    The softmax of (1 - f) / temperature over the classes that occur, where f is a class's share of the pixels; in
    float32 as released, which makes a difference at small temperatures.

    Args:
        counts: (F, C) int64, pixels of each class in each file.
        temperature: DAFormer 0.01; towards infinity all classes become equally likely.

    Returns:
        (C,) float32 that sum to 1; 0 for a class without a pixel. All are 0 if no file has any.

    Raises:
        ValueError: counts of another shape or type, or a temperature that is not positive.
    """
    if counts.dim() != 2 or counts.is_floating_point() or temperature <= 0:
        raise ValueError(
            f"integer counts (F, C) and a positive temperature expected, found {tuple(counts.shape)} {counts.dtype} "
            f"and {temperature}"
        )
    totals = counts.sum(0)
    present = totals > 0
    shares = totals[present] / totals.sum()
    probabilities = torch.zeros(totals.shape, dtype=torch.float32, device=counts.device)
    probabilities[present] = torch.softmax((1 - shares) / temperature, dim=0)
    return probabilities


def count_classes(labels: Tensor, classes: int) -> Tensor:
    """(classes,) int64: pixels of each class in labels of any shape; 255 is ignored."""
    return labels.flatten().clamp(max=classes).bincount(minlength=classes + 1)[:classes]


def balanced_weights(counts: Tensor) -> Tensor:
    """Class weights sqrt(median count / count); a class without pixels gets the largest weight of the others.

    Median frequency as in the memory bank (Alonso et al., ICCV 2021, arXiv 2104.13415). The median is that of the
    classes that have pixels. The release takes it over all classes, so all weights become 0 or NaN where most are
    missing.

    Args:
        counts: (C,) integer, pixels of each class.

    Returns:
        (C,) float32, positive; all are 1 if no class has a pixel.
    """
    if counts.dim() != 1 or counts.is_floating_point():
        raise ValueError(f"integer counts (C,) expected, found {tuple(counts.shape)} {counts.dtype}")
    seen = counts > 0
    numbers = counts.double()
    weights = (numbers.masked_fill(~seen, torch.nan).nanquantile(0.5) / numbers.clamp(min=1)).sqrt()
    weights = torch.where(seen, weights, weights.masked_fill(~seen, 0).max())
    return torch.where(seen.any(), weights, 1.0).float()


def pixel_weights(labels: Tensor, weights: Tensor) -> Tensor:
    """The class weights (C,) of labels (B, H, W) as a map (B, H, W); 0 where a pixel is ignored."""
    return F.pad(weights, (0, 1))[labels.clamp(max=len(weights))]


def _pixels(labels: Tensor, classes: int) -> Tensor:
    """(B, C) int64: pixels of each class in each image."""
    _check(labels)
    images = len(labels)
    counted = _keys(labels, classes).bincount(minlength=images * (classes + 1))
    return counted.view(images, classes + 1)[:, :classes]


def _keys(labels: Tensor, classes: int) -> Tensor:
    """(B*h*w,) int64: one number for each image and class; ignored pixels count as the class `classes`."""
    images = torch.arange(len(labels), device=labels.device)[:, None, None]
    return (labels.clamp(max=classes) + (classes + 1) * images).flatten()


def _check(labels: Tensor) -> None:
    if labels.dim() != 3 or not len(labels) or labels.is_floating_point():
        raise ValueError(f"integer labels (B, h, w) expected, found {tuple(labels.shape)} {labels.dtype}")
