import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.feature_distance import feature_distance, shrink_labels, thing_cells


def labels_of(batch=2, height=12, width=16, classes=3, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return labels


def naive_shrink(labels, size, min_share):
    small = torch.empty(len(labels), *size, dtype=torch.int64)
    height, width = labels.shape[1:]
    for index in range(len(labels)):
        for row in range(size[0]):
            for column in range(size[1]):
                rows = range(row * height // size[0], -(-(row + 1) * height // size[0]))
                columns = range(column * width // size[1], -(-(column + 1) * width // size[1]))
                block = [int(labels[index, y, x]) for y in rows for x in columns]
                winner = min(set(block), key=lambda label: (-block.count(label), label))  # 255 loses a tie
                small[index, row, column] = winner if block.count(winner) / len(block) >= min_share else 255
    return small


class TestShrinkLabels:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 12), st.integers(1, 16), st.sampled_from([0.3, 0.5, 0.75, 1.0]), st.integers(0, 99))
    def test_value_is_that_of_a_naive_loop(self, height, width, min_share, seed):
        labels = labels_of(seed=seed)
        small = shrink_labels(labels, (height, width), 3, min_share)
        assert torch.equal(small, naive_shrink(labels, (height, width), min_share))

    def test_where_the_map_divides_the_image_it_looks_at_blocks(self):
        labels = torch.tensor([0, 1, 2, 255]).repeat_interleave(4).repeat(8, 1)[None]  # four columns of 4 pixels
        small = shrink_labels(labels, (2, 4), 3, 1.0)
        assert small.tolist() == [[[0, 1, 2, 255]] * 2]

    def test_a_map_of_odd_size_has_a_label_in_every_cell_as_of_deeplabv2(self):
        labels = torch.zeros(1, 64, 128, dtype=torch.int64)
        labels[:, :, 64:] = 2
        small = shrink_labels(labels, (9, 17), 3, 0.75)
        assert (small[..., :8] == 0).all() and (small[..., 9:] == 2).all()
        assert (small[..., 8] == 255).all()  # half of either

    def test_a_share_that_is_just_reached_counts(self):
        labels = torch.tensor([[[1, 1], [1, 0]]])
        assert shrink_labels(labels, (1, 1), 2, 0.75).item() == 1
        assert shrink_labels(labels, (1, 1), 2, 0.76).item() == 255

    def test_ignored_pixels_compete(self):
        labels = torch.tensor([[[255, 255, 255, 1]]])
        assert shrink_labels(labels, (1, 1), 2, 0.2).item() == 255

    @pytest.mark.parametrize("shape", [(12, 16), (2, 1, 12, 16), (2, 3, 16)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            shrink_labels(torch.zeros(shape, dtype=torch.int64), (4, 4), 3, 0.75)

    def test_probabilities_are_refused(self):
        with pytest.raises(ValueError, match="integer labels"):
            shrink_labels(torch.zeros(2, 12, 16), (4, 4), 3, 0.75)


class TestThingCells:
    def test_are_those_of_the_named_classes(self):
        labels = torch.tensor([[[0, 1, 2, 255]]])
        assert thing_cells(labels, (1, 4), [1, 2], 3, 0.75).tolist() == [[[False, True, True, False]]]

    def test_without_things_there_are_none(self):
        assert not thing_cells(labels_of(), (3, 4), [], 3, 0.1).any()


class TestFeatureDistance:
    def example(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        features, reference = (torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
        return features, reference, torch.rand(2, 3, 4, generator=generator) < 0.4

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 99))
    def test_value_is_that_of_a_naive_loop(self, seed):
        features, reference, mask = self.example(seed)
        lengths = []
        for index, row, column in mask.nonzero().tolist():
            difference = features[index, :, row, column] - reference[index, :, row, column]
            lengths.append(math.sqrt(sum(value**2 for value in difference.tolist())))
        expected = sum(lengths) / len(lengths) if lengths else 0.0
        distance = feature_distance(features, reference, mask)
        assert distance.shape == ()
        assert float(distance) == pytest.approx(expected)

    def test_gradient(self):
        features, reference, mask = self.example()
        assert gradcheck(lambda x: feature_distance(x, reference, mask), features.requires_grad_())

    def test_the_reference_gets_no_gradient(self):
        features, reference, mask = self.example()
        feature_distance(features.requires_grad_(), reference.requires_grad_(), mask).backward()
        assert reference.grad is None and features.grad.any()

    def test_only_masked_cells_are_pulled(self):
        features, reference, mask = self.example()
        feature_distance(features.requires_grad_(), reference, mask).backward()
        assert torch.equal(features.grad.abs().sum(dim=1) > 0, mask)

    def test_no_cell_is_zero_with_a_zero_gradient(self):
        features, reference, mask = self.example()
        distance = feature_distance(features.requires_grad_(), reference, torch.zeros_like(mask))
        distance.backward()
        assert distance == 0 and not features.grad.any()

    def test_at_the_reference_itself_the_gradient_is_zero_not_nan(self):
        features, _, mask = self.example()
        distance = feature_distance(features.requires_grad_(), features.detach().clone(), mask)
        distance.backward()
        assert distance == 0 and torch.equal(features.grad, torch.zeros_like(features))

    def test_other_shapes_are_refused(self):
        features, reference, mask = self.example()
        for arguments in ((features, reference[:, :4], mask), (features, reference, mask[:, :2]), (mask, mask, mask)):
            with pytest.raises(ValueError, match="expected"):
                feature_distance(*arguments)
