"""Class-wise memory bank: pixels are drawn to stored vectors of labelled pixels of the same class.

Alonso, Sabater, Ferstl, Montesano & Murillo, "Semi-Supervised Semantic Segmentation with Pixel-Level Contrastive
Learning from a Class-wise Memory Bank", ICCV 2021, arXiv 2104.13415. The paper is semi-supervised: its domain
adaptation has some labelled target images besides the labelled source (here: train.source.labelled_target). Without
them, this is a port to unsupervised adaptation that the paper does not have: only source images are labelled.

Loss: seg + pseudo + 0.01 entropy + 0.2 (contrast_source + contrast_target). `seg` is the class-weighted cross-entropy
of labelled images. A teacher, the moving average of network and heads, labels the target images of each batch. `pseudo`
is the cross-entropy of two strong views of each (which include ClassMix), weighted by class and by the sixth power of
the confidence; `entropy` is that of the predictions there. For each class the bank holds the teacher's projections of
labelled pixels that it predicts correctly and confidently. The contrast terms are the student's mean cosine distances
to the bank's vectors of the same class. The vectors of both sides are weighted by scores, which small networks, one for
each class, learn.

Differences from the paper (of whose values few are known; the others are the release's)
- The selectors of the bank see vectors of length 1, those of the features do not, as released.
Differences from the released code
- The bank keeps the highest scores, not the lowest (`bank_keep`), and its own vectors are weighted, too (`selectors`).
- `entropy` is a mean, not a multiple of it by the number of views (`entropy: released`).
- Class frequencies are counted over equally many batches of pseudo-labels and labels (`window`), not over an epoch of
  each, and a class without pixels does not change their median. Source images are compared with the bank by their own
  labels, not by those of the last labelled target images.
- The weak augmentation is that of the streams (train.source and train.target; released for the target: a crop only).
  Blur is equal in both directions, and scaled labels stay on their pixels.
- Pixels of a crop beyond the target image have no pseudo-label. If nothing is labelled, or there are fewer than two
  vectors, a term is 0; the release fails.
- Layers before BatchNorm have no biases, which would not change the student. In the release the projection's last
  layer adds one constant to all vectors of the bank, since only the student's path has a BatchNorm after it.
- The labelled images pass through the network before the target's; in the release after them.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Batch, Labelled
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, OptimizerFactory, Step, Supervised, Terms
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
from udaseg.types import IGNORE, Fidelity, Positive, Share

Iteration = Annotated[int, Field(ge=0)]
CONTRAST = ("contrast_source", "contrast_target")
ON_TARGET = ("pseudo", "entropy", "contrast_target")


class Config(Knobs):
    selectors: Literal[Fidelity, "none"] = "paper"
    """Weights of the contrasted vectors. none: all are 1, and the bank keeps vectors at random.

    paper: vectors are weighted on both sides
    released: those of the bank all have the weight 1
    """

    bank_keep: Literal[Fidelity, "random"] = "paper"
    """Vectors of a full class that the bank keeps, by the scores of its selector. random: any.

    paper: the bank keeps the vectors of the highest scores
    released: of the lowest
    """

    bank_size: Annotated[int, Field(ge=2)] = 256
    """Vectors of each class in the bank. Released 256."""

    per_image: Positive = 1
    """Vectors of a class that each image adds to the bank. Released max(1, round(bank_size / labelled images))."""

    confidence: Share = 0.95
    """Probability that a correct prediction must exceed to go into the bank. Released 0.95."""

    projection: Positive = 256
    """Channels of the vectors. Released 256."""

    entropy: Fidelity = "paper"
    """Normalisation of the term entropy.

    paper: a mean over pixels
    released: as many times that as there are views
    """

    mix: Share = 0.75
    """Probability of ClassMix among target images, after the ramp. Released 0.75."""

    source_mix: Share = 0.25
    """Probability of ClassMix among labelled images. Released 0.25; without the source 0.2."""

    jitter: Share = 0.25
    """Strength of the colour jitter in 80 % of the strong views. Released 0.25."""

    blur: Share = 0.2
    """Probability of a Gaussian blur of a strong view. Released 0.2."""

    rescale: Share = 0.8
    """Probability of another scale of a strong view. Released 0.8."""

    ema: Share = 0.995
    """Share of the teacher kept at an update, at first; it grows to 1 along a cosine. Released 0.995."""

    window: Positive = 1000
    """Batches over which class frequencies are counted. Released: an epoch."""

    bank_start: Iteration = 1000
    """Iteration after which the bank is filled. Released 1000, of 150 000."""

    contrast_start: Iteration = 2000
    """Iteration after which the contrast terms are computed. Released 2000, of 150 000."""

    ramp_iterations: Iteration = 2000
    """Iterations in which a factor on pseudo grows from 0.007 to 1. Released 2000, of 150 000."""

    weights_start: Iteration = 2000
    """Iteration after which classes are weighted, if the window is full. Released 2000, of 150 000."""


class Weights(Supervised):
    pseudo: float = 1.0
    """Cross-entropy of strong views with the teacher's labels. Released 1."""

    entropy: float = 0.01
    """Entropy of the predictions on strong views. Released 0.01."""

    contrast_source: float = 0.2
    """Distance of labelled pixels from the bank. Released 0.2 for domain adaptation, 0.1 within one domain."""

    contrast_target: float = 0.2
    """Distance of pseudo-labelled target pixels from the bank. Released 0.2 for domain adaptation, 0.1 within one."""


SPEC = MethodSpec(
    name="memory_bank",
    Config=Config,
    Weights=Weights,
    views={
        "seg": {"source"},
        "contrast_source": {"source"},
        **{term: {"source", "target"} for term in ON_TARGET},
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
        """The labelled images, with the probability `source_mix` mixed with classes of each other."""
        if float(torch.rand((), generator=step.generator)) >= self.knobs.source_mix:
            return source
        mask = paste_mask(source.label, step.generator)
        return replace(source, image=pasted(mask, source.image), label=pasted(mask, source.label))

    def _feeds(self, labelled: Labelled) -> bool:
        """Whether the bank and the class frequencies are updated by these images.

        If some target images are labelled, only these update them, as released.
        """
        return labelled.from_target is not False

    @torch.no_grad()
    def _fill(self, labelled: Labelled, step: Step) -> None:
        """Put the teacher's vectors of pixels that it predicts correctly and confidently into the bank."""
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
        """The term, which is 0 before its start; empty if it is not active."""
        if self.memory is None or not step.active(term):
            return {}
        embedding = outputs.features["embedding"]
        if step.index <= self.knobs.contrast_start:
            return {term: embedding.sum() * 0}
        return {term: self.memory(embedding, labels)}

    def after_step(self, carries: list[Any], step: Step) -> None:
        # As released: a plain average at first, so that the first update makes the teacher equal to the student; then
        # from `ema` to 1 along a cosine.
        keep = ema_keep(step.index, cosine_keep(step.progress, self.knobs.ema))
        if self.teacher is not None:
            self.teacher.update(self.net, keep)
        if self.memory is not None:
            self.memory.follow(keep)
