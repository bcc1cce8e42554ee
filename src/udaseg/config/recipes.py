"""Parameters of what is trained: methods' knobs and weights, recipes of stages, and sweeps over recipes."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from udaseg.types import Fidelity, Name, PointName, Positive, Seeds, Share, UserPath
from udaseg.validation import Model, refuse_address, refuse_twice


class MethodParams(Model):
    """What differs from a method's own defaults, wherever a recipe uses the method."""

    knobs: dict[str, Any] = Field(default={})
    """Knobs of the method's Config."""
    weights: dict[str, float] = Field(default={})
    """Weights of its loss terms; 0 turns a term off."""


class Growing(Model):
    """A share that grows from round to round."""

    start: Share
    """In the first round."""
    step: Share
    """Added in each round."""
    most: Share
    """Its end."""


class Rounds(Model):
    """A stage that is run several times, each time from the round before and on that round's pseudo-labels (CBST)."""

    count: Positive
    """Number of rounds."""
    target: Growing
    """`labels.portion` of each round (CBST 0.2, 0.05 a round, 0.5)."""
    source: Growing
    """`train.source.portion` of each round."""
    growth: Fidelity
    """Growth of the shares from round to round, up to `most` (CBST).

    paper: shares grow up to the largest
    released: a step is added while they are below it
    """
    lr_factor: Annotated[float, Field(gt=0)]
    """Factor on the learning rate from one round to the next (CBST's release 1/sqrt(2), CRST's 1)."""


class Stage(Model):
    """One training job of a recipe. What is left out is as in the top level of the parameters."""

    method: str
    """Name of the method."""
    init: dict[str, UserPath] | None = None
    """Role -> initial weights: scratch, pretrain, file:PATH or the name of an earlier stage.
    null: the student starts from pretrain."""
    knobs: dict[str, Any] = Field(default={})
    """What differs from the method's knobs."""
    weights: dict[str, float] = Field(default={})
    """What differs from the method's loss weights."""
    network: dict[str, Any] = Field(default={})
    """What differs from the top level's `network`."""
    optim: dict[str, Any] = Field(default={})
    """What differs from the top level's `optim`."""
    train: dict[str, Any] = Field(default={})
    """What differs from the top level's `train`."""
    labels: dict[str, Any] = Field(default={})
    """What differs from the top level's `labels`, and `of`: the earlier stage that labels the target."""
    rounds: Rounds | None = None
    """The stage is run several times; null: once."""

    @model_validator(mode="after")
    def _weights_are_files(self) -> "Stage":
        for role, start in (self.init or {}).items():
            refuse_address(f"init.{role}", start)
        return self

    def runs(self, name: str) -> list[str]:
        """Names of the trainings of the stage `name`: NAME1, NAME2, … with rounds, else `name` alone."""
        return [name] if self.rounds is None else [f"{name}{index + 1}" for index in range(self.rounds.count)]


class Recipe(Model):
    """Stages that are trained one after another, and how the result is scored."""

    title: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.,()+/-]{1,60}$")]
    """Name for people."""
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
    """The stages by name, in order."""
    protocol: dict[str, Any] = Field(default={})
    """What differs from `evaluate.protocol` when this recipe is scored."""


class Sweep(Model):
    """A recipe with other values at some of its parameters: every combination of lists, or points by name.

    A parameter is STAGE.PART.NAME, as it would stand below `recipes.RECIPE.stages`; `udaseg.study.sweeps` checks it
    against the recipe.
    """

    title: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.,:()+/-]{1,60}$")]
    """Name for people."""
    recipe: Name
    """The recipe that is varied."""
    until: Name | None = None
    """The last stage that is trained; null: all are."""
    seeds: Seeds | None = None
    """Seeds of the sweep; null: the study's."""
    over: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)] | None = None
    """Parameter -> values; all combinations are points."""
    points: Annotated[dict[PointName, dict[str, Any]], Field(min_length=1)] | None = None
    """Name of a point -> parameter -> value; `recipe` and `until` among them replace the sweep's."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "Sweep":
        if (self.over is None) == (self.points is None):
            raise ValueError("over: give either `over` (parameter -> values) or `points` (name -> parameter -> value)")
        for path, values in (self.over or {}).items():
            refuse_twice(f"over.{path}", values)
        refuse_twice("seeds", self.seeds or [])
        return self
