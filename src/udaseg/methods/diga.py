"""DiGA, self-training: pseudo-labels that probabilities and features agree on, with no threshold.

Shen, Gurram, Liu, Wang & Knoll, "DiGA: Distil to Generalize and then Adapt for Domain Adaptive Semantic Segmentation",
CVPR 2023, arXiv 2304.02222.

Loss: seg + mix + 0.25 distil; seg and distil are those of the warm-up, see `diga_warmup`. An earlier stage leaves its
most probable classes and the mean feature of each class (label rule argmax). A target pixel has a label where that
class is also the one whose centroid the teacher's feature is nearest to. `mix` is the cross-entropy of augmented target
images with such labels, into which half of the classes of clean source images are pasted. After the step the centroids
follow the teacher's features of pixels that it predicts as they are labelled, those of the target first.

Differences from the paper
- Which images the first centroids are of is a setting of the label job (labels.prototypes): the paper's are mixed
  source images, the released ones of the target; the job knows clean source images, not mixed ones.
Differences from the released code
- Those of the warm-up.
- A class whose centroid was never seen gives no label, and takes its first vector whole; the release lets zeros
  compete. With no class seen there are no labels of features.
- Pixels of a crop beyond the target image have no label.
- The feature is what the classifier sees; with `network.head: squeeze_excite` that is the release's.
- Scored by the study's protocol; the release takes the highest logits of two scales (`fusion: max`).
- A second round takes the centroids of the job that made its labels; the release keeps the first round's.
"""

from collections.abc import Generator, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Batch, Target
from udaseg.errors import UserError
from udaseg.methods.base import Context, MethodSpec, Step, Terms
from udaseg.methods.diga_warmup import Config as WarmupConfig
from udaseg.methods.diga_warmup import DiGAWarmup, mean_cross_entropy, mixed_views, qualifier, roles, translates
from udaseg.nets.base import Outputs
from udaseg.ops.maps import nearest
from udaseg.ops.mixing import draw_kept, kept_mask, mix
from udaseg.ops.prototypes import ClassMeans, confirmed_means, momentum_update
from udaseg.ops.pseudo_labels import bilateral_consensus, feature_labels
from udaseg.types import IGNORE


class Config(WarmupConfig):
    # Of the target. both: where probabilities (the earlier stage's classes) and features (nearest centroid) agree;
    # or those of one of them alone, everywhere.
    labels: Literal["both", "probability", "feature"] = "both"
    centroid_momentum: Annotated[float, Field(ge=0, le=1)] = 1e-4  # share of an image's mean (released 1e-4)
    min_pixels: Annotated[int, Field(ge=1)] = 5  # of a class in an image, for its mean to count (released 5)
    blend: Annotated[float, Field(ge=0, le=1)] = 0.3  # as in the warm-up, there 0.4 (released 0.3)


def _views(knobs: Config) -> dict[str, frozenset[str]]:
    needed = {"source", "target"} | (set() if knobs.labels == "feature" else {"target.pseudo"})
    return {"seg": frozenset({"source"}), "mix": frozenset(needed), "distil": mixed_views(knobs)}


def _uses_centroids(knobs: Config, weights: Mapping[str, float]) -> bool:
    return "mix" in weights and knobs.labels != "probability"


SPEC = MethodSpec(
    name="diga",
    Config=Config,
    weights={"seg": 1.0, "mix": 1.0, "distil": 0.25},  # as released
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
        # Centroids follow the mixed views also where nothing is distilled.
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
        """Labels (B, H, W) of the target images, 255 = none, and the teacher's outputs for them where it is asked."""
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
        """Mean features of the teacher for each image and class, where it predicts what labels (B, H, W) say."""
        embedding = outputs.features["embedding"]
        cells = nearest(labels, embedding.shape[-2:])
        return confirmed_means(embedding, outputs.logits, cells, self.knobs.min_pixels)

    def _cross_mix(self, batch: Batch, labels: Tensor, step: Step) -> Tensor:
        """The loss on augmented target images with pasted source classes; pasted pixels have their own labels."""
        source, target = batch.source, batch.target
        if source.image.shape != target.image.shape:
            raise UserError(
                "train.source and train.target: the cross mix pastes one's crops on the other's, so `batch` and `crop` "
                f"of both must be equal; found {tuple(source.image.shape)} and {tuple(target.image.shape)}"
            )
        mask = kept_mask(source.label, draw_kept(source.label, step.generator))
        image = mix(mask, source.image, self.augmented(target.image, step))
        return mean_cross_entropy(self.net(image).logits, mix(mask, source.label, labels))

    def after_step(self, carries: list[list[ClassMeans]], step: Step) -> None:
        for means in (one for carry in carries for one in carry):
            self.centroids, self.counts = momentum_update(
                self.centroids, self.counts, means, self.knobs.centroid_momentum, self.counts > 0
            )
        super().after_step(carries, step)
