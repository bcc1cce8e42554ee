"""The report's curves over the iterations: the monitored score, the loss terms, and what else the methods log."""

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
from udaseg.reports.tables.stages import several_stages

APART = 10  # factor between the terms of a panel from which its axis is logarithmic

Line = tuple[str, pd.DataFrame, dict[str, Any]]  # name, points, style


def monitor(report: Report, history: pd.DataFrame) -> Figure | None:
    """The mIoU on the monitored split against the iteration of the final stage, one panel per method.

    Baseline and oracle are in every panel, the others in grey behind. It is the headline's where the runs have it, else
    the first one that they have.
    """
    points = history[history["kind"] == "monitor"]
    folders = {label: {str(run.folder) for run in report.final_runs(label)} for label in report.labels()}
    names = list(points[points["run"].isin(set().union(*folders.values()))]["name"])
    if not names:
        return None
    shown = report.headline if report.headline in names else names[0]
    points = points[points["name"] == shown]
    points = points.assign(value=100 * points["value"])
    curves = {label: points[points["run"].isin(runs)] for label, runs in folders.items()}
    curves = {label: own for label, own in curves.items() if not own.empty}
    anchors = [label for label in (report.baseline, report.oracle) if label in curves]
    labels = [label for label in curves if label not in anchors] or anchors[:1]
    styles = method_styles(report)
    figure, grid = panel_grid(len(labels), grid_columns(len(labels), 4), 1.75, share_y=True)
    handles: dict[str, Any] = {}
    for axes, label in zip(grid.flat, labels, strict=False):
        for other in labels:
            if other != label:
                mean = curves[other].groupby("iteration")["value"].mean()
                axes.plot(mean.index, mean, color="#cfcfcf", linewidth=0.8, zorder=1)
        for anchor in anchors:
            style = {name: value for name, value in styles[anchor].items() if name != "marker"}
            handles[report.title(anchor)] = band(axes, curves[anchor], style, anchor)
        if label not in anchors:
            band(axes, curves[label], styles[label] | {"linestyle": "-", "marker": "o"}, label)
        axes.set_title(wrapped(report.title(label), 22), fontsize=8.5)
    grid[0, 0].set_xlim(left=0)
    figure.supylabel(f"{shown} (%)", fontsize=9)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return figure


def losses(report: Report, history: pd.DataFrame) -> Figure | None:
    """One panel per trained stage, a shared one once: every loss term against the iteration."""
    points = history[history["kind"] == "term"]
    panels = []
    for label, stage in _stage_order(report, points):
        own = points[(points["label"] == label) & (points["stage"] == stage)]
        lines = []
        names = sorted(dict.fromkeys(own["name"]), key=lambda name: name != "seg")  # looks the same in every panel
        for index, name in enumerate(names):
            style = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // len(COLOURS) % len(LINES)]}
            lines.append((name, own[own["name"] == name], style))
        panels.append((_stage_title(report, label, stage), lines))
    return small_multiples(panels, columns=3, legend_columns=3)


def diagnostics(report: Report, history: pd.DataFrame) -> Figure | None:
    """One panel per logged quantity, a line per method, or stage of a method, that logs it."""
    points = history[history["kind"] == "log"]
    styles = method_styles(report)
    panels = []
    for name in sorted(set(points["name"])):
        own = points[points["name"] == name]
        lines: list[Line] = []
        for label, stage in _stage_order(report, own):
            style = {key: value for key, value in styles.get(label, {"color": "#7a7a7a"}).items() if key != "marker"}
            if label in several_stages(report):
                place = report.stages(label).index(stage)
                style |= {"marker": MARKERS[place % len(MARKERS)], "markevery": 0.12}
            stage_points = own[(own["label"] == label) & (own["stage"] == stage)]
            lines.append((_stage_title(report, label, stage), stage_points, style))
        if lines:  # some are of sweeps alone
            panels.append((name, lines))
    return small_multiples(panels, columns=2, legend_columns=1)


def _stage_order(report: Report, points: pd.DataFrame) -> list[tuple[str, str]]:
    """(label, stage) of every stage that has points: pretraining, then the recipes in the report's order."""
    present = dict.fromkeys(zip(points["label"], points["stage"], strict=True))
    first = [(run.label, run.stage) for run in report.pretraining]
    order = [*first, *((label, stage) for label in report.labels() for stage in report.stages(label))]
    return [place for place in dict.fromkeys(order) if place in present]


def _stage_title(report: Report, label: str, stage: str) -> str:
    several = label in several_stages(report)
    return f"{report.title(label)}: {stage}" if several else report.title(label)


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
