"""The table that `udaseg plan` prints: the jobs, what shares and what they take, and the sums over those to do."""

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence

from udaseg.estimate.estimate import Amount, Estimate
from udaseg.jobs.job import Job, Plan
from udaseg.runs.spec import ReportSpec

WIDTH = 120
ORIGINS = ("measured", "derived", "elsewhere")
BOUNDS = {"": "{}", ">=": "at least {}", "<=": "at most {}"}


def table(plan: Plan, device: str, sweep: str | None = None) -> list[str]:
    """A line for each job in running order, none wider than `WIDTH`; then notes and the sums over the jobs to do.

    Args:
        plan: the jobs of a study; whether they are done is looked up below the working directory.
        device: name of the device here, as in cost.json.
        sweep: show only the jobs of this sweep; None: all jobs.
    """
    estimate, uses = Estimate(plan, device), shared(plan)
    jobs = listed(plan, sweep)
    states = [plan.state(job) for job in jobs]
    seconds, disk = [estimate.seconds(job) for job in jobs], [estimate.disk(job) for job in jobs]
    columns = [uses.get(job.folder, "") for job in jobs], _cells(seconds, hours), _cells(disk, size)
    widths = [max(map(len, column), default=0) for column in columns]
    longest = max((len(job.label) for job in jobs), default=0)
    room = min(longest, WIDTH - 16 - sum(width + 2 for width in widths if width))
    lines = []
    for job, state, cells in zip(jobs, states, zip(*columns, strict=True), strict=True):
        ends = [f"  {cell:{width}}" for cell, width in zip(cells, widths, strict=True) if width]
        lines.append(f"{state}  {job.kind:9} {_shortened(job.label, room):{room}}{''.join(ends)}".rstrip())
    seconds = [amount for amount, state in zip(seconds, states, strict=True) if state == "todo"]
    disk = [amount for amount, state in zip(disk, states, strict=True) if state == "todo"]
    ends = [*_notes("hours", seconds), *_notes("disk", disk), *(f"note: {remark}" for remark in estimate.remarks())]
    if seconds:
        others = sorted({amount.device for amount in seconds} - {device, ""})
        where = {name: f"{{}} on {name}" for name in (device, *others)} | {"": "{} of work that takes no device"}
        ends.append(f"hours to do: {_sums(seconds, lambda amount: amount.device, where, hours)}")
        ends.append(f"disk to do: {_sums(disk, lambda amount: amount.bound, BOUNDS, size)}")
    todo = [job for job, state in zip(jobs, states, strict=True) if state == "todo"]
    if held := max(map(estimate.checkpoints, todo), default=0):
        ends.append(f"while a training runs, its checkpoints beside its result: at least {size(held)} for the largest")
    for point in _report(plan).skipped:
        if sweep in (None, point.sweep):
            ends.append(f"skipped: {point.sweep}/{point.point}: {point.reason}")
    for end in ends:
        lines += textwrap.wrap(end, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return lines


def listed(plan: Plan, sweep: str | None) -> list[Job]:
    """The jobs of a plan in running order; with a sweep, only those that its points need, without the report."""
    if sweep is None:
        return list(plan.jobs.values())
    wanted = {folder for run in _report(plan).runs if run.sweep == sweep for folder in run.folders()}
    for job in reversed(plan.jobs.values()):  # parents come first
        if job.folder in wanted:
            wanted |= {parent.folder for parent in job.parents}
    return [job for job in plan.jobs.values() if job.folder in wanted]


def _report(plan: Plan) -> ReportSpec:
    spec = plan.report.spec
    assert isinstance(spec, ReportSpec)
    return spec


def shared(plan: Plan) -> dict[str, str]:
    """Folder of each job that more than one recipe or seed needs -> how many later jobs and recipes need it.

    Reports are not counted: they need all jobs.
    """
    above: dict[str, set[str]] = {}  # job -> the jobs that it needs, directly or not
    later: Counter[str] = Counter()
    for job in plan.jobs.values():  # parents come first
        above[job.folder] = {folder for parent in job.parents for folder in (parent.folder, *above[parent.folder])}
        if job.kind != "report":
            later.update(above[job.folder])
    users: dict[str, set[tuple[str, int]]] = {}
    for run in _report(plan).runs:
        for folder in {run.run, *above[run.run]}:
            users.setdefault(folder, set()).add((run.recipe, run.seed))
    return {
        folder: f"for {_counted(later[folder], 'job')}, {_counted(len({recipe for recipe, _ in found}), 'recipe')}"
        for folder, found in users.items()
        if len(found) > 1 and later[folder]
    }


def hours(seconds: float) -> str:
    """Seconds as hours: 0.021 h, 3.1 h."""
    value = seconds / 3600
    return f"{value:.1f} h" if value >= 1 else f"{value:.3f} h" if value >= 0.001 else "<0.001 h"


def size(count: float) -> str:
    """Bytes in powers of a thousand: 512 B, 1.8 MB, 174 GB."""
    power = next((power for power in range(4) if count < 999.5 * 1000**power), 4)
    value, unit = count / 1000**power, ("B", "kB", "MB", "GB", "TB")[power]
    return f"{value:.1f} {unit}" if power and value < 9.95 else f"{value:.0f} {unit}"


def _cells(amounts: Sequence[Amount], written: Callable[[float], str]) -> list[str]:
    """The numbers, aligned right, each with its origin."""
    numbers = ["" if each.value is None else f"{each.bound} {written(each.value)}".strip() for each in amounts]
    width = max(map(len, numbers), default=0)
    return [f"{number:>{width}} {amount.origin}" for number, amount in zip(numbers, amounts, strict=True)]


def _notes(what: str, amounts: Sequence[Amount]) -> list[str]:
    notes = Counter((amount.origin, amount.note) for amount in amounts if amount.note)
    return [f"{what} {origin} for {_counted(count, 'job')}: {note}" for (origin, note), count in notes.items()]


def _sums(
    amounts: Sequence[Amount], group: Callable[[Amount], str], words: dict[str, str], written: Callable[[float], str]
) -> str:
    """Sums by group, in the order of `words`, with the number of jobs by origin."""
    parts = []
    for name, text in words.items():
        known = [(each.value, each.origin) for each in amounts if each.value is not None and group(each) == name]
        if known:
            origins = [origin for _, origin in known]
            counts = {origin: origins.count(origin) for origin in ORIGINS if origin in origins}
            whence = ", ".join(f"{_counted(count, 'job')} {origin}" for origin, count in counts.items())
            parts.append(f"{text.format(written(sum(value for value, _ in known)))} ({whence})")
    if unknown := sum(each.value is None for each in amounts):
        parts.append(f"unknown for {_counted(unknown, 'job')}")
    return ", ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _shortened(label: str, room: int) -> str:
    """The label in at most `room` characters; its end, which names the seed, stays."""
    return label if len(label) <= room else f"{label[: room - 12]}..{label[-10:]}"
