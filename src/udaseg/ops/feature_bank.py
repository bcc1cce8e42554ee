"""A bank of feature vectors for each class, and a contrast with it that has positives only.

Alonso et al., "Semi-Supervised Semantic Segmentation with Pixel-Level Contrastive Learning from a Class-wise Memory
Bank", ICCV 2021, arXiv 2104.13415. The bank holds a teacher's vectors of labelled pixels that it predicts correctly and
confidently; a student's vectors are drawn to those of their class. There are no negatives.

Vectors are rows (M, D), each with a class, (M,) int64; rows with 255 are ignored. The bank is (C, size, D), newest
vector first, with zeros behind the last one; counts (C,) int64 says how many vectors each class has.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.precision import at_least_float32

Scores = Callable[[Tensor, int], Tensor]  # rows (n, D) of one class, and that class -> logits (n,) of their scores


def quota(size: int, labelled_images: int, classes: int | None = None) -> int:
    """How many vectors of a class one image may add, as released: all labelled images together fill the bank.

    Args:
        size: vectors of a class in the bank (released 256).
        labelled_images: of the data set (with 256: 3 for 100 images, 1 from 172 on).
        classes: number of classes, if an image shows about three of them (the release's rule for Pascal); None: if it
            shows most of them (its rule for Cityscapes).
    """
    share = round(size / labelled_images)
    return max(1, share if classes is None else int(classes / 3 * share))


@torch.no_grad()
def update_bank(
    bank: Tensor,
    counts: Tensor,
    rows: Tensor,
    labels: Tensor,
    most: int,
    scores: Scores,
    keep: Literal["highest", "lowest"],
) -> tuple[Tensor, Tensor]:
    """The bank with new vectors put before the old ones; where there is no room, the oldest are dropped.

    The release truncates a class's first vectors only when the next ones arrive. Here a class never holds more than
    `size`. In every published setting `most` is smaller, so the two agree.

    Args:
        bank, counts: (C, size, D) and (C,), see above; not modified.
        rows, labels: the new vectors and their classes.
        most: vectors that each class may add. If there are more, they are sorted by score; otherwise they keep the
            order of `rows`.
        scores: rank the vectors of a class.
        keep: which of them are added: those with the highest scores (paper) or the lowest (the release sorts in
            ascending order and takes the first).

    Returns:
        The new bank and counts.
    """
    _check(rows, labels, bank, counts)
    bank, size = bank.clone(), bank.shape[1]
    added = []
    for index, new in enumerate(_by_class(rows, labels, len(bank))):
        if len(new) > most:
            # By scores, not logits: scores can tie, and of equal ones the first come first.
            order = scores(new, index).sigmoid().argsort(descending=keep == "highest", stable=True)
            new = new[order[:most]]
        if len(new):
            bank[index] = torch.cat([new.to(bank), bank[index]])[:size]
        added.append(len(new))
    return bank, (counts + torch.tensor(added, device=counts.device)).clamp(max=size)


def bank_contrast(
    rows: Tensor,
    labels: Tensor,
    bank: Tensor,
    counts: Tensor,
    scores: Scores | None = None,
    bank_scores: Scores | None = None,
) -> Tensor:
    """Mean weighted cosine distance of each class's vectors to those of the bank, summed over classes, divided by C.

    (1/C) sum_c mean_mn (1 - cos(p_m, z_n)) w_m w_n over classes with at least two vectors on both sides. A weight is a
    score's share of the sum of its side, times the number of vectors there. The scores are computed from detached
    vectors, so they learn to give distant ones less weight. 0, connected to the graph, where there is no such class.

    Args:
        rows, labels: the student's vectors p and their classes.
        bank, counts: constants of the loss.
        scores: of the student's vectors. None: all weights are 1.
        bank_scores: of the bank's vectors, normalised to length 1 first, as released. None: all weights are 1 (as
            released, where each score is divided by itself).

    Raises:
        ValueError: shapes do not fit.
    """
    _check(rows, labels, bank, counts)
    wide = torch.promote_types(rows.dtype, torch.float32)
    total = rows.to(wide).sum() * 0
    for index, (own, count) in enumerate(zip(_by_class(rows, labels, len(bank)), counts.tolist(), strict=True)):
        if len(own) < 2 or count < 2:
            continue
        banked = F.normalize(bank[index, :count].to(wide), dim=1)
        of_own = _weights(own.detach(), index, scores)
        of_banked = _weights(banked, index, bank_scores)
        # The mean over all pairs is a product of two means, so no matrix of pairs is needed.
        near = (of_own * F.normalize(own.to(wide), dim=1)).mean(dim=0) * (of_banked * banked).mean(dim=0)
        total = total + of_own.mean() * of_banked.mean() - near.sum()
    return total / len(bank)


def _weights(rows: Tensor, index: int, scores: Scores | None) -> Tensor:
    """Weights (n, 1) with mean 1."""
    if scores is None:
        return at_least_float32(rows.new_ones(len(rows), 1))
    found = at_least_float32(scores(rows, index)).sigmoid()[:, None]
    return len(rows) * found / (found.sum() + 1e-8)  # all scores may underflow


def _by_class(rows: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, ...]:
    """The rows of each class, in their order."""
    labels = labels.clamp(max=classes)
    sizes = labels.bincount(minlength=classes + 1).tolist()
    return rows[labels.argsort(stable=True)].split(sizes)[:classes]


def _check(rows: Tensor, labels: Tensor, bank: Tensor, counts: Tensor) -> None:
    if rows.dim() != 2 or labels.shape != rows.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"rows (M, D) and integer labels (M,) expected, found {tuple(rows.shape)} and {tuple(labels.shape)} "
            f"{labels.dtype}"
        )
    if bank.dim() != 3 or bank.shape[2] != rows.shape[1] or counts.shape != bank.shape[:1]:
        raise ValueError(
            f"a bank (C, size, {rows.shape[1]}) and counts (C,) expected, found {tuple(bank.shape)} and "
            f"{tuple(counts.shape)}"
        )
