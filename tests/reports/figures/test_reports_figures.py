"""Figures: what their artists show is computed here a second time, from the files of the runs."""

import json
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from support.fabricate import CLASSES, TITLES, fabricate

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.confusion import PANELS, confusion_figure
from udaseg.reports.figures.contents import all_figures
from udaseg.reports.figures.cost import cost_figure
from udaseg.reports.figures.curves import diagnostics, losses, monitor
from udaseg.reports.figures.qualitative import qualitative, scenes
from udaseg.reports.figures.scores import class_bars
from udaseg.reports.figures.style import COLOURS, STYLE, lay_out, render
from udaseg.reports.read.history import history_frame
from udaseg.reports.read.report import Report
from udaseg.reports.read.run_folders import read_report

RECORDS = Path("reports/reference/demo/runs")


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    """As `all_figures` draws."""
    with matplotlib.rc_context(STYLE):
        yield


def entries_of(spec: Path, recipe: str, final: bool = True) -> list[dict[str, Any]]:
    """The report spec's entries of a recipe whose evaluation is there, one for each seed where only final ones are."""
    runs = [entry for entry in yaml.safe_load(spec.read_text())["runs"] if entry["recipe"] == recipe]
    there = [entry for entry in runs if (Path(entry["evaluation"]) / "metrics.json").is_file()]
    return [entry for entry in there if entry["final"] or not final]


def last_scores(entry: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads((Path(entry["evaluation"]) / "metrics.json").read_text())["scores"]["last"])


def shares(spec: Path, recipe: str) -> np.ndarray:
    """Confusion in percent of the rows, over the seeds together."""
    total = sum(np.array(last_scores(entry)["confusion"], dtype=float) for entry in entries_of(spec, recipe))
    with np.errstate(invalid="ignore"):
        return 100 * total / total.sum(axis=1, keepdims=True)


def panels(figure: Figure) -> dict[str, Any]:
    """Title → axes of the panels in sight."""
    return {axes.get_title(loc="left").replace("\n", " "): axes for axes in figure.axes if axes.axison}


def meshes(figure: Figure) -> dict[str, np.ma.MaskedArray]:
    """Title → cells (C, C) of a confusion matrix."""
    shown = {name: [c for c in axes.collections if isinstance(c, QuadMesh)] for name, axes in panels(figure).items()}
    return {name: found[0].get_array() for name, found in shown.items() if name and found}


def drawn(found: tuple[str, Figure] | None) -> tuple[str, Figure]:
    assert found is not None
    return found


def test_confusion_matrices_are_those_of_all_seeds_together(study: Path) -> None:
    caption, figure = drawn(confusion_figure(Comparisons(read_report(study))))
    found = meshes(figure)
    names = {"Source only": "source_only", "DANN": "dann", "Oracle": "oracle"}
    names["AdaptSegNet, multi-level"] = "adaptsegnet_multi"
    assert set(found) == set(names)
    for title, recipe in names.items():
        expected = shares(study, recipe)
        np.testing.assert_allclose(found[title].filled(np.nan), expected)
        written = {(text.get_position(), text.get_text()) for text in panels(figure)[title].texts}
        places = [(r, c) for r in range(len(CLASSES)) for c in range(len(CLASSES)) if expected[r, c] >= 1]
        assert written == {((c + 0.5, r + 0.52), f"{expected[r, c]:.0f}") for r, c in places}
    assert "Hatched: no pixel in the ground truth." in caption
    axes = panels(figure)["DANN"]
    assert [patch.get_y() for patch in axes.patches if patch.get_hatch()] == [CLASSES.index("train")]
    assert [label.get_text() for label in axes.get_xticklabels()] == [name.replace("_", " ") for name in CLASSES]


def test_a_confusion_matrix_says_which_seeds_and_rows_are_missing(study: Path) -> None:
    for entry in [*entries_of(study, "adaptsegnet_multi")[:1], *entries_of(study, "dann")]:
        shutil.rmtree(entry["evaluation"])
    caption, figure = drawn(confusion_figure(Comparisons(read_report(study))))
    found = meshes(figure)["AdaptSegNet, multi-level (n = 2 of 3)"]
    np.testing.assert_allclose(found.filled(np.nan), shares(study, "adaptsegnet_multi"))
    assert "DANN" not in meshes(figure)
    assert caption.endswith("Without a scored run: DANN.")


