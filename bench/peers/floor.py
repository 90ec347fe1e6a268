"""LMDB and RocksDB inside the client's process: no network, no copies. What nothing can beat.

Calls block, so operations "in flight" run one after the other, and every write commits alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.drivers import ERROR, MAYBE, read_modify_write
from bench.peers.servers import absent
from bench.stores import Running

MAP_BYTES = 4 << 30


class _Floor:
    name = ""
    package = ""

    def missing(self) -> str:
        return absent([], [(self.package, self.package)])

    @contextmanager
    def start(self, nodes: int, durability: str, options: dict[str, Any]) -> Iterator[Running]:
        folder = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-"))
        spec = {"driver": self.name, "folder": str(folder), "synced": durability == "fsync"}
        kept = "synced" if durability == "fsync" else "written, synced at some time"
        try:
            yield Running(
                spec=spec,
                final=spec,
                promise=f"one copy, {kept}; in the client's own process, without a network",
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class Lmdb(_Floor):
    """A folder for LMDB."""

    name = "lmdb"
    package = "lmdb"


class Rocks(_Floor):
    """A folder for RocksDB."""

    name = "rocksdb"
    package = "rocksdict"


class _Local:
    """What both drivers share."""

    def __init__(self, folder: str, synced: bool) -> None:
        self._folder = folder
        self._synced = synced

    async def insert(self, key: str, value: bytes) -> None:
        await self.update(key, value)

    async def update(self, key: str, value: bytes) -> None:
        raise AssertionError("each engine has its own")

    async def modify(self, key: str, change: Callable[[list[bytes]], bytes]) -> None:
        await read_modify_write(self, key, change)

    def outcome(self, error: Exception, writing: bool) -> str:
        return MAYBE if writing else ERROR


class LmdbDriver(_Local):
    """One environment, a transaction per operation."""

    async def connect(self) -> None:
        import lmdb

        self._env = lmdb.open(self._folder, map_size=MAP_BYTES, sync=self._synced)

    async def read(self, key: str) -> list[bytes]:
        with self._env.begin() as transaction:
            value = transaction.get(key.encode())
        return [] if value is None else [value]

    async def update(self, key: str, value: bytes) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.put(key.encode(), value)

    async def delete(self, key: str) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.delete(key.encode())

    async def close(self) -> None:
        self._env.close()


class RocksDriver(_Local):
    """One database, a write per operation."""

    async def connect(self) -> None:
        from rocksdict import Options, Rdict, WriteOptions

        self._db = Rdict(self._folder, Options(raw_mode=True))
        self._options = WriteOptions()
        self._options.sync = self._synced

    async def read(self, key: str) -> list[bytes]:
        value = self._db.get(key.encode())
        return [] if value is None else [value]

    async def update(self, key: str, value: bytes) -> None:
        self._db.put(key.encode(), value, write_opt=self._options)

    async def delete(self, key: str) -> None:
        self._db.delete(key.encode(), write_opt=self._options)

    async def close(self) -> None:
        self._db.close()
