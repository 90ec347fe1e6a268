"""Ctrl-C, SIGTERM and SIGHUP all end the demo the same way: as an exception in the main thread.

So everything that was opened is closed by the `with` that opened it, whichever signal it was. While
that goes on, further signals are ignored: an impatient second Ctrl-C would leave behind what the
first one was about to clear away.

While nodes are being started a signal is noted, and raised when they are up; only who insists for
the third time is heard at once. (History: an exception between the fork of a node and the line that
remembers the process left a node behind for a moment, which wrote into a directory being removed.)
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 2  # signals that wait for the end of a start


class Stops:
    """Around everything: signals raise. `closing()` is called when closing begins."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._holding = False
        self._noted: list[int] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in STOP:
                # Under nohup SIGHUP is ignored, and should stay so.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._stop)
        return self

    @contextmanager
    def held(self) -> Iterator[None]:
        """Signals wait until the end of this block."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._noted:
            _raise(self._noted[0])

    def closing(self) -> None:
        """From here on no signal interrupts."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._holding and len(self._noted) < PATIENCE:
            self._noted.append(number)
        else:
            _raise(number)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)  # as a shell counts a death by signal
