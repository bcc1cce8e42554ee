import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.augment import blur_kernel, strong_augmentation


def images(batch=2, height=24, width=32, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def drawing(jitter, blur):
    """A generator whose next two draws jitter, and blur, as asked."""
    for seed in range(1000):
        draws = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
        if (draws[0] > 0.2) == jitter and (draws[1] > 0.5) == blur:
            return torch.Generator().manual_seed(seed)
    raise AssertionError("no such seed")


def augmented(pictures, jitter=0.25, blur=0.5, draws=(True, True), seed=0):
    torch.manual_seed(seed)
    return strong_augmentation(pictures, jitter, blur, drawing(*draws))


class TestBlurKernel:
    def test_published_size(self):
        assert blur_kernel(512) == 51

    @given(st.integers(1, 3000))
    def test_is_the_released_formula_odd_and_shorter_than_the_image_needs(self, length):
        tenth = math.ceil(0.1 * length)
        kernel = blur_kernel(length)
        assert kernel == math.floor(tenth - 0.5 + tenth % 2)
        assert kernel % 2 == 1 and kernel // 2 < length


class TestStrongAugmentation:
    @settings(max_examples=40, deadline=None)  # the first example imports torchvision
    @given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
    def test_stays_an_image_of_any_size(self, batch, height, width, seed):
        pictures = images(batch, height, width, seed)
        result = augmented(pictures, jitter=0.5, seed=seed)
        assert result.shape == pictures.shape and result.dtype == pictures.dtype
        assert float(result.min()) >= 0 and float(result.max()) <= 1

    def test_blur_alone_is_a_gaussian_of_the_drawn_width(self):
        spike = torch.zeros(1, 3, 60, 40)
        spike[..., 30, 20] = 1.0
        blurred = augmented(spike, jitter=0.0)[0, 0]
        assert float(blurred.sum()) == pytest.approx(1.0, abs=1e-5)
        reach = (blurred > 0).nonzero() - torch.tensor([30, 20])
        assert reach[:, 0].abs().max() <= 2 and reach[:, 1].abs().max() <= 1  # kernels of 5 rows and 3 columns
        # With weights exp(-x^2 / 2 s^2), neighbours tell the width.
        ratio = float(blurred[31, 20] / blurred[30, 20])
        assert 0.15 <= math.sqrt(-1 / (2 * math.log(ratio))) <= 1.15

    def test_jitter_alone_leaves_a_grey_picture_plain(self):
        result = augmented(torch.full((2, 3, 8, 8), 0.5), draws=(True, False))
        assert torch.allclose(result.amax(dim=(2, 3)), result.amin(dim=(2, 3)), atol=1e-5)
        assert not torch.equal(result, torch.full((2, 3, 8, 8), 0.5))

    def test_strengths_differ_between_the_images_of_a_batch(self):
        same = images(1).expand(2, -1, -1, -1)
        for draws in ((True, False), (False, True)):
            first, second = augmented(same, draws=draws)
            assert not torch.equal(first, second)

    def test_neither_drawn_changes_nothing(self):
        assert torch.equal(augmented(images(), draws=(False, False)), images())

    @pytest.mark.parametrize(("blur", "changed"), [(0.0, 0), (1.0, 200), (0.5, 100)])
    def test_chance_of_the_blur(self, blur, changed):
        picture = images(1, 30, 30)
        results = [strong_augmentation(picture, 0.0, blur, torch.Generator().manual_seed(seed)) for seed in range(200)]
        assert sum(not torch.equal(result, picture) for result in results) == pytest.approx(changed, abs=25)

    def test_chance_of_the_jitter(self):
        picture = images(1, 4, 4)
        results = [strong_augmentation(picture, 0.2, 0.0, torch.Generator().manual_seed(seed)) for seed in range(200)]
        assert sum(not torch.equal(result, picture) for result in results) == pytest.approx(160, abs=20)

    def test_is_a_function_of_the_generators(self):
        assert torch.equal(augmented(images()), augmented(images()))
        assert not torch.equal(augmented(images()), augmented(images(), seed=1))

    def test_half_precision_of_the_networks_does_not_reach_the_images(self):
        with torch.autocast("cpu", torch.bfloat16):
            result = augmented(images())
        assert result.dtype == torch.float32 and torch.equal(result, augmented(images()))

    def test_takes_the_same_two_draws_whatever_the_settings(self):
        for jitter, blur in ((0.0, 0.0), (0.25, 0.5)):
            generator = torch.Generator().manual_seed(0)
            strong_augmentation(images(), jitter, blur, generator)
            expected = torch.Generator().manual_seed(0)
            torch.rand(2, generator=expected, dtype=torch.float64)
            assert torch.equal(generator.get_state(), expected.get_state())

    @pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            strong_augmentation(torch.zeros(shape), 0.2, 0.5, torch.Generator())
