"""Scores of aggregated predictions are another metric: said wherever they stand, and compared with no other."""

import hashlib
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.text import Text
from support import fabricate

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.contents import all_figures
from udaseg.reports.figures.qualitative import scenes
from udaseg.reports.read.history import history_frame
from udaseg.reports.read.protocols import protocol_notes
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.main import class_table, main_table
from udaseg.reports.tables.runs import cost_table, run_table
from udaseg.reports.tables.stages import shared_notes, stage_table
from udaseg.runs.files import sha256

NAME = "PLCA, mIoU11_aggregated"


def evaluations(spec: Path, recipe: str) -> list[Path]:
    return [Path(e["evaluation"]) for e in yaml.safe_load(spec.read_text())["runs"] if e["recipe"] == recipe]


def scores_of(spec: Path, recipe: str, which: str, name: str) -> list[float]:
    """In percent, read without the code under test."""
    files = [json.loads((folder / "metrics.json").read_text()) for folder in evaluations(spec, recipe)]
    return [100 * content["scores"][which]["sets"][name] for content in files]


def test_an_aggregated_row_has_its_own_metric_and_says_so(mixed: Path) -> None:
    table = main_table(Comparisons(read_report(mixed)))
    row = next(row for row in table.rows if row[0] == NAME)
    numbers = table.numbers.set_index("method")
    assert numbers["metric"].to_dict() == {
        name: "mIoU11_aggregated" if name == "plca_aggregated" else "mIoU11" for name in numbers.index
    }
    for column, which, name in (
        ("mIoU11", "last", "mIoU11"),
        ("mIoU11_best_on_val", "best", "mIoU11"),
        ("mIoU4", "last", "mIoU4"),
    ):
        for recipe, suffix in (("plca", ""), ("plca_aggregated", "_aggregated")):
            values = scores_of(mixed, recipe, which, name + suffix)
            assert numbers.loc[recipe, f"{column}_mean"] == pytest.approx(statistics.mean(values))
            assert numbers.loc[recipe, f"{column}_n"] == 3
    assert (
        row[2]
        == f"{numbers.loc['plca_aggregated', 'mIoU11_mean']:.1f} ± {numbers.loc['plca_aggregated', 'mIoU11_std']:.1f}"
    )


def test_it_is_not_compared_with_rows_of_the_plain_metric(mixed: Path) -> None:
    table = main_table(Comparisons(read_report(mixed)))
    rows = {row[0]: row for row in table.rows}
    assert rows[NAME][3:5] == ["–", "–"] and "–" not in rows["PLCA"][3:5]
    numbers = table.numbers.set_index("method").loc["plca_aggregated"]
    assert numbers["difference_to_source_only_n"] == numbers["gap_closed_n"] == 0
    assert math.isnan(numbers["difference_to_source_only_mean"]) and math.isnan(numbers["gap_closed"])
    note = next(note for note in table.notes if note.startswith("All scores of rows named mIoU11_aggregated"))
    assert "other metrics than the plain ones" in note and "no difference and no gap closed" in note
    protocols = "".join(table.notes[:3])
    assert table.notes[0].startswith("Not all runs were scored in the same way")
    assert "test-time aggregation with a share of 0.5" in protocols and "used by plca_aggregated." in protocols


def test_without_aggregation_nothing_is_said_of_it(study: Path) -> None:
    table = main_table(Comparisons(read_report(study)))
    assert "aggregat" not in "".join([*table.notes, *(row[0] for row in table.rows)])


def test_where_all_rows_are_aggregated_they_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = ("source_only", "plca", "oracle")
    monkeypatch.setattr(fabricate, "AGGREGATED", dict.fromkeys(recipes, 0.5))
    spec = fabricate.fabricate(tmp_path, recipes=recipes, seeds=(0, 1), iterations=100, pictures=0)
    monkeypatch.chdir(tmp_path)
    table = main_table(Comparisons(read_report(spec)))
    assert table.header[3] == "Difference to Source only, mIoU11_aggregated"
    pairs = zip(*(scores_of(spec, name, "last", "mIoU11_aggregated") for name in ("plca", "source_only")), strict=True)
    expected = statistics.mean(one - other for one, other in pairs)
    numbers = table.numbers.set_index("method").loc["plca"]
    assert numbers["difference_to_source_only_mean"] == pytest.approx(expected)
    assert not math.isnan(numbers["gap_closed"])


