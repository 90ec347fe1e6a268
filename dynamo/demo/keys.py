"""Single keys from a terminal, without waiting for Enter and without showing them.

Ctrl-C stays a signal. Ctrl-Z is switched off: it would stop the demo with the terminal still in its
second screen and the nodes running on. Whatever ends the block, the terminal is as it was.
"""

from __future__ import annotations

import os
import select
import sys
import termios
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

ESCAPE = "\x1b"
GONE = "q"  # what a terminal that has gone away says
_LOCAL_FLAGS, _CONTROL_CHARACTERS = 3, 6


class Keyboard:
    """The terminal at stdin. A context manager."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        mode = termios.tcgetattr(self._fd)
        mode[_LOCAL_FLAGS] &= ~(termios.ICANON | termios.ECHO)
        mode[_CONTROL_CHARACTERS][termios.VSUSP] = b"\0"
        termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Keys that nobody has read are dropped: they were meant for the demo, not for the shell.
        with suppress(termios.error):
            termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._before)

    def read(self, timeout_s: float) -> str:
        """The keys that were pressed, after at most `timeout_s` seconds; "" if there were none."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return ""
        try:
            text = os.read(self._fd, 64).decode("utf-8", "ignore")
        except OSError:
            return GONE
        if not text:
            return GONE
        # Arrows and their like come as several characters, of which none is meant.
        return "" if text.startswith(ESCAPE) else text
