"""Image and label stay on each other to the pixel, at every size and resolution."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from udaseg.config.training import View
from udaseg.data.batches.views import Geometry, draw_geometry, jitter_colours

SIZES = st.integers(1, 24)


def view(**changes: object) -> View:
    plain = {"batch": 1, "crop": (8, 8), "scale": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "blur": 0.0}
    return View.model_validate(plain | changes)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(height: int, width: int) -> Tensor:
    """A map (1, H, W) in which every pixel has a number of its own, from 1."""
    return torch.arange(1, height * width + 1).view(1, height, width)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    height, width = draw(SIZES), draw(SIZES)
    crop = (draw(SIZES), draw(SIZES))
    top, left = (draw(st.integers(-crop[axis] + 1, size - 1)) for axis, size in enumerate((height, width)))
    return Geometry((height, width), (top, left), crop, draw(st.booleans()))


@given(geometries())
def test_a_view_holds_the_pixels_it_names(geometry: Geometry) -> None:
    (height, width), (top, left) = geometry.resized, geometry.offset
    source = places(height, width)
    found, valid = geometry.apply(source, "nearest")
    assert found.shape == (1, *geometry.crop) and valid.shape == geometry.crop and found.dtype == source.dtype
    for row in range(geometry.crop[0]):
        for column in range(geometry.crop[1]):
            shown = geometry.crop[1] - 1 - column if geometry.flip else column
            y, x = top + row, left + column
            inside = 0 <= y < height and 0 <= x < width
            assert bool(valid[row, shown]) == inside
            assert int(found[0, row, shown]) == (int(source[0, y, x]) if inside else 0)


@given(geometries(), st.integers(2, 24), st.integers(2, 24))
def test_a_label_stays_on_its_pixel(geometry: Geometry, height: int, width: int) -> None:
    """A label map, and an image painted with its ids and resized as one, agree wherever the image is of one id.

    From two pixels a side on: PyTorch 2.15's antialiased resizing of a map one pixel wide takes its first row for all.
    """
    label = (places(height, width) * 7) % 5 + 1
    one_hot = torch.cat([(label == index).float() for index in range(1, 6)])
    image, image_valid = geometry.apply(one_hot, "bilinear")
    moved, label_valid = geometry.apply(label, "nearest")
    assert torch.equal(image_valid, label_valid)
    certain = image > 0.999
    for index in range(5):
        assert bool((moved[0][certain[index]] == index + 1).all())


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_enlarging_by_a_whole_number_repeats_labels(height: int, width: int, factor: int, flip: bool) -> None:
    source = places(height, width)
    size = (height * factor, width * factor)
    found, valid = Geometry(size, (0, 0), size, flip).apply(source, "nearest")
    expected = source.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    assert torch.equal(found, expected.flip(-1) if flip else expected) and bool(valid.all())


def test_both_modes_place_pixel_centres_alike() -> None:
    """A ramp whose value is its pixel's centre: nearest must not be off by a half pixel from bilinear."""
    ramp = (torch.arange(24).float() + 0.5).expand(1, 24, 24)
    geometry = Geometry((40, 40), (5, 10), (25, 25), False)  # 3 source pixels in 5: no ties
    smooth, _ = geometry.apply(ramp, "bilinear")
    nearest, _ = geometry.apply(ramp, "nearest")
    assert float((smooth - nearest).abs().max()) <= 0.5 + 1e-5
    assert abs(float((smooth - nearest).mean())) < 0.05


@given(geometries())
def test_the_same_geometry_on_a_map_of_a_quarter(geometry: Geometry) -> None:
    """Of a geometry in steps of 4 pixels, `.at(1/4)` moves the cells as the geometry moves the pixels."""
    (height, width), (top, left), crop = geometry.resized, geometry.offset, geometry.crop
    whole = Geometry((4 * height, 4 * width), (4 * top, 4 * left), (4 * crop[0], 4 * crop[1]), geometry.flip)
    cells = places(height, width)
    pixels = cells.repeat_interleave(4, 1).repeat_interleave(4, 2)
    moved, valid = whole.apply(pixels, "nearest")
    small, small_valid = whole.at(1 / 4).apply(cells, "nearest")
    assert whole.at(1 / 4) == geometry
    assert torch.equal(moved, small.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert torch.equal(valid, small_valid.repeat_interleave(4, 0).repeat_interleave(4, 1))


@given(geometries(), st.integers(-3, 3), st.integers(-3, 3))
def test_the_map_of_a_quarter_moves_by_whole_cells_and_stays_inside(
    geometry: Geometry, rows: int, columns: int
) -> None:
    """`.at(1/4)` rounds all down, offsets below 0 too, for crops of whole cells."""
    (top, left), crop = geometry.offset, (4 * geometry.crop[0], 4 * geometry.crop[1])
    geometry = replace(geometry, crop=crop)
    small = geometry.at(1 / 4)
    moved = replace(geometry, offset=(top + 4 * rows, left + 4 * columns)).at(1 / 4)
    assert moved == replace(small, offset=(small.offset[0] + rows, small.offset[1] + columns))
    for size, length, start, cells, place, shown in zip(
        geometry.resized, crop, geometry.offset, small.resized, small.offset, small.crop, strict=True
    ):
        assert cells <= size / 4 and place <= start / 4 and 4 * shown == length
        if 0 <= start <= size - length:  # a crop in the image
            assert 0 <= place <= cells - shown
        if size - length <= start <= 0:  # an image in the crop
            assert cells - shown <= place <= 0


def test_rounded_down_as_released() -> None:
    """ProDA's offsets and sizes at a quarter (golden proda.full2weak)."""
    geometry = Geometry((101, 183), (13, 45), (64, 96), True)
    assert geometry.at(1 / 4) == Geometry((25, 45), (3, 11), (16, 24), True)
    assert Geometry((101, 183), (-13, -45), (128, 256), True).at(1 / 4).offset == (-4, -12)


@given(geometries(), st.integers(1, 24), st.integers(1, 24))
def test_an_aligned_map_is_interpolated_between_corners(geometry: Geometry, height: int, width: int) -> None:
    """Against each cell's place between the first and the last cell of the map, by the definition."""
    cells = torch.rand(2, height, width, generator=seeded(height * 100 + width))
    found, valid = geometry.apply(cells, "aligned")
    assert torch.equal(valid, geometry.apply(places(height, width), "nearest")[1])

    def neighbours(cell: int, size: int, resized: int) -> list[tuple[int, float]]:
        place = cell * (size - 1) / (resized - 1) if resized > 1 else 0.0
        return [(index, share) for index in range(size) if (share := 1 - abs(place - index)) > 0]

    for row, shown in valid.nonzero().tolist():
        column = geometry.crop[1] - 1 - shown if geometry.flip else shown
        expected = torch.zeros(2)
        for y, down in neighbours(row + geometry.offset[0], height, geometry.resized[0]):
            for x, along in neighbours(column + geometry.offset[1], width, geometry.resized[1]):
                expected += down * along * cells[:, y, x]
        torch.testing.assert_close(found[:, row, shown], expected, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 10**6), SIZES, SIZES, SIZES, SIZES, st.floats(0.3, 1), st.floats(1, 2))
