import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.mixing import (
    block_grid,
    block_mask,
    class_mask,
    draw_blocks,
    draw_classes,
    draw_kept,
    draw_majority,
    half_rectangle,
    kept_mask,
    mix,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labels_of(batch=2, height=6, width=5, classes=7, ignored=0.2, seed=0):
    labels = torch.randint(0, classes, (batch, height, width), generator=generator(seed))
    labels[torch.rand(labels.shape, generator=generator(seed + 1)) < ignored] = 255
    return labels


class TestDrawClasses:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 3), st.integers(1, 9), st.sampled_from([0, 0.3, 1.1]), st.integers(0, 99))
    def test_is_half_of_the_classes_rounded_up_without_repetition(self, batch, classes, ignored, seed):
        labels = labels_of(batch, classes=classes, ignored=ignored, seed=seed)
        for per in ("image", "batch"):
            for label, chosen in zip(labels, draw_classes(labels, generator(seed), per), strict=True):
                there = set((label if per == "image" else labels).flatten().tolist())
                assert len(chosen) == -(-len(there) // 2)
                assert len(set(chosen.tolist())) == len(chosen)
                assert set(chosen.tolist()) <= there

    def test_every_class_is_drawn_in_half_of_the_draws(self):
        labels = torch.tensor([[[0, 1, 2, 255]]])
        draws = [draw_classes(labels, generator(seed), "image")[0].tolist() for seed in range(400)]
        for name in (0, 1, 2, 255):
            assert sum(name in draw for draw in draws) == pytest.approx(200, abs=50)

    def test_is_a_function_of_the_generator(self):
        labels = labels_of()
        first, again, other = (draw_classes(labels, generator(seed), "batch") for seed in (0, 0, 3))
        assert all(map(torch.equal, first, again))
        assert not all(map(torch.equal, first, other))

    def test_a_single_class_is_always_drawn(self):
        (chosen,) = draw_classes(torch.full((1, 4, 4), 255), generator(), "image")
        assert chosen.tolist() == [255]

    def test_of_the_batch_an_image_may_get_a_class_that_it_lacks(self):
        labels = torch.stack([torch.zeros(4, 4, dtype=torch.int64), torch.ones(4, 4, dtype=torch.int64)])
        masks = [class_mask(labels, draw_classes(labels, generator(seed), "batch")) for seed in range(20)]
        assert any(not mask[0].any() for mask in masks)
        assert all(class_mask(labels, draw_classes(labels, generator(seed), "image")).all() for seed in range(20))

    def test_other_shapes_and_words_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            draw_classes(torch.zeros(4, 4, dtype=torch.int64), generator(), "image")
        with pytest.raises(ValueError, match="pixel"):
            draw_classes(labels_of(), generator(), "pixel")


class TestClassMask:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 3), st.integers(0, 99))
    def test_value_is_that_of_a_naive_loop(self, batch, seed):
        labels = labels_of(batch, seed=seed)
        chosen = draw_classes(labels, generator(seed), "image")
        mask = class_mask(labels, chosen)
        assert mask.shape == labels.shape and mask.dtype == torch.bool
        for index in range(batch):
            for row in range(labels.shape[1]):
                for column in range(labels.shape[2]):
                    assert bool(mask[index, row, column]) == (int(labels[index, row, column]) in chosen[index].tolist())

    def test_no_class_is_an_empty_mask(self):
        assert not class_mask(labels_of(1), [torch.empty(0, dtype=torch.int64)]).any()

    def test_another_number_of_images_is_refused(self):
        with pytest.raises(ValueError, match="2 images"):
            class_mask(labels_of(2), [torch.tensor([0])])


