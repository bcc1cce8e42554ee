"""Jobs in a forked process of their own that is killed, or refused by the system, at a point that a test chooses.

A fork of a process that has imported everything starts in milliseconds, which lets hypothesis choose the points.
"""

import errno
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

SOURCE = str(Path(__file__).parents[2] / "src" / "udaseg")
CHANGES = {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
WRITES = {"os.rename", "os.link", "os.mkdir"}  # and opening for writing: what a full disk refuses
Kind = Literal["event", "line", "half", "refused"]


@dataclass(frozen=True)
class Fault:
    """Kill -9 before the n-th change of the file system ("event"), before the n-th line of udaseg ("line") or when half
    of the n-th file's bytes are written ("half"); or from the n-th change on, no room for another file ("refused").
    """

    kind: Kind
    at: int  # from 1


@dataclass(frozen=True)
class End:
    """How a process ended: its exit status (minus the signal that killed it) and what it printed."""

    status: int
    output: str


def forked(work: Callable[[], Any], folder: Path, fault: Fault | None = None, largest_file: int | None = None) -> End:
    """Do `work` with `folder` as the working directory; an int that it returns is the status. Nothing leaks from it.

    `largest_file`: bytes that the kernel lets a file have there.
    """
    printed = folder.with_name(f"{folder.name}.printed")
    child = os.fork()
    if child == 0:
        status = 70
        try:
            descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
            os.chdir(folder)
            if largest_file is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
            if fault is not None:
                _Points(fault).watch()
            status = work() or 0
        except BaseException:
            sys.settrace(None)
            traceback.print_exc()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return End(os.waitstatus_to_exitcode(ended), printed.read_text())


def counted(work: Callable[[], Any], folder: Path) -> dict[Kind, int]:
    """How many points of each kind undisturbed `work` has."""
    where = folder.with_name(f"{folder.name}.points")

    def watched() -> int:
        points = [_Points(Fault(kind, sys.maxsize)) for kind in ("event", "line", "half")]
        for each in points:
            each.watch()
        status = work() or 0
        sys.settrace(None)
        where.write_text(" ".join(str(each.seen) for each in points))
        return int(status)

    end = forked(watched, folder)
    assert end.status == 0, end.output
    events, lines, files = map(int, where.read_text().split())
    return {"event": events, "line": lines, "half": files, "refused": events}


class _Points:
    """Counts the points of one kind in this process, and lets the fault happen at its own."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.seen = fault, 0
        self.process, self.here = os.getpid(), f"{os.getcwd()}/"

    def watch(self) -> None:
        if self.fault.kind == "line":
            sys.settrace(lambda frame, *_: self.line if frame.f_code.co_filename.startswith(SOURCE) else None)
        elif self.fault.kind == "half":
            real = os.fdopen
            os.fdopen = lambda *arguments: self.file(real(*arguments))  # type: ignore[assignment]
        else:
            sys.addaudithook(self.event)

    def line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self.reached()
        return self.line

    def file(self, file: Any) -> Any:
        self.seen += 1
        return _Half(file) if self.seen == self.fault.at else file

    def event(self, event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if not (opened or event in CHANGES) or os.getpid() != self.process:
            return
        path = arguments[0]
        if isinstance(path, int) or (os.path.isabs(path) and not str(path).startswith(self.here)):
            return
        self.reached()
        if self.fault.kind == "refused" and self.seen >= self.fault.at and (opened or event in WRITES):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def reached(self) -> None:
        self.seen += 1
        if self.seen == self.fault.at and self.fault.kind != "refused":
            os.kill(self.process, signal.SIGKILL)


class _Half:
    """A file of which half is written when the process is killed."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "_Half":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
