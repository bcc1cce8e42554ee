"""What a method is: a SPEC that the plan reads, and a module that yields the named loss terms of a training step."""

from collections.abc import Callable, Generator, Iterable, Mapping, Set
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
    from udaseg.config.training import Network
    from udaseg.data.batches.streams import Batch, Labelled

Terms = dict[str, Tensor]


class Described(BaseModel):
    """A strict model, each field of which has a string under it: meaning and unit, the paper's value, its source.

    The first sentence is what lists of the fields show. A field that is `paper` or `released` says what each of the two
    does in lines of its own, `paper: ...` and `released: ...`. A subclass that changes a default keeps the description.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **keywords: Any) -> None:
        bases = [base for base in cls.__mro__[1:] if issubclass(base, Described)]
        for name, info in cls.model_fields.items():
            inherited = (base.model_fields[name].description for base in bases if name in base.model_fields)
            info.description = info.description or next(inherited, None)


class Knobs(Described):
    """Base of a method's knobs."""


class LossWeights(Described):
    """Base of a method's loss terms, each with its default weight. The weight 0 turns a term off, with all it costs."""


class Supervised(LossWeights):
    """The loss terms of a method that learns from labelled images."""

    seg: float = 1.0
    """Cross-entropy of the labelled images."""


@dataclass(frozen=True)
class MethodSpec:
    """What the plan and the engine know of a method without running it.

    Fields that are functions are called with the knobs, and where two arguments are given, with the weights of the
    active terms.
    """

    name: str
    views: Mapping[str, Set[str]] | Callable[[Any], Mapping[str, Set[str]]]
    """Term -> the views of the batch that it needs, see `data.batches.streams`."""

    Config: type[Knobs] = Knobs
    """The knobs with their defaults."""

    Weights: type[LossWeights] = Supervised
    """The loss terms with their default weights."""

    terms: Callable[[Any], Iterable[str]] | None = None
    """The terms that exist with these knobs. None: all of them, whatever the knobs."""

    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Term -> the terms that it serves; it is off where all of these are."""

    idle: Callable[[Any, Mapping[str, float]], Mapping[str, str]] = lambda knobs, weights: {}
    """Prefix of the parameters that get no gradient by design -> the reason."""

    consumes: Callable[[Any, Mapping[str, float]], Iterable[str]] = lambda knobs, weights: ()
    """Names of the tensors that the method needs from the job that made its pseudo-labels."""

    always: tuple[str, ...] = ("seg",)
    """Terms that cannot be turned off, because nothing is learnt without them."""

    labelled: Literal["source", "target"] = "source"
    """The domain whose images and labels the source stream carries."""

    roles: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ("student",)
    """Names of the networks that start from weights of their own."""

    predicts: Literal["labels", "images"] = "labels"
    """What the predictor returns. Images: it is a translator, which is not scored."""

    translates: Callable[[Any], bool] = lambda knobs: False
    """Whether the method trains on images of the translator that the knob `translator` names."""

    qualifier: Callable[[Any], str] = lambda knobs: ""
    """What every report must add to a recipe's title, because the method's name alone would claim too much."""

    @property
    def weights(self) -> dict[str, float]:
        """Every loss term with its default weight."""
        return {name: info.default for name, info in self.Weights.model_fields.items()}

    def initial_roles(self, knobs: Any) -> tuple[str, ...]:
        """Names of the networks that start from weights of their own with these knobs."""
        return self.roles(knobs) if callable(self.roles) else self.roles

    def existing(self, knobs: Any) -> list[str]:
        """Names of the terms that exist with these knobs, in the order of `weights`."""
        names = set(self.weights if self.terms is None else self.terms(knobs))
        return [name for name in self.weights if name in names]

    def active(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The terms with a weight other than 0, without those that only serve terms that are off."""
        on = {name: weight for name, weight in weights.items() if weight != 0}
        return {name: weight for name, weight in on.items() if self._served(name, on)}

    def check(self, weights: Mapping[str, float], path: str) -> None:
        """UserError when a term that cannot be turned off has the weight 0; `path` is where the weights are given."""
        off = [name for name in self.always if not weights.get(name)]
        if off:
            raise UserError(f"{path}.{off[0]}: 0 would turn off what {self.name} learns from; give a positive weight")

    def _served(self, name: str, on: Mapping[str, float]) -> bool:
        return name not in self.requires or any(other in on for other in self.requires[name])

    def needs(self, knobs: Any) -> Mapping[str, Set[str]]:
        """The views of each term, with these knobs."""
        return self.views(knobs) if callable(self.views) else self.views

    def streams(self, knobs: Any, weights: Mapping[str, float]) -> list[str]:
        """Views that a batch must hold for the active terms, sorted."""
        views = self.needs(knobs)
        return sorted(set().union(*(views[name] for name in self.active(weights))))


class OptimizerFactory(Protocol):
    """Makes optimizers by the run's `optim` settings. The engine owns their schedules."""

    def network(self, net: SegmentationNet) -> torch.optim.Optimizer:
        """The optimizer of a segmentation network: backbone at the base rate, heads at `head_lr_factor` times it."""

    def module(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of modules beside the network, such as projections: at the rate of the heads."""

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
    """A module whose whole state is in parameters, submodules and persistent buffers, so that checkpoints are whole.

    By default it has one network, which is trained, evaluated and handed to later stages.
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
        """Named optimizers over disjoint parameters."""
        return {"network": optim.network(self.net)}

    def predictor(self) -> nn.Module:
        """The network that is evaluated and that later stages start from."""
        return self.net


def supervised(logits: Tensor, labelled: "Labelled") -> Tensor:
    """Mean cross-entropy over the labelled pixels of `logits` (B, C, h, w), resized to the labels (B, H, W)."""
    return cross_entropy(resize(logits, labelled.label.shape[-2:]), labelled.label)


def require_equal_crops(batch: "Batch", why: str, sizes: bool = True) -> None:
    """UserError unless source and target have equally many crops, of equal size where `sizes`; `why` says what for."""
    source, target = batch.source.image, batch.target.image
    if source.shape != target.shape if sizes else len(source) != len(target):
        keys = "`batch` and `crop`" if sizes else "`batch`"
        raise UserError(
            f"train.source and train.target: {why}, so {keys} of both must be equal; found {_crops(source)} and "
            f"{_crops(target)}"
        )


def _crops(images: Tensor) -> str:
    """`6 of 96 x 192` for images (B, 3, H, W); `none` for a stream that the batch lacks."""
    return f"{len(images)} of {images.shape[-2]} x {images.shape[-1]}" if images.numel() else "none"
