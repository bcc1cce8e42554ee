import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.prototype_assignment import (
    UNSEEN,
    assigned_prior,
    balanced_assignment,
    cosine_logits,
    cosine_weights,
    prototype_consistency,
    row_scores,
    seen_classes,
    self_label_loss,
    view_consistency,
)
from udaseg.ops.transport import sinkhorn


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unit(*shape, seed=0, dtype=torch.float64):
    return torch.nn.functional.normalize(random(*shape, seed=seed, dtype=dtype), dim=1)


def one_zero(prototypes, index):
    """Prototypes of which one was not seen."""
    prototypes = prototypes.clone()
    prototypes[index] = 0
    return prototypes


def cosine(first, second):
    product = sum(a * b for a, b in zip(first, second, strict=True))
    return product / (math.hypot(*first) * math.hypot(*second))


class TestCosineLogits:
    def test_values_are_those_of_a_naive_loop(self):
        features, prototypes = random(2, 4, 3, 2), random(5, 4, seed=1)
        logits = cosine_logits(features, prototypes, 0.08)
        assert logits.shape == (2, 5, 3, 2)
        for image, index, row, column in torch.cartesian_prod(*map(torch.arange, logits.shape)).tolist():
            expected = cosine(features[image, :, row, column].tolist(), prototypes[index].tolist()) / 0.08
            assert float(logits[image, index, row, column]) == pytest.approx(expected)

    def test_gradient(self):
        features, prototypes = random(1, 3, 2, 2), random(4, 3, seed=1)
        assert gradcheck(lambda f: cosine_logits(f, prototypes, 0.5), features.requires_grad_())
        assert gradcheck(lambda p: cosine_logits(features.detach(), p, 0.5), prototypes.requires_grad_())

    @settings(max_examples=40, deadline=None)
    @given(st.floats(1e-3, 1e3))
    def test_lengths_do_not_matter(self, factor):
        features, prototypes = random(1, 3, 2, 2), random(4, 3, seed=1)
        expected = cosine_logits(features, prototypes, 0.08)
        torch.testing.assert_close(cosine_logits(factor * features, prototypes / factor, 0.08), expected)

    def test_weights_sum_to_one(self):
        weights = cosine_weights(random(2, 4, 3, 2), random(5, 4, seed=1), 0.08)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 3, 2).double())

    def test_without_being_told_a_prototype_of_zeros_beats_negative_cosines(self):
        prototypes = torch.tensor([[0.0, 0.0], [-1.0, 0.0]])
        weights = cosine_weights(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), prototypes, 0.08)
        assert float(weights[0, 0]) > 0.99

    def test_a_class_that_was_not_seen_has_no_weight(self):
        features = random(2, 4, 3, 3, dtype=torch.float32).requires_grad_()
        prototypes = one_zero(random(4, 4, seed=1, dtype=torch.float32), 1).requires_grad_()
        seen = seen_classes(prototypes)
        assert seen.tolist() == [True, False, True, True]
        weights = cosine_weights(features, prototypes, 0.08, seen)
        assert not weights[:, 1].any()
        torch.testing.assert_close(weights[:, seen], cosine_weights(features, prototypes[seen], 0.08))
        weights[:, 0].sum().backward()
        assert features.grad.isfinite().all()
        assert not prototypes.grad[1].any()
        assert (cosine_logits(features, prototypes, 0.08, seen)[:, 1] == UNSEEN).all()

    def test_with_no_class_seen_all_are_alike(self):
        prototypes = torch.zeros(4, 3, requires_grad=True)
        logits = cosine_logits(random(1, 3, 2, 2, dtype=torch.float32), prototypes, 0.08, seen_classes(prototypes))
        logits.sum().backward()
        assert not logits.any()
        assert not prototypes.grad.any()

    def test_features_of_zeros_are_alike_to_all(self):
        features = torch.zeros(1, 3, 1, 1, requires_grad=True)
        logits = cosine_logits(features, random(4, 3, dtype=torch.float32), 0.08)
        assert not logits.any()
        assert not logits.isnan().any()

    def test_autocast_costs_no_digits(self):
        features, prototypes = random(1, 8, 3, 3, dtype=torch.float32), random(4, 8, seed=1, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            logits = cosine_logits(features, prototypes, 0.08)
            scores = row_scores(features[0, :, 0].T, prototypes)
        assert torch.equal(logits, cosine_logits(features, prototypes, 0.08))
        assert torch.equal(scores, row_scores(features[0, :, 0].T, prototypes))
        assert cosine_logits(features.bfloat16(), prototypes, 0.08).dtype == torch.float32

    @pytest.mark.parametrize(
        ("features", "prototypes", "temperature"),
        [((2, 4, 3, 3), (5, 3), 1), ((4, 3), (5, 4), 1), ((1, 4, 3, 3), (5, 4), 0)],
    )
    def test_what_does_not_fit_is_refused(self, features, prototypes, temperature):
        with pytest.raises(ValueError, match="expected"):
            cosine_logits(torch.zeros(features), torch.zeros(prototypes), temperature)


class TestRowScores:
    def test_values_are_those_of_a_naive_loop(self):
        rows, prototypes = unit(6, 3), random(4, 3, seed=1)
        found, raw = row_scores(rows, prototypes), row_scores(rows, prototypes, normalise=False)
        for row in range(6):
            for index in range(4):
                expected = cosine(rows[row].tolist(), prototypes[index].tolist())
                assert float(found[row, index]) == pytest.approx(expected)
                assert float(raw[row, index]) == pytest.approx(expected * float(prototypes[index].norm()))

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            row_scores(torch.zeros(3, 4), torch.zeros(2, 3))


class TestAssignment:
    def test_without_a_queue_it_is_that_of_the_rows(self):
        scores, prior = random(6, 3), torch.tensor([0.5, 0.2, 0.3]).double()
        assert torch.equal(balanced_assignment(scores, prior, 0.05, 3), sinkhorn(scores, prior, 0.05, 3))

    def test_the_queues_rows_have_their_part_in_the_shares(self):
        scores, earlier, prior = random(6, 3), random(20, 3, seed=1), torch.tensor([0.5, 0.2, 0.3]).double()
        found = balanced_assignment(scores, prior, 0.05, 3, earlier)
        assert torch.equal(found, sinkhorn(torch.cat([earlier, scores]), prior, 0.05, 3)[20:])
        assert not torch.allclose(found, balanced_assignment(scores, prior, 0.05, 3))

    def test_no_rows_get_no_assignment(self):
        found = balanced_assignment(torch.zeros(0, 3), torch.ones(3), 0.05, 3, torch.zeros(5, 3))
        assert found.shape == (0, 3)

    def test_the_prior_it_is_done_by(self):
        prior, seen = torch.tensor([0.5, 0.0, 0.5]), torch.tensor([True, True, False])
        torch.testing.assert_close(assigned_prior(prior, seen), torch.tensor([0.5, 1e-6, 0.0]))
        assert assigned_prior(prior, torch.zeros(3).bool()).all()


def whole_loss(rows, prototypes, queue, temperature=0.08):
    """From rows to the loss, as it is put together."""
    seen = seen_classes(prototypes)
    prior = assigned_prior(torch.tensor([0.4, 0.3, 0.2, 0.1]).to(rows), seen)
    scores = row_scores(rows, prototypes)
    assignment = balanced_assignment(scores, prior, 0.05, 3, row_scores(queue, prototypes.detach()))
    return self_label_loss(scores, assignment, temperature, seen)


class TestSelfLabelLoss:
    def test_values_are_those_of_a_naive_loop(self):
        scores, assignment = random(5, 3), random(5, 3, seed=1).softmax(dim=1)
        total = 0.0
        for row in range(5):
            near = [math.exp(score / 0.08) for score in scores[row].tolist()]
            for index in range(3):
                total -= float(assignment[row, index]) * math.log(near[index] / sum(near))
        assert float(self_label_loss(scores, assignment, 0.08)) == pytest.approx(total / 5)

    def test_gradient(self):
        rows, prototypes, queue = unit(5, 3), random(4, 3, seed=1), unit(8, 3, seed=2)
        assignment = sinkhorn(row_scores(rows, prototypes), torch.ones(4).double(), 0.05, 3)

        def loss(leaf):
            return self_label_loss(row_scores(rows, leaf), assignment, 0.3)

        assert gradcheck(loss, prototypes.requires_grad_())
        # What is assigned is a constant: the gradient of the whole is that of the loss with it held.
        whole_loss(rows, prototypes, queue, 0.3).backward()
        scores = row_scores(torch.cat([queue, rows]), prototypes.detach())
        prior = torch.tensor([0.4, 0.3, 0.2, 0.1]).double()
        assignment = sinkhorn(scores, prior, 0.05, 3)[8:]
        held = prototypes.detach().clone().requires_grad_()
        loss(held).backward()
        torch.testing.assert_close(prototypes.grad, held.grad)

    def test_steps_bring_the_classes_to_the_priors_shares(self):
        rows, prototypes = unit(64, 6), random(4, 6, seed=2).requires_grad_()
        prior = torch.tensor([0.55, 0.25, 0.15, 0.05]).double()
        errors = []
        for _ in range(40):
            scores = row_scores(rows, prototypes)
            errors.append(float(((scores.detach() / 0.08).softmax(dim=1).mean(dim=0) - prior).abs().sum()))
            loss = self_label_loss(scores, balanced_assignment(scores, prior, 0.05, 3), 0.08)
            (gradient,) = torch.autograd.grad(loss, prototypes)
            prototypes = (prototypes - 0.5 * gradient).detach().requires_grad_()
        assert errors[-1] < errors[0] / 3

    def test_a_class_that_was_not_seen_stays_out(self):
        rows, queue = unit(5, 3), unit(8, 3, seed=2)
        prototypes = one_zero(random(4, 3, seed=1), 2).requires_grad_()
        loss = whole_loss(rows, prototypes, queue)
        loss.backward()
        assert loss.isfinite()
        assert prototypes.grad.isfinite().all()
        assert not prototypes.grad[2].any()
        assert prototypes.grad[[0, 1, 3]].any(dim=1).all()

    def test_with_no_class_seen_the_gradient_is_zero(self):
        prototypes = torch.zeros(4, 3).double().requires_grad_()
        loss = whole_loss(unit(5, 3), prototypes, unit(8, 3, seed=2))
        loss.backward()
        assert float(loss.detach()) == pytest.approx(math.log(4))
        assert not prototypes.grad.any()

    def test_without_rows_it_is_zero_and_connected(self):
        prototypes = random(4, 3).requires_grad_()
        loss = whole_loss(torch.zeros(0, 3).double(), prototypes, unit(8, 3))
        loss.backward()
        assert loss == 0
        assert not prototypes.grad.any()

    @settings(max_examples=40, deadline=None)
    @given(st.floats(-3, 6), st.integers(0, 9))
    def test_scores_of_any_scale_are_no_trouble(self, power, seed):
        scores = 10**power * random(6, 3, seed=seed, dtype=torch.float32)
        loss = self_label_loss(scores, balanced_assignment(scores, torch.ones(3), 0.05, 3), 0.08)
        assert loss.isfinite()

    @pytest.mark.parametrize(("assignment", "temperature"), [((5, 2), 0.08), ((5, 3), 0.0)])
    def test_what_does_not_fit_is_refused(self, assignment, temperature):
        with pytest.raises(ValueError, match="expected"):
            self_label_loss(torch.zeros(5, 3), torch.zeros(assignment), temperature)


def divergence(first, second):
    return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))


