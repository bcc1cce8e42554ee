"""The snapshot, which DVC versions: the files of exactly one plan's jobs, beside data/ and results/, which keep all.

`data/sets` and `results` hold the runs of all studies, and only `udaseg gc` removes from them: their content depends on
what was done here before. The snapshot is a function of parameters, code and data alone: its files are hard links to
those of the planned jobs, without what the clock measured, and it has no other files. What a checkout or a pull brings
into the snapshot, the next workflow takes over instead of making it (`adopt`).
"""

import sys
from pathlib import Path

from udaseg.data.sets.read import PreparedSet
from udaseg.errors import UserError
from udaseg.jobs.job import Plan
from udaseg.runs.files import keep_only, link, read_json, sha256, write_json, write_text
from udaseg.runs.folder import MARKER, require_whole
from udaseg.runs.kinds import KINDS

SNAPSHOT = Path("snapshot")
TABLES = Path("reports/dvc")  # what `dvc metrics` and `dvc plots` read; small, and in git
# Parts of the snapshot, and the kinds of jobs whose folders lie in each.
PARTS = {part: tuple(name for name, kind in KINDS.items() if kind.part == part) for part in ("data", "runs", "report")}


def write_plan(plan: Plan) -> None:
    """Write the list of jobs of each part, from which alone DVC knows whether to run the part's stage again.

    The name of a job's folder has the hash of its spec and code, so that a comment changes nothing.
    """
    for part, kinds in PARTS.items():
        jobs = (job.marker if job.kind == "report" else job.folder for job in plan.jobs.values() if job.kind in kinds)
        content = {"study": plan.study, "jobs": sorted(jobs)}
        path = _plan_of(part)
        if not path.is_file() or read_json(path) != content:
            write_json(path, content)


def write_part(part: str) -> None:
    """Make "data" or "runs" of the snapshot equal to what `write_plan` wrote.

    Raises:
        UserError: a planned job is not finished, or its files are damaged; all other jobs are up to date then. Or no
            plan was written, and nothing is done.
    """
    if not _plan_of(part).is_file():
        raise UserError(f"{_plan_of(part)}: not there; `udaseg snapshot plan` writes it")
    wanted: dict[Path, Path] = {}
    problems = []
    (marker,) = {KINDS[name].marker for name in PARTS[part]}
    for folder in map(Path, _planned(part)):
        try:
            wanted |= {SNAPSHOT / folder / name: folder / name for name in _exact_files(folder, marker)}
        except UserError as error:
            problems.append(str(error))
    for target, file in wanted.items():
        if not (target.is_file() and (target.samefile(file) or sha256(target) == sha256(file))):
            link(file, target)
    keep_only(SNAPSHOT / ("data" if part == "data" else "results"), set(wanted))
    if problems:
        raise UserError("the snapshot is not complete:\n  " + "\n  ".join(problems))


def write_report(plan: Plan) -> None:
    """Write the plan's report without what depends on the clock or the machine, and the tables that DVC compares.

    Raises:
        UserError: a job that it reports is not finished.
    """
    from udaseg.archive.keep import origin
    from udaseg.reports import summary
    from udaseg.reports.build import build_report

    spec = plan.report.spec
    if origin(spec) != "results":  # type: ignore[arg-type]
        raise UserError(f"study {plan.study}: not all its jobs are finished here; `snakemake --cores all` makes them")
    report = build_report(plan.report.spec_path, exact=SNAPSHOT / "report")
    write_json(TABLES / "metrics.json", summary.metrics(report))
    write_text(TABLES / "scores.csv", summary.score_table(report))
    write_text(TABLES / "curves.csv", summary.curve_table(report))


def adopt(plan: Plan) -> list[str]:
    """Take over the finished jobs that the snapshot has and that are missing here; their folders.

    Not only those of the plan: the next snapshot will have no others, and going back must cost no training. Damaged
    ones are reported and left alone. The caller is the only driver.
    """
    taken = []
    kinds = [KINDS[name] for part in ("data", "runs") for name in PARTS[part]]
    for marker in sorted(path for kind in kinds for path in SNAPSHOT.glob(f"{kind.folder}/{kind.marker}")):
        place = marker.relative_to(SNAPSHOT)
        if place.exists():
            continue
        try:
            names = _exact_files(marker.parent, marker.name)
        except UserError as error:
            print(f"not taken over: {error}", file=sys.stderr)
            continue
        for name in names:
            link((marker.parent / name).resolve(), place.parent / name)  # DVC may have put links to its cache there
        taken.append(str(place.parent))
    if _adopt_report(plan):
        taken.append(plan.report.folder)
    return taken


def _adopt_report(plan: Plan) -> bool:
    """Take over the report if there is none here: one made here would also say what the runs cost."""
    report, source = plan.report, SNAPSHOT / "report"
    runs = [job for job in plan.jobs.values() if job.kind in PARTS["runs"]]
    page = Path(report.folder) / "index.html"
    if page.exists() or _planned("report") != [report.marker] or not all(Path(job.marker).exists() for job in runs):
        return False
    for file in sorted(source.rglob("*")):
        if file.is_file():
            link(file.resolve(), Path(report.folder) / file.relative_to(source))
    if not page.exists():
        return False
    # Tracking would send runs that were made elsewhere to a new store, unasked and without their cost.
    write_json(Path(plan.tracking_note), {"status": "adopted"})
    write_json(Path(report.marker), {"of": "results"})
    return True


def _exact_files(folder: Path, marker: str) -> list[str]:
    """Names of a finished job's files that an exact rerun repeats; the marker, which makes the folder whole, is last.

    Raises:
        UserError: the job is not finished, or its files are damaged.
    """
    if marker == MARKER:
        require_whole(folder)
        names = [*read_json(folder / MARKER)["files"], MARKER]
    else:
        PreparedSet(folder).verify()
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return sorted(names, key=lambda name: (name == marker, name))


def _plan_of(part: str) -> Path:
    return SNAPSHOT / "plan" / f"{part}.json"


def _planned(part: str) -> list[str]:
    path = _plan_of(part)
    return list(read_json(path)["jobs"]) if path.is_file() else []
