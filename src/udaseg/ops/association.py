"""Pixel-level cycle association (PLCA, NeurIPS 2020, arXiv 2011.00147, as its code has it).

A source position walks to the target position most similar to it, and from there to the source position most similar
to that. Where start and end have the same label, both links are strengthened relative to all others of their rows.

Matrices of L x L positions (287 MB at 92 x 92) are never held whole: they are computed some rows at a time, and again
in the backward pass instead of being kept for it.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from udaseg.ops.precision import at_least_float32
from udaseg.types import IGNORE

Metric = Literal["cosine", "divergence"]
# Elements of a matrix that are computed at a time: in float32 just over 32 MiB, from which on the C library returns
# freed RAM at once. With 2**23 elements, the resident size of a CPU process grows twice as much.
CHUNK = 10**7
EPSILON = 1e-10  # as released, added inside logarithms and to standard deviations


class Positions(NamedTuple):
    """Positions of one image (L, E), or of several (B, L, E), in their two roles in `similarity`."""

    queries: Tensor
    keys: Tensor


class Cycle(NamedTuple):
    """Walks from source positions to target positions and back."""

    middle: Tensor  # (Ls,) int64, the target position most similar to each source position
    back: Tensor  # (Lt,) int64, the source position most similar to each target position; 0 where no walk passes

    @property
    def end(self) -> Tensor:
        """(Ls,) int64, the source position where each walk ends."""
        return self.back[self.middle]


class Association(NamedTuple):
    loss: Tensor  # ()
    positives: Tensor  # (B, h, w) bool, source positions whose walk ends at their own label


def positions(vectors: Tensor, metric: Metric) -> Positions:
    """Vectors (..., L, D) prepared for `similarity`, in float32 or wider.

    Args:
        vectors: features for "cosine", probabilities (sum 1 over D) for "divergence".
        metric: cosine <f_i, f_j> / (||f_i|| ||f_j||), 0 where a vector is 0, with the gradient 0 there (the release
            divides it by 1e-12); divergence -KL(p_i || p_j), in whose logarithms 1e-10 is added to p.

    Raises:
        ValueError: unknown metric.
    """
    vectors = at_least_float32(vectors)
    if metric == "cosine":
        length = vectors.norm(dim=-1, keepdim=True)
        unit = vectors / length.masked_fill(length < 1e-12, torch.inf)
        return Positions(unit, unit)
    if metric == "divergence":  # Σ p_i log p_j - Σ p_i log p_i is one product, too, with one more column on each side
        logs = (vectors + EPSILON).log()
        own = (vectors * logs).sum(dim=-1, keepdim=True)
        return Positions(torch.cat([vectors, -own], dim=-1), torch.cat([logs, torch.ones_like(own)], dim=-1))
    raise ValueError(f"'cosine' or 'divergence' expected, found {metric!r}")


def similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Queries (..., A, E) and keys (..., B, E) of `positions` -> (..., A, B), not rounded by autocast."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ keys.mT


def contrast_scores(similarities: Tensor, normalise: bool = True) -> Tensor:
    """Softmax of each row's z-score: how similar a pair is relative to all others of its row.

    Mean and standard deviation (n - 1) are constants of the graph. The score is monotone within a row, so its argmax is
    that of the similarities. A row of one position gives 1 (in the release NaN), a constant row gives equal scores.

    Args:
        similarities: (..., A, B), real.
        normalise: False: the softmax of the similarities themselves (not in the release).

    Returns:
        (..., A, B), sum 1 in each row.
    """
    if normalise and similarities.shape[-1] > 1:
        std, mean = torch.std_mean(similarities.detach(), dim=-1, keepdim=True)
        similarities = (similarities - mean) / (std + EPSILON)
    return similarities.softmax(dim=-1)


def by_rows(function: Callable[..., Tensor], parts: Sequence[Tensor], width: int, rows: int | None) -> Tensor:
    """`function` applied to `rows` rows of `parts` at a time, concatenated, and recomputed in the backward pass.

    Args:
        function: rows of `parts`, (R, ...) each -> (R, ...).
        parts: of the same length.
        width: elements in a row of the largest matrix that `function` makes.
        rows: None: as many as have `CHUNK` elements.
    """
    size = rows or max(1, CHUNK // max(1, width))
    chunks = zip(*(part.split(size) for part in parts), strict=True)
    done = [checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return torch.cat(done)


@torch.no_grad()
def cycle(source: Positions, target: Positions, rows: int | None = None) -> Cycle:
    """The walk from each position of a source image (Ls, E) to a target image (Lt, E) and back; of equals the first.

    The way back is only searched from target positions that a walk reaches. `rows`: see `by_rows`.
    """

    def nearest(queries: Tensor, keys: Tensor) -> Tensor:
        return by_rows(lambda part: similarity(part, keys).argmax(dim=-1), [queries], len(keys), rows)

    middle = nearest(source.queries, target.keys)
    back = middle.new_zeros(len(target.queries))
    used = middle.unique()
    back[used] = nearest(target.queries[used], source.keys)
    return Cycle(middle, back)


def cycle_scores(
    source: Positions, target: Positions, walks: Cycle, starts: Tensor, normalise: bool = True, rows: int | None = None
) -> Tensor:
    """Product of the scores of both links of each walk from `starts`; gradients flow through it.

    Args:
        source: (Ls, E).
        target: (Lt, E).
        walks: of the same positions.
        starts: (S,) int64, source positions.
        normalise: see `contrast_scores`.
        rows: see `by_rows`.

    Returns:
        (S,) in [1 / (Ls Lt), 1], as each link's score is the largest of its row.
    """
    middle = walks.middle[starts]
    there = _link_scores(source.queries[starts], target.keys, middle, normalise, rows)
    used, place = middle.unique(return_inverse=True)  # walks that meet continue together
    back = _link_scores(target.queries[used], source.keys, walks.back[used], normalise, rows)
    return there * back[place]


def _link_scores(queries: Tensor, keys: Tensor, chosen: Tensor, normalise: bool, rows: int | None) -> Tensor:
    """(A,) scores of the chosen key of each query."""

    def link(queries: Tensor, chosen: Tensor) -> Tensor:
        return contrast_scores(similarity(queries, keys), normalise).gather(1, chosen[:, None])[:, 0]

    return by_rows(link, [queries, chosen], len(keys), rows)


def cycle_consistent(end: Tensor, labels: Tensor) -> Tensor:
    """(..., L) bool: positions with a label (..., L) other than 255 that is also the label at their walk's end."""
    return (labels != IGNORE) & (labels.gather(-1, end) == labels)


