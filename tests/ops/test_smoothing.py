import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.smoothing import label_smoothing

SIZES = st.tuples(st.integers(1, 2), st.integers(2, 4), st.integers(1, 4), st.integers(1, 4))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(logits, threshold):
    logits = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(label_smoothing(logits, threshold), logits)
    return found


class TestLabelSmoothing:
    @given(SIZES, st.sampled_from([-1.0, 0.0, 2.0, 10.0]), st.sampled_from([1.0, 20.0]), st.integers(0, 99))
    @settings(max_examples=40, deadline=None)
    def test_value_is_that_of_a_naive_loop(self, size, threshold, scale, seed):
        logits, losses = random(*size, seed=seed) * scale, []
        for scores in logits.movedim(1, -1).reshape(-1, size[1]).tolist():
            normaliser = math.log(sum(math.exp(score) for score in scores))
            distance = -sum(score - normaliser for score in scores) / len(scores)
            losses.append((distance / threshold - 1) * distance if threshold > 0 else distance)
        loss = label_smoothing(logits, threshold)
        assert loss.shape == ()
        assert float(loss) == pytest.approx(sum(losses) / len(losses))

    @given(SIZES, st.integers(0, 99))
    @settings(max_examples=30, deadline=None)
    def test_the_textbook_form_is_least_where_predictions_are_uniform(self, size, seed):
        least = label_smoothing(torch.zeros(size), 0)
        assert float(least) == pytest.approx(math.log(size[1]))
        assert label_smoothing(random(*size, seed=seed), 0) >= least.double() - 1e-6

    @pytest.mark.parametrize("threshold", [0.0, 10.0])
    @pytest.mark.parametrize("level", [0.0, 3.0])
    def test_uniform_predictions_have_no_gradient(self, level, threshold):
        logits = torch.full((1, 4, 2, 3), level)
        assert torch.equal(gradient(logits, threshold), torch.zeros_like(logits))

    @given(st.integers(0, 99))
    @settings(max_examples=20, deadline=None)
    def test_below_the_threshold_descending_sharpens_and_above_it_flattens(self, seed):
        logits = random(1, 4, 3, 3, seed=seed)
        textbook, distance = gradient(logits, 0), label_smoothing(logits[:, :, :1, :1], 0)
        below, above = (gradient(logits[:, :, :1, :1], float(distance * share)) for share in (2, 0.5))
        # The released form is the textbook's gradient times (u / threshold - 1): -1/2 below, 1 above.
        own = textbook[:, :, :1, :1] * 9  # of this pixel alone instead of one among nine
        torch.testing.assert_close(below, -own / 2)
        torch.testing.assert_close(above, own)
        step = logits[:, :, :1, :1] - 0.01 * below
        assert label_smoothing(step, 0) > distance

    def test_the_released_form_is_negative_early_on(self):
        assert label_smoothing(random(2, 19, 4, 4), 10) < 0

    @pytest.mark.parametrize("scale", [1.0, 30.0])  # u below and above the threshold
    def test_gradient(self, scale):
        logits = (random(2, 3, 2, 2) * scale).requires_grad_()
        assert gradcheck(lambda x: label_smoothing(x, 0), logits)
        # What the bracket says is a constant: differentiated as such, with its value held fixed.
        bracket = (-logits.detach().log_softmax(1).mean(1, keepdim=True) / 10 - 1).squeeze(1)
        held = (bracket * -logits.log_softmax(1).mean(1)).mean()
        torch.testing.assert_close(gradient(logits.detach(), 10), torch.autograd.grad(held, logits)[0])

    def test_autocast_costs_no_digits(self):
        logits = random(1, 4, 3, 3).float()
        with torch.autocast("cpu", torch.bfloat16):
            loss = label_smoothing(logits, 10)
        assert torch.equal(loss, label_smoothing(logits, 10))
        assert label_smoothing(logits.bfloat16(), 10).dtype == torch.float32

    @pytest.mark.parametrize("shape", [(4, 3, 3), (1, 2, 4, 3, 3)])
    def test_another_shape_is_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            label_smoothing(torch.zeros(shape), 10)
