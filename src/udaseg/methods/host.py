"""What self-training methods share: teacher, pseudo-labels, ClassMix, masked consistency, and the step made of them.

It is the base of DACS (WACV 2021), DAFormer (CVPR 2022) and MIC (CVPR 2023), and the host of what is plugged into them,
in the three places that `SelfTraining` leaves open: two for terms, one for the teacher's judgement. All random numbers
come from the step's generator, but for dropout and the strength of the augmentation of each image, which are drawn from
the global one.
"""

from collections.abc import Callable, Generator
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Batch, Labelled, Target
from udaseg.errors import UserError
from udaseg.methods.base import Context, Knobs, Method, Step, Terms, supervised
from udaseg.nets.base import Outputs, SegmentationNet
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops.augment import strong_augmentation
from udaseg.ops.losses import weighted_cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.mixing import block_mask, class_mask, draw_blocks, draw_classes, mix
from udaseg.ops.pseudo_labels import WeightedLabels, confidence_weighted
from udaseg.ops.schedules import ema_keep

Share = Annotated[float, Field(ge=0, le=1)]
Rows = Annotated[int, Field(ge=0)]


class HostKnobs(Knobs):
    """Defaults are DACS's, as released."""

    ema: Share = 0.99  # largest share of the teacher kept at an update (DACS 0.99, DAFormer 0.999)
    # Statistics with which the teacher normalises: those of its batch, as released (it stays in training mode, without
    # dropout), or the student's running ones.
    teacher_norm: Literal["batch", "student"] = "batch"
    threshold: Share = 0.968  # least probability of a confident pixel (DACS and DAFormer 0.968)
    mix_classes: Literal["image", "batch"] = "image"  # whose classes half are pasted: DACS image, DAFormer's code batch
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.25  # strength, in 80 % of the batches (DACS 0.25, DAFormer 0.2)
    blur: Share = 0.5  # chance of a Gaussian blur of a batch (DACS and DAFormer 0.5)
    ignore_top: Rows = 0  # rows of the crop without pseudo-labels (DACS 0, DAFormer 15 of 512)
    ignore_bottom: Rows = 0  # the same at the bottom, where the car's bonnet is (DACS 0, DAFormer 120 of 512)
    source_mean: Literal["valid", "all"] = "valid"  # pixels that the source loss is a mean over: DACS valid, mmseg all
    mask_block: Annotated[int, Field(ge=1)] = (
        32  # side of a masked block in pixels (MIC 64 in crops of 1024, 32 of 512)
    )
    mask_ratio: Share = 0.7  # share of the blocks that is masked (MIC 0.7)


class Mixed(NamedTuple):
    """Target images with pasted source classes, strongly augmented."""

    image: Tensor  # (B, 3, H, W) in [0, 1]
    labels: Tensor  # (B, H, W) int64; 255 = ignore
    weight: Tensor  # (B, H, W), of each pixel in the loss: 1 where source was pasted


Judge = Callable[[Outputs], Tensor]


def plain_logits(outputs: Outputs) -> Tensor:
    """The logits (B, C, h, w) of a network's outputs, as they are."""
    return outputs.logits


def build_teacher(net: SegmentationNet, knobs: HostKnobs) -> EmaTeacher:
    """A teacher equal to the network."""
    if knobs.teacher_norm == "student":
        return EmaTeacher(net, buffers="copy", mode="eval")
    return EmaTeacher(net, buffers="own", mode="train_without_dropout")


def source_loss(logits: Tensor, labelled: Labelled, knobs: HostKnobs) -> Tensor:
    """Cross-entropy of logits (B, C, h, w), resized to the labels (B, H, W): mean over valid or over all pixels."""
    if knobs.source_mean == "valid":
        return supervised(logits, labelled)
    return weighted_cross_entropy(resize(logits, labelled.label.shape[-2:]), labelled.label, None)


