import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.selection import ClassPools, class_balanced_labels, entropy_labels, mined_classes, rare_classes, scaled
from udaseg.types import IGNORE


def probabilities(*shape, seed=0, sharpness=2.0, dim=0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(*shape, generator=generator)).softmax(dim)


def pools_of(images, portion, every=1):
    pools = ClassPools(len(images[0]), portion, every)
    while not pools.complete:
        for image in images:
            pools.feed(image)
        pools.end_pass()
    return pools


def naive_pools(images, every):
    """Lists of Python floats, pixel by pixel; and all pixels of each class."""
    pools, pixels = [[] for _ in images[0]], [0 for _ in images[0]]
    for image in images:
        seen = [0 for _ in image]
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                probs = image[:, row, column].tolist()
                label = probs.index(max(probs))
                if seen[label] % every == 0:
                    pools[label].append(probs[label])
                seen[label] += 1
        pixels = [total + count for total, count in zip(pixels, seen, strict=True)]
    return pools, pixels


def naive_threshold(pool, portion):
    rank = math.floor(len(pool) * portion)
    return sorted(pool, reverse=True)[rank - 1] if rank else 1.0


class TestClassPools:
    @given(
        st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4),
        st.integers(1, 5),
        st.one_of(st.sampled_from([0.0, 0.2, 0.3, 1.0]), st.floats(0, 1)),
        st.integers(1, 5),
        st.integers(0, 1000),
        st.sampled_from([0.0, 1.0, 5.0, 50.0]),  # all probabilities equal … nearly all confidences exactly 1
    )
    @settings(max_examples=30, deadline=None)
    def test_thresholds_are_those_of_sorted_lists(self, sizes, classes, portion, every, seed, sharpness):
        images = [probabilities(classes, *size, seed=seed + i, sharpness=sharpness) for i, size in enumerate(sizes)]
        pools = pools_of(images, portion, every)
        lists, pixels = naive_pools(images, every)
        assert pools.sizes.tolist() == [len(pool) for pool in lists]
        assert pools.predicted.tolist() == pixels
        assert pools.ranks.tolist() == [math.floor(len(pool) * portion) for pool in lists]
        assert pools.thresholds().tolist() == [naive_threshold(pool, portion) for pool in lists]

    @given(
        st.lists(st.floats(2**-40, 1, width=32), min_size=1, max_size=60),
        st.floats(0, 1),
    )
    @settings(max_examples=30, deadline=None)
    def test_any_confidences_are_told_apart_bit_by_bit(self, values, portion):
        values = [*values, values[0]]  # a tie
        image = torch.zeros(2, 1, len(values))
        image[1] = torch.tensor(values)
        assert pools_of([image], portion).thresholds()[1] == naive_threshold(values, portion)

    def test_neighbouring_numbers_are_told_apart_across_the_halves_of_their_bits(self):
        boundary = torch.tensor([0x3F418000], dtype=torch.int32).view(torch.float32)
        values = torch.cat([boundary, boundary.nextafter(torch.ones(1)), boundary.nextafter(torch.zeros(1))])
        image = torch.stack([torch.zeros(1, 3), values[None]])
        found = [float(pools_of([image], portion).thresholds()[1]) for portion in (0.34, 0.67, 1.0)]
        assert found == sorted(values.tolist(), reverse=True)

    def test_shapes_and_types(self):
        pools = pools_of([probabilities(3, 4, 5)], 0.5)
        assert pools.thresholds().shape == pools.sizes.shape == pools.predicted.shape == pools.ranks.shape == (3,)
        assert pools.thresholds().dtype == torch.float32

    def test_a_class_that_is_never_predicted_and_a_portion_of_nothing_have_the_threshold_one(self):
        image = probabilities(3, 6, 6)
        image[2] = 0
        assert pools_of([image], 1.0).thresholds()[2] == 1
        assert pools_of([image], 0.0).thresholds().tolist() == [1, 1, 1]

    def test_the_whole_of_a_pool_reaches_down_to_its_lowest_confidence(self):
        image = probabilities(3, 6, 6)
        confidence, predicted = image.max(0)
        found = pools_of([image], 1.0).thresholds()
        assert found.tolist() == [float(confidence[predicted == index].min()) for index in range(3)]

    def test_no_image_and_an_empty_one_are_no_pools(self):
        empty = ClassPools(2, 0.5)
        empty.end_pass()
        empty.feed(torch.empty(2, 0, 4))
        empty.end_pass()
        assert empty.thresholds().tolist() == [1, 1]

    def test_memory_does_not_grow_with_the_images(self):
        pools = ClassPools(3, 0.5)
        held = [value for value in vars(pools).values() if isinstance(value, torch.Tensor)]
        before = sum(value.numel() for value in held)
        for seed in range(3):
            pools.feed(probabilities(3, 32, 32, seed=seed))
        after = [value for value in vars(pools).values() if isinstance(value, torch.Tensor)]
        assert sum(value.numel() for value in after) == before
        assert not [name for name, value in vars(pools).items() if isinstance(value, list | dict)]

    @pytest.mark.parametrize(
        ("probs", "message"),
        [
            (torch.full((3, 2, 2), 0.5).double(), "float32 probabilities"),
            (torch.full((2, 2, 2), 0.5), r"\(3, H, W\) expected, found \(2, 2, 2\)"),
            (torch.full((1, 3, 2, 2), 0.5), "expected"),
            (torch.full((3, 2, 2), 1.5), "found 1.5 to 1.5"),
            (torch.zeros(3, 2, 2), "found 0.0 to 0.0"),
            (torch.full((3, 2, 2), torch.nan), "found nan"),
        ],
    )
    def test_what_are_no_probabilities_is_refused(self, probs, message):
        with pytest.raises(ValueError, match=message):
            ClassPools(3, 0.5).feed(probs)

    @pytest.mark.parametrize("wrong", [(0, 0.5, 1), (3, -0.1, 1), (3, 1.1, 1), (3, 0.5, 0)])
    def test_impossible_settings_are_refused(self, wrong):
        with pytest.raises(ValueError, match="expected"):
            ClassPools(*wrong)

    def test_other_images_in_the_second_pass_are_noticed(self):
        for second in ([], [probabilities(3, 4, 4, seed=1)], [probabilities(3, 4, 4).roll(1, 0)]):
            pools = ClassPools(3, 0.5)
            pools.feed(probabilities(3, 4, 4))
            pools.end_pass()
            for image in second:
                pools.feed(image)
            with pytest.raises(ValueError, match="other predictions"):
                pools.end_pass()

    def test_passes_are_two(self):
        pools = ClassPools(3, 0.5)
        for _ in range(2):
            with pytest.raises(ValueError, match="two passes"):
                pools.thresholds()
            pools.end_pass()
        with pytest.raises(ValueError, match="both passes"):
            pools.feed(probabilities(3, 4, 4))
        with pytest.raises(ValueError, match="both passes"):
            pools.end_pass()


