import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.losses import (
    balanced_cross_entropy,
    confident_cross_entropy,
    cross_entropy,
    has_label,
    pooled,
    reverse_cross_entropy,
    soft_cross_entropy,
    symmetric_cross_entropy,
    weighted_cross_entropy,
)
from udaseg.types import IGNORE


def example(batch=2, classes=4, height=5, width=3, ignored=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return logits, labels


def naive_cross_entropy(logits, labels):
    losses = []
    for image, truth in zip(logits, labels, strict=True):
        for row in range(truth.shape[0]):
            for column in range(truth.shape[1]):
                if truth[row, column] != 255:
                    scores = [float(score) for score in image[:, row, column]]
                    normaliser = math.log(sum(math.exp(score) for score in scores))
                    losses.append(normaliser - scores[int(truth[row, column])])
    return sum(losses) / len(losses) if losses else 0.0


class TestCrossEntropy:
    @settings(deadline=None)
    @given(st.integers(1, 3), st.integers(2, 5), st.integers(1, 6), st.integers(1, 6), st.sampled_from([0, 0.5, 1.1]))
    def test_value_is_that_of_a_naive_loop(self, batch, classes, height, width, ignored):
        logits, labels = example(batch, classes, height, width, ignored)
        assert float(cross_entropy(logits, labels)) == pytest.approx(naive_cross_entropy(logits, labels), abs=1e-12)

    def test_gradient(self):
        logits, labels = example()
        assert gradcheck(lambda x: cross_entropy(x, labels), logits.requires_grad_())

    def test_ignored_pixels_do_not_matter(self):
        logits, labels = example()
        changed = torch.where((labels == 255)[:, None], 7.0, logits)
        assert torch.equal(cross_entropy(logits, labels), cross_entropy(changed, labels))

    def test_all_ignored_is_zero_and_has_a_zero_gradient(self):
        logits, labels = example(ignored=1.1)
        loss = cross_entropy(logits.requires_grad_(), labels)
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_result_is_one_number_of_the_logits_type(self):
        logits, labels = example()
        loss = cross_entropy(logits.float(), labels)
        assert loss.shape == ()
        assert loss.dtype == torch.float32

    @pytest.mark.parametrize("shape", [(2, 5, 4), (1, 5, 3), (2, 4, 5, 3), (2, 15)])
    def test_labels_of_another_shape_are_refused(self, shape):
        logits, _ = example()
        with pytest.raises(ValueError, match="expected"):
            cross_entropy(logits, torch.zeros(shape, dtype=torch.int64))

    def test_probabilities_as_labels_are_refused(self):
        logits, labels = example()
        with pytest.raises(ValueError, match="integer labels"):
            cross_entropy(logits, labels.double())


class TestWeightedCrossEntropy:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 3), st.integers(2, 5), st.integers(1, 6), st.sampled_from([0, 0.5, 1.1]), st.integers(0, 9))
    def test_value_is_that_of_a_naive_loop(self, batch, classes, width, ignored, seed):
        logits, labels = example(batch, classes, 4, width, ignored, seed)
        weight = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        total = 0.0
        for place in (labels != 255).nonzero().tolist():
            one = tuple(slice(index, index + 1) for index in place)
            total += float(weight[one]) * naive_cross_entropy(logits[one[0], :, one[1], one[2]], labels[one])
        assert float(weighted_cross_entropy(logits, labels, weight)) == pytest.approx(total / labels.numel(), abs=1e-12)

    def test_no_weight_is_weight_one(self):
        logits, labels = example()
        ones = torch.ones(labels.shape, dtype=torch.float64)
        torch.testing.assert_close(
            weighted_cross_entropy(logits, labels, None), weighted_cross_entropy(logits, labels, ones)
        )

    def test_ignored_pixels_shrink_it(self):
        logits, labels = example()
        labelled = (labels != 255).double().mean()
        torch.testing.assert_close(
            weighted_cross_entropy(logits, labels, None), labelled * cross_entropy(logits, labels)
        )

    @pytest.mark.parametrize("weighted", [True, False])
    def test_gradient(self, weighted):
        logits, labels = example()
        weight = torch.rand(labels.shape, dtype=torch.float64) if weighted else None
        assert gradcheck(lambda x: weighted_cross_entropy(x, labels, weight), logits.requires_grad_())

    @pytest.mark.parametrize(("ignored", "weight"), [(1.1, None), (1.1, 1.0), (0.3, 0.0)])
    def test_nothing_labelled_or_no_weight_is_zero_and_has_a_zero_gradient(self, ignored, weight):
        logits, labels = example(ignored=ignored)
        weights = None if weight is None else torch.full(labels.shape, weight)
        loss = weighted_cross_entropy(logits.requires_grad_(), labels, weights)
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_result_is_one_number_of_the_logits_type(self):
        logits, labels = example()
        loss = weighted_cross_entropy(logits.float(), labels, torch.ones(labels.shape))
        assert loss.shape == ()
        assert loss.dtype == torch.float32

    def test_other_shapes_are_refused(self):
        logits, labels = example()
        with pytest.raises(ValueError, match="integer labels"):
            weighted_cross_entropy(logits, labels[:1], None)
        with pytest.raises(ValueError, match="weight"):
            weighted_cross_entropy(logits, labels, torch.ones(2, 1, 5, 3))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([[[0, 0, 1], [255, 2, 2]]])


