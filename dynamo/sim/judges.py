"""Promises watched from the side, on disks and in nodes: one class each.

The oracle judges what clients saw. A judge looks at what no client sees: each commit of each
disk, the tables of each node after each step, and the ring at rest. A new promise is a new class in
`JUDGES`; nothing else changes. Numbers are explained in `oracle`.

    Dots       D1 I2 I14   whatever a disk commits was put, under a dot that is its own
    Rows       I1 I3       a row only grows: it neither vanishes nor brings back what it let go
    Hints      I9          a hint goes only where its home holds what it says; the books balance
    Counters   I11         the start counter of a store rises
    Bounds     I15         every table is within its limit, and empty at rest
    Reach      I13         see `reach`
    Registers  I10 I11     see `ringjudge`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dynamo.core import dvv, ring
from dynamo.core.handoff import Row, decode_row
from dynamo.core.node import EVENTS_MAX, Node
from dynamo.core.replica import CHECK_BYTES, intact
from dynamo.core.spaces import HINTS, META, OBJECTS, QUARANTINE
from dynamo.sim.judge import Changes, Judge
from dynamo.sim.machine import Host
from dynamo.sim.reach import Reach
from dynamo.sim.ringjudge import Registers

if TYPE_CHECKING:
    from dynamo.sim.world import World

CLOCKS_MAX = 4_096

# When a promise was seen to be broken, and what owners and stand-ins then held of its key.
Broken = tuple[int, dict[str, bytes], dict[str, tuple[list[str], bytes]]]

_clocks: dict[bytes, dvv.Clock] = {}


def clock_of(obj: bytes) -> dvv.Clock:
    """`dvv.decode` for objects that are met once per replica."""
    clock = _clocks.get(obj)
    if clock is None:
        if len(_clocks) >= CLOCKS_MAX:
            _clocks.clear()
        clock = _clocks[obj] = dvv.decode(obj)
    return clock


def fallen(before: dvv.Clock, after: dvv.Clock) -> str:
    """Why `after` is not what comes of adding to `before`; "" if it is."""
    counts = {actor: (n, n - len(values)) for actor, n, values in after}
    for actor, n, values in before:
        now, low = counts.get(actor, (0, 0))
        if now < n:
            return f"knew {actor.hex()} up to {n} and knows it up to {now}"
        if low < n - len(values):
            return f"has back what it had let go under {actor.hex()}, from {low + 1} on"
    return ""


def rows_of(world: World, skey: bytes) -> dict[str, bytes]:
    """What each owner's disk holds of a key, b"" for nothing."""
    owners = world.table.writers(int.from_bytes(skey[:2], "big"))
    records = {name: world.hosts[name].disk.peek(OBJECTS, skey) for name in owners}
    return {name: record[CHECK_BYTES:] if record else b"" for name, record in records.items()}


def hints_of(world: World, skey: bytes) -> dict[str, tuple[list[str], bytes]]:
    """Which hosts keep a hint for a key, for whom, and what it says."""
    found = {}
    for name, host in world.hosts.items():
        record = host.disk.peek(HINTS, skey)
        if record is not None and intact(skey, record):
            homes, _, obj, _ = decode_row(record[CHECK_BYTES:])
            found[name] = (homes, obj)
    return found


def note_broken(world: World, key: bytes) -> None:
    """Keep for the story what the disks hold of a key, now that a promise about it is broken."""
    if world.broke_ms < 0:
        world.broke_ms = world.now_ms
    if key:
        skey = ring.storage_key(key, world.config.partitions)
        world.broken = (world.now_ms, rows_of(world, skey), hints_of(world, skey))


NO_ROW = Row([], 0, b"")


