"""The layout of the page: its sections with their tables and figures, and the cells of a table."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from udaseg.reports.read.report import Report
from udaseg.reports.tables.table import DASH, Table

# Anchor, heading, and which tables and figures the section holds, by name.
LAYOUT: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = [
    ("results", "Results", ("main",), ("miou",)),
    ("claims", "Claims", ("claims",), ("claims",)),
    ("ablations", "Ablations", ("ablation_*",), ("ablation_*",)),
    ("stages", "Stages", ("stages",), ("stages",)),
    ("pseudo-labels", "Pseudo-labels", ("pseudo_labels",), ("pseudo_labels",)),
    ("classes", "IoU per class", ("classes",), ("classes",)),
    ("confusion", "Confusion", (), ("confusion*",)),
    ("semi-supervised", "Semi-supervised", ("semi_supervised_*",), ()),
    ("published", "Beside published figures", ("published*",), ()),
    ("fidelity", "Paper against released code", ("fidelity",), ("fidelity",)),
    ("pictures", "Pictures", (), ("comparison", "qualitative")),
    ("translations", "Translations", (), ("translations",)),
    ("training", "Training", (), ("monitor", "losses", "diagnostics")),
    ("cost", "Cost", ("cost",), ("cost",)),
    ("protocol", "Protocol and data", (), ()),
    ("runs", "Every run", ("runs",), ()),
    ("more", "More", ("*",), ("*",)),
]
VERDICTS = {"reproduced": "✓", "not reproduced": "✗", "undecided": "?"}  # a claim's, and their signs
NUMBER = re.compile(r"(< )?[+−-]?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?(?=$|[\s%*;])", re.IGNORECASE)
PROSE = 28  # letters from which a column of words is wrapped
LONG = 160  # letters from which a note that an earlier table has, too, is folded


@dataclass(frozen=True)
class Block:
    """Tables and figures under one heading."""

    anchor: str
    title: str  # "" where the section's heading is enough
    tables: list[Table]
    figures: list[str]


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown."""

    lines: list[list[str]]  # of each the text, and what stands smaller below it
    best: bool
    verdict: str  # of a claim, one of VERDICTS; "" elsewhere


@dataclass(frozen=True)
class Grid:
    """A table as it is shown."""

    columns: list[tuple[str, str]]  # heading and kind: "number", "word" or "prose"
    bodies: list[tuple[str, list[list[Cell]]]]  # heading of a group of rows ("" without groups), and its rows


def sections(report: Report, tables: list[Table], figures: list[str]) -> list[Section]:
    """The sections that have something to show, each table and figure in the first one that wants it.

    Protocol and runs are there always. A sweep has a block of its own, and so has each of several tables in a section.
    """
    left, undrawn = list(tables), list(figures)
    found = []
    for anchor, title, table_names, figure_names in LAYOUT:
        own = [table for table in left if _is_one_of(table.name, table_names)]
        drawn = [name for name in undrawn if _is_one_of(name, figure_names)]
        left = [table for table in left if table not in own]
        undrawn = [name for name in undrawn if name not in drawn]
        if anchor in ("ablations", "semi-supervised") or len(own) > 1:
            names = [table.name for table in own]
            blocks = [
                Block(
                    _anchor(table.name),
                    _heading(report, table),
                    [table],
                    [name for name in drawn if name == table.name],
                )
                for table in own
            ]
            rest = [name for name in drawn if name not in names]
            blocks += [Block(f"{anchor}-figures", "", [], rest)] if rest else []
        else:
            blocks = [Block(f"{anchor}-all", "", own, drawn)] if own or drawn else []
        if blocks or anchor in ("protocol", "runs"):
            found.append(Section(anchor, title, blocks))
    return found


def grid(table: Table) -> Grid:
    """The cells of a table; without its first column where that is the heading of groups of rows."""
    first = int(table.grouped)
    kinds = [_kind([row[column] for row in table.rows]) for column in range(first, len(table.header))]
    bodies, index = [], 0
    for rows in table.groups():
        shown = []
        for row in rows:
            shown.append(
                [
                    _cell(table, index, column, "word" if column == first else kinds[column - first])
                    for column in range(first, len(row))
                ]
            )
            index += 1
        bodies.append((rows[0][0] if table.grouped else "", shown))
    return Grid(list(zip(table.header[first:], kinds, strict=True)), bodies)


def repeated_notes(tables: list[Table]) -> set[tuple[str, str]]:
    """(table, note) of the long notes that an earlier table has word for word."""
    seen: set[str] = set()
    repeated = set()
    for table in tables:
        repeated |= {(table.name, note) for note in table.notes if len(note) >= LONG and note in seen}
        seen |= set(table.notes)
    return repeated


def aside(value: str) -> list[str]:
    """A number's cell, and what stands smaller below it: an interval, and how many seeds where some are missing."""
    return re.split(r" (?=\[|\(n = )", value)


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _anchor(name: str) -> str:
    return "table-" + re.sub(r"[^A-Za-z0-9_-]", "-", name)


def _heading(report: Report, table: Table) -> str:
    """The heading of a table that is one of several in its section."""
    sweeps = {f"ablation_{sweep.name}": sweep.title for sweep in report.sweeps}
    if table.name in sweeps:
        return sweeps[table.name]
    if table.name.startswith("semi_supervised_"):
        return f"{table.numbers.labelled_target[0]} labelled target images"
    title = table.title.removeprefix(f"{report.study}: ").removesuffix(", mIoU in percent")
    title = title.removeprefix("ours beside figures published for ")
    return title[:1].upper() + title[1:]


def _kind(cells: list[str]) -> str:
    """What a column holds: numbers (or dashes), words, or text so long that it must be wrapped."""
    present = [text for text in cells if text not in ("", DASH)]
    if all(NUMBER.match(text) for text in present):
        return "number"
    return "prose" if max(map(len, present)) > PROSE else "word"


def _cell(table: Table, row: int, column: int, kind: str) -> Cell:
    value = table.rows[row][column]
    lines = [aside(part) for part in value.split("; ")] if kind == "number" else [[value]]
    known = [word for word in VERDICTS if table.name == "claims" and value.startswith(word)]
    return Cell(lines, (row, column) in table.best, known[0] if known else "")
