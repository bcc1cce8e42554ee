import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.maps import as_rows
from udaseg.ops.patches import Box, CropPair, corresponding_cells, draw_pair, overlap_of, resized_to, to_cells, upright


def pair_of(image=(40, 56), size=(16, 24), scale=(0.8, 1.5), iou=(0.1, 1.0), stride=4, seed=0):
    return draw_pair(image, size, scale, iou, stride, torch.Generator().manual_seed(seed))


pairs = st.builds(
    pair_of,
    image=st.tuples(st.integers(20, 60), st.integers(30, 60)),
    scale=st.sampled_from([(1.0, 1.0), (0.8, 1.5), (2.0, 2.0)]),
    iou=st.sampled_from([(0.1, 1.0), (0.5, 0.9), (0.0, 0.2)]),
    stride=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 10**6),
)


class TestDrawPair:
    @settings(deadline=None)
    @given(pairs)
    def test_both_crops_lie_in_the_image(self, pair):
        for offset in (pair.first, pair.second):
            for axis in (0, 1):
                assert 0 <= offset[axis] <= pair.resized[axis] - pair.size[axis]

    @settings(deadline=None)
    @given(st.sampled_from([1, 4, 8]), st.sampled_from([(0.1, 1.0), (0.5, 0.9), (0.0, 0.2)]), st.integers(0, 10**6))
    def test_the_shift_is_a_multiple_of_the_stride_and_the_overlap_as_asked(self, stride, iou, seed):
        pair = pair_of(stride=stride, iou=iou, seed=seed)
        assert all((here - there) % stride == 0 for here, there in zip(pair.first, pair.second, strict=True))
        assert iou[0] <= pair.iou <= iou[1] or pair.first == pair.second

    @settings(deadline=None)
    @given(pairs)
    def test_the_record_is_a_function_of_the_generator_and_takes_as_many_numbers_from_it(self, pair):
        generators = [torch.Generator().manual_seed(3) for _ in range(3)]
        first = draw_pair((40, 40), (16, 16), (1.0, 1.0), (0.1, 1.0), 4, generators[0])
        assert first == draw_pair((40, 40), (16, 16), (1.0, 1.0), (0.1, 1.0), 4, generators[1])
        draw_pair((60, 40), (20, 16), (1.0, 2.0), (0.9, 1.0), 1, generators[2])
        states = [generator.get_state() for generator in generators]
        assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])

    def test_all_places_shifts_and_mirrorings_are_met(self):
        drawn = [pair_of((24, 32), (16, 24), (1.0, 1.0), (0.0, 1.0), 4, seed) for seed in range(2000)]
        assert {pair.first[0] for pair in drawn} == {pair.first[1] for pair in drawn} == set(range(9))
        assert {pair.second[0] - pair.first[0] for pair in drawn} == {-8, -4, 0, 4, 8}
        assert {pair.flips for pair in drawn} == {(a, b) for a in (False, True) for b in (False, True)}

    def test_the_factor_is_within_its_bounds(self):
        heights = [pair_of(scale=(0.8, 1.5), seed=seed).resized[0] for seed in range(500)]
        assert 32 <= min(heights) <= 33 and 59 <= max(heights) <= 60

    def test_without_a_shift_that_will_do_the_crops_are_identical(self):
        for seed in range(5):
            pair = pair_of((40, 56), iou=(0.0, 0.0), size=(30, 50), scale=(1.0, 1.0), seed=seed)
            assert pair.first == pair.second and pair.iou == 1

    def test_a_crop_of_the_image_is_the_image(self):
        pair = pair_of((16, 24), (16, 24), (1.0, 1.0))
        assert (pair.first, pair.second, pair.iou) == ((0, 0), (0, 0), 1.0)

    @pytest.mark.parametrize("size", [(33, 24), (16, 46)])
    def test_a_crop_larger_than_the_resized_image_is_refused(self, size):
        with pytest.raises(ValueError, match="at most the resized image"):
            pair_of((40, 56), size, (0.8, 0.8))


def coordinates(height, width):
    """An image (2, H, W) whose colours are each pixel's row and column."""
    return torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).double()


def pixels(offset, size):
    return {(offset[0] + row, offset[1] + column) for row in range(size[0]) for column in range(size[1])}


