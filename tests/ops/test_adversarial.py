import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from udaseg.ops import adversarial
from udaseg.ops.adversarial import (
    SOURCE,
    TARGET,
    adversarial_loss,
    discriminator_losses,
    domain_accuracy,
    domain_loss,
    log_odds,
    output_space,
    reversal_strength,
    reverse_gradient,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestReverseGradient:
    @pytest.mark.parametrize("strength", [0.0, 0.7, torch.tensor(0.7), torch.tensor(2.5, dtype=torch.float64)])
    def test_identity_whose_gradient_is_reversed_and_scaled(self, strength):
        x = random(2, 3, 4, 5).requires_grad_()
        y = reverse_gradient(x, strength)
        upstream = random(2, 3, 4, 5, seed=1)
        y.backward(upstream)
        assert torch.equal(y, x)
        torch.testing.assert_close(x.grad, -float(strength) * upstream)

    def test_gradient_of_what_comes_before(self):
        """The reversed gradient is by intention not that of the function: minus its strength times that one is."""
        x = random(3, 2).requires_grad_()
        assert gradcheck(lambda x: reverse_gradient(x**2, -1.0), x)
        (reversed_gradient,) = torch.autograd.grad(reverse_gradient(x**2, 0.3).sum(), x)
        torch.testing.assert_close(reversed_gradient, -0.3 * 2 * x.detach())

    def test_a_strength_for_each_element_is_refused(self):
        with pytest.raises(ValueError, match="without dimensions"):
            reverse_gradient(random(3), torch.ones(3))


class TestReversalStrength:
    def test_ends(self):
        assert reversal_strength(0.0, 10) == 0
        assert reversal_strength(1.0, 10) == pytest.approx(0.99991, abs=1e-5)

    @settings(deadline=None)
    @given(st.floats(0, 1), st.floats(0.1, 20))
    def test_is_the_hyperbolic_tangent(self, progress, gamma):
        assert reversal_strength(progress, gamma) == pytest.approx(math.tanh(gamma * progress / 2), abs=1e-12)


class TestLogOdds:
    def test_one_channel_is_as_it_is(self):
        logits = random(2, 1, 3, 4)
        assert torch.equal(log_odds(logits), logits)

    def test_of_two_channels_the_difference_counts(self):
        logits = random(2, 2, 3, 4)
        probs = logits.softmax(dim=1)
        torch.testing.assert_close(log_odds(logits).sigmoid()[:, 0], probs[:, TARGET])

    @pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 1, 4)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            log_odds(torch.zeros(shape))


class TestDomainLoss:
    @pytest.mark.parametrize("domain", [SOURCE, TARGET])
    @pytest.mark.parametrize("kind", ["vanilla", "least_squares"])
    def test_value_is_that_of_a_naive_loop(self, domain, kind):
        logits = random(2, 1, 3, 4)
        losses = []
        for value in logits.flatten().tolist():
            prob = 1 / (1 + math.exp(-value))
            vanilla = -math.log(prob if domain == TARGET else 1 - prob)
            losses.append(vanilla if kind == "vanilla" else (value - domain) ** 2)
        loss = domain_loss(logits, domain, kind)
        assert loss.shape == ()
        assert float(loss) == pytest.approx(sum(losses) / len(losses))

    @pytest.mark.parametrize("domain", [SOURCE, TARGET])
    def test_two_logits_give_the_negative_log_likelihood(self, domain):
        logits = random(2, 2, 3, 4)
        torch.testing.assert_close(domain_loss(logits, domain), -logits.log_softmax(dim=1)[:, domain].mean())

    @pytest.mark.parametrize("kind", ["vanilla", "least_squares"])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_gradient(self, kind, channels):
        assert gradcheck(lambda x: domain_loss(x, TARGET, kind), random(2, channels, 3, 2).requires_grad_())

    def test_is_finite_where_the_classifier_is_certain_and_wrong(self):
        assert float(domain_loss(torch.full((1, 1, 2, 2), 1e4), SOURCE)) == pytest.approx(1e4)

    def test_another_kind_is_refused(self):
        with pytest.raises(ValueError, match="hinge"):
            domain_loss(random(1, 1, 2, 2), SOURCE, "hinge")


