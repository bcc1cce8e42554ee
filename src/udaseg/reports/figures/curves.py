"""Curves over the iterations: the monitored score, the loss terms, and whatever else the methods log."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from udaseg.reports.figures.style import (
    COLOURS,
    LINES,
    MARKERS,
    WIDTH,
    band,
    grid_columns,
    hide_rest,
    method_styles,
    wrapped,
)
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row

APART = 10  # factor between the terms of a panel from which its axis is logarithmic

Line = tuple[str, pd.DataFrame, dict[str, Any]]  # name, points, style


def monitor(report: Report, history: pd.DataFrame) -> Figure | None:
    """The mIoU on the monitored split against the iteration of the final stage, one panel per method.

    Baseline and oracle are in every panel, the others in grey behind. It is the headline's where the runs have it, else
    the first one that they have.
    """
    points = history[history["kind"] == "monitor"]
    folders = {row: {str(run.folder) for run in row.final.runs} for row in report.main}
    names = list(points[points["run"].isin(set().union(*folders.values()))]["name"])
    if not names:
        return None
    shown = report.headline if report.headline in names else names[0]
    points = points[points["name"] == shown]
    points = points.assign(value=100 * points["value"])
    curves = {row: points[points["run"].isin(runs)] for row, runs in folders.items()}
    curves = {row: own for row, own in curves.items() if not own.empty}
    anchors = [row for row in report.bounds if row in curves]
    rows = [row for row in curves if row not in anchors] or anchors[:1]
    styles = method_styles(report)
    figure, grid = panel_grid(len(rows), grid_columns(len(rows), 4), 1.75, share_y=True)
    handles: dict[str, Any] = {}
    for axes, row in zip(grid.flat, rows, strict=False):
        for other in rows:
            if other is not row:
                mean = curves[other].groupby("iteration")["value"].mean()
                axes.plot(mean.index, mean, color="#cfcfcf", linewidth=0.8, zorder=1)
        for anchor in anchors:
            style = {name: value for name, value in styles[anchor.name].items() if name != "marker"}
            handles[anchor.title] = band(axes, curves[anchor], style, anchor.name)
        if row not in anchors:
            band(axes, curves[row], styles[row.name] | {"linestyle": "-", "marker": "o"}, row.name)
        axes.set_title(wrapped(row.title, 22), fontsize=8.5)
    grid[0, 0].set_xlim(left=0)
    figure.supylabel(f"{shown} (%)", fontsize=9)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return figure


def losses(report: Report, history: pd.DataFrame) -> Figure | None:
    """One panel per trained stage, a shared one once: every loss term against the iteration."""
    points = history[history["kind"] == "term"]
    panels = []
    for title, _, own in _stages(report, points):
        lines = []
        names = sorted(dict.fromkeys(own["name"]), key=lambda name: name != "seg")  # looks the same in every panel
        for index, name in enumerate(names):
            style = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // len(COLOURS) % len(LINES)]}
            lines.append((name, own[own["name"] == name], style))
        panels.append((title, lines))
    return small_multiples(panels, columns=3, legend_columns=3)


def diagnostics(report: Report, history: pd.DataFrame) -> Figure | None:
    """One panel for each logged quantity, with a line for each method or stage that logs it."""
    points = history[history["kind"] == "log"]
    styles = method_styles(report)
    panels = []
    for name in sorted(set(points["name"])):
        own = points[points["name"] == name]
        lines: list[Line] = []
        for title, (row, stage), stage_points in _stages(report, own):
            style = {key: value for key, value in styles.get(row.name, {"color": "#7a7a7a"}).items() if key != "marker"}
            if row in report.staged:
                place = list(row.stages).index(stage)
                style |= {"marker": MARKERS[place % len(MARKERS)], "markevery": 0.12}
            lines.append((title, stage_points, style))
        if lines:  # some are of sweeps alone
            panels.append((name, lines))
    return small_multiples(panels, columns=2, legend_columns=1)


def _stages(report: Report, points: pd.DataFrame) -> Iterator[tuple[str, tuple[Row, str], pd.DataFrame]]:
    """Title, row and stage, and points of every stage that has any: pretraining, then recipes in the report's order."""
    groups = dict(list(points.groupby(["row", "stage"])))
    pretraining = dict.fromkeys(report.rows[run.row] for run in report.pretraining)
    for row in [*pretraining, *report.main]:
        for stage in row.stages:
            if (row.name, stage) in groups:
                title = f"{row.title}: {stage}" if row in report.staged else row.title
                yield title, (row, stage), groups[row.name, stage]


def small_multiples(panels: list[tuple[str, list[Line]]], columns: int, legend_columns: int) -> Figure | None:
    """Panels (title, lines), each with a legend of its own above it."""
    if not panels:
        return None
    columns = grid_columns(len(panels), columns)
    rows = -(-max(len(lines) for _, lines in panels) // legend_columns)
    figure, grid = panel_grid(len(panels), columns, 1.75 + 0.14 * rows)
    for axes, (title, lines) in zip(grid.flat, panels, strict=False):
        for name, points, style in lines:
            band(axes, points, style, name)
        if apart([points["value"] for _, points, _ in lines]):
            axes.set_yscale("log")
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=legend_columns,
            borderaxespad=0,
            fontsize=7,
            handlelength=1.4,
            columnspacing=1,
            labelspacing=0.25,
        )
        axes.set_title(wrapped(title, 27), fontsize=8.5, pad=6 + 9.35 * -(-len(lines) // legend_columns))
        axes.set_xlim(left=0)
    return figure


def apart(lines: list[pd.Series]) -> bool:
    """Whether all values are positive and the lines' means lie so far apart that one axis flattens the smaller ones."""
    means = [float(values.mean()) for values in lines]
    return all((values > 0).all() for values in lines) and max(means) > APART * min(means)


def panel_grid(count: int, columns: int, height: float, share_y: bool = False) -> tuple[Figure, np.ndarray]:
    """A figure with `count` panels of that height in inches, (rows, columns), the rest of the last line empty."""
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows + 0.6))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share_y, sharey=share_y)
    for axes in grid.flat:
        axes.tick_params(labelsize=8)
    hide_rest(grid, count)
    figure.supxlabel("Iteration", fontsize=9)
    return figure, grid
