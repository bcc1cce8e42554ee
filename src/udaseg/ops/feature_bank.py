"""A memory bank of feature vectors for each class, and a contrast of positives only with it.

Alonso et al., "Semi-Supervised Semantic Segmentation with Pixel-Level Contrastive Learning from a Class-wise Memory
Bank", ICCV 2021, arXiv 2104.13415. The bank holds vectors that a teacher computed for labelled pixels which it predicts
correctly and surely; a student's vectors are drawn to those of their class. There are no negatives.

Vectors are rows (M, D) with a class for each, (M,) int64; what is no class index below C is ignored. The bank is
(C, size, D), newest vector first, zeros behind the last one; counts (C,) int64 says how many there are.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from udaseg.ops.losses import IGNORE, resize

Scores = Callable[[Tensor, int], Tensor]  # rows (n, D) of a class, and the class -> logits (n,) of their scores


def quota(size: int, labelled_images: int, classes: int | None = None) -> int:
    """Vectors of each class that an image may add to the bank, as released: all labelled images together fill it.

    Args:
        size: vectors of a class in the bank (released 256).
        labelled_images: of the data set (with 256: 3 for 100 images, 1 from 172 on).
        classes: where an image shows about three classes of so many (the release's rule for Pascal); None: where it
            shows most of them (its rule for Cityscapes).
    """
    share = round(size / labelled_images)
    return max(1, share if classes is None else int(classes / 3 * share))


def nearest(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, *size) from maps (B, H, W) of any dtype, each cell with the value of one pixel, as released."""
    return F.interpolate(maps[:, None].float(), size=size, mode="nearest")[:, 0].to(maps.dtype)


@torch.no_grad()
def trusted_labels(labels: Tensor, logits: Tensor, confidence: float) -> Tensor:
    """Labels at the resolution of a teacher's logits, 255 where its prediction is another class or is not sure.

    Args:
        labels: (B, H, W) int64, 255 = ignore.
        logits: (B, C, h, w).
        confidence: the prediction's probability must exceed it (released 0.95).

    Returns:
        (B, h, w) int64.

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.dim() != 4 or labels.dim() != 3 or len(labels) != len(logits):
        raise ValueError(
            f"labels (B, H, W) and logits (B, C, h, w) expected, found {tuple(labels.shape)} and {tuple(logits.shape)}"
        )
    probs, predicted = resize(logits.float(), labels.shape[-2:]).softmax(dim=1).max(dim=1)
    trusted = (predicted == labels) & (probs > confidence)
    return nearest(labels.masked_fill(~trusted, IGNORE), logits.shape[-2:])


def labelled_rows(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors of features (B, D, h, w) where labels (B, h, w) are not 255, row by row: (M, D), and their labels."""
    if features.dim() != 4 or labels.shape != (features.shape[0], *features.shape[2:]):
        raise ValueError(
            f"features (B, D, h, w) and labels (B, h, w) expected, found {tuple(features.shape)} and "
            f"{tuple(labels.shape)}"
        )
    there = labels != IGNORE
    return features.movedim(1, -1)[there], labels[there]


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
    """The bank with new vectors before the old ones, of which the oldest go where there is no room.

    The release cuts off a class's first vectors only when the next ones come. Here a class never holds more than
    `size`; as `most` is less than that in every published setting, the two agree.

    Args:
        bank, counts: (C, size, D) and (C,), see above; they stay as they are.
        rows, labels: the new vectors and their classes.
        most: vectors that each class may add. They come in the order of their scores where there are more, otherwise
            in that of `rows`.
        scores: rank the vectors of a class.
        keep: which of them are added: those of the highest scores (the paper's) or of the lowest (the release sorts in
            ascending order and takes the first).

    Returns:
        The new bank and counts.
    """
    _check(rows, labels, bank, counts)
    bank, size = bank.clone(), bank.shape[1]
    added = []
    for index, new in enumerate(_by_class(rows, labels, len(bank))):
        if len(new) > most:
            # Of the scores, not of their logits: where they are equal, the first ones come first.
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
    memory_scores: Scores | None = None,
) -> Tensor:
    """Mean weighted cosine distance of each class's vectors to those of the bank, summed over classes, divided by C.

    (1/C) sum_c mean_mn (1 - cos(p_m, z_n)) w_m w_n over classes with at least two vectors on either side. A weight is a
    score's share of its side's sum, times the side's length; the scores see vectors from which no gradient returns, so
    they learn to give far ones less. 0, connected to the graph, where there is no such class.

    Args:
        rows, labels: the student's vectors p and their classes.
        bank, counts: constants of the loss.
        scores: of the student's vectors, as they are. None: all weights are 1.
        memory_scores: of the bank's vectors, which are brought to length 1 before, as released. None: all weights are 1
            (as released: it divides each score by itself).

    Raises:
        ValueError: shapes do not fit.
    """
    _check(rows, labels, bank, counts)
    wide = torch.promote_types(rows.dtype, torch.float32)
    total = rows.to(wide).sum() * 0
    for index, (own, count) in enumerate(zip(_by_class(rows, labels, len(bank)), counts.tolist(), strict=True)):
        if len(own) < 2 or count < 2:
            continue
        memory = F.normalize(bank[index, :count].to(wide), dim=1)
        of_own = _weights(own.detach(), index, scores)
        of_memory = _weights(memory, index, memory_scores)
        # The mean over all pairs is a product of two means: no matrix of pairs is needed.
        near = (of_own * F.normalize(own.to(wide), dim=1)).mean(dim=0) * (of_memory * memory).mean(dim=0)
        total = total + of_own.mean() * of_memory.mean() - near.sum()
    return total / len(bank)


def _weights(rows: Tensor, index: int, scores: Scores | None) -> Tensor:
    """(n, 1) weights with the mean 1."""
    if scores is None:
        return rows.new_ones(len(rows), 1, dtype=torch.promote_types(rows.dtype, torch.float32))
    logits = scores(rows, index)
    found = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()[:, None]
    return len(rows) * found / (found.sum() + 1e-8)  # scores may all underflow


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
