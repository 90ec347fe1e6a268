"""Questions to running nodes over their client port: one request, one answer, no retries.

What `local` and the commands for operators ask is rare and small, so every call opens its own
sockets and closes them: an answer that comes too late for one call can never be taken for the
answer to the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import zmq

from dynamo.core.messages import (
    CHANGE,
    CHANGED,
    FAILED,
    FAULTS,
    RING,
    STATUS,
    STATUS_IS,
    TO_CLIENT,
    Malformed,
    Message,
    decode_frame,
    encode_frame,
)
from dynamo.server.config import Address

REQ = 1
NO_TAG = bytes(8)


_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}  # process id -> its own; forks differ


def _context() -> zmq.Context[zmq.Socket[bytes]]:
    """The one context of this process for questions, which is never ended.

    History: it was ended with the ring that asked. A signal had come between the making of a socket
    and its being noted for closing, the end waited for that socket, and a demo hung up stayed.
    """
    mine = os.getpid()
    return _contexts.get(mine) or _contexts.setdefault(mine, zmq.Context())


class Admin:
    """Asks nodes by address. Threads may share one, and nothing has to be closed."""

    def status(
        self, nodes: Mapping[str, Address], what: str, timeout: float
    ) -> dict[str, dict[str, Any]]:
        """STATUS of every node that answers in `timeout` seconds.

        For what may be asked see `dynamo.core.inspection`.
        """
        return self._json(self.ask(nodes, (STATUS, REQ, _ms(timeout), what), timeout))

    def faults(
        self, blocked: Mapping[str, list[str]], nodes: Mapping[str, Address], timeout: float
    ) -> list[str]:
        """Tell each node whom to ignore; the names of those that confirmed it."""
        messages: dict[str, Message] = {
            name: (FAULTS, REQ, _ms(timeout), blocked.get(name, [])) for name in nodes
        }
        return list(self._json(self.ask_each(nodes, messages, timeout)))

    def change(
        self, address: Address, verb: str, body: Mapping[str, Any], timeout: float
    ) -> tuple[bool, dict[str, Any]] | None:
        """Ask one node to change the ring (see `dynamo.core.changes`): whether it did, and how.

        What is refused says "error", and in "try" which command may be meant. None: no answer in
        `timeout` seconds, so it may have been done.
        """
        message = (CHANGE, REQ, _ms(timeout), verb, msgspec.json.encode(body))
        answer = self.ask({"": address}, message, timeout).get("")
        if answer is None:
            return None
        if answer[0] != CHANGED:
            why = answer[3] if answer[0] == FAILED else "it answers something else"
            return False, {"error": f"{address} did not take the request: {why}", "try": ""}
        return bool(answer[2]), msgspec.json.decode(answer[3], type=dict[str, Any])

    def ring(self, nodes: Mapping[str, Address], timeout: float) -> dict[str, Message]:
        """RING_IS of the first node that answers; none if none does."""
        return self.ask(nodes, (RING, REQ, _ms(timeout), 0), timeout, enough=1)

    def ask(
        self, nodes: Mapping[str, Address], message: Message, timeout: float, enough: int = 0
    ) -> dict[str, Message]:
        """Send `message` to all nodes at once; the answers that came in `timeout` seconds.

        `enough`: return as soon as so many came, 0 for all.
        """
        return self.ask_each(nodes, dict.fromkeys(nodes, message), timeout, enough)

    def ask_each(
        self,
        nodes: Mapping[str, Address],
        messages: Mapping[str, Message],
        timeout: float,
        enough: int = 0,
    ) -> dict[str, Message]:
        sockets: dict[zmq.Socket[bytes], str] = {}
        try:
            poller = zmq.Poller()
            for name, address in nodes.items():
                socket = self._connect(address)
                sockets[socket] = name
                poller.register(socket, zmq.POLLIN)
                socket.send(_frame(messages[name]))
            return _collect(poller, sockets, time.monotonic() + timeout, enough or len(sockets))
        finally:
            for socket in sockets:
                socket.close(linger=0)

    def _connect(self, address: Address) -> zmq.Socket[bytes]:
        socket = _context().socket(zmq.DEALER)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        socket.connect(f"tcp://{address}")
        return socket

    @staticmethod
    def _json(answers: Mapping[str, Message]) -> dict[str, dict[str, Any]]:
        return {
            name: msgspec.json.decode(answer[2], type=dict[str, Any])
            for name, answer in answers.items()
            if answer[0] == STATUS_IS
        }


def _ms(timeout: float) -> int:
    return max(1, int(timeout * 1000))


def _frame(message: Message) -> bytes:
    # A sender of its own per frame: the age of a frame is judged by earlier ones of its sender.
    return encode_frame(NO_TAG, os.urandom(8).hex(), 0, time.monotonic_ns() // 1_000_000, [message])


def _collect(
    poller: zmq.Poller, sockets: Mapping[zmq.Socket[bytes], str], deadline: float, enough: int
) -> dict[str, Message]:
    found: dict[str, Message] = {}
    while len(found) < enough:
        left_ms = int((deadline - time.monotonic()) * 1000)
        ready = poller.poll(max(0, left_ms))
        for socket, _ in ready:
            try:
                *_, messages = decode_frame(socket.recv(), b"", TO_CLIENT)
            except Malformed:
                continue
            if messages and messages[0][1] == REQ:
                found[sockets[socket]] = messages[0]
        if not ready and left_ms <= 0:
            break
    return found
