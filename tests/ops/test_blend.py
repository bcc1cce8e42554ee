import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.blend import Chances, blended_augmentation

NOTHING = Chances(0.0, 0.0, 0.0, 0.0)
RELEASED = Chances(0.5, 0.3, 0.8, 0.3)


def images(batch=2, height=12, width=16, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def augmented(pictures, share=1.0, chances=RELEASED, seed=0):
    torch.manual_seed(seed)
    return blended_augmentation(pictures, share, chances, torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)  # the first example imports torchvision
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 99))
def test_stays_an_image_of_any_size(batch, height, width, share, seed):
    pictures = images(batch, height, width, seed)
    result = augmented(pictures, share, Chances(1.0, 0.3, 1.0, 1.0), seed)
    assert result.shape == pictures.shape and result.dtype == pictures.dtype
    assert float(result.min()) >= 0 and float(result.max()) <= 1


@pytest.mark.parametrize("share", [0.3, 0.4])
def test_is_the_share_of_what_is_augmented(share):
    pictures = images()
    expected = share * augmented(pictures) + (1 - share) * pictures
    torch.testing.assert_close(augmented(pictures, share), expected)


def test_without_its_share_or_its_changes_it_is_the_picture():
    assert torch.equal(augmented(images(), share=0.0), images())
    assert torch.equal(augmented(images(), chances=NOTHING), images())


class TestChanges:
    def test_grey(self):
        result = augmented(images(), chances=NOTHING._replace(grey=1.0))
        torch.testing.assert_close(result[:, 0], result[:, 2])
        weights = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
        torch.testing.assert_close(result[:, 0], (images() * weights).sum(1), atol=1e-3, rtol=0)

    def test_blur_is_a_gaussian_of_three_pixels(self):
        spike = torch.zeros(1, 3, 7, 7)
        spike[..., 3, 3] = 1.0
        result = augmented(spike, chances=NOTHING._replace(blur=1.0))[0, 0]
        side = torch.tensor([-1.0, 0.0, 1.0]).square().div(-2 * 2.0**2).exp()
        torch.testing.assert_close(result[2:5, 2:5], side[:, None] * side / side.sum() ** 2)
        assert float(result.sum()) == pytest.approx(1, abs=1e-5)

    def test_sharpness_takes_contrasts_away(self):
        result = augmented(images(4), chances=NOTHING._replace(sharpness=1.0))
        assert not torch.equal(result, images(4))
        assert (result.std(dim=(1, 2, 3)) < images(4).std(dim=(1, 2, 3))).all()

    def test_jitter_alone_leaves_a_grey_picture_plain(self):
        plain = torch.full((2, 3, 8, 8), 0.5)
        result = augmented(plain, chances=NOTHING._replace(jitter=1.0))
        torch.testing.assert_close(result.amax(dim=(2, 3)), result.amin(dim=(2, 3)), atol=1e-5, rtol=0)
        assert not torch.equal(result[0], result[1]) and not torch.equal(result, plain)

    @pytest.mark.parametrize("change", Chances._fields)
    def test_chance_is_of_each_image(self, change):
        pictures = images(200, 6, 6)
        result = augmented(pictures, chances=NOTHING._replace(**{change: 0.5}))
        changed = (result != pictures).flatten(1).any(1)
        assert int(changed.sum()) == pytest.approx(100, abs=25)


def test_is_a_function_of_the_generators():
    assert torch.equal(augmented(images()), augmented(images()))
    assert not torch.equal(augmented(images()), augmented(images(), seed=1))


def test_takes_the_same_draws_whatever_the_chances():
    for chances in (NOTHING, RELEASED):
        generator = torch.Generator().manual_seed(0)
        blended_augmentation(images(), 0.4, chances, generator)
        expected = torch.Generator().manual_seed(0)
        torch.rand(2, 5, generator=expected, dtype=torch.float64)
        assert torch.equal(generator.get_state(), expected.get_state())


def test_half_precision_of_the_networks_does_not_reach_the_images():
    with torch.autocast("cpu", torch.bfloat16):
        result = augmented(images())
    assert result.dtype == torch.float32 and torch.equal(result, augmented(images()))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        augmented(torch.zeros(shape))
