"""`FakeClient`: the interface of `dynamo.Client` over a dictionary, told what is to go wrong.

    fake = FakeClient()
    fake.conflict("cart", ["tea"], ["jam"])          # two values are current
    fake.time_out("cart", applied=True)              # the next call times out; it has happened
    fake.fail("cart", dynamo.Overloaded, times=2)    # the next two calls are shed
    fake.overtake("cart", ["milk"])                  # somebody writes just before the next put
    fake.slow(0.3)                                   # every call takes 0.3 virtual seconds
    assert [call.op for call in fake.calls] == ["get", "put"]

Values, merge functions, contexts, `modify` and batches are the real client's own code. For what a
ring does by itself - partitions, nodes that come and go - there is `dynamo.sim.Ring`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from dynamo.client.codec import Codec, Coder
from dynamo.client.errors import ConfigurationError
from dynamo.client.merge import Merge
from dynamo.client.op import Op
from dynamo.client.options import Options, resolve
from dynamo.client.surface import Key, Surface
from dynamo.testing.fakedriver import Call, FakeDriver, Rule
from dynamo.testing.fakestore import WALL_ORIGIN_MS
from dynamo.testing.virtual import (
    VirtualAsyncBucket,
    VirtualAsyncClient,
    VirtualBucket,
    VirtualClient,
)

T = TypeVar("T")
D = TypeVar("D")

__all__ = ["Call", "FakeAsyncBucket", "FakeAsyncClient", "FakeBucket", "FakeClient"]

TURNS_MAX = 6
_OPS = ("", "get", "put", "delete")


class Told(Surface[T]):
    """What every view of a fake can be told. `key` None means any key of any bucket."""

    __slots__ = ()

    def __init__(
        self, core: Any, options: Options, coder: Coder, merge: Merge | None, name: str
    ) -> None:
        super().__init__(core, options, coder, merge, name)
        self._driver.decoders.setdefault(name, coder.decode)

    @property
    def _driver(self) -> FakeDriver:
        return cast(FakeDriver, self._core.driver)

    def _tell(
        self, text: str, key: Key | None, op: str | None, times: int | None,
        act: Callable[[Op], Any],
    ) -> None:  # fmt: skip
        if op is not None and op not in _OPS:
            raise ConfigurationError(f"op must be 'get', 'put' or 'delete', not {op!r}")
        if times is not None and (type(times) is not int or times < 1):
            raise ConfigurationError(
                f"times must be a whole number of at least 1, or None for always, not {times!r}"
            )
        full = None if key is None else self._full(key)
        about = "any key" if key is None else repr(key)
        self._driver.rules.append(Rule(f"{text} {about}", full, op or "", times, act))

    def conflict(self, key: Key, *values: T) -> None:
        """Make several values current at once, newest first: what others wrote concurrently."""
        if len(values) < 2:
            raise ConfigurationError(f"a conflict has at least two values, not {len(values)}")
        payloads = [self._coder.encode(key, value) for value in values]
        self._driver.store.replace(self._full(key), payloads, self._wall_ms())

    def overtake(self, key: Key, value: T, *, times: int | None = 1) -> None:
        """Have somebody else write over what is there, right before this client's next write.

        A causal write then meets a value that it has not seen, as after a race that was lost.
        """
        payload = self._coder.encode(key, value)

        def act(op: Op) -> None:
            self._driver.store.replace(op.key, [payload], self._wall_ms())

        self._tell("overtake", key, "put", times, act)

    def time_out(
        self,
        key: Key | None = None,
        *,
        times: int | None = 1,
        applied: bool | None = None,
        op: str | None = None,
    ) -> None:
        """Have calls end with QuorumTimeout after their whole timeout, which is virtual.

        `applied`: whether a write has happened all the same, which its client cannot know; None
        draws it each time from the fake's seed. Code that retries has to be right both ways.
        """
        if applied not in (None, True, False):
            raise ConfigurationError(f"applied must be True, False or None, not {applied!r}")
        self._tell("time out", key, op, times, lambda op: self._driver.timed_out(op, applied))

    def fail(
        self,
        key: Key | None,
        error: type[Exception] | Exception,
        *,
        times: int | None = 1,
        op: str | None = None,
    ) -> None:
        """Have calls raise: an exception as it is, or a class, filled with numbers that fit.

        Nothing has been done then: `maybe_applied` is False. (For QuorumTimeout see `time_out`.)
        """
        name = error.__name__ if isinstance(error, type) else type(error).__name__
        self._tell(f"fail with {name}", key, op, times, self._driver.made(error))

    def slow(
        self,
        seconds: float,
        key: Key | None = None,
        *,
        times: int | None = None,
        op: str | None = None,
    ) -> None:
        """Have calls take so much virtual time; beyond their timeout they raise QuorumTimeout.

        A write that is too slow has happened.
        """
        if type(seconds) not in (int, float) or not seconds > 0:
            raise ConfigurationError(f"seconds must be above 0, not {seconds!r}")
        ms = max(1, round(seconds * 1000))
        self._tell(f"be slow ({seconds:g} s) for", key, op, times, lambda op: ms)

    def reset(self) -> None:
        """Forget what it was told. Values stay."""
        self._driver.rules.clear()

    @property
    def pending(self) -> list[str]:
        """What it was told a number of times, and has not happened so often yet."""
        return [rule.text for rule in self._driver.rules if rule.times]

    @property
    def calls(self) -> list[Call]:
        """Every operation so far, oldest first. Clear it where a test's own part begins."""
        return self._driver.calls

    @property
    def now(self) -> float:
        """Virtual seconds since it was made."""
        return self._driver.clock.at_ms / 1000

    def advance(self, seconds: float) -> None:
        """Let virtual time pass: values with a `ttl` expire, deadlines come nearer."""
        self._driver.clock.at_ms += max(0, round(seconds * 1000))

    def _wall_ms(self) -> int:
        return WALL_ORIGIN_MS + self._driver.clock.at_ms


