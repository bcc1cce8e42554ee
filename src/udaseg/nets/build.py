"""Builds segmentation networks from their spec, and says which parameters are trained how."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from udaseg.errors import UserError
from udaseg.nets.base import Backbone, SegmentationNet, initialised_from
from udaseg.nets.deeplab import ResNetBackbone
from udaseg.nets.heads import Aspp, Head, SqueezeExciteHead
from udaseg.nets.small import SmallBackbone
from udaseg.seeding import seed_for

if TYPE_CHECKING:
    from udaseg.config.training import Network

BACKBONES: dict[str, Callable[["Network"], Backbone]] = {
    "small": lambda spec: SmallBackbone(),
    "deeplabv2": lambda spec: ResNetBackbone(spec.depth),
}


def build_network(spec: "Network", classes: int, levels: int, seed: int) -> SegmentationNet:
    """A network with random initial weights, which depend on the seed and on nothing that was drawn before.

    Backbone and heads have seeds of their own, so a network with an auxiliary head starts from the same weights as one
    without, and one with two branches from the first two of the one with four.

    Args:
        spec: name, depth, kind and branches of the heads, BatchNorm before the head and policy of all.
        classes: channels of the logits.
        levels: 1, or 2 for an auxiliary head on the stage before the last.
        seed: of the run.

    Raises:
        UserError: no network has this name.
    """
    if spec.name not in BACKBONES:
        raise UserError(f"network.name: '{spec.name}' is not known; known: {', '.join(BACKBONES)}")
    if levels not in (1, 2):
        raise ValueError(f"levels: 1 or 2 expected, found {levels}")
    with initialised_from(seed_for(seed, "init.network")):
        backbone = BACKBONES[spec.name](spec)
    # AdaptSegNet's release returns from inside the loop over the branches, after the second one.
    dilations = backbone.dilations if spec.aspp == "paper" else backbone.dilations[:2]
    kinds: dict[str, Callable[[int], Head]] = {
        "aspp": lambda channels: Aspp(channels, classes, dilations),
        "squeeze_excite": lambda channels: SqueezeExciteHead(
            channels, classes, backbone.dilations, backbone.head_width
        ),
    }
    # The auxiliary level has DeepLabv2's head whatever the main one has: AdaptSegNet's is the only one there is.
    wanted = [(spec.head, backbone.head_feature), ("aspp", backbone.aux_feature)][:levels]
    heads = []
    for level, (kind, feature) in enumerate(wanted):
        with initialised_from(seed_for(seed, "init.head", level)):
            heads.append(kinds[kind](backbone.feature_channels[feature]))
    return SegmentationNet(backbone, heads[0], heads[1] if levels == 2 else None, spec.feature_norm, spec.norm)


def parameter_groups(net: SegmentationNet) -> dict[str, list[nn.Parameter]]:
    """All parameters, frozen ones too, each exactly once: those of the "backbone" and those of the "head"s.

    The BatchNorm before the head learns with the head, as in ProDA's release: both are new, the backbone is not.
    """
    heads = [module for module in (net.head, net.aux_head, net.feature_norm) if module is not None]
    return {
        "backbone": list(net.backbone.parameters()),
        "head": [parameter for module in heads for parameter in module.parameters()],
    }


def released_listings(net: SegmentationNet) -> dict[str, int]:
    """How often AdaptSegNet's and CRST's releases list each parameter in the backbone's group of their SGD.

    They walk through all modules and list the parameters of each, those of its submodules included: a weight stands
    there once for every module around it (3 times; 4 in a projection shortcut; once in the stem). 0: heads and frozen.
    """
    return {
        name: name.count(".") - 1 if name.startswith("backbone.") and parameter.requires_grad else 0
        for name, parameter in net.named_parameters()
    }
