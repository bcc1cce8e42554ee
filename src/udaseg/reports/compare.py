"""One recipe or stage against another, seed by seed: runs of equal seed saw the same data in the same order."""

import math
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from udaseg.reports.cells import DASH, of_planned, signed
from udaseg.reports.collect import number
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
    """Seed → headline mIoU in percent (last iteration) of one stage of a row, its final one unless named; no NaN."""
    values = {
        run.seed: 100 * number(run.metrics["scores"]["last"]["sets"][report.headline])
        for run in (report.final_runs(label) if stage is None else report.stage_runs(label, stage))
        if run.status == "finished"
    }
    return pd.Series(values, dtype=float).dropna()


def paired(method: pd.Series, other: pd.Series) -> Difference:
    """`method` − `other` over the seeds that both have; the interval is that of Student's t, n − 1 degrees of freedom.

    Both map seeds to scores.
    """
    differences = (method - other).dropna()
    n = len(differences)
    mean = float(differences.mean())
    if n < 2:
        return Difference(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(differences.std(ddof=1)) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)


def gap_closed(method: pd.Series, baseline: pd.Series, oracle: pd.Series) -> tuple[float, int]:
    """(method − baseline) / (oracle − baseline) of the means over the seeds that all three have.

    Returns the fraction (NaN where it does not exist) and the number of seeds. All map seeds to scores.
    """
    seeds = sorted(set(method.index) & set(baseline.index) & set(oracle.index))
    if not seeds:
        return math.nan, 0
    own, low, high = (float(values.loc[seeds].mean()) for values in (method, baseline, oracle))
    return ((own - low) / (high - low) if high > low else math.nan), len(seeds)


def gap_text(gap: float, n: int, planned: int) -> str:
    """`42 %`, or a dash."""
    return DASH if math.isnan(gap) else f"{100 * gap:.0f} %" + of_planned(n, planned)
