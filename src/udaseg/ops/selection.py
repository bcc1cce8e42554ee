"""Class-balanced selection of pseudo-labels: thresholds, hard labels, soft labels, rare classes (CBST, CRST).

Zou et al., ECCV 2018, arXiv 1810.07911 (CBST), and ICCV 2019, arXiv 1908.09822 (CRST). Two passes over the target's
images give the thresholds, a third one the labels of each image:

    pools = ClassPools(classes, portion, every)
    while not pools.complete:  # twice
        for image in images:
            pools.feed(probs_of(image))  # (C, H, W)
        pools.end_pass()
    labels = class_balanced_labels(probs, pools.thresholds())  # (B, C, H, W) -> (B, H, W); or `entropy_labels`
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from udaseg.types import IGNORE

_BITS = 15  # half of the bit pattern of a float32 in [0, 2)
_ROUNDING = 1e-6  # of a float32 sum over the classes


class ClassPools:
    """The threshold of each class: the lowest confidence in its most confident `portion`, an exact order statistic.

    A class's pool consists of the confidences of the pixels that are predicted as it: in each image every `every`-th of
    them in row-major order, starting with the first. Of a pool of m confidences the n = floor(m * portion) highest are
    selected, and the threshold is the n-th highest, or 1 if n is 0.

    Pools are not kept in RAM. Bit patterns of non-negative floating-point numbers are ordered like the numbers, so a
    first pass that counts their upper halves finds the interval of the n-th highest, and a second pass over the same
    images that counts the lower halves within it finds the number itself. This takes 256 KiB for each class, however
    many images there are. The release keeps Python floats: 2.7e8 of them for 505 images of Cityscapes.

    Args:
        classes: number of them, C.
        portion: share of each pool that is selected, in [0, 1].
        every: one of this many pixels counts, at least 1 (CRST 4).
    """

    def __init__(self, classes: int, portion: float, every: int = 1) -> None:
        if classes < 1 or every < 1 or not 0 <= portion <= 1:
            raise ValueError(
                f"at least 1 class, a portion in [0, 1] and every at least 1 expected, found {classes}, {portion}, "
                f"{every}"
            )
        self.classes, self.portion, self.every = classes, portion, every
        self.predicted = torch.zeros(classes, dtype=torch.int64)  # (C,) pixels predicted as each class
        self.sizes = torch.zeros(classes, dtype=torch.int64)  # (C,) of the pools
        self._passes = 0
        self._begin_pass()

    def _begin_pass(self) -> None:
        self._counts = torch.zeros(self.classes, 1 << _BITS, dtype=torch.int64)
        self._seen_predicted, self._seen_sizes = torch.zeros_like(self.predicted), torch.zeros_like(self.sizes)

    @property
    def complete(self) -> bool:
        """Whether both passes are finished."""
        return self._passes == 2

    @torch.no_grad()
    def feed(self, probs: Tensor) -> None:
        """Count one image's pixels: the most probable class of each and its probability.

        Args:
            probs: (C, H, W) float32, in [0, 1], on any device.

        Raises:
            ValueError: shape, type or values do not fit (NaN among them), or both passes are done.
        """
        if self.complete:
            raise ValueError("both passes are done; no image can be added")
        if probs.dim() != 3 or len(probs) != self.classes or probs.dtype != torch.float32:
            raise ValueError(
                f"float32 probabilities ({self.classes}, H, W) expected, found {tuple(probs.shape)} {probs.dtype}"
            )
        if not probs.numel():
            return
        confidence, predicted = (rows.flatten() for rows in probs.max(dim=0))  # of equal ones the first class
        lowest, highest = (float(end) for end in confidence.aminmax())
        if not (lowest > 0 and highest <= 1 + _ROUNDING):
            raise ValueError(f"highest probabilities in (0, 1] expected, found {lowest} to {highest}")
        for index in range(self.classes):
            of_class = confidence[predicted == index]
            patterns = of_class[:: self.every].view(torch.int32)
            self._seen_predicted[index] += len(of_class)
            self._seen_sizes[index] += len(patterns)
            digits = patterns >> _BITS
            if self._passes:
                digits = patterns[digits == int(self._upper[index])] & ((1 << _BITS) - 1)
            self._counts[index] += digits.bincount(minlength=1 << _BITS).cpu()

    def end_pass(self) -> None:
        """End a pass, after all images have been added.

        Raises:
            ValueError: the second pass saw other predictions than the first, or both are done already.
        """
        if self.complete:
            raise ValueError("both passes are done")
        if not self._passes:
            self.predicted, self.sizes = self._seen_predicted, self._seen_sizes
            self._upper, self._remaining = self._find(self.ranks)
            self._begin_pass()
        else:
            found = self._counts.sum(dim=1)
            same = torch.equal(self._seen_predicted, self.predicted) and torch.equal(self._seen_sizes, self.sizes)
            if not same or bool((found < self._remaining).any()):
                raise ValueError("the second pass over the images saw other predictions than the first one")
            self._lower, _ = self._find(self._remaining)
        self._passes += 1

    def _find(self, ranks: Tensor) -> tuple[Tensor, Tensor]:
        """The digit at which counting from above reaches `ranks` (C,) numbers, and how many of them have this digit."""
        from_above = self._counts.flip(1).cumsum(dim=1)  # (C, digits), of the highest digit first
        place = (from_above < ranks[:, None]).sum(dim=1).clamp(max=(1 << _BITS) - 1)
        digit = (1 << _BITS) - 1 - place
        above = from_above.gather(1, place[:, None]) - self._counts.gather(1, digit[:, None])
        return digit, ranks - above[:, 0]

    @property
    def ranks(self) -> Tensor:
        """(C,) int64: how many numbers of each pool are selected, n = floor(size * portion), in Python's arithmetic."""
        return torch.tensor([math.floor(size * self.portion) for size in self.sizes.tolist()])

    def thresholds(self) -> Tensor:
        """(C,) float32 in (0, 1]; 1 for a class without selected pixels.

        Raises:
            ValueError: a pass is missing.
        """
        if not self.complete:
            raise ValueError(f"thresholds need two passes over the images, found {self._passes} done")
        numbers = ((self._upper << _BITS) + self._lower).to(torch.int32).view(torch.float32)
        return torch.where(self.ranks > 0, numbers, 1.0)


