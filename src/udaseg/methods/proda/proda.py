"""ProDA, stage 1: pseudo-labels of the target are denoised during training by distances to class prototypes.

Zhang et al., "Prototypical Pseudo Label Denoising and Target Structure Learning for Domain Adaptive Semantic
Segmentation", CVPR 2021, arXiv 2101.10979.

Loss: seg + sce + 10 consist + 0.1 reg. The warm-up model's soft labels are fixed. Multiplied by weights that measure
how near a moving teacher's features are to each class's prototype, they give the labels of `sce`, a symmetric
cross-entropy on weak views. `consist` makes the student assign strong views to prototypes as the teacher assigns weak
ones, and `reg` keeps predictions away from certainty. After the step the prototypes follow the teacher's features from
before the step, and then the teacher follows the student. All target terms are computed at a quarter of the resolution.

Differences from the paper
- A prototype follows unweighted means of images, and `consist` and `reg` are means, over classes too: all as released.
- The temperature multiplies distances, as released; the paper divides by it. At 1 both are equal.
Differences from the released code
- The teacher is in evaluation mode; the release leaves it in training mode (`teacher_mode: released`).
- Maps are warped exactly as the strong view was; the release's replay deviates (`strong_warp: released`).
- A pixel without a soft label is ignored; the release takes it for class 0. If all pixels are ignored, `sce` is 0, not
  NaN, and so is `consist` if the strong view shows nothing of the weak one.
- A class whose prototype has never been updated gets no label, and its first update replaces the prototype; in the
  release a prototype of zeros competes with the others.
- The part of a crop beyond its image is ignored everywhere.
"""

from collections.abc import Generator, Set
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Batch, Target
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, Step, Supervised, Terms, supervised
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops.consistency import structure_kl
from udaseg.ops.losses import cross_entropy, symmetric_cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.prototypes import (
    ClassMeans,
    assignment_logits,
    assignment_weights,
    class_means,
    momentum_update,
    prototype_distances,
)
from udaseg.ops.pseudo_labels import rectified_labels
from udaseg.ops.regularisers import Regulariser, regulariser
from udaseg.types import IGNORE, Fidelity, Positive, Share

SCALE = 1 / 4  # of the crop's resolution, at which target terms are computed


class WarpKnobs(Knobs):
    """What stages with strong views share."""

    strong_warp: Fidelity = "paper"
    """How maps of the weak view are warped to the strong view.

    paper: the strong view's geometry as it was applied
    released: replayed in a fixed order, sideways shifts too far
    """


class DenoisingKnobs(Knobs):
    """What methods share that denoise fixed soft labels with a moving teacher."""

    threshold: Annotated[float, Field(ge=0)] = 0.0
    """Confidence of a denoised label below which its pixel is ignored. Released 0: none is."""

    ema: Share = 0.999
    """Share of the teacher (with CPSL of the moving prototypes, too) that an update keeps. Released 0.999."""

    teacher_mode: Fidelity = "paper"
    """Mode of the teacher's normalisation and dropout.

    paper: the EMA teacher is in evaluation mode
    released: it never leaves training mode
    """


class Config(WarpKnobs, DenoisingKnobs):
    rectify: bool = True
    """Denoise the soft labels by prototypes; false: their most probable classes, fixed. Paper and released true."""

    symmetric: bool = True
    """Symmetric cross-entropy in sce; false: the ordinary one. Paper and released true."""

    moving_prototypes: bool = True
    """Prototypes follow the teacher's features; false: they stay the warm-up model's. Paper and released true."""

    alpha: Annotated[float, Field(ge=0)] = 0.1
    """Factor on the cross-entropy within sce. Released 0.1."""

    beta: Annotated[float, Field(ge=0)] = 1.0
    """Factor on the reverse cross-entropy within sce. Released 1."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the distances to prototypes in their softmax. Released 1."""

    prototype_momentum: Share = 1e-4
    """Share of an image's mean feature in the updated prototype. Released 1e-4."""

    min_pixels: Positive = 10
    """Pixels of a class that an image must have for its mean to update the prototype. Released 10."""

    regulariser: Regulariser = "mrkld"
    """Form of reg: divergence from uniform predictions (mrkld), or negative entropy (mrent). Released mrkld."""


class Weights(Supervised):
    sce: float = 1.0
    """Symmetric cross-entropy with denoised labels. Released 1."""

    consist: float = 10.0
    """Divergence of assignments to prototypes, strong view from weak. Released 10."""

    reg: float = 0.1
    """Regulariser of the target's predictions. Released 0.1 for GTA5, 0 for SYNTHIA."""


def _views(knobs: Config) -> dict[str, Set[str]]:
    return {
        "seg": {"source"},
        "sce": {"target", "target.soft", *(["target.full"] if knobs.rectify else [])},
        "consist": {"target", "target.full", "target.strong"},
        "reg": {"target"},
    }


def _uses_prototypes(knobs: Config, weights: Any) -> bool:
    return "consist" in weights or ("sce" in weights and knobs.rectify)


