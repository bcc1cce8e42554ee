"""Recipes with labels for some target images. They are not unsupervised and have tables of their own."""

from typing import Any

import pandas as pd

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.read.protocols import protocol_notes
from udaseg.reports.read.rows import Row
from udaseg.reports.tables.differences import Differences, declared_notes
from udaseg.reports.tables.notes import metric_notes, missing_notes
from udaseg.reports.tables.table import Table, cell

BASELINE = "source_only"  # the method that uses labelled images and nothing else
PREFIX = "semi_supervised_"  # of the tables' names


def semi_supervised_tables(comparisons: Comparisons) -> list[Table]:
    """For each number of labelled target images: recipes × headline mIoU, difference to a BASELINE among them."""
    return [_table(comparisons, images, own) for images, own in comparisons.report.semi_supervised.items()]


def _table(comparisons: Comparisons, images: int, shown: list[Row]) -> Table:
    report = comparisons.report
    methods = {row: {run.spec.get("method") for run in row.final.runs} for row in shown}
    baseline = next((row for row, names in methods.items() if BASELINE in names), None)
    columns = []
    if baseline is not None:
        gains = [None if row is baseline else comparisons.difference(row.final, baseline.final) for row in shown]
        columns.append(Differences(f"difference_to_{baseline.name}", gains))
    rows, numbers = [], []
    for index, row in enumerate(shown):
        summary = comparisons.summary(row.final)
        record: dict[str, Any] = {"method": row.name, "metric": row.headline, "labelled_target": images}
        record |= {"seeds_planned": summary.planned} | summary.numbers(report.headline)
        for column in columns:
            record |= column.numbers(index)
        numbers.append(record)
        texts = [column.text(index, summary.planned) for column in columns]
        rows.append([row.scored_title, str(summary.n), cell(summary, always_n=True), *texts])
    header = ["Method", "Seeds", f"{report.headline} (last)"]
    notes = [
        "Mean ± sample standard deviation over seeds.",
        f"N = {images} of the target's training images had labels, which the seed chooses. This is semi-supervised: no "
        "row here can be compared with one of unsupervised adaptation.",
        *protocol_notes(report, shown),
        *metric_notes(report, shown),
    ]
    if baseline is not None:
        header.append(f"Difference to {baseline.scored_title}")
        notes += declared_notes(columns)
    notes += missing_notes(report, shown)
    title = f"{report.study}: semi-supervised, {images} labelled target images, mIoU (last) in percent"
    return Table(f"{PREFIX}{images}", title, header, rows, pd.DataFrame(numbers), notes)
