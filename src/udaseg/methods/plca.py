"""PLCA: target pixels are associated with source pixels by walks that return to a pixel of the same class.

Kang, Wei, Yang, Zhuang, Hauptmann, "Pixel-Level Cycle Association: A New Perspective for Domain Adaptive Semantic
Segmentation", NeurIPS 2020, arXiv 2011.00147.

Loss: seg + 3 lovasz + 0.1 assoc_feat + 0.1 assoc_pred + 0.01 lsr, in one backward. Each source pixel is linked to its
most similar target pixel, and that one to its most similar source pixel. If the last has the label of the first, both
links are strengthened relative to all others. `assoc_feat` measures similarity by the cosine of features, `assoc_pred`
by the negative Kullback-Leibler divergence of predictions, both at the network's stride. Before that, the target is
blended with a spatial aggregate of itself, so that every target pixel gets a gradient. `lsr` smooths the predictions of
both domains (as released, it mostly sharpens them).

The published figures come from the released code, which is followed wherever the paper's text is not known to say
otherwise. The release's test script also aggregates its predictions; here that is a setting of the protocol.

Differences from the paper
- `lsr: released` pulls -(1/C) Σ log p towards 10. Label smoothing would pull it down to log C.
- The loss weight of `lovasz` is the effective one of the release.
Differences from the released code
- `lsr` is independent of `assoc_pred`; in the release it is off if that term is.
- Logits are resized with aligned corners, as everywhere here.
- Lovász-Softmax and the associations are computed over the whole batch; the release averages over its devices.
- If there is no consistent pair or no labelled pixel, the losses are 0 in the graph; the release has no graph, NaN or
  an empty tensor.
- The part of a target crop beyond its image is not associated, aggregated or smoothed.
"""

from collections.abc import Generator
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Batch, Target
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, Step, Supervised, Terms, require_equal_crops
from udaseg.nets.base import Outputs
from udaseg.ops.aggregation import aggregate_features, aggregate_predictions
from udaseg.ops.association import association_loss
from udaseg.ops.losses import cross_entropy
from udaseg.ops.lovasz import lovasz_softmax
from udaseg.ops.maps import resize
from udaseg.ops.regularisers import label_smoothing
from udaseg.types import IGNORE, Fidelity

SHARPEN = 10.0  # the value of -(1/C) Σ log p that lsr pulls towards, as released


class Config(Knobs):
    aggregation: bool = True
    """Blend the target with its spatial aggregate before it is associated. Paper and released true."""

    aggregation_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the aggregate in that blend. Released 0.5."""

    contrast_norm: bool = True
    """Standardise the rows of similarities before their softmax. Paper and released true.

    This concerns the associations and the aggregation of features. False is not available in the release.
    """

    lsr: Fidelity = "released"
    """Form of the term lsr, with u = -(1/C) Σ log p: mean(u), or mean((u / 10 - 1) u) with a constant bracket.

    paper: label smoothing
    released: pulls the mean negative log-probability towards 10
    """


class Weights(Supervised):
    lovasz: float = 3.0
    """Lovász-Softmax of the source.

    Released 0.75, which is multiplied by the number of devices and by the batches of a step: 2 and 2 in the published
    setting.
    """

    assoc_feat: float = 0.1
    """Cycle association of features. Released 0.1."""

    assoc_pred: float = 0.1
    """Cycle association of predictions. Released 0.1."""

    lsr: float = 0.01
    """Smoothing of the predictions of both domains. Released 0.01."""


SPEC = MethodSpec(
    name="plca",
    Config=Config,
    Weights=Weights,
    views={
        "seg": {"source"},
        "lovasz": {"source"},
        "assoc_feat": {"source", "target"},
        "assoc_pred": {"source", "target"},
        "lsr": {"source", "target"},
    },
)


class PLCA(Method):
    SPEC = SPEC

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs: Config = context.knobs

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        if step.active("assoc_feat") or step.active("assoc_pred"):
            require_equal_crops(batch, "each source image is paired with a target image", sizes=False)
        terms: Terms = {}
        # The target first, as released, so that the source is the last to move the running statistics.
        needs_target = any(step.active(term) for term in ("assoc_feat", "assoc_pred", "lsr"))
        target = self.net(batch.target.image) if needs_target else None
        source = self.net(batch.source.image)

        labels = batch.source.label
        logits = resize(source.logits, labels.shape[-2:])
        terms["seg"] = cross_entropy(logits, labels)
        if step.active("lovasz"):
            terms["lovasz"] = lovasz_softmax(logits, labels)
        if target is not None:
            terms |= self._across(source, target, labels, batch.target, step)
        yield terms

    def _across(self, source: Outputs, target: Outputs, labels: Tensor, crops: Target, step: Step) -> Terms:
        """The terms of both domains, at the network's stride."""
        terms: Terms = {}
        labels = shrink(labels, source.logits)
        valid = shrink(crops.valid, target.logits)
        if step.active("assoc_feat"):
            pair = source.features["embedding"], target.features["embedding"]
            terms["assoc_feat"] = self._associate(*pair, labels, valid, "cosine", step)
        if step.active("assoc_pred"):
            pair = source.logits.float().softmax(dim=1), target.logits.float().softmax(dim=1)
            terms["assoc_pred"] = self._associate(*pair, labels, valid, "divergence", step)
        if step.active("lsr"):
            threshold = SHARPEN if self.knobs.lsr == "released" else 0.0
            seen = target.logits.movedim(1, -1)[valid][:, :, None, None]  # (pixels, C, 1, 1)
            terms["lsr"] = label_smoothing(source.logits, threshold)
            if len(seen):
                terms["lsr"] = terms["lsr"] + label_smoothing(seen, threshold)
        return terms

    def _associate(
        self,
        source: Tensor,
        target: Tensor,
        labels: Tensor,
        valid: Tensor,
        metric: Literal["cosine", "divergence"],
        step: Step,
    ) -> Tensor:
        """The association loss of maps (B, D, h, w). Logs the share of labelled positions whose walk is consistent."""
        knobs = self.knobs
        if knobs.aggregation and metric == "cosine":
            target = aggregate_features(target, knobs.aggregation_share, knobs.contrast_norm, valid)
        elif knobs.aggregation:
            target = aggregate_predictions(target, knobs.aggregation_share, valid)
        found = association_loss(source, target, labels, metric, knobs.contrast_norm, valid)
        step.log(f"consistent_{metric}", found.positives.sum() / (labels != IGNORE).sum().clamp(min=1))
        return found.loss


def shrink(labels: Tensor, maps: Tensor) -> Tensor:
    """Labels (B, H, W), integer or bool, at the size of maps (B, D, h, w): each cell has the label of its first pixel.

    As released. The cells of a network with stride s are centred at every s-th pixel, starting with 0.
    """
    return F.interpolate(labels[:, None].float(), maps.shape[-2:], mode="nearest")[:, 0].to(labels.dtype)
