"""Reading and writing files: whole or not there at all, with messages that name the file."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from udaseg.errors import UserError

# What a disk or a right that is wanting answers, and what helps. Anything else would be a fault of ours.
REFUSALS = {
    errno.ENOSPC: "Free space on that disk",
    errno.EDQUOT: "Free space, or have the quota raised",
    errno.EFBIG: "Raise the limit on a file's size (ulimit -f)",
    errno.EROFS: "Have that file system mounted for writing",
    errno.EACCES: "Give this user the right to write there",
    errno.EPERM: "Give this user the right to write there",
    errno.EIO: "Look at that disk, which may be failing",
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe loading that refuses a key given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands here twice", key_node.start_mark
                )
            seen.add(key)
        return dict(super().construct_mapping(node, deep))


def refused(error: OSError, path: Path | None = None) -> UserError:
    """What to tell of a system that refuses to write to `path`, or else to the file that the error names."""
    where = path or error.filename or "a file"
    help_ = REFUSALS.get(error.errno or 0, "Put that right")
    return UserError(
        f"{where}: cannot be written ({error.strerror or error}); what was there before is kept. {help_}, and start "
        "the same command again"
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """UserError (see `refused`) where the system refuses what the body writes to `path`."""
    try:
        yield
    except OSError as error:
        raise refused(error, path) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name beside `path`, flush it to disk, and rename: whole or not there at all.

    Raises:
        UserError: the disk is full, or the system refuses for another reason; nothing has changed then.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed `write_bytes` left below `folder`. Only for whoever is its one writer."""
    for path in folder.rglob(".*.part"):
        path.unlink()


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Sorted, indented JSON with a final newline; refuses NaN, which is not JSON (use null)."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_yaml(path: Path, content: Any) -> None:
    """Block-style YAML in the order of the mapping."""
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))


def read_json(path: Path) -> Any:
    """The content of a JSON file; a UserError that names the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); delete it and run the same command again") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; a UserError that names the file when it is missing or damaged."""
    try:
        return yaml.load(path.read_text(), Loader=_Loader)
    except (OSError, RecursionError, TypeError, ValueError, yaml.YAMLError) as error:  # all of them of what is read
        raise UserError(f"{path}: cannot be read as YAML ({error})") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(file: Path, target: Path) -> None:
    """Put `file` at `target` as well: a second name where the file system has such, a copy otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    with writing(target):
        temporary.unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # where both were names of one file already, replacing leaves both


def keep_only(folder: Path, kept: Collection[Path]) -> None:
    """Remove all below `folder` that is not among the paths `kept`, and the folders that are empty then."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what lies in a folder comes before it
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept:
            path.unlink()


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Append one JSON object as a line."""
    with writing(path), path.open("a") as file:
        file.write(json.dumps(content, allow_nan=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a `.jsonl` file, one a line."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]