SPEC = MethodSpec(
    name="proda",
    Config=Config,
    Weights=Weights,
    views=_views,
    consumes=lambda knobs, weights: ("prototypes", "counts") if _uses_prototypes(knobs, weights) else (),
)


class TeacherView(NamedTuple):
    """The teacher's view of the whole images, cut to the weak views."""

    assignment: Tensor  # (B, C, h, w), weights of the prototypes, which sum to 1
    valid: Tensor  # (B, h, w) bool
    means: ClassMeans | None  # of the whole images


class ProDA(Method):
    SPEC = SPEC
    prototypes: Tensor
    counts: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs: Config = context.knobs
        self.teacher: EmaTeacher | None = None
        if _uses_prototypes(self.knobs, context.weights):
            mode: Literal["eval", "train"] = "eval" if self.knobs.teacher_mode == "paper" else "train"
            self.teacher = EmaTeacher(self.net, buffers="copy", mode=mode)
        classes, channels = len(context.classes), self.net.feature_channels["embedding"]
        self.register_buffer("prototypes", context.artifact("prototypes", (classes, channels), required=False))
        self.register_buffer("counts", context.artifact("counts", (classes,), required=False))

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, ClassMeans | None]:
        yield {"seg": supervised(self.net(batch.source.image).logits, batch.source)}

        target = batch.target
        view = None if self.teacher is None else self._teacher_view(self.teacher, target)
        terms: Terms = {}
        if step.active("sce") or step.active("reg"):
            logits = resize(self.net(target.image).logits, working_size(target.image))
            if step.active("sce"):
                terms["sce"] = self._sce(logits, self._labels(target, view, step))
            if step.active("reg"):
                terms["reg"] = regulariser(logits, inside(target.valid), self.knobs.regulariser)
        if step.active("consist") and view is not None:
            terms["consist"] = self._consist(target, view)
        if terms:
            yield terms
        return None if view is None else view.means

    @torch.no_grad()
    def _teacher_view(self, teacher: EmaTeacher, target: Target) -> TeacherView:
        outputs = teacher(target.full)
        size = working_size(target.full)
        features = resize(outputs.features["embedding"].float(), size)
        means = None
        if self.knobs.moving_prototypes:
            means = class_means(features, resize(outputs.logits, size), self.knobs.min_pixels)
        pairs = zip(target.geometry, features, strict=True)
        weak, valid = zip(*(geometry.at(SCALE).apply(one, "aligned") for geometry, one in pairs), strict=True)
        distances = prototype_distances(torch.stack(weak), self.prototypes)
        assignment = assignment_weights(distances, self.knobs.temperature, self.counts > 0)
        return TeacherView(assignment, torch.stack(valid), means)

    @torch.no_grad()
    def _labels(self, target: Target, view: TeacherView | None, step: Step) -> Tensor:
        """Labels (B, h, w) of the weak views, 255 = ignore."""
        fixed = rectified_labels(target.soft, None, self.knobs.threshold).labels
        if not self.knobs.rectify or view is None:
            labels = fixed
        else:
            labels = rectified_labels(target.soft, view.assignment, self.knobs.threshold).labels
            labels = labels.masked_fill(~view.valid, IGNORE)
            step.log("relabelled", (labels != fixed).float().mean())
        step.log("labelled", (labels != IGNORE).float().mean())
        return labels

    def _sce(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not self.knobs.symmetric:
            return cross_entropy(logits, labels)
        return symmetric_cross_entropy(logits, labels, self.knobs.alpha, self.knobs.beta)

    def _consist(self, target: Target, view: TeacherView) -> Tensor:
        wanted, masks = [], []
        for warp, assignment, valid in zip(target.warps, view.assignment, view.valid, strict=True):
            maps = torch.cat([assignment, valid[None].to(assignment)])
            warped, there = warp.apply(maps, SCALE, "nearest", self.knobs.strong_warp)
            wanted.append(warped[:-1])
            masks.append(there & (warped[-1] > 0))
        features = resize(self.net(target.strong).features["embedding"], working_size(target.image))
        distances = prototype_distances(features, self.prototypes)
        logits = assignment_logits(distances, self.knobs.temperature, self.counts > 0)
        return structure_kl(logits, torch.stack(wanted), torch.stack(masks))

    def after_step(self, carries: list[ClassMeans | None], step: Step) -> None:
        for means in carries:
            if means is not None:
                self.prototypes, self.counts = momentum_update(
                    self.prototypes, self.counts, means, self.knobs.prototype_momentum, self.counts > 0
                )
        if self.teacher is not None:
            self.teacher.update(self.net, self.knobs.ema)


def working_size(images: Tensor) -> tuple[int, ...]:
    """Height and width at the working resolution of images (..., H, W)."""
    return tuple(int(length * SCALE) for length in images.shape[-2:])


def inside(valid: Tensor) -> Tensor:
    """(B, h, w) bool at the working resolution from (B, H, W) bool."""
    return F.interpolate(valid[:, None].float(), working_size(valid), mode="nearest-exact")[:, 0] > 0
