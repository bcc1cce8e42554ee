"""Run folders appear whole or not at all, and have one writer at a time."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from udaseg.errors import UserError
from udaseg.runs import files as runs
from udaseg.runs.files import (
    append_line,
    read_json,
    read_lines,
    read_yaml,
    remove_unfinished,
    sha256,
    write_bytes,
    write_json,
    write_text,
    write_yaml,
)
from udaseg.runs.folder import appearing, is_whole, locked, publish


def build(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        write_text(folder / name, content)
    return folder


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None], "a": "ä"}
    write_json(tmp_path / "deep" / "x.json", content)
    write_yaml(tmp_path / "x.yaml", content)
    append_line(tmp_path / "x.jsonl", content)
    append_line(tmp_path / "x.jsonl", {"c": 1})
    assert read_json(tmp_path / "deep" / "x.json") == read_yaml(tmp_path / "x.yaml") == content
    assert read_lines(tmp_path / "x.jsonl") == [content, {"c": 1}]
    assert sorted(os.listdir(tmp_path)) == ["deep", "x.jsonl", "x.yaml"]


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("5E-07", 5e-7), ("1e4", 1e4), ("-2.5e+3", -2500.0), (".5e1", 5.0)],
)
def test_numbers_with_exponents_are_numbers(tmp_path: Path, text: str, number: float) -> None:
    (tmp_path / "x.yaml").write_text(f"plain: {text}\nquoted: '{text}'\n")
    assert read_yaml(tmp_path / "x.yaml") == {"plain": number, "quoted": text}


def test_hashes_are_text_with_and_without_quotes(tmp_path: Path) -> None:
    hashes = ["12e4567890123456", "1234567e89", "12345678e9", "1e23456789"]
    (tmp_path / "old.yaml").write_text("".join(f"- {text}\n" for text in hashes))
    assert read_yaml(tmp_path / "old.yaml") == hashes


def test_text_that_looks_like_a_number_is_read_back_as_text(tmp_path: Path) -> None:
    content = ["1e-4", "1e4", "12e4567890123456", "1.0e-4", "007", "on", "", "1_0", 1e-4, 1e16, 10, True, None]
    write_yaml(tmp_path / "x.yaml", content)
    found = read_yaml(tmp_path / "x.yaml")
    assert found == content and [type(value) for value in found] == [type(value) for value in content]


def test_json_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": 2})
    write_json(tmp_path / "b", {"y": 2, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free space"), (errno.EDQUOT, "Free space"), (errno.EFBIG, "Raise the limit"),
        (errno.EROFS, "Have that file system mounted"), (errno.EACCES, "Give this user the right"),
        (errno.EIO, "Look at that disk"), (errno.ENOTDIR, "Put that right"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("call", ["tempfile.mkstemp", "os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_what_was_there(
    call: str, code: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "a", "before")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(call, fail)
    with pytest.raises(UserError) as told:
        write_bytes(tmp_path / "a", b"after")
    expected = f"{tmp_path}/a: cannot be written ({os.strerror(code)}); what was there before is kept. {advice}"
    assert str(told.value).startswith(expected) and str(told.value).endswith("and start the same command again")
    assert (tmp_path / "a").read_text() == "before" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("what", ["line", "lock", "link"])
def test_other_writes_that_the_system_refuses_are_named_too(what: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "a").touch()
    (tmp_path / "run" / "a").mkdir(parents=True)
    place = tmp_path / "file" / "inside"
    with pytest.raises(UserError, match=r"(inside|run/a): cannot be written \(\w+ (exists|a directory)\)"):
        if what == "line":
            append_line(place, {})
        elif what == "lock":
            with locked(place):
                pass
        else:
            publish(tmp_path / "build", tmp_path / "run", "id", "train")
    assert (tmp_path / "build" / "a").exists()


@pytest.mark.parametrize(("name", "reader"), [("x.json", read_json), ("x.yaml", read_yaml)])
def test_missing_and_damaged_files_are_named(tmp_path: Path, name: str, reader: object) -> None:
    assert callable(reader)
    with pytest.raises(UserError, match=rf"{name}: cannot be read as"):
        reader(tmp_path / name)
    (tmp_path / name).write_text("{a: [1")
    with pytest.raises(UserError, match=rf"{name}: cannot be read as"):
        reader(tmp_path / name)


def test_a_folder_appears_when_it_is_filled_and_replaces_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "sets" / ".made.part" / "left").mkdir(parents=True)  # by a killed attempt
    for content in ("1", "2"):
        with appearing(tmp_path / "sets" / "made") as folder:
            (folder / content).touch()
        assert [path.name for path in (tmp_path / "sets" / "made").iterdir()] == [content]
    with pytest.raises(KeyboardInterrupt), appearing(tmp_path / "sets" / "made") as folder:
        (folder / "3").touch()
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "sets").rglob("*")] == ["made", "2"]


def test_a_published_folder_is_whole(tmp_path: Path) -> None:
    publish(build(tmp_path / "build", **{"a": "1", "pictures/b": "2"}), tmp_path / "run", "run", "train")
    assert is_whole(tmp_path / "run") and not (tmp_path / "build").exists()
    marker = read_json(tmp_path / "run" / "run.json")
    assert marker["kind"] == "train" and set(marker["files"]) == {"a", "pictures/b"}
    assert marker["files"]["a"] == sha256(tmp_path / "run" / "a")
    assert sorted(str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*")) == [
        "a", "pictures", "pictures/b", "run.json",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["changed", "missing", "no marker", "half a marker", "nothing"])
def test_a_damaged_folder_is_not_whole(tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    if damage != "nothing":
        publish(build(tmp_path / "build", a="1", b="2"), run, "run", "train")
    if damage == "changed":
        (run / "a").write_text("3")
    elif damage == "missing":
        (run / "a").unlink()
    elif damage == "no marker":
        (run / "run.json").unlink()
    elif damage == "half a marker":
        (run / "run.json").write_text((run / "run.json").read_text()[:20])
    assert not is_whole(run)


@pytest.mark.parametrize("calls", range(1, 5))
def test_publishing_killed_anywhere_is_not_whole_and_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Killed at its n-th rename: two files moved, the marker written, everything done."""
    first = build(tmp_path / "build", a="1", b="2")
    done = 0
    replace = os.replace

    def rename(*arguments: object) -> None:
        nonlocal done
        done += 1
        if done == calls:
            raise KeyboardInterrupt
        replace(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(runs.os, "replace", rename)
        if calls <= 3:
            with pytest.raises(KeyboardInterrupt):
                publish(first, tmp_path / "run", "run", "train")
            assert not is_whole(tmp_path / "run")
            assert {path.name for path in first.iterdir()} == {"a", "b"}
    publish(first, tmp_path / "run", "run", "train")
    assert is_whole(tmp_path / "run") and sorted(os.listdir(tmp_path / "run")) == ["a", "b", "run.json"]


def test_publishing_again_replaces(tmp_path: Path) -> None:
    for content in ("1", "2"):
        publish(build(tmp_path / "build", a=content), tmp_path / "run", "run", "train")
    assert (tmp_path / "run" / "a").read_text() == "2" and is_whole(tmp_path / "run")


HOLD = """
import sys, time
from pathlib import Path
from udaseg.runs.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> "subprocess.Popen[str]":
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_held_lock_is_refused_with_the_holders_number(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock")
    try:
        with (
            pytest.raises(UserError, match=rf"^busy; wait \(process {process.pid}\)$"),
            locked(tmp_path / "lock", "busy; wait"),
        ):
            raise AssertionError("was locked twice")
    finally:
        process.kill()
        process.wait()


def test_a_lock_does_not_survive_kill_9(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with locked(tmp_path / "lock", "busy"):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_without_a_message_a_lock_is_waited_for(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
        )
        time.sleep(0.5)
        assert process.stdout is not None and process.poll() is None
    try:
        assert process.stdout.readline() == "held\n"
    finally:
        process.kill()
        process.wait()


def test_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    folder = build(tmp_path / "state", **{"build/model": "whole"})
    for leftover in (folder / ".resume.x.part", folder / "build" / ".model.y.part"):
        leftover.write_text("half")
    remove_unfinished(folder)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["model"]


def test_a_half_written_marker_is_not_published_again(tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.mkdir()
    (target / ".run.json.x.part").write_text("half")
    publish(build(tmp_path / "build", model="whole"), target, "run", "train")
    assert sorted(path.name for path in target.iterdir()) == ["model", "run.json"]


def test_what_a_clock_says_has_no_checksum_so_that_equal_results_have_equal_markers(tmp_path: Path) -> None:
    for name, seconds in (("first", "1.0"), ("second", "2.0")):
        made = build(tmp_path / "build", **{"model": "same", "cost.json": seconds})
        publish(made, tmp_path / name, "run", "train")
        assert (tmp_path / name / "cost.json").read_text() == seconds
    assert (tmp_path / "first" / "run.json").read_bytes() == (tmp_path / "second" / "run.json").read_bytes()
    (tmp_path / "first" / "cost.json").write_text("3.0")
    assert is_whole(tmp_path / "first")