def scaled(probs: Tensor, thresholds: Tensor) -> Tensor:
    """Class probabilities (B, C, H, W) as multiples of their classes' thresholds (C,), which are positive."""
    if probs.dim() != 4 or thresholds.shape != probs.shape[1:2]:
        raise ValueError(
            f"probabilities (B, C, H, W) and thresholds (C,) expected, found {tuple(probs.shape)} and "
            f"{tuple(thresholds.shape)}"
        )
    if not bool((thresholds > 0).all()):
        raise ValueError(f"positive thresholds expected, found {thresholds.tolist()}")
    return probs / thresholds.to(probs)[:, None, None]


@torch.no_grad()
def class_balanced_labels(probs: Tensor, thresholds: Tensor) -> Tensor:
    """CBST's pseudo-labels: the class whose probability exceeds its own threshold by the largest factor.

    A pixel whose probability equals the threshold is selected, as released (paper: it must exceed it). The label need
    not be the most probable class.

    Args:
        probs: (B, C, H, W) float32, in [0, 1].
        thresholds: (C,) float32, positive.

    Returns:
        (B, H, W) int64, 255 where no class reaches its threshold.
    """
    factor, labels = scaled(probs, thresholds).max(dim=1)
    return labels.masked_fill(factor < 1, IGNORE)


class EntropyLabels(NamedTuple):
    soft: Tensor  # (B, C, H, W), sums to 1 over C at every pixel, also where `hard` is 255
    hard: Tensor  # (B, H, W) int64, the soft label's largest class; 255 where the pixel is not selected


@torch.no_grad()
def entropy_labels(probs: Tensor, thresholds: Tensor, alpha: float) -> EntropyLabels:
    """CRST's labels under an entropy regulariser (LRENT): q_c proportional to (p_c / thr_c)^(1 / alpha).

    A pixel is selected where this q costs less than ignoring the pixel, -Σ q log p + alpha Σ q log q < -Σ q log thr.
    Inserting q gives Σ_c (p_c / thr_c)^(1 / alpha) > 1. In this form rounding matters only where both sides are equal
    (all thresholds 1, alpha 1), and there nothing is selected.

    Args:
        probs: (B, C, H, W) float32, in [0, 1].
        thresholds: (C,) float32, positive.
        alpha: weight of the entropy, positive (CRST 0.25); towards 0, labels become `class_balanced_labels`.
    """
    if not alpha > 0:
        raise ValueError(f"a positive alpha expected, found {alpha}")
    factors = scaled(probs, thresholds)
    largest, hard = factors.max(dim=1, keepdim=True)
    powers = (factors / largest).pow(1 / alpha)  # at most 1, whereas powers of the factors may overflow
    total = powers.sum(dim=1, keepdim=True)
    selected = largest.log() / alpha + total.log() > _ROUNDING
    return EntropyLabels(powers / total, hard.masked_fill(~selected, IGNORE)[:, 0])


def _shares(predicted: Tensor) -> tuple[Tensor, list[int]]:
    """Each class's share of all predicted pixels (C,), and the classes in ascending order of it."""
    if predicted.dim() != 1 or predicted.is_floating_point():
        raise ValueError(f"integer pixel counts (C,) expected, found {tuple(predicted.shape)} {predicted.dtype}")
    order: list[int] = predicted.argsort(stable=True).tolist()
    return predicted.double() / predicted.sum().clamp(min=1), order


def rare_classes(predicted: Tensor, count: int = 3) -> list[int]:
    """The `count` classes predicted at the fewest pixels, absent ones first; of equal ones the lower index first.

    Args:
        predicted: (C,) integer, pixels predicted as each class.
        count: how many (CBST 3).
    """
    return _shares(predicted)[1][:count]


def mined_classes(predicted: Tensor, below: float) -> list[int]:
    """The classes whose share of the predicted pixels is less than `below`, in ascending order.

    Args:
        predicted: (C,) integer, pixels predicted as each class.
        below: share in [0, 1] (CBST 0.001).
    """
    shares, order = _shares(predicted)
    return [index for index in order if shares[index] < below]
