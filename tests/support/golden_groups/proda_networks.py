"""The networks of ProDA: the one with its head, and the discriminator of its warm-up."""

from typing import Any

import torch
from support.golden_groups.base import Arrays, Golden, count, network, sizes

from udaseg.nets.build import released_listings
from udaseg.nets.discriminators import ProdaDiscriminator


def proda_shapes(arrays: Arrays) -> dict[str, Any]:
    batch, classes, *_ = arrays["out_shape"].tolist()
    feature_norm = "bn_pretrain.weight" in arrays["param_names"].tolist()
    with torch.device("meta"):  # shapes without numbers
        discriminator = ProdaDiscriminator(classes)
        net = network("deeplabv2", 101, "train", classes, 1, head="squeeze_excite", feature_norm=feature_norm)
        outputs = net(torch.empty(batch, 3, *sizes(arrays["in_hw"])))
        height, width, *_ = arrays["discriminator_in_hw_out_hw"].tolist()
        discriminated = discriminator(torch.empty(1, classes, height, width))
    return {
        "feat_shape": outputs.features["embedding"].shape,
        "out_shape": outputs.logits.shape,
        "n_params_total": count(list(net.parameters())),
        "n_params_head": count(list(net.head.parameters())),
        "multiplicity_in_1x_group": list(released_listings(net).values()),
        "n_params_discriminator": count(list(discriminator.parameters())),
        "discriminator_in_hw_out_hw": [height, width, *discriminated.shape[2:]],
    }


CASES: dict[str, Golden] = {
    "proda.shapes": Golden(
        proda_shapes,
        exact=[
            "feat_shape",
            "out_shape",
            "n_params_total",
            "n_params_head",
            "multiplicity_in_1x_group",
            "n_params_discriminator",
            "discriminator_in_hw_out_hw",
        ],
    ),
}
