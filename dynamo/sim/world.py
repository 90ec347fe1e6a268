"""A ring in one thread: nodes, clients, disks and a network under virtual time.

The world is an agenda of calls that are due. Nothing else moves time, so thirty simulated seconds
take as long as the work in them. The nodes are the ones of production; what is replaced is the
shell around them: frames, clocks, disks, and death.

    deliver   a frame reaches a host: queued until the host's next turn
    turn      a host takes its queue through `Node.step`, and its outbox becomes frames
    wake      a client looks at its own deadlines

A step can be cut short before its commit, after it, or while sending (see `machine`). Disks survive
the death of their process; only `wipe` loses one, and `take_back` loses what it last took.

Everything that happens goes into `digest`: the same seed gives the same one in every process. Where
nobody compares it, `tracing` is off.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dynamo.core import messages as m
from dynamo.core.config import Config
from dynamo.core.messages import Message
from dynamo.core.node import Node
from dynamo.sim.acks import Acks
from dynamo.sim.agenda import Agenda
from dynamo.sim.census import CLUSTER, Census
from dynamo.sim.endpoint import Endpoint
from dynamo.sim.judges import JUDGES, Broken, note_broken
from dynamo.sim.losses import Losses
from dynamo.sim.machine import (
    AFTER_COMMIT,
    BEFORE_COMMIT,
    NEVER_MS,
    WHILE_SENDING,
    Disk,
    Host,
    PowerCut,
)
from dynamo.sim.network import Delivery, Frame, Network
from dynamo.sim.oracle import Oracle
from dynamo.sim.rest import only_copy, unsettled
from dynamo.sim.trace import Trace
from dynamo.storage.contract import StoreError

TAG = CLUSTER.tag
WALL_ORIGIN_MS = 1_600_000_000_000
CHECK_EVERY = 8  # steps; what a table holds too much it still holds a few steps later


class World(Losses):
    """Hosts, clients and network under one virtual clock."""

    def __init__(
        self, seed: int, names: list[str], config: Config, network: Network, oracle: Oracle,
        *, encode: bool = False, split: bool = False, notice_lost: bool = True, work_ms: int = 0,
        check_rows_every: int = 50, durability: str = "fsync", interval_ms: int = 0,
        drift: Sequence[int] = (), zones: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.seed = seed
        self.now_ms = 0
        self.config = config
        self.network = network
        self.oracle = oracle
        self.census = Census(names, config, zones)
        self.table = self.census.table
        self.addresses, self.address_of = self.census.addresses, self.census.address_of
        self._rng = random.Random(f"{seed}/hosts")
        self._disks = partial(Disk, durability, interval_ms)
        self._drift = dict(zip(names, drift, strict=False))
        self.hosts = {name: self._host(name) for name in names}
        self.clients: dict[str, Endpoint] = {}
        self.uids: dict[bytes, str] = {}  # put id -> the write it belongs to
        self.payloads: dict[bytes, str] = {}  # the same, where a payload does not name its write
        self.thawed_ms = -NEVER_MS  # when a clock that had stood still last went on
        # Contexts that clients hand to each other: key, token, and what it covers.
        self.board: list[tuple[bytes, str, int]] = []
        self.steps = 0
        self.events = 0
        self.broke_ms = -1  # when the first promise was seen to be broken
        self.broken: Broken | None = None  # when that was first seen on some key
        self.marks: dict[str, int] = {}
        self.log: list[tuple[Any, ...]] = []
        self.logging = False
        self.tracing = True
        self.changed_ms = 0  # when what works, or who reaches whom, last changed
        self._acks = Acks(self)
        self.watch_put = self._acks.watch
        self._before_answer = self._acks.before_answer
        self.judges = [judge(self) for judge in JUDGES]
        self._encode_frames = encode
        self._split = split
        self._notice_lost = notice_lost
        self._work_ms = work_ms
        self._check_rows_every = check_rows_every * CHECK_EVERY
        self._agenda = Agenda()
        self._called: list[Host] = []  # hosts that have their turn at the end of this moment
        self._delivery = self._deliver
        self._wakes: dict[str, int] = {}
        self._trace = Trace()

    def _host(self, name: str) -> Host:
        draw = self._rng.randrange
        # Also clocks that are about to leave 31, 32 or 53 bits, and hosts that are up for decades.
        origin_ms = draw(1, 1 << 40) if draw(8) else (1 << (31, 32, 53)[draw(3)]) - draw(5_000)
        wall_ms = WALL_ORIGIN_MS + draw(-5_000, 5_000)
        host = Host(name, origin_ms, wall_ms, self._drift.get(name, 0))
        self._new_disk(host)
        return host

    def add_host(self, name: str) -> None:
        """A machine more, with an empty disk; its node, once started, asks to join."""
        self.census.enlist(name)
        self.hosts[name] = self._host(name)
        self.note_change()
        self.record("added", name)

    @property
    def running(self) -> list[str]:
        """The hosts that are there, whatever they are to the ring."""
        return [name for name, host in self.hosts.items() if not host.forsaken]

    def _learn(self, host: Host, node: Node) -> None:
        host.seen_hash = node.roster.hash
        if self.census.learn(node):
            self.note_change()

    def _new_disk(self, host: Host) -> None:
        host.disk = self._disks()
        host.disk.watch = partial(self.tell_committed, host)

    def note_change(self) -> None:
        """What works, or who reaches whom, is no longer what it was."""
        self.changed_ms = self.now_ms

    @property
    def trip_ms(self) -> int:
        """How long a frame is under way at most, and then waits for its host's turn."""
        weather = self.network.weather
        return weather.delay_ms + weather.jitter_ms + self._work_ms

    @property
    def digest(self) -> str:
        """A hash of everything that happened so far, "" if nobody wants one."""
        return self._trace.digest if self.tracing else ""

    # --- time -----------------------------------------------------------------------------------

    def at(self, at_ms: int, call: Callable[..., None], *args: Any) -> None:
        """Have `call(*args)` made at `at_ms`, after what is already due then."""
        now_ms = self.now_ms
        self._agenda.add(at_ms if at_ms > now_ms else now_ms, call, args)

    @property
    def next_ms(self) -> int:
        """When something happens next; `NEVER_MS` if nothing is going to."""
        times = self._agenda.times
        return times[0] if times else NEVER_MS

    def run_until(self, until_ms: int) -> None:
        """Let everything happen that is due up to `until_ms`."""
        agenda, violations = self._agenda, self.oracle.violations
        times = agenda.times
        while times and times[0] <= until_ms:
            now_ms = self.now_ms = times[0]
            self.events += agenda.happen(now_ms)
            if self._called:
                called, self._called = self._called, []
                self.events += len(called)
                for host in called:
                    self._turn(host)
            if violations and self.broken is None:
                note_broken(self, next((x.key for x in violations if x.key), b""))
        self.now_ms = max(self.now_ms, until_ms)

    def mark(self, what: str, count: int = 1) -> None:
        """Count a state worth reaching (a `sometimes` point)."""
        self.marks[what] = self.marks.get(what, 0) + count

    # --- frames ---------------------------------------------------------------------------------

    def _transmit(
        self, source: str, boot: int, sent_ms: int, target: str, messages: list[Message],
        again: bool,
    ) -> None:  # fmt: skip
        """Hand messages to the network, as one frame or each alone. `again`: see `network`."""
        if self._split and len(messages) > 1:
            for message in messages:
                self._transmit(source, boot, sent_ms, target, [message], again)
            return
        body: Any = messages
        if self._encode_frames:
            body = m.encode_frame(TAG, source, boot, sent_ms, messages)
        frame = (source, boot, sent_ms, body)
        add, deliver = self._agenda.add, self._delivery
        for delivery in self.network.send(self.now_ms, source, target, frame, again):
            add(delivery[0], deliver, delivery[1:])

    def post(self, deliveries: list[Delivery]) -> None:
        """Put what the network will deliver into the future."""
        for delivery in deliveries:
            self._agenda.add(delivery[0], self._delivery, delivery[1:])

    def _deliver(self, source: str, target: str, frame: Frame) -> None:
        host = self.hosts.get(target)
        if host is None:
            client = self.clients[target]
            opened = self._open(frame, m.TO_CLIENT) if self._encode_frames else frame
            if opened is not None:
                client.receive(self.now_ms, opened)
                self.attend(client)
        elif host.node is not None:
            host.queue.append((source, frame))
            if not host.called:
                host.called = True
                if self._work_ms:
                    self.at(self.now_ms + self._work_ms, self._call, host, host.lives)
                else:
                    self._called.append(host)

    def _open(self, frame: Frame, allowed: Any) -> Frame | None:
        try:
            return m.decode_frame(frame[3], TAG, allowed)
        except m.Malformed:  # as the server does: count it, drop it
            self.mark("malformed frame dropped")
            return None

    # --- hosts ----------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start the process of a host over the disk it has; harmless if it runs."""
        host = self.hosts[name]
        if host.node is not None or host.forsaken:
            return
        host.lives += 1
        rng = random.Random(f"{self.seed}/node/{name}/{host.lives}")
        try:
            host.node = self.census.node(name, host.disk, rng, host.clock(self.now_ms))
        except (PowerCut, StoreError):
            self.kill(name)
            self.at(self.now_ms + host.down_ms, self.start, name)
            return
        self._learn(host, host.node)
        host.boot = host.node.boot
        host.ages = m.Ages()
        host.boots = {}
        host.paused = False
        self.record("start", name)
        self.note_change()
        for judge in self.judges:
            judge.started(host)
        self._wants_turn(host, self.now_ms)
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
            self.note_change()
            self._tell_clients(name, False)
        host.node = None
        host.doom = ""
        host.disk.crash()
        host.queue.clear()
        host.due_ms = NEVER_MS
        host.called = False
        host.paused = False
        self._thaw(host)

    def pause(self, name: str, freeze: bool = False) -> None:
        """The host takes no turns. `freeze`: nor does its monotonic clock go on."""
        host = self.hosts[name]
        host.paused = True
        if freeze and host.froze_ms < 0:
            host.froze_ms = self.now_ms
        self.note_change()

    def resume(self, name: str) -> None:
        host = self.hosts[name]
        self._thaw(host)
        if host.paused:
            host.paused = False
            self.note_change()
            self._wants_turn(host, self.now_ms)

    def doom(self, name: str, point: str, down_ms: int) -> None:
        """Let the next step that writes something die at `point`, and restart the node later."""
        host = self.hosts[name]
        host.doom = point
        host.down_ms = down_ms
        self.note_change()
        host.disk.doomed = point == BEFORE_COMMIT

    def _thaw(self, host: Host) -> None:
        if host.froze_ms >= 0:
            host.thaw(self.now_ms)
            self.thawed_ms = self.now_ms

    def _wants_turn(self, host: Host, at_ms: int) -> None:
        """Let the host have a turn at `at_ms`, if it had none by then."""
        host.due_ms = at_ms
        if at_ms < host.timer_ms:
            host.timer_ms = at_ms
            self.at(at_ms, self._look_at, host)

    def _look_at(self, host: Host) -> None:
        # Most turns come of frames, and move the next one that is wanted: so one timer is kept per
        # host, set anew only when it goes off too early.
        if host.timer_ms != self.now_ms:
            return
        host.timer_ms = NEVER_MS
        if host.due_ms > self.now_ms:
            if host.due_ms != NEVER_MS:
                self._wants_turn(host, host.due_ms)
        elif not host.called:
            host.called = True
            self._called.append(host)

    def _call(self, host: Host, life: int) -> None:
        if life == host.lives:
            self._called.append(host)

    def _turn(self, host: Host) -> None:
        node = host.node
        host.called = False
        if node is None or host.paused:
            return
        now_ms = self.now_ms
        clock_ms = host.clock(now_ms)
        inbox = self._inbox(host, clock_ms) if host.queue else []
        disk = host.disk
        disk.wrote, disk.stepping, disk.now_ms = False, True, now_ms
        try:
            outbox = node.step(clock_ms, inbox, now_ms + host.wall_ms)
        except (PowerCut, StoreError) as error:
            self.mark("died before commit" if isinstance(error, PowerCut) else "died of its disk")
            self._die(host)
            return
        disk.stepping = False
        if node.roster.hash != host.seen_hash:
            self._learn(host, node)
        self._examine(host, node)
        if (inbox or outbox) and (self.tracing or self.logging):
            self.record("step", host.name, len(inbox), outbox)
        if outbox or host.doom:
            self._send(host, node, outbox, clock_ms)
        if host.node is node:
            due_ms = host.when(node.next_due_ms())
            self._wants_turn(host, due_ms if due_ms > now_ms else now_ms + 1)

    def _inbox(self, host: Host, clock_ms: int) -> list[tuple[Any, Message, int]]:
        inbox: list[tuple[Any, Message, int]] = []
        queue, host.queue = host.queue, []
        clients, age_ms = self.clients, host.ages.age_ms
        for source, frame in queue:
            client = source in clients
            if self._encode_frames:
                opened = self._open(frame, m.FROM_CLIENT if client else m.FROM_PEER)
                if opened is None:
                    continue
                frame = opened
            sender, boot, sent_ms, messages = frame
            token: Any = source
            if client:
                token = source.encode()
            elif host.is_ghost(source, boot, clock_ms, self.config.suspicion_ms):
                self.mark("frame of a ghost")
                continue
            born_ms = clock_ms - age_ms(sender, boot, sent_ms, clock_ms)
            inbox += [(token, message, born_ms) for message in messages]
        return inbox

    def _examine(self, host: Host, node: Node) -> None:
        assert not host.disk.dirty, "N1: a step leaves nothing uncommitted"
        steps = self.steps = self.steps + 1
        if not steps % CHECK_EVERY:
            node.check()
            for stepped in self.on_step:
                stepped(host, node)
            if not steps % self._check_rows_every:
                self.check_rows(host)

    def check_rows(self, host: Host) -> None:
        """Assert what every row must add up to; rot that nobody came upon is not the node's."""
        if host.node is not None and not host.disk.still_rotten():
            host.node.check_rows()

    def _send(
        self, host: Host, node: Node, outbox: list[tuple[Any, Message]], clock_ms: int
    ) -> None:
        dies = host.doom if host.doom and host.disk.wrote else ""
        if dies == AFTER_COMMIT:
            self.mark("died after commit")
            self._die(host)
            return
        batches: dict[str, list[Message]] = {}
        once: dict[str, None] = {}  # to whom a client's request is forwarded
        for target, message in outbox:
            if type(target) is bytes:
                target = target.decode()
                if message[0] == m.PUT_OK:
                    self._before_answer(target, message)
            elif target[0] == "@":
                target = self.census.seeds.get(target, "")
                if not target:
                    continue
            elif message[0] == m.FORWARD:
                once[target] = None
                if message[2][0] == m.PUT:
                    # Should the owner stay silent, another one gets the same put.
                    self.oracle.writes[self.uids[message[2][8]]].attempts += 1
            batch = batches.get(target)
            if batch is None:
                batches[target] = [message]
            else:
                batch.append(message)
        if dies == WHILE_SENDING:
            batches = {to: batch for to, batch in batches.items() if self._rng.random() < 0.5}
        for target, batch in batches.items():
            self._transmit(host.name, node.boot, clock_ms, target, batch, target not in once)
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
        """Note something that happened: in the digest and in the log, as far as there are any."""
        if self.tracing:
            self._trace.note(self.now_ms, event)
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
                self._transmit(client.name, 0, self.now_ms, node, messages, False)
        due_ms = client.next_due_ms()
        if due_ms <= self.now_ms:
            due_ms = self.now_ms + 1
        if due_ms < self._wakes[client.name]:
            self._wakes[client.name] = due_ms
            self.at(due_ms, self._wake, client)

    def _wake(self, client: Endpoint) -> None:
        if self._wakes[client.name] <= self.now_ms:
            self._wakes[client.name] = NEVER_MS
            client.wake(self.now_ms)
            self.attend(client)

    # --- the ring as a whole ----------------------------------------------------------------------

    def heal(self) -> None:
        """No fault is left: links open, everything runs, nothing is about to die."""
        self.note_change()
        self.post(self.network.heal(self.now_ms))
        for name, host in self.hosts.items():
            host.doom = ""
            host.disk.calm()
            self.resume(name)
            self.start(name)

    def unsettled(self) -> tuple[str, str]:
        """What keeps the ring from being at rest: the invariant's number and why; or "", ""."""
        return unsettled(self, self.running)

    def only_copy(self, name: str, only: bytes | None = None) -> bool:
        """Whether this disk holds anything of any key (or of one) that no other disk holds."""
        return only_copy(self.hosts, name, only)
