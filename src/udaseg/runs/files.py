"""Reading and writing files: whole or not there at all, with messages that name the file."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from udaseg.errors import UserError

# What the system answers when a disk or a permission prevents writing, and what helps. Other errors would be ours.
REFUSALS = {
    errno.ENOSPC: "Free space on that disk",
    errno.EDQUOT: "Free space, or have the quota raised",
    errno.EFBIG: "Raise the limit on a file's size (ulimit -f)",
    errno.EROFS: "Have that file system mounted for writing",
    errno.EACCES: "Give this user the right to write there",
    errno.EPERM: "Give this user the right to write there",
    errno.EIO: "Look at that disk, which may be failing",
}


# YAML 1.1 takes 1e-4 for text: its numbers have a point, and their exponents a sign. These are numbers in YAML 1.2.
# The lengths are limited because a hash such as 12e4567890123456 is text, without quotes in older files.
EXPONENT = re.compile(r"[-+]?([0-9]{1,6}(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]{1,2}$")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe loading that knows 1e-4 is a number and refuses duplicate keys, of which PyYAML would take the last.

    ruamel.yaml does both by itself, but is 11 times slower without its C extension: 88 ms instead of 8 for params.yaml,
    1.8 s instead of 0.17 for the 125 specs of a study.
    """

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


class _Dumper(yaml.SafeDumper):
    """Writes text that `_Loader` would read as a number in quotes."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


def refused(error: OSError, path: Path | None = None) -> UserError:
    """The message for a system that refuses to write to `path`, or else to the file that the error names."""
    where = path or error.filename or "a file"
    help_ = REFUSALS.get(error.errno or 0, "Put that right")
    return UserError(
        f"{where}: cannot be written ({error.strerror or error}); what was there before is kept. {help_}, and start "
        "the same command again"
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises UserError (see `refused`) when the system refuses what the body writes to `path`."""
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
    """Remove what a killed `write_bytes` left below `folder`. Only the folder's one writer may call it."""
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
    write_text(path, yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def read_json(path: Path) -> Any:
    """The content of a JSON file; a UserError that names the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); delete it and run the same command again") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; a UserError that names the file when it is missing or damaged."""
    try:
        return yaml.load(path.read_text(), Loader=_Loader)  # safe: `_Loader` is a safe loader that refuses more
    except (OSError, RecursionError, TypeError, ValueError, yaml.YAMLError) as error:  # all caused by the content
        raise UserError(f"{path}: cannot be read as YAML ({error})") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(file: Path, target: Path) -> None:
    """Put `file` at `target` as well: as a hard link if the file system has them, as a copy otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    with writing(target):
        temporary.unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # replacing a hard link of the same file leaves both names


def keep_only(folder: Path, kept: Collection[Path]) -> None:
    """Remove everything below `folder` that is not among the paths `kept`, and the folders left empty."""
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder's content comes before the folder
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
