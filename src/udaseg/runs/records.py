"""Records: what git keeps of finished jobs. The spec, the numbers, the cost and run.json; no weights and no pictures.

The record of results/PLACE lies in reports/reference/STUDY/runs/PLACE. A report can be made from records, but no
training can start from one. A record's run.json is that of the job and lists the checksums of the weights too:
whoever trains the run again can tell whether the weights are the same.
"""

from pathlib import Path

from udaseg.runs.folder import MEASURED, damage, is_whole
from udaseg.runs.kinds import KINDS

RECORDS = Path("reports/reference")
RESULTS = Path("results")
KEPT = {"spec.yaml", *MEASURED, *(name for kind in KINDS.values() for name in kind.numbers)}


def is_record(folder: Path) -> bool:
    """Whether `folder` holds the record of a finished job: run.json and, undamaged, every file that a record keeps."""
    return not damage(folder, KEPT)


def located(folder: Path) -> Path:
    """Where a job's numbers can be read: its folder if that is whole, else its record, else the folder nevertheless.

    Studies share runs, so the record of any study will do; the first one is taken.

    Raises:
        ValueError: the folder is not below results/.
    """
    return found(folder) or folder


def found(folder: Path) -> Path | None:
    """As `located`, but None when there is neither a finished job nor a record of it."""
    place = folder.relative_to(RESULTS)
    if is_whole(folder):
        return folder
    return next((record for study in sorted(RECORDS.glob("*")) if is_record(record := study / "runs" / place)), None)
