"""The blocking client, usable from any number of threads. See `leader` for how."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar, cast, overload

from dynamo.client.codec import Codec, Coder
from dynamo.client.context import AUTO, Auto, Context
from dynamo.client.leader import Core
from dynamo.client.merge import Merge
from dynamo.client.op import Op
from dynamo.client.options import Level, Options, resolve
from dynamo.client.results import Entry, Results, Written
from dynamo.client.scans import Scan
from dynamo.client.surface import Key, Surface, answered, checked_merge, refuse_scan
from dynamo.core import messages as m

T = TypeVar("T")
D = TypeVar("D")


class Bucket(Surface[T], Generic[T]):
    """Keys and values of one bucket. Not a dict: the keys are spread over the ring."""

    __slots__ = ()

    _core: Core

    def _view(self) -> Callable[..., Any]:
        return Bucket

    def _write(self, key: Key, value: Any, context: Context) -> Written:
        return self.put(key, value, context=context)

    @overload
    def get(
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
    def get(
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
    def get(
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
        return self._core.run(self._get(key, default, r, pr, sloppy, timeout, merge))

    def read(
        self,
        key: Key,
        *,
        r: Level | None = None,
        pr: Level | None = None,
        sloppy: bool | None = None,
        timeout: float | None = None,
    ) -> Entry[T]:
        """Everything there is to know of a key: all its values, and the context to replace them."""
        return self._core.run(self._read(key, r, pr, sloppy, timeout))

    def put(
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
        return self._core.run(flow)

    def delete(
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
        return self._core.run(self._delete(key, context, w, pw, sloppy, durable, timeout))

    def modify(
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
        value: T = self._core.run(self._modify(key, fn, default, w, timeout, merge))
        return value

    def get_many(
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
        return self._core.run_batch(flow)

    def put_many(
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
        return self._core.run_batch(
            self._put_many(items, context, w, pw, sloppy, durable, ttl, timeout, raise_on_error)
        )

    def scan(
        self, prefix: Key = "", *, after: str | None = None, r: Level | None = None
    ) -> Scan[T]:
        """Every key of the bucket that begins with `prefix`, as `read` gives it.

            for entry in kv.scan("user:"):
                print(entry.key, entry.value)

        Lazy, in the order of the ring, in bounded memory; keys that are UTF-8 come as str. Every
        key acknowledged before it began and not deleted meanwhile comes exactly once, while at
        most N - max(R, N-W+1) owners of it are away; what is written meanwhile may come or not.
        It never ends early without an error: ScanUnavailable names the arc whose owners are
        missing. `after`: the `.cursor` of a scan of the same keys, to go on behind its last entry.
        """
        return Scan(self, self._walk(prefix, after, r))

    @overload
    def bucket(
        self,
        name: str,
        type: type[D],
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> Bucket[D]: ...
    @overload
    def bucket(
        self,
        name: str,
        type: None = None,
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> Bucket[Any]: ...
    def bucket(
        self,
        name: str,
        type: Any = None,  # noqa: A002 - reads well at the call
        codec: str | Codec | None = None,
        merge: Merge | None = None,
    ) -> Bucket[Any]:
        """Another bucket of the same client. A `type` is what values come back as."""
        return cast(Bucket[Any], self._bucket(name, type, codec, merge))

    def with_options(self, **options: Any) -> Bucket[T]:
        """The same bucket with other defaults for its calls; it shares the connections."""
        return cast(Bucket[T], self._with_options(options))

    def ping(self, timeout: float | None = None) -> float:
        """Ask any node for the ring; the seconds it took. Raises ConnectionFailed."""
        op = Op(m.RING, b"", self._until(timeout), (0,))
        answered(self._core.one(op))
        return (op.ended_ms - op.started_ms) / 1000

    # --- like a dict, as far as that is honest ------------------------------------------------

    def __getitem__(self, key: Key) -> T:
        return cast(T, self._core.run(self._item(key)))

    def __setitem__(self, key: Key, value: T) -> None:
        self.put(key, value)

    def __delitem__(self, key: Key) -> None:
        self.delete(key)

    def __contains__(self, key: Key) -> bool:
        return self._core.run(self._contains(key))

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        raise refuse_scan("len()")

    def __iter__(self) -> Any:
        raise refuse_scan("iterating over keys")

    def clear(self) -> None:
        """Refused: there is no way to remove all keys at once."""
        raise refuse_scan("clear()")


class Client(Bucket[Any]):
    """A connection to a ring, and its default bucket. Close it, or use it in a `with`."""

    __slots__ = ("__weakref__",)

    def __init__(self, options: Options, merge: Merge | None = None, codec: Any = None) -> None:
        coder = Coder(options.codec if codec is None else codec)
        super().__init__(Core(options), options, coder, checked_merge(merge), options.bucket)

    def close(self) -> None:
        """Close the connections. Calls under way in other threads end with ClientClosed."""
        self._core.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def connect(url: str | None = None, **options: Any) -> Client:
    """A client of the ring that any of the seeds in `url` belongs to.

    Without a URL, DYNAMO_URL, else dynamo://127.0.0.1:7001. Nothing is sent until the first call,
    unless `wait=seconds` asks for a first answer. Options: see `dynamo.client.options`; further
    `merge=`, a function for all buckets, and `codec=`, which may be an object.
    """
    merge = checked_merge(options.pop("merge", None))
    codec = options.pop("codec", None)
    resolved = resolve(url, os.environ.get("DYNAMO_URL"), options)
    client = Client(resolved, merge, codec)
    if resolved.wait_ms:
        try:
            client.ping(resolved.wait_ms / 1000)
        except BaseException:
            client.close()
            raise
    return client
