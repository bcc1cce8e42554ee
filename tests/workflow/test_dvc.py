"""Data, runs and reports under DVC: what a pull brings, what a change makes again through either door, what is exact.

Counted are the trainings that were really executed. The study has a pretraining, a recipe of one stage, and one whose
second stage starts from its first.
"""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from support.project import made_once, tiny, write_study
from support.versioned import Versioned, versioned_files

from udaseg.runs.files import read_json

pytestmark = pytest.mark.slow

WARM = {
    "warm": {"method": "source_only", "optim": {"lr": 2.0e-3}},
    "main": {"method": "dann", "init": {"student": "warm"}},
}
STUDY = tiny(run=["source_only", "warmed"], recipes={"warmed": {"title": "DANN from a warm-up", "stages": WARM}})
EVERY = ["dann", "source_only", "source_only", "source_only"]  # with the pretraining, and the warm-up
DEMO = "workflow/studies/demo.yaml"
SNAKEMAKE = ("snakemake", "--cores", "2")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Versioned:
    """The study made by `dvc repro`, committed, and pushed to a remote folder."""
    return Versioned(made_once(tmp_path_factory, "versioned", make))


def make(folder: Path) -> None:
    project = Versioned.create(folder, STUDY)
    versioned_files(folder)
    write_study(folder, STUDY, "demo")
    (folder / "workflow/studies/tiny.yaml").unlink()
    project.succeed("git", "init", "-q")
    project.succeed("dvc", "remote", "add", "-d", "store", str(folder.with_name(f"{folder.name}-remote")))
    assert project.trained(lambda: project.succeed("dvc", "repro")) == EVERY
    project.commit("made")
    project.succeed("dvc", "push")


@pytest.fixture
def clone(locked: Versioned, tmp_path: Path) -> Versioned:
    """A fresh clone into which everything was pulled."""
    made = Versioned(tmp_path / "clone")
    locked.succeed("git", "clone", "-q", str(locked.folder), str(made.folder))
    made.succeed("dvc", "pull")
    return made


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def scores(project: Versioned) -> dict[str, float]:
    return {name: found["mIoU16"] for name, found in read_json(project.folder / "reports/dvc/metrics.json").items()}


def test_after_a_pull_neither_door_has_work(clone: Versioned) -> None:
    assert "up to date" in clone.succeed("dvc", "status")
    assert stages_run(clone.succeed("dvc", "repro")) == []
    assert "Nothing to be done" in clone.succeed(*SNAKEMAKE, "-n")
    assert clone.trained(lambda: clone.succeed(*SNAKEMAKE)) == [] and not (clone.folder / "logs").exists()
    report = clone.folder / "reports/demo"
    assert "<title>demo" in (report / "index.html").read_text()
    assert not (report / "tables/cost.csv").exists()  # nothing of that was measured here
    status, output = clone.call("udaseg", "plan")
    assert status == 0 and ", 0 to do" in output


def test_through_dvc_a_module_trains_what_imports_it_and_going_back_nothing(clone: Versioned) -> None:
    """Straight after the pull: Snakemake takes over from what was pulled."""
    before = clone.lock()
    module = "src/udaseg/methods/dann.py"
    clone.edit(module, "1e-4", "2e-4")
    assert clone.trained(lambda: clone.succeed("dvc", "repro")) == ["dann"]
    assert clone.lock() != before and "up to date" in clone.succeed("dvc", "status")
    planned = read_json(clone.folder / "snapshot/plan/runs.json")["jobs"]
    view = clone.folder / "snapshot"
    held = {str(path.parent.relative_to(view)) for path in view.rglob("run.json")}
    assert held == set(planned)  # nothing of the earlier plan is versioned, and all of it is still here
    assert len(list(clone.folder.glob("results/*/dann/*"))) == 2
    clone.succeed("git", "checkout", "-q", module)
    assert clone.trained(lambda: clone.succeed("dvc", "repro")) == []
    assert clone.lock() == before and clone.succeed("git", "status", "--porcelain") == ""
    clone.edit(module, '"""', '# A comment.\n"""In other words: ')
    output: list[str] = []
    assert clone.trained(lambda: output.append(clone.succeed("dvc", "repro"))) == []
    assert stages_run(output[0]) == ["plan"]


