"""How good the pseudo-labels were that a study's runs were trained on."""

import math

import pandas as pd

from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row

ALL = "all classes"


def quality_frame(report: Report) -> pd.DataFrame:
    """One line per run of unsupervised adaptation trained on judged pseudo-labels, and class or `ALL`.

    As fractions or NaN: `coverage` is the pixels that were given this label / all pixels, `share` the pixels of this
    class / all pixels, `precision` the right ones / those of them that have ground truth, `recall` the right ones / the
    class's pixels in the ground truth.
    """
    columns = ["row", "stage", "seed", "rule", "class", "coverage", "share", "precision", "recall"]
    lines = []
    for run in report.runs:
        if not run.quality or run.labelled_target:
            continue
        for name in [ALL, *report.classes]:
            members = report.classes if name == ALL else [name]
            counts = ("selected", "truth", "judged", "correct")
            selected, truth, judged, correct = (_pixels(run.quality[key], members) for key in counts)
            total = run.quality["total"]
            shares = (_share(selected, total), _share(truth, total), _share(correct, judged), _share(correct, truth))
            lines.append((run.row, run.stage, run.seed, run.quality["rule"], name, *shares))
    return pd.DataFrame(lines, columns=columns)


def by_stage(report: Report, frame: pd.DataFrame) -> dict[tuple[Row, str], pd.DataFrame]:
    """(row, stage) → its lines, for every stage of the main rows with judged pseudo-labels, in the report's order."""
    groups = dict(list(frame.groupby(["row", "stage"], sort=False)))
    places = ((row, stage) for row in report.main for stage in row.stages)
    return {(row, stage): groups[row.name, stage] for row, stage in places if (row.name, stage) in groups}


def _pixels(counts: dict[str, int] | None, members: list[str]) -> float:
    """The members' pixels; NaN where nothing was counted, because there is no ground truth."""
    return math.nan if counts is None else float(sum(counts[name] for name in members))


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
