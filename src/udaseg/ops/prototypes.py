"""Prototypes: a mean feature of each class, and the distances of features to them (ProDA, CVPR 2021, 2101.10979).

Prototypes are constants of the loss: they follow a teacher's features as moving means and get no gradient. Features are
maps (B, D, h, w), prototypes (C, D); counts (C,) are the numbers of vectors that the prototypes are means of.

A class that has not been in any image has the count 0 and a prototype of zeros. In the release it competes with the
distance ||f||, which says nothing about the class, and then moves away from zero by a ten-thousandth at a time. With
`seen`, which says which classes have been seen, the functions here leave the others out of the competition and take
their first vector as it is. Without `seen` they follow the release.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from udaseg.ops.precision import rounded_sqrt
from udaseg.types import IGNORE

COUNT_CAP = 3000  # as released: counts stop here, and the cumulative mean becomes a moving one with 1/3001


class ClassMeans(NamedTuple):
    """Mean features of the classes of each image; `vectors[present]` lists them by image, then by class."""

    vectors: Tensor  # (B, C, D) float32, 0 where the class is not present
    present: Tensor  # (B, C) bool


@torch.no_grad()
def class_means(features: Tensor, logits: Tensor, min_pixels: int = 10, threshold: float = 0.0) -> ClassMeans:
    """For each image and class, the mean feature of the pixels that are predicted as the class.

    Args:
        features: (B, D, h, w).
        logits: (B, C, h, w) at the same resolution.
        min_pixels: a class with fewer predicted pixels in an image does not count as present (released 10).
        threshold: only pixels of at least this probability enter the mean; `min_pixels` counts all, as released.

    Raises:
        ValueError: shapes do not fit.
    """
    if features.dim() != 4 or logits.dim() != 4 or features.shape[0] != logits.shape[0]:
        raise ValueError(f"features (B, D, h, w) expected, found {tuple(features.shape)}, {tuple(logits.shape)}")
    if features.shape[2:] != logits.shape[2:]:
        raise ValueError(
            f"features and logits of one resolution expected, found {tuple(features.shape)}, {tuple(logits.shape)}"
        )
    classes = torch.arange(logits.shape[1], device=logits.device)
    predicted = (logits.argmax(dim=1).flatten(1)[:, None] == classes[:, None]).float()  # (B, C, h*w)
    confident = logits.float().softmax(dim=1).amax(dim=1).flatten(1)[:, None] >= threshold
    counted = predicted * confident
    pixels = counted.sum(dim=2)
    with torch.autocast(features.device.type, enabled=False):
        sums = counted @ features.float().flatten(2).mT  # (B, C, D)
    present = (predicted.sum(dim=2) >= min_pixels) & (pixels > 0)
    return ClassMeans(sums / pixels.clamp(min=1)[..., None] * present[..., None], present)


@torch.no_grad()
def confirmed_means(features: Tensor, logits: Tensor, labels: Tensor, min_pixels: int = 5) -> ClassMeans:
    """For each image and class, the mean feature of the pixels that are labelled and predicted as the class (DiGA).

    Args:
        features: (B, D, h, w).
        logits: (B, C, h, w).
        labels: (B, h, w) int64, 255 = none.
        min_pixels: a class with fewer such pixels in an image does not count as present (released 5).

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.dim() != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits (B, C, h, w) and labels (B, h, w) expected, found {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    confirmed = labels.masked_fill(labels != logits.argmax(dim=1), IGNORE).flatten(1)
    classes = torch.arange(logits.shape[1], device=labels.device)[:, None]
    member = (confirmed[:, None] == classes).float()  # (B, C, h*w)
    pixels = member.sum(dim=2, keepdim=True)
    with torch.autocast(features.device.type, enabled=False):
        sums = member @ features.float().flatten(2).mT  # (B, C, D)
    present = pixels >= min_pixels
    return ClassMeans(sums / pixels.clamp(min=1) * present, present[..., 0])


@torch.no_grad()
def cumulative_update(
    prototypes: Tensor, counts: Tensor, means: ClassMeans, cap: int = COUNT_CAP
) -> tuple[Tensor, Tensor]:
    """Initial prototypes: the unweighted mean of image means, eta <- (n eta + v) / (n + 1), n <- min(n + 1, cap).

    The paper's equation is a mean over all pixels of the set; this is the release's, in which small occurrences of a
    class count as much as large ones. A vector that sums to exactly 0 is left out, as released.

    Args:
        prototypes: (C, D) so far, zeros at the start.
        counts: (C,) float, image means so far.
        means: of the next images, in their order.
        cap: from this count on, the mean moves by 1 / (cap + 1) a vector.

    Returns:
        New prototypes (C, D) and counts (C,).
    """
    _check(prototypes, counts, means)
    for vectors, used in _images(means):
        mean = (prototypes * counts[:, None] + vectors) / (counts[:, None] + 1)
        prototypes = torch.where(used[:, None], mean, prototypes)
        counts = torch.where(used, (counts + 1).clamp(max=cap), counts)
    return prototypes, counts


@torch.no_grad()
def momentum_update(
    prototypes: Tensor,
    counts: Tensor,
    means: ClassMeans,
    momentum: float,
    seen: Tensor | None = None,
    cap: int = COUNT_CAP,
) -> tuple[Tensor, Tensor]:
    """Moving prototypes: eta <- (1 - momentum) eta + momentum v for each image's vector in turn (ProDA).

    A vector that sums to exactly 0 is left out, as released.

    Args:
        prototypes: (C, D).
        counts: (C,) float, one more for each vector, at most `cap`.
        means: of a step's images.
        momentum: share of the new vector (released 1e-4; the paper writes lambda = 0.9999 for the other share).
        seen: (C,) bool; a class that was not seen takes its first vector whole. None: all were, as released.
        cap: most that a count becomes.

    Returns:
        New prototypes (C, D) and counts (C,).
    """
    _check(prototypes, counts, means)
    share = torch.full_like(counts, momentum)
    if seen is not None:
        share = share.masked_fill(~seen, 1.0)
    for vectors, used in _images(means):
        moved = torch.lerp(prototypes, vectors, share[:, None])
        prototypes = torch.where(used[:, None], moved, prototypes)
        counts = torch.where(used, (counts + 1).clamp(max=cap), counts)
        share = share.masked_fill(used, momentum)
    return prototypes, counts


def prototype_distances(features: Tensor, prototypes: Tensor) -> Tensor:
    """Euclidean (not squared) distances ||f - eta_k|| of features (B, D, h, w) to prototypes (C, D): (B, C, h, w).

    One matrix product, in float32 also under autocast: ||f||^2 + ||eta||^2 - 2 f.eta, relative to the prototypes' mean
    to reduce cancellation. Where a feature equals a prototype, both the distance and its gradient are 0.

    Raises:
        ValueError: shapes do not fit.
    """
    if features.dim() != 4 or prototypes.dim() != 2 or features.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"features (B, D, h, w) and prototypes (C, D) expected, found {tuple(features.shape)} and "
            f"{tuple(prototypes.shape)}"
        )
    with torch.autocast(features.device.type, enabled=False):
        wide = torch.promote_types(features.dtype, torch.float32)
        prototypes = prototypes.to(wide)
        centre = prototypes.mean(dim=0)
        prototypes = prototypes - centre
        centred = features.to(wide).flatten(2) - centre[:, None]  # (B, D, h*w)
        product = prototypes @ centred  # (B, C, h*w)
        squared = centred.square().sum(dim=1, keepdim=True) + prototypes.square().sum(dim=1)[:, None] - 2 * product
        positive = squared > 0
        # The root's gradient at 0 is infinite, so a constant takes the place of zeros.
        distances = rounded_sqrt(squared.masked_fill(~positive, 1.0)) * positive
    return distances.unflatten(2, features.shape[2:])


