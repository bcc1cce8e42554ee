"""The quality of the pseudo-labels that each stage was trained on."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from udaseg.reports.figures.style import MARKERS, WIDTH, hide_rest, legend_columns
from udaseg.reports.read.quality import ALL, by_stage, quality_frame
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row

QUANTITIES = {"coverage": "Coverage (%)", "precision": "Precision (%)", "recall": "Recall (%)"}


def pseudo_labels(report: Report) -> Figure | None:
    """A line of panels per recipe, one for each quantity: classes down, a mark per stage with the range over seeds."""
    frame = quality_frame(report)
    stages: dict[Row, dict[str, pd.DataFrame]] = {}
    for (row, stage), own in by_stage(report, frame).items():
        stages.setdefault(row, {})[stage] = own
    if not stages:
        return None
    quantities = [name for name in QUANTITIES if frame[name].notna().any()]
    heights = [1.1 + max(0.21, 0.04 + 0.06 * len(own)) * (len(report.classes) + 1) for own in stages.values()]  # inches
    figure = Figure(figsize=(WIDTH, sum(heights)))
    parts = figure.subfigures(len(stages), 1, squeeze=False, height_ratios=heights)
    for part, (row, judged) in zip(parts.flat, stages.items(), strict=True):
        _recipe(part, row.title, judged, [ALL, *report.classes], quantities)
    return figure


def _recipe(
    part: SubFigure, title: str, stages: dict[str, pd.DataFrame], names: list[str], quantities: list[str]
) -> None:
    """Draw one recipe's panels; `names` are those of the classes."""
    part.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    grid = part.subplots(1, len(quantities), sharey=True, squeeze=False)
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
