"""Every number of every experiment, read from params.yaml and a study's overlay into one typed, strict model.

This is the only reader of parameters. What it refuses, it refuses before any job starts, with the key's path, the value
and what is allowed. Defaults of a method's knobs live in its SPEC (`udaseg.methods`), all others here; params.yaml lists
them all and a test holds the two equal.
"""

import copy
import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from udaseg.errors import UserError
from udaseg.runs import read_yaml

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")]
PathText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./${}:~,+@=-]{1,400}$")]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Positive, Positive]
Split = Literal["train", "val", "test"]
M = TypeVar("M", bound=BaseModel)
Fidelity = Literal["paper", "released"]  # where the released code does something else than the paper says


class Model(BaseModel):
    """Unknown keys are refused, nothing is coerced, nothing can be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# ---------------------------------------------------------------------------------------------------------- data sets


class ToytownData(Model):
    """The embedded pair of procedural street-scene domains."""

    kind: Literal["toytown"]
    domain: Literal["source", "target"]
    world: int  # seed of the generated world; apart from the run's seed
    size: Size  # native height and width
    counts: dict[Split, Positive]

    def splits(self) -> list[str]:
        return list(self.counts)


class ObjectsData(Model):
    """Procedural objects in many styles, on which the small network is pretrained."""

    kind: Literal["objects"]
    world: int
    size: Size
    counts: dict[Split, Positive]

    def splits(self) -> list[str]:
        return list(self.counts)


class FolderData(Model):
    """A user's own images and label maps in two folders."""

    kind: Literal["folder"]
    version: int = 1  # raise it when the files under `root` have changed, so that they are prepared again
    root: PathText  # `${NAME:-default}` is taken from the environment
    images: PathText = "{split}/images"
    labels: PathText | None = "{split}/labels"
    splits_present: list[Split] = ["train", "val", "test"]
    lists: dict[Split, PathText] | None = None  # a text file of stems for each split, relative to root
    encoding: Literal["id", "colour"] = "id"
    class_map: dict[str, str]  # raw id ("7") or colour ("#804080") -> class name or "ignore"

    def splits(self) -> list[str]:
        return list(self.lists) if self.lists is not None else list(self.splits_present)


class CamvidData(Model):
    """The public CamVid set, 11 classes, in SegNet's splits."""

    kind: Literal["camvid"]
    version: int = 1

    def splits(self) -> list[str]:
        return ["train", "val", "test"]


DatasetSpec = Annotated[ToytownData | ObjectsData | FolderData | CamvidData, Field(discriminator="kind")]


class DomainUse(Model):
    """Which data set plays a domain, and the size to which its training inputs are resized once."""

    dataset: Name
    size: Size


class Task(Model):
    source: DomainUse
    target: DomainUse
    classes: Annotated[list[Name], Field(min_length=2, max_length=255)]
    class_sets: Annotated[dict[Name, list[Name]], Field(min_length=1)]  # the first one is the headline

    @model_validator(mode="after")
    def _classes_are_known(self) -> "Task":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: {self.classes} names a class twice")
        for name, members in self.class_sets.items():
            unknown = [member for member in members if member not in self.classes]
            if unknown or not members:
                raise ValueError(
                    f"class_sets.{name}: {unknown or 'an empty set'} is not among the classes {self.classes}"
                )
        return self


# ------------------------------------------------------------------------------------------- networks and optimisation


class Network(Model):
    name: Literal["small", "deeplabv2"]
    depth: Literal[50, 101]  # of the ResNet under deeplabv2; the small network has one depth
    aspp: Fidelity  # paper: four dilated branches; released: two, AdaptSegNet's misplaced return
    norm: Literal["train", "affine_frozen", "eval"]  # BatchNorm: all trains | statistics only | nothing


