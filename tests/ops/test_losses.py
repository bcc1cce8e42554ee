import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.losses import cross_entropy, resize, weighted_cross_entropy


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


def naive_resize(image, height, width):
    """One channel, corners aligned."""
    resized = torch.empty(height, width, dtype=image.dtype)
    for row in range(height):
        for column in range(width):
            y = row * (image.shape[0] - 1) / (height - 1) if height > 1 else 0.0
            x = column * (image.shape[1] - 1) / (width - 1) if width > 1 else 0.0
            top, left = min(int(y), image.shape[0] - 1), min(int(x), image.shape[1] - 1)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
            resized[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return resized


class TestResize:
    @given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
    def test_value_is_that_of_a_naive_loop(self, height, width, new_height, new_width):
        logits, _ = example(batch=1, classes=2, height=height, width=width)
        resized = resize(logits, (new_height, new_width))
        assert resized.shape == (1, 2, new_height, new_width)
        for channel in range(2):
            expected = naive_resize(logits[0, channel], new_height, new_width)
            torch.testing.assert_close(resized[0, channel], expected, rtol=0, atol=1e-12)

    def test_gradient(self):
        logits, _ = example()
        assert gradcheck(lambda x: resize(x, (7, 4)), logits.requires_grad_())

    def test_equal_size_changes_nothing(self):
        logits, _ = example()
        assert torch.equal(resize(logits, (5, 3)), logits)

    def test_an_empty_size_is_refused(self):
        logits, _ = example()
        with pytest.raises(RuntimeError):
            resize(logits, (0, 4))
