"""Merging parameters: one file upon another, and a recipe upon its base. Plain data; nothing is validated here."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from udaseg.errors import UserError
from udaseg.validation import require_known

# Mappings whose entries belong together: a study that gives one gives all of it.
WHOLE = {"class_map", "class_sets", "counts", "lists"}
NULLABLE = ("init", "knobs", "weights")  # parts of a stage in which null is no value, but removes what the base has


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `over` laid upon it: mappings are merged key by key, everything else is replaced.

    A data set of another kind replaces the old one as a whole, and so do the mappings named in `WHOLE`.
    """
    merged = dict(copy.deepcopy(base))
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and key not in WHOLE and _same_kind(old, value):
            merged[key] = overlay(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _same_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "kind" not in new or new["kind"] == old.get("kind")


def with_bases(recipes: Mapping[str, Any]) -> dict[str, Any]:
    """The recipes, each that names a `base` laid upon it: nothing after this knows of bases.

    null removes what the base has: a stage, a part of a stage, or an entry of its `init`, `knobs` or `weights`. Deeper
    down (`optim.clip_gradient`) null is a value.

    Raises:
        UserError: a base is not the name of a recipe, or bases form a circle.
        ValueError: a base is not known.
    """
    done: dict[str, Any] = {}

    def based(name: str, derived: tuple[str, ...]) -> Any:
        if name in derived:
            circle = " → ".join([*derived[derived.index(name) :], name])
            raise UserError(f"recipes.{derived[-1]}.base: bases form a circle, {circle}; take one of them out")
        if name not in done:
            recipe = recipes[name]
            if isinstance(recipe, Mapping) and (base := recipe.get("base")) is not None:
                if not isinstance(base, str):
                    raise UserError(f"recipes.{name}.base: expected the name of a recipe, found {json.dumps(base)}")
                require_known(f"recipes.{name}.base", base, recipes)
                below = based(base, (*derived, name))
                recipe = overlay(below, recipe) if isinstance(below, Mapping) else recipe
            done[name] = _without_nulls(recipe)
        return done[name]

    return {name: based(name, ()) for name in recipes}


def _without_nulls(recipe: Any) -> Any:
    """A recipe without its `base` and without the entries that null removes. What is no mapping stays as it is."""
    if not isinstance(recipe, Mapping):
        return recipe
    kept = {key: value for key, value in _given(recipe).items() if key != "base"}
    if isinstance(kept.get("stages"), Mapping):
        kept["stages"] = {name: _stage_without_nulls(stage) for name, stage in _given(kept["stages"]).items()}
    return kept


def _stage_without_nulls(stage: Any) -> Any:
    if not isinstance(stage, Mapping):
        return stage
    return {part: _given(value) if part in NULLABLE else value for part, value in _given(stage).items()}


def _given(entries: Any) -> Any:
    if not isinstance(entries, Mapping):
        return entries
    return {key: value for key, value in entries.items() if value is not None}
