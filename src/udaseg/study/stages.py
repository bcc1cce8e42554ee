"""Resolving one stage: the parameters' defaults under its own entries, checked against its method's SPEC."""

from collections.abc import Mapping
from typing import Any

from udaseg.config.evaluation import Labels
from udaseg.config.recipes import MethodParams, Stage
from udaseg.config.schema import DomainUse, Params
from udaseg.config.training import Network, Pretrain, Train, View
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.methods.base import MethodSpec
from udaseg.nets import NETWORKS
from udaseg.study.overlay import overlay
from udaseg.study.rows import ResolvedStage
from udaseg.validation import M, require_known, validate

TRANSLATOR = "translator"  # the role of a network that predicts images
# What the folder of a label job holds, by its rule: views of the target, and tensors for the method.
PROVIDES = {
    "threshold": ("target.pseudo",),
    "class_balanced": ("target.pseudo",),
    "entropy": ("target.soft",),
    "soft": ("target.soft", "prototypes", "counts", "prior"),
    "argmax": ("target.pseudo", "prototypes", "counts", "prior"),
}


def check_methods(params: Params) -> None:
    """Check the knobs and weights of `methods`, which stages build on, against the methods' SPECs.

    Raises UserError, or ValueError for a name that is not known.
    """
    for name, given in params.methods.items():
        require_known("methods", name, METHODS)
        spec = METHODS[name].SPEC
        validate(spec.Config, overlay(spec.Config().model_dump(mode="json"), given.knobs), f"methods.{name}.knobs")
        for term in given.weights:
            require_known(f"methods.{name}.weights", term, spec.weights)


def resolve_stage(
    params: Params,
    stage: Stage,
    path: str,
    earlier: Mapping[str, ResolvedStage],
    shown: DomainUse | Pretrain | None = None,
) -> ResolvedStage:
    """The defaults of the method and of the parameters under the stage's own entries, validated.

    Args:
        path: names the stage in messages.
        earlier: the recipe's stages before it.
        shown: the one data set of a stage that sees no domain of the task, a pretraining.

    Raises:
        UserError: an unknown knob or key, a wrong type, a crop that does not fit into the scaled image, or weights or
            labels that no earlier stage can give.
        ValueError: a name is not known.
    """
    require_known(f"{path}.method", stage.method, METHODS)
    spec = METHODS[stage.method].SPEC
    given = params.methods.get(stage.method, MethodParams())
    for term in stage.weights:
        require_known(f"{path}.weights", term, spec.weights)
    usual = spec.Config().model_dump(mode="json")
    knobs = validate(spec.Config, overlay(overlay(usual, given.knobs), stage.knobs), f"{path}.knobs")
    plain = knobs.model_dump(mode="json")
    weights = {term: float({**spec.weights, **given.weights, **stage.weights}[term]) for term in spec.existing(knobs)}
    if stray := sorted(set(stage.weights) - set(weights)):
        raise UserError(f"{path}.weights: the terms {stray} do not exist with these knobs; there are {sorted(weights)}")
    spec.check(weights, f"{path}.weights")
    train = _train(params, stage, path, spec, shown)
    if shown is None:
        crop = f"{path}.train.target.crop" if stage.train else "train.target.crop"
        _check_quarter(crop, train.target.crop, spec.streams(knobs, weights))
    labels = _labels(params, stage, path, spec, knobs, weights)
    if labels is not None:
        labelling = [name for name, other in earlier.items() if other.predicts == "labels"]
        require_known(f"{path}.labels.of", str(stage.labels["of"]), labelling)
    overrides = [(name, value) for name, value in plain.items() if value != usual[name]]
    overrides += [(name, _short(value)) for name, value in weights.items() if value != spec.weights[name]]
    return ResolvedStage(
        method=stage.method,
        init=_init(stage, path, spec.initial_roles(knobs), earlier),
        knobs=plain,
        weights=weights,
        network=_network(params, stage, path),
        optim=_laid(params.optim, stage.optim, f"{path}.optim"),
        train=train,
        labels=labels,
        labels_of=str(stage.labels.get("of", "")),
        overrides=overrides,
        supervision=spec.labelled,
        predicts=spec.predicts,
        translates=spec.translates(knobs),
        qualifier=spec.qualifier(knobs),
    )


def _laid(base: M, over: Mapping[str, Any], path: str) -> M:
    return validate(type(base), overlay(base.model_dump(mode="json"), over), path) if over else base


