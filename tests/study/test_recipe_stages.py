"""Recipes of several stages: pseudo-labels between them, rounds, and what is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest
from support.project import load, tiny

from udaseg.errors import UserError
from udaseg.jobs.job import Job, Plan, unplanned, write_specs
from udaseg.jobs.plan import make_plan
from udaseg.runs.spec import LabelSpec, QualitySpec, ReportSpec, TrainSpec, read_spec

ROUND: dict[str, Any] = {
    "method": "cbst",
    "init": {"student": "warm"},
    "labels": {"of": "warm", "rule": "class_balanced"},
    "rounds": {
        "count": 3, "target": {"start": 0.2, "step": 0.05, "most": 0.28},
        "source": {"start": 0.5, "step": 0.1, "most": 1},
        "growth": "paper", "lr_factor": 0.5,
    },
    "optim": {"lr": 1e-3},
    "train": {"target": {"mine": 0.8}},
}  # fmt: skip
WARM = {"method": "source_only"}
DISTILL: dict[str, Any] = {
    "method": "proda_distill",
    "init": {"student": "pretrain", "teacher": "warm"},
    "labels": {"of": "warm", "threshold": 0.9},
}


def plan(folder: Path, *, run: list[str] | None = None, seeds: list[int] | None = None, **stages: Any) -> Plan:
    recipe = {"title": "Mine", "stages": {"warm": WARM} | stages}
    return make_plan(load(folder, tiny(recipes={"mine": recipe}, run=run or ["mine"], seeds=seeds or [0])))


def runs(made: Plan, method: str) -> list[Job]:
    return [job for job in made.of_kind("train") if isinstance(job.spec, TrainSpec) and job.spec.method == method]


def test_rounds_are_jobs_each_from_the_one_before(tmp_path: Path) -> None:
    made = plan(tmp_path, round=ROUND)
    first, second, third = runs(made, "cbst")
    assert [job.label for job in (first, second, third)] == [f"mine.round{number} seed=0" for number in (1, 2, 3)]
    warm = next(job for job in runs(made, "source_only") if "mine.warm" in job.label)
    for before, job in ((warm, first), (first, second), (second, third)):
        assert isinstance(job.spec, TrainSpec) and job.spec.init["student"] == before.folder
        labels = made.jobs[str(job.spec.labels)]
        assert isinstance(labels.spec, LabelSpec) and labels.spec.run == before.folder
        assert labels in job.parents and before in job.parents and before in labels.parents
    specs = [job.spec for job in (first, second, third) if isinstance(job.spec, TrainSpec)]
    assert [spec.train.source.portion for spec in specs] == pytest.approx([0.5, 0.6, 0.7])
    assert [spec.optim.lr for spec in specs] == pytest.approx([1e-3, 5e-4, 2.5e-4])
    assert [spec.train.target.mine for spec in specs] == [0.8] * 3
    portions = [job.spec.labels.portion for job in made.of_kind("label") if isinstance(job.spec, LabelSpec)]
    assert portions == pytest.approx([0.2, 0.25, 0.28])


def test_every_stage_is_scored_and_so_are_its_labels(tmp_path: Path) -> None:
    made = plan(tmp_path, round=ROUND, seeds=[0, 1])
    assert len(made.of_kind("evaluate")) == 8 and len(made.of_kind("label")) == len(made.of_kind("quality")) == 6
    report = made.report.spec
    assert isinstance(report, ReportSpec)
    for entry in report.runs:
        trained = made.jobs[entry.run].spec
        assert isinstance(trained, TrainSpec)
        if trained.labels is None:
            assert entry.quality is None
            continue
        judged = made.jobs[str(entry.quality)]
        assert isinstance(judged.spec, QualitySpec) and judged.spec.labels == trained.labels
        assert judged in made.report.parents


def test_parents_come_first_and_folders_say_what_belongs_together(tmp_path: Path) -> None:
    made = plan(tmp_path, round=ROUND, last=DISTILL)
    seen: set[str] = set()
    for job in made.jobs.values():
        assert all(parent.folder in seen for parent in job.parents), job.label
        seen.add(job.folder)
    for job in made.of_kind("label"):
        assert isinstance(job.spec, LabelSpec) and job.folder.startswith(f"{job.spec.run}/label-")
    for job in made.of_kind("quality"):
        assert isinstance(job.spec, QualitySpec) and job.folder.startswith(f"{job.spec.labels}/quality-")


def test_a_teacher_of_its_own_is_a_parent(tmp_path: Path) -> None:
    made = plan(tmp_path, last=DISTILL)
    (job,) = runs(made, "proda_distill")
    warm = next(job for job in runs(made, "source_only") if "mine.warm" in job.label)
    assert isinstance(job.spec, TrainSpec) and job.spec.init["teacher"] == warm.folder and warm in job.parents
    assert made.jobs[job.spec.init["student"]].label == "pretraining on objects"


def test_another_rule_for_the_labels_makes_new_labels_and_a_new_run_and_nothing_else(tmp_path: Path) -> None:
    first = plan(tmp_path, last=DISTILL)
    second = plan(tmp_path, last=DISTILL | {"labels": {"of": "warm", "threshold": 0.8}})
    changed = [job.kind for job in second.jobs.values() if job.folder not in first.jobs]
    assert sorted(changed) == ["evaluate", "label", "quality", "train"]


def test_prototypes_of_the_source_make_its_set_a_parent_of_the_labels(tmp_path: Path) -> None:
    def made(**labels: str) -> tuple[LabelSpec, list[str]]:
        rule = {"of": "warm", "rule": "argmax"} | labels
        (job,) = plan(tmp_path, last=DISTILL | {"labels": rule}).of_kind("label")
        assert isinstance(job.spec, LabelSpec)
        return job.spec, [parent.label for parent in job.parents]

    of_target, parents = made()
    assert of_target.source is None and parents == ["mine.warm seed=0", "data set toytown_target"]
    of_source, parents = made(prototypes="source")
    assert parents == ["mine.warm seed=0", "data set toytown_target", "data set toytown_source"]
    assert str(of_source.source).startswith("data/sets/toytown_source-") and of_source.folder != of_target.folder
    assert of_source.set == of_target.set and of_source.run == of_target.run
    # Of a rule without prototypes there is nothing to be of the source.
    hard, parents = made(prototypes="source", rule="threshold")
    assert hard.source is None and parents == ["mine.warm seed=0", "data set toytown_target"]


def test_recipes_share_labels(tmp_path: Path) -> None:
    recipes = {
        name: {"title": name, "stages": {"warm": WARM, "last": DISTILL | {"weights": {"kd": weight}}}}
        for name, weight in (("one", 1.0), ("two", 0.5))
    }
    made = make_plan(load(tmp_path, tiny(recipes=recipes, run=["one", "two"])))
    assert len(made.of_kind("label")) == 1 and len(runs(made, "proda_distill")) == 2


def test_weight_zero_takes_the_labels_away(tmp_path: Path) -> None:
    whole = plan(tmp_path, last=DISTILL)
    without = plan(tmp_path, last=DISTILL | {"weights": {"pseudo": 0.0}})
    assert whole.of_kind("label") and not without.of_kind("label")


def test_specs_are_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path, round=ROUND)
    monkeypatch.chdir(tmp_path)
    write_specs(made)
    for kind, model in (("label", LabelSpec), ("quality", QualitySpec), ("train", TrainSpec)):
        for job in made.of_kind(kind):
            assert read_spec(model, job.spec_path) == job.spec  # type: ignore[type-var]


def test_what_is_not_planned_is_found_at_every_depth(tmp_path: Path) -> None:
    made = plan(tmp_path, last=DISTILL)
    kept = made.of_kind("quality")[0].folder
    run = made.of_kind("label")[0].spec.folder.rpartition("/")[0]
    stray = ["results/a-b/dann/seed=0-1/label-2", f"{run}/label-00", f"{run}/label-00/quality-00"]
    stray.append(f"{made.of_kind('label')[0].folder}/quality-00")
    for folder in [kept, *stray]:
        (tmp_path / folder).mkdir(parents=True)
    found = {str(path.relative_to(tmp_path)) for path in unplanned([made], tmp_path)}
    assert found == {"results/a-b/dann/seed=0-1", stray[1], stray[3]}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"labels": {}}, r"last\.labels: proda_distill needs target\.pseudo from an earlier stage; name it as"),
        ({"labels": {"of": "wram"}}, r"last\.labels\.of: 'wram' .*warm"),
        ({"labels": {"of": "last"}}, r"last\.labels\.of: 'last'"),
        ({"labels": {"of": "warm", "treshold": 0.5}}, r"last\.labels\.treshold"),
        ({"labels": {"of": "warm", "threshold": 1.5}}, r"last\.labels\.threshold"),
        ({"labels": {"of": "warm", "rule": "soft"}}, r"last\.labels\.rule: 'soft' gives no target\.pseudo.*threshold"),
        ({"init": {"student": "pretrain"}}, r"last\.init: nothing for \['teacher'\]"),
        ({"init": {"student": "pretrain", "teacher": "none"}}, r"last\.init\.teacher: 'none'"),
        ({"init": {"student": "pretrain", "teacher": "warm", "critic": "warm"}}, r"last\.init: 'critic'"),
        ({"rounds": {"count": 0}}, r"rounds\.count"),
        ({"train": {"target": {"crop": [30, 32]}}}, r"last\.train\.target\.crop: \[30, 32\] are not multiples of 4"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(tmp_path: Path, stage: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(tmp_path, last=DISTILL | stage)


def test_a_growing_source_share_may_not_be_nothing(tmp_path: Path) -> None:
    rounds = ROUND["rounds"] | {"source": {"start": 0.0, "step": 0.1, "most": 1.0}}
    with pytest.raises(UserError, match=r"round1\.train\.source\.portion"):
        plan(tmp_path, round=ROUND | {"rounds": rounds})
