"""Sweeps: recipes with other values at some of their parameters. Pure; to the plan each point is a recipe of its own.

A parameter is STAGE.PART.NAME, as it would stand below `recipes.RECIPE.stages`, deeper where the part is nested:
main.weights.pixel, stage1.knobs.alpha, warmup.train.source.batch. A name that is not there or a value of the wrong type
is a mistake, which stops before any job. Values that are right by themselves and do not go together make a point that
is skipped, with the reason.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from udaseg.config.schema import Params, Recipe, Stage, Sweep
from udaseg.errors import UserError
from udaseg.runs.spec import ReportSkipped
from udaseg.study.resolve import TRANSLATOR, check_recipe, expanded, overlay
from udaseg.validation import require_known, validate, validate_fields

PARTS = [name for name in Stage.model_fields if name != "method"]  # another method is another recipe


@dataclass(frozen=True)
class Row:
    """What a study trains for each of some seeds: a recipe of `run`, or a point of a sweep."""

    name: str  # of the recipe, or SWEEP/POINT
    title: str
    recipe: Recipe  # with the point's values
    base: str  # name of the recipe without them
    seeds: list[int]
    sweep: str | None = None
    point: Mapping[str, Any] = field(default_factory=dict)  # parameter -> value


class Point(NamedTuple):
    """A point of a sweep as it is given."""

    recipe: str
    until: str | None
    values: dict[str, Any]  # parameter -> value


def study_rows(params: Params) -> tuple[list[Row], list[ReportSkipped]]:
    """The recipes of a study, then the points of its sweeps; and the points that are skipped."""
    recipes = ((name, params.recipes[name]) for name in params.run)
    rows = [Row(name, recipe.title, recipe, name, params.seeds) for name, recipe in recipes]
    skipped = []
    for name in params.sweep:
        made, left = sweep_rows(params, name)
        rows += made
        skipped += left
    return rows, skipped


def sweep_rows(params: Params, name: str) -> tuple[list[Row], list[ReportSkipped]]:
    """The points of a sweep that can be trained, and those whose values do not go together."""
    sweep = params.sweeps[name]
    rows, skipped = [], []
    for title, point in _points(sweep):
        try:
            recipe = _laid(params, point)
            check_recipe(params, recipe, run=point.recipe)
        except (UserError, ValueError) as error:
            skipped.append(ReportSkipped(sweep=name, point=title, reason=str(error)))
            continue
        seeds = params.seeds if sweep.seeds is None else sweep.seeds
        place = f"{name}/{title}", f"{sweep.title}, {title}"
        rows.append(Row(*place, recipe, point.recipe, seeds, sweep=name, point=point.values))
    return rows, skipped


def unchanged(params: Params, name: str) -> Recipe:
    """A sweep's recipe as it stands, with all its stages or those up to `until`."""
    sweep = params.sweeps[name]
    return _laid(params, Point(sweep.recipe, sweep.until, {}))


def with_sweep(params: Params, name: str) -> Params:
    """The study with one of the sweeps that there are, whether it lists it or not; UserError for an unknown name."""
    try:
        require_known("--sweep", name, params.sweeps)
    except ValueError as error:
        raise UserError(str(error)) from None
    return params if name in params.sweep else params.model_copy(update={"sweep": [*params.sweep, name]})


def check_sweeps(params: Params) -> None:
    """Hold every parameter of every sweep, and each of its values by itself, against the recipe that it is laid upon.

    Raises UserError, or ValueError for a name that is not known.
    """
    for name, sweep in params.sweeps.items():
        path = f"sweeps.{name}"
        _check_until(params, path, sweep.recipe, sweep.until)
        for parameter, values in (sweep.over or {}).items():
            for value in values:
                _check_value(params, f"{path}.over", Point(sweep.recipe, sweep.until, {}), parameter, value)
        for title, given in (sweep.points or {}).items():
            where = f"{path}.points.{title}"
            point = _point(sweep, given)
            require_known(f"{where}.recipe", point.recipe, params.recipes)
            _check_until(params, where, point.recipe, point.until)
            for parameter, value in point.values.items():
                _check_value(params, where, point, parameter, value)


