"""What resolving yields: rows of stages with everything filled in. The plan makes jobs of them and looks nothing up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from udaseg.config.evaluation import Labels, Protocol
from udaseg.config.schema import Params
from udaseg.config.training import Network, Optim, Train
from udaseg.data.datasets.base import DatasetParams
from udaseg.runs.spec import ReportSkipped, ReportSweep
from udaseg.validation import Model


class ResolvedStage(Model):
    """A stage with everything filled in: what its training job needs besides data, seed and parents."""

    method: str
    """Name of the method."""
    init: dict[str, str]
    """Role -> scratch, pretrain, file:PATH or an earlier stage; exactly the method's roles with these knobs."""
    knobs: dict[str, Any]
    """All knobs."""
    weights: dict[str, float]
    """Loss terms that exist with these knobs, and their weights."""
    network: Network
    """The network."""
    optim: Optim
    """The optimizer."""
    train: Train
    """The training loop."""
    labels: Labels | None
    """How its pseudo-labels are made; None: no active term looks at pseudo-labels."""
    labels_of: str
    """The stage whose network makes them."""
    overrides: list[tuple[str, Any]]
    """Name and value of the knobs and loss weights that are not the method's own defaults."""
    supervision: Literal["source", "target"]
    """The domain whose labels the labelled stream carries."""
    predicts: Literal["labels", "images"]
    """What its network predicts; one that predicts images is a translator, which is not scored."""
    translates: bool
    """Whether it trains on images of the translator that the knob `translator` names."""
    qualifier: str
    """What every report adds to the title of its recipe; often empty."""

    def labelled_target(self) -> int:
        """How many target images the stage sees with their labels, besides what a bound does; 0: unsupervised."""
        given = self.train.source.labelled_target
        return 0 if given is None else given.images


@dataclass(frozen=True)
class Row:
    """What is trained for each of some seeds and shown as a row: a recipe, or a point of a sweep."""

    name: str  # of the recipe, or SWEEP/POINT
    title: str  # for people, with what the methods' qualifiers add
    base: str  # the recipe without the point's values
    seeds: list[int]
    stages: dict[str, ResolvedStage]
    protocol: Protocol  # how it is scored
    sweep: str | None = None
    point: Mapping[str, Any] = field(default_factory=dict)  # parameter -> value


@dataclass(frozen=True)
class Study:
    """A study, resolved and checked."""

    params: Params
    datasets: Mapping[str, DatasetParams]
    pretrain: ResolvedStage  # the small network's pretraining
    recipes: Mapping[str, Row]  # all that there are
    rows: list[Row]  # the recipes of `run`, then the points of the sweeps
    sweeps: list[ReportSweep]
    skipped: list[ReportSkipped]  # points whose values are incompatible


def titled(title: str, stages: Mapping[str, ResolvedStage]) -> str:
    """A row's title with what its methods say that no report may leave out."""
    words = [word for word in dict.fromkeys(stage.qualifier for stage in stages.values()) if word]
    return f"{title} [{', '.join(words)}]" if words else title