class TestConsistency:
    mask = torch.tensor([[[True, False], [True, True]]])

    def test_released_values_are_those_of_a_naive_loop(self):
        student, teacher = random(1, 3, 2, 2), random(1, 3, 2, 2, seed=1)
        total = 0.0
        for row, column in ((0, 0), (1, 0), (1, 1)):
            wanted = (teacher[0, :, row, column] / 0.08).softmax(0).tolist()
            total += divergence(wanted, (student[0, :, row, column] / 0.08).softmax(0).tolist()) / 3
        assert float(prototype_consistency(student, teacher, self.mask, 0.08)) == pytest.approx(total / 3)

    def test_paper_values_are_those_of_a_naive_loop(self):
        strong, weak = random(1, 3, 2, 2), random(1, 3, 2, 2, seed=1).softmax(dim=1)
        total = 0.0
        for row, column in ((0, 0), (1, 0), (1, 1)):
            first, second = weak[0, :, row, column].tolist(), strong[0, :, row, column].softmax(0).tolist()
            total += divergence(first, second) + divergence(second, first)
        assert float(view_consistency(strong, weak, self.mask)) == pytest.approx(total / 3)

    def test_gradients(self):
        strong, weak = random(1, 3, 2, 2).requires_grad_(), random(1, 3, 2, 2, seed=1).requires_grad_()
        assert gradcheck(lambda s, w: view_consistency(s, w.softmax(dim=1), self.mask), (strong, weak))
        assert gradcheck(lambda s: prototype_consistency(s, weak, self.mask, 0.5), strong)
        weak.grad = None
        prototype_consistency(strong, weak, self.mask).backward()
        assert weak.grad is None

    def test_equal_views_cost_nothing(self):
        logits = 30 * random(2, 5, 3, 3, dtype=torch.float32)
        everywhere = torch.ones(2, 3, 3).bool()
        assert view_consistency(logits, logits.softmax(dim=1), everywhere).abs() < 1e-5
        assert prototype_consistency(logits, logits, everywhere, 0.08).abs() < 1e-6

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 9), st.floats(-2, 3))
    def test_other_views_cost_something(self, seed, power):
        strong, weak = 10**power * random(1, 3, 2, 2, seed=seed), random(1, 3, 2, 2, seed=seed + 1).softmax(dim=1)
        assert float(view_consistency(strong, weak, self.mask)) > 0

    def test_a_weak_view_with_zeros_is_no_trouble(self):
        strong = torch.tensor([60.0, -60.0]).view(1, 2, 1, 1).requires_grad_()
        weak = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).requires_grad_()
        loss = view_consistency(strong, weak, torch.ones(1, 1, 1).bool())
        loss.backward()
        assert loss.isfinite()
        assert strong.grad.isfinite().all()
        assert strong.grad[0, 0] > 0  # away from where the weak view is not
        assert weak.grad.isfinite().all()

    def test_what_is_masked_does_not_count(self):
        strong, weak = random(1, 3, 2, 2), random(1, 3, 2, 2, seed=1)
        other_strong, other_weak = strong.clone(), weak.clone()
        other_strong[..., 0, 1], other_weak[..., 0, 1] = 7.0, 250.0
        for loss in (
            lambda s, w: view_consistency(s, w.softmax(dim=1), self.mask),
            lambda s, w: prototype_consistency(s, w, self.mask),
        ):
            torch.testing.assert_close(loss(other_strong, other_weak), loss(strong, weak))

    def test_with_nothing_known_it_is_zero_and_connected(self):
        nothing = torch.zeros(1, 2, 2).bool()
        for loss in (view_consistency, prototype_consistency):
            strong = random(1, 3, 2, 2).requires_grad_()
            found = loss(strong, random(1, 3, 2, 2, seed=1).softmax(dim=1), nothing)
            found.backward()
            assert found == 0
            assert not strong.grad.any()

    @pytest.mark.parametrize("loss", [view_consistency, prototype_consistency])
    @pytest.mark.parametrize(("weak", "mask"), [((1, 3, 2, 3), (1, 2, 2)), ((1, 3, 2, 2), (1, 3, 2))])
    def test_other_shapes_are_refused(self, loss, weak, mask):
        with pytest.raises(ValueError, match="expected"):
            loss(torch.zeros(1, 3, 2, 2), torch.zeros(weak), torch.zeros(mask).bool())
