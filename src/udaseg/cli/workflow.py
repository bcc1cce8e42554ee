"""What the Snakefile needs before its rules: the plan, its specs on disk, and one driver at a time."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from udaseg.archive.dvc_snapshot import adopt
from udaseg.archive.keep import left_out
from udaseg.errors import UserError
from udaseg.jobs.job import STATE, Plan, unneeded_archives, write_specs
from udaseg.runs.folder import locked

# Options with which Snakemake runs no job and changes no file, by the names of its own parser.
LOOKS = (
    *("dryrun", "summary", "detailed_summary", "list_rules", "list_target_rules", "list_changes", "list_input_changes"),
    *("list_params_changes", "list_untracked", "dag", "d3dag", "rulegraph", "filegraph", "lint"),
)
_held = contextlib.ExitStack()  # for the life of the driver; the kernel frees the lock however it ends


def open_study(study: str | None, arguments: Sequence[str], main_process: bool, records: str = "no") -> Plan:
    """The plan of a study, with its specs written. The process that schedules the jobs holds the workflow's lock.

    Args:
        study: as in `--config study=NAME`; None: the one that params.yaml names.
        arguments: Snakemake's command line without its name; a call that only looks takes no lock.
        main_process: whether this process schedules the jobs, rather than running one of them.
        records: as in `--config records=yes`: whether recorded jobs count as finished; "no": all must be made.

    Raises:
        UserError: wrong parameters, or another Snakemake works in this folder.
    """
    from udaseg.jobs.plan import make_plan  # these load torch, which other users of the lock do without
    from udaseg.study.load import load_study

    if records not in ("yes", "no"):
        raise UserError(f"--config records={records}: expected yes or no")
    plan = make_plan(load_study(Path("params.yaml"), study))
    if records == "yes":
        plan.left_out = left_out(plan)
    if main_process and only_looks(arguments):
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(only_driver())
            except UserError:
                pass  # looking is allowed while another driver works
            else:
                adopt(plan)
    elif main_process:
        _held.enter_context(only_driver())
        adopt(plan)
        _forget_pending(Path(plan.tracking_note))
        _forget_lesser(Path(plan.report.marker), records)
    plan.left_out |= unneeded_archives(plan)
    write_specs(plan)
    return plan


def only_looks(arguments: Sequence[str]) -> bool:
    """Whether Snakemake, called with `arguments`, runs no job and changes no file.

    Snakemake knows this only after it has read the Snakefile: until then `workflow.dag_settings` and
    `workflow.execution_settings` are None, and `workflow.dryrun` is False. `onstart` would be too late for the lock,
    because the DAG is built from what exists by then, and options such as --delete-all-output never come there.
    """
    from snakemake.cli import get_argument_parser

    options = get_argument_parser().parse_args(list(arguments))
    reports = options.report and not options.report_after_run
    return bool(reports or any(getattr(options, name) for name in LOOKS))


def only_driver() -> contextlib.AbstractContextManager[None]:
    """Holds the workflow's lock; UserError when another process does."""
    message = "another snakemake works in this folder; wait for it, or stop it and start this command again"
    return locked(STATE / "snakemake.lock", message)


def _forget_pending(note: Path) -> None:
    """Remove the note about a tracking store that was down, so that its job is tried again."""
    if note.is_file() and json.loads(note.read_text())["status"] == "pending":
        note.unlink()


def _forget_lesser(marker: Path, records: str) -> None:
    """Remove the marker of a report that was made from less than is wanted now, so that the report is made again."""
    if marker.is_file():
        of = json.loads(marker.read_text()).get("of", "results")
        if of == "parts" or (of == "records" and records == "no"):
            marker.unlink()
