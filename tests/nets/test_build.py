from types import SimpleNamespace

import pytest
import torch
from torch import nn

from udaseg.errors import UserError
from udaseg.nets.base import Aspp
from udaseg.nets.build import build_network, parameter_groups, released_listings

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def spec(**changes):
    return SimpleNamespace(**{"name": "small", "depth": 50, "aspp": "paper", "norm": "train"} | changes)


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


class TestInitialisation:
    def test_depends_on_the_seed_only(self):
        torch.manual_seed(1)
        first = build_network(spec(), 5, 1, seed=0)
        torch.manual_seed(2)
        second = build_network(spec(), 5, 1, seed=0)
        other = build_network(spec(), 5, 1, seed=1)
        assert same(first.parameters(), second.parameters())
        assert not torch.equal(first.head.branches[0].weight, other.head.branches[0].weight)
        assert not torch.equal(first.backbone.stem[0].weight, other.backbone.stem[0].weight)

    def test_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        build_network(spec(), 5, 2, seed=0)
        assert torch.equal(torch.get_rng_state(), before)

    def test_auxiliary_head_and_branches_shift_no_other_weights(self):
        one = build_network(spec(), 5, 1, seed=0)
        two = build_network(spec(), 5, 2, seed=0)
        released = build_network(spec(aspp="released"), 5, 2, seed=0)
        for other in (two, released):
            assert same(one.backbone.parameters(), other.backbone.parameters())
        assert same(one.head.parameters(), two.head.parameters())
        for index in range(2):
            assert same(released.head.branches[index].parameters(), two.head.branches[index].parameters())

    def test_heads_start_small_and_apart(self):
        net = build_network(spec(), 5, 2, seed=0)
        weights = torch.cat([branch.weight.flatten() for branch in net.head.branches])
        assert float(weights.detach().std()) == pytest.approx(0.01, rel=0.05)
        assert not torch.equal(net.head.branches[0].weight, net.head.branches[1].weight)

    def test_an_unknown_name_is_refused_with_the_known_ones(self):
        with pytest.raises(UserError, match="'unet' is not known; known: small, deeplabv2"):
            build_network(spec(name="unet"), 5, 1, seed=0)

    def test_three_levels_are_refused(self):
        with pytest.raises(ValueError, match="levels"):
            build_network(spec(), 5, 3, seed=0)


class TestForward:
    @pytest.mark.parametrize("levels", [1, 2])
    @pytest.mark.parametrize("aspp", ["paper", "released"])
    def test_outputs(self, levels, aspp):
        net = build_network(spec(aspp=aspp), 5, levels, seed=0)
        outputs = net(IMAGES)
        assert outputs.logits.shape == (2, 5, 16, 24)
        assert (outputs.aux_logits is None) == (levels == 1)
        if levels == 2:
            assert outputs.aux_logits.shape == (2, 5, 8, 12)
        assert {name: maps.shape[1] for name, maps in outputs.features.items()} == net.feature_channels
        assert len(net.head.branches) == {"paper": 4, "released": 2}[aspp]

    def test_every_parameter_gets_a_gradient(self):
        net = build_network(spec(), 5, 2, seed=0)
        outputs = net(IMAGES)
        (outputs.logits.square().mean() + outputs.aux_logits.square().mean()).backward()
        assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []

    def test_normalisation_is_the_first_layer(self):
        net = build_network(spec(), 5, 1, seed=0)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        assert same(net.backbone((IMAGES - mean) / std).values(), net(IMAGES).features.values())
        assert not [name for name in net.state_dict() if name.startswith("normalise")]


class TestNormPolicy:
    def after_a_pass(self, norm):
        net = build_network(spec(norm=norm), 5, 1, seed=0)
        net.eval()
        net.train()
        net(IMAGES)
        affine = [module.weight for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        moved = not torch.equal(net.backbone.stem[1].running_mean, torch.zeros(16))
        assert net.training
        return {weight.requires_grad for weight in affine}, moved

    def test_train(self):
        assert self.after_a_pass("train") == ({True}, True)

    def test_affine_frozen(self):
        assert self.after_a_pass("affine_frozen") == ({False}, True)

    def test_eval(self):
        assert self.after_a_pass("eval") == ({False}, False)

    def test_eval_mode_moves_no_statistics(self):
        net = build_network(spec(), 5, 1, seed=0).eval()
        net(IMAGES)
        assert torch.equal(net.backbone.stem[1].running_mean, torch.zeros(16))


class TestParameterGroups:
    @pytest.mark.parametrize("norm", ["train", "affine_frozen", "eval"])
    def test_each_parameter_stands_in_exactly_one_group(self, norm):
        net = build_network(spec(norm=norm), 5, 2, seed=0)
        groups = parameter_groups(net)
        listed = [id(parameter) for group in groups.values() for parameter in group]
        assert sorted(listed) == sorted(map(id, net.parameters()))
        assert len(groups["head"]) == 2 * 4 * 2  # heads x branches x (weight, bias)


def test_released_listings_are_those_of_a_walk_over_the_modules():
    net = build_network(spec(norm="affine_frozen"), 5, 2, seed=0)
    walked = dict.fromkeys(net.parameters(), 0)
    for part in net.backbone.children():
        for module in part.modules():
            for parameter in module.parameters():
                walked[parameter] += parameter.requires_grad
    assert released_listings(net) == {name: walked[parameter] for name, parameter in net.named_parameters()}


class TestAspp:
    def test_is_the_sum_of_its_branches(self):
        head = Aspp(4, 3, dilations=[1, 5])
        features = torch.rand(2, 4, 7, 6)
        expected = sum(
            nn.functional.conv2d(features, branch.weight, branch.bias, padding=dilation, dilation=dilation)
            for branch, dilation in zip(head.branches, [1, 5], strict=True)
        )
        torch.testing.assert_close(head(features), expected)

    def test_a_map_smaller_than_the_dilation_is_allowed(self):
        assert Aspp(4, 3, dilations=[24])(torch.rand(1, 4, 2, 3)).shape == (1, 3, 2, 3)

    def test_features_with_other_channels_are_refused(self):
        with pytest.raises(RuntimeError):
            Aspp(4, 3, dilations=[1])(torch.rand(1, 5, 8, 8))
