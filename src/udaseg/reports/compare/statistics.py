"""The one test of every report, declared before any result: a paired hierarchical bootstrap over seeds and images.

Compared are two rows by their mIoU on the same images, in the mean over the seeds that both have. A draw varies both:

- *Images* are drawn with replacement, the same ones for both rows and all their seeds (paired and crossed; Owen 2007,
  "The pigeonhole bootstrap", Annals of Applied Statistics 1), and every mIoU is computed anew from their summed counts.
- *Seeds* are drawn from the normal distribution that fits their differences, its variance unknown: the mean over S
  seeds varies as s / √S times Student's t with S − 1 degrees of freedom (the parametric bootstrap-t; Efron and
  Tibshirani 1993, "An Introduction to the Bootstrap", chapter 12).

The interval holds the middle 95 % of the draws, p is twice their smaller share on one side of 0, one draw added. Where
only images matter this is the percentile bootstrap, where only seeds matter Student's t test of the paired differences.

Why seeds are not drawn with replacement as images are. Draws of S seeds show (S − 1) / S of their variance and nothing
beyond the most extreme seed. The interval of three seeds that matter more than the images is their range and covers
1 − 2^(1−S) = 75 %, and three differences of equal sign would have the smallest p there is, however much they differ
(Hesterberg 2015, "What teachers should know about the bootstrap", The American Statistician 69, calls it narrowness).
BCa would correct images only: its acceleration cannot be had from three seeds.

What seeds and images do together (a seed that is better on some images) is in both parts, once too often: there the
interval is too wide; no bootstrap of crossed data is exact (McCullagh 2000, Bernoulli 6). That three differences are
normal cannot be seen from them: where they are as skewed as an exponential, Student's t covers 88 %.

Covered in simulations of 3 seeds, 100 images and 8 classes, some rare, in 1,500 studies each: 93 % where nearly all
that varies are images (classes in few of them; seeds drawn with replacement: 93 %), 95 to 97 % between, 95 % where it
is seeds (with replacement: 74 %), 99 % where it is the two together. Student's t over seeds alone: 15 % of the first.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.05  # of the test; the interval covers the rest
POWER = 0.8  # with which the smallest detectable difference is found
DRAWS = 10_000
SEEDS = 3  # fewest that an interval is given for
K = TypeVar("K")
CHUNK = 500  # draws that are summed at once
DECLARED = (
    f"Test, declared beforehand: paired hierarchical bootstrap over seeds and images ({DRAWS:,} draws of images, the "
    "same for all rows and seeds; seeds by Student's t, n − 1 degrees of freedom). Intervals are of 95 %; p-values are "
    "two-sided and Holm-corrected over the comparisons of a table. The smallest detectable difference is about the one "
    f"that a single test at level {LEVEL} finds with probability {POWER}. With fewer than {SEEDS} seeds there is no "
    "interval and no test."
)


@dataclass(frozen=True)
class Draws:
    """The mIoU of each seed of a row: of all images, and of every draw of images (draws,); fractions."""

    measured: Hashable  # rows are compared where this is equal: metric, images, labels they had
    observed: dict[int, float]
    drawn: dict[int, np.ndarray]

    @property
    def mean(self) -> float:
        """Over the seeds; NaN without any."""
        return float(np.mean(list(self.observed.values()))) if self.observed else math.nan


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means over seeds in percentage points, and what the bootstrap says of it."""

    value: float
    low: float  # ends of the 95 % interval; NaN where there is none, as `p` and `detectable`
    high: float
    p: float  # two-sided, not corrected for other comparisons
    detectable: float  # smallest difference that one test at LEVEL finds with probability POWER
    seeds: int
    images: int
    reason: str = ""  # why there is no interval


