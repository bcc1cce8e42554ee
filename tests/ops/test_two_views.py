import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.two_views import View, draw_majority, paste_mask, pasted, rescaled, strong_view


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
