"""The verbs of a whole study. Heavy modules are imported by the verb that needs them."""

import shutil
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

from udaseg.cli import job_commands
from udaseg.errors import UserError
from udaseg.jobs.job import STATE, unplanned, write_specs
from udaseg.runs.files import write_json, write_text
from udaseg.runs.records import RECORDS, RESULTS


def plan(options: Namespace) -> None:
    """Print the jobs of a study in an order in which they can run, with what they take or the paths of their specs."""
    from udaseg.archive.keep import left_out
    from udaseg.estimate.history import device_here
    from udaseg.estimate.table import listed, table
    from udaseg.jobs.plan import make_plan
    from udaseg.study.load import load_study

    study = make_plan(load_study(options.params, options.study, options.sweep))
    if options.records:
        study.left_out = left_out(study)
    jobs = listed(study, options.sweep)
    states = [study.state(job) for job in jobs]
    if options.write:
        write_specs(study)
        for job, state in zip(jobs, states, strict=True):
            print(f"{state}  {job.kind:9} {job.label:45} {job.spec_path}")
    else:
        print(*table(study, device_here(), options.sweep), sep="\n")
    what = f"study {study.study}" if options.sweep is None else f"sweep {options.sweep} of study {study.study}"
    kept = f", {states.count('kept')} kept" if options.records else ""
    print(f"{what}: {len(jobs)} jobs, {states.count('done')} done{kept}, {states.count('todo')} to do")


def knobs(options: Namespace) -> None:
    """Print the knobs and loss weights of methods, or write those of all methods to the file that lists them."""
    from udaseg.methods import METHODS
    from udaseg.study.method_defaults import FILE, HEADER, defaults_yaml
    from udaseg.validation import suggestion

    for name in options.methods:
        if name not in METHODS:
            raise UserError(f"there is no method '{name}'; {suggestion(name, list(METHODS))}")
    if options.write and options.methods:
        raise UserError(f"--write writes the knobs of all methods to {FILE}; name none")
    if options.write:
        write_text(FILE, HEADER + defaults_yaml())
        print(FILE)
    else:
        print(defaults_yaml(options.methods or METHODS), end="")


def keep(options: Namespace) -> None:
    """Copy to reports/reference what git keeps of a study: its finished jobs without weights, and its report."""
    from udaseg.archive.keep import keep_jobs, keep_report
    from udaseg.cli.workflow import only_driver
    from udaseg.jobs.plan import make_plan
    from udaseg.study.load import load_study

    study = make_plan(load_study(options.params, options.study))
    reference = RECORDS / study.study
    with only_driver():
        before = {path for path in reference.rglob("*") if path.is_file()}
        missing = keep_jobs(study)
        write_specs(study)
        job_commands.report(Namespace(spec=study.report.spec_path))
        keep_report(study)
    after = {path for path in reference.rglob("*") if path.is_file()}
    for job in missing:
        print(f"not finished: {job.label} ({job.folder})")
    for path in sorted(before - after):
        print(f"removed: {path}")
    records = len(list(reference.glob("runs/**/run.json")))
    volume = sum(path.stat().st_size for path in after) / 1e6
    print(f"{reference}: {records} finished jobs and their report, {volume:.1f} MB; {len(missing)} are not finished")


def verify(options: Namespace) -> None:
    """Compare a study's finished jobs with recorded ones and write the certificate.

    Raises:
        UserError: a job differs, or nothing could be compared.
    """
    from udaseg.jobs.plan import make_plan
    from udaseg.study.load import load_study
    from udaseg.verify.certificate import certificate, markdown
    from udaseg.verify.compare import DIFFERS, NOT_COMPARED, TOLERANCE
    from udaseg.verify.compare import verify as compare

    tolerance = TOLERANCE if options.tolerance is None else options.tolerance
    if not 0 <= tolerance <= 100:
        raise UserError(f"--tolerance {tolerance}: expected percentage points of mIoU, from 0 to 100")
    study = make_plan(load_study(options.params, options.study))
    recorded = options.recorded or RECORDS / study.study / "runs"
    output = options.output or Path("reports/certificates") / f"{study.study}.json"
    if not recorded.is_dir() or recorded.resolve() == RESULTS.resolve():
        raise UserError(
            f"{recorded}: no folder of recorded results; name one with the layout of {RESULTS}/ by --recorded FOLDER, "
            "or record the finished jobs with `udaseg keep`"
        )
    if output.suffix != ".json":
        raise UserError(
            f"--output {output}: expected a name that ends in .json; the Markdown form is written beside it"
        )
    content = certificate(study.study, recorded, tolerance, compare(study, recorded, tolerance))
    write_text(output.with_suffix(".md"), markdown(content))
    write_json(output, content)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in content["counts"].items())
    print(f"study {study.study} against {recorded}: {content['verdict']} ({counts}); {output}")
    if content["verdict"] in (DIFFERS, NOT_COMPARED):
        nothing = content["verdict"] == NOT_COMPARED
        what = "nothing could be compared" if nothing else "the rerun differs from the record"
        raise UserError(f"{what}; {output.with_suffix('.md')} has the details")


def snapshot(options: Namespace) -> None:
    """Make a part of the snapshot, which DVC versions, equal to what a study plans."""
    from udaseg.archive.dvc_snapshot import write_part, write_plan, write_report
    from udaseg.cli.workflow import only_driver

    if options.part in ("data", "runs"):
        with only_driver():
            write_part(options.part)
        return
    from udaseg.jobs.plan import make_plan
    from udaseg.study.load import load_study  # loads torch, which the others do without

    study = make_plan(load_study(options.params, options.study))
    if options.part == "plan":
        write_plan(study)
        return
    with only_driver():
        write_specs(study)
        write_report(study)


def devices(options: Namespace) -> None:
    """Print how many GPUs there are for `snakemake --resources gpu=`."""
    from udaseg.machine.devices import visible_devices

    print(len(visible_devices()))


def gc(options: Namespace) -> None:
    """List, or remove, the folders of jobs that no study plans."""
    from udaseg.cli.workflow import only_driver
    from udaseg.jobs.plan import make_plan
    from udaseg.study.load import load_study

    studies = sorted(path.stem for path in (options.params.parent / "workflow" / "studies").glob("*.yaml"))
    plans = [make_plan(load_study(options.params, study)) for study in studies]
    # A job that is running now may be of parameters that have been edited since.
    with only_driver() if options.delete else nullcontext():
        found = list(unplanned(plans, Path()))
        for folder in found:
            print(folder)
            if options.delete:
                shutil.rmtree(folder)
                shutil.rmtree(STATE / folder, ignore_errors=True)
    verb = "removed" if options.delete else "to remove with --delete"
    print(f"{len(found)} folders that none of the studies {', '.join(studies)} plans: {verb}")