class Dots(Judge):
    """Every value that a disk commits was put to this key, byte for byte, and under a dot that
    names no other put, on any disk, at any time."""

    numbers = ("D1", "I2", "I14")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._dots: dict[tuple[bytes, bytes], dict[int, bytes]] = {}  # (key, actor) -> n -> put id
        self._of: dict[bytes, dict[tuple[bytes, int], None]] = {}  # put id -> its dots
        self._known: dict[bytes, None] = {}  # objects that have been judged

    def of(self, put_id: bytes) -> Iterable[tuple[bytes, int]]:
        """The dots under which any disk has ever committed a put."""
        return self._of.get(put_id, ())

    def committed(self, host: Host, first: Changes) -> None:
        for space, skey in first:
            if space != OBJECTS and space != HINTS:
                continue
            record = host.disk.peek(space, skey)
            if record is None:
                continue
            if not intact(skey, record):
                self.oracle.accuse("I14", skey[4:], f"{host.name} commits a damaged record")
                continue
            body = record[CHECK_BYTES:]
            obj = body if space == OBJECTS else decode_row(body).obj
            if obj and obj not in self._known:
                if len(self._known) >= CLOCKS_MAX:
                    self._known.clear()
                self._known[obj] = None
                self._judge(host, skey, clock_of(obj))

    def _judge(self, host: Host, skey: bytes, clock: dvv.Clock) -> None:
        for actor, n, values in clock:
            if not values:
                continue
            dots = self._dots.setdefault((skey, actor), {})
            for i, value in enumerate(values):
                first = dots.setdefault(n - i, value[0])
                self._of.setdefault(value[0], {})[actor, n - i] = None
                if first != value[0]:
                    self.oracle.accuse(
                        "D1", skey[4:],
                        f"({actor.hex()}, {n - i}) is {self._named(value[0])} on {host.name}, and "
                        f"was {self._named(first)} before: one dot, two writes",
                    )  # fmt: skip
                self._judge_value(host, skey, value)

    def _named(self, put_id: bytes) -> str:
        return self.world.uids.get(put_id, put_id.hex())

    def _judge_value(self, host: Host, skey: bytes, value: dvv.Value) -> None:
        oracle, key = self.oracle, skey[4:]
        uid = self._named(value[0])
        write = oracle.writes.get(uid)
        if write is None or write.key != key:
            oracle.accuse("I2", key, f"{host.name} stores {uid}, which nobody put here")
            return
        if not write.delete:
            oracle.compare(key, uid, value[4], f"on the disk of {host.name}")
        if not write.kept:
            oracle.committed(write)


class Rows(Judge):
    """A row only ever grows, on each disk for itself: dots are added, values are let go. What a
    fault did to a disk is left out; a damaged row may be set aside, which makes it "unknown"; and
    who does not own the arc any more may drop it when all owners have it."""

    numbers = ("I1", "I3")

    def committed(self, host: Host, first: Changes) -> None:
        for (space, skey), before in first.items():
            if space != OBJECTS or before is None or not intact(skey, before):
                continue
            mine = clock_of(before[CHECK_BYTES:])
            after = host.disk.peek(OBJECTS, skey)
            if after is None:
                if (QUARANTINE, skey) not in first and not self._handed_over(host, skey, mine):
                    number = "I1" if any(not v[1] for v in dvv.values_of(mine)) else "I3"
                    self.oracle.accuse(number, skey[4:], f"{host.name} drops its row of the key")
                continue
            why = fallen(mine, clock_of(after[CHECK_BYTES:]))
            if why:
                number = "I3" if "let go" in why else "I1"
                self.oracle.accuse(number, skey[4:], f"{host.name} {why}")

    def _handed_over(self, host: Host, skey: bytes, mine: dvv.Clock) -> bool:
        """Whether the row is not this node's to keep, and every owner holds what it says."""
        world, arc = self.world, int.from_bytes(skey[:2], "big")
        if world.census.discarded(host.name) or host.node is None:
            return True
        owners = host.node.table.writers(arc)  # as it knows them: others may know later ones
        return host.name not in owners and all(holds(world, name, skey, mine) for name in owners)


def holds(world: World, name: str, skey: bytes, clock: dvv.Clock) -> bool:
    """Whether a disk has all that a clock says; one that is lost for good may have had it."""
    host = world.hosts[name]
    if host.forsaken:
        return True
    record = host.disk.peek(OBJECTS, skey)
    if record is None or not intact(skey, record):
        return False
    return not fallen(clock, clock_of(record[CHECK_BYTES:]))


