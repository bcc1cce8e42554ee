"""The only reader of parameters: params.yaml with a study's overlay, held against the model and the methods' SPECs.

What it refuses, it refuses before any job starts.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udaseg.config.schema import (
    NAME,
    DomainUse,
    Labels,
    Network,
    Optim,
    Params,
    Pretrain,
    Protocol,
    Recipe,
    Stage,
    Train,
    View,
)
from udaseg.errors import UserError
from udaseg.ops.schedules import portions, round_rates
from udaseg.runs.files import read_yaml
from udaseg.validation import M, Model, require_known, suggestion, validate

if TYPE_CHECKING:
    from udaseg.methods.base import MethodSpec

# Mappings whose entries belong together: a study that gives one gives all of it.
WHOLE = {"class_map", "class_sets", "counts", "lists"}

RESERVED = ("reference", "certificates", "dvc")  # folders of reports/ beside those of studies


def load_params(params: Path, study: str | None = None) -> Params:
    """The parameters of a study: params.yaml with `workflow/studies/<study>.yaml` laid upon it, validated.

    The claims that its report judges come from `workflow/claims.yaml`, where that is there.

    Raises:
        UserError: a file is missing, a key is unknown, a value has the wrong type or cannot work; every problem that
            can be told at once is in the message.
    """
    from udaseg.study.claims import load_claims  # which build on what stands here
    from udaseg.study.sweeps import check_sweeps

    raw = _mapping(params)
    study = str(study or raw.get("study", ""))
    folder = params.parent / "workflow" / "studies"
    path = folder / f"{study}.yaml"
    if not (re.fullmatch(NAME, study) and path.is_file()):
        known = sorted(entry.stem for entry in folder.glob("*.yaml"))
        raise UserError(f"study: '{study}' has no file {path}; {suggestion(study, known)}")
    if study in RESERVED:
        raise UserError(f"study: '{study}' is the name of a folder in reports/ that is no study's; rename {path}")
    merged = overlay(raw, _mapping(path)) | {"study": study}
    claims = folder.parent / "claims.yaml"
    if "claims" in merged:
        raise UserError(f"{params} with {path}: claims: stand in {claims}; move them there")
    try:
        resolved = validate(Params, merged)
        _check_methods(resolved)
        check_sweeps(resolved)
    except (UserError, ValueError) as error:
        raise UserError(f"{params} with {path}:\n{error}") from None
    return resolved.model_copy(update={"claims": load_claims(claims, resolved)}) if claims.is_file() else resolved


def _mapping(path: Path) -> dict[str, Any]:
    content = read_yaml(path) or {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of parameters, found {type(content).__name__}")
    return content


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `over` laid upon it: mappings are merged key by key, everything else is replaced.

    A data set of another kind shares no keys with the one it replaces; neither do the mappings named in `WHOLE`.
    """
    merged = dict(copy.deepcopy(base))
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and key not in WHOLE and _same_kind(old, value):
            merged[key] = overlay(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _same_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "kind" not in new or new["kind"] == old.get("kind")


def _check_methods(params: Params) -> None:
    """Hold the knobs and weights of `methods` and every stage of the recipes against the methods' SPECs.

    Raises UserError, or ValueError for a name that is not known.
    """
    from udaseg.methods import METHODS  # pays for torch's import, which reading a SPEC needs

    for name, given in params.methods.items():
        require_known("methods", name, METHODS)
        spec = METHODS[name].SPEC
        validate(spec.Config, given.knobs, f"methods.{name}.knobs")
        for term in given.weights:
            require_known(f"methods.{name}.weights", term, spec.weights)
        missing = [term for term in spec.weights if term not in given.weights]
        if missing:
            raise UserError(f"methods.{name}.weights: no weight for the terms {missing}")
    for name, recipe in params.recipes.items():
        resolve_protocol(params, recipe, name)
        check_recipe(params, recipe, f"recipes.{name}.stages.", name if name in params.run else None)


def check_recipe(params: Params, recipe: Recipe, prefix: str = "", run: str | None = None) -> None:
    """Hold the stages of a recipe against their methods' SPECs, and against the task where the recipe is to `run`.

    Args:
        prefix: what stands before a stage's name in messages.
        run: the recipe's name, if the study runs it.

    Raises UserError, or ValueError for a name that is not known.
    """
    from udaseg.methods import METHODS

    stages = expanded(params, recipe)
    for index, (name, stage) in enumerate(stages.items()):
        path = f"{prefix}{name}"
        require_known(f"{path}.method", stage.method, params.methods)
        resolved = _check_stage(params, stage, path, dict(list(stages.items())[:index]))
        if run is not None:
            _check_target_labels(params, run, path, METHODS[stage.method].SPEC, resolved)


def _check_target_labels(params: Params, recipe: str, path: str, spec: "MethodSpec", stage: "ResolvedStage") -> None:
    """UserError where a recipe that is run learns from labels of the target that are not there, or do not fit."""
    target, given = params.task.target, stage.labelled_target()
    if (spec.labelled == "target" or given) and not params.datasets[target.dataset].has_labels():
        raise UserError(
            f"run: recipe '{recipe}' learns from labels of the target, but data set '{target.dataset}' has none "
            f"(datasets.{target.dataset}.labels is null); take '{recipe}' out of run, or give the data set its labels"
        )
    if given:  # the crops of the source stream are cut out of target images, too
        _check_view(f"{path}.train.source", stage.train.source, target)


def _check_stage(params: Params, stage: Stage, path: str, earlier: Mapping[str, Stage]) -> "ResolvedStage":
    """Hold one stage against its method's SPEC; `earlier` are the recipe's stages before it."""
    from udaseg.methods import METHODS

    spec = METHODS[stage.method].SPEC
    for term in stage.weights:
        require_known(f"{path}.weights", term, spec.weights)
    resolved = resolve_stage(params, stage, path)
    roles = spec.initial_roles(spec.Config.model_validate(resolved.knobs))
    for role, start in resolved.init.items():
        if role == TRANSLATOR and role not in roles:
            raise UserError(
                f"{path}.init.{role}: with these knobs {stage.method} takes no trained translator; leave it out, in a "
                "recipe of its own where a study changes another's knobs"
            )
        require_known(f"{path}.init", role, roles)
        # A translator's weights fit no other network, and its translations are shown by its run.
        others = [] if role == TRANSLATOR else ["scratch", "pretrain", "file:PATH"]
        if not (start.startswith("file:") and others):
            require_known(f"{path}.init.{role}", start, [*others, *earlier])
        if start in earlier:
            found, wanted = METHODS[earlier[start].method].SPEC.predicts, "images" if role == TRANSLATOR else "labels"
            if found != wanted:
                raise UserError(
                    f"{path}.init.{role}: the network of '{start}' ({earlier[start].method}) predicts {found}; name a "
                    f"stage whose network predicts {wanted}"
                )
    if missing := [role for role in roles if role not in resolved.init]:
        raise UserError(f"{path}.init: nothing for {missing}; {stage.method} starts from {list(roles)}")
    if resolved.labels is not None:
        named = [name for name, other in earlier.items() if METHODS[other.method].SPEC.predicts == "labels"]
        require_known(f"{path}.labels.of", resolved.labels_of, named)
    return resolved


def expanded(params: Params, recipe: Recipe) -> dict[str, Stage]:
    """A recipe's stages by name, a stage with `rounds` as that many: NAME1, NAME2, …, each from the one before."""
    stages: dict[str, Stage] = {}
    for name, stage in recipe.stages.items():
        if stage.rounds is None:
            stages[name] = stage
            continue
        rounds = stage.rounds
        grown = {
            domain: portions(rounds.count, growing.start, growing.step, growing.most, rounds.growth)
            for domain, growing in (("target", rounds.target), ("source", rounds.source))
        }
        rates = round_rates(rounds.count, stage.optim.get("lr", params.optim.lr), rounds.lr_factor)
        before = None
        for index in range(rounds.count):
            changes: dict[str, Any] = {
                "labels": {**stage.labels, "portion": grown["target"][index]},
                "train": overlay(stage.train, {"source": {"portion": grown["source"][index]}}),
                "rounds": None,
            }
            if rounds.lr_factor != 1:
                changes["optim"] = {**stage.optim, "lr": rates[index]}
            if before is not None:
                changes["labels"]["of"] = before
                changes["init"] = {**(stage.init or {}), "student": before}
            before = f"{name}{index + 1}"
            stages[before] = stage.model_copy(update=changes)
    return stages


class ResolvedStage(Model):
    """A stage with everything filled in: what a training job needs beside data, seed and parents."""

    method: str
    init: dict[str, str]
    knobs: dict[str, Any]
    weights: dict[str, float]
    network: Network
    optim: Optim
    train: Train
    labels: Labels | None  # None: no active term looks at pseudo-labels
    labels_of: str  # the stage whose network makes them

    def labelled_target(self) -> int:
        """How many target images the stage sees with their labels, beside what a bound does; 0: unsupervised."""
        given = self.train.source.labelled_target
        return 0 if given is None else given.images


def resolve_protocol(params: Params, recipe: Recipe, name: str) -> Protocol:
    """How a recipe is scored; UserError for an unknown key or a wrong type."""
    merged = overlay(params.evaluate.protocol.model_dump(mode="json"), recipe.protocol)
    return validate(Protocol, merged, f"recipes.{name}.protocol")


def resolve_stage(params: Params, stage: Stage, path: str, shown: DomainUse | Pretrain | None = None) -> ResolvedStage:
    """Defaults of the parameters under the stage's own entries, validated. `path` names the stage in messages.

    `shown` is the one data set of a stage that sees no domain of the task, a pretraining.

    Raises:
        UserError: an unknown knob or key, a wrong type, or a crop that does not fit into the scaled image.
    """
    from udaseg.methods import METHODS

    spec = METHODS[stage.method].SPEC
    defaults = params.methods[stage.method]
    knobs = validate(spec.Config, overlay(defaults.knobs, stage.knobs), f"{path}.knobs")
    weights = {term: float({**defaults.weights, **stage.weights}[term]) for term in spec.existing(knobs)}
    stray = sorted(set(stage.weights) - set(weights))
    if stray:
        raise UserError(f"{path}.weights: the terms {stray} do not exist with these knobs; there are {sorted(weights)}")
    spec.check(weights, f"{path}.weights")

    def laid(base: M, over: Mapping[str, Any], key: str) -> M:
        return validate(type(base), overlay(base.model_dump(mode="json"), over), f"{path}.{key}") if over else base

    train, network = laid(params.train, stage.train, "train"), laid(params.network, stage.network, "network")
    _check_network(f"{path}.network" if "name" in stage.network else "network", network)
    labels = None
    if provided := _provided_by_labels(spec, knobs, weights):
        if "of" not in stage.labels:
            raise UserError(
                f"{path}.labels: {stage.method} needs {', '.join(provided)} from an earlier stage; name it as "
                "`labels: {of: STAGE, rule: …}`"
            )
        labels = laid(params.labels, {key: value for key, value in stage.labels.items() if key != "of"}, "labels")
        if lacking := [name for name in provided if name not in PROVIDES[labels.rule]]:
            rules = [rule for rule, names in PROVIDES.items() if set(provided) <= set(names)]
            raise UserError(
                f"{path}.labels.rule: '{labels.rule}' gives no {', '.join(lacking)}, which {stage.method} needs with "
                f"these knobs; rules that do: {', '.join(rules) or 'none'}"
            )
    labelled = shown or (params.task.target if spec.labelled == "target" else params.task.source)
    views = f"{path}.train" if stage.train else "train"
    _check_view(f"{views}.source", train.source, labelled)
    if train.source.labelled_target is not None and (shown is not None or spec.labelled == "target"):
        if "labelled_target" in stage.train.get("source", {}):
            raise UserError(
                f"{views}.source.labelled_target: {spec.name} sees all labels of its images; set it to null"
            )
        # The study's, which does not concern a pretraining or a bound.
        train = train.model_copy(update={"source": train.source.model_copy(update={"labelled_target": None})})
    if shown is None:
        _check_view(f"{views}.target", train.target, params.task.target)
        _check_quarter(f"{views}.target.crop", train.target.crop, spec.streams(knobs, weights))
    students = [role for role in spec.initial_roles(knobs) if role == "student"]
    return ResolvedStage(
        method=stage.method,
        init=dict.fromkeys(students, "pretrain") if stage.init is None else stage.init,
        knobs=knobs.model_dump(mode="json"),
        weights=weights,
        network=network,
        optim=laid(params.optim, stage.optim, "optim"),
        train=train,
        labels=labels,
        labels_of=str(stage.labels.get("of", "")),
    )


TRANSLATOR = "translator"  # the role of a network that predicts images
# What the folder of a label job holds, by its rule: views of the target, and tensors for the method.
PROVIDES = {
    "threshold": ("target.pseudo",),
    "class_balanced": ("target.pseudo",),
    "entropy": ("target.soft",),
    "soft": ("target.soft", "prototypes", "counts", "prior"),
    "argmax": ("target.pseudo", "prototypes", "counts", "prior"),
}


def _provided_by_labels(spec: "MethodSpec", knobs: Any, weights: Mapping[str, float]) -> list[str]:
    """What the method's active terms need of an earlier stage's label job."""
    views = [view for view in spec.streams(knobs, weights) if view in ("target.pseudo", "target.soft")]
    return [*views, *spec.consumes(knobs, spec.active(weights))]


def _check_network(path: str, network: Network) -> None:
    """ValueError when there is no network of this name."""
    from udaseg.nets import NETWORKS

    require_known(f"{path}.name", network.name, NETWORKS)


def _check_quarter(path: str, crop: tuple[int, int], views: list[str]) -> None:
    """UserError when a method looks at a quarter of the crop's resolution and its sides have no whole quarter."""
    if {"target.soft", "target.strong"} & set(views) and (crop[0] % 4 or crop[1] % 4):
        raise UserError(
            f"{path}: {list(crop)} are not multiples of 4, as they must be where soft labels or strong views are "
            "looked at, which is at a quarter of the resolution"
        )


def _check_view(path: str, view: View, use: DomainUse | Pretrain) -> None:
    """UserError when the crop is larger than the training inputs; a scaled-down image may be smaller, and is padded."""
    if view.scale[0] > view.scale[1]:
        raise UserError(f"{path}.scale: {list(view.scale)} is empty; give [low, high]")
    if view.crop[0] > use.size[0] or view.crop[1] > use.size[1]:
        raise UserError(
            f"{path}.crop: {list(view.crop)} is larger than the images; allowed is at most the size to which data set "
            f"'{use.dataset}' is resized, {list(use.size)}"
        )