class TestScaled:
    def test_each_class_is_measured_by_its_own_threshold(self):
        probs = torch.tensor([0.5, 0.4]).view(1, 2, 1, 1)
        assert scaled(probs, torch.tensor([1.0, 0.5])).flatten().tolist() == pytest.approx([0.5, 0.8])

    @pytest.mark.parametrize("shape", [(3, 4, 4), (2, 4, 4, 3)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            scaled(torch.ones(shape), torch.ones(3))

    @pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
    def test_thresholds_that_are_not_positive_are_refused(self, threshold):
        with pytest.raises(ValueError, match="positive thresholds"):
            scaled(torch.ones(1, 2, 1, 1), torch.tensor([0.5, threshold]))


def naive_label(probs, thresholds):
    factors = [prob / threshold for prob, threshold in zip(probs, thresholds, strict=True)]
    return factors.index(max(factors)) if max(factors) >= 1 else IGNORE


class TestClassBalancedLabels:
    @given(st.integers(1, 5), st.integers(0, 1000), st.floats(0, 1))
    @settings(max_examples=30, deadline=None)
    def test_value_is_that_of_a_naive_loop(self, classes, seed, portion):
        probs = probabilities(2, classes, 4, 5, seed=seed, dim=1)
        thresholds = pools_of(list(probs), portion).thresholds()
        labels = class_balanced_labels(probs, thresholds)
        assert labels.shape == (2, 4, 5)
        assert labels.dtype == torch.int64
        for image in range(2):
            for row in range(4):
                for column in range(5):
                    values = probs[image, :, row, column].tolist()
                    assert labels[image, row, column] == naive_label(values, thresholds.tolist())

    @given(st.integers(2, 5), st.integers(0, 1000), st.floats(0, 1))
    @settings(max_examples=30, deadline=None)
    def test_at_least_the_portion_of_each_class_is_selected(self, classes, seed, portion):
        """A pixel that reaches its own class's threshold is selected, though perhaps as another class."""
        probs = probabilities(1, classes, 8, 8, seed=seed, dim=1)
        pools = pools_of(list(probs), portion)
        selected = class_balanced_labels(probs, pools.thresholds()) != IGNORE
        predicted = probs.argmax(1)
        for index in range(classes):
            assert int((selected & (predicted == index)).sum()) >= int(pools.ranks[index])

    def test_nothing_is_selected_of_portion_zero_and_everything_of_one(self):
        probs = probabilities(2, 4, 6, 6, dim=1)
        assert (class_balanced_labels(probs, pools_of(list(probs), 0.0).thresholds()) == IGNORE).all()
        assert (class_balanced_labels(probs, pools_of(list(probs), 1.0).thresholds()) != IGNORE).all()

    def test_the_label_need_not_be_the_most_probable_class(self):
        probs = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1)
        assert class_balanced_labels(probs, torch.tensor([0.9, 0.3])).item() == 1

    def test_reaching_the_threshold_is_enough(self):
        threshold = torch.tensor([0.7310586, 1.0])
        below = threshold[:1].nextafter(torch.zeros(1))
        for value, label in ((threshold[:1], 0), (below, IGNORE)):
            probs = torch.cat([value, 1 - value]).view(1, 2, 1, 1)
            assert class_balanced_labels(probs, threshold).item() == label


def naive_entropy_label(probs, thresholds, alpha):
    """The soft label, and what selecting the pixel by it costs more than ignoring it (CRST, in its own form)."""
    powers = [(prob / threshold) ** (1 / alpha) for prob, threshold in zip(probs, thresholds, strict=True)]
    soft = [power / sum(powers) for power in powers]
    selecting = sum(-q * math.log(prob) + alpha * q * math.log(q) for q, prob in zip(soft, probs, strict=True) if q > 0)
    ignoring = -sum(q * math.log(threshold) for q, threshold in zip(soft, thresholds, strict=True))
    return soft, selecting - ignoring


class TestEntropyLabels:
    @given(st.integers(2, 5), st.integers(0, 1000), st.floats(0.05, 1), st.floats(0.1, 2))
    @settings(max_examples=30, deadline=None)
    def test_value_is_that_of_a_naive_loop(self, classes, seed, portion, alpha):
        probs = probabilities(2, classes, 3, 4, seed=seed, dim=1)
        thresholds = pools_of(list(probs), portion).thresholds()
        soft, hard = entropy_labels(probs, thresholds, alpha)
        assert soft.shape == probs.shape
        assert hard.shape == (2, 3, 4)
        for image in range(2):
            for row in range(3):
                for column in range(4):
                    values = probs[image, :, row, column].tolist()
                    expected, cost = naive_entropy_label(values, thresholds.tolist(), alpha)
                    assert soft[image, :, row, column].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
                    if abs(cost) > 1e-5:
                        label = expected.index(max(expected)) if cost < 0 else IGNORE
                        assert hard[image, row, column] == label

    def test_towards_no_entropy_labels_are_the_class_balanced_ones(self):
        probs = probabilities(2, 4, 9, 9, dim=1)
        thresholds = pools_of(list(probs), 0.3).thresholds()
        soft, hard = entropy_labels(probs, thresholds, 1e-3)
        expected = class_balanced_labels(probs, thresholds)
        # At the thresholds themselves both sides cost the same: CBST selects, LRENT does not.
        reached = (scaled(probs, thresholds).amax(1) - 1).abs() < 1e-6
        assert torch.equal(hard[~reached], expected[~reached])
        assert float(soft.amax(1).mean()) > 0.99

    def test_a_large_weight_leaves_no_class_preferred(self):
        soft, _ = entropy_labels(probabilities(1, 4, 3, 3, dim=1), torch.full((4,), 0.5), 1e6)
        torch.testing.assert_close(soft, torch.full_like(soft, 0.25), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("alpha", [1e-3, 0.25, 1.0])
    def test_it_is_finite_where_probabilities_vanish_and_thresholds_are_small(self, alpha):
        probs = torch.tensor([[1.0, 0.0, 0.0], [1e-30, 1.0, 0.0]]).T.view(1, 3, 1, 2)
        soft, hard = entropy_labels(probs, torch.tensor([0.05, 0.05, 1.0]), alpha)
        assert soft.isfinite().all()
        torch.testing.assert_close(soft.sum(1), torch.ones(1, 1, 2))
        assert hard.flatten().tolist() == [0, 1]

    @pytest.mark.parametrize("alpha", [0.25, 1.0])
    def test_nothing_is_selected_of_portion_zero(self, alpha):
        """With alpha 1 selecting and ignoring cost the same there, but for rounding."""
        probs = probabilities(2, 19, 16, 16, dim=1)
        assert (entropy_labels(probs, torch.ones(19), alpha).hard == IGNORE).all()

    @pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
    def test_a_weight_that_is_not_positive_is_refused(self, alpha):
        with pytest.raises(ValueError, match="positive alpha"):
            entropy_labels(torch.ones(1, 2, 1, 1), torch.ones(2), alpha)


class TestRareAndMinedClasses:
    def test_the_least_predicted_come_first(self):
        predicted = torch.tensor([900, 0, 40, 50, 10])
        assert rare_classes(predicted) == [1, 4, 2]
        assert rare_classes(predicted, count=1) == [1]
        assert mined_classes(predicted, below=0.04) == [1, 4]
        assert mined_classes(predicted, below=0.0) == []

    @given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(0, 9), st.floats(0, 1))
    @settings(max_examples=30, deadline=None)
    def test_with_ties_their_pixel_counts_are_those_of_the_naive_choice(self, counts, number, below):
        predicted, total = torch.tensor(counts), max(sum(counts), 1)
        assert [counts[index] for index in rare_classes(predicted, number)] == sorted(counts)[:number]
        expected = sorted(count for count in counts if count / total < below)
        assert [counts[index] for index in mined_classes(predicted, below)] == expected

    def test_where_nothing_is_predicted_all_are_mined(self):
        assert mined_classes(torch.zeros(3, dtype=torch.int64), 0.001) == [0, 1, 2]

    @pytest.mark.parametrize("predicted", [torch.ones(2, 2, dtype=torch.int64), torch.ones(3)])
    def test_what_are_no_counts_is_refused(self, predicted):
        with pytest.raises(ValueError, match="pixel counts"):
            rare_classes(predicted)
        with pytest.raises(ValueError, match="pixel counts"):
            mined_classes(predicted, 0.1)
