"""CPSL, stage 1: target pixels are clustered around class prototypes, balanced by class, to rectify pseudo-labels.

Li, Li, He, Zhang, Jia & Zhang, "Class-Balanced Pixel-Level Self-Labeling for Domain Adaptive Semantic Segmentation",
CVPR 2022, arXiv 2203.09744.

Loss: seg + target + 0.1 self_label + 0.13 reg. The warm-up model's soft labels are fixed. Multiplied by P_SL, weights
that measure how near a moving teacher's features are to each class's prototype, they give the labels of `target`, on
weak views. `self_label` trains the prototypes only: sampled features of the teacher are assigned to them, together with
a queue of earlier ones, such that each class gets its share among the labels, and the softmax over the prototypes has
to reproduce the assignments. `reg` asks for equal predictions on weak and strong views. After the step the queue takes
the sampled features, the shares follow the labels, the moving prototypes follow the trained ones and the teacher
follows the student. All target terms are computed at a quarter of the resolution. CPSL's distillation stages are
ProDA's (`proda.distill`).

Differences from the paper (of whose values only the release's are known here)
- `reg` compares the student on the strong view with the teacher on the weak one, which gets no gradient.
- Prototypes start from unweighted means of images, as released.
Differences from the released code
- Wherever it deviates from the paper, a knob has its form as `released`: `target_loss`, `consistency`, `cutmix`,
  `sampler`, `prior`, `logit_term`, `queue_scores` and `teacher_mode`.
- Its contrastive term of weight 0.001 is left out: the labels in that term's queue belong to other pixels.
- All images of a step see the queue from before the step; the release fills it image by image.
- Pixels are sampled from the weak view at a quarter of its resolution, where their labels are; the release samples the
  whole image.
- Maps are warped exactly as the strong view was. The strong view is ProDA's, without a second blur and colour jitter.
- If all labels are empty, the loss is 0, not NaN. A class with the share 0 gets 1e-6 in assignments, not NaN.
- A class without a prototype, because no image showed enough of it, keeps the pixels that the soft labels give it, gets
  no others, and takes their mean as its prototype; in the release its prototype of zeros competes with the others.

With `prior: paper` shares and labels follow each other: a class that vanishes from the labels loses its share, too.
P_SL looks at the classifier's input pixel by pixel; with `network.head: aspp` the classifier has a wider field of view.
"""

from collections.abc import Generator, Set
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from udaseg.data.batches.streams import Batch, Target
from udaseg.methods.base import (
    Context,
    Method,
    MethodSpec,
    OptimizerFactory,
    Step,
    Supervised,
    Terms,
    require_equal_crops,
    supervised,
)
from udaseg.methods.proda.proda import SCALE, DenoisingKnobs, working_size
from udaseg.methods.self_training.self_labelling import (
    FixedPrototypes,
    SelfLabellingKnobs,
    SelfLabellingWeights,
    build_self_labelling,
    kept_where_unseen,
    prototype_optimizer,
    remember,
)
from udaseg.nets.prototype_assignment import Drawn, PrototypeAssignment
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops.consistency import prototype_consistency, view_consistency
from udaseg.ops.losses import cross_entropy, symmetric_cross_entropy
from udaseg.ops.maps import nearest, resize
from udaseg.ops.mixing import half_rectangle, mix
from udaseg.ops.pseudo_labels import rectified_labels
from udaseg.types import IGNORE, Fidelity

ORDINARY, REVERSE = 0.1, 1.0  # factors on the cross-entropies within `target_loss: released`
PASTED = 0.5  # probability of a pasted rectangle with `cutmix: released`


class Config(SelfLabellingKnobs, DenoisingKnobs):
    target_loss: Fidelity = "paper"
    """Form of the term target.

    paper: cross-entropy of rectified labels
    released: a tenth of it and the reverse cross-entropy
    """

    consistency: Fidelity = "paper"
    """Form of the term reg.

    paper: symmetric divergence of both views' predictions
    released: one-sided, of assignments to prototypes
    """

    cutmix: Fidelity = "paper"
    """Images of the term target.

    paper: the weak view is a target image
    released: with probability 0.5 half of it is a rectangle of a source image
    """


class Weights(SelfLabellingWeights, Supervised):
    target: float = 1.0
    """Cross-entropy of weak views with rectified labels. Released 1."""

    reg: float = 0.13
    """Consistency of weak and strong views. Released 5 for GTA5, with `consistency: released`.

    The released divergence has one direction and is divided by 19 classes; 5 / (2 * 19) corresponds to it in the
    paper's form.
    """


def _views(knobs: Config) -> dict[str, Set[str]]:
    return {
        "seg": {"source"},
        "target": {"target", "target.soft", *(["target.full"] if knobs.rectify else [])},
        "self_label": {"target", "target.soft", "target.full"},
        "reg": {"target", "target.full", "target.strong"},
    }


def _consumes(knobs: Config, weights: Any) -> tuple[str, ...]:
    if "self_label" in weights:
        return "prototypes", "prior"
    rectifies = "target" in weights and knobs.rectify
    return ("prototypes",) if rectifies or ("reg" in weights and knobs.consistency == "released") else ()


SPEC = MethodSpec(
    name="cpsl",
    Config=Config,
    Weights=Weights,
    views=_views,
    consumes=_consumes,
)


class WeakView(NamedTuple):
    """The teacher's view of the whole images, cut to the weak views."""

    features: Tensor  # (B, D, h, w)
    logits: Tensor  # (B, C, h, w)
    valid: Tensor  # (B, h, w) bool


