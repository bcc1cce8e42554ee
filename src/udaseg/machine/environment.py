"""What makes results exact on this machine, and what they were made with, which is recorded but never hashed."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from udaseg.config.training import Exactness
from udaseg.machine.cpu import require_instructions
from udaseg.machine.nvml import driver_version

PACKAGES = ("udaseg", "torch", "torchvision", "numpy", "pillow", "safetensors")
# Patterns for libraries inside PyTorch, in the description of its build.
BUILT_IN = {"mkl": r"Math Kernel Library Version (\S+?)-", "onednn": r"MKL-DNN v(\S+)", "blas": r"BLAS_INFO=(\w+)"}


def make_exact(exactness: Exactness) -> None:
    """Make equal inputs give equal bytes, as far as `determinism` demands. Call before anything is on the device.

    strict: an operator without a deterministic form raises RuntimeError, on CPU and CUDA.
    warn: it is used, and a warning names it; for methods that cannot be trained otherwise.
    fast: the fastest code is used: such operators, cuDNN's fastest convolutions, TensorFloat-32.

    Raises UserError when the instructions that `exactness` demands are not in force.
    """
    require_instructions(exactness, torch.backends.cpu.get_cpu_capability())
    exact = exactness.determinism != "fast"
    torch.set_num_threads(exactness.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    # Like use_deterministic_algorithms, which would also load PyTorch's compiler: two seconds for every job.
    torch.set_deterministic_debug_mode({"strict": "error", "warn": "warn", "fast": "default"}[exactness.determinism])
    torch.backends.cudnn.benchmark = not exact
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not exact
    # It would guard against reading uninitialised memory, at the cost of a pass over everything allocated.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def describe(device: torch.device, exactness: Exactness, code: str) -> dict[str, Any]:
    """Content of env.json: what can explain why a rerun differs. It omits the host's name, as results are published."""
    return {
        "versions": _versions(device),
        "python": platform.python_version(),
        "commit": _output("git", "rev-parse", "HEAD"),
        "dirty": bool(_output("git", "status", "--porcelain")),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # the instruction set that PyTorch uses
        "cpu_instructions": sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True),
        **exactness.model_dump(include=set(Exactness.model_fields)),
        "code": code,
    }


def _versions(device: torch.device) -> dict[str, str]:
    """Versions of packages, of libraries inside PyTorch, of the C library and, on a GPU, of its driver and CUDA."""
    found = {name: version(name) for name in PACKAGES}
    built = torch.__config__.show()
    found |= {name: match[1] for name, pattern in BUILT_IN.items() if (match := re.search(pattern, built))}
    found |= {name: number for name, number in [platform.libc_ver()] if name}
    if device.type == "cuda":
        found["driver"] = driver_version() or "unknown"
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return found


def _cpu() -> str:
    """Name and generation of the CPU, such as `AMD EPYC, family 23, model 1, stepping 2`."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.is_file() else []
    facts = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    numbers = {"cpu family": "family", "model": "model", "stepping": "stepping"}
    return ", ".join([facts["model name"], *(f"{word} {facts[key]}" for key, word in numbers.items() if key in facts)])


def _output(*command: str) -> str | None:
    """What a command prints; None if it is missing or fails, as git does outside a repository."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
