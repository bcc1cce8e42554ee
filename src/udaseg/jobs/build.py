"""One function for each kind of job: its spec, its folder, which the spec's hash names, and its parents.

`plan` says which of them a study has.
"""

import re
from pathlib import Path
from typing import Any

from udaseg.config.schema import CamvidData, Exactness, Params, Protocol, Stage
from udaseg.data.sets.pseudo_labels import WITH_PROTOTYPES
from udaseg.errors import UserError
from udaseg.jobs.fingerprint import fingerprint
from udaseg.jobs.job import Job, Plan
from udaseg.runs.files import sha256
from udaseg.runs.spec import (
    DownloadSpec,
    EvaluateSpec,
    LabelSpec,
    PrepareSpec,
    QualitySpec,
    ReportRun,
    ReportSkipped,
    ReportSpec,
    ReportSweep,
    ReportTranslation,
    TrainSpec,
    TranslateSpec,
    digest,
)
from udaseg.study.resolve import ResolvedStage, resolve_stage
from udaseg.types import Scored

DOWNLOADS = Path("data/downloads")
TRANSLATIONS = 4  # pictures in the report's contact sheet


def prepare_job(params: Params, plan: Plan, name: str, size: tuple[int, int], classes: list[str]) -> Job:
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
        code=fingerprint("data.sets.build", f"data.datasets.{dataset.kind}"),
    )
    return plan.add(Job(_at(draft, f"data/sets/{name}-{digest(draft)}"), parents, f"data set {name}"))


def _download(params: Params, dataset: CamvidData) -> Job:
    from udaseg.data.datasets.camvid import FOLDER

    spec = DownloadSpec(kind="download", folder=str(DOWNLOADS / FOLDER), dataset=dataset, mirror=params.mirror)
    return Job(spec, label=f"archive of {dataset.kind}")


