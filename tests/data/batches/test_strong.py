"""The strong view: what is drawn, and that maps follow it through its warp."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from udaseg.data.batches import strong
from udaseg.data.batches.strong import GREY, POOL, _photometric, cutout_around, strong_view

SEEDS = st.integers(0, 10**6)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """In steps of 1/255, as images are."""
    return torch.randint(0, 256, (3, height, width), generator=seeded(seed)).float() / 255


@settings(deadline=None)  # the first call loads torchvision
@given(SEEDS, st.integers(3, 24), st.integers(3, 24))
def test_a_view_is_a_picture_of_its_warp(seed: int, height: int, width: int) -> None:
    image = picture(height, width)
    copy = image.clone()
    view, warp = strong_view(image, seeded(seed))
    assert torch.equal(image, copy) and view.shape == image.shape and view.dtype == torch.float32
    assert float(view.min()) >= 0 and float(view.max()) <= 1
    _, valid = warp.apply(image, 1, "nearest")
    assert bool((view[:, ~valid] == torch.tensor(GREY)).all())
    again, warp_again = strong_view(image, seeded(seed))
    assert torch.equal(view, again) and warp == warp_again


def test_of_geometry_alone_the_view_is_the_warped_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strong, "_photometric", lambda image, name, level: image)
    image = picture(32, 48)
    for seed in range(60):
        view, warp = strong_view(image, seeded(seed))
        warped, valid = warp.apply(image, 1, "bilinear")
        assert torch.equal(view, warped.masked_fill(~valid, GREY))


def test_a_label_at_a_quarter_stays_on_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture painted with its label's ids: where the view shows an id around a cell's centre, the label has it."""
    monkeypatch.setattr(strong, "_photometric", lambda image, name, level: image)
    label = torch.randint(1, 5, (1, 16, 24), generator=seeded(0))
    image = (label / 5).repeat_interleave(4, 1).repeat_interleave(4, 2).expand(3, -1, -1)
    seen = 0
    for seed in range(60):
        view, warp = strong_view(image, seeded(seed))
        moved, valid = warp.apply(label, 1 / 4, "nearest")
        centres = torch.stack([view[0, down::4, along::4] for down in (1, 2) for along in (1, 2)])
        for index in range(1, 5):
            painted = ((centres - index / 5).abs() < 1e-5).all(0)
            assert bool((moved[0][painted] == index).all()) and bool(valid[painted].all())
            seen += int(painted.sum())
    assert seen > 60 * 16 * 24 / 4


def test_what_is_drawn_is_spread_as_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    colours: list[tuple[str, int]] = []
    monkeypatch.setattr(strong, "_photometric", lambda image, name, level: (colours.append((name, level)), image)[1])
    image, rounds = torch.zeros(3, 20, 40), 3000
    warps = [strong_view(image, seeded(seed))[1] for seed in range(rounds)]
    drawn = [operation for warp in warps for operation in warp.operations]
    counts = Counter(name for name, _ in drawn) + Counter(name for name, _ in colours)
    assert abs(counts.pop("flip") / rounds - 0.5) < 0.03
    assert set(counts) == set(POOL)
    for count in counts.values():  # two draws of a pool of 14, each done by half
        assert abs(count / rounds - 1 / 14) < 0.02
    assert {level for _, level in colours} == set(range(1, 10))
    most = {"rotate": 27.0, "shear_x": 0.27, "shear_y": 0.27, "translate_x": 10.0, "translate_y": 5.0}
    for name, bound in most.items():  # 9 of 10 levels; translations in whole pixels of 0.27 x 40 and 0.27 x 20
        amounts = torch.tensor([amount for other, amount in drawn if other == name])
        assert abs(float(amounts.abs().max()) - bound) < 1e-5
        assert abs(float((amounts > 0).float().mean()) - float((amounts < 0).float().mean())) < 0.2
    assert {len(warp.operations) for warp in warps} == {0, 1, 2, 3}
    assert all(warp.operations.index(("flip", 0.0)) == 0 for warp in warps if ("flip", 0.0) in warp.operations)


