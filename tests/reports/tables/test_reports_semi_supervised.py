"""What had labels of target images stands apart from unsupervised adaptation, in tables of its own and nowhere else."""

import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.text import Text
from support.fabricate import TITLES, fabricate

from udaseg.reports.build import build_report
from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.contents import all_figures
from udaseg.reports.figures.qualitative import scenes
from udaseg.reports.page import page
from udaseg.reports.read.report import Report
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.contents import all_tables
from udaseg.reports.tables.main import main_table
from udaseg.reports.tables.notes import missing_notes
from udaseg.reports.tables.runs import cost_table, run_table
from udaseg.reports.tables.semi_supervised import semi_supervised_tables

SEMI = ("source_only_100", "memory_bank_100", "memory_bank_30")
WORDS = ("memory_bank", "source_only_100", "Memory bank", "Source and labelled target", "labelled target")


def entries_of(spec: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load(spec.read_text())["runs"])


def miou(spec: Path, recipe: str) -> dict[int, float]:
    """Seed → headline mIoU in percent of a recipe's final stage, read without the code under test."""
    return {
        entry["seed"]: 100
        * json.loads((Path(entry["evaluation"]) / "metrics.json").read_text())["scores"]["last"]["sets"]["mIoU11"]
        for entry in entries_of(spec)
        if entry["recipe"] == recipe and entry["final"]
    }


def words_of(report: Report) -> str:
    """Everything that the report's tables and figures of unsupervised adaptation show."""
    tables = [
        table
        for table in all_tables(Comparisons(report))
        if table.name in ("main", "stages", "pseudo_labels", "classes")
    ]
    assert [table.name for table in tables] == ["main", "classes"]
    texts = [str([table.title, table.header, table.rows, table.notes, table.numbers.to_csv()]) for table in tables]
    for caption, figure in all_figures(Comparisons(report)).values():
        texts += [caption, *(text.get_text().replace("\n", " ") for text in figure.findobj(Text))]
    return " ".join([*texts, *(title for scene in scenes(report) for title in scene.panels)])


def test_no_table_or_figure_of_unsupervised_adaptation_shows_them(mixed: Path) -> None:
    report = read_report(mixed)
    assert [row.name for row in report.main] == ["source_only", "adaptsegnet", "plca", "plca_aggregated", "oracle"]
    found = words_of(report)
    assert not [word for word in WORDS if word in found]
    assert list(all_figures(Comparisons(report))) == [
        "miou",
        "classes",
        "confusion",
        "cost",
        "monitor",
        "losses",
        "diagnostics",
    ]
    assert "domain_accuracy" in found and "stored" not in found  # what AdaptSegNet and the memory bank log


def test_a_label_in_any_stage_is_enough_and_the_most_of_them_count(mixed: Path) -> None:
    found = {images: [row.name for row in rows] for images, rows in read_report(mixed).semi_supervised.items()}
    assert found == {30: ["memory_bank_30"], 100: ["memory_bank_100", "source_only_100"]}
    content = yaml.safe_load(mixed.read_text())
    for entry in content["runs"]:
        if (entry["recipe"], entry["stage"]) == ("memory_bank_30", "main"):
            entry["labelled_target"] = 200
    mixed.write_text(yaml.safe_dump(content))
    assert list(read_report(mixed).semi_supervised) == [100, 200]


def test_their_tables_hold_the_numbers_of_the_run_folders(mixed: Path) -> None:
    few, many = semi_supervised_tables(Comparisons(read_report(mixed)))
    assert (few.name, many.name) == ("semi_supervised_30", "semi_supervised_100")
    assert "semi-supervised, 100 labelled target images" in many.title
    numbers = many.numbers.set_index("method")
    assert list(numbers.index) == ["memory_bank_100", "source_only_100"]
    for recipe in numbers.index:
        values = list(miou(mixed, recipe).values())
        assert numbers.loc[recipe, "mIoU11_mean"] == pytest.approx(statistics.mean(values))
        assert numbers.loc[recipe, "mIoU11_std"] == pytest.approx(statistics.stdev(values))
        assert numbers.loc[recipe, ["labelled_target", "mIoU11_n"]].tolist() == [100, 3]
    own, base = miou(mixed, "memory_bank_100"), miou(mixed, "source_only_100")
    difference = statistics.mean(own[seed] - base[seed] for seed in own)
    assert numbers.loc["memory_bank_100", "difference_to_source_only_100_mean"] == pytest.approx(difference)
    mean, std = numbers.loc["memory_bank_100", ["mIoU11_mean", "mIoU11_std"]]
    assert many.rows[0][:3] == ["Memory bank (N = 100)", "3", f"{mean:.1f} ± {std:.1f}"]
    assert many.rows[0][3].startswith(f"{difference:+.1f} [") and many.rows[1][3] == "–"
    assert few.header == ["Method", "Seeds", "mIoU11 (last)"]  # no baseline among them
    assert "no row here can be compared" in few.notes[1]


