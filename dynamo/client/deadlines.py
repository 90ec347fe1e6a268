"""`with dynamo.deadline(seconds):` one limit for everything inside, retries included.

Blocks nest and only shrink: an inner one cannot allow more than is left of the outer. The limit
follows the context, so tasks started inside an asyncio block inherit it.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from types import TracebackType

from dynamo.client.options import seconds_ms

_until_ms: ContextVar[int | None] = ContextVar("dynamo_deadline", default=None)


def now_ms() -> int:
    """The clock of both drivers."""
    return time.monotonic_ns() // 1_000_000


def until_ms(timeout_ms: int) -> int:
    """When an operation that begins now must have ended."""
    end_ms = time.monotonic_ns() // 1_000_000 + timeout_ms
    block_ms = _until_ms.get()
    return end_ms if block_ms is None or end_ms < block_ms else block_ms


class deadline:  # noqa: N801 - used as a statement
    """Limit every call in the block to end within so many seconds from now."""

    __slots__ = ("_ms", "_tokens")

    def __init__(self, seconds: float) -> None:
        self._ms = seconds_ms("deadline", seconds)
        self._tokens: list[Token[int | None]] = []

    def __enter__(self) -> deadline:
        self._tokens.append(_until_ms.set(until_ms(self._ms)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _until_ms.reset(self._tokens.pop())
