"""Stages, runs that recipes share, and differences: computed here a second time, from the files."""

import json
import math
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from support.fabricate import CLASSES, IMAGES

from udaseg.reports.compare.comparisons import NOTHING, SAME, Comparisons
from udaseg.reports.compare.statistics import Bootstrap, Estimate
from udaseg.reports.figures.contents import all_figures
from udaseg.reports.figures.curves import apart
from udaseg.reports.figures.stages import stage_lines
from udaseg.reports.figures.style import render
from udaseg.reports.page import page
from udaseg.reports.read.history import history_frame
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.contents import all_tables
from udaseg.reports.tables.differences import Differences, declared_notes, estimate_text
from udaseg.reports.tables.main import main_table
from udaseg.reports.tables.notes import missing_notes
from udaseg.reports.tables.runs import cost_table, run_table
from udaseg.reports.tables.stages import stage_table

SHARED = {"adaptsegnet": "main", "cbst": "warmup", "proda": "warmup", "proda_released": "warmup"}


def entries_of(spec: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load(spec.read_text())["runs"])


def miou(spec: Path, recipe: str, stage: str) -> dict[int, float]:
    """Seed → headline mIoU in percent, read without the code under test."""
    return {
        entry["seed"]: 100 * json.loads(path.read_text())["scores"]["last"]["sets"]["mIoU11"]
        for entry in entries_of(spec)
        if (entry["recipe"], entry["stage"]) == (recipe, stage)
        and (path := Path(entry["evaluation"]) / "metrics.json").is_file()
    }


def interval(spec: Path, one: tuple[str, str], other: tuple[str, str]) -> tuple[float, float, float]:
    """Mean over seeds of the difference, and what the declared test (which has tests of its own) says of the counts."""
    scores = miou(spec, *one), miou(spec, *other)
    seeds = sorted(set(scores[0]) & set(scores[1]))
    test = Bootstrap(IMAGES, seed=0)
    rows = [
        test.draw(
            {
                entry["seed"]: np.load(Path(entry["evaluation"]) / "counts.npz")["counts"].astype(np.int64)
                for entry in entries_of(spec)
                if (entry["recipe"], entry["stage"]) == place and entry["seed"] in seeds
            },
            range(len(CLASSES)),
        )
        for place in (one, other)
    ]
    found = test.compare(*rows)
    return statistics.mean(scores[0][seed] - scores[1][seed] for seed in seeds), found.low, found.high


def test_a_stage_is_a_row_in_order(staged: Path) -> None:
    table = stage_table(Comparisons(read_report(staged)))
    assert table is not None
    assert [row[:2] for row in table.rows[:4]] == [["CBST, three rounds", s] for s in ("warmup", *ROUNDS)]
    assert len(table.rows) == len(table.numbers) == 12
    assert [len(rows) for rows in table.groups()] == [4, 4, 4]
    note = next(note for note in table.notes if "AdaptSegNet" in note)
    assert note == (
        "One and the same training: AdaptSegNet: main = CBST, three rounds: warmup = ProDA, stages 1 to 3: warmup = "
        "ProDA, stages 1 to 3 (released KD): warmup."
    )


ROUNDS = ("round1", "round2", "round3")


def test_every_number_of_the_stage_table_is_that_of_the_run_folders(staged: Path) -> None:
    table = stage_table(Comparisons(read_report(staged)))
    assert table is not None
    numbers = table.numbers.set_index(["method", "stage"])
    base, oracle = miou(staged, "source_only", "main"), miou(staged, "oracle", "main")
    bound = ("source_only", "main")
    for recipe, stages in (("cbst", ("warmup", *ROUNDS)), ("proda", ("warmup", "stage1", "stage2", "stage3"))):
        before: tuple[str, str] | None = None
        for stage in stages:
            values, row = miou(staged, recipe, stage), numbers.loc[(recipe, stage)]
            assert row["mIoU11_mean"] == pytest.approx(statistics.mean(values.values()))
            assert row["mIoU11_std"] == pytest.approx(statistics.stdev(values.values()))
            means = [statistics.mean(scores.values()) for scores in (values, base, oracle)]
            assert row["gap_closed"] == pytest.approx(100 * (means[0] - means[1]) / (means[2] - means[1]))
            for name, other in (("source_only", bound), ("stage_before", before)):
                found = [row[f"difference_to_{name}_{end}"] for end in ("mean", "low", "high")]
                if other is None:
                    assert all(math.isnan(value) for value in found)
                else:
                    assert found == pytest.approx(interval(staged, (recipe, stage), other), nan_ok=True)
            before = (recipe, stage)
    assert table.rows[0][3] == "–"


