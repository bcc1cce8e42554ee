"""Class-balanced pixel-level self-labelling (CPSL, CVPR 2022): its knobs, and the parts that its methods share.

`cpsl` is the paper's first stage; `dacs_cpsl` adds self-labelling to DACS.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from udaseg.methods.base import Context, Knobs, LossWeights, OptimizerFactory, Step
from udaseg.nets.prototype_assignment import Drawn, PrototypeAssignment
from udaseg.ops.prototype_assignment import cosine_logits, seen_classes
from udaseg.types import Fidelity, Positive, Share


class SelfLabellingKnobs(Knobs):
    rectify: bool = True
    """Rectify pseudo-labels by P_SL; false: keep the classes that they have without it. Paper and released true."""

    temperature: Annotated[float, Field(gt=0)] = 0.08
    """Temperature of the softmax over cosines, tau. Released 0.08."""

    epsilon: Annotated[float, Field(gt=0)] = 0.05
    """Smoothness of Sinkhorn's assignments: the smaller, the harder the labels. Released 0.05."""

    rounds: Positive = 3
    """Iterations of Sinkhorn. Released 3."""

    samples: Positive = 256
    """Largest number of pixels of an image that are self-labelled. Released 256."""

    queue: Positive = 65536
    """Earlier pixels that are assigned with the sampled ones, once there are so many. Paper and released 65536."""

    sampler: Fidelity = "paper"
    """Pixels that are sampled.

    paper: pixels of each class by its share of the image
    released: any pixels
    """

    prior: Fidelity = "paper"
    """Shares of the classes among the assignments.

    paper: shares of assignments follow the pseudo-labels
    released: they stay those of the warm-up model
    """

    prior_keep: Share = 0.999
    """Share of the moving prior that an image keeps, alpha, with `prior: paper`. Ours."""

    queue_scores: Fidelity = "paper"
    """Length of the prototypes with which the queue is scored; the image's pixels always take length 1.

    paper: the queue is scored with prototypes of length 1
    released: with prototypes as they are
    """

    logit_term: Fidelity = "paper"
    """What is assigned to prototypes.

    paper: features are assigned to prototypes
    released: the teacher's logits are, too, as a second set of labels
    """

    prototype_rate: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the learning rate of the heads for the prototypes. Released 1, with SGD.

    L_SL is their only gradient. As AdamW does not see a gradient's scale, this knob decides how fast they move with
    AdamW, and the loss weight of `self_label` has no effect.
    """


class SelfLabellingWeights(LossWeights):
    self_label: float = 0.1
    """Cross-entropy of the prototypes' softmax with the assignments. CPSL's release 0.1."""


class FixedPrototypes(nn.Module):
    """P_SL without L_SL: nothing trains the prototypes (C, D), which stay as they are given."""

    prototypes: Tensor

    def __init__(self, prototypes: Tensor, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("prototypes", prototypes.clone())

    def logits(self, features: Tensor) -> Tensor:
        """As `PrototypeAssignment.logits`: features (B, D, h, w) to (B, C, h, w), whose softmax is P_SL."""
        return cosine_logits(features, self.prototypes, self.temperature, self.seen())

    def seen(self) -> Tensor:
        """(C,) bool: classes that have a prototype."""
        return seen_classes(self.prototypes)


def build_self_labelling(context: Context, channels: int) -> PrototypeAssignment:
    """Prototypes, queue and prior, from the warm-up model's prototypes and prior and the run's `SelfLabellingKnobs`.

    Args:
        context: of a run that consumes the prototypes and the prior.
        channels: channels of the network's embedding.

    Raises:
        UserError: prototypes or prior are those of another network.
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


def prototype_optimizer(
    labelling: PrototypeAssignment, knobs: SelfLabellingKnobs, optim: OptimizerFactory
) -> Optimizer:
    """The run's kind of optimizer for the prototypes, at `prototype_rate` times the rate of the heads."""
    optimizer = optim.module(labelling)
    for group in optimizer.param_groups:
        group["lr"] *= knobs.prototype_rate
    return optimizer


def kept_where_unseen(rectified: Tensor, plain: Tensor, seen: Tensor) -> Tensor:
    """Rectified labels, except where the plain label is of a class without a prototype, of which P_SL knows nothing.

    Args:
        rectified, plain: (B, h, w) int64, 255 = ignore.
        seen: (C,) bool, classes with a prototype.
    """
    return torch.where((plain[..., None] == (~seen).nonzero()[:, 0]).any(dim=-1), plain, rectified)


def remember(labelling: PrototypeAssignment, carries: list[Drawn | None], keep: float, step: Step) -> None:
    """Update queue and prior by what the step's batches drew, and the moving prototypes by the trained ones.

    Logs the filled share of the queue, in [0, 1].
    """
    for drawn in carries:
        if drawn is not None:
            labelling.update(drawn)
    labelling.follow(keep)
    step.log("queue", labelling.queue.filled / len(labelling.queue.ring))
