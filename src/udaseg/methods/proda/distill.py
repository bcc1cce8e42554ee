"""ProDA, stages 2 and 3: a fresh student learns from the network of an earlier stage and its confident labels.

Zhang et al., "Prototypical Pseudo Label Denoising and Target Structure Learning for Domain Adaptive Semantic
Segmentation", CVPR 2021, arXiv 2101.10979.

Loss: seg + pseudo + kd. `pseudo` is the cross-entropy with hard pseudo-labels of the earlier stage, and `kd` the
divergence from that stage's frozen network, which sees the same strong view as the student. Target terms are computed
at a quarter of the resolution. The stage's `init` sets the student's initial weights (in the release, self-supervised
ones in stage 2 and the student of stage 2 in stage 3).

Differences from the paper
- `kd` is a mean over pixels and classes, as released.
Differences from the released code
- `kd` is a divergence; the release passes probabilities where logarithms are needed (`kd: released`).
- Labels are warped exactly as the strong view was; the release's replay deviates (`strong_warp: released`).
- If all labels are ignored, the loss is 0; the release gives NaN.
"""

from collections.abc import Generator

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.data.batches.streams import Batch, Target
from udaseg.methods.base import Context, Method, MethodSpec, Step, Supervised, Terms, supervised
from udaseg.methods.proda.proda import SCALE, WarpKnobs, working_size
from udaseg.nets.teacher import Frozen
from udaseg.ops.consistency import distillation_kl
from udaseg.ops.losses import cross_entropy
from udaseg.ops.maps import resize
from udaseg.types import IGNORE, Fidelity


class Config(WarpKnobs):
    kd: Fidelity = "paper"
    """Form of the term kd.

    paper: divergence of the student from the teacher
    released: with probabilities in the place of their logarithms
    """


class Weights(Supervised):
    pseudo: float = 1.0
    """Cross-entropy of strong views with pseudo-labels. Released 1."""

    kd: float = 1.0
    """Divergence from the frozen network of the earlier stage. Released 1."""


SPEC = MethodSpec(
    name="proda_distill",
    Config=Config,
    Weights=Weights,
    views={
        "seg": {"source"},
        "pseudo": {"target", "target.pseudo", "target.strong"},
        "kd": {"target", "target.strong"},
    },
    roles=("student", "teacher"),
)


class ProDADistill(Method):
    SPEC = SPEC

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs: Config = context.knobs
        self.teacher = Frozen(context.build_net("teacher")) if "kd" in context.weights else None

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        yield {"seg": supervised(self.net(batch.source.image).logits, batch.source)}

        if not (step.active("pseudo") or step.active("kd")):
            return
        target = batch.target
        size = working_size(target.strong)
        logits = resize(self.net(target.strong).logits, size)
        terms: Terms = {}
        if step.active("pseudo"):
            labels = self._labels(target, size)
            step.log("labelled", (labels != IGNORE).float().mean())
            terms["pseudo"] = cross_entropy(logits, labels)
        if step.active("kd") and self.teacher is not None:
            terms["kd"] = distillation_kl(logits, resize(self.teacher(target.strong).logits, size), self.knobs.kd)
        yield terms

    def _labels(self, target: Target, size: tuple[int, ...]) -> Tensor:
        """Pseudo-labels (B, h, w) of the strong views, 255 outside the weak views."""
        # Whole numbers up to 255 stay exact in float32.
        weak = F.interpolate(target.pseudo[:, None].float(), size, mode="nearest-exact").long()
        found = []
        for warp, label in zip(target.warps, weak, strict=True):
            warped, valid = warp.apply(label, SCALE, "nearest", self.knobs.strong_warp)
            found.append(warped[0].masked_fill(~valid, IGNORE))
        return torch.stack(found)
