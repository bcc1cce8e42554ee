"""Tables of sweeps: what each point reaches, against the point that changes nothing and against the baseline."""

import itertools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from udaseg.reports.compare.comparisons import Comparisons, best, declared_notes, difference, metric_notes, scores
from udaseg.reports.read.report import Report
from udaseg.reports.read.run_folders import missing_footnotes, number
from udaseg.reports.tables.table import DASH, Summary, Table, cell, plain, summarise
from udaseg.runs.spec import ReportSweep

PREFIX = "ablation_"  # of the tables' and figures' names


@dataclass(frozen=True)
class Point:
    """A point of a sweep as a report shows it."""

    name: str
    label: str | None  # of its runs; None: it is skipped
    values: dict[str, Any] = field(default_factory=dict)  # parameter -> value; of a list of points nothing
    reason: str = ""  # why it is skipped


def sweep_points(report: Report, sweep: ReportSweep) -> list[Point]:
    """The points of a sweep in their order, with those that are skipped: of a list of points these come last.

    Raises:
        ValueError: the skipped points are not those combinations of the sweep's values that have no runs.
    """
    trained = [Point(report.point_name(label), label) for label in report.sweep_labels(sweep.name)]
    skipped = [Point(entry.point, None, {}, entry.reason) for entry in report.skipped if entry.sweep == sweep.name]
    if not sweep.over:
        return trained + skipped
    combinations = [dict(zip(sweep.over, values, strict=True)) for values in itertools.product(*sweep.over.values())]
    with_runs = {json.dumps(run.point, sort_keys=True): run.label for run in report.runs if run.sweep == sweep.name}
    labels = [with_runs.get(json.dumps(values, sort_keys=True)) for values in combinations]
    left = [values for values, label in zip(combinations, labels, strict=True) if label is None]
    # Those that are skipped are listed in the order of the combinations, too.
    gaps = iter([Point(point.name, None, values, point.reason) for values, point in zip(left, skipped, strict=True)])
    return [
        next(gaps) if label is None else Point(report.point_name(label), label, values)
        for values, label in zip(combinations, labels, strict=True)
    ]


def value_text(value: Any) -> str:
    """A value of a parameter for readers: 0.1, paper, 48x48."""
    if isinstance(value, list):
        return "x".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def scored_name(report: Report, point: Point) -> str:
    """A point's name beside scores: with its metric where that is another, and the labelled target images it had."""
    if point.label is None:
        return point.name
    metric, labelled = report.metric(point.label, report.headline), report.final_runs(point.label)[0].labelled_target
    name = point.name if metric == report.headline else f"{point.name}, {metric}"
    return f"{name} (N = {labelled})" if labelled else name


def summary_of(report: Report, point: Point) -> Summary:
    """The headline mIoU of a point in percent (last iteration), over its seeds; of none where it is skipped."""
    if point.label is None:
        return summarise([], 0)
    return summarise(scores(report, point.label), len(report.final_runs(point.label)))


def ablation_tables(report: Report) -> list[Table]:
    """One table for each sweep of the study, in its order."""
    return [_table(report, sweep) for sweep in report.sweeps]


