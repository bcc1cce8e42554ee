"""What NVIDIA's management library says of the GPUs here. Unlike torch, it starts no CUDA context in this process."""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Gpu(NamedTuple):
    """A GPU, or an instance of a divided one (MIG)."""

    uuid: str
    """As in CUDA_VISIBLE_DEVICES: GPU-… or MIG-…."""
    name: str
    """As torch names it."""


def present_gpus() -> list[list[Gpu]]:
    """One list per physical GPU, in the order of the PCI bus, as in nvidia-smi: the GPU itself, or its MIG instances.

    Without a driver there are none. If NVML fails there are none either, and a line on stderr says why.
    """

    def ask(nvml: Any) -> list[list[Gpu]]:
        gpus = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return [
            [Gpu(nvml.nvmlDeviceGetUUID(part), nvml.nvmlDeviceGetName(part)) for part in _instances(nvml, gpu) or [gpu]]
            for gpu in gpus
        ]

    return _asked(ask) or []


def driver_version() -> str | None:
    """Version of the GPU driver; None without one."""
    return _asked(lambda nvml: str(nvml.nvmlSystemGetDriverVersion()))


def _asked(ask: Callable[[Any], T]) -> T | None:
    """What NVML answers; None where it is not installed or fails."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return ask(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError_LibraryNotFound:  # no driver
        return None
    except pynvml.NVMLError as error:
        print(f"NVIDIA's management library failed, so no GPU is seen: {error}", file=sys.stderr)
        return None


def _instances(nvml: Any, gpu: Any) -> list[Any]:
    """Handles of a GPU's MIG instances; none if it is not divided."""
    found = []
    with suppress(nvml.NVMLError_NotSupported):  # a GPU that cannot be divided
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            with suppress(nvml.NVMLError_NotFound):  # the indices of instances may have gaps
                found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index))
    return found
