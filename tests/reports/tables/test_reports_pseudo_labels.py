"""The quality of pseudo-labels: shares, precision and recall computed here a second time, from the files."""

import hashlib
import json
import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fabricate import CLASSES

from udaseg.errors import UserError
from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.contents import all_figures
from udaseg.reports.figures.pseudo_labels import pseudo_labels
from udaseg.reports.figures.style import render
from udaseg.reports.page import page
from udaseg.reports.page.sections import aside
from udaseg.reports.read.quality import ALL, quality_frame
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.contents import all_tables
from udaseg.reports.tables.pseudo_labels import pseudo_label_table


def quality_folders(spec: Path, recipe: str, stage: str) -> dict[int, Path]:
    entries = yaml.safe_load(spec.read_text())["runs"]
    return {e["seed"]: Path(e["quality"]) for e in entries if (e["recipe"], e["stage"]) == (recipe, stage)}


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change quality.json and put the new checksum into the marker."""
    path = folder / "quality.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    marker = json.loads((folder / "run.json").read_text())
    marker["files"]["quality.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(marker))


def test_every_number_is_that_of_the_quality_files(staged: Path) -> None:
    table = pseudo_label_table(read_report(staged))
    assert table is not None
    numbers = table.numbers.set_index(["method", "stage", "class"])
    assert set(numbers["rule"]) == {"class_balanced", "soft", "threshold"}
    for recipe, stage in (("cbst", "round2"), ("proda", "stage1"), ("proda_released", "stage3")):
        files = [json.loads((f / "quality.json").read_text()) for f in quality_folders(staged, recipe, stage).values()]
        for name in (ALL, "road", "person"):
            names = CLASSES if name == ALL else [name]
            parts = [
                {key: sum(file[key][n] for n in names) for key in ("selected", "truth", "judged", "correct")}
                for file in files
            ]
            row = numbers.loc[(recipe, stage, name)]
            for quantity, above, below in (
                ("precision", "correct", "judged"),
                ("recall", "correct", "truth"),
            ):
                expected = statistics.mean(100 * part[above] / part[below] for part in parts)
                assert row[f"{quantity}_mean"] == pytest.approx(expected)
            assert row["coverage_mean"] == pytest.approx(statistics.mean(p["selected"] / 10_000 for p in parts))
            assert row["share_mean"] == pytest.approx(statistics.mean(p["truth"] / 10_000 for p in parts))
        assert math.isnan(numbers.loc[(recipe, stage, "train"), "precision_mean"])  # nothing was given this label
        assert numbers.loc[(recipe, stage, "train"), "coverage_mean"] == 0
    cells = next(row for row in table.rows if row[:2] == ["CBST, three rounds", "round2, precision"])
    assert cells[2] == f"{numbers.loc[('cbst', 'round2', ALL), 'precision_mean']:.1f}" and cells[-1] == "–"
    assert len(table.rows) == 9 * 3
    assert "CBST, three rounds: rule class_balanced (round1, round2, round3)." in table.notes


def test_a_study_without_pseudo_labels_has_neither(study: Path) -> None:
    report = read_report(study)
    assert pseudo_label_table(report) is None and pseudo_labels(report) is None


def test_stages_without_stored_labels_are_not_there(staged: Path) -> None:
    frame = quality_frame(read_report(staged))
    assert set(frame["stage"]) == {"round1", "round2", "round3", "stage1", "stage2", "stage3"}


def test_without_ground_truth_there_is_coverage_alone(staged: Path) -> None:
    def unlabelled(content: dict[str, Any]) -> None:
        content.update(labelled=False, truth=None, correct=None, judged=None)

    for recipe, stages in (("cbst", "round"), ("proda", "stage"), ("proda_released", "stage")):
        for number in (1, 2, 3):
            for folder in quality_folders(staged, recipe, f"{stages}{number}").values():
                change(folder, unlabelled)
    report = read_report(staged)
    table, figure = pseudo_label_table(report), pseudo_labels(report)
    assert table is not None and {row[1].split(", ")[1] for row in table.rows} == {"coverage"}
    assert figure is not None and [axes.get_xlabel() for axes in figure.axes] == ["Coverage (%)"] * 3
    assert "ground truth" not in render(figure)["svg"].decode()


def test_labels_that_are_not_judged_are_named(staged: Path) -> None:
    folders = quality_folders(staged, "cbst", "round1")
    shutil.rmtree(folders[0])
    (folders[1] / "quality.json").write_text("{}")  # changed since
    table = pseudo_label_table(read_report(staged))
    assert table is not None
    assert table.rows[0][2].endswith("(n = 1 of 3)")
    for seed in (0, 1):
        assert f"cbst, stage round1, seed {seed}: its pseudo-labels are not judged ({folders[seed]})." in table.notes
    for folder in Path("results").rglob("quality-*"):
        shutil.rmtree(folder)
    report = read_report(staged)
    empty = pseudo_label_table(report)
    assert empty is not None and empty.rows == [] and len([n for n in empty.notes if "not judged" in n]) == 24
    assert pseudo_labels(report) is None
    assert "are not judged" in page.render(report, all_tables(Comparisons(report)), {})


def test_other_classes_than_the_study_are_refused(staged: Path) -> None:
    change(quality_folders(staged, "proda", "stage2")[0], lambda content: content.update(classes=["road"]))
    with pytest.raises(UserError, match=r"quality-.*\['road'\]"):
        read_report(staged)


def test_the_figure_shows_each_recipe_and_is_always_the_same(staged: Path) -> None:
    report = read_report(staged)
    figures = all_figures(Comparisons(report))
    scored = ["miou", "stages", "pseudo_labels", "classes", "confusion", "cost"]
    assert list(figures) == [*scored, "monitor", "losses", "diagnostics"]
    caption, figure = figures["pseudo_labels"]
    assert "Coverage" in caption and "Precision" in caption and "Recall" in caption
    assert [axes.get_xlabel() for axes in figure.axes] == ["Coverage (%)", "Precision (%)", "Recall (%)"] * 3
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [ALL, *CLASSES]
    row = quality_frame(report).query("row == 'cbst' and stage == 'round1' and `class` == 'road'")
    assert figure.axes[1].lines[0].get_xdata()[1] == pytest.approx(100 * row["precision"].mean())
    assert render(all_figures(Comparisons(read_report(staged)))["pseudo_labels"][1]) == render(figure)


def test_the_page_shows_stages_and_pseudo_labels(staged: Path) -> None:
    report = read_report(staged)
    text = page.render(report, all_tables(Comparisons(report)), {})
    assert 'href="#stages"' in text and 'id="stages"' in text and 'id="pseudo-labels"' in text
    assert '<th scope="rowgroup" colspan="5"><span>ProDA, stages 1 to 3</span></th>' in text
    folder = quality_folders(staged, "proda", "stage1")[0]
    assert f"udaseg label {folder.parent}/spec.yaml\nudaseg quality {folder}/spec.yaml\nudaseg train" in text
    assert aside("−1.0 [−2.0, +0.1] (n = 2 of 3)") == ["−1.0", "[−2.0, +0.1]", "(n = 2 of 3)"]
    assert aside("41.2 ± 0.8") == ["41.2 ± 0.8"]
