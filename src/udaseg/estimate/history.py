"""What the finished jobs of this folder were told and what they took: read from run folders, sets and benchmarks."""

import csv
import json
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from udaseg.errors import UserError
from udaseg.machine.devices import visible_devices
from udaseg.machine.nvml import present_gpus
from udaseg.runs.files import read_yaml
from udaseg.runs.folder import MARKER, MEASURED

ON_DEVICE = ("train", "label", "translate", "evaluate")  # kinds of jobs that take a device: those that run a network

DAMAGED = (AttributeError, KeyError, OSError, TypeError, ValueError)  # what reading a file of other content raises


@dataclass(frozen=True)
class Finished:
    """A finished job: its spec, when it ended, and what it took."""

    folder: str
    spec: dict[str, Any]
    when: float
    seconds: float | None  # None: not on record
    pace: float | None = None  # seconds an iteration, of a training
    device: str = ""  # name of the GPU as torch gives it, or "cpu"; "": it took none


def finished_jobs(notes: list[str]) -> dict[str, Finished]:
    """Folder -> job, of all sets, runs and what lies in these that are whole. What is damaged is left out and noted."""
    found: dict[str, Finished] = {}
    readers = {"data/sets/*/set.json": _set, f"results/*/*/*/{MARKER}": _run}
    readers |= {f"results/*/*/*/{name}/{MARKER}": _of_run for name in ("evaluate-*", "label-*", "label-*/quality-*")}
    for pattern, read in readers.items():
        for marker in sorted(Path().glob(pattern)):
            try:
                found[str(marker.parent)] = read(marker, found)
            except UserError as error:
                notes.append(str(error))
    return found


def _set(marker: Path, found: dict[str, Finished]) -> Finished:
    try:
        content = json.loads(marker.read_text())
        counts = {split: len(entries) for split, entries in content["splits"].items()}
        spec = {"dataset": content["spec"], "classes": content["classes"], "size": content["size"], "counts": counts}
    except DAMAGED as error:
        raise UserError(f"{marker}: describes no prepared set ({error!r}); the set is not used") from None
    return Finished(str(marker.parent), spec | {"kind": "prepare"}, marker.stat().st_mtime, benchmark(marker.parent))


def _run(marker: Path, found: dict[str, Finished]) -> Finished:
    path, spec = marker.with_name("cost.json"), _spec(marker)
    if not path.is_file():  # the result came from elsewhere, without what it cost there
        return Finished(str(marker.parent), spec, marker.stat().st_mtime, None)
    try:
        cost = json.loads(path.read_text())
        seconds, pace = float(cost["seconds"]), float(cost["seconds_per_iteration"])
        when = datetime.fromisoformat(cost["finished"]).timestamp()
        if not (0 <= seconds < math.inf and 0 < pace < math.inf):
            raise ValueError(f"{seconds} seconds, {pace} an iteration")
        return Finished(str(marker.parent), spec, when, seconds, pace, str(cost["device"]))
    except DAMAGED as error:
        raise UserError(f"{path}: does not say what the run took ({error!r}); it is not used") from None


def _of_run(marker: Path, found: dict[str, Finished]) -> Finished:
    folder, spec = str(marker.parent), _spec(marker)
    seconds, device = benchmark(marker.parent), ""
    if spec["kind"] in ON_DEVICE:
        # Its benchmark names no device: it is taken to be the one that trained its run.
        run = found.get(str(spec.get("run")))
        seconds, device = (seconds, run.device) if run else (None, "")
    return Finished(folder, spec, marker.stat().st_mtime, seconds, None, device)


def _spec(marker: Path) -> dict[str, Any]:
    path = marker.with_name("spec.yaml")
    spec = read_yaml(path)
    if not isinstance(spec, dict) or "kind" not in spec:
        raise UserError(f"{path}: is not the spec of a job")
    return spec


def benchmark(folder: Path | str) -> float | None:
    """Seconds that Snakemake measured when it made `folder`. None: it did not; UserError: its file is damaged."""
    path = Path("logs") / f"{folder}.benchmark.tsv"
    if not path.is_file():
        return None
    try:
        with path.open(newline="") as file:
            seconds = float(next(csv.DictReader(file, delimiter="\t"))["s"])
        if not 0 <= seconds < math.inf:
            raise ValueError(f"{seconds} seconds")
        return seconds
    except (StopIteration, *DAMAGED) as error:
        raise UserError(f"{path}: is no benchmark ({error!r}); it can be deleted") from None


def size(folder: Path | str) -> int:
    """Bytes of the job in `folder`, without those of other jobs in it. UserError when one of its files is not there."""
    marker = Path(folder) / MARKER
    try:
        if marker.is_file():
            names = [MARKER, *json.loads(marker.read_text())["files"]]
            names += [name for name in MEASURED if (marker.parent / name).is_file()]
            return sum((marker.parent / name).stat().st_size for name in names)
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    except DAMAGED as error:
        raise UserError(f"{folder}: its files are not as its {MARKER} says ({error!r})") from None


def device_here() -> str:
    """What a job that is started here would train on, named as in cost.json: the first visible GPU, or "cpu"."""
    visible = visible_devices()
    if not visible:
        return "cpu"
    names = {gpu.uuid: gpu.name for parts in present_gpus() for gpu in parts}
    # Inside a Slurm job ids are as Slurm writes them, and only the job's devices are present.
    return next((names[device] for device in visible if device in names), next(iter(names.values()), "unknown GPU"))
