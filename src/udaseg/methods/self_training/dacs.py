"""DACS: self-training on target images with pasted source classes. The host of the methods that are built on it.

Tranheden, Olsson, Pinto & Svensson, "DACS: Domain Adaptation via Cross-domain Mixed Sampling", WACV 2021, arXiv
2007.08702. The term `masked` is that of MIC: Hoyer, Dai, Wang & Van Gool, "MIC: Masked Image Consistency for
Context-Enhanced Domain Adaptation", CVPR 2023, arXiv 2212.01322; it is off by default.

Loss: L_seg + L_mix (+ L_masked). L_seg is the cross-entropy on source images. L_mix is that on mixed images: pasted
pixels have their labels and weight 1. The others have the labels of a teacher, an exponential moving average of the
network, and all the same weight: the share of confident pixels in the batch. L_masked asks for the same pseudo-labels
on target images of which most blocks are masked. The student is evaluated.

A method built on it overrides `source_terms`, `judge` and `further_terms`. All random numbers come from the step's
generator, except those of dropout and the strength of each image's augmentation, which come from the global one.

Written after the released code, which decides where the paper's text leaves a choice.
Differences from the released code
- The teacher's index is that of the next step, as in DAFormer, so that both can be compared: the first update keeps
  half of the teacher, the release's nothing.
- torchvision's colour jitter instead of kornia's: brightness is multiplied, not added.
- Pixels of a crop beyond the target image have no pseudo-label, and do not count in the share of confident pixels.
- If nothing is labelled in a batch, the loss is 0.
"""

from collections.abc import Generator
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Batch, Labelled, Target
from udaseg.methods.base import (
    Context,
    Knobs,
    Method,
    MethodSpec,
    Step,
    Supervised,
    Terms,
    require_equal_crops,
    supervised,
)
from udaseg.nets.base import Outputs, SegmentationNet
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops.augment import strong_augmentation
from udaseg.ops.losses import weighted_cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.mixing import block_mask, class_mask, draw_blocks, draw_classes, mix
from udaseg.ops.pseudo_labels import WeightedLabels, confidence_weighted
from udaseg.ops.schedules import ema_keep
from udaseg.types import Positive, Share

Jitter = Annotated[float, Field(ge=0, le=0.5)]
Rows = Annotated[int, Field(ge=0)]


class Config(Knobs):
    ema: Share = 0.99
    """Largest share of the teacher kept at an update. Released: DACS 0.99, DAFormer 0.999."""

    teacher_norm: Literal["batch", "student"] = "batch"
    """Statistics with which the teacher normalises: its batch's, or the student's running ones. Released batch.

    The released teachers stay in training mode, without dropout.
    """

    threshold: Share = 0.968
    """Probability from which on a pixel is confident. Released: DACS and DAFormer 0.968."""

    mix_classes: Literal["image", "batch"] = "image"
    """Set of classes of which half are pasted: each image's, or the batch's. Released: DACS image, DAFormer batch."""

    jitter: Jitter = 0.25
    """Strength of the colour jitter, which 80 % of the batches get. Released: DACS 0.25, DAFormer 0.2."""

    blur: Share = 0.5
    """Probability of a Gaussian blur of a batch. Released: DACS and DAFormer 0.5."""

    ignore_top: Rows = 0
    """Rows at the top of a crop without pseudo-labels. Released: DACS 0, DAFormer 15 of 512."""

    ignore_bottom: Rows = 0
    """Rows at the bottom, where the car's bonnet is, without pseudo-labels. Released: DACS 0, DAFormer 120 of 512."""

    source_mean: Literal["valid", "all"] = "valid"
    """Pixels over which the source loss is a mean. Released: DACS valid, DAFormer all (mmseg's rule)."""

    mask_block: Positive = 32
    """Side of a masked block in pixels, for the term masked. MIC's release 64 in crops of 1024, 32 in crops of 512."""

    mask_ratio: Share = 0.7
    """Share of the blocks that is masked, for the term masked. MIC's release 0.7."""


class Weights(Supervised):
    mix: float = 1.0
    """Cross-entropy of target images with pasted source classes. Released 1."""

    masked: float = 0.0
    """Cross-entropy of masked target images. MIC's release 1; not in DACS and DAFormer."""


VIEWS = {"seg": {"source"}, "mix": {"source", "target"}, "masked": {"target"}}
SPEC = MethodSpec(name="dacs", Config=Config, Weights=Weights, views=VIEWS)


class Mixed(NamedTuple):
    """Target images with pasted source classes, strongly augmented."""

    image: Tensor  # (B, 3, H, W) in [0, 1]
    labels: Tensor  # (B, H, W) int64; 255 = ignore
    weight: Tensor  # (B, H, W), of each pixel in the loss: 1 where source was pasted


class Judged(NamedTuple):
    """What the teacher makes of the target crops, without a graph."""

    logits: Tensor  # (B, C, h, w), whose softmax the pseudo-labels are
    outputs: Outputs | None = None  # the teacher's own, if a further term needs them


