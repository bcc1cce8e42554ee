"""CPSL, stage 1: target pixels cluster about class prototypes, in the classes' shares, and so rectify pseudo-labels.

Li, Li, He, Zhang, Jia & Zhang, "Class-Balanced Pixel-Level Self-Labeling for Domain Adaptive Semantic Segmentation",
CVPR 2022, arXiv 2203.09744.

Loss: seg + target + 0.1 self_label + 0.13 reg. The warm-up model's soft labels stay as they are; multiplied by how near
a moving teacher's features are to each class's prototype they give the labels of `target`, on weak views. `self_label`
trains the prototypes, and nothing else: sampled features of the teacher are assigned to them, together with a queue of
earlier ones, so that the classes get the shares that they have among the labels, and the prototypes' own softmax is to
say the same. `reg` asks for one prediction of weak and strong views. After the step the queue takes the sampled
features, the shares follow the labels, and the moving prototypes and the teacher follow the trained ones. Everything
about the target happens at a quarter of its resolution. Its distillation stages are ProDA's (`proda_distill`).

Differences from the paper (of whose values only the release's are known here)
- `reg` compares the student's strong view with the teacher's weak one, which gets no gradient.
- Prototypes start from unweighted means of images, as released.
Differences from the released code
- Where it does something else than the paper, or more, a knob follows it: `released` of `target_loss`, `consistency`,
  `cutmix`, `sampler`, `prior`, `logit_term`, `queue_scores` and `teacher_mode`.
- Its contrastive term of weight 0.001 is left out: the labels of its queue are those of other pixels.
- The images of a step see the queue as it was before it; the release fills it image by image.
- Pixels are sampled from the weak view at a quarter of its resolution, where their labels are; the release takes them
  from the whole image.
- Maps follow the strong view as its picture did; the view is ProDA's, without a further blur and jitter of colours.
- All labels empty: a loss of 0, not NaN. A class of the share 0 has 1e-6 in assignments, not NaN.
- A class without a prototype, as no image showed enough of it, keeps the pixels that the soft labels give it, gets no
  others, and takes their mean as its prototype; the release lets its prototype of zeros compete.

With `prior: paper` the shares follow labels that follow them: a class that is lost in the labels loses its share, too.
P_SL looks at the classifier's input pixel by pixel, and with `network.head: aspp` the classifier sees more than that.
"""

from collections.abc import Generator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from udaseg.data.batches.streams import Batch, Target
from udaseg.errors import UserError
from udaseg.methods.base import Context, Method, MethodSpec, OptimizerFactory, Step, Terms, supervised
from udaseg.methods.host import Share
from udaseg.methods.proda import SCALE, working_size
from udaseg.methods.self_labelling import (
    Fidelity,
    FixedPrototypes,
    SelfLabellingKnobs,
    build_self_labelling,
    kept_where_unseen,
    prototype_optimiser,
    remember,
)
from udaseg.nets.prototype_assignment import Drawn, PrototypeAssignment
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops.consistency import prototype_consistency, view_consistency
from udaseg.ops.losses import cross_entropy, symmetric_cross_entropy
from udaseg.ops.maps import nearest, resize
from udaseg.ops.mixing import half_rectangle, mix
from udaseg.ops.pseudo_labels import rectified_labels
from udaseg.types import IGNORE

ORDINARY, REVERSE = 0.1, 1.0  # weights of the cross-entropies within `target_loss: released`
PASTED = 0.5  # chance of a rectangle of source with `cutmix: released`


class Config(SelfLabellingKnobs):
    # paper: the cross-entropy of rectified labels; released: 0.1 of it and the reverse one, as ProDA's sce.
    target_loss: Fidelity = "paper"
    # paper: symmetric KL of both views' predictions; released: one-sided KL of their assignments to prototypes.
    consistency: Fidelity = "paper"
    cutmix: Fidelity = "paper"  # released: by chance, half of the weak view is a rectangle of source; paper: never
    threshold: Share = 0.0  # confidence of a rectified label below which its pixel is ignored (released 0: none is)
    ema: Share = 0.999  # share of the teacher and of the moving prototypes that a step keeps (released 0.999)
    teacher_mode: Fidelity = "paper"  # paper: evaluation mode; released: never left training mode


def _views(knobs: Config) -> dict[str, frozenset[str]]:
    return {
        "seg": frozenset({"source"}),
        "target": frozenset({"target", "target.soft", *(["target.full"] if knobs.rectify else [])}),
        "self_label": frozenset({"target", "target.soft", "target.full"}),
        "reg": frozenset({"target", "target.full", "target.strong"}),
    }


def _consumes(knobs: Config, weights: Any) -> tuple[str, ...]:
    if "self_label" in weights:
        return "prototypes", "prior"
    rectifies = "target" in weights and knobs.rectify
    return ("prototypes",) if rectifies or ("reg" in weights and knobs.consistency == "released") else ()


SPEC = MethodSpec(
    name="cpsl",
    Config=Config,
    # As released for GTA5, but for reg: its 5 is of a divergence in one direction, divided by 19 classes (consistency:
    # released); 5 / (2 * 19) is as much of the paper's form.
    weights={"seg": 1.0, "target": 1.0, "self_label": 0.1, "reg": 0.13},
    views=_views,
    consumes=_consumes,
)


class WeakView(NamedTuple):
    """What the teacher sees in the whole images, in the weak views."""

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
            found["prototypes"] = prototype_optimiser(self.labelling, self.knobs, optim)
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
    """Weak views (B, 3, H, W) and their labels (B, h, w) with one rectangle of the source's, the same for all images.

    Raises:
        UserError: source and target crops differ in size or number.
    """
    source, image = batch.source, batch.target.image
    if source.image.shape != image.shape:
        raise UserError(
            "train.source and train.target: knobs.cutmix pastes one's crops on the other's, so `batch` and `crop` of "
            f"both must be equal; found {tuple(source.image.shape)} and {tuple(image.shape)}"
        )
    mask = half_rectangle((image.shape[-2], image.shape[-1]), generator).to(image.device).expand(len(image), -1, -1)
    size = labels.shape[-2:]
    return mix(mask, source.image, image), mix(nearest(mask, size), nearest(source.label, size), labels)