WEIGHTS = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)


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


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def noisy_example(batch=2, classes=4, height=3, width=2, ignored=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator)
    return logits, labels.masked_fill(torch.rand(labels.shape, generator=generator) < ignored, 255)


def pixels(maps):
    """Lists of the channels of each pixel of (B, C, h, w)."""
    return maps.detach().movedim(1, -1).reshape(-1, maps.shape[1]).tolist()


def softmax(logits):
    exponentials = [math.exp(value - max(logits)) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


class TestReverseCrossEntropy:
    @settings(deadline=None)
    @given(st.integers(1, 3), st.integers(2, 5), st.sampled_from([0.0, 0.5]))
    def test_value_is_that_of_a_naive_loop(self, batch, classes, ignored):
        logits, labels = noisy_example(batch, classes, ignored=ignored)
        losses = []
        for scores, label in zip(pixels(logits), labels.flatten().tolist(), strict=True):
            if label != 255:
                onehot = [1.0 if index == label else 1e-4 for index in range(classes)]
                parts = zip(softmax(scores), onehot, strict=True)
                losses.append(-sum(max(prob, 1e-7) * math.log(hot) for prob, hot in parts))
        expected = sum(losses) / len(losses) if losses else 0.0
        assert float(reverse_cross_entropy(logits, labels)) == pytest.approx(expected, abs=1e-12)

    def test_is_bounded_where_the_label_is_wrong(self):
        logits = torch.tensor([100.0, 0.0]).view(1, 2, 1, 1)
        wrong, right = torch.ones(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int64)
        assert float(reverse_cross_entropy(logits, wrong)) == pytest.approx(-math.log(1e-4))
        assert float(reverse_cross_entropy(logits, right)) == pytest.approx(0, abs=1e-5)

    def test_gradient(self):
        logits, labels = noisy_example()
        assert gradcheck(lambda x: reverse_cross_entropy(x, labels), logits.requires_grad_())

    @pytest.mark.parametrize("shape", [(2, 3, 3), (1, 3, 2)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            reverse_cross_entropy(uniform(2, 4, 3, 2), torch.zeros(shape, dtype=torch.int64))


class TestSymmetricCrossEntropy:
    def test_is_the_weighted_sum_of_both(self):
        logits, labels = noisy_example()
        expected = 0.3 * cross_entropy(logits, labels) + 2 * reverse_cross_entropy(logits, labels)
        torch.testing.assert_close(symmetric_cross_entropy(logits, labels, 0.3, 2.0), expected)

    def test_all_ignored_is_zero_and_has_a_zero_gradient(self):
        logits, labels = noisy_example(ignored=1.1)
        loss = symmetric_cross_entropy(logits.requires_grad_(), labels, 0.1, 1.0)
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_gradient(self):
        logits, labels = noisy_example()
        assert gradcheck(lambda x: symmetric_cross_entropy(x, labels, 0.1, 1.0), logits.requires_grad_())


def mask(*shape, seed=0, share=0.6):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def soft_labels(*shape, seed=0, share=0.6):
    """(B, C, H, W), 0 in all classes at about 1 - share of the pixels."""
    labelled = mask(shape[0], *shape[2:], seed=seed, share=share)
    return random(*shape, seed=seed + 1).softmax(1) * labelled[:, None]


def pixels_of(maps):
    """(B, C, H, W) as lists of C numbers, pixel by pixel."""
    return maps.movedim(1, -1).reshape(-1, maps.shape[1]).tolist()


def log_probs(scores):
    normaliser = math.log(sum(math.exp(score) for score in scores))
    return [score - normaliser for score in scores]


class TestSoftCrossEntropy:
    @given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0, 0.5, 1.1]))
    @settings(max_examples=30, deadline=None)
    def test_value_is_that_of_a_naive_loop(self, batch, classes, height, width, share):
        logits, soft = random(batch, classes, height, width), soft_labels(batch, classes, height, width, share=share)
        losses = []
        for scores, label in zip(pixels_of(logits), pixels_of(soft), strict=True):
            if any(label):
                losses.append(-sum(q * log for q, log in zip(label, log_probs(scores), strict=True)))
        loss = soft_cross_entropy(logits, soft)
        assert loss.shape == ()
        assert float(loss) == pytest.approx(sum(losses) / max(len(losses), 1), abs=1e-12)

    def test_certain_labels_give_the_ordinary_cross_entropy(self):
        logits, labels = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1).argmax(1)
        labels[mask(2, 4, 5)] = IGNORE
        certain = F.one_hot(labels.clamp(max=2), 3).movedim(-1, 1) * (labels != IGNORE)[:, None]
        torch.testing.assert_close(soft_cross_entropy(logits, certain.double()), cross_entropy(logits, labels))

    def test_gradient(self):
        soft = soft_labels(2, 3, 2, 2)
        assert gradcheck(lambda x: soft_cross_entropy(x, soft), random(2, 3, 2, 2).requires_grad_())

    def test_without_labels_it_is_zero_and_has_a_zero_gradient(self):
        logits = random(1, 3, 2, 2).requires_grad_()
        loss = soft_cross_entropy(logits, torch.zeros(1, 3, 2, 2))
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    @pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 3, 4, 5), (1, 4, 4)])
    def test_labels_of_another_shape_are_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            soft_cross_entropy(random(1, 3, 4, 4), torch.zeros(shape))


