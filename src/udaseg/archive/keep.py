"""Records are written from finished jobs and stand for them in a report.

Only reports read records. They have no weights, so no training can start from one.
"""

import json
from pathlib import Path

from udaseg.errors import UserError
from udaseg.jobs.job import Job, Plan
from udaseg.runs.files import keep_only, write_bytes
from udaseg.runs.folder import MARKER, MEASURED
from udaseg.runs.kinds import KINDS
from udaseg.runs.records import KEPT, RECORDS, RESULTS, found, is_record
from udaseg.runs.spec import ReportSpec


def left_out(plan: Plan) -> frozenset[str]:
    """Folders of the jobs that are not done and need not be, if records count as finished.

    A job whose numbers the report reads must be made if it is neither here nor on record, and then its parents must
    really be here, recorded or not. Scores and pictures of a run go with the run: they are made here if the run is here
    or is to be made.
    """
    absent = {folder for folder, job in plan.jobs.items() if not Path(job.marker).exists()}
    made: set[str] = set()
    for job in reversed(plan.jobs.values()):  # parents come first in a plan
        reported = KINDS[job.kind].reported
        if job.folder in absent and (job.folder in made or (reported and found(Path(job.folder)) is None)):
            made |= {job.folder, *(parent.folder for parent in job.parents)}
    for job in plan.jobs.values():
        here = all(parent.folder in made or parent.folder not in absent for parent in job.parents)
        if KINDS[job.kind].is_last and here:
            made.add(job.folder)
    return frozenset(absent - made - {plan.report.folder})


def origin(spec: ReportSpec) -> str:
    """What a report is made from: only "results" made here, "records" too, or "parts" of its study."""
    folders = {Path(folder) for run in spec.runs for folder in run.folders()}
    places = {folder: found(folder) for folder in folders}
    if None in places.values():
        return "parts"
    return "results" if all(folder == place for folder, place in places.items()) else "records"


def keep_jobs(plan: Plan) -> list[Job]:
    """Write the record of every finished job of a plan, and remove the study's records that the plan has no job for.

    A job that is on record only for another study is copied, so that the records of a study depend on no other.

    Returns:
        The jobs that are neither finished nor on record.

    Raises:
        UserError: no job is finished or on record, as after a change that reaches all of them. Existing records stay.
    """
    runs = RECORDS / plan.study / "runs"
    kept: set[Path] = set()
    missing = []
    for job in plan.jobs.values():
        if not KINDS[job.kind].numbers:
            continue
        record, source = runs / Path(job.folder).relative_to(RESULTS), found(Path(job.folder))
        if source is None:
            missing.append(job)
            continue
        kept |= set(_copy_record(source, record))
    if not kept:
        raise UserError(f"study {plan.study}: no job of its plan is finished, so there is nothing to keep; run it")
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
    """Write the record of the finished job in `source` to `record`, the marker last; return its files."""
    marker = (source / MARKER).read_bytes()
    files = {*json.loads(marker)["files"], *(name for name in MEASURED if (source / name).is_file())}
    names = [*sorted(files & KEPT), MARKER]
    if not (is_record(record) and (record / MARKER).read_bytes() == marker):
        (record / MARKER).unlink(missing_ok=True)
        for name in names:
            write_bytes(record / name, (source / name).read_bytes())
    return [record / name for name in names]
