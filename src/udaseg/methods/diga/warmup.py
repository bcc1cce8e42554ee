"""DiGA, warm-up: two views of labelled source images teach each other, one of them half in the target's look.

Shen, Gurram, Liu, Wang & Knoll, "DiGA: Distil to Generalize and then Adapt for Domain Adaptive Semantic Segmentation",
CVPR 2023, arXiv 2304.02222.

Loss: seg + 0.5 distil. `seg` is the cross-entropy of the clean source images. Their mixed view (CrDoMix) shows half of
each image's classes with augmented colours and the others as translated to the target's look. A teacher, the moving
average of the network, sees both views, and `distil` makes the student on each view learn from the teacher on the
other. With `crdomix: false` the mixed view is the augmented image only and no target image is used, which is the
paper's domain generalisation. The student is evaluated.

Differences from the paper
- Loss weights, probabilities and the mean of `seg` over all pixels are as released; the paper's are not known here.
Differences from the released code
- Both directions of `distil` count equally; the release damps the second one (`symmetry: released`).
- The translator is a CycleGAN of our own, not the release's, which has two encoders and a perceptual loss.
- `seg` is the plain cross-entropy for SYNTHIA, too; the release selects hard pixels there. A batch has images of one
  scale.
- Colours are augmented and blended in [0, 1], by torchvision; see `ops.blend`.
- The clean view is that of the source stream, whose colours `train.source.jitter` may change.
- An image without any label is shown augmented; the release mixes it with the mask of its previous step.
"""

from collections.abc import Generator, Mapping, Set
from typing import Any

import torch
from torch import Tensor

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Context, Method, MethodSpec, Step, Supervised, Terms
from udaseg.methods.diga.translation import (
    Translator,
    TranslatorKnobs,
    translator_qualifier,
    translator_roles,
    translator_views,
)
from udaseg.nets.base import Outputs
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops.augment import Chances, blended_augmentation
from udaseg.ops.consistency import cross_view_distillation
from udaseg.ops.losses import weighted_cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.mixing import draw_kept, kept_mask, mix
from udaseg.ops.schedules import ema_keep
from udaseg.types import Fidelity, Share


class Config(TranslatorKnobs):
    crdomix: bool = True
    """Show half of a mixed view's classes in the target's look; false: no translator and no target image.

    Paper and released true; false is the paper's domain generalisation.
    """

    symmetry: Fidelity = "paper"
    """Weights of the two directions of the term distil.

    paper: distillation in both directions alike
    released: the direction from the mixed to the clean view is damped
    """

    damping: Share = 0.5
    """Factor on the damped direction, with `symmetry: released`. Released 0.5 for GTA5, 0.25 for SYNTHIA."""

    blend: Share = 0.4
    """Share of the augmented image in the blend with its original. Released 0.4 in the warm-up, 0.3 afterwards."""

    jitter_chance: Share = 0.5
    """Probability of a colour jitter of an image. Released 0.5; SYNTHIA's warm-up 0.7."""

    grey_chance: Share = 0.3
    """Probability that an image becomes grey. Released 0.3; SYNTHIA's warm-up 0.1."""

    blur_chance: Share = 0.8
    """Probability of a blur of 3 x 3 pixels. Released 0.8."""

    sharpness_chance: Share = 0.3
    """Probability of a changed sharpness, which is a lower one, as released. Released 0.3."""

    ema: Share = 0.999
    """Largest share of the teacher kept at an update. Released 0.999."""


class Weights(Supervised):
    distil: float = 0.5
    """Distillation across the clean and the mixed view. Released 0.5; SYNTHIA and self-training 0.25."""


def mixed_views(knobs: Config) -> Set[str]:
    """Views of the batch from which the mixed view is made."""
    return {"source"} | (translator_views(knobs) if knobs.crdomix else set())


def roles(knobs: Config) -> tuple[str, ...]:
    return ("student", *(translator_roles(knobs) if knobs.crdomix else ()))


def translates(knobs: Config) -> bool:
    return knobs.crdomix and knobs.translator != "identity"


def qualifier(knobs: Config) -> str:
    return translator_qualifier(knobs) if knobs.crdomix else "no CrDoMix"


SPEC = MethodSpec(
    name="diga_warmup",
    Config=Config,
    Weights=Weights,
    always=("seg", "distil"),  # without distil it is source-only training
    views=lambda knobs: {"seg": {"source"}, "distil": mixed_views(knobs)},
    roles=roles,
    translates=translates,
    qualifier=qualifier,
)


class DiGAWarmup(Method):
    SPEC = SPEC
    knobs: Config

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs = context.knobs
        self.teacher: EmaTeacher | None = None
        self.translator: Translator | None = None
        if self.uses_teacher(context.weights):
            self.teacher = EmaTeacher(self.net, buffers="own", mode="train")
            if self.knobs.crdomix:
                self.translator = Translator(self.knobs, context.initial)

    def uses_teacher(self, weights: Mapping[str, float]) -> bool:
        """Whether the teacher looks at the mixed view, with these active terms."""
        return "distil" in weights

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, Any]:
        terms, _ = self.source_terms(batch, step)
        yield terms

    def source_terms(self, batch: Batch, step: Step) -> tuple[Terms, Outputs | None]:
        """The terms of the source images, and the teacher's outputs for the mixed views, if there is a teacher."""
        clean, label = batch.source.image, batch.source.label
        if self.teacher is None:
            return {"seg": mean_cross_entropy(self.net(clean).logits, label)}, None
        mixed = self.mixed_view(batch, step)
        if not step.active("distil"):
            return {"seg": mean_cross_entropy(self.net(clean).logits, label)}, self.teacher(mixed)
        both = torch.cat([clean, mixed])
        student = resize(self.net(both).logits, label.shape[-2:])
        seen = self.teacher(both)
        damping = 1.0 if self.knobs.symmetry == "paper" else self.knobs.damping
        terms = {
            "seg": mean_cross_entropy(student[: len(clean)], label),
            "distil": cross_view_distillation(student, resize(seen.logits.float(), label.shape[-2:]), damping),
        }
        features = {name: maps[len(clean) :] for name, maps in seen.features.items()}
        return terms, Outputs(seen.logits[len(clean) :], None, features)

    def mixed_view(self, batch: Batch, step: Step) -> Tensor:
        """Source images (B, 3, H, W) in [0, 1]: half of their classes augmented, the others translated (CrDoMix)."""
        source = batch.source
        augmented = self.augmented(source.image, step)
        if self.translator is None:
            return augmented
        mask = kept_mask(source.label, draw_kept(source.label, step.generator))
        return mix(mask, augmented, self.translator(source.image, batch.target.image))

    def augmented(self, images: Tensor, step: Step) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], blended with their strongly augmented form."""
        knobs = self.knobs
        chances = Chances(knobs.jitter_chance, knobs.grey_chance, knobs.blur_chance, knobs.sharpness_chance)
        return blended_augmentation(images, knobs.blend, chances, step.generator)

    def after_step(self, carries: list[Any], step: Step) -> None:
        # The release updates before step k, with the index k. That is after step k - 1.
        if self.teacher is not None:
            self.teacher.update(self.net, ema_keep(step.index + 1, self.knobs.ema))


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C, h, w), resized to the labels (B, H, W): the mean over all pixels, as released."""
    return weighted_cross_entropy(resize(logits, labels.shape[-2:]), labels, None)
