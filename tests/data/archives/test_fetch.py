"""Fetching an archive as a whole, tried with a small one from a loopback server."""

import csv
from pathlib import Path

import pytest
from support.loopback import Site, listed, names, serving, zipped

from udaseg.data.archives.archive import Archive
from udaseg.data.archives.fetch import fetch
from udaseg.errors import UserError

NAME, FOLDER, PREFIX = "set-1.zip", "set-1", "repository-1/"
CONTENT = {f"set/{index}.txt": f"content {index} ".encode() * 300 for index in range(6)}
LEFT = [".set-1.lock"]  # what a failed attempt may leave in the downloads


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def packed(content: dict[str, bytes]) -> bytes:
    members = {f"{PREFIX}{path}": data for path, data in content.items()}
    return zipped(members | {f"{PREFIX}README.md": b"not of the set"})


def fetched(site: Site, folder: Path, content: dict[str, bytes], mirror: Path | None = None) -> Path:
    listing = folder / "files.csv"
    with listing.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "bytes", "sha256"), *((p, *rest) for p, rest in listed(content).items())])
    archive = Archive(address=f"{site.address}/{NAME}", name=NAME, folder=FOLDER, prefix=PREFIX, listing=listing)
    return fetch(archive, mirror, folder / "downloads")


def test_download_interrupted_resumed_and_verified(tmp_path: Path) -> None:
    content = dict(CONTENT)
    with serving() as site:
        site.files[f"/{NAME}"], site.cuts = packed(content), [500]
        folder = fetched(site, tmp_path, content)
        assert site.asked == [None, "bytes=500-"]
        assert folder == tmp_path / "downloads" / FOLDER
        assert fetched(site, tmp_path, content) == folder and len(site.asked) == 2  # no second download
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == set(content)


def test_the_mirror_needs_no_network(tmp_path: Path) -> None:
    content, mirror = dict(CONTENT), tmp_path / "mirror"
    mirror.mkdir()
    (mirror / NAME).write_bytes(packed(content))
    with serving() as site:
        folder = fetched(site, tmp_path, content, mirror)
        assert site.asked == [] and (folder / "set" / "1.txt").is_file()


def test_wrong_content_is_refused_and_the_download_deleted(tmp_path: Path) -> None:
    content = dict(CONTENT)
    with serving() as site:
        site.files["/set-1.zip"] = packed(content | {"set/1.txt": b"x" * 100})
        wanted = content | {"set/1.txt": b"y" * 100}
        with pytest.raises(UserError, match=r"1 of the 6 expected files(?s:.*)set/1.txt: wrong checksum"):
            fetched(site, tmp_path, wanted)
        assert names(tmp_path / "downloads") == LEFT
        site.files["/set-1.zip"] = packed(wanted)
        fetched(site, tmp_path, wanted)  # the next attempt downloads again


def test_a_wrong_mirror_is_refused_and_left_alone(tmp_path: Path) -> None:
    content, mirror = dict(CONTENT), tmp_path / "mirror"
    mirror.mkdir()
    (mirror / NAME).write_bytes(packed({}))
    with serving() as site, pytest.raises(UserError, match=r"mirror(?s:.*)6 of the 6 expected files(?s:.*)and 1 more"):
        fetched(site, tmp_path, content, mirror)
    assert names(mirror) == [NAME] and names(tmp_path / "downloads") == LEFT


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    content = dict(CONTENT)
    with serving() as site:
        site.files["/set-1.zip"] = packed(content)[:-500]
        with pytest.raises(UserError, match=r"damaged or truncated(?s:.*)has been deleted"):
            fetched(site, tmp_path, content)
    assert names(tmp_path / "downloads") == LEFT


def test_an_archive_that_escapes_is_refused(tmp_path: Path) -> None:
    content = dict(CONTENT)
    with serving() as site:
        site.files["/set-1.zip"] = packed(content | {"../../../escaped.txt": b"x"})
        with pytest.raises(UserError, match=r"escaped\.txt' leads out of the folder"):
            fetched(site, tmp_path, content)
    assert names(tmp_path / "downloads") == LEFT and not list(tmp_path.rglob("escaped.txt"))


def test_missing_archive(tmp_path: Path) -> None:
    with serving() as site, pytest.raises(UserError, match=f"answers 404(?s:.*){NAME}"):
        fetched(site, tmp_path, dict(CONTENT))
    assert names(tmp_path / "downloads") == LEFT
