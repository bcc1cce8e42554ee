"""The scorecard: each claim of a paper, what this study measured for it, and the verdict."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from udaseg.config.claims import Claim
from udaseg.reports.compare.claims import RARE, RULE, Finding, compared_rows, find, rare_classes
from udaseg.reports.compare.comparisons import NOTHING, Comparisons
from udaseg.reports.compare.statistics import DECLARED, holm
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Place
from udaseg.reports.tables.differences import estimate_numbers, estimate_text, interval_notes
from udaseg.reports.tables.notes import missing_notes
from udaseg.reports.tables.table import DASH, Table

SHOWN = 2  # comparisons of a claim that are shown one by one; of more, the one that decides


def claims_table(comparisons: Comparisons, claims: Sequence[Claim]) -> Table | None:
    """Claim, verdict, difference, corrected p, compared rows and source; the numbers have a line for each comparison.

    None where the study has what none of the claims needs.
    """
    report = comparisons.report
    findings = [find(comparisons, claim) for claim in claims]
    if all(finding.lack for finding in findings):
        return None
    corrected = holm([finding.p for finding in findings])
    rows, numbers = [], []
    for finding, p in zip(findings, corrected, strict=True):
        claim, verdict = finding.claim, finding.verdict(p) or DASH
        compared, measured = _texts(report, finding)
        rows.append([claim.paper, claim.claim, verdict, measured, _p_text(p), compared, claim.where])
        numbers += _numbers(finding, p, verdict)
    header = ["Paper", "Claim", "Verdict", "Difference", "Corrected p", "Compared", "Source"]
    title = f"{report.study}: claims of the papers, differences of mIoU in percentage points"
    return Table("claims", title, header, rows, pd.DataFrame(numbers), _notes(report, findings), grouped=True)


def _texts(report: Report, finding: Finding) -> tuple[str, str]:
    """The cells that say what is compared and what was measured."""
    compared = [f"{_name(report, own)} − {_name(report, other)}" for own, other in finding.places]
    if not compared:
        return "; ".join(f"{own} − {other}" for own, other in compared_rows(finding.claim)[:SHOWN]), DASH
    planned = [own.stage.planned for own, _ in finding.places]
    measured = [estimate_text(*both) for both in zip(finding.estimates, planned, strict=True)]
    if len(compared) <= SHOWN:
        return "; ".join(compared), "; ".join(measured)
    index = _decisive(finding)
    word = "largest" if finding.claim.alike else "smallest"
    return f"{compared[index]} ({word} of {len(compared)})", measured[index]


def _decisive(finding: Finding) -> int:
    """The index of the comparison that is nearest to failing: the smallest; for rows that are alike, the largest."""
    values = np.array([estimate.value for estimate in finding.estimates])
    if np.isnan(values).all():
        return 0
    return int(np.nanargmax(np.abs(values)) if finding.claim.alike else np.nanargmin(values))


def _name(report: Report, place: Place) -> str:
    """The display name of a row; a point goes by its own name, because the claim says which sweep it belongs to."""
    points = {row: name for sweep in report.sweeps for row, name in sweep.points.items()}
    name = points.get(place.row.name) or place.row.title
    return name if place.named is None else f"{name}, {place.named}"


def _p_text(p: float) -> str:
    if math.isnan(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _numbers(finding: Finding, p: float, verdict: str) -> list[dict[str, Any]]:
    """A line for each comparison of a claim, with the claim's own p and verdict in each."""
    claim = finding.claim
    comparisons = compared_rows(claim)
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
    notes += interval_notes(estimate for finding in findings for estimate in finding.estimates)
    lacking = [finding for finding in findings if finding.lack]
    notes += [f"'{finding.claim.claim}' ({finding.claim.paper}): {finding.lack}." for finding in lacking]
    rows = {place.row for finding in told for places in finding.places for place in places}
    return notes + missing_notes(report, rows)
