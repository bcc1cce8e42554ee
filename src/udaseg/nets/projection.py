"""PiPa's heads on feature maps in training: projections to embeddings of length 1, and a classifier beside them.

Chen et al., ACM MM 2023, arXiv 2211.07609; layers and widths as released. Weights are drawn as in PyTorch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udaseg.ops.precision import at_least_float32


class PixelProjection(nn.Module):
    """Embeddings for PiPa's pixel contrast: 1x1 convolution, BatchNorm, ReLU, 1x1 convolution, scaled to length 1.

    Args:
        channels: of the features (released 1024, the concatenated four stages of MiT-B5).
        width: channels between the convolutions (released: as the features).
        outputs: of the embedding (released 256).
    """

    def __init__(self, channels: int, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, outputs, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, outputs, h, w), of length 1 at every pixel; float32 also under autocast."""
        return _unit(self.layers(features))


class PatchProjection(nn.Module):
    """Embeddings for PiPa's patch contrast: 1x1 convolution, ReLU, 1x1 convolution, scaled to length 1.

    Args:
        channels: of the features (released 256, DAFormer's decoder).
        width: channels between the convolutions (released 256).
        outputs: of the embedding (released 128).
    """

    def __init__(self, channels: int, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, outputs, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, outputs, h, w), of length 1 at every pixel; float32 also under autocast."""
        return _unit(self.layers(features))


class SideClassifier(nn.Module):
    """The classifier whose errors the release calls hard pixels: 3x3 convolution, BatchNorm, ReLU, dropout, 1x1 one.

    In the release no loss ever reaches it, so it keeps its random weights.

    Args:
        channels: of the features (released 1024).
        width: channels between the convolutions (released: as the features).
        classes: channels of the logits.
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout2d(0.1),
            nn.Conv2d(width, classes, 1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> logits (B, classes, h, w)."""
        logits: Tensor = self.layers(features)
        return logits


def _unit(maps: Tensor) -> Tensor:
    """Maps (B, D, h, w) with vectors scaled to length 1 (zeros stay zeros), in float32 or wider."""
    with torch.autocast(maps.device.type, enabled=False):
        return F.normalize(at_least_float32(maps), dim=1)
