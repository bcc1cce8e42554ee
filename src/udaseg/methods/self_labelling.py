"""Class-balanced pixel-level self-labelling (CPSL, CVPR 2022) as methods take it: its knobs, and what is built of them.

`cpsl` is the paper's first stage; `dacs_cpsl` puts the same on another self-training method.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from udaseg.methods.base import Context, Knobs, OptimizerFactory, Step
from udaseg.nets.prototype_assignment import Drawn, PrototypeAssignment
from udaseg.ops.prototype_assignment import cosine_logits, seen_classes

Fidelity = Literal["paper", "released"]


class SelfLabellingKnobs(Knobs):
    rectify: bool = True  # pseudo-labels are rectified by P_SL; false: the classes that they are of without it
    temperature: Annotated[float, Field(gt=0)] = 0.08  # of the softmax over cosines, tau (released 0.08)
    epsilon: Annotated[float, Field(gt=0)] = 0.05  # of Sinkhorn; the smaller, the harder the labels (released 0.05)
    rounds: Annotated[int, Field(ge=1)] = 3  # of Sinkhorn (released 3)
    samples: Annotated[int, Field(ge=1)] = 256  # pixels of an image that are self-labelled, at most (released 256)
    queue: Annotated[int, Field(ge=1)] = 65536  # pixels assigned together with them, once there are so many (released)
    # Which pixels. paper: of each class by its share of the image's pseudo-labels; released: any.
    sampler: Fidelity = "paper"
    # Shares that assignments have. paper: the pseudo-labels', moving; released: the warm-up model's, fixed.
    prior: Fidelity = "paper"
    prior_keep: Annotated[float, Field(ge=0, le=1)] = 0.999  # that an image leaves of `prior: paper`, alpha (ours)
    # The queue is scored with prototypes of length 1 (paper), as the image's pixels are, or as they are (released).
    queue_scores: Fidelity = "paper"
    # released: the teacher's logits are assigned, too, as a second set of labels; paper: features alone are.
    logit_term: Fidelity = "paper"
    # Of the prototypes' rate in that of the heads (released 1, with SGD). L_SL is their one gradient, and AdamW sees no
    # gradient's scale: with it, this decides how fast they move, and the weight of `self_label` nothing.
    prototype_rate: Annotated[float, Field(gt=0)] = 1.0


class FixedPrototypes(nn.Module):
    """P_SL without L_SL, where nothing trains the prototypes: they stay as they are given, (C, D)."""

    prototypes: Tensor

    def __init__(self, prototypes: Tensor, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("prototypes", prototypes.clone())

    def logits(self, features: Tensor) -> Tensor:
        """As `PrototypeAssignment.logits`: (B, D, h, w) to (B, C, h, w), whose softmax is P_SL."""
        return cosine_logits(features, self.prototypes, self.temperature, self.seen())

    def seen(self) -> Tensor:
        """(C,) bool: classes that have a prototype."""
        return seen_classes(self.prototypes)


def build_self_labelling(context: Context, channels: int) -> PrototypeAssignment:
    """Prototypes, queue and prior, from the warm-up model's prototypes and prior and the run's `SelfLabellingKnobs`.

    Args:
        context: of a run that consumes these.
        channels: of the network's embedding.

    Raises:
        UserError: they are those of another network.
    """
    knobs: SelfLabellingKnobs = context.knobs
    return PrototypeAssignment(
        context.artifact("prototypes", (len(context.classes), channels)),
        context.artifact("prior", (len(context.classes),)),
        queue_size=knobs.queue,
        samples=knobs.samples,
        temperature=knobs.temperature,
        epsilon=knobs.epsilon,
        rounds=knobs.rounds,
        sampler=knobs.sampler,
        prior_rule=knobs.prior,
        prior_keep=knobs.prior_keep,
        queue_scores=knobs.queue_scores,
        logit_term=knobs.logit_term == "released",
    )


def prototype_optimiser(
    labelling: PrototypeAssignment, knobs: SelfLabellingKnobs, optim: OptimizerFactory
) -> Optimizer:
    """The run's kind of optimiser for the prototypes, at `prototype_rate` times the heads' rate."""
    optimiser = optim.module(labelling)
    for group in optimiser.param_groups:
        group["lr"] *= knobs.prototype_rate
    return optimiser


def kept_where_unseen(rectified: Tensor, plain: Tensor, seen: Tensor) -> Tensor:
    """Rectified labels, but plain ones where these are of a class without a prototype, of which P_SL knows nothing.

    Args:
        rectified, plain: (B, h, w) int64, 255 = ignore.
        seen: (C,) bool, classes with a prototype.
    """
    return torch.where((plain[..., None] == (~seen).nonzero()[:, 0]).any(dim=-1), plain, rectified)


def remember(labelling: PrototypeAssignment, carries: list[Drawn | None], keep: float, step: Step) -> None:
    """After the step: what its batches drew goes into queue and prior, and the moving prototypes follow the trained.

    Logs how full the queue is, in [0, 1].
    """
    for drawn in carries:
        if drawn is not None:
            labelling.update(drawn)
    labelling.follow(keep)
    step.log("queue", labelling.queue.filled / len(labelling.queue.ring))
