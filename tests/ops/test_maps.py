import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.maps import labelled_rows, nearest, resize, take_pixels

CLASSES, SIZE, WIDTH = 3, 5, 4


def classes(count, seed=0, highest=CLASSES):
    """Labels of `count` rows, some of which are 255."""
    drawn = torch.randint(highest + 1, (count,), generator=torch.Generator().manual_seed(seed))
    return drawn.masked_fill(drawn == highest, 255)


class TestNearest:
    def test_values_are_those_of_single_pixels(self):
        maps = torch.arange(64).view(1, 8, 8)
        assert torch.equal(nearest(maps, (4, 2)), maps[:, ::2, ::4])
        assert nearest(maps, (4, 2)).dtype == torch.int64

    def test_a_map_of_its_size_stays(self):
        maps = classes(12).view(1, 3, 4)
        assert torch.equal(nearest(maps, (3, 4)), maps)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class TestLabelledRows:
    def test_values_are_those_of_a_naive_loop(self):
        features, labels = random(2, WIDTH, 3, 2), classes(12).view(2, 3, 2)
        rows, found = labelled_rows(features, labels)
        expected = [
            (features[image, :, row, column].tolist(), int(labels[image, row, column]))
            for image, row, column in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist()
            if labels[image, row, column] != 255
        ]
        assert 0 < len(expected) < 12
        assert list(zip(rows.tolist(), found.tolist(), strict=True)) == expected

    def test_with_nothing_labelled_there_are_none(self):
        rows, labels = labelled_rows(random(1, WIDTH, 2, 2), torch.full((1, 2, 2), 255))
        assert rows.shape == (0, WIDTH)
        assert labels.shape == (0,)

    def test_gradient(self):
        labels = classes(4).view(1, 2, 2)
        assert gradcheck(lambda maps: labelled_rows(maps, labels)[0], random(1, WIDTH, 2, 2).requires_grad_())

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            labelled_rows(random(1, WIDTH, 2, 2), torch.zeros(1, 2, 3).long())


def example(batch=2, classes=4, height=5, width=3, ignored=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return logits, labels


def naive_resize(image, height, width):
    """One channel, corners aligned."""
    resized = torch.empty(height, width, dtype=image.dtype)
    for row in range(height):
        for column in range(width):
            y = row * (image.shape[0] - 1) / (height - 1) if height > 1 else 0.0
            x = column * (image.shape[1] - 1) / (width - 1) if width > 1 else 0.0
            top, left = min(int(y), image.shape[0] - 1), min(int(x), image.shape[1] - 1)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
            resized[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return resized


class TestResize:
    @settings(deadline=None)
    @given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
    def test_value_is_that_of_a_naive_loop(self, height, width, new_height, new_width):
        logits, _ = example(batch=1, classes=2, height=height, width=width)
        resized = resize(logits, (new_height, new_width))
        assert resized.shape == (1, 2, new_height, new_width)
        for channel in range(2):
            expected = naive_resize(logits[0, channel], new_height, new_width)
            torch.testing.assert_close(resized[0, channel], expected, rtol=0, atol=1e-12)

    def test_gradient(self):
        logits, _ = example()
        assert gradcheck(lambda x: resize(x, (7, 4)), logits.requires_grad_())

    def test_equal_size_changes_nothing(self):
        logits, _ = example()
        assert torch.equal(resize(logits, (5, 3)), logits)

    def test_an_empty_size_is_refused(self):
        logits, _ = example()
        with pytest.raises(RuntimeError):
            resize(logits, (0, 4))


def units(*shape, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


class TestTakePixels:
    def test_values_are_those_of_a_naive_loop(self):
        maps, indices = torch.randn(2, 3, 4, 5), torch.tensor([[0, 19, 20], [39, 7, 33]])
        vectors = take_pixels(maps, indices)
        assert vectors.shape == (2, 3, 3)
        for place, index in zip(torch.cartesian_prod(torch.arange(2), torch.arange(3)), indices.flatten(), strict=True):
            image, row, column = index // 20, index % 20 // 5, index % 5
            assert torch.equal(vectors[tuple(place)], maps[image, :, row, column])

    def test_gradient(self):
        indices = torch.tensor([3, 0, 3, 7])
        assert gradcheck(lambda x: take_pixels(x, indices), units(2, 3, 2, 2).requires_grad_())

    @pytest.mark.parametrize("shape", [(0,), (0, 0)])
    def test_nothing_is_connected_to_the_graph(self, shape):
        maps = units(1, 3, 2, 2).requires_grad_()
        vectors = take_pixels(maps, torch.zeros(shape, dtype=torch.int64))
        vectors.sum().backward()
        assert vectors.shape == (*shape, 3) and not maps.grad.any()

    def test_maps_of_another_shape_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            take_pixels(torch.zeros(3, 4, 4), torch.zeros(1).long())
