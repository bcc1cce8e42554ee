"""The curves of a study's runs over the iterations."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Run, number


def history_points(run: Run) -> Iterator[dict[str, Any]]:
    """The numbers of a run's history: iteration, kind, name, value (a fraction for scores, NaN where undefined)."""
    for line in run.history():
        groups = {kind: line.get(key) or {} for kind, key in (("term", "terms"), ("log", "logs"), ("lr", "lr"))}
        monitor = dict(line.get("monitor") or {})
        groups["iou"] = monitor.pop("iou", {})
        monitor.pop("split", None)
        groups["monitor"] = monitor
        for kind, values in groups.items():
            for name, value in values.items():
                if value is None or isinstance(value, int | float):
                    yield {"iteration": line["iteration"], "kind": kind, "name": name, "value": number(value)}


def history_frame(report: Report) -> pd.DataFrame:
    """One line per run of unsupervised adaptation, iteration and number of its history.

    `kind` is term, log, lr, monitor (class sets) or iou (classes). A run that several recipes share is there once;
    `row` and `stage` are those of `Report.trainings`.
    """
    lines = [
        {"row": run.row, "stage": run.stage, "final": run.final, "seed": run.seed, "run": str(run.folder)} | point
        for run in report.trainings()
        if not run.labelled_target
        for point in history_points(run)
    ]
    columns = ["row", "stage", "final", "seed", "run", "iteration", "kind", "name", "value"]
    return pd.DataFrame(lines, columns=columns)