class TestHasLabel:
    def test_is_false_where_all_classes_are_zero(self):
        soft = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.5, 0.5]]).T.view(1, 2, 1, 3)
        assert has_label(soft).tolist() == [[[False, True, True]]]


class TestPooled:
    @given(st.lists(st.lists(st.floats(-5, 5), max_size=6), min_size=1, max_size=4))
    @settings(max_examples=30, deadline=None)
    def test_the_parts_add_up_to_the_mean_over_everything(self, parts):
        means = [torch.tensor(sum(part) / max(len(part), 1), dtype=torch.float64) for part in parts]
        found = pooled(means, [torch.tensor(len(part)) for part in parts])
        values = [value for part in parts for value in part]
        assert float(sum(found)) == pytest.approx(sum(values) / max(len(values), 1), abs=1e-5)
        for part, share in zip(parts, found, strict=True):
            assert share.shape == ()
            assert float(share) == pytest.approx(sum(part) / max(len(values), 1), abs=1e-5)

    def test_of_one_part_it_is_the_part(self):
        assert pooled([torch.tensor(1.2345678)], [torch.tensor(1000)])[0] == torch.tensor(1.2345678)

    def test_gradient(self):
        counts = [torch.tensor(3), torch.tensor(1)]
        assert gradcheck(lambda x: pooled([x[0], x[1] ** 2], counts), random(2).requires_grad_())

    def test_without_any_pixel_it_is_zero_and_in_the_graph(self):
        logits = random(1, 3, 2, 2).requires_grad_()
        nothing = torch.full((1, 2, 2), IGNORE)
        losses = pooled([cross_entropy(logits, nothing)] * 2, [torch.tensor(0)] * 2)
        sum(losses).backward()
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_another_number_of_counts_is_refused(self):
        with pytest.raises(ValueError, match="as many"):
            pooled([torch.tensor(1.0)], [])


class TestConfidentCrossEntropy:
    @pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)])
    def test_values_are_those_of_a_naive_loop(self, weights):
        logits, confidence = random(2, 3, 2, 3), random(2, 2, 3, seed=1).sigmoid()
        labels = torch.tensor([[[0, 1, 2], [255, 2, 2]]] * 2)
        expected = 0.0
        for image, row, column in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
            label = int(labels[image, row, column])
            if label != 255:
                loss = -float(logits[image, :, row, column].log_softmax(0)[label])
                weight = 1.0 if weights is None else float(weights[label])
                expected += 0.3 * float(confidence[image, row, column]) ** 6 * weight * loss
        found = confident_cross_entropy(logits, labels, confidence, 0.3, weights)
        assert float(found) == pytest.approx(expected / labels.numel())

    def test_gradient(self):
        labels, confidence = torch.tensor([[[0, 1], [255, 2]]]), random(1, 2, 2).sigmoid()
        logits = random(1, 3, 2, 2).requires_grad_()
        assert gradcheck(lambda x: confident_cross_entropy(x, labels, confidence, 0.5, None), logits)

    def test_with_nothing_labelled_it_is_zero_and_connected(self):
        logits = random(1, 3, 2, 2).requires_grad_()
        loss = confident_cross_entropy(logits, torch.full((1, 2, 2), 255), torch.ones(1, 2, 2), 1.0, torch.ones(3))
        loss.backward()
        assert loss == 0
        assert not logits.grad.any()

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            confident_cross_entropy(random(1, 3, 2, 2), torch.zeros(1, 2, 2).long(), torch.ones(1, 2, 3), 1.0, None)
