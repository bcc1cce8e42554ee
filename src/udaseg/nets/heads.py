"""What stands on a backbone: DeepLabv2's classifier, and the larger one of ProDA and its followers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """Features to logits, in two parts: to the embedding, which is what the classifier sees, and from there."""

    embedding_channels: int

    def embed(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, embedding_channels, h, w). The features themselves, where nothing is between."""
        return features

    def classify(self, embedding: Tensor) -> Tensor:
        """(B, embedding_channels, h, w) -> logits (B, classes, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} does not classify")

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> logits (B, classes, h, w)."""
        return self.classify(self.embed(features))


class Aspp(Head):
    """DeepLabv2's classifier: the sum of parallel 3x3 convolutions with different dilations.

    Weights are drawn from N(0, 0.01), biases as PyTorch does, as in AdaptSegNet's release.
    """

    def __init__(self, channels: int, classes: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.embedding_channels = channels
        self.branches = nn.ModuleList()
        # Each branch is drawn whole before the next, so that fewer of them start from the same weights.
        for dilation in dilations:
            branch = nn.Conv2d(channels, classes, 3, padding=dilation, dilation=dilation)
            nn.init.normal_(branch.weight, std=0.01)
            self.branches.append(branch)

    def classify(self, embedding: Tensor) -> Tensor:
        """(B, channels, h, w) -> logits (B, classes, h, w)."""
        first, *others = self.branches
        logits: Tensor = first(embedding)
        for branch in others:
            logits = logits + branch(embedding)
        return logits


class SqueezeExciteHead(Head):
    """The classifier of ProDA's release, which CPSL's and DiGA's have too; the papers call it DeepLabv2's.

    A 1x1 and some dilated 3x3 convolutions side by side; a squeeze-and-excite block (Hu et al., CVPR 2018) weighs their
    channels; a 3x3 convolution fuses them, and what dropout leaves of its GroupNorm (no ReLU) is the embedding, from
    which a 1x1 convolution without bias makes logits.

    Weights of convolutions are drawn from N(0, 0.01), as the release does in the end; all else as PyTorch does.

    Args:
        channels: of the features.
        classes: channels of the logits.
        dilations: of the 3x3 branches.
        width: channels of each branch and of the embedding; a multiple of 8.
    """

    def __init__(self, channels: int, classes: int, dilations: Sequence[int], width: int) -> None:
        super().__init__()
        self.embedding_channels = width
        self.branches = nn.ModuleList([_conv_norm(channels, width, kernel=1)])
        self.branches.extend(_conv_norm(channels, width, 3, dilation) for dilation in dilations)
        together = width * len(self.branches)
        self.excite = nn.Sequential(
            nn.Linear(together, together // 16), nn.ReLU(), nn.Linear(together // 16, together), nn.Sigmoid()
        )
        self.fuse = _conv_norm(together, width, kernel=3)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, classes, 1, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def embed(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, width, h, w), of which dropout zeroes whole channels while training."""
        maps = torch.cat([F.relu(branch(features)) for branch in self.branches], dim=1)
        # Not adaptive pooling: the gradient of that is not deterministic on a GPU.
        shares = self.excite(maps.mean(dim=(2, 3)))
        embedding: Tensor = self.dropout(self.fuse(maps * shares[:, :, None, None]))
        return embedding

    def classify(self, embedding: Tensor) -> Tensor:
        """(B, width, h, w) -> logits (B, classes, h, w)."""
        logits: Tensor = self.classifier(embedding)
        return logits


def _conv_norm(channels: int, width: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, and GroupNorm with eight channels a group: ProDA's 32 groups of 256 channels."""
    conv = nn.Conv2d(channels, width, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    nn.init.normal_(conv.weight, std=0.01)
    return nn.Sequential(conv, nn.GroupNorm(width // 8, width))