def pseudo_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C, h, w), resized to labels and weight (B, H, W), as a mean over all pixels."""
    return weighted_cross_entropy(resize(logits, labels.shape[-2:]), labels, weight)


def pseudo_labels(
    teacher: EmaTeacher, target: Target, knobs: HostKnobs, step: Step, judged: Judge = plain_logits
) -> WeightedLabels:
    """Labels of the target images by what `judged` makes of the teacher's outputs, without a graph.

    Logs the share of confident pixels.
    """
    logits = resize(judged(teacher(target.image)).float(), target.image.shape[-2:])
    valid = target.valid if target.valid.numel() else None
    found = confidence_weighted(logits, knobs.threshold, knobs.ignore_top, knobs.ignore_bottom, valid)
    step.log("confident", found.quality)
    return found


def mixed_images(batch: Batch, knobs: HostKnobs, step: Step) -> tuple[Tensor, Tensor]:
    """ClassMix: half of the source's classes pasted on target images, the pictures strongly augmented.

    Returns:
        The images (B, 3, H, W) in [0, 1], and the mask (B, H, W) bool of what was pasted.

    Raises:
        UserError: source and target crops differ in size or number.
    """
    source, target = batch.source, batch.target
    if source.image.shape != target.image.shape:
        raise UserError(
            f"train.source and train.target: ClassMix pastes one's crops on the other's, so `batch` and `crop` of both "
            f"must be equal; found {_size(source.image)} and {_size(target.image)}"
        )
    mask = class_mask(source.label, draw_classes(source.label, step.generator, knobs.mix_classes))
    image = mix(mask, source.image, target.image)
    return strong_augmentation(image, knobs.jitter, knobs.blur, step.generator), mask


def mixed_batch(batch: Batch, pseudo: WeightedLabels, knobs: HostKnobs, step: Step) -> Mixed:
    """The images of `mixed_images` with their labels, and weight 1 where source was pasted."""
    image, mask = mixed_images(batch, knobs, step)
    return Mixed(
        image=image,
        labels=mix(mask, batch.source.label, pseudo.labels),
        weight=mix(mask, torch.ones_like(pseudo.weight), pseudo.weight),
    )


def masked_images(net: SegmentationNet, images: Tensor, knobs: HostKnobs, step: Step) -> Tensor:
    """Strongly augmented images (B, 3, H, W) in which random blocks have the mean colour that normalisation makes 0."""
    size = (images.shape[-2], images.shape[-1])
    augmented = strong_augmentation(images, knobs.jitter, knobs.blur, step.generator)
    uniform = draw_blocks(len(images), size, knobs.mask_block, step.generator).to(images.device)
    return torch.where(block_mask(size, knobs.mask_block, knobs.mask_ratio, uniform), augmented, net.normalise.mean)


def target_terms(
    net: SegmentationNet,
    teacher: EmaTeacher,
    batch: Batch,
    knobs: HostKnobs,
    step: Step,
    judged: Judge = plain_logits,
) -> Generator[Terms, None, Mixed | None]:
    """The terms "mix" and "masked", as far as they are active, on the same pseudo-labels; a group for each.

    Returns what "mix" was computed on, None without that term.
    """
    mixed = None
    if step.active("mix") or step.active("masked"):
        pseudo = pseudo_labels(teacher, batch.target, knobs, step, judged)
        if step.active("mix"):
            mixed = mixed_batch(batch, pseudo, knobs, step)
            yield {"mix": pseudo_loss(net(mixed.image).logits, mixed.labels, mixed.weight)}
        if step.active("masked"):
            masked = masked_images(net, batch.target.image, knobs, step)
            yield {"masked": pseudo_loss(net(masked).logits, pseudo.labels, pseudo.weight)}
    return mixed


class SelfTraining(Method):
    """The loss on source images, then that on mixed and on masked target images with the teacher's labels.

    DACS is this. A method that stands on it overrides `source_terms`, `teacher_logits` and `further_terms`.
    """

    knobs: HostKnobs

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs = context.knobs
        needed = "mix" in context.weights or "masked" in context.weights
        self.teacher = build_teacher(self.net, self.knobs) if needed else None

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        source = self.net(batch.source.image)
        yield {
            "seg": source_loss(source.logits, batch.source, self.knobs),
            **self.source_terms(source, batch.source, step),
        }
        del source  # frees the source graph before the next one is built
        mixed = None
        if self.teacher is not None:
            mixed = yield from target_terms(self.net, self.teacher, batch, self.knobs, step, self.teacher_logits)
        yield from self.further_terms(batch, mixed, step)

    def source_terms(self, source: Outputs, labelled: Labelled, step: Step) -> Terms:
        """What is added to the group of "seg", from the network's outputs for the source images. Nothing here."""
        return {}

    def teacher_logits(self, outputs: Outputs) -> Tensor:
        """Logits (B, C, h, w) whose softmax the pseudo-labels are, from the teacher's outputs. Its own here."""
        return outputs.logits

    def further_terms(self, batch: Batch, mixed: Mixed | None, step: Step) -> Generator[Terms, None, None]:
        """Groups after the host's; `mixed` is what "mix" was computed on, None without that term. Nothing here."""
        yield from ()

    def after_step(self, carries: list[Any], step: Step) -> None:
        # The papers update before step k with index k; that is the end of step k - 1.
        if self.teacher is not None:
            self.teacher.update(self.net, ema_keep(step.index + 1, self.knobs.ema))


def _size(images: Tensor) -> str:
    """`6 of 96 x 192` of images (B, 3, H, W); images that nobody asked for are none."""
    return f"{len(images)} of {images.shape[-2]} x {images.shape[-1]}" if images.numel() else "none"