def test_a_drawn_crop_lies_in_the_image_or_around_it(
    seed: int, height: int, width: int, crop_height: int, crop_width: int, low: float, high: float
) -> None:
    drawn = draw_geometry(view(crop=(crop_height, crop_width), scale=(low, high)), (height, width), seeded(seed))
    for size, before, resized, offset, crop in zip(
        (height, width), (height, width), drawn.resized, drawn.offset, drawn.crop, strict=True
    ):
        assert max(1, round(size * low) - 1) <= resized <= round(before * high) + 1
        if resized >= crop:
            assert 0 <= offset <= resized - crop
        else:
            assert resized - crop <= offset <= 0
    _, valid = drawn.apply(places(height, width).float(), "bilinear")
    expected = min(drawn.resized[0], crop_height) * min(drawn.resized[1], crop_width)
    assert int(valid.sum()) == expected


def test_crops_scales_and_flips_are_spread_as_they_should() -> None:
    settled = view(crop=(8, 8), scale=(0.5, 1.5), flip=0.3)
    drawn = [draw_geometry(settled, (100, 200), seeded(seed)) for seed in range(4000)]
    factors = torch.tensor([geometry.resized[0] / 100 for geometry in drawn])
    assert abs(float(factors.mean()) - 1) < 0.02
    assert 0.5 <= float(factors.min()) < 0.52 and 1.48 < float(factors.max()) <= 1.5
    shares = torch.tensor([geometry.offset[1] / (geometry.resized[1] - 8) for geometry in drawn])
    assert abs(float(shares.mean()) - 0.5) < 0.02 and float(shares.min()) == 0 and float(shares.max()) == 1
    assert abs(sum(geometry.flip for geometry in drawn) / 4000 - 0.3) < 0.03
    # Height and width are scaled by one factor, and place and flip are drawn apart from it.
    assert all(abs(geometry.resized[1] - 2 * geometry.resized[0]) <= 1 for geometry in drawn)
    flips = torch.tensor([float(geometry.flip) for geometry in drawn])
    for other in (factors, shares):
        assert abs(float(torch.corrcoef(torch.stack([flips, other]))[0, 1])) < 0.06


def test_flip_of_0_and_1() -> None:
    assert not any(draw_geometry(view(flip=0.0), (9, 9), seeded(seed)).flip for seed in range(50))
    assert all(draw_geometry(view(flip=1.0), (9, 9), seeded(seed)).flip for seed in range(50))


def test_colours_stay_as_they_are_without_jitter_and_blur() -> None:
    image = torch.rand(3, 12, 12, generator=seeded(0))
    assert torch.equal(jitter_colours(image, view(), seeded(1)), image)


def test_jitter_and_blur_change_colours_and_are_repeatable() -> None:
    image = torch.rand(3, 12, 12, generator=seeded(0))
    for changes in ({"jitter": 0.5}, {"blur": 1.0}):
        first = jitter_colours(image, view(**changes), seeded(1))
        assert first.shape == image.shape and not torch.allclose(first, image)
        assert torch.equal(first, jitter_colours(image, view(**changes), seeded(1)))
        assert not torch.equal(first, jitter_colours(image, view(**changes), seeded(2)))


def test_colours_draw_the_same_numbers_whatever_is_on() -> None:
    """Otherwise turning blur on would move the crop of the next draw from this generator."""
    image = torch.rand(3, 12, 12, generator=seeded(0))
    ends = []
    for changes in ({}, {"jitter": 0.5}, {"blur": 1.0}):
        generator = seeded(1)
        jitter_colours(image, view(**changes), generator)
        ends.append(torch.rand(1, generator=generator))
    assert ends[0] == ends[1] == ends[2]
