"""Tables and figures of sweeps: their numbers against the run folders, computed here a second time."""

import json
import math
import shutil
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from support import fabricate as studies
from support.fabricate import CLASSES, Point, Sweep, fabricate

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.compare.statistics import Bootstrap, Draws
from udaseg.reports.compare.sweeps import sweep_points
from udaseg.reports.figures.style import render
from udaseg.reports.figures.sweeps import UNCHANGED, ablation_figures, axis_name, position
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.notes import missing_notes
from udaseg.reports.tables.sweeps import ablation_tables
from udaseg.reports.tables.table import Table

TERMS = {"seg": 1.9}


@cache
def parsed(text: str) -> dict[str, Any]:
    return yaml.safe_load(text)


def entries_of(spec: Path, recipe: str) -> list[dict[str, Any]]:
    return [entry for entry in parsed(spec.read_text())["runs"] if entry["recipe"] == recipe]


def scores_of(spec: Path, recipe: str) -> dict[int, float]:
    """Seed → mIoU11 in percent of the final runs, from the confusion matrices."""
    found = {}
    for entry in entries_of(spec, recipe):
        path = Path(entry["evaluation"]) / "metrics.json"
        if entry["final"] and path.is_file():
            matrix = json.loads(path.read_text())["scores"]["last"]["confusion"]
            hits = [matrix[k][k] for k in range(len(CLASSES))]
            union = [sum(matrix[k]) + sum(row[k] for row in matrix) - hits[k] for k in range(len(CLASSES))]
            found[entry["seed"]] = 100 * statistics.mean(h / u for h, u in zip(hits, union, strict=True) if u)
    return found


BOOTSTRAP = Bootstrap(studies.IMAGES, seed=0)


@cache
def redrawn(*files: Path) -> Draws:
    """A row from the counts.npz of its seeds alone."""
    return BOOTSTRAP.draw({seed: np.load(path)["counts"] for seed, path in enumerate(files)}, range(len(CLASSES)))


def row_of(spec: Path, recipe: str) -> Draws:
    final = sorted((e for e in entries_of(spec, recipe) if e["final"]), key=lambda entry: int(entry["seed"]))
    return redrawn(*(Path(entry["evaluation"]) / "counts.npz" for entry in final))


def named(tables: list[Table], name: str) -> Table:
    return next(table for table in tables if table.name == name)


def figure_of(spec: Path, name: str) -> Figure:
    return ablation_figures(Comparisons(read_report(spec)))[name][1]


def rewrite(spec: Path, change: Any) -> None:
    content = yaml.safe_load(spec.read_text())
    change(content)
    spec.write_text(yaml.safe_dump(content, sort_keys=False))


def skip_in_grid(content: dict[str, Any]) -> None:
    """Make two points of the grid, which are not neighbours, points without runs."""
    for name in ("gamma=5.0, domain=0.5", "gamma=20.0, domain=0.05"):
        label = f"grid/{name}"
        content["runs"] = [entry for entry in content["runs"] if entry["recipe"] != label]
        content["recipes"].remove(label)
        del content["sweeps"][0]["points"][label]
        content["skipped"].append({"sweep": "grid", "point": name, "reason": f"not {name}"})


def own_study(
    monkeypatch: pytest.MonkeyPatch, root: Path, levels: dict[str, float], over: Any = None, seeds: Any = (0, 1, 2)
) -> Path:
    """A study with one sweep 'own', whose points reach these levels; with `over` they are its values, in order."""
    values = [{name: value} for name, entries in (over or {}).items() for value in entries] or [{} for _ in levels]
    points = [
        Point(name, [studies.Stage("main", "dann", level, TERMS, key=f"own-{name}")], point)
        for (name, level), point in zip(levels.items(), values, strict=True)
    ]
    monkeypatch.setitem(studies.SWEEPS, "own", Sweep("Own", "dann", points, over or {}))
    monkeypatch.chdir(root)
    return fabricate(root, ("source_only", "oracle"), seeds, iterations=100, pictures=0, sweeps=("own",))


