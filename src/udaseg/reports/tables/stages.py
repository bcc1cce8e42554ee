"""What each stage of a recipe of several stages reaches, as a table and as a figure."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from udaseg.reports.compare.comparisons import (
    Comparisons,
    declared_notes,
    difference,
    gap_closed,
    gap_text,
    metric_notes,
    scores,
)
from udaseg.reports.figures.style import WIDTH, legend_columns, method_styles
from udaseg.reports.read.report import Report
from udaseg.reports.tables.table import Table, cell, summarise


def scored_stages(report: Report, label: str) -> list[str]:
    """The stages of a row that are scored, in order, which a translator is not; all where the study scores nothing."""
    stages = report.stages(label)
    scored = [stage for stage in stages if any(run.evaluation for run in report.stage_runs(label, stage))]
    return scored or stages


def several_stages(report: Report) -> list[str]:
    """The rows of the main table whose recipes have more than one such stage."""
    return [label for label in report.labels() if len(scored_stages(report, label)) > 1]


def stage_table(report: Report) -> Table | None:
    """Recipe and stage × headline mIoU, gap closed, and the difference to the stage before and to the baseline.

    None where every recipe has one stage.
    """
    baseline, oracle = scores(report, report.baseline), scores(report, report.oracle)
    places = [(label, stage) for label in several_stages(report) for stage in scored_stages(report, label)]
    steps = [
        difference(report, label, label, stage, earlier) if label == same else None
        for (label, stage), (same, earlier) in zip(places, [("", ""), *places], strict=False)
    ]
    gains = [difference(report, label, report.baseline, stage) for label, stage in places]
    columns = [
        Comparisons("difference_to_stage_before", steps),
        Comparisons(f"difference_to_{report.baseline}", list(gains)),
    ]
    rows, numbers = [], []
    for index, (label, stage) in enumerate(places):
        values = scores(report, label, stage)
        planned = len(report.stage_runs(label, stage))
        summary = summarise(values, planned)
        gap, gap_seeds = gap_closed(values, baseline, oracle)
        record: dict[str, Any] = {"method": label, "metric": report.metric(label, report.headline)}
        record |= {"stage": stage, "seeds_planned": planned}
        record |= summary.numbers(report.headline) | {"gap_closed": 100 * gap, "gap_closed_n": gap_seeds}
        for column in columns:
            record |= column.numbers(index)
        texts = [cell(summary, always_n=True), *(column.text(index, planned) for column in columns)]
        rows.append([report.scored_title(label), stage, *texts, gap_text(gap, gap_seeds, planned)])
        numbers.append(record)
    if not rows:
        return None
    header = ["Method", "Stage", f"{report.headline} (last)", "Difference to the stage before"]
    header += [f"Difference to {report.scored_title(report.baseline)}", "Gap closed"]
    title = f"{report.study}: what each stage reaches, mIoU in percent, mean ± sample standard deviation over seeds"
    notes = [*declared_notes(columns), *metric_notes(report, several_stages(report)), *shared_notes(report)]
    return Table("stages", title, header, rows, pd.DataFrame(numbers), notes, grouped=True)


def shared_notes(report: Report) -> list[str]:
    """One sentence for each stage that several rows of the main table share, scored in one way or in several."""
    places: dict[Path, dict[tuple[str, str], None]] = {}
    for run in report.runs:
        if not run.labelled_target:
            places.setdefault(run.folder, {})[run.label, run.stage] = None
    groups = dict.fromkeys(tuple(uses) for uses in places.values() if len({label for label, _ in uses}) > 1)
    return [
        f"One and the same training: {' = '.join(f'{report.scored_title(label)}: {stage}' for label, stage in uses)}."
        for uses in groups
    ]


def stage_lines(report: Report) -> Figure | None:
    """The headline mIoU by stage: a line for each recipe of several stages, baseline and oracle across."""
    labels = [
        label
        for label in several_stages(report)
        if any(len(scores(report, label, stage)) for stage in scored_stages(report, label))
    ]
    if not labels:
        return None
    figure = Figure(figsize=(WIDTH, 4.2))
    axes = figure.add_subplot()
    styles = method_styles(report)
    names: list[dict[str, None]] = []  # by place on the axis, what the recipes call the stage there
    for index, label in enumerate(labels):
        stages = scored_stages(report, label)
        names += [{} for _ in range(len(stages) - len(names))]
        for place, stage in enumerate(stages):
            names[place][stage] = None
        values = [scores(report, label, stage) for stage in stages]
        mean, low, high = (np.array([getattr(v, how)() for v in values]) for how in ("mean", "min", "max"))
        places = np.arange(len(stages)) + 0.05 * (index - (len(labels) - 1) / 2)
        error = np.nan_to_num(np.stack([mean - low, high - mean]))
        axes.errorbar(
            places,
            mean,
            error,
            **styles[label],
            label=report.scored_title(label),
            linewidth=1.4,
            markersize=5,
            capsize=2,
        )
    for anchor in report.bounds():
        values_there = scores(report, anchor)
        if len(values_there):
            name = report.scored_title(anchor)
            axes.axhline(values_there.mean(), color=styles[anchor]["color"], linewidth=1.2, label=name, zorder=1)
    axes.set_xticks(range(len(names)), ["\n".join(distinct) for distinct in names])
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylabel(f"{report.headline} (%)")
    handles, titles = axes.get_legend_handles_labels()
    figure.legend(handles, titles, loc="outside upper center", ncols=legend_columns(titles))
    return figure