def test_of_many_rows_the_best_are_shown_and_the_others_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = ("adabn", "dann", "adaptsegnet", "adaptsegnet_multi", "cbst", "proda", "proda_released", "plca")
    recipes = ("plca_aggregated", "source_only", *methods, "oracle")
    spec = fabricate(tmp_path, recipes, seeds=(0,), iterations=20, pictures=0)
    monkeypatch.chdir(tmp_path)
    report = read_report(spec)
    caption, figure = drawn(confusion_figure(Comparisons(report)))
    means = {name: last_scores(entries_of(spec, name)[0])["sets"]["mIoU11"] for name in methods}
    best = sorted(methods, key=lambda name: -means[name])[: PANELS - 2]
    kept = ["source_only", *(name for name in methods if name in best), "oracle"]
    assert list(meshes(figure)) == [report.rows[name].title for name in kept]
    left = caption.partition("left out: ")[2].rstrip(".").split("; ")
    assert left == ["PLCA, mIoU11_aggregated", *(report.rows[name].title for name in methods if name not in best)]


def cost_of(spec: Path, recipe: str) -> tuple[list[float], list[float]]:
    """Hours of all stages and score in percent, by seed."""
    stages = entries_of(spec, recipe, final=False)
    times, found = [], []
    for final in entries_of(spec, recipe):
        runs = [Path(entry["run"]) for entry in stages if entry["seed"] == final["seed"]]
        times.append(sum(json.loads((run / "cost.json").read_text())["seconds"] for run in runs) / 3600)
        found.append(100 * last_scores(final)["sets"]["mIoU11"])
    return times, found


def cost_points(figure: Figure) -> dict[str, Any]:
    """Recipe → error bars."""
    return {str(bars.get_label()): bars for bars in figure.axes[0].containers}


def test_cost_is_of_all_stages_and_its_bars_are_the_ranges_over_seeds(staged: Path) -> None:
    _, figure = drawn(cost_figure(Comparisons(read_report(staged))))
    found = cost_points(figure)
    recipes = ("source_only", "adabn", "adaptsegnet", "cbst", "proda", "proda_released", "oracle")
    assert set(found) == set(recipes)
    for recipe in recipes:
        times, values = cost_of(staged, recipe)
        point, _, bars = found[recipe]
        assert point.get_xydata()[0] == pytest.approx([statistics.mean(times), statistics.mean(values)])
        across, up = (bar.get_segments()[0] for bar in bars if isinstance(bar, LineCollection))
        assert list(across[:, 0]) == pytest.approx([min(times), max(times)])
        assert list(up[:, 1]) == pytest.approx([min(values), max(values)])
    assert found["source_only"][0].get_color() == "#7a7a7a"
    assert found["oracle"][0].get_color() == "#000000"


