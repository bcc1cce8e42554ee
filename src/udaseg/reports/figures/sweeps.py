"""Figures of sweeps: a heat map of two parameters, a curve of one, a chart of the points of a list."""

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.compare.sweeps import Point, sweep_points
from udaseg.reports.figures.style import COLOURS, STYLE, WIDTH, wrapped
from udaseg.reports.tables.sweeps import PREFIX, value_text
from udaseg.reports.tables.table import cell, of_planned
from udaseg.runs.spec import ReportSweep

MAP = "cividis"  # perceptually uniform, and alike for readers who see fewer colours
SMALLEST_RANGE = 2.0  # of colours and axes, in percentage points: what is nearly alike looks so
POINTS, UNCHANGED, BASELINE, REMARK = COLOURS[0], COLOURS[1], "#7a7a7a", "#595959"
THE_UNCHANGED = "the unchanged recipe"


def ablation_figures(comparisons: Comparisons) -> dict[str, tuple[str, Figure]]:
    """Name → (caption, figure) for each sweep of which some run has a number, in the study's order."""
    figures = {}
    with matplotlib.rc_context(STYLE):
        for sweep in comparisons.report.sweeps:
            points = sweep_points(comparisons, sweep)
            if any(len(point.scores) for point in points):
                figures[PREFIX + sweep.name] = _drawn(comparisons, sweep, points)
    return figures


def _drawn(comparisons: Comparisons, sweep: ReportSweep, points: list[Point]) -> tuple[str, Figure]:
    """Caption and figure of a sweep that has numbers."""
    what = f"{sweep.title}: {comparisons.report.headline} on the reported split, last iteration"
    placed = not any(math.isnan(position(value)) for values in sweep.over.values() for value in values)
    if placed and len(sweep.over) == 2:
        caption = f"{what}; mean ± sample standard deviation over seeds. Hatched: no result."
        return caption, heat_map(sweep, points)
    if placed and len(sweep.over) == 1:
        return f"{what}; each seed (small), the mean, and the range over seeds.", curve(comparisons, sweep, points)
    caption = (
        f"{what}; each seed (small), the mean (large) and, with three seeds or more, its 95 % interval. Whether two "
        "points differ is told by the table, which compares them seed by seed and image by image."
    )
    return caption, dots(comparisons, sweep, points)


def position(value: Any) -> float:
    """The place of a value on an axis: a number, or for a size the side of a square of its area; NaN for others."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value):
        return math.sqrt(math.prod(value))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def axis_name(parameter: str, values: list[Any]) -> str:
    """A parameter for readers: the name of its knob or loss term and its stage."""
    stage, part, *names = parameter.split(".")
    words = {"weights": "weight of {}", "knobs": "{}"}.get(part, part + ".{}").format(".".join(names))
    unit = ", pixels" if isinstance(values[0], list) else ""
    return f"{words} (stage {stage}{unit})"


def heat_map(sweep: ReportSweep, points: list[Point]) -> Figure:
    """The mean over seeds by the sweep's two parameters: the first one upwards, the second one to the right."""
    (upwards, up), (across, right) = ((name, sorted(values, key=position)) for name, values in sweep.over.items())
    means = np.full((len(up), len(right)), np.nan)
    places = [(up.index(point.values[upwards]), right.index(point.values[across])) for point in points]
    for place, point in zip(places, points, strict=True):
        means[place] = point.summary.mean
    figure = Figure(figsize=(WIDTH, 1.4 + 0.68 * len(up)))
    axes = figure.add_subplot()
    low, high = _at_least(float(np.nanmin(means)), float(np.nanmax(means)))
    image = axes.imshow(np.ma.masked_invalid(means), cmap=MAP, vmin=low, vmax=high, origin="lower", aspect="auto")
    for place, point in zip(places, points, strict=True):
        j, i = place
        summary = point.summary
        if summary.n:
            style: dict[str, Any] = {"color": _readable(matplotlib.colormaps[MAP]((summary.mean - low) / (high - low)))}
            text = cell(summary, spread=summary.n > 1, always_n=True).replace(" ± ", "\n± ").replace(" (", "\n(")
        else:
            axes.add_patch(_cell(i, j, facecolor="white", edgecolor="#b0b0b0", hatch="////", linewidth=0))
            style = {"color": REMARK, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 2}}
            text = _remark(point)
        axes.annotate(text, (i, j), ha="center", va="center", **style)
        if point.row is not None and point.row.name == sweep.reference:
            axes.add_patch(_cell(i, j, fill=False, edgecolor=UNCHANGED, linewidth=3, clip_on=False, zorder=3))
            outline = Patch(fill=False, edgecolor=UNCHANGED, linewidth=2, label=THE_UNCHANGED)
            figure.legend(handles=[outline], loc="outside upper right")
    axes.set_xticks(range(len(right)), [value_text(value) for value in right])
    axes.set_yticks(range(len(up)), [value_text(value) for value in up])
    axes.set_xlabel(axis_name(across, right))
    axes.set_ylabel(axis_name(upwards, up))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label=f"{_metric(points)} (%)", pad=0.02)
    return figure