def _table(report: Report, sweep: ReportSweep) -> Table:
    """Points × headline mIoU, the differences to the unchanged recipe and to the baseline, and seconds of training."""
    points = sweep_points(report, sweep)
    labels = report.sweep_labels(sweep.name)
    columns = _comparisons(report, sweep, points)
    leader = best(report, labels)
    rows, numbers = [], []
    for index, point in enumerate(points):
        score = summary_of(report, point)
        cost = summarise(_seconds(report, point.label), score.planned)
        record: dict[str, Any] = {"point": point.name}
        record |= {
            name: value_text(value) if isinstance(value, list) else value for name, value in point.values.items()
        }
        record["metric"] = report.metric(point.label or "", report.headline)
        record |= {"skipped": point.label is None, "seeds_planned": score.planned} | score.numbers(report.headline)
        row = [scored_name(report, point), cell(score, always_n=True)]
        for column in columns.values():
            record |= column.numbers(index)
            row.append(column.text(index, score.planned))
        if columns:
            estimate = next(iter(columns.values())).estimates[index]
            row.append(DASH if estimate is None else plain(estimate.detectable))
        rows.append([*row, *([cell(cost, 0, spread=False)] if report.measured else [])])
        numbers.append(record | (cost.numbers("seconds") if report.measured else {}))
    header = ["Point", f"{report.headline} (last)", *columns]
    header += ["Smallest detectable difference"] if columns else []  # of the first one
    header += ["Seconds"] if report.measured else []
    notes = _notes(report, sweep, points, columns, leader)
    marked = frozenset((index, 1) for index, point in enumerate(points) if leader is not None and point.label == leader)
    title = f"{report.study}: {sweep.title}; mIoU in percent, mean ± sample standard deviation over seeds"
    return Table(PREFIX + sweep.name, title, header, rows, pd.DataFrame(numbers), notes, best=marked)


def _comparisons(report: Report, sweep: ReportSweep, points: list[Point]) -> dict[str, Comparisons]:
    """Heading → differences of the points to one row. None for the runs of that row itself, whatever their label."""
    others = {"Difference to the unchanged recipe": (sweep.reference, "reference")} if sweep.reference else {}
    if report.baseline in report.labels():
        heading = f"Difference to {report.scored_title(report.baseline)}"
        others[heading] = (report.baseline, report.baseline)
    return {
        heading: Comparisons(
            f"difference_to_{name}",
            [
                None
                if point.label is None or _same(report, point.label, other)
                else difference(report, point.label, other)
                for point in points
            ],
        )
        for heading, (other, name) in others.items()
    }


def _notes(
    report: Report, sweep: ReportSweep, points: list[Point], columns: dict[str, Comparisons], leader: str | None
) -> list[str]:
    """What must stand under the table of a sweep."""
    labels = report.sweep_labels(sweep.name)
    notes = []
    if sweep.reference is not None:
        notes.append(f"The unchanged recipe is the point '{report.point_name(sweep.reference)}'.")
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
    notes += metric_notes(report, labels)
    if any(report.final_runs(label)[0].labelled_target for label in labels):
        notes.append("N = target images with labels: these points are compared only with what had as many of them.")
    notes += _shared_notes(report, labels)
    notes += [f"'{point.name}' is skipped: {point.reason}" for point in points if point.label is None]
    return notes + missing_footnotes(report, [*labels, report.baseline])


def _shared_notes(report: Report, labels: list[str]) -> list[str]:
    """A sentence for each point whose runs are those of another point or of a row of the main table."""
    others = {label: report.title(label) for label in report.labels()}
    for sweep in report.sweeps:
        place = "" if sweep.points.keys() == set(labels) else f" of {sweep.title}"
        others |= {label: f"'{name}'{place}" for label, name in sweep.points.items()}
    notes = []
    for label in labels:
        same = [name for other, name in others.items() if other != label and _same(report, label, other)]
        if same:
            notes.append(f"'{report.point_name(label)}' is the same run as {', '.join(same)}.")
    return notes


def _same(report: Report, label: str, other: str) -> bool:
    """Whether two rows are the same runs, scored alike, in all seeds that both have."""
    own, others = _places(report, label), _places(report, other)
    shared = own.keys() & others.keys()
    return bool(shared) and all(own[seed] == others[seed] for seed in shared)


def _places(report: Report, label: str) -> dict[int, tuple[Path, Path | None]]:
    return {run.seed: (run.folder, run.evaluation) for run in report.final_runs(label)}


def _seconds(report: Report, label: str | None) -> list[float]:
    """What the stages of a row took together, by seed; NaN where one of them is not trained."""
    by_seed: dict[int, list[float]] = {}
    for run in report.runs:
        if run.label == label:
            by_seed.setdefault(run.seed, []).append(number(run.cost.get("seconds")))
    return [math.fsum(seconds) for seconds in by_seed.values()]
