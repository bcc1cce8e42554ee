"""The papers' figures beside ours: what is in the file, and what stands beside what."""

import csv
import io
import math
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from support.fabricate import fabricate
from support.project import ROOT

from udaseg.config.schema import Params
from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.compare.statistics import holm
from udaseg.reports.read import published
from udaseg.reports.read.published import SCORE, read_entries, read_figures
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables import writers
from udaseg.reports.tables.published import PREFIX, published_tables
from udaseg.reports.tables.table import DASH, Table
from udaseg.runs.files import read_json
from udaseg.study.load import load_params
from udaseg.study.resolve import resolve_study

GIVEN = Path(os.environ.get("UDASEG_PUBLISHED") or ROOT.parent / "shared" / "published" / "published.csv")
GTA = ("GTA5", "Cityscapes")
COMPONENTS = "proda_components"
POINTS = {  # of a study's sweep -> recipe and stage that are invented for it
    "init: source only": ("source_only", "main"),
    "init: warm up": ("proda", "warmup"),
    "stage1: self-training only": ("proda_released", "stage2"),
    "stage1: self-training + SCE + denoising + structure learning (full)": ("proda", "stage1"),
    "stage2: no self-distillation, supervised init": ("proda_released", "stage3"),
}


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml", "demo")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Root and spec of a study with recipes that have figures, one that has none, and a sweep of which some have."""
    root = tmp_path_factory.mktemp("published")
    recipes = ("source_only", "adabn", "adaptsegnet", "cbst", "proda", "proda_released", "plca_aggregated")
    recipes += ("memory_bank_30", "oracle")
    path = fabricate(root, recipes=recipes, iterations=100, pictures=1)
    spec = yaml.safe_load((root / path).read_text())
    _rename(spec, "memory_bank_30", "memory_bank_semi")
    _add_sweep(spec, COMPONENTS, POINTS)
    _add_sweep(spec, "pipa_terms", {"both": ("proda", "stage3"), "neither (DAFormer)": ("cbst", "round1")})
    (root / path).write_text(yaml.safe_dump(spec, sort_keys=False))
    return root, path


