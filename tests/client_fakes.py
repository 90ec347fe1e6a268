"""Stand-ins for nodes, for the tests of the client.

`ring_is` and the other makers build answers by hand; `FakeRing` is a thread with one ROUTER per
node that keeps values in a dict and records what arrives, frame by frame.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import zmq

from dynamo.core import messages as m
from dynamo.core.messages import Message

TAG = b"fakering"


def ring_is(
    req: int,
    members: list[tuple[str, str, int]],
    *,
    version: int = 1,
    n: int = 3,
    partitions: int = 8,
    owners: list[list[int]] | None = None,
    limits: tuple[int, int, int] = (1024, 4 << 20, 10_000),
) -> Message:
    """A RING_IS. `owners[arc]` are places in `members`; without it all arcs go 0, 1, 2."""
    n = min(n, len(members))
    table = owners or [list(range(n))] * partitions
    packed = b"".join(
        bytes([len(arc)]) + b"".join(place.to_bytes(2, "big") for place in arc) for arc in table
    )
    listed = [list(member) for member in members]
    return (m.RING_IS, req, "fake", version, n, partitions, 2, 2, listed, packed, list(limits))


def failed(
    req: int,
    code: int,
    text: str = "because",
    *,
    required: int = 2,
    received: int = 1,
    acked: tuple[str, ...] = (),
    silent: tuple[str, ...] = (),
    maybe: int = 0,
    retry_after_ms: int = 0,
) -> Message:
    """A FAILED."""
    numbers = (required, received, list(acked), list(silent), maybe, retry_after_ms)
    return (m.FAILED, req, code, text, *numbers)


class FakeRing:
    """Nodes n1..nk on loopback in one thread. `answer(node, message)` may replace the default.

    It returns the answer, None for silence, or NotImplemented for the default: an ordinary store
    in which every put supersedes what was there.
    """

    def __init__(self, nodes: int = 3, answer: Callable[[str, Message], Any] | None = None) -> None:
        self.answer = answer
        self.frames: list[tuple[str, list[Message]]] = []  # without questions about the ring
        self.values: dict[bytes, tuple[int, bytes]] = {}
        self._context = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self.members: list[tuple[str, str, int]] = []
        for i in range(1, nodes + 1):
            socket = self._context.socket(zmq.ROUTER)
            socket.setsockopt(zmq.LINGER, 0)
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            self._sockets[f"n{i}"] = socket
            self.members.append((f"n{i}", "127.0.0.1", port))
        self._kill: list[str] = []
        self._stopping = False
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return "dynamo://" + ",".join(f"{host}:{port}" for _, host, port in self.members)

    def url_of(self, name: str) -> str:
        return next(f"dynamo://{host}:{port}" for n, host, port in self.members if n == name)

    def kill(self, name: str) -> None:
        """Close a node's port; returns when it is closed."""
        self._changed.clear()
        self._kill.append(name)
        assert self._changed.wait(5)

    def __enter__(self) -> FakeRing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        poller = zmq.Poller()
        for socket in self._sockets.values():
            poller.register(socket, zmq.POLLIN)
        while not self._stopping:
            ready = dict(poller.poll(5))
            for name, socket in list(self._sockets.items()):
                if socket in ready:
                    self._drain(name, socket)
            while self._kill:
                socket = self._sockets.pop(self._kill.pop())
                poller.unregister(socket)
                socket.close(0)
                self._changed.set()
        for socket in self._sockets.values():
            socket.close(0)
        self._context.term()

    def _drain(self, name: str, socket: zmq.Socket[bytes]) -> None:
        while socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            client, frame = socket.recv_multipart()
            _, _, sent_ms, messages = m.decode_frame(frame, b"", m.FROM_CLIENT)
            asked = [message for message in messages if message[0] != m.RING]
            if asked:
                self.frames.append((name, asked))
            answers = [a for a in (self._one(name, message) for message in messages) if a]
            if answers:
                out = m.encode_frame(TAG, name, 1, sent_ms, answers)
                socket.send_multipart([client, out])

    def _one(self, name: str, message: Message) -> Message | None:
        if self.answer is not None:
            given = self.answer(name, message)
            if given is not NotImplemented:
                return given
        kind, req = message[:2]
        if kind == m.RING:
            return ring_is(req, self.members)
        if kind == m.PUT:
            key, flags, value = message[3], message[12], message[14]
            stamp = self.values.get(key, (0, b""))[0] + 1
            self.values[key] = (stamp, b"" if flags & m.DELETE else value)
            return (m.PUT_OK, req, b"ctx%d" % stamp, [], [name], [])
        if kind == m.GET:
            stamp, value = self.values.get(message[3], (0, b""))
            return (m.GET_OK, req, b"ctx%d" % stamp, [[stamp, value]] if value else [], [name])
        raise AssertionError(f"the client sends no {m.NAMES[kind]}")