class Bootstrap:
    """The draws of a study. All its rows are scored on the same images, so that all share them."""

    def __init__(self, images: int, seed: int, draws: int = DRAWS) -> None:
        """Equal arguments give equal draws.

        Raises:
            ValueError: fewer than two images, of which nothing can be drawn that differs.
        """
        if images < 2:
            raise ValueError(f"a bootstrap over images needs at least 2 of them, not {images}")
        self.images, self.seed, self.draws = images, seed, draws
        generator = np.random.default_rng([seed, 0])
        times = generator.multinomial(images, [1 / images] * images, draws)
        self.times = times.astype(np.uint16)  # (draws, images): how often each image is in a draw

    def draw(self, counts: Mapping[int, np.ndarray], members: Sequence[int], measured: Hashable = "") -> Draws:
        """What the draws make of a row; seeds for whose images no member of the class set is defined are left out.

        Args:
            counts: seed → (N, C, 3) int64, of each image and class the hits, truth and predicted pixels.
            members: indices of the class set's classes.
            measured: what must be equal in two rows that are compared.

        Raises:
            ValueError: counts of another shape than (`images`, C, 3).
        """
        observed, drawn = {}, {}
        for seed, given in sorted(counts.items()):
            if given.ndim != 3 or given.shape[::2] != (self.images, 3):
                raise ValueError(f"counts of seed {seed}: expected ({self.images}, C, 3), found {given.shape}")
            chosen = given[:, list(members)]
            score = float(mean_iou(chosen.sum(0)))
            if not math.isnan(score):
                observed[seed], drawn[seed] = score, self._redrawn(chosen)
        return Draws(measured, observed, drawn)

    def _redrawn(self, counts: np.ndarray) -> np.ndarray:
        """mIoU of each draw (draws,) from counts (N, M, 3).

        Sums of counts are exact in float64, so that they do not depend on how the product is computed.
        """
        columns = counts.reshape(self.images, -1).astype(np.float64)
        chunks = (self.times[start : start + CHUNK] for start in range(0, self.draws, CHUNK))
        return np.concatenate([mean_iou((times @ columns).reshape(-1, *counts.shape[1:])) for times in chunks])

    def mean(self, row: Draws) -> Estimate:
        """The row's mean over seeds with its interval; without a test, for there is nothing that it differs from."""
        seeds = list(row.observed)
        estimate = self._estimate([row.observed[seed] for seed in seeds], [row.drawn[seed] for seed in seeds])
        return replace(estimate, p=math.nan, detectable=math.nan)

    def compare(self, own: Draws, other: Draws) -> Estimate:
        """`own` − `other` over the seeds that both have; over none where the two are not measured alike."""
        if own.measured != other.measured:
            return replace(self._estimate([], []), reason="The two are not measured alike.")
        seeds = [seed for seed in own.observed if seed in other.observed]
        return self._estimate(
            [own.observed[seed] - other.observed[seed] for seed in seeds],
            [own.drawn[seed] - other.drawn[seed] for seed in seeds],
        )

    def _estimate(self, observed: Sequence[float], drawn: Sequence[np.ndarray]) -> Estimate:
        """Of the mean over S seeds, from their values and these values in every draw of images, each (draws,)."""
        seeds = len(observed)
        value = 100 * float(np.mean(observed)) if seeds else math.nan
        none = Estimate(value, math.nan, math.nan, math.nan, math.nan, seeds, self.images)
        if seeds < SEEDS:
            return replace(none, reason=f"An interval needs at least {SEEDS} seeds, not {seeds}.")
        by_images = np.mean(drawn, axis=0)
        undefined = int(np.isnan(by_images).sum())
        if undefined:
            return replace(none, reason=f"In {undefined} of {self.draws} draws of images no class of the set is left.")
        by_seeds = float(np.std(observed, ddof=1)) / math.sqrt(seeds) * self._student(seeds - 1)
        # Each deviation with both signs: then the order of the rows decides about signs and about nothing else.
        values = np.concatenate([by_images + by_seeds, by_images - by_seeds])
        ends = [LEVEL / 2, 1 - POWER, POWER, 1 - LEVEL / 2]
        low, below, above, high = (100 * float(end) for end in np.quantile(values, ends))
        share = min(float(np.mean(values <= 0)), float(np.mean(values >= 0)))
        p = min(1.0, 2 * (share * self.draws + 1) / (self.draws + 1))
        return replace(none, low=low, high=high, p=p, detectable=(high - low) / 2 + (above - below) / 2)

    def _student(self, freedom: int) -> np.ndarray:
        """Student's t (draws,): its quantiles at equal steps, in an order of chance."""
        order = np.random.default_rng([self.seed, 1]).permutation(self.draws)
        quantiles: np.ndarray = stdtrit(freedom, (order + 0.5) / self.draws)  # of Student's t
        return quantiles

    def best(self, rows: Mapping[K, Draws]) -> K | None:
        """The one row that may be marked as the best of a table, or None.

        It has the highest mean, and is better than every other row in a test that is Holm-corrected over them. That is
        more than being better than the runner-up: which row leads was seen from the same data. Rows without a result
        are passed over; one with a result that cannot be tested leaves the table without a best row.
        """
        scored = {name: row for name, row in rows.items() if row.observed}
        if len(scored) < 2:
            return None
        leader = max(scored, key=lambda name: scored[name].mean)
        estimates = [self.compare(scored[leader], row) for name, row in scored.items() if name != leader]
        adjusted = holm([estimate.p for estimate in estimates])
        better = (estimate.value > 0 and p < LEVEL for estimate, p in zip(estimates, adjusted, strict=True))
        return leader if all(better) else None


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Mean over the classes (...) of hits / (truth + predicted − hits), from counts (..., C, 3); fractions.

    A class that is neither in the truth nor predicted is left out, as in `engine.metrics`; NaN where all are.
    """
    hits, truth, predicted = (counts[..., index].astype(np.float64) for index in range(3))
    union = truth + predicted - hits
    ious = np.divide(hits, union, out=np.zeros_like(union), where=union > 0)
    defined = (union > 0).sum(-1)
    means: np.ndarray = np.divide(ious.sum(-1), defined, out=np.full(defined.shape, np.nan), where=defined > 0)
    return means


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values of one family in the order given. NaN is no test: it stays and counts for none.

    Rejecting where the adjusted value is below a level keeps the chance of any false rejection below that level.
    """
    tested = sorted((p, index) for index, p in enumerate(ps) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(ps), 0.0
    for rank, (p, index) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = highest
    return adjusted
