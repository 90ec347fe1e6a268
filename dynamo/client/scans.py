"""Scans as their users hold them: an iterator of entries, blocking or asyncio, over one `Walk`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from dynamo.client.results import Entry
from dynamo.client.scan import Walk

if TYPE_CHECKING:
    from dynamo.client.surface import Surface

T = TypeVar("T")


class _Scan(Generic[T]):
    """What both have: where the scan is, and its end."""

    __slots__ = ("_bucket", "_over", "_walk")

    def __init__(self, bucket: Surface[T], walk: Walk) -> None:
        self._bucket = bucket
        self._walk = walk
        self._over = False

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"{self.share:.0%} of the ring"
        return f"<{type(self).__name__} of {self._bucket!r}, {state}>"

    @property
    def cursor(self) -> str:
        """Where this scan is: `scan(same prefix, after=cursor)` goes on behind the last entry."""
        return self._walk.cursor

    @property
    def complete(self) -> bool:
        """Whether every key has been given out."""
        return self._walk.complete

    @property
    def share(self) -> float:
        """How much of the ring lies behind, 0 to 1."""
        return self._walk.share


class Scan(_Scan[T]):
    """A scan under way: an iterator of Entry, for one thread at a time.

    After an error it may be continued, by `next` or from `cursor` by another scan. An entry whose
    value cannot be decoded raises CodecError when its turn comes; the next one comes after it.
    """

    __slots__ = ()

    def __iter__(self) -> Scan[T]:
        return self

    def __next__(self) -> Entry[T]:
        found = None if self._over else self._walk.take()
        while found is None:
            if self._over or self._walk.complete:
                raise StopIteration
            self._bucket._core.run_batch(self._walk.fetch())
            found = self._walk.take()
        return self._bucket._found(found)

    def close(self) -> None:
        """End it here. Nothing is under way between two entries, so this is never necessary."""
        self._over = True

    def __enter__(self) -> Scan[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = True


class AsyncScan(_Scan[T]):
    """A scan under way, for `async for` in one task at a time. Otherwise as `Scan`."""

    __slots__ = ()

    def __aiter__(self) -> AsyncScan[T]:
        return self

    async def __anext__(self) -> Entry[T]:
        found = None if self._over else self._walk.take()
        while found is None:
            if self._over or self._walk.complete:
                raise StopAsyncIteration
            await self._bucket._core.run_batch(self._walk.fetch())
            found = self._walk.take()
        return self._bucket._found(found)

    async def aclose(self) -> None:
        """End it here. Nothing is under way between two entries, so this is never necessary."""
        self._over = True

    async def __aenter__(self) -> AsyncScan[T]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = True
