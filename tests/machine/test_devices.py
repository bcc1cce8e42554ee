"""Devices are handed out without overlap and freed by the kernel."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support.gpus import FAKE, GPUS, pretend_gpus

from udaseg.cli.main import main
from udaseg.machine.devices import visible_devices
from udaseg.machine.nvml import driver_version, present_gpus

# take, log [device, start, end] for each, with the system-wide monotonic clock; then hold on for `hold` seconds
TAKER = """
import json, sys, time
from udaseg.machine.devices import take_device
hold = float(sys.argv[1])
device = take_device()
start = time.monotonic()
print("holding", *device.ids, file=sys.stderr, flush=True)
time.sleep(hold)
print(json.dumps([[name, start, time.monotonic()] for name in device.ids]), flush=True)
"""


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Of a process that sees no GPUs, and takes the ids in CUDA_VISIBLE_DEVICES as they are written."""
    hidden = ("SLURM", "CUDA", "CUBLAS", "FAKE_GPUS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    path = os.pathsep.join([str(FAKE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "TMPDIR": str(folder), "PYTHONPATH": path, **variables}


def start_taker(folder: Path, devices: str, hold: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKER, str(hold)],
        env=environment(folder, CUDA_VISIBLE_DEVICES=devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_code(folder: Path, code: str, **variables: str) -> object:
    """What `code` prints as JSON in a fresh process."""
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def intervals(takers: list[subprocess.Popen[str]]) -> dict[str, list[tuple[float, float]]]:
    by_device: dict[str, list[tuple[float, float]]] = {}
    for taker in takers:
        output, errors = taker.communicate(timeout=60)
        assert taker.returncode == 0, errors
        for device, start, end in json.loads(output):
            by_device.setdefault(device, []).append((start, end))
    return by_device


def assert_apart(by_device: dict[str, list[tuple[float, float]]]) -> None:
    for device, spans in by_device.items():
        spans.sort()
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert end <= start, f"device {device} was held twice at once: {spans}"


def test_twelve_processes_share_three_devices_without_overlap(tmp_path: Path) -> None:
    by_device = intervals([start_taker(tmp_path, "0,1,2", 0.1) for _ in range(12)])
    assert sum(len(spans) for spans in by_device.values()) == 12
    assert set(by_device) <= {"0", "1", "2"}
    assert_apart(by_device)


def test_takers_in_any_order_do_not_meet(tmp_path: Path) -> None:
    by_device = intervals([start_taker(tmp_path, order, 0.05) for order in ("0,1,2", "2,1,0") * 5])
    assert sum(len(spans) for spans in by_device.values()) == 10
    assert_apart(by_device)


def test_a_taker_waits_for_the_first_that_is_free(tmp_path: Path) -> None:
    holder = start_taker(tmp_path, "0", 30)
    try:
        assert holder.stderr is not None and holder.stderr.readline() == "holding 0\n"
        assert set(intervals([start_taker(tmp_path, "0,1", 0)])) == {"1"}
    finally:
        holder.kill()
        holder.communicate()
    assert set(intervals([start_taker(tmp_path, "0,1", 0)])) == {"0"}


def test_kill_9_frees_the_device_even_with_a_forked_worker_alive(tmp_path: Path) -> None:
    code = """
        import os, time
        from udaseg.machine.devices import take_device
        take_device()
        worker = os.fork()
        if worker:
            print(worker, flush=True)
        time.sleep(60)
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment(tmp_path, CUDA_VISIBLE_DEVICES="0"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    waiter = start_taker(tmp_path, "0", 0)
    try:
        assert waiter.stderr is not None and waiter.stderr.readline().startswith(
            "waiting for one of the devices 0 (locks in"
        )
        assert waiter.poll() is None
        holder.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert set(intervals([waiter])) == {"0"}
        assert time.monotonic() - killed < 5
        os.kill(worker, 0)  # raises if the worker were gone, and with it the point of the test
    finally:
        holder.kill()
        os.kill(worker, signal.SIGKILL)
        holder.communicate()


def test_taking_sets_the_environment_and_a_second_call_returns_the_same(tmp_path: Path) -> None:
    code = """
        import json, os, sys
        from udaseg.machine.devices import take_device
        first = take_device()
        assert take_device() is first
        print(json.dumps([first.kind, first.ids, os.environ["CUDA_VISIBLE_DEVICES"],
                          os.environ["CUBLAS_WORKSPACE_CONFIG"], "torch" in sys.modules]))
    """
    expected = ["cuda", ["GPU-ab"], "GPU-ab", ":4096:8", False]
    assert run_code(tmp_path, code, CUDA_VISIBLE_DEVICES="GPU-ab,0,2") == expected
    folder = tmp_path / f"udaseg-devices-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


ASK = """
    import json, os
    from udaseg.machine.devices import take_device
    device = take_device()
    print(json.dumps([device.kind, device.ids, os.environ.get("CUDA_VISIBLE_DEVICES")]))
"""


def test_without_a_gpu_the_answer_is_the_cpu(tmp_path: Path) -> None:
    assert run_code(tmp_path, ASK) == ["cpu", [], None]
    assert run_code(tmp_path, ASK, CUDA_VISIBLE_DEVICES="") == ["cpu", [], ""]
    assert run_code(tmp_path, ASK, CUDA_VISIBLE_DEVICES="-1") == ["cpu", [], "-1"]
    assert not list(tmp_path.iterdir())


def test_slurm_hands_out_devices_itself(tmp_path: Path) -> None:
    assert run_code(tmp_path, ASK, SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="2,3") == ["cuda", ["2", "3"], "2,3"]
    assert run_code(tmp_path, ASK, SLURM_JOB_ID="7") == ["cpu", [], None]
    assert not list(tmp_path.iterdir()), "no lock is taken inside a Slurm job"


def test_a_divided_gpu_stands_for_its_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch)
    uuids = [[gpu.uuid for gpu in parts] for parts in present_gpus()]
    assert uuids == [["GPU-aa11"], ["MIG-cc33", "MIG-dd44"], ["GPU-ee55"]]
    assert present_gpus()[1][0].name == "Name B MIG 3g.20gb"


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend_gpus(monkeypatch, None)
    assert present_gpus() == [] and driver_version() is None
    assert capsys.readouterr().err == ""


def test_a_driver_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend_gpus(monkeypatch)
    monkeypatch.setenv("FAKE_GPUS", "broken")
    assert present_gpus() == []
    assert "no GPU is seen: Driver/library version mismatch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, ["GPU-aa11", "MIG-cc33", "MIG-dd44", "GPU-ee55"]),
        ("2,0", ["GPU-ee55", "GPU-aa11"]),
        ("GPU-aa, MIG-dd44", ["GPU-aa11", "MIG-dd44"]),
        ("0,GPU-aa11", ["GPU-aa11"]),
        ("0,9,2", ["GPU-aa11"]),
        ("", []),
    ],
)
def test_indices_and_uuids_name_the_same_devices(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, expected: list[str]
) -> None:
    pretend_gpus(monkeypatch)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert list(visible_devices()) == expected


def test_the_verb_prints_the_number_of_devices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for gpus, chosen, count in ((GPUS, None, 4), (GPUS, "2,0", 2), (GPUS, "", 0), (None, None, 0)):
        pretend_gpus(monkeypatch, gpus)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if chosen is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert main(["devices"]) == 0
        assert capsys.readouterr().out == f"{count}\n"
