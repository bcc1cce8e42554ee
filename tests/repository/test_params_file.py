"""The files of parameters list every default there is, and equal it; every study loads and has a plan."""

from typing import Any

import pytest
from pydantic_core import PydanticUndefined
from support.project import ROOT

from udaseg.config.claims import Claim
from udaseg.config.recipes import MethodParams, Recipe, Stage, Sweep
from udaseg.config.schema import Params
from udaseg.data.datasets import DATASETS
from udaseg.data.datasets.camvid import CamvidData
from udaseg.jobs.plan import make_plan
from udaseg.methods import METHODS
from udaseg.runs.files import read_yaml
from udaseg.study.load import BELOW, load_params, load_study
from udaseg.study.resolve import resolve_study
from udaseg.validation import Model

PARAMS = ROOT / "params.yaml"
RAW: dict[str, Any] = read_yaml(PARAMS)
LISTED: dict[str, Any] = read_yaml(ROOT / "workflow" / "methods.yaml")["methods"]
STUDIES = sorted(path.stem for path in (ROOT / "workflow" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("name", METHODS)
def test_every_knob_and_weight_is_listed_at_its_default(name: str) -> None:
    spec = METHODS[name].SPEC
    assert spec.name == name
    assert LISTED[name]["knobs"] == spec.Config().model_dump(mode="json")
    assert LISTED[name]["weights"] == dict(spec.weights)


def test_exactly_the_methods_are_listed() -> None:
    assert list(LISTED) == list(METHODS)


def test_the_parameters_can_be_read_in_one_sitting() -> None:
    assert len(PARAMS.read_text().splitlines()) <= 200


def test_every_key_of_the_model_is_in_one_file() -> None:
    """No number of an experiment has a default elsewhere: the models' only ones are those of entries in a mapping."""
    below = [key for name in BELOW for key in read_yaml(ROOT / "workflow" / name)]
    assert below == [name.removesuffix(".yaml") for name in BELOW]
    assert sorted([*RAW, *below, "claims"]) == sorted(Params.model_fields)  # claims have a file of their own
    assert list(RAW) == [key for key in Params.model_fields if key in RAW]
    allowed = {Params, Claim, MethodParams, Stage, Recipe, Sweep, *DATASETS.values()}
    assert {model for model in config_models() if defaults(model)} <= allowed
    for key in ("task", "network", "pretrain", "optim", "train", "labels", "evaluate", "report"):
        annotation = Params.model_fields[key].annotation
        assert isinstance(annotation, type) and issubclass(annotation, Model)
        assert sorted(RAW[key]) == sorted(annotation.model_fields)


def test_every_field_is_described() -> None:
    """Data sets' fields are described where they are defined."""
    fields = [(model, name, field) for model in config_models() for name, field in model.model_fields.items()]
    missing = [f"{model.__name__}.{name}" for model, name, field in fields if not field.description]
    assert [name for name in missing if not name.split(".")[0].endswith("Data")] == []
    assert Params.model_json_schema()["$defs"]["Train"]["properties"]["iterations"]["description"] == "Optimizer steps."


def test_the_defaults_of_a_camvid_entry_are_listed() -> None:
    assert RAW["datasets"]["camvid"] == CamvidData(kind="camvid").model_dump(mode="json")


def config_models() -> list[type[Model]]:
    return [model for model in models(Model) if model.__module__.startswith("udaseg.config.")]


def models(root: type[Model]) -> list[type[Model]]:
    return [found for child in root.__subclasses__() for found in [child, *models(child)]]


def defaults(model: type[Model]) -> dict[str, Any]:
    return {name: field.default for name, field in model.model_fields.items() if field.default is not PydanticUndefined}


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_a_plan(study: str) -> None:
    found = load_study(PARAMS, study)
    made, params = make_plan(found), found.params
    assert made.study == study
    finals = len(params.run) * len(params.seeds)
    assert len(made.of_kind("evaluate")) >= (finals if params.evaluate.report else 0)


def test_reported_and_development_worlds_and_seeds_are_apart() -> None:
    reported, development = (load_params(PARAMS, study) for study in ("toytown", "toytown_dev"))
    assert not set(reported.seeds) & set(development.seeds)
    worlds = [
        {params.datasets[use.dataset]["world"] for use in (params.task.source, params.task.target)}
        for params in (reported, development)
    ]
    assert not worlds[0] & worlds[1]
    same = {"study", "seeds", "datasets"}
    assert reported.model_dump(exclude=same) == development.model_dump(exclude=same)


def test_the_default_study_is_there() -> None:
    assert RAW["study"] in STUDIES


def test_the_full_study_has_every_recipe_and_shares_the_runs_of_the_reported_one() -> None:
    full, reported = (load_study(PARAMS, study) for study in ("toytown_full", "toytown"))
    assert set(full.params.run) == set(full.recipes)
    kept = {folder for folder, job in make_plan(reported).jobs.items() if job.kind != "report"}
    assert kept < set(make_plan(full).jobs)


def test_no_point_of_a_sweep_is_skipped() -> None:
    """At the sizes of the default parameters, and at those of the study of sweeps."""
    params = load_params(PARAMS, "toytown")
    study = resolve_study(params.model_copy(update={"sweep": list(params.sweeps)}))
    assert study.skipped == [] and {row.sweep for row in study.rows} == {None, *params.sweeps}
    assert load_study(PARAMS, "toytown_sweeps").skipped == []
