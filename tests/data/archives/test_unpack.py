"""Archives that must not get out of their folder, and content that is not as listed."""

import errno
import gzip
import io
import shutil
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.loopback import listed, names, zipped

from udaseg.data.archives.unpack import unpack
from udaseg.errors import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
FILES = {"set/a.txt": b"first", "set/b/c.bin": CONTENT}


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def special_tar(path: str, kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(path)
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return buffer.getvalue()


def special_zip(path: str, mode: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(path)
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def refused(folder: Path, archive: str, content: bytes, *parts: str, **options: Any) -> None:
    """Unpacking is refused with a message that has all the parts, and leaves nothing but the archive."""
    folder = folder / "here"
    folder.mkdir()
    (folder / archive).write_bytes(content)
    with pytest.raises(UserError) as error:
        unpack(folder / archive, folder / "data", **{"wanted": listed(FILES), **options})
    for part in (archive, *parts):
        assert part in str(error.value)
    assert names(folder) == [archive] and names(folder.parent) == ["here"]


@pytest.mark.parametrize(("archive", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred)])
def test_only_wanted_files_below_the_prefix_are_written(tmp_path: Path, archive: str, pack: object) -> None:
    members = {f"top/{path}": content for path, content in FILES.items()}
    members |= {"top/unwanted.txt": b"x", "set/a.txt": b"a wanted path, but not below the prefix"}
    (tmp_path / archive).write_bytes(pack(members))  # type: ignore[operator]
    (tmp_path / ".data.part" / "set").mkdir(parents=True)  # of an attempt that was killed
    unpack(tmp_path / archive, tmp_path / "data", listed(FILES), prefix="top/")
    written = {str(p.relative_to(tmp_path / "data")): p.read_bytes() for p in tmp_path.glob("data/**/*") if p.is_file()}
    assert written == FILES and names(tmp_path) == sorted([archive, "data"])


@pytest.mark.parametrize(("archive", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred)])
@pytest.mark.parametrize("path", ["../out.txt", "set/../../out.txt", "/tmp/out.txt", "..\\out.txt", "C:\\out.txt"])
def test_members_that_lead_out_are_refused(tmp_path: Path, archive: str, pack: object, path: str) -> None:
    content = pack(FILES | {path: b"x"})  # type: ignore[operator]
    refused(tmp_path, archive, content, "refused", path, "leads out of the folder")


@pytest.mark.parametrize(
    ("archive", "content"),
    [
        ("a.tar.gz", special_tar("set/a.txt", tarfile.SYMTYPE)),
        ("a.tar.gz", special_tar("set/a.txt", tarfile.LNKTYPE)),
        ("a.tar.gz", special_tar("set/a.txt", tarfile.CHRTYPE)),
        ("a.tar.gz", special_tar("set/a.txt", tarfile.FIFOTYPE)),
        ("a.zip", special_zip("set/a.txt", stat.S_IFLNK)),
        ("a.zip", special_zip("set/a.txt", stat.S_IFCHR)),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, archive: str, content: bytes) -> None:
    refused(tmp_path, archive, content, "'set/a.txt' is a link or device")


@pytest.mark.parametrize(("archive", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred)])
def test_too_many_members(tmp_path: Path, archive: str, pack: object) -> None:
    content = pack({f"{i}.txt": b"" for i in range(11)})  # type: ignore[operator]
    refused(tmp_path, archive, content, "allowed 10 files", max_files=10)


@pytest.mark.parametrize(("archive", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred)])
def test_too_large_members(tmp_path: Path, archive: str, pack: object) -> None:
    content = pack({"zeros.bin": bytes(3_000_000), "more.bin": bytes(3_000_000)})  # type: ignore[operator]
    assert len(content) < 50_000
    refused(tmp_path, archive, content, "5000000 bytes", max_bytes=5_000_000)


def test_a_zip_that_claims_less_than_it_holds(tmp_path: Path) -> None:
    bomb = zipped({"set/a.txt": bytes(50_000_000)})
    claimed = bomb.replace(struct.pack("<L", 50_000_000), struct.pack("<L", 5))  # in both of its headers
    assert bomb.count(struct.pack("<L", 50_000_000)) == 2 and len(bomb) < 60_000
    wanted = listed({"set/a.txt": bytes(5)})  # and is just as claimed
    refused(tmp_path, "a.zip", claimed, "damaged", wanted=wanted, max_bytes=1000)


