"""Recipes with a translator: a stage that predicts images, what is shown of it, and titles of those without one."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.project import load, tiny

from udaseg.errors import UserError
from udaseg.jobs.job import Job, Plan, unplanned, write_specs
from udaseg.jobs.plan import make_plan
from udaseg.methods import METHODS
from udaseg.methods.base import Knobs, MethodSpec
from udaseg.runs.spec import EvaluateSpec, ReportSpec, TrainSpec, TranslateSpec, read_spec

PLACE = "results/toytown_source-toytown_target"
TRANSLATOR: dict[str, Any] = {"method": "cyclegan", "init": {}}
WARM: dict[str, Any] = {"method": "diga_warmup", "init": {"student": "pretrain", "translator": "translator"}}
MAIN: dict[str, Any] = {
    "method": "diga",
    "init": {"student": "warm", "translator": "translator"},
    "labels": {"of": "warm", "rule": "argmax"},
}
TRAINED = {"translator": TRANSLATOR, "warm": WARM, "main": MAIN}


def by_rule(translator: str = "lab", **knobs: Any) -> dict[str, Any]:
    """The two stages with a translator that is not trained."""
    changes = {"knobs": {"translator": translator} | knobs}
    return {
        "warm": WARM | changes | {"init": {"student": "pretrain"}},
        "main": MAIN | changes | {"init": {"student": "warm"}},
    }


def plan(folder: Path, recipes: dict[str, dict[str, Any]], **changes: Any) -> Plan:
    """The plan of recipes, name -> stages; their titles are their names."""
    titled = {name: {"title": name, "stages": stages} for name, stages in recipes.items()}
    return make_plan(load(folder, tiny(**{"recipes": titled, "run": list(recipes)} | changes)))


def by_label(made: Plan) -> dict[str, Job]:
    return {job.label: job for job in made.jobs.values()}


def report(made: Plan) -> ReportSpec:
    assert isinstance(made.report.spec, ReportSpec)
    return made.report.spec


def shown(made: Plan) -> list[TranslateSpec]:
    return [job.spec for job in made.of_kind("translate") if isinstance(job.spec, TranslateSpec)]


def titles(made: Plan) -> dict[str, str]:
    return {run.recipe: run.title for run in report(made).runs}


class TestRoles:
    def spec(self, **changes: Any) -> MethodSpec:
        return MethodSpec(name="mine", views={"seg": {"source"}}, **changes)

    def test_are_the_students_alone_unless_said_otherwise(self) -> None:
        assert self.spec().initial_roles(Knobs()) == ("student",)
        assert self.spec(roles=("student", "teacher")).initial_roles(Knobs()) == ("student", "teacher")

    def test_may_follow_the_knobs(self) -> None:
        class Config(Knobs):
            second: bool = False

        spec = self.spec(Config=Config, roles=lambda knobs: ("student", "teacher") if knobs.second else ("student",))
        assert spec.initial_roles(Config()) == ("student",)
        assert spec.initial_roles(Config(second=True)) == ("student", "teacher")

    @pytest.mark.parametrize("name", METHODS)
    def test_of_every_method_are_names_without_a_double(self, name: str) -> None:
        spec = METHODS[name].SPEC
        roles = spec.initial_roles(spec.Config())
        assert isinstance(roles, tuple) and len(set(roles)) == len(roles) and all(role.isidentifier() for role in roles)


class TestATrainedOne:
    def test_is_neither_looked_at_while_training_nor_scored(self, tmp_path: Path) -> None:
        made = plan(tmp_path, {"mine": TRAINED})
        job = by_label(made)["mine.translator seed=0"]
        assert isinstance(job.spec, TrainSpec) and job.spec.monitor is None
        scored = [one.spec.run for one in made.of_kind("evaluate") if isinstance(one.spec, EvaluateSpec)]
        assert len(scored) == 2 and job.folder not in scored
        (entry,) = [run for run in report(made).runs if run.run == job.folder]
        assert (entry.stage, entry.final, entry.evaluation, entry.quality) == ("translator", False, None, None)
        assert job in made.report.parents
        others = [run for run in report(made).runs if run.run != job.folder]
        assert [run.stage for run in others if run.evaluation] == ["warm", "main"]
        assert all(
            one.spec.monitor == "val"
            for one in made.of_kind("train")
            if isinstance(one.spec, TrainSpec) and one.spec.method.startswith("diga")
        )

    def test_starts_from_nothing(self, tmp_path: Path) -> None:
        jobs = by_label(plan(tmp_path, {"mine": TRAINED}))
        job = jobs["mine.translator seed=0"]
        assert isinstance(job.spec, TrainSpec) and job.spec.init == {}
        assert job.parents == (jobs["data set toytown_source"], jobs["data set toytown_target"])

    def test_is_a_parent_of_the_stages_that_name_it(self, tmp_path: Path) -> None:
        jobs = by_label(plan(tmp_path, {"mine": TRAINED}, seeds=[0, 1]))
        for seed in (0, 1):
            for stage in ("warm", "main"):
                job = jobs[f"mine.{stage} seed={seed}"]
                translator = jobs[f"mine.translator seed={seed}"]
                assert isinstance(job.spec, TrainSpec)
                assert job.spec.init["translator"] == translator.folder and translator in job.parents

    def test_is_shown_once_by_the_first_seed(self, tmp_path: Path) -> None:
        made = plan(tmp_path, {"mine": TRAINED}, seeds=[3, 1])
        jobs = by_label(made)
        (job,) = made.of_kind("translate")
        assert isinstance(job.spec, TranslateSpec)
        source, target = jobs["data set toytown_source"], jobs["data set toytown_target"]
        translator = jobs["mine.translator seed=3"]
        assert job.parents == (source, target, translator)
        assert (job.spec.translator, job.spec.run) == ("cyclegan", translator.folder)
        assert (job.spec.source, job.spec.target, job.spec.seed) == (source.folder, target.folder, 3)
        assert re.fullmatch(rf"{PLACE}/translation-[0-9a-f]{{10}}", job.folder)
        assert job.label == "translations by cyclegan" and job.marker == f"{job.folder}/run.json"
        assert [(one.translator, one.folder) for one in report(made).translations] == [("cyclegan", job.folder)]
        assert job in made.report.parents
        assert not any(job in one.parents for one in made.jobs.values() if one.kind != "report")

    def test_is_not_shown_where_nothing_learns_from_it(self, tmp_path: Path) -> None:
        alone = plan(tmp_path, {"mine": {"translator": TRANSLATOR}})
        assert shown(alone) == [] and report(alone).translations == []
        assert [run.evaluation for run in report(alone).runs] == [None] and alone.of_kind("evaluate") == []

    def test_another_one_makes_another_training_and_other_pictures(self, tmp_path: Path) -> None:
        first = plan(tmp_path, {"mine": TRAINED})
        narrow = TRANSLATOR | {"knobs": {"width": 8}}
        second = plan(tmp_path, {"mine": TRAINED | {"translator": narrow}})
        kinds = sorted(job.kind for job in second.jobs.values() if job.folder not in first.jobs)
        assert kinds == ["evaluate", "evaluate", "label", "quality", "train", "train", "train", "translate"]


class TestOneByARule:
    def test_needs_no_run(self, tmp_path: Path) -> None:
        made = plan(tmp_path, {"mine": by_rule()})
        jobs = by_label(made)
        (job,) = made.of_kind("translate")
        assert isinstance(job.spec, TranslateSpec)
        assert job.parents == (jobs["data set toytown_source"], jobs["data set toytown_target"])
        assert (job.spec.translator, job.spec.run) == ("lab", None) and job.label == "translations by lab"
        assert job.spec.knobs == {"translator": "lab"}
        trained = jobs["mine.warm seed=0"].spec
        assert isinstance(trained, TrainSpec) and set(trained.init) == {"student"}

    def test_is_shown_once_for_all_recipes_that_have_it(self, tmp_path: Path) -> None:
        second = by_rule() | {"main": by_rule()["main"] | {"weights": {"distil": 0.5}}}
        recipes = {
            "one": by_rule(),
            "two": second,
            "three": by_rule("fourier"),
            "four": by_rule("fourier", fourier_share=0.05),
        }
        made = plan(tmp_path, recipes, seeds=[0, 1])
        kinds = [(spec.translator, spec.knobs.get("fourier_share")) for spec in shown(made)]
        assert kinds == [("lab", None), ("fourier", 0.01), ("fourier", 0.05)]
        assert [one.folder for one in report(made).translations] == [spec.folder for spec in shown(made)]
        assert len({spec.folder for spec in shown(made)}) == 3

    def test_is_not_shown_where_it_is_not_used(self, tmp_path: Path) -> None:
        made = plan(tmp_path, {"mine": by_rule(crdomix=False)})
        assert shown(made) == [] and report(made).translations == []


class TestTitles:
    @pytest.mark.parametrize(
        ("stages", "title"),
        [
            (TRAINED, "DiGA"),
            (by_rule("lab"), "DiGA [LAB translation]"),
            (by_rule("fourier"), "DiGA [Fourier translation]"),
            (by_rule("identity"), "DiGA [no translation]"),
            (by_rule("identity", crdomix=False), "DiGA [no CrDoMix]"),
            (
                by_rule("lab") | {"main": by_rule("identity")["main"]},
                "DiGA [LAB translation, no translation]",
            ),
        ],
    )
    def test_say_what_takes_the_published_translators_place(
        self, tmp_path: Path, stages: dict[str, Any], title: str
    ) -> None:
        made = plan(tmp_path, {"DiGA": stages})
        assert {run.title for run in report(made).runs} == {title}

    def test_of_other_recipes_are_as_they_are_given(self, tmp_path: Path) -> None:
        made = plan(tmp_path, {"mine": by_rule(), "plain": {"main": {"method": "dann"}}})
        assert titles(made) == {"mine": "mine [LAB translation]", "plain": "plain"}


def test_specs_are_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path, {"one": TRAINED, "two": by_rule("fourier")})
    monkeypatch.chdir(tmp_path)
    write_specs(made)
    for job in made.of_kind("translate"):
        assert read_spec(TranslateSpec, job.spec_path) == job.spec
    assert len(made.of_kind("translate")) == 2
    assert read_spec(ReportSpec, made.report.spec_path) == made.report.spec


def test_translations_that_are_not_planned_are_found(tmp_path: Path) -> None:
    made = plan(tmp_path, {"mine": by_rule()})
    (kept,) = made.of_kind("translate")
    stray = [f"{PLACE}/translation-0123456789", "results/a-b/translation-0123456789"]
    for folder in [kept.folder, *stray]:
        (tmp_path / folder).mkdir(parents=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in unplanned([made], tmp_path)) == sorted(stray)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            TRAINED | {"main": MAIN | {"init": {"student": "warm", "translator": "warm"}}},
            r"main\.init\.translator: the network of 'warm' \(diga_warmup\) predicts labels; .* predicts images",
        ),
        (
            TRAINED | {"main": MAIN | {"init": {"student": "translator", "translator": "translator"}}},
            r"main\.init\.student: the network of 'translator' \(cyclegan\) predicts images; .* predicts labels",
        ),
        (
            {"translator": TRANSLATOR, "main": {"method": "dann", "init": {"student": "translator"}}},
            r"main\.init\.student: the network of 'translator' \(cyclegan\) predicts images",
        ),
        (
            TRAINED | {"main": MAIN | {"labels": {"of": "translator", "rule": "argmax"}}},
            r"main\.labels\.of: 'translator' is not known; known: warm$",
        ),
        (
            TRAINED | {"main": MAIN | {"labels": {"of": "warm", "rule": "threshold"}}},
            r"main\.labels\.rule: 'threshold' gives no prototypes, counts, which diga needs .*: argmax$",
        ),
        (
            TRAINED | {"main": MAIN | {"labels": {"of": "warm", "rule": "soft"}}},
            r"main\.labels\.rule: 'soft' gives no target\.pseudo, which diga needs .*: argmax$",
        ),
        ({"warm": WARM}, r"warm\.init\.translator: 'translator' is not known"),
        ({"warm": WARM | {"init": {"student": "pretrain"}}}, r"warm\.init: nothing for \['translator'\]"),
        (
            {"translator": TRANSLATOR, "warm": WARM | {"knobs": {"translator": "lab"}}},
            r"warm\.init\.translator: with these knobs diga_warmup takes no trained translator; leave it out",
        ),
        ({"translator": TRANSLATOR | {"init": {"student": "pretrain"}}}, r"translator\.init: 'student' is not known"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(tmp_path: Path, stages: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(tmp_path, {"mine": stages})
