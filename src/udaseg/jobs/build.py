"""One function for each kind of job: its spec, its folder, whose name ends with the spec's hash, and its parents.

`trainings` has that of the trainings; `plan` decides which jobs a study has.
"""

from pathlib import Path
from typing import Any, TypeVar

from udaseg.config.evaluation import Protocol
from udaseg.config.schema import Params
from udaseg.config.training import Exactness
from udaseg.data.datasets.base import DatasetParams
from udaseg.data.sets.pseudo_labels import WITH_PROTOTYPES
from udaseg.jobs.fidelity import fidelity_fields
from udaseg.jobs.job import Job, Plan, code_of
from udaseg.nets import NETWORKS
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
from udaseg.study.rows import ResolvedStage, Study
from udaseg.types import Scored

DOWNLOADS = Path("data/downloads")
TRANSLATIONS = 4  # pictures in the report's contact sheet
Addressed = TypeVar("Addressed", PrepareSpec, TrainSpec, LabelSpec, QualitySpec, TranslateSpec, EvaluateSpec)


def addressed(draft: Addressed) -> Addressed:
    """A spec with the fingerprint of its code, and with its hash at the end of its folder's name."""
    spec = draft.model_copy(update={"code": code_of(draft)})
    return spec.model_copy(update={"folder": f"{draft.folder}-{digest(spec)}"})


def prepare_job(study: Study, plan: Plan, name: str, size: tuple[int, int], classes: list[str]) -> Job:
    params, data = study.params, study.datasets[name]
    parents = () if data.archive is None else (plan.add(_download(params, data, data.archive.folder)),)
    draft = PrepareSpec(
        kind="prepare",
        folder=f"data/sets/{name}",
        name=name,
        dataset=data.model_dump(mode="json"),
        classes=classes,
        size=size,
        mirror=params.mirror,
        code="",
    )
    return plan.add(Job(addressed(draft), parents, f"data set {name}"))


def _download(params: Params, data: DatasetParams, folder: str) -> Job:
    spec = DownloadSpec(
        kind="download", folder=str(DOWNLOADS / folder), dataset=data.model_dump(mode="json"), mirror=params.mirror
    )
    return Job(spec, label=f"archive of {data.kind}")


def label_job(run: Job, resolved: ResolvedStage, consumer: ResolvedStage, source: Job, target: Job) -> Job:
    """The job in which the network of `run`, a stage with the settings `resolved`, labels for the stage `consumer`."""
    assert consumer.labels is not None and isinstance(run.spec, TrainSpec)
    of_source = consumer.labels.rule in WITH_PROTOTYPES and consumer.labels.prototypes == "source"
    draft = LabelSpec(
        kind="label",
        folder=f"{run.folder}/label",
        run=run.folder,
        set=target.folder,
        source=source.folder if of_source else None,
        classes=run.spec.classes,
        network=resolved.network,
        **_exactness(resolved),
        labels=consumer.labels,
        code="",
    )
    parents = (run, target, *([source] if of_source else []))
    return Job(addressed(draft), parents, f"labels of {run.label}")


def quality_job(labels: Job, target: Job) -> Job:
    assert isinstance(labels.spec, LabelSpec)
    draft = QualitySpec(
        kind="quality",
        folder=f"{labels.folder}/quality",
        labels=labels.folder,
        set=target.folder,
        classes=labels.spec.classes,
        code="",
    )
    return Job(addressed(draft), (labels, target), f"quality of {labels.label}")


def translate_job(params: Params, run: Job, resolved: ResolvedStage, source: Job, target: Job) -> Job:
    """The job that shows what the translator of `run`, a stage with the settings `resolved`, does."""
    assert isinstance(run.spec, TrainSpec)
    trained = {parent.folder: parent for parent in run.parents}.get(run.spec.init.get("translator", ""))
    place = f"results/{params.task.source.dataset}-{params.task.target.dataset}"
    used = ("translator", "fourier_share") if resolved.knobs["translator"] == "fourier" else ("translator",)
    draft = TranslateSpec(
        kind="translate",
        folder=f"{place}/translation",
        translator=resolved.knobs["translator"],
        knobs={name: resolved.knobs[name] for name in used},
        run=trained.folder if trained else None,
        source=source.folder,
        target=target.folder,
        pictures=TRANSLATIONS,
        **_exactness(resolved),
        seed=run.spec.seed,
        code="",
    )
    parents = (source, target, *([trained] if trained else []))
    label = f"translations by {resolved.knobs['translator']}"
    return Job(addressed(draft), parents, label)


def evaluate_job(
    params: Params, run: Job, resolved: ResolvedStage, target: Job, split: Scored, protocol: Protocol
) -> Job:
    draft = EvaluateSpec(
        kind="evaluate",
        folder=f"{run.folder}/evaluate",
        run=run.folder,
        set=target.folder,
        split=split,
        classes=params.task.classes,
        class_sets=params.task.class_sets,
        network=resolved.network,
        **_exactness(resolved),
        protocol=protocol,
        pictures=params.evaluate.pictures,
        code="",
    )
    return Job(addressed(draft), (run, target), f"evaluation of {run.label}")


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
        fidelity=fidelity_fields(),
        translations=translations,
        data={"source": source.folder, "target": target.folder},
        networks={name: backbone.title for name, backbone in NETWORKS.items()},
        code="",
    )
    spec = spec.model_copy(update={"code": code_of(spec)})
    return Job(spec, ends, f"report of {params.study}")


def _exactness(resolved: ResolvedStage) -> dict[str, Any]:
    """What a network is asked later is computed as its training was."""
    return resolved.train.model_dump(include=set(Exactness.model_fields))


def differences(resolved: ResolvedStage) -> str:
    """Knobs and loss weights that are not the method's defaults, as `name=value` words for people."""
    return ",".join(f"{name}={value}" for name, value in resolved.overrides)
