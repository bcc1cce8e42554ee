"""The points of a sweep and their scores."""

import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.compare.summaries import Summary, summarise
from udaseg.reports.read.rows import Row
from udaseg.runs.spec import ReportSweep


@dataclass(frozen=True)
class Point:
    """A point of a sweep as a report shows it."""

    name: str
    row: Row | None  # None: it is skipped
    values: dict[str, Any]  # parameter -> value; of a list of points nothing
    reason: str  # why it is skipped
    scores: np.ndarray  # headline mIoU of its seeds in percent, last iteration
    summary: Summary  # of these scores

    @property
    def scored_name(self) -> str:
        """The name shown beside scores: with the metric if that differs, and the number of labelled target images."""
        if self.row is None:
            return self.name
        name = f"{self.name}, {self.row.headline}" if self.row.aggregated else self.name
        return f"{name} (N = {self.row.labelled_target})" if self.row.labelled_target else name


def sweep_points(comparisons: Comparisons, sweep: ReportSweep) -> list[Point]:
    """The points of a sweep in their order, with those that are skipped: of a list of points these come last.

    Raises:
        ValueError: the skipped points are not those combinations of the sweep's values that have no runs.
    """
    report = comparisons.report

    def trained(row: Row, values: dict[str, Any]) -> Point:
        scores = comparisons.scores(row.final).to_numpy()
        return Point(sweep.points[row.name], row, values, "", scores, summarise(scores, row.final.planned))

    def skipped(name: str, reason: str, values: dict[str, Any]) -> Point:
        return Point(name, None, values, reason, np.array([]), summarise([], 0))

    left_out = [(entry.point, entry.reason) for entry in report.skipped if entry.sweep == sweep.name]
    if not sweep.over:
        points = [trained(report.rows[row], {}) for row in sweep.points]
        return points + [skipped(*entry, {}) for entry in left_out]
    combinations = [dict(zip(sweep.over, values, strict=True)) for values in itertools.product(*sweep.over.values())]
    with_runs = {json.dumps(run.point, sort_keys=True): run.row for run in report.runs if run.sweep == sweep.name}
    rows = [with_runs.get(json.dumps(values, sort_keys=True)) for values in combinations]
    without = [values for values, row in zip(combinations, rows, strict=True) if row is None]
    # Those that are skipped are listed in the order of the combinations, too.
    gaps = iter([skipped(*entry, values) for entry, values in zip(left_out, without, strict=True)])
    return [
        next(gaps) if row is None else trained(report.rows[row], values)
        for values, row in zip(combinations, rows, strict=True)
    ]
