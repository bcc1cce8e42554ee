"""The look of the report's figures, and their rendering: equal runs give equal bytes, without dates.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; the baseline is grey, the oracle black. Methods
beyond the seventh differ by line style and marker.
"""

import io
import textwrap
from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from udaseg.reports.read.report import Report

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31"]
LINES = ["-", "--", ":", "-."]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
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
        lay_out(figure)
        for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
            files[kind] = buffer.getvalue()
    return files


def lay_out(figure: Figure) -> None:
    """Fix the layout.

    The last bits of the solver's answer change from call to call, and names inside an SVG are hashes of them: rounded.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(6))
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position(original=True).get_points().round(6)))


def method_styles(report: Report) -> dict[str, dict[str, Any]]:
    """Row name → keyword arguments of `Axes.plot`: colour, line style, marker."""
    styles: dict[str, dict[str, Any]] = {}
    fixed = {report.baseline: "#7a7a7a", report.oracle: "#000000"}
    index = 0
    for row in report.main:
        if row.name in fixed:
            styles[row.name] = {"color": fixed[row.name], "linestyle": "-", "marker": "o"}
            continue
        turn = index // len(COLOURS)
        styles[row.name] = {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": LINES[turn % len(LINES)],
            "marker": MARKERS[turn % len(MARKERS)],
        }
        index += 1
    return styles


def legend_columns(names: Iterable[str]) -> int:
    """How many of the names fit side by side in a legend as wide as the figure."""
    longest = max(map(len, names), default=1)
    return max(1, int(WIDTH / (0.6 + 0.072 * longest)))  # inches of a handle and of a letter


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


def grid_columns(count: int, most: int) -> int:
    """How many panels to put in a line so that a grid has as few lines as possible, of about equal length."""
    lines = -(-count // most)
    return -(-count // lines)


def hide_rest(panels: np.ndarray, used: int) -> None:
    """Hide the unused panels of a grid and give those above them the tick labels of a shared axis."""
    for axes in panels.flat[used:]:
        axes.set_axis_off()
    for above in panels.flat[max(0, used - panels.shape[1]) : used]:
        above.tick_params(labelbottom=True)


def wrapped(title: str, width: int = 26) -> str:
    """`title` in lines that fit beside or above a panel."""
    return textwrap.fill(title, width, break_on_hyphens=False)
