"""Devices are handed out without overlap, freed by the kernel, and all or nothing."""

import fcntl
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

from udaseg.machine.devices import parse_listing

# take, log [device, start, end] for each, with the system-wide monotonic clock; then hold on for `hold` seconds
TAKER = """
import json, sys, time
from udaseg.machine.devices import take_device
count, devices, hold = int(sys.argv[1]), sys.argv[2].split(","), float(sys.argv[3])
device = take_device(count, devices)
start = time.monotonic()
print("holding", *device.ids, file=sys.stderr, flush=True)
time.sleep(hold)
print(json.dumps([[name, start, time.monotonic()] for name in device.ids]), flush=True)
"""


def environment(folder: Path, **variables: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "CUDA", "CUBLAS"))}
    return {**kept, "TMPDIR": str(folder), **variables}


def start_taker(folder: Path, count: int, devices: str, hold: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKER, str(count), devices, str(hold)],
        env=environment(folder),
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
    by_device = intervals([start_taker(tmp_path, 1, "0,1,2", 0.1) for _ in range(12)])
    assert sum(len(spans) for spans in by_device.values()) == 12
    assert set(by_device) <= {"0", "1", "2"}
    assert_apart(by_device)


def test_two_at_once_is_all_or_nothing_and_ends(tmp_path: Path) -> None:
    # Takers in opposite orders are what deadlocks when locks are taken one by one.
    takers = [start_taker(tmp_path, 2, order, 0.05) for order in ("0,1,2", "2,1,0") * 3]
    takers += [start_taker(tmp_path, 1, "0,1,2", 0.05) for _ in range(4)]
    by_device = intervals(takers)
    assert sum(len(spans) for spans in by_device.values()) == 6 * 2 + 4
    assert_apart(by_device)


def test_a_taker_of_two_keeps_none_while_it_waits(tmp_path: Path) -> None:
    holder = start_taker(tmp_path, 1, "0,1", 30)
    waiter = None
    try:
        assert holder.stderr is not None and holder.stderr.readline() == "holding 0\n"
        waiter = start_taker(tmp_path, 2, "0,1", 0)
        assert waiter.stderr is not None and "waiting for 2 of the devices 0, 1" in waiter.stderr.readline()
        assert set(intervals([start_taker(tmp_path, 1, "0,1", 0)])) == {"1"}
        assert waiter.poll() is None
    finally:
        holder.kill()
        holder.communicate()
        if waiter is not None:
            assert set(intervals([waiter])) == {"0", "1"}


def test_devices_are_looked_for_behind_the_gate(tmp_path: Path) -> None:
    folder = tmp_path / f"udaseg-devices-{os.getuid()}"
    folder.mkdir(mode=0o700)
    with open(folder / "gate", "w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        taker = start_taker(tmp_path, 1, "0", 0)
        with pytest.raises(subprocess.TimeoutExpired):
            taker.wait(timeout=1)
    assert set(intervals([taker])) == {"0"}


def test_kill_9_frees_the_device_even_with_a_forked_worker_alive(tmp_path: Path) -> None:
    code = """
        import os, time
        from udaseg.machine.devices import take_device
        take_device(1, ["0"])
        worker = os.fork()
        if worker:
            print(worker, flush=True)
        time.sleep(60)
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    waiter = start_taker(tmp_path, 1, "0", 0)
    try:
        assert waiter.stderr is not None and waiter.stderr.readline().startswith(
            "waiting for 1 of the devices 0 (locks in"
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
        first = take_device(2, ["0", "GPU-ab", "2"])
        assert take_device(2) is first
        print(json.dumps([first.kind, first.ids, os.environ["CUDA_VISIBLE_DEVICES"],
                          os.environ["CUBLAS_WORKSPACE_CONFIG"], "torch" in sys.modules]))
    """
    assert run_code(tmp_path, code) == ["cuda", ["0", "GPU-ab"], "0,GPU-ab", ":4096:8", False]
    folder = tmp_path / f"udaseg-devices-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


ASK = """
    import json, os
    from udaseg.machine.devices import take_device
    device = take_device()
    print(json.dumps([device.kind, device.ids, os.environ.get("CUDA_VISIBLE_DEVICES")]))
"""


def test_without_a_gpu_the_answer_is_the_cpu(tmp_path: Path) -> None:
    assert run_code(tmp_path, ASK, PATH=str(tmp_path)) == ["cpu", [], None]
    assert run_code(tmp_path, ASK, CUDA_VISIBLE_DEVICES="") == ["cpu", [], ""]
    assert run_code(tmp_path, ASK, CUDA_VISIBLE_DEVICES="-1") == ["cpu", [], "-1"]
    assert not list(tmp_path.iterdir())


def test_slurm_hands_out_devices_itself(tmp_path: Path) -> None:
    assert run_code(tmp_path, ASK, SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="2,3") == ["cuda", ["2", "3"], "2,3"]
    assert run_code(tmp_path, ASK, SLURM_JOB_ID="7") == ["cpu", [], None]
    assert not list(tmp_path.iterdir()), "no lock is taken inside a Slurm job"


LISTING = """\
GPU 0: Name A (UUID: GPU-aa11)
GPU 1: Name B (UUID: GPU-bb22)
  MIG 3g.20gb     Device  0: (UUID: MIG-cc33)
  MIG 3g.20gb     Device  1: (UUID: MIG-dd44)
GPU 2: Name A (UUID: GPU-ee55)
"""


def test_a_divided_gpu_stands_for_its_instances() -> None:
    assert parse_listing(LISTING) == [["GPU-aa11"], ["MIG-cc33", "MIG-dd44"], ["GPU-ee55"]]
    assert parse_listing("") == []


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
def test_indices_and_uuids_name_the_same_devices(tmp_path: Path, chosen: str | None, expected: list[str]) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTING}END\n")
    program.chmod(0o755)
    code = "import json; from udaseg.machine.devices import visible_devices; print(json.dumps(visible_devices()))"
    variables = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert run_code(tmp_path, code, PATH=f"{tmp_path}:{os.environ['PATH']}", **variables) == expected


def test_asking_for_more_than_there_are_is_a_user_error(tmp_path: Path) -> None:
    code = """
        import json
        from udaseg.machine.devices import take_device
        from udaseg.errors import UserError
        try:
            take_device(3, ["0", "1"])
        except UserError as error:
            print(json.dumps(str(error)))
    """
    assert str(run_code(tmp_path, code)).startswith("3 devices were asked for, but 2 are visible (0, 1)")


def test_the_module_prints_the_number_of_devices(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "udaseg.machine.devices"],
        env=environment(tmp_path, CUDA_VISIBLE_DEVICES="", PATH=os.environ["PATH"]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "0\n"
