"""A table, and the text of its cells."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from udaseg.reports.compare.summaries import Summary

DASH = "–"
NAMED = 4  # places of a run that several recipes share that are named


@dataclass(frozen=True)
class Table:
    """Text cells for readers, and beside them the unrounded numbers for machines."""

    name: str  # of its files
    title: str
    header: list[str]
    rows: list[list[str]]
    numbers: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    best: frozenset[tuple[int, int]] = frozenset()  # rows and columns of the cells that are marked as the best
    grouped: bool = False  # whether rows that begin alike are shown under one heading where there is room for that

    def groups(self) -> list[list[list[str]]]:
        """The rows in groups of consecutive rows with an equal first cell; one group where the table is not grouped."""
        if not self.grouped:
            return [self.rows]
        return [list(rows) for _, rows in itertools.groupby(self.rows, key=lambda row: row[0])]


def cell(summary: Summary, digits: int = 1, spread: bool = True, always_n: bool = False) -> str:
    """`41.2 ± 0.8`; with `(n = 2 of 3)` behind it where seeds are missing, and `±` a dash where n = 1."""
    if summary.n == 0:
        return DASH
    text = f"{summary.mean:.{digits}f}"
    if spread:
        text += f" ± {plain(summary.std, digits)}"
    if always_n and summary.n == summary.planned == 1:
        return f"{text} (n = 1)"
    return text + of_planned(summary.n, summary.planned)


def of_planned(n: int, planned: int) -> str:
    """The remark behind a number over fewer seeds than planned; "" where all or none are there."""
    return f" (n = {n} of {planned})" if 0 < n < planned else ""


def listed(names: Iterable[str]) -> str:
    """The distinct names separated by slashes; of many, the first ones and how many more there are."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - NAMED} more" if len(distinct) > NAMED else ""
    return " / ".join(distinct[:NAMED]) + more


def plain(value: float, digits: int = 1) -> str:
    """A number, or a dash for NaN."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """A number with its sign and one decimal, or a dash for NaN."""
    return DASH if math.isnan(value) else f"{value:+.1f}".replace("-", "−")


def gap_text(gap: float, n: int, planned: int) -> str:
    """`42 %`, or a dash."""
    return DASH if math.isnan(gap) else f"{100 * gap:.0f} %" + of_planned(n, planned)
