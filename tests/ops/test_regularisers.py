import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.losses import IGNORE, cross_entropy
from udaseg.ops.regularisers import has_label, kld_regulariser, pooled, soft_cross_entropy


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