def test_differences_of_the_main_table_are_paired_by_seed(staged: Path) -> None:
    table = main_table(Comparisons(read_report(staged)))
    assert table.header[3:5] == ["Difference to Source only", "Difference to AdaBN"]
    numbers = table.numbers.set_index("method")
    final = {"proda": "stage3", "cbst": "round3", "adaptsegnet": "main"}
    for recipe, stage in final.items():
        for other in ("source_only", "adabn"):
            expected = interval(staged, (recipe, stage), (other, "main"))
            found = [numbers.loc[recipe, f"difference_to_{other}_{end}"] for end in ("mean", "low", "high")]
            assert found == pytest.approx(expected)
            assert numbers.loc[recipe, f"difference_to_{other}_n"] == 3
    assert (table.rows[0][3], table.rows[1][4]) == ("–", "–")  # of a method to itself
    assert any(note.startswith("AdaBN adapts nothing but the normalisation") for note in table.notes)


def test_without_adabn_there_is_one_difference(study: Path) -> None:
    assert sum(name.startswith("Difference to") for name in main_table(Comparisons(read_report(study))).header) == 1


def test_a_difference_over_fewer_pairs_says_so(staged: Path) -> None:
    missing = next(e for e in entries_of(staged) if (e["recipe"], e["seed"]) == ("adabn", 1))
    shutil.rmtree(missing["run"])
    rows = {row[0]: row for row in main_table(Comparisons(read_report(staged))).rows}
    own, others = miou(staged, "cbst", "round3"), miou(staged, "adabn", "main")
    mean = statistics.mean(own[seed] - others[seed] for seed in (0, 2))
    assert rows["CBST, three rounds"][4] == f"{mean:+.1f} [–] (n = 2 of 3)".replace("-", "−")  # no interval for two
    assert "(n" not in rows["CBST, three rounds"][3]


def test_texts_and_numbers_of_differences() -> None:
    found = Estimate(2.0, -0.5, 4.5, 0.04, 3.0, 3, 80)
    assert (
        estimate_text(found, 3) == "+2.0 [−0.5, +4.5]" and estimate_text(found, 4) == "+2.0 [−0.5, +4.5] (n = 3 of 4)"
    )
    assert estimate_text(found, 3, 0.049) == "+2.0 [−0.5, +4.5] *" and "*" not in estimate_text(found, 3, 0.05)
    alone = Estimate(-1.0, math.nan, math.nan, math.nan, math.nan, 1, 80, "one seed")
    assert estimate_text(alone, 1) == "−1.0 [–]"
    assert estimate_text(NOTHING, 3) == "–"
    column = Differences("x", [found, None, replace(found, p=0.03), alone])
    assert column.corrected[:1] + column.corrected[2:3] == pytest.approx([0.06, 0.06])  # Holm over the two tests
    assert math.isnan(column.corrected[1]) and math.isnan(column.corrected[3])
    assert column.numbers(0) == {
        **{"x_mean": 2.0, "x_low": -0.5, "x_high": 4.5, "x_p": 0.04, "x_p_holm": 0.06, "x_detectable": 3.0, "x_n": 3}
    }
    assert column.text(1, 3) == "–" and column.numbers(1)["x_n"] == 0
    notes = declared_notes([column])
    assert notes[1] == "Smallest detectable difference of these comparisons: 3.0 percentage points."
    assert notes[2:] == ["No interval [–]: one seed"]


