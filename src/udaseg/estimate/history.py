"""The finished jobs of this folder, their specs and what they took: from run folders, data sets and benchmarks."""

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
from udaseg.runs.kinds import KINDS

DAMAGED = (AttributeError, KeyError, OSError, TypeError, ValueError)  # raised by reading a file with other content


@dataclass(frozen=True)
class Finished:
    """A finished job: its spec, when it ended, and how long it took."""

    folder: str
    spec: dict[str, Any]
    when: float  # seconds since the epoch
    seconds: float | None  # None: unknown
    pace: float | None = None  # seconds per iteration of a training
    device: str = ""  # the GPU's name in torch, or "cpu"; "": it needed none


def finished_jobs(notes: list[str]) -> dict[str, Finished]:
    """Folder -> job, of all finished data sets and runs. Damaged ones are left out and noted."""
    found: dict[str, Finished] = {}
    readers = {"prepare": _set, "train": _run}
    for name, kind in KINDS.items():  # trainings come before what is made of them
        for marker in sorted(Path().glob(f"{kind.folder}/{kind.marker}")) if kind.work else ():
            try:
                found[str(marker.parent)] = readers.get(name, _of_run)(marker, found)
            except UserError as error:
                notes.append(str(error))
    return found


def _set(marker: Path, found: dict[str, Finished]) -> Finished:
    try:
        content = json.loads(marker.read_text())
        counts = {split: len(entries) for split, entries in content["splits"].items()}
        spec = {"dataset": content["spec"], "classes": content["classes"], "size": content["size"], "counts": counts}
    except DAMAGED as error:
        raise UserError(f"{marker}: describes no prepared set ({error!r}); the set is ignored") from None
    return Finished(str(marker.parent), spec | {"kind": "prepare"}, marker.stat().st_mtime, benchmark(marker.parent))


def _run(marker: Path, found: dict[str, Finished]) -> Finished:
    path, spec = marker.with_name("cost.json"), _spec(marker)
    if not path.is_file():  # the result was taken over from elsewhere, without its cost
        return Finished(str(marker.parent), spec, marker.stat().st_mtime, None)
    try:
        cost = json.loads(path.read_text())
        seconds, pace = float(cost["seconds"]), float(cost["seconds_per_iteration"])
        when = datetime.fromisoformat(cost["finished"]).timestamp()
        if not (0 <= seconds < math.inf and 0 < pace < math.inf):
            raise ValueError(f"{seconds} seconds, {pace} an iteration")
        return Finished(str(marker.parent), spec, when, seconds, pace, str(cost["device"]))
    except DAMAGED as error:
        raise UserError(f"{path}: does not say what the run took ({error!r}); it is ignored") from None


def _of_run(marker: Path, found: dict[str, Finished]) -> Finished:
    folder, spec = str(marker.parent), _spec(marker)
    seconds, device = benchmark(marker.parent), ""
    if KINDS[spec["kind"]].on_device:
        # Its benchmark names no device; it is assumed to be the one that trained its run.
        run = found.get(str(spec.get("run")))
        seconds, device = (seconds, run.device) if run else (None, "")
    return Finished(folder, spec, marker.stat().st_mtime, seconds, None, device)


def _spec(marker: Path) -> dict[str, Any]:
    path = marker.with_name("spec.yaml")
    spec = read_yaml(path)
    if not isinstance(spec, dict) or spec.get("kind") not in KINDS:
        raise UserError(f"{path}: is not the spec of a job")
    return spec


def benchmark(folder: Path | str) -> float | None:
    """Seconds that Snakemake measured when it made `folder`; None: it measured none; UserError: its file is damaged."""
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
    """Bytes of the job in `folder`, without those of other jobs inside it; UserError when a file is missing."""
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
