"""The main table and that of the classes: means over seeds with sample standard deviations.

Scores are fractions in the run folders and percent here. A cell that rests on fewer seeds than planned says so.
"""

from typing import Any

import pandas as pd

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.compare.summaries import summarise
from udaseg.reports.read.protocols import protocol_notes
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row
from udaseg.reports.tables.differences import Differences, declared_notes
from udaseg.reports.tables.notes import class_notes, metric_notes, missing_notes
from udaseg.reports.tables.table import Table, cell, gap_text

NORMALISATION = "adabn"  # the method that only re-estimates normalisation: what an adaptation method must beat


def main_table(comparisons: Comparisons) -> Table:
    """Methods × headline mIoU (last, best on val), other class sets, differences, gap closed and pixel accuracy."""
    report = comparisons.report
    headline, others = report.headline, [*list(report.class_sets)[1:], "pixel_accuracy"]
    best_on_val = f"{headline}_best_on_val"
    columns = {headline: ("set", headline, "last"), best_on_val: ("set", headline, "best")}
    columns |= {name: ("set" if name in report.class_sets else "checkpoint", name, "last") for name in others}
    bounds = reference_rows(report)
    differences = [
        Differences(
            f"difference_to_{other.name}",
            [None if row is other else comparisons.difference(row.final, other.final) for row in report.main],
        )
        for other in bounds
    ]
    rows, numbers = [], []
    for index, row in enumerate(report.main):
        planned = row.final.planned
        percent = {name: summarise(report.percent(row.final, *of), planned) for name, of in columns.items()}
        gap, gap_seeds = comparisons.gap_closed(row.final)
        record: dict[str, Any] = {"method": row.name, "metric": row.headline, "seeds_planned": planned}
        for name, summary in percent.items():
            record |= summary.numbers(name)
        for column in differences:
            record |= column.numbers(index)
        numbers.append(record | {"gap_closed": 100 * gap, "gap_closed_n": gap_seeds})
        rows.append(
            [row.scored_title, str(percent[headline].n), cell(percent[headline], always_n=True)]
            + [column.text(index, planned) for column in differences]
            + [gap_text(gap, gap_seeds, planned), cell(percent[best_on_val], always_n=True)]
            + [cell(percent[name]) for name in others]
        )
    header = ["Method", "Seeds", f"{headline} (last)", *(f"Difference to {other.scored_title}" for other in bounds)]
    header += ["Gap closed", f"{headline} (best on val)", *others[:-1], "Pixel accuracy"]
    title = f"{report.study}: mIoU in percent, mean ± sample standard deviation over seeds"
    leader = comparisons.best(row for row in report.main if row not in report.bounds)
    marked = frozenset({(report.main.index(leader), header.index(f"{headline} (last)"))} if leader else ())
    notes = main_notes(comparisons, differences, bounds)
    return Table("main", title, header, rows, pd.DataFrame(numbers), notes, marked)


def reference_rows(report: Report) -> list[Row]:
    """The rows to which every other one is compared: the baseline and, where it is in the study, AdaBN."""
    baseline = report.rows[report.baseline]
    methods = {row: {run.spec.get("method") for run in row.final.runs} for row in report.main}
    bound = next((row for row, names in methods.items() if NORMALISATION in names), baseline)
    return list(dict.fromkeys([baseline, bound]))


def main_notes(comparisons: Comparisons, differences: list[Differences], bounds: list[Row]) -> list[str]:
    """What must stand under the main table: protocol, the rule of selection, undefined classes, missing runs."""
    report = comparisons.report
    baseline, oracle = report.rows[report.baseline], report.rows[report.oracle]
    notes = [
        *protocol_notes(report, report.main),
        *metric_notes(report, report.main),
        "Last iteration = the result. Best on val = the checkpoint with the highest validation score, for comparison "
        "only; nothing is selected on the reported split.",
        *declared_notes(differences),
        "A method is marked as the best only where the test tells it from every other one (bounds apart).",
    ]
    if len(bounds) > 1:
        notes.append(
            f"{bounds[1].title} adapts nothing but the normalisation: the difference to it is what a method adds to "
            "that."
        )
    notes.append(
        f"Gap closed = (method − {baseline.title}) / ({oracle.title} − {baseline.title}), of the means of "
        f"{report.headline} (last) over the seeds that all three have."
    )
    if not comparisons.scores(oracle.final).mean() > comparisons.scores(baseline.final).mean():
        notes.append(f"No gap to close: {oracle.title} has no result or none above that of {baseline.title}.")
    pretraining = [report.rows[run.row] for run in report.pretraining]
    return notes + class_notes(report) + missing_notes(report, [*report.main, *pretraining])


def class_table(report: Report) -> Table:
    """Methods × per-class IoU at the last iteration."""
    rows, numbers = [], []
    for row in report.main:
        planned = row.final.planned
        record: dict[str, Any] = {"method": row.name, "metric": row.headline, "seeds_planned": planned}
        found = {name: summarise(report.percent(row.final, "class", name), planned) for name in report.classes}
        for name, summary in found.items():
            record |= summary.numbers(name)
        numbers.append(record)
        rows.append([row.scored_title] + [cell(summary, spread=False) for summary in found.values()])
    notes = [
        *protocol_notes(report, report.main),
        "Means over seeds; their standard deviations are in classes.csv.",
        *class_notes(report),
    ]
    title = f"{report.study}: IoU per class in percent, last iteration"
    return Table("classes", title, ["Method", *report.classes], rows, pd.DataFrame(numbers), notes)
