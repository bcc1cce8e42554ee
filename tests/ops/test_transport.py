import math

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.transport import sinkhorn


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