@pytest.mark.parametrize("sweep", ["grid", "patch_size", "parts"])
def test_every_number_is_that_of_the_run_folders(swept: Path, sweep: str) -> None:
    table = named(ablation_tables(Comparisons(read_report(swept))), f"ablation_{sweep}")
    given = next(entry for entry in parsed(swept.read_text())["sweeps"] if entry["name"] == sweep)
    others = {"source_only": "source_only"} | ({"reference": given["reference"]} if given["reference"] else {})
    numbers = table.numbers[~table.numbers["skipped"]].set_index("point")
    assert list(numbers.index) == list(given["points"].values())
    seen = {"metric", "skipped"}
    for label, point in given["points"].items():
        row, own = numbers.loc[point], scores_of(swept, label)
        expected: dict[str, float] = {"seeds_planned": 3, "mIoU11_n": 3}
        expected["mIoU11_mean"] = statistics.mean(own.values())
        expected["mIoU11_std"] = statistics.stdev(own.values())
        by_seed = [
            sum(
                json.loads((Path(e["run"]) / "cost.json").read_text())["seconds"]
                for e in entries_of(swept, label)
                if e["seed"] == s
            )
            for s in own
        ]
        expected |= {"seconds_mean": statistics.mean(by_seed), "seconds_n": 3, "seconds_std": statistics.stdev(by_seed)}
        for name, other in others.items():
            column = f"difference_to_{name}"
            if label == other:
                assert all(math.isnan(row[key]) for key in numbers if key.startswith(column) and key != f"{column}_n")
                expected[f"{column}_n"] = 0
                continue
            against, test = scores_of(swept, other), BOOTSTRAP.compare(row_of(swept, label), row_of(swept, other))
            expected[f"{column}_mean"] = statistics.mean(own[seed] - against[seed] for seed in own)
            expected |= {f"{column}_n": 3, f"{column}_low": test.low, f"{column}_high": test.high}
            expected |= {f"{column}_p": test.p, f"{column}_detectable": test.detectable}
            family = sorted(p for p in numbers[f"{column}_p"] if not math.isnan(p))
            steps = [(len(family) - rank) * p for rank, p in enumerate(family) if p <= test.p]
            expected[f"{column}_p_holm"] = min(1.0, max(steps))
        for key, value in expected.items():
            assert row[key] == pytest.approx(value), (point, key)
        values = entries_of(swept, label)[0]["point"] if given["over"] else {}
        for parameter, value in values.items():
            assert row[parameter] == ("x".join(map(str, value)) if isinstance(value, list) else value)
        seen |= expected.keys() | values.keys()
    assert set(numbers.columns) - seen <= {key for key in numbers if key.startswith("difference_to_reference")}


def test_without_what_a_clock_says_no_word_of_it_is_left(swept: Path) -> None:
    for table in ablation_tables(Comparisons(read_report(swept, measured=False))):
        assert "Seconds" not in table.header and not any("seconds" in name for name in table.numbers)
        assert not any(note.startswith("Seconds") for note in table.notes)


def test_cells_show_the_numbers(swept: Path) -> None:
    table = named(ablation_tables(Comparisons(read_report(swept))), "ablation_grid")
    assert table.header == [
        *("Point", "mIoU11 (last)", "Difference to the unchanged recipe", "Difference to Source only"),
        *("Smallest detectable difference", "Seconds"),
    ]
    for row, (_, numbers) in zip(table.rows, table.numbers.iterrows(), strict=True):
        assert row[0] == numbers["point"]
        assert row[1] == f"{numbers['mIoU11_mean']:.1f} ± {numbers['mIoU11_std']:.1f}"
        if row[0] == "gamma=10.0, domain=0.5":
            assert row[2] == row[4] == "–"
        else:
            ends = [f"{numbers[f'difference_to_reference_{end}']:+.1f}" for end in ("mean", "low", "high")]
            assert row[2].replace("−", "-").removesuffix(" *") == f"{ends[0]} [{ends[1]}, {ends[2]}]"
            assert row[2].endswith(" *") == (numbers["difference_to_reference_p_holm"] < 0.05)
            assert row[4] == f"{numbers['difference_to_reference_detectable']:.1f}"
        assert row[5] == f"{numbers['seconds_mean']:.0f}"
    pivot = table.numbers.pivot_table(index="main.knobs.gamma", columns="main.weights.domain", values="mIoU11_mean")
    assert pivot.shape == (3, 3)
    assert pivot.loc[20.0, 0.05] == pytest.approx(
        statistics.mean(scores_of(swept, "grid/gamma=20.0, domain=0.05").values())
    )