def _points(sweep: Sweep) -> Iterator[tuple[str, Point]]:
    """Names and contents of the points, in the order in which they stand; of lists the last one runs fastest."""
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
    """A value as it stands in a point's name: 0.1, paper, 64x64."""
    if isinstance(value, list) and all(isinstance(entry, int | float) for entry in value):
        return "x".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _laid(params: Params, point: Point) -> Recipe:
    """The point's recipe up to the stage `until`, with the point's values."""
    recipe, stages = params.recipes[point.recipe], {}
    for name in _trained(recipe, point.until):
        changes: dict[str, Any] = {}
        for parameter, value in point.values.items():
            stage, *keys = parameter.split(".")
            if stage == name:
                changes = overlay(changes, _nested(keys, value))
        stages[name] = _with(recipe.stages[name], changes, name)
    return recipe.model_copy(update={"stages": stages})


def _trained(recipe: Recipe, until: str | None) -> list[str]:
    """Names of a recipe's stages up to `until`."""
    names = list(recipe.stages)
    return names if until is None else names[: names.index(until) + 1]


def _nested(keys: list[str], value: Any) -> Any:
    return {keys[0]: _nested(keys[1:], value)} if keys else value


def _with(stage: Stage, changes: Mapping[str, Any], path: str) -> Stage:
    return validate(Stage, overlay(stage.model_dump(mode="json"), changes), path)


def _check_until(params: Params, path: str, recipe: str, until: Any) -> None:
    if until is not None:
        require_known(f"{path}.until", str(until), params.recipes[recipe].stages)


def _check_value(params: Params, path: str, point: Point, parameter: str, value: Any) -> None:
    """Whether a recipe has the parameter, up to the stage where it ends, and may have this value there.

    Each part is held against the model that `resolve_stage` makes of it, without what needs more than this one value.
    """
    from udaseg.methods import METHODS  # pays for torch's import, which reading a SPEC needs

    recipe = params.recipes[point.recipe]
    stages = _trained(recipe, point.until)
    name, *keys = parameter.split(".")
    if len(keys) < 2:
        raise UserError(
            f"{path}: '{parameter}' is no parameter; write STAGE.PART.NAME, such as {stages[-1]}.weights.seg, where "
            f"STAGE is one of {', '.join(stages)} and PART one of {', '.join(PARTS)}"
        )
    require_known(f"{path}.{parameter}", name, stages)
    part, key = keys[:2]
    require_known(f"{path}.{parameter}", part, PARTS)
    stage = _with(recipe.stages[name], _nested(keys, value), f"{path}.{name}")
    spec, where = METHODS[stage.method].SPEC, f"{path}.{name}.{part}"
    earlier = dict(itertools.takewhile(lambda entry: entry[0] != name, recipe.stages.items()))
    sources = list(expanded(params, recipe.model_copy(update={"stages": earlier})))
    if part == "weights":
        require_known(where, key, spec.weights)
    elif part == "knobs":
        validate_fields(spec.Config, overlay(params.methods[stage.method].knobs, stage.knobs), where)
    elif part == "init":
        knobs = spec.Config.model_validate(overlay(params.methods[stage.method].knobs, stage.knobs))
        roles = [*spec.initial_roles(knobs), *([TRANSLATOR] if TRANSLATOR in spec.Config.model_fields else [])]
        require_known(where, key, dict.fromkeys(roles))
        if not str(value).startswith("file:"):
            require_known(f"{where}.{key}", str(value), ["scratch", "pretrain", "file:PATH", *sources])
    elif (part, key) == ("labels", "of"):
        require_known(f"{where}.of", str(value), sources)
    elif part != "rounds":  # of which Stage has a model
        base = getattr(params, part)
        given = {name: entry for name, entry in getattr(stage, part).items() if name != "of"}
        validate_fields(type(base), overlay(base.model_dump(mode="json"), given), where)
