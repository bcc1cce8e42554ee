"""What a batch holds is a function of (seed, index) alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from udaseg.config.training import LabelledTarget, SourceView, TargetView
from udaseg.data.batches.loader import batches
from udaseg.data.batches.samplers import labelled_subset, turn
from udaseg.data.batches.streams import Batch, Streams, Target, soft_view
from udaseg.data.batches.views import Geometry, crop_then_resize
from udaseg.data.datasets.base import Item
from udaseg.data.sets.prepare import prepare
from udaseg.data.sets.read import PreparedSet
from udaseg.errors import UserError
from udaseg.types import IGNORE

COUNT = 6
CLASSES = ["low", "high"]


class Numbered:
    """Images whose red channel is their number and whose label is 1 where green is bright."""

    names = tuple(CLASSES)
    splits = ("train",)

    def items(self, split: str) -> list[Item]:
        return [self._item(index) for index in range(COUNT)]

    @staticmethod
    def _item(index: int) -> Item:
        green = np.random.default_rng(index).integers(0, 2, (16, 24)).repeat(2, 0).repeat(2, 1)
        image = np.stack([np.full_like(green, 40 * index), 255 * green, np.zeros_like(green)], -1).astype(np.uint8)
        return Item(f"image_{index}", lambda: image, lambda: green.astype(np.uint8))


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    folder = tmp_path_factory.mktemp("sets") / "numbered"
    prepare("numbered", Numbered(), {"counts": {"train": COUNT}}, CLASSES, (32, 48), folder)
    return PreparedSet(folder)


PLAIN: dict[str, Any] = {
    "batch": 2, "crop": (16, 16), "scale": (1.0, 1.0), "flip": 0.5, "jitter": 0.0, "blur": 0.0,
}  # fmt: skip


def streams(
    prepared: PreparedSet,
    seed: int = 0,
    used: Sequence[str] = ("source", "target"),
    labels: Any = None,
    source: dict[str, Any] | None = None,
    target: dict[str, Any] | None = None,
    total: int = 0,
    **changes: Any,
) -> Streams:
    """Streams of one set for both domains; `changes` are of both views."""
    plain = PLAIN | changes
    whole = {"portion": 1.0, "max_class_share": 1.0, "rare": None, "labelled_target": None}
    of_source = SourceView.model_validate(plain | whole | (source or {}))
    of_target = TargetView.model_validate(plain | {"mine": 0.0} | (target or {}))
    return Streams({"source": prepared, "target": prepared}, of_source, of_target, seed, used, labels, total)


def content(batch: Batch) -> list[torch.Tensor]:
    return [batch.source.image, batch.source.label, batch.target.image, batch.target.valid]


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(*pair) for pair in zip(content(first), content(second), strict=True))


def shown(images: torch.Tensor) -> list[int]:
    """The numbers of the images in a batch."""
    return [round(float(image[0].max()) * 255 / 40) for image in images]


def test_shapes_and_ranges(numbered: PreparedSet) -> None:
    batch = streams(numbered)[0]
    assert batch.source.image.shape == batch.target.image.shape == (2, 3, 16, 16)
    assert batch.source.image.dtype == torch.float32 and batch.source.label.dtype == torch.int64
    assert float(batch.source.image.min()) >= 0 and float(batch.source.image.max()) <= 1
    assert set(batch.source.label.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_bytes_whatever_the_workers(numbered: PreparedSet, workers: int) -> None:
    made = streams(numbered, scale=(0.8, 1.4), jitter=0.3, blur=0.5)
    with batches(made, 3, 9, workers) as items:
        loaded = list(items)
    assert len(loaded) == 6 and all(same(batch, made[index]) for index, batch in enumerate(loaded, 3))


def test_loading_leaves_the_global_generator_alone(numbered: PreparedSet) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with batches(streams(numbered, jitter=0.3), 0, 3, 0) as items:
        list(items)
    assert torch.equal(torch.rand(3), expected)


def test_other_seeds_and_other_places_give_others(numbered: PreparedSet) -> None:
    first = streams(numbered)
    assert same(first[4], streams(numbered)[4])
    assert not same(first[4], streams(numbered, seed=1)[4])
    assert not same(first[4], first[5])


def test_source_and_target_are_drawn_apart(numbered: PreparedSet) -> None:
    batch = streams(numbered, batch=6)[0]
    assert not torch.equal(batch.source.image, batch.target.image)


def test_every_image_once_an_epoch_in_an_order_of_its_own(numbered: PreparedSet) -> None:
    made = streams(numbered)
    numbers = [number for index in range(12) for number in shown(made[index].source.image)]
    epochs = [numbers[start : start + COUNT] for start in range(0, 4 * COUNT, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_an_epoch_may_end_within_a_batch(numbered: PreparedSet) -> None:
    made = streams(numbered, batch=4)
    numbers = [number for index in range(3) for number in shown(made[index].target.image)]
    assert Counter(numbers) == dict.fromkeys(range(COUNT), 2)


def test_a_method_without_target_sees_the_same_source_images(numbered: PreparedSet) -> None:
    """Paired comparisons: source_only and an adversarial method of equal seed."""
    both, alone = streams(numbered)[7], streams(numbered, used=("source",))[7]
    assert torch.equal(both.source.image, alone.source.image) and torch.equal(both.source.label, alone.source.label)
    assert alone.target.image.numel() == 0


def test_a_method_without_source_sees_the_same_target_images(numbered: PreparedSet) -> None:
    both, alone = streams(numbered)[7], streams(numbered, used=("target",))[7]
    assert torch.equal(both.target.image, alone.target.image)
    assert alone.source.image.numel() == alone.source.label.numel() == 0


def test_target_labels_are_not_in_the_batch_nor_read(numbered: PreparedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    made = streams(numbered, used=("target",))
    assert {part.name for part in fields(Target)} == {
        "image", "valid", "pseudo", "soft", "full", "geometry", "strong", "warps",
    }  # fmt: skip

    def refuse(*_: object) -> None:
        raise AssertionError("a label was read")

    monkeypatch.setattr(PreparedSet, "label", refuse)
    assert made[1].target.image.shape == (2, 3, 16, 16)


def test_labels_lie_on_their_images(numbered: PreparedSet) -> None:
    for index in range(12):
        batch = streams(numbered)[index]
        assert torch.equal(batch.source.label, (batch.source.image[:, 1] > 0.5).long())


def test_what_lies_outside_the_image_is_ignored(numbered: PreparedSet) -> None:
    batch = streams(numbered, scale=(0.25, 0.25), crop=(16, 16))[0]  # images of 8 x 12
    ignored = batch.source.label == IGNORE
    assert ignored.sum((1, 2)).tolist() == [16 * 16 - 8 * 12] * 2
    assert float(batch.source.image.movedim(1, -1)[ignored].abs().max()) == 0


def test_batches_move_to_a_device(numbered: PreparedSet) -> None:
    assert same(streams(numbered)[0], streams(numbered)[0].to(torch.device("cpu")))


# ------------------------------------------------------------------------------------------- how images are chosen


def test_a_portion_is_a_fixed_subset_and_grows_by_adding(numbered: PreparedSet) -> None:
    seen = {}
    for portion in (0.2, 0.5, 1.0):
        made = streams(numbered, source={"portion": portion})
        seen[portion] = {number for index in range(12) for number in shown(made[index].source.image)}
        assert len(seen[portion]) == max(1, int(COUNT * portion))
    assert seen[0.2] < seen[0.5] < seen[1.0]
    other = streams(numbered, seed=3, source={"portion": 0.5})
    assert {number for index in range(12) for number in shown(other[index].source.image)} != seen[0.5]


class Uneven(Numbered):
    """Class "high" is a square in the corner of the last image, and nowhere else."""

    @staticmethod
    def _item(index: int) -> Item:
        green = np.zeros((32, 48), np.uint8)
        if index == COUNT - 1:
            green[2:10, 2:10] = 1
        image = np.stack([np.full_like(green, 40 * index), 255 * green, np.zeros_like(green)], -1).astype(np.uint8)
        return Item(f"image_{index}", lambda: image, lambda: green)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    folder = tmp_path_factory.mktemp("sets") / "uneven"
    prepare("uneven", Uneven(), {"counts": {"train": COUNT}}, [*CLASSES, "absent"], (32, 48), folder)
    return PreparedSet(folder)


Uneven.names = ("low", "high", "absent")
RARE = {"temperature": 0.01, "min_pixels": 40, "crop_share": 0.5}


def test_rare_classes_are_drawn_more_often_and_are_in_the_crop(uneven: PreparedSet) -> None:
    plain, rare = (streams(uneven, source={"rare": value}) for value in (None, RARE))
    drawn = [rare[index].source for index in range(20)]
    assert {number for batch in drawn for number in shown(batch.image)} == {COUNT - 1}
    pixels = torch.stack([(batch.label == 1).sum((1, 2)) for batch in drawn])
    often = (pixels > 20).float().mean()
    unaided = [plain[index].source for index in range(20)]
    # A crop at random shows so much of it in about every tenth case; ten tries find one in about half of the cases.
    assert often > 0.4 > 0.1 > torch.stack([(b.label == 1).sum((1, 2)) > 20 for b in unaided]).float().mean()


def test_at_a_high_temperature_all_shown_classes_are_drawn_alike(uneven: PreparedSet) -> None:
    made = streams(uneven, source={"rare": RARE | {"temperature": 1e6, "min_pixels": 1}})
    last = [number == COUNT - 1 for index in range(200) for number in shown(made[index].source.image)]
    assert 0.5 < sum(last) / len(last) < 0.68  # a half for its class, and a sixth of the other half


def test_an_empty_rare_class_is_left_out(uneven: PreparedSet) -> None:
    """No image shows "high" well enough, nor "absent" at all: the release fails there."""
    made = streams(uneven, source={"rare": RARE | {"min_pixels": 64}})
    assert len({number for index in range(20) for number in shown(made[index].source.image)}) > 1


def test_no_image_for_any_class_is_an_error_that_says_what_to_do(uneven: PreparedSet) -> None:
    with pytest.raises(UserError, match=r"train\.source\.rare\.min_pixels: no image has more than 5000 .* is 1536"):
        streams(uneven, source={"rare": RARE | {"min_pixels": 5000}})


def test_rare_sampling_leaves_the_target_alone(uneven: PreparedSet) -> None:
    plain, rare = (streams(uneven, source={"rare": value}) for value in (None, RARE))
    assert torch.equal(plain[3].target.image, rare[3].target.image)


def test_crops_that_one_class_fills_are_drawn_again(numbered: PreparedSet) -> None:
    def full(share: float) -> int:
        made = streams(numbered, source={"max_class_share": share}, crop=(4, 4))
        means = torch.cat([made[index].source.label.float().mean((1, 2)) for index in range(50)])
        return int(((means == 0) | (means == 1)).sum())

    assert full(0.99) < full(1.0) / 4


# ------------------------------------------------------------------------------------- views that methods ask for


class Stored:
    """Stands for a label folder: the green channel's label with its left half unlabelled."""

    mine = (1,)

    def __init__(self, prepared: PreparedSet) -> None:
        self.prepared = prepared

    def hard(self, name: str) -> np.ndarray:
        label = self.prepared.label("train", name).copy()
        label[:, :24] = IGNORE
        return label

    def soft(self, name: str) -> torch.Tensor:
        label = torch.from_numpy(self.hard(name))[::4, ::4]
        return 255 * torch.stack([label == index for index in range(2)]).to(torch.uint8)