class TestCropPair:
    @settings(deadline=None)
    @given(pairs)
    def test_boxes_and_iou_are_those_of_sets_of_pixels(self, pair):
        first, second = pixels(pair.first, pair.size), pixels(pair.second, pair.size)
        assert pair.iou == pytest.approx(len(first & second) / len(first | second))
        for offset, box in zip((pair.first, pair.second), pair.boxes, strict=True):
            size = (box.bottom - box.top, box.right - box.left)
            assert pixels((offset[0] + box.top, offset[1] + box.left), size) == first & second

    def test_crops_that_are_apart_have_no_overlap(self):
        assert CropPair((8, 40), (8, 8), (0, 0), (0, 20), (False, False)).iou == 0

    def test_crops_are_cut_and_mirrored(self):
        image = coordinates(10, 12)
        pair = CropPair((10, 12), (4, 5), (1, 2), (5, 6), (False, True))
        first, second = pair.apply(image)
        assert torch.equal(first, image[:, 1:5, 2:7])
        assert torch.equal(second, image[:, 5:9, 6:11].flip(-1))

    @settings(deadline=None)
    @given(pairs)
    def test_crops_have_their_size_and_stay_in_range(self, pair):
        image = torch.rand(3, 30, 44)
        crops = pair.apply(image)
        assert all(crop.shape == (3, *pair.size) for crop in crops)
        assert all(crop.min() >= 0 and crop.max() <= 1.0001 for crop in crops)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class TestCorrespondingCells:
    def rows(self, pair, image, stride=1):
        """What both crops have at the corresponding cells, (n, D) each."""
        crops = torch.stack(pair.apply(image))
        cells = to_cells(upright(crops, pair.flips), pair.size, stride)
        first, second = corresponding_cells([pair.boxes], tuple(cells.shape[-2:]), stride)
        return as_rows(cells)[first], as_rows(cells)[second]

    @settings(deadline=None)
    @given(pairs)
    def test_rows_of_both_crops_show_the_same_pixels(self, pair):
        first, second = self.rows(pair, coordinates(*pair.resized))
        assert len(first) == (pair.boxes[0].bottom - pair.boxes[0].top) * (pair.boxes[0].right - pair.boxes[0].left)
        assert torch.equal(first, second)
        assert len(first.unique(dim=0)) == len(first)

    @settings(deadline=None)
    @given(st.tuples(st.integers(20, 60), st.integers(30, 60)), st.sampled_from([4, 8]), st.integers(0, 10**6))
    def test_rows_of_both_crops_show_the_same_cells(self, image, stride, seed):
        pair = pair_of(image, scale=(1.0, 1.7), stride=stride, seed=seed)
        first, second = self.rows(pair, random(3, *image), stride)
        assert len(first) * stride**2 == round(2 * 16 * 24 * pair.iou / (1 + pair.iou))
        assert torch.equal(first, second)

    def test_are_those_of_a_naive_loop(self):
        boxes = [pair_of(seed=seed, scale=(1.0, 1.0)).boxes for seed in range(3)]
        first, second = corresponding_cells(boxes, (4, 6), 4)
        expected = []
        for image, (one, two) in enumerate(boxes):
            for row in range((one.bottom - one.top) // 4):
                for column in range((one.right - one.left) // 4):
                    places = [(box.top // 4 + row) * 6 + box.left // 4 + column for box in (one, two)]
                    expected.append((image * 24 + places[0], 72 + image * 24 + places[1]))
        assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected

    def test_coordinates_are_rounded_down(self):
        first, second = corresponding_cells([(Box(7, 5, 15, 13), Box(0, 3, 8, 11))], (4, 4), 4)
        assert first.tolist() == [5, 6, 9, 10]
        assert second.tolist() == [16, 17, 20, 21]

    def test_a_budget_draws_so_many_of_each_image(self):
        boxes = [pair_of(seed=seed).boxes for seed in range(4)]
        every = corresponding_cells(boxes, (4, 6), 4)
        drawn = corresponding_cells(boxes, (4, 6), 4, 3, torch.Generator().manual_seed(0))
        known = set(zip(*(part.tolist() for part in every), strict=True))
        chosen = list(zip(*(part.tolist() for part in drawn), strict=True))
        assert len(set(chosen)) == len(chosen) == 12 and set(chosen) <= known
        assert [first // 24 for first, _ in chosen] == sorted([0, 1, 2, 3] * 3)

    def test_a_budget_that_binds_not_takes_all(self):
        boxes = [pair_of().boxes]
        every = corresponding_cells(boxes, (4, 6), 4)
        drawn = corresponding_cells(boxes, (4, 6), 4, 1000, torch.Generator().manual_seed(0))
        assert all(
            torch.equal(ours.sort().values, theirs.sort().values) for ours, theirs in zip(drawn, every, strict=True)
        )

    def test_identical_crops_correspond_everywhere(self):
        box = overlap_of((3, 3), (3, 3), (8, 8))
        first, second = corresponding_cells([(box, box)], (2, 2), 4)
        assert first.tolist() == [0, 1, 2, 3] and second.tolist() == [4, 5, 6, 7]


class TestMaps:
    def test_mirrored_maps_are_turned_back(self):
        maps = random(3, 2, 4, 5)
        found = upright(maps, [False, True, False])
        assert torch.equal(found, torch.stack([maps[0], maps[1].flip(-1), maps[2]]))
        with pytest.raises(ValueError, match="a flip for each of 3 maps"):
            upright(maps, [True])

    def test_cells_are_means(self):
        maps = random(2, 3, 4, 6)
        cells = to_cells(maps, (16, 24), 8)
        assert cells.shape == (2, 3, 2, 3)
        torch.testing.assert_close(cells[1, 2, 1, 0], maps[1, 2, 2:4, 0:2].mean())
        assert to_cells(maps, (16, 24), 4) is maps

    def test_a_map_with_a_cell_more_than_its_stride_says_is_taken_as_it_is(self):
        assert to_cells(random(1, 2, 65, 65), (512, 512), 8).shape == (1, 2, 65, 65)  # DeepLabv2's

    def test_maps_that_are_too_coarse_are_refused(self):
        with pytest.raises(ValueError, match="cells of at most 4 pixels"):
            to_cells(random(1, 2, 2, 3), (16, 24), 4)

    def test_gradient(self):
        maps = random(2, 1, 4, 4).requires_grad_()
        assert gradcheck(lambda given: to_cells(upright(given, [True, False]), (16, 16), 8), maps)

    def test_rows_go_image_by_image_and_row_by_row(self):
        maps = random(2, 3, 4, 5)
        assert torch.equal(as_rows(maps)[1 * 20 + 2 * 5 + 3], maps[1, :, 2, 3])


def test_size_of_a_resized_image():
    assert resized_to((96, 192), 0.5) == (48, 96)