class TestDomainAccuracy:
    def test_domains_count_equally_whatever_their_sizes(self):
        source = torch.tensor([-1.0, -1.0, -1.0, 1.0]).view(1, 1, 2, 2)
        target = torch.full((1, 1, 5, 7), 2.0)
        assert float(domain_accuracy(source, target)) == pytest.approx((0.75 + 1.0) / 2)

    def test_a_dead_classifier_is_half_right(self):
        assert float(domain_accuracy(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 4, 4))) == 0.5

    def test_needs_no_graph(self):
        assert not domain_accuracy(random(1, 1, 2, 2).requires_grad_(), random(1, 2, 2, 2)).requires_grad


class TestOutputSpace:
    def test_probabilities_of_resized_logits(self):
        probs = output_space(random(2, 3, 4, 5), (9, 7))
        assert probs.shape == (2, 3, 9, 7)
        torch.testing.assert_close(probs.sum(dim=1), torch.ones(2, 9, 7, dtype=torch.float64))


def tiny_discriminator(classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(classes, 1, 3, stride=2).double()


class TestAdversarialLoss:
    def test_is_the_loss_of_being_called_source(self):
        discriminator, logits = tiny_discriminator(), random(1, 3, 4, 5)
        expected = domain_loss(discriminator(output_space(logits, (9, 11))), SOURCE)
        assert torch.equal(adversarial_loss(discriminator, logits, (9, 11)), expected)

    def test_gives_the_discriminator_no_gradient_and_leaves_it_trainable(self):
        discriminator, logits = tiny_discriminator(), random(1, 3, 4, 5).requires_grad_()
        adversarial_loss(discriminator, logits, (9, 11)).backward()
        assert float(logits.grad.abs().sum()) > 0
        assert all(parameter.grad is None and parameter.requires_grad for parameter in discriminator.parameters())

    def test_what_was_frozen_before_stays_frozen(self):
        discriminator = tiny_discriminator()
        discriminator.bias.requires_grad_(False)
        adversarial_loss(discriminator, random(1, 3, 4, 5), (9, 11))
        assert discriminator.weight.requires_grad
        assert not discriminator.bias.requires_grad

    def test_a_failing_discriminator_is_thawed(self):
        discriminator = tiny_discriminator()
        with pytest.raises(RuntimeError):
            adversarial_loss(discriminator, random(1, 4, 4, 5), (9, 11))
        assert discriminator.weight.requires_grad

    @pytest.mark.parametrize("kind", ["vanilla", "least_squares"])
    def test_gradient(self, kind):
        discriminator = tiny_discriminator()
        assert gradcheck(
            lambda x: adversarial_loss(discriminator, x, (7, 9), kind), random(1, 3, 3, 4).requires_grad_()
        )


class TestDiscriminatorLosses:
    @pytest.mark.parametrize("kind", ["vanilla", "least_squares"])
    def test_halves_of_both_domains_losses(self, kind):
        discriminator, source, target = tiny_discriminator(), random(1, 3, 4, 5), random(1, 3, 6, 4, seed=1)
        losses = discriminator_losses(discriminator, (source, (9, 11)), (target, (13, 8)), kind)
        on_source, on_target = (
            discriminator(output_space(source, (9, 11))),
            discriminator(output_space(target, (13, 8))),
        )
        torch.testing.assert_close(losses.source, 0.5 * domain_loss(on_source, SOURCE, kind))
        torch.testing.assert_close(losses.target, 0.5 * domain_loss(on_target, TARGET, kind))
        assert 0 <= float(losses.accuracy) <= 1

    def test_only_the_discriminator_gets_a_gradient(self):
        discriminator = tiny_discriminator()
        logits = random(1, 3, 4, 5).requires_grad_()
        losses = discriminator_losses(discriminator, (logits, (9, 11)), (logits, (9, 11)))
        (losses.source + losses.target).backward()
        assert logits.grad is None
        assert discriminator.weight.grad is not None

    def test_training_on_them_tells_the_domains_apart(self):
        discriminator = tiny_discriminator()
        source = (torch.tensor([4.0, 0.0, 0.0]).double().view(1, 3, 1, 1).expand(1, 3, 4, 4), (9, 9))
        target = (torch.tensor([0.0, 4.0, 0.0]).double().view(1, 3, 1, 1).expand(1, 3, 4, 4), (9, 9))
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.05)
        for _ in range(40):
            losses = discriminator_losses(discriminator, source, target)
            optimizer.zero_grad()
            (losses.source + losses.target).backward()
            optimizer.step()
        assert float(losses.accuracy) == 1.0
        with torch.no_grad():
            assert adversarial_loss(discriminator, *target) > losses.target


def test_labels_are_those_of_the_release():
    assert (adversarial.SOURCE, adversarial.TARGET) == (0, 1)
