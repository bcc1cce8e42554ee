"""What DVC compares: scores and curves as plain files, recomputed here; and a report that no clock changes."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from udaseg.reports import summary
from udaseg.reports.build import build_report
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Run
from udaseg.reports.read.run_folders import read_report


def finals(report: Report, recipe: str) -> list[Run]:
    return [run for run in report.runs if run.recipe == recipe and run.final]


def test_metrics_are_those_of_the_run_folders(study: Path) -> None:
    report = read_report(study)
    found = summary.metrics(report)
    name = report.headline
    means = {}
    for recipe, numbers in found.items():
        own = [100 * run.metrics["scores"]["last"]["sets"][name] for run in finals(report, recipe)]
        means[recipe] = np.mean(own)
        assert numbers[name] == pytest.approx(np.mean(own), abs=1e-4) and numbers["seeds"] == len(own) == 3
        assert numbers["std"] == pytest.approx(np.std(own, ddof=1), abs=1e-4)
    low, high = means["source_only"], means["oracle"]
    gap = 100 * (means["dann"] - low) / (high - low)
    assert found["dann"]["gap_closed"] == pytest.approx(gap, abs=1e-3)
    table = pd.read_csv(io.StringIO(summary.score_table(report)))
    assert list(table["recipe"]) == [row.name for row in report.main]
    assert table.set_index("recipe")["score"].to_dict() == pytest.approx(means, abs=1e-4)


def test_curves_are_means_of_the_histories(study: Path) -> None:
    report = read_report(study)
    table = pd.read_csv(io.StringIO(summary.curve_table(report)))
    assert set(table["recipe"]) == {row.name for row in report.main}
    at = {"loss seg": lambda line: line.get("terms", {}).get("seg")}
    at |= {report.headline: lambda line: 100 * line["monitor"][report.headline] if line.get("monitor") else None}
    for number, read in at.items():
        rows = table[(table["recipe"] == "dann") & (table["number"] == number)]
        iteration = int(rows["iteration"].max())
        lines = [line for run in finals(report, "dann") for line in run.history() if line["iteration"] == iteration]
        values = [value for line in lines if (value := read(line)) is not None]
        assert len(values) == 3
        assert float(rows[rows["iteration"] == iteration]["value"].iloc[0]) == pytest.approx(np.mean(values), abs=1e-4)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_the_versioned_report_is_the_same_whatever_a_clock_and_the_machine_said(study: Path) -> None:
    build_report(study, exact=Path("first"))
    for path in Path("results").rglob("cost.json"):
        cost = json.loads(path.read_text())
        path.write_text(json.dumps(cost | {"seconds": 7 * cost["seconds"], "device": "another"}))
    for path in Path("results").rglob("env.json"):
        path.unlink()
    build_report(study, exact=Path("second"))
    first = content(Path("first"))
    assert content(Path("second")) == first and not any("cost" in Path(name).stem for name in first)
    assert b"Seconds" not in first["tables/runs.md"] and b"no part of a versioned result" in first["tables/runs.md"]
    assert not read_report(study).output.exists()


def test_a_run_that_came_without_its_cost_is_a_dash_beside_the_others(study: Path) -> None:
    report = read_report(study)
    for run in finals(report, "dann"):
        (run.folder / "cost.json").unlink()
        (run.folder / "env.json").unlink()
    build_report(study)
    rows = (report.output / "tables/cost.md").read_text().splitlines()
    (dann,) = (row for row in rows if row.startswith("| DANN"))
    assert dann.count("–") >= 3 and any(row.startswith("| Source only") and "–" not in row for row in rows)
