"""Domain classifiers: for patches of outputs or features, and for single feature locations."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from udaseg.errors import UserError


class PatchDiscriminator(nn.Module):
    """AdaptSegNet's fully convolutional discriminator: one domain logit for each patch.

    4x4 convolutions of stride 2 with channels -> width -> 2 width -> ... -> 1, LeakyReLU(0.2) between them. There is no
    normalisation, no sigmoid and, as released, no upsampling at the end (the paper's text has one).

    Args:
        channels: of the input; the number of classes in output space.
        width: channels after the first layer (paper 64).
        layers: convolutions (paper 5).
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 5) -> None:
        super().__init__()
        widths = [channels, *(width * 2**index for index in range(layers - 1)), 1]
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise(widths))
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, H, W) -> domain logits (B, 1, H // stride, W // stride).

        Raises:
            UserError: the input is smaller than one patch.
        """
        stride = 2 ** len(self.convs)
        if min(maps.shape[-2:]) < stride:
            raise UserError(
                f"the discriminator's input is {maps.shape[-2]}x{maps.shape[-1]}, its {len(self.convs)} layers need at "
                f"least {stride}x{stride}: use a larger crop or a discriminator with fewer layers"
            )
        *hidden, last = self.convs
        for conv in hidden:
            maps = self.activation(conv(maps))
        logits: Tensor = last(maps)
        return logits


class ProdaDiscriminator(nn.Module):
    """The discriminator of ProDA's warm-up: one domain logit for each patch, at half the stride of AdaptSegNet's.

    3x3 convolutions of stride 2 with channels -> width -> 2 width -> ..., then a 1x1 convolution to the logit. ReLU
    between them, but LeakyReLU(0.2) before the last; no normalisation, no sigmoid (as released).

    Args:
        channels: of the input; the number of classes in output space.
        width: channels after the first layer (released 64).
        layers: convolutions, including the last one (released 5).
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 5) -> None:
        super().__init__()
        widths = [channels, *(width * 2**index for index in range(layers - 1))]
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths))
        self.classifier = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, H, W) -> domain logits (B, 1, H / stride, W / stride), rounded up."""
        *hidden, last = self.convs
        for conv in hidden:
            maps = F.relu(conv(maps))
        logits: Tensor = self.classifier(F.leaky_relu(last(maps), 0.2))
        return logits


class PixelClassifier(nn.Module):
    """DANN's domain classifier at every feature location: 1x1 convolutions with ReLU and dropout between them.

    Args:
        channels: of the features.
        hidden: channels between the layers (DANN 1024).
        dropout: chance of dropping a hidden unit (commonly 0.5).
        layers: convolutions (DANN 3).
        outputs: 1, or 2 logits (source, target) as in DANN's reference code.
    """

    def __init__(
        self, channels: int, hidden: int = 1024, dropout: float = 0.5, layers: int = 3, outputs: int = 1
    ) -> None:
        super().__init__()
        widths = [channels, *[hidden] * (layers - 1), outputs]
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 1) for before, after in pairwise(widths))
        self.between = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> domain logits (B, outputs, h, w)."""
        *hidden, last = self.convs
        for conv in hidden:
            features = self.between(conv(features))
        logits: Tensor = last(features)
        return logits