def test_they_are_listed_where_each_run_is_and_what_it_cost_and_marked(mixed: Path) -> None:
    report = read_report(mixed)
    marked = {f"{TITLES[recipe]} (N = {recipe.rpartition('_')[2]})" for recipe in SEMI}
    assert marked < {row[0] for row in cost_table(report).rows}
    assert any(note.startswith("N = target images with labels") for note in cost_table(report).notes)
    listed = run_table(report)
    assert marked < {name for row in listed.rows for name in row[0].split(" / ")}
    counts = listed.numbers.groupby("recipe")["labelled_target"].max()
    assert [counts[recipe] for recipe in ("source_only", *SEMI)] == [0, 100, 100, 30]


def test_a_stage_shared_with_an_unsupervised_recipe_is_shown_as_that_ones(mixed: Path) -> None:
    report = read_report(mixed)
    warmup = next(entry["run"] for entry in entries_of(mixed) if entry["stage"] == "warmup")
    for runs in (report.each_once(), report.trainings()):
        assert [run.row for run in runs if str(run.folder) == warmup] == ["adaptsegnet"]


def test_scores_of_both_kinds_are_never_compared(mixed: Path) -> None:
    report = read_report(mixed)
    comparisons = Comparisons(report)
    semi, own = (report.rows[name].final for name in ("source_only_100", "adaptsegnet"))
    assert len(comparisons.scores(semi)) == len(comparisons.scores(own)) == 3
    assert comparisons.difference(own, semi).seeds == 0
    assert comparisons.gap_closed(semi)[1] == 0 and comparisons.gap_closed(own)[1] == 3
    other_bound = Comparisons(replace(report, baseline="source_only_100"))
    assert other_bound.gap_closed(other_bound.report.rows["adaptsegnet"].final)[1] == 0


def test_a_missing_one_is_named_under_its_own_table(mixed: Path) -> None:
    for entry in entries_of(mixed):
        if entry["recipe"] == "memory_bank_100" and entry["final"] and entry["seed"] == 1:
            shutil.rmtree(entry["run"])
    report = read_report(mixed)
    notes = missing_notes(report)
    assert len(notes) == 1 and notes[0].startswith("memory_bank_100, stage main, seed 1")
    few, many = semi_supervised_tables(Comparisons(report))
    assert notes[0] in many.notes and notes[0] not in few.notes + main_table(Comparisons(report)).notes
    assert many.rows[0][2].endswith("(n = 2 of 3)")


def test_the_page_shows_them_only_where_there_are_some(mixed: Path) -> None:
    report = read_report(mixed)
    text = page.render(report, all_tables(Comparisons(report)), {})
    assert 'href="#semi-supervised"' in text and 'id="semi-supervised"' in text
    assert text.index("<h3>30 labelled target images</h3>") < text.index("<h3>100 labelled target images</h3>")
    content = yaml.safe_load(mixed.read_text())
    content["runs"] = [entry for entry in content["runs"] if entry["recipe"] not in SEMI]
    content["recipes"] = [recipe for recipe in content["recipes"] if recipe not in SEMI]
    mixed.write_text(yaml.safe_dump(content))
    report = read_report(mixed)
    assert semi_supervised_tables(Comparisons(report)) == []
    assert "emi-supervised" not in page.render(report, all_tables(Comparisons(report)), {})


def test_a_study_of_nothing_else_is_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = fabricate(tmp_path, recipes=SEMI, seeds=(0, 1), iterations=100, pictures=1)
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(spec.read_text()) | {"baseline": "source_only_100"}
    spec.write_text(yaml.safe_dump(content))
    build_report(spec)
    report = read_report(spec)
    assert main_table(Comparisons(report)).rows == [] and report.bounds == []
    assert {path.stem for path in Path("reports/demo/figures").glob("*.svg")} == {"losses"}  # of the pretraining
    assert Path("reports/demo/tables/semi_supervised_100.md").is_file()
