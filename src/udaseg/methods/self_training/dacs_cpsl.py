"""CPSL's self-labelling on DACS: see `cpsl` for the idea, `dacs` for the host.

Not in the paper, whose first stage has fixed soft labels. Here it is the host's own teacher whose probabilities are
multiplied by P_SL, which measures how near its features are to each class's prototype, before they become pseudo-labels
and weights (`rectify`). They become sharper by that, so that more of them exceed the threshold. `self_label` trains the
prototypes with the teacher's features, and nothing else. Prototypes and prior are a warm-up model's, so student and
teacher start from that model, too. Pixels are sampled from the target crops at the network's own stride. After the step
the moving prototypes follow as the teacher does. With the weight of `self_label` at 0 it is DACS.
"""

from collections.abc import Generator
from dataclasses import replace

import torch

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Context, OptimizerFactory, Step, Terms
from udaseg.methods.self_training.dacs import DACS, VIEWS, Judged, Mixed, build_teacher
from udaseg.methods.self_training.dacs import SPEC as HOST
from udaseg.methods.self_training.dacs import Config as HostConfig
from udaseg.methods.self_training.dacs import Weights as HostWeights
from udaseg.methods.self_training.self_labelling import (
    SelfLabellingKnobs,
    SelfLabellingWeights,
    build_self_labelling,
    kept_where_unseen,
    prototype_optimizer,
    remember,
)
from udaseg.nets.base import Outputs
from udaseg.nets.prototype_assignment import Drawn, PrototypeAssignment
from udaseg.ops.maps import nearest
from udaseg.ops.schedules import ema_keep
from udaseg.types import IGNORE


class Config(HostConfig, SelfLabellingKnobs):
    pass


class Weights(SelfLabellingWeights, HostWeights):
    pass


SPEC = replace(
    HOST,
    name="dacs_cpsl",
    Config=Config,
    Weights=Weights,
    views={**VIEWS, "self_label": {"target"}},
    consumes=lambda knobs, weights: ("prototypes", "prior") if "self_label" in weights else (),
)


class DACSCPSL(DACS):
    SPEC = SPEC
    knobs: Config

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.labelling: PrototypeAssignment | None = None
        if "self_label" in context.weights:
            self.labelling = build_self_labelling(context, self.net.feature_channels["embedding"])
            self.teacher = self.teacher or build_teacher(self.net, self.knobs)

    def optimizers(self, optim: OptimizerFactory) -> dict[str, torch.optim.Optimizer]:
        found = super().optimizers(optim)
        if self.labelling is not None:
            found["prototypes"] = prototype_optimizer(self.labelling, self.knobs, optim)
        return found

    @torch.no_grad()
    def judge(self, outputs: Outputs) -> Judged:
        plain = outputs.logits
        if self.labelling is None or not self.knobs.rectify:
            return Judged(plain, outputs)
        rectified = plain + self.labelling.logits(outputs.features["embedding"]).log_softmax(dim=1)
        classes = rectified.argmax(dim=1)
        # P_SL knows nothing of a class without a prototype: there the teacher's class is kept.
        changed = kept_where_unseen(classes, plain.argmax(dim=1), self.labelling.seen()) == classes
        return Judged(torch.where(changed[:, None], rectified, plain), outputs)

    def further_terms(
        self, batch: Batch, judged: Judged | None, mixed: Mixed | None, step: Step
    ) -> Generator[Terms, None, Drawn | None]:
        if self.labelling is None or self.teacher is None:
            return None
        logits, outputs = judged or self.judge(self.teacher(batch.target.image))
        assert outputs is not None  # as `judge` above returns them
        inside = nearest(batch.target.valid, logits.shape[-2:])
        labels = logits.argmax(dim=1).masked_fill(~inside, IGNORE)
        term, drawn = self.labelling(outputs.features["embedding"], labels, step.generator, outputs.logits)
        yield {"self_label": term}
        return drawn

    def after_step(self, carries: list[Drawn | None], step: Step) -> None:
        super().after_step(carries, step)
        if self.labelling is not None:
            remember(self.labelling, carries, ema_keep(step.index + 1, self.knobs.ema), step)
