"""Sweeps as MLflow sees them: what is sent of them, and that it is sent once, also in parts and when they grow."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fabricate import SWEEPS, fabricate

from udaseg.reports.read.run_folders import read_report
from udaseg.tracking import store as tracking
from udaseg.tracking.run_record import Record
from udaseg.tracking.store import PARENT, track
from udaseg.tracking.sweep_record import Family, comparable, make_records, short_names, whole_lines

NOTE = Path("state/tracking/note.json")
STORE = "sqlite:///mlflow.db"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store of the person who runs the tests, and nothing that `track` sets stays behind."""
    for name in [*tracking.ENVIRONMENT, *(name for name in os.environ if name.startswith("MLFLOW_"))]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("original")
    sweeps = ("grid", "patch_size", "parts")
    return root, fabricate(root, ("dann", "proda"), seeds=(0, 1), iterations=60, pictures=1, sweeps=sweeps)


@pytest.fixture
def study(original: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a small finished study as the working directory; the path of its spec."""
    shutil.copytree(original[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return original[1]


def families(spec: Path) -> dict[str, Family]:
    return {family.parent.tags["udaseg.sweep"]: family for family in make_records(read_report(spec))[1]}


def points(family: Family) -> dict[str, Record]:
    """The children of seed 0 by the point's name."""
    return {child.tags["udaseg.point"]: child for child in family.children if child.tags["udaseg.seed"] == "0"}


def test_every_point_and_seed_is_a_child_with_the_swept_values(study: Path) -> None:
    made = families(study)
    assert {name: len(family.children) for name, family in made.items()} == {"grid": 18, "patch_size": 8, "parts": 6}
    assert made["grid"].parent.name == SWEEPS["grid"].title
    for point in SWEEPS["grid"].points:
        child = points(made["grid"])[point.name]
        assert child.name == f"{point.name} seed=0"
        assert float(child.params["gamma"]) == point.values["main.knobs.gamma"]
        assert float(child.params["domain"]) == point.values["main.weights.domain"]
        assert child.params["recipe"] == "dann" and child.params["seed"] == "0"
        # The values are the point; under a second name they would stand before those that are compared.
        assert not {"point", "knobs.gamma", "weights.domain", "overrides"} & set(child.params)
    assert {child.params["patch_size"] for child in made["patch_size"].children} == {"24", "32", "48", "64"}


def test_parameters_that_a_point_does_not_name_have_the_value_they_had(study: Path) -> None:
    parts = points(families(study)["parts"])
    assert {name: child.params["point"] for name, child in parts.items()} == {name: name for name in parts}
    assert parts["no structure learning"].params["consist"] == "0.0"
    used = [entry for entry in yaml.safe_load(study.read_text())["runs"] if entry["recipe"] == "parts/full"]
    first = next(entry["run"] for entry in used if entry["stage"] == "stage1" and entry["seed"] == 0)
    weight = yaml.safe_load((Path(first) / "spec.yaml").read_text())["weights"]["consist"]
    assert float(parts["full"].params["consist"]) == weight
    assert "consist" not in parts["warm up only"].params


def test_a_run_is_there_once_in_each_of_its_places(study: Path) -> None:
    alone, made = make_records(read_report(study))
    everything = [*alone, *(record for family in made for record in [family.parent, *family.children])]
    assert len({record.place for record in everything}) == len(everything)
    assert [record.name for record in alone if record.tags["udaseg.seed"] == "0"] == [
        "pretraining seed=0", "dann seed=0", "proda/warmup seed=0", "proda/stage1 seed=0", "proda/stage2 seed=0",
        "proda seed=0",
    ]  # fmt: skip
    by_name = {record.name: record.tags["udaseg.run"] for record in alone}
    sweeps = families(study)
    assert points(sweeps["grid"])["gamma=10.0, domain=0.5"].tags["udaseg.run"] == by_name["dann seed=0"]
    assert points(sweeps["parts"])["warm up only"].tags["udaseg.run"] == by_name["proda/warmup seed=0"]
    assert points(sweeps["parts"])["full"].tags["udaseg.run"] == by_name["proda seed=0"]


def test_a_comparison_begins_with_the_score_and_shows_no_folders(study: Path) -> None:
    """The user interface's first chart is of the first metric and of the first parameters that differ."""
    alone, made = make_records(read_report(study))
    for record in [*alone, *(child for family in made for child in family.children)]:
        if "pretraining" not in record.name:
            assert record.metrics[0][0] == "last/mIoU11"
        assert not [value for value in record.params.values() if "results/" in value]
    grid = [child.params for child in families(study)["grid"].children]
    assert {name for name in grid[0] if len({params[name] for params in grid}) > 1} == {"domain", "gamma", "seed"}


def write_report(sweep: str, text: str = "| point | mIoU11 |\n| --- | ---: |\n| a | 1.0 |\n") -> dict[str, bytes]:
    """Invent what the report writes of a sweep."""
    files = {f"tables/ablation_{sweep}.md": text, f"tables/ablation_{sweep}.csv": "point\na\n"}
    files |= {f"figures/ablation_{sweep}.svg": "<svg/>"}
    for name, content in files.items():
        path = Path("reports/demo", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {name: content.encode() for name, content in files.items()}


def test_a_sweep_has_the_reports_table_and_figures(study: Path) -> None:
    bare = families(study)["grid"].parent
    assert bare.artifacts == {} and bare.params == {} and bare.metrics == []
    assert bare.tags["mlflow.note.content"].startswith("Swept: `gamma` (main.knobs.gamma), `domain` (main.")
    files = write_report("grid")
    write_report("grid_of_others")
    parent = families(study)["grid"].parent
    assert parent.artifacts == files
    assert files["tables/ablation_grid.md"].decode() in parent.tags["mlflow.note.content"]
    assert parent.digest != bare.digest and parent.digest == families(study)["grid"].parent.digest
    times = [(child.start, child.end) for child in families(study)["grid"].children]
    assert (parent.start, parent.end) == (min(times)[0], max(end for _, end in times))


def test_runs_that_are_not_finished_are_not_sent_and_named_as_missing(study: Path) -> None:
    entries = yaml.safe_load(study.read_text())["runs"]
    of_grid = [entry for entry in entries if entry.get("sweep") == "grid"]
    (Path(of_grid[0]["run"]) / "run.json").unlink()
    (Path(of_grid[-1]["evaluation"]) / "run.json").unlink()
    for entry in entries:
        if entry.get("sweep") == "patch_size":
            (Path(entry["run"]) / "run.json").unlink()
    made = families(study)
    assert set(made) == {"grid", "parts"}
    assert len(made["grid"].children) == 16
    assert "Of 18 runs 16 are finished." in made["grid"].parent.tags["mlflow.note.content"]
    assert "finished" not in made["parts"].parent.tags["mlflow.note.content"]


def test_short_names_are_unambiguous(study: Path) -> None:
    report = read_report(study)
    point = {"main.train.source.batch": 2, "main.train.target.batch": 4, "main.knobs.seed": 1, "main.optim.lr": 0.1}
    changed = replace(report, runs=[replace(run, point=point) for run in report.runs if run.sweep == "grid"])
    assert short_names(changed, "grid") == {
        "main.train.source.batch": "main.train.source.batch",
        "main.train.target.batch": "main.train.target.batch",
        "main.knobs.seed": "main.knobs.seed",  # `seed` is the run's
        "main.optim.lr": "lr",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"), (1e-5, "1e-05"), (3, "3"), (True, "true"), (None, "null"), ("paper", "paper"),
        ([48, 48], "48"), ([48, 64], "[48, 64]"), ([0.5, 0.5], "[0.5, 0.5]"), ([1, 1, 1], "[1, 1, 1]"),
    ],
)  # fmt: skip
def test_values_are_numbers_where_they_can_be(value: Any, text: str) -> None:
    assert comparable(value) == text


def test_a_long_table_ends_with_a_whole_line() -> None:
    assert whole_lines("one\ntwo\nthree", 13) == "one\ntwo\nthree"
    assert whole_lines("one\ntwo\nthree", 12) == whole_lines("one\ntwo\nthree", 7) == "one\ntwo"
    assert whole_lines("one\ntwo\nthree", 6) == "one"


def test_names_of_mlflow_are_kept(study: Path) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

    for family in families(study).values():
        for record in [family.parent, *family.children]:
            for name in record.params:
                _validate_param_name(name)
            for name, *_ in record.metrics:
                _validate_metric_name(name)
            for name in record.tags:
                _validate_tag_name(name)


def only(spec: Path, sweep: str, keep: Callable[[dict[str, Any]], bool]) -> Path:
    """A spec beside `spec` of one sweep, seed 0, and of those of its points that `keep` takes by their values."""
    content = yaml.safe_load(spec.read_text())
    content["runs"] = [
        entry for entry in content["runs"]
        if entry.get("sweep") == sweep and entry["seed"] == 0 and keep(entry["point"])
    ]  # fmt: skip
    content["recipes"] = [entry["recipe"] for entry in content["runs"]]
    content["sweeps"] = [entry for entry in content["sweeps"] if entry["name"] == sweep]
    (entry,) = content["sweeps"]
    entry["points"] = {name: title for name, title in entry["points"].items() if name in content["recipes"]}
    path = spec.with_name(f"{sweep}-{len(content['runs'])}.yaml")
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def held() -> tuple[Any, dict[str, Any]]:
    """The sweep's own run in the store, and its children by name."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=STORE)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    (parent,) = [run for run in runs if "udaseg.sweep" in run.data.tags and "udaseg.run" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get(PARENT) == parent.info.run_id]
    named = {run.info.run_name: run for run in children}
    assert len(named) == len(children) == len([run for run in runs if "udaseg.point" in run.data.tags])
    return parent, named


def sent(spec: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the records that a call sends."""
    names, fill = [], tracking.fill

    def noted(client: Any, run_id: str, record: Record) -> None:
        names.append(record.name)
        fill(client, run_id, record)

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "fill", noted)
        track(spec, NOTE)
    assert json.loads(NOTE.read_text())["status"] == "sent", NOTE.read_text()
    return names


