"""Building segmentation networks from their spec, and grouping their parameters for the optimizer."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from udaseg.errors import UserError
from udaseg.nets import NETWORKS
from udaseg.nets.base import SegmentationNet, initialised_from
from udaseg.nets.heads import Aspp, Head, SqueezeExciteHead
from udaseg.seeding import seed_for

if TYPE_CHECKING:
    from udaseg.config.training import Network


def build_network(spec: "Network", classes: int, levels: int, seed: int) -> SegmentationNet:
    """A network with random initial weights, which depend on nothing but the seed.

    Backbone and heads have seeds of their own. So a network with an auxiliary head starts from the same weights as
    one without, and a head with two branches from the first two of one with four.

    Args:
        spec: name and depth, kind and branches of the heads, BatchNorm before the head, BatchNorm policy.
        classes: channels of the logits.
        levels: 1, or 2 for an auxiliary head on the stage before the last.
        seed: of the run.

    Raises:
        UserError: no network has this name.
        ValueError: another number of levels.
    """
    if spec.name not in NETWORKS:
        raise UserError(f"network.name: '{spec.name}' is not known; known: {', '.join(NETWORKS)}")
    if levels not in (1, 2):
        raise ValueError(f"levels: 1 or 2 expected, found {levels}")
    with initialised_from(seed_for(seed, "init.network")):
        backbone = NETWORKS[spec.name].from_spec(spec)
    # AdaptSegNet's release returns from within the loop over the branches, after the second one.
    dilations = backbone.dilations if spec.aspp == "paper" else backbone.dilations[:2]
    kinds: dict[str, Callable[[int], Head]] = {
        "aspp": lambda channels: Aspp(channels, classes, dilations),
        "squeeze_excite": lambda channels: SqueezeExciteHead(
            channels, classes, backbone.dilations, backbone.head_width
        ),
    }
    # The auxiliary level always has DeepLabv2's head, because only AdaptSegNet uses one.
    wanted = [(spec.head, backbone.head_feature), ("aspp", backbone.aux_feature)][:levels]
    heads = []
    for level, (kind, feature) in enumerate(wanted):
        with initialised_from(seed_for(seed, "init.head", level)):
            heads.append(kinds[kind](backbone.feature_channels[feature]))
    return SegmentationNet(backbone, heads[0], heads[1] if levels == 2 else None, spec.feature_norm, spec.norm)


def parameter_groups(net: SegmentationNet) -> dict[str, list[nn.Parameter]]:
    """All parameters, including frozen ones, each exactly once: of the "backbone" and of the heads ("head").

    The BatchNorm before the head belongs to the heads, as in ProDA's release: both are new, the backbone is pretrained.
    """
    heads = [module for module in (net.head, net.aux_head, net.feature_norm) if module is not None]
    return {
        "backbone": list(net.backbone.parameters()),
        "head": [parameter for module in heads for parameter in module.parameters()],
    }


def released_listings(net: SegmentationNet) -> dict[str, int]:
    """How often AdaptSegNet's and CRST's releases list each parameter in the backbone's group of their SGD.

    They visit all modules and list the parameters of each, including those of its submodules. A parameter is
    listed once for every module around it: 3 times, 4 in a projection shortcut, once in the stem; 0: heads and frozen.
    """
    return {
        name: name.count(".") - 1 if name.startswith("backbone.") and parameter.requires_grad else 0
        for name, parameter in net.named_parameters()
    }
