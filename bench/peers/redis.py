"""Redis: one primary, two replicas, every write followed by WAIT 1 in the same round trip."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.drivers import ERROR, MAYBE, TIMEOUT, read_modify_write
from bench.peers.servers import HOST, absent, binary, ports, servers
from bench.stores import Running

REPLICAS = 2
CONNECTIONS_MAX = 512
SYNCS = {"fsync": "always", "interval": "everysec", "memory": "no"}


def promise(durability: str) -> str:
    kept = {
        "fsync": "synced by the primary",
        "interval": "written by the primary, synced within a second",
        "memory": "in the primary's memory",
    }[durability]
    return (
        f"{kept}, received by 1 of 2 replicas; a fail-over may drop acknowledged writes; reads "
        "from the primary alone"
    )


class Redis:
    """A primary and two replicas on loopback."""

    name = "redis"

    def missing(self) -> str:
        return absent(
            [("redis-server", "apt-get install redis-server")],
            [("redis", "redis"), ("hiredis", "hiredis")],
        )

    @contextmanager
    def start(self, nodes: int, durability: str, options: dict[str, Any]) -> Iterator[Running]:
        found = ports(1 + REPLICAS)
        with servers("redis") as them:
            for number, port in enumerate(found):
                folder = them.folder / f"r{number}"
                folder.mkdir()
                command = [binary("redis-server"), "--port", str(port), "--bind", HOST]
                command += ["--dir", str(folder), "--save", "", "--daemonize", "no"]
                command += ["--appendonly", "yes" if durability != "memory" else "no"]
                command += ["--appendfsync", SYNCS[durability]]
                command += ["--repl-diskless-sync-delay", "0"]
                if number:
                    command += ["--replicaof", HOST, str(found[0])]
                them.launch(f"r{number}", command)
            them.await_true("redis with two replicas", lambda: _replicated(found[0]))
            spec = {"driver": "redis", "port": found[0], "timeout_s": options["timeout_s"]}
            yield Running(spec=spec, final=spec, promise=promise(durability), pids=them.pids)


def _replicated(port: int) -> bool:
    """Whether the primary has all its replicas online. Asked by hand: it takes four lines."""
    try:
        with socket.create_connection((HOST, port), 0.5) as wire:
            wire.settimeout(0.5)
            wire.sendall(b"INFO replication\r\n")
            return wire.recv(65_536).count(b"state=online") == REPLICAS
    except OSError:
        return False


class NotReplicated(Exception):
    """WAIT ended before a replica had confirmed."""


class RedisDriver:
    """redis-py with hiredis; a connection per operation under way."""

    def __init__(self, port: int, timeout_s: float) -> None:
        self._port = port
        self._timeout_s = timeout_s

    async def connect(self) -> None:
        import redis.asyncio as client

        pool = client.BlockingConnectionPool(
            host=HOST,
            port=self._port,
            max_connections=CONNECTIONS_MAX,
            socket_timeout=self._timeout_s,
            timeout=self._timeout_s,
        )
        self._redis = client.Redis.from_pool(pool)
        await self._redis.ping()

    async def read(self, key: str) -> list[bytes]:
        value = await self._redis.get(key)
        return [] if value is None else [value]

    async def update(self, key: str, value: bytes) -> None:
        await self._wait(lambda pipe: pipe.set(key, value))

    insert = update

    async def delete(self, key: str) -> None:
        await self._wait(lambda pipe: pipe.delete(key))

    async def modify(self, key: str, change: Callable[[list[bytes]], bytes]) -> None:
        await read_modify_write(self, key, change)

    async def _wait(self, write: Callable[[Any], Any]) -> None:
        pipe = self._redis.pipeline(transaction=False)
        write(pipe)
        pipe.execute_command("WAIT", 1, int(self._timeout_s * 1000))
        answers = await pipe.execute()
        if answers[-1] < 1:
            raise NotReplicated("no replica confirmed the write in time")

    async def close(self) -> None:
        await self._redis.aclose(close_connection_pool=True)

    def outcome(self, error: Exception, writing: bool) -> str:
        import redis

        if writing:
            return MAYBE
        return TIMEOUT if isinstance(error, redis.TimeoutError) else ERROR
