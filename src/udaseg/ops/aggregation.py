"""Spatial aggregation: each vector of an image blended with similar ones elsewhere in it (PLCA, NeurIPS 2020).

Only few target positions are associated; through the blend their gradient reaches the whole image. Training aggregates
the target before the association; the released test script aggregates the image under test.
"""

import torch
from torch import Tensor

from udaseg.ops.association import Metric, by_rows, contrast_scores, inside, masks_of, positions, similarity
from udaseg.ops.precision import at_least_float32


def aggregate_features(
    features: Tensor, share: float, normalise: bool = True, valid: Tensor | None = None, rows: int | None = None
) -> Tensor:
    """(1 - a) f_j + a Σ_k W_jk f_k, where W_j is the contrast score of the cosines to all positions, its own too.

    Gradients flow through weights and features. W is computed some rows at a time, see `ops.association`.

    Args:
        features: (B, D, h, w), real.
        share: a in [0, 1] (released 0.5); at 0 features stay as they are, at 1 they are the aggregate.
        normalise: False: W is the softmax of the cosines themselves (not in the release).
        valid: (B, h, w) bool; other positions stay as they are and contribute to none. None: all are valid.
        rows: see `ops.association.by_rows`.

    Returns:
        (B, D, h, w) in float32 or wider, also under autocast.

    Raises:
        ValueError: shapes do not fit, or a share outside [0, 1].
    """
    return _aggregated(features, "cosine", share, normalise, valid, rows)


def aggregate_predictions(probs: Tensor, share: float, valid: Tensor | None = None, rows: int | None = None) -> Tensor:
    """As `aggregate_features`, for probabilities (B, C, h, w), with the softmax of -KL(p_j || p_k) as weights.

    The weights are not contrast-normalised, as released. The result sums to 1 over C again.
    """
    return _aggregated(probs, "divergence", share, False, valid, rows)


def _aggregated(
    maps: Tensor, metric: Metric, share: float, normalise: bool, valid: Tensor | None, rows: int | None
) -> Tensor:
    if maps.dim() != 4 or not 0 <= share <= 1:
        raise ValueError(f"maps (B, D, h, w) and a share in [0, 1] expected, found {tuple(maps.shape)} and {share}")
    maps = at_least_float32(maps)
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
