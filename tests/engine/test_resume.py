"""Whatever stops a run, the same command goes on to the bytes of a run that nothing stopped."""

import json
import os
import shutil

import pytest
from support.tiny import CPU, SOURCE_VIEW, TARGET_VIEW, objects_spec, prepare_objects

from udaseg.engine.train import Training
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.runs.files import read_json, read_lines, sha256
from udaseg.runs.folder import is_whole, publish

RESULT = ("model.safetensors", "state.safetensors", "best.safetensors", "history.jsonl", "result.json")


class Killed(Exception):
    """Stands in for a signal."""


def training(spec, state):
    return Training(spec, METHODS[spec.method], state, CPU)


def train(spec, state):
    training(spec, state).run()
    return contents(state / "build")


def contents(build):
    return {name: (build / name).read_bytes() for name in RESULT}


def checkpoint(state, iteration):
    (path,) = state.glob(f"resume-{iteration:08d}-*.safetensors")
    return path


def stop(spec, state, before_iteration):
    """A run that is stopped before it does this iteration (counted from 0)."""
    run = training(spec, state)
    step = run.step

    def killed(index, batches):
        if index == before_iteration:
            raise Killed
        return step(index, batches)

    killed.optimizers = step.optimizers
    run.step = killed
    with pytest.raises(Killed):
        run.run()


@pytest.fixture(scope="module")
def spec(source, target):
    # Accumulation, augmentation, dropout, two optimizers and a schedule: all that could lose its place.
    view = {"batch": 1, "crop": [32, 32], "scale": [1.0, 1.5], "flip": 0.5, "jitter": 0.3, "blur": 0.5}
    return objects_spec(
        source, target, "dann", knobs={"hidden": 8, "reversal": 1.0}, optim={"warmup_iterations": 3},
        train={"iterations": 7, "accumulate": 2, "source": SOURCE_VIEW | view, "target": TARGET_VIEW | view}
        | {"monitor_every": 3},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(spec, tmp_path_factory):
    return train(spec, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("iteration", range(7))
def test_a_run_stopped_anywhere_ends_in_the_same_bytes(iteration, spec, whole, tmp_path):
    stop(spec, tmp_path, iteration)
    assert train(spec, tmp_path) == whole
    assert read_json(tmp_path / "build" / "cost.json")["attempts"] == 2


def test_so_does_one_that_is_stopped_again_and_again(spec, whole, tmp_path):
    for iteration in (1, 3, 3, 6):
        stop(spec, tmp_path, iteration)
    assert train(spec, tmp_path) == whole
    assert read_json(tmp_path / "build" / "cost.json")["attempts"] == 5


def test_resuming_starts_at_the_newest_checkpoint_and_keeps_one_in_reserve(spec, tmp_path, capsys):
    stop(spec, tmp_path, 6)
    assert [checkpoint(tmp_path, iteration).is_file() for iteration in (4, 6)] == [True, True]
    assert len(list(tmp_path.glob("resume*"))) == 2
    capsys.readouterr()
    training(spec, tmp_path).run()
    assert "iterations 6 to 7" in capsys.readouterr().err


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, os.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(damage, spec, whole, tmp_path, capsys):
    stop(spec, tmp_path, 6)
    newest = checkpoint(tmp_path, 6)
    damage(newest)
    assert train(spec, tmp_path) == whole
    error = capsys.readouterr().err
    assert f"{newest}: damaged (checksum differs); trying the previous checkpoint" in error or damage is os.unlink
    assert "iterations 4 to 7" in error


def test_without_a_sound_checkpoint_training_starts_anew_and_says_so(spec, whole, tmp_path, capsys):
    stop(spec, tmp_path, 6)
    for path in tmp_path.glob("resume-*.safetensors"):
        flip(path)
    assert train(spec, tmp_path) == whole
    error = capsys.readouterr().err
    assert "no undamaged checkpoint is left" in error and "iterations 0 to 7" in error


@pytest.mark.parametrize("damage", [truncate, os.unlink])
def test_the_history_of_a_resumed_run_is_the_checkpoint_s(damage, spec, whole, tmp_path):
    """Its own file is never flushed: a power cut may take its end."""
    stop(spec, tmp_path, 5)
    damage(tmp_path / "build" / "history.jsonl")
    assert train(spec, tmp_path) == whole


def test_a_resumed_run_whose_set_changed_is_refused(spec, source, tmp_path):
    moved = prepare_objects(tmp_path, {"train": 4})
    changed = spec.model_copy(update={"source": str(moved)})
    stop(changed, tmp_path / "state", 3)
    shutil.rmtree(moved)
    prepare_objects(tmp_path, {"train": 5})
    with pytest.raises(UserError, match=rf"state: saw other content in {moved} than is there now"):
        training(changed, tmp_path / "state").run()
    shutil.rmtree(tmp_path / "state")
    training(changed, tmp_path / "state")._resume()


@pytest.mark.parametrize("moment", [0, 3, 6])  # before the first of six files, in between, before the marker
def test_a_run_killed_while_it_is_published_ends_in_the_same_bytes(moment, spec, whole, tmp_path, monkeypatch):
    state, folder = tmp_path / "state", tmp_path / "run"
    train(spec, state)
    replace, count = os.replace, iter(range(100))

    def killed(*args):
        if next(count) == moment:
            raise Killed
        replace(*args)

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(Killed):
        publish(state / "build", folder, "id", "train")
    monkeypatch.undo()
    assert not is_whole(folder)

    assert train(spec, state) == whole
    publish(state / "build", folder, "id", "train")
    assert is_whole(folder) and not (state / "build").exists()
    assert contents(folder) == whole
    assert not list(folder.glob(".*"))


def test_publishing_twice_from_one_build_leaves_no_temporary_names(tmp_path):
    build, folder = tmp_path / "build", tmp_path / "run"
    build.mkdir()
    (build / "a").write_text("text")
    folder.mkdir()
    os.link(build / "a", folder / "a")
    publish(build, folder, "id", "train")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "run.json"]


def test_publishing_copies_where_files_cannot_have_two_names(tmp_path, monkeypatch):
    def refused(*args):
        raise OSError("not permitted")

    monkeypatch.setattr("os.link", refused)
    build, folder = tmp_path / "build", tmp_path / "run"
    (build / "inner").mkdir(parents=True)
    (build / "inner" / "a").write_text("text")
    publish(build, folder, "id", "train")
    assert is_whole(folder) and (folder / "inner" / "a").read_text() == "text"


def test_checkpoints_hold_no_pickle_and_equal_states_give_equal_bytes(spec, tmp_path):
    for name in ("a", "b"):
        stop(spec, tmp_path / name, 3)
    first, second = (checkpoint(tmp_path / name, 2) for name in ("a", "b"))
    assert sha256(first) == sha256(second)
    header = int.from_bytes(first.read_bytes()[:8], "little")
    assert json.loads(first.read_bytes()[8 : 8 + header])["extra"]["dtype"] == "U8"
    assert len(read_lines(tmp_path / "a" / "build" / "history.jsonl")) == 4  # three of terms, one of the third's scores
