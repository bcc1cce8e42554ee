import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.maps import take_pixels
from udaseg.ops.pixel_contrast import draw_pixels, hard_contrast, pixel_contrast, sample_views


def labels_of(batch=2, height=12, width=15, classes=3, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return labels


def predictions_of(labels, wrong, seed=1):
    """The labels, with a share of them wrong; 255 is never predicted."""
    generator = torch.Generator().manual_seed(seed)
    missed = (torch.rand(labels.shape, generator=generator) < wrong) | (labels == 255)
    return torch.where(missed, (labels + 1) % 3, labels)


def draw(labels, predicted, seed=0, **limits):
    return sample_views(labels, predicted, torch.Generator().manual_seed(seed), **limits)


def naive_kept(mine, wrong, views):
    """The release's three cases: enough of both kinds, many hard ones, many easy ones."""
    hard, easy = int((mine & wrong).sum()), int((mine & ~wrong).sum())
    if hard >= views / 2 and easy >= views / 2:
        return [views // 2, views - views // 2]
    return [views - easy, easy] if hard >= views / 2 else [hard, views - hard]


class TestSampleViews:
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 3), st.integers(1, 5), st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 40), st.integers(1, 200),
        st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.sampled_from([None, 255, 0]), st.integers(0, 99),
    )  # fmt: skip
    def test_what_is_drawn_is_as_promised(self, batch, classes, ignored, views, samples, wrong, ignore, seed):
        labels = labels_of(batch, classes=classes, ignored=ignored, seed=seed)
        predicted = predictions_of(labels, wrong, seed)
        found = draw(labels, predicted, seed, max_views=views, max_samples=samples, ignore=ignore)

        pairs = [
            (image, label)
            for image in range(batch)
            for label in sorted(set(labels[image].flatten().tolist()))
            if label != ignore and int((labels[image] == label).sum()) > views
        ]
        each = min(samples // len(pairs), views) if pairs else 0
        assert found.classes.tolist() == [label for _, label in pairs]
        assert found.indices.shape == (len(pairs), each) and found.indices.dtype == torch.int64
        assert found.kept.shape == (len(pairs), 2)
        assert found.indices.numel() <= samples
        assert found.indices.unique().numel() == found.indices.numel()
        for (image, label), indices, kept in zip(pairs, found.indices, found.kept.tolist(), strict=True):
            assert (indices // labels[0].numel() == image).all()
            assert (labels.flatten()[indices] == label).all()
            hard = (predicted != labels).flatten()[indices]
            assert hard.tolist() == [True] * kept[0] + [False] * kept[1]
            assert kept == naive_kept(labels[image] == label, predicted[image] != labels[image], each)

    def test_the_same_seed_draws_the_same_and_another_one_does_not(self):
        labels = labels_of()
        first, second, other = (draw(labels, labels, seed, max_views=10) for seed in (3, 3, 4))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first.indices, other.indices)

    def test_the_global_generator_is_left_alone(self):
        state = torch.get_rng_state()
        draw(labels_of(), labels_of(), max_views=10)
        assert torch.equal(state, torch.get_rng_state())

    def test_a_class_needs_more_than_max_views_pixels_in_one_image(self):
        labels = torch.full((2, 5, 5), 255)
        labels[0, 0], labels[1, 0], labels[1, 1] = 1, 1, 1
        labels[1, 2] = 2
        assert draw(labels, labels, max_views=5).classes.tolist() == [1]
        assert draw(labels, labels, max_views=4).classes.tolist() == [1, 1, 2]

    def test_void_is_a_class_as_released_unless_left_out(self):
        labels = labels_of(ignored=0.5)
        assert 255 in draw(labels, labels, max_views=20, ignore=None).classes
        assert 255 not in draw(labels, labels, max_views=20).classes

    def test_all_of_a_kind_where_the_other_kind_is_missing(self):
        labels = labels_of(ignored=0.0)
        assert (draw(labels, labels, max_views=9).kept == torch.tensor([0, 9])).all()
        assert (draw(labels, labels + 1, max_views=9).kept == torch.tensor([9, 0])).all()

    def test_every_pixel_can_be_drawn(self):
        labels = torch.zeros(1, 4, 4, dtype=torch.int64)
        seen = torch.cat([draw(labels, labels, seed, max_views=4).indices.flatten() for seed in range(40)])
        assert seen.unique().tolist() == list(range(16))

    @pytest.mark.parametrize("value", [0, 255])
    def test_no_class_large_enough_draws_nothing(self, value):
        labels = torch.full((1, 4, 4), value)
        found = draw(labels, labels)
        assert [tuple(part.shape) for part in found] == [(0,), (0, 0), (0, 2)]
        assert all(part.dtype == torch.int64 for part in found)

    def test_more_classes_than_samples_draw_nothing(self):
        labels = torch.arange(4).repeat_interleave(4).view(1, 4, 4)
        found = draw(labels, labels, max_views=2, max_samples=3)
        assert found.indices.shape == (4, 0) and not found.kept.any()
        anchors = take_pixels(torch.ones(1, 3, 4, 4), found.indices)
        assert pixel_contrast(anchors, found.classes) == 0

    @pytest.mark.parametrize(
        ("labels", "predicted", "limits"),
        [
            (torch.zeros(4, 4).long(), torch.zeros(4, 4).long(), {}),
            (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), {}),
            (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 5).long(), {}),
            (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 4).long(), {"max_views": 0}),
            (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 4).long(), {"max_samples": 0}),
        ],
    )
    def test_what_does_not_fit_is_refused(self, labels, predicted, limits):
        with pytest.raises(ValueError, match="expected"):
            draw(labels, predicted, **limits)


