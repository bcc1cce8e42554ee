"""Tables of sweeps: the score of each point against the unchanged recipe and against the baseline."""

import json
import math
from typing import Any

import pandas as pd

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.compare.statistics import Estimate
from udaseg.reports.compare.summaries import summarise
from udaseg.reports.compare.sweeps import Point, sweep_points
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row
from udaseg.reports.tables.differences import Differences, declared_notes
from udaseg.reports.tables.notes import metric_notes, missing_notes
from udaseg.reports.tables.table import DASH, Table, cell, plain
from udaseg.runs.spec import ReportSweep

PREFIX = "ablation_"  # of the tables' and figures' names


def value_text(value: Any) -> str:
    """A value of a parameter for readers: 0.1, paper, 48x48."""
    if isinstance(value, list):
        return "x".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def ablation_tables(comparisons: Comparisons) -> list[Table]:
    """One table for each sweep of the study, in its order."""
    return [_table(comparisons, sweep) for sweep in comparisons.report.sweeps]


def _table(comparisons: Comparisons, sweep: ReportSweep) -> Table:
    """Points × headline mIoU, the differences to the unchanged recipe and to the baseline, and seconds of training."""
    report = comparisons.report
    points = sweep_points(comparisons, sweep)
    columns = _differences(comparisons, sweep, points)
    leader = comparisons.best(report.rows[name] for name in sweep.points)
    rows, numbers = [], []
    for index, point in enumerate(points):
        score = point.summary
        record: dict[str, Any] = {"point": point.name}
        record |= {name: value_text(each) if isinstance(each, list) else each for name, each in point.values.items()}
        record["metric"] = point.row.headline if point.row else report.headline
        record |= {"skipped": point.row is None, "seeds_planned": score.planned} | score.numbers(report.headline)
        row = [point.scored_name, cell(score, always_n=True)]
        for column in columns.values():
            record |= column.numbers(index)
            row.append(column.text(index, score.planned))
        if columns:
            estimate = next(iter(columns.values())).estimates[index]
            row.append(DASH if estimate is None else plain(estimate.detectable))
        if report.measured:
            seconds = point.row.costs("seconds").values() if point.row else []
            cost = summarise(map(math.fsum, seconds), score.planned)
            record |= cost.numbers("seconds")
            row.append(cell(cost, 0, spread=False))
        rows.append(row)
        numbers.append(record)
    header = ["Point", f"{report.headline} (last)", *columns]
    header += ["Smallest detectable difference"] if columns else []  # of the first one
    header += ["Seconds"] if report.measured else []
    notes = _notes(report, sweep, points, columns, leader)
    marked = frozenset((index, 1) for index, point in enumerate(points) if leader is not None and point.row is leader)
    title = f"{report.study}: {sweep.title}; mIoU in percent, mean ± sample standard deviation over seeds"
    return Table(PREFIX + sweep.name, title, header, rows, pd.DataFrame(numbers), notes, best=marked)


def _differences(comparisons: Comparisons, sweep: ReportSweep, points: list[Point]) -> dict[str, Differences]:
    """Heading → differences of the points to one row. None for the runs of that row itself, whatever their name."""
    report = comparisons.report
    baseline = report.rows[report.baseline]
    others = {}
    if sweep.reference:
        others["Difference to the unchanged recipe"] = ("reference", report.rows[sweep.reference])
    if baseline in report.main:
        others[f"Difference to {baseline.scored_title}"] = (baseline.name, baseline)

    def difference(point: Point, other: Row) -> Estimate | None:
        if point.row is None or _are_same_runs(point.row, other):
            return None
        return comparisons.difference(point.row.final, other.final)

    return {
        heading: Differences(f"difference_to_{name}", [difference(point, other) for point in points])
        for heading, (name, other) in others.items()
    }


def _notes(
    report: Report, sweep: ReportSweep, points: list[Point], columns: dict[str, Differences], leader: Row | None
) -> list[str]:
    """What must stand under the table of a sweep."""
    rows = [report.rows[name] for name in sweep.points]
    notes = []
    if sweep.reference is not None:
        notes.append(f"The unchanged recipe is the point '{sweep.points[sweep.reference]}'.")
    if columns:
        notes += declared_notes(columns.values())
        if len(columns) > 1:
            notes.append("The column of smallest detectable differences is that of the first column of differences.")
        notes.append(
            "A best point is marked only where it is better than every other one by the same test, Holm-corrected over "
            "them" + ("; here none is." if leader is None else ".")
        )
    if report.measured:
        notes.append(
            "Seconds: training of all stages of one seed, mean over seeds. A stage that several points share is in "
            "each of their rows, and was trained once."
        )
    notes += metric_notes(report, rows)
    if any(row.labelled_target for row in rows):
        notes.append("N = target images with labels: these points are compared only with what had as many of them.")
    notes += _shared_notes(report, sweep)
    notes += [f"'{point.name}' is skipped: {point.reason}" for point in points if point.row is None]
    return notes + missing_notes(report, [*rows, report.rows[report.baseline]])


def _shared_notes(report: Report, sweep: ReportSweep) -> list[str]:
    """A sentence for each point whose runs are those of another point or of a row of the main table."""
    others = {row.name: row.title for row in report.main}
    for each in report.sweeps:
        place = "" if each.points.keys() == sweep.points.keys() else f" of {each.title}"
        others |= {row: f"'{name}'{place}" for row, name in each.points.items()}
    notes = []
    for row, name in sweep.points.items():
        own = report.rows[row]
        same = [words for other, words in others.items() if other != row and _are_same_runs(own, report.rows[other])]
        if same:
            notes.append(f"'{name}' is the same run as {', '.join(same)}.")
    return notes


def _are_same_runs(row: Row, other: Row) -> bool:
    """Whether two rows are the same runs, scored alike, in all seeds that both have."""
    own, others = ({run.seed: (run.folder, run.evaluation) for run in each.final.runs} for each in (row, other))
    shared = own.keys() & others.keys()
    return bool(shared) and all(own[seed] == others[seed] for seed in shared)
