import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.lovasz import lovasz_softmax
from udaseg.types import IGNORE

SIZES = st.tuples(st.integers(1, 2), st.integers(2, 4), st.integers(1, 4), st.integers(1, 4))


def example(batch=2, classes=4, height=5, width=3, ignored=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = IGNORE
    return logits, labels


def certain(predicted, classes):
    """Logits (B, C, H, W) whose probabilities are exactly 0 and 1."""
    return torch.nn.functional.one_hot(predicted, classes).movedim(-1, 1).double() * 1e4


def jaccard(pixels, foreground, wrong):
    """Intersection over union of a class where the pixels `wrong` are predicted wrongly and no others."""
    predicted = {pixel for pixel in pixels if (pixel in foreground) != (pixel in wrong)}
    return len(predicted & foreground) / len(predicted | foreground)


def naive_lovasz(logits, labels):
    """From sets of pixels: for each class, the errors from the largest times the Jaccard loss that each adds."""
    probs, flat = logits.softmax(1).movedim(1, -1).reshape(-1, logits.shape[1]).tolist(), labels.flatten().tolist()
    pixels = {pixel for pixel, label in enumerate(flat) if label != IGNORE}
    losses = []
    for index in {flat[pixel] for pixel in pixels}:
        foreground = {pixel for pixel in pixels if flat[pixel] == index}
        errors = {pixel: abs((pixel in foreground) - probs[pixel][index]) for pixel in pixels}
        loss, wrong, before = 0.0, set(), 0.0
        for pixel in sorted(pixels, key=lambda pixel: -errors[pixel]):
            wrong.add(pixel)
            after = 1 - jaccard(pixels, foreground, wrong)
            loss, before = loss + errors[pixel] * (after - before), after
        losses.append(loss)
    return sum(losses) / max(len(losses), 1)


class TestLovaszSoftmax:
    @given(SIZES, st.sampled_from([0, 0.3, 0.9]), st.integers(0, 99))
    @settings(max_examples=40, deadline=None)
    def test_value_is_that_of_a_naive_loop(self, size, ignored, seed):
        logits, labels = example(*size, ignored=ignored, seed=seed)
        loss = lovasz_softmax(logits, labels)
        assert loss.shape == ()
        assert 0 <= loss <= 1
        assert float(loss) == pytest.approx(naive_lovasz(logits, labels), abs=1e-12)

    @given(SIZES, st.integers(0, 99))
    @settings(max_examples=30, deadline=None)
    def test_of_a_perfect_prediction_it_is_zero(self, size, seed):
        labels = example(*size, seed=seed)[1]
        right = certain(labels.clamp(max=size[1] - 1), size[1])
        assert lovasz_softmax(right, labels) == 0

    @given(SIZES, st.integers(0, 99))
    @settings(max_examples=30, deadline=None)
    def test_of_a_certain_prediction_it_is_one_minus_the_mean_jaccard(self, size, seed):
        logits, labels = example(*size, seed=seed)
        predicted, valid, losses = logits.argmax(1), labels != IGNORE, []
        for index in labels[valid].unique():
            said, true = (predicted == index) & valid, labels == index
            losses.append(1 - int((said & true).sum()) / int((said | true).sum()))
        loss = lovasz_softmax(certain(predicted, size[1]), labels)
        assert float(loss) == pytest.approx(sum(losses) / max(len(losses), 1))

    @given(st.integers(0, 99))
    @settings(max_examples=20, deadline=None)
    def test_the_order_of_pixels_does_not_matter_even_across_images(self, seed):
        logits, labels = example(seed=seed)
        order = torch.randperm(labels.numel(), generator=torch.Generator().manual_seed(seed))
        shuffled = logits.movedim(1, 0).flatten(1)[:, order].view(4, 2, 5, 3).movedim(0, 1)
        found = lovasz_softmax(shuffled, labels.flatten()[order].view(2, 5, 3))
        torch.testing.assert_close(found, lovasz_softmax(logits, labels))

    def test_ignored_pixels_do_not_matter(self):
        logits, labels = example()
        changed = logits + 10 * (labels == IGNORE)[:, None] * torch.arange(4)[:, None, None]
        assert torch.equal(lovasz_softmax(changed, labels), lovasz_softmax(logits, labels))

    def test_classes_that_no_label_shows_do_not_count(self):
        logits, labels = example(classes=4)
        labels[labels != 0] = IGNORE
        as_one = torch.stack([logits[:, 0], logits[:, 1:].logsumexp(1)], dim=1)
        torch.testing.assert_close(lovasz_softmax(logits, labels), lovasz_softmax(as_one, labels))

    def test_gradient(self):
        logits, labels = example(batch=1, classes=3, height=3, width=2)
        assert gradcheck(lambda x: lovasz_softmax(x, labels), logits.requires_grad_())

    def test_without_a_label_it_is_zero_and_has_a_zero_gradient(self):
        logits, labels = example()
        loss = lovasz_softmax(logits.requires_grad_(), torch.full_like(labels, IGNORE))
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_of_one_labelled_pixel_it_is_its_error(self):
        logits, labels = example()
        labels[:] = IGNORE
        labels[1, 2, 1] = 2
        logits.requires_grad_()
        (expected,) = torch.autograd.grad(1 - logits.softmax(1)[1, 2, 2, 1], logits)
        (gradient,) = torch.autograd.grad(loss := lovasz_softmax(logits, labels), logits)
        torch.testing.assert_close(loss, 1 - logits.softmax(1)[1, 2, 2, 1])
        torch.testing.assert_close(gradient, expected)

    def test_over_many_pixels_float32_keeps_its_digits(self):
        logits, labels = example(batch=1, classes=3, height=400, width=400)
        logits.requires_grad_()
        (exact,) = torch.autograd.grad(lovasz_softmax(logits, labels), logits)
        # The order of near ties may differ between the precisions; hence not pixel by pixel.
        (single,) = torch.autograd.grad(lovasz_softmax(logits.float(), labels), logits)
        assert float((single - exact).abs().sum() / exact.abs().sum()) < 1e-4

    def test_autocast_costs_no_digits(self):
        logits, labels = example()
        with torch.autocast("cpu", torch.bfloat16):
            loss = lovasz_softmax(logits.float(), labels)
        assert torch.equal(loss, lovasz_softmax(logits.float(), labels))
        assert lovasz_softmax(logits.bfloat16(), labels).dtype == torch.float32

    @pytest.mark.parametrize("shape", [(2, 5, 4), (1, 5, 3), (2, 4, 5, 3)])
    def test_labels_of_another_shape_are_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            lovasz_softmax(example()[0], torch.zeros(shape, dtype=torch.int64))

    def test_labels_that_are_no_integers_are_refused(self):
        logits, labels = example()
        with pytest.raises(ValueError, match="integer labels"):
            lovasz_softmax(logits, labels.float())
