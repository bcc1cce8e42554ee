"""A bank of feature vectors of each class, and class frequencies (Alonso et al., ICCV 2021, arXiv 2104.13415).

Everything that changes during training is a parameter or a persistent buffer.
"""

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn

from udaseg.nets.row_heads import RowHeads, Selection
from udaseg.nets.teacher import ema_update
from udaseg.ops.class_balance import balanced_weights, count_classes
from udaseg.ops.feature_bank import Scores, bank_contrast, update_bank
from udaseg.ops.maps import labelled_rows, nearest

Keep = Literal["paper", "released", "random"]


class ClassBank(nn.Module):
    """A bank of a teacher's vectors for each class, and the heads that bring a student's features near it.

    Args:
        channels: of the features.
        width: of the vectors.
        classes: number of them.
        size: vectors of each class.
        selectors: see `RowHeads`.
        keep: which vectors enter the bank if there are too many. paper: those with the highest scores; released: the
            lowest; random: any. Without selectors it is always random.
    """

    bank: Tensor
    counts: Tensor

    def __init__(self, channels: int, width: int, classes: int, size: int, selectors: Selection, keep: Keep) -> None:
        super().__init__()
        self.keep = keep
        self.heads = RowHeads(channels, width, classes, selectors)
        self.teacher_heads = deepcopy(self.heads).requires_grad_(False)
        self.register_buffer("bank", torch.zeros(classes, size, width))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))

    @torch.no_grad()
    def fill(self, features: Tensor, labels: Tensor, most: int, generator: torch.Generator) -> None:
        """Put a teacher's features into the bank where they are labelled.

        Args:
            features: (B, D, h, w).
            labels: (B, h, w) int64, 255 = ignore.
            most: number of vectors that a class may add.
            generator: on the CPU, for `keep: random`.
        """
        rows, labels = labelled_rows(features, labels)
        if len(rows) < 2:  # BatchNorm needs two
            return

        def chance(rows: Tensor, index: int) -> Tensor:
            return torch.rand(len(rows), generator=generator).to(rows.device)

        selectors = self.teacher_heads.selectors
        scores: Scores = chance if selectors is None or self.keep == "random" else selectors
        order: Literal["highest", "lowest"] = "lowest" if self.keep == "released" else "highest"
        rows = self.teacher_heads.projection(rows)
        self.bank, self.counts = update_bank(self.bank, self.counts, rows, labels, most, scores, order)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Distance () of a student's labelled features to the bank, see `ops.feature_bank.bank_contrast`.

        It is 0, connected to the graph, if fewer than two features are labelled or the bank has fewer than two vectors
        of each class.

        Args:
            features: (B, D, h, w).
            labels: (B, H, W) int64, 255 = ignore.
        """
        rows, labels = labelled_rows(features, nearest(labels, features.shape[-2:]))
        if len(rows) < 2:  # BatchNorm needs two
            return features.sum() * 0
        heads = self.heads
        return bank_contrast(heads(rows), labels, self.bank, self.counts, heads.selectors, heads.memory_selectors)

    def follow(self, keep: float) -> None:
        """After the step: the teacher's heads follow, keeping the share `keep` in [0, 1] of themselves."""
        ema_update(self.teacher_heads, self.heads, keep)

    def filled(self) -> Tensor:
        """() float in [0, 1]: how full the bank is."""
        return self.counts.float().mean() / self.bank.shape[1]


class ClassFrequencies(nn.Module):
    """Counts pixels of each class in the labels of the first batches and in the pseudo-labels of the last ones.

    Args:
        classes: number of them.
        window: number of first and of last batches that count.
    """

    labels: Tensor
    pseudo: Tensor
    batches: Tensor

    def __init__(self, classes: int, window: int) -> None:
        super().__init__()
        self.register_buffer("labels", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("pseudo", torch.zeros(window, classes, dtype=torch.int64))  # a ring
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))  # counted so far

    def add(self, labels: Tensor, pseudo: Tensor | None) -> None:
        """Count a batch of labels and pseudo-labels, of any shape, int64, 255 = ignore."""
        window, classes = self.pseudo.shape
        self.labels += count_classes(labels, classes) * (self.batches < window)
        if pseudo is not None:
            self.pseudo[self.batches % window] = count_classes(pseudo, classes)
        self.batches += 1

    def weights(self) -> Tensor:
        """Class weights (C,) float, positive, by median frequency; all 1 until `window` batches are counted."""
        found = balanced_weights(self.labels + self.pseudo.sum(dim=0))
        return torch.where(self.batches >= len(self.pseudo), found, 1.0)