def _train(params: Params, stage: Stage, path: str, spec: MethodSpec, shown: DomainUse | Pretrain | None) -> Train:
    """The stage's training loop, whose crops fit into the images."""
    train = _laid(params.train, stage.train, f"{path}.train")
    views = f"{path}.train" if stage.train else "train"
    labelled = shown or (params.task.target if spec.labelled == "target" else params.task.source)
    check_view(f"{views}.source", train.source, labelled)
    if shown is None:
        check_view(f"{views}.target", train.target, params.task.target)
    if train.source.labelled_target is None or (shown is None and spec.labelled == "source"):
        return train
    if "labelled_target" in stage.train.get("source", {}):
        raise UserError(f"{views}.source.labelled_target: {spec.name} sees all labels of its images; set it to null")
    # The study's own, which does not concern a pretraining or a bound.
    return train.model_copy(update={"source": train.source.model_copy(update={"labelled_target": None})})


def _labels(
    params: Params, stage: Stage, path: str, spec: MethodSpec, knobs: Any, weights: Mapping[str, float]
) -> Labels | None:
    """How the stage's pseudo-labels are made; None where no active term needs any."""
    needed = [view for view in spec.streams(knobs, weights) if view in ("target.pseudo", "target.soft")]
    needed += spec.consumes(knobs, spec.active(weights))
    if not needed:
        return None
    if "of" not in stage.labels:
        raise UserError(
            f"{path}.labels: {stage.method} needs {', '.join(needed)} from an earlier stage; name it as "
            "`labels: {of: STAGE, rule: …}`"
        )
    given = {key: value for key, value in stage.labels.items() if key != "of"}
    labels = _laid(params.labels, given, f"{path}.labels")
    if lacking := [name for name in needed if name not in PROVIDES[labels.rule]]:
        rules = [rule for rule, names in PROVIDES.items() if set(needed) <= set(names)]
        raise UserError(
            f"{path}.labels.rule: '{labels.rule}' gives no {', '.join(lacking)}, which {stage.method} needs with "
            f"these knobs; rules that do: {', '.join(rules) or 'none'}"
        )
    return labels


def _init(stage: Stage, path: str, roles: tuple[str, ...], earlier: Mapping[str, ResolvedStage]) -> dict[str, str]:
    """Where the network of each role gets its initial weights from."""
    given = {role: "pretrain" for role in roles if role == "student"} if stage.init is None else stage.init
    for role, start in given.items():
        if role == TRANSLATOR and role not in roles:
            raise UserError(
                f"{path}.init.{role}: with these knobs {stage.method} takes no trained translator; leave it out "
                "(null removes the role of a base, or of the recipe that a study changes)"
            )
        require_known(f"{path}.init", role, roles)
        # A translator's weights fit no other network, and its translations are shown by its run.
        others = [] if role == TRANSLATOR else ["scratch", "pretrain", "file:PATH"]
        if not (start.startswith("file:") and others):
            require_known(f"{path}.init.{role}", start, [*others, *earlier])
        if start in earlier:
            found, wanted = earlier[start].predicts, "images" if role == TRANSLATOR else "labels"
            if found != wanted:
                raise UserError(
                    f"{path}.init.{role}: the network of '{start}' ({earlier[start].method}) predicts {found}; name a "
                    f"stage whose network predicts {wanted}"
                )
    if missing := [role for role in roles if role not in given]:
        raise UserError(f"{path}.init: nothing for {missing}; {stage.method} starts from {list(roles)}")
    return {role: given[role] for role in roles}


def _check_quarter(path: str, crop: tuple[int, int], views: list[str]) -> None:
    """UserError when a method looks at a quarter of the crop's resolution and its sides have no whole quarter."""
    if {"target.soft", "target.strong"} & set(views) and (crop[0] % 4 or crop[1] % 4):
        raise UserError(
            f"{path}: {list(crop)} are not multiples of 4; soft labels and strong views are used at a quarter of the "
            "resolution"
        )


def check_view(path: str, view: View, use: DomainUse | Pretrain) -> None:
    """UserError when the crop is larger than the training inputs; a scaled-down image may be smaller, and is padded."""
    if view.scale[0] > view.scale[1]:
        raise UserError(f"{path}.scale: {list(view.scale)} is empty; give [low, high]")
    if view.crop[0] > use.size[0] or view.crop[1] > use.size[1]:
        raise UserError(
            f"{path}.crop: {list(view.crop)} is larger than the images; allowed is at most the size to which data set "
            f"'{use.dataset}' is resized, {list(use.size)}"
        )


def _short(weight: float) -> float:
    """A loss weight as people write it: 1 instead of 1.0."""
    return int(weight) if weight.is_integer() else weight


def _network(params: Params, stage: Stage, path: str) -> Network:
    """The stage's network; ValueError when there is none of this name."""
    network = _laid(params.network, stage.network, f"{path}.network")
    require_known(f"{path}.network.name" if "name" in stage.network else "network.name", network.name, NETWORKS)
    return network
