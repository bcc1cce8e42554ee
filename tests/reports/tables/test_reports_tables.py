"""The tables' numbers against the run folders, computed here a second time and in another way."""

import json
import math
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from support.fabricate import CLASSES, TITLES, fabricate

from udaseg.errors import UserError
from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.compare.summaries import summarise
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.contents import all_tables
from udaseg.reports.tables.main import class_table, main_table
from udaseg.reports.tables.notes import missing_notes
from udaseg.reports.tables.runs import cost_table, run_table
from udaseg.reports.tables.table import cell
from udaseg.reports.tables.writers import to_csv, to_latex, to_markdown


def metrics_of(spec: Path, recipe: str) -> dict[int, dict[str, Any]]:
    """Seed → metrics.json of a recipe's final runs, read without the code under test."""
    entries = yaml.safe_load(spec.read_text())["runs"]
    files = {
        entry["seed"]: Path(entry["evaluation"]) / "metrics.json" for entry in entries if entry["recipe"] == recipe
    }
    return {seed: json.loads(path.read_text()) for seed, path in files.items() if path.is_file()}


def score(metrics: dict[str, Any], which: str, key: str) -> float:
    """A score in percent, from the confusion matrix."""
    confusion = metrics["scores"][which]["confusion"]
    count = range(len(confusion))
    hits = [confusion[k][k] for k in count]
    union = [sum(confusion[k]) + sum(confusion[i][k] for i in count) - hits[k] for k in count]
    iou = {name: hits[k] / union[k] for k, name in enumerate(metrics["classes"]) if union[k]}
    if key == "pixel_accuracy":
        return 100 * sum(hits) / sum(map(sum, confusion))
    members = {"mIoU11": CLASSES, "mIoU4": ["road", "building", "sky", "car"]}.get(key, [key])
    return 100 * statistics.mean(iou[name] for name in members if name in iou)


def test_every_number_of_the_main_table_is_that_of_the_run_folders(study: Path) -> None:
    table = main_table(Comparisons(read_report(study))).numbers.set_index("method")
    cost_of = cost_table(read_report(study)).numbers.set_index("method")
    means = {}
    for recipe in ("source_only", "dann", "adaptsegnet_multi", "oracle"):
        runs = metrics_of(study, recipe)
        row = table.loc[recipe]
        for column, which, key in (
            ("mIoU11", "last", "mIoU11"),
            ("mIoU11_best_on_val", "best", "mIoU11"),
            ("mIoU4", "last", "mIoU4"),
            ("pixel_accuracy", "last", "pixel_accuracy"),
        ):
            values = [score(metrics, which, key) for metrics in runs.values()]
            assert row[f"{column}_mean"] == pytest.approx(statistics.mean(values))
            assert row[f"{column}_std"] == pytest.approx(statistics.stdev(values))  # ddof = 1
            assert row[f"{column}_n"] == 3
        entries = yaml.safe_load(study.read_text())["runs"]
        costs = [json.loads((Path(e["run"]) / "cost.json").read_text()) for e in entries if e["recipe"] == recipe]
        for key in ("seconds_per_iteration", "peak_memory_mib"):
            expected = statistics.mean(cost[key] for cost in costs)
            assert cost_of.loc[recipe, f"{key}_mean"] == pytest.approx(expected)
        means[recipe] = row["mIoU11_mean"]
    for recipe, mean in means.items():
        gap = 100 * (mean - means["source_only"]) / (means["oracle"] - means["source_only"])
        assert table.loc[recipe, "gap_closed"] == pytest.approx(gap)


def test_every_number_of_the_class_table_is_that_of_the_run_folders(study: Path) -> None:
    table = class_table(read_report(study))
    numbers = table.numbers.set_index("method")
    for recipe in ("source_only", "dann", "oracle"):
        for name in CLASSES[:-1]:
            values = [score(metrics, "last", name) for metrics in metrics_of(study, recipe).values()]
            assert numbers.loc[recipe, f"{name}_mean"] == pytest.approx(statistics.mean(values))
            assert numbers.loc[recipe, f"{name}_std"] == pytest.approx(statistics.stdev(values))
        assert math.isnan(numbers.loc[recipe, "train_mean"])
    assert all(row[-1] == "–" for row in table.rows)
    assert any("Absent from the ground truth" in note and "train" in note for note in table.notes)
    assert any("IoU undefined" in note and "train" in note for note in table.notes)


