"""PLCA: pixels of the target associated with pixels of the source by cycles that keep the label.

Kang, Wei, Yang, Zhuang, Hauptmann, "Pixel-Level Cycle Association: A New Perspective for Domain Adaptive Semantic
Segmentation", NeurIPS 2020, arXiv 2011.00147.

Loss: seg + 3 lovasz + 0.1 assoc_feat + 0.1 assoc_pred + 0.01 lsr, in one backward. A source pixel's most similar target
pixel has a most similar source pixel; where that bears the label of the first, both links are strengthened relative to
all others. `assoc_feat` does it with the cosine of features, `assoc_pred` with the negative Kullback-Leibler divergence
of predictions, both at the network's stride. The target is blended with aggregates of itself before, so that all of it
gets a gradient. `lsr` smooths (released: sharpens, mostly) the predictions of both domains.

The published figures come from the released code, which is followed where it is not known to say what the paper says.
The release's test script aggregates what it tests, too; here that is a matter of the protocol.

Differences from the paper
- `lsr: released` draws -(1/C) Σ log p towards 10 instead of down to log C, which smoothing would.
- The weight of `lovasz` is what the release's factor of 0.75 becomes there, see below.
Differences from the released code
- `lsr` does not go with `assoc_pred`, which there turns it off, too.
- Logits are resized with their corners aligned, as everywhere here.
- Lovász-Softmax and the associations are those of the whole batch; the release averages over its devices.
- No consistent pair or no labelled pixel: losses of 0 in the graph; the release has no graph, NaN or an empty tensor.
- What a target crop shows beyond its image is not associated, aggregated or smoothed.
"""

from collections.abc import Generator
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Batch, Target
from udaseg.errors import UserError
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, Step, Terms
from udaseg.nets.base import Outputs
from udaseg.ops.aggregation import aggregate_features, aggregate_predictions
from udaseg.ops.association import association_loss
from udaseg.ops.losses import cross_entropy
from udaseg.ops.lovasz import lovasz_softmax
from udaseg.ops.maps import resize
from udaseg.ops.regularisers import label_smoothing
from udaseg.types import IGNORE

SHARPEN = 10.0  # what lsr draws towards, as released


class Config(Knobs):
    aggregation: bool = True  # the target is blended with its spatial aggregate before it is associated
    aggregation_share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the aggregate in the blend (released 0.5)
    # Rows of similarities are z-scored before their softmax, in the association and in the aggregation of features;
    # false is not in the release.
    contrast_norm: bool = True
    # With u = -(1/C) Σ log p: paper: mean(u), label smoothing; released: mean((u / 10 - 1) u), its bracket a constant.
    lsr: Literal["paper", "released"] = "released"


SPEC = MethodSpec(
    name="plca",
    Config=Config,
    # As released. Lovász: 0.75 there is multiplied by the number of devices and by the batches of a step, 2 and 2 at
    # the published setting.
    weights={"seg": 1.0, "lovasz": 3.0, "assoc_feat": 0.1, "assoc_pred": 0.1, "lsr": 0.01},
    views={
        "seg": frozenset({"source"}),
        "lovasz": frozenset({"source"}),
        "assoc_feat": frozenset({"source", "target"}),
        "assoc_pred": frozenset({"source", "target"}),
        "lsr": frozenset({"source", "target"}),
    },
)


class PLCA(Method):
    SPEC = SPEC

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs: Config = context.knobs

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        terms: Terms = {}
        # Target first, as released, so that the source is last to move the running statistics.
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
        """The association loss of maps (B, D, h, w); logs the share of the labelled positions with consistent walks."""
        if len(source) != len(target):
            raise UserError(
                "train.source.batch and train.target.batch: PLCA pairs each source image with a target image, so both "
                f"must be equal; found {len(source)} and {len(target)}"
            )
        knobs = self.knobs
        if knobs.aggregation and metric == "cosine":
            target = aggregate_features(target, knobs.aggregation_share, knobs.contrast_norm, valid)
        elif knobs.aggregation:
            target = aggregate_predictions(target, knobs.aggregation_share, valid)
        found = association_loss(source, target, labels, metric, knobs.contrast_norm, valid)
        step.log(f"consistent_{metric}", found.positives.sum() / (labels != IGNORE).sum().clamp(min=1))
        return found.loss


def shrink(labels: Tensor, maps: Tensor) -> Tensor:
    """Labels (B, H, W), integer or bool, at the size of maps (B, D, h, w): a cell's is that of its first pixel.

    So the release has it. The cells of a network with stride s are centred at every s-th pixel, starting with 0.
    """
    return F.interpolate(labels[:, None].float(), maps.shape[-2:], mode="nearest")[:, 0].to(labels.dtype)
