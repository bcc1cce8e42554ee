import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.augment import (
    Chances,
    View,
    blended_augmentation,
    blur_kernel,
    rescaled,
    strong_augmentation,
    strong_view,
)
from udaseg.ops.mixing import draw_majority, paste_mask, pasted


class TestBlurKernel:
    def test_published_size(self):
        assert blur_kernel(512) == 51

    @settings(deadline=None)
    @given(st.integers(1, 3000))
    def test_is_the_released_formula_odd_and_shorter_than_the_image_needs(self, length):
        tenth = math.ceil(0.1 * length)
        kernel = blur_kernel(length)
        assert kernel == math.floor(tenth - 0.5 + tenth % 2)
        assert kernel % 2 == 1 and kernel // 2 < length


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


RELEASED = Chances(0.5, 0.3, 0.8, 0.3)


def blend_images(batch=2, height=12, width=16, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def blend_augmented(pictures, share=1.0, chances=RELEASED, seed=0):
    torch.manual_seed(seed)
    return blended_augmentation(pictures, share, chances, torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)  # the first example imports torchvision
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 99))
def test_stays_an_image_of_any_size(batch, height, width, share, seed):
    pictures = blend_images(batch, height, width, seed)
    result = blend_augmented(pictures, share, Chances(1.0, 0.3, 1.0, 1.0), seed)
    assert result.shape == pictures.shape and result.dtype == pictures.dtype
    assert float(result.min()) >= 0 and float(result.max()) <= 1


@pytest.mark.parametrize("share", [0.3, 0.4])
def test_is_the_share_of_what_is_augmented(share):
    pictures = blend_images()
    expected = share * blend_augmented(pictures) + (1 - share) * pictures
    torch.testing.assert_close(blend_augmented(pictures, share), expected)


NOTHING = Chances(0.0, 0.0, 0.0, 0.0)


def test_without_its_share_or_its_changes_it_is_the_picture():
    assert torch.equal(blend_augmented(blend_images(), share=0.0), blend_images())
    assert torch.equal(blend_augmented(blend_images(), chances=NOTHING), blend_images())


class TestChanges:
    def test_grey(self):
        result = blend_augmented(blend_images(), chances=NOTHING._replace(grey=1.0))
        torch.testing.assert_close(result[:, 0], result[:, 2])
        weights = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
        torch.testing.assert_close(result[:, 0], (blend_images() * weights).sum(1), atol=1e-3, rtol=0)

    def test_blur_is_a_gaussian_of_three_pixels(self):
        spike = torch.zeros(1, 3, 7, 7)
        spike[..., 3, 3] = 1.0
        result = blend_augmented(spike, chances=NOTHING._replace(blur=1.0))[0, 0]
        side = torch.tensor([-1.0, 0.0, 1.0]).square().div(-2 * 2.0**2).exp()
        torch.testing.assert_close(result[2:5, 2:5], side[:, None] * side / side.sum() ** 2)
        assert float(result.sum()) == pytest.approx(1, abs=1e-5)

    def test_sharpness_takes_contrasts_away(self):
        result = blend_augmented(blend_images(4), chances=NOTHING._replace(sharpness=1.0))
        assert not torch.equal(result, blend_images(4))
        assert (result.std(dim=(1, 2, 3)) < blend_images(4).std(dim=(1, 2, 3))).all()

    def test_jitter_alone_leaves_a_grey_picture_plain(self):
        plain = torch.full((2, 3, 8, 8), 0.5)
        result = blend_augmented(plain, chances=NOTHING._replace(jitter=1.0))
        torch.testing.assert_close(result.amax(dim=(2, 3)), result.amin(dim=(2, 3)), atol=1e-5, rtol=0)
        assert not torch.equal(result[0], result[1]) and not torch.equal(result, plain)

    @pytest.mark.parametrize("change", Chances._fields)
    def test_chance_is_of_each_image(self, change):
        pictures = blend_images(200, 6, 6)
        result = blend_augmented(pictures, chances=NOTHING._replace(**{change: 0.5}))
        changed = (result != pictures).flatten(1).any(1)
        assert int(changed.sum()) == pytest.approx(100, abs=25)


def test_is_a_function_of_the_generators():
    assert torch.equal(blend_augmented(blend_images()), blend_augmented(blend_images()))
    assert not torch.equal(blend_augmented(blend_images()), blend_augmented(blend_images(), seed=1))


def test_takes_the_same_draws_whatever_the_chances():
    for chances in (NOTHING, RELEASED):
        generator = torch.Generator().manual_seed(0)
        blended_augmentation(blend_images(), 0.4, chances, generator)
        expected = torch.Generator().manual_seed(0)
        torch.rand(2, 5, generator=expected, dtype=torch.float64)
        assert torch.equal(generator.get_state(), expected.get_state())


