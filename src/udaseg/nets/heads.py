"""Heads of segmentation networks: DeepLabv2's classifier, and the larger one of ProDA, CPSL and DiGA."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """Features to logits in two parts: to the embedding, which the classifier sees, and from there to logits."""

    embedding_channels: int

    def embed(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, embedding_channels, h, w). By default the features themselves."""
        return features

    def classify(self, embedding: Tensor) -> Tensor:
        """(B, embedding_channels, h, w) -> logits (B, classes, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} does not classify")

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> logits (B, classes, h, w)."""
        return self.classify(self.embed(features))


class Aspp(Head):
    """DeepLabv2's classifier: the sum of parallel 3x3 convolutions with different dilations.

    Weights are drawn from N(0, 0.01), biases as in PyTorch, like in AdaptSegNet's release.
    """

    def __init__(self, channels: int, classes: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.embedding_channels = channels
        self.branches = nn.ModuleList()
        # Each branch is drawn completely before the next, so a head with fewer branches starts from the same weights.
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
    """The classifier in the releases of ProDA, CPSL and DiGA; their papers call it DeepLabv2's.

    A 1x1 and several dilated 3x3 convolutions run in parallel, and a squeeze-and-excite block (Hu et al., CVPR 2018)
    weighs their channels. A 3x3 convolution with GroupNorm fuses them (no ReLU); after dropout this is the embedding. A
    1x1 convolution without bias makes the logits.

    Weights of convolutions are drawn from N(0, 0.01), as the release does in effect; all others as in PyTorch.

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
        """(B, channels, h, w) -> (B, width, h, w); in training, dropout zeroes whole channels."""
        maps = torch.cat([F.relu(branch(features)) for branch in self.branches], dim=1)
        # Not adaptive pooling, because its gradient is not deterministic on CUDA.
        shares = self.excite(maps.mean(dim=(2, 3)))
        embedding: Tensor = self.dropout(self.fuse(maps * shares[:, :, None, None]))
        return embedding

    def classify(self, embedding: Tensor) -> Tensor:
        """(B, width, h, w) -> logits (B, classes, h, w)."""
        logits: Tensor = self.classifier(embedding)
        return logits


def _conv_norm(channels: int, width: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, and GroupNorm with eight channels a group (ProDA: 32 groups of 256 channels)."""
    conv = nn.Conv2d(channels, width, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    nn.init.normal_(conv.weight, std=0.01)
    return nn.Sequential(conv, nn.GroupNorm(width // 8, width))
