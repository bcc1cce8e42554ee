"""The snapshot: what DVC versions. A view of exactly what one plan has, beside data/ and results/, which keep all.

`data/sets` and `results` hold whatever any study made, and only `udaseg gc` removes from them: what is in them depends
on what was done here before. The snapshot is a function of parameters, code and data alone: its files are second
names of the planned jobs' files, without what a clock measured, and nothing else is there. What a checkout or a pull
brings into the snapshot, the next workflow takes over from it instead of making it (`adopt`).
"""

import json
from collections.abc import Iterator
from pathlib import Path

from udaseg.data.prepared import PreparedSet
from udaseg.errors import UserError
from udaseg.jobs import Job, Plan
from udaseg.runs import MARKER, is_whole, keep_only, link, read_json, require_whole, sha256, write_json, write_text

SNAPSHOT = Path("snapshot")
TABLES = Path("reports/dvc")  # what `dvc metrics` and `dvc plots` read; small, and in git
PARTS = {  # of the snapshot, and the kinds of jobs whose folders lie in it
    "data": ("prepare",),
    "runs": ("train", "label", "quality", "translate", "evaluate"),
    "report": ("report",),
}


def write_plan(plan: Plan) -> None:
    """Write, for each part, the jobs it consists of: all that decides whether DVC has to make the part again.

    A job's folder has the hash of its spec and code in its name, so that a comment or another study changes nothing.
    """
    for part, kinds in PARTS.items():
        jobs = (job.marker if job.kind == "report" else job.folder for job in plan.jobs.values() if job.kind in kinds)
        content = {"study": plan.study, "jobs": sorted(jobs)}
        path = _plan_of(part)
        if not path.is_file() or read_json(path) != content:
            write_json(path, content)


def write_part(plan: Plan, part: str) -> None:
    """Make "data" or "runs" of the snapshot equal to what the plan has.

    Raises:
        UserError: a planned job is not finished, or its files are damaged. The rest is up to date then.
    """
    wanted: dict[Path, Path] = {}
    problems = []
    for job in plan.jobs.values():
        if job.kind in PARTS[part]:
            try:
                wanted |= {_place(job.folder) / name: Path(job.folder) / name for name in _exact_files(job)}
            except UserError as error:
                problems.append(str(error))
    folder = SNAPSHOT / ("data" if part == "data" else "results")
    for target, file in wanted.items():
        if not (target.is_file() and (target.samefile(file) or sha256(target) == sha256(file))):
            link(file, target)
    keep_only(folder, set(wanted))
    if problems:
        raise UserError("the snapshot is not complete:\n  " + "\n  ".join(problems))


def write_report(plan: Plan) -> None:
    """Write the plan's report without what a clock and the machine say, and the tables that DVC compares.

    Raises:
        UserError: not all that it reports is finished.
    """
    from udaseg.records import origin
    from udaseg.reports import summary
    from udaseg.reports.build import build_report
    from udaseg.reports.collect import read_report

    spec = plan.report.spec
    if origin(spec) != "results":  # type: ignore[arg-type]
        raise UserError(f"study {plan.study}: not all its jobs are finished here; `snakemake --cores all` makes them")
    build_report(plan.report.spec_path, exact=SNAPSHOT / "report")
    report = read_report(plan.report.spec_path, measured=False)
    write_json(TABLES / "metrics.json", summary.metrics(report))
    write_text(TABLES / "scores.csv", summary.score_table(report))
    write_text(TABLES / "curves.csv", summary.curve_table(report))


def adopt(plan: Plan) -> list[Job]:
    """Take over from the snapshot what the plan wants and is not here: the jobs that are finished by that.

    Only for whoever is the one driver. What is damaged in the snapshot is left alone, and made anew.
    """
    taken = [job for job in plan.jobs.values() if job.kind in (*PARTS["data"], *PARTS["runs"]) and _adopt_job(job)]
    if _adopt_report(plan):
        taken.append(plan.report)
    return taken


def _adopt_job(job: Job) -> bool:
    source, folder = _place(job.folder), Path(job.folder)
    if Path(job.marker).exists():
        return False
    if job.kind == "prepare":
        if not (source / "set.json").is_file():
            return False
        names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
        marker = Path("set.json")
    else:
        if not is_whole(source):
            return False
        names, marker = [Path(name) for name in json.loads((source / MARKER).read_text())["files"]], Path(MARKER)
    for name in [*sorted(set(names) - {marker}), marker]:  # the marker last: it says that the others are there
        link((source / name).resolve(), folder / name)  # DVC may have put symbolic links to its cache there
    return True


def _adopt_report(plan: Plan) -> bool:
    """Only into a folder that has none: here one can be written that says what the runs cost."""
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
    # Tracking would send runs that were made elsewhere to a new store, unasked and without what they cost.
    write_json(Path(plan.tracking_note), {"status": "adopted"})
    write_json(Path(report.marker), {"of": "results"})
    return True


def _exact_files(job: Job) -> Iterator[str]:
    """Names of a finished job's files that an exact rerun repeats; UserError when it is not finished or not whole."""
    folder = Path(job.folder)
    if job.kind == "prepare":
        PreparedSet(folder)
        yield from (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
    else:
        require_whole(folder)
        yield from [*read_json(folder / MARKER)["files"], MARKER]


def _place(folder: str) -> Path:
    """Where a job's folder is in the snapshot: data/sets/x -> snapshot/data/x, results/x -> snapshot/results/x."""
    return SNAPSHOT / folder.replace("data/sets/", "data/", 1)


def _plan_of(part: str) -> Path:
    return SNAPSHOT / "plan" / f"{part}.json"


def _planned(part: str) -> list[str]:
    path = _plan_of(part)
    return list(read_json(path)["jobs"]) if path.is_file() else []