def test_cells_show_the_numbers_rounded_to_one_decimal(study: Path) -> None:
    table = main_table(Comparisons(read_report(study)))
    for row, (_, numbers) in zip(table.rows, table.numbers.iterrows(), strict=True):
        assert row[0] == TITLES[numbers["method"]]
        assert row[2] == f"{numbers['mIoU11_mean']:.1f} ± {numbers['mIoU11_std']:.1f}"
        assert row[5] == f"{numbers['mIoU11_best_on_val_mean']:.1f} ± {numbers['mIoU11_best_on_val_std']:.1f}"


def test_a_missing_run_is_a_row_without_numbers_and_a_footnote(study: Path) -> None:
    folder = Path(next(e["run"] for e in yaml.safe_load(study.read_text())["runs"] if e["recipe"] == "dann"))
    shutil.rmtree(folder)
    report = read_report(study)
    frame = run_table(report).numbers.set_index("run")
    assert frame.loc[str(folder), "status"] == "missing"
    assert math.isnan(frame.loc[str(folder), "last.mIoU11"])
    table = main_table(Comparisons(report))
    dann = table.rows[1]
    values = [score(metrics, "last", "mIoU11") for metrics in metrics_of(study, "dann").values()]
    assert len(values) == 2
    assert dann[1] == "2"
    assert dann[2] == f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} (n = 2 of 3)"
    assert [note for note in table.notes if str(folder) in note] == missing_notes(report)
    assert "dann" in missing_notes(report)[0] and "seed 0" in missing_notes(report)[0]
    # The gap is measured over the seeds that all three have.
    means = {
        recipe: statistics.mean(score(metrics_of(study, recipe)[seed], "last", "mIoU11") for seed in (1, 2))
        for recipe in ("source_only", "dann", "oracle")
    }
    gap = (means["dann"] - means["source_only"]) / (means["oracle"] - means["source_only"])
    assert table.numbers.set_index("method").loc["dann", "gap_closed"] == pytest.approx(100 * gap)
    assert dann[4] == f"{100 * gap:.0f} % (n = 2 of 3)"


@pytest.mark.parametrize("damage", ["no marker", "changed file", "not evaluated"])
def test_an_unfinished_run_gives_no_number(study: Path, damage: str) -> None:
    entry = next(e for e in yaml.safe_load(study.read_text())["runs"] if e["recipe"] == "oracle")
    if damage == "no marker":
        (Path(entry["run"]) / "run.json").unlink()
    elif damage == "changed file":
        (Path(entry["run"]) / "history.jsonl").write_text("{}\n")
    else:
        (Path(entry["evaluation"]) / "run.json").unlink()
    report = read_report(study)
    assert len(missing_notes(report)) == 1
    assert "(n = 2 of 3)" in main_table(Comparisons(report)).rows[-1][2]
    expected = "not evaluated" if damage == "not evaluated" else "unfinished"
    assert run_table(report).numbers.set_index("run").loc[entry["run"], "status"] == expected


def test_a_report_of_nothing_finished_is_a_report(study: Path) -> None:
    shutil.rmtree("results")
    report = read_report(study)
    tables = all_tables(Comparisons(report))
    assert all(row[2] == "–" for row in tables[0].rows)
    assert len(missing_notes(report)) == 12
    assert any("No gap to close" in note for note in tables[0].notes)


def test_one_seed_has_no_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = fabricate(tmp_path, recipes=("source_only", "oracle"), seeds=(4,), iterations=100, pictures=0)
    monkeypatch.chdir(tmp_path)
    table = main_table(Comparisons(read_report(spec)))
    for row in table.rows:
        assert re.fullmatch(r"\d+\.\d ± – \(n = 1\)", row[2])
    assert table.numbers["mIoU11_std"].isna().all()


def test_summary_leaves_out_what_is_not_there() -> None:
    summary = summarise([1.0, math.nan, 3.0], planned=3)
    assert (summary.mean, summary.n, summary.std) == (2.0, 2, pytest.approx(math.sqrt(2)))
    assert cell(summary) == "2.0 ± 1.4 (n = 2 of 3)"
    assert cell(summarise([math.nan], planned=1)) == "–"
    assert cell(summarise([5.0, 7.0], planned=2), spread=False) == "6.0"


