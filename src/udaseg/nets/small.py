"""A small network for studies on a CPU: the parts of DeepLabv2 at a hundredth of its size.

Residual stages down to output stride 8, the last one dilated. Their features are fused with those of the first stage at
stride 4, so that thin things (poles, signs) are not lost. The head is the same as DeepLabv2's.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from udaseg.nets.base import Backbone
from udaseg.ops.maps import resize


def conv_norm(channels: int, width: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the size, except for the stride, and BatchNorm."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(channels, width, kernel, stride, padding, dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(width))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which has a projection where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_norm(channels, width, 3, stride, dilation)
        self.conv2 = conv_norm(width, width, 3, 1, dilation)
        same = channels == width and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class SmallBackbone(Backbone):
    """Features "layer3" and "layer4" at stride 8, as a ResNet's, and "fused" at stride 4, which the head takes."""

    title = "small"
    feature_channels: ClassVar = {"layer3": 96, "layer4": 96, "fused": 48}
    head_feature = "fused"
    aux_feature = "layer3"
    head_width = 32  # with 48, the channels of "fused", the network would cost twice what it does with the aspp head
    dilations = (1, 3, 6, 9)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16, 3, stride=2)
        self.layer1 = Residual(16, 32, stride=2)
        self.layer2 = Residual(32, 64, stride=2)
        self.layer3 = Residual(64, 96)
        self.layer4 = Residual(96, 96, dilation=2)
        self.lateral = conv_norm(32, 48, 1)
        self.reduce = conv_norm(96, 48, 1)
        self.fuse = conv_norm(48, 48, 3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) -> features."""
        layer1 = self.layer1(F.relu(self.stem(images)))
        layer3 = self.layer3(self.layer2(layer1))
        layer4 = self.layer4(layer3)
        raised = resize(self.reduce(layer4), (layer1.shape[-2], layer1.shape[-1]))
        fused = F.relu(self.fuse(F.relu(raised + self.lateral(layer1))))
        return {"layer3": layer3, "layer4": layer4, "fused": fused}
