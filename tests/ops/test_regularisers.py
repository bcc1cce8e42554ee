import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.regularisers import kld_regulariser, label_smoothing, normalised_entropy, regulariser


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask(*shape, seed=0, share=0.6):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def pixels_of(maps):
    """(B, C, H, W) as lists of C numbers, pixel by pixel."""
    return maps.movedim(1, -1).reshape(-1, maps.shape[1]).tolist()


def log_probs(scores):
    normaliser = math.log(sum(math.exp(score) for score in scores))
    return [score - normaliser for score in scores]


class TestKldRegulariser:
    @given(
        st.integers(2, 4),
        st.integers(1, 4),
        st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=1, max_size=3),
        st.sampled_from([0, 0.5, 1.1]),
    )
    @settings(max_examples=30, deadline=None)
    def test_value_is_that_of_a_naive_loop(self, classes, size, strengths, share):
        batch = len(strengths)
        logits, selected = random(batch, classes, size, size), mask(batch, size, size, share=share)
        total, count = 0.0, 0
        for image, strength in enumerate(strengths):
            for scores, chosen in zip(pixels_of(logits[image : image + 1]), selected[image].flatten(), strict=True):
                if chosen and strength:
                    total -= strength * sum(log_probs(scores)) / classes
                    count += 1
        loss = kld_regulariser(logits, selected, torch.tensor(strengths, dtype=torch.float64))
        assert loss.shape == ()
        assert float(loss) == pytest.approx(total / max(count, 1), abs=1e-12)

    def test_is_the_divergence_from_uniform_up_to_a_constant(self):
        logits = random(1, 4, 3, 3)
        uniform = torch.full_like(logits, 0.25)
        divergence = F.kl_div(logits.log_softmax(1), uniform, reduction="sum") / 9
        found = kld_regulariser(logits, mask(1, 3, 3, share=1.1), torch.ones(1))
        torch.testing.assert_close(found, divergence + math.log(4))

    def test_is_least_where_predictions_are_uniform(self):
        selected = mask(1, 3, 3, share=1.1)
        least = kld_regulariser(torch.zeros(1, 4, 3, 3), selected, torch.ones(1))
        assert float(least) == pytest.approx(math.log(4))
        assert kld_regulariser(random(1, 4, 3, 3), selected, torch.ones(1)) > least

    def test_gradient(self):
        selected, strength = mask(2, 2, 3), torch.tensor([0.5, 1.0]).double()
        assert gradcheck(lambda x: kld_regulariser(x, selected, strength), random(2, 3, 2, 3).requires_grad_())

    @pytest.mark.parametrize(("share", "strength"), [(0.0, 1.0), (1.1, 0.0)])
    def test_where_nothing_counts_it_is_zero_and_has_a_zero_gradient(self, share, strength):
        logits = random(2, 3, 2, 2).requires_grad_()
        loss = kld_regulariser(logits, mask(2, 2, 2, share=share), torch.full((2,), strength))
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_an_image_without_a_label_does_not_matter(self):
        logits, selected = random(2, 3, 4, 4), mask(2, 4, 4)
        selected[1] = False
        both = kld_regulariser(logits, selected, torch.ones(2))
        torch.testing.assert_close(both, kld_regulariser(logits[:1], selected[:1], torch.ones(1)))

    def test_what_does_not_fit_is_refused(self):
        logits, selected = random(2, 3, 4, 4), mask(2, 4, 4)
        with pytest.raises(ValueError, match="mask"):
            kld_regulariser(logits, selected[:1], torch.ones(2))
        with pytest.raises(ValueError, match="mask"):
            kld_regulariser(logits, selected.long(), torch.ones(2))
        with pytest.raises(ValueError, match="each of 2 images"):
            kld_regulariser(logits, selected, torch.ones(3))


def random64(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pixels(maps):
    """Lists of the channels of each pixel of (B, C, h, w)."""
    return maps.detach().movedim(1, -1).reshape(-1, maps.shape[1]).tolist()


def softmax(logits):
    exponentials = [math.exp(value - max(logits)) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


class TestRegulariser:
    @pytest.mark.parametrize("kind", ["mrkld", "mrent"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_value_is_that_of_a_naive_loop(self, kind, masked):
        logits = random64(2, 4, 3, 2)
        mask = random64(2, 3, 2, seed=1) > 0 if masked else torch.ones(2, 3, 2, dtype=torch.bool)
        losses = []
        for scores, counts in zip(pixels(logits), mask.flatten().tolist(), strict=True):
            probs = softmax(scores)
            if counts:
                mrkld = -sum(math.log(prob) for prob in probs) / len(probs)
                losses.append(mrkld if kind == "mrkld" else sum(prob * math.log(prob) for prob in probs))
        loss = regulariser(logits, mask if masked else None, kind)
        assert loss.shape == ()
        assert float(loss) == pytest.approx(sum(losses) / len(losses))

    @pytest.mark.parametrize("kind", ["mrkld", "mrent"])
    def test_uniform_predictions_are_the_best(self, kind):
        uniform, other = torch.zeros(1, 4, 2, 2), random64(1, 4, 2, 2)
        assert regulariser(uniform, kind=kind) < regulariser(other, kind=kind)

    @pytest.mark.parametrize("kind", ["mrkld", "mrent"])
    def test_gradient(self, kind):
        mask = random64(1, 2, 2, seed=1) > 0
        assert gradcheck(lambda x: regulariser(x, mask, kind), random64(1, 3, 2, 2).requires_grad_())

    @pytest.mark.parametrize("kind", ["mrkld", "mrent"])
    def test_stays_finite_where_the_network_is_certain(self, kind):
        logits = torch.tensor([1e4, 0.0, -1e4]).view(1, 3, 1, 1).requires_grad_()
        loss = regulariser(logits, kind=kind)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()

    def test_an_empty_mask_gives_zero_with_a_zero_gradient(self):
        logits = random64(1, 3, 2, 2).requires_grad_()
        loss = regulariser(logits, torch.zeros(1, 2, 2, dtype=torch.bool))
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_another_kind_or_shape_is_refused(self):
        with pytest.raises(ValueError, match="entropy"):
            regulariser(random64(1, 3, 2, 2), kind="entropy")
        with pytest.raises(ValueError, match="expected"):
            regulariser(random64(1, 3, 2, 2), torch.ones(2, 2, dtype=torch.bool))


def valid_mask(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6


class TestEntropy:
    @pytest.mark.parametrize("form", ["paper", "released"])
    def test_values_are_those_of_a_naive_loop(self, form):
        logits, valid = random(3, 4, 2, 3), valid_mask(3, 2, 3)
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
        assert gradcheck(lambda x: normalised_entropy(x, valid_mask(2, 2, 2), form), logits)

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


SIZES = st.tuples(st.integers(1, 2), st.integers(2, 4), st.integers(1, 4), st.integers(1, 4))


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
