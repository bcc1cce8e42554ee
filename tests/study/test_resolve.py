"""Resolving a study: every stage once, and nothing is left for the plan to look up."""

from pathlib import Path
from typing import Any

import pytest
from support.project import ROOT, load, tiny

from udaseg.errors import UserError
from udaseg.jobs.plan import make_plan
from udaseg.study import recipes as recipes_module
from udaseg.study import resolve as resolve_module
from udaseg.study.stages import resolve_stage


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the stages that are resolved from now on."""
    paths: list[str] = []

    def counted(params: Any, stage: Any, path: str, *rest: Any) -> Any:
        paths.append(path)
        return resolve_stage(params, stage, path, *rest)

    for module in (recipes_module, resolve_module):
        monkeypatch.setattr(module, "resolve_stage", counted)
    return paths


def test_every_stage_is_resolved_once_whether_it_is_run_or_not(tmp_path: Path, resolved: list[str]) -> None:
    study = load(tmp_path, tiny(run=["source_only", "cbst"], seeds=[0, 1]))
    make_plan(study)
    stages = [f"recipes.{name}.stages.{stage}" for name, row in study.recipes.items() for stage in row.stages]
    assert sorted(resolved) == sorted([*stages, "pretrain"])
    assert "recipes.cbst.stages.round3" in resolved and "recipes.diga.stages.translator" in resolved
    assert [row is study.recipes[row.name] for row in study.rows] == [True, True]


def test_a_point_resolves_only_the_stages_that_it_changes(tmp_path: Path, resolved: list[str]) -> None:
    points = {"plain": {}, "early": {"until": "warmup"}, "other": {"main.optim.lr": 0.5}}
    sweep = {"title": "Mine", "recipe": "dacs", "points": points}
    study = load(tmp_path, tiny(run=["source_only"], sweep=["mine"], sweeps={"mine": sweep}))
    make_plan(study)
    assert resolved.count("main") == 1 and resolved.count("warmup") == 0
    rows = {row.name: row for row in study.rows}
    own = study.recipes["dacs"].stages
    assert all(rows["mine/plain"].stages[name] is own[name] for name in ("warmup", "main"))
    assert list(rows["mine/early"].stages) == ["warmup"]
    assert rows["mine/other"].stages["warmup"] is own["warmup"]
    assert rows["mine/other"].stages["main"].optim.lr == 0.5 and study.sweeps[0].reference == "mine/plain"


@pytest.mark.parametrize("name", ["plan", "build"])
def test_the_plan_looks_no_method_up(name: str) -> None:
    assert "udaseg.methods" not in (ROOT / "src" / "udaseg" / "jobs" / f"{name}.py").read_text()


def test_what_differs_from_a_methods_defaults_is_told(tmp_path: Path) -> None:
    over = {"stages": {"main": {"knobs": {"gamma": 5}, "weights": {"domain": 0.25}}}}
    (stage,) = load(tmp_path, {"recipes": {"dann": over}}).recipes["dann"].stages.values()
    assert stage.overrides == [
        *(("hidden", 128), ("gamma", 5.0), ("reversal", 0.1), ("classifier_lr", 0.001), ("domain", 0.25)),
    ]
    (stage,) = load(tmp_path, {}).recipes["adabn"].stages.values()
    assert stage.overrides == []


def test_initial_weights_are_of_exactly_the_methods_roles(tmp_path: Path) -> None:
    recipes = load(tmp_path, {}).recipes
    assert recipes["dann"].stages["main"].init == {"student": "pretrain"}
    assert list(recipes["daformer"].stages["main"].init) == ["student", "initial"]
    assert recipes["diga"].stages["translator"].init == {}
    assert recipes["diga_lab"].stages["warmup"].init == {"student": "pretrain"}


def test_an_unused_recipe_is_checked_as_well(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recipes\.mic\.stages\.main\.weights\.seg: 0 would turn off"):
        load(tmp_path, tiny(recipes={"mic": {"stages": {"main": {"weights": {"seg": 0.0}}}}}))


def test_every_wrong_data_set_is_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, {"datasets": {"camvid": {"versoin": 1}, "objects": {"wrld": 1}}})
    assert "datasets.camvid.versoin" in str(caught.value) and "datasets.objects.wrld" in str(caught.value)
