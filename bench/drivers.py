"""What the harness asks of a store, and of the peers that it is compared with: one interface.

A driver lives in one worker process and one event loop. Keys are text, values are bytes. A read
returns *all* current values: none for a key that is absent, one as a rule, several where a store
keeps concurrent ones. Errors are exceptions; `outcome` says which of the five ways it went:

    ok        acknowledged, or answered
    refused   shed at once by a store that has too much to do; nothing was done
    timeout   no answer in time; a read, or a write that the store says it did not do
    error     anything else that failed and did nothing
    maybe     a write that failed and may have been applied all the same
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

OUTCOMES = ("ok", "refused", "error", "timeout", "maybe")
OK, REFUSED, ERROR, TIMEOUT, MAYBE = OUTCOMES

Fields = dict[str, int]


class Driver(Protocol):
    """One connection to one store."""

    async def connect(self) -> None:
        """Be ready for the first operation."""

    async def read(self, key: str) -> list[bytes]:
        """All current values."""

    async def update(self, key: str, value: bytes) -> None:
        """Store a value, over whatever this connection has seen."""

    async def insert(self, key: str, value: bytes) -> None:
        """Store a value under a new key."""

    async def delete(self, key: str) -> None:
        """Remove a key."""

    async def modify(self, key: str, change: Callable[[list[bytes]], bytes]) -> None:
        """Read, then write what `change` makes of it, over what was read."""

    async def close(self) -> None:
        """Let go of everything."""

    def outcome(self, error: Exception, writing: bool) -> str:
        """One of OUTCOMES but ok."""


class Merging(Driver, Protocol):
    """A driver whose store keeps concurrent values apart until somebody merges them."""

    async def add(self, key: str, fields: Fields) -> None:
        """Read, merge by the maximum of each field, add `fields`, write back."""

    async def fields(self, key: str) -> Fields:
        """The merged fields of a key."""


# Name -> the module and class of its driver. Imported when used: a peer's client may be missing.
DRIVERS = {
    "noop": "bench.drivers:Noop",
    "dynamo": "bench.dynamodriver:DynamoDriver",
    "etcd": "bench.peers.etcd:EtcdDriver",
    "redis": "bench.peers.redis:RedisDriver",
    "nats": "bench.peers.nats:NatsDriver",
    "lmdb": "bench.peers.floor:LmdbDriver",
    "rocksdb": "bench.peers.floor:RocksDriver",
}


def make(spec: dict[str, Any]) -> Any:
    """The driver that `spec` names under "driver"; the rest of it are its options."""
    options = dict(spec)
    module, _, name = DRIVERS[options.pop("driver")].partition(":")
    return getattr(import_module(module), name)(**options)


async def read_modify_write(driver: Any, key: str, change: Callable[[list[bytes]], bytes]) -> None:
    """`modify` of a store that has no more to offer than a read and a write."""
    await driver.update(key, change(await driver.read(key)))


class Noop:
    """No store: every operation takes one turn of the loop. What the harness can do at most."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    async def connect(self) -> None:
        """There is nothing to connect to."""

    async def read(self, key: str) -> list[bytes]:
        await asyncio.sleep(0)
        value = self._data.get(key)
        return [] if value is None else [value]

    async def update(self, key: str, value: bytes) -> None:
        await asyncio.sleep(0)
        self._data[key] = value

    insert = update

    async def delete(self, key: str) -> None:
        await asyncio.sleep(0)
        self._data.pop(key, None)

    async def modify(self, key: str, change: Callable[[list[bytes]], bytes]) -> None:
        await read_modify_write(self, key, change)

    async def add(self, key: str, fields: Fields) -> None:
        await asyncio.sleep(0)

    async def fields(self, key: str) -> Fields:
        await asyncio.sleep(0)
        return {}

    async def close(self) -> None:
        """There is nothing to close."""

    def outcome(self, error: Exception, writing: bool) -> str:
        return ERROR
