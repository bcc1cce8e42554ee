"""The report's figures of the results: every seed's score, and the classes. Other figures have modules of their own."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from udaseg.reports.compare.comparisons import scores
from udaseg.reports.figures.confusion import confusion_figure
from udaseg.reports.figures.cost import cost_figure
from udaseg.reports.figures.curves import diagnostics, losses, monitor
from udaseg.reports.figures.style import STYLE, WIDTH, grid_columns, hide_rest, method_styles, wrapped
from udaseg.reports.figures.sweeps import ablation_figures
from udaseg.reports.read.report import Report
from udaseg.reports.read.scores import history_frame, iou_frame
from udaseg.reports.tables.pseudo_labels import pseudo_labels
from udaseg.reports.tables.stages import stage_lines

MIOU = "Each seed (small) and the mean (large) on the reported split, last iteration."
STAGES = "What each stage reaches on the reported split, last iteration: mean, and the range over seeds."
PSEUDO_LABELS = (
    "The pseudo-labels that each stage was trained on: mean, and the range over seeds. Coverage: pixels that were "
    "given this label / all pixels (beyond 0.1 % the axis is logarithmic; the black bar is the class's share in the "
    "ground truth). Precision: right pixels / pixels with this label. Recall: right pixels / pixels of this class. "
    "Precision and recall use the training images' ground truth, which no training sees."
)
CLASSES = "IoU per class, mean over seeds, last iteration."
MONITOR = (
    "Score on the monitored split during the final stage: mean, and the range over seeds. It steers nothing. Behind "
    "it, in grey, all others."
)
LOSSES = (
    "Loss terms during training, unweighted: mean, and the range over seeds. A stage that several recipes share is "
    "drawn once. The axis is logarithmic where the terms lie far apart."
)
DIAGNOSTICS = "What the methods log beside their losses: mean and range over seeds."


def all_figures(report: Report) -> dict[str, tuple[str, Figure]]:
    """Name → (caption, figure), in the report's order. A figure for which no run has numbers is left out."""
    history = history_frame(report)
    with matplotlib.rc_context(STYLE):
        figures = {
            "miou": _captioned(MIOU, miou(report)),
            "stages": _captioned(STAGES, stage_lines(report)),
            "pseudo_labels": _captioned(PSEUDO_LABELS, pseudo_labels(report)),
            "classes": _captioned(CLASSES, class_bars(report)),
            **ablation_figures(report),
            "confusion": confusion_figure(report),
            "cost": cost_figure(report),
            "monitor": _captioned(MONITOR, monitor(report, history)),
            "losses": _captioned(LOSSES, losses(report, history)),
            "diagnostics": _captioned(DIAGNOSTICS, diagnostics(report, history)),
        }
    return {name: drawn for name, drawn in figures.items() if drawn is not None}


def _captioned(caption: str, figure: Figure | None) -> tuple[str, Figure] | None:
    return None if figure is None else (caption, figure)


def miou(report: Report) -> Figure | None:
    """One row per method: the seeds' headline mIoU as points, the mean as a larger one."""
    labels = report.labels()
    found = {label: scores(report, label).to_numpy() for label in labels}
    if not any(map(len, found.values())):
        return None
    figure = Figure(figsize=(WIDTH, 0.9 + 0.36 * len(labels)))
    axes = figure.add_subplot()
    styles = method_styles(report)
    for row, label in enumerate(labels):
        values = found[label]
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
    axes.set_yticks(range(len(labels)), [wrapped(report.scored_title(label)) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.7)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.06)
    axes.set_xlabel(f"{report.headline} (%)")
    return figure


def class_bars(report: Report) -> Figure | None:
    """One panel per method: its IoU per class as bars, with baseline and oracle as marks where the metric is theirs."""
    frame = iou_frame(report)
    frame = frame[frame["which"] == "last"]
    means = 100 * frame.groupby(["label", "class"])["iou"].mean().unstack("class") if len(frame) else pd.DataFrame()
    anchors = [name for name in report.bounds() if name in means.index]
    labels = [label for label in report.labels() if label in means.index and label not in anchors] or anchors
    if not labels:
        return None
    columns = grid_columns(len(labels), 4)
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
            if report.metric(anchor, report.headline) != report.metric(label, report.headline):
                continue
            marks = means.loc[anchor].reindex(report.classes).to_numpy()
            face = "white" if anchor == report.baseline else "black"
            mark = {"marker": marker, "markersize": 4.2, "markerfacecolor": face, "markeredgecolor": "black"}
            style: dict[str, Any] = mark | {"linestyle": "", "markeredgewidth": 0.9}
            handles[report.scored_title(anchor)] = axes.plot(marks, places, **style)[0]
        axes.set_title(wrapped(report.scored_title(label), 20), fontsize=8.5)
        axes.grid(visible=False, axis="y")
    hide_rest(panels, len(labels))
    panels[0, 0].set_yticks(places, [name.replace("_", " ") for name in report.classes])
    panels[0, 0].set_ylim(len(report.classes) - 0.5, -0.5)
    panels[0, 0].set_xlim(0, 100)
    figure.supxlabel("IoU (%)", fontsize=9)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    return figure
