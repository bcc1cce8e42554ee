"""PiPa's pixel contrast: embeddings of one class attract, those of different classes repel (Chen et al., ACM MM 2023).

arXiv 2211.07609. There are two forms. Each first draws pixels and then contrasts their embeddings:

- released: `sample_views` takes equally many pixels from every class of every image, half of them wrongly predicted
  ones, and `pixel_contrast` contrasts each with all others. That is Wang et al., "Exploring Cross-Image Pixel Contrast
  for Semantic Segmentation", ICCV 2021, without its memory bank.
- paper: `draw_pixels` takes a fixed budget of pixels of each class of the batch, and `hard_contrast` contrasts each
  with the hardest tenth of its positives and of its negatives. This is not in the release.

Both losses are means of -log( exp(s_ij) / (exp(s_ij) + Σ_k exp(s_ik)) ) over positives j, with s = e·e' / temperature
and k over negatives; other positives are not in the denominator. Pixels are indices into B*h*w, row by row. What is
drawn depends on labels, predictions and the CPU generator, not on the device.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.precision import at_least_float32
from udaseg.types import IGNORE


class Views(NamedTuple):
    """Pixels drawn from A pairs of an image and a class: by image, then by class."""

    classes: Tensor  # (A,) int64
    indices: Tensor  # (A, V) int64, into B*h*w; hard pixels before easy ones
    kept: Tensor  # (A, 2) int64: how many of the V are hard (predicted as another class) and how many easy


@torch.no_grad()
def sample_views(
    labels: Tensor,
    predicted: Tensor,
    generator: torch.Generator,
    max_views: int = 100,
    max_samples: int = 1024,
    ignore: int | None = IGNORE,
) -> Views:
    """The same number V of random pixels from every class of every image, half of them hard where there are enough.

    V = min(max_samples // A, max_views), where A counts the pairs of an image and a class with more than `max_views`
    pixels. V // 2 pixels are hard and the others easy; where there are too few of one kind, the other fills up.

    Args:
        labels: (B, h, w) int64, at the embedding's resolution.
        predicted: (B, h, w) int64, hard pixels are those where it differs from the labels.
        generator: on the CPU.
        max_views: most pixels of a pair (released 100).
        max_samples: most pixels of all pairs (released 1024).
        ignore: label that is never drawn. None: the release's slip, which compares 255 with -1 and so draws it, too.

    Returns:
        On the labels' device. A and V are 0 where no class is large enough (the release raises); V is 0 where there
        are more pairs than `max_samples`.

    Raises:
        ValueError: shapes or types do not fit, or a limit is below 1.
    """
    _check_labels(labels)
    if predicted.shape != labels.shape or max_views < 1 or max_samples < 1:
        raise ValueError(
            f"predictions {tuple(labels.shape)} as the labels, max_views and max_samples of at least 1 expected, found "
            f"{tuple(predicted.shape)}, {max_views} and {max_samples}"
        )
    images, wrong = labels.flatten(1).cpu(), (predicted != labels).flatten(1).cpu()
    pairs = []
    for image, pixels in enumerate(images):
        found, counts = pixels.unique(return_counts=True)  # ascending
        pairs += [(image, label) for label in found[counts > max_views].tolist() if label != ignore]
    views = min(max_samples // len(pairs), max_views) if pairs else 0

    indices = torch.empty(len(pairs), views, dtype=torch.int64)
    hard_kept = []
    for row, (image, label) in enumerate(pairs):
        mine = images[image] == label
        hard, easy = (mine & wrong[image]).nonzero()[:, 0], (mine & ~wrong[image]).nonzero()[:, 0]
        hard_kept.append(min(len(hard), max(views // 2, views - len(easy))))
        drawn = (_draw(hard, hard_kept[-1], generator), _draw(easy, views - hard_kept[-1], generator))
        indices[row] = torch.cat(drawn) + image * images.shape[1]

    classes = torch.tensor([label for _, label in pairs], dtype=torch.int64)
    kept = torch.tensor([(hard, views - hard) for hard in hard_kept], dtype=torch.int64).reshape(-1, 2)
    return Views(*(part.to(labels.device) for part in (classes, indices, kept)))


@torch.no_grad()
def draw_pixels(labels: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
    """At most `per_class` random pixels of each class of the batch; 255 is never drawn.

    Args:
        labels: (B, h, w) int64, at the embedding's resolution.
        per_class: pixels of a class; one with fewer gives all it has. 53 make 1007 of 19 classes, about as many as the
            release draws at most; the paper's number is not known.
        generator: on the CPU.

    Returns:
        (P,) int64 on the labels' device: by class, without repetition, P = 0 where nothing is labelled.

    Raises:
        ValueError: labels of another shape or type, or a budget below 1.
    """
    _check_labels(labels)
    if per_class < 1:
        raise ValueError(f"at least 1 pixel per class expected, found {per_class}")
    flat = labels.flatten().cpu()
    order = torch.randperm(len(flat), generator=generator)
    ordered, places = flat[order].sort(stable=True)
    _, counts = ordered.unique_consecutive(return_counts=True)
    firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    within = torch.arange(len(flat)) - firsts < per_class
    return order[places[within & (ordered != IGNORE)]].to(labels.device)


def pixel_contrast(
    anchors: Tensor, classes: Tensor, temperature: float = 0.1, base_temperature: float = 0.07
) -> Tensor:
    """Mean over all A*V pixels and each one's positives, times temperature / base_temperature, as released.

    A pixel's positives are all others of its class, its negatives all of other classes, in any image. A pixel without
    positives is left out (the release gives NaN). 0, connected to the graph, where no pixel has any; exactly 0, as
    released, where all are of one class.

    Args:
        anchors: (A, V, D) of length 1, see `Views`; float32 or wider inside, whatever they come in.
        classes: (A,) int64.
        temperature: above 0 (released 0.1).
        base_temperature: above 0 (released 0.07, which makes a constant factor of 1.43).

    Raises:
        ValueError: shapes do not fit, or a temperature is not positive.
    """
    if anchors.dim() != 3 or classes.shape != anchors.shape[:1] or min(temperature, base_temperature) <= 0:
        raise ValueError(
            f"anchors (A, V, D), classes (A,) and temperatures above 0 expected, found {tuple(anchors.shape)}, "
            f"{tuple(classes.shape)}, {temperature} and {base_temperature}"
        )
    similarity = _similarity(anchors.flatten(0, 1), temperature)
    positives, negatives = _pairs(classes.repeat_interleave(anchors.shape[1]))
    loss = _info_nce(similarity, positives, negatives)
    return loss * (temperature / base_temperature)


def hard_contrast(embeddings: Tensor, labels: Tensor, temperature: float = 0.1, share: float = 0.1) -> Tensor:
    """Contrast of each pixel with the least similar of its class and the most similar of all others, as in the paper.

    A pixel's `share` of positives and of negatives is taken, rounded, at least one of each. The choice has no gradient,
    and of equally similar ones the first are taken. The loss is the mean over the pixels that have both, and over the
    positives taken; it is 0, connected to the graph, where no pixel has both.

    Args:
        embeddings: (P, D) of length 1; float32 or wider inside, whatever they come in.
        labels: (P,) int64; every value is a class, so leave 255 out (`draw_pixels` does).
        temperature: above 0 (released 0.1).
        share: in (0, 1] (paper 0.1); 1 takes all.

    Raises:
        ValueError: shapes do not fit, or a setting is out of its range.
    """
    if embeddings.dim() != 2 or labels.shape != embeddings.shape[:1] or temperature <= 0 or not 0 < share <= 1:
        raise ValueError(
            f"embeddings (P, D), labels (P,), a temperature above 0 and a share in (0, 1] expected, found "
            f"{tuple(embeddings.shape)}, {tuple(labels.shape)}, {temperature} and {share}"
        )
    similarity = _similarity(embeddings, temperature)
    positives, negatives = _pairs(labels)
    positives = _lowest(similarity, positives, share)
    negatives = _lowest(-similarity, negatives, share)
    return _info_nce(similarity, positives, negatives)


def _check_labels(labels: Tensor) -> None:
    if labels.dim() != 3 or labels.is_floating_point():
        raise ValueError(f"integer labels (B, h, w) expected, found {tuple(labels.shape)} {labels.dtype}")


def _draw(places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the places (n,), without repetition, in random order."""
    return places[torch.randperm(len(places), generator=generator)[:count]]


def _similarity(vectors: Tensor, temperature: float) -> Tensor:
    """(P, D) -> (P, P), at least float32 also under autocast."""
    with torch.autocast(vectors.device.type, enabled=False):
        vectors = at_least_float32(vectors)
        return vectors @ vectors.T / temperature


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which pixels are positives and which are negatives of each: two (P, P) bool. None is its own positive."""
    same = labels[:, None] == labels
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same


@torch.no_grad()
def _lowest(values: Tensor, among: Tensor, share: float) -> Tensor:
    """In each row, those of `among` (P, P) bool that have the lowest values: `share` of them, at least one."""
    counts = (share * among.sum(dim=1, keepdim=True).double()).round().clamp(min=1)
    order = values.masked_fill(~among, torch.inf).argsort(dim=1, stable=True)
    taken = torch.arange(len(values), device=values.device) < counts
    return torch.zeros_like(among).scatter(1, order, taken) & among


def _info_nce(similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Mean over rows with positives, and over each one's, of -log( exp(s_ij) / (exp(s_ij) + Σ_k exp(s_ik)) ).

    All are (P, P). A row lacks negatives only where all pixels are of one class; the loss is then exactly 0.
    """
    # Not -inf, because logsumexp of a row of -inf has the gradient NaN.
    lowest = torch.finfo(similarity.dtype).min
    against = similarity.masked_fill(~negatives, lowest).logsumexp(dim=1, keepdim=True)
    terms = F.softplus(against - similarity) * positives
    means = terms.sum(dim=1) / positives.sum(dim=1).clamp(min=1)
    return means.sum() / positives.any(dim=1).sum().clamp(min=1)
