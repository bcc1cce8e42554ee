"""A whole study, from nothing to its report, in seconds: what runs, what runs again, and what does not."""

import json
import shutil
from collections.abc import Iterator

import pytest
from support.project import Project, finished_study, tiny

from udaseg.runs.folder import is_whole


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished tiny study."""
    made = Project(tmp_path_factory.mktemp("dag") / "project")
    shutil.copytree(finished_study(tmp_path_factory, tiny()).folder, made.folder)
    return made


@pytest.fixture
def changed(project: Project) -> Iterator[Project]:
    """The finished study, whose parameters and source a test may change."""
    source, before = project.folder / "src", project.folder / "src_before"
    shutil.copytree(source, before)
    yield project
    project.study(tiny())
    shutil.rmtree(source)
    before.rename(source)


def test_everything_is_made_and_whole(project: Project) -> None:
    runs = [path.parent for path in project.folder.glob("results/*/*/*/run.json")]
    evaluations = [path.parent for path in project.folder.glob("results/*/*/*/evaluate-*/run.json")]
    assert len(runs) == 3 and len(evaluations) == 2 and all(map(is_whole, [*runs, *evaluations]))
    assert len(list(project.folder.glob("data/sets/*/set.json"))) == 3
    for run in runs:
        assert {"spec.yaml", "model.safetensors", "history.jsonl", "cost.json", "env.json"} <= {
            p.name for p in run.iterdir()
        }
    # Nothing of the work in between is left.
    assert not [path for path in project.folder.glob("state/results/**/*") if path.is_file() and path.name != "lock"]
    assert not list(project.folder.rglob("*.part"))


def test_the_pretraining_was_done_once(project: Project) -> None:
    assert len(list(project.folder.glob("results/objects/*/*/run.json"))) == 1


def test_report_and_tracking_are_there(project: Project) -> None:
    report = project.folder / "reports" / "tiny"
    assert (report / "index.html").stat().st_size > 10_000
    assert {path.suffix for path in (report / "tables").iterdir()} >= {".csv", ".md", ".tex"}
    assert list((report / "figures").glob("*.svg"))
    (note,) = project.folder.glob("state/tracking/*.json")
    assert json.loads(note.read_text())["status"] == "sent"
    assert (project.folder / "mlflow.db").is_file()


def test_every_job_has_a_log_and_a_benchmark(project: Project) -> None:
    made = [path.relative_to(project.folder / "logs") for path in project.folder.glob("logs/**/*.log")]
    assert len(made) == 3 + 3 + 2 + 2
    assert all((project.folder / "logs" / path).with_suffix(".benchmark.tsv").is_file() for path in made)


def test_the_second_time_does_nothing(project: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "results").rglob("*")}
    status, output = project.snakemake()
    assert status == 0 and "Nothing to be done" in output
    assert before == {path: path.stat().st_mtime_ns for path in (project.folder / "results").rglob("*")}


def test_times_of_files_do_not_matter(project: Project) -> None:
    """As after a checkout: data and parents are newer than what was made of them."""
    for marker in [*project.folder.glob("data/sets/*/set.json"), *project.folder.glob("results/objects/*/*/run.json")]:
        marker.touch()
    assert project.todo() == {}


def test_a_changed_knob_runs_its_runs_only(changed: Project) -> None:
    changed.study(tiny(recipes={"dann": {"stages": {"main": {"knobs": {"gamma": 5.0}}}}}))
    assert changed.todo() == {"train": 1, "evaluate": 1, "report": 1, "track": 1}


def test_a_comment_trains_nothing_and_code_trains_its_runs(changed: Project) -> None:
    module = changed.folder / "src" / "udaseg" / "methods" / "dann.py"
    module.write_text(f"# A comment.\n{module.read_text()}\n# Another one.\n")
    assert changed.todo() == {}
    module.write_text(module.read_text().replace("1e-4", "2e-4"))
    assert changed.todo() == {"train": 1, "evaluate": 1, "report": 1, "track": 1}


def test_snakemakes_own_report(project: Project) -> None:
    status, output = project.snakemake("--report", "report.html")
    assert status == 0, output
    assert "Adding miou.svg" in output and "Adding main.csv" in output and "Adding index.html" in output
    page = (project.folder / "report.html").read_text()
    assert all(
        text in page for text in ("Drawn from the study's finished run folders", "Scores, their", "The study's page")
    )


def test_an_archive_is_fetched_before_it_is_prepared(changed: Project) -> None:
    task = {"classes": ["sky", "road"], "class_sets": {"both": ["sky", "road"]}}
    changed.study(tiny(task={"target": {"dataset": "camvid"}} | task, run=["source_only"]))
    assert changed.todo() == {"download": 1, "prepare": 2, "train": 1, "evaluate": 1, "report": 1, "track": 1}


def test_a_wrong_parameter_stops_before_any_job(changed: Project) -> None:
    changed.study(tiny(train={"iteratons": 3}))
    status, output = changed.snakemake()
    assert status == 1 and "train.iteratons: unknown key; did you mean 'iterations'?" in output
    assert "Traceback" not in output and "Building DAG" not in output
