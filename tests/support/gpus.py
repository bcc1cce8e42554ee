"""GPUs that are not there: processes of the tests see those of FAKE_GPUS, through a stand-in for NVIDIA's library."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

FAKE = Path(__file__).with_name("fake_nvml")
GPUS: list[Any] = [
    ["GPU-aa11", "Name A", None],  # cannot be divided
    ["GPU-bb22", "Name B", [["MIG-cc33", "Name B MIG 3g.20gb"], None, ["MIG-dd44", "Name B MIG 3g.20gb"]]],
    ["GPU-ee55", "Name A", []],  # is not divided
]


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, gpus: list[Any] | None = GPUS) -> None:
    """This process and those that it starts see `gpus`; with None there is no driver."""
    monkeypatch.syspath_prepend(FAKE)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    if gpus is None:
        monkeypatch.delenv("FAKE_GPUS", raising=False)
    else:
        monkeypatch.setenv("FAKE_GPUS", json.dumps(gpus))