def test_a_sweep_is_sent_once_finished_after_a_kill_and_grows(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, because a new store takes seconds to be made."""
    from mlflow import MlflowClient

    title = SWEEPS["grid"].title
    small = only(study, "grid", lambda point: point["main.knobs.gamma"] == 10.0)
    calls, log_artifacts = [], MlflowClient.log_artifacts

    def dies(client: Any, run_id: str, folder: str) -> None:
        calls.append(run_id)
        if len(calls) == 3:
            raise OSError("disk full")
        log_artifacts(client, run_id, folder)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", dies)
        track(small, NOTE)
    assert json.loads(NOTE.read_text()) == {"status": "pending", "reason": "OSError: disk full"}
    begun, some = held()
    assert begun.info.run_name == title and "udaseg.complete" not in begun.data.tags
    assert len(some) == 2  # after pretraining one child is whole and one is half there

    assert sent(small, monkeypatch) == [f"gamma=10.0, domain={domain} seed=0" for domain in (0.5, 1.0)] + [title]
    parent, children = held()
    assert parent.info.run_id == begun.info.run_id and parent.info.status == "FINISHED"
    assert parent.data.tags["udaseg.complete"] == "yes"
    assert {float(run.data.params["domain"]) for run in children.values()} == {0.05, 0.5, 1.0}
    assert all(run.data.tags["udaseg.complete"] == "yes" for run in children.values())
    assert sent(small, monkeypatch) == []

    # The report was written anew: the sweep itself is sent again, in its place.
    files = write_report("grid")
    assert sent(small, monkeypatch) == [title]
    client = MlflowClient(tracking_uri=STORE)
    for name, content in files.items():
        assert Path(client.download_artifacts(parent.info.run_id, name)).read_bytes() == content
    renewed, _ = held()
    assert renewed.info.run_id == parent.info.run_id
    assert renewed.data.tags["mlflow.note.content"].endswith(files["tables/ablation_grid.md"].decode())

    # One more value.
    grown = only(study, "grid", lambda point: point["main.knobs.gamma"] >= 10.0)
    write_report("grid", "| point | mIoU11 |\n| --- | ---: |\n| a | 1.0 |\n| b | 2.0 |\n")
    assert sent(grown, monkeypatch) == [f"gamma=20.0, domain={domain} seed=0" for domain in (0.05, 0.5, 1.0)] + [title]
    after, more = held()
    assert after.info.run_id == parent.info.run_id and len(more) == 6
    assert {name: more[name].info.run_id for name in children} == {
        name: run.info.run_id for name, run in children.items()
    }
    assert "| b | 2.0 |" in after.data.tags["mlflow.note.content"]

    # The sweep was deleted in the store: its runs come below the new one.
    client.delete_run(parent.info.run_id)
    assert sent(grown, monkeypatch) == [title]
    again, same = held()
    assert again.info.run_id != parent.info.run_id
    assert {run.info.run_id for run in same.values()} == {run.info.run_id for run in more.values()}
