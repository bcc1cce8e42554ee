"""Which image comes next. A choice is a function of (seed, position) and of nothing else.

An image is given by its index in the list of names, together with the class that it was chosen for, or None.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from udaseg.config.training import LabelledTarget, RareClass
from udaseg.errors import UserError
from udaseg.ops.class_balance import rare_class_probabilities
from udaseg.seeding import seed_for


class Sampler(Protocol):
    def __call__(self, position: int) -> tuple[int, int | None]:
        """Index of the image at this position of the stream, and the class that it must show, if any."""


class Shuffled:
    """Every image once in each epoch, in a new order each time."""

    def __init__(self, count: int, seed: int, stream: str) -> None:
        self.count, self.seed, self.stream = count, seed, stream
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(seed_for(self.seed, f"{self.stream}.order", epoch)).permutation(self.count)

    def __call__(self, position: int) -> tuple[int, int | None]:
        epoch, place = divmod(position, self.count)
        return int(self._order(epoch)[place]), None


class RareClasses:
    """DAFormer's rare class sampling (CVPR 2022): draw a class, then one of the images that show it.

    The release fails when no image shows a class well enough; here such a class is left out.

    Args:
        pixels: (images, classes), pixels of each class in each image at the training input's size.
        settings: temperature, and the number of pixels that an image must exceed.
        seed: of the run.
        stream: "source".

    Raises:
        UserError: no image shows any class well enough.
    """

    def __init__(self, pixels: Sequence[Sequence[int]], settings: RareClass, seed: int, stream: str) -> None:
        self.seed, self.stream = seed, stream
        counts = torch.tensor(pixels, dtype=torch.int64)
        shown = counts > settings.min_pixels
        if not bool(shown.any()):
            raise UserError(
                f"train.{stream}.rare.min_pixels: no image has more than {settings.min_pixels} pixels of any class; "
                f"the most is {int(counts.max())}: give less than that"
            )
        chances = rare_class_probabilities(counts, settings.temperature).double() * shown.any(0)
        self.cumulative = (chances / chances.sum()).cumsum(0)
        self.images = [column.nonzero()[:, 0].tolist() for column in shown.T]

    def __call__(self, position: int) -> tuple[int, int | None]:
        generator = torch.Generator().manual_seed(seed_for(self.seed, f"{self.stream}.order", position))
        of_class, of_image = torch.rand(2, generator=generator, dtype=torch.float64)
        chosen = int(torch.searchsorted(self.cumulative, of_class, right=True))
        # Rounding may leave the sum a little below 1; a draw above it means the last class with a chance.
        while chosen == len(self.images) or not self.images[chosen]:
            chosen -= 1
        images = self.images[chosen]
        return images[int(of_image * len(images))], chosen


def subset(names: list[str], portion: float, seed: int, stream: str) -> list[str]:
    """A share of the names, chosen by the seed: at least one, sorted. A larger portion contains a smaller (CBST)."""
    if portion == 1:
        return names
    order = np.random.default_rng(seed_for(seed, f"{stream}.subset")).permutation(len(names))
    kept = max(1, int(len(names) * portion))
    return sorted(names[int(index)] for index in order[:kept])


def labelled_subset(names: list[str], count: int, seed: int) -> list[str]:
    """The `count` target images that come with labels, chosen by the seed, sorted. A larger count contains a smaller.

    Raises:
        UserError: the target has fewer images.
    """
    if count > len(names):
        raise UserError(
            f"train.source.labelled_target.images: {count} is more than the target's {len(names)} training images; "
            "lower it"
        )
    order = np.random.default_rng(seed_for(seed, "labelled_target.subset")).permutation(len(names))
    return sorted(names[int(index)] for index in order[:count])


def turn(index: int, total: int, settings: LabelledTarget) -> tuple[bool, int]:
    """Whether batch number `index` of `total` holds labelled target images, and how many of its kind came before it.

    In the paper (Alonso et al., ICCV 2021) every other batch does, beginning with the first, and so do the last
    `finish`. The released code inverts its test: all batches do, except the odd ones among the last `finish`.
    """
    start = max(total - settings.finish, 0)

    def of_target(count: int) -> int:
        """How many of the first `count` batches are of the target."""
        before, after = min(count, start), max(count, start)
        if settings.order == "paper":
            return (before + 1) // 2 + (after - start)
        return before + (after + 1) // 2 - (start + 1) // 2

    target = of_target(index)
    return (True, target) if of_target(index + 1) > target else (False, index - target)


def pixel_counts(statistics: dict[str, Any], names: Sequence[str]) -> list[list[int]]:
    """Pixels per class of the named training images, from a prepared set's statistics."""
    pixels = statistics["splits"]["train"]["pixels"]
    return [pixels[name] for name in names]
