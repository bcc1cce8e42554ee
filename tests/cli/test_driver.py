"""Opening a study: who takes the lock, and what is tried again."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.project import tiny, write_study

from udaseg.cli import workflow as driver
from udaseg.cli.workflow import only_driver, only_looks, open_study
from udaseg.errors import UserError
from udaseg.runs.files import write_json


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project to work in; what a driver would hold for its life is freed afterwards."""
    write_study(tmp_path, tiny())
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as held:
        monkeypatch.setattr(driver, "_held", held)
        yield tmp_path


def is_locked() -> bool:
    try:
        with only_driver():
            return False
    except UserError:
        return True


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            "-n",
            "-np",
            "-Fn",
            "-kn",
            "--dry-run",
            "--dryrun",
            "--dry-r",
            "--report",
            "--report=r.html",
            "--report r.zip",
        ),
        *("--dag", "--dag=mermaid-js", "--rulegraph", "--filegraph", "--d3dag", "--summary", "-S", "-D", "-l"),
        *("--list-rules", "--list-target-rules", "--list-changes code", "--lint", "--lint json"),
        *("--delete-all-output -n", "-n -- all", "--config study=tiny -n"),
    ],
)
def test_a_look_takes_no_lock(folder: Path, arguments: str) -> None:
    assert only_looks(["--cores", "2", *arguments.split()])
    if arguments in ("-n", "--report"):
        open_study("tiny", ["--cores", "2", *arguments.split()], main_process=True)
        assert not is_locked()


@pytest.mark.parametrize(
    "arguments",
    [
        *("--cores all", "-c2", "--config study=tiny", "-k", "-kp", "-R prepare", "-j 2 --nolock", "--touch"),
        *("-c1 --report r.html --report-after-run", "--delete-all-output", "--unlock", "--cores 1 -- -n"),
    ],
)
def test_a_run_holds_the_lock(folder: Path, arguments: str) -> None:
    assert not only_looks(arguments.split())
    if arguments in ("--cores all", "-kp"):
        open_study("tiny", arguments.split(), main_process=True)
        assert is_locked()
        open_study("tiny", ["-n"], main_process=True)
        with pytest.raises(UserError, match=r"another snakemake works in this folder; wait for it, .* \(process \d+\)"):
            open_study("tiny", ["--cores", "1"], main_process=True)


def test_a_job_takes_no_lock(folder: Path) -> None:
    open_study("tiny", ["--cores", "1"], main_process=False)
    assert not is_locked()


def test_specs_are_written(folder: Path) -> None:
    plan = open_study("tiny", ["-n"], main_process=True)
    assert all(job.spec_path.is_file() for job in plan.jobs.values())


@pytest.mark.parametrize(("status", "kept"), [("pending", False), ("sent", True)])
def test_a_pending_note_is_tried_again(folder: Path, status: str, kept: bool) -> None:
    note = Path(open_study("tiny", ["-n"], main_process=True).tracking_note)
    write_json(note, {"status": status})
    open_study("tiny", ["-n"], main_process=True)
    assert note.is_file()
    open_study("tiny", ["--cores", "1"], main_process=True)
    assert note.is_file() == kept
