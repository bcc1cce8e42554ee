"""Class-wise memory bank: what a mean teacher labels is drawn to the bank of vectors of labelled pixels of its class.

Alonso, Sabater, Ferstl, Montesano & Murillo, "Semi-Supervised Semantic Segmentation with Pixel-Level Contrastive
Learning from a Class-wise Memory Bank", ICCV 2021, arXiv 2104.13415. The paper is semi-supervised: its domain
adaptation has some labelled target images beside the labelled source (here: train.source.labelled_target). Without
them this is a port to unsupervised adaptation, which the paper does not have: all labelled images are the source's.

Loss: seg + pseudo + 0.01 entropy + 0.2 (contrast_source + contrast_target). seg is the class-weighted cross-entropy of
labelled images. A moving average of network and heads labels the target's images as they come; pseudo is the
cross-entropy of two strong views of each (ClassMix among them), weighted by classes and the sixth power of the
confidence; entropy is that of the predictions there. The bank holds, for each class, the teacher's projections of
labelled pixels that it predicts rightly and surely; the contrast terms are the student's mean cosine distances to those
of the same class. They weigh its vectors and the bank's by scores that small networks, one for each class, learn.

Differences from the paper (as far as its values are known; all others are the release's)
- The memory's selectors see vectors of length 1, the features' ones do not, as released.
Differences from the released code
- The bank keeps the highest scores, not the lowest (`bank_keep`), and weighs its own side, too (`selectors`).
- `entropy` is a mean, not as many times larger as there are views (`entropy: released`).
- Frequencies are counted over as many batches of pseudo-labels as of labels (`window`), not over an epoch of each; a
  class without pixels does not move their median. Source images are compared with the bank by labels of their own, not
  by those that the last labelled target images had.
- The weak augmentation of labelled images is the stream's (train.source), that of target images too (train.target:
  released: a crop and nothing else). Blur is alike in both directions; scaled labels stay on their pixels.
- Pixels of a crop beyond the target image have no pseudo-label. With nothing labelled or fewer than two vectors a term
  is 0, where the release fails.
- No biases before BatchNorm, where the student does not feel them; that of the projection's last layer, which has one
  on the student's way only, adds one constant to all the bank's vectors in the release.
- The labelled images pass the network before the target's; the release has them after.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Batch, Labelled
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, OptimizerFactory, Step, Terms
from udaseg.nets.base import Outputs
from udaseg.nets.feature_bank import ClassBank, ClassFrequencies
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops.augment import View, strong_view
from udaseg.ops.losses import balanced_cross_entropy, confident_cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.mixing import paste_mask, pasted
from udaseg.ops.pseudo_labels import teacher_labels, trusted_labels
from udaseg.ops.regularisers import normalised_entropy
from udaseg.ops.schedules import cosine_keep, ema_keep, ramp_up
from udaseg.types import IGNORE

Share = Annotated[float, Field(ge=0, le=1)]
Iteration = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
CONTRAST = ("contrast_source", "contrast_target")
ON_TARGET = ("pseudo", "entropy", "contrast_target")


class Config(Knobs):
    # Weights of vectors. paper: on both sides; released: the bank's are all 1; none: all are, and the bank keeps
    # vectors at random.
    selectors: Literal["paper", "released", "none"] = "paper"
    # Which vectors go into the bank. paper: those of the highest scores; released: of the lowest; random: any.
    bank_keep: Literal["paper", "released", "random"] = "paper"
    bank_size: Annotated[int, Field(ge=2)] = 256  # vectors of each class (released 256)
    # Vectors of a class that an image adds: released max(1, round(bank_size / labelled images)).
    per_image: Positive = 1
    confidence: Share = 0.95  # that a prediction must exceed to go into the bank (released 0.95)
    projection: Positive = 256  # channels of the vectors (released 256)
    entropy: Literal["paper", "released"] = "paper"  # paper: a mean; released: as many times that as there are views
    mix: Share = 0.75  # chance of ClassMix among target images, after the ramp (released 0.75)
    source_mix: Share = 0.25  # chance of ClassMix among labelled images (released 0.25; without the source 0.2)
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.25  # strength, in 80 % of the strong views (released 0.25)
    blur: Share = 0.2  # chance of a blur of a strong view (released 0.2)
    rescale: Share = 0.8  # chance of another scale of a strong view (released 0.8)
    ema: Share = 0.995  # share of the teacher kept at first, growing to 1 (released 0.995)
    window: Positive = 1000  # batches over which class frequencies are counted (released: an epoch)
    bank_start: Iteration = 1000  # after which the bank fills (released 1000 of 150 000)
    contrast_start: Iteration = 2000  # after which its terms are on (released 2000)
    ramp_iterations: Iteration = 2000  # in which the weight of pseudo grows from 0.007 to 1 (released 2000)
    weights_start: Iteration = 2000  # after which classes are weighted, once the window is full (released 2000)


SPEC = MethodSpec(
    name="memory_bank",
    Config=Config,
    # Released: 0.2 of each contrast in its script for domain adaptation, 0.1 in that for one domain.
    weights={"seg": 1.0, "pseudo": 1.0, "entropy": 0.01, **dict.fromkeys(CONTRAST, 0.2)},
    views={
        "seg": frozenset({"source"}),
        "contrast_source": frozenset({"source"}),
        **dict.fromkeys(ON_TARGET, frozenset({"source", "target"})),
    },
)


class MemoryBank(Method):
    SPEC = SPEC

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs: Config = context.knobs
        knobs, classes = self.knobs, len(context.classes)
        self.frequencies = ClassFrequencies(classes, knobs.window)
        self.teacher: EmaTeacher | None = None
        self.memory: ClassBank | None = None
        if len(context.weights) > 1:
            self.teacher = EmaTeacher(self.net, buffers="own", mode="train")
        if any(term in context.weights for term in CONTRAST):
            size = (self.net.feature_channels["embedding"], knobs.projection, classes, knobs.bank_size)
            self.memory = context.build(lambda: ClassBank(*size, knobs.selectors, knobs.bank_keep), "memory")

    def optimizers(self, optim: OptimizerFactory) -> dict[str, torch.optim.Optimizer]:
        found = super().optimizers(optim)
        return found if self.memory is None else found | {"heads": optim.module(self.memory.heads)}

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        labelled, weak = self._mixed(batch.source, step), None
        if self.teacher is not None and any(step.active(term) for term in ON_TARGET):
            logits = self.teacher(batch.target.image).logits
            weak = View(batch.target.image, *teacher_labels(logits, batch.target.valid))
            step.log("confidence", weak.confidence.mean())
        if self._feeds(batch.source):
            self.frequencies.add(batch.source.label, None if weak is None else weak.labels)
        weights = self.frequencies.weights() if step.index > self.knobs.weights_start else None
        self._fill(labelled, step)
        yield self._labelled_terms(labelled, weights, step)
        if weak is not None:
            yield self._target_terms(weak, weights, step)

    def _mixed(self, source: Labelled, step: Step) -> Labelled:
        """The labelled images, by chance with classes of each other."""
        if float(torch.rand((), generator=step.generator)) >= self.knobs.source_mix:
            return source
        mask = paste_mask(source.label, step.generator)
        return replace(source, image=pasted(mask, source.image), label=pasted(mask, source.label))

    def _feeds(self, labelled: Labelled) -> bool:
        """Whether the bank and the class frequencies learn from these images: where some target images are labelled,
        from those alone, as released."""
        return labelled.from_target is not False

    @torch.no_grad()
    def _fill(self, labelled: Labelled, step: Step) -> None:
        """Put the teacher's vectors of what it predicts rightly and surely into the bank."""
        if self.memory is None or self.teacher is None:
            return
        if step.index > self.knobs.bank_start and self._feeds(labelled):
            outputs = self.teacher(labelled.image)
            trusted = trusted_labels(labelled.label, outputs.logits, self.knobs.confidence)
            most = len(labelled.image) * self.knobs.per_image
            self.memory.fill(outputs.features["embedding"], trusted, most, step.generator)
        step.log("bank", self.memory.filled())

    def _labelled_terms(self, labelled: Labelled, weights: Tensor | None, step: Step) -> Terms:
        outputs = self.net(labelled.image)
        logits = resize(outputs.logits, labelled.label.shape[-2:])
        terms = {"seg": balanced_cross_entropy(logits, labelled.label, weights)}
        return terms | self._contrast("contrast_source", outputs, labelled.label, step)

    def _target_terms(self, weak: View, weights: Tensor | None, step: Step) -> Terms:
        knobs = self.knobs
        mixing = knobs.mix if step.index > knobs.ramp_iterations else 0.0
        views = [strong_view(weak, mixing, knobs.jitter, knobs.blur, knobs.rescale, step.generator) for _ in range(2)]
        strong = View(*map(torch.cat, zip(*views, strict=True)))
        outputs = self.net(strong.image)
        logits = resize(outputs.logits, strong.labels.shape[-2:])
        terms: Terms = {}
        if step.active("pseudo"):
            ramp = ramp_up(step.index, knobs.ramp_iterations)
            terms["pseudo"] = confident_cross_entropy(logits, strong.labels, strong.confidence, ramp, weights)
        if step.active("entropy"):
            terms["entropy"] = normalised_entropy(logits, strong.labels != IGNORE, knobs.entropy)
        return terms | self._contrast("contrast_target", outputs, strong.labels, step)

    def _contrast(self, term: str, outputs: Outputs, labels: Tensor, step: Step) -> Terms:
        """The term, 0 before its start; none where it is not active."""
        if self.memory is None or not step.active(term):
            return {}
        embedding = outputs.features["embedding"]
        if step.index <= self.knobs.contrast_start:
            return {term: embedding.sum() * 0}
        return {term: self.memory(embedding, labels)}

    def after_step(self, carries: list[Any], step: Step) -> None:
        # As released: a true average at first, so that the first update makes the teacher the student; then from `ema`
        # to 1 along a cosine.
        keep = ema_keep(step.index, cosine_keep(step.progress, self.knobs.ema))
        if self.teacher is not None:
            self.teacher.update(self.net, keep)
        if self.memory is not None:
            self.memory.follow(keep)
