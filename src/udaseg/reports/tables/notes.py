"""Notes that stand under several tables: what is missing, undefined, or scored by another metric."""

from collections.abc import Iterable

from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row
from udaseg.reports.tables.table import DASH, listed

LACKS = {
    "missing": "has not been run",
    "unfinished": "did not finish, or its files were changed since",
    "not evaluated": "is trained but not evaluated",
}


def missing_notes(report: Report, rows: Iterable[Row] | None = None) -> list[str]:
    """One sentence for each run without the result it should have; only for the runs of `rows` where they are given."""
    wanted = None if rows is None else set(rows)
    notes = []
    for run in report.each_once():
        places = [place for place in report.places(run) if wanted is None or place[0] in wanted]
        if not places or run.status == "finished" or (run.status == "not evaluated" and run.evaluation is None):
            continue
        names = listed(f"{row.name}, stage {stage}" for row, stage in places)
        notes.append(f"{names}, seed {run.seed}: {LACKS[run.status]} ({run.folder}).")
    return notes


def metric_notes(report: Report, rows: Iterable[Row]) -> list[str]:
    """What must stand under a table some of whose rows are scored by another metric than the others."""
    return [
        f"All scores of rows named {metric} are of predictions that were aggregated over each image, as the features "
        "before them (PLCA's test-time aggregation). They are other metrics than the plain ones: between a row of "
        f"these and one of those no difference and no gap closed is computed ({DASH}). Which checkpoint is the best on "
        "val was told by the plain metric in every row."
        for metric in sorted({row.headline for row in rows} - {report.headline})
    ]


def class_notes(report: Report) -> list[str]:
    """Names the classes that the scored images do not show, and those whose IoU is undefined in some run."""
    frame = report.scores
    unsupervised = frame["row"].map(lambda name: not report.rows[name].labelled_target)
    frame = frame[frame["final"] & (frame["checkpoint"] == "last") & (frame["kind"] == "class") & unsupervised]
    absent = set(frame[frame["truth"] == 0]["name"])
    undefined = set(frame[frame["score"].isna()]["name"])
    notes = []
    if absent:
        names = [name for name in report.classes if name in absent]
        notes.append(f"Absent from the ground truth of the scored images: {', '.join(names)}.")
    if undefined:
        names = [name for name in report.classes if name in undefined]
        notes.append(
            f"IoU undefined ({DASH}; neither in the ground truth nor predicted) in at least one run and left out of "
            f"its means: {', '.join(names)}."
        )
    return notes
