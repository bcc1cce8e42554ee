"""Maps follow a strongly augmented picture, to the pixel in the paper's convention and as released in the other."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from udaseg.ops.warp import RELEASED_ORDER, Warp

SIZES = st.integers(1, 24)


@st.composite
def operations(draw: st.DrawFn) -> tuple[str, float]:
    name = draw(st.sampled_from(RELEASED_ORDER))
    if name.startswith("translate"):
        return name, float(draw(st.integers(-12, 12)))
    most = {"flip": 0.0, "rotate": 30.0}.get(name, 0.3)
    return name, draw(st.floats(-most, most))


@st.composite
def warps(draw: st.DrawFn, most: int = 4) -> Warp:
    cutout = sorted(draw(st.tuples(SIZES, SIZES))), sorted(draw(st.tuples(SIZES, SIZES)))
    (x0, x1), (y0, y1) = cutout
    return Warp(tuple(draw(st.lists(operations(), max_size=most))), draw(st.sampled_from([None, (x0, y0, x1, y1)])))


def places(height: int, width: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """A map (1, h, w) in which every cell has a number of its own, from 1."""
    return torch.arange(1, height * width + 1, dtype=dtype).view(1, height, width)


def before(warp: Warp, x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
    """Where a place of the result was in the picture: the operations undone, the last one first."""
    height, width = size
    for name, amount in reversed(warp.operations):
        if name == "flip":
            x = width - x
        elif name == "shear_x":
            x += amount * y
        elif name == "shear_y":
            y += amount * x
        elif name == "translate_x":
            x += amount
        elif name == "translate_y":
            y += amount
        else:
            angle, dx, dy = math.radians(amount), x - width / 2, y - height / 2
            x = width / 2 + math.cos(angle) * dx - math.sin(angle) * dy
            y = height / 2 + math.sin(angle) * dx + math.cos(angle) * dy
    return x, y


def painted(warp: Warp, x: float, y: float) -> bool:
    if warp.cutout is None:
        return False
    x0, y0, x1, y1 = warp.cutout
    return x0 <= x < x1 and y0 <= y < y1


def on_a_border(place: float) -> bool:
    """So near to the border of a cell that rounding decides the side."""
    return abs(place - round(place)) < 1e-9


def affine(*coefficients: float) -> Any:
    """PIL's own sampling."""
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, coefficients)


