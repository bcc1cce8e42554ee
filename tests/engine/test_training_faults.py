"""A training that loses a process, its memory or its disk says what to do, keeps its checkpoint and goes on from it."""

import errno
import multiprocessing
import os
import signal
from functools import partial

import pytest
import torch
from support.tiny import CPU, objects_spec

from udaseg.engine.evaluate import predictions
from udaseg.engine.predict import PLAIN
from udaseg.engine.train import Training
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.nets.small import SmallBackbone
from udaseg.runs.files import read_json

pytestmark = pytest.mark.slow

RESULT = ("model.safetensors", "state.safetensors", "best.safetensors", "history.jsonl", "result.json")


def training(spec, state):
    return Training(spec, METHODS[spec.method], state, CPU)


def contents(state):
    return {name: (state / "build" / name).read_bytes() for name in RESULT}


def spec_of(source, target, **train):
    return objects_spec(source, target, "dann", train={"iterations": 5} | train)


@pytest.fixture(scope="module")
def whole(source, target, tmp_path_factory):
    state = tmp_path_factory.mktemp("whole")
    training(spec_of(source, target), state).run()
    return contents(state)


def disturbed(run, before_iteration, act):
    """`run`, which does `act` before it steps this iteration (counted from 0)."""
    step = run.step

    def stepped(index, batches):
        if index == before_iteration:
            act()
        return step(index, batches)

    stepped.optimizers = step.optimizers
    run.step = stepped
    return run


def test_a_killed_loader_process_is_told_and_gone_on_from(source, target, whole, tmp_path):
    spec = spec_of(source, target, workers=2)

    def kill():
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    # torch says "killed by signal" or "exited unexpectedly", depending on who looks first; or a batch is cut off.
    message = (
        r"a process that loads images ended \((DataLoader worker|\[Errno).*last checkpoint is kept.*train\.workers"
    )
    with pytest.raises(UserError, match=message):
        disturbed(training(spec, tmp_path), 2, kill).run()
    assert multiprocessing.active_children() == []
    training(spec_of(source, target), tmp_path).run()
    assert contents(tmp_path) == whole
    assert read_json(tmp_path / "build" / "cost.json")["attempts"] == 2


def test_loader_processes_outlive_signals_to_the_whole_group(source, target, whole, tmp_path):
    def to_the_others():
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGUSR1)

    disturbed(training(spec_of(source, target, workers=2), tmp_path), 1, to_the_others).run()
    assert contents(tmp_path) == whole
    assert multiprocessing.active_children() == []


def test_what_a_loader_process_finds_wrong_is_told_without_its_traceback(source, target, tmp_path, monkeypatch):
    run = training(spec_of(source, target, workers=1), tmp_path)

    def wrong(split, name):
        raise UserError(f"{name}: changed")

    monkeypatch.setattr(run.sets["source"], "image", wrong)
    with pytest.raises(UserError, match=r"^[\w-]+: changed$"):
        run.run()


def test_handlers_are_given_back(source, target, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    run = disturbed(training(spec_of(source, target), tmp_path), 1, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.run()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_a_checkpoint_that_the_disk_refuses(source, target, whole, tmp_path, monkeypatch):
    """At its last moment, so that all of it would have been written."""
    run = training(spec_of(source, target), tmp_path)
    flush = os.fsync

    def refuse(descriptor):
        if "resume-00000004" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(UserError) as told:
            run.run()
    assert told.match(r"resume-00000004-\w+\.safetensors: cannot be written \(No space left on device\)")
    assert [path.name[:15] for path in tmp_path.glob("*resume*")] == ["resume-00000002"]
    training(spec_of(source, target), tmp_path).run()
    assert contents(tmp_path) == whole


def too_much(*_):
    """Asks PyTorch's own allocator for more than the address space has."""
    torch.empty(1 << 46)


def device_full(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand much advice")


@pytest.mark.parametrize("fail", [too_much, device_full])
def test_memory_that_runs_out_names_the_terms_and_what_to_lower(fail, source, target, whole, tmp_path, monkeypatch):
    """In the forward pass, in the backward pass and in the update, after a checkpoint that is gone on from."""
    spec = spec_of(source, target)
    crops = r"source 2 crops of 32 x 32, target 2 crops of 32 x 32, fp32 .*(allocate memory|CUDA out of memory)"
    lower = r"The last checkpoint is kept\. .* lower train.source.batch and train.target.batch .*crop"

    places = [
        (SmallBackbone, "forward", "computing the terms at the start of the step"),
        (torch.Tensor, "backward", "propagating back seg, domain"),
        (METHODS["dann"], "after_step", "updating the networks"),
    ]
    for owner, name, doing in places:
        with monkeypatch.context() as patch, pytest.raises(UserError) as told:
            disturbed(training(spec, tmp_path), 3, partial(patch.setattr, owner, name, fail)).run()
        assert told.match(rf"out of memory at iteration 3 on cpu of dann, {doing}: {crops}")
        assert told.match(lower)
        assert "\n" not in str(told.value)
    run = training(spec, tmp_path)
    assert run._resume() == 2
    training(spec, tmp_path).run()
    assert contents(tmp_path) == whole


def test_other_errors_stay_what_they_are(source, target, tmp_path, monkeypatch):
    def mistaken(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(SmallBackbone, "forward", mistaken)
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"):
        training(spec_of(source, target), tmp_path).run()


def test_a_prediction_without_memory_names_the_protocol(source, target, tmp_path, monkeypatch):
    run = training(spec_of(source, target), tmp_path)
    monkeypatch.setattr(SmallBackbone, "forward", too_much)
    message = (
        r"out of memory on cpu, predicting an image of 32 x 48 at the scales \[1\.0\] with no window .*window\.size"
    )
    with pytest.raises(UserError, match=message):
        next(predictions(run.method.predictor(), run.sets["target"], "val", PLAIN, CPU))
