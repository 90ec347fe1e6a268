"""Waking up on time. An event loop sleeps in whole milliseconds, rounded up, which is more than a
read takes here; a Linux timer is a file descriptor and wakes the loop within some ten microseconds.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import time

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = os.O_NONBLOCK
_ABSOLUTE = 1


class Alarm:
    """`await alarm.until(t)`: returns at `time.monotonic()` == t, or at once if that is past."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._descriptor = _timer_descriptor()
        if self._descriptor >= 0:
            self._loop.add_reader(self._descriptor, self._rang)

    async def until(self, at: float) -> None:
        left = at - time.monotonic()
        if left <= 0:
            return
        if self._descriptor < 0:
            await asyncio.sleep(left)
            return
        self._future = self._loop.create_future()
        seconds = int(at)
        # interval, then first expiry, each as seconds and nanoseconds
        setting = struct.pack("@4q", 0, 0, seconds, int((at - seconds) * 1e9) or 1)
        _libc().timerfd_settime(self._descriptor, _ABSOLUTE, setting, None)
        await self._future

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _rang(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _timer_descriptor() -> int:
    """-1 where there are no such timers: sends are then up to a millisecond late, and counted."""
    if not sys.platform.startswith("linux") or struct.calcsize("@q") != ctypes.sizeof(
        ctypes.c_long
    ):
        return -1
    try:
        return int(_libc().timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | os.O_CLOEXEC))
    except AttributeError:
        return -1
