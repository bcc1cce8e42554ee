from functools import cache

import numpy as np
import pytest

from udaseg.data.datasets.classes import CITYSCAPES
from udaseg.data.datasets.toytown import NAMES, Toytown, ToytownData, render
from udaseg.data.datasets.toytown.look import SOURCE, TARGET, look_of
from udaseg.errors import UserError

SIZE = (96, 192)
DOMAINS = ("source", "target")


@cache
def sample(domain: str) -> list[tuple[np.ndarray, np.ndarray]]:
    return [render(domain, 100, "train", index, SIZE) for index in range(80)]


def test_names_are_cityscapes_names_in_its_order():
    assert list(NAMES) == [name for name in CITYSCAPES if name in NAMES]
    assert len(NAMES) >= 12


@pytest.mark.parametrize("domain", DOMAINS)
def test_bytes_are_the_same_in_every_call(domain):
    first, second = (render(domain, 3, "val", 5, SIZE) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(64, 128), (128, 128), (192, 384)])
def test_size_and_types(domain, size):
    image, label = render(domain, 3, "train", 0, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert label.shape == size and label.dtype == np.uint8
    assert label.max() < len(NAMES)


def test_size_changes_the_resolution_and_not_the_scene():
    small, large = (render("source", 3, "train", 1, size)[1] for size in ((96, 192), (192, 384)))
    assert (small == large[1::2, 1::2]).mean() > 0.95


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_indices_worlds_and_domains_differ(domain):
    reference = render(domain, 3, "train", 0, SIZE)[0]
    for world, split, index in ((3, "train", 1), (3, "val", 0), (3, "test", 0), (4, "train", 0)):
        assert not np.array_equal(reference, render(domain, world, split, index, SIZE)[0])
    other = "target" if domain == "source" else "source"
    assert not np.array_equal(reference, render(other, 3, "train", 0, SIZE)[0])


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_class_occurs_and_the_thin_ones_are_rare(domain):
    labels = np.stack([label for _, label in sample(domain)])
    share = dict(zip(NAMES, np.bincount(labels.ravel(), minlength=len(NAMES)) / labels.size, strict=True))
    for name in ("road", "building", "sky", "vegetation", "car"):
        assert 0.03 < share[name] < 0.5, (name, share[name])
    thin = ("wall", "fence", "pole", "traffic_light", "traffic_sign", "terrain", "person", "rider", "bus", "bicycle")
    for name in thin:
        assert 0.0008 < share[name] < 0.03, (name, share[name])
    assert 0.02 < share["sidewalk"] < 0.15


@pytest.mark.parametrize("domain", DOMAINS)
def test_small_things_are_large_enough_to_be_seen(domain):
    """At 96 × 192 a thin class that occurs at all is usually more than a few pixels."""
    labels = np.stack([label for _, label in sample(domain)])
    for name in ("pole", "traffic_sign", "traffic_light", "person", "bicycle"):
        counts = (labels == NAMES.index(name)).sum(axis=(1, 2))
        assert np.median(counts[counts > 0]) >= 20, name


def test_labels_lie_on_what_the_source_shows():
    """The sky is blue or white and vegetation green where the label says so, up to the pixels on an outline."""
    for image, label in sample("source")[:20]:
        red, blue = image[..., 0].astype(int), image[..., 2].astype(int)
        sky = label == NAMES.index("sky")
        assert ((blue >= red) & (blue > 150))[sky].mean() > 0.9
    pictures = np.stack([image for image, _ in sample("source")]).astype(int)
    labels = np.stack([label for _, label in sample("source")])
    leaves = pictures[labels == NAMES.index("vegetation")]
    assert (leaves[:, 1] > leaves[:, 2]).mean() > 0.9


def test_edges_of_label_and_image_coincide():
    """Shifting the label by a pixel in any direction makes the classes' colours less uniform."""

    def spread(shift: tuple[int, int]) -> float:
        total = 0.0
        for image, label in sample("source")[:10]:
            inner = image[4:-4, 4:-4].astype(float)
            moved = np.roll(label, shift, axis=(0, 1))[4:-4, 4:-4]
            sky = moved == NAMES.index("sky")
            total += inner[sky].std(axis=0).sum() if sky.any() else 0.0
        return total

    still = spread((0, 0))
    assert all(spread(shift) > still for shift in ((2, 0), (-2, 0), (0, 2), (0, -2)))


def test_domains_look_different_but_not_their_classes():
    """Photometric gap: the target is greyer, darker and grainier; the class mixture stays of the same kind."""
    source, target = (np.stack([image for image, _ in sample(domain)]).astype(float) for domain in DOMAINS)

    def colourfulness(pictures: np.ndarray) -> float:
        return float((pictures.max(axis=-1) - pictures.min(axis=-1)).mean())

    assert colourfulness(source) > 1.5 * colourfulness(target)
    assert source.mean() > target.mean()
    road = NAMES.index("road")

    def grain(domain: str) -> float:
        steps = []
        for image, label in sample(domain)[:20]:
            inside = (label[:, 1:] == road) & (label[:, :-1] == road)
            steps.append(np.median(np.abs(np.diff(image[..., 1].astype(float), axis=1))[inside]))
        return float(np.mean(steps))

    assert grain("target") > 2 * grain("source")


def test_worlds_vary_palette_and_rates_but_no_number_of_the_gap():
    for domain, look in (("source", SOURCE), ("target", TARGET)):
        first, second = look_of(domain, 1), look_of(domain, 2)
        assert first.palette != second.palette and first.people != second.people
        assert set(first.palette) == set(look.palette)
        for name in ("texture", "noise", "blur", "haze", "exposure", "warmth", "camera_height", "horizon"):
            assert getattr(first, name) == getattr(second, name) == getattr(look, name)


def test_dataset_lists_items_and_decodes_them():
    spec = ToytownData(kind="toytown", domain="target", world=3, size=SIZE, counts={"train": 3, "val": 2})
    dataset = spec.open()
    items = dataset.items("train")
    assert isinstance(dataset, Toytown) and dataset.names == NAMES
    assert dataset.splits == spec.splits() == ["train", "val"] and spec.has_labels()
    assert [item.name for item in items] == sorted({item.name for item in items}) and len(items) == 3
    image, label = render("target", 3, "train", 2, SIZE)
    assert np.array_equal(items[2].image(), image)
    assert items[2].label is not None and np.array_equal(items[2].label(), label)


def test_unknown_split_is_a_user_error_that_lists_the_splits():
    dataset = Toytown("source", 3, SIZE, {"train": 1, "val": 1})
    with pytest.raises(UserError, match=r"'test'.*train, val"):
        dataset.items("test")