def association_loss(
    source: Tensor,
    target: Tensor,
    labels: Tensor,
    metric: Metric,
    normalise: bool = True,
    valid: Tensor | None = None,
    rows: int | None = None,
) -> Association:
    """Mean of -log(A_st[i, j] A_ts[j, e]) over the cycle-consistent walks i -> j -> e of all pairs of images.

    A_st and A_ts are the contrast scores of the two directions, each from its own similarities (those of the divergence
    are not symmetric). 0, connected to the graph, where no walk is consistent.

    Args:
        source: (B, D, h, w), features or probabilities.
        target: (B, D, h', w'); image n is paired with source image n.
        labels: (B, h, w) int64 of the source, 255 = ignore.
        metric: see `positions`.
        normalise: see `contrast_scores`.
        valid: (B, h', w') bool, target positions that take part. None: all.
        rows: see `by_rows`.

    Raises:
        ValueError: shapes do not fit, or unknown metric.
    """
    if source.dim() != 4 or target.dim() != 4 or source.shape[:2] != target.shape[:2]:
        raise ValueError(
            f"source (B, D, h, w) and target (B, D, h', w') expected, found {tuple(source.shape)} and "
            f"{tuple(target.shape)}"
        )
    if labels.shape != (len(source), *source.shape[2:]) or labels.is_floating_point():
        raise ValueError(
            f"integer labels {(len(source), *source.shape[2:])} expected, found {tuple(labels.shape)} {labels.dtype}"
        )
    scores, consistent = [], []
    for image, other, mask, label in zip(source, target, masks_of(target, valid), labels, strict=True):
        pair = positions(inside(image), metric), positions(inside(other, mask), metric)
        of_pair, starts = _consistent_scores(*pair, label.flatten(), normalise, rows)
        scores.append(of_pair)
        consistent.append(starts.view_as(label))
    connected = (source.sum() + target.sum()).reshape(1)[:0]  # no element, but part of the graph
    # Logarithms are clamped at -100, as in the release's binary cross-entropy; no product can be that small.
    distances = -torch.cat([connected, *scores]).log().clamp(min=-100)
    return Association(distances.sum() / max(1, len(distances)), torch.stack(consistent))


def _consistent_scores(
    source: Positions, target: Positions, labels: Tensor, normalise: bool, rows: int | None
) -> tuple[Tensor, Tensor]:
    """Scores (S,) of a pair of images' cycle-consistent walks, and their starts (Ls,) bool."""
    consistent, nothing = torch.zeros_like(labels, dtype=torch.bool), source.queries.new_zeros(0)
    if len(target.keys) == 0:
        return nothing, consistent
    walks = cycle(source, target, rows)
    consistent = cycle_consistent(walks.end, labels)
    starts = consistent.nonzero()[:, 0]
    if len(starts) == 0:
        return nothing, consistent
    return cycle_scores(source, target, walks, starts, normalise, rows), consistent


def inside(maps: Tensor, mask: Tensor | None = None) -> Tensor:
    """One image's map (D, h, w) as rows (L, D), of the positions within a mask (h, w) only; None: of all."""
    flat = maps.flatten(1)
    return (flat if mask is None else flat[:, mask.flatten()]).mT


def masks_of(maps: Tensor, valid: Tensor | None) -> list[Tensor | None]:
    """`valid` (B, h, w) as a mask for each image, None where all is valid; ValueError if it does not fit `maps`."""
    if valid is None:
        return [None] * len(maps)
    if valid.shape != (len(maps), *maps.shape[2:]) or valid.dtype != torch.bool:
        raise ValueError(f"a mask {(len(maps), *maps.shape[2:])} expected, found {tuple(valid.shape)} {valid.dtype}")
    return [None if bool(mask.all()) else mask for mask in valid]
