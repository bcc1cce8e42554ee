"""The main table and the curves as plain files, for what compares versions of a study: `dvc metrics`, `dvc plots`."""

import pandas as pd

from udaseg.reports.compare.comparisons import gap_closed, scores
from udaseg.reports.read.report import Report
from udaseg.reports.read.scores import history_frame

DIGITS = 4  # of percent
KINDS = {"monitor": "", "term": "loss "}  # kinds of numbers in the curves, and what their names begin with


def metrics(report: Report) -> dict[str, dict[str, float | int]]:
    """Recipe -> headline score in percent (mean over seeds, and standard deviation), gap closed in percent, seeds.

    What is undefined is left out: the spread of one seed, the gap without both bounds.
    """
    baseline, oracle = scores(report, report.baseline), scores(report, report.oracle)
    found = {}
    for label in report.labels():
        own = scores(report, label)
        values = {report.metric(label, report.headline): own.mean(), "std": own.std(ddof=1)}
        values["gap_closed"] = 100 * gap_closed(own, baseline, oracle)[0]
        known = {name: round(float(value), DIGITS) for name, value in values.items() if not pd.isna(value)}
        found[label] = known | {"seeds": len(own)}
    return found


def score_table(report: Report) -> str:
    """CSV of recipe and its headline score in percent, in the report's order."""
    rows = [{"recipe": label, "score": round(float(scores(report, label).mean()), DIGITS)} for label in report.labels()]
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
    for label in report.labels():
        own = history[history["run"].isin({str(run.folder) for run in report.final_runs(label)})]
        means = own.groupby(["number", "iteration"])["value"].mean().round(DIGITS).reset_index()
        parts.append(means.assign(recipe=label))
    table = pd.concat(parts)[["recipe", "number", "iteration", "value"]]
    return table.to_csv(index=False, lineterminator="\n")