def test_a_sparse_member_counts_by_what_it_unpacks_to(tmp_path: Path) -> None:
    info = tarfile.TarInfo("set/a.txt")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"77777777777\0"  # its real size, octal: 8 GiB
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content = gzip.compress(bytes(header) + bytes(1024))
    refused(tmp_path, "a.tar.gz", content, "5000 bytes", max_bytes=5000)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_as_large_as_memory_is_not_read(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("set/a.txt")
    info.type, info.size = kind, 2**33 - 1
    content = gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(3_000_000))
    tracemalloc.start()
    refused(tmp_path, "a.tar.gz", content, "damaged", "a header of 8589934592 bytes")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_headers_without_end(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 512
    record = info.tobuf(tarfile.GNU_FORMAT) + b"11 path=ab\n".ljust(512, b"\0")
    refused(tmp_path, "a.tar.gz", gzip.compress(record * 3000), "damaged")


def test_a_name_with_nul(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("x")
        info.pax_headers = {"path": "set/a.txt\0../../out"}
        archive.addfile(info)
    refused(tmp_path, "a.tar.gz", buffer.getvalue(), "leads out of the folder")


@pytest.mark.parametrize(("archive", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred)])
def test_names_that_differ_in_case_are_others(tmp_path: Path, archive: str, pack: object) -> None:
    """Where the file system takes both for one, the unwanted one must not take the other's place."""
    (tmp_path / archive).write_bytes(pack({"SET/A.TXT": b"wrong"} | FILES | {"set/A.txt": b"wrong"}))  # type: ignore[operator]
    unpack(tmp_path / archive, tmp_path / "data", listed(FILES))
    written = {str(p.relative_to(tmp_path / "data")): p.read_bytes() for p in tmp_path.glob("data/**/*") if p.is_file()}
    assert written == FILES


@pytest.mark.parametrize(("archive", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred)])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_told_and_leaves_nothing(tmp_path: Path, archive: str, pack: object, data: st.DataObject) -> None:
    files = {"set/a.txt": b"first" * 20, "set/b.bin": CONTENT[:600]}
    plain: bytes = pack(files)  # type: ignore[operator]
    content = bytearray(gzip.decompress(plain) if archive.endswith("gz") else plain)
    places = st.one_of(
        st.integers(0, len(content) - 1), st.integers(0, 600), st.integers(len(content) - 250, len(content) - 1)
    )
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
        content[place] = value
    (tmp_path / archive).write_bytes(gzip.compress(bytes(content), 1) if archive.endswith("gz") else bytes(content))
    try:
        unpack(tmp_path / archive, tmp_path / "data", listed(files))
    except UserError:
        assert names(tmp_path) == [archive]
    else:
        assert {path: (tmp_path / "data" / path).read_bytes() for path in files} == files
        shutil.rmtree(tmp_path / "data")


@pytest.mark.parametrize("field", ["offset", "name"])
def test_a_zip_whose_directory_points_nowhere(tmp_path: Path, field: str) -> None:
    content = bytearray(zipped({"set/a.txt": b"first"}))
    directory = content.index(b"PK\1\2")
    end = content.index(b"PK\5\6")
    if field == "offset":
        content[end + 16 : end + 20] = b"\xff\xff\xff\x7f"
    else:
        content[directory + 28 : directory + 30] = b"\0\0"  # no name: what was one is a comment
        content[directory + 32 : directory + 34] = struct.pack("<H", len("set/a.txt"))
    refused(tmp_path, "a.zip", bytes(content), "damaged")


def test_a_full_disk_is_not_the_archives_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.zip").write_bytes(zipped(FILES))
    monkeypatch.setattr("udaseg.data.archives.unpack._write_checked", full)
    with pytest.raises(UserError, match=r"\.part: cannot be written \(No space left on device\); .* Free space"):
        unpack(tmp_path / "a.zip", tmp_path / "data", listed(FILES))
    assert names(tmp_path) == ["a.zip"]


def test_wrong_checksum(tmp_path: Path) -> None:
    changed = FILES | {"set/a.txt": b"First"}
    refused(tmp_path, "a.zip", zipped(changed), "1 of the 2 expected files", "set/a.txt: wrong checksum")


def test_every_wrong_file_is_counted_and_the_first_are_named(tmp_path: Path) -> None:
    wanted = {f"{i}.txt": b"right" for i in range(20)}
    members = {f"{i}.txt": b"wrong" for i in range(8)} | {"8.txt": b"short"[:3], "9.txt": b"far too long"}
    parts = ("20 of the 20 expected files", "0.txt: wrong checksum", "10.txt: missing", "and 15 more")
    refused(tmp_path, "a.zip", zipped(members), *parts, wanted=listed(wanted))


def test_wrong_sizes(tmp_path: Path) -> None:
    changed = {"set/a.txt": b"fir", "set/b/c.bin": CONTENT + b"more"}
    parts = ("a.txt: wrong size (3 bytes, expected 5)", "c.bin: wrong size (more than 300000 bytes, expected 300000)")
    refused(tmp_path, "a.tar.gz", tarred(changed), *parts)


def test_the_same_member_twice(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for content in (b"first", b"other"):
            info = tarfile.TarInfo("set/a.txt")
            info.size = 5
            archive.addfile(info, io.BytesIO(content))
    refused(tmp_path, "a.tar.gz", buffer.getvalue(), "has set/a.txt twice")


@pytest.mark.parametrize(("archive", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred)])
def test_damaged_archive(tmp_path: Path, archive: str, pack: object) -> None:
    content: bytes = pack(FILES)  # type: ignore[operator]
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    for name, damaged in (("cut", content[:-150]), ("flipped", bytes(flipped))):
        (tmp_path / name).mkdir()
        refused(tmp_path / name, archive, damaged, "delete")


def test_other_formats(tmp_path: Path) -> None:
    refused(tmp_path, "a.rar", b"Rar!", "only .zip and .tar.gz")