class FakeBucket(Told[T], VirtualBucket[T]):
    """One bucket of a `FakeClient`."""

    __slots__ = ()

    def _view(self) -> Callable[..., Any]:
        return FakeBucket

    @overload
    def bucket(
        self,
        name: str,
        type: type[D],
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> FakeBucket[D]: ...
    @overload
    def bucket(
        self,
        name: str,
        type: None = None,
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> FakeBucket[Any]: ...
    def bucket(
        self,
        name: str,
        type: Any = None,  # noqa: A002 - as in `dynamo.Bucket`
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> FakeBucket[Any]:
        """Another bucket of the same fake."""
        return cast(FakeBucket[Any], self._bucket(name, type, codec, merge))

    def with_options(self, **options: Any) -> FakeBucket[T]:
        """The same bucket with other defaults for its calls."""
        return cast(FakeBucket[T], self._with_options(options))


class FakeClient(FakeBucket[Any], VirtualClient):
    """An in-memory `dynamo.Client`. Options as for `dynamo.connect`; `seed` for what is drawn."""

    __slots__ = ()

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        resolved, merge, codec = _resolve(options)
        VirtualClient.__init__(self, FakeDriver(seed), resolved, merge, codec)
        self._driver.decoders[self.name] = self._coder.decode


def _resolve(options: dict[str, Any]) -> tuple[Options, Any, Any]:
    merge, codec = options.pop("merge", None), options.pop("codec", None)
    return resolve("dynamo://fake", None, options), merge, codec


# --- asyncio --------------------------------------------------------------------------------------


class _AsyncDriver(FakeDriver):
    """Each operation takes a few turns of the loop, drawn from the seed.

    One turn each would keep tasks that do the same in step for ever: five that modify one key would
    make siblings of one another's merges until all give up, which no network would let them do.
    """

    def promise(self) -> Any:
        return asyncio.get_running_loop().create_future()

    def begin(self, op: Op, ended: Callable[[Op], None]) -> None:
        self._in(self.coin.randrange(TURNS_MAX), op, ended)

    def _in(self, turns: int, op: Op, ended: Callable[[Op], None]) -> None:
        if op.done:
            return  # cancelled
        if turns < 0:
            super().begin(op, ended)
        else:
            asyncio.get_running_loop().call_soon(self._in, turns - 1, op, ended)

    def cancel(self, op: Op) -> None:
        op.done = True


class FakeAsyncBucket(Told[T], VirtualAsyncBucket[T]):
    """One bucket of a `FakeAsyncClient`."""

    __slots__ = ()

    def _view(self) -> Callable[..., Any]:
        return FakeAsyncBucket

    @overload
    def bucket(
        self,
        name: str,
        type: type[D],
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> FakeAsyncBucket[D]: ...
    @overload
    def bucket(
        self,
        name: str,
        type: None = None,
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> FakeAsyncBucket[Any]: ...
    def bucket(
        self,
        name: str,
        type: Any = None,  # noqa: A002 - as in `dynamo.AsyncBucket`
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> FakeAsyncBucket[Any]:
        """Another bucket of the same fake."""
        return cast(FakeAsyncBucket[Any], self._bucket(name, type, codec, merge))

    def with_options(self, **options: Any) -> FakeAsyncBucket[T]:
        """The same bucket with other defaults for its calls."""
        return cast(FakeAsyncBucket[T], self._with_options(options))


class FakeAsyncClient(FakeAsyncBucket[Any], VirtualAsyncClient):
    """An in-memory `dynamo.AsyncClient`, told as `FakeClient` is."""

    __slots__ = ()

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        resolved, merge, codec = _resolve(options)
        VirtualAsyncClient.__init__(self, _AsyncDriver(seed), resolved, merge, codec)
        self._driver.decoders[self.name] = self._coder.decode