class CPSL(Method):
    SPEC = SPEC

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs: Config = context.knobs
        knobs, weights = self.knobs, context.weights
        self.teacher: EmaTeacher | None = None
        if "self_label" in weights or "reg" in weights or ("target" in weights and knobs.rectify):
            mode: Literal["eval", "train"] = "eval" if knobs.teacher_mode == "paper" else "train"
            self.teacher = EmaTeacher(self.net, buffers="copy", mode=mode)
        channels = self.net.feature_channels["embedding"]
        self.labelling: PrototypeAssignment | FixedPrototypes | None = None
        if "self_label" in weights:
            self.labelling = build_self_labelling(context, channels)
        elif _consumes(knobs, weights):
            prototypes = context.artifact("prototypes", (len(context.classes), channels))
            self.labelling = FixedPrototypes(prototypes, knobs.temperature)

    def optimizers(self, optim: OptimizerFactory) -> dict[str, torch.optim.Optimizer]:
        found = super().optimizers(optim)
        if isinstance(self.labelling, PrototypeAssignment):
            found["prototypes"] = prototype_optimizer(self.labelling, self.knobs, optim)
        return found

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, Drawn | None]:
        yield {"seg": supervised(self.net(batch.source.image).logits, batch.source)}

        target = batch.target
        view = None if self.teacher is None else self._weak_view(self.teacher, target)
        drawn = None
        if step.active("target") or step.active("self_label"):
            labels = self._labels(target, view, step)
            if step.active("target"):
                yield {"target": self._target(batch, labels, step)}
            if isinstance(self.labelling, PrototypeAssignment) and view is not None:
                term, drawn = self.labelling(view.features, labels, step.generator, view.logits)
                yield {"self_label": term}
        if step.active("reg") and view is not None:
            yield {"reg": self._consistency(target, view)}
        return drawn

    @torch.no_grad()
    def _weak_view(self, teacher: EmaTeacher, target: Target) -> WeakView:
        outputs = teacher(target.full)
        size = working_size(target.full)
        parts = [resize(maps.float(), size) for maps in (outputs.features["embedding"], outputs.logits)]
        pairs = zip(target.geometry, torch.cat(parts, dim=1), strict=True)
        weak, valid = zip(*(geometry.at(SCALE).apply(maps, "aligned") for geometry, maps in pairs), strict=True)
        features, logits = torch.stack(weak).split([part.shape[1] for part in parts], dim=1)
        return WeakView(features, logits, torch.stack(valid))

    @torch.no_grad()
    def _labels(self, target: Target, view: WeakView | None, step: Step) -> Tensor:
        """Labels (B, h, w) of the weak views, 255 = ignore."""
        labels = fixed = rectified_labels(target.soft, None, self.knobs.threshold).labels
        if self.knobs.rectify and self.labelling is not None and view is not None:
            weights = self.labelling.logits(view.features).softmax(dim=1)
            labels = rectified_labels(target.soft, weights, self.knobs.threshold).labels
            labels = kept_where_unseen(labels, fixed, self.labelling.seen())
            step.log("relabelled", (labels != fixed).float().mean())
        if view is not None:
            labels = labels.masked_fill(~view.valid, IGNORE)
        step.log("labelled", (labels != IGNORE).float().mean())
        return labels

    def _target(self, batch: Batch, labels: Tensor, step: Step) -> Tensor:
        image = batch.target.image
        if self.knobs.cutmix == "released" and float(torch.rand((), generator=step.generator)) < PASTED:
            image, labels = pasted(batch, labels, step.generator)
        logits = resize(self.net(image).logits, labels.shape[-2:])
        if self.knobs.target_loss == "paper":
            return cross_entropy(logits, labels)
        return symmetric_cross_entropy(logits, labels, ORDINARY, REVERSE)

    def _consistency(self, target: Target, view: WeakView) -> Tensor:
        released = self.labelling if self.knobs.consistency == "released" else None
        weak = view.logits.softmax(dim=1) if released is None else released.logits(view.features)
        wanted, masks = [], []
        for warp, maps, valid in zip(target.warps, weak, view.valid, strict=True):
            warped, there = warp.apply(torch.cat([maps, valid[None].to(maps)]), SCALE, "nearest")
            wanted.append(warped[:-1])
            masks.append(there & (warped[-1] > 0))
        outputs, size = self.net(target.strong), weak.shape[-2:]
        if released is None:
            return view_consistency(resize(outputs.logits, size), torch.stack(wanted), torch.stack(masks))
        strong = released.logits(resize(outputs.features["embedding"], size))
        return prototype_consistency(strong, torch.stack(wanted), torch.stack(masks))

    def after_step(self, carries: list[Drawn | None], step: Step) -> None:
        if isinstance(self.labelling, PrototypeAssignment):
            remember(self.labelling, carries, self.knobs.ema, step)
        if self.teacher is not None:
            self.teacher.update(self.net, self.knobs.ema)


def pasted(batch: Batch, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weak views (B, 3, H, W) and their labels (B, h, w) with a rectangle of the source, the same for all images.

    Raises:
        UserError: source and target crops differ in size or number.
    """
    require_equal_crops(batch, "with `cutmix: released` source crops are pasted on target crops")
    source, image = batch.source, batch.target.image
    mask = half_rectangle((image.shape[-2], image.shape[-1]), generator).to(image.device).expand(len(image), -1, -1)
    size = labels.shape[-2:]
    return mix(mask, source.image, image), mix(nearest(mask, size), nearest(source.label, size), labels)
