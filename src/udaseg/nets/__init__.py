"""The segmentation networks by name. To add one, write its backbone's file beside these and add its line here."""

from udaseg.nets.base import Backbone
from udaseg.nets.deeplab import ResNetBackbone
from udaseg.nets.small import SmallBackbone

NETWORKS: dict[str, type[Backbone]] = {
    "small": SmallBackbone,
    "deeplabv2": ResNetBackbone,
}
