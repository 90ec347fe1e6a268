"""ZeroMQ sockets under a session: one DEALER per node, plain, never blocking.

Both drivers call the same few functions, always from one thread at a time:

    flush()      hand over whatever the session wants sent
    arrived(a)   the descriptor of the socket to `a` is readable: take in what is there
    tick()       what is due

Things learnt the hard way:
  * A ZeroMQ descriptor is edge-triggered, and sending may swallow its edge. So EVENTS is read
    again after every send, until nothing is left to receive.
  * IMMEDIATE refuses a frame while there is no connection. Without it the frame would be kept and
    delivered when the node comes back, long after its deadline.
  * A connection that breaks takes POLLOUT with it, and the descriptor tells: in-flight requests
    move to other owners at once instead of waiting out their patience.
  * LINGER 0: a client that is closed must not hang in exit for the sake of unsent frames.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from dynamo.client.deadlines import now_ms
from dynamo.client.origin import Lineage
from dynamo.client.session import Session

# Reconnecting: 20 ms after a loss, doubling to 500 ms while the node stays away.
RECONNECT_MS, RECONNECT_MS_MAX = 20, 500
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 1_000, 3_000
# Frames, not bytes: the session bounds bytes. Reached only by a node that takes nothing.
FRAMES_MAX = 4_096
MESSAGE_BYTES_MAX = 512 << 20
SOCKETS_MAX = 16_384  # of all clients of a process
DRAIN_MAX = 64  # frames from one node before others get a turn

_DONTWAIT = int(zmq.DONTWAIT)
_EVENTS = int(zmq.EVENTS)
_IN = int(zmq.POLLIN)
_OUT = int(zmq.POLLOUT)


_contexts: list[tuple[int, zmq.Context[zmq.Socket[bytes]]]] = []  # (forks so far, context)


def shared_context() -> zmq.Context[zmq.Socket[bytes]]:
    """The one ZeroMQ context of this process, which is never ended; a fork begins with its own.

    History: with a context per client, a client that was dropped without `close` hung in the
    collector, whose order had the context wait for sockets that nobody would close any more.
    """
    if not _contexts or _contexts[-1][0] != Lineage.forks:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
        _contexts.append((Lineage.forks, context))  # the parent's stays referenced: not ours to end
    return _contexts[-1][1]


class Wires:
    """The sockets of one client. `opened` and `closing` tell the driver about descriptors."""

    def __init__(
        self,
        session: Session,
        opened: Callable[[str, int], None],
        closing: Callable[[int], None],
    ) -> None:
        self.session = session
        self._opened = opened
        self._closing = closing
        self._context = shared_context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._up: dict[str, None] = {}  # a frame can be handed over
        self._ring: object = None  # the ring that the sockets were opened for
        self._leaving: dict[str, None] = {}  # not in it, and closed when nothing waits for them

    def flush(self) -> None:
        """Hand over everything the session has, and take in what came meanwhile."""
        session = self.session
        while True:
            now = now_ms()
            frames = session.outgoing(now)
            if not frames:
                break
            for address, messages in frames:
                socket = self._sockets.get(address) or self._open(address)
                try:
                    socket.send(session.frame(now, messages), _DONTWAIT)
                except zmq.Again:
                    session.unsent(now, address, messages)
            for address in dict.fromkeys(address for address, _ in frames):
                self.arrived(address)
        if session.ring is not self._ring:
            self._follow_ring()
        if self._leaving:
            self._let_go()

    def arrived(self, address: str) -> bool:
        """Take in what a node has sent, and how its connection is. True if there is more."""
        socket = self._sockets.get(address)
        if socket is None:
            return False
        for _ in range(DRAIN_MAX):
            events = int(socket.getsockopt(_EVENTS))
            if not events & _IN:
                self._note(address, bool(events & _OUT))
                return False
            self.session.receive(now_ms(), address, socket.recv(_DONTWAIT))
        return True

    def tick(self) -> int | None:
        """Do what is due. Returns how many ms later something is due, None for never."""
        session = self.session
        now = now_ms()
        due = session.next_due_ms()
        if due <= now:
            session.tick(now)
            self.flush()
            due = session.next_due_ms()
        return max(due - now, 1) if due < 1 << 60 else None

    def _note(self, address: str, up: bool) -> None:
        if up == (address in self._up):
            return
        if up:
            self._up[address] = None
            self.session.reachable(now_ms(), address)
        else:
            del self._up[address]
            self.session.lost(now_ms(), address)

    def _open(self, address: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),
            (zmq.SNDHWM, FRAMES_MAX),
            (zmq.RCVHWM, FRAMES_MAX),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
            (zmq.HANDSHAKE_IVL, HEARTBEAT_TIMEOUT_MS),
            (zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX),
            (zmq.IPV6, int(address.startswith("["))),
        ):
            socket.setsockopt(option, value)
        socket.connect(f"tcp://{address}")
        self._sockets[address] = socket
        self._opened(address, int(socket.getsockopt(zmq.FD)))
        return socket

    def _follow_ring(self) -> None:
        """Connect to all members ahead of their first request."""
        self._ring = self.session.ring
        wanted = dict.fromkeys(self.session.addresses())
        for address in wanted:
            if address not in self._sockets:
                self._open(address)
        self._leaving = {address: None for address in self._sockets if address not in wanted}

    def _let_go(self) -> None:
        """Close what leads to nodes outside the ring, once nobody waits for their answers."""
        for address in [a for a in self._leaving if self.session.let_go(a)]:
            del self._leaving[address]
            self._close(address)

    def _close(self, address: str) -> None:
        socket = self._sockets.pop(address)
        self._up.pop(address, None)
        self._closing(int(socket.getsockopt(zmq.FD)))
        socket.close(0)

    def close(self) -> None:
        """Close everything; unsent frames are dropped."""
        for address in list(self._sockets):
            self._close(address)
