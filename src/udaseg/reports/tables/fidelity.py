"""Where the released code deviates from the paper: every such field, and its effect on the score.

The fields and what their values do come with the report's spec, since reports do not load the methods.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import pandas as pd

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row, Run
from udaseg.reports.tables.differences import Differences, declared_notes
from udaseg.reports.tables.notes import missing_notes
from udaseg.reports.tables.table import DASH, Table
from udaseg.runs.spec import FidelityField

VALUES = ("paper", "released")
ABSENT = object()  # in the place of a parameter that a point does not change
Key = tuple[str, str]  # owner and name of a field


@dataclass(frozen=True)
class Pair:
    """Two rows that differ in one field alone."""

    paper: Row
    released: Row


def fidelity_table(comparisons: Comparisons) -> Table | None:
    """Every field × default, what each value does, and released − paper by the final stages of rows that differ in it.

    A field in which several pairs of rows differ has a line for each. None if no rows of the study differ in one.
    """
    report = comparisons.report
    fields = report.fidelity or _unexplained(report)
    found = _pairs(report, fields)
    if not found:
        return None
    lines: list[tuple[FidelityField, Pair | None]] = []
    for field in fields:
        pairs = found.get((field.owner, field.name))
        lines += [(field, pair) for pair in pairs] if pairs else [(field, None)]
    effects = [
        None if pair is None else comparisons.difference(pair.released.final, pair.paper.final) for _, pair in lines
    ]
    column = Differences("effect", effects)
    rows, numbers = [], []
    for index, (field, pair) in enumerate(lines):
        planned = 0 if pair is None else pair.released.final.planned
        place = DASH if pair is None else _place(pair.released)
        rows.append(
            [field.owner, field.name, field.default, field.paper, field.released, column.text(index, planned), place]
        )
        record: dict[str, Any] = {"of": field.owner, "field": field.name, "default": field.default}
        record |= {"released": pair and pair.released.name, "paper": pair and pair.paper.name}
        numbers.append(record | column.numbers(index))
    header = ["Of", "Field", "Default", "Paper", "Released code", "Released − paper", "Measured with"]
    title = f"{report.study}: where paper and released code differ, and what it does to {report.headline}"
    measured = [row for pairs in found.values() for pair in pairs for row in (pair.released, pair.paper)]
    notes = [
        *declared_notes([column]),
        "Measured with: recipe and last stage of two rows that differ in this field alone, by the score of that stage. "
        f"{DASH}: this study has no such rows.",
        *([] if report.fidelity else ["The record does not say what the values do, nor which other fields there are."]),
        *missing_notes(report, measured),
    ]
    return Table("fidelity", title, header, rows, pd.DataFrame(numbers), notes, grouped=True)


def _unexplained(report: Report) -> list[FidelityField]:
    """The fields that points of sweeps set to one of the values, for a record that does not name the fields."""
    keys = {
        _owner(report, run, parameter): None
        for run in report.runs
        for parameter, value in run.point.items()
        if value in VALUES
    }
    return [FidelityField(owner=owner, name=name, default=DASH, paper=DASH, released=DASH) for owner, name in keys]


def _pairs(report: Report, fields: list[FidelityField]) -> dict[Key, list[Pair]]:
    """The rows that differ in one field alone, by that field: of the same recipe, up to the same stage.

    Rows that are the same runs as others already found are left out.
    """
    defaults = {(field.owner, field.name): field.default for field in fields}
    groups: dict[tuple[str, tuple[str, ...]], dict[str, Run]] = {}
    for run in report.runs:
        if run.final:
            groups.setdefault((run.base, tuple(report.rows[run.row].stages)), {}).setdefault(run.row, run)
    found: dict[Key, dict[Any, Pair]] = {}
    for one, other in (both for rows in groups.values() for both in itertools.combinations(rows.values(), 2)):
        parameter = _only_difference(one.point, other.point)
        if parameter is None or (key := _owner(report, one, parameter)) not in defaults:
            continue
        values = {_value(report, run, parameter, defaults[key]): report.rows[run.row] for run in (one, other)}
        if set(values) == set(VALUES):
            runs = tuple(tuple(run.folder for run in values[value].final.runs) for value in VALUES)
            found.setdefault(key, {}).setdefault(runs, Pair(values["paper"], values["released"]))
    return {key: list(pairs.values()) for key, pairs in found.items()}


def _only_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The parameter in which two points differ, if there is exactly one."""
    names = [name for name in one | other if one.get(name, ABSENT) != other.get(name, ABSENT)]
    return names[0] if len(names) == 1 else None


def _owner(report: Report, run: Run, parameter: str) -> tuple[str, str]:
    """Owner and name of the parameter STAGE.….PART.NAME: the owner of a knob is the stage's method, else it is PART."""
    *_, part, name = parameter.split(".")
    if part == "knobs":
        # A run's folder is results/TASK/METHOD/…, whether it is there or not.
        part = next((used.folder.parent.name for used in _of_stage(report, run, parameter)), part)
    return part, name


def _value(report: Report, run: Run, parameter: str, default: str) -> str:
    """The parameter's value in a row: that of its point, else that in the spec of a trained run, else the default."""
    if parameter in run.point:
        return str(run.point[parameter])
    for used in _of_stage(report, run, parameter):
        value: Any = used.spec
        for key in parameter.split(".")[1:]:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return str(value)
    return default


def _of_stage(report: Report, run: Run, parameter: str) -> tuple[Run, ...]:
    """The runs of the row that `run` is part of, in the stage that a parameter is of."""
    stage = report.rows[run.row].stages.get(parameter.partition(".")[0])
    return () if stage is None else stage.runs


def _place(row: Row) -> str:
    run = row.final.runs[0]
    return f"{run.base}, {run.stage}"