def test_the_same_numbers_are_drawn_whatever_they_mean() -> None:
    ends = []
    for seed in range(10):
        generator, plain = seeded(seed), seeded(seed)
        strong_view(picture(8, 8), generator)
        torch.rand(11, generator=plain, dtype=torch.float64)
        ends.append(torch.rand(1, generator=generator) == torch.rand(1, generator=plain))
    assert all(ends)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((20.0, 15.0), (15, 10, 25, 20)),
        ((1.0, 2.0), (0, 0, 10, 10)),  # moved in
        ((39.0, 29.0), (34, 24, 40, 30)),  # cut
        ((20.7, 15.2), (15, 10, 25, 20)),
    ],
)
def test_cutout(place: tuple[float, float], expected: tuple[int, int, int, int]) -> None:
    assert cutout_around(*place, (30, 40)) == expected


@given(st.floats(0, 0.999), st.floats(0, 0.999), st.integers(3, 60), st.integers(3, 60))
def test_a_cutout_is_inside_and_no_larger_than_a_third(x: float, y: float, height: int, width: int) -> None:
    x0, y0, x1, y1 = cutout_around(x * width, y * height, (height, width))
    side = min(height, width) // 3
    assert 0 <= x0 < x1 <= width and x1 - x0 <= side and 0 <= y0 < y1 <= height and y1 - y0 <= side


class TestPhotometric:
    @pytest.mark.parametrize("name", (*POOL[:7], "sharpness", "solarise"))
    @pytest.mark.parametrize("level", [1, 5, 9])
    def test_range_and_shape(self, name: str, level: int) -> None:
        image = picture(9, 11) * 0.8
        changed = _photometric(image, name, level)
        assert changed.shape == image.shape and changed.dtype == torch.float32
        assert float(changed.min()) >= 0 and float(changed.max()) <= 1
        assert torch.equal(changed, image) == (name == "identity")

    def value(self, name: str, level: int, shade: int) -> float:
        image: Any = torch.full((3, 4, 4), shade / 255)
        return float(_photometric(image, name, level)[0, 1, 1]) * 255

    def test_values(self) -> None:
        assert self.value("brightness", 1, 200) == pytest.approx(0.14 * 200, abs=1)
        assert self.value("brightness", 9, 200) == pytest.approx(0.86 * 200, abs=1)
        assert self.value("posterise", 1, 0b10111111) == pytest.approx(0b10110000)  # 4 bits
        assert self.value("posterise", 9, 0b10111111) == pytest.approx(0b10111110)  # 7 bits
        assert [self.value("solarise", 1, shade) for shade in (230, 231)] == pytest.approx([230, 24])
        assert [self.value("solarise", 9, shade) for shade in (25, 26)] == pytest.approx([25, 229])

    def test_greyer_flatter_and_softer(self) -> None:
        """Below 1, the factors of colour, contrast and sharpness take something away."""
        image = picture(16, 16)
        assert float(_photometric(image, "colour", 1).std(0).mean()) < 0.2 * float(image.std(0).mean())
        assert float(_photometric(image, "contrast", 1).std()) < 0.2 * float(image.std())
        rough = [float(maps.diff(dim=-1).abs().mean()) for maps in (_photometric(image, "sharpness", 1), image)]
        assert rough[0] < 0.6 * rough[1]

    def test_histograms_are_spread(self) -> None:
        image = 0.3 + 0.2 * picture(64, 64)  # with fewer pixels than shades nothing is equalised
        stretched = _photometric(image, "autocontrast", 1)
        assert float(stretched.min()) == 0 and float(stretched.max()) >= 254 / 255
        assert float(_photometric(image, "equalise", 1).std()) > 4 * float(image.std())

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(ValueError, match="invert"):
            _photometric(picture(4, 4), "invert", 1)
