"""Preparing: what is written is exact and the same everywhere; what is wrong is reported at once, leaving nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from udaseg.data.datasets.base import Item, require_split
from udaseg.data.datasets.folder import FolderData
from udaseg.data.sets.prepare import prepare
from udaseg.data.sets.read import PreparedSet
from udaseg.errors import UserError

CLASSES = ("road", "car", "sky", "train")  # the study's; the data set below has no train
SPLITS = {"counts": {"train": 2, "val": 1}}
Change = Callable[[str, str, np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray | None]]


class Made:
    """A small data set made of arrays: 8 x 12 pixels, a grassy strip (not a class of the study) on a road."""

    names = ("sky", "road", "grass", "car")
    splits = ("train", "val")

    def __init__(self, change: Change = lambda split, name, image, label: (image, label)) -> None:
        self.change = change

    def items(self, split: str) -> list[Item]:
        require_split(split, self.splits, "made")
        return [self._item(split, name) for name in (("a", "b") if split == "train" else ("c",))]

    def _item(self, split: str, name: str) -> Item:
        image = np.random.default_rng(ord(name)).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        label = np.full((8, 12), 1, dtype=np.uint8)  # road
        label[:4] = 0  # sky
        label[6] = 2  # grass
        label[0, 0] = 255
        label[7, 7] = 3  # one pixel of car: lost at half the size
        image, changed = self.change(split, name, image, label)
        return Item(name, lambda: image, None if changed is None else lambda: changed)


def made(folder: Path, size: tuple[int, int] | None = (4, 6), change: Change | None = None) -> PreparedSet:
    dataset = Made(change) if change else Made()
    prepare("made", dataset, SPLITS, CLASSES, size, folder / "made-1")
    return PreparedSet(folder / "made-1")


def refused(folder: Path, *parts: str, **options: Any) -> None:
    """Preparing is refused with a message that has all the parts, and leaves nothing."""
    with pytest.raises(UserError) as error:
        made(folder, **options)
    for part in parts:
        assert part in str(error.value)
    assert list(folder.iterdir()) == []


# -------------------------------------------------------------------------------------------------- what is written


def test_images_and_labels_are_resized_once_and_train_ids_are_the_studys(tmp_path: Path) -> None:
    prepared = made(tmp_path)
    assert (prepared.name, prepared.classes, prepared.size) == ("made", CLASSES, (4, 6))
    assert prepared.splits == ("train", "val")
    assert prepared.names("train") == ["a", "b"] and prepared.names("val") == ["c"]
    item = Made().items("train")[0]
    bicubic = Image.fromarray(item.image()).resize((6, 4), Image.Resampling.BICUBIC)
    assert np.array_equal(prepared.image("train", "a"), np.asarray(bicubic))
    label = prepared.label("train", "a")
    assert label.shape == (4, 6) and label.dtype == np.uint8
    # Rows 1, 3, 5 and 7 of the native label are the nearest: sky, sky, road, road; the grassy row 6 is left out.
    assert label.tolist() == [[2] * 6, [2] * 6, [0] * 6, [0, 0, 0, 1, 0, 0]]


def test_evaluation_labels_stay_native(tmp_path: Path) -> None:
    native = made(tmp_path).native_label("val", "c")
    expected = np.full((8, 12), 0, dtype=np.uint8)
    expected[:4] = 2
    expected[6] = 255  # grass is no class of the study
    expected[0, 0] = 255
    expected[7, 7] = 1
    assert np.array_equal(native, expected) and native.dtype == np.uint8
    assert not (tmp_path / "made-1" / "train" / "native").exists()


def test_without_a_size_everything_stays_native(tmp_path: Path) -> None:
    prepared = made(tmp_path, size=None)
    assert prepared.size == (8, 12)
    assert np.array_equal(prepared.image("train", "a"), Made().items("train")[0].image())
    assert np.array_equal(prepared.label("val", "c"), prepared.native_label("val", "c"))


def test_set_json_describes_the_set(tmp_path: Path) -> None:
    made(tmp_path)
    content = json.loads((tmp_path / "made-1" / "set.json").read_text())
    assert content["spec"] == SPLITS and content["only_here"] == ["grass"]
    assert content["splits"]["val"] == [{"name": "c", "labelled": True, "native": [8, 12]}]


def test_statistics_count_pixels_and_what_resizing_loses(tmp_path: Path) -> None:
    def without_the_nearest_row(
        split: str, name: str, image: np.ndarray, label: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        assert label is not None
        if name == "a":
            label[7, 7], label[7, 6] = 1, 3  # column 6 is not a nearest one: the car vanishes
        return image, label

    statistics = made(tmp_path, change=without_the_nearest_row).statistics()
    train = statistics["splits"]["train"]
    assert statistics["classes"] == list(CLASSES)
    assert train["pixels"] == {"a": [12, 0, 12, 0], "b": [11, 1, 12, 0]}
    assert train["ignored"] == {"a": 0, "b": 0}
    assert train["totals"] == {"road": 23, "car": 1, "sky": 24, "train": 0}
    assert train["vanished"] == {"car": 1}
    assert train["only_here"] == {"grass": 24}


def test_the_fingerprint_depends_on_content_only(tmp_path: Path) -> None:
    first = made(tmp_path / "here")
    second = made(tmp_path / "elsewhere")
    assert first.fingerprint == second.fingerprint and len(first.fingerprint) == 64
    files = [path.relative_to(first.folder) for path in sorted(first.folder.rglob("*")) if path.is_file()]
    for path in files:
        assert (first.folder / path).read_bytes() == (second.folder / path).read_bytes(), path

    def one_pixel(
        split: str, name: str, image: np.ndarray, label: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if name == "c" and label is not None:
            label[0, 1] = 3  # read in evaluation only
        return image, label

    assert made(tmp_path / "changed", change=one_pixel).fingerprint != first.fingerprint


def test_the_contact_sheet_shows_every_split(tmp_path: Path) -> None:
    sheet = np.asarray(Image.open(made(tmp_path).folder / "contact.png"))
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert sheet.shape[1] > 1000 and {(128, 64, 128), (70, 130, 180), (0, 0, 0), (255, 255, 255)} <= colours


def test_an_earlier_set_is_replaced(tmp_path: Path) -> None:
    stale = tmp_path / "made-1" / "train" / "images" / "stale.png"
    stale.parent.mkdir(parents=True)
    stale.write_text("stale")
    (tmp_path / ".made-1.part" / "train").mkdir(parents=True)  # of an attempt that was killed
    made(tmp_path)
    assert not stale.exists() and [path.name for path in tmp_path.iterdir()] == ["made-1"]


def test_splits_come_in_the_order_train_val_test(tmp_path: Path) -> None:
    class Three(Made):
        splits = ("test", "val", "train")

        def items(self, split: str) -> list[Item]:
            return super().items("val")

    prepare("three", Three(), {"kind": "camvid"}, CLASSES, (4, 6), tmp_path / "three")
    assert PreparedSet(tmp_path / "three").splits == ("train", "val", "test")


# --------------------------------------------------------------------------------------------------- what is refused


def test_unlabelled_splits_can_be_trained_on_but_not_scored(tmp_path: Path) -> None:
    prepared = made(tmp_path, change=lambda split, name, image, label: (image, None if split == "val" else label))
    assert prepared.labelled("train") and not prepared.labelled("val")
    assert prepared.image("val", "c").shape == (4, 6, 3)
    for read in (prepared.label, prepared.native_label):
        with pytest.raises(UserError, match="split val of set made has no labels: 'c'"):
            read("val", "c")


def test_the_reader_names_what_there_is(tmp_path: Path) -> None:
    prepared = made(tmp_path)
    with pytest.raises(UserError, match="set made has no split test; it has train, val"):
        prepared.names("test")
    with pytest.raises(UserError, match="split val of set made has no image 'a'"):
        prepared.image("val", "a")
    with pytest.raises(UserError, match="split train of set made is not for evaluation"):
        prepared.native_label("train", "a")
    with pytest.raises(UserError, match="not a prepared data set"):
        PreparedSet(tmp_path)


def test_size_mismatch_of_image_and_label(tmp_path: Path) -> None:
    refused(
        tmp_path,
        "data set made: 1 problems",
        "train: 'b': the image is 8 x 12, its label map 7 x 12",
        change=lambda split, name, image, label: (image, label if name != "b" or label is None else label[1:]),
    )


def test_native_images_of_two_sizes(tmp_path: Path) -> None:
    def smaller(
        split: str, name: str, image: np.ndarray, label: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        return (image[1:], None if label is None else label[1:]) if name == "b" else (image, label)

    refused(tmp_path, "'b' is 7 x 12", "8 x 12", "give a size", size=None, change=smaller)
    assert made(tmp_path, change=smaller).size == (4, 6)


def test_no_class_in_common(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of its classes \(sky, road, grass, car\) is one of the study's"):
        prepare("made", Made(), SPLITS, ["boat"], (4, 6), tmp_path / "made-1")
    assert list(tmp_path.iterdir()) == []


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    class Less(Made):
        splits = ("train", "test")

        def items(self, split: str) -> list[Item]:
            require_split(split, ["train"], "made")
            return super().items(split)

    with pytest.raises(UserError, match="made has no split 'test'"):
        prepare("made", Less(), SPLITS, CLASSES, (4, 6), tmp_path / "made-1")
    assert list(tmp_path.iterdir()) == []


def test_every_problem_of_a_folder_is_in_one_message(tmp_path: Path) -> None:
    root = tmp_path / "root"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for split, names in {"train": "abcdefg", "val": "h"}.items():
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.fromarray(noise).save(root / split / "images" / f"{name}.png")
            label = np.full((39 if name == "d" else 40, 40), 42 if name == "c" else 7, dtype=np.uint8)
            Image.fromarray(label).save(root / split / "labels" / f"{name}.png")
    cut = root / "train" / "images" / "b.png"
    cut.write_bytes(cut.read_bytes()[:-500])
    (root / "train" / "labels" / "e.png").unlink()
    (root / "train" / "images" / "f.png").unlink()
    (root / "val" / "labels" / "h.png").write_text("no image")
    spec = FolderData(kind="folder", root=str(root), splits_present=["train", "val", "test"], class_map={"7": "road"})
    with pytest.raises(UserError) as error:
        prepare("mine", spec.open(), spec.model_dump(mode="json"), CLASSES, (4, 6), tmp_path / "sets" / "mine-1")
    message = str(error.value)
    for part in (
        "data set mine: 7 problems; nothing was written",
        "train/images/b.png: cannot be read",
        "train/labels/c.png: id 42 (1600 pixels) not in class_map",
        "'d': the image is 40 x 40, its label map 39 x 40",
        "train/labels/e.*: missing",
        "train/images/f.*: missing",
        "val/labels/h.png: cannot be read",
        "no folder " + str(root / "test" / "images"),
    ):
        assert part in message
    assert list((tmp_path / "sets").iterdir()) == []


def test_nothing_is_left_when_interrupted(tmp_path: Path) -> None:
    class Interrupted(Made):
        def items(self, split: str) -> list[Item]:
            if split == "val":
                raise KeyboardInterrupt
            return super().items(split)

    with pytest.raises(KeyboardInterrupt):
        prepare("made", Interrupted(), SPLITS, CLASSES, (4, 6), tmp_path / "made-1")
    assert list(tmp_path.iterdir()) == []


def flipped(path: Path) -> None:
    """Another picture of the same kind: one bit of one pixel differs."""
    with Image.open(path) as picture:
        pixels = np.array(picture)
    pixels.flat[-1] ^= 1
    Image.fromarray(pixels).save(path)


FILES = ["train/images/a.png", "train/labels/a.png", "val/images/c.png", "val/labels/c.png", "val/native/c.png"]


def read_all(prepared: PreparedSet) -> None:
    for split in prepared.splits:
        for name in prepared.names(split):
            prepared.image(split, name)
            prepared.label(split, name)
        if split == "val":
            prepared.native_label(split, "c")


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("damage", [flipped, Path.unlink])
def test_a_file_that_changed_is_named_when_it_is_read(
    path: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    prepared = made(tmp_path)
    read_all(prepared)
    prepared.verify()
    damage(prepared.folder / path)
    what = "there is no such file" if damage is Path.unlink else "changed after the set was prepared"
    again = re.escape(f"or remove the folder {prepared.folder} and run the same command again")
    for reading in (read_all, PreparedSet.verify):
        with pytest.raises(UserError, match=rf"{path}: {what}[\s\S]*Restore the files, {again}"):
            reading(PreparedSet(prepared.folder))


def test_equal_pixels_in_another_file_are_the_same(tmp_path: Path) -> None:
    prepared = made(tmp_path)
    path = prepared.folder / "train/images/a.png"
    before = path.read_bytes()
    Image.fromarray(prepared.image("train", "a")).save(path, compress_level=9, optimize=True)
    assert path.read_bytes() != before
    PreparedSet(prepared.folder).verify()


def test_verifying_names_every_file(tmp_path: Path) -> None:
    prepared = made(tmp_path)
    for path in FILES[:2]:
        flipped(prepared.folder / path)
    (prepared.folder / FILES[2]).unlink()
    with (prepared.folder / "statistics.json").open("a") as file:
        file.write(" ")
    with pytest.raises(UserError, match="set made: 4 files are not as prepared") as told:
        prepared.verify()
    assert all(f"{prepared.folder}/{path}: " in str(told.value) for path in [*FILES[:3], "statistics.json"])
    with pytest.raises(UserError, match=r"statistics\.json: changed after the set was prepared"):
        PreparedSet(prepared.folder).statistics()
    (prepared.folder / "statistics.json").unlink()
    with pytest.raises(UserError, match=r"statistics\.json: No such file"):
        PreparedSet(prepared.folder).statistics()


@pytest.mark.parametrize("change", ["digest", "file", "split", "classes"])
def test_digests_and_description_belong_together(change: str, tmp_path: Path) -> None:
    prepared = made(tmp_path)
    described, digests = (json.loads((prepared.folder / name).read_text()) for name in ("set.json", "digests.json"))
    if change == "digest":
        digests[FILES[0]] = "0" * 64
    elif change == "file":
        del digests[FILES[0]]
    elif change == "split":
        described["splits"]["train"].pop()
    else:
        described["classes"].reverse()
    (prepared.folder / "set.json").write_text(json.dumps(described))
    (prepared.folder / "digests.json").write_text(json.dumps(digests))
    for reading in (read_all, PreparedSet.verify):
        with pytest.raises(UserError, match=r"digests\.json and set\.json do not match"):
            reading(PreparedSet(prepared.folder))
