"""One recipe or stage against another, seed by seed: runs of equal seed saw the same data in the same order."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from udaseg.reports.cells import DASH, of_planned, signed
from udaseg.reports.collect import set_score
from udaseg.reports.study import Report

LEVEL = 0.95
INTERVAL = (
    "Difference = mean over seeds of the difference between two runs of the same seed, in percentage points, with its "
    "95 % interval [low, high] (Student's t, n − 1 degrees of freedom), which covers the spread between seeds only."
)


@dataclass(frozen=True)
class Difference:
    """Mean over `n` seeds of the paired difference, in percentage points, and the ends of its 95 % interval."""

    mean: float
    low: float  # NaN for n < 2, as `high`
    high: float
    n: int

    def numbers(self, name: str) -> dict[str, float]:
        """The columns of a table's numbers that hold it."""
        ends = {f"{name}_low": self.low, f"{name}_high": self.high}
        return {f"{name}_mean": self.mean} | ends | {f"{name}_n": self.n}

    def text(self, planned: int) -> str:
        """`+4.5 [+3.1, +5.9]`; for one seed `+4.5 [–]`."""
        if not self.n:
            return DASH
        ends = DASH if math.isnan(self.low) else f"{signed(self.low)}, {signed(self.high)}"
        return f"{signed(self.mean)} [{ends}]" + of_planned(self.n, planned)


def scores(report: Report, label: str, stage: str | None = None) -> pd.Series:
    """Seed → headline mIoU in percent (last iteration) of one stage of a row, its final one unless named; no NaN.

    The series' name tells with which others it may be compared: by what metric, and with how many labels.
    """
    runs = report.final_runs(label) if stage is None else report.stage_runs(label, stage)
    values = {run.seed: 100 * set_score(report, run, "last", report.headline) for run in runs}
    labelled = runs[0].labelled_target if runs else 0
    name = report.metric(label, report.headline), labelled
    return pd.Series(values, dtype=float, name=name).dropna()


def paired(method: pd.Series, other: pd.Series) -> Difference:
    """`method` − `other` over the seeds that both have; the interval is that of Student's t, n − 1 degrees of freedom.

    Both map seeds to scores. Scores of different names (see `scores`) are not compared: the difference is over none.
    """
    differences = (method - other).dropna() if method.name == other.name else pd.Series(dtype=float)
    n = len(differences)
    mean = float(differences.mean())
    if n < 2:
        return Difference(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(differences.std(ddof=1)) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)


def gap_closed(method: pd.Series, baseline: pd.Series, oracle: pd.Series) -> tuple[float, int]:
    """(method − baseline) / (oracle − baseline) of the means over the seeds that all three have.

    Returns the fraction (NaN where it does not exist) and the number of seeds. All map seeds to scores; of those of
    different names (see `scores`) there is no gap.
    """
    seeds = sorted(set(method.index) & set(baseline.index) & set(oracle.index))
    if not seeds or len({method.name, baseline.name, oracle.name}) > 1:
        return math.nan, 0
    own, low, high = (float(values.loc[seeds].mean()) for values in (method, baseline, oracle))
    return ((own - low) / (high - low) if high > low else math.nan), len(seeds)


def gap_text(gap: float, n: int, planned: int) -> str:
    """`42 %`, or a dash."""
    return DASH if math.isnan(gap) else f"{100 * gap:.0f} %" + of_planned(n, planned)


def metric_notes(report: Report, labels: Iterable[str]) -> list[str]:
    """What must stand under a table some of whose rows are scored by another metric than the others."""
    others = {report.metric(label, report.headline) for label in labels} - {report.headline}
    return [
        f"All scores of rows named {metric} are of predictions that were aggregated over each image, as the features "
        "before them (PLCA's test-time aggregation). They are other metrics than the plain ones: between a row of "
        f"these and one of those no difference and no gap closed is computed ({DASH}). Which checkpoint is the best on "
        "val was told by the plain metric in every row."
        for metric in sorted(others)
    ]