class Hints(Judge):
    """A hint is erased only when the disk of its home holds all that it says (H1), or when it was
    re-routed to all who own the arc now (H5); hints that were ever created are delivered,
    re-routed or pending."""

    numbers = ("I9",)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._since_ms: dict[tuple[str, bytes], int] = {}  # when a hint row last grew

    def committed(self, host: Host, first: Changes) -> None:
        touched = False
        for (space, skey), before in first.items():
            if space != HINTS:
                continue
            touched = True
            after = host.disk.peek(HINTS, skey)
            left, _, now, _ = decode_row(after[CHECK_BYTES:]) if after else NO_ROW
            obj = None
            if before is not None and intact(skey, before):
                homes, _, obj, _ = decode_row(before[CHECK_BYTES:])
                gone = [home for home in homes if home not in left]
                if gone and (QUARANTINE, skey) not in first:
                    # obj b"": the own row is owed. It may have grown since, in the same step; or
                    # rotted and been set aside, and then there is nothing left to be owed.
                    own = first.get((OBJECTS, skey), host.disk.peek(OBJECTS, skey)) or b""
                    if obj or own:
                        self._judge(host, skey, gone, obj or own[CHECK_BYTES:])
            if now != obj:
                self._since_ms[host.name, skey] = self.world.now_ms
        if touched and host.node is not None:
            self._balance(host.name, host.node)

    def _judge(self, host: Host, skey: bytes, gone: list[str], owed: bytes) -> None:
        since_ms = self._since_ms.get((host.name, skey), 0)
        for home in gone:
            target = self.world.hosts[home]
            if self._rerouted(host, skey, home, owed):
                continue
            if target.lost_ms >= since_ms:
                continue  # it may have acknowledged, and lost its disk since
            record = target.disk.peek(OBJECTS, skey)
            why = "holds nothing of it"
            if record is not None and intact(skey, record):
                why = fallen(clock_of(owed), clock_of(record[CHECK_BYTES:]))
            if why:
                self.oracle.accuse(
                    "I9", skey[4:], f"{host.name} erases its hint for {home}, which {why}"
                )

    def _rerouted(self, host: Host, skey: bytes, home: str, owed: bytes) -> bool:
        """Whether the home is no owner any more, and all who are have it or are owed it.

        Who does not belong to the ring makes rows of its hints, which it then offers to all.
        """
        world = self.world
        if host.node is None:
            return True
        roster = host.node.roster
        if not roster.belongs(host.name) and holds(world, host.name, skey, clock_of(owed)):
            return True
        writers = roster.table.writers(int.from_bytes(skey[:2], "big"))
        owners = [name for name in writers if not roster.gone(name)]
        if home in owners:
            return False
        record = host.disk.peek(HINTS, skey)
        left = decode_row(record[CHECK_BYTES:]).homes if record else []
        clock = clock_of(owed)
        return all(name in left or holds(world, name, skey, clock) for name in owners)

    def _balance(self, name: str, node: Node) -> None:
        stats = node.stats
        if stats["hints_corrupt"]:
            return
        pending = sum(node.handoff.counts().values())
        created = stats["hints_created"]
        ways = ("hints_delivered", "hints_rerouted", "hints_discarded")
        delivered = sum(stats[way] for way in ways)
        if created != delivered + pending:
            self.oracle.accuse(
                "I9", b"", f"{name} created {created} hints, delivered {delivered}, keeps {pending}"
            )


class Counters(Judge):
    """The start counter rises with every start over one disk."""

    numbers = ("I11",)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._boots: dict[str, tuple[int, int]] = {}  # host -> its last start counter, and when

    def started(self, host: Host) -> None:
        record = host.disk.peek(META, b"boot") or b""
        boot = int.from_bytes(record, "big")
        last, when_ms = self._boots.get(host.name, (0, 0))
        if boot <= last and host.lost_ms < when_ms:
            self.oracle.accuse("I11", b"", f"{host.name} starts as {boot}, and was {last} before")
        self._boots[host.name] = (boot, self.world.now_ms)


class Bounds(Judge):
    """Every table of a node is within its limit after every step, and nothing is left at rest."""

    numbers = ("I15",)

    def stepped(self, host: Host, node: Node) -> None:
        config, peers = node.config, len(self.world.hosts) - 1
        requests, handoff, exchange, replica = (
            node.requests, node.handoff, node.exchange, node.replica,
        )  # fmt: skip
        if (
            len(requests.pending) > config.pending_ops_max
            or requests._bytes > config.pending_bytes_max + config.value_bytes_max
            or len(handoff._sent) > config.hint_batch * peers
            or len(exchange._walks) > config.exchange_arcs * peers
            or len(exchange._roots_sent) > peers
            or len(replica.dead) > config.ids_max + len(replica._ghosts)
            or len(node.events) > EVENTS_MAX
        ):
            self.oracle.accuse(
                "I15", b"",
                f"{host.name} is over a limit: {len(requests.pending)} operations of "
                f"{requests._bytes} bytes, {len(handoff._sent)} hints on the wire, "
                f"{len(exchange._walks)} walks, {len(exchange._roots_sent)} rounds, "
                f"{len(replica.dead)} ids, {len(node.events)} events",
            )  # fmt: skip

    def is_idle(self) -> bool:
        return not any(self._left(host) for host in self.world.hosts.values())

    def at_rest(self) -> None:
        for name, host in self.world.hosts.items():
            left = self._left(host)
            if left:
                self.oracle.accuse("I15", b"", f"{name} has nothing to do and keeps {left}")
        for client in self.world.clients.values():
            waiting = getattr(client, "session", None)
            if waiting is not None and (waiting.in_flight or waiting.queued_bytes):
                self.oracle.accuse(
                    "I15", b"", f"{client.name} has nothing to do and keeps {waiting.in_flight} "
                    f"operations of {waiting.queued_bytes} bytes",
                )  # fmt: skip

    @staticmethod
    def _left(host: Host) -> dict[str, int]:
        node = host.node
        if node is None:
            return {}
        left = {
            "operations": len(node.requests.pending), "bytes": node.requests._bytes,
            "hints on the wire": len(node.handoff._sent), "walks": len(node.exchange._walks),
        }  # fmt: skip
        return {what: count for what, count in left.items() if count}


JUDGES: tuple[type[Judge], ...] = (Dots, Rows, Hints, Counters, Bounds, Reach, Registers)
