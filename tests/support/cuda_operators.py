"""Which operators would be refused, or could differ between reruns, on CUDA: seen on the CPU, forward and backward.

What PyTorch's Python code does otherwise on CUDA (bilinear resizing, padding) is done here, too. Its C++ code has one
operator for both devices, which does its work by other kernels there: convolutions and batch normalisation by cuDNN,
which is told to be deterministic. Nothing runs on a GPU: what an operator does there is taken from PyTorch's word.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Entry of the list in the documentation of `use_deterministic_algorithms` of what raises -> its operators.
RAISING = {
    "AvgPool3d": ["avg_pool3d_backward"],
    "AdaptiveAvgPool2d": ["_adaptive_avg_pool2d_backward"],
    "AdaptiveAvgPool3d": ["_adaptive_avg_pool3d_backward"],
    "AdaptiveMaxPool2d": ["adaptive_max_pool2d_backward"],
    "FractionalMaxPool2d": ["fractional_max_pool2d_backward"],
    "FractionalMaxPool3d": ["fractional_max_pool3d_backward"],
    "MaxUnpool1d": ["max_unpool2d"],
    "MaxUnpool2d": ["max_unpool2d"],
    "MaxUnpool3d": ["max_unpool3d"],
    "interpolate": [
        f"{name}_backward"
        for name in (
            "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
            "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
        )
    ],
    "ReflectionPad1d": ["reflection_pad1d_backward"],
    "ReflectionPad2d": ["reflection_pad2d_backward"],
    "ReflectionPad3d": ["reflection_pad3d_backward"],
    "NLLLoss": ["nll_loss2d_forward", "nll_loss2d_backward"],  # the one for rows does not
    "CTCLoss": ["_ctc_loss_backward"],
    "EmbeddingBag": ["_embedding_bag_backward"],
    "put_": ["put", "put_"],
    "histc": ["histc"],
    "bincount": ["bincount"],  # with weights
    "median": ["median", "nanmedian"],  # along a dimension
    "grid_sample": ["grid_sampler_2d_backward", "grid_sampler_3d_backward"],
    "scatter_reduce": ["scatter_reduce", "scatter_reduce_"],
}  # fmt: skip
# Those that raise in the installed library, too, by the names it hands to its own alert.
BESIDES = [
    "max_pool3d_with_indices_backward", "index_reduce", "index_reduce_",
    *(f"replication_pad{n}d_backward" for n in (1, 2, 3)),
]  # fmt: skip
REFUSED = {*(operator for operators in RAISING.values() for operator in operators), *BESIDES}
# Nothing is promised of the order of equal elements. Where that is allowed, and why:
UNSTABLE = {"topk", "kthvalue", "mode"}
VALUES_ONLY = {("topk", "hardest"), ("sort", "balanced_weights")}  # equal elements are equal values

PLACES = {torch.Tensor.is_cpu.__get__: False, torch.Tensor.is_cuda.__get__: True}  # type: ignore[attr-defined]


def documented() -> set[str]:
    """Entries of that list which are not of other devices alone."""
    text = (
        str(torch.use_deterministic_algorithms.__doc__)
        .split("nondeterministic operations will throw")[1]
        .split("In addition")[0]
    )
    entries = [" ".join(entry.split()) for entry in text.split("* :")[1:]]
    return {
        name.split(".")[-1]
        for entry in entries
        if "CUDA" in entry or ("MPS" not in entry and "quantized" not in entry)
        for name in re.findall(r"`(torch\.[\w.]+)`", entry)
        if not name.endswith("_algorithms")
    }


def objection(operator: str, overload: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str | None:
    """What is wrong with a call of an operator on CUDA; None: nothing."""
    if operator == "bincount":
        weighted = (len(arguments) > 1 and arguments[1] is not None) or keywords.get("weights") is not None
        return "is refused with weights" if weighted else None
    if operator in ("median", "nanmedian"):
        return "is refused along a dimension" if overload.startswith("dim") else None
    if operator in REFUSED:
        return "is refused"
    if operator == "cumsum" and (
        arguments[0].is_floating_point() or keywords.get("dtype", torch.int64).is_floating_point
    ):
        return "of floating-point numbers: earlier releases refuse it"
    if operator == "sort":
        return None if overload.startswith("stable") and keywords.get("stable") else "is not stable"
    return "leaves the order of equal elements open" if operator in UNSTABLE else None


class _Branches(TorchFunctionMode):
    """Tensors tell `torch.nn.functional` that they are on CUDA."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function in PLACES and sys._getframe(1).f_globals["__name__"] == functional.__name__:
            return PLACES[function]
        return function(*arguments, **(keywords or {}))


class _Operators(TorchDispatchMode):
    """Notes what there is against each operator that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.objections: set[str] = set()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        operator, keywords = function.overloadpacket.__name__, keywords or {}
        self.seen.add(operator)
        found = objection(operator, function._overloadname, arguments, keywords)
        if found and (operator, caller := _caller()) not in VALUES_ONLY:
            self.objections.add(f"{operator} (in {caller}) {found}")
        return function(*arguments, **keywords)


def _caller() -> str:
    """Name of the innermost function of udaseg that is being called."""
    frame = sys._getframe()
    while frame and not frame.f_globals["__name__"].startswith("udaseg."):
        frame = frame.f_back  # type: ignore[assignment]
    return frame.f_code.co_name if frame else ""


@contextmanager
def as_on_cuda() -> Iterator[_Operators]:
    """Runs the body with the branches of CUDA, in strict mode; the result's `objections` say what is wrong there."""
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        # Else `interpolate` would be handed to the mode as a whole, and its body run without it.
        with patch.object(functional, "has_torch_function_unary", lambda _: False), _Branches(), _Operators() as found:
            yield found
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn)
