"""The model of all parameters: every number of every experiment, typed and strict.

The defaults of methods' knobs and weights are in the methods (`udaseg.methods`), all others in params.yaml and none
here. `udaseg.study.load` reads the files.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, model_validator

from udaseg.config.claims import Claim
from udaseg.config.evaluation import Evaluate, Labels
from udaseg.config.recipes import MethodParams, Recipe, Sweep
from udaseg.config.training import Network, Optim, Pretrain, Train
from udaseg.types import Name, Seeds, Size, UserPath
from udaseg.validation import Model, refuse_address, refuse_twice, require_known

# --------------------------------------------------------------------------------------------------------------- task


class DomainUse(Model):
    """A data set that plays a domain."""

    dataset: Name
    """Name of the data set."""
    size: Size
    """Size to which its training inputs are resized once, height and width in pixels."""


class Task(Model):
    """The domains and classes of a study."""

    source: DomainUse
    """The domain with labels."""
    target: DomainUse
    """The domain whose training images have none."""
    classes: Annotated[list[Name], Field(min_length=2, max_length=255)]
    """Names of the classes, in the order of their ids."""
    class_sets: Annotated[dict[Name, list[Name]], Field(min_length=1)]
    """Name of a score -> classes over which it averages the IoU; the first one is the headline."""

    @model_validator(mode="after")
    def _classes_are_known(self) -> "Task":
        refuse_twice("classes", self.classes)
        for name, members in self.class_sets.items():
            if not members:
                raise ValueError(f"class_sets.{name}: is empty; name some of the classes")
            for member in members:
                require_known(f"class_sets.{name}", member, self.classes)
        return self


class Report(Model):
    """The recipes between which the report measures 'gap closed'."""

    baseline: Name
    """The lower bound."""
    oracle: Name
    """The upper bound."""


class Params(Model):
    """All parameters of a study."""

    study: Name
    """Name of the study: its file in workflow/studies and its folder in reports."""
    seeds: Seeds
    """Seeds of the runs. A seed decides initial weights, the order of images and every augmentation."""
    run: Annotated[list[Name], Field(min_length=1)]
    """Recipes of the study, in the report's order."""
    sweep: list[Name]
    """Sweeps of the study."""
    mirror: UserPath | None
    """Folder of archives that are already downloaded, tried before any network; null: there is none."""
    datasets: dict[Name, dict[str, Any]]
    """Name -> `kind` and the settings of that kind, which `udaseg.study.datasets` validates."""
    task: Task
    """Domains and classes."""
    network: Network
    """The segmentation network."""
    pretrain: Pretrain
    """The small network's pretraining: one job, shared by all runs."""
    optim: Optim
    """The optimizer."""
    train: Train
    """The training loop."""
    labels: Labels
    """Pseudo-labels that an earlier stage makes for a later one."""
    evaluate: Evaluate
    """Scores."""
    methods: dict[Name, MethodParams] = Field(default={})
    """Method -> what differs from its own defaults."""
    recipes: dict[Name, Recipe]
    """Recipes that studies can list in `run`."""
    sweeps: dict[Name, Sweep] = Field(default={})
    """Sweeps that studies can list in `sweep`."""
    report: Report
    """The bounds of the report."""
    claims: list[Claim] = Field(default=[])
    """Claims that the report judges; they are read from workflow/claims.yaml."""

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        refuse_address("mirror", self.mirror or "")
        for key in ("seeds", "run", "sweep"):
            refuse_twice(key, getattr(self, key))
        names: tuple[tuple[str, str, Iterable[str]], ...] = (
            ("task.source.dataset", self.task.source.dataset, self.datasets),
            ("task.target.dataset", self.task.target.dataset, self.datasets),
            ("pretrain.dataset", self.pretrain.dataset, self.datasets),
            *((f"sweep.{index}", name, self.sweeps) for index, name in enumerate(self.sweep)),
            *((f"sweeps.{name}.recipe", sweep.recipe, self.recipes) for name, sweep in self.sweeps.items()),
            *((f"run.{index}", name, self.recipes) for index, name in enumerate(self.run)),
            ("report.baseline", self.report.baseline, self.recipes),
            ("report.oracle", self.report.oracle, self.recipes),
        )
        for path, name, known in names:
            require_known(path, name, known)
        return self
