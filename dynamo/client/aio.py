"""The asyncio client: the same calls as the blocking one, awaited.

What one turn of the event loop issues travels in one frame per node: the first call of a turn
schedules a flush for the next, by which time every other task has added its own. Sockets are plain
ones whose descriptors the loop watches; `zmq.asyncio` costs three times as much per message.

No I/O happens in finalizers: an unclosed client warns, with the line that made it.
"""

from __future__ import annotations

import asyncio
import os
import random
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, TypeVar, cast, overload

from dynamo.client import origin
from dynamo.client.batch import Flow
from dynamo.client.codec import Codec, Coder
from dynamo.client.context import AUTO, Auto, Context
from dynamo.client.deadlines import now_ms
from dynamo.client.errors import ClientClosed, ClientForked, ConfigurationError
from dynamo.client.memory import Memory
from dynamo.client.merge import Merge
from dynamo.client.op import Op
from dynamo.client.options import Level, Options, resolve
from dynamo.client.results import Entry, Results, Written
from dynamo.client.scans import AsyncScan
from dynamo.client.session import Session
from dynamo.client.surface import Key, Surface, answered, checked_merge
from dynamo.client.wheel import NEVER_MS
from dynamo.client.wires import Wires
from dynamo.core import messages as m

T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R")


class _Group:
    """Operations of one batch that have ended, and the future that waits for the next."""

    __slots__ = ("done", "future")

    def __init__(self) -> None:
        self.done: list[Op] = []
        self.future: asyncio.Future[None] | None = None


