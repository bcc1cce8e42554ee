import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from udaseg.nets.heads import Aspp, SqueezeExciteHead


class TestAspp:
    def test_is_the_sum_of_its_branches(self):
        head = Aspp(4, 3, dilations=[1, 5])
        features = torch.rand(2, 4, 7, 6)
        expected = sum(
            nn.functional.conv2d(features, branch.weight, branch.bias, padding=dilation, dilation=dilation)
            for branch, dilation in zip(head.branches, [1, 5], strict=True)
        )
        torch.testing.assert_close(head(features), expected)

    def test_its_embedding_is_what_it_is_given(self):
        head, features = Aspp(4, 3, dilations=[1]), torch.rand(2, 4, 7, 6)
        assert head.embed(features) is features
        assert head.embedding_channels == 4

    def test_a_map_smaller_than_the_dilation_is_allowed(self):
        assert Aspp(4, 3, dilations=[24])(torch.rand(1, 4, 2, 3)).shape == (1, 3, 2, 3)

    def test_features_with_other_channels_are_refused(self):
        with pytest.raises(RuntimeError):
            Aspp(4, 3, dilations=[1])(torch.rand(1, 5, 8, 8))


def squeeze_excite(channels=4, classes=3, dilations=(1, 3, 6, 9), width=16):
    torch.manual_seed(0)
    return SqueezeExciteHead(channels, classes, dilations, width)


def normed(maps, group):
    """GroupNorm without its affine part, for a batch of maps: `group` channels at a time."""
    out = torch.empty_like(maps)
    for image in range(maps.shape[0]):
        for first in range(0, maps.shape[1], group):
            part = maps[image, first : first + group]
            out[image, first : first + group] = (part - part.mean()) / (part.var(correction=0) + 1e-5).sqrt()
    return out


class TestSqueezeExcite:
    @settings(deadline=None)
    @given(st.integers(1, 9), st.integers(1, 9))
    def test_keeps_every_size(self, height, width):
        head, features = squeeze_excite(), torch.rand(2, 4, height, width)
        assert head.embed(features).shape == (2, 16, height, width)
        assert head(features).shape == (2, 3, height, width)

    def test_is_what_the_release_computes(self):
        head, features = squeeze_excite(dilations=(1, 3)).eval(), torch.rand(2, 4, 5, 7)
        maps = []
        for branch, (padding, dilation) in zip(head.branches, [(0, 1), (1, 1), (3, 3)], strict=True):
            conv = branch[0]
            found = nn.functional.conv2d(features, conv.weight, conv.bias, padding=padding, dilation=dilation)
            maps.append(normed(found, 8).clamp(min=0))
        together = torch.cat(maps, 1)
        squeezed = torch.stack([torch.stack([channel.sum() / 35 for channel in image]) for image in together])
        first, _, second, _ = head.excite
        hidden = (squeezed @ first.weight.T + first.bias).clamp(min=0)
        shares = 1 / (1 + (-(hidden @ second.weight.T + second.bias)).exp())
        assert first.weight.shape == (3, 48)  # a sixteenth
        conv = head.fuse[0]
        fused = nn.functional.conv2d(together * shares[:, :, None, None], conv.weight, conv.bias, padding=1)
        embedding = normed(fused, 8)
        torch.testing.assert_close(head.embed(features), embedding, atol=1e-4, rtol=1e-4)
        assert head.embed(features).min() < 0  # no ReLU at the end
        logits = torch.einsum("kc,bchw->bkhw", head.classifier.weight[:, :, 0, 0], embedding)
        torch.testing.assert_close(head(features), logits, atol=1e-4, rtol=1e-4)

    def test_dropout_takes_whole_channels_while_training_only(self):
        head, features = squeeze_excite(width=64), torch.rand(4, 4, 5, 7)
        head.train()
        torch.manual_seed(0)
        noisy = head.embed(features)
        whole = head.eval().embed(features)
        assert torch.equal(whole, head.embed(features))
        dropped = (noisy == 0).all(dim=3).all(dim=2)
        assert 0 < dropped.sum() < 0.3 * dropped.numel()
        torch.testing.assert_close(noisy[~dropped], whole[~dropped] / 0.9)
        assert whole.any(dim=3).any(dim=2).all()

    def test_starts_small(self):
        head = squeeze_excite(channels=64, width=64)
        for module in head.modules():
            if isinstance(module, nn.Conv2d):
                assert float(module.weight.detach().std()) == pytest.approx(0.01, rel=0.15)
        assert head.classifier.bias is None
        assert not torch.equal(head.branches[1][0].weight, head.branches[2][0].weight)

    def test_features_with_other_channels_are_refused(self):
        with pytest.raises(RuntimeError):
            squeeze_excite(channels=4)(torch.rand(1, 5, 8, 8))

    def test_a_width_without_whole_groups_is_refused(self):
        with pytest.raises(ValueError, match="divisible"):
            squeeze_excite(width=28)

    def test_gradient(self):
        head = squeeze_excite(channels=2, classes=2, dilations=(1, 2), width=8).double().eval()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(20)  # away from where ReLU bends
        assert gradcheck(head, torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True))
