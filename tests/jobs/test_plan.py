"""Which jobs a study has, what addresses them, and what is shared."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.project import load, tiny

from udaseg.data.datasets.camvid import CamvidData
from udaseg.errors import UserError
from udaseg.jobs.job import Job, Plan, unplanned, write_specs
from udaseg.jobs.plan import make_plan
from udaseg.runs.files import read_yaml, write_text
from udaseg.runs.spec import DownloadSpec, EvaluateSpec, PrepareSpec, ReportSpec, TrainSpec, read_spec

MINE = {"kind": "folder", "root": "mine", "class_map": {"1": "road", "2": "sky"}}
WITHOUT_LABELS = {
    "run": ["source_only", "dann"],
    "datasets": {"mine": MINE | {"labels": None}},
    "task": {"target": {"dataset": "mine"}},
    "evaluate": {"monitor": None, "report": None},
}


ALL = ["source_only", "dann", "oracle"]


def plan(folder: Path, **changes: Any) -> Plan:
    return make_plan(load(folder, tiny(**{"run": ALL} | changes)))


def by_label(made: Plan) -> dict[str, Job]:
    return {job.label: job for job in made.jobs.values()}


def changed(first: Plan, second: Plan) -> set[str]:
    """Labels of the jobs of the second plan that the first does not have."""
    return {job.label for job in second.jobs.values() if job.marker not in {old.marker for old in first.jobs.values()}}


def test_the_jobs_of_a_study_and_their_order(tmp_path: Path) -> None:
    made = plan(tmp_path, seeds=[0, 1])
    kinds = [job.kind for job in made.jobs.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"prepare": 3, "train": 7, "evaluate": 6, "report": 1}
    seen: set[str] = set()
    for job in made.jobs.values():
        assert all(parent.folder in seen for parent in job.parents), job.label
        seen.add(job.folder)


def test_a_plan_is_a_function_of_the_parameters(tmp_path: Path) -> None:
    assert plan(tmp_path).jobs == plan(tmp_path).jobs


def test_the_pretraining_is_one_job_for_all_recipes_and_seeds(tmp_path: Path) -> None:
    made = plan(tmp_path, seeds=[0, 1])
    shared = by_label(made)["pretraining on objects"]
    children = [job for job in made.jobs.values() if shared in job.parents]
    assert len(children) == 6
    assert all(job.spec.init["student"] == shared.folder for job in children if isinstance(job.spec, TrainSpec))


def test_recipes_that_share_a_stage_share_its_run(tmp_path: Path) -> None:
    stages = {
        "warm": {"method": "source_only"},
        "main": {"method": "dann", "init": {"student": "warm"}, "knobs": {"hidden": 8}},
    }
    recipes = {"first": {"title": "First", "stages": stages}, "second": {"title": "Second", "stages": dict(stages)}}
    recipes["second"]["stages"] = stages | {"main": stages["main"] | {"knobs": {"hidden": 16}}}
    made = plan(tmp_path, recipes=recipes, run=["source_only", "first", "second"])
    # The pretraining, one warm-up, which source_only is too, and the two that differ.
    assert len(made.of_kind("train")) == 4
    report = made.report.spec
    assert isinstance(report, ReportSpec)
    warm = {run.run for run in report.runs if run.stage == "warm" or run.recipe == "source_only"}
    assert len(warm) == 1
    assert [run.final for run in report.runs if run.recipe == "first"] == [False, True]


def test_a_knob_changes_its_runs_and_nothing_else(tmp_path: Path) -> None:
    over = {"recipes": {"dann": {"stages": {"main": {"knobs": {"gamma": 5.0}}}}}}
    assert changed(plan(tmp_path), plan(tmp_path, **over)) == {
        "dann.main seed=0",
        "evaluation of dann.main seed=0",
        "report of tiny",
    }


def test_a_parents_change_reaches_its_children(tmp_path: Path) -> None:
    found = changed(plan(tmp_path), plan(tmp_path, pretrain={"train": {"iterations": 3}}))
    assert {"pretraining on objects", "source_only.main seed=0", "evaluation of dann.main seed=0"} <= found
    assert not any(label.startswith("data set") for label in found)


def test_data_reaches_all_that_is_made_of_it(tmp_path: Path) -> None:
    found = changed(plan(tmp_path), plan(tmp_path, datasets={"toytown_source": {"world": 2}}))
    assert "data set toytown_source" in found and "dann.main seed=0" in found
    assert "data set toytown_target" not in found and "pretraining on objects" not in found
    assert "oracle.main seed=0" not in found  # which sees no source image


@pytest.mark.parametrize(
    "over",
    [
        {"train": {"workers": 3}},
        {"mirror": "/somewhere"},
        {"recipes": {"dann": {"title": "Another name"}}},
        {"run": ["oracle", "dann", "source_only"]},
    ],
)
def test_what_cannot_change_a_result_makes_no_new_run(tmp_path: Path, over: dict[str, Any]) -> None:
    assert changed(plan(tmp_path), plan(tmp_path, **over)) <= {"report of tiny"}


@pytest.mark.parametrize("protocol", [{"flip": True}, {"fusion": "max"}])
def test_only_evaluations_depend_on_the_protocol(tmp_path: Path, protocol: dict[str, Any]) -> None:
    found = changed(plan(tmp_path), plan(tmp_path, evaluate={"protocol": protocol}))
    assert found == {f"evaluation of {name}.main seed=0" for name in ("source_only", "dann", "oracle")} | {
        "report of tiny"
    }


def test_a_recipe_may_be_scored_in_its_own_way(tmp_path: Path) -> None:
    found = changed(plan(tmp_path), plan(tmp_path, recipes={"dann": {"protocol": {"aggregate": 0.5}}}))
    assert found == {"evaluation of dann.main seed=0", "report of tiny"}


def test_labelled_target_images_make_other_runs_and_stand_in_the_report(tmp_path: Path) -> None:
    labelled = {"images": 2, "finish": 0, "order": "paper"}
    made = plan(tmp_path, train={"source": {"labelled_target": labelled}})
    report = made.report.spec
    assert isinstance(report, ReportSpec)
    assert {run.recipe: run.labelled_target for run in report.runs} == {"source_only": 2, "dann": 2, "oracle": 0}
    plain, semi = plan(tmp_path).of_kind("train"), made.of_kind("train")
    # The pretraining sees no domain, and the oracle has all labels: they are the same runs.
    same = {job.label for job in plain} - {job.label for job in plain if job.folder not in {s.folder for s in semi}}
    assert same == {"pretraining on objects", "oracle.main seed=0"}


def test_a_new_seed_leaves_the_old_ones(tmp_path: Path) -> None:
    found = changed(plan(tmp_path), plan(tmp_path, seeds=[0, 1]))
    assert len(found) == 7 and not any("seed=0" in label for label in found)


def test_folder_names_say_what_differs(tmp_path: Path) -> None:
    folder = by_label(plan(tmp_path))["dann.main seed=0"].folder
    assert re.match(r"results/toytown_source-toytown_target/dann/hidden=128_\S*seed=0-[0-9a-f]{10}$", folder)
    assert len(folder.rpartition("-")[2]) == 10


def test_labels_of_the_oracle_are_the_targets(tmp_path: Path) -> None:
    jobs = by_label(plan(tmp_path))
    oracle, target = jobs["oracle.main seed=0"].spec, jobs["data set toytown_target"].folder
    assert isinstance(oracle, TrainSpec) and (oracle.source, oracle.target) == (target, target)


def test_a_crop_larger_than_the_pretraining_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"pretrain.train.source.crop: \[64, 64\] is larger .* 'objects' is resized, \[32, 32\]"
    ):
        plan(tmp_path, pretrain={"train": {"source": {"crop": [64, 64]}}})


def test_an_archive_is_downloaded_before_its_set_is_prepared(tmp_path: Path) -> None:
    classes = {"classes": ["sky", "road"], "class_sets": {"both": ["sky", "road"]}}
    made = plan(tmp_path, mirror="/archives", task={"target": {"dataset": "camvid"}, **classes})
    (download,) = made.of_kind("download")
    assert isinstance(download.spec, DownloadSpec) and download.spec.mirror == "/archives"
    assert download.marker == download.folder == f"data/downloads/{CamvidData.archive.folder}"
    assert by_label(made)["data set camvid"].parents == (download,)
    assert by_label(made)["data set toytown_source"].parents == ()


def test_a_target_without_labels_is_trained_on_and_not_scored(tmp_path: Path) -> None:
    made = plan(tmp_path, **WITHOUT_LABELS)
    assert made.of_kind("evaluate") == []
    report = made.report.spec
    assert isinstance(report, ReportSpec)
    assert [run.evaluation for run in report.runs] == [None, None]
    assert {parent.label for parent in made.report.parents} == {"source_only.main seed=0", "dann.main seed=0"}
    assert all(job.spec.monitor is None for job in made.of_kind("train") if isinstance(job.spec, TrainSpec))


def test_weights_from_a_file_are_addressed_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    over = {"recipes": {"dann": {"stages": {"main": {"init": {"student": f"file:{file}"}}}}}}
    with pytest.raises(UserError, match=r"init.student: the weights file .*w.safetensors is not there"):
        plan(tmp_path, **over)
    file.write_bytes(b"one")
    first = plan(tmp_path, **over)
    file.write_bytes(b"two")
    assert "dann.main seed=0" in changed(first, plan(tmp_path, **over))


def test_written_specs_are_read_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_specs(made)
    kinds = {"prepare": PrepareSpec, "train": TrainSpec, "evaluate": EvaluateSpec, "report": ReportSpec}
    for job in made.jobs.values():
        assert read_spec(kinds[job.kind], job.spec_path) == job.spec
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state/**/*.yaml")}
    write_specs(made)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_spec_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_specs(made)
    path = made.of_kind("prepare")[0].spec_path
    with pytest.raises(UserError, match=r"expected the spec of a 'train' job; `udaseg plan --write` makes the specs"):
        read_spec(TrainSpec, path)
    path.write_text(path.read_text().replace("classes:", "clases:"))
    with pytest.raises(UserError, match=r"clases: unknown key; did you mean 'classes'\?"):
        read_spec(PrepareSpec, path)
    assert read_yaml(path)["kind"] == "prepare"


def test_what_no_plan_has_is_found(tmp_path: Path) -> None:
    made = plan(tmp_path)
    for job in made.jobs.values():
        write_text(tmp_path / job.folder / "run.json", "{}")
    run = by_label(made)["dann.main seed=0"].folder
    stray = ["data/sets/old-0123456789", "results/a-b/dann/seed=0-0123456789", f"{run}/evaluate-0123456789"]
    for folder in stray:
        write_text(tmp_path / folder / "run.json", "{}")
    assert sorted(str(path.relative_to(tmp_path)) for path in unplanned([made], tmp_path)) == sorted(stray)