def test_the_line_joins_what_no_other_row_beats(staged: Path) -> None:
    _, figure = drawn(cost_figure(Comparisons(read_report(staged))))
    means = {
        recipe: tuple(map(statistics.mean, cost_of(staged, recipe)))
        for recipe in ("source_only", "adabn", "adaptsegnet", "cbst", "proda", "proda_released")
    }
    best = sorted(
        (time, score)
        for time, score in means.values()
        if not any(other[0] <= time and other[1] > score for other in means.values())
        if not any(other[0] < time and other[1] >= score for other in means.values())
    )
    line = next(line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    assert 1 < len(best) < len(means)
    np.testing.assert_allclose(line.get_xydata(), best)


def test_a_row_without_all_its_stages_at_a_seed_says_so(staged: Path) -> None:
    shutil.rmtree(
        next(e["run"] for e in entries_of(staged, "proda", final=False) if (e["stage"], e["seed"]) == ("stage2", 1))
    )
    for entry in entries_of(staged, "adabn"):
        shutil.rmtree(entry["run"])
    caption, figure = drawn(cost_figure(Comparisons(read_report(staged))))
    kept = [[values[seed] for seed in (0, 2)] for values in cost_of(staged, "proda")]
    assert cost_points(figure)["proda"][0].get_xydata()[0] == pytest.approx([statistics.mean(v) for v in kept])
    assert "ProDA, stages 1 to 3 (n = 2 of 3)" in legend_names(figure)
    assert "AdaBN" not in legend_names(figure)
    assert caption.endswith("Without a seed that has both: AdaBN.")


def on_devices(report: Report, device: Callable[[str], str]) -> Report:
    return replace(report, runs=[replace(run, cost=run.cost | {"device": device(run.row)}) for run in report.runs])


def test_the_axis_names_the_device_and_different_ones_are_not_compared(study: Path) -> None:
    report = read_report(study)
    for name, expected in (("cpu", "CPU-hours of training"), ("A B", "GPU-hours (A B) of training")):
        _, figure = drawn(cost_figure(Comparisons(on_devices(report, lambda label, name=name: name))))  # type: ignore[misc]
        assert figure.axes[0].get_xlabel() == expected
    mixed = on_devices(report, lambda label: "A B" if label == "dann" else "cpu")
    caption, figure = drawn(cost_figure(Comparisons(mixed)))
    assert figure.axes[0].get_xlabel() == "Device-hours of training"
    assert "Made on different devices (A B, cpu): the times cannot be compared." in caption
    assert not any(line.get_drawstyle() == "steps-post" for line in figure.axes[0].lines)


def test_scores_of_another_metric_are_hollow_and_not_on_the_line(mixed: Path) -> None:
    caption, figure = drawn(cost_figure(Comparisons(read_report(mixed))))
    found = cost_points(figure)
    assert "memory_bank_100" not in found
    hollow = {label for label, bars in found.items() if bars[0].get_markerfacecolor() == "white"}
    assert hollow == {"plca_aggregated"}
    assert "Hollow: scored by another metric, not comparable." in caption
    line = next(line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    assert found["plca_aggregated"][0].get_xydata()[0].tolist() not in line.get_xydata().tolist()


def legend_names(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text().replace("\n", " ") for text in legend.get_texts()]


def test_the_legend_beside_the_costs_names_each_point_the_best_first(staged: Path) -> None:
    _, figure = drawn(cost_figure(Comparisons(read_report(staged))))
    recipes = ("source_only", "adabn", "adaptsegnet", "cbst", "proda", "proda_released", "oracle")
    means = {TITLES[recipe]: statistics.mean(cost_of(staged, recipe)[1]) for recipe in recipes}
    assert legend_names(figure) == sorted(means, key=lambda title: -means[title])
    (legend,) = figure.legends
    looks = [(handle.get_color(), handle.get_marker()) for handle in legend.legend_handles]
    drawn_as = [(bars[0].get_color(), bars[0].get_marker()) for bars in figure.axes[0].containers]
    assert len(set(looks)) == len(looks)
    assert looks == drawn_as


def test_the_legend_beside_the_costs_covers_nothing(staged: Path) -> None:
    _, figure = drawn(cost_figure(Comparisons(read_report(staged))))
    figure.set_dpi(100)
    renderer = FigureCanvasAgg(figure).get_renderer()
    lay_out(figure)
    box = figure.legends[0].get_window_extent(renderer)
    assert box.x0 >= figure.axes[0].bbox.x1
    assert (
        figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
    )


def test_class_bars_are_means_over_seeds_between_the_bounds(study: Path) -> None:
    figure = class_bars(read_report(study))
    assert figure is not None
    shown = {"DANN": "dann", "AdaptSegNet, multi-level": "adaptsegnet_multi"}
    assert set(panels(figure)) == set(shown)
    for title, axes in panels(figure).items():
        for index, name in enumerate(CLASSES[:-1]):
            means = [
                100 * statistics.mean(last_scores(entry)["iou"][name] for entry in entries_of(study, recipe))
                for recipe in (shown[title], "source_only", "oracle")
            ]
            found = [axes.patches[index].get_width(), *(line.get_xdata()[index] for line in axes.lines)]
            assert found == pytest.approx(means)


def test_curves_are_of_the_main_rows_and_a_shared_run_is_theirs(swept: Path) -> None:
    report = read_report(swept)
    history = history_frame(report)
    main = ["Source only", "DANN", "ProDA, stages 1 to 3", "Oracle"]
    stages = [f"{main[2]}: {stage}" for stage in ("warmup", "stage1", "stage2", "stage3")]
    for kind, expected in ((losses, ["Pretraining", *main[:2], *stages, main[3]]), (monitor, main[1:3])):
        figure = kind(report, history)
        assert figure is not None
        assert list(panels(figure)) == expected
    figure = diagnostics(report, history)
    assert figure is not None
    named = [text.get_text() for axes in panels(figure).values() for text in axes.get_legend().get_texts()]
    assert set(named) <= {*main, *stages}
    assert stages[0] in named  # the runs of "ProDA: parts, full" are the same


def test_what_only_sweeps_log_makes_no_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = fabricate(tmp_path, ("source_only", "oracle"), (0,), iterations=40, pictures=0, sweeps=("grid", "parts"))
    monkeypatch.chdir(tmp_path)
    found = all_figures(Comparisons(read_report(spec)))
    assert "diagnostics" not in found
    assert set(panels(found["losses"][1])) == {"Pretraining", "Source only", "Oracle"}
    assert set(meshes(found["confusion"][1])) == {"Source only", "Oracle"}
    assert set(cost_points(found["cost"][1])) == {"source_only", "oracle"}


def test_the_sum_over_a_band_is_that_of_the_histories(study: Path) -> None:
    report = read_report(study)
    figure = losses(report, history_frame(report))
    assert figure is not None
    axes = panels(figure)["DANN"]
    runs = [Path(entry["run"]) for entry in entries_of(study, "dann")]
    lines = [[json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()] for run in runs]
    for curve in axes.lines:
        values = [[line["terms"][curve.get_label()] for line in own if "terms" in line] for own in lines]
        assert list(curve.get_ydata()) == pytest.approx(np.mean(values, axis=0).tolist())
    looks = [(line.get_label(), line.get_color()) for line in axes.lines]
    assert looks[0] == ("seg", COLOURS[0])
    assert len(set(looks)) == 2


def test_a_panel_above_an_empty_place_has_its_own_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = ("adabn", "dann", "adaptsegnet", "plca", "adaptsegnet_multi")  # three panels above two
    spec = fabricate(tmp_path, ("source_only", *methods, "oracle"), (0,), iterations=100, pictures=0)
    monkeypatch.chdir(tmp_path)
    report = read_report(spec)
    for figure in (class_bars(report), monitor(report, history_frame(report))):
        assert figure is not None
        figure.draw_without_rendering()
        labelled = [bool(axes.xaxis.get_tick_params()["labelbottom"]) for axes in figure.axes if axes.axison]
        assert labelled == [False, False, True, True, True]


def test_rows_on_record_have_no_pictures_but_all_else(swept: Path) -> None:
    before = all_figures(Comparisons(read_report(swept)))
    for entry in [*entries_of(swept, "dann"), *entries_of(swept, "proda", final=False)]:
        run = Path(entry["run"])
        if run.is_dir():
            leave = shutil.ignore_patterns("pictures", "*.safetensors", "*.build")
            shutil.copytree(run, RECORDS / run.relative_to("results"), ignore=leave)
            shutil.rmtree(run)
    report = read_report(swept)
    caption, _ = drawn(qualitative(report))
    assert caption.endswith("Without pictures: DANN; ProDA, stages 1 to 3.")
    assert list(scenes(report, 1)[0].panels) == ["image", "ground truth", "Source only", "Oracle"]
    after = all_figures(Comparisons(report))
    assert list(after) == list(before)
    assert [caption for caption, _ in after.values()] == [caption for caption, _ in before.values()]
    assert render(after["cost"][1]) == render(before["cost"][1])


def test_nothing_on_disk_but_records_has_no_grid_of_pictures(swept: Path) -> None:
    for pictures in Path("results").rglob("pictures"):
        shutil.rmtree(pictures)
    assert qualitative(read_report(swept)) is None


def test_equal_runs_make_equal_figures(swept: Path) -> None:
    for kind in (confusion_figure, cost_figure, lambda comparisons: ("", class_bars(comparisons.report))):
        one, other = (render(drawn(kind(Comparisons(read_report(swept))))[1]) for _ in range(2))
        assert one == other
    assert set(one) == {"svg", "png"}


def test_a_study_without_a_result_has_no_figures(study: Path) -> None:
    shutil.rmtree("results")
    assert all_figures(Comparisons(read_report(study))) == {}
