"""The main table and the curves as plain files, by which `dvc metrics` and `dvc plots` compare versions of a study."""

import math

import pandas as pd

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.read.history import history_frame
from udaseg.reports.read.report import Report

DIGITS = 4  # of percent
KINDS = {"monitor": "", "term": "loss "}  # kinds of numbers in the curves, and what their names begin with


def metrics(report: Report) -> dict[str, dict[str, float | int]]:
    """Recipe -> headline score in percent (mean over seeds, and standard deviation), gap closed in percent, seeds.

    What is undefined is left out: the spread of one seed, the gap without both bounds.
    """
    comparisons = Comparisons(report)
    found = {}
    for row in report.main:
        summary = comparisons.summary(row.final)
        values = {row.headline: summary.mean, "std": summary.std}
        values["gap_closed"] = 100 * comparisons.gap_closed(row.final)[0]
        known = {name: round(value, DIGITS) for name, value in values.items() if not math.isnan(value)}
        found[row.name] = known | {"seeds": summary.n}
    return found


def score_table(report: Report) -> str:
    """CSV of recipe and its headline score in percent, in the report's order."""
    means = {row.name: Comparisons(report).summary(row.final).mean for row in report.main}
    rows = [{"recipe": name, "score": round(mean, DIGITS)} for name, mean in means.items()]
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def curve_table(report: Report) -> str:
    """CSV of recipe, number, iteration and value: scores on the monitored split (percent) and loss terms.

    They are of the final stages, means over seeds.
    """
    history = history_frame(report)
    history = history[history["kind"].isin(KINDS)]
    percent = history["kind"].eq("monitor").map({True: 100.0, False: 1.0})
    history = history.assign(number=history["kind"].map(KINDS) + history["name"], value=history["value"] * percent)
    parts = []
    for row in report.main:
        own = history[history["run"].isin({str(run.folder) for run in row.final.runs})]
        means = own.groupby(["number", "iteration"])["value"].mean().round(DIGITS).reset_index()
        parts.append(means.assign(recipe=row.name))
    table = pd.concat(parts)[["recipe", "number", "iteration", "value"]]
    return table.to_csv(index=False, lineterminator="\n")