def train_job(
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
    from udaseg.nets import NETWORKS

    source, target, *labels = inputs
    method = METHODS[stage.method].SPEC
    init, sums, parents = {}, {}, list(inputs)
    for role in method.initial_roles(method.Config.model_validate(resolved.knobs)):
        start = resolved.init[role]
        if start == "pretrain":
            parent = _pretrain(params, plan, resolved) if NETWORKS[resolved.network.name].pretraining_job else None
        else:
            parent = earlier.get(start)
        if parent is not None:
            parents.append(parent)
        init[role] = parent.folder if parent else "imagenet" if start == "pretrain" else start
        if start.startswith("file:"):
            sums[role] = _checksum(f"init.{role}", Path(start.removeprefix("file:")).expanduser())
    return _training(
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


def _training(
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
    from udaseg.methods import METHODS

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
        monitor=params.evaluate.monitor if target and METHODS[resolved.method].SPEC.predicts == "labels" else None,
        code=training_code(resolved.method),
    )
    words = re.sub(r"[^A-Za-z0-9._,=+-]+", "-", differences(resolved))
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
    """The job that pretrains a network on procedural objects; one for all seeds and recipes that share it."""
    pretrain = params.pretrain
    dataset = params.datasets[pretrain.dataset]
    from udaseg.data.datasets.objects import NAMES  # of the shapes

    objects = prepare_job(params, plan, pretrain.dataset, pretrain.size, list(NAMES))
    stage = Stage(method="source_only", optim=pretrain.optim, train=pretrain.train)
    settings = resolve_stage(params, stage, "pretrain", pretrain)
    network = resolved.network.model_copy(update={"norm": "train"})  # of the recipe that starts from it
    return plan.add(
        _training(
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


def translation_code() -> str:
    """Fingerprint of the code that shows translations."""
    return fingerprint("offline.translate")


def label_job(run: Job, resolved: ResolvedStage, consumer: ResolvedStage, source: Job, target: Job) -> Job:
    """The job in which the network of `run`, a stage with the settings `resolved`, labels for the stage `consumer`."""
    assert consumer.labels is not None and isinstance(run.spec, TrainSpec)
    of_source = consumer.labels.rule in WITH_PROTOTYPES and consumer.labels.prototypes == "source"
    draft = LabelSpec(
        kind="label",
        folder=run.folder,
        run=run.folder,
        set=target.folder,
        source=source.folder if of_source else None,
        classes=run.spec.classes,
        network=resolved.network,
        **_exactness(resolved),
        labels=consumer.labels,
        code=label_code(),
    )
    parents = (run, target, *([source] if of_source else []))
    return Job(_at(draft, f"{run.folder}/label-{digest(draft)}"), parents, f"labels of {run.label}")


def quality_job(labels: Job, target: Job) -> Job:
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


def translate_job(params: Params, run: Job, resolved: ResolvedStage, source: Job, target: Job) -> Job:
    """The job that shows what the translator of `run`, a stage with the settings `resolved`, does."""
    from udaseg.methods.translation import TranslatorKnobs

    assert isinstance(run.spec, TrainSpec)
    trained = {parent.folder: parent for parent in run.parents}.get(run.spec.init.get("translator", ""))
    place = f"results/{params.task.source.dataset}-{params.task.target.dataset}"
    used = ("translator", "fourier_share") if resolved.knobs["translator"] == "fourier" else ("translator",)
    draft = TranslateSpec(
        kind="translate",
        folder=place,
        translator=resolved.knobs["translator"],
        knobs={name: resolved.knobs[name] for name in TranslatorKnobs.model_fields if name in used},
        run=trained.folder if trained else None,
        source=source.folder,
        target=target.folder,
        pictures=TRANSLATIONS,
        **_exactness(resolved),
        seed=run.spec.seed,
        code=translation_code(),
    )
    parents = (source, target, *([trained] if trained else []))
    label = f"translations by {resolved.knobs['translator']}"
    return Job(_at(draft, f"{place}/translation-{digest(draft)}"), parents, label)


def evaluate_job(
    params: Params, run: Job, resolved: ResolvedStage, target: Job, split: Scored, protocol: Protocol
) -> Job:
    draft = EvaluateSpec(
        kind="evaluate",
        folder=run.folder,
        run=run.folder,
        set=target.folder,
        split=split,
        classes=params.task.classes,
        class_sets=params.task.class_sets,
        network=resolved.network,
        **_exactness(resolved),
        protocol=protocol,
        pictures=params.evaluate.pictures,
        code=evaluation_code(),
    )
    return Job(_at(draft, f"{run.folder}/evaluate-{digest(draft)}"), (run, target), f"evaluation of {run.label}")


def report_job(
    params: Params,
    recipes: list[str],
    runs: list[ReportRun],
    sweeps: list[ReportSweep],
    skipped: list[ReportSkipped],
    translations: list[ReportTranslation],
    source: Job,
    target: Job,
    ends: tuple[Job, ...],
) -> Job:
    from udaseg.nets import NETWORKS

    spec = ReportSpec(
        kind="report",
        output=f"reports/{params.study}",
        study=params.study,
        classes=params.task.classes,
        class_sets=params.task.class_sets,
        baseline=params.report.baseline,
        oracle=params.report.oracle,
        recipes=recipes,
        runs=runs,
        sweeps=sweeps,
        skipped=skipped,
        claims=params.claims,
        translations=translations,
        data={"source": source.folder, "target": target.folder},
        networks={name: backbone.title for name, backbone in NETWORKS.items()},
        code=fingerprint("reports.build", "reports.summary"),
    )
    return Job(spec, ends, f"report of {params.study}")


def _exactness(resolved: ResolvedStage) -> dict[str, Any]:
    """What a network is asked later is computed as its training was."""
    return resolved.train.model_dump(include=set(Exactness.model_fields))


def _at(spec: Any, folder: str) -> Any:
    return spec.model_copy(update={"folder": folder})


def differences(resolved: ResolvedStage) -> str:
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
