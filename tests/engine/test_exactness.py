"""That equal commands give equal bytes, also when the process is killed: real processes, real signals."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import CPU, objects_spec, prepare_objects

import udaseg
from udaseg.drafts import training_code
from udaseg.engine.environment import describe, make_exact
from udaseg.runs import is_whole, read_json, sha256, write_yaml

RESULT = ("model.safetensors", "state.safetensors", "best.safetensors", "history.jsonl", "result.json", "spec.yaml")


@pytest.fixture
def restored():
    yield
    make_exact(1, CPU)


def test_on_the_cpu_an_operator_without_a_deterministic_form_raises(restored):
    make_exact(2, CPU)
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    assert describe(CPU, 2, "0")["determinism"] == "strict"


def test_on_cuda_it_warns(restored):
    make_exact(1, torch.device("cuda"))
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert describe(CPU, 1, "0")["determinism"] == "warn"


def test_what_a_result_was_made_with():
    found = describe(CPU, 3, "abc")
    assert found["threads"] == 3 and found["code"] == "abc"
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert {"python", "commit", "dirty", "device"} <= set(found)
    assert socket.gethostname() not in found.values()  # results are published


def start(root: Path) -> "subprocess.Popen[bytes]":
    """The train verb, as Snakemake calls it."""
    environment = os.environ | {"PYTHONPATH": str(Path(udaseg.__file__).parents[1]), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "udaseg.cli", "train", "spec.yaml"], cwd=root, env=environment, stderr=subprocess.DEVNULL
    )


def place(root: Path, method: str) -> Path:
    """A folder with a spec and its prepared sets; the run folder that training will make in it."""
    sets = root / "data" / "sets"
    source, target = prepare_objects(sets, {"train": 4}), prepare_objects(sets, {"train": 3, "val": 2}, world=2)
    spec = objects_spec(
        source.relative_to(root), target.relative_to(root), method, knobs={"hidden": 8} if method == "dann" else {},
        code=training_code(method), folder="results/a-b/run",
        train={"iterations": 60, "monitor_every": 15, "checkpoint_every": 10, "workers": 1},
    )  # fmt: skip
    write_yaml(root / "spec.yaml", spec.model_dump(mode="json"))
    return root / "results" / "a-b" / "run"


@pytest.mark.slow
def test_kill_9_at_three_points_and_the_same_command_again_give_identical_bytes(tmp_path):
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    killed, whole = (place(tmp_path / name, "dann") for name in ("killed", "whole"))
    assert start(tmp_path / "whole").wait(timeout=120) == 0

    history = tmp_path / "killed" / "state" / "results" / "a-b" / "run" / "build" / "history.jsonl"
    for lines in (4, 17, 45):  # before the first checkpoint, after it, and late
        process = start(tmp_path / "killed")
        deadline = time.monotonic() + 120
        while not history.is_file() or len(history.read_text().splitlines()) < lines:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL
        assert not is_whole(killed)
    assert start(tmp_path / "killed").wait(timeout=120) == 0

    assert {name: sha256(killed / name) for name in RESULT} == {name: sha256(whole / name) for name in RESULT}
    assert read_json(killed / "cost.json")["attempts"] == 4
    left = tmp_path / "killed" / "state" / "results" / "a-b" / "run"
    assert [path.name for path in left.iterdir()] == ["lock"]


@pytest.mark.slow
def test_two_processes_give_identical_bytes_wherever_they_run(tmp_path):
    (tmp_path / "one").mkdir()
    first = place(tmp_path / "one", "adabn")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in ("one", "two"):
        assert start(tmp_path / name).wait(timeout=120) == 0
    second = tmp_path / "two" / first.relative_to(tmp_path / "one")
    assert {name: sha256(first / name) for name in RESULT} == {name: sha256(second / name) for name in RESULT}
