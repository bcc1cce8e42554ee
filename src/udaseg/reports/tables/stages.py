"""The score of each stage of the recipes with several stages."""

from pathlib import Path
from typing import Any

import pandas as pd

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row
from udaseg.reports.tables.differences import Differences, declared_notes
from udaseg.reports.tables.notes import metric_notes
from udaseg.reports.tables.table import Table, cell, gap_text


def stage_table(comparisons: Comparisons) -> Table | None:
    """Recipe and stage × headline mIoU, gap closed, and the difference to the stage before and to the baseline.

    None where every recipe has one stage.
    """
    report = comparisons.report
    baseline = report.rows[report.baseline]
    places = [(row, stage) for row in report.staged for stage in row.scored_stages]
    if not places:
        return None
    before = [None, *(stage for _, stage in places)]
    steps = [
        comparisons.difference(stage, earlier) if earlier is not None and earlier.row == stage.row else None
        for (_, stage), earlier in zip(places, before, strict=False)
    ]
    columns = [
        Differences("difference_to_stage_before", steps),
        Differences(
            f"difference_to_{baseline.name}",
            [comparisons.difference(stage, baseline.final) for _, stage in places],
        ),
    ]
    rows, numbers = [], []
    for index, (row, stage) in enumerate(places):
        summary, (gap, gap_seeds) = comparisons.summary(stage), comparisons.gap_closed(stage)
        record: dict[str, Any] = {"method": row.name, "metric": row.headline, "stage": stage.name}
        record |= {"seeds_planned": stage.planned} | summary.numbers(report.headline)
        record |= {"gap_closed": 100 * gap, "gap_closed_n": gap_seeds}
        for column in columns:
            record |= column.numbers(index)
        numbers.append(record)
        texts = [cell(summary, always_n=True), *(column.text(index, stage.planned) for column in columns)]
        rows.append([row.scored_title, stage.name, *texts, gap_text(gap, gap_seeds, stage.planned)])
    header = ["Method", "Stage", f"{report.headline} (last)", "Difference to the stage before"]
    header += [f"Difference to {baseline.scored_title}", "Gap closed"]
    title = f"{report.study}: what each stage reaches, mIoU in percent, mean ± sample standard deviation over seeds"
    notes = [*declared_notes(columns), *metric_notes(report, report.staged), *shared_notes(report)]
    return Table("stages", title, header, rows, pd.DataFrame(numbers), notes, grouped=True)


def shared_notes(report: Report) -> list[str]:
    """One sentence for each stage that several rows of the main table share, scored in one way or in several."""
    places: dict[Path, dict[tuple[Row, str], None]] = {}
    for run in report.runs:
        if not run.labelled_target:
            places.setdefault(run.folder, {})[report.rows[run.row], run.stage] = None
    groups = dict.fromkeys(tuple(uses) for uses in places.values() if len({row for row, _ in uses}) > 1)
    return [
        f"One and the same training: {' = '.join(f'{row.scored_title}: {stage}' for row, stage in uses)}."
        for uses in groups
    ]
