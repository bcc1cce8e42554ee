"""A user's own folders: every encoding is read exactly, and everything wrong is named."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from udaseg.data.datasets.class_map import ClassMap
from udaseg.data.datasets.classes import CAMVID
from udaseg.data.datasets.folder import FolderData, FolderDataset, expand
from udaseg.data.sets.images import read_colours, read_ids, read_image
from udaseg.errors import UserError

CLASS_MAP = {"7": "road", "8": "sidewalk", "300": "sky", "255": "ignore"}
RAW = np.array([[7, 8, 300], [255, 7, 7]], dtype=np.uint16)
EXPECTED = np.array([[0, 1, 2], [255, 0, 0]], dtype=np.uint8)
PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def write(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def write_pair(root: Path, split: str, name: str) -> None:
    write(root / split / "images" / f"{name}.png", PIXELS)
    write(root / split / "labels" / f"{name}.png", RAW)


def spec(root: Path, **changes: Any) -> FolderData:
    plain: dict[str, Any] = {"kind": "folder", "root": str(root), "splits_present": ["train"], "class_map": CLASS_MAP}
    return FolderData(**(plain | changes))


def grey_png(path: Path, depth: int, rows: list[bytes], width: int) -> None:
    """A greyscale PNG of few bits, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))


# ---------------------------------------------------------------------------------------------------- what is read


def test_items_are_sorted_pairs_of_image_and_label(tmp_path: Path) -> None:
    for name in ("b", "a", "c.1_x-y"):
        write_pair(tmp_path, "train", name)
    dataset = spec(tmp_path).open()
    items = dataset.items("train")
    assert dataset.names == ("road", "sidewalk", "sky")
    assert [item.name for item in items] == ["a", "b", "c.1_x-y"]
    assert np.array_equal(items[0].image(), PIXELS) and items[0].image().dtype == np.uint8
    assert items[0].label is not None
    assert np.array_equal(items[0].label(), EXPECTED) and items[0].label().dtype == np.uint8


def test_eight_and_sixteen_bit_and_palette_ids_are_read_alike(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [3, 15, 255]], dtype=np.uint8)
    write(tmp_path / "8.png", ids)
    write(tmp_path / "16.png", ids.astype(np.uint16))
    palette = Image.fromarray(ids, mode="P")
    palette.putpalette(bytes(range(256)) * 3)
    palette.save(tmp_path / "palette.png")
    write(tmp_path / "8.tif", ids)
    for name in ("8.png", "16.png", "palette.png", "8.tif"):
        assert np.array_equal(read_ids(tmp_path / name), ids), name


