"""Domain classifiers: of output space or feature patches, and of single feature locations."""

from itertools import pairwise

from torch import Tensor, nn

from udaseg.errors import UserError


class PatchDiscriminator(nn.Module):
    """AdaptSegNet's fully convolutional discriminator: one domain logit for each patch.

    4x4 convolutions of stride 2 with channels -> width -> 2 width -> ... -> 1, LeakyReLU(0.2) between them; no
    normalisation, no sigmoid, and, as released, no upsampling at the end (the paper's text has one).

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


class PixelClassifier(nn.Module):
    """DANN's domain classifier at every feature location: 1x1 convolutions with ReLU and dropout between them.

    Args:
        channels: of the features.
        hidden: channels between the layers (DANN 1024).
        dropout: chance of dropping a hidden unit (0.5 in common implementations).
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
