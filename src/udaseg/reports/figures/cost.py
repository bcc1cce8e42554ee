"""What a score costs: headline mIoU against the training time of all stages of a row."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from udaseg.reports.compare.comparisons import scores
from udaseg.reports.figures.curves import APART
from udaseg.reports.figures.style import WIDTH, method_styles, wrapped
from udaseg.reports.read.report import Report
from udaseg.reports.read.scores import run_frame
from udaseg.reports.tables.table import of_planned

LETTERS = 34  # of a line of a name
LINE = 0.155  # inches
CAPTION = (
    "Mean (marker) and range over seeds of the score at the last iteration and of the training time of all stages "
    "together, without pretraining, labelling and scoring. A stage that several rows share is counted in each."
)


@dataclass(frozen=True)
class Place:
    """A row of the main table in the figure."""

    label: str
    name: str
    hours: pd.Series  # by seed, of those that have both, as the scores
    scores: pd.Series  # percent
    comparable: bool  # whether its score is of the headline's metric


def cost_figure(report: Report) -> tuple[str, Figure] | None:
    """Caption and figure; None where no row of the main table has a seed with both a score and its costs.

    The line is drawn only where all runs were made on one device, and leaves the oracle out, which has the labels.
    """
    found = {label: _place(report, label) for label in report.labels()}
    places = [place for place in found.values() if len(place.scores)]
    if not places:
        return None
    names = _devices(report, [place.label for place in places])
    sentences = [CAPTION]
    if len(names) == 1:
        sentences.append(
            "The line joins the rows than which no other one reaches more in less time (without the oracle)."
        )
    else:
        sentences.append(f"Made on different devices ({', '.join(names)}): the times cannot be compared.")
    if not all(place.comparable for place in places):
        sentences.append("Hollow: scored by another metric, not comparable.")
    left = [place.name for place in found.values() if not len(place.scores)]
    if left:
        sentences.append(f"Without a seed that has both: {'; '.join(left)}.")
    return " ".join(sentences), _draw(report, places, names)


def hours(report: Report, label: str) -> pd.Series:
    """Seed → hours that all stages of a row took to train; only the seeds of which every stage is trained."""
    frame = run_frame(report, [run for run in report.runs if run.label == label])
    return frame.groupby("seed")["seconds"].sum(min_count=len(report.stages(label))).dropna() / 3600


def front(places: list[Place]) -> list[tuple[float, float]]:
    """(hours, score) of the means than which no other one has more in as little time, by rising hours."""
    best: list[tuple[float, float]] = []
    for point in sorted(((place.hours.mean(), place.scores.mean()) for place in places), key=lambda p: (p[0], -p[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def spread(wanted: list[float], heights: list[float]) -> list[float]:
    """The centres of labels of these heights, near those wanted, which rise: none lies over another, all in [0, 1].

    Labels in each other's way are moved as one. The heights are together at most 1.
    """
    blocks: list[tuple[float, list[int]]] = []  # centre and members, from below
    for index, centre in enumerate(wanted):
        members = [index]
        while True:
            half = sum(heights[member] for member in members) / 2
            centre = min(max(centre, half), 1 - half)
            if not blocks or _top(blocks[-1], heights) <= centre - half:
                break
            other, before = blocks.pop()
            centre = (other * len(before) + centre * len(members)) / (len(before) + len(members))
            members = before + members
        blocks.append((centre, members))
    centres = []
    for block in blocks:
        top = _top(block, heights)
        for member in reversed(block[1]):
            centres.append((member, top - heights[member] / 2))
            top -= heights[member]
    return [centre for _, centre in sorted(centres)]


def _top(block: tuple[float, list[int]], heights: list[float]) -> float:
    return block[0] + sum(heights[member] for member in block[1]) / 2


def _place(report: Report, label: str) -> Place:
    time, score = hours(report, label), scores(report, label)
    seeds = sorted(set(time.index) & set(score.index))
    name = wrapped(report.scored_title(label) + of_planned(len(seeds), len(report.final_runs(label))), LETTERS)
    comparable = report.metric(label, report.headline) == report.headline
    return Place(label, name, time.loc[seeds], score.loc[seeds], comparable)


def _devices(report: Report, labels: list[str]) -> list[str]:
    """The devices on which the rows were trained."""
    return sorted({str(run.cost["device"]) for run in report.runs if run.label in labels and run.cost})


def _unit(names: list[str]) -> str:
    """What the hours are of."""
    if len(names) > 1:
        return "Device-hours"
    return "CPU-hours" if names == ["cpu"] else f"GPU-hours ({names[0]})"


def _draw(report: Report, places: list[Place], names: list[str]) -> Figure:
    places = sorted(places, key=lambda place: place.scores.mean())
    tall = max(3.2, 0.3 + LINE * sum(place.name.count("\n") + 1 for place in places))  # inches of the axes
    figure = Figure(figsize=(WIDTH, tall + 0.6))
    axes = figure.add_subplot()
    styles = method_styles(report)
    steps = front([place for place in places if place.comparable and place.label != report.oracle])
    if len(names) == 1 and steps:
        axes.step(*zip(*steps, strict=True), where="post", color="#9a9a9a", linewidth=0.9, zorder=1)
    for place in places:
        style: dict[str, Any] = {"color": styles[place.label]["color"], "marker": styles[place.label]["marker"]}
        if not place.comparable:
            style["markerfacecolor"] = "white"
        across, up = ([[v.mean() - v.min()], [v.max() - v.mean()]] for v in (place.hours, place.scores))
        point = place.hours.mean(), place.scores.mean()
        axes.errorbar(*point, up, across, **style, label=place.label, markersize=6, linewidth=0, elinewidth=1)
    means = [place.hours.mean() for place in places]
    if max(means) > APART * min(means):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which("{x:g}")
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel(f"{_unit(names)} of training")
    axes.set_ylabel(f"{report.headline} (%)")
    _name(axes, places, {label: style["color"] for label, style in styles.items()}, tall)
    return figure


def _name(axes: Axes, places: list[Place], colours: dict[str, str], tall: float) -> None:
    """A column of names right of the axes, `tall` inches high, from each a thin line to its point."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    wanted = [(float(place.scores.mean()) - low) / (high - low) for place in places]
    heights = [LINE * (place.name.count("\n") + 1) / tall for place in places]
    line = {"arrowstyle": "-", "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 4, "linewidth": 0.6, "alpha": 0.6}
    for place, centre in zip(places, spread(wanted, heights), strict=True):
        axes.annotate(
            place.name,
            (place.hours.mean(), place.scores.mean()),
            (1.03, centre),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            arrowprops=line | {"color": colours[place.label]},
        )
