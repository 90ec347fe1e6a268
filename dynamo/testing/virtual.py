"""Clients that live by a virtual clock: the surfaces of production, with other drivers below.

What a call means - codecs, contexts, merge functions, the ways to write, batches - is the very
code of `dynamo.Client` and `dynamo.AsyncClient`. Replaced are the sockets: a *driver* carries out
one operation after another, and says when.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from dynamo.client.aio import AsyncBucket, AsyncClient
from dynamo.client.batch import BatchFlow, Flow
from dynamo.client.blocking import Bucket, Client
from dynamo.client.codec import Coder
from dynamo.client.deadlines import Clock
from dynamo.client.errors import ClientClosed
from dynamo.client.memory import Memory
from dynamo.client.merge import Merge
from dynamo.client.op import Op
from dynamo.client.options import Options, seconds_ms
from dynamo.client.results import Results
from dynamo.client.surface import Surface, checked_merge

T = TypeVar("T")
R = TypeVar("R")


class Driver(Protocol):
    """Carries operations out, one client's, under a virtual clock."""

    @property
    def clock(self) -> Clock:
        """What time it is for this client."""

    def begin(self, op: Op, ended: Callable[[Op], None]) -> None:
        """Start an operation; `ended` hears of its end, possibly before this returns."""

    def cancel(self, op: Op) -> None:
        """Nobody waits for it any more."""

    def close(self) -> None:
        """End what is under way."""


class Waiting(Driver, Protocol):
    """A driver for blocking clients."""

    def wait(self, ready: Callable[[], bool]) -> None:
        """Let virtual time pass until `ready()`."""


class Core:
    """What `leader.Core` is for sockets. Shared by all views of one client."""

    def __init__(self, driver: Waiting) -> None:
        self.memory = Memory()
        self.closed = False
        self.clock = driver.clock
        self.driver = driver

    def run(self, flow: Flow[R]) -> R:
        """Carry out a flow, as far as its caller is concerned at once."""
        try:
            op = next(flow)
            while True:
                op = flow.send(self.one(op))
        except StopIteration as stop:
            return cast(R, stop.value)

    def one(self, op: Op) -> Op:
        """Carry out one operation; returns it finished."""
        self._exchange([op], [])
        return op

    def run_batch(self, flow: BatchFlow) -> Results:
        """Carry out a batch."""
        done: list[Op] = []
        under_way: dict[Op, None] = {}
        try:
            ops = next(flow)
            while True:
                under_way.update(dict.fromkeys(ops))
                self._exchange(ops, done)
                ended, done[:] = done[:], []
                for op in ended:
                    del under_way[op]
                ops = flow.send(ended)
        except StopIteration as stop:
            return cast(Results, stop.value)
        finally:
            for op in under_way:  # it ended early
                self.driver.cancel(op)

    def _exchange(self, ops: list[Op], done: list[Op]) -> None:
        """Start `ops`; return when at least one of those that end into `done` has."""
        if self.closed:
            raise ClientClosed("the client is closed")
        finished = False
        try:
            for op in ops:
                self.driver.begin(op, done.append)
            if not done:
                self.driver.wait(lambda: bool(done))
            finished = True
        finally:
            if not finished:
                for op in ops:
                    self.driver.cancel(op)

    def close(self) -> None:
        """Fail what is under way."""
        if not self.closed:
            self.closed = True
            self.driver.close()


class _Timed(Surface[T]):
    """A surface whose deadlines are those of its core's clock."""

    __slots__ = ()

    def _until(self, timeout: float | None) -> int:
        ms = self._options.timeout_ms if timeout is None else seconds_ms("timeout", timeout)
        until_ms: int = self._core.clock.until_ms(ms)
        return until_ms


class VirtualBucket(_Timed[T], Bucket[T]):
    """`dynamo.Bucket` under virtual time."""

    __slots__ = ()

    def _view(self) -> Callable[..., Any]:
        return VirtualBucket


class VirtualClient(VirtualBucket[Any], Client):
    """`dynamo.Client` under virtual time."""

    __slots__ = ()

    def __init__(self, driver: Waiting, options: Options, merge: Any, codec: Any) -> None:
        coder, chosen = _ways(options, merge, codec)
        Surface.__init__(self, Core(driver), options, coder, chosen, options.bucket)
        if options.wait_ms:
            self.ping(options.wait_ms / 1000)


def _ways(options: Options, merge: Any, codec: Any) -> tuple[Coder, Merge | None]:
    return Coder(options.codec if codec is None else codec), checked_merge(merge)


# --- asyncio --------------------------------------------------------------------------------------


class AsyncWaiting(Driver, Protocol):
    """A driver for asyncio clients."""

    def promise(self) -> Any:
        """A future of the loop in which the ring's time passes."""


class AsyncCore:
    """What `aio.AsyncCore` is for sockets."""

    def __init__(self, driver: AsyncWaiting) -> None:
        self.memory = Memory()
        self.closed = False
        self.clock = driver.clock
        self.driver = driver

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
        done: list[Op] = []
        await self._exchange([op], done, {op: None})
        return op

    async def run_batch(self, flow: BatchFlow) -> Results:
        """Carry out a batch in this task."""
        done: list[Op] = []
        under_way: dict[Op, None] = {}
        try:
            ops = next(flow)
            while True:
                under_way.update(dict.fromkeys(ops))
                await self._exchange(ops, done, under_way)
                ended, done[:] = done[:], []
                for op in ended:
                    del under_way[op]
                ops = flow.send(ended)
        except StopIteration as stop:
            return cast(Results, stop.value)

    async def _exchange(self, ops: list[Op], done: list[Op], under_way: dict[Op, None]) -> None:
        if self.closed:
            raise ClientClosed("the client is closed")
        promise = self.driver.promise()

        def ended(op: Op) -> None:
            done.append(op)
            if not op.waiter.done():  # the promise of the exchange that waits now
                op.waiter.set_result(None)

        finished = False
        try:
            for op in under_way:
                op.waiter = promise
            for op in ops:
                self.driver.begin(op, ended)
            if not done:
                await promise
            finished = True
        finally:
            if not finished:
                for op in under_way:
                    self.driver.cancel(op)

    def close(self) -> None:
        """Fail what is under way."""
        if not self.closed:
            self.closed = True
            self.driver.close()


class VirtualAsyncBucket(_Timed[T], AsyncBucket[T]):
    """`dynamo.AsyncBucket` under virtual time."""

    __slots__ = ()

    def _view(self) -> Callable[..., Any]:
        return VirtualAsyncBucket


class VirtualAsyncClient(VirtualAsyncBucket[Any], AsyncClient):
    """`dynamo.AsyncClient` under virtual time."""

    __slots__ = ()

    def __init__(self, driver: AsyncWaiting, options: Options, merge: Any, codec: Any) -> None:
        coder, chosen = _ways(options, merge, codec)
        Surface.__init__(self, AsyncCore(driver), options, coder, chosen, options.bucket)