def test_runs_without_counts_have_differences_without_intervals(staged: Path) -> None:
    for entry in entries_of(staged):
        if entry["recipe"] == "cbst":
            folder = Path(entry["evaluation"])
            (folder / "counts.npz").unlink()
            marker = json.loads((folder / "run.json").read_text())
            del marker["files"]["counts.npz"]
            (folder / "run.json").write_text(json.dumps(marker))
    table = main_table(Comparisons(read_report(staged)))
    cbst = table.numbers.set_index("method").loc["cbst"]
    assert cbst["difference_to_source_only_n"] == 3 and not math.isnan(cbst["difference_to_source_only_mean"])
    assert math.isnan(cbst["difference_to_source_only_low"]) and math.isnan(cbst["difference_to_source_only_p"])
    assert any(note.startswith("No interval [–]: The runs do not tell of their images") for note in table.notes)
    assert not table.best


def test_rows_of_equal_weights_are_told_and_not_tested(study: Path) -> None:
    """A module that does nothing in a study, such as a sampler of fewer pixels than there are, is not shown useless."""
    entries = {(entry["recipe"], entry["seed"]): entry for entry in entries_of(study)}
    for seed in (0, 1, 2):
        for key, name in (("run", "model.safetensors"), ("evaluation", "metrics.json"), ("evaluation", "counts.npz")):
            one, other = (Path(entries[recipe, seed][key]) for recipe in ("source_only", "dann"))
            shutil.copy(one / name, other)
            marker = json.loads((other / "run.json").read_text())
            marker["files"][name] = json.loads((one / "run.json").read_text())["files"][name]
            (other / "run.json").write_text(json.dumps(marker))
    report = read_report(study)
    baseline, difference = report.rows["source_only"].final, Comparisons(report).difference
    found = difference(report.rows["dann"].final, baseline)
    assert (found.value, found.seeds, found.reason) == (0.0, 3, SAME) and math.isnan(found.p)
    other_seed = difference(report.rows["oracle"].final, baseline)
    assert not other_seed.reason and not math.isnan(other_seed.p)


def test_a_shared_run_counts_once(staged: Path) -> None:
    report = read_report(staged)
    folders = {entry["run"] for entry in entries_of(staged)}
    once = report.each_once()
    assert len(once) == len({run.folder for run in once}) == len(folders) + 1  # and the pretraining
    warmup = next(e["run"] for e in entries_of(staged) if e["stage"] == "warmup")
    run = next(run for run in once if str(run.folder) == warmup)
    assert (run.recipe, run.final) == ("adaptsegnet", True)
    assert [(row.name, stage) for row, stage in report.places(run)] == list(SHARED.items())
    assert len(run_table(report).rows) == len(once)
    row = next(row for row in run_table(report).rows if row[1] == "main / warmup")
    assert row[0] == "AdaptSegNet / CBST, three rounds / ProDA, stages 1 to 3 / ProDA, stages 1 to 3 (released KD)"
    hours = sum(json.loads((run.folder / "cost.json").read_text())["seconds"] for run in once) / 3600
    assert any(f"together: {hours:.1f} hours" in note for note in cost_table(report).notes)
    assert dict(page.summary(report))["Runs finished"] == "21 of 21"


def test_the_cost_of_a_recipe_is_that_of_all_its_stages(staged: Path) -> None:
    entries = [e for e in entries_of(staged) if e["recipe"] == "proda"]
    costs = {(e["seed"], e["stage"]): json.loads((Path(e["run"]) / "cost.json").read_text()) for e in entries}
    row = cost_table(read_report(staged)).numbers.set_index("method").loc["proda"]
    assert row["stages"] == 4 and row["iterations_mean"] == 400
    assert row["seconds_mean"] == pytest.approx(sum(cost["seconds"] for cost in costs.values()) / 3)
    peaks = [max(cost["peak_memory_mib"] for (s, _), cost in costs.items() if s == seed) for seed in (0, 1, 2)]
    assert row["peak_memory_mib_mean"] == pytest.approx(statistics.mean(peaks))


def test_a_shared_run_that_is_missing_is_named_once(staged: Path) -> None:
    warmup = next(e["run"] for e in entries_of(staged) if e["stage"] == "warmup" and e["seed"] == 2)
    shutil.rmtree(warmup)
    report = read_report(staged)
    uses = " / ".join(f"{recipe}, stage {stage}" for recipe, stage in SHARED.items())
    assert missing_notes(report) == [f"{uses}, seed 2: has not been run ({warmup})."]
    table = stage_table(Comparisons(report))
    assert table is not None and table.rows[0][2].endswith("(n = 2 of 3)")
    assert table.rows[1][3].endswith("(n = 2 of 3)") and "(n" not in table.rows[1][4]
    assert cost_table(report).numbers.set_index("method").loc["proda", "seconds_n"] == 2


