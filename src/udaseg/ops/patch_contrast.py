"""PiPa's patch contrast (ACM MM 2023, arXiv 2211.07609): embeddings of one place in two crops attract, others repel.

Rows are L2-normalised embeddings (..., D). `paired_contrast` is the paper's form, `bank_contrast` that of the released
code, which is Context-Aware Consistency's (CVPR 2021).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from udaseg.ops.precision import at_least_float32
from udaseg.types import IGNORE

EPSILON = 1e-8  # as released, in the denominator and in the logarithm


def paired_contrast(
    rows: Tensor,
    first: Tensor,
    second: Tensor,
    temperature: float,
    share: float,
    classes: Tensor | None = None,
) -> Tensor:
    """InfoNCE of corresponding locations against the hardest of all others, summed over both directions.

    -log( e^(a.p/T) / (e^(a.p/T) + sum_n e^(a.n/T)) ), averaged over the anchors a of one crop, where p is the same
    place in the other one; plus the same with the crops' roles swapped. The negatives n are those of all other
    locations, of both crops and of every image, that are most similar to the anchor: the given share of them, at least
    one, and any that tie with the last. The paper leaves open what gets the gradient: here anchors, positives and
    negatives do.

    Args:
        rows: (M, D), all locations of all crops.
        first, second: (n,) int64, rows of the first and the second crops that show the same place.
        temperature: T (released 0.1).
        share: of an anchor's negatives, in (0, 1] (PiPa 0.1).
        classes: (M,) int64, pseudo-classes: rows of the anchor's class are not its negatives. None: all are.

    Returns:
        (): 0, connected to the graph, without a pair; 0 also for anchors without negatives.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(rows, first, second, classes)
    if not len(first):
        return rows.sum() * 0
    rows = at_least_float32(rows)
    forth = _hard_contrast(rows, first, second, temperature, share, classes)
    back = _hard_contrast(rows, second, first, temperature, share, classes)
    return forth + back


def _hard_contrast(
    rows: Tensor, anchors: Tensor, positives: Tensor, temperature: float, share: float, classes: Tensor | None
) -> Tensor:
    """Mean InfoNCE of the anchors, see `paired_contrast`."""
    with torch.autocast(rows.device.type, enabled=False):
        similarity = rows[anchors] @ rows.mT / temperature  # (n, M)
    columns = torch.arange(len(rows), device=rows.device)
    negative = (columns != anchors[:, None]) & (columns != positives[:, None])
    if classes is not None:
        negative &= classes[anchors][:, None] != classes
    negative = hardest(similarity, negative, share)
    of_positives = (rows[anchors] * rows[positives]).sum(dim=1) / temperature
    together = torch.cat([of_positives[:, None], similarity.masked_fill(~negative, -torch.inf)], dim=1)
    return (together.logsumexp(dim=1) - of_positives).mean()


@torch.no_grad()
def hardest(similarity: Tensor, negative: Tensor, share: float) -> Tensor:
    """The share of each row's negatives with the largest similarity, at least one; those that tie with the last, too.

    Args:
        similarity: (n, M).
        negative: (n, M) bool.
        share: in (0, 1]; the count is rounded.

    Returns:
        (n, M) bool, within `negative`.
    """
    counts = (negative.sum(dim=1, dtype=torch.float64) * share).round().long().clamp(min=1)
    most = math.ceil(similarity.shape[1] * share)  # a bound that is known without waiting for the device
    largest = similarity.masked_fill(~negative, -torch.inf).topk(most, dim=1).values
    return negative & (similarity >= largest.gather(1, counts[:, None] - 1))


class Bank(NamedTuple):
    """Embeddings of the last S steps, the newest last, R a step; a row with the label 255 is empty."""

    rows: Tensor  # (S, R, D) without a graph
    labels: Tensor  # (S, R) int64, pseudo-labels