def test_a_run_that_rows_share_is_named_and_not_compared_with_itself(swept: Path) -> None:
    tables = ablation_tables(Comparisons(read_report(swept)))
    assert "'full' is the same run as ProDA, stages 1 to 3." in named(tables, "ablation_parts").notes
    notes = named(tables, "ablation_grid").notes
    assert "'gamma=10.0, domain=0.5' is the same run as DANN." in notes
    assert sum("same run" in note for note in notes) == 1
    rewrite(swept, lambda content: content.update(baseline="dann"))
    table = named(ablation_tables(Comparisons(read_report(swept))), "ablation_grid").numbers.set_index("point")
    assert table.loc["gamma=10.0, domain=0.5", "difference_to_dann_n"] == 0
    assert (table["difference_to_dann_n"] == 3).sum() == 8


def test_skipped_points_are_rows_of_dashes_in_their_place(swept: Path) -> None:
    rewrite(swept, skip_in_grid)
    tables = ablation_tables(Comparisons(read_report(swept)))
    grid = named(tables, "ablation_grid")
    expected = [f"gamma={gamma}, domain={domain}" for gamma in (5.0, 10.0, 20.0) for domain in (0.05, 0.5, 1.0)]
    assert [row[0] for row in grid.rows] == expected
    assert [index for index, row in enumerate(grid.rows) if set(row[1:]) == {"–"}] == [1, 6]
    assert list(grid.numbers["skipped"]) == [index in (1, 6) for index in range(9)]
    assert grid.numbers.loc[6, ["main.knobs.gamma", "main.weights.domain"]].to_list() == [20.0, 0.05]
    for name in ("gamma=5.0, domain=0.5", "gamma=20.0, domain=0.05"):
        assert f"'{name}' is skipped: not {name}" in grid.notes
    parts = named(tables, "ablation_parts")
    assert parts.rows[-1] == ["stage 1 without labels", *["–"] * 5]
    assert "'stage 1 without labels' is skipped: stage1.weights: seg cannot be turned off" in parts.notes


def test_skipped_points_that_are_no_combinations_are_refused(swept: Path) -> None:
    stray = {"sweep": "grid", "point": "gamma=7.0, domain=0.5", "reason": "not there"}
    rewrite(swept, lambda content: content["skipped"].append(stray))
    report = read_report(swept)
    with pytest.raises(ValueError, match="zip"):
        sweep_points(Comparisons(report), report.sweeps[0])


def test_missing_runs_are_dashes_and_footnotes_and_never_a_silent_mean(swept: Path) -> None:
    for entry in entries_of(swept, "grid/gamma=5.0, domain=1.0"):
        shutil.rmtree(entry["run"])
    lost = entries_of(swept, "grid/gamma=20.0, domain=1.0")[0]["run"]
    shutil.rmtree(lost)
    report = read_report(swept)
    table = named(ablation_tables(Comparisons(report)), "ablation_grid")
    rows = {row[0]: row for row in table.rows}
    assert rows["gamma=5.0, domain=1.0"][1:] == ["–"] * 5
    values = scores_of(swept, "grid/gamma=20.0, domain=1.0")
    assert len(values) == 2
    mean, spread = statistics.mean(values.values()), statistics.stdev(values.values())
    partly = rows["gamma=20.0, domain=1.0"]
    assert partly[1] == f"{mean:.1f} ± {spread:.1f} (n = 2 of 3)"
    reference = scores_of(swept, "grid/gamma=10.0, domain=0.5")
    difference = statistics.mean(values[seed] - reference[seed] for seed in values)
    assert partly[2] == f"{difference:+.1f} [–] (n = 2 of 3)".replace("-", "−")
    assert partly[4] == "–"
    assert partly[5].endswith(" (n = 2 of 3)")
    assert any("An interval needs at least 3 seeds, not 2" in note for note in table.notes)
    assert not table.best
    named_in_notes = [note for note in table.notes if note.startswith("grid/")]
    assert len(named_in_notes) == 4
    assert any(lost in note and "seed 0" in note for note in named_in_notes)
    assert not any("grid/" in note for note in named(ablation_tables(Comparisons(report)), "ablation_parts").notes)


def test_a_missing_run_of_the_baseline_is_named_under_every_table(swept: Path) -> None:
    lost = entries_of(swept, "source_only")[1]["run"]
    shutil.rmtree(lost)
    for table in ablation_tables(Comparisons(read_report(swept))):
        assert any(lost in note for note in table.notes)
        heading = table.header.index("Difference to Source only")
        assert table.rows[0][heading].endswith("[–] (n = 2 of 3)")


def test_nothing_finished_gives_tables_of_dashes_and_no_figures(swept: Path) -> None:
    shutil.rmtree("results")
    report = read_report(swept)
    for table in ablation_tables(Comparisons(report)):
        assert all(set(row[1:]) == {"–"} for row in table.rows)
        assert set(missing_notes(report, [report.rows[report.baseline]])) <= set(table.notes)
    assert ablation_figures(Comparisons(report)) == {}