def test_grey_of_few_bits_is_not_stretched(tmp_path: Path) -> None:
    grey_png(tmp_path / "4.png", 4, [bytes([0x01, 0x2F])], 4)
    grey_png(tmp_path / "2.png", 2, [bytes([0b00011011])], 4)
    grey_png(tmp_path / "1.png", 1, [bytes([0b10100000])], 4)
    assert read_ids(tmp_path / "4.png").tolist() == [[0, 1, 2, 15]]
    assert read_ids(tmp_path / "2.png").tolist() == [[0, 1, 2, 3]]
    assert read_ids(tmp_path / "1.png").tolist() == [[1, 0, 1, 0]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_labels(tmp_path: Path, mode: str) -> None:
    colours = np.array([[[128, 64, 128], [0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    image = Image.fromarray(colours)
    image = image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "label.png")
    class_map = ClassMap({"#804080": "road", "#000000": "ignore", "#ffFFff": "sky"}, "colour")
    assert class_map.read(tmp_path / "label.png").tolist() == [[0, 255, 1]]


def test_two_raw_ids_may_be_one_class(tmp_path: Path) -> None:
    write(tmp_path / "label.png", np.array([[1, 2, 3]], dtype=np.uint8))
    class_map = ClassMap({"1": "road", "2": "car", "3": "road"}, "id")
    assert class_map.names == ("road", "car")
    assert class_map.read(tmp_path / "label.png").tolist() == [[0, 1, 0]]


def test_grey_deep_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    write(tmp_path / "grey.png", np.array([[0, 200]], dtype=np.uint8))
    assert read_image(tmp_path / "grey.png").tolist() == [[[0] * 3, [200] * 3]]
    write(tmp_path / "deep.png", np.array([[255, 256, 65535]], dtype=np.uint16))
    assert read_image(tmp_path / "deep.png").tolist() == [[[0] * 3, [1] * 3, [255] * 3]]
    write(tmp_path / "alpha.png", np.array([[[10, 20, 30, 0], [40, 50, 60, 255]]], dtype=np.uint8))
    assert read_image(tmp_path / "alpha.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    write(tmp_path / "jpeg.jpg", np.full((8, 8), 77, dtype=np.uint8))
    assert read_image(tmp_path / "jpeg.jpg").shape == (8, 8, 3)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    write(tmp_path / "turned.png", PIXELS, exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), PIXELS)


def test_root_takes_variables_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UDASEG_TEST_ROOT", raising=False)
    assert expand("${UDASEG_TEST_ROOT:-../somewhere}/x") == Path("../somewhere/x")
    monkeypatch.setenv("UDASEG_TEST_ROOT", "/data")
    assert expand("${UDASEG_TEST_ROOT:-../somewhere}/x") == Path("/data/x")
    assert expand("${UDASEG_TEST_ROOT}/x") == Path("/data/x")
    monkeypatch.delenv("UDASEG_TEST_ROOT")
    with pytest.raises(UserError, match="UDASEG_TEST_ROOT is not set"):
        expand("${UDASEG_TEST_ROOT}/x")


def test_lists_choose_from_common_folders(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "images" / f"{name}.jpg", PIXELS)
        write(tmp_path / "labels" / f"{name}.png", RAW)
    (tmp_path / "train.txt").write_text("c\n\na\n")
    (tmp_path / "val.txt").write_text("b")
    lists = {"train": "train.txt", "val": "val.txt"}
    dataset = spec(tmp_path, images="images", labels="labels", lists=lists).open()
    assert [item.name for item in dataset.items("train")] == ["a", "c"]
    assert [item.name for item in dataset.items("val")] == ["b"]


def test_labels_are_optional(tmp_path: Path) -> None:
    write(tmp_path / "train" / "images" / "a.png", PIXELS)
    assert spec(tmp_path, labels=None).open().items("train")[0].label is None


def test_a_split_without_label_folder_is_unlabelled_if_another_has_one(tmp_path: Path) -> None:
    write(tmp_path / "train" / "images" / "a.png", PIXELS)
    write_pair(tmp_path, "val", "a")
    dataset = spec(tmp_path, splits_present=["train", "val"]).open()
    assert dataset.items("train")[0].label is None
    assert dataset.items("val")[0].label is not None


def test_one_label_folder_for_all_splits(tmp_path: Path) -> None:
    write(tmp_path / "train" / "images" / "a.png", PIXELS)
    for name in ("a", "of_another_split"):
        write(tmp_path / "labels" / f"{name}.png", RAW)
    assert [item.name for item in spec(tmp_path, labels="labels").open().items("train")] == ["a"]


# --------------------------------------------------------------------------------------------------- what is refused


def refused(dataset: FolderDataset, *parts: str, split: str = "train") -> None:
    """Asking for the split is refused with a message that has all the parts."""
    with pytest.raises(UserError) as error:
        dataset.items(split)
    for part in parts:
        assert part in str(error.value)


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        spec(tmp_path / "nowhere").open()


def test_missing_image_folder(tmp_path: Path) -> None:
    write(tmp_path / "train" / "labels" / "a.png", RAW)
    refused(spec(tmp_path).open(), "images: there is no folder", "train/images", "{split}/images")


def test_missing_label_folder(tmp_path: Path) -> None:
    write(tmp_path / "train" / "images" / "a.png", PIXELS)
    refused(spec(tmp_path).open(), "labels: there is no folder", "train/labels", "labels: null")


def test_empty_image_folder(tmp_path: Path) -> None:
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "train" / "images" / "notes.txt").write_text("no image")
    refused(spec(tmp_path, labels=None).open(), "no images in", "train/images", ".png")


def test_unknown_split(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", "a")
    refused(spec(tmp_path).open(), "no split 'test'", "train", split="test")


def test_missing_partners_are_named_when_decoded(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", "whole")
    write(tmp_path / "train" / "images" / "no_label.png", PIXELS)
    write(tmp_path / "train" / "labels" / "no_image.png", RAW)
    items = {item.name: item for item in spec(tmp_path).open().items("train")}
    with pytest.raises(UserError, match=r"image .*train/images/no_image\.\*: missing"):
        items["no_image"].image()
    label = items["no_label"].label
    assert label is not None
    with pytest.raises(UserError, match=r"label map .*train/labels/no_label\.\*: missing"):
        label()


def test_names_that_never_match_are_told_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "train" / "images" / f"{name}.png", PIXELS)
        write(tmp_path / "train" / "labels" / f"{name}_label.png", RAW)
    refused(spec(tmp_path).open(), "no image has a label map of the same stem", "a.png", "a_label.png")


def test_a_listed_image_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", PIXELS)
    (tmp_path / "train.txt").write_text("a\ngone\n")
    dataset = spec(tmp_path, images="images", labels=None, lists={"train": "train.txt"}).open()
    with pytest.raises(UserError, match=r"images/gone\.\*: missing"):
        dataset.items("train")[1].image()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("a\nb\na\n", "names a more than once"), ("\n", "no images in")]
)
def test_bad_list_file(tmp_path: Path, content: str | None, message: str) -> None:
    write(tmp_path / "images" / "a.png", PIXELS)
    if content is not None:
        (tmp_path / "train.txt").write_text(content)
    refused(spec(tmp_path, images="images", labels=None, lists={"train": "train.txt"}).open(), "train.txt", message)


def test_two_images_of_one_stem(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", "a")
    write(tmp_path / "train" / "images" / "a.jpg", PIXELS)
    refused(spec(tmp_path).open(), "a.jpg", "a.png", "same stem")


def test_names_with_other_characters(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", "image (1)")
    refused(spec(tmp_path).open(), "image (1)", "rename")


def test_images_of_all_splits_in_one_folder_need_lists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give lists"):
        spec(tmp_path, images="images").open()


@pytest.mark.parametrize("reader", [read_image, read_ids, read_colours])
def test_truncated_file(tmp_path: Path, reader: object) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    path = tmp_path / "cut.png"
    write(path, noise)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"cut\.png: cannot be read \(.*truncated.*replace it"):
        reader(path)  # type: ignore[operator]


def test_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match=r"text\.png: cannot be read"):
        read_image(tmp_path / "text.png")


def test_ids_that_the_map_does_not_have(tmp_path: Path) -> None:
    write(tmp_path / "label.png", np.array([[7, 34, 34], [9, 255, 40000]], dtype=np.uint16))
    with pytest.raises(UserError) as error:
        ClassMap(CLASS_MAP, "id").read(tmp_path / "label.png")
    for part in ("label.png", "9 (1 pixels)", "34 (2 pixels)", "40000 (1 pixels)", "ignore"):
        assert part in str(error.value)


def test_ids_beyond_sixteen_bits_are_unknown(tmp_path: Path) -> None:
    write(tmp_path / "label.tif", np.array([[0, 70_000, -1]], dtype=np.int32))
    with pytest.raises(UserError, match=r"id -1 \(1 pixels\), 70000 \(1 pixels\) not in class_map"):
        ClassMap({"0": "road"}, "id").read(tmp_path / "label.tif")


def test_colours_that_the_map_does_not_have(tmp_path: Path) -> None:
    write(tmp_path / "label.png", np.array([[[128, 64, 128], [1, 2, 3], [255, 255, 255]]], dtype=np.uint8))
    with pytest.raises(UserError, match=r"label\.png: colour #010203 \(1 pixels\), #ffffff \(1 pixels\) not in"):
        ClassMap({"#804080": "road"}, "colour").read(tmp_path / "label.png")


def test_the_other_encoding_is_hinted_at(tmp_path: Path) -> None:
    write(tmp_path / "colour.png", PIXELS)
    write(tmp_path / "deep.png", RAW)
    with pytest.raises(UserError, match="set encoding: colour"):
        read_ids(tmp_path / "colour.png")
    with pytest.raises(UserError, match="set encoding: id"):
        read_colours(tmp_path / "deep.png")


@pytest.mark.parametrize(
    ("entries", "encoding", "message"),
    [
        ({"#804080": "road"}, "id", "'#804080' is not an id"),
        ({"70000": "road"}, "id", "'70000' is not an id"),
        ({"7": "road"}, "colour", "'7' is not a colour"),
        ({"7": "road", "07": "car"}, "id", "'07' is the same id or colour as an earlier"),
        ({"7": "ignore"}, "id", "names 0 classes"),
        ({str(i): f"c{i}" for i in range(255)}, "id", "names 255 classes, expected 1 to 254"),
    ],
)
def test_bad_class_map(entries: dict[str, str], encoding: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassMap(entries, encoding)


# --------------------------------------------------------------------------------------------------------- real data

SHARED = Path(os.environ.get("UDASEG_SHARED", Path(__file__).parents[3] / "../shared/data"))


@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no real images at {SHARED}; set UDASEG_SHARED to a folder with carla/ and camvid/"
)
@pytest.mark.parametrize(("name", "count", "common"), [("carla", 72, "road"), ("camvid", 101, "road")])
def test_real_images(name: str, count: int, common: str) -> None:
    class_map = {str(index): entry for index, entry in enumerate(CAMVID)} | {"255": "ignore"}
    dataset = spec(SHARED / name, splits_present=["val"], class_map=class_map).open()
    items = dataset.items("val")
    assert len(items) == count and dataset.names == tuple(CAMVID)
    pixels = np.zeros(256, dtype=np.int64)
    for item in items[::8]:
        assert item.image().shape == (360, 480, 3) and item.label is not None
        label = item.label()
        assert label.shape == (360, 480)
        pixels += np.bincount(label.ravel(), minlength=256)
    assert pixels[: len(CAMVID)].argmax() == list(CAMVID).index(common)