def test_stages_of_an_aggregated_recipe_are_compared_with_each_other_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fabricate, "AGGREGATED", {"cbst": 0.5})
    recipes = ("source_only", "cbst", "oracle")
    spec = fabricate.fabricate(tmp_path, recipes=recipes, seeds=(0, 1), iterations=100, pictures=0)
    monkeypatch.chdir(tmp_path)
    table = stage_table(Comparisons(read_report(spec)))
    assert table is not None
    assert {row[0] for row in table.rows} == {"CBST, three rounds, mIoU11_aggregated"}
    assert all(row[3] != "–" and row[4:] == ["–", "–"] for row in table.rows[1:])
    assert any(note.startswith("All scores of rows named mIoU11_aggregated") for note in table.notes)


def test_a_run_of_the_other_metric_is_left_out_of_a_rows_mean(mixed: Path) -> None:
    folder = evaluations(mixed, "plca_aggregated")[0]
    plain = json.loads((evaluations(mixed, "plca")[0] / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(plain))
    marker = json.loads((folder / "run.json").read_text())
    marker["files"]["metrics.json"] = hashlib.sha256((folder / "metrics.json").read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(marker))
    row = next(row for row in main_table(Comparisons(read_report(mixed))).rows if row[0] == NAME)
    assert row[1] == "2" and row[2].endswith("(n = 2 of 3)")


def test_two_evaluations_of_one_training_are_two_rows_and_one_training(mixed: Path) -> None:
    report = read_report(mixed)
    rows = [row for row in run_table(report).rows if row[0].startswith("PLCA") and row[2] == "1"]
    assert [row[0] for row in rows] == ["PLCA", NAME]
    expected = [
        scores_of(mixed, *which)[1]
        for which in (("plca", "last", "mIoU11"), ("plca_aggregated", "last", "mIoU11_aggregated"))
    ]
    assert [row[5] for row in rows] == [f"{value:.1f}" for value in expected]
    trained = {run.folder for run in report.each_once()}
    assert len(report.trainings()) == len(trained) < len(report.each_once())
    hours = sum(json.loads((folder / "cost.json").read_text())["seconds"] for folder in trained) / 3600
    assert any(f"together: {hours:.1f} hours" in note for note in cost_table(report).notes)
    history = history_frame(report)
    assert not history.duplicated(["run", "iteration", "kind", "name"]).any()
    assert shared_notes(report) == [f"One and the same training: PLCA: main = {NAME}: main."]


def test_figures_of_scores_say_it_and_those_of_trainings_do_not(mixed: Path) -> None:
    report = read_report(mixed)
    found: dict[str, Any] = {}
    for name, (_, figure) in all_figures(Comparisons(report)).items():
        texts = " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(Text))
        found[name] = NAME in texts
    scored = {"miou": True, "classes": True, "confusion": True, "cost": True}
    assert found == scored | {"monitor": False, "losses": False, "diagnostics": False}
    panels = {
        axes.get_title(loc="left").replace("\n", " "): axes
        for axes in all_figures(Comparisons(report))["classes"][1].axes
    }
    assert len(panels["PLCA"].lines) == 2 and not panels[NAME].lines  # the marks of baseline and oracle
    assert NAME in scenes(report)[0].panels
    assert NAME in [row[0] for row in class_table(report).rows]
    assert NAME not in [row[0] for row in cost_table(report).rows]


def test_rows_of_two_protocols_are_named_once_and_with_seeds_only_where_their_seeds_differ(study: Path) -> None:
    def scaled(recipe: str, seeds: tuple[int, ...]) -> None:
        for entry in yaml.safe_load(study.read_text())["runs"]:
            if entry["recipe"] == recipe and entry["seed"] in seeds:
                path = Path(entry["evaluation"]) / "metrics.json"
                content = json.loads(path.read_text())
                content["protocol"]["scales"] = [0.5, 1.0]
                path.write_text(json.dumps(content))
                marker = json.loads((path.parent / "run.json").read_text())
                marker["files"]["metrics.json"] = sha256(path)
                (path.parent / "run.json").write_text(json.dumps(marker))

    scaled("dann", (0, 1, 2))
    scaled("oracle", (1,))
    notes = protocol_notes(read_report(study))
    assert notes[0].startswith("Not all runs were scored in the same way")
    assert notes[1].endswith("used by source_only, adaptsegnet_multi, oracle seed 0, oracle seed 2.")
    assert notes[2].endswith("used by dann, oracle seed 1.") and "scales 0.5, 1" in notes[2]