class TestPaper:
    @settings(deadline=None)
    @given(warps(), SIZES, SIZES)
    def test_each_pixel_is_what_undoing_the_operations_leads_to(self, warp: Warp, height: int, width: int) -> None:
        source = places(height, width)
        found, valid = warp.apply(source, 1, "nearest")
        assert found.shape == source.shape and found.dtype == source.dtype and valid.shape == (height, width)
        for row in range(height):
            for column in range(width):
                x, y = before(warp, column + 0.5, row + 0.5, (height, width))
                if on_a_border(x) or on_a_border(y):
                    continue
                inside = 0 <= x < width and 0 <= y < height and not painted(warp, column + 0.5, row + 0.5)
                assert bool(valid[row, column]) == inside
                expected = int(source[0, int(y), int(x)]) if inside else 0
                assert int(found[0, row, column]) == expected

    @settings(deadline=None)
    @given(warps(), SIZES, SIZES)
    def test_a_picture_of_coordinates(self, warp: Warp, height: int, width: int) -> None:
        """Bilinear is exact on a plane, but for the last half pixel, beyond the outermost centres."""
        x, y = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")
        found, valid = warp.apply(torch.stack([x, y]).double(), 1, "bilinear")
        for row, column in valid.nonzero().tolist():
            x_before, y_before = before(warp, column + 0.5, row + 0.5, (height, width))
            assert abs(float(found[0, row, column]) - min(max(x_before, 0.5), width - 0.5)) < 1e-9
            assert abs(float(found[1, row, column]) - min(max(y_before, 0.5), height - 0.5)) < 1e-9
        assert bool((found[:, ~valid] == 0).all())

    @settings(deadline=None)
    @given(warps(), st.integers(1, 8), st.integers(1, 8), st.sampled_from([2, 4, 8]))
    def test_a_map_of_a_quarter_stays_on_its_picture(self, warp: Warp, height: int, width: int, block: int) -> None:
        """The picture has one colour in each cell of the map: where the pixels around a cell's centre have one colour
        after the warp, the cell has it too, and where they are all (in)valid, it is."""
        cells = places(height, width)
        pixels = cells.repeat_interleave(block, 1).repeat_interleave(block, 2)
        picture, shown = warp.apply(pixels, 1, "nearest")
        small, valid = warp.apply(cells, 1 / block, "nearest")

        def around(maps: Tensor) -> Tensor:
            """The four pixels around each cell's centre (h, w, 4)."""
            rows, columns = (torch.arange(block // 2 - 1, size * block, block) for size in (height, width))
            offsets = [(0, 0), (0, 1), (1, 0), (1, 1)]
            return torch.stack([maps[(rows + down)[:, None], columns + along] for down, along in offsets], -1)

        colours, certain = around(picture[0]), around(shown)
        assert bool(valid[certain.all(-1)].all())
        if warp.cutout is None:  # else the pixels may be partly outside, partly cut out
            assert not bool(valid[~certain.any(-1)].any())
        same = certain.all(-1) & (colours == colours[..., :1]).all(-1)
        assert torch.equal(small[0][same], colours[..., 0][same])

    @settings(deadline=None)
    @given(warps(), SIZES, SIZES)
    def test_nearest_and_bilinear_are_valid_alike(self, warp: Warp, height: int, width: int) -> None:
        _, by_nearest = warp.apply(places(height, width), 1, "nearest")
        _, by_bilinear = warp.apply(places(height, width, torch.float32), 1, "bilinear")
        assert torch.equal(by_nearest, by_bilinear)

    @pytest.mark.parametrize("mode", ["bilinear", "nearest"])
    @pytest.mark.parametrize("size", [(7, 13), (512, 896), (1, 1)])
    def test_identity_flip_and_whole_pixels_are_exact(self, mode: Any, size: tuple[int, int]) -> None:
        picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
        found, valid = Warp((), None).apply(picture, 1, mode)
        assert torch.equal(found, picture) and bool(valid.all())
        found, valid = Warp((("flip", 0.0),), None).apply(picture, 1, mode)
        assert torch.equal(found, picture.flip(-1)) and bool(valid.all())
        found, valid = Warp((("translate_x", 3.0), ("translate_y", -2.0)), None).apply(picture, 1, mode)
        height, width = size
        expected, inside = torch.zeros_like(picture), torch.zeros(size, dtype=torch.bool)
        if width > 3 and height > 2:
            expected[:, 2:, : width - 3], inside[2:, : width - 3] = picture[:, : height - 2, 3:], True
        assert torch.equal(found, expected) and torch.equal(valid, inside)

    def test_what_was_moved_out_and_back_is_seen(self) -> None:
        picture = places(6, 9)
        found, valid = Warp((("translate_x", 4.0), ("translate_x", -4.0)), None).apply(picture, 1, "nearest")
        assert torch.equal(found, picture) and bool(valid.all())

    def test_the_order_counts(self) -> None:
        first, second = ("flip", 0.0), ("translate_x", 2.0)
        picture = places(2, 6)
        there, _ = Warp((first, second), None).apply(picture, 1, "nearest")
        back, _ = Warp((second, first), None).apply(picture, 1, "nearest")
        assert there[0, 0].tolist() == [4, 3, 2, 1, 0, 0] and back[0, 0].tolist() == [0, 0, 6, 5, 4, 3]

    @pytest.mark.parametrize(
        ("name", "amount", "as_pil"),
        [
            ("flip", 0.0, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
            ("shear_x", 0.23, affine(1, 0.23, 0, 0, 1, 0)),
            ("shear_y", -0.17, affine(1, 0, 0, -0.17, 1, 0)),
            ("translate_x", 11.0, affine(1, 0, 11, 0, 1, 0)),
            ("translate_y", -7.0, affine(1, 0, 0, 0, 1, -7)),
            ("rotate", 21.0, lambda image: image.rotate(21)),
        ],
    )
    def test_directions_and_centres_are_pils(self, name: Any, amount: float, as_pil: Any) -> None:
        picture = places(41, 67, torch.int32)
        expected = torch.from_numpy(np.array(as_pil(Image.fromarray(picture[0].numpy()))))
        found, valid = Warp(((name, amount),), None).apply(picture, 1, "nearest")
        assert float((found[0] != expected).float().mean()) < 0.005  # places on the border of two pixels
        assert float((valid != (expected > 0)).float().mean()) < 0.005


class TestReleased:
    def test_translation_along_x_goes_too_far_in_a_picture_that_is_not_square(self) -> None:
        """Issue of the release: 24 px to the left are 6 cells of a quarter, and it moves them 6 w / h = 9."""
        warp, cells = Warp((("translate_x", 24.0),), None), places(16, 24)
        picture, shown = warp.apply(cells.repeat_interleave(4, 1).repeat_interleave(4, 2), 1, "nearest")
        right, right_valid = warp.apply(cells, 1 / 4, "nearest")
        released, released_valid = warp.apply(cells, 1 / 4, "nearest", "released")
        assert torch.equal(right, picture[:, ::4, ::4]) and torch.equal(right_valid, shown[::4, ::4])
        assert torch.equal(right[0, :, :18], cells[0, :, 6:]) and int(right_valid.sum()) == 16 * 18
        assert torch.equal(released[0, :, :15], cells[0, :, 9:]) and int(released_valid.sum()) == 16 * 15

    @settings(deadline=None)
    @given(st.lists(operations(), max_size=1), SIZES)
    def test_one_operation_on_a_square_is_the_papers(self, drawn: list[Any], size: int) -> None:
        """Where no place is on the border of two cells."""
        cells = places(size, size)
        warp = Warp(tuple(drawn), None)
        for row in range(size):
            for column in range(size):
                there = before(warp, column + 0.5, row + 0.5, (size, size))
                assume(all(abs(place - round(place)) > 1e-4 for place in there))
        for found, expected in zip(
            warp.apply(cells, 1, "nearest", "released"), warp.apply(cells, 1, "nearest"), strict=True
        ):
            assert torch.equal(found, expected)

    def test_its_order_whatever_happened_and_only_the_last_of_two(self) -> None:
        cells = places(8, 8)
        replayed, _ = Warp((("flip", 0.0), ("translate_x", 2.0)), None).apply(cells, 1, "nearest")
        for drawn in (
            (("translate_x", 2.0), ("flip", 0.0)),
            (("translate_x", 5.0), ("flip", 0.0), ("translate_x", 2.0)),
        ):
            found, _ = Warp(drawn, None).apply(cells, 1, "nearest", "released")
            assert torch.equal(found, replayed)

    def test_translations_and_cutout_are_floored_to_cells(self) -> None:
        cells = places(8, 8)
        for pixels, moved in ((7.0, 1), (-1.0, -1), (-4.0, -1), (-5.0, -2), (3.0, 0)):
            found, _ = Warp((("translate_y", pixels),), None).apply(cells, 1 / 4, "nearest", "released")
            expected, _ = Warp((("translate_y", 4.0 * moved),), None).apply(cells, 1 / 4, "nearest")
            assert torch.equal(found, expected)
        _, valid = Warp((), (3, 5, 11, 31)).apply(cells, 1 / 4, "nearest", "released")
        expected = torch.ones(8, 8, dtype=torch.bool)
        expected[1:7, 0:2] = False
        assert torch.equal(valid, expected)


CONVENTIONS = ("paper", "released")


@pytest.mark.parametrize("convention", CONVENTIONS)
class TestBoth:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool])
    def test_dtype_stays(self, convention: Any, dtype: torch.dtype) -> None:
        maps = (places(5, 6) % 3).expand(2, 5, 6).to(dtype)
        found, valid = Warp((("rotate", 10.0),), (0, 0, 2, 2)).apply(maps, 1, "nearest", convention)
        assert found.dtype == dtype and found.shape == (2, 5, 6) and valid.dtype == torch.bool
        assert not bool(found[:, :2, :2].any()) and not bool(valid[:2, :2].any())

    def test_large_numbers_are_not_rounded(self, convention: Any) -> None:
        maps = places(3, 4) + 2**60
        assert torch.equal(Warp((), None).apply(maps, 1, "nearest", convention)[0], maps)

    def test_maps_are_moved_alike_and_left_as_they_were(self, convention: Any) -> None:
        maps = torch.cat([places(6, 9), places(6, 9) * 2])
        copy = maps.clone()
        found, _ = Warp((("shear_x", 0.2), ("rotate", 20.0)), (1, 1, 4, 3)).apply(maps, 1, "nearest", convention)
        assert torch.equal(found[1], 2 * found[0]) and torch.equal(maps, copy)

    def test_a_cutout_of_everything(self, convention: Any) -> None:
        found, valid = Warp((("flip", 0.0),), (0, 0, 24, 16)).apply(places(4, 6), 1 / 4, "nearest", convention)
        assert not bool(valid.any()) and not bool(found.any())

    def test_without_a_gradient(self, convention: Any) -> None:
        maps = places(4, 4, torch.float32).requires_grad_()
        assert not Warp((), None).apply(maps, 1, "nearest", convention)[0].requires_grad

    def test_invalid_input_is_refused(self, convention: Any) -> None:
        maps: Any = places(4, 4)
        with pytest.raises(ValueError, match=r"\(C, h, w\)"):
            Warp((), None).apply(maps[0], 1, "nearest", convention)
        with pytest.raises(ValueError, match="floating"):
            Warp((), None).apply(maps, 1, "bilinear", convention)
        with pytest.raises(ValueError, match="cubic"):
            Warp((), None).apply(maps, 1, "cubic", convention)  # type: ignore[arg-type]


def test_bilinear_is_not_in_the_release() -> None:
    with pytest.raises(ValueError, match="paper"):
        Warp((), None).apply(places(4, 4, torch.float32), 1, "bilinear", "released")
    unknown: Any = "intended"
    with pytest.raises(ValueError, match="intended"):
        Warp((), None).apply(places(4, 4), 1, "nearest", unknown)


def test_an_unknown_operation_is_refused() -> None:
    stray: Any = ("zoom", 2.0)
    with pytest.raises(ValueError, match="found zoom"):
        Warp((("flip", 0.0), stray), None)


@pytest.mark.parametrize("name", RELEASED_ORDER[1:])
def test_the_amount_0_is_the_identity(name: Any) -> None:
    picture = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Warp(((name, 0.0),), None).apply(picture, 1, "bilinear")[0], picture)
