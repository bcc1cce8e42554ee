"""One way to run a job of any kind: finished ones stay, changed code is refused, and nothing is half there."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.project import load, tiny

from udaseg.cli import job_commands
from udaseg.cli.job_commands import run_job
from udaseg.errors import UserError
from udaseg.jobs.job import STATE, Job, write_specs
from udaseg.jobs.plan import make_plan
from udaseg.machine.devices import Device
from udaseg.runs.folder import is_whole
from udaseg.runs.kinds import KINDS

KINDS_RUN = [name for name, kind in KINDS.items() if kind.work]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """A job of every kind."""
    plan = make_plan(load(tmp_path_factory.mktemp("plan"), tiny(run=["diga_lab"])))
    return {kind: plan.of_kind(kind)[-1] for kind in KINDS_RUN}


@pytest.fixture
def start(
    jobs: dict[str, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Callable[..., None]], Job]:
    """Starts a job whose work is a function of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("udaseg.machine.devices.take_device", lambda: Device("cpu"))
    monkeypatch.setattr(job_commands, "_limit_cpu", lambda spec: None)  # PyTorch is loaded here

    def run(kind: str, work: Callable[..., None]) -> Job:
        job = jobs[kind]
        write_specs(Namespace(jobs={job.folder: job}))  # type: ignore[arg-type]
        monkeypatch.setattr(job_commands, "_function", lambda name: work)
        run_job(Namespace(verb=kind, spec=job.spec_path))
        return job

    return run


def writing(spec: Any, build: Path, *devices: Any) -> None:
    build.mkdir(parents=True, exist_ok=True)
    (build / "result.txt").write_text("42")
    if KINDS[spec.kind].marker not in ("run.json", ""):
        (build / KINDS[spec.kind].marker).write_text("{}")


@pytest.mark.parametrize("kind", KINDS_RUN)
def test_a_job_is_published_whole_and_made_once(
    start: Callable[..., Job], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = start(kind, writing)
    assert Path(job.marker).is_file() and (Path(job.folder) / "result.txt").read_text() == "42"
    assert kind == "prepare" or is_whole(Path(job.folder))
    assert [path.name for path in (STATE / job.folder).iterdir()] == ["lock"]

    def never(*arguments: Any) -> None:
        raise AssertionError("was made again")

    start(kind, never)
    assert f"{job.folder}: finished already" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS_RUN)
def test_code_that_changed_since_the_plan_is_refused(
    start: Callable[..., Job], jobs: dict[str, Job], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_commands, "code_of", lambda spec: "other")
    with pytest.raises(
        UserError, match="the source code changed since the plan was made; start the same command again"
    ):
        start(kind, writing)
    assert not Path(jobs[kind].folder).exists()


@pytest.mark.parametrize("kind", KINDS_RUN)
def test_code_that_changes_while_the_job_runs_publishes_nothing(
    start: Callable[..., Job], jobs: dict[str, Job], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that is edited between the first look and its import would give a wrong result under the old name."""
    with monkeypatch.context() as patch:

        def edited(spec: Any, build: Path, *devices: Any) -> None:
            writing(spec, build)
            patch.setattr(job_commands, "code_of", lambda spec: "other")

        with pytest.raises(UserError, match="the source code changed while the job ran, so its result is not used"):
            start(kind, edited)
    assert not Path(jobs[kind].folder).exists()
    assert Path(start(kind, writing).marker).is_file()


@pytest.mark.parametrize("kind", KINDS_RUN)
def test_only_a_kind_that_resumes_finds_what_was_left(
    start: Callable[..., Job], jobs: dict[str, Job], kind: str
) -> None:
    left = STATE / jobs[kind].folder / "build" / "left.txt"
    left.parent.mkdir(parents=True)
    left.write_text("of an attempt that was killed")
    job = start(kind, writing)
    assert (Path(job.folder) / "left.txt").exists() == KINDS[kind].resumes


@pytest.mark.parametrize("kind", KINDS_RUN)
def test_the_table_names_functions_that_exist(kind: str) -> None:
    assert callable(job_commands._function(KINDS[kind].work))
