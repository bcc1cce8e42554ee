"""A job's folder: the marker that makes it whole, publishing into it, and one writer at a time.

A folder is *whole* when its `run.json`, which is written last, exists and the checksums in it are right. Whatever else
lies in a folder without that marker is left over from a job that did not finish.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from udaseg.errors import UserError
from udaseg.runs.files import link, remove_unfinished, sha256, write_json, writing

MARKER = "run.json"
# What depends on the clock or the machine lies beside the result without a checksum: an exact rerun does not repeat it.
MEASURED = ("cost.json", "env.json")


def damage(folder: Path, kept: Collection[str] | None = None) -> list[str]:
    """How the job in `folder` differs from what its run.json says; empty when it is finished and undamaged.

    Files whose names are not in `kept` may be missing, as in a record; None: no file may.
    """
    marker = folder / MARKER
    try:
        files = sorted(json.loads(marker.read_text())["files"].items())
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return [f"{marker} is missing, or lists no files"]
    wrong = []
    for name, digest in files:
        if not (folder / name).is_file():
            wrong += [f"{folder / name} is missing"] if kept is None or name in kept else []
        elif sha256(folder / name) != digest:
            wrong.append(f"{folder / name} has another checksum")
    return wrong


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a finished job: the marker is there and every file it lists has the listed checksum."""
    return not damage(folder)


def require_whole(folder: Path) -> None:
    """UserError unless `folder` holds a finished job (see `is_whole`)."""
    if not is_whole(folder):
        raise UserError(
            f"{folder}: not a finished run: run.json is missing, or a file differs from its checksum there. Remove the "
            "folder and start the same command again, which runs the job again"
        )


def publish(build: Path, folder: Path, run_id: str, kind: str, marker: str = MARKER) -> None:
    """Put every file of `build` into `folder`, the marker last, and remove `build`.

    A run.json is written here. It has the checksums of all files but `MEASURED`, so that equal results have equal
    markers. Any other marker is one of the files of `build`. If the process is killed in between, the folder has no
    marker and is not whole, and `build` still has everything that a resumed job needs; the next attempt replaces the
    files in the folder.
    """
    paths = (str(path.relative_to(build)) for path in build.rglob("*") if path.is_file())
    names = sorted(paths, key=lambda name: (name == marker, name))
    (folder / marker).unlink(missing_ok=True)
    remove_unfinished(folder)
    for name in names:
        link(build / name, folder / name)
    if marker == MARKER:
        files = {name: sha256(folder / name) for name in names if name not in MEASURED}
        write_json(folder / MARKER, {"id": run_id, "kind": kind, "files": files})
    shutil.rmtree(build)


@contextlib.contextmanager
def appearing(destination: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `destination` by rename when the body ends, and is removed when it fails.

    An older `destination` is replaced. Only one process at a time may write it; the caller sees to that.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = destination.with_name(f".{destination.name}.part")
    shutil.rmtree(folder, ignore_errors=True)  # a killed attempt leaves one behind
    try:
        folder.mkdir()
        yield folder
        if destination.exists():
            shutil.rmtree(destination)
        folder.rename(destination)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def locked(path: Path, message: str | None = None) -> Iterator[None]:
    """Hold the file lock `path`, which has one holder at a time. The kernel frees it when the process dies.

    If another process holds it: raise UserError(`message`) at once, or wait when there is no `message`.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab+", buffering=0)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if message else 0))
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{message} (process {file.read().decode().strip() or 'unknown'})") from None
        with writing(path):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield
