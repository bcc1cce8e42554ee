"""ProDA, stages 2 and 3: a fresh student learns from an earlier stage's network and its confident labels.

Zhang et al., "Prototypical Pseudo Label Denoising and Target Structure Learning for Domain Adaptive Semantic
Segmentation", CVPR 2021, arXiv 2101.10979.

Loss: seg + pseudo + kd, where pseudo is the cross-entropy with hard pseudo-labels of the earlier stage, and kd the
divergence from that stage's network, frozen, which sees the same strong view as the student. Everything about the
target happens at a quarter of its resolution. Where the student starts from (self-supervised weights in stage 2, the
student of stage 2 in the release's stage 3) is a matter of the stage's `init`, not of this file.

Differences from the paper
- kd is a mean over pixels and classes, as released.
Differences from the released code
- The divergence is one: the release hands over probabilities where it needs their logarithms (`kd: released`).
- Labels follow the strong view as its picture did; the release's replay goes elsewhere (`strong_warp: released`).
- All labels ignored: a loss of 0 where the release gives NaN.
"""

from collections.abc import Generator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.data.batches.streams import Batch, Target
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, Step, Terms, supervised
from udaseg.nets.teacher import Frozen
from udaseg.ops.consistency import distillation_kl
from udaseg.ops.losses import cross_entropy
from udaseg.ops.maps import resize
from udaseg.types import IGNORE

SCALE = 1 / 4  # of the working resolution


class Config(Knobs):
    kd: Literal["paper", "released"] = "paper"  # released: the student's probabilities in place of their logarithms
    strong_warp: Literal["paper", "released"] = "paper"  # released: a replay of the strong view's geometry with slips


SPEC = MethodSpec(
    name="proda_distill",
    Config=Config,
    weights={"seg": 1.0, "pseudo": 1.0, "kd": 1.0},  # as released
    views={
        "seg": frozenset({"source"}),
        "pseudo": frozenset({"target", "target.pseudo", "target.strong"}),
        "kd": frozenset({"target", "target.strong"}),
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
        size = tuple(int(length * SCALE) for length in target.strong.shape[-2:])
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
        """Pseudo-labels (B, h, w) of the strong views, 255 where the weak ones do not reach."""
        # Whole numbers up to 255 stay exact in float32.
        weak = F.interpolate(target.pseudo[:, None].float(), size, mode="nearest-exact").long()
        found = []
        for warp, label in zip(target.warps, weak, strict=True):
            warped, valid = warp.apply(label, SCALE, "nearest", self.knobs.strong_warp)
            found.append(warped[0].masked_fill(~valid, IGNORE))
        return torch.stack(found)
