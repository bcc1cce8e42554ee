"""Jobs and drivers that are killed, or started twice: the same command again ends as if nothing had happened."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from support.project import SNAKEMAKE, Project, contents, finished_study, tiny, wait_until

from udaseg.runs.files import read_json

pytestmark = pytest.mark.slow

LONGER = tiny(train={"iterations": 24, "monitor_every": 4, "checkpoint_every": 8}, run=["source_only", "dann"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study that nobody interrupted."""
    return finished_study(tmp_path_factory, LONGER)


@pytest.fixture
def started(finished: Project, tmp_path: Path) -> Project:
    """The same study with its data and pretraining done, and the runs still to do."""
    project = Project(tmp_path / "project")
    shutil.copytree(finished.folder, project.folder)
    for name in ("reports", "state", "results/toytown_source-toytown_target", ".snakemake"):
        shutil.rmtree(project.folder / name)
    assert project.run("udaseg.cli.main", "plan", "--study", "tiny", "--write")[0] == 0
    return project


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


def kill_group(group: int) -> None:
    """End a process and all that it started, as a power cut would."""
    os.killpg(group, signal.SIGKILL)


def test_a_killed_workflow_goes_on(finished: Project, started: Project) -> None:
    process = started.start(*SNAKEMAKE)
    wait_until(
        lambda: any(lines(path) >= 10 for path in started.folder.glob("state/results/*/*/*/build/history.jsonl"))
    )
    kill_group(process.pid)
    process.communicate()
    status, output = started.snakemake()
    assert status == 0, output
    for run in finished.folder.glob("results/*/*/*"):
        place = started.folder / run.relative_to(finished.folder)
        assert contents(run) == contents(place)
    assert started.todo() == {}


def test_jobs_whose_driver_was_killed_are_waited_for_not_doubled(started: Project) -> None:
    """Killed alone, Snakemake leaves its jobs running: the next one's jobs wait for them and take their result."""
    process = started.start(*SNAKEMAKE)
    wait_until(lambda: any(lines(path) >= 1 for path in started.folder.glob("state/results/*/*/*/build/history.jsonl")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    status, output = started.snakemake()
    assert status == 0, output
    costs = started.folder.glob("results/toytown*/*/*/cost.json")
    assert [read_json(cost)["attempts"] for cost in costs] == [1, 1]
    assert started.todo() == {}


def test_a_second_driver_is_refused_and_a_look_is_not(started: Project) -> None:
    process = started.start(*SNAKEMAKE)
    try:
        wait_until(lambda: list(started.folder.glob("state/results/*/*/*/build/history.jsonl")))
        status, output = started.snakemake()
        assert status == 1
        assert "another snakemake works in this folder; wait for it, or stop it" in output
        assert f"(process {process.pid})" in output
        assert "Traceback" not in output
        status, output = started.snakemake("-n")
        assert status == 0 and "This was a dry-run" in output
        assert process.poll() is None, "had ended before it was disturbed"
    finally:
        kill_group(process.pid)
        process.communicate()


def test_a_hidden_missing_child_is_never_called_a_success(finished: Project, tmp_path: Path) -> None:
    """Snakemake forgets missing children of a forced parent whose existing output is `ancient` to them."""
    project = Project(tmp_path / "project")
    shutil.copytree(finished.folder, project.folder)
    evaluation = next(project.folder.glob("results/*/dann/*/evaluate-*"))
    report = next(project.folder.glob("state/reports/*.json")).relative_to(project.folder)
    shutil.rmtree(evaluation)
    status, output = project.snakemake("-R", "prepare", "--", str(report))
    assert status == 1 and f"planned, but not made: ['{evaluation.relative_to(project.folder)}/run.json']" in output
    assert not evaluation.exists()
    status, output = project.snakemake()
    assert status == 0 and (evaluation / "run.json").is_file(), output


def test_going_back_to_an_earlier_plan_costs_only_its_report(finished: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(finished.folder, project.folder)
    first = (project.folder / "reports/tiny/tables/main.csv").read_bytes()
    project.study(LONGER | {"run": ["source_only"]})
    assert project.snakemake()[0] == 0
    assert (project.folder / "reports/tiny/tables/main.csv").read_bytes() != first
    project.study(LONGER)
    assert project.todo() == {"report": 1, "track": 1}  # which sends nothing again
    assert project.snakemake()[0] == 0
    assert (project.folder / "reports/tiny/tables/main.csv").read_bytes() == first


def test_gc_removes_what_a_changed_study_left(finished: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(finished.folder, project.folder)
    project.study(LONGER | {"run": ["source_only"]})
    status, output = project.run("udaseg.cli.main", "gc", "--delete")
    assert status == 0 and "1 folders that none of the studies tiny plans: removed" in output
    assert not list(project.folder.glob("results/*/dann/*"))
    assert project.todo() == {"report": 1, "track": 1}


def test_with_keep_going_a_failed_run_is_a_footnote_of_the_report(started: Project) -> None:
    """The others are finished and reported; the status tells of the failure; once it is mended, so is the report."""
    method = started.folder / "src/udaseg/methods/dann.py"
    whole = method.read_text()
    # Planning imports the methods, too: broken only where it is trained.
    method.write_text(whole.replace("def losses(", "def losses_that_are_not_there(", 1))
    status, output = started.snakemake("-kp")
    assert status != 0, output
    table = (started.folder / "reports/tiny/tables/main.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| ")}
    assert "| 1 |" in rows["Source only"] and "| 0 | – |" in rows["DANN"]
    assert "- dann, stage main, seed 0: " in table
    assert (started.folder / "reports/tiny/index.html").is_file()
    method.write_text(whole)
    status, output = started.snakemake()
    assert status == 0, output
    mended = (started.folder / "reports/tiny/tables/main.md").read_text()
    assert "- dann, stage main" not in mended and "| 0 | – |" not in mended
