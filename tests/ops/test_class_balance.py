import math
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.class_balance import (
    balanced_weights,
    class_shares,
    count_classes,
    draw_balanced,
    draw_uniform,
    moving_prior,
    pixel_weights,
    rare_class_probabilities,
    sample_counts,
    usable_prior,
)

CLASSES = 4


def labels_of(images=2, height=5, width=6, seed=0, ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (images, height, width), generator=generator)
    return labels.masked_fill(torch.rand(labels.shape, generator=generator) < ignored, 255)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class TestShares:
    def test_values_are_those_of_a_naive_loop(self):
        labels = labels_of()
        shares = class_shares(labels, CLASSES)
        counts = sample_counts(labels, CLASSES, 17)
        for image in range(2):
            for index in range(CLASSES):
                pixels = [label for row in labels[image].tolist() for label in row].count(index)
                assert float(shares[image, index]) == pytest.approx(pixels / 30)
                assert int(counts[image, index]) == 17 * pixels // 30
        assert counts.dtype == torch.int64

    def test_ignored_pixels_are_in_the_denominator(self):
        labels = torch.tensor([[[0, 0, 255, 255]]])
        assert class_shares(labels, 2).tolist() == [[0.5, 0.0]]
        assert sample_counts(labels, 2, 5).tolist() == [[2, 0]]

    def test_everything_ignored_gives_nothing(self):
        labels = torch.full((2, 3, 3), 255)
        assert not class_shares(labels, CLASSES).any()
        assert not sample_counts(labels, CLASSES, 256).any()

    def test_counts_of_whole_images_are_exact(self):
        labels = labels_of(ignored=0)
        assert torch.equal(sample_counts(labels, CLASSES, 30), (30 * class_shares(labels, CLASSES)).round().long())

    @pytest.mark.parametrize("labels", [torch.zeros(4, 4).long(), torch.zeros(1, 4, 4), torch.zeros(0, 4, 4).long()])
    def test_what_does_not_fit_is_refused(self, labels):
        with pytest.raises(ValueError, match="expected"):
            class_shares(labels, CLASSES)

    def test_fewer_than_no_samples_are_refused(self):
        with pytest.raises(ValueError, match="at least 0"):
            sample_counts(labels_of(), CLASSES, -1)


class TestBalancedDraws:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 3), st.integers(0, 9), st.floats(0, 1))
    def test_so_many_of_each_image_and_class_are_drawn_once(self, images, seed, ignored):
        labels = labels_of(images, seed=seed, ignored=ignored)
        counts = torch.randint(0, 12, (images, CLASSES), generator=generator(seed))
        drawn = draw_balanced(labels, counts, generator(seed))
        assert len(drawn.unique()) == len(drawn)
        pairs = torch.stack([drawn // 30, labels.flatten()[drawn]], dim=1).tolist()
        assert pairs == sorted(pairs)
        for image in range(images):
            for index in range(CLASSES):
                there = int((labels[image] == index).sum())
                assert pairs.count([image, index]) == min(there, int(counts[image, index]))

    def test_every_pixel_of_a_class_is_as_likely(self):
        labels = torch.tensor([[[1, 0, 1, 1, 255, 1]]])
        counts, source = torch.tensor([[0, 1]]), generator()
        drawn = torch.cat([draw_balanced(labels, counts, source) for _ in range(2000)])
        shares = drawn.bincount(minlength=6) / len(drawn)
        torch.testing.assert_close(shares, torch.tensor([0.25, 0, 0.25, 0.25, 0, 0.25]), atol=0.04, rtol=0)

    def test_it_is_a_function_of_the_generator(self):
        labels = labels_of(height=20)
        counts = sample_counts(labels, CLASSES, 40)
        drawn = [draw_balanced(labels, counts, generator(seed)) for seed in (0, 0, 1)]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])

    def test_counts_of_zero_draw_nothing(self):
        assert draw_balanced(labels_of(), torch.zeros(2, CLASSES).long(), generator()).shape == (0,)

    @pytest.mark.parametrize("counts", [torch.zeros(1, 4).long(), torch.zeros(2, 4), torch.zeros(8).long()])
    def test_what_does_not_fit_is_refused(self, counts):
        with pytest.raises(ValueError, match="expected"):
            draw_balanced(labels_of(), counts, generator())


