"""DiGA, self-training: pseudo-labels on which probabilities and features agree, without a threshold.

Shen, Gurram, Liu, Wang & Knoll, "DiGA: Distil to Generalize and then Adapt for Domain Adaptive Semantic Segmentation",
CVPR 2023, arXiv 2304.02222.

Loss: seg + mix + 0.25 distil. `seg` and `distil` are those of the warm-up, see `warmup`. An earlier stage provides its
most probable classes and the mean feature of each class (label rule argmax). A target pixel is labelled if the centroid
nearest to the teacher's feature is that of the provided class. `mix` is the cross-entropy of augmented target images
with these labels, into which half of the classes of clean source images are pasted. After the step the centroids follow
the teacher's features of pixels that it predicts as they are labelled, those of the target first.

Differences from the paper
- The images from which the first centroids are computed are a setting of the label job (labels.prototypes): mixed
  source images in the paper, target images in the release; the job can take clean source images, but not mixed ones.
Differences from the released code
- Those of the warm-up.
- A class whose centroid has never been updated gives no label, and its first update replaces the centroid; in the
  release a centroid of zeros competes with the others. If there is no centroid yet, features give no labels.
- Pixels of a crop beyond the target image have no label.
- The feature is the input of the classifier, which with `network.head: squeeze_excite` is the release's.
- Scored by the study's protocol; the release takes the highest logits of two scales (`fusion: max`).
- A second round takes the centroids of the job that made its labels; the release keeps those of the first round.
"""

from collections.abc import Generator, Mapping, Set
from typing import Literal

import torch
from torch import Tensor

from udaseg.data.batches.streams import Batch, Target
from udaseg.methods.base import Context, MethodSpec, Step, Terms, require_equal_crops
from udaseg.methods.diga.warmup import Config as WarmupConfig
from udaseg.methods.diga.warmup import DiGAWarmup, mean_cross_entropy, mixed_views, qualifier, roles, translates
from udaseg.methods.diga.warmup import Weights as WarmupWeights
from udaseg.nets.base import Outputs
from udaseg.ops.maps import nearest
from udaseg.ops.mixing import draw_kept, kept_mask, mix
from udaseg.ops.prototypes import ClassMeans, confirmed_means, momentum_update
from udaseg.ops.pseudo_labels import bilateral_consensus, feature_labels
from udaseg.types import IGNORE, Positive, Share


class Config(WarmupConfig):
    labels: Literal["both", "probability", "feature"] = "both"
    """Source of the target's labels. Paper and released both.

    probability: the earlier stage's classes; feature: the nearest centroid; both: only where these agree.
    """

    centroid_momentum: Share = 1e-4
    """Share of an image's mean feature in the updated centroid. Released 1e-4."""

    min_pixels: Positive = 5
    """Pixels of a class that an image must have for its mean to update the centroid. Released 5."""

    blend: Share = 0.3


class Weights(WarmupWeights):
    distil: float = 0.25

    mix: float = 1.0
    """Cross-entropy of augmented target images with pasted source classes. Released 1."""


def _views(knobs: Config) -> dict[str, Set[str]]:
    pseudo = set() if knobs.labels == "feature" else {"target.pseudo"}
    return {"seg": {"source"}, "mix": {"source", "target"} | pseudo, "distil": mixed_views(knobs)}


def _uses_centroids(knobs: Config, weights: Mapping[str, float]) -> bool:
    return "mix" in weights and knobs.labels != "probability"


SPEC = MethodSpec(
    name="diga",
    Config=Config,
    Weights=Weights,
    views=_views,
    consumes=lambda knobs, weights: ("prototypes", "counts") if _uses_centroids(knobs, weights) else (),
    roles=roles,
    translates=translates,
    qualifier=qualifier,
)


class DiGA(DiGAWarmup):
    SPEC = SPEC
    knobs: Config
    centroids: Tensor
    counts: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.follows = _uses_centroids(self.knobs, context.weights)
        classes, channels = len(context.classes), self.net.feature_channels["embedding"]
        self.register_buffer("centroids", context.artifact("prototypes", (classes, channels), required=False))
        self.register_buffer("counts", context.artifact("counts", (classes,), required=False))

    def uses_teacher(self, weights: Mapping[str, float]) -> bool:
        # Centroids follow the mixed views even if nothing is distilled.
        return "distil" in weights or _uses_centroids(self.knobs, weights)

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, list[ClassMeans]]:
        terms, mixed = self.source_terms(batch, step)
        yield terms
        del terms  # frees the source graph before the next one is built
        means: list[ClassMeans] = []
        if step.active("mix"):
            labels, outputs = self._target_labels(batch.target, step)
            if outputs is not None and mixed is not None:
                means = [self._means(outputs, labels), self._means(mixed, batch.source.label)]
            yield {"mix": self._cross_mix(batch, labels, step)}
        return means

    @torch.no_grad()
    def _target_labels(self, target: Target, step: Step) -> tuple[Tensor, Outputs | None]:
        """Labels (B, H, W) of the target images, 255 = none, and the teacher's outputs for them, if they are needed."""
        if not self.follows or self.teacher is None:
            return target.pseudo, None
        outputs = self.teacher(target.image)
        embedding, size = outputs.features["embedding"], target.image.shape[-2:]
        labels = feature_labels(embedding, self.centroids, size, self.counts > 0).labels
        labels = labels.masked_fill(~target.valid, IGNORE)
        if self.knobs.labels == "both":
            labels, agreed = bilateral_consensus(target.pseudo, labels)
            step.log("agreed", agreed)
        return labels, outputs

    def _means(self, outputs: Outputs, labels: Tensor) -> ClassMeans:
        """The teacher's mean feature of each image and class, over pixels that it predicts as in labels (B, H, W)."""
        embedding = outputs.features["embedding"]
        cells = nearest(labels, embedding.shape[-2:])
        return confirmed_means(embedding, outputs.logits, cells, self.knobs.min_pixels)

    def _cross_mix(self, batch: Batch, labels: Tensor, step: Step) -> Tensor:
        """The loss on augmented target images with pasted source classes; pasted pixels have their own labels."""
        require_equal_crops(batch, "source crops are pasted on target crops")
        source, target = batch.source, batch.target
        mask = kept_mask(source.label, draw_kept(source.label, step.generator))
        image = mix(mask, source.image, self.augmented(target.image, step))
        return mean_cross_entropy(self.net(image).logits, mix(mask, source.label, labels))

    def after_step(self, carries: list[list[ClassMeans]], step: Step) -> None:
        for means in (one for carry in carries for one in carry):
            self.centroids, self.counts = momentum_update(
                self.centroids, self.counts, means, self.knobs.centroid_momentum, self.counts > 0
            )
        super().after_step(carries, step)
