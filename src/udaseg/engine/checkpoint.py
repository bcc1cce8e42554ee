"""Mid-run checkpoints: complete, atomic, with a checksum, without pickle. The previous one is kept as a fallback."""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from udaseg.errors import UserError
from udaseg.runs.files import sha256, write_bytes

# The name holds the number of finished iterations and the beginning of the file's checksum.
NAME = re.compile(r"resume-(\d{8})-([0-9a-f]{16})\.safetensors")


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as one safetensors file, atomically. Equal tensors give equal bytes."""
    write_bytes(path, _content(tensors))


def _content(tensors: dict[str, Tensor]) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU; UserError when the file is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be read as safetensors ({error}); delete it, so that it is made again"
        ) from None


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors, without learning rates, which are functions of the iteration."""
    return {
        f"optim/{name}/{index}/{key}": value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        kind, owner, index, key = (path.split("/") + [""] * 3)[:4]
        if kind == "optim" and owner == name:
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_resume(
    folder: Path,
    iteration: int,
    method: nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    extra: dict[str, Any],
) -> None:
    """Write the complete state after `iteration` finished iterations; of older checkpoints keep only the newest."""
    tensors = {f"method/{name}": tensor for name, tensor in method.state_dict().items()}
    for name, optimizer in optimizers.items():
        tensors |= optimizer_tensors(name, optimizer)
    tensors["extra"] = torch.frombuffer(bytearray(json.dumps(extra).encode()), dtype=torch.uint8)
    content = _content(tensors)
    path = folder / f"resume-{iteration:08d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    write_bytes(path, content)
    found = _checkpoints(folder)
    before = [other for other, done, _ in found if done < iteration][:1]
    for other, *_ in found:
        if other not in (path, *before):
            other.unlink()


def _checkpoints(folder: Path) -> list[tuple[Path, int, str]]:
    """Path, number of finished iterations and beginning of the checksum of each checkpoint, newest first."""
    names = sorted((path.name for path in folder.glob("resume-*")), reverse=True)
    matches = [match for name in names if (match := NAME.fullmatch(name))]
    return [(folder / match[0], int(match[1]), match[2]) for match in matches]


def load_resume(
    folder: Path, method: nn.Module, optimizers: dict[str, torch.optim.Optimizer]
) -> tuple[int, dict[str, Any]]:
    """Load the newest undamaged checkpoint.

    Returns:
        The number of finished iterations and `extra`; (0, {}) if there is no checkpoint."""
    found = _checkpoints(folder)
    for path, iteration, checksum in found:
        if not sha256(path).startswith(checksum):
            print(f"{path}: damaged (checksum differs); trying the previous checkpoint", file=sys.stderr)
            continue
        tensors = load_tensors(path)
        method.load_state_dict(
            {name.removeprefix("method/"): t for name, t in tensors.items() if name[:7] == "method/"}
        )
        for name, optimizer in optimizers.items():
            restore_optimizer(name, optimizer, tensors)
        return iteration, json.loads(tensors["extra"].numpy().tobytes())
    if found:
        print(f"{folder}: no undamaged checkpoint is left; training starts at iteration 0", file=sys.stderr)
    return 0, {}
