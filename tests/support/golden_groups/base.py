"""What the groups share: the description of a case, and how arrays become tensors and settings. No arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from udaseg.nets.build import build_network

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Golden:
    run: Callable[[Arrays], dict[str, Any]]
    tolerances: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # key ("" for all) -> (rtol, atol)
    exact: Sequence[str] = ()
    guard: Mapping[str, float] = field(default_factory=dict)  # key -> what we give where the expected value is NaN


def tensor(array: np.ndarray, gradient: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(gradient)


def decimal(array: np.ndarray) -> float:
    """A setting as it was written down: 0.9, where the file's float32 says 0.8999999762."""
    return float(str(array[()]))


def count(parameters: list[nn.Parameter]) -> int:
    return nn.utils.parameters_to_vector(parameters).numel()


def sizes(array: np.ndarray) -> tuple[int, int]:
    height, width = array.tolist()
    return height, width


def network(
    name: str, depth: int, norm: str, classes: int, levels: int, head: str = "aspp", feature_norm: bool = False
) -> Any:
    spec: Any = SimpleNamespace(name=name, depth=depth, head=head, aspp="paper", feature_norm=feature_norm, norm=norm)
    return build_network(spec, classes, levels, seed=0)
