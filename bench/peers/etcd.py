"""etcd: three members, every write synced by a majority. Spoken to over gRPC, its own protocol.

The few messages that are needed are encoded by hand: generated code would be slower, and a driver
that is slower than it need be would flatter us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.drivers import ERROR, MAYBE, TIMEOUT, read_modify_write
from bench.peers.servers import HOST, absent, binary, ports, servers
from bench.stores import Running

KV = "/etcdserverpb.KV/"
STATUS = "/etcdserverpb.Maintenance/Status"
MEMBERS = 3
PROMISE = (
    "linearizable: synced by 2 of 3 members before the answer; reads ask the leader, which asks "
    "the others; no writes and no such reads without a majority"
)


def varint(value: int) -> bytes:
    """A number as protocol buffers write it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    """A bytes field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message: ints and bytes."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(data):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
        elif kind == 2:
            size = number()
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"a field of kind {kind} is not expected from etcd")


def raw(data: bytes) -> bytes:
    """What gRPC calls to encode and decode: the bytes are messages already."""
    return data


class Etcd:
    """Three members on loopback."""

    name = "etcd"

    def missing(self) -> str:
        return absent([("etcd", "apt-get install etcd-server")], [("grpc", "grpcio")])

    @contextmanager
    def start(self, nodes: int, durability: str, options: dict[str, Any]) -> Iterator[Running]:
        found = ports(2 * MEMBERS)
        clients, peers = found[:MEMBERS], found[MEMBERS:]
        cluster = ",".join(f"m{i}=http://{HOST}:{port}" for i, port in enumerate(peers))
        with servers("etcd") as them:
            for i, (client, peer) in enumerate(zip(clients, peers, strict=True)):
                urls = [f"http://{HOST}:{client}", f"http://{HOST}:{peer}"]
                command = [binary("etcd"), "--name", f"m{i}", "--data-dir", f"m{i}"]
                command += ["--listen-client-urls", urls[0], "--advertise-client-urls", urls[0]]
                command += ["--listen-peer-urls", urls[1]]
                command += ["--initial-advertise-peer-urls", urls[1]]
                command += ["--initial-cluster", cluster, "--initial-cluster-token", "bench"]
                command += ["--logger", "zap", "--log-level", "error"]
                them.launch(f"m{i}", command)
            leaders: list[int] = []

            def led() -> bool:
                leaders[:] = [port for port in clients if leads(port)]
                return bool(leaders)

            them.await_true("etcd", led)
            spec = {
                "driver": "etcd",
                "address": f"{HOST}:{leaders[0]}",
                "timeout_s": options["timeout_s"],
            }
            yield Running(spec=spec, final=spec, promise=PROMISE, pids=them.pids)


def leads(port: int) -> bool:
    """Whether the member at this port answers and is the leader."""
    import grpc

    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        try:
            answer = channel.unary_unary(STATUS, raw, raw)(b"", timeout=0.5)
        except grpc.RpcError:
            return False
    status = dict(fields(answer))
    return status.get(4, 0) != 0 and dict(fields(status[1])).get(2) == status[4]


class EtcdDriver:
    """One gRPC channel to the leader."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s

    async def connect(self) -> None:
        import grpc.aio

        self._channel = grpc.aio.insecure_channel(self._address)
        self._put = self._channel.unary_unary(KV + "Put", raw, raw)
        self._range = self._channel.unary_unary(KV + "Range", raw, raw)
        self._remove = self._channel.unary_unary(KV + "DeleteRange", raw, raw)
        await self.read("connected?")

    async def read(self, key: str) -> list[bytes]:
        answer = await self._range(field(1, key.encode()), timeout=self._timeout_s)
        return [
            value
            for number, pair in fields(answer)
            if number == 2
            for inner, value in fields(pair)
            if inner == 5
        ]

    async def update(self, key: str, value: bytes) -> None:
        await self._put(field(1, key.encode()) + field(2, value), timeout=self._timeout_s)

    insert = update

    async def delete(self, key: str) -> None:
        await self._remove(field(1, key.encode()), timeout=self._timeout_s)

    async def modify(self, key: str, change: Callable[[list[bytes]], bytes]) -> None:
        await read_modify_write(self, key, change)

    async def close(self) -> None:
        await self._channel.close()

    def outcome(self, error: Exception, writing: bool) -> str:
        import grpc

        if writing:
            return MAYBE
        code = error.code() if isinstance(error, grpc.RpcError) else None
        return TIMEOUT if code == grpc.StatusCode.DEADLINE_EXCEEDED else ERROR