def test_half_precision_of_the_networks_does_not_reach_the_images():
    with torch.autocast("cpu", torch.bfloat16):
        result = blend_augmented(blend_images())
    assert result.dtype == torch.float32 and torch.equal(result, blend_augmented(blend_images()))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        blend_augmented(torch.zeros(shape))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def view_of(images=3, height=16, width=24, seed=0):
    """Labels, confidence and the first channel of the image tell the same of every pixel."""
    labels = torch.randint(3, (images, height // 8, width // 8), generator=generator(seed))
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    image = (labels + 1)[:, None].expand(-1, 3, -1, -1) / 4
    return View(image, labels, (labels + 1) / 4)


def agree(view, tolerance=0.0):
    """Whether the parts still tell the same, but for pixels without a label."""
    expected = (view.labels + 1) / 4
    there = view.labels != 255
    parts = (*view.image.unbind(1), view.confidence)
    return all(((part - expected).abs()[there] <= tolerance).all() for part in parts)


class TestPaste:
    def test_an_image_gets_whole_classes_of_the_next_one(self):
        view = view_of()
        mask = paste_mask(view.labels, generator())
        chosen = draw_majority(view.labels, generator())
        for index in range(3):
            giver = (index + 1) % 3
            assert torch.equal(mask[index], torch.isin(view.labels[giver], chosen[giver]))
        mixed = pasted(mask, view.labels)
        assert torch.equal(mixed[mask], view.labels.roll(-1, 0)[mask])
        assert torch.equal(mixed[~mask], view.labels[~mask])
        assert mask.any()
        assert agree(View(*(pasted(mask, maps) for maps in view)))

    def test_alone_an_image_stays_as_it_is(self):
        view = view_of(images=1)
        assert torch.equal(pasted(paste_mask(view.labels, generator()), view.image), view.image)

    def test_an_image_without_labels_gives_nothing(self):
        assert not paste_mask(torch.full((2, 4, 4), 255), generator()).any()


class TestRescaled:
    @pytest.mark.parametrize("factor", [0.75, 0.8, 1.0, 1.3, 1.75])
    def test_the_frame_stays_and_the_border_has_no_label(self, factor):
        view = view_of()
        found = rescaled(view, factor, (0.3, 0.9))
        assert [part.shape for part in found] == [part.shape for part in view]
        border = found.labels == 255
        inside = min(1.0, int(16 * factor) * int(24 * factor) / (16 * 24))
        assert float((~border).float().mean()) == pytest.approx(inside)
        assert not found.confidence[border].any()
        assert not found.image.movedim(1, -1)[border].any()

    def test_at_its_own_scale_it_stays(self):
        view = view_of()
        assert all(torch.equal(*parts) for parts in zip(rescaled(view, 1.0, (0.5, 0.5)), view, strict=True))

    def test_at_twice_the_scale_pixels_double(self):
        view = view_of()
        found = rescaled(view, 2.0, (0.0, 0.999))
        expected = view.labels.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :16, 24:]
        assert torch.equal(found.labels, expected)

    def test_labels_stay_on_their_pixels(self):
        view = view_of()
        for factor in (0.75, 1.4):
            found = rescaled(view, factor, (0.4, 0.6))
            near = ((found.image[:, 0] - (found.labels + 1) / 4).abs() < 0.3) | (found.labels == 255)
            assert near.all()


class TestStrongView:
    def test_without_chances_only_flips_are_left(self):
        view = view_of()
        found = {
            all(torch.equal(*parts) for parts in zip(strong_view(view, 0, 0, 0, 0, generator(seed)), view, strict=True))
            for seed in range(8)
        }
        assert found == {True, False}
        assert all(agree(strong_view(view, 0, 0, 0, 0, generator(seed))) for seed in range(8))

    @pytest.mark.parametrize("seed", range(6))
    def test_labels_confidence_and_image_move_alike(self, seed):
        assert agree(strong_view(view_of(), 1.0, 0.0, 0.0, 0.0, generator(seed)))

    @pytest.mark.parametrize("seed", range(6))
    def test_with_all_chances_it_stays_a_view(self, seed):
        view = view_of()
        before = [part.clone() for part in view]
        found = strong_view(view, 1.0, 0.25, 1.0, 1.0, generator(seed))
        assert [part.shape for part in found] == [part.shape for part in view]
        assert [part.dtype for part in found] == [part.dtype for part in view]
        assert found.image.min() >= 0
        assert found.image.max() <= 1
        assert set(found.labels.unique().tolist()) <= {0, 1, 2, 255}
        assert all(torch.equal(*parts) for parts in zip(before, view, strict=True))

    def test_colours_change_the_image_only(self):
        view = view_of()
        for seed in range(20):
            torch.manual_seed(seed)
            found = strong_view(view, 0, 0.25, 1.0, 0, generator(seed))
            assert not torch.equal(found.image, view.image)
            flipped = View(*(part.flip(-1) for part in view))
            assert any(torch.equal(found.labels, one.labels) for one in (view, flipped))

    def test_it_is_a_function_of_both_generators(self):
        found = []
        for _ in range(2):
            torch.manual_seed(3)
            found.append(strong_view(view_of(), 0.5, 0.25, 0.5, 0.8, generator(4)))
        assert all(torch.equal(*parts) for parts in zip(*found, strict=True))

    def test_small_images_can_be_blurred(self):
        assert strong_view(view_of(height=8, width=8), 0, 0, 1.0, 0, generator()).image.isfinite().all()

    def test_other_shapes_are_refused(self):
        view = view_of()
        for wrong in (view._replace(image=view.image[:, :1]), view._replace(confidence=view.confidence[:2])):
            with pytest.raises(ValueError, match="expected"):
                strong_view(wrong, 1, 1, 1, 1, generator())
