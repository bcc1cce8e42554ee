"""One row or stage of a report against another: by seed and image, for runs of equal seed saw the same data.

What is declared of the test, and why it is what it is, stands in `statistics`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from udaseg.reports.compare.statistics import DECLARED, LEVEL, Estimate, Row, holm
from udaseg.reports.read.report import Report, Run
from udaseg.reports.read.run_folders import number, set_score
from udaseg.reports.tables.table import DASH, of_planned, signed

NO_COUNTS = "The runs do not tell of their images one by one; evaluate them again."
SAME = (
    "The two have the same weights, bit by bit: what differs between them does nothing at this study's settings, and "
    "nothing is learnt about it."
)
NOTHING = Estimate(math.nan, math.nan, math.nan, math.nan, math.nan, 0, 0)


def scores(report: Report, label: str, stage: str | None = None, members: Sequence[str] | None = None) -> pd.Series:
    """Seed → mIoU in percent (last iteration) of one stage of a row, its final one unless named; no NaN.

    It is the headline's, or that of the classes `members`. The series' name tells with which others it may be compared:
    by what metric, and with how many labels.
    """
    runs = _runs(report, label, stage)
    values = {run.seed: 100 * _score(report, run, members) for run in runs}
    labelled = runs[0].labelled_target if runs else 0
    metric = report.metric(label, report.headline) if members is None else report.metric(label, "+".join(members))
    return pd.Series(values, dtype=float, name=(metric, labelled)).dropna()


def row(report: Report, label: str, stage: str | None = None, members: Sequence[str] | None = None) -> Row | None:
    """The same scores in every draw of images; None where some run with a score does not tell of its images."""
    key = (label, stage, None if members is None else tuple(members))
    if report.bootstrap is not None and key not in report.drawn:
        values = scores(report, label, stage, members)
        images = report.bootstrap.images
        counts = {run.seed: run.counts() for run in _runs(report, label, stage) if run.seed in values.index}
        known = {seed: found for seed, found in counts.items() if found is not None and len(found) == images}
        chosen = report.class_sets[report.headline] if members is None else members
        indices = [report.classes.index(name) for name in chosen]
        whole = len(known) == len(values)
        report.drawn[key] = report.bootstrap.row(known, indices, values.name) if whole else None
    return report.drawn.get(key)


def difference(
    report: Report,
    label: str,
    other: str,
    stage: str | None = None,
    other_stage: str | None = None,
    members: Sequence[str] | None = None,
) -> Estimate:
    """The mIoU of `label` minus that of `other` over the seeds that both have, in percentage points.

    Scores of different names (see `scores`) are not compared: the difference is over no seed.
    """
    own, others = scores(report, label, stage, members), scores(report, other, other_stage, members)
    same = own.name == others.name
    differences = (own - others).dropna() if same else pd.Series(dtype=float)
    equal = same and len(differences) and not differences.any()
    if equal and _weights(report, label, stage) == _weights(report, other, other_stage):
        return replace(NOTHING, value=0.0, seeds=len(differences), reason=SAME)
    drawn, others_drawn = row(report, label, stage, members), row(report, other, other_stage, members)
    if not same or report.bootstrap is None or drawn is None or others_drawn is None:
        reason = NO_COUNTS if same else "The two are not measured alike."
        return replace(NOTHING, value=float(differences.mean()), seeds=len(differences), reason=reason)
    return report.bootstrap.compare(drawn, others_drawn)


def best(report: Report, labels: Iterable[str]) -> str | None:
    """The row among `labels` that the test finds better than every other one, or None."""
    rows = {label: row(report, label) for label in labels if len(scores(report, label))}
    known = {label: found for label, found in rows.items() if found is not None}
    return report.bootstrap.best(known) if report.bootstrap is not None and len(known) == len(rows) else None


def estimate_text(estimate: Estimate, planned: int, p: float = math.nan) -> str:
    """`+4.5 [+3.1, +5.9]`, `+4.5 [–]` without an interval; with ` *` where the corrected `p` is below the level."""
    if not estimate.seeds:
        return DASH
    ends = DASH if math.isnan(estimate.low) else f"{signed(estimate.low)}, {signed(estimate.high)}"
    star = " *" if p < LEVEL else ""
    return f"{signed(estimate.value)} [{ends}]{star}" + of_planned(estimate.seeds, planned)


def estimate_numbers(name: str, estimate: Estimate, p: float) -> dict[str, float]:
    """The columns of a table's numbers that hold it; `p` is corrected for the other comparisons of its family."""
    values = {"mean": estimate.value, "low": estimate.low, "high": estimate.high, "p": estimate.p, "p_holm": p}
    values |= {"detectable": estimate.detectable, "n": estimate.seeds}
    return {f"{name}_{key}": value for key, value in values.items()}


