"""Every kind of job, killed or refused by the system where hypothesis wants, again and again: nothing half is whole.

What counts as finished is always what an undisturbed job leaves, and the same command again ends in the same bytes.
"""

import importlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.faults import Fault, Kind, counted, forked
from support.project import made_once, tiny, write_study
from support.tiny import EXACT

from udaseg.cli.main import main
from udaseg.config.training import Exactness
from udaseg.engine.step import Stepper
from udaseg.jobs.job import Job, Plan, write_specs
from udaseg.jobs.plan import make_plan
from udaseg.machine.environment import make_exact
from udaseg.runs.files import read_json
from udaseg.runs.folder import MARKER
from udaseg.study.load import load_study

pytestmark = pytest.mark.slow

for module in (
    *(
        "data.datasets.toytown",
        "data.datasets.objects",
        "data.sets.build",
        "engine.train",
        "engine.evaluate",
        "reports.build",
    ),
    *("offline.label", "offline.quality", "offline.translate"),
):
    importlib.import_module(f"udaseg.{module}")  # before the forks, not in each of them
importlib.import_module("torch._dynamo")  # which the first optimizer of a process loads

STUDY = tiny(run=["source_only", "diga_lab"])
MEASURED = ("cost.json", "env.json")
KINDS: tuple[Kind, ...] = ("event", "event", "line", "half", "refused")


@dataclass(frozen=True)
class Study:
    """A finished study in a folder, which a test may spoil: a copy of it lies beside it."""

    folder: Path
    plan: Plan

    def job(self, kind: str) -> Job:
        """The last one of a kind: the training of the stage that has parents, labels and a teacher."""
        return self.plan.of_kind(kind)[-1]


@pytest.fixture(scope="module", autouse=True)
def light_forks() -> Iterator[None]:
    """Everything slow is done once, here, and the GPUs are left alone."""
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        make_exact(Exactness.model_validate(EXACT))
        yield
    torch.use_deterministic_algorithms(strict, warn_only=warn)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, light_forks: None) -> Study:
    def make(root: Path) -> None:
        write_study(root, STUDY)
        for job in planned(root).jobs.values():
            if job.kind != "report":
                end = forked(lambda job=job: done(job), root)  # type: ignore[misc]
                assert end.status == 0, end.output

    root = tmp_path_factory.mktemp("study") / "project"
    shutil.copytree(made_once(tmp_path_factory, "faults", make), root)
    return Study(root, planned(root))


def planned(root: Path) -> Plan:
    """The plan of the study in `root`, whose specs are written there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        plan = make_plan(load_study(Path("params.yaml"), "tiny"))
        write_specs(plan)
    return plan


def done(job: Job) -> int:
    return main([job.kind, str(job.spec_path)])


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of what lies in a job's folder, without what a clock measures and other jobs' folders in it."""
    others = [marker.parent for marker in folder.rglob(MARKER) if marker.parent != folder]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in MEASURED and not any(other in path.parents for other in others)
    }


def forget(study: Study, job: Job) -> None:
    """As if the job had never been started, but for other jobs' folders in its own."""
    for name in [*contents(study.folder / job.folder), *MEASURED]:
        (study.folder / job.folder / name).unlink(missing_ok=True)
    shutil.rmtree(study.folder / "state" / job.folder, ignore_errors=True)
    (study.folder / job.marker).unlink(missing_ok=True)


def survive(study: Study, job: Job, faults: list[Fault], expected: dict[str, bytes]) -> None:
    """Start the job once for each fault and once more, from nothing: see what this file begins with."""
    place, state = study.folder / job.folder, study.folder / "state" / job.folder
    forget(study, job)
    for number, fault in enumerate(faults):
        end = forked(lambda: done(job), study.folder, fault)
        finished = (study.folder / job.marker).is_file()
        if fault.kind == "refused":
            assert end.status == 1 or (end.status == 0 and finished), end.output
            assert end.status == 0 or "cannot be written (No space left on device)" in end.output
            assert "Traceback" not in end.output
        else:
            # Those after the first one have less to do, and may be done before.
            assert end.status == -9 or (end.status == 0 and finished and number > 0), end.output
        if finished:
            assert contents(place) == expected
    end = forked(lambda: done(job), study.folder)
    assert end.status == 0, end.output
    assert contents(place) == expected
    assert [path.name for path in state.rglob("*") if path.name != "lock"] == []  # nothing to go on with is left


