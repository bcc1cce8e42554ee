"""GPUs are handed to training processes, one lock file per device, without a race and without a server.

A training process takes its devices as its first act and keeps the locked descriptors open: the kernel frees them when
the process ends, however it ends. A gate lock is held while a process looks for free devices, so that taking several is
all or nothing and two takers never see each other's attempts. The locks live in the node's temporary folder: processes
of one user on one node see each other's (given one TMPDIR). Inside a Slurm job the devices are Slurm's business.

`python -m udaseg.machine.devices` prints how many devices there are, for `snakemake --resources gpu=$(…)`.
"""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from udaseg.errors import UserError

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Device:
    """What a training may use: `cpu`, or `cuda` and the ids in CUDA_VISIBLE_DEVICES (`cuda:0` is the first of them)."""

    kind: Literal["cuda", "cpu"]
    ids: tuple[str, ...] = ()


# What this process holds: the descriptors must stay open for its life, and a second call gets the same devices.
_descriptors: list[int] = []
_taken: Device | None = None


def take_device(count: int = 1, devices: Sequence[str] | None = None) -> Device:
    """Wait until `count` devices are free, keep them until this process ends, and make them the only visible ones.

    Call it before torch starts CUDA. Sets CUDA_VISIBLE_DEVICES (not inside a Slurm job, which has set it) and
    CUBLAS_WORKSPACE_CONFIG, which deterministic matrix products need before the CUDA context exists. Without any GPU
    the answer is the CPU, at once. `devices` replaces the ids that are looked up.

    Raises UserError when fewer than `count` devices exist, RuntimeError when called too late or for another count.
    """
    global _taken
    if _taken is None:
        _refuse_started_cuda()
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        _taken = _take(count, visible_devices() if devices is None else tuple(devices))
    elif _taken.kind == "cuda" and len(_taken.ids) != count and not _inside_slurm():
        raise RuntimeError(f"this process holds {len(_taken.ids)} devices and asks for {count}: it can take only once")
    return _taken


def _take(count: int, devices: tuple[str, ...]) -> Device:
    if not devices:
        return Device("cpu")
    if _inside_slurm():
        return Device("cuda", devices)
    if count > len(devices):
        raise UserError(
            f"{count} devices were asked for, but {len(devices)} are visible ({', '.join(devices)}): "
            "ask for fewer, or widen CUDA_VISIBLE_DEVICES"
        )
    ids = _wait_for(count, devices)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(ids)
    return Device("cuda", ids)


def _inside_slurm() -> bool:
    return "SLURM_JOB_ID" in os.environ


def _refuse_started_cuda() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("take_device() was called after torch had started CUDA: the choice would have no effect")


def visible_devices() -> tuple[str, ...]:
    """Ids of the GPUs this process may use: those of CUDA_VISIBLE_DEVICES where it is set, else all that are there.

    An index is turned into the UUID that nvidia-smi shows for it, so that a device has one name and thus one lock,
    however it was written (with GPUs of different speed, CUDA alone would count in another order). Where nvidia-smi is
    missing, and inside a Slurm job, ids stay as they are written.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if _inside_slurm():
        return _chosen_devices(chosen or "", [])
    present = _present_devices()
    if chosen is None:
        return tuple(uuid for uuids in present for uuid in uuids)
    return _chosen_devices(chosen, present)


def _present_devices() -> list[list[str]]:
    """One list per GPU, in nvidia-smi's order: its UUID, or those of its instances where it is divided (MIG)."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    if listing.returncode != 0:
        print(f"nvidia-smi failed, so no GPU is seen: {(listing.stdout + listing.stderr).strip()}", file=sys.stderr)
        return []
    return parse_listing(listing.stdout)


def parse_listing(listing: str) -> list[list[str]]:
    """UUIDs by GPU in the output of `nvidia-smi -L`, where a divided GPU is followed by its indented instances."""
    gpus: list[list[str]] = []
    for uuid in re.findall(r"\(UUID: ([^)]+)\)", listing):
        if uuid.startswith("GPU-"):
            gpus.append([uuid])
        elif gpus[-1][0].startswith("GPU-"):
            gpus[-1] = [uuid]
        else:
            gpus[-1].append(uuid)
    return gpus


def _chosen_devices(chosen: str, present: list[list[str]]) -> tuple[str, ...]:
    """Ids named by a value of CUDA_VISIBLE_DEVICES. As in CUDA, an id that does not exist ends the list."""
    ids: list[str] = []
    for entry in (part.strip() for part in chosen.split(",")):
        if entry.isdigit():
            if present and int(entry) >= len(present):
                break
            ids.append(present[int(entry)][0] if present else entry)
        elif entry.startswith(("GPU-", "MIG-")):
            # CUDA takes any unambiguous beginning of a UUID.
            whole = [uuid for uuids in present for uuid in uuids if uuid.startswith(entry)]
            if present and len(whole) != 1:
                break
            ids.append(whole[0] if whole else entry)
        else:
            break
    return tuple(dict.fromkeys(ids))


def _wait_for(count: int, devices: tuple[str, ...]) -> tuple[str, ...]:
    folder = _lock_folder()
    announced = False
    while True:
        if ids := _try(count, devices, folder):
            return ids
        if not announced:
            print(
                f"waiting for {count} of the devices {', '.join(devices)} (locks in {folder})",
                file=sys.stderr,
                flush=True,
            )
            announced = True
        time.sleep(POLL_SECONDS)


def _try(count: int, devices: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The first `count` free devices, now locked by this process; none at all if fewer are free."""
    gate = _open(folder / "gate")
    held: dict[str, int] = {}
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for device in devices:
            descriptor = _open(folder / re.sub(r"[^A-Za-z0-9._-]", "_", f"device-{device}"))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            held[device] = descriptor
            if len(held) == count:
                _descriptors.extend(held.values())
                return tuple(held)
        for descriptor in held.values():
            os.close(descriptor)
        return ()
    finally:
        os.close(gate)


def _open(path: Path) -> int:
    # Never deleted: a lock on a file that another process has replaced would exclude nobody.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _lock_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"udaseg-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid():
        raise UserError(f"{folder} belongs to user {status.st_uid} or is a link; expected a folder of yours: remove it")
    return folder


def _forget_in_child() -> None:
    """A forked data worker must not keep a device locked after the training itself was killed."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_forget_in_child)


if __name__ == "__main__":
    print(len(visible_devices()))