def test_pseudo_labels_lie_on_their_images(numbered: PreparedSet) -> None:
    made = streams(numbered, used=("target", "target.pseudo"), labels=Stored(numbered))
    found = 0
    for index in range(12):
        target = made[index].target
        labelled = target.pseudo != IGNORE
        assert torch.equal(target.pseudo[labelled], (target.image[:, 1] > 0.5).long()[labelled])
        found += int(labelled.sum())
    assert found


def test_every_view_shows_the_same_crop(numbered: PreparedSet) -> None:
    views = ("target", "target.full", "target.soft", "target.strong", "target.pseudo")
    made = streams(numbered, used=views, labels=Stored(numbered), scale=(0.6, 1.4))
    target = made[2].target
    assert target.full.shape == (2, 3, 32, 48) and target.soft.shape == (2, 2, 4, 4)
    assert target.strong.shape == target.image.shape and len(target.geometry) == len(target.warps) == 2
    for index, geometry in enumerate(target.geometry):
        view, valid = geometry.apply(target.full[index], "bilinear")
        assert torch.equal(view.clamp(0, 1), target.image[index]) and torch.equal(valid, target.valid[index])
    plain = streams(numbered, scale=(0.6, 1.4))[2].target
    assert torch.equal(plain.image, target.image), "asking for more views changes none"
    assert plain.full.numel() == plain.strong.numel() == 0 and plain.geometry == ()