def curve(comparisons: Comparisons, sweep: ReportSweep, points: list[Point]) -> Figure:
    """The seeds by the sweep's one parameter, and their mean as a line, which is broken where there is no result."""
    ((parameter, values),) = sweep.over.items()
    points = sorted(points, key=lambda point: position(point.values[parameter]))
    places = np.array([position(point.values[parameter]) for point in points])
    found = [point.scores for point in points]
    mean, low, high = (
        np.array([getattr(own, how)() if len(own) else math.nan for own in found]) for how in ("mean", "min", "max")
    )
    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.add_subplot()
    axes.fill_between(places, low, high, color=POINTS, alpha=0.16, linewidth=0)
    for point, place, own in zip(points, places, found, strict=True):
        if len(own):
            _seeds(axes, np.full(len(own), place), own, POINTS)
            style: dict[str, Any] = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            axes.annotate(_mean_text(point), (place, own.max()), **style)
        else:
            where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "center", "fontsize": 8}
            axes.annotate(_remark(point), (place, 0.03), color=REMARK, **where)
    axes.plot(places, mean, color=POINTS, linewidth=1.4, marker="o", markersize=7)
    _against(figure, axes, comparisons, sweep, points)
    positive = places[places > 0]
    if len(positive) and places.min() >= 0 and positive.max() >= 10 * positive.min():
        scale: dict[str, Any] = (
            {"value": "log"} if places.min() > 0 else {"value": "symlog", "linthresh": positive.min()}
        )
        axes.set_xscale(**scale)
    axes.set_xticks(places, [value_text(point.values[parameter]) for point in points])
    axes.minorticks_off()
    axes.margins(x=0.07, y=0.14)
    axes.set_ylim(_at_least(*axes.get_ylim()))
    axes.set_xlabel(axis_name(parameter, values))
    axes.set_ylabel(f"{_metric(points)} (%)")
    return figure


def dots(comparisons: Comparisons, sweep: ReportSweep, points: list[Point]) -> Figure:
    """A line for each point: its seeds small, their mean large with its interval."""
    names = [wrapped(point.scored_name, 34) for point in points]
    heights = [0.16 + 0.17 * len(name.splitlines()) for name in names]  # inches
    edges = np.concatenate([[0.0], np.cumsum(heights)])
    middles = (edges[:-1] + edges[1:]) / 2
    figure = Figure(figsize=(WIDTH, 1.0 + edges[-1]))
    axes = figure.add_subplot()
    for point, down in zip(points, middles, strict=True):
        values = point.scores
        beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
        beside["annotation_clip"] = False
        if not len(values):
            axes.annotate(_remark(point), (1.01, down), color=REMARK, **beside)
            continue
        colour = UNCHANGED if point.row and point.row.name == sweep.reference else POINTS
        axes.hlines(down, *_interval(comparisons, point), color=colour, linewidth=1.6, alpha=0.6)
        _seeds(axes, values, np.full(len(values), down), colour)
        axes.plot([values.mean()], [down], "o", color=colour, markersize=8)
        axes.annotate(_mean_text(point), (1.01, down), **beside)
    _against(figure, axes, comparisons, sweep, points, upright=True)
    axes.set_yticks(middles, names)
    axes.set_ylim(edges[-1], 0)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.05)
    axes.set_xlim(_at_least(*axes.get_xlim()))
    axes.set_xlabel(f"{_metric(points)} (%)")
    return figure


