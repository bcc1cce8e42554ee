"""Resolving a recipe: its stages as they are run, each resolved against those before it."""

from collections.abc import Mapping
from typing import Any

from udaseg.config.evaluation import Protocol
from udaseg.config.recipes import Recipe, Stage
from udaseg.config.schema import Params
from udaseg.data.datasets.base import DatasetParams
from udaseg.errors import UserError
from udaseg.ops.schedules import portions, round_rates
from udaseg.study.overlay import overlay
from udaseg.study.rows import ResolvedStage, Row, titled
from udaseg.study.stages import check_view, resolve_stage
from udaseg.validation import validate


def resolve_recipe(params: Params, name: str, recipe: Recipe) -> Row:
    """The row of a recipe, whether the study runs it or not.

    Raises UserError, or ValueError for a name that is not known.
    """
    protocol = overlay(params.evaluate.protocol.model_dump(mode="json"), recipe.protocol)
    scored = validate(Protocol, protocol, f"recipes.{name}.protocol")
    stages = resolve_stages(params, recipe.stages, f"recipes.{name}.stages.", {})
    return Row(name, titled(recipe.title, stages), name, params.seeds, stages, scored)


def resolve_stages(
    params: Params, stages: Mapping[str, Stage], prefix: str, same: Mapping[str, ResolvedStage]
) -> dict[str, ResolvedStage]:
    """The stages of a recipe as they are run, by name.

    Args:
        prefix: stands before a stage's name in messages.
        same: stages that are resolved already.
    """
    resolved: dict[str, ResolvedStage] = {}
    for name, stage in stages.items():
        for run, settings in _rounds(params, name, stage).items():
            resolved[run] = same.get(run) or resolve_stage(params, settings, f"{prefix}{run}", resolved)
    return resolved


def check_target_labels(params: Params, target: DatasetParams, row: Row, prefix: str) -> None:
    """UserError where a row that is run learns from labels of the target that are not there, or do not fit."""
    use = params.task.target
    for name, stage in row.stages.items():
        if (stage.supervision == "target" or stage.labelled_target()) and not target.has_labels():
            raise UserError(
                f"run: recipe '{row.base}' learns from labels of the target, but data set '{use.dataset}' has none "
                f"(datasets.{use.dataset}.labels is null); take '{row.base}' out of run, or give the data set its "
                "labels"
            )
        if stage.labelled_target():  # the crops of the source stream are cut out of target images, too
            check_view(f"{prefix}{name}.train.source", stage.train.source, use)


def _rounds(params: Params, name: str, stage: Stage) -> dict[str, Stage]:
    """The trainings of a stage: NAME1, NAME2, … where it has `rounds`, each from the one before, or itself."""
    rounds = stage.rounds
    if rounds is None:
        return {name: stage}
    target, source = (
        portions(rounds.count, growing.start, growing.step, growing.most, rounds.growth)
        for growing in (rounds.target, rounds.source)
    )
    rates = round_rates(rounds.count, stage.optim.get("lr", params.optim.lr), rounds.lr_factor)
    made: dict[str, Stage] = {}
    for index, run in enumerate(stage.runs(name)):
        changes: dict[str, Any] = {
            "labels": {**stage.labels, "portion": target[index]},
            "train": overlay(stage.train, {"source": {"portion": source[index]}}),
            "rounds": None,
        }
        if rounds.lr_factor != 1:
            changes["optim"] = {**stage.optim, "lr": rates[index]}
        if made:
            before = list(made)[-1]
            changes["labels"]["of"] = before
            changes["init"] = {**(stage.init or {}), "student": before}
        made[run] = stage.model_copy(update=changes)
    return made
