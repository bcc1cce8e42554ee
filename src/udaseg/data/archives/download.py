"""Downloading one file over HTTP, or taking it from a mirror folder; a download that was cut off is resumed.

Neither pooch nor torchvision's download helpers resume a partial download or limit its size, hence this module.
"""

import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path

from udaseg.errors import UserError

TIMEOUT = 60.0  # seconds without a byte
CHUNK = 2**18  # bytes read at a time


class _CutOff(Exception):
    """The connection ended before the file did; another attempt can resume."""


def download(
    url: str,
    destination: Path,
    mirror: Path | None,
    attempts: int = 4,
    pause: float = 2.0,
    max_bytes: int = 2**33,
) -> Path:
    """The complete file of `url`: the one named like `destination` in `mirror` if there is one, else `destination`,
    which is downloaded unless it exists.

    A partial download lies at `<destination>.part`. A later call resumes it if the server supports ranges, and starts
    over otherwise.

    Args:
        attempts: connections made before giving up. A client error (404 …) is final at once.
        pause: seconds between two attempts.
        max_bytes: largest size that is accepted, whatever the server claims.

    Raises:
        UserError: not there, refused, too large, or cut off at every attempt. The message says how to resume, or how
            to do without the network.
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
            _connect(url, part, max_bytes)
        except urllib.error.HTTPError as error:
            problem = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # the part is not a beginning of what the server has
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code != 429:
                raise UserError(f"download of {url}: {problem}; check the address, {without}") from None
        except (_CutOff, http.client.HTTPException, OSError) as error:
            problem = str(error) or type(error).__name__
        else:
            part.replace(destination)
            return destination
    kept = f"; the {part.stat().st_size} bytes received so far are kept" if part.is_file() else ""
    raise UserError(
        f"download of {url}: {problem} ({attempts} attempts){kept}; run the same command again to resume, {without}"
    )


def _connect(url: str, part: Path, max_bytes: int) -> None:
    """One connection: append the missing bytes to `part`, or write it anew when the server sends the whole file."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not resumed:
            part.unlink()
            raise _CutOff("the server sends another range than it was asked for")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        with part.open("ab" if resumed else "wb") as file:
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
        raise _CutOff(f"the connection ended after {size} of {start + int(length)} bytes")
