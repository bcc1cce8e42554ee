"""Downloads from a loopback server that misbehaves."""

from pathlib import Path

import numpy as np
import pytest
from support.loopback import names, serving

from udaseg.data.archives.download import download
from udaseg.errors import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_download_appears_under_its_name_only_when_whole(tmp_path: Path) -> None:
    with serving() as site:
        site.files["/data.zip"] = CONTENT
        target = tmp_path / "new" / "data.zip"
        assert download(f"{site.address}/data.zip", target, None) == target
        assert (tmp_path / "new" / "data.zip").read_bytes() == CONTENT and names(tmp_path / "new") == ["data.zip"]
        download(f"{site.address}/data.zip", tmp_path / "new" / "data.zip", None)
        assert site.asked == [None]  # the second call found it


def test_interrupted_download_is_resumed_in_the_same_call(tmp_path: Path) -> None:
    with serving() as site:
        site.files["/data.zip"], site.cuts = CONTENT, [100_000, 50_000]
        download(f"{site.address}/data.zip", tmp_path / "data.zip", None, pause=0)
        assert (tmp_path / "data.zip").read_bytes() == CONTENT
        assert site.asked == [None, "bytes=100000-", "bytes=150000-"]
        assert names(tmp_path) == ["data.zip"]


def test_interrupted_download_is_resumed_by_a_later_call(tmp_path: Path) -> None:
    with serving() as site:
        site.files["/data.zip"], site.cuts = CONTENT, [100_000]
        with pytest.raises(UserError) as error:
            download(f"{site.address}/data.zip", tmp_path / "data.zip", None, attempts=1)
        for part in (
            "data.zip",
            "ended after 100000 of 300000 bytes",
            "the 100000 bytes received so far are kept",
            "again",
        ):
            assert part in str(error.value)
        assert names(tmp_path) == ["data.zip.part"]
        download(f"{site.address}/data.zip", tmp_path / "data.zip", None, attempts=1)
        assert (tmp_path / "data.zip").read_bytes() == CONTENT and site.asked == [None, "bytes=100000-"]


def test_starts_over_when_the_server_cannot_send_ranges(tmp_path: Path) -> None:
    with serving() as site:
        site.files["/data.zip"], site.cuts, site.ranges = CONTENT, [100_000], False
        download(f"{site.address}/data.zip", tmp_path / "data.zip", None, pause=0)
        assert (tmp_path / "data.zip").read_bytes() == CONTENT and site.asked == [None, "bytes=100000-"]


def test_starts_over_when_the_part_is_longer_than_the_file(tmp_path: Path) -> None:
    (tmp_path / "data.zip.part").write_bytes(bytes(400_000))
    with serving() as site:
        site.files["/data.zip"] = CONTENT
        download(f"{site.address}/data.zip", tmp_path / "data.zip", None, pause=0)
        assert (tmp_path / "data.zip").read_bytes() == CONTENT and site.asked == ["bytes=400000-", None]


def test_truncation_without_a_length_is_noticed(tmp_path: Path) -> None:
    with serving() as site:
        site.files["/data.zip"], site.cuts, site.chunked = CONTENT, [100_000] * 2, True
        with pytest.raises(UserError, match=r"IncompleteRead.*\(2 attempts\)"):
            download(f"{site.address}/data.zip", tmp_path / "data.zip", None, attempts=2, pause=0)
        assert names(tmp_path) == ["data.zip.part"]
        download(f"{site.address}/data.zip", tmp_path / "data.zip", None, attempts=1)
        assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_not_found_is_final(tmp_path: Path) -> None:
    with serving() as site:
        with pytest.raises(UserError, match=r"/data\.zip: the server answers 404 .*mirror"):
            download(f"{site.address}/data.zip", tmp_path / "data.zip", None, pause=0)
        assert len(site.asked) == 1 and names(tmp_path) == []


def test_a_server_in_trouble_is_asked_again(tmp_path: Path) -> None:
    with serving() as site:
        site.status = 503
        with pytest.raises(UserError, match="answers 503"):
            download(f"{site.address}/data.zip", tmp_path / "data.zip", None, attempts=3, pause=0)
        assert len(site.asked) == 3 and names(tmp_path) == []


def test_nobody_there(tmp_path: Path) -> None:
    with serving() as site:
        address = site.address
    with pytest.raises(UserError, match=r"refused.*put the file as data\.zip into a folder"):
        download(f"{address}/data.zip", tmp_path / "data.zip", None, attempts=1)
    assert names(tmp_path) == []


def test_a_server_that_sends_without_end(tmp_path: Path) -> None:
    with serving() as site:
        site.files["/data.zip"], site.chunked = CONTENT, True
        with pytest.raises(UserError, match=r"data\.zip: sends more than the allowed 200000 bytes"):
            download(f"{site.address}/data.zip", tmp_path / "data.zip", None, max_bytes=200_000)
        assert len(site.asked) == 1 and names(tmp_path) == []


def test_the_mirror_is_used_before_any_network(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "data.zip").write_bytes(CONTENT)
    with serving() as site:
        assert download(f"{site.address}/data.zip", tmp_path / "data.zip", mirror) == mirror / "data.zip"
        assert site.asked == [] and names(tmp_path) == ["mirror"]
        site.files["/other.zip"] = CONTENT  # not in the mirror
        assert download(f"{site.address}/other.zip", tmp_path / "other.zip", mirror) == tmp_path / "other.zip"
