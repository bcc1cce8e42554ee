"""Seconds and peak memory of one loss with its backward pass, each form of it in a fresh process with one thread.

A form is a function of inputs that returns a scalar; inputs are a named tuple, which a function makes from settings.
Both are found by name in the new process, hence top-level functions of a module.
"""

import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

MIB = 2**20
Settings = Mapping[str, Any]


class Form(NamedTuple):
    name: str
    loss: Callable[[Any], Tensor]  # of the inputs
    inputs: Callable[..., Any]  # of the settings as keywords, and of `device`


class Call(NamedTuple):
    seconds: float  # of the processor, so that what else the machine does counts little; with a device, of the clock
    loss: float
    gradient: float  # its norm, in all inputs


def measure(form: Form, settings: Settings, tiny: Settings) -> tuple[Call, float]:
    """One call of `form` on inputs of `settings`, and its peak in MiB beyond inputs and libraries.

    On CUDA where there is a device. A call on inputs of `tiny` goes first, so that what libraries do once is in neither
    number. Without a device the peak is the largest resident size of the process, less that of an equal one which stops
    before the call. Linux lets a process begin with the largest size of its parent: one that has held more than the
    inputs take hides the difference.
    """
    _, before = _in_a_new_process(form, settings, tiny, False)
    call, peak = _in_a_new_process(form, settings, tiny, True)
    assert call is not None
    return call, (peak - before) / MIB


def compare(title: str, forms: Sequence[Form], settings: Settings, tiny: Settings) -> str:
    """A Markdown table of the forms, each measured once; ratios are to the first one."""
    found = [measure(form, settings, tiny) for form in forms]
    first, first_peak = found[0]
    lines = [
        f"### {title}: " + ", ".join(f"{name} {value}" for name, value in settings.items()),
        "",
        "| form | seconds | peak MiB | seconds, ratio | peak, ratio | loss | gradient |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for form, (call, peak) in zip(forms, found, strict=True):
        ratios = f"{call.seconds / first.seconds:.2f} | {peak / first_peak if first_peak else math.nan:.2f}"
        numbers = f"{call.seconds:.2f} | {peak:.0f} | {ratios} | {call.loss:.5g} | {call.gradient:.5g}"
        lines.append(f"| {form.name} | {numbers} |")
    return "\n".join([*lines, ""])


def _in_a_new_process(form: Form, settings: Settings, tiny: Settings, calling: bool) -> tuple[Call | None, int]:
    context = multiprocessing.get_context("forkserver")  # a small process in which nothing was computed
    context.set_forkserver_preload(["torch"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_measured, form, settings, tiny, calling).result()


def _measured(form: Form, settings: Settings, tiny: Settings, calling: bool) -> tuple[Call | None, int]:
    """What this process measures: the call, or None without one, and its own largest size in bytes."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    form.loss(form.inputs(**tiny, device=device)).backward()
    inputs = form.inputs(**settings, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    call = _called(form, inputs) if calling else None
    if device.type == "cuda":
        return call, torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return call, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _called(form: Form, inputs: Any) -> Call:
    start = _now()
    loss = form.loss(inputs)
    loss.backward()
    seconds = _now() - start
    gradients = [value.grad for value in inputs if isinstance(value, Tensor) and value.grad is not None]
    return Call(seconds, float(loss.detach()), math.hypot(*(float(gradient.norm()) for gradient in gradients)))


def _now() -> float:
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
