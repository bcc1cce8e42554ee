"""How good the pseudo-labels were that each stage was trained on, as a table and as a figure.

They are judged on the target's training images by a job of its own; nothing that trains reads the result.
"""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from udaseg.reports.figures.style import MARKERS, WIDTH, hide_rest, legend_columns
from udaseg.reports.read.report import Report
from udaseg.reports.read.scores import ALL, quality_frame
from udaseg.reports.tables.table import Table, cell, summarise

QUANTITIES = {"coverage": "Coverage (%)", "precision": "Precision (%)", "recall": "Recall (%)"}
MEANING = (
    "Coverage of a class = pixels that were given this label / all pixels of the target's training images, of all "
    "classes together = pixels with a label / all pixels.",
    "Precision = right pixels / pixels with this label (where the ground truth is not ignored); recall = right pixels "
    "/ pixels of this class in the ground truth. Only the oracle and rows with labelled target images train on it.",
)


def pseudo_label_table(report: Report) -> Table | None:
    """Recipe, stage and quantity × classes, means over seeds. None where no stage was trained on pseudo-labels."""
    frame = quality_frame(report)
    if not any(run.judged for run in report.runs if run.sweep is None and not run.labelled_target):
        return None
    classes = [ALL, *report.classes]
    rows, numbers = [], []
    rules: dict[tuple[str, str], list[str]] = {}
    for (label, stage), own in _groups(report, frame):
        planned = len(report.stage_runs(label, stage))
        rule = own["rule"].iloc[0]
        rules.setdefault((label, rule), []).append(stage)
        summaries = {
            (quantity, name): summarise(100 * own[own["class"] == name][quantity], planned)
            for quantity in [*QUANTITIES, "share"]
            for name in classes
        }
        for name in classes:
            record: dict[str, Any] = {"method": label, "stage": stage, "rule": rule, "class": name}
            for quantity in [*QUANTITIES, "share"]:
                record |= summaries[quantity, name].numbers(quantity)
            numbers.append(record)
        for quantity in QUANTITIES:
            if own[quantity].notna().any():
                digits = 2 if quantity == "coverage" else 1
                texts = [cell(summaries[quantity, name], digits, spread=False) for name in classes]
                rows.append([report.title(label), f"{stage}, {quantity}", *texts])
    notes = [*MEANING, "Means over seeds; their standard deviations are in pseudo_labels.csv."]
    notes += [f"{report.title(label)}: rule {rule} ({', '.join(stages)})." for (label, rule), stages in rules.items()]
    notes += [
        f"{run.label}, stage {run.stage}, seed {run.seed}: its pseudo-labels are not judged ({run.judged})."
        for run in report.trainings()
        if run.sweep is None and run.judged and not run.quality and not run.labelled_target
    ]
    title = f"{report.study}: the pseudo-labels that each stage was trained on, in percent"
    header = ["Method", "Stage", *classes]
    return Table("pseudo_labels", title, header, rows, pd.DataFrame(numbers), notes, grouped=True)


def _groups(report: Report, frame: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """((label, stage), their rows) for every stage with judged pseudo-labels, in the report's order."""
    groups = dict(list(frame.groupby(["label", "stage"], sort=False)))
    places = [(label, stage) for label in report.labels() for stage in report.stages(label)]
    return [(place, groups[place]) for place in places if place in groups]


def pseudo_labels(report: Report) -> Figure | None:
    """A line of panels per recipe, one for each quantity: classes down, a mark per stage with the range over seeds."""
    frame = quality_frame(report)
    groups = _groups(report, frame)
    if not groups:
        return None
    labels = list(dict.fromkeys(label for (label, _), _ in groups))
    quantities = [name for name in QUANTITIES if frame[name].notna().any()]
    marks = [sum(name == label for (name, _), _ in groups) for label in labels]  # in a class's line
    heights = [1.1 + max(0.21, 0.04 + 0.06 * count) * (len(report.classes) + 1) for count in marks]  # inches
    figure = Figure(figsize=(WIDTH, sum(heights)))
    parts = figure.subfigures(len(labels), 1, squeeze=False, height_ratios=heights)
    for part, label in zip(parts.flat, labels, strict=True):
        stages = {stage: own for (name, stage), own in groups if name == label}
        _recipe(part, report, label, stages, quantities)
    return figure


def _recipe(
    part: SubFigure, report: Report, label: str, stages: dict[str, pd.DataFrame], quantities: list[str]
) -> None:
    """Draw one recipe's panels."""
    part.suptitle(report.title(label), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    grid = part.subplots(1, len(quantities), sharey=True, squeeze=False)
    names = [ALL, *report.classes]
    places = np.arange(len(names))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(stages)))
    handles: dict[str, Any] = {}
    for axes, quantity in zip(grid.flat, quantities, strict=True):
        for index, (stage, own) in enumerate(stages.items()):
            seeds = 100 * own.pivot_table(index="class", columns="seed", values=quantity, dropna=False).reindex(names)
            down = places + 0.75 * ((index + 0.5) / len(stages) - 0.5)
            axes.hlines(down, seeds.min(axis=1), seeds.max(axis=1), color=colours[index], linewidth=1, alpha=0.6)
            marker = MARKERS[index % len(MARKERS)]
            style: Any = {"marker": marker, "markersize": 3.6, "linestyle": "", "color": colours[index]}
            handles[stage] = axes.plot(seeds.mean(axis=1), down, **style)[0]
        if quantity == "coverage":
            _coverage(axes, 100 * next(iter(stages.values())).groupby("class")["share"].mean().reindex(names), handles)
        else:
            axes.set_xlim(-3, 103)
        axes.axhline(0.5, color="#7a7a7a", linewidth=0.8)
        axes.set_xlabel(QUANTITIES[quantity])
        axes.tick_params(labelsize=8)
    hide_rest(grid, len(quantities))
    grid[0, 0].set_yticks(places, names)
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    part.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=legend_columns(handles))


def _coverage(axes: Axes, share: pd.Series, handles: dict[str, Any]) -> None:
    """The axis of coverage, logarithmic above 0.1 %, and each class's true share where it is known."""
    if share.notna().any():
        style: Any = {"marker": "|", "markersize": 10, "linestyle": "", "color": "black", "zorder": 1}
        handles["ground truth"] = axes.plot(share, np.arange(len(share)), **style)[0]
    axes.set_xscale("symlog", linthresh=0.1, linscale=0.5)
    axes.set_xlim(-0.01, 130)
    axes.set_xticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
    axes.minorticks_off()
