"""The machine under a result: what makes it exact, and what it was made with, recorded and never compared or hashed."""

import os
import platform
import subprocess
from importlib.metadata import version
from typing import Any

import torch


def make_exact(threads: int, device: torch.device) -> None:
    """Make equal inputs give equal bytes: a fixed thread count, and operators with a deterministic form only.

    On the CPU, where every run is promised to be exact, an operator without such a form raises; on CUDA it warns,
    because a method that needs one is better trained inexactly than not at all. Call before anything is on the device.
    """
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    torch.backends.cudnn.benchmark = False
    # Guards against reading memory that nobody wrote, and costs a pass over all that is allocated.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def describe(device: torch.device, threads: int, code: str) -> dict[str, Any]:
    """Content of env.json; without the machine's name, for results are published."""
    return {
        "versions": {
            name: version(name) for name in ("udaseg", "torch", "torchvision", "numpy", "pillow", "safetensors")
        },
        "python": platform.python_version(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "determinism": "warn" if torch.is_deterministic_algorithms_warn_only_enabled() else "strict",
        "threads": threads,
        "code": code,
    }


def _git(*arguments: str) -> str | None:
    """Output of a git command, or None outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
