import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.maps import resize
from udaseg.ops.pseudo_labels import (
    bilateral_consensus,
    confidence_weighted,
    feature_labels,
    rectified_labels,
    teacher_labels,
    trusted_labels,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


def label_map(*shape, classes=3, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, shape, generator=generator)
    return labels.masked_fill(torch.rand(shape, generator=generator) < ignored, 255)


class TestConsensus:
    def test_by_hand(self):
        first = torch.tensor([[[0, 1, 2, 255, 255, 3]]])
        second = torch.tensor([[[0, 2, 2, 255, 1, 255]]])
        labels, kept = bilateral_consensus(first, second)
        assert labels.tolist() == [[[0, 255, 2, 255, 255, 255]]]
        assert float(kept) == pytest.approx(2 / 6)

    @settings(deadline=None)
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


def random64(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pixels(maps):
    """Lists of the channels of each pixel of (B, C, h, w)."""
    return maps.detach().movedim(1, -1).reshape(-1, maps.shape[1]).tolist()


class TestRectifiedLabels:
    @pytest.mark.parametrize("threshold", [0.0, 0.5])
    def test_values_are_those_of_a_naive_loop(self, threshold):
        soft, weights = random64(2, 3, 3, 4).softmax(1), random64(2, 3, 3, 4, seed=1).softmax(1)
        found = rectified_labels(soft, weights, threshold)
        assert found.labels.shape == found.confidence.shape == (2, 3, 4)
        assert found.labels.dtype == torch.int64
        several = zip(
            pixels(soft),
            pixels(weights),
            found.labels.flatten().tolist(),
            found.confidence.flatten().tolist(),
            strict=True,
        )
        for probs, nearness, label, confidence in several:
            product = [prob * weight for prob, weight in zip(probs, nearness, strict=True)]
            assert confidence == pytest.approx(max(product) / sum(product))
            assert label == (product.index(max(product)) if confidence >= threshold else 255)

    def test_without_weights_the_soft_labels_decide(self):
        soft = random64(2, 3, 3, 4).softmax(1)
        found = rectified_labels(soft)
        assert torch.equal(found.labels, soft.argmax(1))
        torch.testing.assert_close(found.confidence, soft.amax(1))

    def test_uniform_weights_change_nothing(self):
        soft = random64(2, 4, 3, 4).softmax(1)
        assert torch.equal(rectified_labels(soft, torch.full_like(soft, 0.25)).labels, rectified_labels(soft).labels)

    @pytest.mark.parametrize("threshold", [0.0, 0.9])
    def test_where_nothing_is_left_the_pixel_is_ignored(self, threshold):
        soft = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).view(1, 2, 1, 3)  # none, first, second
        weights = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        found = rectified_labels(soft, weights, threshold)
        assert found.labels.flatten().tolist() == [255, 255, 1]
        assert found.confidence.flatten().tolist() == [0, 0, 1]

    def test_a_threshold_above_one_ignores_all(self):
        assert (rectified_labels(random64(1, 3, 2, 2).softmax(1), None, 1.01).labels == 255).all()

    @pytest.mark.parametrize("weights", [(2, 3, 4, 3), (1, 3, 3, 4)])
    def test_other_shapes_are_refused(self, weights):
        with pytest.raises(ValueError, match="expected"):
            rectified_labels(torch.ones(2, 3, 3, 4), torch.ones(weights))


CLASSES, SIZE, WIDTH = 3, 5, 4


def feature_bank_random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def classes(count, seed=0, highest=CLASSES):
    """Labels of `count` rows, some of which are 255."""
    drawn = torch.randint(highest + 1, (count,), generator=torch.Generator().manual_seed(seed))
    return drawn.masked_fill(drawn == highest, 255)


class TestTrustedLabels:
    def test_values_are_those_of_a_naive_loop(self):
        logits = feature_bank_random(2, CLASSES, 3, 4) * 3
        labels = classes(24).view(2, 3, 4)
        found = trusted_labels(labels, logits, 0.7)
        assert found.shape == labels.shape
        kept = 0
        for image, row, column in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
            probs = logits[image, :, row, column].softmax(0)
            label = int(labels[image, row, column])
            right = label != 255 and float(probs.max()) > 0.7 and int(probs.argmax()) == label
            assert int(found[image, row, column]) == (label if right else 255)
            kept += right
        assert kept

    def test_labels_come_at_the_size_of_the_logits(self):
        logits = torch.zeros(1, CLASSES, 4, 4)
        logits[:, 1] = 10
        labels = torch.ones(1, 16, 16, dtype=torch.int64)
        labels[:, :, 8:] = 2
        found = trusted_labels(labels, logits, 0.95)
        assert found.tolist() == [[[1, 1, 255, 255]] * 4]

    def test_nothing_is_trusted_at_the_highest_confidence(self):
        assert (trusted_labels(torch.zeros(1, 4, 4).long(), feature_bank_random(1, CLASSES, 4, 4), 1.0) == 255).all()

    @pytest.mark.parametrize(("labels", "logits"), [((4, 4), (1, 3, 4, 4)), ((2, 4, 4), (1, 3, 4, 4))])
    def test_other_shapes_are_refused(self, labels, logits):
        with pytest.raises(ValueError, match="expected"):
            trusted_labels(torch.zeros(labels).long(), torch.zeros(logits), 0.9)


def semi_supervised_random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6


class TestTeacherLabels:
    def test_values_are_those_of_a_naive_loop(self):
        logits, valid = semi_supervised_random(2, 3, 4, 5).float(), mask(2, 4, 5)
        labels, confidence = teacher_labels(logits, valid)
        assert labels.dtype == torch.int64
        for image, row, column in torch.cartesian_prod(*map(torch.arange, valid.shape)).tolist():
            probs = logits[image, :, row, column].softmax(0)
            inside = bool(valid[image, row, column])
            assert int(labels[image, row, column]) == (int(probs.argmax()) if inside else 255)
            assert float(confidence[image, row, column]) == pytest.approx(float(probs.max()))

    def test_logits_are_resized_to_the_mask(self):
        labels, confidence = teacher_labels(semi_supervised_random(1, 3, 4, 4), torch.ones(1, 16, 12).bool())
        assert labels.shape == confidence.shape == (1, 16, 12)


def logits_of(batch=2, classes=3, height=6, width=5, scale=4.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)


def naive(logits, threshold, top, bottom, valid):
    batch, _, height, width = logits.shape
    labels, confident, counted = torch.empty(batch, height, width, dtype=torch.int64), 0, 0
    for index in range(batch):
        for row in range(height):
            for column in range(width):
                scores = logits[index, :, row, column].tolist()
                total = sum(math.exp(score) for score in scores)
                best = max(range(len(scores)), key=scores.__getitem__)
                there = bool(valid[index, row, column])
                labels[index, row, column] = best if there else 255
                counted += there
                confident += there and math.exp(scores[best]) / total >= threshold
    weight = torch.full((batch, height, width), confident / max(counted, 1))
    for row in range(height):
        if row < top or row >= height - bottom:
            weight[:, row] = 0
    return labels, weight * valid, confident / max(counted, 1)


class TestConfidenceWeighted:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 3), st.integers(0, 8), st.integers(0, 8), st.floats(0.3, 1), st.booleans(), st.integers(0, 9))
    def test_value_is_that_of_a_naive_loop(self, batch, top, bottom, threshold, masked, seed):
        logits = logits_of(batch, seed=seed)
        valid = torch.ones(batch, 6, 5, dtype=torch.bool)
        if masked:
            valid = torch.rand(valid.shape, generator=torch.Generator().manual_seed(seed)) < 0.6
        found = confidence_weighted(logits, threshold, top, bottom, valid if masked else None)
        labels, weight, quality = naive(logits, threshold, top, bottom, valid)
        assert torch.equal(found.labels, labels)
        torch.testing.assert_close(found.weight, weight)
        assert float(found.quality) == pytest.approx(quality)

    def test_the_share_is_that_of_the_whole_batch(self):
        logits = torch.zeros(2, 3, 4, 4)
        logits[0, 1] = 50.0  # one image is sure of everything, the other of nothing
        found = confidence_weighted(logits, 0.968)
        assert float(found.quality) == 0.5
        assert torch.equal(found.weight, torch.full((2, 4, 4), 0.5))

    def test_nothing_confident_leaves_labels_without_weight(self):
        found = confidence_weighted(logits_of(scale=0.01), 0.968)
        assert found.quality == 0 and not found.weight.any()
        assert (found.labels != 255).all()

    def test_everything_confident(self):
        found = confidence_weighted(logits_of(scale=0.01), 0.0)
        assert found.quality == 1 and (found.weight == 1).all()

    def test_rows_that_are_cut_count_for_the_share(self):
        logits = torch.zeros(1, 3, 4, 4)
        logits[:, 0, 0] = 50.0
        found = confidence_weighted(logits, 0.968, ignore_top=1)
        assert float(found.quality) == 0.25 and not found.weight[:, 0].any() and found.weight[:, 1:].all()

    def test_more_rows_cut_than_there_are(self):
        assert not confidence_weighted(logits_of(scale=50.0), 0.5, ignore_top=4, ignore_bottom=100).weight.any()

    def test_no_valid_pixel_is_no_nan(self):
        found = confidence_weighted(logits_of(), 0.5, valid=torch.zeros(2, 6, 5, dtype=torch.bool))
        assert found.quality == 0 and not found.weight.any() and (found.labels == 255).all()

    def test_pixels_that_are_not_valid_do_not_matter(self):
        logits = logits_of()
        valid = torch.ones(2, 6, 5, dtype=torch.bool)
        valid[:, :, 3:] = False
        changed = logits.clone()
        changed[..., 3:] = 99.0
        for first, second in zip(
            confidence_weighted(logits, 0.9, valid=valid), confidence_weighted(changed, 0.9, valid=valid), strict=True
        ):
            assert torch.equal(first, second)

    def test_builds_no_graph(self):
        assert not any(part.requires_grad for part in confidence_weighted(logits_of().requires_grad_(), 0.5))

    def test_other_shapes_and_negative_rows_are_refused(self):
        with pytest.raises(ValueError, match="logits"):
            confidence_weighted(torch.zeros(3, 4, 4), 0.5)
        with pytest.raises(ValueError, match="valid"):
            confidence_weighted(logits_of(), 0.5, valid=torch.ones(1, 6, 5, dtype=torch.bool))
        with pytest.raises(ValueError, match="rows"):
            confidence_weighted(logits_of(), 0.5, ignore_top=-1)
