"""PLCA: association and aggregation."""

from functools import partial
from typing import Any

import numpy as np
import torch
from support.golden_groups.base import Arrays, Golden, decimal, tensor
from torch import Tensor

from udaseg.ops.aggregation import aggregate_features, aggregate_predictions
from udaseg.ops.association import (
    Metric,
    association_loss,
    contrast_scores,
    cycle,
    cycle_consistent,
    cycle_scores,
    positions,
    similarity,
)


def rows(maps: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, L, D)."""
    return maps.detach().flatten(2).mT


def scores(first: Tensor, second: Tensor, metric: Metric, normalise: bool = True) -> Tensor:
    """(B, L1, L2), whole, between maps (B, D, h, w)."""
    pair = (positions(rows(maps), metric) for maps in (first, second))
    queries, keys = next(pair).queries, next(pair).keys
    return contrast_scores(similarity(queries, keys), normalise)


def aggregated(maps: Tensor, share: float, metric: Metric) -> tuple[Tensor, Tensor]:
    """The blend, and the weights."""
    if metric == "cosine":
        return aggregate_features(maps, share), scores(maps, maps, metric)
    return aggregate_predictions(maps, share), scores(maps, maps, metric, normalise=False)


def association(arrays: Arrays, metric: Metric) -> dict[str, Any]:
    source, before = tensor(arrays["x_src"], True), tensor(arrays["x_tgt"], True)
    labels = tensor(arrays["label_src"])
    target, compared = before, {}
    if arrays["spagg"]:
        target, compared["agg_weights"] = aggregated(before, decimal(arrays["spagg_alpha"]), metric)
    pairs = [tuple(positions(one, metric) for one in pair) for pair in zip(rows(source), rows(target), strict=True)]
    walks = [cycle(*pair) for pair in pairs]
    starts = tensor(np.array(range(len(rows(source)[0]))))  # all of them
    end = torch.stack([walk.end for walk in walks])
    loss, positives = association_loss(source, target, labels, metric)
    loss.backward()
    return compared | {
        "tgt_after_agg": target,
        "sim_st": scores(source, target, metric),
        "sim_ts": scores(target, source, metric),
        "mid_index": torch.stack([walk.middle for walk in walks]),
        "end_index": end,
        "cycle_sim": torch.stack([cycle_scores(*pair, walk, starts) for pair, walk in zip(pairs, walks, strict=True)]),
        "positive_mask": positives,
        "num_positive": len(cycle_consistent(end, labels.flatten(1)).nonzero()),
        "loss": loss,
        "grad_src": source.grad,
        "grad_tgt": before.grad,
    }


def contrast_norm(arrays: Arrays) -> dict[str, Any]:
    return {"score": contrast_scores(tensor(arrays["sim"]))}


def spatial_agg(arrays: Arrays) -> dict[str, Any]:
    blend, weights = aggregated(tensor(arrays["x"]), 1.0, "divergence" if arrays["metric_is_kl"] else "cosine")
    return {"weights": weights, "aggregated": blend}


FORWARD, GRADIENT = (1e-4, 1e-5), (2e-3, 1e-5)
ASSOCIATION: dict[str, Any] = {
    "tolerances": {"": FORWARD, "grad_src": GRADIENT, "grad_tgt": GRADIENT},
    "exact": ["mid_index", "end_index", "positive_mask", "num_positive"],
}
CASES = {
    "plca.feature_assoc": Golden(partial(association, metric="cosine"), **ASSOCIATION),
    "plca.pred_assoc": Golden(partial(association, metric="divergence"), **ASSOCIATION),
    "plca.contrast_norm": Golden(contrast_norm, tolerances={"": FORWARD}),
    "plca.spatial_agg": Golden(spatial_agg, tolerances={"": FORWARD}),
}
