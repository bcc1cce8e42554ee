from functools import cache

import numpy as np
import pytest

from udaseg.data.datasets.objects import NAMES, Objects, ObjectsData, render
from udaseg.errors import UserError

SIZE = (96, 128)


@cache
def sample() -> list[tuple[np.ndarray, np.ndarray]]:
    return [render(5, "train", index, SIZE) for index in range(150)]


def test_bytes_are_the_same_in_every_call():
    first, second = (render(5, "train", 7, SIZE) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes() and first[1].tobytes() == second[1].tobytes()


@pytest.mark.parametrize("size", [(64, 64), (96, 192), (200, 120)])
def test_size_and_types(size):
    image, label = render(5, "val", 0, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert label.shape == size and label.dtype == np.uint8 and label.max() < len(NAMES)


def test_every_shape_occurs_about_equally_often():
    labels = np.stack([label for _, label in sample()])
    share = np.bincount(labels.ravel(), minlength=len(NAMES)) / labels.size
    assert 0.5 < share[0] < 0.9
    assert (share[1:] > 0.004).all() and (share[1:] < 0.1).all()


def test_colour_does_not_tell_the_shape():
    """Mean colours of the classes are alike: what a shape is made of is drawn apart from what it is."""
    images = np.concatenate([image.reshape(-1, 3) for image, _ in sample()]).astype(float)
    labels = np.concatenate([label.ravel() for _, label in sample()])
    means = np.stack([images[labels == k].mean(axis=0) for k in range(len(NAMES))])
    assert np.ptp(means, axis=0).max() < 60


def test_splits_indices_and_worlds_differ():
    reference = render(5, "train", 0, SIZE)[0]
    for world, split, index in ((5, "train", 1), (5, "val", 0), (6, "train", 0)):
        assert not np.array_equal(reference, render(world, split, index, SIZE)[0])


def test_dataset_and_unknown_split():
    spec = ObjectsData(kind="objects", world=5, size=SIZE, counts={"train": 2, "val": 1})
    dataset = spec.open()
    assert isinstance(dataset, Objects) and dataset.names == NAMES
    assert dataset.splits == spec.splits() == ["train", "val"] and spec.has_labels()
    items = dataset.items("train")
    assert len({item.name for item in items}) == 2
    assert np.array_equal(items[1].image(), render(5, "train", 1, SIZE)[0])
    with pytest.raises(UserError, match=r"'test'.*train, val"):
        dataset.items("test")
