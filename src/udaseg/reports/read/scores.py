"""The numbers of a study's runs as frames, scores as fractions. Tables and figures are made from these.

All but `run_frame` are of unsupervised adaptation alone: what had labelled target images has tables of its own.
"""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from udaseg.reports.read.report import Report, Run
from udaseg.reports.read.run_folders import history_points, number, set_score

ALL = "all classes"
COST = ("seconds", "iterations", "seconds_per_iteration", "peak_memory_mib")  # keys of cost.json


def run_frame(report: Report, runs: Iterable[Run]) -> pd.DataFrame:
    """One row per run: who it is, its status, its scores as fractions (`last.<set>`, `best.<set>`), and its cost.

    The scores are by the metric of the run's row, which `metric` tells of the headline.
    """
    return pd.DataFrame([_row(report, run) for run in runs])


def _row(report: Report, run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {
        "label": run.label,
        "recipe": run.recipe,
        "overrides": run.overrides,
        "method": run.spec.get("method", ""),
        "stage": run.stage,
        "final": run.final,
        "labelled_target": run.labelled_target,
        "metric": report.metric(run.label, report.headline),
        "seed": run.seed,
        "status": run.status,
        "run": str(run.folder),
        "evaluation": str(run.evaluation or ""),
    }
    for which in ("last", "best"):
        score = run.metrics.get("scores", {}).get(which) or {}
        row[f"{which}.iteration"] = number(score.get("iteration"))
        row[f"{which}.monitor"] = number(score.get("monitor"))
        row[f"{which}.pixel_accuracy"] = number(score.get("pixel_accuracy"))
        for name in report.class_sets:
            row[f"{which}.{name}"] = set_score(report, run, which, name)
    for name in COST:
        row[name] = number(run.cost.get(name))
    row["device"] = run.cost.get("device", "")
    return row


def iou_frame(report: Report) -> pd.DataFrame:
    """One row per evaluated final run, checkpoint (last, best) and class: `iou` (fraction or NaN), `truth` pixels."""
    rows = [
        {"label": run.label, "seed": run.seed, "which": which, "class": name, "iou": number(score["iou"][name])}
        | {"truth": sum(score["confusion"][index])}
        for run in report.runs
        if run.final and run.status == "finished" and not run.labelled_target
        for which, score in run.metrics["scores"].items()
        if score is not None
        for index, name in enumerate(report.classes)
    ]
    return pd.DataFrame(rows, columns=["label", "seed", "which", "class", "iou", "truth"])


def history_frame(report: Report) -> pd.DataFrame:
    """One row per run, iteration and number: `kind` is term, log, lr, monitor (class sets) or iou (classes).

    A run that several recipes share is there once; `label` and `stage` are those of `Report.trainings`.
    """
    rows = [
        {"label": run.label, "stage": run.stage, "final": run.final, "seed": run.seed, "run": str(run.folder)} | point
        for run in report.trainings()
        if not run.labelled_target
        for point in history_points(run)
    ]
    columns = ["label", "stage", "final", "seed", "run", "iteration", "kind", "name", "value"]
    return pd.DataFrame(rows, columns=columns)


def quality_frame(report: Report) -> pd.DataFrame:
    """One row per run that was trained on judged pseudo-labels, and class or `ALL`, with fractions or NaN.

    `coverage` is the pixels that were given this label / all pixels, `share` the pixels that are of this class / all
    pixels, `precision` the right ones / those of them that have ground truth, `recall` the right ones / the class's
    pixels in the ground truth.
    """
    columns = ["label", "stage", "seed", "rule", "class", "coverage", "share", "precision", "recall"]
    rows = []
    for run in report.runs:
        if not run.quality or run.labelled_target:
            continue
        for name in [ALL, *report.classes]:
            members = report.classes if name == ALL else [name]
            who = {"label": run.label, "stage": run.stage, "seed": run.seed, "rule": run.quality["rule"], "class": name}
            counts = ("selected", "truth", "judged", "correct")
            selected, truth, judged, correct = (_pixels(run.quality[key], members) for key in counts)
            total = run.quality["total"]
            rows.append(
                who
                | {"coverage": _share(selected, total), "share": _share(truth, total)}
                | {"precision": _share(correct, judged), "recall": _share(correct, truth)}
            )
    return pd.DataFrame(rows, columns=columns)


def _pixels(counts: dict[str, int] | None, members: list[str]) -> float:
    """The members' pixels; NaN where nothing was counted, because there is no ground truth."""
    return math.nan if counts is None else float(sum(counts[name] for name in members))


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
