"""What the Snakefile needs before its rules: the plan, its specs on disk, and one driver at a time."""

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from udaseg.archive.dvc_snapshot import adopt
from udaseg.archive.keep import left_out
from udaseg.errors import UserError
from udaseg.jobs.job import STATE, Plan, unneeded_archives, write_specs
from udaseg.runs.folder import locked

# Options of Snakemake that only look, -n also among other letters (-np).
LOOKING = re.compile(
    r"-[FfkpqO]*n[a-zA-Z]*|--dry-?run|--(detailed-)?summary|-[SDl]|--list.*|--(dag|d3dag|rulegraph|filegraph|lint|report)(=.*)?"
)
_held = contextlib.ExitStack()  # for the life of the driver; the kernel frees the lock however it ends


def open_study(study: str | None, arguments: Sequence[str], main_process: bool, records: str = "no") -> Plan:
    """The plan of a study, with its specs written. The process that schedules the jobs holds the workflow's lock.

    Args:
        study: as in `--config study=NAME`; None: the one that params.yaml names.
        arguments: Snakemake's command line: a call that only looks takes no lock.
        main_process: whether this process schedules the jobs, rather than running one of them.
        records: as in `--config records=yes`, whether what is on record need not be made; "no": everything must.

    Raises:
        UserError: wrong parameters, or another Snakemake works in this folder.
    """
    from udaseg.jobs.plan import make_plan
    from udaseg.study.load import load_study  # loads torch, which whoever only wants the lock can do without

    if records not in ("yes", "no"):
        raise UserError(f"--config records={records}: expected yes or no")
    plan = make_plan(load_study(Path("params.yaml"), study))
    if records == "yes":
        plan.left_out = left_out(plan)
    if main_process and any(LOOKING.fullmatch(argument) for argument in arguments):
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(only_driver())
            except UserError:
                pass  # while another one works, a look is only a look
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


def only_driver() -> contextlib.AbstractContextManager[None]:
    """Holds the workflow's lock; UserError when another process does."""
    message = "another snakemake works in this folder; wait for it, or stop it and start this command again"
    return locked(STATE / "snakemake.lock", message)


def _forget_pending(note: Path) -> None:
    """Remove the note of a tracking store that was down, so that its job is tried again."""
    if note.is_file() and json.loads(note.read_text())["status"] == "pending":
        note.unlink()


def _forget_lesser(marker: Path, records: str) -> None:
    """Remove a report's marker that says it was written of less than is wanted, so that the report is written again."""
    if marker.is_file():
        of = json.loads(marker.read_text()).get("of", "results")
        if of == "parts" or (of == "records" and records == "no"):
            marker.unlink()
