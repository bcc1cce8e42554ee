"""The scorecard: the declared rule in all its branches, and numbers that are those of the run folders."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fabricate import CLASSES, fabricate

from udaseg.config.claims import Claim
from udaseg.reports.compare import claims as scorecard
from udaseg.reports.compare.claims import alike_verdict, better_verdict, claim_p, rare_classes
from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.compare.statistics import LEVEL, Estimate
from udaseg.reports.read.report import Report
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.claims import claims_table
from udaseg.reports.tables.table import DASH, Table
from udaseg.validation import validate

NAN = math.nan


def estimate(value: float, low: float = NAN, high: float = NAN, p: float = NAN, seeds: int = 3) -> Estimate:
    return Estimate(value, low, high, p, NAN, seeds, 100)


def claim(name: str = "one", **content: Any) -> Claim:
    shared = {"name": name, "claim": f"Claim {name}", "paper": "ProDA", "where": "Table 3"}
    return validate(Claim, shared | content)


def pairs(*both: tuple[str, str]) -> list[dict[str, str]]:
    return [{"better": own, "than": other} for own, other in both]


def table_of(report: Report, *claims: Claim) -> Table:
    table = claims_table(Comparisons(report), claims)
    assert table is not None
    return table


BETTER = [
    # One pair: significant either way, below what is worth having, or neither.
    ([estimate(2.0, 0.1, 3.9, 0.04)], 0.04, "reproduced"),
    ([estimate(2.0, 0.1, 3.9, 0.04)], LEVEL, "undecided (3 seeds)"),  # the corrected p counts, and is to be below
    ([estimate(0.3, 0.1, 0.49, 0.01)], 0.01, "reproduced"),  # small, but it is there
    ([estimate(0.3, 0.1, 0.49, 0.01)], 0.2, "not reproduced"),  # by the interval
    ([estimate(0.3, 0.1, 0.5, 0.01)], 0.2, "undecided (3 seeds)"),  # not wholly below
    ([estimate(-2.0, -3.9, -0.1, 0.04)], 0.04, "not reproduced"),
    ([estimate(-2.0, -4.9, 0.9, 0.3)], 0.3, "undecided (3 seeds)"),
    ([estimate(-2.0, -4.9, 0.4, 0.2)], 0.2, "not reproduced"),
    ([estimate(0.0, -2.0, 2.0, 1.0)], 1.0, "undecided (3 seeds)"),
    # Several: all have to hold, one is enough against them.
    ([estimate(2.0, 0.1, 3.9, 0.01), estimate(1.0, 0.1, 1.9, 0.02)], 0.02, "reproduced"),
    ([estimate(2.0, 0.1, 3.9, 0.01), estimate(1.0, -0.9, 2.9, 0.3)], 0.3, "undecided (3 seeds)"),
    ([estimate(2.0, 0.1, 3.9, 0.01), estimate(-1.0, -1.9, -0.1, 0.01)], 0.02, "not reproduced"),
    ([estimate(9.0, 8.0, 9.9, 0.001), estimate(-1.0, -2.9, 0.9, 0.3)], 0.6, "undecided (3 seeds)"),
    ([estimate(9.0, 8.0, 9.9, 0.001), estimate(-1.0, -2.3, 0.3, 0.2)], 0.4, "not reproduced"),
    # Too few seeds for an interval: the fewest of them are told.
    ([estimate(2.0, seeds=2)], NAN, "undecided (2 seeds)"),
    ([estimate(-9.0, seeds=1)], NAN, "undecided (1 seed)"),
    ([estimate(NAN, seeds=0), estimate(2.0, 1.0, 3.0, 0.01)], NAN, "undecided (0 seeds)"),
    ([estimate(-2.0, -4.0, -1.0, 0.01), estimate(9.0, seeds=2)], 0.02, "not reproduced"),
]


@pytest.mark.parametrize(("estimates", "corrected", "verdict"), BETTER)
def test_the_verdict_that_something_is_better(estimates: Sequence[Estimate], corrected: float, verdict: str) -> None:
    assert better_verdict(estimates, corrected) == verdict


@pytest.mark.parametrize(
    ("estimates", "verdict"),
    [
        ([estimate(0.2, -0.9, 0.9)], "reproduced"),
        ([estimate(0.0, -1.0, 1.0)], "reproduced"),  # ends on the margin are within it
        ([estimate(0.2, -0.9, 1.01)], "undecided (3 seeds)"),
        ([estimate(2.0, 1.0, 3.0)], "undecided (3 seeds)"),  # touches it
        ([estimate(2.0, 1.01, 3.0)], "not reproduced"),
        ([estimate(-2.0, -3.0, -1.01)], "not reproduced"),
        ([estimate(0.2, -0.9, 0.9), estimate(0.3, -1.9, 0.9)], "undecided (3 seeds)"),
        ([estimate(0.2, -0.9, 0.9), estimate(3.3, 1.9, 4.9)], "not reproduced"),
        ([estimate(0.0, seeds=2)], "undecided (2 seeds)"),
        ([estimate(0.2, -0.9, 0.9), estimate(NAN, seeds=0)], "undecided (0 seeds)"),
    ],
)
def test_the_verdict_that_rows_are_alike(estimates: Sequence[Estimate], verdict: str) -> None:
    assert alike_verdict(estimates, 1.0) == verdict


@pytest.mark.parametrize(
    ("estimates", "p"),
    [
        ([estimate(1.0, p=0.03)], 0.03),
        ([estimate(-1.0, p=0.03)], 0.03),
        ([estimate(1.0, p=0.03), estimate(1.0, p=0.2)], 0.2),  # both have to hold
        ([estimate(1.0, p=0.001), estimate(-1.0, p=0.2), estimate(-1.0, p=0.1)], 0.3),  # any is enough, of three
        ([estimate(-1.0, p=0.4), estimate(-1.0, p=0.9), estimate(1.0, p=0.9)], 1.0),
        ([estimate(1.0, p=0.03), estimate(1.0, seeds=2)], NAN),
        ([estimate(-1.0, p=0.03), estimate(1.0, seeds=2)], 0.06),
        ([estimate(-1.0, seeds=2)], NAN),
    ],
)
def test_the_p_of_a_claim(estimates: Sequence[Estimate], p: float) -> None:
    assert claim_p(estimates) == pytest.approx(p, nan_ok=True)


ORACLE = claim("oracle", pairs=pairs(("oracle", "source_only")))
CONTRARY = claim("contrary", pairs=pairs(("source_only", "oracle"), ("proda", "source_only")))
BEST = "grid/gamma=10.0, domain=0.5"
SIZES = [f"patch_size/patch_size={size}x{size}" for size in (24, 32, 64)]
MANY = claim("many", pairs=pairs(*((name, "source_only") for name in SIZES)))
ALIKE = claim("alike", alike=SIZES, to="patch_size/patch_size=48x48", margin=40.0)
STAGES = claim("stages", pairs=pairs(("proda:stage3", "proda:warmup")))
ABSENT = claim("absent", pairs=pairs(("cpsl:stage2", "proda"), ("parts/none", "proda")))


def headline(report: Report, row: str, seed: int, stage: str | None = None) -> float:
    """The score in percent that a row's metrics.json has."""
    run = next(
        run
        for run in report.runs
        if run.recipe == row and run.seed == seed and (run.final if stage is None else run.stage == stage)
    )
    assert run.evaluation is not None
    return 100 * float(json.loads((run.evaluation / "metrics.json").read_text())["scores"]["last"]["sets"]["mIoU11"])


