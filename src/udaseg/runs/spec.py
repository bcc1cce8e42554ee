"""What one job is told: the resolved configuration that lies as spec.yaml in its folder and is all that the job reads.

A spec's hash addresses the job's folder. Where a folder lies and which worker count or mirror is used is not hashed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from udaseg.config.schema import (
    CamvidData,
    Claim,
    DatasetSpec,
    Exactness,
    Labels,
    Network,
    Optim,
    PathText,
    Protocol,
    Train,
    UserPath,
)
from udaseg.errors import UserError
from udaseg.runs.files import read_yaml
from udaseg.types import Positive, Scored, Size
from udaseg.validation import M, Model, validate

HASH_DIGITS = 10


class DownloadSpec(Model):
    """Fetch a data set's archive, verify it and unpack it."""

    kind: Literal["download"]
    folder: PathText  # data/downloads/<name of the set>-<version of the archive>
    dataset: CamvidData
    mirror: UserPath | None


class PrepareSpec(Model):
    """Decode, check, map and resize one data set."""

    kind: Literal["prepare"]
    folder: PathText  # data/sets/<name>-<hash>
    name: str
    dataset: DatasetSpec
    classes: list[str]
    size: Size
    mirror: UserPath | None
    code: str


class TrainSpec(Model):
    """Train one stage of one recipe with one seed."""

    kind: Literal["train"]
    folder: PathText  # results/<source>-<target>/<method>/<differences,>seed=<n>-<hash>
    method: str
    knobs: dict[str, Any]
    weights: dict[str, float]
    seed: int
    source: PathText  # prepared set of the labelled stream
    target: PathText | None  # prepared set of the unlabelled stream, which is also the one looked at while training
    classes: list[str]
    init: dict[str, str]  # role -> scratch | imagenet | file:PATH | folder of a run
    init_sums: dict[str, str]  # role -> SHA-256 of a user's own weights file
    labels: PathText | None  # folder of the pseudo-labels of the target's training images
    network: Network
    optim: Optim
    train: Train
    monitor: Scored | None
    code: str


class LabelSpec(Exactness):
    """Label the target's training images with one run's network."""

    kind: Literal["label"]
    folder: PathText  # <run>/label-<hash>
    run: PathText
    set: PathText
    source: PathText | None  # prepared set whose images the prototypes are of; None: they are of the target's
    classes: list[str]
    network: Network
    labels: Labels
    code: str


class QualitySpec(Model):
    """Hold pseudo-labels against the ground truth, where there is one. Nothing that trains reads the result."""

    kind: Literal["quality"]
    folder: PathText  # <run>/label-<hash>/quality-<hash>
    labels: PathText
    set: PathText
    classes: list[str]
    code: str


class TranslateSpec(Exactness):
    """Show what a translator makes of some source images. Nothing that trains reads the result."""

    kind: Literal["translate"]
    folder: PathText  # results/<source>-<target>/translation-<hash>
    translator: str
    knobs: dict[str, Any]  # of the translator
    run: PathText | None  # that trained it; None: it is not trained
    source: PathText
    target: PathText
    pictures: Positive
    seed: int
    code: str


class EvaluateSpec(Exactness):
    """Score one run's weights on one labelled split."""

    kind: Literal["evaluate"]
    folder: PathText  # <run>/evaluate-<hash>
    run: PathText
    set: PathText
    split: Scored
    classes: list[str]
    class_sets: dict[str, list[str]]
    network: Network
    protocol: Protocol
    pictures: int
    code: str


class ReportRun(Model):
    recipe: str  # or SWEEP/POINT
    title: str
    stage: str
    final: bool
    seed: int
    run: PathText
    evaluation: PathText | None  # None: nothing is scored in this study
    quality: PathText | None  # of the pseudo-labels that this stage was trained on; None: it had none
    labelled_target: int  # target images that this stage saw with their labels; 0: unsupervised adaptation
    overrides: str
    sweep: str | None = None  # that this is a run of; None: of the study's list `run`
    base: str | None = None  # the recipe that the point of the sweep is laid upon
    point: dict[str, Any] = Field(default={})  # parameter -> value


class ReportTranslation(Model):
    translator: str
    folder: PathText  # of its pictures


class ReportSweep(Model):
    name: str
    title: str
    recipe: str
    over: dict[str, list[Any]]  # parameter -> values; empty for a list of points
    reference: str | None  # `recipe` of the runs of the point that changes nothing; None: there is none
    points: dict[str, str]  # the `recipe` of the runs of each point that is not skipped -> the point's name, in order


class ReportSkipped(Model):
    """A point of a sweep whose values do not go together."""

    sweep: str
    point: str
    reason: str


class ReportSpec(Model):
    """Collect the finished runs of a study into tables, figures and a page."""

    kind: Literal["report"]
    output: PathText
    study: str
    classes: list[str]
    class_sets: dict[str, list[str]]
    baseline: str
    oracle: str
    recipes: list[str]  # those of `run`, and then SWEEP/POINT of every point
    runs: list[ReportRun]
    sweeps: list[ReportSweep] = Field(default=[])
    skipped: list[ReportSkipped] = Field(default=[])
    claims: list[Claim] = Field(default=[])
    translations: list[ReportTranslation]  # of the first seed
    data: dict[str, PathText]
    networks: dict[str, str] = Field(default={})  # name -> title, in which {depth} stands for that parameter
    code: str


Spec = DownloadSpec | PrepareSpec | TrainSpec | LabelSpec | QualitySpec | TranslateSpec | EvaluateSpec | ReportSpec
NOT_HASHED = {"folder", "output", "mirror"}


def digest(spec: Spec) -> str:
    """Hash of all of a spec that can change the result, as the last part of its folder's name."""
    content = spec.model_dump(mode="json", exclude=NOT_HASHED)
    if isinstance(spec, TrainSpec):
        del content["train"]["workers"]
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def published(spec: Spec) -> dict[str, Any]:
    """A spec as it lies beside the result: of a training without its loader processes, which do not change a result."""
    content = spec.model_dump(mode="json")
    if isinstance(spec, TrainSpec):
        content["train"]["workers"] = 0
    return content


def read_spec(model: type[M], path: Path) -> M:
    """The spec in a YAML file; UserError when it is missing, damaged or of another kind."""
    content = read_yaml(path)
    kind = str(model.model_fields["kind"].annotation).split("'")[1]
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise UserError(
            f"{path}: expected the spec of a '{kind}' job; `udaseg plan --write` makes the specs of a study"
        )
    return validate(model, content, str(path))
