"""Recipes of several stages with pseudo-labels between them, as one DAG: finished, repeated, killed, gone on with."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.project import SNAKEMAKE, Project, contents, finished_study, tiny, wait_until
from test_interruptions import kill_group, lines

from udaseg.runs.files import read_json, read_yaml
from udaseg.runs.folder import is_whole

pytestmark = pytest.mark.slow

ROUNDS = {"train": {"iterations": 12, "target": {"mine": 0.8}}, "rounds": {"count": 2}}
SOFT = {"of": "warmup", "rule": "soft", "min_pixels": 1}
STUDY = tiny(
    run=["dacs", "cbst", "proda"],
    train={"iterations": 12, "monitor_every": 4, "checkpoint_every": 4},
    recipes={
        "cbst": {"stages": {"round": ROUNDS}},
        "proda": {"stages": {"warmup": {"knobs": {"layers": 2}}, "stage1": {"labels": SOFT}}},
    },
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study that nobody interrupted."""
    return finished_study(tmp_path_factory, STUDY)


def test_every_stage_has_its_labels_scores_and_quality(finished: Project) -> None:
    runs = [folder.parent for folder in finished.folder.glob("results/toytown*/*/*/run.json")]
    labels = [folder.parent for folder in finished.folder.glob("results/toytown*/*/*/label-*/run.json")]
    # dacs; cbst: warm-up and two rounds; proda: warm-up and three stages.
    assert len(runs) == 1 + 3 + 4 and len(labels) == 2 + 3
    for folder in labels:
        (quality,) = folder.glob("quality-*")
        assert is_whole(folder) and is_whole(quality)
        judged = read_json(quality / "quality.json")
        assert judged["images"] == 4 and judged["labelled"] and 0 <= sum(judged["selected"].values()) <= judged["total"]
    used = {read_yaml(run / "spec.yaml")["labels"] for run in runs} - {None}
    assert used == {str(folder.relative_to(finished.folder)) for folder in labels}
    assert finished.todo() == {}


def test_the_report_has_a_row_for_every_stage_and_the_quality_of_the_labels(finished: Project) -> None:
    page = (finished.folder / "reports" / "tiny" / "index.html").read_text()
    for stage in ("round1", "round2", "stage1", "stage2", "stage3"):
        assert stage in page
    tables = {path.stem for path in (finished.folder / "reports" / "tiny" / "tables").glob("*.csv")}
    assert {"main", "stages", "pseudo_labels"} <= tables


def is_labelling(project: Project) -> bool:
    return any(project.folder.glob("state/results/*/*/*/label-*/build"))


def is_in_stage_1(project: Project) -> bool:
    """Whether a checkpoint is there."""
    return any(lines(path) >= 6 for path in project.folder.glob("state/results/*/proda/*/build/history.jsonl"))


@pytest.mark.parametrize(
    ("methods", "moment"),
    [(["cbst"], is_labelling), (["proda", "proda_distill"], is_in_stage_1)],
    ids=["cbst", "proda"],
)
def test_killed_and_started_again_it_ends_in_the_same_bytes(
    finished: Project, tmp_path: Path, methods: list[str], moment: Callable[[Project], bool]
) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(finished.folder, project.folder)
    for run in [path.parent for name in methods for path in project.folder.glob(f"results/*/{name}/*/run.json")]:
        if labels := read_yaml(run / "spec.yaml")["labels"]:
            shutil.rmtree(project.folder / labels, ignore_errors=True)  # those of another one of them are gone with it
        shutil.rmtree(run)
    process = project.start(*SNAKEMAKE)
    wait_until(lambda: moment(project) or process.poll() is not None)
    assert process.poll() is None, "ended before it could be killed"
    kill_group(process.pid)
    process.communicate()
    status, output = project.snakemake(seconds=600)
    assert status == 0, output
    for run in finished.folder.glob("results/*/*/*"):
        assert contents(run) == contents(project.folder / run.relative_to(finished.folder)), run.name
    assert project.todo() == {}
