"""A column of differences in a table, and the notes that must stand under it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from udaseg.reports.compare.comparisons import NOTHING
from udaseg.reports.compare.statistics import DECLARED, LEVEL, Estimate, holm
from udaseg.reports.tables.table import DASH, of_planned, signed


@dataclass(frozen=True)
class Differences:
    """The differences in a column of a table: one family of tests. None: the row is compared with nothing.

    `name` is what its columns of numbers begin with.
    """

    name: str
    estimates: list[Estimate | None]

    @cached_property
    def corrected(self) -> list[float]:
        """The p-values, corrected for each other; NaN where there is no test."""
        return holm([math.nan if estimate is None else estimate.p for estimate in self.estimates])

    def text(self, index: int, planned: int) -> str:
        """The cell of a row, of which `planned` seeds were planned."""
        estimate = self.estimates[index]
        return DASH if estimate is None else estimate_text(estimate, planned, self.corrected[index])

    def numbers(self, index: int) -> dict[str, float]:
        """The columns of a row's numbers."""
        return estimate_numbers(self.name, self.estimates[index] or NOTHING, self.corrected[index])


def estimate_text(estimate: Estimate, planned: int, p: float = math.nan) -> str:
    """`+4.5 [+3.1, +5.9]`, `+4.5 [–]` without an interval; with ` *` where the corrected `p` is below the level."""
    if not estimate.seeds:
        return DASH
    ends = DASH if math.isnan(estimate.low) else f"{signed(estimate.low)}, {signed(estimate.high)}"
    star = " *" if p < LEVEL else ""
    return f"{signed(estimate.value)} [{ends}]{star}" + of_planned(estimate.seeds, planned)


def estimate_numbers(name: str, estimate: Estimate, p: float) -> dict[str, float]:
    """The columns of a table's numbers that hold it; `p` is corrected for the other comparisons of its family."""
    values = {"mean": estimate.value, "low": estimate.low, "high": estimate.high, "p": estimate.p, "p_holm": p}
    values |= {"detectable": estimate.detectable, "n": estimate.seeds}
    return {f"{name}_{key}": value for key, value in values.items()}


def declared_notes(columns: Iterable[Differences]) -> list[str]:
    """The test, and what it can find; followed by `interval_notes`."""
    notes = [f"{DECLARED} Differences are in percentage points; * marks those whose corrected p is below {LEVEL}."]
    return notes + interval_notes(estimate for column in columns for estimate in column.estimates)


def interval_notes(given: Iterable[Estimate | None]) -> list[str]:
    """The smallest differences that these estimates can detect, and why some have no interval."""
    estimates = [estimate for estimate in given if estimate is not None]
    found = [estimate.detectable for estimate in estimates if not math.isnan(estimate.detectable)]
    notes = []
    if found:
        low, high = f"{min(found):.1f}", f"{max(found):.1f}"
        words = low if low == high else f"{low} to {high}"
        notes.append(f"Smallest detectable difference of these comparisons: {words} percentage points.")
    why = dict.fromkeys(estimate.reason for estimate in estimates if estimate.seeds and estimate.reason)
    return notes + [f"No interval [{DASH}]: {reason}" for reason in why]