class Optim(Model):
    name: Literal["sgd", "adamw"]
    lr: Annotated[float, Field(gt=0)]  # of the backbone
    head_lr_factor: Annotated[float, Field(gt=0)]  # papers: 10
    momentum: Share
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["poly", "constant"]
    power: Annotated[float, Field(gt=0)]
    schedule_iterations: Positive | None  # length of the poly schedule where it is longer than the run (paper: 250 000)
    warmup_iterations: Annotated[int, Field(ge=0)]
    backbone_lr_multiplicity: Literal[1, 3]  # 3: as released, each backbone weight stood three times in its SGD group
    clip_gradient: Annotated[float, Field(gt=0)] | None  # largest gradient norm


class View(Model):
    """How the images of one stream become training inputs."""

    batch: Positive
    crop: Size
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]  # random resize factor, uniform
    flip: Share  # chance of a horizontal flip
    jitter: Share  # strength of brightness, contrast, saturation and (a quarter of it) hue jitter
    blur: Share  # chance of a Gaussian blur


class Train(Model):
    iterations: Positive
    source: View
    target: View
    accumulate: Positive  # batches a step; the effective batch is batch * accumulate
    precision: Literal["fp32", "bf16"]
    threads: Positive  # of PyTorch; part of the result: another count gives other bytes
    workers: Annotated[int, Field(ge=0)]  # loader processes; not part of the result
    log_every: Positive
    monitor_every: Positive
    checkpoint_every: Positive

    @model_validator(mode="after")
    def _logging_windows_close(self) -> "Train":
        for key in ("monitor_every", "checkpoint_every"):
            if getattr(self, key) % self.log_every:
                raise ValueError(f"{key}: {getattr(self, key)} is not a multiple of log_every = {self.log_every}")
        return self


class Sliding(Model):
    size: Size
    stride: Size


class Protocol(Model):
    """How a score comes about; it stands beside every number."""

    window: Sliding | None  # null: the whole image at once
    flip: bool  # average the probabilities with those of the mirrored image
    scales: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Evaluate(Model):
    monitor: Split | None  # looked at during training, steers nothing
    report: Split
    protocol: Protocol
    pictures: Annotated[int, Field(ge=0)]  # predictions kept for the report's qualitative grid


class Pretrain(Model):
    """Supervised segmentation of procedural objects; its backbone plays the part of ImageNet weights."""

    dataset: Name
    size: Size
    iterations: Positive
    batch: Positive
    crop: Size
    lr: Annotated[float, Field(gt=0)]
    seed: int


# -------------------------------------------------------------------------------------------------- methods and recipes


class MethodParams(Model):
    knobs: dict[str, Any]
    weights: dict[str, float]


class Stage(Model):
    """One training job of a recipe. What is left out is as in the top level of the parameters."""

    method: str
    init: dict[str, PathText] = {"student": "pretrain"}  # role -> scratch | pretrain | file:PATH | name of a stage
    knobs: dict[str, Any] = {}
    weights: dict[str, float] = {}
    network: dict[str, Any] = {}
    optim: dict[str, Any] = {}
    train: dict[str, Any] = {}


class Recipe(Model):
    title: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.,()+/-]{1,60}$")]
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]


class Report(Model):
    baseline: Name  # recipes between which 'gap closed' is measured
    oracle: Name


class Params(Model):
    study: Name
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    run: Annotated[list[Name], Field(min_length=1)]  # recipes of this study, in the report's order
    mirror: PathText | None  # folder of already downloaded archives, used before any network
    datasets: dict[Name, DatasetSpec]
    task: Task
    network: Network
    pretrain: Pretrain
    optim: Optim
    train: Train
    evaluate: Evaluate
    methods: dict[Name, MethodParams]
    recipes: dict[Name, Recipe]
    report: Report

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        for path, name in (
            ("task.source.dataset", self.task.source.dataset),
            ("task.target.dataset", self.task.target.dataset),
            ("pretrain.dataset", self.pretrain.dataset),
        ):
            require_known(path, name, self.datasets)
        for index, name in enumerate(self.run):
            require_known(f"run.{index}", name, self.recipes)
        for path, split in (("evaluate.monitor", self.evaluate.monitor), ("evaluate.report", self.evaluate.report)):
            if split is not None:
                require_known(path, split, self.datasets[self.task.target.dataset].splits())
        return self


