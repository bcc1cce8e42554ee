"""The table 'paper against released code': its fields are those that exist, its pairs differ in one of them alone."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from support.project import ROOT

from udaseg.config import evaluation, recipes, schema, training
from udaseg.jobs.fidelity import fidelity_fields
from udaseg.jobs.plan import make_plan
from udaseg.methods import METHODS
from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.read.report import Report
from udaseg.reports.read.run_folders import read_report, read_runs
from udaseg.reports.tables import fidelity
from udaseg.reports.tables.fidelity import fidelity_table
from udaseg.reports.tables.table import DASH, Table
from udaseg.runs.spec import ReportSpec
from udaseg.study.load import load_params, load_study
from udaseg.validation import Model

# What the sweep study leaves out, and why.
UNMEASURED = {
    ("labelled_target", "order"),  # of labelled target images, which no row of an unsupervised study has
    ("rounds", "growth"),  # makes no difference in three rounds
    ("cbst", "kld_weight"),  # of CRST, which is not in the study
    ("proda_distill", "strong_warp"),  # as in proda
    *(("cpsl", name) for name in ("queue_scores", "logit_term", "cutmix", "teacher_mode")),
    *(
        ("dacs_cpsl", name) for name in ("sampler", "prior", "queue_scores", "logit_term")
    ),  # not in the study, as the next
    *(("dacs_pipa", name) for name in ("pixel", "patch")),
    ("diga", "symmetry"),  # as in diga_warmup
    *(("memory_bank", name) for name in ("selectors", "bank_keep", "entropy")),  # a port of another task's method
}


FIELDS = fidelity_fields()


def is_fidelity(annotation: Any) -> bool:
    return {"paper", "released"} <= set(get_args(annotation))


def snake(name: str) -> str:
    return re.sub(r"(?<=.)(?=[A-Z])", "_", name).lower()


def test_the_list_has_exactly_the_fields_that_exist_at_their_defaults() -> None:
    existing = {
        (method, name): field.default
        for method, found in METHODS.items()
        for name, field in found.SPEC.Config.model_fields.items()
        if is_fidelity(field.annotation)
    }
    entries = [entry for module in (evaluation, recipes, schema, training) for entry in vars(module).values()]
    models = {entry for entry in entries if isinstance(entry, type) and issubclass(entry, Model)}
    existing |= {
        (snake(model.__name__), name): "paper"  # in params.yaml, see below
        for model in models
        for name, field in model.model_fields.items()
        if is_fidelity(field.annotation)
    }
    assert {(field.owner, field.name): field.default for field in FIELDS} == existing


def test_each_value_is_explained() -> None:
    for field in FIELDS:
        assert field.paper and field.released and field.paper != field.released, field


def test_the_plan_tells_the_report() -> None:
    spec = make_plan(load_study(ROOT / "params.yaml", "toytown")).report.spec
    assert isinstance(spec, ReportSpec) and spec.fidelity == FIELDS


def test_the_parameters_have_these_defaults() -> None:
    params = load_params(ROOT / "params.yaml", "toytown")
    assert params.network.aspp == "paper"
    stages = [stage for recipe in params.recipes.values() for stage in recipe.stages.values()]
    assert {stage.rounds.growth for stage in stages if stage.rounds} == {"paper"}
    semi = [stage.train["source"]["labelled_target"] for stage in stages if "labelled_target" in str(stage.train)]
    assert semi and {given["order"] for given in semi} == {"paper"}


def test_the_sweep_study_has_rows_for_the_fields_that_matter() -> None:
    """Before anything is trained: which rows differ in one field alone is in the plan."""
    plan = make_plan(load_study(ROOT / "params.yaml", "toytown_sweeps"))
    [spec] = [job.spec for job in plan.jobs.values() if isinstance(job.spec, ReportSpec)]
    report = Report(
        **dict.fromkeys(Report.__dataclass_fields__)
        | {"runs": read_runs(spec.runs), "sweeps": spec.sweeps, "pretraining": [], "class_sets": spec.class_sets}
        | {"baseline": spec.baseline, "oracle": spec.oracle}
    )
    pairs_of = fidelity._pairs(report, FIELDS)
    found = {key: [(pair.paper.name, pair.released.name) for pair in pairs] for key, pairs in pairs_of.items()}
    assert set(found) == {(field.owner, field.name) for field in FIELDS} - UNMEASURED
    assert {len(pairs) for pairs in found.values()} == {1}
    [lsr] = found["plca", "lsr"]
    assert lsr == ("paper_or_released/plca: lsr", "plca_without/full")
    [sampler] = found["cpsl", "sampler"]
    assert sampler == ("cpsl_without/full", "cpsl_without/no class-balanced sampling")
    [aspp] = found["network", "aspp"]
    assert aspp == ("source_only", "paper_or_released/network: aspp")
    for pair in (pair for pairs in pairs_of.values() for pair in pairs):
        assert list(pair.paper.stages) == list(pair.released.stages)


def with_points(report: Report, points: dict[int, dict[str, Any]]) -> Report:
    """The report with other points at the sizes of its sweep of patches, and all fields."""
    names = {f"patch_size/patch_size={size}x{size}": point for size, point in points.items()}
    runs = [replace(run, point=names[run.recipe]) if run.recipe in names else run for run in report.runs]
    return replace(report, runs=runs, fidelity=FIELDS)


PIXEL, PATCH = "main.knobs.pixel", "main.knobs.patch"
POINTS: dict[int, dict[str, Any]] = {
    24: {PIXEL: "released"},
    32: {},
    48: {PATCH: "released", PIXEL: "released"},
    64: {PATCH: "released", "main.weights.patch": 0.2},
}


def lines(table: Table | None) -> dict[tuple[str, str], list[list[str]]]:
    assert table is not None
    found: dict[tuple[str, str], list[list[str]]] = {}
    for row in table.rows:
        found.setdefault((row[0], row[1]), []).append(row)
    return found


def mean(report: Report, size: int) -> float:
    runs = report.rows[f"patch_size/patch_size={size}x{size}"].final.runs
    return float(np.mean([100 * run.metrics["scores"]["last"]["sets"]["mIoU11"] for run in runs]))


def test_effects_are_of_rows_that_differ_in_one_field_alone(swept: Path) -> None:
    report = with_points(read_report(swept), POINTS)
    table = fidelity_table(Comparisons(report))
    found = lines(table)
    assert set(found) == {(field.owner, field.name) for field in FIELDS}
    measured = {key: rows for key, rows in found.items() if rows[0][5] != DASH}
    assert {key: len(rows) for key, rows in measured.items()} == {("pipa", "pixel"): 1, ("pipa", "patch"): 1}
    assert found["pipa", "pixel"][0][6] == "pipa, main"
    assert found["plca", "lsr"] == [
        ["plca", "lsr", "released", "label smoothing", "pulls the mean negative log-probability towards 10", DASH, DASH]
    ]

    assert table is not None
    numbers = table.numbers.set_index(["of", "field"])
    pixel, patch = numbers.loc[("pipa", "pixel")], numbers.loc[("pipa", "patch")]
    assert pixel["effect_mean"] == pytest.approx(mean(report, 24) - mean(report, 32))
    assert patch["effect_mean"] == pytest.approx(mean(report, 48) - mean(report, 24))  # 64 has another weight, too
    assert pixel["effect_low"] < pixel["effect_mean"] < pixel["effect_high"]
    assert sorted([pixel["effect_p_holm"], patch["effect_p_holm"]])[0] == pytest.approx(
        2 * min(pixel["effect_p"], patch["effect_p"])
    )
    assert any("this study has no such rows" in note for note in table.notes)


def test_a_record_that_does_not_name_the_fields_has_the_same_effects(swept: Path) -> None:
    paper = {PIXEL: "paper", PATCH: "paper"}
    points = {24: paper | {PIXEL: "released"}, 32: paper, 48: {PIXEL: "released", PATCH: "released"}}
    report = with_points(read_report(swept), points)
    named, unnamed = (fidelity_table(Comparisons(each)) for each in (report, replace(report, fidelity=[])))
    assert named is not None and unnamed is not None
    columns = ["of", "field", "effect_mean", "effect_low", "effect_high", "effect_p_holm"]
    measured = named.numbers.dropna(subset="effect_mean")[columns]
    pd.testing.assert_frame_equal(
        *(frame.sort_values("field", ignore_index=True) for frame in (measured, unnamed.numbers[columns]))
    )
    assert {tuple(row[2:5]) for row in unnamed.rows} == {(DASH, DASH, DASH)}
    assert any("not say what the values do" in note for note in unnamed.notes)
    assert not any("not say what the values do" in note for note in named.notes)


def test_several_pairs_of_one_field_have_a_line_each(swept: Path) -> None:
    both = POINTS | {64: {PATCH: "released"}}  # 64 − 32 and 48 − 24; 48 − 64 and 24 − 32
    found = lines(fidelity_table(Comparisons(with_points(read_report(swept), both))))
    assert len(found["pipa", "patch"]) == len(found["pipa", "pixel"]) == 2


def test_the_value_of_a_recipe_is_read_from_its_runs(swept: Path) -> None:
    """A recipe that has the field as released is the released row of a point that has it as in the paper."""
    report = with_points(read_report(swept), {24: {PATCH: "paper"}, 32: {}})
    assert fidelity_table(Comparisons(report)) is None  # 32 has the default, the same
    runs = [
        replace(run, spec=run.spec | {"knobs": {"patch": "released"}}) if "32x32" in run.recipe else run
        for run in report.runs
    ]
    report = replace(report, runs=runs)
    table = fidelity_table(Comparisons(report))
    assert table is not None
    [effect] = table.numbers["effect_mean"].dropna()
    assert effect == pytest.approx(mean(report, 32) - mean(report, 24))


@pytest.mark.parametrize(
    "points", [{}, {24: {PIXEL: "random"}, 32: {}}, {24: {"main.knobs.gamma": "released"}, 32: {}}]
)
def test_a_study_without_such_rows_has_no_table(swept: Path, points: dict[int, dict[str, Any]]) -> None:
    assert fidelity_table(Comparisons(with_points(read_report(swept), points))) is None


def test_rows_of_other_stages_or_recipes_are_not_compared(swept: Path) -> None:
    report = with_points(read_report(swept), {24: {PIXEL: "released"}, 32: {}})
    assert fidelity_table(Comparisons(report)) is not None
    apart = [replace(run, base="other") if "24x24" in run.recipe else run for run in report.runs]
    longer = [replace(run, stage="late") if "24x24" in run.recipe else run for run in report.runs]
    assert fidelity_table(Comparisons(replace(report, runs=apart))) is None
    assert fidelity_table(Comparisons(replace(report, runs=longer))) is None


def test_a_missing_run_is_named(swept: Path) -> None:
    run = next(run for run in read_report(swept).runs if "24x24" in run.recipe and run.seed == 2)
    shutil.rmtree(run.folder)
    table = fidelity_table(Comparisons(with_points(read_report(swept), POINTS)))
    assert lines(table)["pipa", "pixel"][0][5].endswith("[–] (n = 2 of 3)")
    assert table is not None and any(str(run.folder) in note for note in table.notes)