def test_soft_labels_sum_to_one_or_are_absent(numbered: PreparedSet) -> None:
    made = streams(numbered, used=("target", "target.soft"), labels=Stored(numbered), scale=(0.4, 1.4))
    total = torch.cat([made[index].target.soft for index in range(8)]).sum(1)
    assert set(total.round(decimals=5).unique().tolist()) == {0.0, 1.0}


def test_a_soft_label_is_cut_out_before_it_is_enlarged() -> None:
    soft = torch.randint(0, 256, (3, 12, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for flip in (False, True):
        geometry = Geometry((27, 45), (5, 11), (16, 16), flip)
        whole, valid = geometry.apply(soft.float(), "aligned")
        assert bool(valid.all())
        torch.testing.assert_close(crop_then_resize(soft, geometry)[0], whole, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(soft_view(soft, geometry), whole / whole.sum(0), rtol=1e-5, atol=1e-6)


def test_mined_crops_show_the_class(numbered: PreparedSet) -> None:
    class Corner(Stored):
        def hard(self, name: str) -> np.ndarray:
            label = np.zeros((32, 48), np.uint8)
            label[30, 46] = 1
            return label

    views = ("target", "target.pseudo")
    for mine, least in ((0.0, 0), (1.0, 40)):
        made = streams(numbered, used=views, labels=Corner(numbered), target={"mine": mine}, scale=(1.0, 1.3))
        hits = sum(int((made[index].target.pseudo == 1).any((1, 2)).sum()) for index in range(20))
        assert hits == least if mine else hits < 40


def test_without_a_mined_class_in_the_image_the_crop_stays(numbered: PreparedSet) -> None:
    class Nothing(Stored):
        def hard(self, name: str) -> np.ndarray:
            return np.full((32, 48), IGNORE, np.uint8)

    plain, mined = (
        streams(numbered, used=("target", "target.pseudo"), labels=Nothing(numbered), target={"mine": mine})[1].target
        for mine in (0.0, 1.0)
    )
    assert torch.equal(plain.image, mined.image) and bool((mined.pseudo == IGNORE).all())


def test_crops_larger_than_the_target_image_say_where_there_is_none(numbered: PreparedSet) -> None:
    views = ("target", "target.pseudo", "target.soft")
    made = streams(numbered, used=views, labels=Stored(numbered), scale=(0.25, 0.25))  # images of 8 x 12
    target = made[0].target
    assert target.valid.sum((1, 2)).tolist() == [8 * 12] * 2
    assert bool((target.pseudo[~target.valid] == IGNORE).all())
    assert int((target.soft.sum(1) > 0).sum()) <= 2 * 2 * 3


class TestLabelledTarget:
    """Semi-supervised: some target images come with their labels, in batches of their own."""

    SETTINGS: ClassVar = {"images": 2, "finish": 3, "order": "paper"}

    @pytest.mark.parametrize(
        ("order", "expected"),
        [("paper", "TsTsTsTTT"), ("released", "TTTTTTTsT")],  # the last three: index 6, 7, 8
    )
    def test_turns(self, order, expected):
        settings = LabelledTarget(images=2, finish=3, order=order)
        turns = [turn(index, 9, settings) for index in range(9)]
        assert "".join("T" if target else "s" for target, _ in turns) == expected
        for kind in (True, False):
            assert [before for target, before in turns if target == kind] == list(range(expected.count("sT"[kind])))

    @given(total=st.integers(1, 40), finish=st.integers(0, 50), order=st.sampled_from(["paper", "released"]))
    def test_every_batch_is_counted_once_among_its_kind(self, total, finish, order):
        settings = LabelledTarget(images=1, finish=finish, order=order)
        turns = [turn(index, total, settings) for index in range(total)]
        for kind in (True, False):
            before = [count for target, count in turns if target == kind]
            assert before == list(range(len(before)))

    def test_labelled_images_are_no_unlabelled_ones_and_a_larger_number_holds_a_smaller(self):
        names = [f"image{index}" for index in range(9)]
        few, more = labelled_subset(names, 3, seed=1), labelled_subset(names, 6, seed=1)
        assert len(few) == 3 and len(more) == 6 and set(few) <= set(more) <= set(names) and few == sorted(few)
        assert labelled_subset(names, 3, seed=2) != few
        with pytest.raises(UserError, match="10 is more than the target's 9 training images"):
            labelled_subset(names, 10, seed=1)

    def test_the_batch_says_where_its_labels_are_from(self, uneven):
        made = streams(uneven, source={"labelled_target": self.SETTINGS}, total=9)
        assert [made[index].source.from_target for index in range(4)] == [True, False, True, False]
        assert not set(made.names["labelled_target"]) & set(made.names["target"])
        assert len(made.names["labelled_target"]) == 2
        plain = streams(uneven)
        assert plain[0].source.from_target is None
        # The source's batches come in the order in which they come without labelled target images.
        for index, batch in ((1, 0), (3, 1)):
            assert torch.equal(made[index].source.image, plain[batch].source.image)
            assert torch.equal(made[index].source.label, plain[batch].source.label)

    def test_some_target_images_must_be_left(self, uneven):
        count = len(streams(uneven).names["target"])
        with pytest.raises(UserError, match="none is left to adapt to"):
            streams(uneven, source={"labelled_target": self.SETTINGS | {"images": count}})
