"""The score by stage of recipes with several stages."""

import numpy as np
from matplotlib.figure import Figure

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.style import WIDTH, legend_columns, method_styles


def stage_lines(comparisons: Comparisons) -> Figure | None:
    """The headline mIoU by stage: a line for each recipe of several stages, baseline and oracle across."""
    report = comparisons.report
    rows = [row for row in report.staged if any(len(comparisons.scores(stage)) for stage in row.scored_stages)]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 4.2))
    axes = figure.add_subplot()
    styles = method_styles(report)
    names: list[dict[str, None]] = []  # by place on the axis, what the recipes call the stage there
    for index, row in enumerate(rows):
        stages = row.scored_stages
        names += [{} for _ in range(len(stages) - len(names))]
        for place, stage in enumerate(stages):
            names[place][stage.name] = None
        values = [comparisons.scores(stage) for stage in stages]
        mean, low, high = (np.array([getattr(v, how)() for v in values]) for how in ("mean", "min", "max"))
        places = np.arange(len(stages)) + 0.05 * (index - (len(rows) - 1) / 2)
        error = np.nan_to_num(np.stack([mean - low, high - mean]))
        look = styles[row.name] | {"linewidth": 1.4, "markersize": 5, "capsize": 2}
        axes.errorbar(places, mean, error, **look, label=row.scored_title)
    for anchor in report.bounds:
        scores = comparisons.scores(anchor.final)
        if len(scores):
            look = {"color": styles[anchor.name]["color"], "linewidth": 1.2, "zorder": 1}
            axes.axhline(scores.mean(), **look, label=anchor.scored_title)
    axes.set_xticks(range(len(names)), ["\n".join(distinct) for distinct in names])
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylabel(f"{report.headline} (%)")
    handles, titles = axes.get_legend_handles_labels()
    figure.legend(handles, titles, loc="outside upper center", ncols=legend_columns(titles))
    return figure
