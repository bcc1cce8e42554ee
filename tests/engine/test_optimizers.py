from types import SimpleNamespace

import pytest
import torch
from torch import nn

from udaseg.engine.checkpoint import optimizer_tensors, restore_optimizer
from udaseg.engine.optimizers import Optimizers, RepeatedSGD, rate_factor, scale_rates
from udaseg.errors import UserError
from udaseg.nets.build import build_network

SETTINGS = {
    "name": "sgd",
    "lr": 0.01,
    "head_lr_factor": 10.0,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "poly",
    "power": 0.9,
    "schedule_iterations": None,
    "warmup_iterations": 0,
    "backbone_lr_multiplicity": 1,
}


def settings(**changes):
    return SimpleNamespace(**SETTINGS | changes)


def small_net(norm="train"):
    spec = SimpleNamespace(name="small", depth=50, head="aspp", aspp="paper", feature_norm=False, norm=norm)
    return build_network(spec, 4, 2, seed=0)


def gradients(shape, steps=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def run(make, steps):
    weights = nn.Parameter(torch.linspace(-1, 1, 6))
    optimizer = make([weights])
    for gradient in steps:
        weights.grad = gradient.clone()
        optimizer.step()
    return weights.detach()


class TestRepeatedSGD:
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    @pytest.mark.parametrize("decay", [0.0, 5e-4])
    def test_one_repeat_is_sgd_bit_by_bit(self, momentum, decay):
        steps = gradients(6)
        ours = run(lambda weights: RepeatedSGD(weights, 0.1, momentum, decay), steps)
        theirs = run(lambda weights: torch.optim.SGD(weights, 0.1, momentum, weight_decay=decay, foreach=False), steps)
        assert torch.equal(ours, theirs)

    def test_repeats_are_further_steps_with_the_same_gradient(self):
        steps = gradients(6)
        ours = run(lambda weights: RepeatedSGD(weights, 0.1, 0.9, 5e-4, repeats=3), steps)
        theirs = run(
            lambda weights: torch.optim.SGD(weights, 0.1, 0.9, weight_decay=5e-4, foreach=False),
            [gradient for gradient in steps for _ in range(3)],
        )
        assert torch.equal(ours, theirs)

    def test_parameters_without_gradient_stay(self):
        weights = nn.Parameter(torch.ones(2))
        RepeatedSGD([weights], 0.1, 0.9, 0.1).step()
        assert torch.equal(weights, torch.ones(2))

    def test_state_is_restored(self):
        steps = gradients(6)
        whole = run(lambda weights: RepeatedSGD(weights, 0.1, 0.9, 0.0, repeats=3), steps)
        weights = nn.Parameter(torch.linspace(-1, 1, 6))
        first = RepeatedSGD([weights], 0.1, 0.9, 0.0, repeats=3)
        for gradient in steps[:2]:
            weights.grad = gradient.clone()
            first.step()
        second = RepeatedSGD([weights], 0.1, 0.9, 0.0, repeats=3)
        second.load_state_dict(first.state_dict())
        for gradient in steps[2:]:
            weights.grad = gradient.clone()
            second.step()
        assert torch.equal(weights, whole)

    def test_a_closure_is_refused(self):
        with pytest.raises(ValueError, match="closure"):
            RepeatedSGD([nn.Parameter(torch.ones(2))], 0.1).step(lambda: 0.0)


class TestOptimizers:
    @pytest.mark.parametrize("name", ["sgd", "adamw"])
    def test_backbone_and_head_have_their_rates_and_every_parameter_is_listed_once(self, name):
        net = small_net()
        optimizer = Optimizers(settings(name=name)).network(net)
        assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1]
        listed = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        assert sorted(listed) == sorted(map(id, net.parameters()))

    @pytest.mark.parametrize("norm", ["train", "affine_frozen"])
    def test_released_multiplicity_groups_by_number_of_updates(self, norm):
        net = small_net(norm)
        optimizer = Optimizers(settings(backbone_lr_multiplicity=3)).network(net)
        *backbone, head = optimizer.param_groups
        assert [group["repeats"] for group in backbone] == [2, 3]
        assert head["repeats"] == 1
        listed = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        assert sorted(listed) == sorted(id(parameter) for parameter in net.parameters() if parameter.requires_grad)

    def test_repeated_updates_of_adamw_are_refused(self):
        with pytest.raises(UserError, match="backbone_lr_multiplicity"):
            Optimizers(settings(name="adamw", backbone_lr_multiplicity=3)).network(small_net())

    def test_adam_of_a_discriminator(self):
        optimizer = Optimizers(settings()).adam(nn.Conv2d(3, 1, 4), lr=1e-4)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"]) == (1e-4, (0.9, 0.99))

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("inputs", [torch.contiguous_format, torch.channels_last])
    def test_fused_adam_is_adam_and_goes_on_from_a_checkpoint_in_any_layout(self, layout, inputs):
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(2, 3, 8, 8, generator=generator).contiguous(memory_format=inputs)
        weight = torch.randn(6, 3, 4, 4, generator=generator)

        def conv():
            made = nn.Conv2d(3, 6, 4, bias=False).to(memory_format=layout)
            made.weight.data.copy_(weight)
            return made, Optimizers(settings()).adam(made, lr=0.1)

        def step(made, optimizer):
            optimizer.zero_grad()
            made(image).square().mean().backward()
            optimizer.step()

        (whole, of_whole), (plain, _), (first, of_first) = conv(), conv(), conv()
        of_plain = torch.optim.Adam(plain.parameters(), lr=0.1, betas=(0.9, 0.99))
        for _ in range(4):
            step(whole, of_whole)
            step(plain, of_plain)
        torch.testing.assert_close(whole.weight, plain.weight, rtol=1e-4, atol=1e-5)
        for _ in range(2):
            step(first, of_first)
        second, of_second = conv()
        second.load_state_dict(first.state_dict())
        saved = {name: tensor.contiguous() for name, tensor in optimizer_tensors("it", of_first).items()}
        restore_optimizer("it", of_second, saved)
        for _ in range(2):
            step(second, of_second)
        assert torch.equal(second.weight, whole.weight)


class TestRates:
    def test_poly_over_the_run_or_a_longer_schedule(self):
        assert rate_factor(settings(power=1.0), 5, 10) == 0.5
        assert rate_factor(settings(power=1.0, schedule_iterations=20), 5, 10) == 0.75

    def test_constant_with_warmup(self):
        chosen = settings(schedule="constant", warmup_iterations=4)
        assert [rate_factor(chosen, iteration, 10) for iteration in (0, 2, 4, 9)] == pytest.approx(
            [1e-6, 0.5, 1, 1], abs=1e-6
        )

    def test_rates_are_scaled_from_their_first_values_also_after_a_restart(self):
        optimizer = Optimizers(settings()).network(small_net())
        scale_rates(optimizer, 0.5)
        scale_rates(optimizer, 0.25)
        assert [group["lr"] for group in optimizer.param_groups] == [0.0025, 0.025]
        again = Optimizers(settings()).network(small_net())
        again.load_state_dict(optimizer.state_dict())
        scale_rates(again, 1.0)
        assert [group["lr"] for group in again.param_groups] == [0.01, 0.1]
