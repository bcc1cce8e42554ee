import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.crdomix import draw_kept, kept_mask
from udaseg.ops.mixing import mix


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


LABELS = st.lists(st.sampled_from([0, 1, 2, 3, 7, 255]), min_size=1, max_size=12)


class TestDrawKept:
    @settings(max_examples=40, deadline=None)
    @given(LABELS, st.integers(0, 9))
    def test_is_half_of_the_classes_rounded_down_without_repetition(self, labels, seed):
        (chosen,) = draw_kept(torch.tensor(labels).view(1, 1, -1), generator(seed))
        found = chosen.tolist()
        assert len(found) == len(set(found)) == len(set(labels)) // 2
        assert set(found) <= set(labels)

    def test_every_class_is_drawn_in_half_of_the_draws(self):
        labels = torch.tensor([[[0, 1, 2, 255]]])
        draws = [draw_kept(labels, generator(seed))[0].tolist() for seed in range(400)]
        for name in (0, 1, 2, 255):
            assert sum(name in draw for draw in draws) == pytest.approx(200, abs=50)

    def test_each_image_has_its_own(self):
        labels = torch.tensor([[[0, 1, 2, 3]], [[4, 5, 5, 5]]])
        first, second = draw_kept(labels, generator())
        assert len(first) == 2 and set(first.tolist()) <= {0, 1, 2, 3}
        assert len(second) == 1 and set(second.tolist()) <= {4, 5}

    def test_is_a_function_of_the_generator(self):
        labels = torch.arange(12).view(1, 3, 4)
        first, again, other = (draw_kept(labels, generator(seed))[0] for seed in (0, 0, 3))
        assert torch.equal(first, again) and not torch.equal(first, other)

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            draw_kept(torch.zeros(4, 4, dtype=torch.int64), generator())


class TestKeptMask:
    @settings(max_examples=40, deadline=None)
    @given(LABELS, LABELS, st.integers(0, 9))
    def test_value_is_that_of_a_naive_loop(self, first, second, seed):
        width = min(len(first), len(second))
        labels = torch.tensor([[first[:width]], [second[:width]]])
        chosen = draw_kept(labels, generator(seed))
        mask = kept_mask(labels, chosen)
        assert mask.shape == labels.shape and mask.dtype == torch.bool
        for image, column in torch.cartesian_prod(torch.arange(2), torch.arange(width)).tolist():
            label = int(labels[image, 0, column])
            assert bool(mask[image, 0, column]) == (label in [*chosen[image].tolist(), 255])

    def test_of_a_single_class_nothing_is_kept(self):
        labels = torch.full((1, 4, 4), 3)
        assert not kept_mask(labels, draw_kept(labels, generator())).any()

    def test_an_image_without_labels_is_kept_whole(self):
        labels = torch.full((2, 4, 4), 255)
        source, other = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
        assert torch.equal(mix(kept_mask(labels, draw_kept(labels, generator())), source, other), source)

    def test_another_number_of_images_is_refused(self):
        with pytest.raises(ValueError, match="2 images"):
            kept_mask(torch.zeros(2, 4, 4, dtype=torch.int64), [torch.tensor([0])])
