import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.edges import edge_loss, label_edges


def labels(size=(7, 9), batch=2, seed=0):
    return torch.randint(0, 3, (batch, *size), generator=torch.Generator().manual_seed(seed))


def blocks(size=(7, 9)):
    """Two classes and a corner that nobody labelled."""
    label = torch.zeros(1, *size, dtype=torch.long)
    label[:, :, 4:] = 1
    label[:, :2, :2] = 255
    return label


def images(size=(7, 9), batch=1, seed=0, dtype=torch.float64):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive_edges(label):
    found = torch.zeros_like(label, dtype=torch.bool)
    for image in range(len(label)):
        for row in range(label.shape[1]):
            for column in range(label.shape[2]):
                window = label[image, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                found[image, row, column] = len(window.unique()) > 1
    return found


def naive_loss(image, other, label):
    """Pixel by pixel; a neighbour beyond the border is the pixel itself."""
    height, width = label.shape[1:]
    total = 0.0
    for index in range(len(label)):
        bright = [
            sum(share * one[index, channel] for channel, share in enumerate((0.299, 0.587, 0.114)))
            for one in (image, other)
        ]
        for row, column in naive_edges(label)[index].nonzero().tolist():
            around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
            inside = [(r, c) for r, c in around if 0 <= r < height and 0 <= c < width]
            first, second = (sum(float(one[r, c] - one[row, column]) for r, c in inside) for one in bright)
            total += abs(first - second)
    return total / label.numel()


class TestLabelEdges:
    @pytest.mark.parametrize("label", [labels(), labels((1, 1)), labels((1, 6)), blocks(), blocks((12, 5))])
    def test_values_are_those_of_a_naive_loop(self, label):
        assert torch.equal(label_edges(label), naive_edges(label))

    def test_a_boundary_is_two_pixels_wide_and_what_is_not_labelled_has_one(self):
        assert label_edges(blocks())[0, 5].nonzero().flatten().tolist() == [3, 4]
        assert label_edges(blocks())[0, 0].nonzero().flatten().tolist() == [1, 2, 3, 4]

    def test_one_class_has_none(self):
        assert not label_edges(torch.full((2, 4, 5), 7)).any()

    @pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
    def test_any_integer_type_will_do(self, kind):
        assert torch.equal(label_edges(blocks().to(kind)), label_edges(blocks()))

    @pytest.mark.parametrize("wrong", [torch.zeros(4, 5).long(), torch.zeros(1, 4, 5)])
    def test_others_are_refused(self, wrong):
        with pytest.raises(ValueError, match=r"integer labels \(B, H, W\) expected"):
            label_edges(wrong)


class TestEdgeLoss:
    @pytest.mark.parametrize("label", [blocks(), blocks((12, 5)), labels(batch=1)])
    def test_value_is_that_of_a_naive_loop(self, label):
        image, other = images(label.shape[1:], seed=1), images(label.shape[1:], seed=2)
        assert float(edge_loss(image, other, label)) == pytest.approx(naive_loss(image, other, label), abs=1e-12)

    @settings(max_examples=20)
    @given(change=st.floats(-0.3, 0.3), seed=st.integers(0, 9))
    def test_a_change_that_is_everywhere_the_same_costs_nothing(self, change, seed):
        image = images(seed=seed)
        assert float(edge_loss(image, image + change, labels(batch=1))) == pytest.approx(0, abs=1e-12)

    def test_a_change_of_hue_alone_costs_nothing(self):
        image = images()
        hue = torch.tensor([0.587, -0.299, 0.0], dtype=torch.float64)[:, None, None] * images(seed=3)[:, :1]
        assert float(edge_loss(image, image + hue, labels(batch=1))) == pytest.approx(0, abs=1e-12)

    def test_what_happens_far_from_boundaries_costs_nothing(self):
        image, label = images(), blocks()
        other = image.clone()
        other[..., 7:] = 0
        assert edge_loss(image, other, label) == 0
        other[..., 3:] = 0
        assert edge_loss(image, other, label) > 0

    def test_without_boundaries_it_is_zero_and_connected(self):
        image, other = images(), images(seed=1).requires_grad_()
        loss = edge_loss(image, other, torch.zeros(1, 7, 9, dtype=torch.long))
        loss.backward()
        assert loss == 0 and other.grad is not None and not other.grad.any()

    def test_gradients(self):
        image, label = images((4, 5)), blocks((4, 5))
        assert gradcheck(lambda other: edge_loss(image, other, label), images((4, 5), seed=1).requires_grad_())

    def test_shapes_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"two images \(B, 3, H, W\) expected"):
            edge_loss(images(), images((7, 8)), blocks())
        with pytest.raises(ValueError, match=r"labels of the images"):
            edge_loss(images(), images(), blocks((7, 8)))
