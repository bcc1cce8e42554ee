"""Signals that ask a job to stop, such as a scheduler's before it ends one: noted, and acted upon at a good moment."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

STOPPING = (signal.SIGTERM, signal.SIGUSR1)


class Interrupts:
    """Notes the signals of `STOPPING` while it is entered, by the main thread.

    A second one of a kind does what it would have done without this: end the process, unless somebody says otherwise.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # name of the first signal that came
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in STOPPING}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        signal.signal(number, self._before[number])


def ignore_stopping(worker: int) -> None:
    """Make this process, a helper of one that minds the signals, outlive them: they are often sent to whole groups."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
