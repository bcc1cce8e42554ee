from types import SimpleNamespace

import pytest
import torch
from torch import nn

from udaseg.nets.build import build_network
from udaseg.nets.deeplab import ResNetBackbone


def spec(**changes):
    default = {"name": "deeplabv2", "depth": 50, "head": "aspp", "aspp": "paper", "feature_norm": False}
    return SimpleNamespace(**default | changes)


def net(depth=50, norm="train", levels=2, **changes):
    with torch.device("meta"):  # shapes without numbers
        return build_network(spec(depth=depth, norm=norm, **changes), 19, levels, seed=0)


@pytest.mark.parametrize("size,expected", [((321, 321), (41, 41)), ((512, 1024), (65, 129)), ((65, 33), (9, 5))])
@pytest.mark.parametrize("depth", [50, 101])
def test_output_stride_is_eight_rounded_up(depth, size, expected):
    outputs = net(depth)(torch.empty(1, 3, *size, device="meta"))
    assert tuple(outputs.logits.shape) == (1, 19, *expected)
    assert tuple(outputs.aux_logits.shape) == (1, 19, *expected)
    channels = {"layer3": 1024, "layer4": 2048, "embedding": 2048}
    assert {name: maps.shape[1] for name, maps in outputs.features.items()} == channels


@pytest.mark.parametrize("size,expected", [((128, 256), (17, 33)), ((65, 33), (9, 5))])
def test_the_squeezed_embedding_has_256_channels_and_keeps_the_stride(size, expected):
    model = net(head="squeeze_excite", feature_norm=True)
    outputs = model(torch.empty(2, 3, *size, device="meta"))
    assert tuple(outputs.logits.shape) == (2, 19, *expected)
    assert tuple(outputs.aux_logits.shape) == (2, 19, *expected)
    assert tuple(outputs.features["embedding"].shape) == (2, 256, *expected)
    assert model.feature_channels == {"layer3": 1024, "layer4": 2048, "embedding": 256}
    assert model.head.fuse[1].num_groups == 32


def test_dilations_and_the_place_of_the_stride():
    with torch.device("meta"):
        backbone = ResNetBackbone(50)
    block = backbone.layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))
    assert [block.conv2.dilation[0] for block in backbone.layer3] == [1, 2, 2, 2, 2, 2]
    assert [block.conv2.dilation[0] for block in backbone.layer4] == [2, 4, 4]


def test_only_what_is_trained_by_the_paper_trains():
    frozen = [name for name, parameter in net(norm="affine_frozen").named_parameters() if not parameter.requires_grad]
    modules = dict(net().named_modules())
    assert len(frozen) == 2 * 53
    assert all(isinstance(modules[name.rpartition(".")[0]], nn.BatchNorm2d) for name in frozen)


def test_a_depth_without_a_network_is_refused():
    with pytest.raises(KeyError):
        ResNetBackbone(34)


def test_runs_on_numbers():
    model = build_network(spec(aspp="released", norm="eval"), 4, 1, seed=0)
    outputs = model(torch.rand(1, 3, 33, 49))
    outputs.logits.mean().backward()
    assert outputs.logits.isfinite().all()
    assert model.backbone.conv1.weight.grad.isfinite().all()
