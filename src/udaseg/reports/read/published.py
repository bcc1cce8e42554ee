"""The papers' figures beside ours: a table for each pair of data sets that they are on.

`published.csv` has one row a figure that was found in a source, with that source. Its column `row` names the rows of
ours that a figure may stand beside, `A | B`, of which it stands beside the first that a study has: RECIPE,
RECIPE:STAGE or SWEEP/POINT. It is empty for what is nothing of ours (other networks and tasks), for users' runs, and
where another source repeats a figure. `baseline` names what a gain is over, METHOD, VARIANT of the same source, data
and network.
"""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from udaseg.reports.compare.comparisons import Comparisons, declared_notes, difference, metric_notes, scores
from udaseg.reports.read.protocols import protocol_notes, size
from udaseg.reports.read.report import Report, Run
from udaseg.reports.read.run_folders import missing_footnotes
from udaseg.reports.tables.table import DASH, Table, cell, plain, signed, summarise

FILE = Path(__file__).with_name("published.csv")
PREFIX = "published_"  # of the tables' names
SCORE = re.compile(r"mIoU\d+")
OTHER = " †"  # behind a published gain over something else than ours is over


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


@dataclass(frozen=True)
class Place:
    """A row of ours, or a stage of one."""

    label: str
    stage: str | None = None

    def runs(self, report: Report) -> list[Run]:
        """Its planned runs, by seed; none where the study has no such row."""
        if self.stage is None:
            return report.final_runs(self.label)
        return report.stage_runs(self.label, self.stage)


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


def published_tables(report: Report) -> list[Table]:
    """For each published pair of data sets: figures × ours beside published; none where the study has no such row."""
    found = [(place, entry) for entry in read_entries() if (place := place_of(report, entry)) is not None]
    pairs = dict.fromkeys(entry.pair for _, entry in found)
    return [_table(report, pair, [(place, e) for place, e in found if e.pair == pair]) for pair in pairs]


def place_of(report: Report, entry: Entry) -> Place | None:
    """The row of ours that a figure stands beside in this study."""
    for name in entry.rows:
        recipe, _, stage = (name, "", "") if "/" in name else name.partition(":")
        place = Place(recipe, stage or None)
        if place.runs(report):
            return place
    return None


def _table(report: Report, pair: tuple[str, str], found: Sequence[tuple[Place, Entry]]) -> Table:
    """The table of one pair of data sets, from its figures and the rows of ours that they stand beside."""
    lines = _lines(report, found)
    places = list(dict.fromkeys(place for place, _ in lines))
    gains = _gains(report, places)
    sources = list(dict.fromkeys(entry.where for _, entry in lines if entry is not None))
    rows, numbers = [], []
    for place, entry in lines:
        planned, index = len(place.runs(report)), places.index(place)
        summary = summarise(scores(report, place.label, place.stage), planned)
        title = report.scored_title(place.label) + (f": {place.stage}" if place.stage else "")
        ours = [title, str(summary.n), cell(summary, always_n=True), gains.text(index, planned)]
        metric = report.metric(place.label, report.headline)
        record: dict[str, Any] = {"row": place.label, "stage": place.stage or "", "metric": metric}
        record |= {"seeds_planned": planned} | summary.numbers(report.headline) | gains.numbers(index)
        if entry is None:
            rows.append([*ours, DASH, DASH, DASH, DASH, DASH])
        else:
            value = f"{plain(entry.value)} ({entry.metric})" if entry.metric else DASH
            source = f"[{sources.index(entry.where) + 1}]"
            rows.append([*ours, value, _gain_text(report, entry), entry.name, entry.backbone, source])
            columns = ("name", "backbone", "metric", "value", "gain", "baseline", "where")
            record |= {f"published_{column}": getattr(entry, column) for column in columns}
        numbers.append(record)
    header = ["Ours", "Seeds", f"{report.headline} (last)", f"Gain over {report.scored_title(report.baseline)}"]
    header += ["Published mIoU", "Published gain", "Published as", "Its network", "Source"]
    words = " → ".join(pair)
    title = f"{report.study}: ours beside figures published for {words}, mIoU in percent"
    notes = [*_notes(report, words, places, [entry for _, entry in lines]), *declared_notes([gains])]
    notes += [f"[{number}] {where}." for number, where in enumerate(sources, start=1)]
    notes += missing_footnotes(report, [place.label for place in places])
    name = PREFIX + re.sub(r"[^a-z0-9]+", "_", " ".join(pair).lower()).strip("_")
    return Table(name, title, header, rows, pd.DataFrame(numbers), notes)


