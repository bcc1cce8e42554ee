"""A kept study through Snakemake: reported again from its records, and gone on with where they are too little."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.project import Project, finished_study, made_once, tiny

pytestmark = pytest.mark.slow

WARM = {"warm": {"method": "source_only"}, "main": {"method": "dann", "init": {"student": "warm"}}}
MORE = tiny(run=["source_only", "dann", "more"], recipes={"more": {"title": "From a warm-up", "stages": WARM}})
REFERENCE = Path("reports/reference/tiny")


class WithRecords(Project):
    """The same folder, in which every Snakemake is told to take records as finished."""

    def snakemake(self, *options: str, seconds: float = 600) -> tuple[int, str]:
        return super().snakemake("records=yes", *options, seconds=seconds)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix}  # Snakemake adds a file


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """What git has of a study that was finished and kept."""
    finished = finished_study(tmp_path_factory, tiny())
    return Project(made_once(tmp_path_factory, "kept", lambda folder: keep(finished, folder)))


def keep(finished: Project, folder: Path) -> None:
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    project = Project(folder)
    (project.folder / REFERENCE / "runs/an/older").mkdir(parents=True)
    (project.folder / REFERENCE / "runs/an/older/spec.yaml").touch()
    status, output = project.run("udaseg.cli.main", "keep", "--study", "tiny")
    assert status == 0, output
    assert f"removed: {REFERENCE}/runs/an/older/spec.yaml" in output
    assert f"{REFERENCE}: 5 finished jobs and their report" in output and output.endswith("0 are not finished\n")
    assert project.todo() == {}
    for name in ("results", "data", "state", "logs", ".snakemake", "reports/tiny"):
        shutil.rmtree(project.folder / name)
    (project.folder / "mlflow.db").unlink()


@pytest.fixture
def project(kept: Project, tmp_path: Path) -> Project:
    """A fresh clone of it."""
    shutil.copytree(kept.folder, tmp_path / "clone")
    return Project(tmp_path / "clone")


def test_a_record_is_small_and_holds_no_weights(kept: Project) -> None:
    runs = kept.folder / REFERENCE / "runs"
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        *("spec.yaml", "result.json", "history.jsonl", "cost.json", "env.json", "run.json"),
        *("metrics.json", "counts.npz"),
    }
    assert max(path.stat().st_size for path in files) < 50_000


def test_the_report_is_made_again_without_training(project: Project) -> None:
    status, output = project.run("udaseg.cli.main", "report", f"{REFERENCE}/report.yaml")
    assert status == 0, output
    assert not (project.folder / "results").exists()
    made, reference = project.folder / "reports/tiny", project.folder / REFERENCE
    assert contents(made / "tables") == contents(reference / "tables")
    assert {path.name for path in (reference / "figures").iterdir()} - {
        path.name for path in (made / "figures").iterdir()
    } == {"qualitative.png", "qualitative.svg"}


def test_records_are_finished_where_that_is_asked_for(project: Project) -> None:
    assert project.todo() == {"prepare": 3, "train": 3, "evaluate": 2, "report": 1, "track": 1}
    assert WithRecords(project.folder).todo() == {"report": 1, "track": 1}
    status, output = WithRecords(project.folder).snakemake()
    assert status == 0, output
    assert contents(project.folder / "reports/tiny/tables") == contents(project.folder / REFERENCE / "tables")
    assert WithRecords(project.folder).todo() == {}


def test_what_is_not_on_record_is_trained_with_all_that_it_starts_from(project: Project) -> None:
    project.study(MORE)
    # The new stage, the warm-up that is on record, and the pretraining that this starts from; both stages are scored.
    assert WithRecords(project.folder).todo() == {"prepare": 3, "train": 3, "evaluate": 2, "report": 1, "track": 1}
    status, output = WithRecords(project.folder).snakemake()
    assert status == 0, output
    runs = sorted(path.parts[-3] for path in project.folder.glob("results/toytown*/*/*/run.json"))
    assert runs == ["dann", "source_only"] and WithRecords(project.folder).todo() == {}
    table = pd.read_csv(project.folder / "reports/tiny/tables/runs.csv")
    assert list(table["label"]) == ["pretraining", "source_only", "dann", "more"]
    assert list(table["status"]) == ["not evaluated", "finished", "finished", "finished"]
    assert table["last.mIoU16"][1:].notna().all()


def test_a_damaged_record_is_trained_again(project: Project) -> None:
    (metrics,) = project.folder.glob(f"{REFERENCE}/runs/*/dann/*/evaluate-*/metrics.json")
    metrics.write_text("{}")
    assert WithRecords(project.folder).todo() == {"prepare": 3, "train": 2, "evaluate": 1, "report": 1, "track": 1}


def test_yes_or_no(project: Project) -> None:
    status, output = project.snakemake("records=maybe", "-n")
    assert status == 1 and "--config records=maybe: expected yes or no" in output
