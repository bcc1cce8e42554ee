import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.semi_supervised import confident_cross_entropy, cosine_keep, normalised_entropy, ramp_up, teacher_labels


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6


class TestSchedules:
    def test_the_ramp_is_that_of_the_release(self):
        assert ramp_up(0, 2000) == pytest.approx(math.exp(-5))
        assert ramp_up(1000, 2000) == pytest.approx(math.exp(-1.25))
        assert [ramp_up(index, 2000) for index in (2000, 2001)] == [1.0, 1.0]
        assert ramp_up(0, 0) == 1.0

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 3000))
    def test_the_ramp_never_falls(self, iteration):
        assert 0 < ramp_up(iteration, 2000) <= ramp_up(iteration + 1, 2000) <= 1

    def test_the_share_that_is_kept_grows_from_least_to_one(self):
        assert cosine_keep(0, 0.995) == pytest.approx(0.995)
        assert cosine_keep(0.5, 0.995) == pytest.approx(0.9975)
        assert cosine_keep(1, 0.995) == 1


class TestTeacherLabels:
    def test_values_are_those_of_a_naive_loop(self):
        logits, valid = random(2, 3, 4, 5).float(), mask(2, 4, 5)
        labels, confidence = teacher_labels(logits, valid)
        assert labels.dtype == torch.int64
        for image, row, column in torch.cartesian_prod(*map(torch.arange, valid.shape)).tolist():
            probs = logits[image, :, row, column].softmax(0)
            inside = bool(valid[image, row, column])
            assert int(labels[image, row, column]) == (int(probs.argmax()) if inside else 255)
            assert float(confidence[image, row, column]) == pytest.approx(float(probs.max()))

    def test_logits_are_resized_to_the_mask(self):
        labels, confidence = teacher_labels(random(1, 3, 4, 4), torch.ones(1, 16, 12).bool())
        assert labels.shape == confidence.shape == (1, 16, 12)


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


class TestEntropy:
    @pytest.mark.parametrize("form", ["paper", "released"])
    def test_values_are_those_of_a_naive_loop(self, form):
        logits, valid = random(3, 4, 2, 3), mask(3, 2, 3)
        total = 0.0
        for image, row, column in torch.cartesian_prod(*map(torch.arange, valid.shape)).tolist():
            probs = logits[image, :, row, column].softmax(0).tolist()
            entropy = -sum(p * math.log2(p) for p in probs) / math.log2(4)
            times = int(valid[image, row, column]) if form == "paper" else int(valid[:, row, column].sum())
            total += entropy * times
        assert float(normalised_entropy(logits, valid, form)) == pytest.approx(total / int(valid.sum()))

    @pytest.mark.parametrize("images", [1, 4])
    def test_as_released_it_is_as_many_times_larger_as_there_are_images(self, images):
        logits, valid = random(images, 4, 5, 5), torch.ones(images, 5, 5).bool()
        paper, released = (normalised_entropy(logits, valid, form) for form in ("paper", "released"))
        torch.testing.assert_close(released, images * paper)

    def test_it_lies_between_certain_and_uniform(self):
        valid = torch.ones(1, 2, 2).bool()
        sure = torch.zeros(1, 3, 2, 2)
        sure[:, 0] = 1e4
        assert normalised_entropy(sure, valid, "paper") == 0
        assert float(normalised_entropy(torch.zeros(1, 3, 2, 2), valid, "paper")) == pytest.approx(1)

    @pytest.mark.parametrize("form", ["paper", "released"])
    def test_gradient(self, form):
        logits = random(2, 3, 2, 2).requires_grad_()
        assert gradcheck(lambda x: normalised_entropy(x, mask(2, 2, 2), form), logits)

    @pytest.mark.parametrize("form", ["paper", "released"])
    def test_with_nothing_valid_it_is_zero_and_connected(self, form):
        logits = random(1, 3, 2, 2).requires_grad_()
        loss = normalised_entropy(logits, torch.zeros(1, 2, 2).bool(), form)
        loss.backward()
        assert loss == 0
        assert not logits.grad.any()

    def test_other_shapes_are_refused(self):
        for valid in (torch.ones(1, 2, 3).bool(), torch.ones(1, 2, 2)):
            with pytest.raises(ValueError, match="expected"):
                normalised_entropy(random(1, 3, 2, 2), valid, "paper")