class TestDrawPixels:
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 3), st.integers(1, 6), st.sampled_from([0.0, 0.3, 0.99, 1.0]), st.integers(1, 90),
        st.integers(0, 99),
    )  # fmt: skip
    def test_what_is_drawn_is_as_promised(self, batch, classes, ignored, per_class, seed):
        labels = labels_of(batch, 7, 9, classes, ignored, seed)
        indices = draw_pixels(labels, per_class, torch.Generator().manual_seed(seed))
        assert indices.dtype == torch.int64 and indices.dim() == 1
        assert indices.unique().numel() == indices.numel()
        drawn = labels.flatten()[indices].tolist()
        assert drawn == sorted(drawn) and 255 not in drawn
        for label in range(classes):
            assert drawn.count(label) == min(per_class, int((labels == label).sum()))

    def test_the_same_seed_draws_the_same_and_another_one_does_not(self):
        first, second, other = (draw_pixels(labels_of(), 5, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
        assert torch.equal(first, second) and not torch.equal(first, other)

    def test_every_pixel_of_the_batch_is_as_likely(self):
        labels, generator = torch.zeros(2, 2, 4, dtype=torch.int64), torch.Generator().manual_seed(0)
        drawn = torch.cat([draw_pixels(labels, 4, generator) for _ in range(2000)])
        assert drawn.bincount(minlength=16).sub(500).abs().max() < 100  # 5 standard deviations

    def test_of_nineteen_classes_about_a_thousand(self):
        labels = torch.arange(19).repeat_interleave(100).view(1, 19, 100)
        assert 950 < len(draw_pixels(labels, 53, torch.Generator())) <= 1024

    def test_nothing_labelled_draws_nothing(self):
        indices = draw_pixels(torch.full((2, 3, 3), 255), 5, torch.Generator())
        assert indices.shape == (0,) and indices.dtype == torch.int64

    @pytest.mark.parametrize(
        ("labels", "per_class"),
        [(torch.zeros(4, 4).long(), 1), (torch.zeros(1, 4, 4), 1), (torch.zeros(1, 4, 4).long(), 0)],
    )
    def test_what_does_not_fit_is_refused(self, labels, per_class):
        with pytest.raises(ValueError, match="expected"):
            draw_pixels(labels, per_class, torch.Generator())


def units(*shape, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def naive_mean(vectors, labels, temperature, chosen):
    """-log( e^s_ij / (e^s_ij + Σ e^s_ik) ), mean over positives, then over anchors; `chosen` gives j and k of an i."""
    means = []
    for index in range(len(vectors)):
        scores = [float(vectors[index] @ vector) / temperature for vector in vectors]
        same = [j for j in range(len(vectors)) if labels[j] == labels[index] and j != index]
        other = [k for k in range(len(vectors)) if labels[k] != labels[index]]
        positives, negatives = chosen(scores, same, other)
        if positives is None:
            continue
        against = sum(math.exp(scores[k]) for k in negatives)
        terms = [-math.log(math.exp(scores[j]) / (math.exp(scores[j]) + against)) for j in positives]
        means.append(sum(terms) / len(terms))
    return sum(means) / len(means) if means else 0.0


def everything(scores, same, other):
    return (same, other) if same else (None, None)


def together_and_apart(vectors, labels, loss_of):
    """Descent raises the similarities of a class's pixels and lowers those of different classes', on average."""
    vectors = vectors.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(vectors), vectors)
    change = -(gradient @ vectors.detach().T)
    change = change + change.T
    same = labels[:, None] == labels
    assert change[same & ~torch.eye(len(labels), dtype=torch.bool)].mean() > 0
    assert change[~same].mean() < 0


def zero_and_connected(vectors, loss_of):
    vectors = vectors.requires_grad_()
    loss = loss_of(vectors)
    loss.backward()
    assert loss == 0 and loss.shape == ()
    assert torch.equal(vectors.grad, torch.zeros_like(vectors))


def no_digits_lost(vectors, loss_of):
    with torch.autocast("cpu", torch.bfloat16):
        within = loss_of(vectors)
    assert torch.equal(within, loss_of(vectors))
    assert loss_of(vectors.bfloat16()).dtype == torch.float32


class TestPixelContrast:
    @pytest.mark.parametrize("temperature", [0.1, 0.5])
    @pytest.mark.parametrize("classes", [[0, 1, 2], [0, 1, 0, 255], [3, 3], [1]])
    def test_value_is_that_of_a_naive_loop(self, classes, temperature):
        anchors = units(len(classes), 4, 3)
        loss = pixel_contrast(anchors, torch.tensor(classes), temperature, 0.07)
        labels = [label for label in classes for _ in range(4)]
        expected = naive_mean(anchors.flatten(0, 1), labels, temperature, everything) * temperature / 0.07
        assert loss.shape == ()
        assert float(loss) == pytest.approx(expected, rel=1e-10, abs=1e-12)

    def test_order_of_rows_and_views_does_not_matter(self):
        anchors, classes = units(4, 5, 3), torch.tensor([0, 1, 2, 1])
        shuffled = pixel_contrast(anchors[[2, 0, 3, 1]].flip(1), classes[[2, 0, 3, 1]])
        torch.testing.assert_close(shuffled, pixel_contrast(anchors, classes))

    def test_gradient(self):
        classes = torch.tensor([0, 1, 0])
        assert gradcheck(lambda x: pixel_contrast(x, classes), units(3, 3, 4).requires_grad_())

    def test_its_gradient_brings_a_class_together_and_parts_classes(self):
        classes = torch.tensor([0, 1, 0, 1])
        together_and_apart(
            units(20, 8), classes.repeat_interleave(5), lambda x: pixel_contrast(x.view(4, 5, 8), classes)
        )

    def test_one_class_only_is_exactly_zero(self):
        anchors = units(3, 4, 5, dtype=torch.float32).requires_grad_()
        loss = pixel_contrast(anchors, torch.tensor([7, 7, 7]))
        loss.backward()
        assert loss == 0 and not anchors.grad.any()

    @pytest.mark.parametrize("shape", [(0, 0, 4), (0, 5, 4), (3, 0, 4)])
    def test_no_anchor_is_zero_and_connected(self, shape):
        zero_and_connected(units(*shape), lambda x: pixel_contrast(x, torch.zeros(shape[0]).long()))

    def test_one_view_of_each_class_has_no_positive_and_is_zero(self):
        zero_and_connected(units(4, 1, 3), lambda x: pixel_contrast(x, torch.arange(4)))

    def test_an_anchor_without_positives_is_left_out(self):
        anchors, classes = units(3, 1, 3), torch.tensor([0, 1, 0])
        expected = naive_mean(anchors[:, 0], classes.tolist(), 0.1, everything) / 0.7
        assert float(pixel_contrast(anchors, classes)) == pytest.approx(expected)

    @pytest.mark.parametrize("temperature", [1e-3, 1e-20])
    def test_a_low_temperature_gives_no_nan(self, temperature):
        anchors = units(3, 3, 4, dtype=torch.float32).requires_grad_()
        loss = pixel_contrast(anchors, torch.tensor([0, 1, 1]), temperature)
        loss.backward()
        assert loss.isfinite() and anchors.grad.isfinite().all()

    def test_autocast_costs_no_digits(self):
        no_digits_lost(units(3, 5, 8, dtype=torch.float32), lambda x: pixel_contrast(x, torch.tensor([0, 1, 0])))

    @pytest.mark.parametrize(
        ("anchors", "classes", "temperatures"),
        [((6, 4), 6, ()), ((3, 2, 4), 2, ()), ((3, 2, 4), 3, (0.0,)), ((3, 2, 4), 3, (0.1, -1.0))],
    )
    def test_what_does_not_fit_is_refused(self, anchors, classes, temperatures):
        with pytest.raises(ValueError, match="expected"):
            pixel_contrast(torch.zeros(anchors), torch.zeros(classes).long(), *temperatures)


def hardest(share):
    def chosen(scores, same, other):
        if not same or not other:
            return None, None
        least = sorted(same, key=lambda j: (scores[j], j))[: max(1, round(share * len(same)))]
        most = sorted(other, key=lambda k: (-scores[k], k))[: max(1, round(share * len(other)))]
        return least, most

    return chosen


class TestHardContrast:
    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(1, 25), st.integers(1, 4), st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.7, 1.0]),
        st.sampled_from([0.1, 0.5]), st.integers(0, 99),
    )  # fmt: skip
    def test_value_is_that_of_a_naive_loop(self, pixels, classes, share, temperature, seed):
        embeddings = units(pixels, 4, seed=seed)
        labels = torch.randint(0, classes, (pixels,), generator=torch.Generator().manual_seed(seed))
        loss = hard_contrast(embeddings, labels, temperature, share)
        assert loss.shape == ()
        expected = naive_mean(embeddings, labels.tolist(), temperature, hardest(share))
        assert float(loss) == pytest.approx(expected, rel=1e-10, abs=1e-12)

    def test_a_tenth_of_each_is_taken_as_in_a_naive_loop(self):
        embeddings, labels = units(51, 6), torch.tensor([0] * 21 + [1] * 30)  # 2 or 3 positives, 3 or 2 negatives
        expected = naive_mean(embeddings, labels.tolist(), 0.1, hardest(0.1))
        assert float(hard_contrast(embeddings, labels)) == pytest.approx(expected)

    def test_taking_all_is_the_plain_contrast(self):
        anchors, classes = units(3, 6, 4), torch.tensor([0, 1, 0])
        plain = pixel_contrast(anchors, classes, base_temperature=0.1)
        torch.testing.assert_close(hard_contrast(anchors.flatten(0, 1), classes.repeat_interleave(6), share=1.0), plain)

    def test_the_hardest_cost_more_than_as_many_others(self):
        embeddings, labels = units(60, 6), torch.arange(60) % 3
        first = naive_mean(embeddings, labels.tolist(), 0.1, lambda scores, same, other: (same[:2], other[:4]))
        assert float(hard_contrast(embeddings, labels)) > 2 * first

    @pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
    def test_gradient(self, share):
        labels = torch.tensor([0, 1, 0, 1, 2, 0, 1, 1])
        assert gradcheck(lambda x: hard_contrast(x, labels, share=share), units(8, 4).requires_grad_())

    @pytest.mark.parametrize("share", [0.1, 1.0])
    def test_its_gradient_brings_a_class_together_and_parts_classes(self, share):
        labels = torch.arange(20) % 2
        together_and_apart(units(20, 8), labels, lambda x: hard_contrast(x, labels, share=share))

    def test_one_step_against_its_gradient_helps(self):
        embeddings, labels = units(40, 8).requires_grad_(), torch.arange(40) % 4
        loss = hard_contrast(embeddings, labels, share=1.0)
        (gradient,) = torch.autograd.grad(loss, embeddings)
        moved = F.normalize(embeddings - 0.1 * gradient, dim=1)
        assert hard_contrast(moved, labels, share=1.0) < loss

    def test_equally_similar_pixels_are_taken_in_their_order(self):
        embeddings, labels = torch.ones(8, 1).requires_grad_(), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        hard_contrast(embeddings, labels).backward()
        # Everyone's positive and negative is the first of its class, the first's own positive the second. As anchors
        # all are alike and the pulls to the one and from the other cancel, so the last two get no gradient.
        first, second, *last = embeddings.grad.view(2, 4).unbind(1)
        assert first.abs().min() > 0 and second.abs().min() > 0
        assert not torch.stack(last).any()

    @pytest.mark.parametrize(
        "labels", [[], [3], [3, 3, 3], [0, 1, 2, 3]], ids=["none", "one pixel", "one class", "one pixel per class"]
    )
    def test_nothing_to_contrast_is_zero_and_connected(self, labels):
        labels = torch.tensor(labels, dtype=torch.int64)
        zero_and_connected(units(len(labels), 4), lambda x: hard_contrast(x, labels))

    def test_a_pixel_without_positives_is_a_negative_only(self):
        embeddings, labels = units(4, 3).requires_grad_(), torch.tensor([0, 0, 0, 1])
        loss = hard_contrast(embeddings, labels, share=1.0)
        loss.backward()
        assert embeddings.grad[3].any()
        expected = naive_mean(embeddings.detach(), labels.tolist(), 0.1, hardest(1.0))
        assert float(loss.detach()) == pytest.approx(expected)

    @pytest.mark.parametrize("temperature", [1e-3, 1e-20])
    def test_a_low_temperature_gives_no_nan(self, temperature):
        embeddings = units(9, 4, dtype=torch.float32).requires_grad_()
        loss = hard_contrast(embeddings, torch.arange(9) % 3, temperature)
        loss.backward()
        assert loss.isfinite() and embeddings.grad.isfinite().all()

    def test_autocast_costs_no_digits(self):
        no_digits_lost(units(12, 8, dtype=torch.float32), lambda x: hard_contrast(x, torch.arange(12) % 3))

    @pytest.mark.parametrize(
        ("embeddings", "labels", "wanted"),
        [
            ((2, 3, 4), (2,), {}), ((6, 4), (5,), {}), ((6, 4), (6,), {"temperature": 0.0}),
            ((6, 4), (6,), {"share": 0.0}), ((6, 4), (6,), {"share": 1.1}),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused(self, embeddings, labels, wanted):
        with pytest.raises(ValueError, match="expected"):
            hard_contrast(torch.zeros(embeddings), torch.zeros(labels).long(), **wanted)
