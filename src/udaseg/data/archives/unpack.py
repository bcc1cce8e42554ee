"""Getting an archive (from a mirror folder or over HTTP, resumed when cut off) and unpacking it, checked file by file.

Nothing here trusts the archive: what is written is only what a list names, with the size and checksum the list gives.
"""

import errno
import gzip
import hashlib
import http.client
import lzma
import shutil
import stat
import struct
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from udaseg.errors import UserError
from udaseg.runs.files import refused

TIMEOUT = 60.0  # seconds without a byte
CHUNK = 2**18  # bytes held in memory at a time
SHOWN = 5  # problems named in a message; the rest is counted
LARGEST_READ = 2**20  # bytes asked for at once of a tar: more are a header that would be held in memory as a whole
# What a damaged zip or tar.gz raises, depending on where the damage lies.
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, IndexError, NotImplementedError, OSError, RecursionError, ValueError),
)


class _Interrupted(Exception):
    """The connection ended before the file did; another attempt can go on from there."""


def fetch(
    url: str,
    destination: Path,
    mirror: Path | None,
    attempts: int = 4,
    pause: float = 2.0,
    max_bytes: int = 2**33,
) -> Path:
    """The whole file of `url`: in `mirror` under the name of `destination` if it is there, else `destination`, which
    is downloaded unless it exists.

    While it is downloaded it lies at `<destination>.part`; a later call goes on from there when the server can send
    ranges and starts over when it cannot.

    Args:
        attempts: connections made before giving up. An answer that says no (404 …) is final at once.
        pause: seconds between two of them.
        max_bytes: the most that is taken, whatever size the server claims.

    Raises:
        UserError: not there, refused, too large, or cut off at every attempt; says how to go on or to do without the
            network.
    """
    if mirror is not None and (mirror / destination.name).is_file():
        return mirror / destination.name
    if destination.is_file():
        return destination
    without = f"or put the file as {destination.name} into a folder and name that folder as mirror"
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(destination.name + ".part")
    for attempt in range(attempts):
        time.sleep(pause if attempt else 0)
        try:
            _download(url, part, max_bytes)
        except urllib.error.HTTPError as error:
            problem = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # the part is not a beginning of what the server has
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code != 429:
                raise UserError(f"download of {url}: {problem}; check the address, {without}") from None
        except (_Interrupted, http.client.HTTPException, OSError) as error:
            problem = str(error) or type(error).__name__
        else:
            part.replace(destination)
            return destination
    kept = f"; the {part.stat().st_size} bytes that came are kept" if part.is_file() else ""
    raise UserError(
        f"download of {url}: {problem} ({attempts} attempts){kept}; run the same command again to go on, {without}"
    )


def _download(url: str, part: Path, max_bytes: int) -> None:
    """One connection: append to `part` what is missing, or write it anew when the server sends the whole file."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not goes_on:
            part.unlink()
            raise _Interrupted("the server sends another range than it was asked for")
        start = have if goes_on else 0
        length = response.headers.get("Content-Length")
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                if file.tell() > max_bytes:
                    part.unlink()
                    raise UserError(
                        f"download of {url}: sends more than the allowed {max_bytes} bytes; check the address"
                    )
    size = part.stat().st_size
    # Without a length the transfer is chunked, and http.client itself raises when the last chunk does not come.
    if length is not None and size != start + int(length):
        raise _Interrupted(f"the connection ended after {size} of {start + int(length)} bytes")


def unpack(
    archive: Path,
    destination: Path,
    wanted: Mapping[str, tuple[int, str]],
    prefix: str = "",
    max_files: int = 100_000,
    max_bytes: int = 2**33,
) -> None:
    """Write the `wanted` files of a .zip or .tar.gz into the folder `destination`, which appears by rename when all of
    them are there and right; it must not exist yet, and only one process at a time may write it.

    Args:
        wanted: path (relative, below `prefix` in the archive) → bytes and hexadecimal SHA-256.
        prefix: folder in the archive that holds everything; members outside it and not wanted ones are not written.
        max_files, max_bytes: limits on the members of the archive and on the sum of their unpacked sizes.

    Raises:
        UserError: damaged; a member that leads out of the folder, is a link or a device; too many or too large
            members; or one message for all files that are missing, of wrong size or wrong checksum. Nothing is left
            behind then.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = destination.with_name(f".{destination.name}.part")
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
    try:
        folder.mkdir()
        try:
            found = _extract(archive, folder, wanted, prefix, max_files, max_bytes)
        except UserError:
            raise
        except DAMAGE as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                # The disk's, not the archive's, of which only a place before its beginning is an invalid argument.
                raise refused(error, folder) from None
            raise UserError(f"{archive}: is damaged or truncated ({error}); delete it and get it again") from None
        problems = [f"{path}: {found.get(path, 'missing')}" for path in sorted(wanted) if found.get(path, "missing")]
        if problems:
            more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            listing = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
            raise UserError(
                f"{archive}: {len(problems)} of the {len(wanted)} expected files are not as published; nothing was "
                f"unpacked; delete the archive and get it again{listing}{more}"
            )
        folder.rename(destination)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@dataclass(frozen=True)
class _Member:
    """A file, folder or something else in an archive."""

    name: str
    size: int  # bytes, as the archive claims
    kind: str  # "file", "folder", or what it is instead
    content: IO[bytes] | None  # of a file; to be read before the next member is asked for


def _extract(
    archive: Path, folder: Path, wanted: Mapping[str, tuple[int, str]], prefix: str, max_files: int, max_bytes: int
) -> dict[str, str]:
    """Write the wanted members; wanted path → what is wrong with it, or "". Missing ones have no entry."""
    found: dict[str, str] = {}
    files = total = 0
    for member in _members(archive):
        files, total = files + 1, total + member.size
        _refuse_unsafe(archive, member)
        if files > max_files or total > max_bytes:
            raise UserError(
                f"{archive}: unpacks to more than the allowed {max_files} files or {max_bytes} bytes; it is not the "
                "archive expected here: delete it and get it again"
            )
        path = member.name.removeprefix(prefix)
        if member.content is not None and member.name.startswith(prefix) and path in wanted:
            if path in found:
                raise UserError(f"{archive}: has {member.name} twice; delete it and get it again")
            found[path] = _write_checked(member.content, folder / path, *wanted[path])
    return found


def _members(archive: Path) -> Iterator[_Member]:
    """Everything in the archive, in its order. Raises UserError when it is of another format, DAMAGE when damaged."""
    if archive.name.endswith(".zip"):
        yield from _zip_members(archive)
    elif archive.name.endswith((".tar.gz", ".tgz")):
        yield from _tar_members(archive)
    else:
        raise UserError(f"{archive}: only .zip and .tar.gz are unpacked")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the writing system has no such modes
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
    """What a .tar.gz holds, of which no header is read that claims to be longer than any header is."""

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
    """Write `content` as long as it is not longer than `size`; returns what is wrong with it, or ""."""
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
