"""Pseudo-labels without a threshold: kept where probabilities and features agree (DiGA, CVPR 2023, arXiv 2304.02222).

A teacher's features are compared with centroids, one of each class, which follow its features as moving means:
`prototypes.momentum_update` of `confirmed_means`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from udaseg.ops.losses import IGNORE, resize
from udaseg.ops.prototypes import ClassMeans, assignment_weights, prototype_distances


class FeatureLabels(NamedTuple):
    labels: Tensor  # (B, H, W) int64, class indices; 255 everywhere where no class was seen
    weights: Tensor  # (B, C, h, w) float32, softmax of minus the distances, at the features' resolution


@torch.no_grad()
def feature_labels(
    features: Tensor, centroids: Tensor, size: tuple[int, ...], seen: Tensor | None = None
) -> FeatureLabels:
    """The class of the nearest centroid: argmax of the upsampled softmax(-||f - rho_c||), not squared, not normalised.

    Args:
        features: (B, D, h, w).
        centroids: (C, D).
        size: (H, W) of the labels.
        seen: (C,) bool, the classes that have a centroid. The others' is of zeros, to which weak features are near,
            though it says nothing of the class: they get no label. None: all compete, as released.

    Raises:
        ValueError: shapes do not fit.
    """
    weights = assignment_weights(prototype_distances(features, centroids), seen=seen)
    labels = resize(weights, size).max(dim=1).indices
    if seen is not None:
        labels = labels.masked_fill(~seen.any(), IGNORE)
    return FeatureLabels(labels, weights)


class Consensus(NamedTuple):
    labels: Tensor  # (B, H, W) int64, 255 where there is none
    kept: Tensor  # () float32, the share of all pixels that have a label


def bilateral_consensus(first: Tensor, second: Tensor) -> Consensus:
    """Labels where two label maps (B, H, W) int64 are the same, 255 elsewhere.

    Raises:
        ValueError: shapes do not fit.
    """
    if first.shape != second.shape:
        raise ValueError(f"two label maps of one shape expected, found {tuple(first.shape)} and {tuple(second.shape)}")
    labels = first.masked_fill(first != second, IGNORE)
    return Consensus(labels, (labels != IGNORE).float().mean())


@torch.no_grad()
def confirmed_means(features: Tensor, logits: Tensor, labels: Tensor, min_pixels: int = 5) -> ClassMeans:
    """For each image and class, the mean feature over the pixels that are labelled and predicted as the class.

    Args:
        features: (B, D, h, w).
        logits: (B, C, h, w).
        labels: (B, h, w) int64, 255 = none.
        min_pixels: a class with fewer such pixels in an image is not present in it (released 5).

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
