"""Recipes x seeds -> jobs with their specs, folders and parents. Pure: from parameters and source text alone.

Snakemake's rules, the command line and the report only look things up here.
"""

import re
from pathlib import Path
from typing import Any

from udaseg.config import CamvidData, Params, Protocol, Scored, Stage
from udaseg.errors import UserError
from udaseg.fingerprint import fingerprint
from udaseg.jobs import Job, Plan
from udaseg.parameters import ResolvedStage, expanded, resolve_protocol, resolve_stage
from udaseg.runs import sha256
from udaseg.specs import (
    DownloadSpec,
    EvaluateSpec,
    LabelSpec,
    PrepareSpec,
    QualitySpec,
    ReportRun,
    ReportSpec,
    TrainSpec,
    digest,
)

DOWNLOADS = Path("data/downloads")


def make_plan(params: Params) -> Plan:
    """The plan of a study.

    Raises:
        UserError: a crop is larger than its images, or a weights file is not there.
    """
    plan = Plan(params.study)
    source = _prepare(params, plan, params.task.source.dataset, params.task.source.size, params.task.classes)
    target = _prepare(params, plan, params.task.target.dataset, params.task.target.size, params.task.classes)
    recipes = {name: expanded(params, params.recipes[name]) for name in params.run}
    resolved = {
        (name, stage_name): resolve_stage(params, stage, f"recipes.{name}.stages.{stage_name}")
        for name, stages in recipes.items()
        for stage_name, stage in stages.items()
    }
    protocols = {name: resolve_protocol(params, params.recipes[name], name) for name in params.run}
    runs: list[ReportRun] = []
    ends: dict[str, Job] = {}
    for seed in params.seeds:
        for name in params.run:
            made: dict[str, Job] = {}
            for stage_name, stage in recipes[name].items():
                settings = resolved[name, stage_name]
                label = f"{name}.{stage_name} seed={seed}"
                labels = quality = None
                if settings.labels is not None:
                    of = settings.labels_of
                    labels = plan.add(_label(made[of], resolved[name, of], settings, target))
                    quality = plan.add(_quality(labels, target))
                parents = (source, target, *([labels] if labels else []))
                job = plan.add(_train(params, plan, stage, settings, made, parents, seed, label))
                made[stage_name] = job
                split = params.evaluate.report
                protocol = protocols[name]
                evaluation = plan.add(_evaluate(params, job, settings, target, split, protocol)) if split else None
                ends |= {end.folder: end for end in [evaluation or job, *([quality] if quality else [])]}
                runs.append(
                    ReportRun(
                        recipe=name,
                        title=params.recipes[name].title,
                        stage=stage_name,
                        final=stage_name == list(recipes[name])[-1],
                        seed=seed,
                        run=job.folder,
                        evaluation=evaluation.folder if evaluation else None,
                        quality=quality.folder if quality else None,
                        labelled_target=settings.labelled_target(),
                        overrides=_differences(settings),
                    )
                )
    plan.add(_report(params, runs, source, target, tuple(ends.values())))
    return plan


def _prepare(params: Params, plan: Plan, name: str, size: tuple[int, int], classes: list[str]) -> Job:
    dataset = params.datasets[name]
    parents = (plan.add(_download(params, dataset)),) if isinstance(dataset, CamvidData) else ()
    draft = PrepareSpec(
        kind="prepare",
        folder="data",
        name=name,
        dataset=dataset,
        classes=classes,
        size=size,
        mirror=params.mirror,
        code=fingerprint("data.prepare", f"data.{dataset.kind}"),
    )
    return plan.add(Job(_at(draft, f"data/sets/{name}-{digest(draft)}"), parents, f"data set {name}"))


def _download(params: Params, dataset: CamvidData) -> Job:
    from udaseg.data.camvid import FOLDER

    spec = DownloadSpec(kind="download", folder=str(DOWNLOADS / FOLDER), dataset=dataset, mirror=params.mirror)
    return Job(spec, label=f"archive of {dataset.kind}")


def _train(
    params: Params,
    plan: Plan,
    stage: Stage,
    resolved: ResolvedStage,
    earlier: dict[str, Job],
    inputs: tuple[Job, ...],
    seed: int,
    label: str,
) -> Job:
    """The training job of a stage; `inputs` are its source, its target and, where it has some, its pseudo-labels."""
    from udaseg.methods import METHODS

    source, target, *labels = inputs
    method = METHODS[stage.method].SPEC
    init, sums, parents = {}, {}, list(inputs)
    for role in method.roles:
        start = stage.init[role]
        if start == "pretrain":
            parent = _pretrain(params, plan, resolved) if resolved.network.name == "small" else None
        else:
            parent = earlier.get(start)
        if parent is not None:
            parents.append(parent)
        init[role] = parent.folder if parent else "imagenet" if start == "pretrain" else start
        if start.startswith("file:"):
            sums[role] = _checksum(f"init.{role}", Path(start.removeprefix("file:")).expanduser())
    return _train_job(
        params,
        resolved,
        labelled=target if method.labelled == "target" else source,
        target=target,
        labels=labels[0] if labels else None,
        classes=params.task.classes,
        place=f"results/{params.task.source.dataset}-{params.task.target.dataset}",
        seed=seed,
        init=(init, sums),
        parents=tuple(parents),
        label=label,
    )


