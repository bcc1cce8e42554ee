import hashlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from udaseg.errors import UserError
from udaseg.nets.build import build_network, parameter_groups, released_listings
from udaseg.nets.heads import Aspp

HEADS = ["aspp", "squeeze_excite"]
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def spec(**changes):
    default = {"name": "small", "depth": 50, "head": "aspp", "aspp": "paper", "feature_norm": False, "norm": "train"}
    return SimpleNamespace(**default | changes)


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

    @pytest.mark.parametrize("changes", [{"head": "squeeze_excite"}, {"feature_norm": True}], ids=str)
    def test_neither_another_head_nor_a_norm_before_it_shifts_other_weights(self, changes):
        one, other = build_network(spec(), 5, 2, seed=0), build_network(spec(**changes), 5, 2, seed=0)
        assert same(one.backbone.parameters(), other.backbone.parameters())
        assert same(one.aux_head.parameters(), other.aux_head.parameters())
        assert "head" in changes or same(one.head.parameters(), other.head.parameters())

    @pytest.mark.parametrize(
        ("changes", "levels", "names", "weights"),
        [
            ({}, 1, "0c51a30a4c4d50c7", -11.499153),
            ({}, 2, "ee93b75fb49538ae", -11.709207),
            ({"aspp": "released"}, 2, "f78ea0f556bf634f", -12.242422),
            ({"name": "deeplabv2"}, 2, "4b0aa2470481bbb8", 70.076851),
        ],
        ids=["small", "small-two-levels", "small-released", "deeplabv2"],
    )
    def test_names_and_initial_weights_are_as_ever(self, changes, levels, names, weights):
        """As recorded when there was one kind of head: checkpoints load, and runs start as they did."""
        net = build_network(spec(**changes), 5, levels, seed=0)
        listed = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in net.state_dict().items())
        assert hashlib.sha256(listed.encode()).hexdigest()[:16] == names
        values = nn.utils.parameters_to_vector(net.parameters()).detach().double()
        pattern = torch.arange(len(values), dtype=torch.float64).cos()  # another place gives another sum
        assert float(values @ pattern) == pytest.approx(weights, abs=1e-4)

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
    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("feature_norm", [False, True])
    def test_outputs(self, levels, aspp, head, feature_norm):
        net = build_network(spec(aspp=aspp, head=head, feature_norm=feature_norm), 5, levels, seed=0)
        outputs = net(IMAGES)
        assert outputs.logits.shape == (2, 5, 16, 24)
        assert (outputs.aux_logits is None) == (levels == 1)
        if levels == 2:
            assert outputs.aux_logits.shape == (2, 5, 8, 12)
        assert {name: maps.shape[1] for name, maps in outputs.features.items()} == net.feature_channels
        assert torch.equal(outputs.logits, net.head.classify(outputs.features["embedding"]))

    @pytest.mark.parametrize(("aspp", "branches"), [("paper", 4), ("released", 2)])
    def test_branches_of_the_released_code(self, aspp, branches):
        assert len(build_network(spec(aspp=aspp), 5, 1, seed=0).head.branches) == branches
        squeezed = build_network(spec(aspp=aspp, head="squeeze_excite"), 5, 2, seed=0)
        assert len(squeezed.head.branches) == 5  # that slip is not in this head's code
        assert isinstance(squeezed.aux_head, Aspp)
        assert len(squeezed.aux_head.branches) == branches

    @pytest.mark.parametrize("size", [(33, 65), (17, 40), (8, 8)])
    @pytest.mark.parametrize("head", HEADS)
    def test_odd_and_small_sizes(self, head, size):
        outputs = build_network(spec(head=head), 5, 2, seed=0)(torch.rand(2, 3, *size))
        assert tuple(outputs.logits.shape[2:]) == tuple(-(-side // 4) for side in size)
        assert outputs.logits.isfinite().all() and outputs.aux_logits.isfinite().all()

    @pytest.mark.parametrize("feature_norm", [False, True])
    @pytest.mark.parametrize("head", HEADS)
    def test_every_parameter_gets_a_gradient(self, head, feature_norm):
        net = build_network(spec(head=head, feature_norm=feature_norm), 5, 2, seed=0)
        outputs = net(IMAGES)
        (outputs.logits.square().mean() + outputs.aux_logits.square().mean()).backward()
        nothing = [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
        assert nothing == []

    def test_the_squeezed_head_of_the_small_network_stays_small(self):
        counts = [
            sum(parameter.numel() for parameter in build_network(spec(head=head), 16, 1, seed=0).parameters())
            for head in HEADS
        ]
        assert counts[1] < 1.25 * counts[0]

    def test_normalisation_is_the_first_layer(self):
        net = build_network(spec(), 5, 1, seed=0)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        features = net(IMAGES).features
        expected = net.backbone((IMAGES - mean) / std)
        assert same(expected.values(), [features[name] for name in expected])
        assert not [name for name in net.state_dict() if name.startswith("normalise")]


class TestFeatureNorm:
    @pytest.mark.parametrize("head", HEADS)
    def test_normalises_what_the_main_head_takes_and_nothing_else(self, head):
        net = build_network(spec(head=head, feature_norm=True), 5, 2, seed=0)
        net.head.eval()  # no dropout
        outputs = net(IMAGES)
        normalised = nn.functional.batch_norm(outputs.features["fused"], None, None, training=True)
        torch.testing.assert_close(outputs.logits, net.head(normalised))
        assert not torch.allclose(outputs.logits, net.head(outputs.features["fused"]))
        torch.testing.assert_close(outputs.aux_logits, net.aux_head(outputs.features["layer3"]))

    def test_without_it_the_embedding_is_the_feature_itself(self):
        net = build_network(spec(), 5, 1, seed=0)
        features = net(IMAGES).features
        assert features["embedding"] is features["fused"]
        assert not [name for name in net.state_dict() if name.startswith("feature_norm")]

    @pytest.mark.parametrize(("norm", "trains", "moves"), [
        ("train", True, True), ("affine_frozen", False, True), ("eval", False, False),
    ])  # fmt: skip
    def test_follows_the_policy(self, norm, trains, moves):
        net = build_network(spec(norm=norm, feature_norm=True), 5, 1, seed=0)
        net(IMAGES)
        assert net.feature_norm.weight.requires_grad == trains
        assert bool(net.feature_norm.running_mean.any()) == moves


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

    @pytest.mark.parametrize("head", HEADS)
    def test_the_norm_before_the_head_learns_with_it(self, head):
        net = build_network(spec(head=head, feature_norm=True), 5, 2, seed=0)
        groups = parameter_groups(net)
        listed = [id(parameter) for group in groups.values() for parameter in group]
        assert sorted(listed) == sorted(map(id, net.parameters()))
        assert {id(net.feature_norm.weight), id(net.feature_norm.bias)} <= set(map(id, groups["head"]))


@pytest.mark.parametrize(
    "changes", [{"norm": "affine_frozen"}, {"head": "squeeze_excite", "feature_norm": True}], ids=str
)
def test_released_listings_are_those_of_a_walk_over_the_modules(changes):
    net = build_network(spec(**changes), 5, 2, seed=0)
    walked = dict.fromkeys(net.parameters(), 0)
    for part in net.backbone.children():
        for module in part.modules():
            for parameter in module.parameters():
                walked[parameter] += parameter.requires_grad
    assert released_listings(net) == {name: walked[parameter] for name, parameter in net.named_parameters()}