@dataclass(frozen=True)
class Comparisons:
    """A column of a table in which its rows are compared: one family of tests. None: the row is compared with nothing.

    `name` is what its columns of numbers begin with.
    """

    name: str
    estimates: list[Estimate | None]

    @cached_property
    def corrected(self) -> list[float]:
        """The p-values, corrected for each other; NaN where there is no test."""
        return holm([math.nan if estimate is None else estimate.p for estimate in self.estimates])

    def text(self, index: int, planned: int) -> str:
        """The cell of a row, of which `planned` seeds were planned."""
        estimate = self.estimates[index]
        return DASH if estimate is None else estimate_text(estimate, planned, self.corrected[index])

    def numbers(self, index: int) -> dict[str, float]:
        """The columns of a row's numbers."""
        return estimate_numbers(self.name, self.estimates[index] or NOTHING, self.corrected[index])


def declared_notes(columns: Iterable[Comparisons]) -> list[str]:
    """What must stand under a table with such columns: the test, what it can find, why some intervals are not there."""
    estimates = [estimate for column in columns for estimate in column.estimates if estimate is not None]
    found = [estimate.detectable for estimate in estimates if not math.isnan(estimate.detectable)]
    notes = [f"{DECLARED} Differences are in percentage points; * marks those whose corrected p is below {LEVEL}."]
    if found:
        low, high = f"{min(found):.1f}", f"{max(found):.1f}"
        words = low if low == high else f"{low} to {high}"
        notes.append(f"Smallest detectable difference of these comparisons: {words} percentage points.")
    why = dict.fromkeys(estimate.reason for estimate in estimates if estimate.seeds and estimate.reason)
    return notes + [f"No interval [{DASH}]: {reason}" for reason in why]


def gap_closed(method: pd.Series, baseline: pd.Series, oracle: pd.Series) -> tuple[float, int]:
    """(method − baseline) / (oracle − baseline) of the means over the seeds that all three have.

    Returns the fraction (NaN where it does not exist) and the number of seeds. All map seeds to scores; of those of
    different names (see `scores`) there is no gap.
    """
    seeds = sorted(set(method.index) & set(baseline.index) & set(oracle.index))
    if not seeds or len({method.name, baseline.name, oracle.name}) > 1:
        return math.nan, 0
    own, low, high = (float(values.loc[seeds].mean()) for values in (method, baseline, oracle))
    return ((own - low) / (high - low) if high > low else math.nan), len(seeds)


def gap_text(gap: float, n: int, planned: int) -> str:
    """`42 %`, or a dash."""
    return DASH if math.isnan(gap) else f"{100 * gap:.0f} %" + of_planned(n, planned)


def metric_notes(report: Report, labels: Iterable[str]) -> list[str]:
    """What must stand under a table some of whose rows are scored by another metric than the others."""
    others = {report.metric(label, report.headline) for label in labels} - {report.headline}
    return [
        f"All scores of rows named {metric} are of predictions that were aggregated over each image, as the features "
        "before them (PLCA's test-time aggregation). They are other metrics than the plain ones: between a row of "
        f"these and one of those no difference and no gap closed is computed ({DASH}). Which checkpoint is the best on "
        "val was told by the plain metric in every row."
        for metric in sorted(others)
    ]


def _runs(report: Report, label: str, stage: str | None) -> list[Run]:
    return report.final_runs(label) if stage is None else report.stage_runs(label, stage)


def _weights(report: Report, label: str, stage: str | None) -> dict[int, str | None]:
    """Seed → checksum of the last weights."""
    return {run.seed: run.files.get("model.safetensors") for run in _runs(report, label, stage)}


def _score(report: Report, run: Run, members: Sequence[str] | None) -> float:
    """Of the last weights; NaN where there is none, or where no class of `members` is defined."""
    if members is None:
        return set_score(report, run, "last", report.headline)
    ious = (run.metrics.get("scores", {}).get("last") or {}).get("iou", {})
    values = [value for name in members if not math.isnan(value := number(ious.get(name)))]
    return float(np.mean(values)) if values else math.nan