def test_fewer_than_three_seeds_give_no_interval_and_no_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = own_study(monkeypatch, tmp_path, {"good": 0.9, "bad": 0.2}, seeds=(0, 1))
    (table,) = ablation_tables(Comparisons(read_report(spec)))
    assert any("No interval [–]: An interval needs at least 3 seeds, not 2." in note for note in table.notes)
    assert table.numbers["difference_to_source_only_p"].isna().all()
    assert not table.best
    assert table.header == [
        *("Point", "mIoU11 (last)", "Difference to Source only", "Smallest detectable difference", "Seconds")
    ]


def test_the_best_point_is_marked_only_where_the_test_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = own_study(monkeypatch, tmp_path, {"bad": 0.2, "good": 0.75, "worse": 0.1})
    (table,) = ablation_tables(Comparisons(read_report(spec)))
    assert table.best == {(1, 1)}
    assert not any("here none is" in note for note in table.notes)
    close = tmp_path / "close"
    close.mkdir()
    spec = own_study(monkeypatch, close, {"one": 0.5, "other": 0.501, "third": 0.499})
    (table,) = ablation_tables(Comparisons(read_report(spec)))
    assert table.best == frozenset()
    assert any(note.endswith("here none is.") for note in table.notes)


def test_a_point_of_another_metric_is_named_and_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(studies.AGGREGATED, "own/smoothed", 0.5)
    spec = own_study(monkeypatch, tmp_path, {"plain": 0.5, "smoothed": 0.8})
    (table,) = ablation_tables(Comparisons(read_report(spec)))
    assert [row[0] for row in table.rows] == ["plain", "smoothed, mIoU11_aggregated"]
    assert table.rows[1][2] == "–"
    assert not table.best
    assert any("PLCA's test-time aggregation" in note for note in table.notes)


def test_the_heat_map_holds_the_means(swept: Path) -> None:
    axes = figure_of(swept, "ablation_grid").axes[0]
    shown = np.ma.getdata(axes.images[0].get_array())
    for j, gamma in enumerate((5.0, 10.0, 20.0)):
        for i, domain in enumerate((0.05, 0.5, 1.0)):
            values = scores_of(swept, f"grid/gamma={gamma}, domain={domain}").values()
            assert shown[j, i] == pytest.approx(statistics.mean(values))
            texts = [text for text in axes.texts if text.xy == (i, j)]
            assert [text.get_text() for text in texts] == [
                f"{statistics.mean(values):.1f}\n± {statistics.stdev(values):.1f}"
            ]
    assert axes.get_xlabel() == "weight of domain (stage main)"
    assert axes.get_ylabel() == "gamma (stage main)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.05", "0.5", "1.0"]
    outlined = [patch for patch in axes.patches if isinstance(patch, Rectangle) and not patch.get_fill()]
    assert [patch.get_xy() for patch in outlined] == [(0.5, 0.5)]
    assert outlined[0].get_edgecolor()[:3] == to_rgb(UNCHANGED)


def test_cells_of_the_heat_map_can_be_read(swept: Path) -> None:
    """WCAG asks for a contrast of 4.5."""
    axes = figure_of(swept, "ablation_grid").axes[0]

    def luminance(colour: Any) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    image = axes.images[0]
    for text in axes.texts:
        value = image.get_array()[int(text.xy[1]), int(text.xy[0])]
        behind, front = sorted(luminance(c) for c in (image.cmap(image.norm(value))[:3], text.get_color()))
        assert (front + 0.05) / (behind + 0.05) >= 4.5


