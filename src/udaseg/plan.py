"""Recipes x seeds -> jobs with their specs, folders and parents. Pure: from parameters and source text alone.

Snakemake's rules, the command line and the report only look things up here.
"""

from udaseg.config import Params
from udaseg.drafts import (
    differences,
    evaluate_job,
    label_job,
    prepare_job,
    quality_job,
    report_job,
    train_job,
    translate_job,
)
from udaseg.jobs import Job, Plan
from udaseg.parameters import ResolvedStage, expanded, resolve_protocol, resolve_stage
from udaseg.specs import ReportRun, ReportTranslation


def make_plan(params: Params) -> Plan:
    """The plan of a study.

    Raises:
        UserError: a crop is larger than its images, or a weights file is not there.
    """
    from udaseg.methods import METHODS

    plan = Plan(params.study)
    source = prepare_job(params, plan, params.task.source.dataset, params.task.source.size, params.task.classes)
    target = prepare_job(params, plan, params.task.target.dataset, params.task.target.size, params.task.classes)
    recipes = {name: expanded(params, params.recipes[name]) for name in params.run}
    resolved = {
        (name, stage_name): resolve_stage(params, stage, f"recipes.{name}.stages.{stage_name}")
        for name, stages in recipes.items()
        for stage_name, stage in stages.items()
    }
    titles = {name: _title(params, name, [resolved[name, stage] for stage in recipes[name]]) for name in params.run}
    protocols = {name: resolve_protocol(params, params.recipes[name], name) for name in params.run}
    runs: list[ReportRun] = []
    translations: dict[str, ReportTranslation] = {}
    ends: dict[str, Job] = {}
    for seed in params.seeds:
        for name in params.run:
            made: dict[str, Job] = {}
            for stage_name, stage in recipes[name].items():
                settings = resolved[name, stage_name]
                method = METHODS[settings.method].SPEC
                knobs = method.Config.model_validate(settings.knobs)
                label = f"{name}.{stage_name} seed={seed}"
                labels = quality = None
                if settings.labels is not None:
                    of = settings.labels_of
                    labels = plan.add(label_job(made[of], resolved[name, of], settings, source, target))
                    quality = plan.add(quality_job(labels, target))
                parents = (source, target, *([labels] if labels else []))
                job = plan.add(train_job(params, plan, stage, settings, made, parents, seed, label))
                made[stage_name] = job
                split = params.evaluate.report if method.predicts == "labels" else None
                protocol = protocols[name]
                evaluation = plan.add(evaluate_job(params, job, settings, target, split, protocol)) if split else None
                shown = None
                if seed == params.seeds[0] and method.translates(knobs):
                    shown = plan.add(translate_job(params, job, settings, source, target))
                    translations[shown.folder] = ReportTranslation(
                        translator=settings.knobs["translator"], folder=shown.folder
                    )
                ends |= {end.folder: end for end in (evaluation or job, quality, shown) if end}
                runs.append(
                    ReportRun(
                        recipe=name,
                        title=titles[name],
                        stage=stage_name,
                        final=stage_name == list(recipes[name])[-1],
                        seed=seed,
                        run=job.folder,
                        evaluation=evaluation.folder if evaluation else None,
                        quality=quality.folder if quality else None,
                        labelled_target=settings.labelled_target(),
                        overrides=differences(settings),
                    )
                )
    plan.add(report_job(params, runs, list(translations.values()), source, target, tuple(ends.values())))
    return plan


def _title(params: Params, recipe: str, stages: list[ResolvedStage]) -> str:
    """A recipe's title, and what its methods say that no report may leave out."""
    from udaseg.methods import METHODS

    words = []
    for stage in stages:
        spec = METHODS[stage.method].SPEC
        words.append(spec.qualifier(spec.Config.model_validate(stage.knobs)))
    missing = [word for word in dict.fromkeys(words) if word]
    return f"{params.recipes[recipe].title} [{', '.join(missing)}]" if missing else params.recipes[recipe].title
