"""The cost of a score: headline mIoU against the training time of all stages of a row."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.curves import APART
from udaseg.reports.figures.style import WIDTH, method_styles, wrapped
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row
from udaseg.reports.tables.table import of_planned

LETTERS = 34  # of a line of a name
LINE = 0.17  # inches
CAPTION = (
    "Mean (marker) and range over seeds of the score at the last iteration and of the training time of all stages "
    "together, without pretraining, labelling and scoring. A stage that several rows share is counted in each."
)


@dataclass(frozen=True, eq=False)
class Point:
    """A row of the main table in the figure."""

    row: Row
    name: str
    hours: pd.Series  # by seed, of those that have both, as the scores
    scores: pd.Series  # percent


def cost_figure(comparisons: Comparisons) -> tuple[str, Figure] | None:
    """Caption and figure; None where no row of the main table has a seed with both a score and its costs.

    The line is drawn only where all runs were made on one device, and leaves the oracle out, which has the labels.
    """
    report = comparisons.report
    found = [_point(comparisons, row) for row in report.main]
    points = [point for point in found if len(point.scores)]
    if not points:
        return None
    rows = {point.row.name for point in points}
    devices = sorted({str(run.cost["device"]) for run in report.runs if run.row in rows and run.cost})
    sentences = [CAPTION]
    if len(devices) == 1:
        sentences.append(
            "The line joins the rows than which no other one reaches more in less time (without the oracle)."
        )
    else:
        sentences.append(f"Made on different devices ({', '.join(devices)}): the times cannot be compared.")
    if any(point.row.headline != report.headline for point in points):
        sentences.append("Hollow: scored by another metric, not comparable.")
    left = [point.name for point in found if not len(point.scores)]
    if left:
        sentences.append(f"Without a seed that has both: {'; '.join(left)}.")
    return " ".join(sentences), _draw(report, points, devices)


def _point(comparisons: Comparisons, row: Row) -> Point:
    """A row's scores and the hours of all its stages, for the seeds of which every stage is trained."""
    scores = comparisons.scores(row.final)
    hours = {seed: math.fsum(seconds) / 3600 for seed, seconds in row.costs("seconds").items()}
    seeds = sorted(hours.keys() & set(scores.index))
    name = wrapped(row.scored_title + of_planned(len(seeds), row.final.planned), LETTERS)
    return Point(row, name, pd.Series({seed: hours[seed] for seed in seeds}, dtype=float), scores.loc[seeds])


def front(points: list[Point]) -> list[tuple[float, float]]:
    """The Pareto front of the means, (hours, score) by rising hours: no other mean is higher in as little time."""
    best: list[tuple[float, float]] = []
    means = ((point.hours.mean(), point.scores.mean()) for point in points)
    for mean in sorted(means, key=lambda mean: (mean[0], -mean[1])):
        if not best or mean[1] > best[-1][1]:
            best.append(mean)
    return best


def _draw(report: Report, points: list[Point], devices: list[str]) -> Figure:
    """The points with a legend beside them, the best score first."""
    points = sorted(points, key=lambda point: -point.scores.mean())
    lines = sum(point.name.count("\n") + 1 for point in points)
    figure = Figure(figsize=(WIDTH, max(3.8, 0.9 + LINE * lines)))
    axes = figure.add_subplot()
    styles = method_styles(report)
    hollow = [point for point in points if point.row.headline != report.headline]
    steps = front([point for point in points if point not in hollow and point.row.name != report.oracle])
    if len(devices) == 1 and steps:
        axes.step(*zip(*steps, strict=True), where="post", color="#9a9a9a", linewidth=0.9, zorder=1)
    for point in points:
        look = styles[point.row.name]
        style: dict[str, Any] = {"color": look["color"], "marker": look["marker"], "label": point.row.name}
        if point in hollow:
            style["markerfacecolor"] = "white"
        across, up = ([[v.mean() - v.min()], [v.max() - v.mean()]] for v in (point.hours, point.scores))
        mean = point.hours.mean(), point.scores.mean()
        axes.errorbar(*mean, up, across, **style, markersize=6, linewidth=0, elinewidth=1)
    means = [point.hours.mean() for point in points]
    if max(means) > APART * min(means):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which("{x:g}")
    else:
        axes.set_xlim(left=0)
    device = "CPU-hours" if devices == ["cpu"] else f"GPU-hours ({devices[0]})"
    axes.set_xlabel(f"{device if len(devices) == 1 else 'Device-hours'} of training")
    axes.set_ylabel(f"{report.headline} (%)")
    markers = [bars[0] for bars in axes.containers]
    figure.legend(markers, [point.name for point in points], loc="outside right upper", fontsize=8)
    return figure
