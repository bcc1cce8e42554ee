"""Records: what git keeps of finished jobs, without weights: the spec, metrics, history, cost and run.json of each.

A record of results/PLACE lies in reports/reference/STUDY/runs/PLACE. It can be reported, and nothing can start from it.
Its run.json is that of the job, so that the checksums of the weights are on record, too: whoever trains the run again
can tell whether it is the same.
"""

import json
from pathlib import Path

from udaseg.jobs import Job, Plan
from udaseg.runs import MARKER, is_whole, sha256

RECORDS = Path("reports/reference")
RESULTS = Path("results")
KEPT = {
    *("spec.yaml", "result.json", "history.jsonl", "cost.json", "env.json"),  # of a training
    *("metrics.json", "quality.json", "labels.json"),
}


def is_record(folder: Path) -> bool:
    """Whether `folder` holds the record of a finished job: run.json, and with its checksum every file that is kept."""
    try:
        files = json.loads((folder / MARKER).read_text())["files"]
        return all(sha256(folder / name) == digest for name, digest in files.items() if name in KEPT)
    except (OSError, AttributeError, KeyError, TypeError, ValueError):  # of a run.json that is none
        return False


def located(folder: Path) -> Path:
    """Where a job's numbers can be read: its folder if that is whole, else its record, else the folder all the same.

    Raises:
        ValueError: the folder is not below results/.
    """
    place = folder.relative_to(RESULTS)
    if is_whole(folder):
        return folder
    candidates = (study / "runs" / place for study in sorted(RECORDS.glob("*")))
    return next((record for record in candidates if is_record(record)), folder)


def needed(plan: Plan) -> list[Job]:
    """The jobs that the plan's report needs where records count as finished, in running order, without the report.

    A job that has a result needs no parents; one that has a record is needed only by a training that starts from it.
    """
    wanted: set[str] = set()
    for job in reversed(plan.jobs.values()):  # parents come first in a plan
        if job.kind == "report":
            wanted |= {end.folder for end in job.parents if not _reportable(end)}
        elif job.folder in wanted and not Path(job.marker).exists():
            wanted |= {parent.folder for parent in job.parents}
    return [job for job in plan.jobs.values() if job.folder in wanted]


def _reportable(end: Job) -> bool:
    """Whether a report can read the job, and where it is an evaluation its run, here or as records."""
    jobs = [end, *(parent for parent in end.parents if end.kind == "evaluate" and parent.kind == "train")]
    # Pictures of translations are no record; a report without them is whole.
    return end.kind == "translate" or all(
        Path(job.marker).exists() or located(Path(job.folder)) != Path(job.folder) for job in jobs
    )
