"""Signals that ask a job to stop, as schedulers send before they kill it: noted, to be acted on at a good moment."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

STOPPING = (signal.SIGTERM, signal.SIGUSR1)


class Interrupts:
    """Notes the signals of `STOPPING` while it is entered, by the main thread.

    A second signal of the same kind has its usual effect, which is to end the process unless a handler was set before.
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
    """Make this loader process ignore the signals, often sent to a whole group: the training process acts on them."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
