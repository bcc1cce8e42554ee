import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.prototypes import (
    COUNT_CAP,
    ClassMeans,
    assignment_logits,
    assignment_weights,
    class_means,
    confirmed_means,
    cumulative_update,
    momentum_update,
    prototype_distances,
)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def maps(batch=2, channels=4, classes=3, height=5, width=6, seed=0):
    features = random(batch, channels, height, width, seed=seed, dtype=torch.float32)
    return features, random(batch, classes, height, width, seed=seed + 1, dtype=torch.float32)


def naive_means(features, logits, min_pixels, threshold):
    """Vectors and classes, image by image and class by class."""
    vectors, places = [], []
    for image in range(len(features)):
        for wanted in range(logits.shape[1]):
            predicted, counted = 0, []
            for row in range(features.shape[2]):
                for column in range(features.shape[3]):
                    probs = logits[image, :, row, column].softmax(0)
                    if int(probs.argmax()) == wanted:
                        predicted += 1
                        if float(probs.max()) >= threshold:
                            counted.append(features[image, :, row, column])
            if predicted >= min_pixels and counted:
                vectors.append(torch.stack(counted).mean(0))
                places.append((image, wanted))
    return vectors, places


class TestClassMeans:
    @pytest.mark.parametrize("min_pixels", [1, 9, 12])
    @pytest.mark.parametrize("threshold", [0.0, 0.6, 0.99])
    def test_values_are_those_of_a_naive_loop(self, min_pixels, threshold):
        features, logits = maps()
        means = class_means(features, logits, min_pixels, threshold)
        vectors, places = naive_means(features, logits, min_pixels, threshold)
        assert means.present.nonzero().tolist() == [list(place) for place in places]
        for vector, place in zip(vectors, places, strict=True):
            torch.testing.assert_close(means.vectors[place], vector)

    def test_what_is_not_present_is_zero(self):
        features, logits = maps(classes=4)
        logits[:, 2] = -100
        means = class_means(features, logits, min_pixels=1)
        assert means.vectors.shape == (2, 4, 4)
        assert means.present.sum(0).tolist() == [2, 2, 0, 2]
        assert not means.vectors[:, 2].any()

    def test_a_class_needs_its_pixels_in_one_image(self):
        logits = torch.zeros(2, 2, 4, 5)
        logits[0, 1].view(-1)[:9] = 1
        logits[1, 1].view(-1)[:10] = 1
        means = class_means(random(2, 3, 4, 5, dtype=torch.float32), logits)
        assert means.present.tolist() == [[True, False], [True, True]]

    def test_ties_go_to_the_first_class(self):
        means = class_means(torch.ones(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
        assert means.present.tolist() == [[True, False, False]]

    def test_needs_no_graph(self):
        features, logits = maps()
        assert not class_means(features.requires_grad_(), logits, 1).vectors.requires_grad

    @pytest.mark.parametrize(
        ("features", "logits"), [((2, 4, 5, 6), (2, 3, 5, 5)), ((2, 4, 5, 6), (1, 3, 5, 6)), ((4, 5, 6), (3, 5, 6))]
    )
    def test_other_shapes_are_refused(self, features, logits):
        with pytest.raises(ValueError, match="expected"):
            class_means(torch.zeros(features), torch.zeros(logits))


def means_of(vectors, present=None):
    """Means (B, C, D) of which all are present, or as told."""
    vectors = torch.tensor(vectors)
    return ClassMeans(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool) if present is None else present)


class TestCumulativeUpdate:
    @settings(deadline=None)
    @given(st.integers(1, 7), st.integers(0, 3))
    def test_is_the_unweighted_mean_of_image_means(self, images, seed):
        vectors = random(images, 2, 3, seed=seed, dtype=torch.float32)
        present = torch.rand(images, 2, generator=torch.Generator().manual_seed(seed)) < 0.6
        prototypes, counts = torch.zeros(2, 3), torch.zeros(2)
        for image in range(images):  # in batches of one, which must not matter
            means = ClassMeans(vectors[image : image + 1], present[image : image + 1])
            prototypes, counts = cumulative_update(prototypes, counts, means)
        assert counts.tolist() == present.sum(0).tolist()
        for index in range(2):
            shown = vectors[present[:, index], index]
            expected = shown.mean(0) if len(shown) else torch.zeros(3)
            torch.testing.assert_close(prototypes[index], expected, rtol=1e-5, atol=1e-6)
        whole = cumulative_update(torch.zeros(2, 3), torch.zeros(2), ClassMeans(vectors, present))
        torch.testing.assert_close(whole[0], prototypes)

    def test_counts_stop_at_the_cap_and_the_mean_goes_on_moving(self):
        prototypes, counts = torch.zeros(1, 1), torch.tensor([2999.0])
        for expected in (1 / 3000, (3000 / 3000 + 1) / 3001):
            prototypes, counts = cumulative_update(prototypes, counts, means_of([[[1.0]]]))
            assert float(prototypes) == pytest.approx(expected)
            assert float(counts) == COUNT_CAP

    def test_a_vector_that_sums_to_zero_is_left_out(self):
        prototypes, counts = cumulative_update(torch.ones(1, 2), torch.ones(1), means_of([[[0.0, 0.0]]]))
        assert prototypes.tolist() == [[1, 1]]
        assert counts.tolist() == [1]

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            cumulative_update(torch.ones(2, 2), torch.ones(2), means_of([[[0.0, 0.0]]]))


class TestMomentumUpdate:
    @pytest.mark.parametrize("momentum", [1e-4, 0.25, 1.0])
    def test_values_are_those_of_a_naive_loop(self, momentum):
        vectors = random(3, 2, 4, dtype=torch.float32)
        present = torch.tensor([[True, False], [True, True], [False, False]])
        prototypes, counts = random(2, 4, seed=1, dtype=torch.float32), torch.tensor([5.0, COUNT_CAP])
        expected, expected_counts = prototypes.clone(), counts.clone()
        for image, index in present.nonzero().tolist():
            expected[index] = (1 - momentum) * expected[index] + momentum * vectors[image, index]
            expected_counts[index] = min(expected_counts[index] + 1, COUNT_CAP)
        moved, moved_counts = momentum_update(prototypes, counts, ClassMeans(vectors, present), momentum)
        torch.testing.assert_close(moved, expected)
        assert torch.equal(moved_counts, expected_counts)

    def test_a_vector_that_sums_to_zero_is_left_out(self):
        before = torch.ones(1, 2)
        moved, counts = momentum_update(before, torch.ones(1), means_of([[[0.0, 0.0]], [[1.0, -1.0]]]), 0.5)
        assert torch.equal(moved, before)
        assert counts.tolist() == [1]

    def test_a_class_that_was_not_seen_takes_its_first_vector_whole(self):
        means = means_of([[[2.0], [2.0]], [[4.0], [4.0]]])
        prototypes, counts = torch.zeros(2, 1), torch.tensor([0.0, 3.0])
        moved, after = momentum_update(prototypes, counts, means, 0.1, seen=counts > 0)
        assert moved.flatten().tolist() == pytest.approx([0.9 * 2 + 0.1 * 4, 0.9 * 0.1 * 2 + 0.1 * 4])
        assert after.tolist() == [2, 5]

    def test_its_inputs_stay_as_they_are(self):
        prototypes, counts = torch.zeros(1, 1), torch.zeros(1)
        momentum_update(prototypes, counts, means_of([[[2.0]]]), 0.5)
        assert prototypes.tolist() == [[0]]
        assert counts.tolist() == [0]


class TestPrototypeDistances:
    def test_values_are_those_of_a_naive_loop(self):
        features, prototypes = random(2, 4, 3, 2), random(5, 4, seed=1)
        distances = prototype_distances(features, prototypes)
        assert distances.shape == (2, 5, 3, 2)
        for image, index, row, column in torch.cartesian_prod(*map(torch.arange, distances.shape)).tolist():
            pairs = zip(features[image, :, row, column].tolist(), prototypes[index].tolist(), strict=True)
            expected = math.sqrt(sum((feature - centre) ** 2 for feature, centre in pairs))
            assert float(distances[image, index, row, column]) == pytest.approx(expected)

    def test_gradient(self):
        assert gradcheck(prototype_distances, (random(1, 3, 2, 2).requires_grad_(), random(4, 3, seed=1)))
        assert gradcheck(prototype_distances, (random(1, 3, 2, 2), random(4, 3, seed=1).requires_grad_()))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_at_a_prototype_distance_and_gradient_are_zero(self, dtype):
        features = torch.tensor([3.0, 0.0], dtype=dtype).view(1, 2, 1, 1).requires_grad_()
        distances = prototype_distances(features, torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=dtype))
        distances.sum().backward()
        assert distances.flatten().tolist() == [0, 5]
        torch.testing.assert_close(features.grad.flatten(), torch.tensor([0.6, -0.8], dtype=dtype))

    def test_little_is_lost_where_all_are_far_from_zero(self):
        features, prototypes = random(1, 8, 3, 3) + 1000, random(4, 8, seed=1) + 1000
        exact = prototype_distances(features, prototypes)
        torch.testing.assert_close(
            prototype_distances(features.float(), prototypes.float()), exact.float(), rtol=1e-3, atol=1e-3
        )

    def test_autocast_costs_no_digits(self):
        features, prototypes = maps()[0], random(3, 4, seed=1, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            distances = prototype_distances(features, prototypes)
        assert torch.equal(distances, prototype_distances(features, prototypes))
        assert prototype_distances(features.bfloat16(), prototypes).dtype == torch.float32

    @pytest.mark.parametrize(("features", "prototypes"), [((2, 4, 3, 3), (5, 3)), ((4, 3, 3), (5, 4))])
    def test_other_shapes_are_refused(self, features, prototypes):
        with pytest.raises(ValueError, match="expected"):
            prototype_distances(torch.zeros(features), torch.zeros(prototypes))


class TestAssignment:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_values_are_those_of_a_naive_loop(self, temperature):
        distances = random(2, 3, 2, 2).abs()
        weights = assignment_weights(distances, temperature)
        for image, row, column in torch.cartesian_prod(*map(torch.arange, (2, 2, 2))).tolist():
            near = [math.exp(-temperature * d) for d in distances[image, :, row, column].tolist()]
            assert weights[image, :, row, column].tolist() == pytest.approx([part / sum(near) for part in near])

    def test_gradient(self):
        distances = random(1, 3, 2, 2).abs().requires_grad_()
        assert gradcheck(lambda d: assignment_weights(d, 2.0), distances)
        assert gradcheck(lambda d: assignment_weights(d, 2.0, torch.tensor([True, False, True])), distances)

    def test_identical_prototypes_weigh_alike(self):
        distances = prototype_distances(random(1, 3, 4, 4, dtype=torch.float32), torch.ones(5, 3))
        assert torch.equal(assignment_weights(distances), torch.full((1, 5, 4, 4), 0.2))

    def test_far_features_are_no_trouble(self):
        weights = assignment_weights(torch.tensor([1e30, 2e30]).view(1, 2, 1, 1))
        assert weights.flatten().tolist() == [1, 0]

    def test_without_being_told_a_prototype_of_zeros_competes(self):
        distances = prototype_distances(torch.full((1, 2, 1, 1), 0.1), torch.tensor([[0.0, 0.0], [5.0, 5.0]]))
        assert float(assignment_weights(distances)[0, 0]) > 0.9

    def test_a_class_that_was_not_seen_has_no_weight(self):
        distances = random(2, 4, 3, 3, dtype=torch.float32).abs().requires_grad_()
        seen = torch.tensor([True, False, True, True])
        weights = assignment_weights(distances, 1.0, seen)
        weights[:, 0].sum().backward()
        assert not weights[:, 1].any()
        torch.testing.assert_close(weights[:, seen], assignment_weights(distances[:, seen]))
        assert not distances.grad[:, 1].any()
        assert distances.grad.isfinite().all()
        assert assignment_logits(distances, 1.0, seen).isfinite().all()

    def test_with_no_class_seen_all_take_part(self):
        distances = random(2, 4, 3, 3).abs()
        nothing = torch.zeros(4, dtype=torch.bool)
        assert torch.equal(assignment_weights(distances, 1.0, nothing), assignment_weights(distances))


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def label_map(*shape, classes=3, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, shape, generator=generator)
    return labels.masked_fill(torch.rand(shape, generator=generator) < ignored, 255)


class TestConfirmedMeans:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 4), st.integers(0, 99))
    def test_values_are_those_of_a_naive_loop(self, min_pixels, seed):
        features, logits, labels = (
            random_maps(2, 4, 5, 6, seed=seed),
            random_maps(2, 3, 5, 6, seed=seed + 1),
            label_map(2, 5, 6),
        )
        means = confirmed_means(features, logits, labels, min_pixels)
        assert means.vectors.shape == (2, 3, 4) and means.present.shape == (2, 3)
        for image, index in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
            pixels = [
                features[image, :, row, column]
                for row, column in torch.cartesian_prod(torch.arange(5), torch.arange(6)).tolist()
                if labels[image, row, column] == index == int(logits[image, :, row, column].argmax())
            ]
            present = len(pixels) >= min_pixels
            assert bool(means.present[image, index]) == present
            expected = torch.stack(pixels).mean(0) if present else torch.zeros(4)
            torch.testing.assert_close(means.vectors[image, index], expected)

    @pytest.mark.parametrize("labels", [torch.full((2, 5, 6), 255), None])
    def test_without_labels_or_where_none_is_confirmed_nothing_is_present_and_nothing_moves(self, labels):
        logits = random_maps(2, 3, 5, 6, seed=1)
        labels = (logits.argmax(1) + 1) % 3 if labels is None else labels
        means = confirmed_means(random_maps(2, 4, 5, 6), logits, labels, 1)
        assert not means.present.any() and not means.vectors.any()
        centroids, counts = random_maps(3, 4, seed=2), torch.ones(3)
        moved, after = momentum_update(centroids, counts, means, 0.5, counts > 0)
        assert torch.equal(moved, centroids) and torch.equal(after, counts)

    def test_a_class_needs_its_pixels_in_one_image(self):
        logits = torch.zeros(2, 2, 4, 5)
        logits[:, 1] = 1
        labels = torch.full((2, 4, 5), 255)
        labels[0].view(-1)[:4] = 1
        labels[1].view(-1)[:5] = 1
        means = confirmed_means(random_maps(2, 3, 4, 5), logits, labels)
        assert means.present.tolist() == [[False, False], [False, True]]

    def test_images_move_a_centroid_one_after_the_other(self):
        features = torch.tensor([2.0, 4.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
        means = confirmed_means(features, torch.zeros(2, 1, 2, 2), torch.zeros(2, 2, 2, dtype=torch.int64), 1)
        moved, _ = momentum_update(torch.tensor([[1.0]]), torch.ones(1), means, 0.25)
        assert float(moved) == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4)

    def test_needs_no_graph_and_no_half_precision(self):
        features, logits, labels = random_maps(1, 4, 5, 6), random_maps(1, 3, 5, 6, seed=1), label_map(1, 5, 6)
        with torch.autocast("cpu", torch.bfloat16):
            means = confirmed_means(features.requires_grad_(), logits, labels, 1)
        assert not means.vectors.requires_grad and means.vectors.dtype == torch.float32
        assert torch.equal(means.vectors, confirmed_means(features, logits, labels, 1).vectors)

    @pytest.mark.parametrize("shape", [(2, 5, 5), (1, 5, 6), (5, 6)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            confirmed_means(random_maps(2, 4, 5, 6), random_maps(2, 3, 5, 6), torch.zeros(shape, dtype=torch.int64))