def endure(study: Study, kind: str, examples: int) -> None:
    """`survive` faults that hypothesis chooses among all points of an undisturbed job."""
    job = study.job(kind)
    forget(study, job)
    points = counted(lambda: done(job), study.folder)
    expected = contents(study.folder / job.folder)
    assert len(expected) > 1
    fault = st.sampled_from(KINDS).flatmap(lambda kind: st.builds(Fault, st.just(kind), st.integers(1, points[kind])))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(fault, min_size=1, max_size=3))
    @example([Fault("half", points["half"] - 1), Fault("half", points["half"])])  # the last two: a file and the marker
    def endured(faults: list[Fault]) -> None:
        survive(study, job, faults, expected)

    endured()


def everything(study: Study) -> dict[str, bytes]:
    files = [path for folder in ("data", "results") for path in (study.folder / folder).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files if path.name not in MEASURED}


@pytest.mark.parametrize(
    ("kind", "examples"),
    [("prepare", 5), ("train", 4), ("label", 5), ("quality", 5), ("translate", 5), ("evaluate", 5), ("report", 2)],
)
def test_a_job_survives(study: Study, kind: str, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing is what a report takes its seconds for, and writes nothing.
    monkeypatch.setattr(
        "udaseg.reports.build.all_figures", lambda comparisons: {"miou": ("", None), "classes": ("", None)}
    )
    monkeypatch.setattr("udaseg.reports.build.render", lambda figure, dpi=150: {"png": b"0" * 9000, "svg": b"<svg/>"})
    before = everything(study)
    endure(study, kind, examples)
    assert everything(study) == before


@pytest.fixture
def begun(study: Study) -> Iterator[Job]:
    """A training as if never started, which every test here must bring to its end."""
    job = study.job("train")
    expected = contents(study.folder / job.folder)
    forget(study, job)
    yield job
    end = forked(lambda: done(job), study.folder)
    assert end.status == 0, end.output
    assert contents(study.folder / job.folder) == expected


def signalled(job: Job, *numbers: int) -> int:
    """The status of the job, whose process gets the signals in its third iteration."""
    step = Stepper.__call__

    def with_signals(self: Stepper, index: int, batches: Any) -> Any:
        for number in numbers if index == 2 else ():
            os.kill(os.getpid(), number)
        return step(self, index, batches)

    Stepper.__call__ = with_signals  # type: ignore[method-assign]  only in the fork
    return done(job)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_a_training_after_its_iteration(study: Study, begun: Job, number: signal.Signals) -> None:
    end = forked(lambda: signalled(begun, number), study.folder)
    assert end.status == os.EX_TEMPFAIL == 75
    assert f"stopped by {number.name} after 3 of 4 iterations. Run the same command again to resume" in end.output
    end = forked(lambda: done(begun), study.folder)
    assert end.status == 0 and "iterations 3 to 4 on cpu" in end.output
    assert read_json(study.folder / begun.folder / "cost.json")["attempts"] == 2


def test_a_second_signal_ends_it_at_once(study: Study, begun: Job) -> None:
    assert forked(lambda: signalled(begun, signal.SIGTERM, signal.SIGTERM), study.folder).status == -signal.SIGTERM
    end = forked(lambda: signalled(begun, signal.SIGTERM, signal.SIGUSR1), study.folder)
    assert end.status == 75 and "stopped by SIGTERM after 3" in end.output


def test_a_checkpoint_for_which_there_is_no_room(study: Study, begun: Job) -> None:
    """The kernel itself refuses the file, as a quota would; the next checkpoint is like the first one."""
    state = study.folder / "state" / begun.folder
    parent = study.folder / study.plan.of_kind("train")[-2].folder
    room = (parent / "model.safetensors").stat().st_size + 1000  # for a network, not for all of a checkpoint
    end = forked(lambda: done(begun), study.folder, largest_file=room)
    assert end.status == 1 and "Traceback" not in end.output
    message = (
        r"/resume-00000002-\w+\.safetensors: cannot be written \(File too large\); what was there before is kept\. R"
    )
    assert re.search(message, end.output)
    assert not list(state.glob("*resume*")) and not list(state.glob(".*"))
    end = forked(lambda: signalled(begun, signal.SIGUSR1), study.folder)
    checkpoints = {path.name: path.read_bytes() for path in state.glob("resume*")}
    assert end.status == 75 and len(checkpoints) == 2
    for each in range(2):
        end = forked(lambda: done(begun), study.folder, largest_file=room)
        assert end.status == 1 and "cannot be written (File too large)" in end.output, each
        assert {path.name: path.read_bytes() for path in state.glob("resume*")} == checkpoints


def test_a_set_for_which_there_is_no_room(study: Study) -> None:
    job = study.job("prepare")
    expected = contents(study.folder / job.folder)
    forget(study, job)
    end = forked(lambda: done(job), study.folder, largest_file=1_000)
    assert end.status == 1 and "cannot be written (File too large)" in end.output and "Traceback" not in end.output
    assert contents(study.folder / job.folder) == {} and not list(study.folder.glob("data/sets/.*"))
    assert forked(lambda: done(job), study.folder).status == 0
    assert contents(study.folder / job.folder) == expected


def test_a_file_that_changed_after_preparation_is_named_by_every_job(study: Study) -> None:
    """One bit of one pixel, in a file that is a sound picture."""
    for kind, split in (
        ("train", "train"),
        ("label", "train"),
        ("quality", "train"),
        ("translate", "train"),
        ("evaluate", "test"),
    ):
        job = study.job(kind)
        expected = contents(study.folder / job.folder)
        place = "labels" if kind == "quality" else "images"
        folder = "data/sets/toytown_source" if kind == "translate" else "data/sets/toytown_target"
        path = min((study.folder).glob(f"{folder}-*/{split}/{place}/*.png"))
        before = path.read_bytes()
        with Image.open(path) as picture:
            pixels = np.array(picture)
        pixels.flat[0] ^= 1
        Image.fromarray(pixels).save(path)
        forget(study, job)
        end = forked(lambda job=job: done(job), study.folder)  # type: ignore[misc]
        name = path.relative_to(study.folder)
        assert end.status == 1, end.output
        assert f"udaseg {kind}: {name}: changed after the set was prepared" in end.output
        assert "or remove the folder" in end.output and "Traceback" not in end.output
        path.write_bytes(before)
        assert forked(lambda job=job: done(job), study.folder).status == 0  # type: ignore[misc]
        assert contents(study.folder / job.folder) == expected


def test_a_clock_that_goes_back_changes_nothing(study: Study) -> None:
    """An hour back with every look at it, while the inputs lie in the future."""

    def backwards(job: Job) -> int:
        now, looks = time.time(), iter(range(sys.maxsize))
        time.time = lambda: now - 3600.0 * next(looks)  # only in the fork
        real = time.gmtime
        time.gmtime = lambda seconds=None: real(time.time() if seconds is None else seconds)
        return done(job)

    for kind in ("prepare", "train", "label", "quality", "translate", "evaluate"):
        job = study.job(kind)
        place = study.folder / job.folder
        expected = contents(place)
        forget(study, job)
        for path in study.folder.glob("data/sets/*/*"):
            os.utime(path, (2e9, 2e9))
        end = forked(lambda job=job: backwards(job), study.folder)  # type: ignore[misc]
        assert end.status == 0, end.output
        assert contents(place) == expected
        if kind == "train":
            cost = read_json(place / "cost.json")
            assert cost["seconds"] > 0 and cost["seconds_per_iteration"] > 0