def _train_job(
    params: Params,
    resolved: ResolvedStage,
    *,
    labelled: Job,
    target: Job | None,
    labels: Job | None,
    classes: list[str],
    place: str,
    seed: int,
    init: tuple[dict[str, str], dict[str, str]],
    parents: tuple[Job, ...],
    label: str,
) -> Job:
    draft = TrainSpec(
        kind="train",
        folder="results",
        method=resolved.method,
        knobs=resolved.knobs,
        weights=resolved.weights,
        seed=seed,
        source=labelled.folder,
        target=target.folder if target else None,
        classes=classes,
        init=init[0],
        init_sums=init[1],
        labels=labels.folder if labels else None,
        network=resolved.network,
        optim=resolved.optim,
        train=resolved.train,
        monitor=params.evaluate.monitor if target else None,
        code=training_code(resolved.method),
    )
    words = re.sub(r"[^A-Za-z0-9._,=+-]+", "-", _differences(resolved))
    while len(words) > 80:  # a file name has its limits; the hash tells runs apart
        words = words.rpartition(",")[0]
    words = f"{words},seed={seed}" if words else f"seed={seed}"
    return Job(_at(draft, f"{place}/{resolved.method}/{words}-{digest(draft)}"), parents, label)


def training_code(method: str) -> str:
    """Fingerprint of the code that trains `method`."""
    return fingerprint("engine.train", f"methods.{method}")


def evaluation_code() -> str:
    """Fingerprint of the code that evaluates."""
    return fingerprint("engine.evaluate")


def _pretrain(params: Params, plan: Plan, resolved: ResolvedStage) -> Job:
    """The job that pretrains the small network on procedural objects; one for all seeds and recipes that share it."""
    pretrain = params.pretrain
    dataset = params.datasets[pretrain.dataset]
    from udaseg.data.objects import NAMES  # of the shapes

    objects = _prepare(params, plan, pretrain.dataset, pretrain.size, list(NAMES))
    stage = Stage(method="source_only", optim=pretrain.optim, train=pretrain.train)
    settings = resolve_stage(params, stage, "pretrain", pretrain)
    network = resolved.network.model_copy(update={"norm": "train"})  # of the recipe that starts from it
    return plan.add(
        _train_job(
            params,
            settings.model_copy(update={"network": network}),
            labelled=objects,
            target=None,
            labels=None,
            classes=list(NAMES),
            place=f"results/{pretrain.dataset}",
            seed=pretrain.seed,
            init=({"student": "scratch"}, {}),
            parents=(objects,),
            label=f"pretraining on {dataset.kind}",
        )
    )


def label_code() -> str:
    """Fingerprint of the code that labels target images."""
    return fingerprint("offline.label")


def quality_code() -> str:
    """Fingerprint of the code that judges pseudo-labels."""
    return fingerprint("offline.quality")


def _label(run: Job, resolved: ResolvedStage, consumer: ResolvedStage, target: Job) -> Job:
    """The job in which the network of `run`, a stage with the settings `resolved`, labels for the stage `consumer`."""
    assert consumer.labels is not None and isinstance(run.spec, TrainSpec)
    draft = LabelSpec(
        kind="label",
        folder=run.folder,
        run=run.folder,
        set=target.folder,
        classes=run.spec.classes,
        network=resolved.network,
        threads=resolved.train.threads,
        labels=consumer.labels,
        code=label_code(),
    )
    return Job(_at(draft, f"{run.folder}/label-{digest(draft)}"), (run, target), f"labels of {run.label}")


def _quality(labels: Job, target: Job) -> Job:
    assert isinstance(labels.spec, LabelSpec)
    draft = QualitySpec(
        kind="quality",
        folder=labels.folder,
        labels=labels.folder,
        set=target.folder,
        classes=labels.spec.classes,
        code=quality_code(),
    )
    return Job(_at(draft, f"{labels.folder}/quality-{digest(draft)}"), (labels, target), f"quality of {labels.label}")


def _evaluate(params: Params, run: Job, resolved: ResolvedStage, target: Job, split: Scored, protocol: Protocol) -> Job:
    draft = EvaluateSpec(
        kind="evaluate",
        folder=run.folder,
        run=run.folder,
        set=target.folder,
        split=split,
        classes=params.task.classes,
        class_sets=params.task.class_sets,
        network=resolved.network,
        threads=resolved.train.threads,
        protocol=protocol,
        pictures=params.evaluate.pictures,
        code=evaluation_code(),
    )
    return Job(_at(draft, f"{run.folder}/evaluate-{digest(draft)}"), (run, target), f"evaluation of {run.label}")


def _report(params: Params, runs: list[ReportRun], source: Job, target: Job, ends: tuple[Job, ...]) -> Job:
    spec = ReportSpec(
        kind="report",
        output=f"reports/{params.study}",
        study=params.study,
        classes=params.task.classes,
        class_sets=params.task.class_sets,
        baseline=params.report.baseline,
        oracle=params.report.oracle,
        recipes=params.run,
        runs=runs,
        data={"source": source.folder, "target": target.folder},
        code=fingerprint("reports.build"),
    )
    return Job(spec, ends, f"report of {params.study}")


def _at(spec: Any, folder: str) -> Any:
    return spec.model_copy(update={"folder": folder})


def _differences(resolved: ResolvedStage) -> str:
    """Knobs and weights that are not the method's defaults, as `name=value` words."""
    from udaseg.methods import METHODS

    spec = METHODS[resolved.method].SPEC
    knobs = spec.Config().model_dump(mode="json")
    words = [f"{name}={value}" for name, value in resolved.knobs.items() if value != knobs[name]]
    words += [f"{name}={value:g}" for name, value in resolved.weights.items() if value != spec.weights[name]]
    return ",".join(words)


def _checksum(key: str, path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{key}: the weights file {path} is not there; give the path of a .safetensors file")
    return sha256(path)
