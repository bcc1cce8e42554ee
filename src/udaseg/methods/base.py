"""What a method is: a SPEC that the plan reads, and a module that yields named loss terms, which the engine runs."""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from udaseg.errors import UserError
from udaseg.nets.base import SegmentationNet, initialised_from
from udaseg.nets.build import build_network
from udaseg.nets.weights import load_weights
from udaseg.ops.losses import cross_entropy
from udaseg.ops.maps import resize
from udaseg.seeding import seed_for

if TYPE_CHECKING:
    from udaseg.config.schema import Network
    from udaseg.data.batches.streams import Batch, Labelled

Terms = dict[str, Tensor]


class Knobs(BaseModel):
    """Base of a method's knobs: strict, unknown names refused. Each field says its meaning and the paper's value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class MethodSpec:
    """What the plan and the engine know of a method without running it."""

    name: str
    weights: Mapping[str, float]  # every loss term with its default weight; 0 turns a term off, with all it costs
    views: Mapping[str, frozenset[str]] | Callable[[Any], Mapping[str, frozenset[str]]]
    """Term -> views of the batch that it needs, see `data.streams`; or a function from the knobs to that."""
    Config: type[Knobs] = Knobs
    terms: Callable[[Any], Iterable[str]] | None = None  # knobs -> terms that exist with them; None: all
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # a term that serves others only
    idle: Callable[[Any, Mapping[str, float]], Mapping[str, str]] = lambda knobs, weights: {}
    """(knobs, weights) -> prefix of parameters that by design get no gradient: the reason."""
    consumes: Callable[[Any, Mapping[str, float]], Iterable[str]] = lambda knobs, weights: ()
    """(knobs, active weights) -> names of the tensors that it needs from the job that made its pseudo-labels."""
    always: tuple[str, ...] = ("seg",)  # terms that cannot be turned off: without them nothing is learnt
    labelled: Literal["source", "target"] = "source"  # the domain whose labels the source stream carries
    roles: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ("student",)
    """Networks with initial weights of their own; or a function from the knobs to them."""
    predicts: Literal["labels", "images"] = "labels"  # images: a translator, which is not scored
    translates: Callable[[Any], bool] = lambda knobs: False
    """(knobs) -> whether it trains on images of the translator that the knob `translator` names."""
    qualifier: Callable[[Any], str] = lambda knobs: ""
    """(knobs) -> what every report must add to a recipe's title, because without it the name says too much."""

    def initial_roles(self, knobs: Any) -> tuple[str, ...]:
        """Names of the networks that start from weights of their own with these knobs."""
        return self.roles(knobs) if callable(self.roles) else self.roles

    def existing(self, knobs: Any) -> list[str]:
        """Names of the terms that exist with these knobs, in the order of `weights`."""
        names = set(self.weights if self.terms is None else self.terms(knobs))
        return [name for name in self.weights if name in names]

    def active(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Terms with a weight other than 0, without those that only serve terms that are off."""
        on = {name: weight for name, weight in weights.items() if weight != 0}
        return {name: weight for name, weight in on.items() if self._served(name, on)}

    def check(self, weights: Mapping[str, float], path: str) -> None:
        """UserError when a term that cannot be turned off has the weight 0; `path` is where the weights are given."""
        off = [name for name in self.always if not weights.get(name)]
        if off:
            raise UserError(f"{path}.{off[0]}: 0 would turn off what {self.name} learns from; give a positive weight")

    def _served(self, name: str, on: Mapping[str, float]) -> bool:
        return name not in self.requires or any(other in on for other in self.requires[name])

    def streams(self, knobs: Any, weights: Mapping[str, float]) -> list[str]:
        """Views that a batch must hold for the active terms, sorted."""
        views = self.views(knobs) if callable(self.views) else self.views
        return sorted(set().union(*(views[name] for name in self.active(weights))))


class OptimizerFactory(Protocol):
    """Makes optimisers by the run's `optim` settings; the engine owns their schedules."""

    def network(self, net: SegmentationNet) -> torch.optim.Optimizer:
        """Optimiser of a segmentation network: backbone at the base rate, heads at `head_lr_factor` times it."""

    def module(self, module: nn.Module) -> torch.optim.Optimizer:
        """Optimiser of what a method has beside its network (projections, selectors): at the rate of the heads."""

    def adam(self, module: nn.Module, lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> torch.optim.Optimizer:
        """Adam, by default with the betas with which the papers train discriminators."""


@dataclass
class Context:
    """What a method is built from."""

    knobs: Any
    weights: Mapping[str, float]  # of the active terms only
    classes: list[str]
    network: "Network"
    seed: int
    initial: Mapping[str, tuple[str, Mapping[str, Tensor]]] = field(default_factory=dict)  # role -> (origin, tensors)
    artifacts: Mapping[str, Tensor] = field(default_factory=dict)  # what the job that made the pseudo-labels left
    matched: dict[str, float] = field(default_factory=dict)  # role -> share of parameters found in its initial weights

    def build_net(self, role: str = "student", levels: int = 1) -> SegmentationNet:
        """A segmentation network with the role's initial weights; the share found in them is noted in `matched`."""
        net = build_network(self.network, len(self.classes), levels, self.seed)
        if role in self.initial:
            origin, tensors = self.initial[role]
            self.matched[role] = load_weights(net, tensors, origin)
        return net

    def artifact(self, name: str, shape: tuple[int, ...], required: bool = True) -> Tensor:
        """A copy of the tensor `name` that the job of the pseudo-labels left; zeros where it left none and may.

        UserError when it is of another shape than this network needs, or missing although required.
        """
        found = self.artifacts.get(name, torch.empty(0) if required else torch.zeros(shape))
        if found.shape != shape:
            raise UserError(
                f"the job of the pseudo-labels left {name} {tuple(found.shape)}, this network needs {shape}; take "
                "`labels` of a rule that leaves it, and give both stages the same network.head and classes"
            )
        return found.clone()

    def build(self, make: Callable[[], nn.Module], purpose: str, index: int = 0) -> Any:
        """A module whose random initial weights come from (seed, purpose, index), whatever was built before it."""
        with initialised_from(seed_for(self.seed, f"init.{purpose}", index)):
            return make()


class Step:
    """One training step, as a method sees it."""

    def __init__(self, index: int, total: int, weights: Mapping[str, float], generator: torch.Generator) -> None:
        self.index = index
        self.progress = index / total  # in [0, 1)
        self.generator = generator  # on the CPU, seeded anew for every step
        self.weights = weights
        self.logs: dict[str, list[Tensor | float]] = {}

    def active(self, term: str) -> bool:
        """Whether the term has a weight other than 0 (and whatever it serves has)."""
        return term in self.weights

    def log(self, name: str, value: Tensor | float) -> None:
        """Note a diagnostic; the engine averages it over the step's batches and its logging window."""
        self.logs.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)


class Method(nn.Module):
    """Everything stateful is a parameter, a submodule or a persistent buffer, so that checkpoints are whole.

    What most methods share stands here: one network, which is trained, evaluated and handed to later stages.
    """

    SPEC: MethodSpec
    net: SegmentationNet

    def __init__(self, context: Context, levels: int = 1) -> None:
        super().__init__()
        self.net = context.build_net(levels=levels)

    def losses(self, batch: "Batch", step: Step) -> Generator[Terms, None, Any]:
        """Yield groups of named terms, unweighted; each yield is one backward. Return what `after_step` needs.

        Only active terms are yielded. With several batches a step this runs once for each of them.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say its losses")

    def after_step(self, carries: list[Any], step: Step) -> None:
        """Update what is not trained by gradients (prototypes, banks, teachers). Nothing by default.

        `carries` holds what `losses` returned, for each of the step's batches.
        """

    def optimizers(self, optim: OptimizerFactory) -> dict[str, torch.optim.Optimizer]:
        """Named optimisers over disjoint parameters."""
        return {"network": optim.network(self.net)}

    def predictor(self) -> nn.Module:
        """The network that is evaluated and that later stages start from."""
        return self.net


def supervised(logits: Tensor, labelled: "Labelled") -> Tensor:
    """Mean cross-entropy over the labelled pixels of `logits` (B, C, h, w), resized to the labels (B, H, W)."""
    return cross_entropy(resize(logits, labelled.label.shape[-2:]), labelled.label)
