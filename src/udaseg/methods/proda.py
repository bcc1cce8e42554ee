"""ProDA, stage 1: target pseudo-labels that are denoised while training, by distances to class prototypes.

Zhang et al., "Prototypical Pseudo Label Denoising and Target Structure Learning for Domain Adaptive Semantic
Segmentation", CVPR 2021, arXiv 2101.10979.

Loss: seg + sce + 10 consist + 0.1 reg. The warm-up model's soft labels stay as they are; multiplied by how near a
moving teacher's features are to each class's prototype they give the labels of `sce`, a symmetric cross-entropy on weak
views. `consist` asks the student to assign strong views to prototypes as the teacher assigns weak ones, `reg` holds
predictions off certainty. After the step the prototypes follow the teacher's features from before it, then the teacher
follows the student. Everything about the target happens at a quarter of its resolution.

Differences from the paper
- A prototype follows unweighted means of images, `consist` and `reg` are means (over classes, too): all as released.
- The temperature multiplies distances, as released, which is the same at 1.
Differences from the released code
- The teacher is in evaluation mode; the release leaves it in training mode (`teacher_mode: released`).
- Maps follow the strong view as its picture did; the release's replay goes elsewhere (`strong_warp: released`).
- A pixel without a soft label is ignored; the release calls it class 0. With all ignored `sce` is 0, not NaN; so is
  `consist` where the strong view shows nothing of the weak one.
- A class whose prototype was never seen gets no label, and its first vector whole; the release lets zeros compete.
- What a crop shows beyond its image counts nowhere.
"""

from collections.abc import Generator
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Batch, Target
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, Step, Terms, supervised
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
from udaseg.types import IGNORE

SCALE = 1 / 4  # of the working resolution


class Config(Knobs):
    rectify: bool = True  # prototypical denoising; false: the soft labels' most probable classes, fixed
    symmetric: bool = True  # sce is the symmetric cross-entropy; false: the ordinary one
    moving_prototypes: bool = True  # false: the prototypes stay as the warm-up model's
    alpha: Annotated[float, Field(ge=0)] = 0.1  # of the cross-entropy within sce (released 0.1)
    beta: Annotated[float, Field(ge=0)] = 1.0  # of the reverse cross-entropy within sce (released 1)
    temperature: Annotated[float, Field(gt=0)] = 1.0  # multiplies distances to prototypes (released 1)
    prototype_momentum: Annotated[float, Field(ge=0, le=1)] = 1e-4  # share of an image's mean (released 1e-4)
    min_pixels: Annotated[int, Field(ge=1)] = 10  # of a class in an image, for its mean to count (released 10)
    threshold: Annotated[float, Field(ge=0)] = 0.0  # confidence below which a pixel is ignored (released 0: none is)
    ema: Annotated[float, Field(ge=0, le=1)] = 0.999  # share of the teacher that a step keeps (released 0.999)
    regulariser: Regulariser = "mrkld"  # reg: divergence from uniform predictions, or mrent: negative entropy
    teacher_mode: Literal["paper", "released"] = "paper"  # paper: evaluation mode; released: never left training mode
    strong_warp: Literal["paper", "released"] = "paper"  # released: a replay of the strong view's geometry with slips


def _views(knobs: Config) -> dict[str, frozenset[str]]:
    return {
        "seg": frozenset({"source"}),
        "sce": frozenset({"target", "target.soft", *(["target.full"] if knobs.rectify else [])}),
        "consist": frozenset({"target", "target.full", "target.strong"}),
        "reg": frozenset({"target"}),
    }


def _uses_prototypes(knobs: Config, weights: Any) -> bool:
    return "consist" in weights or ("sce" in weights and knobs.rectify)


SPEC = MethodSpec(
    name="proda",
    Config=Config,
    weights={"seg": 1.0, "sce": 1.0, "consist": 10.0, "reg": 0.1},  # as released for GTA5; for SYNTHIA reg is 0
    views=_views,
    consumes=lambda knobs, weights: ("prototypes", "counts") if _uses_prototypes(knobs, weights) else (),
)


class TeacherView(NamedTuple):
    """What the teacher sees in the whole images, in the weak views."""

    assignment: Tensor  # (B, C, h, w) weights of the prototypes, sum 1
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