def test_the_scorecard(swept: Path) -> None:
    report = read_report(swept)
    table = table_of(report, ORACLE, CONTRARY, MANY, ALIKE, STAGES, ABSENT)
    cells = dict(zip([row[1].removeprefix("Claim ") for row in table.rows], table.rows, strict=True))
    assert table.name == "claims"
    assert {len(row) for row in table.rows} == {len(table.header)}
    verdicts = {name: row[2] for name, row in cells.items()}
    assert verdicts["oracle"] == verdicts["alike"] == "reproduced"
    assert verdicts["contrary"] == "not reproduced" and verdicts["absent"] == DASH
    assert cells["oracle"][5] == "Oracle − Source only"
    assert cells["stages"][5] == "ProDA, stages 1 to 3, stage3 − ProDA, stages 1 to 3, warmup"
    assert cells["contrary"][5] == "Source only − Oracle; ProDA, stages 1 to 3 − Source only"
    assert cells["contrary"][3].count("[") == 2
    assert cells["absent"][2:6] == [DASH, DASH, DASH, "cpsl:stage2 − proda; parts/none − proda"]
    assert cells["alike"][4] == DASH
    notes = " ".join(table.notes)
    assert "'Claim absent' (ProDA): needs cpsl:stage2, parts/none, which this study does not have." in notes
    assert "'Claim alike': the margin is 40 percentage points to either side." in notes
    assert all(rule in table.notes for rule in scorecard.RULE)
    assert "Rare classes" not in notes


def test_every_number_is_that_of_the_runs(swept: Path) -> None:
    report = read_report(swept)
    numbers = table_of(report, ORACLE, CONTRARY, MANY, ALIKE, STAGES, ABSENT).numbers
    assert len(numbers) == 1 + 2 + 3 + 3 + 1 + 2  # a line for each comparison
    for line in numbers[numbers["claim"] != "absent"].to_dict("records"):
        own, other = ((row, stage or None) for row, _, stage in (line[key].partition(":") for key in ("own", "other")))
        expected = np.mean(
            [headline(report, own[0], seed, own[1]) - headline(report, other[0], seed, other[1]) for seed in (0, 1, 2)]
        )
        assert line["difference_mean"] == pytest.approx(expected, abs=1e-9)
        assert line["difference_low"] < expected < line["difference_high"] and line["difference_n"] == 3
    absent = numbers[numbers["claim"] == "absent"]
    assert absent["difference_mean"].isna().all() and (absent["difference_n"] == 0).all()


