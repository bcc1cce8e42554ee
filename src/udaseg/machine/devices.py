"""GPUs are handed to training processes, one lock file per device, without a race and without a server.

A training process takes a device before anything else and keeps the locked descriptor open: the kernel frees it when
the process ends, however it ends. The locks lie in the node's temporary folder: processes of one user on one node see
each other's, provided they have the same TMPDIR. Inside a Slurm job, Slurm hands out the devices.
"""

import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from udaseg.errors import UserError
from udaseg.machine.nvml import present_gpus

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Device:
    """What a training may use: `cpu`, or `cuda` and the ids in CUDA_VISIBLE_DEVICES (`cuda:0` is the first of them)."""

    kind: Literal["cuda", "cpu"]
    ids: tuple[str, ...] = ()


# What this process holds: the descriptor must stay open for its life, and a second call gets the same device.
_descriptors: list[int] = []
_taken: Device | None = None


def take_device() -> Device:
    """Wait until a device is free, keep it until this process ends, and make it the only visible one.

    Call it before torch starts CUDA. Sets CUDA_VISIBLE_DEVICES (not inside a Slurm job, which has set it) and
    CUBLAS_WORKSPACE_CONFIG, which deterministic matrix products need before the CUDA context exists. Without any GPU
    the answer is the CPU, at once.

    Raises RuntimeError when torch has started CUDA already.
    """
    global _taken
    if _taken is None:
        _refuse_started_cuda()
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        _taken = _take(visible_devices())
    return _taken


def _take(devices: tuple[str, ...]) -> Device:
    if not devices:
        return Device("cpu")
    if _inside_slurm():
        return Device("cuda", devices)
    taken = _wait_for(devices)
    os.environ["CUDA_VISIBLE_DEVICES"] = taken
    return Device("cuda", (taken,))


def _inside_slurm() -> bool:
    return "SLURM_JOB_ID" in os.environ


def _refuse_started_cuda() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("take_device() was called after torch had started CUDA: the choice would have no effect")


def visible_devices() -> tuple[str, ...]:
    """Ids of the GPUs this process may use: those of CUDA_VISIBLE_DEVICES if it is set, else all that are present.

    An index is replaced by the UUID of the GPU at that place of nvidia-smi's list, so that a device has one name and
    thus one lock, however it was written (CUDA itself would order GPUs of different speed otherwise). Without a driver,
    and inside a Slurm job, ids stay as they are written.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if _inside_slurm():
        return _chosen_devices(chosen or "", [])
    present = [[gpu.uuid for gpu in parts] for parts in present_gpus()]
    if chosen is None:
        return tuple(uuid for uuids in present for uuid in uuids)
    return _chosen_devices(chosen, present)


def _chosen_devices(chosen: str, present: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Ids named by a value of CUDA_VISIBLE_DEVICES. As in CUDA, an id that does not exist ends the list."""
    ids: list[str] = []
    for entry in (part.strip() for part in chosen.split(",")):
        if entry.isdigit():
            if present and int(entry) >= len(present):
                break
            ids.append(present[int(entry)][0] if present else entry)
        elif entry.startswith(("GPU-", "MIG-")):
            # CUDA accepts any unambiguous beginning of a UUID.
            whole = [uuid for uuids in present for uuid in uuids if uuid.startswith(entry)]
            if present and len(whole) != 1:
                break
            ids.append(whole[0] if whole else entry)
        else:
            break
    return tuple(dict.fromkeys(ids))


def _wait_for(devices: tuple[str, ...]) -> str:
    folder = _lock_folder()
    announced = False
    while (taken := next((device for device in devices if _lock(device, folder)), None)) is None:
        if not announced:
            message = f"waiting for one of the devices {', '.join(devices)} (locks in {folder})"
            print(message, file=sys.stderr, flush=True)
            announced = True
        time.sleep(POLL_SECONDS)
    return taken


def _lock(device: str, folder: Path) -> bool:
    """Whether the device was free; this process has locked it then."""
    path = folder / re.sub(r"[^A-Za-z0-9._-]", "_", f"device-{device}")
    # Never deleted: a lock on a file that another process has replaced would exclude nobody.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _descriptors.append(descriptor)
    return True


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
