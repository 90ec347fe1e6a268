"""The loop: poll, drain, `Node.step`, flush. One thread, one step at a time.

    ROUTER  clients ──▶ drain ┐                     ┌─▶ one frame per client
    PULL    peers   ──▶ drain ┴─▶ step (commits) ───┴─▶ one frame per peer, over a PUSH each

A turn takes whatever has arrived, up to a bound, and answers all of it at once: a busy node forms
larger batches by itself, and both the commit and the frames are paid once per batch.

Nothing that arrives can end the process. Bytes that are no frame of this cluster are counted by
reason and dropped; so are frames of earlier processes of a peer:

  A frame that n2 sent before it was killed may be read after frames of its next life. Frames carry
  the sender's start counter, and a lower one than the highest seen is a ghost - until the higher
  one has been silent for `suspicion_ms`: a node that starts over with an empty disk counts from 1.

Frames that waited in a buffer, through a SIGSTOP or a long commit, are told by their age (`Ages`)
and the core drops what is past its deadline.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import zmq

from dynamo.core.messages import (
    FAILED,
    FAULTS,
    FROM_CLIENT,
    FROM_PEER,
    INVALID,
    STATUS_IS,
    Ages,
    Malformed,
    Message,
    decode_frame,
    encode_frame,
)
from dynamo.core.roster import Roster
from dynamo.server.config import Address, Settings
from dynamo.server.logs import Quiet
from dynamo.server.outlets import NOW, ClientOutlets, batches
from dynamo.server.peers import Peers
from dynamo.server.tidings import SENTENCES, Tidings

log = logging.getLogger("dynamo.server")

# What one turn takes in at most. More waits in the sockets: a step must end before its node's
# probes are overdue, whatever a client sends.
TURN_MESSAGES = 2_000
TURN_CLIENT_BYTES = 8 << 20
TURN_PEER_BYTES = 32 << 20

PEER_FRAME_BYTES_MAX = 256 << 20
CLIENT_FRAME_SPARE_BYTES = 2 << 20

CLIENT_BACKLOG_BYTES = 16 << 20
CLIENTS_BACKLOG_BYTES = 256 << 20
SOCKETS_MAX = 8_192  # ZeroMQ's own limit is 1,023, and there is one per peer
# While a client does not read, its socket is tried again this often.
SLOW_RETRY_MS = 20
STEP_SLOW_MS = 1_000

IN = int(zmq.POLLIN)
EVENTS, MORE = int(zmq.EVENTS), int(zmq.RCVMORE)
NO_TAG = bytes(8)  # a client that has not yet learnt its ring

# Malformed's sentences by how they begin, as names for counters; anything else is "shape".
_REASONS = {
    "shorter": "short",
    "not a dynamo": "foreign",
    "protocol version": "version",
    "checksum": "checksum",
    "undecodable": "body",
    "frame of another": "cluster",
    "unexpected kind": "kind",
}


class StartError(Exception):
    """The node cannot start; the sentence says why and what to do."""


class Core(Protocol):
    """What the loop needs of a node."""

    boot: int
    roster: Roster
    events: list[tuple[Any, ...]]
    stats: Counter[str]

    def step(
        self, now_ms: int, inbox: list[tuple[Any, Message, int]], wall_ms: int
    ) -> list[tuple[Any, Message]]: ...

    def next_due_ms(self) -> int: ...

    def lost(self, peer: str) -> None: ...


# Goes on while the machine is suspended: a frame's age is the difference of two such clocks.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def monotonic_ms() -> int:
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


class Server:
    """The sockets of one node and the loop over them. `turn` is one round, `run` is all of them."""

    def __init__(
        self,
        settings: Settings,
        node: Core,
        watch: Mapping[int, Callable[[], None]] | None = None,
    ) -> None:
        """`watch`: file descriptors that the loop waits for too, and what to call when readable."""
        self._settings = settings
        self._node = node
        self._name = settings.name
        self._tag = settings.cluster.tag
        self._watch = dict(watch or {})
        self._stats = node.stats
        self._quiet = Quiet(log.warning)
        self._ages = Ages()
        self._client_ages = Ages()
        self._running = True
        self._rest: list[tuple[Any, Message, int]] = []  # of a client frame with too many requests
        self._replies: list[tuple[Any, Message]] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
        self._pull = self._socket(zmq.PULL)
        self._router = self._socket(zmq.ROUTER)
        self._tune()
        self._clients = ClientOutlets(
            self._router,
            self._stats,
            bytes_max=CLIENT_BACKLOG_BYTES,
            total_bytes_max=CLIENTS_BACKLOG_BYTES,
            hold_ms=settings.config.timeout_ms_max,
        )
        self._tidings = Tidings(node.roster)
        self._peers = Peers(node.roster, self._connect, self._stats, settings.config.suspicion_ms)
        # Peers before clients: what they send completes requests that are already under way.
        self._fixed: list[tuple[Any, int]] = [(self._pull, IN), (self._router, IN)]
        self._fixed += [(descriptor, IN) for descriptor in self._watch]

    # --- sockets ----------------------------------------------------------------------------------

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
        # A peer that hangs with its machine up is noticed by these; one whose loop hangs is not,
        # because ZeroMQ's own thread answers. That is what the core's probes are for.
        socket.setsockopt(zmq.HEARTBEAT_IVL, 1_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5_000)
        socket.setsockopt(zmq.HEARTBEAT_TTL, 10_000)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        return socket

    def _tune(self) -> None:
        config = self._settings.config
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.MAXMSGSIZE, config.value_bytes_max + CLIENT_FRAME_SPARE_BYTES)
        self._router.setsockopt(zmq.BACKLOG, 512)
        # In frames per client, and a frame may be as large as a value.
        self._router.setsockopt(zmq.RCVHWM, 64)
        self._router.setsockopt(zmq.SNDHWM, 64)
        self._pull.setsockopt(zmq.MAXMSGSIZE, PEER_FRAME_BYTES_MAX)
        self._pull.setsockopt(zmq.RCVHWM, 256)

    def _connect(self, address: Address) -> zmq.Socket[bytes]:
        socket = self._socket(zmq.PUSH)
        socket.setsockopt(zmq.SNDHWM, 256)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        # No slower than probes: a peer that is back is probed, and found, once per probe_ms.
        slowest = min(1_000, max(50, self._settings.config.probe_ms))
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, slowest)
        try:
            socket.connect(f"tcp://{address}")
        except zmq.ZMQError:
            # A record may name any host; one that cannot be is as good as one where nobody lives.
            self._quiet.say("a node has an address that is none", "address", monotonic_ms())
        return socket

    def open(self) -> None:
        """Bind both ports. Raises StartError if one cannot be had."""
        settings = self._settings
        for what, socket, address in (
            ("client", self._router, settings.client),
            ("peer", self._pull, settings.peer),
        ):
            try:
                socket.bind(f"tcp://{address}")
            except zmq.ZMQError as error:
                if error.errno == zmq.EADDRINUSE:
                    raise StartError(
                        f"{what} port {address} is in use by another process: stop that one, or "
                        f"choose another port for node.{what}, and in [[members]] if the file has "
                        "them"
                    ) from None
                raise StartError(f"cannot listen on {address}: {error.strerror}") from None

    def close(self, linger_ms: int = 0) -> None:
        """Close all sockets, giving answers that are on their way `linger_ms` to leave."""
        self._context.destroy(linger=linger_ms)

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until `stop`. Whatever the core raises goes through; nothing is sent then."""
        while self._running:
            self.turn()

    def stop(self) -> None:
        """End `run` after the turn under way."""
        self._running = False

    def turn(self, wait_ms: int | None = None) -> None:
        """Wait for input or the next due time (at most `wait_ms`), then one step, then flush."""
        inbox: list[tuple[Any, Message, int]] = []
        ready = zmq.zmq_poll(self._fixed + self._peers.polled, self._patience_ms(wait_ms))
        now_ms = monotonic_ms()
        clients, self._rest = self._rest, []
        for source, _ in ready:
            if source is self._pull:
                self._drain_peers(inbox, now_ms)
            elif source is self._router:
                if not clients:
                    self._drain_clients(clients, now_ms)
            elif type(source) is int:
                self._watch[source]()
            else:
                self._peers.retry(source, now_ms)
        if len(clients) > TURN_MESSAGES:
            self._rest = clients[TURN_MESSAGES:]
            del clients[TURN_MESSAGES:]
        inbox += clients
        outbox = self._node.step(now_ms, inbox, time.time_ns() // 1_000_000)
        sent_ms = monotonic_ms()
        if sent_ms - now_ms > STEP_SLOW_MS:
            self._quiet.say("a step was slow", "slow", sent_ms, ms=sent_ms - now_ms)
        if self._replies:
            outbox += self._replies
            self._replies = []
        self._peers.follow()
        self._flush(outbox, sent_ms)
        if self._node.events:
            self._log_events()
        for level, text, data in self._tidings.news():
            log.log(level, text, extra={"data": data})

    def _patience_ms(self, wait_ms: int | None) -> int:
        if self._rest:
            return 0
        patience = max(0, self._node.next_due_ms() - monotonic_ms())
        if self._clients.slow:
            patience = min(patience, SLOW_RETRY_MS)
        return patience if wait_ms is None else min(patience, wait_ms)

    # --- in ---------------------------------------------------------------------------------------

    def _drain_peers(self, inbox: list[tuple[Any, Message, int]], now_ms: int) -> None:
        socket, budget = self._pull, TURN_PEER_BYTES
        get = cast("Callable[[int], int]", socket.get)
        try:
            while budget > 0 and len(inbox) < TURN_MESSAGES:
                frame = socket.recv(NOW)
                budget -= len(frame)
                if get(MORE):
                    budget -= self._skip_parts(socket)
                    self._refuse("peer", "parts", "a frame of several parts", now_ms)
                else:
                    self._take_from_peer(frame, inbox, now_ms)
                if not get(EVENTS) & IN:
                    return
        except zmq.Again:
            return

    def _drain_clients(self, inbox: list[tuple[Any, Message, int]], now_ms: int) -> None:
        socket, budget = self._router, TURN_CLIENT_BYTES
        get = cast("Callable[[int], int]", socket.get)
        try:
            while budget > 0 and len(inbox) < TURN_MESSAGES:
                client = socket.recv(NOW)
                frame = socket.recv(NOW) if get(MORE) else b""
                budget -= len(frame)
                if get(MORE):
                    budget -= self._skip_parts(socket)
                    self._refuse("client", "parts", "a frame of several parts", now_ms)
                else:
                    self._take_from_client(client, frame, inbox, now_ms)
                if not get(EVENTS) & IN:
                    return
        except zmq.Again:
            return

    def _skip_parts(self, socket: zmq.Socket[bytes]) -> int:
        size = 0
        while socket.get(MORE):
            size += len(socket.recv(NOW))
        return size

    def _take_from_peer(
        self, frame: bytes, inbox: list[tuple[Any, Message, int]], now_ms: int
    ) -> None:
        try:
            sender, boot, sent_ms, messages = decode_frame(frame, self._tag, FROM_PEER)
        except Malformed as error:
            self._refuse("peer", "", str(error), now_ms)
            return
        if not self._peers.may_speak(sender):
            self._refuse("peer", "stranger", f"sender {sender[:64]!r} is no other node", now_ms)
            return
        if sender in self._peers.blocked:
            self._stats["frames_blocked"] += 1
            return
        if self._peers.is_ghost(sender, boot, now_ms):
            self._stats["frames_of_ghosts"] += 1
            return
        born_ms = now_ms - self._ages.age_ms(sender, boot, sent_ms, now_ms)
        inbox += [(sender, message, born_ms) for message in messages]

    def _take_from_client(
        self, client: bytes, frame: bytes, inbox: list[tuple[Any, Message, int]], now_ms: int
    ) -> None:
        try:
            sender, boot, sent_ms, messages = self._decode_client(frame)
        except Malformed as error:
            self._refuse("client", "", str(error), now_ms)
            return
        born_ms = now_ms - self._client_ages.age_ms(sender[:64], boot, sent_ms, now_ms)
        for message in messages:
            if message[0] == FAULTS:
                self._on_faults(client, message)
            else:
                inbox.append((client, message, born_ms))

    def _decode_client(self, frame: bytes) -> tuple[str, int, int, list[Message]]:
        try:
            return decode_frame(frame, self._tag, FROM_CLIENT)
        except Malformed as error:
            if not str(error).startswith("frame of another"):
                raise
        return decode_frame(frame, NO_TAG, FROM_CLIENT)

    def _refuse(self, port: str, reason: str, text: str, now_ms: int) -> None:
        """Count bytes that will not do, and say so now and then."""
        if not reason:
            found = (name for start, name in _REASONS.items() if text.startswith(start))
            reason = next(found, "shape")
        self._stats[f"refused_{reason}"] += 1
        self._quiet.say(f"refused a frame: {text}", f"{port} {reason}", now_ms)

    def _on_faults(self, client: bytes, message: Message) -> None:
        """Cut this node off from the named peers, both ways, until told otherwise."""
        req, names = message[1], message[3]
        if self._settings.faults:
            blocked = frozenset(name for name in names if type(name) is str)
            self._peers.block(blocked)
            log.warning("faults set", extra={"data": {"blocked": sorted(blocked)}})
            self._replies.append((client, (STATUS_IS, req, b"{}")))
        else:
            text = "this node takes no faults: they need [node] faults = true"
            self._replies.append((client, (FAILED, req, INVALID, text, 0, 0, [], [], 0, 0)))

    # --- out --------------------------------------------------------------------------------------

    def _flush(self, outbox: list[tuple[Any, Message]], now_ms: int) -> None:
        groups: dict[Any, list[Message]] = {}
        for receiver, message in outbox:
            group = groups.get(receiver)
            if group is None:
                groups[receiver] = [message]
            else:
                group.append(message)
        for receiver, group in groups.items():
            if type(receiver) is bytes:
                self._send_client(receiver, group, now_ms)
            else:
                self._send_peer(receiver, group, now_ms)
        if self._clients.slow:
            self._clients.retry(now_ms)
        self._peers.tidy(now_ms)

    def _send_client(self, client: bytes, messages: list[Message], now_ms: int) -> None:
        for batch in batches(messages):
            if self._clients.slow and self._clients.full(client):
                self._stats["frames_dropped_full"] += 1
                continue
            frame = encode_frame(self._tag, self._name, self._node.boot, now_ms, batch)
            self._clients.send(client, frame, now_ms)

    def _send_peer(self, name: str, messages: list[Message], now_ms: int) -> None:
        outlet = self._peers.outlet(name, now_ms)
        if outlet is None:
            self._stats["frames_blocked"] += 1
            return
        for batch in batches(messages):
            frame = encode_frame(self._tag, self._name, self._node.boot, now_ms, batch)
            if len(frame) > PEER_FRAME_BYTES_MAX:
                # The receiver would close the connection, and lose innocent frames with this one.
                self._quiet.say("dropped a frame beyond the limit", "huge", now_ms, peer=name)
            elif not outlet.send(frame, now_ms):
                if not outlet.told:
                    outlet.told = True
                    self._node.lost(name)
                self._peers.wait(outlet)

    # --- the log ----------------------------------------------------------------------------------

    def _log_events(self) -> None:
        for event in self._node.events:
            level, text, field = SENTENCES.get(event[0], (logging.WARNING, str(event[0]), "about"))
            about = ", ".join(map(str, event[1:]))
            if event[0] == "malformed":
                self._quiet.say("refused a message", "malformed", monotonic_ms(), about=about)
            else:
                log.log(level, text, extra={"data": {field: about} if field else {}})
        self._node.events.clear()
