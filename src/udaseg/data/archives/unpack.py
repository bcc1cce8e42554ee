"""Unpacking an archive that is not trusted: only listed files are written, checked against listed sizes and checksums.

`tarfile`'s extraction filters cover neither .zip nor sizes and checksums, so members of both formats are checked here.
"""

import errno
import gzip
import hashlib
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from udaseg.errors import UserError
from udaseg.runs.files import refused
from udaseg.runs.folder import appearing

CHUNK = 2**18  # bytes held in RAM at a time
SHOWN = 5  # problems listed in a message; the others are only counted
LARGEST_READ = 2**20  # bytes of a tar read at once; a longer header would be held in RAM as a whole
# What a damaged zip or tar.gz raises, depending on where the damage lies.
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, IndexError, NotImplementedError, OSError, RecursionError, ValueError),
)
AGAIN = "delete it and download it again"


def unpack(
    archive: Path,
    destination: Path,
    wanted: Mapping[str, tuple[int, str]],
    prefix: str = "",
    max_files: int = 100_000,
    max_bytes: int = 2**33,
) -> None:
    """Write the `wanted` files of a .zip or .tar.gz into the folder `destination`, which appears by rename once all of
    them are there and correct. Only one process at a time may write it.

    Args:
        wanted: path (relative, below `prefix` in the archive) → bytes and hexadecimal SHA-256.
        prefix: folder in the archive that holds everything; members outside it, or not wanted, are not written.
        max_files, max_bytes: limits on the number of the archive's members and on the sum of their unpacked sizes.

    Raises:
        UserError: the archive is damaged; a member leads out of the folder, is a link or a device; there are too many
            or too large members; or one message for all files that are missing or of wrong size or checksum. Nothing
            is left behind then.
    """
    with appearing(destination) as folder:
        try:
            found = _extract(archive, folder, wanted, prefix, max_files, max_bytes)
        except UserError:
            raise
        except DAMAGE as error:
            # An invalid argument is a seek to before the archive's beginning; other system errors are the disk's.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise refused(error, folder) from None
            raise UserError(f"{archive}: is damaged or truncated ({error}); {AGAIN}") from None
        problems = [f"{path}: {found.get(path, 'missing')}" for path in sorted(wanted) if found.get(path, "missing")]
        if problems:
            more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            listing = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
            raise UserError(
                f"{archive}: {len(problems)} of the {len(wanted)} expected files are not as published; nothing was "
                f"unpacked; {AGAIN}{listing}{more}"
            )


@dataclass(frozen=True)
class _Member:
    """One member of an archive."""

    name: str
    size: int  # unpacked bytes, as the archive claims
    kind: str  # "file", "folder", or what else it is
    content: IO[bytes] | None  # a file's bytes, to be read before the next member is requested; None: not a file


def _extract(
    archive: Path, folder: Path, wanted: Mapping[str, tuple[int, str]], prefix: str, max_files: int, max_bytes: int
) -> dict[str, str]:
    """Write the wanted members. Returns wanted path → what is wrong with it, or ""; missing ones have no entry."""
    found: dict[str, str] = {}
    files = total = 0
    for member in _members(archive):
        files, total = files + 1, total + member.size
        _refuse_unsafe(archive, member)
        if files > max_files or total > max_bytes:
            raise UserError(
                f"{archive}: unpacks to more than the allowed {max_files} files or {max_bytes} bytes, so it is not the "
                f"expected archive; {AGAIN}"
            )
        path = member.name.removeprefix(prefix)
        if member.content is not None and member.name.startswith(prefix) and path in wanted:
            if path in found:
                raise UserError(f"{archive}: has {member.name} twice; {AGAIN}")
            found[path] = _write_checked(member.content, folder / path, *wanted[path])
    return found


def _members(archive: Path) -> Iterator[_Member]:
    """All members in the archive's order. Raises UserError for another format, DAMAGE when damaged."""
    if archive.name.endswith(".zip"):
        yield from _zip_members(archive)
    elif archive.name.endswith((".tar.gz", ".tgz")):
        yield from _tar_members(archive)
    else:
        raise UserError(f"{archive}: only .zip and .tar.gz are unpacked")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the system that wrote it has no such modes
            if info.is_dir():
                yield _Member(info.filename, 0, "folder", None)
            elif mode not in (0, stat.S_IFREG) or info.flag_bits & 1:
                yield _Member(info.filename, 0, "an encrypted file" if info.flag_bits & 1 else "a link or device", None)
            else:
                with file.open(info) as content:
                    yield _Member(info.filename, info.file_size, "file", content)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with _Unzipped(archive) as content, tarfile.open(fileobj=content, mode="r:") as file:
        for info in file:
            if info.isdir():
                yield _Member(info.name, 0, "folder", None)
            elif info.isreg():
                yield _Member(info.name, info.size, "file", file.extractfile(info))
            else:
                yield _Member(info.name, 0, "a link or device", None)


class _Unzipped(gzip.GzipFile):
    """The tar inside a .tar.gz; refuses a header that claims to be larger than any real one."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= LARGEST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _refuse_unsafe(archive: Path, member: _Member) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(member.name).drive or "\0" in member.name:
        raise UserError(f"{archive}: refused, its member '{member.name}' leads out of the folder it is unpacked into")
    if member.kind not in ("file", "folder"):
        raise UserError(f"{archive}: refused, its member '{member.name}' is {member.kind}, not a file or folder")


def _write_checked(content: IO[bytes], path: Path, size: int, checksum: str) -> str:
    """Write `content`, at most about `size` bytes of it; returns what is wrong with it, or ""."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file:
        while written <= size and (chunk := content.read(CHUNK)):
            file.write(chunk)
            digest.update(chunk)
            written += len(chunk)
    if written != size:
        return f"wrong size ({'more than ' if written > size else ''}{min(written, size)} bytes, expected {size})"
    return "" if digest.hexdigest() == checksum else "wrong checksum"