def assignment_logits(distances: Tensor, temperature: float = 1.0, seen: Tensor | None = None) -> Tensor:
    """-(d - min_k d) * temperature; its softmax is the soft assignment to prototypes (ProDA).

    The paper divides by the temperature. The release multiplies, as here; at its value of 1 this is the same.

    Args:
        distances: (B, C, h, w), see `prototype_distances`.
        temperature: sharpness, above 0.
        seen: (C,) bool; other classes get the weight 0. None, or no class seen: all take part.

    Returns:
        (B, C, h, w), finite.
    """
    if seen is not None:
        seen = (seen | ~seen.any())[:, None, None]
        distances = distances.masked_fill(~seen, torch.inf)
    logits = -(distances - distances.detach().amin(dim=1, keepdim=True)) * temperature
    # Finite, so that 0 log 0 does not become NaN further on; its exponential is 0.
    return logits if seen is None else logits.masked_fill(~seen, -1e4)


def assignment_weights(distances: Tensor, temperature: float = 1.0, seen: Tensor | None = None) -> Tensor:
    """Softmax of `assignment_logits`: weights (B, C, h, w) in [0, 1] that sum to 1 over the classes."""
    return assignment_logits(distances, temperature, seen).softmax(dim=1)


def _images(means: ClassMeans) -> list[tuple[Tensor, Tensor]]:
    """Each image's vectors (C, D) and which of them are used (C,)."""
    used = means.present & (means.vectors.sum(dim=2) != 0)
    return list(zip(means.vectors.unbind(), used.unbind(), strict=True))


def _check(prototypes: Tensor, counts: Tensor, means: ClassMeans) -> None:
    if prototypes.dim() != 2 or counts.shape != prototypes.shape[:1] or means.vectors.shape[1:] != prototypes.shape:
        raise ValueError(
            f"prototypes (C, D), counts (C,) and vectors (B, C, D) expected, found {tuple(prototypes.shape)}, "
            f"{tuple(counts.shape)} and {tuple(means.vectors.shape)}"
        )