class TestMix:
    @pytest.mark.parametrize("channels", [None, 3])
    def test_takes_each_pixel_whole_from_one_side(self, channels):
        shape = (2, 6, 5) if channels is None else (2, channels, 6, 5)
        source, target = torch.rand(shape, generator=generator(0)), torch.rand(shape, generator=generator(1))
        mask = labels_of() < 3
        mixed = mix(mask, source, target)
        assert mixed.shape == shape
        for index in range(2):
            for row in range(6):
                for column in range(5):
                    side = source if mask[index, row, column] else target
                    assert torch.equal(mixed[index, ..., row, column], side[index, ..., row, column])

    def test_labels_stay_integers(self):
        labels = labels_of()
        assert torch.equal(mix(torch.ones_like(labels).bool(), labels, torch.zeros_like(labels)), labels)

    def test_gradient_goes_where_the_pixel_came_from(self):
        source, target = (torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
        mask = torch.tensor([[[True, False], [False, True]]])
        assert torch.autograd.gradcheck(lambda a, b: mix(mask, a, b), (source, target))

    @pytest.mark.parametrize(
        ("mask", "source", "target"),
        [
            ((2, 4, 4), (2, 3, 4, 4), (2, 3, 4, 5)),
            ((2, 4, 4), (2, 3, 4, 5), (2, 3, 4, 5)),
            ((1, 4, 4), (2, 4, 4), (2, 4, 4)),
            ((2, 1, 4, 4), (2, 4, 4), (2, 4, 4)),
        ],
    )
    def test_other_shapes_are_refused(self, mask, source, target):
        with pytest.raises(ValueError, match="expected"):
            mix(torch.ones(mask).bool(), torch.zeros(source), torch.zeros(target))


class TestBlocks:
    def test_halves_are_rounded_to_the_even_number(self):
        assert block_grid((512, 1024), 32) == (16, 32)
        assert block_grid((96, 160), 64) == (2, 2)  # 1.5 and 2.5
        assert block_grid((20, 10), 64) == (1, 1)  # 0.3 and 0.2: at least one

    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.floats(0, 1), st.integers(0, 99))
    def test_value_is_that_of_a_naive_loop(self, height, width, block, ratio, seed):
        uniform = draw_blocks(2, (height, width), block, generator(seed))
        mask = block_mask((height, width), block, ratio, uniform)
        assert mask.shape == (2, 1, height, width) and mask.dtype == torch.bool
        rows, columns = uniform.shape[2:]
        kept = uniform > ratio
        for row in range(height):
            for column in range(width):
                cell = kept[:, 0, row * rows // height, column * columns // width]
                assert torch.equal(mask[:, 0, row, column], cell)

    def test_share_that_is_masked(self):
        uniform = draw_blocks(8, (64, 64), 4, generator())
        assert float(uniform.min()) >= 0 and float(uniform.max()) < 1
        assert float(block_mask((64, 64), 4, 0.7, uniform).float().mean()) == pytest.approx(0.3, abs=0.03)

    def test_a_grid_of_another_size_is_refused(self):
        with pytest.raises(ValueError, match=r"\(B, 1, 2, 2\)"):
            block_mask((64, 64), 32, 0.7, torch.rand(1, 1, 4, 4))


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


def test_smoke():
    mask = half_rectangle((32, 48), generator())
    assert mask.shape == (32, 48) and mask.dtype == torch.bool


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least 1 x 1"):
        half_rectangle((0, 3), generator())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 999))
def test_is_one_rectangle_inside_of_half_the_area(height, width, seed):
    mask = half_rectangle((height, width), generator(seed))
    rows, columns = mask.any(1), mask.any(0)
    assert torch.equal(mask, rows[:, None] & columns)
    for side, found in ((height, rows), (width, columns)):
        assert found.int().diff().abs().sum() <= 2 - int(found[0]) - int(found[-1]) or found.all()
        assert (side - 1) / 2 <= int(found.sum()) <= side
    # Half a pixel of rounding along each side.
    assert abs(float(mask.sum()) - height * width / 2) <= (height + width) / 2 + 0.25


def test_value_of_the_numbers_drawn():
    share, down, right = torch.rand(3, generator=generator(5), dtype=torch.float64).tolist()
    height, width = round(40 * 0.5**share), round(60 * 0.5 ** (1 - share))
    naive = torch.zeros(40, 60, dtype=torch.bool)
    for row in range(height):
        for column in range(width):
            naive[round((40 - height) * down) + row, round((60 - width) * right) + column] = True
    assert torch.equal(half_rectangle((40, 60), generator(5)), naive)


def test_is_a_function_of_the_generator_and_reaches_every_pixel():
    first, again, other = (half_rectangle((20, 30), generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    shares = torch.stack([half_rectangle((20, 30), generator(seed)) for seed in range(400)]).float().mean(0)
    assert shares.min() > 0 and shares.mean() == pytest.approx(0.5, abs=0.02)


class TestMajority:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.sampled_from([0, 1, 2, 3, 7, 255]), min_size=1, max_size=12), st.integers(0, 9))
    def test_more_than_half_of_an_images_classes_without_repetition(self, labels, seed):
        present = set(labels) - {255}
        (chosen,) = draw_majority(torch.tensor(labels).view(1, 1, -1), generator(seed))
        found = chosen.tolist()
        assert len(found) == len(set(found)) == (len(present) // 2 + 1 if present else 0)
        assert set(found) <= present

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            draw_majority(torch.zeros(2, 2).long(), generator())