@torch.no_grad()
def pushed(bank: Bank, rows: Tensor, labels: Tensor) -> Bank:
    """The bank with one more step and without its oldest one.

    Args:
        bank: of S steps with room for R rows each.
        rows: (r, D), at most R.
        labels: (r,) int64.

    Raises:
        ValueError: shapes do not fit.
    """
    room, width = bank.rows.shape[1:]
    if rows.dim() != 2 or len(rows) > room or rows.shape[1] != width or labels.shape != rows.shape[:1]:
        raise ValueError(
            f"at most {room} rows of {width} and their labels expected, found {tuple(rows.shape)} and "
            f"{tuple(labels.shape)}"
        )
    newest, newest_labels = torch.zeros_like(bank.rows[0]), torch.full_like(bank.labels[0], IGNORE)
    newest[: len(rows)], newest_labels[: len(rows)] = rows.to(newest), labels
    return Bank(torch.cat([bank.rows[1:], newest[None]]), torch.cat([bank.labels[1:], newest_labels[None]]))


def empty_bank(steps: int, rows: int, width: int) -> Bank:
    """An empty bank of (steps, rows, width)."""
    return Bank(torch.zeros(steps, rows, width), torch.full((steps, rows), IGNORE))


class BankContrast(NamedTuple):
    loss: Tensor  # (), the sum of both parts
    parts: Tensor  # (2,), of the anchors in the first and in the second crops
    counted: Tensor  # (2,) int64, anchors that each part is a mean over


def bank_contrast(
    rows: Tensor,
    first: Tensor,
    second: Tensor,
    labels: Tensor,
    confidence: Tensor,
    bank: Bank,
    temperature: float,
    threshold: float,
) -> BankContrast:
    """The released loss: rows of the less sure crop move to the surer one's and away from the bank's with other labels.

    -log( e^(a.p/T) / (e^(a.p/T) + sum_b e^(a.b/T) + 1e-8) + 1e-8 ), averaged over the anchors a of one crop whose
    counterpart p in the other one is confident, and more so than they, plus the same with the roles swapped. The
    exponents are shifted by the largest of them. Only anchors get a gradient.

    Args:
        rows: (M, D), all locations of all crops.
        first, second: (n,) int64, rows of the first and the second crops that show the same place.
        labels: (M,) int64, pseudo-labels of the rows.
        confidence: (M,), of these.
        bank: rows with their pseudo-labels, including those of this step, as released; empty ones are left out.
        temperature: T (released 0.1).
        threshold: which a positive's confidence exceeds (released 0.9).

    Returns:
        A loss of 0, connected to the graph, where no anchor counts.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(rows, first, second, labels)
    if confidence.shape != labels.shape:
        raise ValueError(f"confidence {tuple(labels.shape)} as the labels expected, found {tuple(confidence.shape)}")
    rows = at_least_float32(rows)
    parts, counted = [], []
    for anchors, positives in ((first, second), (second, first)):
        mask = (confidence[positives] > threshold) & (confidence[anchors] < confidence[positives])
        losses = _against_bank(rows[anchors], rows[positives].detach(), labels[anchors], bank, temperature)
        parts.append((losses * mask).sum() / (mask.sum() + 1e-12))
        counted.append(mask.sum())
    return BankContrast(parts[0] + parts[1], torch.stack(parts), torch.stack(counted))


def _against_bank(anchors: Tensor, positives: Tensor, labels: Tensor, bank: Bank, temperature: float) -> Tensor:
    """The loss (n,) of each anchor, see `bank_contrast`."""
    others = bank.labels.flatten()
    with torch.autocast(anchors.device.type, enabled=False):
        of_bank = anchors @ bank.rows.flatten(0, 1).to(anchors).mT / temperature  # (n, S*R)
    of_bank = of_bank.masked_fill(others == IGNORE, -torch.inf)
    of_positives = (anchors * positives).sum(dim=1, keepdim=True) / temperature
    # Rows with the anchor's own label count here, too, as released: where one is far above all others, 1e-8 matters.
    largest = torch.cat([of_positives, of_bank], dim=1).amax(dim=1, keepdim=True)
    against = ((of_bank - largest).exp() * (labels[:, None] != others)).sum(dim=1, keepdim=True)
    towards = (of_positives - largest).exp()
    return -(towards / (towards + against + EPSILON) + EPSILON).log()[:, 0]


def _check(rows: Tensor, first: Tensor, second: Tensor, labels: Tensor | None) -> None:
    if rows.dim() != 2 or first.dim() != 1 or first.shape != second.shape:
        raise ValueError(
            f"rows (M, D) and two indices (n,) expected, found {tuple(rows.shape)}, {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    if labels is not None and labels.shape != rows.shape[:1]:
        raise ValueError(f"labels {tuple(rows.shape[:1])} of the rows expected, found {tuple(labels.shape)}")
