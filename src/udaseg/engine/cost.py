"""Seconds, peak RAM or GPU memory and attempts of a run, across interruptions. Kept apart from what is compared."""

import resource
import time
from pathlib import Path
from typing import Any

import torch

from udaseg.runs.files import read_json, write_json


class Cost:
    """Measures from its construction on, and adds what earlier attempts spent up to the checkpoint in use.

    Args:
        path: file that holds the sum between attempts.
        first: number of iterations that are already finished.
    """

    def __init__(self, path: Path, first: int) -> None:
        before = read_json(path) if path.is_file() else {"seconds": 0.0, "attempts": 0}
        self.path, self.started = path, time.monotonic()
        self.seconds, self.attempts = before["seconds"] if first else 0.0, before["attempts"] + 1
        write_json(path, {"seconds": self.seconds, "attempts": self.attempts})

    def note(self) -> None:
        """Store the sum so far. Called with each checkpoint."""
        write_json(self.path, {"seconds": self._total(), "attempts": self.attempts})

    def summary(self, iterations: int, device: torch.device) -> dict[str, Any]:
        """Content of cost.json for a run of `iterations` on `device`."""
        cuda, total = device.type == "cuda", self._total()
        peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else _resident_mib()
        return {
            "seconds": round(total, 2),
            "iterations": iterations,
            "seconds_per_iteration": round(total / iterations, 5),
            "peak_memory_mib": round(peak, 1),
            "attempts": self.attempts,
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def _total(self) -> float:
        return self.seconds + time.monotonic() - self.started


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # in KiB on Linux
