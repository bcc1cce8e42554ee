"""params.yaml lists every default there is, and equals it; every study loads and has a plan."""

from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined
from support.project import ROOT

from udaseg.config.schema import Claim, Params, Recipe, Stage, Sweep
from udaseg.data.datasets.camvid import CamvidData
from udaseg.jobs.plan import make_plan
from udaseg.methods import METHODS
from udaseg.runs.spec import ReportSpec
from udaseg.study.resolve import load_params
from udaseg.study.sweeps import sweep_rows
from udaseg.validation import Model

RAW: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
STUDIES = sorted(path.stem for path in (ROOT / "workflow" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("name", METHODS)
def test_every_knob_and_weight_stands_in_params_at_its_default(name: str) -> None:
    spec = METHODS[name].SPEC
    assert spec.name == name
    assert RAW["methods"][name]["knobs"] == spec.Config().model_dump(mode="json")
    assert RAW["methods"][name]["weights"] == dict(spec.weights)


def test_params_has_exactly_the_methods() -> None:
    assert list(RAW["methods"]) == list(METHODS)


def test_every_key_of_the_model_stands_in_params() -> None:
    """No number of an experiment has a default elsewhere: the models' only ones are those of entries in a mapping."""
    assert [*RAW, "claims"] == list(Params.model_fields)  # of which a file of their own has the values
    allowed = {Params, Claim, Stage, Recipe, Sweep}
    assert {model for model in models(Model) if defaults(model)} <= allowed | spec_models()
    for key in ("task", "network", "pretrain", "optim", "train", "evaluate", "report"):
        annotation = Params.model_fields[key].annotation
        assert isinstance(annotation, type) and list(RAW[key]) == list(annotation.model_fields)  # type: ignore[attr-defined]


def test_the_defaults_of_a_camvid_entry_stand_in_params() -> None:
    assert RAW["datasets"]["camvid"] == CamvidData(kind="camvid").model_dump(mode="json")


def models(root: type[Model]) -> list[type[Model]]:
    return [found for child in root.__subclasses__() for found in [child, *models(child)]]


def spec_models() -> set[type[Model]]:
    return {model for model in models(Model) if model.__module__ != "udaseg.config.schema"}


def defaults(model: type[Model]) -> dict[str, Any]:
    return {name: field.default for name, field in model.model_fields.items() if field.default is not PydanticUndefined}


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_a_plan(study: str) -> None:
    params = load_params(ROOT / "params.yaml", study)
    made = make_plan(params)
    assert made.study == study
    finals = len(params.run) * len(params.seeds)
    assert len(made.of_kind("evaluate")) >= (finals if params.evaluate.report else 0)


def test_reported_and_development_worlds_and_seeds_are_apart() -> None:
    reported, development = (load_params(ROOT / "params.yaml", study) for study in ("toytown", "toytown_dev"))
    assert not set(reported.seeds) & set(development.seeds)
    worlds = [{params.datasets[use.dataset]["world"] for use in (params.task.source, params.task.target)}
              for params in (reported, development)]  # fmt: skip
    assert not worlds[0] & worlds[1]
    same = {"study", "seeds", "datasets"}
    assert reported.model_dump(exclude=same) == development.model_dump(exclude=same)


def test_the_default_study_is_there() -> None:
    assert RAW["study"] in STUDIES


def test_the_full_study_has_every_recipe_and_shares_the_runs_of_the_reported_one() -> None:
    full, reported = (load_params(ROOT / "params.yaml", study) for study in ("toytown_full", "toytown"))
    assert set(full.run) == set(full.recipes)
    kept = {folder for folder, job in make_plan(reported).jobs.items() if job.kind != "report"}
    assert kept < set(make_plan(full).jobs)


def test_no_point_of_a_sweep_is_skipped() -> None:
    """At the sizes of the default parameters, and at those of the study of sweeps."""
    params = load_params(ROOT / "params.yaml", "toytown")
    for name in params.sweeps:
        rows, skipped = sweep_rows(params, name)
        assert rows and not skipped, (name, skipped)
    report = make_plan(load_params(ROOT / "params.yaml", "toytown_sweeps")).report.spec
    assert isinstance(report, ReportSpec) and report.skipped == []
