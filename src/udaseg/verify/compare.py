"""Whether a rerun repeats a recorded result, job by job.

Checksums, including those of the weights, show whether the files are identical. Another machine rounds differently, and
training amplifies that: then the scores are compared within a tolerance, and the code and environments are shown.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from udaseg.errors import UserError
from udaseg.jobs.job import Job, Plan
from udaseg.runs.files import read_json, read_yaml
from udaseg.runs.folder import MARKER, MEASURED, damage
from udaseg.runs.records import RESULTS
from udaseg.verify.differences import Difference, first_iteration, largest, leaves, values
from udaseg.verify.match import Counterpart, counterparts

# Percentage points of mIoU. A rerun with other rounding is like a run with another seed: the standard deviation between
# seeds has a median of 0.8 over 43 rows of the recorded sweeps.
TOLERANCE = 1.0
IDENTICAL, WITHIN, DIFFERS, NOT_COMPARED = "identical", "within tolerance", "differs", "not compared"
VERDICTS = (IDENTICAL, WITHIN, DIFFERS, NOT_COMPARED)  # from good to bad
# Compared with the tolerance: each mIoU, last and best, of an evaluation and of a training's monitor, and the coverage
# and precision of pseudo-labels. Losses, counts and IoUs of single classes, some of them tiny, are only listed.
SCORES = re.compile(r"scores\.(last|best)\.sets\..+|(last|best)\.monitor|coverage|precision")


@dataclass
class Comparison:
    """A job's verdict and the reasons for it."""

    job: Job
    verdict: str
    reason: str = ""  # why it is not compared, or where its verdict comes from
    recorded: str = ""  # folder of its counterpart
    files: list[str] = field(default_factory=list)  # those that differ
    largest: dict[str, Difference] = field(default_factory=dict)
    first_iteration: int | None = None  # the first one that differs
    code: tuple[str, str] = ("", "")  # fingerprints, here and on record
    environment: tuple[dict[str, Any], dict[str, Any]] = ({}, {})  # name -> value, here and on record


def verify(plan: Plan, recorded: Path, tolerance: float = TOLERANCE) -> list[Comparison]:
    """Compare the finished jobs in results/ with those in `recorded`, which has the same layout; in the plan's order.

    Args:
        tolerance: percentage points by which a score may differ if files do; 0: files must not differ.

    Raises:
        UserError: a finished or recorded job is damaged; every damaged file is named.
    """
    pairs = list(counterparts(plan, recorded))
    here = {pair.job.folder for pair in pairs if Path(pair.job.marker).is_file()}
    damaged = [
        *(found for folder in sorted(here) for found in damage(Path(folder))),
        *(found for pair in pairs for found in pair.damaged),
    ]
    if damaged:
        listing = "".join(f"\n  {found}" for found in damaged)
        raise UserError(
            f"nothing was compared, because of {len(damaged)} damaged files; remove the folders of those in {RESULTS}/ "
            f"and run the study again; restore damaged records from where they came:{listing}"
        )
    made = {pair.job.folder: _compare(pair, pair.job.folder in here, tolerance) for pair in pairs}
    _judge_by_what_follows(plan, made)
    return list(made.values())


def _compare(pair: Counterpart, finished: bool, tolerance: float) -> Comparison:
    if not finished:
        return Comparison(pair.job, NOT_COMPARED, "it is not finished here")
    if pair.folder is None:
        return Comparison(pair.job, NOT_COMPARED, pair.reason)
    here, recorded = Path(pair.job.folder), pair.folder
    made = Comparison(pair.job, IDENTICAL, recorded=str(recorded), files=_differing_files(here, recorded))
    made.code = _code(here), _code(recorded)
    made.environment = _environment(here), _environment(recorded)
    if made.files:
        ours, theirs = values(here), values(recorded)
        made.largest, made.first_iteration = largest(ours, theirs), first_iteration(ours, theirs)
        scored = any(SCORES.fullmatch(name) and value is not None for (name, *_), value in ours.items())
        made.verdict = _verdict(made.largest, tolerance) if scored or tolerance == 0 else ""
    return made


def _differing_files(here: Path, recorded: Path) -> list[str]:
    """Names of results whose checksums differ. The spec is no result: its values have been compared before."""
    ours, theirs = (read_json(folder / MARKER)["files"] for folder in (here, recorded))
    names = (ours.keys() | theirs.keys()) - {*MEASURED, "spec.yaml"}
    return sorted(name for name in names if ours.get(name) != theirs.get(name))


def _verdict(largest: dict[str, Difference], tolerance: float) -> str:
    held = [100 * found.rank for name, found in largest.items() if SCORES.fullmatch(name)]
    return WITHIN if tolerance > 0 and max(held, default=0) <= tolerance else DIFFERS


def _judge_by_what_follows(plan: Plan, made: dict[str, Comparison]) -> None:
    """Give a job without a score of its own (a pretraining, labels) the worst verdict of the jobs made from it."""
    below: dict[str, list[str]] = {}
    for job in reversed(plan.jobs.values()):  # parents come first in a plan
        own = made.get(job.folder)
        if own is None:
            continue
        if own.verdict == "":
            known = [verdict for verdict in below.get(job.folder, []) if verdict != NOT_COMPARED]
            own.verdict = max([WITHIN, *known], key=VERDICTS.index) if known else NOT_COMPARED
            own.reason = "by the scores of what was made from it"
            if not known:
                own.reason = "its bytes differ, and nothing that is scored and compared was made from it"
        for parent in job.parents:
            below.setdefault(parent.folder, []).append(own.verdict)


def _code(folder: Path) -> str:
    return str(read_yaml(folder / "spec.yaml").get("code", ""))


def _environment(folder: Path) -> dict[str, Any]:
    """Dotted name -> value of everything in env.json but the code's fingerprint; and the number of threads."""
    path, spec = folder / "env.json", read_yaml(folder / "spec.yaml")
    threads = spec.get("train", spec).get("threads")
    found: dict[str, Any] = {} if threads is None else {"threads": threads}
    for name, place, value in leaves(read_json(path) if path.is_file() else {}):
        found[".".join([name, *map(str, place)])] = value
    return {name: value for name, value in found.items() if name != "code"}
