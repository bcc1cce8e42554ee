"""What a batch holds is a function of (seed, index) alone."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from udaseg.config import View
from udaseg.data.base import Item
from udaseg.data.classes import IGNORE
from udaseg.data.prepare import prepare
from udaseg.data.prepared import PreparedSet
from udaseg.data.streams import Batch, Streams, batches

COUNT = 6
CLASSES = ["low", "high"]


class Numbered:
    """Images whose red channel is their number and whose label is 1 where green is bright."""

    names = tuple(CLASSES)

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


def view(**changes: Any) -> View:
    plain = {"batch": 2, "crop": (16, 16), "scale": (1.0, 1.0), "flip": 0.5, "jitter": 0.0, "blur": 0.0}
    return View.model_validate(plain | changes)


def streams(
    prepared: PreparedSet, seed: int = 0, used: Sequence[str] = ("source", "target"), **changes: Any
) -> Streams:
    views = {"source": view(**changes), "target": view(**changes)}
    return Streams(dict.fromkeys(used, prepared), views, seed)


def content(batch: Batch) -> list[torch.Tensor]:
    return [batch.source.image, batch.source.label, batch.target.image]


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
    loaded = list(batches(made, 3, 9, workers))
    assert len(loaded) == 6 and all(same(batch, made[index]) for index, batch in enumerate(loaded, 3))


def test_loading_leaves_the_global_generator_alone(numbered: PreparedSet) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(batches(streams(numbered, jitter=0.3), 0, 3, 0))
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
    assert not hasattr(made[0].target, "label")

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
