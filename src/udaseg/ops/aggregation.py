"""Spatial aggregation: an image's vectors blended with what resembles them elsewhere in it (PLCA, NeurIPS 2020).

Only few target positions are associated; through the blend their gradient reaches all of the image. In training it is
the target that is aggregated, before the association; the released test script aggregates what is tested.
"""

import torch
from torch import Tensor

from udaseg.ops.association import Metric, by_rows, contrast_scores, inside, masks_of, positions, similarity


def aggregate_features(
    features: Tensor, share: float, normalise: bool = True, valid: Tensor | None = None, rows: int | None = None
) -> Tensor:
    """(1 - a) f_j + a Σ_k W_jk f_k, where W_j is the contrast score of the cosines to all positions, its own too.

    Gradients go through weights and features. Rows of W are done some at a time, see `ops.association`.

    Args:
        features: (B, D, h, w), real.
        share: a in [0, 1] (released 0.5); at 0 features stay as they are, at 1 they are the aggregate.
        normalise: false: W is the softmax of the cosines themselves (not in the release).
        valid: (B, h, w) bool; positions that are not valid stay as they are and enter no other. None: all are.
        rows: see `ops.association.by_rows`.

    Returns:
        (B, D, h, w) in float32 or wider, also under autocast.

    Raises:
        ValueError: shapes do not fit, or a share outside [0, 1].
    """
    return _aggregated(features, "cosine", share, normalise, valid, rows)


def aggregate_predictions(probs: Tensor, share: float, valid: Tensor | None = None, rows: int | None = None) -> Tensor:
    """As `aggregate_features`, of probabilities (B, C, h, w), with the softmax of -KL(p_j || p_k) as weights.

    These are not contrast-normalised, as released. The result's sum over C is 1 again.
    """
    return _aggregated(probs, "divergence", share, False, valid, rows)


def _aggregated(
    maps: Tensor, metric: Metric, share: float, normalise: bool, valid: Tensor | None, rows: int | None
) -> Tensor:
    if maps.dim() != 4 or not 0 <= share <= 1:
        raise ValueError(f"maps (B, D, h, w) and a share in [0, 1] expected, found {tuple(maps.shape)} and {share}")
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    done = []
    with torch.autocast(maps.device.type, enabled=False):
        for image, mask in zip(maps, masks_of(maps, valid), strict=True):
            blended = _blended(inside(image, mask), metric, share, normalise, rows).mT
            if mask is not None:
                blended = image.flatten(1).index_copy(1, mask.flatten().nonzero()[:, 0], blended)
            done.append(blended.unflatten(1, image.shape[1:]))
    return torch.stack(done)


def _blended(vectors: Tensor, metric: Metric, share: float, normalise: bool, rows: int | None) -> Tensor:
    """Vectors (L, D) of one image, blended with their aggregates."""
    places = positions(vectors, metric)

    def blend(queries: Tensor, own: Tensor) -> Tensor:
        weights = contrast_scores(similarity(queries, places.keys), normalise)
        return own.lerp(weights @ vectors, share)

    return by_rows(blend, [places.queries, vectors], len(vectors), rows)
