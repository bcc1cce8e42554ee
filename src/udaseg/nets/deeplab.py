"""ResNet-50 and -101 as DeepLabv2 dilates them (Chen et al., TPAMI 2018; as AdaptSegNet, CBST and ProDA use it)."""

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from udaseg.errors import UserError
from udaseg.nets.base import Backbone

if TYPE_CHECKING:
    from udaseg.config.schema import Network


class ResNetBackbone(Backbone):
    """torchvision's ResNet without its classifier, at output stride 8 (512x1024 -> 65x129, 321x321 -> 41x41).

    Parameters have torchvision's names, so its weights load by name.
    """

    title = "deeplabv2, ResNet-{depth}"
    pretraining_job = False
    feature_channels: ClassVar = {"layer3": 1024, "layer4": 2048}
    head_feature = "layer4"
    aux_feature = "layer3"
    head_width = 256
    dilations = (6, 12, 18, 24)

    def __init__(self, depth: Literal[50, 101]) -> None:
        super().__init__()
        from torchvision.models import resnet50, resnet101  # imported here because it takes two seconds

        build = {50: resnet50, 101: resnet101}[depth]
        # The field's Caffe-style ResNets stride in a block's first 1x1 convolution and dilate every block of a stage.
        # torchvision, which we follow, strides in the 3x3 convolution and keeps the previous stage's dilation in a
        # stage's first block; its ImageNet weights, which the field loads too, were trained like this. Shapes and
        # parameters are the same.
        resnet = build(weights=None, replace_stride_with_dilation=[False, True, True])
        self.conv1, self.bn1, self.relu = resnet.conv1, resnet.bn1, resnet.relu
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)  # ceil: 512 -> 129 columns, not 128
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4

    @classmethod
    def from_spec(cls, spec: "Network") -> Self:
        """The ResNet of the depth that `spec` names."""
        return cls(spec.depth)

    @classmethod
    def published_weights(cls, spec: "Network") -> dict[str, Tensor]:
        """torchvision's ImageNet weights (V1, as the field uses them), by torchvision's names.

        Raises:
            UserError: they can be neither downloaded nor read.
        """
        from torchvision.models import ResNet50_Weights, ResNet101_Weights

        weights = {50: ResNet50_Weights.IMAGENET1K_V1, 101: ResNet101_Weights.IMAGENET1K_V1}[spec.depth]
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        try:
            # weights_only: torchvision's files are pickles, and this refuses to run any code in them.
            tensors: dict[str, Tensor] = weights.get_state_dict(
                check_hash=True, weights_only=True, map_location="cpu", progress=False
            )
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{weights.url}: could not be downloaded and read ({reason}). Put this file into {folder} (or replace "
                f"the one there), or give initial weights as init: file:PATH to a .safetensors file"
            ) from error
        return tensors

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) -> features at stride 8."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        layer3 = self.layer3(self.layer2(self.layer1(stem)))
        return {"layer3": layer3, "layer4": self.layer4(layer3)}