class AsyncCore:
    """Session and sockets inside one event loop. Shared by all views of one client."""

    def __init__(self, options: Options) -> None:
        self.memory = Memory()
        self.created_at = origin.creation_line()
        self.closed = False
        self.session = Session(
            options.seeds,
            random.Random(os.urandom(32)),
            via=options.via,
            max_in_flight=options.max_in_flight,
            max_queued_bytes=options.max_queued_bytes,
        )
        self._forks = origin.Lineage.forks
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wires = Wires(self.session, self._opened, self._closing)
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._armed_ms = NEVER_MS

    # --- flows --------------------------------------------------------------------------------

    async def run(self, flow: Flow[R]) -> R:
        """Carry out a flow in this task."""
        try:
            op = next(flow)
            while True:
                op = flow.send(await self.one(op))
        except StopIteration as stop:
            return cast(R, stop.value)

    async def one(self, op: Op) -> Op:
        """Carry out one operation; returns it finished."""
        loop = self._begin()
        op.waiter = future = loop.create_future()
        self.session.submit(now_ms(), op)
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        try:
            await future
        finally:
            if not op.done:
                self.session.cancel(now_ms(), op)
        return op

    async def run_batch(self, flow: Generator[list[Op], list[Op], R]) -> R:
        """Carry out a batch in this task."""
        group = _Group()
        under_way: dict[Op, None] = {}
        try:
            ops = next(flow)
            while True:
                loop = self._begin()
                now = now_ms()
                for op in ops:
                    under_way[op] = None
                    op.waiter = group
                    self.session.submit(now, op)
                self._schedule()
                if not group.done:
                    group.future = loop.create_future()
                    await group.future
                done, group.done = group.done, []
                for op in done:
                    del under_way[op]
                ops = flow.send(done)
        except StopIteration as stop:
            return cast(R, stop.value)
        finally:
            for op in under_way:  # it ended early, by an error or a cancellation
                self.session.cancel(now_ms(), op)

    def _begin(self) -> asyncio.AbstractEventLoop:
        """The loop of this client, after the checks that every call starts with."""
        if self.closed:
            raise ClientClosed("the client is closed")
        if self._forks != origin.Lineage.forks:
            raise ClientForked(
                "this client was made before a fork, and its sockets belong to the parent. "
                "Make a client in the child"
            )
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise ConfigurationError(
                    "this client is in use in another event loop: make one client per loop"
                )
            self._loop = loop
        return loop

    # --- callbacks of the loop ----------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._flushing and self._loop is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if not self.closed:
            self._wires.flush()
            self._settle()

    def _readable(self, address: str) -> None:
        if self.closed:
            return
        if self._wires.arrived(address):
            assert self._loop is not None, "descriptors are watched by the loop"
            self._loop.call_soon(self._readable, address)
        if self.session.has_outgoing:
            self._schedule()
        self._settle()

    def _timeout(self) -> None:
        self._timer = None
        self._armed_ms = NEVER_MS
        if not self.closed:
            self._wires.tick()
            self._settle()

    def _settle(self) -> None:
        """Resume whoever's operation has ended, and be called when the next thing is due."""
        if self.session.completed:
            for op in self.session.take_completed():
                _resume(op)
        due_ms = self.session.next_due_ms()
        if due_ms < self._armed_ms:
            assert self._loop is not None, "nothing is due before the first call"
            if self._timer is not None:
                self._timer.cancel()
            delay_ms = max(due_ms - now_ms(), 0) + 1  # loops round down, deadlines do not
            self._timer = self._loop.call_later(delay_ms / 1000, self._timeout)
            self._armed_ms = due_ms

    def _opened(self, address: str, descriptor: int) -> None:
        assert self._loop is not None, "sockets are opened by flushes"
        self._loop.add_reader(descriptor, self._readable, address)

    def _closing(self, descriptor: int) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(descriptor)

    # --- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Fail what is under way, close the sockets. In a forked child: only forget them."""
        if self.closed:
            return
        self.closed = True
        if self._forks != origin.Lineage.forks:
            return
        if self._timer is not None:
            self._timer.cancel()
        self.session.fail_all(
            now_ms(), lambda: ClientClosed("the client was closed while this call was under way")
        )
        with suppress(RuntimeError):  # the loop is closed, and nobody waits in it
            for op in self.session.take_completed():
                _resume(op)
        self._wires.close()

    def __del__(self) -> None:
        if not getattr(self, "closed", True) and self._forks == origin.Lineage.forks:
            warnings.warn(
                f"unclosed dynamo client, made at {self.created_at}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


def _resume(op: Op) -> None:
    waiter = op.waiter
    if type(waiter) is _Group:
        waiter.done.append(op)
        waiter = waiter.future
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class AsyncBucket(Surface[T], Generic[T]):
    """Keys and values of one bucket; every call is awaited."""

    __slots__ = ()

    _core: AsyncCore

    def _view(self) -> Callable[..., Any]:
        return AsyncBucket

    def _write(self, key: Key, value: Any, context: Context) -> Coroutine[Any, Any, Written]:
        return self.put(key, value, context=context)

    @overload
    async def get(
        self,
        key: Key,
        default: None = None,
        *,
        r: Level | None = None,
        pr: Level | None = None,
        sloppy: bool | None = None,
        timeout: float | None = None,
        merge: Merge | None = None,
    ) -> T | None: ...
    @overload
    async def get(
        self,
        key: Key,
        default: D,
        *,
        r: Level | None = None,
        pr: Level | None = None,
        sloppy: bool | None = None,
        timeout: float | None = None,
        merge: Merge | None = None,
    ) -> T | D: ...
    async def get(
        self,
        key: Key,
        default: Any = None,
        *,
        r: Level | None = None,
        pr: Level | None = None,
        sloppy: bool | None = None,
        timeout: float | None = None,
        merge: Merge | None = None,
    ) -> Any:
        """The value, or `default`. Several values are merged, or raise ConflictError."""
        return await self._core.run(self._get(key, default, r, pr, sloppy, timeout, merge))

    async def read(
        self,
        key: Key,
        *,
        r: Level | None = None,
        pr: Level | None = None,
        sloppy: bool | None = None,
        timeout: float | None = None,
    ) -> Entry[T]:
        """Everything there is to know of a key: all its values, and the context to replace them."""
        return await self._core.run(self._read(key, r, pr, sloppy, timeout))

    async def put(
        self,
        key: Key,
        value: T,
        *,
        context: Context | Auto | None = AUTO,
        w: Level | None = None,
        pw: Level | None = None,
        sloppy: bool | None = None,
        durable: bool | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Store a value. `context`: AUTO, one from a read, or None to keep concurrent values."""
        flow = self._put(key, value, context, w, pw, sloppy, durable, ttl, timeout)
        return await self._core.run(flow)

    async def delete(
        self,
        key: Key,
        *,
        context: Context | Auto | None = AUTO,
        w: Level | None = None,
        pw: Level | None = None,
        sloppy: bool | None = None,
        durable: bool | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Remove a key. Removing one that is absent is no error."""
        return await self._core.run(self._delete(key, context, w, pw, sloppy, durable, timeout))

    async def modify(
        self,
        key: Key,
        fn: Callable[[Any], T],
        default: Any = None,
        *,
        w: Level | None = None,
        timeout: float | None = None,
        merge: Merge | None = None,
    ) -> T:
        """Read, merge, apply `fn`, write over exactly what was read; returns the new value."""
        value: T = await self._core.run(self._modify(key, fn, default, w, timeout, merge))
        return value

    async def get_many(
        self,
        keys: Iterable[Key],
        *,
        r: Level | None = None,
        pr: Level | None = None,
        sloppy: bool | None = None,
        timeout: float | None = None,
        merge: Merge | None = None,
        raise_on_error: bool = False,
    ) -> Results:
        """Not a transaction: many gets at once, each key with its own outcome and timeout."""
        flow = self._get_many(keys, r, pr, sloppy, timeout, merge, raise_on_error)
        return await self._core.run_batch(flow)

    async def put_many(
        self,
        items: Mapping[Any, T],
        *,
        context: Auto | None = AUTO,
        w: Level | None = None,
        pw: Level | None = None,
        sloppy: bool | None = None,
        durable: bool | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        raise_on_error: bool = False,
    ) -> Results:
        """Not a transaction: many puts at once, each key with its own outcome and timeout."""
        return await self._core.run_batch(
            self._put_many(items, context, w, pw, sloppy, durable, ttl, timeout, raise_on_error)
        )

    def scan(
        self, prefix: Key = "", *, after: str | None = None, r: Level | None = None
    ) -> AsyncScan[T]:
        """Every key of the bucket that begins with `prefix`, as `read` gives it; `async for`.

        Not awaited; otherwise as `Bucket.scan`.
        """
        return AsyncScan(self, self._walk(prefix, after, r))

    @overload
    def bucket(
        self,
        name: str,
        type: type[D],
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> AsyncBucket[D]: ...
    @overload
    def bucket(
        self,
        name: str,
        type: None = None,
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> AsyncBucket[Any]: ...
    def bucket(
        self,
        name: str,
        type: Any = None,  # noqa: A002 - reads well at the call
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> AsyncBucket[Any]:
        """Another bucket of the same client. A `type` is what values come back as."""
        return cast(AsyncBucket[Any], self._bucket(name, type, codec, merge))

    def with_options(self, **options: Any) -> AsyncBucket[T]:
        """The same bucket with other defaults for its calls; it shares the connections."""
        return cast(AsyncBucket[T], self._with_options(options))

    async def ping(self, timeout: float | None = None) -> float:
        """Ask any node for the ring; the seconds it took. Raises ConnectionFailed."""
        op = Op(m.RING, b"", self._until(timeout), (0,))
        answered(await self._core.one(op))
        return (op.ended_ms - op.started_ms) / 1000


class AsyncClient(AsyncBucket[Any]):
    """A connection to a ring, and its default bucket. `await aclose()`, or use `async with`."""

    __slots__ = ("__weakref__",)

    def __init__(self, options: Options, merge: Merge | None = None, codec: Any = None) -> None:
        coder = Coder(options.codec if codec is None else codec)
        super().__init__(AsyncCore(options), options, coder, checked_merge(merge), options.bucket)

    async def aclose(self) -> None:
        """Close the connections. Calls under way in other tasks end with ClientClosed."""
        self._core.close()

    async def __aenter__(self) -> AsyncClient:
        if self._options.wait_ms:
            try:
                await self.ping(self._options.wait_ms / 1000)
            except BaseException:
                self._core.close()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._core.close()


def connect_async(url: str | None = None, **options: Any) -> AsyncClient:
    """As `connect`, for asyncio. Not awaited; `wait=` is honoured by `async with`."""
    merge = checked_merge(options.pop("merge", None))
    codec = options.pop("codec", None)
    resolved = resolve(url, os.environ.get("DYNAMO_URL"), options)
    return AsyncClient(resolved, merge, codec)
