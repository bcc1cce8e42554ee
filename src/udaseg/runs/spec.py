"""The spec of each kind of job: its complete configuration, which lies as spec.yaml in the job's folder.

A job reads no other configuration. The spec's hash ends the name of the job's folder; the folder's place, the number of
loader processes and the mirror cannot change a result and are not hashed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from udaseg.config.claims import Claim
from udaseg.config.evaluation import Labels, Protocol
from udaseg.config.training import Exactness, Network, Optim, Train
from udaseg.errors import UserError
from udaseg.runs.files import read_yaml
from udaseg.types import PathText, Positive, Scored, Size, UserPath
from udaseg.validation import M, Model, validate

HASH_DIGITS = 10


class DownloadSpec(Model):
    """Download, verify and unpack the archive of a data set."""

    kind: Literal["download"]
    folder: PathText  # data/downloads/<name of the set>-<version of the archive>
    dataset: dict[str, Any]  # parameters of the data set, complete
    mirror: UserPath | None


class PrepareSpec(Model):
    """Decode, check, map and resize one data set."""

    kind: Literal["prepare"]
    folder: PathText  # data/sets/<name>-<hash>
    name: str
    dataset: dict[str, Any]  # parameters of the data set, complete
    classes: list[str]
    size: Size
    mirror: UserPath | None
    code: str


class TrainSpec(Model):
    """Train one stage of one recipe with one seed, or resume it."""

    kind: Literal["train"]
    folder: PathText  # results/<source>-<target>/<method>/<differences>_seed=<n>-<hash>
    method: str
    knobs: dict[str, Any]
    weights: dict[str, float]
    seed: int
    source: PathText  # prepared set of the labelled stream
    target: PathText | None  # prepared set of the unlabelled stream, which also monitors the training
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
    """Label the target's training images with the network of a finished run."""

    kind: Literal["label"]
    folder: PathText  # <run>/label-<hash>
    run: PathText
    set: PathText
    source: PathText | None  # prepared set that the prototypes are computed on; None: the target's
    classes: list[str]
    network: Network
    labels: Labels
    code: str


class QualitySpec(Model):
    """Compare pseudo-labels with the ground truth, where there is one. Only the report reads the result."""

    kind: Literal["quality"]
    folder: PathText  # <run>/label-<hash>/quality-<hash>
    labels: PathText
    set: PathText
    classes: list[str]
    code: str


class TranslateSpec(Exactness):
    """Translate some source images for the report's contact sheet. Only the report reads the result."""

    kind: Literal["translate"]
    folder: PathText  # results/<source>-<target>/translation-<hash>
    translator: str
    knobs: dict[str, Any]  # of the translator
    run: PathText | None  # the training of the translator; None: it needs none
    source: PathText
    target: PathText
    pictures: Positive
    seed: int
    code: str


class EvaluateSpec(Exactness):
    """Score the network of a finished run on one labelled split."""

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
    evaluation: PathText | None  # None: this study scores nothing
    quality: PathText | None  # of the pseudo-labels that this stage was trained on; None: it had none
    labelled_target: int  # target images that this stage saw with their labels; 0: unsupervised adaptation
    overrides: str
    sweep: str | None = None  # the sweep that this run belongs to; None: it is of the study's list `run`
    base: str | None = None  # the recipe that the point of the sweep changes
    point: dict[str, Any] = Field(default={})  # parameter -> value

    def folders(self) -> list[str]:
        """Folders of the jobs whose numbers the report reads for this row."""
        return [folder for folder in (self.run, self.evaluation, self.quality) if folder is not None]


class ReportTranslation(Model):
    translator: str
    folder: PathText  # with its pictures


class ReportSweep(Model):
    name: str
    title: str
    recipe: str
    over: dict[str, list[Any]]  # parameter -> values; empty for a list of points
    reference: str | None  # `recipe` of the point that changes nothing; None: there is none
    points: dict[str, str]  # `recipe` of each point that is not skipped -> the point's name, in order


class ReportSkipped(Model):
    """A point of a sweep whose values are incompatible."""

    sweep: str
    point: str
    reason: str


class FidelityField(Model):
    """A field with the values `paper` and `released`, and what is done with each of them."""

    owner: str  # the method, or the part of the parameters
    name: str
    default: str
    paper: str
    released: str


class ReportSpec(Model):
    """Write the tables, figures and page of a study from its finished runs."""

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
    fidelity: list[FidelityField] = Field(default=[])
    translations: list[ReportTranslation]  # of the first seed
    data: dict[str, PathText]
    networks: dict[str, str] = Field(default={})  # name -> title, in which {depth} stands for that parameter
    code: str


Spec = DownloadSpec | PrepareSpec | TrainSpec | LabelSpec | QualitySpec | TranslateSpec | EvaluateSpec | ReportSpec
NOT_HASHED = {"folder", "output", "mirror"}


def exactness(spec: Spec) -> Exactness | None:
    """The numerical settings with which a job runs a network; None: it runs none."""
    if isinstance(spec, TrainSpec):
        return spec.train
    return spec if isinstance(spec, Exactness) else None


def digest(spec: Spec) -> str:
    """Hexadecimal hash of everything in a spec that can change the result; `HASH_DIGITS` long."""
    content = spec.model_dump(mode="json", exclude=NOT_HASHED)
    if isinstance(spec, TrainSpec):
        del content["train"]["workers"]
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def published(spec: Spec) -> dict[str, Any]:
    """A spec as it lies beside the result: without a training's loader processes, which cannot change the result."""
    content = spec.model_dump(mode="json")
    if isinstance(spec, TrainSpec):
        content["train"]["workers"] = 0
    return content


def read_spec(model: type[M], path: Path) -> M:
    """The spec in a YAML file; UserError when it is missing, damaged or of another kind."""
    content = read_yaml(path)
    (kind,) = get_args(model.model_fields["kind"].annotation)
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise UserError(
            f"{path}: expected the spec of a '{kind}' job; `udaseg plan --write` makes the specs of a study"
        )
    return validate(model, content, str(path))
