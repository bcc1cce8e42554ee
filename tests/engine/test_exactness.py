"""That equal commands give equal bytes, also when the process is killed: real processes, real signals."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpus import pretend_gpus
from support.tiny import CPU, EXACT, objects_spec, prepare_objects

import udaseg
from udaseg.cli.main import main
from udaseg.config.training import Exactness
from udaseg.errors import UserError
from udaseg.jobs.job import code_of
from udaseg.machine.cpu import PORTABLE, limit_instructions, limit_numpy, require_instructions
from udaseg.machine.environment import describe, make_exact
from udaseg.machine.torch_errors import nondeterminism_explained
from udaseg.runs.files import read_json, sha256, write_yaml
from udaseg.runs.folder import is_whole

RESULT = ("model.safetensors", "state.safetensors", "best.safetensors", "history.jsonl", "result.json", "spec.yaml")


@pytest.fixture(autouse=True)
def restored():
    yield
    make_exact(exactness())


def exactness(determinism="strict", **changes):
    return Exactness.model_validate(EXACT | {"determinism": determinism} | changes)


def refused():
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))  # has no deterministic form anywhere


def test_strict_refuses_an_operator_without_a_deterministic_form():
    make_exact(exactness(threads=2))
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError, match="deterministic"):
        refused()


def test_warn_names_it():
    make_exact(exactness("warn"))
    with pytest.warns(UserWarning, match="put_ does not have a deterministic implementation"):
        refused()


def test_fast_allows_it_and_what_is_quick_on_cuda():
    make_exact(exactness("fast"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused()
    cuda = torch.backends.cuda.matmul, torch.backends.cudnn
    assert torch.backends.cudnn.benchmark and all(library.allow_tf32 for library in cuda)
    make_exact(exactness("strict"))
    assert not torch.backends.cudnn.benchmark and not any(library.allow_tf32 for library in cuda)


def test_a_refusal_is_told_as_what_a_parameter_decides(tmp_path, monkeypatch, capsys):
    def loss(*_):
        refused()

    monkeypatch.chdir(tmp_path)
    run = place(tmp_path, "source_only")
    monkeypatch.setattr("udaseg.methods.source_only.supervised", loss)
    assert main(["train", "spec.yaml"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("udaseg train: results/a-b/run: source_only: uses the operator put_, ")
    assert "set train.determinism: warn" in told
    assert not run.exists()


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match=r"^out of memory$"), nondeterminism_explained("a job"):
        raise RuntimeError("out of memory")


def test_what_a_result_was_made_with():
    found = describe(CPU, exactness(threads=3), "abc")
    assert found["threads"] == 3 and found["code"] == "abc"
    assert (found["determinism"], found["instructions"]) == ("strict", "native")
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    built = torch.__config__.show()
    assert all(found["versions"][name] in built for name in ("mkl", "onednn", "blas") if name in found["versions"])
    assert {"python", "commit", "dirty", "device", "cpu"} <= set(found)
    assert found["cpu_capability"] in built
    assert socket.gethostname() not in str(found) and str(Path.home()) not in str(found)  # results are published


def test_on_a_gpu_it_is_said_what_drives_it(monkeypatch):
    pretend_gpus(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    found = describe(torch.device("cuda"), exactness(), "abc")
    assert found["device"] == "NVIDIA H100" and found["versions"]["driver"] == "580.65.06"
    assert {"cuda", "cudnn"} <= set(found["versions"])


def write_program(path, body):
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)


class TestInstructions:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch):
        for name in PORTABLE:
            monkeypatch.setenv(name, "x")  # whatever it is, it is given back

    def test_native_takes_away_what_no_spec_speaks_of(self):
        limit_instructions(exactness())
        assert not set(PORTABLE) & set(os.environ)

    def test_portable_too_late_is_refused(self):
        with pytest.raises(RuntimeError, match="after torch or numpy was loaded"):
            limit_instructions(exactness(instructions="portable"))

    def test_portable_that_is_not_in_force_is_refused(self):
        with pytest.raises(UserError, match=r"train\.instructions: portable needs"):
            make_exact(exactness(instructions="portable"))

    def test_portable_on_another_cpu_is_refused(self):
        os.environ.update(PORTABLE)
        require_instructions(exactness(instructions="portable"), "AVX2")
        with pytest.raises(UserError, match=r"PyTorch uses DEFAULT\. Set train.instructions: native"):
            require_instructions(exactness(instructions="portable"), "DEFAULT")

    def test_prepared_sets_have_no_mode(self):
        limit_numpy()
        assert os.environ["NPY_DISABLE_CPU_FEATURES"] == PORTABLE["NPY_DISABLE_CPU_FEATURES"]


def start(root: Path, **variables: str) -> "subprocess.Popen[bytes]":
    """The train verb, as Snakemake calls it."""
    environment = os.environ | {"PYTHONPATH": str(Path(udaseg.__file__).parents[1]), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "udaseg.cli.main", "train", "spec.yaml"],
        cwd=root, env=environment | variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def place(root: Path, method: str, **changes: Any) -> Path:
    """A folder with a spec and its prepared sets; the run folder that training will make in it."""
    sets = root / "data" / "sets"
    source, target = prepare_objects(sets, {"train": 4}), prepare_objects(sets, {"train": 3, "val": 2}, world=2)
    spec = objects_spec(
        source.relative_to(root), target.relative_to(root), method, knobs={"hidden": 8} if method == "dann" else {},
        folder="results/a-b/run",
        train={"iterations": 60, "monitor_every": 15, "checkpoint_every": 10, "workers": 1} | changes,
    )  # fmt: skip
    write_yaml(root / "spec.yaml", spec.model_copy(update={"code": code_of(spec)}).model_dump(mode="json"))
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
def test_two_processes_give_identical_bytes_wherever_they_run_and_whatever_the_environment_says(tmp_path):
    (tmp_path / "one").mkdir()
    first = place(tmp_path / "one", "adabn")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    wide = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "4")
    other = {"MKL_DYNAMIC": "TRUE", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"}
    for name, variables in (("one", {"OMP_NUM_THREADS": "1"}), ("two", wide | other)):
        assert start(tmp_path / name, **variables).wait(timeout=120) == 0
    second = tmp_path / "two" / first.relative_to(tmp_path / "one")
    assert {name: sha256(first / name) for name in RESULT} == {name: sha256(second / name) for name in RESULT}


@pytest.mark.slow
@pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="portable needs AVX2")
def test_portable_instructions_are_in_force(tmp_path):
    run = place(tmp_path, "plca", iterations=2, monitor_every=2, workers=0, instructions="portable")
    process = start(tmp_path, ONEDNN_VERBOSE="1", MKL_VERBOSE="1")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert b"cpu,isa:Intel AVX2\n" in printed  # the most that oneDNN makes use of
    assert b"CNR:COMPATIBLE" in printed and b"CNR:OFF" not in printed  # matrix products of MKL
    found = read_json(run / "env.json")
    assert (found["instructions"], found["cpu_capability"]) == ("portable", "AVX2")