def test_cells_of_the_heat_map_without_a_result_are_hatched(swept: Path) -> None:
    rewrite(swept, skip_in_grid)
    for entry in entries_of(swept, "grid/gamma=10.0, domain=0.5"):
        shutil.rmtree(entry["run"])
    shutil.rmtree(entries_of(swept, "grid/gamma=20.0, domain=1.0")[2]["run"])
    axes = figure_of(swept, "ablation_grid").axes[0]
    hatched = {(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in axes.patches if patch.get_hatch()}
    assert hatched == {(1, 0), (0, 2), (1, 1)}
    texts = {text.xy: text.get_text() for text in axes.texts}
    assert texts[1, 0] == texts[0, 2] == "skipped"
    assert texts[1, 1] == "no result"
    assert texts[2, 2].endswith("\n(n = 2 of 3)")
    assert {(int(i), int(j)) for j, i in np.argwhere(np.ma.getmaskarray(axes.images[0].get_array()))} == hatched


def test_colours_of_a_heat_map_do_not_magnify_what_is_alike(swept: Path) -> None:
    low, high = figure_of(swept, "ablation_grid").axes[0].images[0].get_clim()
    means = ablation_tables(Comparisons(read_report(swept)))[0].numbers["mIoU11_mean"]
    assert low == pytest.approx(means.min())
    assert high == pytest.approx(means.max())  # they are further apart than the smallest range

    def keep_one(content: dict[str, Any]) -> None:
        sweep = content["sweeps"][0]
        sweep["over"] = {"main.knobs.gamma": [10.0], "main.weights.domain": [0.5]}
        sweep["points"] = {"grid/gamma=10.0, domain=0.5": "gamma=10.0, domain=0.5"}

    rewrite(swept, keep_one)
    low, high = figure_of(swept, "ablation_grid").axes[0].images[0].get_clim()
    assert high - low == pytest.approx(2)


def test_the_curve_has_every_seed_and_the_means(swept: Path) -> None:
    axes = figure_of(swept, "ablation_patch_size").axes[0]
    found = {size: list(scores_of(swept, f"patch_size/patch_size={size}x{size}").values()) for size in (24, 32, 48, 64)}
    line = next(line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 4)
    assert list(line.get_xdata()) == pytest.approx([24, 32, 48, 64])
    assert list(line.get_ydata()) == pytest.approx([statistics.mean(values) for values in found.values()])
    seeds = {
        (round(x), round(y, 6))
        for other in axes.lines
        if other.get_linestyle() == "None"
        for x, y in zip(other.get_xdata(), other.get_ydata(), strict=True)
    }
    assert seeds == {(size, round(value, 6)) for size, values in found.items() for value in values}
    assert axes.get_xlabel() == "patch_size (stage main, pixels)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["24x24", "32x32", "48x48", "64x64"]
    assert axes.get_xscale() == "linear"


def test_the_curve_is_broken_where_there_is_no_result(swept: Path) -> None:
    for entry in entries_of(swept, "patch_size/patch_size=32x32"):
        shutil.rmtree(entry["run"])
    shutil.rmtree(entries_of(swept, "patch_size/patch_size=48x48")[0]["run"])
    axes = figure_of(swept, "ablation_patch_size").axes[0]
    line = next(line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 4)
    assert list(np.isnan(line.get_ydata())) == [False, True, False, False]
    texts = [text.get_text() for text in axes.texts]
    assert "no result" in texts
    mean = statistics.mean(scores_of(swept, "patch_size/patch_size=48x48").values())
    assert f"{mean:.1f} (n = 2 of 3)" in texts


@pytest.mark.parametrize(
    ("values", "scale"),
    [([0.01, 0.1, 1.0], "log"), ([0.0, 0.1, 1.0], "symlog"), ([1, 2, 4], "linear"), ([-1.0, 0.1, 10.0], "linear")],
)
def test_the_axis_of_a_curve_is_logarithmic_over_a_decade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[float], scale: str
) -> None:
    levels = {f"alpha={value}": 0.4 + 0.1 * index for index, value in enumerate(values)}
    spec = own_study(monkeypatch, tmp_path, levels, over={"main.knobs.alpha": values})
    axes = figure_of(spec, "ablation_own").axes[0]
    assert axes.get_xscale() == scale
    assert list(axes.get_xticks()) == pytest.approx(values)
    assert axes.get_xlabel() == "alpha (stage main)"


def test_values_that_are_no_numbers_make_a_chart_of_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = own_study(
        monkeypatch, tmp_path, {"flag=true": 0.5, "flag=false": 0.6}, over={"main.knobs.flag": [True, False]}
    )
    axes = figure_of(spec, "ablation_own").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["flag=true", "flag=false"]


