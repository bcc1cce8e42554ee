"""The scorecard: each claim of a paper, what was measured of it in this study, and what that says of it.

The rule is `RULE`, which every table carries; nothing in it was chosen after a result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from udaseg.config.claims import Claim
from udaseg.reports.cells import DASH, Table
from udaseg.reports.collect import missing_footnotes
from udaseg.reports.compare import NOTHING, Comparisons, declared_notes, difference, estimate_numbers, estimate_text
from udaseg.reports.statistics import DECLARED, LEVEL, Estimate, holm
from udaseg.reports.study import Report

WORTH = 0.5  # percentage points: the smallest difference worth having
RARE = 0.01  # of the labelled pixels: a class with a smaller share is rare
SHOWN = 2  # comparisons of a claim that are shown one by one; of more, the one that decides
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
class Place:
    """A row of a claim in a report."""

    label: str
    stage: str | None  # None: the final one


@dataclass(frozen=True)
class Finding:
    """What a study measured of a claim: an estimate for each of its comparisons, or why there is none."""

    claim: Claim
    places: list[tuple[Place, Place]] = field(default_factory=list)
    estimates: list[Estimate] = field(default_factory=list)
    lack: str = ""

    @property
    def p(self) -> float:
        """Of a claim of pairs, not corrected for other claims; NaN where there is no test."""
        return math.nan if self.lack or self.claim.alike else claim_p(self.estimates)

    def verdict(self, corrected: float) -> str:
        """The word for it; `corrected` is its p, corrected for the other claims."""
        if self.lack:
            return DASH
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


def claims_table(report: Report, claims: Sequence[Claim]) -> Table | None:
    """Claim, verdict, difference, corrected p, compared rows and source; the numbers have a line for each comparison.

    None where the study has what none of the claims needs.
    """
    findings = [_finding(report, claim) for claim in claims]
    if all(finding.lack for finding in findings):
        return None
    corrected = holm([finding.p for finding in findings])
    rows, numbers = [], []
    for finding, p in zip(findings, corrected, strict=True):
        claim, verdict = finding.claim, finding.verdict(p)
        compared, measured = _texts(report, finding)
        rows.append([claim.paper, claim.claim, verdict, measured, _p_text(p), compared, claim.where])
        numbers += _numbers(finding, p, verdict)
    header = ["Paper", "Claim", "Verdict", "Difference", "Corrected p", "Compared", "Source"]
    title = f"{report.study}: claims of the papers, differences of mIoU in percentage points"
    return Table("claims", title, header, rows, pd.DataFrame(numbers), _notes(report, findings), grouped=True)


def rare_classes(report: Report) -> list[str]:
    """The headline's classes that have labelled pixels in the split that is scored, but a share below `RARE`."""
    scored = next((run for run in report.runs if run.metrics), None)
    if scored is None:
        return []
    truth = np.array(scored.metrics["scores"]["last"]["confusion"]).sum(axis=1)
    shares = dict(zip(report.classes, truth / truth.sum(), strict=True))
    return [name for name in report.class_sets[report.headline] if 0 < shares[name] < RARE]


def _finding(report: Report, claim: Claim) -> Finding:
    found = {row: _place(report, row) for row in claim.rows()}
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
    compared = [(places[own], places[other]) for own, other in _comparisons(claim)]
    estimates = [difference(report, own.label, other.label, own.stage, other.stage, members) for own, other in compared]
    return Finding(claim, compared, estimates)


def _comparisons(claim: Claim) -> list[tuple[str, str]]:
    """The rows whose differences it is about, own and other."""
    return [(pair.better, pair.than) for pair in claim.pairs] + [(row, str(claim.to)) for row in claim.alike]


def _place(report: Report, row: str) -> Place | None:
    """Where a row's runs are, finished or not; None where the study has none planned."""
    name, colon, stage = (row, "", "") if "/" in row else row.partition(":")
    label = next((run.label for run in report.runs if run.recipe == name), None)
    if label is None or (colon and stage not in report.stages(label)):
        return None
    return Place(label, stage or None)


