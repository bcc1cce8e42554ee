from types import SimpleNamespace

import pytest
import torch

from udaseg.nets.build import build_network
from udaseg.nets.small import Residual, SmallBackbone
from udaseg.ops.losses import cross_entropy
from udaseg.ops.maps import resize


def net(classes=3):
    spec = SimpleNamespace(name="small", depth=50, head="aspp", aspp="paper", feature_norm=False, norm="train")
    return build_network(spec, classes, 1, seed=0)


def test_is_small():
    assert 100_000 <= sum(parameter.numel() for parameter in net(classes=11).parameters()) <= 500_000


@pytest.mark.parametrize("size", [(96, 96), (64, 96), (33, 65), (17, 40)])
def test_strides(size):
    features = SmallBackbone()(torch.rand(2, 3, *size))
    fourth = tuple(-(-side // 4) for side in size)
    eighth = tuple(-(-side // 8) for side in size)
    assert tuple(features["fused"].shape[2:]) == fourth
    assert tuple(features["layer3"].shape[2:]) == tuple(features["layer4"].shape[2:]) == eighth


def test_residual_keeps_its_shortcut():
    block = Residual(4, 4).eval()
    torch.nn.init.zeros_(block.conv2[0].weight)
    x = torch.rand(1, 4, 5, 5)
    assert torch.equal(block(x), x)


def test_images_with_other_channels_are_refused():
    with pytest.raises(RuntimeError):
        net()(torch.rand(1, 4, 32, 32))


def test_learns_a_thin_pole():
    """A column three pixels wide, less than one cell of the logits."""
    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 48, 48) * 0.2, torch.zeros(4, 48, 48, dtype=torch.int64)
    for index in range(4):
        images[index, :, :, 10 + 7 * index : 13 + 7 * index] += 0.7
        labels[index, :, 10 + 7 * index : 13 + 7 * index] = 1
    model = net(classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = cross_entropy(resize(model(images).logits, (48, 48)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted = resize(model(images).logits, (48, 48)).argmax(dim=1)
    hit = ((predicted == 1) & (labels == 1)).sum() / ((predicted == 1) | (labels == 1)).sum()
    assert hit > 0.7
