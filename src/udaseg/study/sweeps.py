"""Sweeps: recipes with other values at some of their parameters. To the plan each point is a row like a recipe's.

A parameter is STAGE.PART.NAME, as it would stand below `recipes.RECIPE.stages`, deeper where the part is nested:
main.weights.pixel, stage1.knobs.alpha, warmup.train.source.batch. An unknown name or a value of the wrong type is a
mistake, which stops before any job. Values that are valid alone and incompatible with each other make a point that is
skipped, with the reason.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from udaseg.config.recipes import Stage, Sweep
from udaseg.config.schema import Params
from udaseg.data.datasets.base import DatasetParams
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.runs.spec import ReportSkipped, ReportSweep
from udaseg.study.overlay import overlay
from udaseg.study.recipes import check_target_labels, resolve_stages
from udaseg.study.rows import ResolvedStage, Row, titled
from udaseg.study.stages import TRANSLATOR
from udaseg.validation import require_known, validate, validate_fields

PARTS = [name for name in Stage.model_fields if name != "method"]  # another method is another recipe


class Point(NamedTuple):
    """A point of a sweep as it is given."""

    recipe: str
    until: str | None
    values: dict[str, Any]  # parameter -> value


class ResolvedSweep(NamedTuple):
    """The points of a sweep that can be trained, those whose values are incompatible, and what the report shows."""

    rows: list[Row]
    skipped: list[ReportSkipped]
    report: ReportSweep


def resolve_sweep(params: Params, target: DatasetParams, recipes: Mapping[str, Row], name: str) -> ResolvedSweep:
    """Resolve the points of a sweep on top of the resolved recipes; `target` is the task's."""
    sweep = params.sweeps[name]
    rows, skipped = [], []
    for title, point in _points(sweep):
        try:
            stages = _resolved(params, recipes[point.recipe], point)
            row = Row(
                name=f"{name}/{title}",
                title=titled(f"{sweep.title}, {title}", stages),
                base=point.recipe,
                seeds=params.seeds if sweep.seeds is None else sweep.seeds,
                stages=stages,
                protocol=recipes[point.recipe].protocol,
                sweep=name,
                point=point.values,
            )
            check_target_labels(params, target, row, "")
        except (UserError, ValueError) as error:
            skipped.append(ReportSkipped(sweep=name, point=title, reason=str(error)))
        else:
            rows.append(row)
    points = {row.name: row.name.removeprefix(f"{name}/") for row in rows}
    # The reference is the point whose values are those of the recipe itself.
    plain = _resolved(params, recipes[sweep.recipe], Point(sweep.recipe, sweep.until, {}))
    report = ReportSweep(
        name=name,
        title=sweep.title,
        recipe=sweep.recipe,
        over=sweep.over or {},
        reference=next((row.name for row in rows if row.base == sweep.recipe and row.stages == plain), None),
        points=points,
    )
    return ResolvedSweep(rows, skipped, report)


def check_sweep(params: Params, recipes: Mapping[str, Row], name: str) -> None:
    """Check every parameter of a sweep, and each of its values by itself, against the recipe that it is laid upon.

    Raises UserError, or ValueError for a name that is not known.
    """
    sweep, path = params.sweeps[name], f"sweeps.{name}"
    plain = Point(sweep.recipe, sweep.until, {})
    _check_until(params, path, plain)
    for parameter, values in (sweep.over or {}).items():
        for value in values:
            _check_value(params, recipes, f"{path}.over", plain, parameter, value)
    for title, given in (sweep.points or {}).items():
        where, point = f"{path}.points.{title}", _point(sweep, given)
        require_known(f"{where}.recipe", point.recipe, params.recipes)
        _check_until(params, where, point)
        for parameter, value in point.values.items():
            _check_value(params, recipes, where, point, parameter, value)


def _points(sweep: Sweep) -> Iterator[tuple[str, Point]]:
    """Names and contents of the points, in the order in which they are given; of lists the last one runs fastest."""
    for title, given in (sweep.points or {}).items():
        yield title, _point(sweep, given)
    if sweep.over is not None:
        ends = [path.rpartition(".")[2] for path in sweep.over]
        words = ends if len(set(ends)) == len(ends) else list(sweep.over)
        for values in itertools.product(*sweep.over.values()):
            title = ", ".join(f"{word}={_text(value)}" for word, value in zip(words, values, strict=True))
            yield title, Point(sweep.recipe, sweep.until, dict(zip(sweep.over, values, strict=True)))


