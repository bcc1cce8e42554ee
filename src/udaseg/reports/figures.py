"""The report's figures, as vector SVG and as PNG without dates in them: the same runs give the same bytes.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; the baseline is grey, the oracle black. Methods
beyond the seventh differ by line style and marker.
"""

import io
import textwrap
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from udaseg.reports.collect import Report, history_frame, iou_frame, run_frame

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31"]
LINES = ["-", "--", ":", "-."]
MARKERS = ["o", "s", "^", "D"]
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "udaseg",
}
WIDTH = 7.4  # inches


def render(figure: Figure, dpi: int = 150) -> dict[str, bytes]:
    """The figure as {"svg": …, "png": …}."""
    files = {}
    with matplotlib.rc_context(STYLE):
        for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
            files[kind] = buffer.getvalue()
    return files


def all_figures(report: Report) -> dict[str, tuple[str, Figure]]:
    """Name → (caption, figure), in the report's order. A figure for which no run has numbers is left out."""
    history = history_frame(report)
    with matplotlib.rc_context(STYLE):
        figures = {
            "miou": ("Each seed (small) and the mean (large) on the reported split, last iteration.", miou(report)),
            "classes": ("IoU per class, mean over seeds, last iteration.", class_bars(report)),
            "monitor": (
                "Score on the monitored split during training: mean, and the range over seeds. It steers nothing.",
                monitor(report, history),
            ),
            "losses": (
                "Loss terms during training, unweighted: mean, and the range over seeds.",
                losses(report, history),
            ),
            "diagnostics": (
                "What the methods log beside their losses: mean and range over seeds.",
                diagnostics(report, history),
            ),
        }
    return {name: (caption, figure) for name, (caption, figure) in figures.items() if figure is not None}


def method_styles(report: Report) -> dict[str, dict[str, Any]]:
    """Label → keyword arguments of `Axes.plot`: colour, line style, marker."""
    styles: dict[str, dict[str, Any]] = {}
    fixed = {report.baseline: "#7a7a7a", report.oracle: "#000000"}
    index = 0
    for label in report.labels():
        if label in fixed:
            styles[label] = {"color": fixed[label], "linestyle": "-", "marker": "o"}
            continue
        turn = index // len(COLOURS)
        styles[label] = {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": LINES[turn % len(LINES)],
            "marker": MARKERS[turn % len(MARKERS)],
        }
        index += 1
    return styles


def miou(report: Report) -> Figure | None:
    """One row per method: the seeds' headline mIoU as points, the mean as a larger one."""
    runs = run_frame(report)
    column = f"last.{report.headline}"
    runs = runs[runs["final"] & runs[column].notna()]
    labels = report.labels()
    if runs.empty:
        return None
    figure = Figure(figsize=(WIDTH, 0.9 + 0.36 * len(labels)))
    axes = figure.add_subplot()
    styles = method_styles(report)
    for row, label in enumerate(labels):
        values = 100 * runs[runs["label"] == label][column].to_numpy()
        style = {"color": styles[label]["color"], "marker": styles[label]["marker"], "linestyle": ""}
        if len(values) == 0:
            axes.annotate(
                "no finished run", (0.01, row), xycoords=("axes fraction", "data"), va="center", color="#7a7a7a"
            )
            continue
        axes.plot([values.min(), values.max()], [row, row], color=style["color"], linewidth=1.2, alpha=0.5)
        axes.plot(values, np.full(len(values), row), markersize=4, alpha=0.55, markeredgewidth=0, **style)
        axes.plot([values.mean()], [row], markersize=8, **style)
        axes.annotate(
            f"{values.mean():.1f}", (values.mean(), row), (0, 6), textcoords="offset points", ha="center", fontsize=8
        )
        if label in (report.baseline, report.oracle):
            axes.axvline(values.mean(), color=style["color"], linewidth=0.8, linestyle=":", zorder=0)
    axes.set_yticks(range(len(labels)), [wrapped(report.title(label)) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.7)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.06)
    axes.set_xlabel(f"{report.headline} (%)")
    return figure


def class_bars(report: Report) -> Figure | None:
    """One panel per method: its IoU per class as bars, with the baseline and the oracle as marks on them."""
    frame = iou_frame(report)
    frame = frame[frame["which"] == "last"]
    means = 100 * frame.groupby(["label", "class"])["iou"].mean().unstack("class") if len(frame) else pd.DataFrame()
    anchors = [name for name in (report.baseline, report.oracle) if name in means.index]
    labels = [label for label in report.labels() if label in means.index and label not in anchors] or anchors
    if not labels:
        return None
    columns = min(len(labels), 4)
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(WIDTH, rows * (0.8 + 0.21 * len(report.classes)) + 0.3))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    styles = method_styles(report)
    places = np.arange(len(report.classes))
    handles: dict[str, Any] = {}
    for axes, label in zip(panels.flat, labels, strict=False):
        values = means.loc[label].reindex(report.classes).to_numpy()
        axes.barh(places, np.nan_to_num(values), height=0.72, color=styles[label]["color"], alpha=0.75)
        for place in places[np.isnan(values)]:
            axes.annotate("undefined", (1, place), va="center", fontsize=7.5, color="#7a7a7a")
        for anchor, marker in zip(anchors, ("o", "D"), strict=False):
            marks = means.loc[anchor].reindex(report.classes).to_numpy()
            face = "white" if anchor == report.baseline else "black"
            mark = {"marker": marker, "markersize": 4.2, "markerfacecolor": face, "markeredgecolor": "black"}
            style: dict[str, Any] = mark | {"linestyle": "", "markeredgewidth": 0.9}
            handles[report.title(anchor)] = axes.plot(marks, places, **style)[0]
        axes.set_title(wrapped(report.title(label), 18))
        axes.grid(visible=False, axis="y")
    hide_rest(panels, len(labels))
    panels[0, 0].set_yticks(places, report.classes)
    panels[0, 0].set_ylim(len(report.classes) - 0.5, -0.5)
    panels[0, 0].set_xlim(0, 100)
    figure.supxlabel("IoU (%)", fontsize=9)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    return figure