# ------------------------------------------------------------------------------------------------------------- reading


def require_known(path: str, name: str, known: Any) -> None:
    """ValueError naming the key's path, what was found, what is there, and the nearest valid name."""
    if name not in known:
        near = difflib.get_close_matches(name, [str(entry) for entry in known], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"{path}: '{name}' is not known{hint} Known: {', '.join(map(str, known))}")


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `over` laid upon it: mappings are merged key by key, everything else is replaced."""
    merged = dict(copy.deepcopy(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            # A data set or a view of another kind shares no keys with the one it replaces.
            same_kind = "kind" not in value or value["kind"] == merged[key].get("kind")
            merged[key] = overlay(merged[key], value) if same_kind else copy.deepcopy(dict(value))
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def validate(model: type[M], raw: Any, prefix: str = "") -> M:
    """`raw` (plain data) as `model`. UserError with every wrong key's path, its value and what is allowed."""
    try:
        return model.model_validate_json(json.dumps(raw))
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise UserError(f"{prefix or 'parameters'}: only plain YAML values are allowed ({error})") from None
        lines = [_describe(model, detail, prefix) for detail in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def _describe(model: type[BaseModel], detail: Any, prefix: str) -> str:
    tags = {"toytown", "objects", "folder", "camvid"}
    location = [part for part in detail["loc"] if part not in tags or part == detail["loc"][-1]]
    path = ".".join(str(part) for part in [*filter(None, [prefix]), *location])
    if detail["type"] == "extra_forbidden":
        known = _fields_at(model, detail["loc"][:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(known)}"
        return f"{path}: unknown key; {hint}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{path}: {message}" if path else message
    found = "" if detail["type"] == "missing" else f", found {json.dumps(detail['input'])[:200]}"
    return f"{path}: {message}{found}"


def _fields_at(model: Any, location: tuple[Any, ...]) -> list[str]:
    """Field names of the model that the path leads to (through dicts, lists, optionals and tagged unions)."""
    candidates: list[Any] = [model]

    def models_in(annotation: Any) -> list[Any]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [found for part in get_args(annotation) for found in models_in(part)]

    for part in location:
        deeper = [m for c in candidates if part in c.model_fields for m in models_in(c.model_fields[part].annotation)]
        tagged = [
            c for c in candidates if "kind" in c.model_fields and part in get_args(c.model_fields["kind"].annotation)
        ]
        candidates = deeper or tagged or candidates
    return sorted({name for c in candidates for name in c.model_fields})


def load_params(params: Path, study: str | None = None) -> Params:
    """The parameters of a study: params.yaml with `workflow/studies/<study>.yaml` laid upon it, validated.

    Raises:
        UserError: a file is missing, a key is unknown, a value has the wrong type or cannot work; every problem that
            can be told at once is in the message.
    """
    raw = read_yaml(params)
    if not isinstance(raw, dict):
        raise UserError(f"{params}: expected a mapping of parameters, found {type(raw).__name__}")
    study = study or str(raw.get("study", ""))
    folder = params.parent / "workflow" / "studies"
    path = folder / f"{study}.yaml"
    if not path.is_file() or os.sep in study:
        known = sorted(entry.stem for entry in folder.glob("*.yaml"))
        near = difflib.get_close_matches(study, known, n=1)
        raise UserError(
            f"study: '{study}' has no file {path}" + (f"; did you mean '{near[0]}'?" if near else f"; known: {known}")
        )
    over = read_yaml(path) or {}
    if not isinstance(over, dict):
        raise UserError(f"{path}: expected a mapping of parameters, found {type(over).__name__}")
    merged = overlay(raw, over) | {"study": study}
    if isinstance(over.get("recipes"), dict):
        merged["recipes"] = overlay(raw.get("recipes", {}), over["recipes"])
    try:
        resolved = validate(Params, merged)
        check_methods(resolved)
    except UserError as error:
        raise UserError(f"{params} with {path}:\n{error}") from None
    return resolved


def check_methods(params: Params) -> None:
    """Hold the knobs and weights of `methods` and every stage of the study's recipes against the methods' SPECs."""
    from udaseg.methods import METHODS  # pays for torch's import, which reading a SPEC needs

    for name, given in params.methods.items():
        _known("methods", name, METHODS)
        spec = METHODS[name].SPEC
        validate(spec.Config, given.knobs, f"methods.{name}.knobs")
        for term in given.weights:
            _known(f"methods.{name}.weights", term, spec.weights)
        missing = [term for term in spec.weights if term not in given.weights]
        if missing:
            raise UserError(f"methods.{name}.weights: no weight for the terms {missing}")
    for name, recipe in params.recipes.items():
        for stage_name, stage in recipe.stages.items():
            path = f"recipes.{name}.stages.{stage_name}"
            _known(f"{path}.method", stage.method, params.methods)
            for term in stage.weights:
                _known(f"{path}.weights", term, METHODS[stage.method].SPEC.weights)
            for role, start in stage.init.items():
                _known(f"{path}.init", role, METHODS[stage.method].SPEC.roles)
                if not start.startswith("file:"):
                    earlier = list(recipe.stages)[: list(recipe.stages).index(stage_name)]
                    _known(f"{path}.init.{role}", start, ["scratch", "pretrain", "file:PATH", *earlier])
            resolve_stage(params, stage, path)


def _known(path: str, name: str, known: Any) -> None:
    try:
        require_known(path, name, known)
    except ValueError as error:
        raise UserError(str(error)) from None


class ResolvedStage(Model):
    """A stage with everything filled in: what a training job needs beside data, seed and parents."""

    method: str
    knobs: dict[str, Any]
    weights: dict[str, float]
    network: Network
    optim: Optim
    train: Train


def resolve_stage(params: Params, stage: Stage, path: str) -> ResolvedStage:
    """Defaults of the parameters under the stage's own entries, validated. `path` names the stage in messages.

    Raises:
        UserError: an unknown knob or key, a wrong type, or a crop that does not fit into the scaled image.
    """
    from udaseg.methods import METHODS

    spec = METHODS[stage.method].SPEC
    defaults = params.methods[stage.method]
    knobs = validate(spec.Config, {**defaults.knobs, **stage.knobs}, f"{path}.knobs")
    weights = {term: float({**defaults.weights, **stage.weights}[term]) for term in spec.existing(knobs)}
    stray = sorted(set(stage.weights) - set(weights))
    if stray:
        raise UserError(f"{path}.weights: the terms {stray} do not exist with these knobs; there are {sorted(weights)}")

    def laid(model: type[Any], base: BaseModel, key: str) -> Any:
        return validate(model, overlay(base.model_dump(mode="json"), getattr(stage, key)), f"{path}.{key}")

    train = laid(Train, params.train, "train")
    labelled = params.task.target if spec.labelled == "target" else params.task.source
    check_crop(f"{path}.train.source.crop", train.source, labelled.size)
    check_crop(f"{path}.train.target.crop", train.target, params.task.target.size)
    return ResolvedStage(
        method=stage.method,
        knobs=knobs.model_dump(mode="json"),
        weights=weights,
        network=laid(Network, params.network, "network"),
        optim=laid(Optim, params.optim, "optim"),
        train=train,
    )


def check_crop(path: str, view: View, size: Size) -> None:
    """UserError when the crop is larger than an image of `size`; a scaled-down image may be, and is then padded."""
    if view.scale[0] > view.scale[1]:
        raise UserError(f"{path.removesuffix('crop')}scale: {list(view.scale)} is empty; give [low, high]")
    if view.crop[0] > size[0] or view.crop[1] > size[1]:
        raise UserError(f"{path}: {list(view.crop)} is larger than the image; allowed is at most its size, {list(size)}")
