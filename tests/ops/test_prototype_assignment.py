import math

import ot
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
    row_scores,
    seen_classes,
    self_label_loss,
    sinkhorn,
)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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
        weights = cosine_logits(random(2, 4, 3, 2), random(5, 4, seed=1), 0.08).softmax(dim=1)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 3, 2).double())

    def test_without_being_told_a_prototype_of_zeros_beats_negative_cosines(self):
        prototypes = torch.tensor([[0.0, 0.0], [-1.0, 0.0]])
        weights = cosine_logits(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), prototypes, 0.08).softmax(dim=1)
        assert float(weights[0, 0]) > 0.99

    def test_a_class_that_was_not_seen_has_no_weight(self):
        features = random(2, 4, 3, 3, dtype=torch.float32).requires_grad_()
        prototypes = one_zero(random(4, 4, seed=1, dtype=torch.float32), 1).requires_grad_()
        seen = seen_classes(prototypes)
        assert seen.tolist() == [True, False, True, True]
        weights = cosine_logits(features, prototypes, 0.08, seen).softmax(dim=1)
        assert not weights[:, 1].any()
        torch.testing.assert_close(weights[:, seen], cosine_logits(features, prototypes[seen], 0.08).softmax(dim=1))
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


def unit(*shape, seed=0, dtype=torch.float64):
    return torch.nn.functional.normalize(random(*shape, seed=seed, dtype=dtype), dim=1)


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


def scores_of(rows=12, classes=4, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=dtype)


def prior_of(classes=4, seed=0, dtype=torch.float64):
    prior = 0.1 + torch.rand(classes, generator=torch.Generator().manual_seed(seed + 100), dtype=dtype)
    return prior / prior.sum()


def naive(scores, prior, epsilon, iterations):
    """The release's iteration, number by number."""
    rows, classes = scores.shape
    plan = [[math.exp(float(scores[row, index]) / epsilon) for index in range(classes)] for row in range(rows)]
    for _ in range(iterations):
        for index in range(classes):
            total = sum(plan[row][index] for row in range(rows))
            for row in range(rows):
                plan[row][index] *= float(prior[index]) / total
        plan = [[part / sum(parts) for part in parts] for parts in plan]
    return torch.tensor(plan, dtype=torch.float64)


class TestSinkhorn:
    @pytest.mark.parametrize("iterations", [1, 3, 10])
    @pytest.mark.parametrize("epsilon", [0.05, 0.5])
    def test_values_are_those_of_a_naive_loop(self, iterations, epsilon):
        scores, prior = scores_of(), prior_of()
        torch.testing.assert_close(
            sinkhorn(scores, prior, epsilon, iterations), naive(scores, prior, epsilon, iterations)
        )

    @pytest.mark.parametrize("epsilon", [0.3, 1.0])
    def test_after_many_rounds_it_is_the_plan_of_an_independent_solver(self, epsilon):
        scores, prior = scores_of(40, 5), prior_of(5)
        uniform = torch.full((40,), 1 / 40, dtype=torch.float64)
        plan = ot.sinkhorn(uniform, prior, -scores, epsilon, "sinkhorn_log", numItermax=300, stopThr=1e-12)
        torch.testing.assert_close(sinkhorn(scores, prior, epsilon, 300), 40 * plan, rtol=1e-6, atol=1e-9)

    def test_after_few_rounds_the_shares_only_approach_the_prior(self):
        scores, prior = scores_of(64), prior_of()
        errors = [
            float((sinkhorn(scores, prior, 0.05, rounds).mean(dim=0) - prior).abs().max()) for rounds in (1, 10, 100)
        ]
        assert errors[0] > errors[1] > errors[2]

    def test_equal_scores_give_the_prior_to_every_row(self):
        prior = prior_of(6)
        torch.testing.assert_close(sinkhorn(torch.ones(9, 6).double(), prior, 0.05, 3), prior.expand(9, 6))

    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(1, 9), st.integers(1, 5), st.integers(0, 9), st.floats(-3, 6), st.sampled_from([0.01, 0.05, 1.0])
    )
    def test_rows_sum_to_one_on_any_scale(self, rows, classes, seed, power, epsilon):
        scores = scores_of(rows, classes, seed, 10**power, torch.float32)
        found = sinkhorn(scores, prior_of(classes, seed, torch.float32), epsilon, 3)
        assert found.isfinite().all()
        assert ((found >= 0) & (found <= 1 + 1e-6)).all()
        torch.testing.assert_close(found.sum(dim=1), torch.ones(rows))

    @settings(max_examples=40, deadline=None)
    @given(st.integers(2, 9), st.integers(0, 9))
    def test_rows_in_another_order_are_assigned_alike(self, rows, seed):
        scores, prior = scores_of(rows, 4, seed), prior_of(4, seed)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(sinkhorn(scores[order], prior, 0.05, 3), sinkhorn(scores, prior, 0.05, 3)[order])

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.booleans(), min_size=2, max_size=5).filter(any), st.integers(0, 9), st.integers(1, 4))
    def test_a_class_without_a_share_gets_nothing_and_changes_nothing(self, there, seed, iterations):
        there = torch.tensor(there)
        scores = scores_of(7, len(there), seed)
        prior = prior_of(len(there), seed) * there
        found = sinkhorn(scores, prior, 0.05, iterations)
        assert not found[:, ~there].any()
        torch.testing.assert_close(found[:, there], sinkhorn(scores[:, there], prior[there], 0.05, iterations))

    @settings(max_examples=40, deadline=None)
    @given(st.floats(1e-3, 1e3), st.floats(-50, 50))
    def test_the_priors_sum_and_a_shift_of_all_scores_do_not_matter(self, factor, shift):
        scores, prior = scores_of(), prior_of()
        expected = sinkhorn(scores, prior, 0.05, 3)
        torch.testing.assert_close(sinkhorn(scores + shift, factor * prior, 0.05, 3), expected, rtol=1e-6, atol=1e-9)

    def test_a_prior_of_zeros_counts_as_uniform(self):
        scores = scores_of()
        expected = sinkhorn(scores, torch.full((4,), 0.25).double(), 0.05, 3)
        torch.testing.assert_close(sinkhorn(scores, torch.zeros(4).double(), 0.05, 3), expected)

    def test_no_rows_are_no_trouble(self):
        assert sinkhorn(torch.zeros(0, 3), torch.ones(3), 0.05, 3).shape == (0, 3)

    def test_types(self):
        scores, prior = scores_of(dtype=torch.float32), prior_of(dtype=torch.float32)
        found = sinkhorn(scores, prior, 0.05, 3)
        assert found.dtype == torch.float32
        assert sinkhorn(scores.double(), prior, 0.05, 3).dtype == torch.float64
        assert sinkhorn(scores.bfloat16(), prior, 0.05, 3).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(sinkhorn(scores, prior, 0.05, 3), found)

    def test_it_has_no_graph(self):
        assert not sinkhorn(scores_of().requires_grad_(), prior_of(), 0.05, 3).requires_grad

    @pytest.mark.parametrize(
        ("scores", "prior", "epsilon", "iterations"),
        [((4, 3), (4,), 0.05, 3), ((4, 3, 1), (3,), 0.05, 3), ((4, 3), (3,), 0.0, 3), ((4, 3), (3,), 0.05, 0)],
    )
    def test_what_does_not_fit_is_refused(self, scores, prior, epsilon, iterations):
        with pytest.raises(ValueError, match="expected"):
            sinkhorn(torch.zeros(scores), torch.ones(prior), epsilon, iterations)
