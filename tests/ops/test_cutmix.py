import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.cutmix import half_rectangle


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


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