def _texts(report: Report, finding: Finding) -> tuple[str, str]:
    """The cells of what is compared and of what was measured."""
    compared = [f"{_name(report, own)} − {_name(report, other)}" for own, other in finding.places]
    if not compared:
        return "; ".join(f"{own} − {other}" for own, other in _comparisons(finding.claim)[:SHOWN]), DASH
    planned = [_planned(report, own) for own, _ in finding.places]
    measured = [estimate_text(*both) for both in zip(finding.estimates, planned, strict=True)]
    if len(compared) <= SHOWN:
        return "; ".join(compared), "; ".join(measured)
    index = _decisive(finding)
    word = "largest" if finding.claim.alike else "smallest"
    return f"{compared[index]} ({word} of {len(compared)})", measured[index]


def _decisive(finding: Finding) -> int:
    """Which comparison a claim of many is nearest to failing by: the smallest, of rows that are alike the largest."""
    values = np.array([estimate.value for estimate in finding.estimates])
    if np.isnan(values).all():
        return 0
    return int(np.nanargmax(np.abs(values)) if finding.claim.alike else np.nanargmin(values))


def _name(report: Report, place: Place) -> str:
    """A row for readers; a point of a sweep by its own name, for the claim tells of which sweep it is."""
    points = {label: name for sweep in report.sweeps for label, name in sweep.points.items()}
    name = points.get(place.label) or report.title(place.label)
    return name if place.stage is None else f"{name}, {place.stage}"


def _planned(report: Report, place: Place) -> int:
    runs = report.final_runs(place.label) if place.stage is None else report.stage_runs(place.label, place.stage)
    return len(runs)


def _p_text(p: float) -> str:
    if math.isnan(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _numbers(finding: Finding, p: float, verdict: str) -> list[dict[str, Any]]:
    """A line for each comparison of a claim, with the claim's own p and verdict in each."""
    claim = finding.claim
    comparisons = _comparisons(claim)
    classes = "headline" if claim.classes is None else claim.classes
    return [
        {"claim": claim.name, "own": own, "other": other, "margin": claim.margin}
        | {"classes": classes if isinstance(classes, str) else " ".join(classes)}
        | estimate_numbers("difference", estimate, p)
        | {"claim_p": finding.p, "verdict": verdict}
        for (own, other), estimate in zip(comparisons, finding.estimates or [NOTHING] * len(comparisons), strict=True)
    ]


def _notes(report: Report, findings: list[Finding]) -> list[str]:
    """What must stand under the scorecard: the test, the rule, what is rare, and what is not there."""
    estimates: list[Estimate | None] = [estimate for finding in findings for estimate in finding.estimates]
    told = [finding for finding in findings if not finding.lack]
    notes = [DECLARED, *RULE]
    if any(finding.claim.classes == "rare" for finding in told):
        notes.append(
            f"Rare classes have less than {100 * RARE:g} % of the labelled pixels of the split that is scored: "
            f"{', '.join(rare_classes(report))}. The difference is that of their mIoU."
        )
    if any(len(finding.places) > SHOWN for finding in told):
        notes.append(
            f"Of a claim of more than {SHOWN} comparisons the one nearest to failing it is shown; claims.csv has all."
        )
    notes += [
        f"'{finding.claim.claim}': the margin is {finding.claim.margin:g} percentage points to either side."
        for finding in told
        if finding.claim.margin is not None
    ]
    notes += declared_notes([Comparisons("difference", estimates)])[1:]  # its first one is of tables with one family
    lacking = [finding for finding in findings if finding.lack]
    notes += [f"'{finding.claim.claim}' ({finding.claim.paper}): {finding.lack}." for finding in lacking]
    labels = {place.label for finding in told for places in finding.places for place in places}
    return notes + missing_footnotes(report, labels)
