"""Recipes and points of sweeps x seeds -> jobs with their specs, folders and parents.

Pure: from parameters and source text alone. Snakemake's rules, the command line and the report only look things up.
"""

import itertools
from collections.abc import Mapping

from udaseg.config.schema import Params, Recipe, Stage
from udaseg.jobs.build import (
    differences,
    evaluate_job,
    label_job,
    prepare_job,
    quality_job,
    report_job,
    train_job,
    translate_job,
)
from udaseg.jobs.job import Job, Plan
from udaseg.runs.spec import ReportRun, ReportSweep, ReportTranslation
from udaseg.study.resolve import ResolvedStage, expanded, resolve_protocol, resolve_stage
from udaseg.study.sweeps import Row, study_rows, unchanged


def make_plan(params: Params) -> Plan:
    """The plan of a study.

    Raises:
        UserError: a crop is larger than its images, or a weights file is not there.
    """
    from udaseg.methods import METHODS

    plan = Plan(params.study)
    source = prepare_job(params, plan, params.task.source.dataset, params.task.source.size, params.task.classes)
    target = prepare_job(params, plan, params.task.target.dataset, params.task.target.size, params.task.classes)
    rows, skipped = study_rows(params)
    resolved = {row.name: _resolved(params, row.name, row.recipe) for row in rows}
    runs: list[ReportRun] = []
    translations: dict[str, ReportTranslation] = {}
    ends: dict[str, Job] = {}
    for seed in dict.fromkeys(itertools.chain(params.seeds, *(row.seeds for row in rows))):
        for row in rows:
            if seed not in row.seeds:
                continue
            made: dict[str, Job] = {}
            stages = resolved[row.name]
            title = _title(row, [settings for _, settings in stages.values()])
            protocol = resolve_protocol(params, row.recipe, row.base)
            for stage_name, (stage, settings) in stages.items():
                method = METHODS[settings.method].SPEC
                knobs = method.Config.model_validate(settings.knobs)
                label = f"{row.name}{', ' if row.sweep else '.'}{stage_name} seed={seed}"
                labels = quality = None
                if settings.labels is not None:
                    of = settings.labels_of
                    labels = plan.add(label_job(made[of], stages[of][1], settings, source, target))
                    quality = plan.add(quality_job(labels, target))
                parents = (source, target, *([labels] if labels else []))
                job = plan.add(train_job(params, plan, stage, settings, made, parents, seed, label))
                made[stage_name] = job
                split = params.evaluate.report if method.predicts == "labels" else None
                evaluation = plan.add(evaluate_job(params, job, settings, target, split, protocol)) if split else None
                shown = None
                if seed == params.seeds[0] and row.sweep is None and method.translates(knobs):
                    shown = plan.add(translate_job(params, job, settings, source, target))
                    translations[shown.folder] = ReportTranslation(
                        translator=settings.knobs["translator"], folder=shown.folder
                    )
                ends |= {end.folder: end for end in (evaluation or job, quality, shown) if end}
                runs.append(
                    ReportRun(
                        recipe=row.name,
                        title=title,
                        stage=stage_name,
                        final=stage_name == list(stages)[-1],
                        seed=seed,
                        run=job.folder,
                        evaluation=evaluation.folder if evaluation else None,
                        quality=quality.folder if quality else None,
                        labelled_target=settings.labelled_target(),
                        overrides=differences(settings),
                        sweep=row.sweep,
                        base=row.base if row.sweep else None,
                        point=dict(row.point),
                    )
                )
    names, pictures = [row.name for row in rows], list(translations.values())
    sweeps = [_sweep(params, name, rows, resolved) for name in params.sweep]
    plan.add(report_job(params, names, runs, sweeps, skipped, pictures, source, target, tuple(ends.values())))
    return plan


Stages = dict[str, tuple[Stage, ResolvedStage]]


def _resolved(params: Params, name: str, recipe: Recipe) -> Stages:
    stages = expanded(params, recipe).items()
    return {key: (stage, resolve_stage(params, stage, f"recipes.{name}.stages.{key}")) for key, stage in stages}


def _sweep(params: Params, name: str, rows: list[Row], resolved: Mapping[str, Stages]) -> ReportSweep:
    """What the report is told of a sweep; its reference is the point whose values are those of the recipe itself."""
    sweep = params.sweeps[name]
    points = {row.name: row.name.removeprefix(f"{name}/") for row in rows if row.sweep == name}
    plain = _settings(_resolved(params, sweep.recipe, unchanged(params, name)))
    same = (row.name for row in rows if row.name in points and row.base == sweep.recipe)
    reference = next((point for point in same if _settings(resolved[point]) == plain), None)
    return ReportSweep(
        name=name,
        title=sweep.title,
        recipe=sweep.recipe,
        over=sweep.over or {},
        reference=reference,
        points=points,
    )


def _settings(stages: Stages) -> dict[str, ResolvedStage]:
    return {name: settings for name, (_, settings) in stages.items()}


def _title(row: Row, stages: list[ResolvedStage]) -> str:
    """The title of a recipe or point, and what its methods say that no report may leave out."""
    from udaseg.methods import METHODS

    words = []
    for stage in stages:
        spec = METHODS[stage.method].SPEC
        words.append(spec.qualifier(spec.Config.model_validate(stage.knobs)))
    missing = [word for word in dict.fromkeys(words) if word]
    return f"{row.title} [{', '.join(missing)}]" if missing else row.title