def _lines(report: Report, found: Sequence[tuple[Place, Entry]]) -> list[tuple[Place, Entry | None]]:
    """Rows of ours in the order of the study, each with its figures in that of the file.

    A sweep with a figure for some point is there with all of them: None stands for the figure that there is not.
    """
    shown = {place.label.partition("/")[0] for place, _ in found if "/" in place.label}
    points = [label for sweep in report.sweeps if sweep.name in shown for label in sweep.points]
    labels = [*report.labels(), *(label for members in report.semi_supervised().values() for label in members)]
    lines: list[tuple[Place, Entry | None]] = []
    for label in [*labels, *points]:
        for place in [*(Place(label, stage) for stage in report.stages(label)), Place(label)]:
            lines += [(place, entry) for at, entry in found if at == place]
        if label in points and label not in {at.label for at, _ in found}:
            lines.append((Place(label), None))
    return lines


def _gains(report: Report, places: Sequence[Place]) -> Comparisons:
    """Over the baseline, one for each place: a row that stands beside several figures is tested once."""
    baseline = {run.folder for run in report.final_runs(report.baseline)}
    found = [
        None
        if {run.folder for run in place.runs(report)} <= baseline
        else difference(report, place.label, report.baseline, stage=place.stage)
        for place in places
    ]
    return Comparisons(f"difference_to_{report.baseline}", found)


def _notes(report: Report, pair: str, places: Sequence[Place], entries: Sequence[Entry | None]) -> list[str]:
    """What differs between the two sides."""
    labels = list(dict.fromkeys(place.label for place in places))
    runs = [run for place in places for run in place.runs(report)]
    over = dict.fromkeys(entry.baseline for entry in entries if entry is not None and not math.isnan(entry.gain))
    notes = [
        f"The published figures are of {pair}, ours of other data and classes, trained in another way: no difference "
        "between the two sides is computed. Signs and order of gains can be held against each other.",
        *_training(report, runs),
        *protocol_notes(report, labels),
        "Published: percent, a mean over as many classes as the name of the metric says. Input size, iterations, "
        "batch, seeds, scales at test and the choice of the checkpoint are not known unless the name of the variant "
        "tells, and are not the same in all sources.",
        "Published gain: over the baseline of the same source, data and network, where it has one"
        + (f": {'; '.join(over)}." if over else ", which none of these has."),
    ]
    if any(entry is not None and _gain_text(report, entry).endswith(OTHER) for entry in entries):
        notes.append(f"{OTHER.strip()} That baseline is not {report.title(report.baseline)}: ours is another gain.")
    if None in entries:
        notes.append(f"{DASH} under Published as: no figure of this point of a sweep is known.")
    if any(run.labelled_target for run in runs):
        notes.append(f"N = target images with labels: rows with another N are not compared ({DASH}).")
    return notes + metric_notes(report, labels)


def _gain_text(report: Report, entry: Entry) -> str:
    """The published gain, marked where it is over another kind of baseline than ours."""
    return signed(entry.gain) + ("" if math.isnan(entry.gain) or report.baseline in entry.under else OTHER)


def _training(report: Report, runs: Iterable[Run]) -> list[str]:
    """Data, network, crops, batches and iterations of ours, from the specs of the finished runs."""
    specs = [run.spec for run in runs if run.spec]
    if not specs:
        return []
    sets = " → ".join(report.data[role].name.rpartition("-")[0] for role in ("source", "target"))
    networks = dict.fromkeys(_network(spec["network"]) for spec in specs)
    streams = [spec["train"]["source"] for spec in specs]
    crops = dict.fromkeys(size(stream["crop"]) for stream in streams)
    batches = dict.fromkeys(str(stream["batch"]) for stream in streams)
    iterations = sorted({spec["train"]["iterations"] for spec in specs})
    length = " to ".join(f"{count:,}" for count in dict.fromkeys([iterations[0], iterations[-1]]))
    return [
        f"Ours: {sets}, {len(report.classes)} classes; network {' or '.join(networks)}; crops of {' or '.join(crops)} "
        f"pixels, {' or '.join(batches)} source images in a batch; {length} iterations in the stage that is scored."
    ]


def _network(network: dict[str, Any]) -> str:
    """Name, and depth of the networks that have one."""
    return str(network["name"]) if network["name"] == "small" else f"{network['name']}, ResNet-{network['depth']}"


def _key(figure: dict[str, str]) -> tuple[str, ...]:
    """What a variant's figures in one source have in common: first its name."""
    name = f"{figure['method']}, {figure['variant']}"
    return (name, *(figure[column] for column in ("source", "target", "backbone", "where")))
