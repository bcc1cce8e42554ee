"""Every seed's score, and the classes."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.style import WIDTH, grid_columns, hide_rest, method_styles, wrapped
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row


def miou(comparisons: Comparisons) -> Figure | None:
    """One row per method: the seeds' headline mIoU as points, the mean as a larger one."""
    report = comparisons.report
    found = [comparisons.scores(row.final).to_numpy() for row in report.main]
    if not any(map(len, found)):
        return None
    figure = Figure(figsize=(WIDTH, 0.9 + 0.36 * len(found)))
    axes = figure.add_subplot()
    styles = method_styles(report)
    for place, (row, values) in enumerate(zip(report.main, found, strict=True)):
        style = styles[row.name] | {"linestyle": ""}
        if len(values) == 0:
            axes.annotate(
                "no finished run", (0.01, place), xycoords=("axes fraction", "data"), va="center", color="#7a7a7a"
            )
            continue
        axes.plot([values.min(), values.max()], [place, place], color=style["color"], linewidth=1.2, alpha=0.5)
        axes.plot(values, np.full(len(values), place), markersize=4, alpha=0.55, markeredgewidth=0, **style)
        axes.plot([values.mean()], [place], markersize=8, **style)
        axes.annotate(
            f"{values.mean():.1f}", (values.mean(), place), (0, 6), textcoords="offset points", ha="center", fontsize=8
        )
        if row in report.bounds:
            axes.axvline(values.mean(), color=style["color"], linewidth=0.8, linestyle=":", zorder=0)
    axes.set_yticks(range(len(found)), [wrapped(row.scored_title) for row in report.main])
    axes.set_ylim(len(found) - 0.5, -0.7)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.06)
    axes.set_xlabel(f"{report.headline} (%)")
    return figure


def class_bars(report: Report) -> Figure | None:
    """One panel per method: its IoU per class as bars, with baseline and oracle as marks where the metric is theirs."""
    means = {row: _class_means(report, row) for row in report.main if any(run.metrics for run in row.final.runs)}
    anchors = [row for row in report.bounds if row in means]
    rows = [row for row in means if row not in anchors] or anchors
    if not rows:
        return None
    columns = grid_columns(len(rows), 4)
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(WIDTH, lines * (0.8 + 0.21 * len(report.classes)) + 0.3))
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    styles = method_styles(report)
    places = np.arange(len(report.classes))
    handles: dict[str, Any] = {}
    for axes, row in zip(panels.flat, rows, strict=False):
        values = means[row]
        axes.barh(places, np.nan_to_num(values), height=0.72, color=styles[row.name]["color"], alpha=0.75)
        for place in places[np.isnan(values)]:
            axes.annotate("undefined", (1, place), va="center", fontsize=7.5, color="#7a7a7a")
        for anchor, marker in zip(anchors, ("o", "D"), strict=False):
            if anchor.headline != row.headline:
                continue
            face = "white" if anchor.name == report.baseline else "black"
            mark = {"marker": marker, "markersize": 4.2, "markerfacecolor": face, "markeredgecolor": "black"}
            style: dict[str, Any] = mark | {"linestyle": "", "markeredgewidth": 0.9}
            handles[anchor.scored_title] = axes.plot(means[anchor], places, **style)[0]
        axes.set_title(wrapped(row.scored_title, 20), fontsize=8.5)
        axes.grid(visible=False, axis="y")
    hide_rest(panels, len(rows))
    panels[0, 0].set_yticks(places, [name.replace("_", " ") for name in report.classes])
    panels[0, 0].set_ylim(len(report.classes) - 0.5, -0.5)
    panels[0, 0].set_xlim(0, 100)
    figure.supxlabel("IoU (%)", fontsize=9)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    return figure


def _class_means(report: Report, row: Row) -> np.ndarray:
    """IoU of each class in percent, mean over a row's seeds; NaN where it is undefined in all."""
    return np.array([report.percent(row.final, "class", name).mean() for name in report.classes])
