import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.pseudo_labels import confidence_weighted


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
