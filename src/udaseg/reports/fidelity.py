"""Where the released code deviates from the paper: every such field, and its effect on the score.

The fields and what their values do come with the report's spec, since reports do not load the methods.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from udaseg.reports.cells import DASH, Table
from udaseg.reports.collect import missing_footnotes
from udaseg.reports.compare import Comparisons, declared_notes, difference
from udaseg.reports.study import Report, Run
from udaseg.runs.spec import FidelityField

VALUES = ("paper", "released")
ABSENT = object()  # in the place of a parameter that a point does not change
Key = tuple[str, str]  # owner and name of a field


@dataclass(frozen=True)
class Pair:
    """Two rows that differ in one field alone."""

    paper: str
    released: str


def fidelity_table(report: Report) -> Table | None:
    """Every field with its default, what each value does, and the effect: released − paper, by the final stages.

    A field in which several pairs of rows differ has a line for each. None if no rows of the study differ in one.
    """
    fields = report.fidelity or _unexplained(report)
    found = _pairs(report, fields)
    if not found:
        return None
    lines: list[tuple[FidelityField, Pair | None]] = []
    for field in fields:
        pairs = found.get((field.owner, field.name))
        lines += [(field, pair) for pair in pairs] if pairs else [(field, None)]
    column = Comparisons(
        "effect", [None if pair is None else difference(report, pair.released, pair.paper) for _, pair in lines]
    )
    rows, numbers = [], []
    for index, (field, pair) in enumerate(lines):
        planned = 0 if pair is None else len(report.final_runs(pair.released))
        place = DASH if pair is None else _place(report, pair.released)
        rows.append(
            [field.owner, field.name, field.default, field.paper, field.released, column.text(index, planned), place]
        )
        record: dict[str, Any] = {"of": field.owner, "field": field.name, "default": field.default}
        record |= {"released": pair and pair.released, "paper": pair and pair.paper}
        numbers.append(record | column.numbers(index))
    header = ["Of", "Field", "Default", "Paper", "Released code", "Released − paper", "Measured with"]
    title = f"{report.study}: where paper and released code differ, and what it does to {report.headline}"
    labels = {label for pairs in found.values() for pair in pairs for label in (pair.released, pair.paper)}
    notes = [
        *declared_notes([column]),
        "Measured with: recipe and last stage of two rows that differ in this field alone, by the score of that stage. "
        f"{DASH}: this study has no such rows.",
        *([] if report.fidelity else ["The record does not say what the values do, nor which other fields there are."]),
        *missing_footnotes(report, labels),
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
            groups.setdefault((run.base, tuple(report.stages(run.label))), {}).setdefault(run.label, run)
    found: dict[Key, dict[Any, Pair]] = {}
    for one, other in (both for rows in groups.values() for both in itertools.combinations(rows.values(), 2)):
        parameter = _only_difference(one.point, other.point)
        if parameter is None or (key := _owner(report, one, parameter)) not in defaults:
            continue
        values = {_value(report, run, parameter, defaults[key]): run.label for run in (one, other)}
        if set(values) == set(VALUES):
            runs = tuple(tuple(run.folder for run in report.final_runs(values[value])) for value in VALUES)
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


def _of_stage(report: Report, run: Run, parameter: str) -> Iterator[Run]:
    """The runs of the same row as `run`, in the stage of a parameter."""
    return iter(report.stage_runs(run.label, parameter.partition(".")[0]))


def _place(report: Report, label: str) -> str:
    run = report.final_runs(label)[0]
    return f"{run.base}, {run.stage}"