def test_the_family_of_the_correction_is_the_claims(swept: Path) -> None:
    """One p for each claim of pairs, corrected step by step; those of rows that are alike have none."""
    numbers = table_of(read_report(swept), ORACLE, CONTRARY, MANY, ALIKE, STAGES, ABSENT).numbers
    groups = dict(list(numbers.groupby("claim", sort=False)))
    assert all(own["claim_p"].nunique(dropna=False) == 1 for own in groups.values())
    ps = {str(name): float(own["claim_p"].iloc[0]) for name, own in groups.items()}
    assert math.isnan(ps.pop("alike")) and math.isnan(ps.pop("absent"))
    assert ps["many"] == groups["many"]["difference_p"].max()
    assert ps["contrary"] == 2 * groups["contrary"]["difference_p"].iloc[0]
    order = sorted(ps, key=lambda name: ps[name])
    corrected = np.minimum(1, np.maximum.accumulate([(4 - rank) * ps[name] for rank, name in enumerate(order)]))
    found = [groups[name]["difference_p_holm"].iloc[0] for name in order]
    np.testing.assert_allclose(found, corrected)


def test_of_many_comparisons_the_one_nearest_to_failing_is_shown(swept: Path) -> None:
    report = read_report(swept)
    table = table_of(report, MANY, ALIKE)
    gains = {name: np.mean([headline(report, name, s) - headline(report, "source_only", s) for s in (0, 1, 2)])
             for name in SIZES}  # fmt: skip
    least = min(gains, key=lambda name: gains[name])
    assert table.rows[0][5] == f"{least.removeprefix('patch_size/')} − Source only (smallest of 3)"
    assert table.rows[0][3].startswith(f"+{gains[least]:.1f} [")
    assert "(largest of 3)" in table.rows[1][5]
    assert any("claims.csv has all" in note for note in table.notes)


def test_rare_classes_are_compared_by_their_own_iou(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = read_report(swept)
    one = claim("rare", pairs=pairs(("oracle", "source_only")), classes="rare")
    assert rare_classes(report) == []
    lacking = table_of(report, one, ORACLE)
    assert lacking.rows[0][2:5] == [DASH, DASH, DASH]
    assert any("no class of this study is rare" in note for note in lacking.notes)

    monkeypatch.setattr(scorecard, "RARE", 0.06)
    confusion = np.array(next(run for run in report.runs if run.metrics).metrics["scores"]["last"]["confusion"])
    share = confusion.sum(axis=1) / confusion.sum()
    few = [name for name, part in zip(CLASSES, share, strict=True) if 0 < part < 0.06]
    assert "train" not in few  # which has no pixels
    assert rare_classes(report) == few and 0 < len(few) < len(CLASSES) - 1

    table = table_of(report, one, claim("named", pairs=pairs(("oracle", "source_only")), classes=["sky", "car"]))
    for members, mean in zip((few, ["sky", "car"]), table.numbers["difference_mean"], strict=True):
        ious = {
            row: np.mean(
                [run.metrics["scores"]["last"]["iou"][name] for run in report.rows[row].final.runs for name in members]
            )
            for row in ("oracle", "source_only")
        }
        assert mean == pytest.approx(100 * (ious["oracle"] - ious["source_only"]))
    assert any(f"{', '.join(few)}. The difference is that of their mIoU." in note for note in table.notes)


def test_classes_that_a_study_lacks_are_told(swept: Path) -> None:
    table = table_of(
        read_report(swept), ORACLE, claim("few", pairs=pairs(("oracle", "proda")), classes=["sky", "tram"])
    )
    assert table.rows[1][2] == DASH
    assert any("needs the classes tram, which this study does not have" in note for note in table.notes)


def test_a_missing_run_makes_a_claim_undecided_and_is_named(swept: Path) -> None:
    run = next(run for run in read_report(swept).rows["oracle"].final.runs if run.seed == 1)
    shutil.rmtree(run.folder)
    table = table_of(read_report(swept), ORACLE)
    assert table.rows[0][3].endswith("[–] (n = 2 of 3)")
    assert (table.rows[0][2], table.rows[0][4]) == ("undecided (2 seeds)", DASH)
    assert any(str(run.folder) in note and "has not been run" in note for note in table.notes)
    assert any("needs at least 3 seeds" in note for note in table.notes)


def test_two_seeds_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = fabricate(tmp_path, ("source_only", "oracle"), seeds=(0, 1), iterations=100, pictures=1)
    alike = claim("alike", alike=["oracle"], to="source_only", margin=90.0)
    table = table_of(read_report(spec), ORACLE, alike)
    assert [row[2] for row in table.rows] == ["undecided (2 seeds)"] * 2


def test_a_study_without_rows_of_any_claim_has_no_scorecard(swept: Path) -> None:
    report = read_report(swept)
    assert claims_table(Comparisons(report), [ABSENT]) is None
    assert claims_table(Comparisons(report), []) is None
    assert claims_table(Comparisons(report), [claim("stage", pairs=pairs(("proda:stage9", "proda")))]) is None


def test_equal_studies_have_equal_scorecards(swept: Path) -> None:
    one, other = (table_of(read_report(swept), ORACLE, MANY, ALIKE) for _ in range(2))
    assert one.rows == other.rows and one.notes == other.notes
    assert one.numbers.equals(other.numbers)
