"""Records: what git keeps of finished jobs, without weights: the spec, metrics, history, cost and run.json of each.

A record of results/PLACE lies in reports/reference/STUDY/runs/PLACE. It can be reported, and nothing can start from it.
Its run.json is that of the job, so that the checksums of the weights are on record, too: whoever trains the run again
can tell whether it is the same.
"""

import json
from pathlib import Path

from udaseg.errors import UserError
from udaseg.jobs import Job, Plan
from udaseg.runs import MARKER, MEASURED, damage, is_whole, keep_only, write_bytes
from udaseg.specs import ReportSpec

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


def left_out(plan: Plan) -> frozenset[str]:
    """Folders of the jobs that are not done and need not be, where records count as finished.

    A report reads every training (the pretraining, too), evaluation and quality. One that is not here has a record or
    must be made, and to be made it needs its parents really here, whether they are on record or not. What is scored or
    shown of a run goes with the run: beside one that is here, or is to be, it is made here.
    """
    absent = {folder for folder, job in plan.jobs.items() if not Path(job.marker).exists()}
    made: set[str] = set()
    for job in reversed(plan.jobs.values()):  # parents come first in a plan
        read = job.kind in ("train", "evaluate", "quality")
        if job.folder in absent and (job.folder in made or (read and found(Path(job.folder)) is None)):
            made |= {job.folder, *(parent.folder for parent in job.parents)}
    for job in plan.jobs.values():
        here = all(parent.folder in made or parent.folder not in absent for parent in job.parents)
        if job.kind in ("evaluate", "quality", "translate") and here:
            made.add(job.folder)
    return frozenset(absent - made - {plan.report.folder})


def origin(spec: ReportSpec) -> str:
    """What a report is written of: "results" of this folder, "records" of some of them, or "parts" of its study."""
    folders = {Path(each) for run in spec.runs for each in (run.run, run.evaluation, run.quality) if each is not None}
    places = {folder: found(folder) for folder in folders}
    if None in places.values():
        return "parts"
    return "results" if all(folder == place for folder, place in places.items()) else "records"


def keep_jobs(plan: Plan) -> list[Job]:
    """Write the record of every finished job of a plan, and remove the records that its study has no job for.

    What is on record for another study only is copied, so that a study's records do not depend on others.

    Returns:
        The jobs that are neither finished nor on record.

    Raises:
        UserError: none is, as after a change of what all of them come from; then what is on record is left as it is.
    """
    runs = RECORDS / plan.study / "runs"
    kept: set[Path] = set()
    missing = []
    for job in plan.jobs.values():
        if job.kind not in RECORDED:
            continue
        record, source = runs / Path(job.folder).relative_to(RESULTS), found(Path(job.folder))
        if source is None:
            missing.append(job)
            continue
        kept |= set(_copy_record(source, record))
    if not kept:
        raise UserError(f"study {plan.study}: no job of its plan is finished, so that there is nothing to keep; run it")
    keep_only(runs, kept)
    return missing


def keep_report(plan: Plan) -> None:
    """Copy the report of a plan, with its spec, beside the records."""
    reference, report = RECORDS / plan.study, Path(plan.report.folder)
    kept = {reference / "report.yaml": plan.report.spec_path, reference / "index.html": report / "index.html"}
    for name in ("tables", "figures"):
        kept |= {reference / name / path.name: path for path in sorted((report / name).glob("[!.]*"))}
        keep_only(reference / name, set(kept))
    for path, source in kept.items():
        write_bytes(path, source.read_bytes())


def _copy_record(source: Path, record: Path) -> list[Path]:
    """Write to `record` what a record of the finished job in `source` consists of, the marker last; these files."""
    marker = (source / MARKER).read_bytes()
    files = {*json.loads(marker)["files"], *(name for name in MEASURED if (source / name).is_file())}
    names = [*sorted(files & KEPT), MARKER]
    if not (is_record(record) and (record / MARKER).read_bytes() == marker):
        (record / MARKER).unlink(missing_ok=True)
        for name in names:
            write_bytes(record / name, (source / name).read_bytes())
    return [record / name for name in names]
