"""The look of one image on another: LAB against a loop over pixels, FDA against NumPy's transform, and invariants."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.translation import fourier_transfer, lab_to_rgb, lab_transfer, rgb_to_lab

SIZES = [(8, 12), (9, 12), (8, 11), (9, 11), (1, 1), (1, 6)]
TRANSFERS = {"lab": lab_transfer, "fourier": lambda source, target: fourier_transfer(source, target, 0.2)}


def images(batch=2, size=(8, 12), seed=0, dtype=torch.float64):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def constant(*colour, size=(8, 12)):
    return torch.tensor(colour, dtype=torch.float64)[None, :, None, None].expand(1, 3, *size)


def naive_lab(colour):
    """CIE's definition for one sRGB colour, with D65 as its own conversion of white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    rows = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = [sum(a * b for a, b in zip(row, linear, strict=True)) for row in rows]
    roots = []
    for value, white in zip(xyz, (0.95047, 1.0, 1.08883), strict=True):
        ratio = value / white
        roots.append(ratio ** (1 / 3) if ratio > 216 / 24389 else (24389 / 27 * ratio + 16) / 116)
    x, y, z = roots
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def naive_fourier(source, target, share):
    """The published recipe on one image: shift the spectra, exchange the square around the middle, shift back."""
    height, width = source.shape[-2:]
    reach = int(np.floor(min(height, width) * share))
    spectrum, look = np.fft.fft2(source), np.fft.fft2(target)
    amplitude, other = (np.fft.fftshift(np.abs(one), axes=(-2, -1)) for one in (spectrum, look))
    row, column = height // 2, width // 2
    square = (..., slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1))
    amplitude[square] = other[square]
    changed = np.fft.ifftshift(amplitude, axes=(-2, -1)) * np.exp(1j * np.angle(spectrum))
    result = np.fft.ifft2(changed)
    assert np.abs(result.imag).max() < 1e-12  # what is dropped is rounding
    return np.clip(result.real, 0, 1)


class TestLab:
    def test_values_are_those_of_a_loop_over_pixels(self):
        found = rgb_to_lab(images())
        for image in range(2):
            for row in range(8):
                for column in range(12):
                    expected = naive_lab(images()[image, :, row, column].tolist())
                    assert found[image, :, row, column].tolist() == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize(
        ("rgb", "lab"),  # published values of the corners of sRGB
        [
            ((1, 1, 1), (100, 0, 0)),
            ((0, 0, 0), (0, 0, 0)),
            ((1, 0, 0), (53.24, 80.09, 67.20)),
            ((0, 1, 0), (87.73, -86.18, 83.18)),
            ((0, 0, 1), (32.30, 79.19, -107.86)),
        ],
    )
    def test_known_colours(self, rgb, lab):
        assert rgb_to_lab(constant(*map(float, rgb)))[0, :, 0, 0].tolist() == pytest.approx(lab, abs=0.01)

    @settings(deadline=None)
    @given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
    def test_there_and_back_is_the_identity(self, colour):
        image = constant(*colour, size=(1, 1))
        # sRGB's two pieces, as its standard rounds them, meet up to 3e-8.
        torch.testing.assert_close(lab_to_rgb(rgb_to_lab(image)), image, atol=1e-7, rtol=0)

    def test_there_and_back_in_single_precision(self):
        image = images(dtype=torch.float32)
        torch.testing.assert_close(lab_to_rgb(rgb_to_lab(image)), image, atol=1e-5, rtol=0)

    def test_dark_colours_on_the_straight_pieces(self):
        image = images() / 100
        torch.testing.assert_close(lab_to_rgb(rgb_to_lab(image)), image, atol=1e-12, rtol=0)

    def test_what_srgb_does_not_have_is_clipped(self):
        found = lab_to_rgb(torch.tensor([[50.0, 150.0, -150.0], [120.0, 0.0, 0.0]])[:, :, None, None])
        assert found.min() == 0 and 0.999 < found.max() <= 1

    @pytest.mark.parametrize("function", [rgb_to_lab, lab_to_rgb])
    def test_gradients(self, function):
        inputs = images(1, (2, 3)) * 0.8 + 0.1
        inputs = inputs if function is rgb_to_lab else rgb_to_lab(inputs)
        assert gradcheck(function, inputs.requires_grad_())

    @pytest.mark.parametrize("wrong", [torch.rand(3, 4, 4), torch.rand(1, 4, 4, 4), torch.zeros(1, 3, 4, 4).long()])
    @pytest.mark.parametrize("function", [rgb_to_lab, lab_to_rgb])
    def test_other_shapes_and_types_are_refused(self, function, wrong):
        with pytest.raises(ValueError, match=r"real images \(B, 3, H, W\) expected, found"):
            function(wrong)


