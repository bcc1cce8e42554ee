"""Records are written from finished jobs, and stand for them in a report.

Only a report reads records: nothing can start from one, because it has no weights.
"""

import json
from pathlib import Path

from udaseg.errors import UserError
from udaseg.jobs.job import Job, Plan
from udaseg.runs.files import keep_only, write_bytes
from udaseg.runs.folder import MARKER, MEASURED
from udaseg.runs.records import KEPT, RECORDED, RECORDS, RESULTS, found, is_record
from udaseg.runs.spec import ReportSpec


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
