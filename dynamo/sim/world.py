"""A ring in one thread: nodes, clients, disks and a network under virtual time.

The world is a heap of (at_ms, ordinal, call). Nothing else moves time, so thirty simulated seconds
take as long as the work in them. The nodes are the ones of production; what is replaced is the
shell around them: frames, clocks, disks, and death.

    deliver   a frame reaches a host: queued until the host's next turn
    turn      a host takes its queue through `Node.step`, and its outbox becomes frames
    wake      a client looks at its own deadlines

A step can be cut short before its commit, after it, or while sending (see `machine`). Disks survive
the death of their process; only `wipe` loses one, and `take_back` loses what it last took.

Everything that happens goes into `digest`: the same seed gives the same one in every process.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any, Protocol

import msgspec

from dynamo.core import dvv, ring
from dynamo.core import messages as m
from dynamo.core.config import Config, quorum
from dynamo.core.messages import Message
from dynamo.core.node import Cluster, Node
from dynamo.core.spaces import HINTS, IDS, OBJECTS
from dynamo.sim.machine import (
    AFTER_COMMIT,
    BEFORE_COMMIT,
    NEVER_MS,
    WHILE_SENDING,
    Disk,
    Host,
    PowerCut,
    Snapshot,
)
from dynamo.sim.network import Delivery, Frame, Network
from dynamo.sim.oracle import Oracle, Write

CLUSTER = Cluster("sim", b"a secret of the simulated ring.")
WALL_ORIGIN_MS = 1_600_000_000_000

_encode = msgspec.msgpack.Encoder().encode


class Endpoint(Protocol):
    """A client as the world sees it."""

    name: str

    def receive(self, now_ms: int, frame: Frame) -> None: ...

    def wake(self, now_ms: int) -> None: ...

    def next_due_ms(self) -> int: ...

    def take_outgoing(self) -> list[tuple[str, list[Message]]]: ...

    def unsent(self, now_ms: int, node: str, messages: list[Message]) -> None:
        """There is no connection to the node: nobody will ever see these."""

    def connection(self, now_ms: int, node: str, up: bool) -> None:
        """The connection to a node came up, or broke."""


class World:
    """Hosts, clients and network under one virtual clock."""

    def __init__(
        self, seed: int, names: list[str], config: Config, network: Network, oracle: Oracle,
        *, encode: bool = False, split: bool = False, notice_lost: bool = True, work_ms: int = 0,
        check_rows_every: int = 16,
    ) -> None:  # fmt: skip
        self.seed = seed
        self.now_ms = 0
        self.config = config
        self.network = network
        self.oracle = oracle
        self.members = [
            ring.Member(name, "127.0.0.1", 7001 + i, 8001 + i) for i, name in enumerate(names)
        ]
        # As clients know the nodes: by address.
        self.addresses = {f"{x.host}:{x.client_port}": x.name for x in self.members}
        self.address_of = {name: address for address, name in self.addresses.items()}
        self.table = ring.Table(self.members, config.n, config.partitions)
        self._rng = random.Random(f"{seed}/hosts")
        self.hosts = {name: self._host(name) for name in names}
        self.clients: dict[str, Endpoint] = {}
        self.uids: dict[bytes, str] = {}  # put id -> the write it belongs to
        self.puts: dict[tuple[str, int], tuple[Write, bytes, bytes, int]] = {}
        self.steps = 0
        self.events = 0
        self.broke_ms = -1  # when the first promise was seen to be broken
        self.marks: dict[str, int] = {}
        self.log: list[tuple[Any, ...]] = []
        self.logging = False
        self._encode_frames = encode
        self._split = split
        self._notice_lost = notice_lost
        self._work_ms = work_ms
        self._check_rows_every = check_rows_every
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._ordinal = 0
        self._wakes: dict[str, int] = {}
        self._hash = blake2b(digest_size=16)

    def _host(self, name: str) -> Host:
        draw = self._rng.randrange
        return Host(name, draw(1, 1 << 40), WALL_ORIGIN_MS + draw(-5_000, 5_000))

    @property
    def digest(self) -> str:
        """A hash of everything that happened so far."""
        return self._hash.hexdigest()

    # --- time -----------------------------------------------------------------------------------

    def at(self, at_ms: int, call: Callable[..., None], *args: Any) -> None:
        """Have `call(*args)` made at `at_ms`, after what is already due then."""
        self._ordinal += 1
        heappush(self._heap, (max(at_ms, self.now_ms), self._ordinal, call, args))

    def run_until(self, until_ms: int) -> None:
        """Let everything happen that is due up to `until_ms`."""
        heap, violations = self._heap, self.oracle.violations
        while heap and heap[0][0] <= until_ms:
            at_ms, _, call, args = heappop(heap)
            self.now_ms = at_ms
            self.events += 1
            call(*args)
            if violations and self.broke_ms < 0:
                self.broke_ms = at_ms
        self.now_ms = max(self.now_ms, until_ms)

    def mark(self, what: str, count: int = 1) -> None:
        """Count a state worth reaching (a `sometimes` point)."""
        self.marks[what] = self.marks.get(what, 0) + count

    # --- frames ---------------------------------------------------------------------------------

    def _transmit(self, source: str, boot: int, sent_ms: int, batches: dict[str, Any]) -> None:
        for target, messages in batches.items():
            for batch in [[message] for message in messages] if self._split else (messages,):
                body: Any = batch
                if self._encode_frames:
                    body = m.encode_frame(CLUSTER.tag, source, boot, sent_ms, batch)
                frame = (source, boot, sent_ms, body)
                again = source in self.hosts and not any(x[0] == m.FORWARD for x in batch)
                self.post(self.network.send(self.now_ms, source, target, frame, again))

    def post(self, deliveries: list[Delivery]) -> None:
        """Put what the network will deliver into the future."""
        for at_ms, source, target, frame in deliveries:
            self.at(at_ms, self._deliver, source, target, frame)

    def _deliver(self, source: str, target: str, frame: Frame) -> None:
        host = self.hosts.get(target)
        if host is None:
            client = self.clients[target]
            client.receive(self.now_ms, self._open(frame, m.TO_CLIENT))
            self.attend(client)
        elif host.node is not None:
            host.queue.append((source, frame))
            self._turn_at(host, self.now_ms + self._work_ms)

    def _open(self, frame: Frame, allowed: Any) -> Frame:
        if self._encode_frames:
            return m.decode_frame(frame[3], CLUSTER.tag, allowed)
        return frame

    # --- hosts ----------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start the process of a host over the disk it has; harmless if it runs."""
        host = self.hosts[name]
        if host.node is not None:
            return
        host.lives += 1
        rng = random.Random(f"{self.seed}/node/{name}/{host.lives}")
        try:
            host.node = Node(
                self.config, name, self.members, CLUSTER, host.disk, rng,
                self.now_ms + host.clock_ms,
            )  # fmt: skip
        except PowerCut:
            self.kill(name)
            self.at(self.now_ms + host.down_ms, self.start, name)
            return
        host.boot = host.node.boot
        host.ages = m.Ages()
        host.boots = {}
        host.paused = False
        self.record("start", name)
        self._turn_at(host, self.now_ms)
        self._tell_clients(name, True)

    def _tell_clients(self, name: str, up: bool) -> None:
        # As a broken socket tells: only what a connection can know, so not of partitions.
        if self._notice_lost:
            for client in self.clients.values():
                self.at(self.now_ms + 1, self._tell, client, name, up)

    def _tell(self, client: Endpoint, name: str, up: bool) -> None:
        client.connection(self.now_ms, name, up)
        self.attend(client)

    def kill(self, name: str) -> None:
        """The process is gone, with all it had in memory; its disk has what was committed."""
        host = self.hosts[name]
        if host.node is not None:
            self._note_stats(host.node)
            self.record("killed", name)
            self._tell_clients(name, False)
        host.node = None
        host.doom = ""
        host.disk.doomed = False
        host.disk.crash()
        host.queue.clear()
        host.turn_ms = NEVER_MS
        host.paused = False

    def wipe(self, name: str) -> None:
        """The disk is lost; the host comes back empty, under its old name."""
        self.kill(name)
        self.hosts[name].disk = Disk()
        self.hosts[name].lost_ms = self.now_ms
        self.record("wiped", name)

    def take_back(self, name: str, snapshot: Snapshot, told: bool) -> None:
        """The disk goes back to what it was; `told`: the store knows that it ended badly."""
        self.kill(name)
        host = self.hosts[name]
        host.disk.restore(snapshot)
        host.disk.unclean = told
        host.lost_ms = self.now_ms
        self.record("taken back", name, told)

    def pause(self, name: str) -> None:
        self.hosts[name].paused = True

    def resume(self, name: str) -> None:
        host = self.hosts[name]
        if host.paused:
            host.paused = False
            host.turn_ms = NEVER_MS
            self._turn_at(host, self.now_ms)

    def doom(self, name: str, point: str, down_ms: int) -> None:
        """Let the next step that writes something die at `point`, and restart the node later."""
        host = self.hosts[name]
        host.doom = point
        host.down_ms = down_ms
        host.disk.doomed = point == BEFORE_COMMIT

    def _turn_at(self, host: Host, at_ms: int) -> None:
        if at_ms < host.turn_ms:
            host.turn_ms = at_ms
            self.at(at_ms, self._turn, host, host.lives)

    def _turn(self, host: Host, life: int) -> None:
        node = host.node
        if node is None or host.paused or life != host.lives or host.turn_ms != self.now_ms:
            return
        host.turn_ms = NEVER_MS
        clock_ms = self.now_ms + host.clock_ms
        inbox = self._inbox(host, clock_ms)
        host.disk.wrote = False
        try:
            outbox = node.step(clock_ms, inbox, self.now_ms + host.wall_ms)
        except PowerCut:
            self.mark("died before commit")
            self._die(host)
            return
        self.steps += 1
        self._examine(host, node)
        self.record("step", host.name, len(inbox), outbox)
        self._send(host, node, outbox, clock_ms)
        if host.node is node:
            due_ms = node.next_due_ms() - host.clock_ms
            self._turn_at(host, max(due_ms, self.now_ms + 1))

    def _inbox(self, host: Host, clock_ms: int) -> list[tuple[Any, Message, int]]:
        inbox: list[tuple[Any, Message, int]] = []
        for source, raw in host.queue:
            client = source in self.clients
            sender, boot, sent_ms, messages = self._open(
                raw, m.FROM_CLIENT if client else m.FROM_PEER
            )
            if not client and self._is_ghost(host, source, boot, clock_ms):
                continue
            born_ms = clock_ms - host.ages.age_ms(sender, boot, sent_ms, clock_ms)
            token = source.encode() if client else source
            inbox += [(token, message, born_ms) for message in messages]
        host.queue.clear()
        return inbox

    def _is_ghost(self, host: Host, peer: str, boot: int, clock_ms: int) -> bool:
        """As the server does: a frame of an earlier process of a peer that was heard just now."""
        seen, heard_ms = host.boots.get(peer, (boot, clock_ms))
        earlier = boot >> m.LIFE_BITS < seen >> m.LIFE_BITS
        if earlier and clock_ms - heard_ms < self.config.suspicion_ms:
            self.mark("frame of a ghost")
            return True
        host.boots[peer] = (boot, clock_ms)
        return False

    def _examine(self, host: Host, node: Node) -> None:
        assert not host.disk.dirty, "N1: a step leaves nothing uncommitted"
        node.check()
        if self.steps % self._check_rows_every == 0:
            node.check_rows()

    def _send(
        self, host: Host, node: Node, outbox: list[tuple[Any, Message]], clock_ms: int
    ) -> None:
        dies = host.doom if host.doom and host.disk.wrote else ""
        if dies == AFTER_COMMIT:
            self.mark("died after commit")
            self._die(host)
            return
        batches: dict[str, list[Message]] = {}
        for target, message in outbox:
            m.check(message)
            if type(target) is bytes:
                target = target.decode()
                self._before_answer(target, message)
            elif message[0] == m.FORWARD and message[2][0] == m.PUT:
                # Should the owner stay silent, another one gets the same put.
                self.oracle.writes[self.uids[message[2][8]]].attempts += 1
            batches.setdefault(target, []).append(message)
        if dies == WHILE_SENDING:
            batches = {to: batch for to, batch in batches.items() if self._rng.random() < 0.5}
        self._transmit(host.name, node.boot, clock_ms, batches)
        if dies:
            self.mark("died while sending")
            self._die(host)
        elif self._notice_lost:
            for target in batches:
                peer = self.hosts.get(target)
                if peer is not None and peer.node is None:
                    node.lost(target)

    def _die(self, host: Host) -> None:
        down_ms = host.down_ms
        self.kill(host.name)
        self.at(self.now_ms + down_ms, self.start, host.name)

    def _note_stats(self, node: Node) -> None:
        for what, count in node.stats.items():
            self.mark(what, count)

    def note_all_stats(self) -> None:
        for host in self.hosts.values():
            if host.node is not None:
                self._note_stats(host.node)

    def record(self, *event: Any) -> None:
        """Note something that happened: in the digest, and in the log if there is one."""
        self._hash.update(_encode((self.now_ms, event)))
        if self.logging:
            self.log.append((self.now_ms, *event))

    # --- clients --------------------------------------------------------------------------------

    def add(self, client: Endpoint) -> None:
        self.clients[client.name] = client
        self._wakes[client.name] = NEVER_MS

    def attend(self, client: Endpoint) -> None:
        """Send what the client wants sent, and wake it when it next has something to do."""
        while frames := client.take_outgoing():
            for node, messages in frames:
                if self._notice_lost and self.hosts[node].node is None:
                    client.unsent(self.now_ms, node, messages)
                    continue
                if self.logging:
                    self.log.append((self.now_ms, "client", client.name, node, messages))
                self._transmit(client.name, 0, self.now_ms, {node: messages})
        due_ms = max(client.next_due_ms(), self.now_ms + 1)
        if due_ms < self._wakes[client.name]:
            self._wakes[client.name] = due_ms
            self.at(due_ms, self._wake, client)

    def _wake(self, client: Endpoint) -> None:
        if self._wakes[client.name] <= self.now_ms:
            self._wakes[client.name] = NEVER_MS
            client.wake(self.now_ms)
            self.attend(client)

    def watch_put(self, client: str, write: Write, message: Message) -> None:
        """Remember an attempt of a put, to look at the disks when it is acknowledged."""
        owners = len(self.table.owners(ring.arc_of(message[3], self.config.partitions)))
        asked = message[10]
        w = asked if asked > 0 else self.config.w or quorum(owners)
        w = {m.QUORUM: quorum(owners), m.ALL: owners}.get(asked, min(w, owners))
        self.puts[client, message[1]] = (write, message[3], message[8], w)

    def _before_answer(self, client: str, message: Message) -> None:
        if message[0] != m.PUT_OK or (client, message[1]) not in self.puts:
            return
        write, key, put_id, w = self.puts[client, message[1]]
        skey = ring.storage_key(key, self.config.partitions)
        disks = [
            name for name, host in self.hosts.items()
            if host.lost_ms >= write.begun_ms or self._has(host.disk, skey, put_id, write)
        ]  # fmt: skip
        self.oracle.on_disks(write, w, disks)

    def _has(self, disk: Disk, skey: bytes, put_id: bytes, write: Write) -> bool:
        """Whether a put is on this disk, or what was written over it."""
        if disk.get(IDS, put_id) is not None:
            return True
        held = [i for obj in disk.held(skey) for i in dvv.ids_of(dvv.decode(obj))]
        return self.oracle.covers([self.uids[i] for i in held], write)

    # --- the ring as a whole ----------------------------------------------------------------------

    def heal(self) -> None:
        """No fault is left: links open, everything runs, nothing is about to die."""
        self.post(self.network.heal(self.now_ms))
        for name, host in self.hosts.items():
            host.doom = ""
            host.disk.doomed = False
            self.resume(name)
            self.start(name)

    def unsettled(self) -> tuple[str, str]:
        """What keeps the ring from being at rest: the invariant's number and why; or "", ""."""
        for name, host in self.hosts.items():
            node = host.node
            if node is None:
                return "I5", f"{name} is down"
            if not node.ready:
                return "I5", f"{name} is not ready"
            hints = node.handoff.counts()
            if hints:
                return "I9", f"{name} keeps hints {hints}"
            for peer, state in node.liveness.states().items():
                if state != "up":
                    return "I5", f"{name} takes {peer} for {state}"
        for arc in range(self.config.partitions):
            roots = {
                name: node.replica.roots.get(arc, 0)
                for name in self.table.owners(arc)
                if (node := self.hosts[name].node) is not None
            }
            if len(dict.fromkeys(roots.values())) > 1:
                return "I5", f"arc {arc} has roots {roots}"
        return "", ""

    def only_copy(self, name: str) -> bool:
        """Whether this disk holds anything of any key that no other disk holds."""
        mine = self.hosts[name].disk
        skeys = dict.fromkeys(skey for space in (OBJECTS, HINTS) for skey, _ in mine.scan(space))
        for skey in skeys:
            others: dvv.Clock = []
            for other, host in self.hosts.items():
                if other != name:
                    for obj in host.disk.held(skey):
                        others = dvv.merge(others, dvv.decode(obj))
            for obj in mine.held(skey):
                if dvv.merge(others, dvv.decode(obj)) != others:
                    return True
        return False