class TestLabTransfer:
    def test_the_result_has_the_targets_mean_and_spread(self):
        # Near grey, so that nothing has to be clipped.
        source, target = 0.4 + 0.1 * images(seed=1), 0.5 + 0.05 * images(size=(5, 7), seed=2)
        found, look = rgb_to_lab(lab_transfer(source, target)), rgb_to_lab(target)
        torch.testing.assert_close(found.mean((2, 3)), look.mean((2, 3)), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            found.std((2, 3), correction=0), look.std((2, 3), correction=0), atol=1e-6, rtol=1e-6
        )

    def test_values_are_those_of_a_loop(self):
        source, target = images(seed=1), images(size=(5, 7), seed=2)
        found = lab_transfer(source, target)
        for image in range(2):
            content, look = rgb_to_lab(source[image : image + 1])[0], rgb_to_lab(target[image : image + 1])[0]
            moved = torch.empty_like(content)
            for channel in range(3):
                values, wanted = content[channel].numpy(), look[channel].numpy()
                scaled = (values - values.mean()) / values.std() * wanted.std() + wanted.mean()
                moved[channel] = torch.from_numpy(scaled)
            torch.testing.assert_close(found[image], lab_to_rgb(moved[None])[0])

    def test_a_constant_source_takes_the_mean_colour(self):
        target = 0.4 + 0.1 * images(1)
        found = rgb_to_lab(lab_transfer(constant(0.2, 0.7, 0.3), target))
        torch.testing.assert_close(found, rgb_to_lab(target).mean((2, 3), keepdim=True).expand_as(found))

    def test_a_grey_source_in_single_precision_stays_as_smooth_as_it_is(self):
        grey = torch.rand(1, 1, 8, 12, generator=torch.Generator().manual_seed(0)).expand(1, 3, 8, 12)
        found = rgb_to_lab(lab_transfer(grey, 0.45 + 0.1 * images(1, dtype=torch.float32)))
        assert found[:, 1:].std((2, 3)).max() < 0.1  # rounding is not stretched to colours

    def test_a_constant_target_makes_the_source_constant(self):
        found = lab_transfer(images(1), constant(0.2, 0.5, 0.3))
        torch.testing.assert_close(found, constant(0.2, 0.5, 0.3), atol=1e-6, rtol=0)

    def test_each_image_takes_its_own_target(self):
        source, target = images(3, seed=1), images(3, seed=2)
        both = lab_transfer(source, target)
        for index in range(3):
            single = slice(index, index + 1)
            torch.testing.assert_close(both[single], lab_transfer(source[single], target[single]))

    def test_numbers_that_differ_are_refused(self):
        with pytest.raises(ValueError, match="a target image for each source image expected, found 2 and 3"):
            lab_transfer(images(2), images(3))


