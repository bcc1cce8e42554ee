"""The recorded counterpart of a job: the result in its folder, or that of the same job under another hash.

A hash changes with the code and with the hashes of the parents. The counterpart is then the recorded job with the same
configuration: its spec has the same values, and its parents are the counterparts of the job's parents.
"""

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from udaseg.config.training import Exactness
from udaseg.errors import UserError
from udaseg.jobs.job import Job, Plan
from udaseg.runs.files import read_yaml
from udaseg.runs.folder import MARKER, damage
from udaseg.runs.kinds import KINDS
from udaseg.runs.records import KEPT, RESULTS
from udaseg.runs.spec import HASH_DIGITS, published

HASH = rf"-[0-9a-f]{{{HASH_DIGITS}}}"
DATA = re.compile(rf"(data/sets/.+){HASH}")
# Fields of a spec that may differ: by which code, how exactly and where the job is done.
EXACTNESS = set(Exactness.model_fields)
FREE = {"folder", "code", "train.workers", *EXACTNESS, *(f"train.{name}" for name in EXACTNESS)}
SHOWN = 3  # differences named in a reason


@dataclass(frozen=True)
class Counterpart:
    """The record of a job; `folder` is None if there is none, and `reason` says why."""

    job: Job
    folder: Path | None = None
    reason: str = ""
    damaged: list[str] = field(default_factory=list)  # recorded files that may be those of the counterpart


def counterparts(plan: Plan, recorded: Path) -> Iterator[Counterpart]:
    """The counterpart of every job of a plan that is kept on record, parents first. `recorded` is laid out as results/.

    Raises:
        UserError: a spec on record cannot be read.
    """
    matched: dict[str, str] = {}  # a job's folder -> its folder when it was recorded
    for job in plan.jobs.values():
        if not KINDS[job.kind].numbers:
            continue
        found = _match(job, recorded, matched)
        if found.folder is not None:
            matched[job.folder] = str(RESULTS / found.folder.relative_to(recorded))
        yield found


def _match(job: Job, recorded: Path, matched: dict[str, str]) -> Counterpart:
    candidates = [recorded / place for place in _candidates(job, recorded, matched)]
    if not candidates:
        return Counterpart(job, reason="nothing of this name and seed is on record")
    if damaged := [found for folder in candidates for found in damage(folder, KEPT)]:
        return Counterpart(job, reason="damaged", damaged=damaged)
    told = _translated(published(job.spec), matched)
    others = {folder: list(_contradictions(told, _spec(folder))) for folder in candidates}
    equal = [folder for folder, other in others.items() if not other]
    if len(equal) == 1:
        return Counterpart(job, equal[0])
    if equal:
        return Counterpart(job, reason=f"several are on record: {', '.join(map(str, equal))}")
    nearest = min(others.values(), key=len)
    more = f"; and {len(nearest) - SHOWN} more" if len(nearest) > SHOWN else ""
    return Counterpart(job, reason=f"recorded with other parameters: {'; '.join(nearest[:SHOWN])}{more}")


def _candidates(job: Job, recorded: Path, matched: dict[str, str]) -> list[Path]:
    """Places of recorded jobs: the job's own, or those whose names differ from it in the hash only."""
    place = Path(job.folder).relative_to(RESULTS)
    if (recorded / place / MARKER).is_file():
        return [place]
    outer = matched.get(str(Path(job.folder).parent))  # the run that an evaluation lies in
    within = place.parent if outer is None else Path(outer).relative_to(RESULTS)
    stem = place.name[: -HASH_DIGITS - 1]
    beside = sorted((recorded / within).glob(f"{glob.escape(stem)}-*/{MARKER}"))
    return [within / path.parent.name for path in beside if re.fullmatch(re.escape(stem) + HASH, path.parent.name)]


def _spec(folder: Path) -> dict[str, Any]:
    path = folder / "spec.yaml"
    content = _translated(read_yaml(path), {})
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not the spec of a job")
    return content


def _translated(content: Any, matched: dict[str, str]) -> Any:
    """A spec with its parents' recorded folders, and with data sets' folders without hashes: those are not recorded."""
    if isinstance(content, dict):
        return {key: _translated(value, matched) for key, value in content.items()}
    if isinstance(content, str):
        return DATA.sub(r"\1", matched.get(content, content))
    return content


def _contradictions(told: dict[str, Any], other: dict[str, Any], path: str = "") -> Iterator[str]:
    """How the values of two specs differ. Fields that only one of them has are due to the code, and do not count."""
    for key in sorted(told.keys() & other.keys()):
        place, ours, theirs = f"{path}{key}", told[key], other[key]
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _contradictions(ours, theirs, f"{place}.")
        elif ours != theirs and place not in FREE:
            yield f"{place} is {ours} here, {theirs} on record"
