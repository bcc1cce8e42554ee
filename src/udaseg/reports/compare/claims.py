"""The claims of papers: what a study measured for each, and the verdict on it.

The rule is `RULE`, which every table carries; nothing in it was chosen after a result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from udaseg.config.claims import Claim
from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.compare.statistics import LEVEL, Estimate
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Place, split_place

WORTH = 0.5  # percentage points: the smallest difference worth having
RARE = 0.01  # of the labelled pixels: a class with a smaller share is rare
REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
RULE = (
    "Rule, declared beforehand, for a claim that rows are better than others, in all pairs: reproduced where every "
    f"difference is positive and the claim's corrected p is below {LEVEL}; else not reproduced where a difference is "
    f"negative and that p is below {LEVEL}, or where the interval of a difference lies wholly below {WORTH} percentage "
    "points, the smallest difference worth having; else undecided.",
    "The p of such a claim is the largest of its pairs where every difference is positive (they all have to hold, an "
    "intersection-union test, which needs no correction among them), and otherwise the smallest of the pairs whose "
    "difference is not, times the number of pairs. Holm's correction is over the claims. Intervals are not corrected.",
    "Rule for a claim that rows are alike: reproduced where every interval of a difference to the reference lies "
    "within the margin that the claim declares; not reproduced where one lies wholly outside; else undecided. This is "
    "a test of equivalence at 2.5 %, and not among those that Holm's correction is over.",
    "A verdict is about the data, the network and the schedule of this study, which are not the paper's.",
)


@dataclass(frozen=True)
class Finding:
    """What a study measured for a claim: an estimate for each of its comparisons, or why there is none."""

    claim: Claim
    places: list[tuple[Place, Place]] = field(default_factory=list)
    estimates: list[Estimate] = field(default_factory=list)
    lack: str = ""

    @property
    def p(self) -> float:
        """Of a claim of pairs, not corrected for other claims; NaN where there is no test."""
        return math.nan if self.lack or self.claim.alike else claim_p(self.estimates)

    def verdict(self, corrected: float) -> str:
        """The verdict in words, "" where there is none; `corrected` is p corrected for the other claims."""
        if self.lack:
            return ""
        if self.claim.margin is not None:
            return alike_verdict(self.estimates, self.claim.margin)
        return better_verdict(self.estimates, corrected)


def claim_p(estimates: Sequence[Estimate]) -> float:
    """The p of the claim that all these differences are positive, as `RULE` has it; NaN where one is not there."""
    contrary = [estimate.p for estimate in estimates if estimate.value <= 0 and not math.isnan(estimate.p)]
    if contrary:
        return min(1.0, min(contrary) * len(estimates))
    ps = [estimate.p for estimate in estimates]
    return math.nan if any(math.isnan(p) for p in ps) else max(ps)


def better_verdict(estimates: Sequence[Estimate], corrected: float) -> str:
    """The verdict on the claim that all these differences are positive, whose corrected p is `corrected` or NaN."""
    significant = corrected < LEVEL
    if significant and all(estimate.value > 0 for estimate in estimates):
        return REPRODUCED
    if significant and any(estimate.value < 0 for estimate in estimates):
        return NOT_REPRODUCED
    return NOT_REPRODUCED if any(estimate.high < WORTH for estimate in estimates) else _undecided(estimates)


def alike_verdict(estimates: Sequence[Estimate], margin: float) -> str:
    """The verdict on the claim that all these differences are within `margin` percentage points of 0."""
    if all(-margin <= estimate.low and estimate.high <= margin for estimate in estimates):
        return REPRODUCED
    if any(estimate.low > margin or estimate.high < -margin for estimate in estimates):
        return NOT_REPRODUCED
    return _undecided(estimates)


def _undecided(estimates: Sequence[Estimate]) -> str:
    seeds = min(estimate.seeds for estimate in estimates)
    return f"undecided ({seeds} seed{'' if seeds == 1 else 's'})"


def find(comparisons: Comparisons, claim: Claim) -> Finding:
    """What the study measured for a claim."""
    report = comparisons.report
    found = {row: place_of(report, row) for row in claim.rows()}
    places = {row: place for row, place in found.items() if place is not None}
    absent = [row for row in found if row not in places]
    if absent:
        return Finding(claim, lack=f"needs {', '.join(absent)}, which this study does not have")
    members = rare_classes(report) if claim.classes == "rare" else claim.classes
    if members is not None and not members:
        return Finding(claim, lack="no class of this study is rare, as far as it is scored")
    unknown = [name for name in members or [] if name not in report.classes]
    if unknown:
        return Finding(claim, lack=f"needs the classes {', '.join(unknown)}, which this study does not have")
    compared = [(places[own], places[other]) for own, other in compared_rows(claim)]
    classes = None if members is None else tuple(members)
    estimates = [comparisons.difference(own.stage, other.stage, classes) for own, other in compared]
    return Finding(claim, compared, estimates)


def compared_rows(claim: Claim) -> list[tuple[str, str]]:
    """The pairs of rows whose differences the claim is about, own and other."""
    return [(pair.better, pair.than) for pair in claim.pairs] + [(row, str(claim.to)) for row in claim.alike]


def place_of(report: Report, text: str) -> Place | None:
    """The row or stage that a claim names, whether its runs are finished or not; None if none is planned."""
    name, stage = split_place(text)
    row = next((row for row in report.rows.values() if row.recipe == name), None)
    return None if row is None or (stage and stage not in row.stages) else Place(row, stage)


def rare_classes(report: Report) -> list[str]:
    """The headline's classes that have labelled pixels in the split that is scored, but a share below `RARE`."""
    scored = next((run for run in report.runs if run.metrics), None)
    if scored is None:
        return []
    truth = np.array(scored.metrics["scores"]["last"]["confusion"]).sum(axis=1)
    shares = dict(zip(report.classes, truth / truth.sum(), strict=True))
    return [name for name in report.class_sets[report.headline] if 0 < shares[name] < RARE]
