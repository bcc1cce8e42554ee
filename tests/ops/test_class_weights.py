import math
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.class_weights import balanced_cross_entropy, balanced_weights, count_classes, pixel_weights
from udaseg.ops.losses import cross_entropy


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([[[0, 0, 1], [255, 2, 2]]])
WEIGHTS = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)


class TestCounts:
    def test_each_class_is_counted_and_what_is_ignored_is_not(self):
        assert count_classes(LABELS, 4).tolist() == [2, 1, 2, 0]
        assert count_classes(torch.tensor([250, 255]), 2).tolist() == [0, 0]
        assert count_classes(torch.zeros(0).long(), 2).tolist() == [0, 0]


class TestBalancedWeights:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(0, 1000), min_size=1, max_size=8))
    def test_values_are_those_of_a_naive_loop(self, counts):
        weights = balanced_weights(torch.tensor(counts))
        seen = [count for count in counts if count]
        if not seen:
            assert weights.tolist() == [1.0] * len(counts)
            return
        expected = [math.sqrt(median(seen) / count) if count else 0.0 for count in counts]
        expected = [weight or max(expected) for weight in expected]
        assert weights.tolist() == pytest.approx(expected)
        assert (weights > 0).all()

    def test_equal_counts_weigh_one(self):
        assert balanced_weights(torch.full((5,), 7)).tolist() == [1.0] * 5

    def test_other_shapes_are_refused(self):
        for counts in (torch.ones(2, 2).long(), torch.ones(2)):
            with pytest.raises(ValueError, match="expected"):
                balanced_weights(counts)


class TestPixelWeights:
    def test_each_pixel_has_its_classs_weight_and_an_ignored_one_none(self):
        assert pixel_weights(LABELS, WEIGHTS).tolist() == [[[0.5, 0.5, 1.0], [0.0, 4.0, 4.0]]]


class TestBalancedCrossEntropy:
    def test_is_torchs_weighted_mean(self):
        logits = random(1, 3, 2, 3)
        rows = logits.movedim(1, -1).reshape(-1, 3)
        expected = torch.nn.functional.cross_entropy(rows, LABELS.flatten(), weight=WEIGHTS, ignore_index=255)
        torch.testing.assert_close(balanced_cross_entropy(logits, LABELS, WEIGHTS), expected)

    def test_without_weights_it_is_the_ordinary_one_bit_by_bit(self):
        logits = random(1, 3, 2, 3)
        assert torch.equal(balanced_cross_entropy(logits, LABELS, None), cross_entropy(logits, LABELS))

    def test_gradient(self):
        assert gradcheck(lambda x: balanced_cross_entropy(x, LABELS, WEIGHTS), random(1, 3, 2, 3).requires_grad_())

    @pytest.mark.parametrize("weights", [None, WEIGHTS])
    def test_with_nothing_labelled_it_is_zero_and_connected(self, weights):
        logits = random(1, 3, 2, 3).requires_grad_()
        loss = balanced_cross_entropy(logits, torch.full((1, 2, 3), 255), weights)
        loss.backward()
        assert loss == 0
        assert not logits.grad.any()

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            balanced_cross_entropy(random(1, 3, 2, 2), LABELS, WEIGHTS)