class TestUniformDraws:
    def test_with_all_pixels_labelled_the_places_are_those_of_one_permutation(self):
        drawn = draw_uniform(labels_of(ignored=0), 7, generator())
        places = torch.randperm(30, generator=generator())[:7].sort().values
        assert sorted(drawn[:7].tolist()) == places.tolist()
        assert sorted(drawn[7:].tolist()) == (places + 30).tolist()

    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 3), st.integers(0, 40), st.integers(0, 9), st.floats(0, 1))
    def test_only_labelled_pixels_and_no_more_than_asked_for(self, images, samples, seed, ignored):
        labels = labels_of(images, seed=seed, ignored=ignored)
        drawn = draw_uniform(labels, samples, generator(seed))
        assert len(drawn.unique()) == len(drawn)
        assert (labels.flatten()[drawn] != 255).all()
        for image in range(images):
            there = int((labels[image] != 255).sum())
            assert int((drawn // 30 == image).sum()) == min(there, samples)
        assert (drawn // 30).diff().ge(0).all()


class TestPrior:
    @settings(max_examples=40, deadline=None)
    @given(st.floats(0, 1), st.integers(0, 9))
    def test_it_moves_towards_the_shares(self, keep, seed):
        shares = class_shares(labels_of(1, seed=seed), CLASSES)[0]
        prior = torch.full((CLASSES,), 0.25)
        moved = moving_prior(prior, shares, keep)
        expected = [keep * 0.25 + (1 - keep) * share for share in shares.tolist()]
        torch.testing.assert_close(moved, torch.tensor(expected))
        assert prior.tolist() == [0.25] * CLASSES

    def test_ignored_pixels_take_from_it(self):
        moved = moving_prior(torch.tensor([0.75, 0.25]), torch.zeros(2), 0.5)
        assert moved.tolist() == [0.375, 0.125]

    def test_as_it_is_used_it_sums_to_one_and_has_no_zero(self):
        usable = usable_prior(torch.tensor([0.3, 0.0, 0.1]))
        torch.testing.assert_close(usable.sum(), torch.tensor(1.0))
        torch.testing.assert_close(usable, torch.tensor([0.75, 2.5e-6, 0.25]), rtol=1e-4, atol=0)
        assert torch.equal(usable_prior(torch.zeros(4)), torch.full((4,), 0.25))

    @pytest.mark.parametrize(("prior", "shares", "keep"), [((3,), (2,), 0.5), ((1, 3), (3,), 0.5), ((3,), (3,), 1.5)])
    def test_what_does_not_fit_is_refused(self, prior, shares, keep):
        with pytest.raises(ValueError, match="expected"):
            moving_prior(torch.ones(prior), torch.ones(shares), keep)


LABELS = torch.tensor([[[0, 0, 1], [255, 2, 2]]])


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


WEIGHTS = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)


class TestPixelWeights:
    def test_each_pixel_has_its_classs_weight_and_an_ignored_one_none(self):
        assert pixel_weights(LABELS, WEIGHTS).tolist() == [[[0.5, 0.5, 1.0], [0.0, 4.0, 4.0]]]


COUNTS = st.lists(st.lists(st.integers(0, 10**9), min_size=4, max_size=4), min_size=1, max_size=5)


class TestRareClassProbabilities:
    @settings(deadline=None)
    @given(COUNTS, st.sampled_from([0.1, 1.0, 100.0]))
    def test_value_is_that_of_a_naive_loop(self, counts, temperature):
        totals = [sum(row[index] for row in counts) for index in range(4)]
        raised = [math.exp((1 - n / sum(totals)) / temperature) if n else 0.0 for n in totals]
        found = rare_class_probabilities(torch.tensor(counts), temperature)
        assert found.shape == (4,) and found.dtype == torch.float32
        expected = [value / sum(raised) for value in raised] if any(totals) else [0.0] * 4
        assert found.tolist() == pytest.approx(expected, rel=2e-5, abs=1e-7)

    def test_the_rarer_the_likelier_and_absent_never(self):
        common, rare, absent, middle = rare_class_probabilities(torch.tensor([[900, 1, 0, 90]]), 0.01).tolist()
        assert rare > middle > common and absent == 0

    def test_a_high_temperature_makes_all_alike(self):
        found = rare_class_probabilities(torch.tensor([[900, 1, 90]]), 1e6)
        assert found.tolist() == pytest.approx([1 / 3] * 3, rel=1e-4)

    def test_files_are_summed(self):
        counts = torch.tensor([[5, 1, 0], [2, 3, 4]])
        assert torch.equal(
            rare_class_probabilities(counts, 0.1), rare_class_probabilities(counts.sum(0, keepdim=True), 0.1)
        )

    def test_more_pixels_than_float32_can_count(self):
        found = rare_class_probabilities(torch.tensor([[2**40, 2**40, 0]]), 0.01)
        assert found.tolist() == [0.5, 0.5, 0.0]

    def test_no_pixel_at_all_is_no_nan(self):
        assert rare_class_probabilities(torch.zeros(2, 3, dtype=torch.int64), 0.01).tolist() == [0.0] * 3

    @pytest.mark.parametrize(
        ("counts", "temperature"), [(torch.ones(3).long(), 0.1), (torch.ones(2, 3), 0.1), (torch.ones(2, 3).long(), 0)]
    )
    def test_other_arguments_are_refused(self, counts, temperature):
        with pytest.raises(ValueError, match="expected"):
            rare_class_probabilities(counts, temperature)
