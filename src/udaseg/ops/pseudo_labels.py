"""Pseudo-labels from a teacher's predictions for a batch, and how much they are trusted.

`ops.selection` has the ones whose thresholds come from a whole data set.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from udaseg.ops.maps import nearest, resize
from udaseg.ops.prototypes import assignment_weights, prototype_distances
from udaseg.types import IGNORE


class WeightedLabels(NamedTuple):
    labels: Tensor  # (B, H, W) int64, class indices; 255 where a pixel is not valid
    weight: Tensor  # (B, H, W) float32 in [0, 1], weight of each pixel in a loss
    quality: Tensor  # () float32, the share of pixels of the whole batch that are confident


@torch.no_grad()
def confidence_weighted(
    logits: Tensor, threshold: float, ignore_top: int = 0, ignore_bottom: int = 0, valid: Tensor | None = None
) -> WeightedLabels:
    """The most probable class of every pixel, all weighted by the share of confident pixels in the batch.

    DACS (WACV 2021) and DAFormer (CVPR 2022). An unsure pixel keeps its label; only the common weight shrinks.

    Args:
        logits: (B, C, H, W), of the teacher at the size of the images.
        threshold: lowest probability of a confident pixel (DACS 0.968).
        ignore_top, ignore_bottom: rows of weight 0 at top and bottom (DAFormer 15 and 120 of 512: the teacher errs at
            the edge and on the car's bonnet). They count for the share. More rows than the image has is no error.
        valid: (B, H, W) bool, False for pixels outside of any image: label 255, weight 0, not counted in the share.

    Raises:
        ValueError: logits of another shape, a mask that does not fit them, or a negative number of rows.
    """
    if logits.dim() != 4:
        raise ValueError(f"logits (B, C, H, W) expected, found {tuple(logits.shape)}")
    if valid is not None and valid.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(f"valid (B, H, W) of logits {tuple(logits.shape)} expected, found {tuple(valid.shape)}")
    if ignore_top < 0 or ignore_bottom < 0:
        raise ValueError(f"rows to ignore must be 0 or more, found {ignore_top} and {ignore_bottom}")
    confidence, labels = logits.softmax(dim=1).max(dim=1)
    confident = confidence >= threshold
    if valid is None:
        quality = confident.sum() / confident.numel()
    else:
        quality = (confident & valid).sum() / valid.sum().clamp(min=1)
        labels = labels.masked_fill(~valid, IGNORE)
    weight = quality.expand(labels.shape).clone()
    weight[:, :ignore_top] = 0
    weight[:, max(weight.shape[1] - ignore_bottom, 0) :] = 0
    return WeightedLabels(labels, weight if valid is None else weight * valid, quality)


@torch.no_grad()
def teacher_labels(logits: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """A teacher's most probable classes, and their probabilities (memory bank, ICCV 2021).

    Args:
        logits: (B, C, h, w).
        valid: (B, H, W) bool, False for pixels outside of any image.

    Returns:
        Labels (B, H, W) int64, 255 where not valid, and confidence (B, H, W) float32 in [0, 1].
    """
    confidence, labels = resize(logits.float(), valid.shape[-2:]).softmax(dim=1).max(dim=1)
    return labels.masked_fill(~valid, IGNORE), confidence


@torch.no_grad()
def trusted_labels(labels: Tensor, logits: Tensor, confidence: float) -> Tensor:
    """Labels at the resolution of a teacher's logits, 255 where it predicts another class or is not confident.

    Args:
        labels: (B, H, W) int64, 255 = ignore.
        logits: (B, C, h, w).
        confidence: the prediction's probability must exceed it (released 0.95).

    Returns:
        (B, h, w) int64.

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.dim() != 4 or labels.dim() != 3 or len(labels) != len(logits):
        raise ValueError(
            f"labels (B, H, W) and logits (B, C, h, w) expected, found {tuple(labels.shape)} and {tuple(logits.shape)}"
        )
    probs, predicted = resize(logits.float(), labels.shape[-2:]).softmax(dim=1).max(dim=1)
    trusted = (predicted == labels) & (probs > confidence)
    return nearest(labels.masked_fill(~trusted, IGNORE), logits.shape[-2:])


class Rectified(NamedTuple):
    labels: Tensor  # (B, h, w) int64, 255 = ignore
    confidence: Tensor  # (B, h, w) in [0, 1], 0 where the soft label is empty


def rectified_labels(soft: Tensor, weights: Tensor | None = None, threshold: float = 0.0) -> Rectified:
    """Hard labels argmax_k w_k p_k from fixed soft labels and online weights (ProDA, CVPR 2021).

    A pixel whose product is 0 for all classes is ignored; the release gives it class 0.

    Args:
        soft: (B, C, h, w), at least 0; all 0 where there is no label.
        weights: (B, C, h, w), at least 0, see `ops.prototypes.assignment_weights`. None: the soft labels as they are.
        threshold: pixels with a lower confidence, max_k / sum_k of the product, are ignored.

    Raises:
        ValueError: shapes do not fit.
    """
    if soft.dim() != 4 or (weights is not None and weights.shape != soft.shape):
        found = None if weights is None else tuple(weights.shape)
        raise ValueError(f"soft labels and weights (B, C, h, w) expected, found {tuple(soft.shape)} and {found}")
    product = soft if weights is None else soft * weights
    total = product.sum(dim=1)
    empty = total <= 0
    confidence = product.amax(dim=1) / total.masked_fill(empty, 1.0)
    ignored = empty | (confidence < threshold)
    return Rectified(product.argmax(dim=1).masked_fill(ignored, IGNORE), confidence)


class FeatureLabels(NamedTuple):
    labels: Tensor  # (B, H, W) int64, class indices; 255 everywhere if no class was seen
    weights: Tensor  # (B, C, h, w) float32, softmax of minus the distances, at the features' resolution


@torch.no_grad()
def feature_labels(
    features: Tensor, centroids: Tensor, size: tuple[int, ...], seen: Tensor | None = None
) -> FeatureLabels:
    """The class of the nearest centroid: argmax of the upsampled softmax(-||f - rho_c||) (DiGA, CVPR 2023).

    Distances are not squared, and features are not normalised. The centroids follow the teacher's features as moving
    means: `ops.prototypes.momentum_update` of `confirmed_means`.

    Args:
        features: (B, D, h, w).
        centroids: (C, D).
        size: (H, W) of the labels.
        seen: (C,) bool, the classes that have a centroid. That of the others is zeros, which is near to weak features
            but says nothing about the class, so it is left out. None: all compete, as released.

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
    """Labels where two label maps (B, H, W) int64 agree, 255 elsewhere (DiGA).

    Raises:
        ValueError: shapes do not fit.
    """
    if first.shape != second.shape:
        raise ValueError(f"two label maps of one shape expected, found {tuple(first.shape)} and {tuple(second.shape)}")
    labels = first.masked_fill(first != second, IGNORE)
    return Consensus(labels, (labels != IGNORE).float().mean())