def test_a_panel_of_losses_for_each_training(staged: Path) -> None:
    report = read_report(staged)
    history = history_frame(report)
    panels = [axes for axes in all_figures(Comparisons(report))["losses"][1].axes if axes.axison]
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in panels]
    assert titles[:5] == ["Pretraining", "Source only", "AdaBN", "AdaptSegNet", "CBST, three rounds: round1"]
    trained = history[["row", "stage"]].drop_duplicates()
    assert len(titles) == len(set(titles)) == len(trained) == 4 + 3 + 1 + 2 + 2 + 1
    legend = panels[4].get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["seg", "pseudo"]


def test_terms_that_lie_far_apart_share_a_logarithmic_axis() -> None:
    assert apart([pd.Series([0.1, 0.2]), pd.Series([8.0, 9.0])])
    assert not apart([pd.Series([1.0]), pd.Series([8.0])])
    assert not apart([pd.Series([0.0, 0.2]), pd.Series([8.0, 9.0])])


def test_the_figure_of_stages_has_a_line_per_recipe(staged: Path) -> None:
    figure = stage_lines(Comparisons(read_report(staged)))
    assert figure is not None
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "warmup",
        *(f"round{i}\nstage{i}" for i in (1, 2, 3)),
    ]
    handles, titles = axes.get_legend_handles_labels()
    assert set(titles) == {
        "Source only", "Oracle", "CBST, three rounds", "ProDA, stages 1 to 3", "ProDA, stages 1 to 3 (released KD)"
    }  # fmt: skip
    drawn = handles[titles.index("CBST, three rounds")].lines[0].get_ydata()
    expected = [statistics.mean(miou(staged, "cbst", stage).values()) for stage in ("warmup", *ROUNDS)]
    assert list(drawn) == pytest.approx(expected)
    again = stage_lines(Comparisons(read_report(staged)))
    assert again is not None and render(again) == render(figure)


def test_a_stage_that_is_not_scored_has_no_place(staged: Path) -> None:
    content = yaml.safe_load(staged.read_text())
    for entry in content["runs"]:
        if (entry["recipe"], entry["stage"]) == ("cbst", "warmup"):
            entry["evaluation"] = None
    staged.write_text(yaml.safe_dump(content))
    report = read_report(staged)
    table, figure = stage_table(Comparisons(report)), stage_lines(Comparisons(report))
    assert table is not None and figure is not None
    assert [row[1] for row in table.rows[: len(ROUNDS)]] == list(ROUNDS)
    assert str(table.rows[0][3]) == str(table.rows[len(ROUNDS)][3])  # no stage before it, as in the next recipe
    assert figure.axes[0].get_xticklabels()[0].get_text().split("\n")[0] == ROUNDS[0]


def test_a_study_of_single_stages_has_neither(study: Path) -> None:
    report = read_report(study)
    assert stage_table(Comparisons(report)) is None and stage_lines(Comparisons(report)) is None
    names = [table.name for table in all_tables(Comparisons(report)) if not table.name.startswith("published_")]
    assert names == ["main", "classes", "cost", "runs"]


def test_points_of_a_sweep_keep_their_stages_apart(staged: Path) -> None:
    content = yaml.safe_load(staged.read_text())
    for entry in content["runs"]:
        if entry["recipe"] == "proda_released":
            entry |= {"recipe": "proda", "title": "ProDA", "overrides": "kd=released" if entry["final"] else ""}
    content["recipes"].remove("proda_released")
    staged.write_text(yaml.safe_dump(content))
    report = read_report(staged)
    for label in ("proda (defaults)", "proda (kd=released)"):
        assert list(report.rows[label].stages) == ["warmup", "stage1", "stage2", "stage3"]
        assert all(len(report.rows[label].stages[stage].runs) == 3 for stage in list(report.rows[label].stages))
