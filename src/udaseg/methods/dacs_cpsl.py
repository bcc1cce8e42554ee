"""CPSL's self-labelling on DACS: see `cpsl` for the idea, `dacs` for the host.

Not in the paper, whose stage 1 has fixed soft labels. Here it is the host's own teacher whose probabilities are
multiplied by P_SL, how near its features are to each class's prototype, before they become pseudo-labels and weights
(`rectify`): sharper ones, of which more exceed the threshold. `self_label` trains the prototypes with its features, and
nothing else. Prototypes and prior are a warm-up model's, so that student and teacher start from that model, too. Pixels
are sampled from the target crops at the network's own stride. After the step the moving prototypes follow as the
teacher does. With the weight of `self_label` at 0 it is DACS.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Context, OptimizerFactory, Step, Terms
from udaseg.methods.dacs import DACS
from udaseg.methods.dacs import SPEC as HOST
from udaseg.methods.host import HostKnobs, build_teacher
from udaseg.methods.self_labelling import (
    SelfLabellingKnobs,
    build_self_labelling,
    kept_where_unseen,
    prototype_optimiser,
    remember,
)
from udaseg.nets.base import Outputs
from udaseg.nets.prototype_assignment import Drawn, PrototypeAssignment
from udaseg.ops.maps import nearest
from udaseg.ops.schedules import ema_keep
from udaseg.types import IGNORE


class Config(HostKnobs, SelfLabellingKnobs):
    pass


def _views(knobs: Any) -> dict[str, frozenset[str]]:
    given = HOST.views(knobs) if callable(HOST.views) else HOST.views
    return {**given, "self_label": frozenset({"target"})}


SPEC = replace(
    HOST,
    name="dacs_cpsl",
    Config=Config,
    weights={**HOST.weights, "self_label": 0.1},  # as CPSL's release
    views=_views,
    consumes=lambda knobs, weights: ("prototypes", "prior") if "self_label" in weights else (),
)


class Judged(NamedTuple):
    """What the teacher makes of target crops, without a graph."""

    features: Tensor  # (B, D, h, w)
    plain: Tensor  # (B, C, h, w), its logits
    logits: Tensor  # (B, C, h, w), whose softmax the pseudo-labels are


class DACSCPSL(DACS):
    SPEC = SPEC
    knobs: Config

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.labelling: PrototypeAssignment | None = None
        self._judged: Judged | None = None  # of the batch, until the term has been made of it
        if "self_label" in context.weights:
            self.labelling = build_self_labelling(context, self.net.feature_channels["embedding"])
            self.teacher = self.teacher or build_teacher(self.net, self.knobs)

    def optimizers(self, optim: OptimizerFactory) -> dict[str, torch.optim.Optimizer]:
        found = super().optimizers(optim)
        return (
            found
            if self.labelling is None
            else found | {"prototypes": prototype_optimiser(self.labelling, self.knobs, optim)}
        )

    def teacher_logits(self, outputs: Outputs) -> Tensor:
        if self.labelling is None:
            return super().teacher_logits(outputs)
        self._judged = self._judge(self.labelling, outputs)
        return self._judged.logits

    @torch.no_grad()
    def _judge(self, labelling: PrototypeAssignment, outputs: Outputs) -> Judged:
        features, plain = outputs.features["embedding"], super().teacher_logits(outputs)
        if not self.knobs.rectify:
            return Judged(features, plain, plain)
        rectified = plain + labelling.logits(features).log_softmax(dim=1)
        classes = rectified.argmax(dim=1)
        # Where P_SL knows nothing of the teacher's class, the teacher is believed.
        changed = kept_where_unseen(classes, plain.argmax(dim=1), labelling.seen()) == classes
        return Judged(features, plain, torch.where(changed[:, None], rectified, plain))

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, Any]:
        yield from super().losses(batch, step)
        if self.labelling is None or self.teacher is None:
            return None
        # The host asks the teacher only for terms of its own.
        judged = self._judged or self._judge(self.labelling, self.teacher(batch.target.image))
        self._judged = None
        inside = nearest(batch.target.valid, judged.logits.shape[-2:])
        labels = judged.logits.argmax(dim=1).masked_fill(~inside, IGNORE)
        term, drawn = self.labelling(judged.features, labels, step.generator, judged.plain)
        yield {"self_label": term}
        return drawn

    def after_step(self, carries: list[Drawn | None], step: Step) -> None:
        super().after_step(carries, step)
        if self.labelling is not None:
            remember(self.labelling, carries, ema_keep(step.index + 1, self.knobs.ema), step)