def _against(
    figure: Figure, axes: Axes, comparisons: Comparisons, sweep: ReportSweep, points: list[Point], upright: bool = False
) -> None:
    """Draw reference lines for the unchanged recipe and the baseline, with their legend.

    The baseline is a line where it is as near to the points as they are to each other, else a remark with an arrow: it
    would press them together.
    """
    draw = axes.axvline if upright else axes.axhline
    own = np.concatenate([point.scores for point in points])
    handles = []
    report = comparisons.report
    reference = comparisons.scores(report.rows[sweep.reference].final) if sweep.reference is not None else own[:0]
    if len(reference):
        style: dict[str, Any] = {"color": UNCHANGED, "linewidth": 1.2, "linestyle": "--", "zorder": 1}
        handles.append(draw(reference.mean(), label=THE_UNCHANGED, **style))
    baseline = report.rows[report.baseline]
    scores = comparisons.scores(baseline.final)
    alike = baseline.final.measured in {point.row.final.measured for point in points if point.row is not None}
    if len(scores) and alike:
        mean, name = scores.mean(), baseline.title
        reach = max(own.max() - own.min(), SMALLEST_RANGE)
        if own.min() - reach <= mean <= own.max() + reach:
            handles.append(draw(mean, color=BASELINE, linewidth=1.2, label=name, zorder=1))
        else:
            away = ("←" if upright else "↓") if mean < own.min() else ("→" if upright else "↑")
            arrow: dict[str, Any] = {"marker": f"${away}$", "markersize": 11, "linestyle": "", "color": BASELINE}
            handles.append(Line2D([], [], label=f"{name}: {mean:.1f}", **arrow))
    if handles:
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))


def _at_least(low: float, high: float) -> tuple[float, float]:
    """The limits, widened to the smallest range where they are nearer to each other."""
    more = max(0.0, SMALLEST_RANGE - (high - low)) / 2
    return low - more, high + more


def _mean_text(point: Point) -> str:
    """The mean of a point, with the number of seeds where some are missing."""
    return f"{point.summary.mean:.1f}{of_planned(point.summary.n, point.summary.planned)}"


def _interval(comparisons: Comparisons, point: Point) -> tuple[float, float]:
    """Ends of the 95 % interval of a point's mean in percent; NaN where there is none."""
    estimate = None if point.row is None else comparisons.interval(point.row.final)
    return (math.nan, math.nan) if estimate is None else (estimate.low, estimate.high)


def _remark(point: Point) -> str:
    return "skipped" if point.row is None else "no result"


def _metric(points: list[Point]) -> str:
    """The name of the score axis."""
    return next(point.row.headline for point in points if point.row is not None)


def _seeds(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """Mark the seeds, drawn above the mean."""
    axes.plot(x, y, "o", color=colour, markerfacecolor="white", markersize=3.5, markeredgewidth=0.9, zorder=3)


def _cell(i: int, j: int, **style: Any) -> Rectangle:
    """The frame of a heat map's cell."""
    return Rectangle((i - 0.5, j - 0.5), 1, 1, **style)


def _readable(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever contrasts more with a colour (WCAG's relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"
