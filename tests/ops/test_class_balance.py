import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.class_balance import (
    class_shares,
    draw_balanced,
    draw_uniform,
    moving_prior,
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