@pytest.fixture
def spec(made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root, path = made
    shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return path


def _rename(spec: dict[str, Any], old: str, new: str) -> None:
    spec["recipes"] = [new if name == old else name for name in spec["recipes"]]
    for run in spec["runs"]:
        run["recipe"] = new if run["recipe"] == old else run["recipe"]


def _add_sweep(spec: dict[str, Any], name: str, points: dict[str, tuple[str, str]]) -> None:
    """Points of a sweep, whose runs are those of some recipe's stage."""
    for title, (recipe, stage) in points.items():
        uses = [run for run in spec["runs"] if (run["recipe"], run["stage"]) == (recipe, stage)]
        point = {"recipe": f"{name}/{title}", "title": f"{name}, {title}", "final": True, "sweep": name, "base": recipe}
        spec["runs"] += [run | point for run in uses]
        spec["recipes"].append(f"{name}/{title}")
    rows = {f"{name}/{title}": title for title in points}
    entry = {"name": name, "title": name, "recipe": "proda", "reference": None, "over": {}, "points": rows}
    spec.setdefault("sweeps", []).append(entry)


Shown = tuple[Comparisons, dict[str, Table]]


@pytest.fixture(scope="module")
def shown(made: tuple[Path, Path]) -> Shown:
    """The comparisons of the study as it was made, and its tables by name."""
    root, path = made
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        comparisons = Comparisons(read_report(path))
        return comparisons, {table.name: table for table in published_tables(comparisons)}


def tables(spec: Path) -> dict[str, Table]:
    return {table.name: table for table in published_tables(Comparisons(read_report(spec)))}


def line(table: Table, name: str, ours: str) -> int:
    """Index of the one line of a published variant beside a row of ours."""
    found = [index for index, row in enumerate(table.rows) if row[6] == name and row[0] == ours]
    assert len(found) == 1, (name, ours, table.rows)
    return found[0]


# ------------------------------------------------------------------------------------------------------- the file


def test_every_figure_has_a_source_and_stands_once() -> None:
    figures = read_figures()
    assert len(figures) > 700
    for figure in figures:
        assert all(figure[column] for column in figure if column not in ("baseline", "row")), figure
        assert math.isfinite(float(figure["value"]))
    keys = Counter(tuple(v for k, v in figure.items() if k not in ("value", "row", "baseline")) for figure in figures)
    assert max(keys.values()) == 1


def test_every_row_it_names_is_in_the_parameters(params: Params) -> None:
    study = resolve_study(params.model_copy(update={"sweep": list(params.sweeps)}))
    points = {row.name for row in study.rows if row.sweep}
    stages = {f"{name}:{stage}" for name, recipe in params.recipes.items() for stage in recipe.stages}
    named = {name for figure in read_figures() for name in figure["row"].split(" | ") if name}
    assert named
    assert sorted(named - points - stages - set(params.recipes)) == []


def test_only_scores_and_gains_stand_beside_ours() -> None:
    for figure in read_figures():
        if figure["row"] or figure["baseline"]:
            assert figure["metric"] == "gain" or SCORE.fullmatch(figure["metric"]), figure


def test_figures_of_the_component_table_stand_beside_the_points_of_their_name(params: Params) -> None:
    sweep = params.sweeps[COMPONENTS]
    for figure in read_figures():
        for name in figure["row"].split(" | "):
            if name.startswith(f"{COMPONENTS}/"):
                assert name == f"{COMPONENTS}/{figure['variant']}"
                assert figure["variant"] in (sweep.points or {})


def test_every_baseline_is_a_score_of_the_same_source_data_and_network() -> None:
    figures = read_figures()
    based = [figure for figure in figures if figure["baseline"]]
    assert all(figure["baseline"] for figure in figures if figure["metric"] == "gain")
    for figure in based:
        same = [
            other
            for other in figures
            if f"{other['method']}, {other['variant']}" == figure["baseline"] and SCORE.fullmatch(other["metric"])
            if all(other[column] == figure[column] for column in ("source", "target", "backbone", "where"))
        ]
        assert len(same) == 1, figure


def test_figures_of_one_variant_in_one_source_stand_beside_the_same() -> None:
    beside: dict[tuple[str, ...], set[str]] = {}
    for figure in read_figures():
        if figure["metric"] == "gain" or SCORE.fullmatch(figure["metric"]):
            key = tuple(figure[name] for name in ("method", "variant", "source", "target", "backbone", "where"))
            beside.setdefault(key, set()).add(figure["row"])
    assert {len(rows) for rows in beside.values()} == {1}


def test_stated_gains_are_the_differences_of_the_scores() -> None:
    """Of both ways to a gain the sources agree, so that the tables may use the one for the other."""
    scores = {(f["method"], f["variant"], f["where"]): f for f in read_figures() if SCORE.fullmatch(f["metric"])}
    compared = 0
    for figure in read_figures():
        own = scores.get((figure["method"], figure["variant"], figure["where"]))
        if figure["metric"] == "gain" and own is not None:
            under = scores[figure["method"], figure["baseline"].partition(", ")[2], figure["where"]]
            assert float(figure["value"]) == pytest.approx(float(own["value"]) - float(under["value"]), abs=1e-9)
            compared += 1
    assert compared == 11


def test_entries_hold_each_score_once_with_its_gain() -> None:
    by_name = {(entry.name, entry.pair, entry.metric): entry for entry in read_entries() if "Table 3" in entry.where}
    assert by_name["ProDA, init: warm up", GTA, "mIoU19"].gain == 5.0
    assert math.isnan(by_name["ProDA, init: source only", GTA, "mIoU19"].gain)
    assert {entry.metric for entry in by_name.values()} == {"mIoU19"}
    only = [entry for entry in read_entries() if not entry.metric]
    assert sorted(entry.gain for entry in only) == [1.4, 2.3, 3.3]
    assert all(math.isnan(entry.value) for entry in only)
    computed = next(e for e in read_entries() if e.name.startswith("CRST, MRKLD 0.1"))
    assert computed.gain == pytest.approx(47.39 - 33.35)


def test_figures_are_the_given_ones() -> None:
    if not GIVEN.is_file():
        message = f"no file {GIVEN}; give its path as UDASEG_PUBLISHED"
        assert os.environ.get("UDASEG_REQUIRE_SHARED") != "1", message
        pytest.skip(message)
    names = {"SourceOnly": "Source only", "source-only": "Source only", "DAFormer ablation": "DAFormer"}
    names |= {"MemoryBank (SemiSeg-Contrastive)": "Memory bank", "PiPa (HRDA + PiPa)": "PiPa"}
    places = {"acdc_test": "ACDC test", "darkzurich_test": "Dark Zurich test"}
    with GIVEN.open(encoding="utf-8", newline="") as file:
        given = Counter(
            (
                names.get(row["method"], row["method"]),
                *(places.get(row[column], row[column]) for column in ("source", "target")),
                row["metric"],
                float(row["value"]),
            )
            for row in csv.DictReader(file)
        )
    ours = Counter(
        (*(figure[column] for column in ("method", "source", "target", "metric")), float(figure["value"]))
        for figure in read_figures()
    )
    assert ours - given == Counter()
    left = given - ours
    assert {key[0] for key in left if key not in ours} == {"ADVENT", "BDL", "FDA", "HRDA"}  # nothing of this project


# ----------------------------------------------------------------------------------------------------- the tables


def test_values_and_ours_against_their_files(spec: Path) -> None:
    table = tables(spec)["published_gta5_cityscapes"]
    report = read_report(spec)
    for stage, variant, value in (
        ("warmup", "init: warm up", None),
        ("warmup", "released warm-up checkpoint", 43.3),
        ("stage2", "stage2: self-distillation, supervised init", 55.7),
        ("", "stage3: self-distillation, self-supervised init", 57.5),
    ):
        title = report.rows["proda"].title + (f": {stage}" if stage else "")
        if value is None:  # it stands beside the sweep, which this study has, and not once more beside the recipe
            assert not [row for row in table.rows if row[6] == f"ProDA, {variant}" and row[0] == title]
            continue
        index = line(table, f"ProDA, {variant}", title)
        numbers = table.numbers.iloc[index]
        entries = [
            entry
            for entry in yaml.safe_load(spec.read_text())["runs"]
            if entry["recipe"] == "proda" and (entry["stage"] == stage if stage else entry["final"])
        ]
        scores = [
            100 * read_json(Path(entry["evaluation"]) / "metrics.json")["scores"]["last"]["sets"]["mIoU11"]
            for entry in entries
        ]
        assert len(scores) == 3
        assert numbers["mIoU11_mean"] == pytest.approx(np.mean(scores))
        assert numbers["mIoU11_std"] == pytest.approx(np.std(scores, ddof=1))
        row = table.rows[index]
        assert row[1:3] == ["3", f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}"]
        assert numbers["published_value"] == value
        assert row[4] == f"{value:.1f} (mIoU19)"


def test_every_value_and_gain_is_in_the_file(shown: Shown) -> None:
    figures = read_figures()
    seen = 0
    for table in shown[1].values():
        for record, row in zip(table.numbers.to_dict("records"), table.rows, strict=True):
            if pd.isna(record["published_name"]):
                assert row[4:] == [DASH] * 5
                continue
            number = table.notes.index(f"{row[8]} {record['published_where']}.")  # the note that the cell refers to
            assert table.notes[number].startswith("[")
            same = [
                figure
                for figure in figures
                if f"{figure['method']}, {figure['variant']}" == record["published_name"]
                if f"{figure['where']}; {figure['source_kind']}" == record["published_where"]
                if figure["backbone"] == record["published_backbone"] and _pair_name(figure) == table.name
            ]
            values = {figure["metric"]: float(figure["value"]) for figure in same}
            if record["published_metric"]:
                assert values[record["published_metric"]] == record["published_value"]
            if "gain" in values:
                assert values["gain"] == record["published_gain"]
            seen += 1
    assert seen > 20


def _pair_name(figure: dict[str, str]) -> str:
    text = f"{figure['source']}_{figure['target']}".lower().replace("+", "")
    return PREFIX + "_".join(text.replace("_", " ").split())


def test_gains_of_ours_are_those_over_the_baseline(shown: Shown) -> None:
    comparisons, made = shown
    for table in made.values():
        tested: dict[tuple[str, str], float] = {}
        for record, cells in zip(table.numbers.to_dict("records"), table.rows, strict=True):
            key = (record["row"], record["stage"])
            if cells[0] in ("Source only", f"{COMPONENTS}, init: source only"):
                assert cells[3] == DASH and record["difference_to_source_only_n"] == 0  # it is the baseline itself
                continue
            row = comparisons.report.rows[key[0]]
            own = row.stages[key[1]] if key[1] else row.final
            expected = comparisons.difference(own, comparisons.report.rows["source_only"].final)
            found = record["difference_to_source_only_mean"]
            assert (math.isnan(found) and not expected.seeds) or found == pytest.approx(expected.value)
            assert cells[3].startswith(DASH if not expected.seeds else f"{expected.value:+.1f}".replace("-", "−"))
            tested[key] = expected.p
            corrected = record["difference_to_source_only_p_holm"]
            assert corrected >= expected.p or math.isnan(expected.p)
        known = dict(zip(tested, holm(list(tested.values())), strict=True))
        for record in table.numbers.to_dict("records"):
            if (record["row"], record["stage"]) in tested:  # a row beside several figures is one comparison
                np.testing.assert_equal(
                    record["difference_to_source_only_p_holm"], known[record["row"], record["stage"]]
                )


def test_a_gain_against_metrics_json(spec: Path) -> None:
    table = tables(spec)["published_gta5_cityscapes"]
    entries = yaml.safe_load(spec.read_text())["runs"]

    def score(recipe: str, seed: int) -> float:
        entry = next(e for e in entries if e["recipe"] == recipe and e["seed"] == seed and e["final"])
        metrics = read_json(Path(entry["evaluation"]) / "metrics.json")
        return 100 * float(metrics["scores"]["last"]["sets"]["mIoU11"])

    expected = np.mean([score("cbst", seed) - score("source_only", seed) for seed in (0, 1, 2)])
    row = next(r for r in table.numbers.to_dict("records") if r["row"] == "cbst")
    assert row["difference_to_source_only_mean"] == pytest.approx(expected)
    assert row["published_gain"] == pytest.approx(45.2 - 35.4)


def test_no_table_has_figures_of_two_pairs(shown: Shown) -> None:
    pairs = {
        (entry.name, entry.backbone, entry.metric, entry.value, entry.where): entry.pair for entry in read_entries()
    }
    made = list(shown[1].values())
    assert [table.name for table in made] == [
        "published_gta5_cityscapes",
        "published_synthia_cityscapes",
        "published_gta5_labelled_cityscapes_subset_cityscapes",
    ]
    for table in made:
        keys = ["published_name", "published_backbone", "published_metric", "published_value", "published_where"]
        present = table.numbers.dropna(subset=["published_value"])
        found = {pairs[tuple(values)] for values in present[keys].itertuples(index=False)}
        assert len(found) == 1
        assert " → ".join(found.pop()) in table.title


def test_a_sweep_with_a_figure_is_there_whole(shown: Shown) -> None:
    table = shown[1]["published_gta5_cityscapes"]
    points = [row for row in table.rows if row[0].startswith(f"{COMPONENTS}, ")]
    assert [row[0] for row in points] == [f"{COMPONENTS}, {title}" for title in POINTS]
    assert [row[4] for row in points] == ["36.6 (mIoU19)", "41.6 (mIoU19)", "45.2 (mIoU19)", "53.7 (mIoU19)", DASH]
    assert [row[5] for row in points] == [DASH, "+5.0", "+8.6", "+17.1", DASH]
    assert any("no figure" in note for note in table.notes)
    other = shown[1]["published_synthia_cityscapes"]
    assert not [row for row in other.rows if row[0].startswith(COMPONENTS)]
    assert [row[0] for row in other.rows if row[0].startswith("pipa")] == [
        "pipa_terms, both",
        "pipa_terms, neither (DAFormer)",
    ]


def test_a_figure_that_is_only_a_gain_has_no_score(shown: Shown) -> None:
    table = shown[1]["published_gta5_cityscapes"]
    row = table.rows[line(table, "PiPa, ablation: + pixel + patch contrast", "pipa_terms, both")]
    assert row[4:6] == [DASH, "+3.3 †"]
    assert any(note.startswith("† ") and "not Source only" in note for note in table.notes)
    marked = [row for row in table.rows if "†" in row[5]]
    assert [row[6] for row in marked] == ["PiPa, ablation: + pixel + patch contrast"]


def test_labelled_target_images_stand_apart_and_without_a_gain(shown: Shown) -> None:
    every = shown[1]
    table = every["published_gta5_labelled_cityscapes_subset_cityscapes"]
    assert [row[0] for row in table.rows] == ["Memory bank (N = 30)"]
    assert table.rows[0][3] == DASH
    assert any("N = target images with labels" in note for note in table.notes)
    assert not [row for row in every["published_gta5_cityscapes"].rows if "N = " in row[0]]


def test_differences_of_protocol_are_named(shown: Shown) -> None:
    table = shown[1]["published_gta5_cityscapes"]
    notes = "\n".join(table.notes)
    ours = next(note for note in table.notes if note.startswith("Ours: "))
    for part in (
        "toytown_source → toytown_target",
        "11 classes",
        "network small",
        "crops of 48 × 96",
        "4 source images",
    ):
        assert part in ours
    assert "100 iterations" in ours
    assert "GTA5 → Cityscapes" in notes and "no difference between the two sides" in notes
    assert "input 48 × 96" in notes and "Input size, iterations" in notes
    gains = next(note for note in table.notes if note.startswith("Published gain"))
    assert "ProDA, init: source only" in gains and "CBST, Source" in gains


def test_our_own_protocol_is_read_from_the_runs(spec: Path) -> None:
    report = read_report(spec)
    run = report.rows["oracle"].final.runs[0]
    run.spec["train"]["iterations"] = 12_345
    run.spec["network"] |= {"name": "deeplabv2", "depth": 101}
    note = next(note for note in published_tables(Comparisons(report))[0].notes if note.startswith("Ours: "))
    assert "network small or deeplabv2, ResNet-101;" in note
    assert "100 to 12,345 iterations" in note


def test_a_missing_run_is_named_and_not_averaged_over(spec: Path) -> None:
    entry = next(e for e in yaml.safe_load(spec.read_text())["runs"] if e["recipe"] == "cbst" and e["final"])
    shutil.rmtree(entry["run"])
    table = tables(spec)["published_gta5_cityscapes"]
    row = table.rows[list(table.numbers["row"]).index("cbst")]
    assert row[1] == "2" and "(n = 2 of 3)" in row[2] and "(n = 2 of 3)" in row[3]
    assert any(entry["run"] in note for note in table.notes)


def test_a_study_without_such_rows_has_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fabricate(tmp_path, recipes=("adabn", "dann"), iterations=40, pictures=1)
    monkeypatch.chdir(tmp_path)
    assert published_tables(Comparisons(read_report(path))) == []


def test_tables_are_written_with_every_special_character_escaped(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = published.FILE.read_text().replace("released warm-up checkpoint", "warm_up & 5 % | #1 {a}^2")
    other = tmp_path / "published.csv"
    other.write_text(text)
    monkeypatch.setattr(published, "FILE", other)
    table = tables(spec)["published_gta5_cityscapes"]
    latex = writers.to_latex(table)
    assert r"ProDA, warm\_up \& 5 \% | \#1 \{a\}\^{}2" in latex.replace(r"\textasciicircum{}", r"\^{}")
    markdown = writers.to_markdown(table)
    assert r"warm_up & 5 % \| #1 {a}^2" in markdown
    lines = [text for text in markdown.splitlines() if text.startswith("| ")]
    assert {text.replace(r"\|", "").count("|") for text in lines} == {len(table.header) + 1}
    numbers = pd.read_csv(io.StringIO(writers.to_csv(table)))
    assert len(numbers) == len(table.rows)
    assert "ProDA, warm_up & 5 % | #1 {a}^2" in set(numbers["published_name"])
