"""Where the released code does something else than the paper says: every such field, and what it does to the score.

The fields are listed here, not read from the methods: reports load no torch. A test holds the list and those equal.
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

VALUES = ("paper", "released")
ABSENT = object()  # of a parameter that a point leaves as its recipe has it


@dataclass(frozen=True)
class Fidelity:
    """A field with the values paper and released, and what is done with each of them."""

    owner: str  # the method, or the part of the parameters
    name: str
    default: str
    paper: str
    released: str


_WARP = ("the strong view's geometry as it was applied", "replayed in a fixed order, sideways shifts too far")
_MODE = ("the EMA teacher is in evaluation mode", "it never leaves training mode")
_SYMMETRY = ("distillation in both directions alike", "the direction from the mixed to the clean view is damped")
_SELF_LABELLING = {
    "sampler": ("pixels of each class by its share of the image", "any pixels"),
    "prior": ("shares of assignments follow the pseudo-labels", "they stay those of the warm-up model"),
    "queue_scores": ("the queue is scored with prototypes of length 1", "with prototypes as they are"),
    "logit_term": ("features are assigned to prototypes", "the teacher's logits are, too, as a second set of labels"),
}
_CONTRAST = {
    "pixel": ("against the hardest tenth of positives and negatives", "against all, halved by an untrained classifier"),
    "patch": ("the student's features of both crops", "the teacher's, so that the student learns nothing from them"),
}
_TEXTS = {
    "network": {"aspp": ("four dilated branches in the head", "two: a return stands inside the loop")},
    "labelled_target": {
        "order": ("every other batch is of the labelled target", "all are, but the odd ones among the last few")
    },
    "rounds": {"growth": ("shares grow up to the largest", "a step is added while they are below it")},
    "cbst": {"kld_weight": ("the weight of MRKLD is applied once", "twice: 0.1 acts as 0.01")},
    "proda": {"teacher_mode": _MODE, "strong_warp": _WARP},
    "proda_distill": {
        "kd": ("divergence of the student from the teacher", "with probabilities in the place of their logarithms"),
        "strong_warp": _WARP,
    },
    "cpsl": {
        **_SELF_LABELLING,
        "target_loss": ("cross-entropy of rectified labels", "a tenth of it and the reverse cross-entropy"),
        "consistency": ("symmetric divergence of both views' predictions", "one-sided, of assignments to prototypes"),
        "cutmix": ("the weak view is a target image", "by chance half of it is a rectangle of a source image"),
        "teacher_mode": _MODE,
    },
    "plca": {"lsr": ("label smoothing", "draws the mean negative log-probability towards 10")},
    "memory_bank": {
        "selectors": ("vectors are weighted on both sides", "those of the bank all have the weight 1"),
        "bank_keep": ("the bank keeps the vectors of the highest scores", "of the lowest"),
        "entropy": ("a mean over pixels", "as many times that as there are views"),
    },
    "pipa": _CONTRAST,
    "dacs_pipa": _CONTRAST,
    "dacs_cpsl": _SELF_LABELLING,
    "diga_warmup": {"symmetry": _SYMMETRY},
    "diga": {"symmetry": _SYMMETRY},
}
_RELEASED_BY_DEFAULT = {("plca", "lsr")}
FIELDS = [
    Fidelity(owner, name, VALUES[(owner, name) in _RELEASED_BY_DEFAULT], *texts)
    for owner, fields in _TEXTS.items()
    for name, texts in fields.items()
]


@dataclass(frozen=True)
class Pair:
    """Two rows that differ in one field alone."""

    paper: Row
    released: Row


def fidelity_table(comparisons: Comparisons) -> Table | None:
    """Every field × default, what each value does, and released − paper by the final stages of rows that differ in it.

    A field that several pairs of rows differ in has a line for each. None where no rows of the study differ so.
    """
    report = comparisons.report
    found = _pairs(report)
    if not found:
        return None
    lines: list[tuple[Fidelity, Pair | None]] = []
    for field in FIELDS:
        lines += [(field, pair) for pair in found[field]] if field in found else [(field, None)]
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
        *missing_notes(report, measured),
    ]
    return Table("fidelity", title, header, rows, pd.DataFrame(numbers), notes, grouped=True)


def _pairs(report: Report) -> dict[Fidelity, list[Pair]]:
    """By field, the rows that differ in it alone: the same recipe up to the same stage, one parameter another.

    Rows that are the same runs as others already found are left out.
    """
    known = {(field.owner, field.name): field for field in FIELDS}
    groups: dict[tuple[str, tuple[str, ...]], dict[str, Run]] = {}
    for run in report.runs:
        if run.final:
            groups.setdefault((run.base, tuple(report.rows[run.row].stages)), {}).setdefault(run.row, run)
    found: dict[Fidelity, dict[Any, Pair]] = {}
    for one, other in (both for rows in groups.values() for both in itertools.combinations(rows.values(), 2)):
        parameter = _only_difference(one.point, other.point)
        field = known.get(_owner(report, one, parameter)) if parameter else None
        if field is None or parameter is None:
            continue
        values = {_value(report, run, parameter, field.default): report.rows[run.row] for run in (one, other)}
        if set(values) == set(VALUES):
            runs = tuple(tuple(run.folder for run in values[value].final.runs) for value in VALUES)
            found.setdefault(field, {}).setdefault(runs, Pair(values["paper"], values["released"]))
    return {field: list(pairs.values()) for field, pairs in found.items()}


def _only_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The parameter in which two points differ, if it is one."""
    names = [name for name in one | other if one.get(name, ABSENT) != other.get(name, ABSENT)]
    return names[0] if len(names) == 1 else None


def _owner(report: Report, run: Run, parameter: str) -> tuple[str, str]:
    """What a parameter STAGE.….PART.NAME is a field of, and its name: the method of the stage, or PART."""
    *_, part, name = parameter.split(".")
    if part == "knobs":
        # A run's folder is results/TASK/METHOD/…, whether it is there or not.
        part = next((used.folder.parent.name for used in _of_stage(report, run, parameter)), part)
    return part, name


def _value(report: Report, run: Run, parameter: str, default: str) -> str:
    """The parameter's value in a row: its point's, else its recipe's, which a trained run tells."""
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
