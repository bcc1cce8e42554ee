"""Reading the files of a study: which are laid upon each other, and what is refused of them."""

from pathlib import Path
from typing import Any

import pytest
from support.project import load, tiny, write_study

from udaseg.errors import UserError
from udaseg.jobs.plan import make_plan
from udaseg.runs.files import read_yaml, write_yaml
from udaseg.runs.spec import TrainSpec
from udaseg.study.load import BELOW, load_params, load_study


def test_unknown_study(tmp_path: Path) -> None:
    write_study(tmp_path, {})
    with pytest.raises(UserError, match=r"study: 'tinny' has no file .*; did you mean 'tiny'\?"):
        load_params(tmp_path / "params.yaml", "tinny")
    with pytest.raises(UserError, match="has no file"):
        load_params(tmp_path / "params.yaml", "../studies/tiny")
    with pytest.raises(UserError, match=r"nowhere/params.yaml: cannot be read"):
        load_params(tmp_path / "nowhere" / "params.yaml")


def test_the_default_study_is_the_one_params_names(tmp_path: Path) -> None:
    write_study(tmp_path, {"seeds": [7]}, "demo")
    assert load_params(tmp_path / "params.yaml").seeds == [7]
    assert load_params(tmp_path / "params.yaml").study == "demo"


@pytest.mark.parametrize("name", ["reference", "certificates", "dvc"])
def test_a_study_does_not_write_its_report_into_a_folder_of_others(tmp_path: Path, name: str) -> None:
    write_study(tmp_path, tiny(), name)
    with pytest.raises(UserError, match=f"study: '{name}' is the name of a folder in reports/"):
        load_params(tmp_path / "params.yaml", name)


def lay(folder: Path, name: str, over: dict[str, Any]) -> None:
    """Replace a file of the parameters by its content with other entries."""
    write_yaml(folder / name, read_yaml(folder / name) | over)


def test_files_are_laid_upon_each_other_and_the_study_on_top(tmp_path: Path) -> None:
    write_study(tmp_path, {"methods": {"dann": {"knobs": {"hidden": 4}}}})
    knobs = {"gamma": 1.0, "hidden": 1, "dropout": 0.1}
    write_yaml(tmp_path / "workflow" / "methods.yaml", {"methods": {"dann": {"knobs": knobs}}})
    lay(tmp_path, "params.yaml", {"methods": {"dann": {"knobs": {"gamma": 2.0, "hidden": 2}}}})
    found = load_params(tmp_path / "params.yaml", "tiny").methods
    assert list(found) == ["dann"] and found["dann"].knobs == {"gamma": 2.0, "hidden": 4, "dropout": 0.1}


def test_what_no_file_says_of_a_method_is_its_own_default(tmp_path: Path) -> None:
    """So that a method needs no entry in any file."""

    def trained() -> dict[str, Any]:
        plan = make_plan(load_study(tmp_path / "params.yaml", "tiny"))
        specs = [job.spec for job in plan.of_kind("train") if isinstance(job.spec, TrainSpec)]
        return {spec.method: (spec.knobs, spec.weights) for spec in specs}

    write_study(tmp_path, tiny())
    before = trained()
    (tmp_path / "workflow" / "methods.yaml").unlink()
    assert load_params(tmp_path / "params.yaml", "tiny").methods == {} and trained() == before


def test_a_method_of_the_parameters_changes_every_stage_that_uses_it(tmp_path: Path) -> None:
    study = load(tmp_path, tiny(methods={"dacs": {"knobs": {"jitter": 0.5}, "weights": {"mix": 2.0}}}))
    stage = study.recipes["dacs"].stages["main"]
    assert (stage.knobs["jitter"], stage.weights["mix"]) == (0.5, 2.0)
    assert {("jitter", 0.5), ("mix", 2)} <= set(stage.overrides)
    assert study.recipes["dacs_pixel"].stages["main"].knobs["jitter"] == 0.25  # of another method


def test_a_study_that_changes_a_base_changes_what_is_built_on_it(tmp_path: Path) -> None:
    study = load(tmp_path, tiny(recipes={"daformer": {"stages": {"main": {"optim": {"lr": 0.5}}}}}))
    rates = {name: study.recipes[name].stages["main"].optim.lr for name in ("daformer", "mic", "pipa_released", "dacs")}
    assert rates == {"daformer": 0.5, "mic": 0.5, "pipa_released": 0.5, "dacs": 1e-3}


def test_a_study_can_take_a_stage_out(tmp_path: Path) -> None:
    study = load(tmp_path, tiny(recipes={"cpsl": {"stages": {"stage2": None, "stage3": None}}}))
    assert list(study.recipes["cpsl"].stages) == ["warmup", "stage1"]
    with pytest.raises(UserError, match=r"recipes\.dann\.stages: .*at least 1 item"):
        load(tmp_path, tiny(recipes={"dann": {"stages": {"main": None}}}))


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ({"mine": {"base": "dafromer"}}, r"recipes\.mine\.base: 'dafromer' is not known; did you mean 'daformer'\?"),
        ({"daformer": {"base": "mic"}}, r"recipes\.mic\.base: bases form a circle, daformer → mic → daformer"),
        ({"mine": {"base": "dann", "stages": {"main": {"knobs": {"hiden": 3}}}}}, r"mine\.stages\.main\.knobs\.hiden"),
        ({"mine": {"base": "dann", "titel": "x"}}, r"recipes\.mine\.titel: unknown key; did you mean 'title'\?"),
        (3, r"recipes: .*found 3"),
    ],
)
def test_a_wrong_base_stops_before_any_job(tmp_path: Path, recipes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, {"recipes": recipes})


def test_messages_name_the_files_that_were_read(tmp_path: Path) -> None:
    names = ["params.yaml", "studies/tiny.yaml", *BELOW]
    for over in ({"seeds": []}, {"run": ["oracle"], "train": {"source": {"crop": [1000, 1000]}}}):
        with pytest.raises(UserError) as caught:
            load(tmp_path, over)
        assert all(name in str(caught.value).splitlines()[0] for name in names)
    (tmp_path / "workflow" / "sweeps.yaml").unlink()
    with pytest.raises(UserError) as caught:
        load(tmp_path, {"seeds": []})
    assert "sweeps.yaml" not in str(caught.value)


def test_claims_have_a_file_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"claims: they belong in .*claims\.yaml; move them there"):
        load(tmp_path, {"claims": []})
