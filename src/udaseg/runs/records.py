"""Records: what git keeps of finished jobs, without weights: the spec, metrics, history, cost and run.json of each.

A record of results/PLACE lies in reports/reference/STUDY/runs/PLACE. It can be reported, and nothing can start from it.
Its run.json is that of the job, so that the checksums of the weights are on record, too: whoever trains the run again
can tell whether it is the same.
"""

from pathlib import Path

from udaseg.runs.folder import MEASURED, damage, is_whole

RECORDS = Path("reports/reference")
RESULTS = Path("results")
RECORDED = ("train", "label", "evaluate", "quality")  # kinds of jobs that leave numbers rather than pictures
KEPT = {
    *("spec.yaml", "result.json", "history.jsonl", *MEASURED),  # of a training
    *("metrics.json", "counts.npz", "quality.json", "labels.json"),
}


def is_record(folder: Path) -> bool:
    """Whether `folder` holds the record of a finished job: run.json, and with its checksum every file that is kept."""
    return not damage(folder, KEPT)


def located(folder: Path) -> Path:
    """Where a job's numbers can be read: its folder if that is whole, else its record, else the folder all the same.

    The record is the first of any study, because studies share runs.

    Raises:
        ValueError: the folder is not below results/.
    """
    return found(folder) or folder


def found(folder: Path) -> Path | None:
    """As `located`, but None where there is neither the finished job nor a record of it."""
    place = folder.relative_to(RESULTS)
    if is_whole(folder):
        return folder
    return next((record for study in sorted(RECORDS.glob("*")) if is_record(record := study / "runs" / place)), None)
