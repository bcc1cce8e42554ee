"""What a result was made with: versions, commit, device, threads. Recorded beside a run, never compared or hashed."""

import platform
import socket
import subprocess
from importlib.metadata import version
from typing import Any

import torch


def describe(device: torch.device, threads: int, code: str) -> dict[str, Any]:
    """Content of env.json."""
    return {
        "versions": {name: version(name) for name in ("udaseg", "torch", "torchvision", "numpy", "pillow", "safetensors")},
        "python": platform.python_version(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "host": socket.gethostname(),
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
