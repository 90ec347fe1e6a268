"""`with dynamo.deadline(seconds):` one limit for everything inside, retries included.

Blocks nest and only shrink: an inner one cannot allow more than is left of the outer. The limit
follows the context, so tasks started inside an asyncio block inherit it.

Rings and clients made for tests have clocks of their own. A block limits calls on those as well,
each by its own clock: what a simulated ring takes ten seconds for has taken none of ours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import NamedTuple
from weakref import WeakSet

from dynamo.client.options import seconds_ms

_until_ms: ContextVar[int | None] = ContextVar("dynamo_deadline", default=None)


class Clock:
    """A virtual clock, for `until_ms` of clients that live by it. It counts from 0."""

    def __init__(self) -> None:
        _clocks.add(self)

    @property
    def now_ms(self) -> int:
        """The milliseconds that have passed on it."""
        raise AssertionError("each clock has its own")

    def until_ms(self, timeout_ms: int) -> int:
        """When an operation that begins now must have ended."""
        end_ms = self.now_ms + timeout_ms
        limits = _virtual.get()
        if limits is None:
            return end_ms
        # A clock that was made inside the block has run since then: its 0 is no earlier.
        return min(end_ms, limits.of.get(self, limits.longest_ms))


class _Limits(NamedTuple):
    """Where blocks end on virtual clocks: on those that existed, and `longest_ms` after 0."""

    longest_ms: int
    of: Mapping[Clock, int]


_clocks: WeakSet[Clock] = WeakSet()
_virtual: ContextVar[_Limits | None] = ContextVar("dynamo_virtual_deadline", default=None)


def _limits(ms: int) -> _Limits:
    """The limits of a block of `ms`, inside the block that is open."""
    outer = _virtual.get()
    longest_ms = ms if outer is None else min(ms, outer.longest_ms)
    return _Limits(longest_ms, {clock: clock.until_ms(ms) for clock in list(_clocks)})


# Goes on while the machine is suspended. History: it stood still there, and what a laptop sent
# after its lid was opened looked hours old to every node, and was dropped unread.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ms() -> int:
    """The clock of both drivers."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


def until_ms(timeout_ms: int) -> int:
    """When an operation that begins now must have ended."""
    end_ms = now_ms() + timeout_ms
    block_ms = _until_ms.get()
    return end_ms if block_ms is None or end_ms < block_ms else block_ms


class deadline:  # noqa: N801 - used as a statement
    """Limit every call in the block to end within so many seconds from now."""

    __slots__ = ("_ms", "_tokens")

    def __init__(self, seconds: float) -> None:
        self._ms = seconds_ms("deadline", seconds)
        self._tokens: list[tuple[Token[int | None], Token[_Limits | None]]] = []

    def __enter__(self) -> deadline:
        limits = _virtual.set(_limits(self._ms))
        self._tokens.append((_until_ms.set(until_ms(self._ms)), limits))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        until, limits = self._tokens.pop()
        _until_ms.reset(until)
        _virtual.reset(limits)
