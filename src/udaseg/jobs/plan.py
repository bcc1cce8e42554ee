"""Resolved rows x seeds -> jobs with their specs, folders and parents.

A pure function of the study and of source text. Snakemake's rules, the command line and the report only look things up.
"""

import itertools
from dataclasses import dataclass, field

from udaseg.jobs.build import (
    differences,
    evaluate_job,
    label_job,
    prepare_job,
    quality_job,
    report_job,
    translate_job,
)
from udaseg.jobs.job import Job, Plan
from udaseg.jobs.trainings import train_job
from udaseg.runs.spec import ReportRun, ReportTranslation
from udaseg.study.rows import Row, Study


def make_plan(study: Study) -> Plan:
    """The plan of a study.

    Raises:
        UserError: a weights file is not there.
    """
    params, plan = study.params, Plan(study.params.study)
    source = prepare_job(study, plan, params.task.source.dataset, params.task.source.size, params.task.classes)
    target = prepare_job(study, plan, params.task.target.dataset, params.task.target.size, params.task.classes)
    contents = Contents()
    for seed in dict.fromkeys(itertools.chain(params.seeds, *(row.seeds for row in study.rows))):
        for row in study.rows:
            if seed in row.seeds:
                _add_row(study, plan, row, seed, source, target, contents)
    names, pictures = [row.name for row in study.rows], list(contents.translations.values())
    ends = tuple(contents.ends.values())
    plan.add(report_job(params, names, contents.runs, study.sweeps, study.skipped, pictures, source, target, ends))
    return plan


@dataclass
class Contents:
    """What the report is made of."""

    runs: list[ReportRun] = field(default_factory=list)
    translations: dict[str, ReportTranslation] = field(default_factory=dict)  # by folder
    ends: dict[str, Job] = field(default_factory=dict)  # its parents, by folder


def _add_row(study: Study, plan: Plan, row: Row, seed: int, source: Job, target: Job, contents: Contents) -> None:
    """Add the jobs of a row with one seed, stage by stage."""
    params = study.params
    trained: dict[str, Job] = {}
    for name, stage in row.stages.items():
        label = f"{row.name}{', ' if row.sweep else '.'}{name} seed={seed}"
        labels = quality = evaluation = shown = None
        if stage.labels is not None:
            labels = plan.add(label_job(trained[stage.labels_of], row.stages[stage.labels_of], stage, source, target))
            quality = plan.add(quality_job(labels, target))
        inputs = (source, target, *([labels] if labels else []))
        job = trained[name] = plan.add(train_job(study, plan, stage, trained, inputs, seed, label))
        if stage.predicts == "labels" and params.evaluate.report:
            evaluation = plan.add(evaluate_job(params, job, stage, target, params.evaluate.report, row.protocol))
        if seed == params.seeds[0] and row.sweep is None and stage.translates:
            shown = plan.add(translate_job(params, job, stage, source, target))
            contents.translations[shown.folder] = ReportTranslation(
                translator=stage.knobs["translator"], folder=shown.folder
            )
        contents.ends |= {end.folder: end for end in (evaluation or job, quality, shown) if end}
        contents.runs.append(
            ReportRun(
                recipe=row.name,
                title=row.title,
                stage=name,
                final=name == list(row.stages)[-1],
                seed=seed,
                run=job.folder,
                evaluation=evaluation.folder if evaluation else None,
                quality=quality.folder if quality else None,
                labelled_target=stage.labelled_target(),
                overrides=differences(stage),
                sweep=row.sweep,
                base=row.base if row.sweep else None,
                point=dict(row.point),
            )
        )