class DACS(Method):
    SPEC = SPEC
    knobs: Config

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs = context.knobs
        needed = "mix" in context.weights or "masked" in context.weights
        self.teacher = build_teacher(self.net, self.knobs) if needed else None

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, Any]:
        source = self.net(batch.source.image)
        yield {
            "seg": source_loss(source.logits, batch.source, self.knobs),
            **self.source_terms(source, batch.source, step),
        }
        del source  # frees the source graph before the next one is built
        judged = mixed = None
        if self.teacher is not None and (step.active("mix") or step.active("masked")):
            judged = self.judge(self.teacher(batch.target.image))
            pseudo = pseudo_labels(judged.logits, batch.target, self.knobs, step)
            if step.active("mix"):
                mixed = mixed_batch(batch, pseudo, self.knobs, step)
                yield {"mix": pseudo_loss(self.net(mixed.image).logits, mixed.labels, mixed.weight)}
            if step.active("masked"):
                masked = masked_images(self.net, batch.target.image, self.knobs, step)
                yield {"masked": pseudo_loss(self.net(masked).logits, pseudo.labels, pseudo.weight)}
        return (yield from self.further_terms(batch, judged, mixed, step))

    def source_terms(self, source: Outputs, labelled: Labelled, step: Step) -> Terms:
        """Terms that join the group of `seg`, from the network's outputs for the source images. None here."""
        return {}

    def judge(self, outputs: Outputs) -> Judged:
        """What the pseudo-labels are made of, from the teacher's outputs. Its own logits here."""
        return Judged(outputs.logits)

    def further_terms(
        self, batch: Batch, judged: Judged | None, mixed: Mixed | None, step: Step
    ) -> Generator[Terms, None, Any]:
        """Yield groups of terms after those of this class; return what `after_step` needs. Nothing here.

        Args:
            batch: the step's batch.
            judged: what `judge` returned; None if neither `mix` nor `masked` is active.
            mixed: what `mix` was computed on; None if it is not active.
            step: the training step.
        """
        yield from ()

    def after_step(self, carries: list[Any], step: Step) -> None:
        # The papers update before step k, with the index k. That is after step k - 1.
        if self.teacher is not None:
            self.teacher.update(self.net, ema_keep(step.index + 1, self.knobs.ema))


def build_teacher(net: SegmentationNet, knobs: Config) -> EmaTeacher:
    """A teacher equal to the network."""
    if knobs.teacher_norm == "student":
        return EmaTeacher(net, buffers="copy", mode="eval")
    return EmaTeacher(net, buffers="own", mode="train_without_dropout")


def source_loss(logits: Tensor, labelled: Labelled, knobs: Config) -> Tensor:
    """Cross-entropy of logits (B, C, h, w), resized to the labels (B, H, W): a mean over valid or over all pixels."""
    if knobs.source_mean == "valid":
        return supervised(logits, labelled)
    return weighted_cross_entropy(resize(logits, labelled.label.shape[-2:]), labelled.label, None)


def pseudo_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C, h, w), resized to labels and weight (B, H, W), as a mean over all pixels."""
    return weighted_cross_entropy(resize(logits, labels.shape[-2:]), labels, weight)


def pseudo_labels(logits: Tensor, target: Target, knobs: Config, step: Step) -> WeightedLabels:
    """Pseudo-labels of the target images from logits (B, C, h, w). Logs the share of confident pixels."""
    logits = resize(logits.float(), target.image.shape[-2:])
    valid = target.valid if target.valid.numel() else None
    found = confidence_weighted(logits, knobs.threshold, knobs.ignore_top, knobs.ignore_bottom, valid)
    step.log("confident", found.quality)
    return found


def mixed_images(batch: Batch, knobs: Config, step: Step) -> tuple[Tensor, Tensor]:
    """ClassMix: target images with half of the source's classes pasted on them, strongly augmented.

    Returns:
        The images (B, 3, H, W) in [0, 1], and the mask (B, H, W) bool of what was pasted.

    Raises:
        UserError: source and target crops differ in size or number.
    """
    require_equal_crops(batch, "source crops are pasted on target crops")
    source, target = batch.source, batch.target
    mask = class_mask(source.label, draw_classes(source.label, step.generator, knobs.mix_classes))
    image = mix(mask, source.image, target.image)
    return strong_augmentation(image, knobs.jitter, knobs.blur, step.generator), mask


def mixed_batch(batch: Batch, pseudo: WeightedLabels, knobs: Config, step: Step) -> Mixed:
    """The images of `mixed_images` with their labels, and weight 1 where source was pasted."""
    image, mask = mixed_images(batch, knobs, step)
    return Mixed(
        image=image,
        labels=mix(mask, batch.source.label, pseudo.labels),
        weight=mix(mask, torch.ones_like(pseudo.weight), pseudo.weight),
    )


def masked_images(net: SegmentationNet, images: Tensor, knobs: Config, step: Step) -> Tensor:
    """Strongly augmented images (B, 3, H, W), with random blocks in the mean colour, which normalises to 0."""
    size = (images.shape[-2], images.shape[-1])
    augmented = strong_augmentation(images, knobs.jitter, knobs.blur, step.generator)
    uniform = draw_blocks(len(images), size, knobs.mask_block, step.generator).to(images.device)
    return torch.where(block_mask(size, knobs.mask_block, knobs.mask_ratio, uniform), augmented, net.normalise.mean)