def test_through_snakemake_a_change_makes_what_depends_on_it_and_dvc_locks_it(clone: Versioned) -> None:
    before = clone.lock()
    module = clone.folder / "src/udaseg/methods/dann.py"
    text = module.read_text()
    module.write_text(f"# A comment.\n{text}")
    assert "Nothing to be done" in clone.succeed(*SNAKEMAKE)
    module.write_text(text)  # that code trains its runs through this door is seen in test_dag
    clone.edit(DEMO, "lr: 0.002", "lr: 0.0015")  # of the warm-up
    assert clone.trained(lambda: clone.succeed(*SNAKEMAKE)) == ["dann", "source_only"]
    assert clone.lock() == before
    assert clone.trained(lambda: clone.succeed("dvc", "repro")) == []
    assert clone.lock() != before and stages_run(clone.succeed("dvc", "repro")) == []
    clone.succeed("git", "checkout", "-q", ".")
    clone.succeed("dvc", "checkout")
    assert stages_run(clone.succeed("dvc", "repro")) == [] and clone.lock() == before
    assert clone.trained(lambda: clone.succeed(*SNAKEMAKE)) == []


def test_all_made_again_by_force_is_equal_byte_by_byte(clone: Versioned) -> None:
    before = clone.lock()
    for name in ("snapshot", ".dvc/cache"):
        shutil.rmtree(clone.folder / name)  # with data/ and results/, of which a clone has none yet
    assert clone.trained(lambda: clone.succeed("dvc", "repro", "--force")) == EVERY
    assert clone.lock() == before
    assert clone.trained(lambda: clone.succeed("dvc", "repro", "--force")) == []  # what is there need not be trained
    assert clone.lock() == before and clone.succeed("git", "status", "--porcelain") == ""


def test_a_planned_job_that_is_not_whole_is_never_locked(clone: Versioned) -> None:
    """As after Snakemake's silent skip, or when somebody edits a result."""
    before = clone.lock()
    clone.succeed(*SNAKEMAKE)
    (evaluation,) = clone.folder.glob("results/*/dann/*/evaluate-*")
    for path in (evaluation, clone.folder / "snapshot" / evaluation.relative_to(clone.folder)):
        (path / "metrics.json").unlink()
        (path / "metrics.json").write_text("{}")
    status, output = clone.call("dvc", "repro")
    assert status != 0 and f"{evaluation.relative_to(clone.folder)}: not a finished run" in output
    assert clone.lock() == before
    shutil.rmtree(evaluation)
    clone.succeed("dvc", "checkout", "--force")
    assert stages_run(clone.succeed("dvc", "repro")) == [] and clone.lock() == before
    assert "Nothing to be done" in clone.succeed(*SNAKEMAKE) and read_json(evaluation / "metrics.json")["classes"]
    shutil.rmtree(evaluation)
    status, output = clone.call("udaseg", "snapshot", "runs")
    assert status == 1 and f"{evaluation.relative_to(clone.folder)}: not a finished run" in output


def test_experiments_are_told_apart_by_parameters_scores_and_curves(clone: Versioned) -> None:
    before = scores(clone)
    change = ("-S", "workflow/methods.yaml:methods.dann.knobs.gamma=1.0", "--name", "flat")
    assert clone.trained(lambda: clone.succeed("dvc", "exp", "run", *change)) == ["dann"]
    after = scores(clone)
    assert after["source_only"] == before["source_only"] and after["warmed"] != before["warmed"]
    (found,) = json.loads(clone.succeed("dvc", "params", "diff", "--json"))["workflow/methods.yaml"].items()
    assert found == ("methods.dann.knobs.gamma", {"old": 10.0, "new": 1.0, "diff": -9.0})
    metrics = json.loads(clone.succeed("dvc", "metrics", "diff", "--json"))["reports/dvc/metrics.json"]
    assert metrics["warmed.mIoU16"]["new"] == after["warmed"]
    table = list(csv.DictReader(io.StringIO(clone.succeed("dvc", "exp", "show", "--csv", "--only-changed"))))
    shown = {row["Experiment"] or row["rev"]: float(row["warmed.mIoU16"]) for row in table}
    assert shown["flat"] == after["warmed"] and before["warmed"] in shown.values()
    plots = json.loads(clone.succeed("dvc", "plots", "diff", "HEAD", "--json"))["data"]
    assert set(plots) == {"scores", "curves"}
    drawn = {(point["rev"], point["recipe"]) for point in plots["curves"][0]["content"]["data"]["values"]}
    assert {("HEAD", "warmed"), ("workspace", "warmed")} <= drawn
