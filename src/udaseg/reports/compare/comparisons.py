"""Scores of a report's rows and the tests between them, paired by seed and image: equal seeds saw the same data.

What is declared of the test, and why it is what it is, stands in `statistics`.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

import pandas as pd

from udaseg.reports.compare.statistics import Bootstrap, Draws, Estimate
from udaseg.reports.compare.summaries import Summary, summarise
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row, Stage

NO_COUNTS = "The runs do not tell of their images one by one; evaluate them again."
OTHER_METRIC = "The two are not measured alike."
SAME = (
    "The two have the same weights, bit by bit: what differs between them does nothing at this study's settings, and "
    "nothing is learnt about it."
)
NOTHING = Estimate(math.nan, math.nan, math.nan, math.nan, math.nan, 0, 0)

Members = tuple[str, ...] | None  # classes whose mean IoU is compared; None: those of the headline


class Comparisons:
    """All estimates and tests of a report; the draws of each stage are computed once and kept."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._draws: dict[tuple[Stage, Members], Draws | None] = {}

    def scores(self, stage: Stage, members: Members = None) -> pd.Series:
        """Seed → mIoU of a stage in percent (last iteration); no NaN. Classes that are undefined are left out of it."""
        if members is None:
            return self.report.percent(stage, "set", self.report.headline).dropna()
        return pd.concat([self.report.percent(stage, "class", name) for name in members], axis=1).mean(axis=1).dropna()

    def summary(self, stage: Stage) -> Summary:
        """Mean and spread of a stage's headline over its seeds."""
        return summarise(self.scores(stage), stage.planned)

    @cached_property
    def bootstrap(self) -> Bootstrap | None:
        """The draws of images that all comparisons share; None where no run has counts by image."""
        counts = (counts for run in self.report.runs if (counts := run.counts()) is not None and len(counts) > 1)
        found = next(counts, None)
        return None if found is None else Bootstrap(len(found), seed=0)

    def draws(self, stage: Stage, members: Members = None) -> Draws | None:
        """The scores in every draw of images; None where a scored run has no counts by image."""
        key = (stage, members)
        if self.bootstrap is not None and key not in self._draws:
            seeds, images = self.scores(stage, members).index, self.bootstrap.images
            counts = {run.seed: run.counts() for run in stage.runs if run.seed in seeds}
            known = {seed: found for seed, found in counts.items() if found is not None and len(found) == images}
            chosen = self.report.class_sets[self.report.headline] if members is None else members
            indices = [self.report.classes.index(name) for name in chosen]
            whole = len(known) == len(seeds)
            self._draws[key] = self.bootstrap.draw(known, indices, stage.measured) if whole else None
        return self._draws.get(key)

    def interval(self, stage: Stage) -> Estimate | None:
        """A stage's mean over its seeds with its interval; None where its runs have no counts by image."""
        draws = self.draws(stage)
        return None if draws is None or self.bootstrap is None else self.bootstrap.mean(draws)

    def difference(self, own: Stage, other: Stage, members: Members = None) -> Estimate:
        """The mIoU of `own` minus that of `other` over the seeds that both have, in percentage points.

        Scores by other metrics, or of rows with other numbers of labelled target images, are not compared: the
        difference is over no seed.
        """
        if own.measured != other.measured:
            return replace(NOTHING, reason=OTHER_METRIC)
        differences = (self.scores(own, members) - self.scores(other, members)).dropna()
        if len(differences) and not differences.any() and _network_weights(own) == _network_weights(other):
            return replace(NOTHING, value=0.0, seeds=len(differences), reason=SAME)
        drawn, others_drawn = self.draws(own, members), self.draws(other, members)
        if self.bootstrap is None or drawn is None or others_drawn is None:
            return replace(NOTHING, value=float(differences.mean()), seeds=len(differences), reason=NO_COUNTS)
        return self.bootstrap.compare(drawn, others_drawn)

    def best(self, rows: Iterable[Row]) -> Row | None:
        """The row that the test finds better than every other one, or None."""
        scored = {row: self.draws(row.final) for row in rows if len(self.scores(row.final))}
        known = {row: draws for row, draws in scored.items() if draws is not None}
        return self.bootstrap.best(known) if self.bootstrap is not None and len(known) == len(scored) else None

    def gap_closed(self, stage: Stage) -> tuple[float, int]:
        """(stage − baseline) / (oracle − baseline) of the means over the seeds that all three have.

        Returns the fraction, NaN where it does not exist, and the number of seeds: none where the three are not
        measured alike.
        """
        three = [self.report.rows[self.report.baseline].final, self.report.rows[self.report.oracle].final, stage]
        scores = [self.scores(each) for each in three]
        seeds = sorted(set.intersection(*(set(each.index) for each in scores)))
        if not seeds or len({each.measured for each in three}) > 1:
            return math.nan, 0
        low, high, own = (float(each.loc[seeds].mean()) for each in scores)
        return ((own - low) / (high - low) if high > low else math.nan), len(seeds)


def _network_weights(stage: Stage) -> dict[int, str | None]:
    """Seed → checksum of the last network weights."""
    return {run.seed: run.files.get("model.safetensors") for run in stage.runs}
