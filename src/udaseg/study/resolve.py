"""From validated parameters to a resolved study. What it refuses, it refuses before any job starts."""

from udaseg.config.recipes import Stage
from udaseg.config.schema import Params
from udaseg.study.datasets import resolve_datasets
from udaseg.study.recipes import check_target_labels, resolve_recipe
from udaseg.study.rows import Study
from udaseg.study.stages import check_methods, resolve_stage
from udaseg.study.sweeps import check_sweep, resolve_sweep


def resolve_study(params: Params) -> Study:
    """Resolve every recipe and every point of the listed sweeps, each stage once.

    Recipes that the study does not run and sweeps that it does not list are checked as well.

    Raises:
        UserError: a value cannot work, see `resolve_stage`.
        ValueError: a name is not known.
    """
    datasets = resolve_datasets(params)
    check_methods(params)
    settings = params.pretrain
    stage = Stage(method="source_only", init={"student": "scratch"}, optim=settings.optim, train=settings.train)
    pretrain = resolve_stage(params, stage, "pretrain", {}, settings)
    recipes = {name: resolve_recipe(params, name, recipe) for name, recipe in params.recipes.items()}
    rows = [recipes[name] for name in params.run]
    target = datasets[params.task.target.dataset]
    for row in rows:
        check_target_labels(params, target, row, f"recipes.{row.name}.stages.")
    for name in params.sweeps:
        check_sweep(params, recipes, name)
    sweeps, skipped = [], []
    for name in params.sweep:
        found = resolve_sweep(params, target, recipes, name)
        rows += found.rows
        sweeps.append(found.report)
        skipped += found.skipped
    return Study(params, datasets, pretrain, recipes, rows, sweeps, skipped)
