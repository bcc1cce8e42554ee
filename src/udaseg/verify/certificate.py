"""The certificate of a verification, which shows how far a rerun repeats a recorded result.

Equal results give equal bytes: it has no date and no machine's name.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from udaseg.jobs.job import Job
from udaseg.runs.spec import TrainSpec
from udaseg.verify.compare import NOT_COMPARED, SCORES, VERDICTS, Comparison
from udaseg.verify.differences import Difference

SHOWN = 20  # differences in the Markdown form; the JSON form has all


def certificate(study: str, recorded: Path, tolerance: float, made: list[Comparison]) -> dict[str, Any]:
    """Plain data: the `verdict` of all, `counts`, `largest` differences, `code`, `environment`, single `jobs`."""
    compared = [one for one in made if one.verdict != NOT_COMPARED]
    counts = Counter(one.verdict for one in made)
    sides = ("here", "recorded")
    return {
        "study": study,
        "recorded": str(recorded),
        "tolerance": tolerance,
        "verdict": max((one.verdict for one in compared), key=VERDICTS.index, default=NOT_COMPARED),
        "counts": {verdict: counts[verdict] for verdict in VERDICTS},
        "largest": _largest(compared),
        "code": {
            side: _merged({_kind(one.job): one.code[index]} for one in compared) for index, side in enumerate(sides)
        },
        "environment": {side: _merged(one.environment[index] for one in compared) for index, side in enumerate(sides)},
        "jobs": {one.job.folder: _entry(one) for one in made},
    }


def markdown(content: dict[str, Any]) -> str:
    """The certificate in Markdown: verdicts, the largest differences, and what differs in code and environment."""
    return "\n".join(_lines(content)) + "\n"


def _lines(content: dict[str, Any]) -> Iterator[str]:
    yield f"# {content['study']}: {content['verdict']}"
    yield ""
    points = f"{content['tolerance']:g} percentage points of mIoU"
    yield f"The rerun in results/ against {content['recorded']}, with a tolerance of {points}."
    yield ""
    yield from _table(["jobs", "verdict"], [[count, verdict] for verdict, count in content["counts"].items()])
    largest = sorted(content["largest"].items(), key=_weight)
    if largest:
        yield f"Largest differences, scores that are held first ({min(SHOWN, len(largest))} of {len(largest)}):"
        yield ""
        rows = [
            [name, found["size"], found["here"], found["recorded"], found["job"]] for name, found in largest[:SHOWN]
        ]
        yield from _table(["of", "difference", "here", "recorded", "job"], rows)
    for part in ("code", "environment"):
        here, recorded = content[part]["here"], content[part]["recorded"]
        names = [name for name in sorted({*here, *recorded}) if here.get(name) != recorded.get(name)]
        yield f"{part.capitalize()}: {'differs in' if names else 'no difference.'}"
        yield ""
        yield from _table([part, "here", "recorded"], [[name, here.get(name), recorded.get(name)] for name in names])
    reasons = Counter(job["reason"] for job in content["jobs"].values() if job["verdict"] == NOT_COMPARED)
    yield from _table(["jobs", "not compared, because"], [[count, reason] for reason, count in sorted(reasons.items())])


def _weight(entry: tuple[str, dict[str, Any]]) -> tuple[bool, bool, float]:
    """Sorts differences: scores, then IoUs of classes, then the rest; the larger ones first."""
    name, size = entry[0].partition(": ")[2], entry[1]["size"]
    return not SCORES.fullmatch(name), ".iou." not in name, -math.inf if size is None else -size


def _table(header: list[str], rows: list[list[Any]]) -> Iterator[str]:
    """A Markdown table and an empty line; nothing if there are no rows."""
    if rows:
        yield f"| {' | '.join(header)} |"
        yield "|" + "---|" * len(header)
        for row in rows:
            yield f"| {' | '.join(_cell(value) for value in row)} |"
        yield ""


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _largest(compared: list[Comparison]) -> dict[str, dict[str, Any]]:
    """Kind and name -> the largest difference of all jobs, and the job that has it."""
    found: dict[str, tuple[Difference, str]] = {}
    for one in compared:
        for name, difference in one.largest.items():
            key = f"{one.job.kind}: {name}"
            if key not in found or difference.rank > found[key][0].rank:
                found[key] = difference, one.job.folder
    return {key: found[key][0].content() | {"job": found[key][1]} for key in sorted(found)}


def _entry(one: Comparison) -> dict[str, Any]:
    """The certificate's entry for a job, without what is equal on both sides."""
    here, recorded = one.environment
    both = {name: [here.get(name), recorded.get(name)] for name in sorted({*here, *recorded})}
    optional = {
        "reason": one.reason,
        "recorded": one.recorded,
        "code": one.code if one.code[0] != one.code[1] else None,
        "files": one.files,
        "first_iteration": one.first_iteration,
        "largest": {name: difference.content() for name, difference in one.largest.items()},
        "environment": {name: pair for name, pair in both.items() if pair[0] != pair[1]},
    }
    given = {key: value for key, value in optional.items() if value}
    return {"job": one.job.label, "kind": one.job.kind, "verdict": one.verdict} | given


def _kind(job: Job) -> str:
    return f"{job.kind} {job.spec.method}" if isinstance(job.spec, TrainSpec) else job.kind


def _merged(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Name -> its distinct values in all rows, in an order that does not depend on the order of the rows."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, {})[json.dumps(value)] = value
    return {name: [values[key] for key in sorted(values)] for name, values in sorted(found.items())}