def test_the_chart_of_points_has_seeds_means_intervals_and_the_reference(swept: Path) -> None:
    figure = figure_of(swept, "ablation_parts")
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["full", "warm up only", "no structure learning", "stage 1 without labels"]
    for name, down, lines in zip(names[:3], axes.get_yticks(), axes.collections, strict=False):
        label = f"parts/{name}"
        values = scores_of(swept, label)
        marks = [line for line in axes.lines if line.get_linestyle() == "None" and line.get_ydata()[0] == down]
        assert {len(mark.get_xdata()) for mark in marks} == {1, 3}
        for mark in marks:
            expected = values.values() if len(mark.get_xdata()) == 3 else [statistics.mean(values.values())]
            assert list(mark.get_xdata()) == pytest.approx(list(expected))
        interval = BOOTSTRAP.mean(row_of(swept, label))
        assert lines.get_segments()[0][:, 0].tolist() == pytest.approx([interval.low, interval.high])
    (reference,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert reference.get_xdata()[0] == pytest.approx(statistics.mean(scores_of(swept, "parts/full").values()))
    assert "skipped" in [text.get_text() for text in axes.texts]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[0] == "the unchanged recipe"
    assert legend[1].startswith("Source only")


def test_a_baseline_far_away_does_not_press_the_points_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = own_study(monkeypatch, tmp_path, {"one": 0.70, "other": 0.71})
    figure = figure_of(spec, "ablation_own")
    baseline = statistics.mean(scores_of(spec, "source_only").values())
    assert figure.axes[0].get_xlim()[0] > baseline
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"Source only: {baseline:.1f}"]
    near = tmp_path / "near"
    near.mkdir()
    spec = own_study(monkeypatch, near, {"one": 0.50, "other": 0.54})
    figure = figure_of(spec, "ablation_own")
    low, high = figure.axes[0].get_xlim()
    assert low < baseline < high
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Source only"]


def test_points_that_are_nearly_alike_look_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = own_study(monkeypatch, tmp_path, {"one": 0.70}, seeds=(0,))
    axes = figure_of(spec, "ablation_own").axes[0]
    (value,) = scores_of(spec, "own/one").values()
    assert axes.get_xlim()[1] - axes.get_xlim()[0] >= 2
    assert axes.get_xlim()[0] < value < axes.get_xlim()[1]


def test_points_with_labelled_target_images_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = studies.Stage("main", "memory_bank", 0.7, TERMS, key="own-labelled", labelled_target=100)
    monkeypatch.setitem(studies.SWEEPS, "own", Sweep("Own", "dann", [Point("with labels", [stage])]))
    monkeypatch.chdir(tmp_path)
    recipes = ("source_only", "oracle")
    report = read_report(fabricate(tmp_path, recipes, iterations=100, pictures=0, sweeps=("own",)))
    (table,) = ablation_tables(Comparisons(report))
    assert table.rows[0][0] == "with labels (N = 100)"
    assert table.rows[0][2] == "–"
    assert any("N = target images with labels" in note for note in table.notes)
    figure = ablation_figures(Comparisons(report))["ablation_own"][1]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["with labels (N = 100)"]
    assert not figure.legends  # the baseline is not measured alike


def test_figures_are_left_out_one_by_one_and_are_equal_bytes(swept: Path) -> None:
    for size in (24, 32, 48, 64):
        for entry in entries_of(swept, f"patch_size/patch_size={size}x{size}"):
            shutil.rmtree(entry["run"])
    first, second = (ablation_figures(Comparisons(read_report(swept))) for _ in range(2))
    assert list(first) == list(second) == ["ablation_grid", "ablation_parts"]
    for name, (caption, figure) in first.items():
        assert "mIoU11" in caption
        assert render(figure) == render(second[name][1])


@pytest.mark.parametrize(("value", "place"), [(0.1, 0.1), (3, 3.0), ([32, 32], 32.0), ([16, 64], 32.0)])
def test_positions_of_values(value: Any, place: float) -> None:
    assert position(value) == pytest.approx(place)


@pytest.mark.parametrize("value", [[1, 2, 3], [0.5, 1.0], [0, 4], True, "paper", None])
def test_what_has_no_position(value: Any) -> None:
    assert math.isnan(position(value))


def test_names_of_axes() -> None:
    assert axis_name("stage1.knobs.alpha", [0.1]) == "alpha (stage stage1)"
    assert axis_name("main.weights.pixel", [0.1]) == "weight of pixel (stage main)"
    assert axis_name("main.train.source.batch", [4]) == "train.source.batch (stage main)"


def test_tables_of_a_study_without_sweeps_are_none(study: Path) -> None:
    report = read_report(study)
    assert ablation_tables(Comparisons(report)) == []
    assert ablation_figures(Comparisons(report)) == {}


def test_numbers_are_plain_columns(swept: Path) -> None:
    for table in ablation_tables(Comparisons(read_report(swept))):
        assert isinstance(table.numbers, pd.DataFrame)
        assert table.numbers.columns.is_unique
        assert len(table.numbers) == len(table.rows)
        assert all(len(row) == len(table.header) for row in table.rows)