def test_rows_of_different_protocols_are_told_apart(study: Path) -> None:
    entry = next(e for e in yaml.safe_load(study.read_text())["runs"] if e["recipe"] == "dann")
    change_metrics(Path(entry["evaluation"]), lambda metrics: metrics["protocol"].update(flip=True))
    notes = main_table(Comparisons(read_report(study))).notes
    assert notes[0].startswith("Not all runs were scored in the same way")
    assert "flip on" in notes[1] + notes[2] and "dann seed 0" in notes[1] + notes[2]


def change_metrics(evaluation: Path, change: Any) -> None:
    """Change metrics.json and put the new checksum into the marker."""
    import hashlib

    metrics = json.loads((evaluation / "metrics.json").read_text())
    change(metrics)
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    marker = json.loads((evaluation / "run.json").read_text())
    marker["files"]["metrics.json"] = hashlib.sha256((evaluation / "metrics.json").read_bytes()).hexdigest()
    (evaluation / "run.json").write_text(json.dumps(marker))


def test_other_classes_than_the_study_are_refused(study: Path) -> None:
    entry = next(e for e in yaml.safe_load(study.read_text())["runs"] if e["recipe"] == "dann")
    change_metrics(Path(entry["evaluation"]), lambda metrics: metrics.update(classes=["road"]))
    with pytest.raises(UserError, match=r"evaluate-.*\['road'\]"):
        read_report(study)


def test_a_spec_without_a_key_is_refused(study: Path) -> None:
    content = yaml.safe_load(study.read_text())
    del content["oracle"]
    study.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="oracle"):
        read_report(study)


def test_points_of_a_sweep_are_rows_of_their_own(study: Path) -> None:
    content = yaml.safe_load(study.read_text())
    for entry in content["runs"]:
        if entry["recipe"] == "adaptsegnet_multi":
            entry |= {"recipe": "dann", "overrides": "domain=0.5", "title": "DANN"}
    content["recipes"].remove("adaptsegnet_multi")
    study.write_text(yaml.safe_dump(content))
    report = read_report(study)
    assert [row.name for row in report.main] == ["source_only", "dann (defaults)", "dann (domain=0.5)", "oracle"]
    assert [row[0] for row in main_table(Comparisons(report)).rows][1:3] == ["DANN (defaults)", "DANN (domain=0.5)"]


def test_the_pretraining_is_found_and_listed(study: Path) -> None:
    report = read_report(study)
    assert [str(run.folder) for run in report.pretraining] == ["results/objects/source_only/seed=0-0000000000"]
    assert run_table(report).rows[0][0] == "Pretraining"


def test_latex_escapes_and_needs_no_package(study: Path) -> None:
    report = read_report(study)
    text = to_latex(class_table(report))
    assert r"traffic\_sign" in text and r"\providecommand{\toprule}{\hline}" in text
    body = [line for line in to_latex(main_table(Comparisons(report))).splitlines() if line.endswith(r"\\")]
    assert all(line.count(" & ") == 7 for line in body)
    assert all(re.search(r"(?<!\\)[%_#]", line) is None for line in body)
    assert "±" not in "".join(body) and "–" not in "".join(body)


def test_markdown_is_a_table_with_its_notes(study: Path) -> None:
    report = read_report(study)
    table = main_table(Comparisons(report))
    lines = to_markdown(table).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert sum(line.startswith("- ") for line in lines) == len(table.notes)
    protocol = next(line for line in lines if "Protocol" in line)
    for part in (
        "toytown_target",
        "split test",
        "80 images",
        "48 × 96",
        "whole image",
        "flip off",
        "scales 1",
        "mIoU11",
    ):
        assert part in protocol


def test_csv_holds_the_unrounded_numbers(study: Path, tmp_path: Path) -> None:
    table = main_table(Comparisons(read_report(study)))
    path = tmp_path / "main.csv"
    path.write_text(to_csv(table))
    pd.testing.assert_frame_equal(pd.read_csv(path), table.numbers, check_dtype=False, atol=1e-6)