class TestFourierTransfer:
    @pytest.mark.parametrize("size", [(8, 12), (9, 12), (8, 11), (9, 11), (32, 20)])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.2, 0.4, 0.49])
    def test_values_are_those_of_the_published_recipe(self, size, share):
        source, target = images(size=size, seed=1), images(size=size, seed=2)
        found = fourier_transfer(source, target, share)
        for image in range(2):
            expected = naive_fourier(source[image].numpy(), target[image].numpy(), share)
            np.testing.assert_allclose(found[image].numpy(), expected, atol=1e-12)

    @pytest.mark.parametrize("share", [0.0, 0.12])
    def test_with_a_half_side_of_nothing_the_mean_alone_moves(self, share):
        source, target = 0.4 + 0.1 * images(seed=1), 0.45 + 0.1 * images(seed=2)
        moved = source + (target - source).mean((2, 3), keepdim=True)
        torch.testing.assert_close(fourier_transfer(source, target, share), moved)

    def test_black_takes_the_mean_alone(self):
        target = images(1)
        found = fourier_transfer(constant(0.0, 0.0, 0.0), target, 0.3)
        torch.testing.assert_close(found, target.mean((2, 3), keepdim=True).expand_as(found))

    def test_a_frequency_that_the_source_lacks_stays_away(self):
        # In single precision, where a constant image's spectrum is full of rounding errors.
        source = torch.full((1, 3, 24, 40), 0.3)
        found = fourier_transfer(source, images(1, (24, 40), dtype=torch.float32), 0.3)
        assert found.std((2, 3)).max() < 1e-5

    def test_high_frequencies_stay(self):
        source, target = 0.4 + 0.1 * images(seed=1), 0.45 + 0.05 * images(seed=2)
        before, after = (torch.fft.fft2(x) for x in (source, fourier_transfer(source, target, 0.2)))
        high = torch.ones(8, 12, dtype=torch.bool)
        rows, columns = [0, 1, -1], [0, 1, -1]
        high[np.ix_(rows, columns)] = False
        torch.testing.assert_close(after[..., high], before[..., high])
        torch.testing.assert_close(after[..., ~high].abs(), torch.fft.fft2(target)[..., ~high].abs())
        torch.testing.assert_close(after[..., ~high].angle(), before[..., ~high].angle())

    @pytest.mark.parametrize("share", [-0.1, 0.5, 1.0])
    def test_other_shares_are_refused(self, share):
        with pytest.raises(ValueError, match="share: from 0 to below"):
            fourier_transfer(images(), images(), share)

    def test_other_sizes_and_numbers_are_refused(self):
        with pytest.raises(ValueError, match="images of one size expected"):
            fourier_transfer(images(), images(size=(8, 11)), 0.1)
        with pytest.raises(ValueError, match="found 2 and 1"):
            fourier_transfer(images(2), images(1), 0.1)


@pytest.mark.parametrize("transfer", TRANSFERS.values(), ids=TRANSFERS)
class TestBoth:
    @pytest.mark.parametrize("size", SIZES)
    def test_onto_itself_is_the_identity(self, transfer, size):
        source = images(size=size)
        torch.testing.assert_close(transfer(source, source), source, atol=1e-9, rtol=0)

    @settings(max_examples=30)
    @given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99), dark=st.booleans())
    def test_any_size_gives_finite_colours_in_range(self, transfer, size, seed, dark):
        source, target = images(1, size, seed, torch.float32), images(1, size, seed + 1, torch.float32)
        found = transfer(source * 0 if dark else source, target.round())
        assert found.shape == source.shape and found.dtype == torch.float32
        assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1

    def test_it_is_a_function_of_the_images(self, transfer):
        source, target = images(seed=1), images(seed=2)
        kept = source.clone(), target.clone()
        assert torch.equal(transfer(source, target), transfer(source, target))
        assert torch.equal(source, kept[0]) and torch.equal(target, kept[1])

    def test_other_shapes_are_refused(self, transfer):
        for source, target in ((images()[0], images()), (images(), images()[:, :2])):
            with pytest.raises(ValueError, match=r"real images \(B, 3, H, W\) expected"):
                transfer(source, target)
