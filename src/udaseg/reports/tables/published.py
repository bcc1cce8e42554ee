"""The papers' figures beside ours: a table for each pair of data sets that they are on."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.read.protocols import protocol_notes, size
from udaseg.reports.read.published import Entry, read_entries
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Place, Run, split_place
from udaseg.reports.tables.differences import Differences, declared_notes
from udaseg.reports.tables.notes import metric_notes, missing_notes
from udaseg.reports.tables.table import DASH, Table, cell, plain, signed

PREFIX = "published_"  # of the tables' names
OTHER = " †"  # behind a published gain over something else than ours is over


def published_tables(comparisons: Comparisons) -> list[Table]:
    """For each published pair of data sets: figures × ours beside published; none where the study has no such row."""
    report = comparisons.report
    found = [(place, entry) for entry in read_entries() if (place := place_of(report, entry)) is not None]
    pairs = dict.fromkeys(entry.pair for _, entry in found)
    return [_table(comparisons, pair, [(place, e) for place, e in found if e.pair == pair]) for pair in pairs]


def place_of(report: Report, entry: Entry) -> Place | None:
    """The row of ours that a figure stands beside in this study."""
    for name, stage in map(split_place, entry.rows):
        row = report.rows.get(name)
        if row is not None and row.final.runs and (stage is None or stage in row.stages):
            return Place(row, stage)
    return None


def _table(comparisons: Comparisons, pair: tuple[str, str], found: Sequence[tuple[Place, Entry]]) -> Table:
    """The table of one pair of data sets, from its figures and the rows of ours that they stand beside."""
    report = comparisons.report
    lines = _lines(report, found)
    places = list(dict.fromkeys(place for place, _ in lines))
    gains = _gains(comparisons, places)
    sources = list(dict.fromkeys(entry.where for _, entry in lines if entry is not None))
    rows, numbers = [], []
    for place, entry in lines:
        stage, index = place.stage, places.index(place)
        summary = comparisons.summary(stage)
        title = place.row.scored_title + (f": {place.named}" if place.named else "")
        ours = [title, str(summary.n), cell(summary, always_n=True), gains.text(index, stage.planned)]
        record: dict[str, Any] = {"row": place.row.name, "stage": place.named or "", "metric": place.row.headline}
        record |= {"seeds_planned": stage.planned} | summary.numbers(report.headline) | gains.numbers(index)
        if entry is None:
            rows.append([*ours, DASH, DASH, DASH, DASH, DASH])
        else:
            value = f"{plain(entry.value)} ({entry.metric})" if entry.metric else DASH
            source = f"[{sources.index(entry.where) + 1}]"
            rows.append([*ours, value, _gain_text(report, entry), entry.name, entry.backbone, source])
            columns = ("name", "backbone", "metric", "value", "gain", "baseline", "where")
            record |= {f"published_{column}": getattr(entry, column) for column in columns}
        numbers.append(record)
    header = ["Ours", "Seeds", f"{report.headline} (last)", f"Gain over {report.rows[report.baseline].scored_title}"]
    header += ["Published mIoU", "Published gain", "Published as", "Its network", "Source"]
    words = " → ".join(pair)
    title = f"{report.study}: ours beside figures published for {words}, mIoU in percent"
    notes = [*_notes(report, words, places, [entry for _, entry in lines]), *declared_notes([gains])]
    notes += [f"[{number}] {where}." for number, where in enumerate(sources, start=1)]
    notes += missing_notes(report, [place.row for place in places])
    name = PREFIX + re.sub(r"[^a-z0-9]+", "_", " ".join(pair).lower()).strip("_")
    return Table(name, title, header, rows, pd.DataFrame(numbers), notes)


def _lines(report: Report, found: Sequence[tuple[Place, Entry]]) -> list[tuple[Place, Entry | None]]:
    """Rows of ours in the order of the study, each with its figures in that of the file.

    A sweep with a figure for some point is there with all of them: None stands for the figure that there is not.
    """
    shown = {place.row.sweep for place, _ in found}
    points = [report.rows[name] for sweep in report.sweeps if sweep.name in shown for name in sweep.points]
    semi_supervised = (row for rows in report.semi_supervised.values() for row in rows)
    lines: list[tuple[Place, Entry | None]] = []
    for row in [*report.main, *semi_supervised, *points]:
        for place in [*(Place(row, stage) for stage in row.stages), Place(row, None)]:
            lines += [(place, entry) for at, entry in found if at == place]
        if row.sweep and all(at.row is not row for at, _ in found):
            lines.append((Place(row, None), None))
    return lines


def _gains(comparisons: Comparisons, places: Sequence[Place]) -> Differences:
    """Over the baseline, one for each place: a row that stands beside several figures is tested once."""
    baseline = comparisons.report.rows[comparisons.report.baseline]
    folders = {run.folder for run in baseline.final.runs}
    found = [
        None
        if {run.folder for run in place.stage.runs} <= folders
        else comparisons.difference(place.stage, baseline.final)
        for place in places
    ]
    return Differences(f"difference_to_{baseline.name}", found)


def _notes(report: Report, pair: str, places: Sequence[Place], entries: Sequence[Entry | None]) -> list[str]:
    """What differs between the two sides."""
    rows = list(dict.fromkeys(place.row for place in places))
    runs = [run for place in places for run in place.stage.runs]
    over = dict.fromkeys(entry.baseline for entry in entries if entry is not None and not math.isnan(entry.gain))
    notes = [
        f"The published figures are of {pair}, ours of other data and classes, trained in another way: no difference "
        "between the two sides is computed. Signs and order of gains can be held against each other.",
        *_training(report, runs),
        *protocol_notes(report, rows),
        "Published: percent, a mean over as many classes as the name of the metric says. Input size, iterations, "
        "batch, seeds, scales at test and the choice of the checkpoint are not known unless the name of the variant "
        "tells, and are not the same in all sources.",
        "Published gain: over the baseline of the same source, data and network, where it has one"
        + (f": {'; '.join(over)}." if over else ", which none of these has."),
    ]
    if any(entry is not None and _gain_text(report, entry).endswith(OTHER) for entry in entries):
        notes.append(
            f"{OTHER.strip()} That baseline is not {report.rows[report.baseline].title}: ours is another gain."
        )
    if None in entries:
        notes.append(f"{DASH} under Published as: no figure of this point of a sweep is known.")
    if any(run.labelled_target for run in runs):
        notes.append(f"N = target images with labels: rows with another N are not compared ({DASH}).")
    return notes + metric_notes(report, rows)


def _gain_text(report: Report, entry: Entry) -> str:
    """The published gain, marked where it is over another kind of baseline than ours."""
    return signed(entry.gain) + ("" if math.isnan(entry.gain) or report.baseline in entry.under else OTHER)


def _training(report: Report, runs: Iterable[Run]) -> list[str]:
    """Data, network, crops, batches and iterations of ours, from the specs of the finished runs."""
    specs = [run.spec for run in runs if run.spec]
    if not specs:
        return []
    sets = " → ".join(report.data[role].name.rpartition("-")[0] for role in ("source", "target"))
    networks = dict.fromkeys(_network(spec["network"], report.networks) for spec in specs)
    streams = [spec["train"]["source"] for spec in specs]
    crops = dict.fromkeys(size(stream["crop"]) for stream in streams)
    batches = dict.fromkeys(str(stream["batch"]) for stream in streams)
    iterations = sorted({spec["train"]["iterations"] for spec in specs})
    length = " to ".join(f"{count:,}" for count in dict.fromkeys([iterations[0], iterations[-1]]))
    return [
        f"Ours: {sets}, {len(report.classes)} classes; network {' or '.join(networks)}; crops of {' or '.join(crops)} "
        f"pixels, {' or '.join(batches)} source images in a batch; {length} iterations in the stage that is scored."
    ]


def _network(network: dict[str, Any], titles: Mapping[str, str]) -> str:
    """The network's title with its parameters filled in; its name where the report's spec has no title."""
    return titles.get(network["name"], str(network["name"])).format_map(network)
