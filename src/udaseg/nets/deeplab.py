"""ResNet-50 and -101 as DeepLabv2 dilates them (Chen et al., TPAMI 2018; as AdaptSegNet, CBST and ProDA use it)."""

from typing import Literal

from torch import Tensor, nn

from udaseg.nets.base import Backbone


class ResNetBackbone(Backbone):
    """torchvision's ResNet without its classifier, at output stride 8 (512x1024 -> 65x129, 321x321 -> 41x41).

    Parameters are named as torchvision names them, so that its weights load by name.
    """

    feature_channels = {"layer3": 1024, "layer4": 2048}  # noqa: RUF012 (a constant of the class)
    head_feature = "layer4"
    aux_feature = "layer3"
    head_width = 256
    dilations = (6, 12, 18, 24)

    def __init__(self, depth: Literal[50, 101]) -> None:
        super().__init__()
        from torchvision.models import resnet50, resnet101  # takes two seconds, which a plan need not wait for

        build = {50: resnet50, 101: resnet101}[depth]
        # Caffe-style ResNets, the field's, stride in a block's first 1x1 convolution and dilate every block of a stage.
        # torchvision, which we follow, strides in the 3x3 and leaves a stage's first block at the dilation of the stage
        # before: its ImageNet weights, which the field loads too, were trained so. Shapes and parameters are the same.
        resnet = build(weights=None, replace_stride_with_dilation=[False, True, True])  # stride in the 3x3
        self.conv1, self.bn1, self.relu = resnet.conv1, resnet.bn1, resnet.relu
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)  # ceil: 512 -> 129 columns, not 128
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) -> features at stride 8."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        layer3 = self.layer3(self.layer2(self.layer1(stem)))
        return {"layer3": layer3, "layer4": self.layer4(layer3)}