def _point(sweep: Sweep, given: Mapping[str, Any]) -> Point:
    """A point of a list. The sweep's `until` names a stage of the sweep's recipe, not of another."""
    recipe = str(given.get("recipe", sweep.recipe))
    until = given.get("until", sweep.until if recipe == sweep.recipe else None)
    return Point(recipe, until, {key: value for key, value in given.items() if key not in ("recipe", "until")})


def _text(value: Any) -> str:
    """A value as it appears in a point's name: 0.1, paper, 64x64."""
    if isinstance(value, list) and all(isinstance(entry, int | float) for entry in value):
        return "x".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _trained(params: Params, point: Point) -> dict[str, Stage]:
    """The stages of the point's recipe up to `until`, as they are given there."""
    stages = params.recipes[point.recipe].stages
    names = list(stages)
    return {name: stages[name] for name in (names if point.until is None else names[: names.index(point.until) + 1])}


def _resolved(params: Params, recipe: Row, point: Point) -> dict[str, ResolvedStage]:
    """The point's stages, resolved. Those that it leaves as they are in its recipe are taken from there."""
    stages, same = _trained(params, point), dict[str, ResolvedStage]()
    for name, stage in stages.items():
        changes: dict[str, Any] = {}
        for parameter, value in point.values.items():
            of, *keys = parameter.split(".")
            if of == name:
                changes = overlay(changes, _nested(keys, value))
        if changes:
            stages[name] = _with(stage, changes, name)
        else:
            same |= {run: recipe.stages[run] for run in stage.runs(name)}
    return resolve_stages(params, stages, "", same)


def _nested(keys: list[str], value: Any) -> Any:
    return {keys[0]: _nested(keys[1:], value)} if keys else value


def _with(stage: Stage, changes: Mapping[str, Any], path: str) -> Stage:
    return validate(Stage, overlay(stage.model_dump(mode="json"), changes), path)


def _check_until(params: Params, path: str, point: Point) -> None:
    if point.until is not None:
        require_known(f"{path}.until", str(point.until), params.recipes[point.recipe].stages)


def _check_value(
    params: Params, recipes: Mapping[str, Row], path: str, point: Point, parameter: str, value: Any
) -> None:
    """Whether a recipe has the parameter, up to the stage where it ends, and may have this value there.

    The value is laid upon the recipe's resolved stage, and judged without what needs more than this one value.
    """
    stages = _trained(params, point)
    name, *keys = parameter.split(".")
    if len(keys) < 2:
        raise UserError(
            f"{path}: '{parameter}' is no parameter; write STAGE.PART.NAME, such as {list(stages)[-1]}.weights.seg, "
            f"where STAGE is one of {', '.join(stages)} and PART one of {', '.join(PARTS)}"
        )
    require_known(f"{path}.{parameter}", name, stages)
    part, key = keys[:2]
    require_known(f"{path}.{parameter}", part, PARTS)
    _with(stages[name], _nested(keys, value), f"{path}.{name}")
    run, resolved = stages[name].runs(name)[0], recipes[point.recipe].stages
    stage, where, given = resolved[run], f"{path}.{name}.{part}", _nested(keys[1:], value)
    spec = METHODS[stage.method].SPEC
    earlier = list(resolved)[: list(resolved).index(run)]
    if part == "weights":
        require_known(where, key, spec.weights)
    elif part == "knobs":
        validate_fields(spec.Config, overlay(stage.knobs, given), where)
    elif part == "init":
        optional = [TRANSLATOR] if TRANSLATOR in spec.Config.model_fields else []
        require_known(where, key, dict.fromkeys([*stage.init, *optional]))
        if not str(value).startswith("file:"):
            require_known(f"{where}.{key}", str(value), ["scratch", "pretrain", "file:PATH", *earlier])
    elif (part, key) == ("labels", "of"):
        require_known(f"{where}.of", str(value), earlier)
    elif part != "rounds":  # which Stage has a model of
        base = stage.labels or params.labels if part == "labels" else getattr(stage, part)
        validate_fields(type(base), overlay(base.model_dump(mode="json"), given), where)
