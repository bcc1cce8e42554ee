"""Heads of the feature bank, on single feature vectors, rows (M, D) (Alonso et al., ICCV 2021, arXiv 2104.13415).

They are used in training only, so BatchNorm keeps no running statistics: it normalises with those of the rows that it
is given, at least two. A layer has no bias where the next BatchNorm would remove it.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Selection = Literal["paper", "released", "none"]


def row_mlp(channels: int, width: int, bias: bool) -> nn.Sequential:
    """Rows (M, channels) -> (M, width): linear, BatchNorm, ReLU, linear (`bias`: whether the last one has one)."""
    return nn.Sequential(
        nn.Linear(channels, width, bias=False),
        nn.BatchNorm1d(width, track_running_stats=False),
        nn.ReLU(),
        nn.Linear(width, width, bias=bias),
    )


class ClassSelectors(nn.Module):
    """A small network for each class that scores its rows: linear, BatchNorm, LeakyReLU(0.2), linear to one logit.

    The classes' network weights are stacked, so every parameter gets a gradient even in a step without some of the
    classes. They are initialised like torch's linear layers.

    Args:
        classes: number of them, C.
        width: channels of the rows, and between the layers.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.hidden = nn.Parameter(torch.empty(classes, width, width).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.ones(classes, width))
        self.shift = nn.Parameter(torch.zeros(classes, width))
        self.last = nn.Parameter(torch.empty(classes, 1, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(classes, 1).uniform_(-bound, bound))

    def forward(self, rows: Tensor, index: int) -> Tensor:
        """Rows (M, width) of class `index`, at least two -> logits (M,) of their scores."""
        hidden = F.linear(rows, self.hidden[index])
        hidden = F.batch_norm(hidden, None, None, self.scale[index], self.shift[index], training=True)
        return F.linear(F.leaky_relu(hidden, 0.2), self.last[index], self.bias[index])[:, 0]


class RowHeads(nn.Module):
    """The bank's heads on the features, beside the classifier.

    Args:
        channels: of the features (DeepLabv2 2048).
        width: of the projection (released 256).
        classes: number of them.
        selectors: "paper": for the student's rows and for the bank's; "released": for the student's only, since those
            of the bank get no gradient there; "none".
    """

    def __init__(self, channels: int, width: int, classes: int, selectors: Selection) -> None:
        super().__init__()
        # The prediction's BatchNorm removes what a last bias of the projection would add.
        self.projection = row_mlp(channels, width, bias=False)
        self.prediction = row_mlp(width, width, bias=True)
        self.selectors = None if selectors == "none" else ClassSelectors(classes, width)
        self.memory_selectors = ClassSelectors(classes, width) if selectors == "paper" else None

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of features (M, channels), at least two -> rows (M, width) to compare with the bank."""
        predicted: Tensor = self.prediction(self.projection(rows))
        return predicted
