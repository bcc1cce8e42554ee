import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.consensus import bilateral_consensus, confirmed_means, feature_labels
from udaseg.ops.losses import resize
from udaseg.ops.prototypes import momentum_update


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def label_map(*shape, classes=3, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, shape, generator=generator)
    return labels.masked_fill(torch.rand(shape, generator=generator) < ignored, 255)


class TestFeatureLabels:
    def test_weights_are_those_of_a_naive_loop(self):
        features, centroids = random(2, 4, 3, 2), random(5, 4, seed=1)
        found = feature_labels(features, centroids, (3, 2))
        assert found.weights.shape == (2, 5, 3, 2) and found.labels.dtype == torch.int64
        for image, row, column in torch.cartesian_prod(*map(torch.arange, (2, 3, 2))).tolist():
            distances = [math.dist(features[image, :, row, column].tolist(), centre.tolist()) for centre in centroids]
            near = [math.exp(-distance) for distance in distances]
            assert found.weights[image, :, row, column].tolist() == pytest.approx(
                [n / sum(near) for n in near], abs=1e-5
            )
            assert int(found.labels[image, row, column]) == distances.index(min(distances))

    def test_the_softmax_is_enlarged_not_the_labels(self):
        features, centroids = random(1, 4, 3, 4), random(5, 4, seed=1)
        found = feature_labels(features, centroids, (9, 11))
        assert found.labels.shape == (1, 9, 11)
        assert torch.equal(found.labels, resize(found.weights, (9, 11)).argmax(1))
        assert torch.equal(found.labels[:, ::4, [0, 10]], found.weights.argmax(1)[..., [0, 3]])  # corners are aligned

    def test_a_centroid_of_zeros_attracts_weak_features_unless_it_was_never_seen(self):
        features = 0.1 * random(1, 4, 4, 4)
        centroids = torch.cat([random(2, 4, seed=1) + 3, torch.zeros(1, 4)])
        assert (feature_labels(features, centroids, (8, 8)).labels == 2).all()
        found = feature_labels(features, centroids, (8, 8), torch.tensor([True, True, False]))
        assert (found.labels < 2).all() and not found.weights[:, 2].any()
        torch.testing.assert_close(found.weights[:, :2], feature_labels(features, centroids[:2], (8, 8)).weights)

    def test_with_no_class_seen_there_is_no_label(self):
        found = feature_labels(random(1, 4, 2, 2), torch.zeros(3, 4), (4, 4), torch.zeros(3, dtype=torch.bool))
        assert (found.labels == 255).all() and found.weights.isfinite().all()

    def test_with_all_classes_seen_it_is_as_released(self):
        features, centroids = random(2, 4, 3, 3), random(3, 4, seed=1)
        released, told = (
            feature_labels(features, centroids, (6, 6)),
            feature_labels(features, centroids, (6, 6), torch.ones(3, dtype=torch.bool)),
        )
        assert torch.equal(released.labels, told.labels) and torch.equal(released.weights, told.weights)

    def test_needs_no_graph(self):
        assert not feature_labels(random(1, 4, 2, 2).requires_grad_(), random(3, 4), (4, 4)).weights.requires_grad

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            feature_labels(random(1, 4, 2, 2), random(3, 5), (4, 4))


class TestConsensus:
    def test_by_hand(self):
        first = torch.tensor([[[0, 1, 2, 255, 255, 3]]])
        second = torch.tensor([[[0, 2, 2, 255, 1, 255]]])
        labels, kept = bilateral_consensus(first, second)
        assert labels.tolist() == [[[0, 255, 2, 255, 255, 255]]]
        assert float(kept) == pytest.approx(2 / 6)

    @given(st.integers(0, 99))
    def test_value_is_that_of_a_naive_loop_whichever_comes_first(self, seed):
        first, second = label_map(2, 3, 4, seed=seed), label_map(2, 3, 4, seed=seed + 100)
        labels, kept = bilateral_consensus(first, second)
        pairs = list(zip(first.flatten().tolist(), second.flatten().tolist(), strict=True))
        expected = [one if one == other else 255 for one, other in pairs]
        assert labels.flatten().tolist() == expected
        assert float(kept) == pytest.approx(sum(label != 255 for label in expected) / len(expected))
        assert torch.equal(bilateral_consensus(second, first).labels, labels)

    def test_total_agreement_and_total_disagreement(self):
        labels = label_map(1, 4, 4, ignored=0)
        assert torch.equal(bilateral_consensus(labels, labels).labels, labels)
        none, kept = bilateral_consensus(labels, labels + 1)
        assert (none == 255).all() and kept == 0

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="one shape"):
            bilateral_consensus(label_map(1, 4, 4), label_map(2, 4, 4))


class TestConfirmedMeans:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 4), st.integers(0, 99))
    def test_values_are_those_of_a_naive_loop(self, min_pixels, seed):
        features, logits, labels = random(2, 4, 5, 6, seed=seed), random(2, 3, 5, 6, seed=seed + 1), label_map(2, 5, 6)
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
        logits = random(2, 3, 5, 6, seed=1)
        labels = (logits.argmax(1) + 1) % 3 if labels is None else labels
        means = confirmed_means(random(2, 4, 5, 6), logits, labels, 1)
        assert not means.present.any() and not means.vectors.any()
        centroids, counts = random(3, 4, seed=2), torch.ones(3)
        moved, after = momentum_update(centroids, counts, means, 0.5, counts > 0)
        assert torch.equal(moved, centroids) and torch.equal(after, counts)

    def test_a_class_needs_its_pixels_in_one_image(self):
        logits = torch.zeros(2, 2, 4, 5)
        logits[:, 1] = 1
        labels = torch.full((2, 4, 5), 255)
        labels[0].view(-1)[:4] = 1
        labels[1].view(-1)[:5] = 1
        means = confirmed_means(random(2, 3, 4, 5), logits, labels)
        assert means.present.tolist() == [[False, False], [False, True]]

    def test_images_move_a_centroid_one_after_the_other(self):
        features = torch.tensor([2.0, 4.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
        means = confirmed_means(features, torch.zeros(2, 1, 2, 2), torch.zeros(2, 2, 2, dtype=torch.int64), 1)
        moved, _ = momentum_update(torch.tensor([[1.0]]), torch.ones(1), means, 0.25)
        assert float(moved) == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4)

    def test_needs_no_graph_and_no_half_precision(self):
        features, logits, labels = random(1, 4, 5, 6), random(1, 3, 5, 6, seed=1), label_map(1, 5, 6)
        with torch.autocast("cpu", torch.bfloat16):
            means = confirmed_means(features.requires_grad_(), logits, labels, 1)
        assert not means.vectors.requires_grad and means.vectors.dtype == torch.float32
        assert torch.equal(means.vectors, confirmed_means(features, logits, labels, 1).vectors)

    @pytest.mark.parametrize("shape", [(2, 5, 5), (1, 5, 6), (5, 6)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            confirmed_means(random(2, 4, 5, 6), random(2, 3, 5, 6), torch.zeros(shape, dtype=torch.int64))
