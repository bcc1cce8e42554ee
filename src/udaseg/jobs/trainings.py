"""The training jobs of a study's stages, and the pretraining that some networks start from."""

from pathlib import Path

from udaseg.config.schema import Params
from udaseg.errors import UserError
from udaseg.jobs.build import addressed, prepare_job
from udaseg.jobs.job import Job, Plan
from udaseg.jobs.names import run_name
from udaseg.nets import NETWORKS
from udaseg.runs.files import sha256
from udaseg.runs.spec import TrainSpec
from udaseg.study.rows import ResolvedStage, Study


def train_job(
    study: Study,
    plan: Plan,
    resolved: ResolvedStage,
    earlier: dict[str, Job],
    inputs: tuple[Job, ...],
    seed: int,
    label: str,
) -> Job:
    """The training job of a stage; `inputs` are its source, its target and, where it has some, its pseudo-labels."""
    source, target, *labels = inputs
    init, sums, parents = {}, {}, list(inputs)
    for role, start in resolved.init.items():
        if start == "pretrain":
            parent = _pretrain(study, plan, resolved) if NETWORKS[resolved.network.name].pretraining_job else None
        else:
            parent = earlier.get(start)
        if parent is not None:
            parents.append(parent)
        init[role] = parent.folder if parent else "imagenet" if start == "pretrain" else start
        if start.startswith("file:"):
            sums[role] = _checksum(f"init.{role}", Path(start.removeprefix("file:")).expanduser())
    params = study.params
    return _training(
        params,
        resolved,
        labelled=target if resolved.supervision == "target" else source,
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
    draft = TrainSpec(
        kind="train",
        folder=f"{place}/{resolved.method}/{run_name(resolved.overrides, seed)}",
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
        monitor=params.evaluate.monitor if target and resolved.predicts == "labels" else None,
        code="",
    )
    return Job(addressed(draft), parents, label)


def _pretrain(study: Study, plan: Plan, resolved: ResolvedStage) -> Job:
    """The job that pretrains a network on procedural objects; one for all seeds and recipes that share it."""
    from udaseg.data.datasets.objects import NAMES  # of the shapes

    params, pretrain = study.params, study.params.pretrain

    objects = prepare_job(study, plan, pretrain.dataset, pretrain.size, list(NAMES))
    network = resolved.network.model_copy(update={"norm": "train"})  # of the recipe that starts from it
    return plan.add(
        _training(
            params,
            study.pretrain.model_copy(update={"network": network}),
            labelled=objects,
            target=None,
            labels=None,
            classes=list(NAMES),
            place=f"results/{pretrain.dataset}",
            seed=pretrain.seed,
            init=(study.pretrain.init, {}),
            parents=(objects,),
            label=f"pretraining on {study.datasets[pretrain.dataset].kind}",
        )
    )


def _checksum(key: str, path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{key}: the weights file {path} is not there; give the path of a .safetensors file")
    return sha256(path)
