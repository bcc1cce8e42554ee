"""Recipes that had labels of some target images: tables of their own, because this is no unsupervised adaptation."""

from typing import Any

import pandas as pd

from udaseg.reports.compare.comparisons import Comparisons, declared_notes, difference, metric_notes, scores
from udaseg.reports.read.protocols import protocol_notes
from udaseg.reports.read.report import Report
from udaseg.reports.read.run_folders import missing_footnotes
from udaseg.reports.tables.table import Table, cell, summarise

BASELINE = "source_only"  # the method that uses labelled images and nothing else
PREFIX = "semi_supervised_"  # of the tables' names


def semi_supervised_tables(report: Report) -> list[Table]:
    """For each number of labelled target images: recipes × headline mIoU, difference to a BASELINE among them."""
    return [_table(report, images, labels) for images, labels in report.semi_supervised().items()]


def _table(report: Report, images: int, labels: list[str]) -> Table:
    methods = {label: {run.spec.get("method") for run in report.final_runs(label)} for label in labels}
    baseline = next((label for label, names in methods.items() if BASELINE in names), None)
    gains = [None if label == baseline else difference(report, label, baseline) for label in labels] if baseline else []
    column = Comparisons(f"difference_to_{baseline}", gains)
    rows, numbers = [], []
    for index, label in enumerate(labels):
        values, planned = scores(report, label), len(report.final_runs(label))
        summary = summarise(values, planned)
        record: dict[str, Any] = {"method": label, "metric": report.metric(label, report.headline)}
        record |= {"labelled_target": images, "seeds_planned": planned} | summary.numbers(report.headline)
        row = [report.scored_title(label), str(summary.n), cell(summary, always_n=True)]
        if baseline is not None:
            record |= column.numbers(index)
            row.append(column.text(index, planned))
        rows.append(row)
        numbers.append(record)
    header = ["Method", "Seeds", f"{report.headline} (last)"]
    notes = [
        "Mean ± sample standard deviation over seeds.",
        f"N = {images} of the target's training images had labels, which the seed chooses. This is semi-supervised: no "
        "row here can be compared with one of unsupervised adaptation.",
        *protocol_notes(report, labels),
        *metric_notes(report, labels),
    ]
    if baseline is not None:
        header.append(f"Difference to {report.scored_title(baseline)}")
        notes += declared_notes([column])
    title = f"{report.study}: semi-supervised, {images} labelled target images, mIoU (last) in percent"
    notes += missing_footnotes(report, labels)
    return Table(f"{PREFIX}{images}", title, header, rows, pd.DataFrame(numbers), notes)
