"""The figures that papers publish, read from `published.csv`.

The file has one row a figure that was found in a source, with that source. Its column `row` names the rows of
ours that a figure may stand beside, `A | B`, of which it stands beside the first that a study has: RECIPE,
RECIPE:STAGE or SWEEP/POINT. It is empty for what is nothing of ours (other networks and tasks), for users' runs, and
where another source repeats a figure. `baseline` names what a gain is over, METHOD, VARIANT of the same source, data
and network.
"""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("published.csv")
SCORE = re.compile(r"mIoU\d+")


@dataclass(frozen=True)
class Entry:
    """What one source says of one variant on one pair of data sets, by one metric."""

    name: str  # method and variant
    pair: tuple[str, str]  # source and target
    backbone: str
    metric: str  # mIoU19, mIoU16, mIoU13; "" where only a gain is known
    value: float  # percent; NaN where only a gain is known
    gain: float  # percentage points over `baseline`; NaN where there is none
    baseline: str  # name of the variant that the gain is over; "" where there is none
    under: tuple[str, ...]  # rows of ours that this baseline stands beside
    where: str  # it stands, and the kind of that source
    rows: tuple[str, ...]  # of ours


def read_figures() -> list[dict[str, str]]:
    """The rows of published.csv, all of them, as text by column."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_entries() -> list[Entry]:
    """The mIoU of whole class sets and the gains in it, in the file's order.

    A gain is the one that the source states, or the difference to the source's own baseline.
    """
    figures = [figure for figure in read_figures() if figure["metric"] == "gain" or SCORE.fullmatch(figure["metric"])]
    values = {(*_key(figure), figure["metric"]): float(figure["value"]) for figure in figures}
    rows = {_key(figure): tuple(name for name in figure["row"].split(" | ") if name) for figure in figures}
    scored = {key[:-1] for key in values if key[-1] != "gain"}
    entries = []
    for figure in figures:
        key, metric = _key(figure), figure["metric"]
        if metric == "gain" and key in scored:
            continue  # it stands with the score
        baseline = (figure["baseline"], *key[1:])
        value = math.nan if metric == "gain" else float(figure["value"])
        entries.append(
            Entry(
                name=key[0],
                pair=(figure["source"], figure["target"]),
                backbone=figure["backbone"],
                metric="" if metric == "gain" else metric,
                value=value,
                gain=values.get((*key, "gain"), value - values.get((*baseline, metric), math.nan)),
                baseline=figure["baseline"],
                under=rows.get(baseline, ()),
                where=f"{figure['where']}; {figure['source_kind']}",
                rows=rows[key],
            )
        )
    return entries


def _key(figure: dict[str, str]) -> tuple[str, ...]:
    """What a variant's figures in one source have in common: first its name."""
    name = f"{figure['method']}, {figure['variant']}"
    return (name, *(figure[column] for column in ("source", "target", "backbone", "where")))