def monitor(report: Report, history: pd.DataFrame) -> Figure | None:
    """The mIoU on the monitored split against the iteration, every method in one panel.

    It is the headline's where the runs have it, else the first one that they have.
    """
    points = history[(history["kind"] == "monitor") & history["final"].astype(bool)]
    if points.empty:
        return None
    names = list(points["name"])
    shown = report.headline if report.headline in names else names[0]
    points = points[points["name"] == shown]
    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.add_subplot()
    styles = method_styles(report)
    for label in report.labels():
        own = points[points["label"] == label]
        if not own.empty:
            band(axes, own.assign(value=100 * own["value"]), styles[label], wrapped(report.title(label), 22))
    axes.set_xlabel("Iteration")
    axes.set_ylabel(f"{shown} (%)")
    axes.set_xlim(left=0)
    figure.legend(loc="outside right center")
    return figure


def losses(report: Report, history: pd.DataFrame) -> Figure | None:
    """One panel per trained stage of a method: every loss term against the iteration."""
    points = history[history["kind"] == "term"]
    stages = list(dict.fromkeys(zip(points["label"], points["stage"], points["final"], strict=True)))
    order = {label: index for index, label in enumerate(report.labels())}
    stages.sort(key=lambda stage: (stage[2], order.get(stage[0], -1)))
    panels = [
        (
            report.title(label) if final or label == stage else f"{report.title(label)}: {stage}",
            points[(points["label"] == label) & (points["stage"] == stage)],
        )
        for label, stage, final in stages
    ]
    return small_multiples(panels, list(dict.fromkeys(points["name"])), "name", {})


def diagnostics(report: Report, history: pd.DataFrame) -> Figure | None:
    """One panel per logged quantity, a line per method that logs it."""
    points = history[(history["kind"] == "log") & history["final"].astype(bool)]
    names = sorted(dict.fromkeys(points["name"]))
    panels = [(name, points[points["name"] == name]) for name in names]
    styles = {label: style for label, style in method_styles(report).items() if label in set(points["label"])}
    return small_multiples(panels, list(styles), "label", styles, {label: report.title(label) for label in styles})


def small_multiples(
    panels: list[tuple[str, pd.DataFrame]],
    lines: list[str],
    key: str,
    styles: dict[str, dict[str, Any]],
    titles: dict[str, str] | None = None,
) -> Figure | None:
    """Panels (title, points) with one line for each value of column `key`, one legend for all of them."""
    if not panels:
        return None
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, (1.95 if columns > 1 else 2.4) * rows + 0.6))
    grid = figure.subplots(rows, columns, squeeze=False)
    cycle = [
        {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // len(COLOURS) % len(LINES)]}
        for index in range(len(lines))
    ]
    handles: dict[str, Any] = {}
    for axes, (title, points) in zip(grid.flat, panels, strict=False):
        for line, fallback in zip(lines, cycle, strict=True):
            own = points[points[key] == line]
            if not own.empty:
                style = {name: value for name, value in styles.get(line, fallback).items() if name != "marker"}
                handles[(titles or {}).get(line, line)] = band(axes, own, style, line)
        axes.set_title(wrapped(title))
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=8)
    hide_rest(grid, len(panels))
    figure.supxlabel("Iteration", fontsize=9)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(len(handles), 6))
    return figure


def band(axes: Axes, points: pd.DataFrame, style: dict[str, Any], label: str) -> Any:
    """The mean over seeds of `value` by `iteration` as a line, the range over seeds as a band; returns the line."""
    seeds = points.pivot_table(index="iteration", columns="seed", values="value", aggfunc="mean")
    extra: dict[str, Any] = {"markersize": 3.5} if "marker" in style else {}
    line = axes.plot(seeds.index, seeds.mean(axis=1), label=label, linewidth=1.4, **style, **extra)[0]
    if seeds.shape[1] > 1:
        axes.fill_between(
            seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=style["color"], alpha=0.16, linewidth=0
        )
    return line


def hide_rest(panels: np.ndarray, used: int) -> None:
    """Take the unused panels of a grid out of sight."""
    for axes in panels.flat[used:]:
        axes.set_axis_off()


def wrapped(title: str, width: int = 26) -> str:
    """`title` in lines that fit beside or above a panel."""
    return textwrap.fill(title, width, break_on_hyphens=False)
