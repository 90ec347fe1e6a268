"""This node's copies, and the one door through which they change.

Put, replica write, read repair, hint delivery and exchange all end in `put` or `merge` here;
nothing else writes an object row. A record on disk is

    check 8 bytes | obj          check = hash of obj seeded by its storage key

so a record that rots, or lies under the wrong key, is found on read, and two nodes can compare
an object by 8 bytes. The xor of all checks of an arc is its *root*, kept in memory: equal roots
mean equal arcs.

Who may mint (D3). An actor is 6 bytes that name (store incarnation, arc, generation) and 6 random
bytes. On a key of which this store holds a row with an own entry, that entry continues; on any
other, the last 6 bytes are drawn anew. So a store that lost a row - wiped, quarantined, given
away, a hint erased, a tombstone collected - cannot continue counting where it must not:

    S stands in, holds nothing of k, mints (s1,1) v1, delivers it, erases its copy. S stands in
    again and mints. Were it (s1,2), it would claim to have seen (s1,1): the merge at home would
    erase v1, acknowledged and unread. It is (s2,1), and v1 stays as a sibling.

What remains is a row that went back in time (unsynced writes lost, an old copy of the directory).
Then own entries may continue below what others know, so the whole generation is retired when
    - the store is new, or was opened after an unclean end without synced writes;
    - a clock arrives, or a client's context, that shows more of an own entry than is held;
    - a record of the arc is found corrupt.

Superseded put ids are remembered for twice the longest deadline, in the row's transaction (D5).
A retry finds its id here, and a second dot of the same put dies with the first.

Sources: Dynamo §4.4; riak_kv#679, #1094, #1643 (actor reuse); DESIGN §2, §9.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice
from typing import Any

import mmh3
import msgspec

from dynamo.core import dvv, ring
from dynamo.core.config import Config
from dynamo.core.spaces import IDS, META, OBJECTS, QUARANTINE

CHECK_BYTES = 8
FORGET_LATE_MS = 250  # so that a node that does nothing else wakes for many ids at once
ARC_BITS = 16
TOLD_MAX = 50_000  # of the ids remembered, the latest ones are looked through for a new owner
HINT_ARC = 1 << ARC_BITS  # stands for the hint space where an arc is asked for

# What a mint gives: the new clock, its bytes, the dot (actor, n), and the put ids it superseded.
Minted = tuple[dvv.Clock, bytes, bytes, int, list[bytes]]

_digest = mmh3.mmh3_x64_128_digest
_seed = mmh3.mmh3_32_uintdigest


def seal_record(skey: bytes, body: bytes) -> bytes:
    """The record that stores `body` under `skey`."""
    return _digest(body, _seed(skey))[:CHECK_BYTES] + body


def intact(skey: bytes, record: bytes) -> bool:
    """Whether a record still is what was stored under this key."""
    return _digest(record[CHECK_BYTES:], _seed(skey))[:CHECK_BYTES] == record[:CHECK_BYTES]


class Replica:
    """Object rows of one node: read, put (mints), merge (takes in), and what guards them."""

    __slots__ = (
        "_config",
        "_doubted",
        "_forget_due_ms",
        "_ghosts",
        "_hold_ids_ms",
        "_incarnation",
        "_now",
        "_prefixes",
        "_retired",
        "_rng",
        "_store",
        "_synced",
        "boot",
        "dead",
        "events",
        "keys",
        "roots",
        "stats",
    )

    def __init__(
        self,
        config: Config,
        store: Any,
        rng: random.Random,
        events: list[tuple[Any, ...]],
        stats: dict[str, int],
    ) -> None:
        self._config = config
        self._store = store
        self._rng = rng
        self.events = events
        self.stats = stats
        self._now = 0
        self._prefixes: dict[int, bytes] = {}
        self._doubted: dict[int, None] = {}  # arcs that stopped being synced in this step
        self._open()
        self.roots: dict[int, int] = {}
        self.keys = 0
        self._sum_roots()
        # put id -> when it may be forgotten, above ARC_BITS bits of its arc; insertion order is
        # expiry order. (Ordered because the first of a plain dict is found by walking over all that
        # were deleted before it.)
        self.dead: OrderedDict[bytes, int] = OrderedDict()
        self._hold_ids_ms = 0  # until then no id is forgotten for its age
        self._forget_due_ms = 0  # before it, none is old enough
        self._ghosts: dict[bytes, bytes] = {}  # dead ids that some row still holds -> its key

    # --- the store's own identity ---------------------------------------------------------------

    def _open(self) -> None:
        get, put = self._store.get, self._store.put
        self.boot = int.from_bytes(get(META, b"boot") or b"", "big") + 1
        put(META, b"boot", self.boot.to_bytes(8, "big"))
        incarnation = get(META, b"incarnation")
        if incarnation is None or self._store.unclean:
            # History: unsynced writes were lost, a peer holds (a,7), this store counts from 6
            # and mints (a,7) for another value: two writes, one dot, one of them vanishes.
            incarnation = self._rng.randbytes(16)
            put(META, b"incarnation", incarnation)
            put(META, b"retired", msgspec.msgpack.encode({}))
            # Nor does it know what it has missed by that: it is no evidence until it has synced.
            put(META, b"synced", b"")
        self._incarnation = incarnation
        self._retired: dict[int, int] = msgspec.msgpack.decode(
            get(META, b"retired") or b"\x80", type=dict[int, int]
        )
        whole = (self._config.partitions + 7) // 8
        self._synced = bytearray(get(META, b"synced") or bytes(whole))
        assert len(self._synced) == whole, "the number of partitions is fixed for a store's life"

    def _sum_root(self, arc: int) -> None:
        """Add up the root of one arc anew.

        History: the rotten byte was in the check itself, the record's false check was taken out of
        the root, and from then on equal rows had different roots.
        """
        self.roots.pop(arc, None)
        for skey, record in self._store.scan(OBJECTS, *ring.arc_range(arc)):
            self._toggle(skey, record)

    def _sum_roots(self) -> None:
        for skey, record in self._store.scan(OBJECTS):
            self._toggle(skey, record)
            self.keys += 1

    def load_ids(self, now_ms: int) -> None:
        """Take up the put ids that an earlier run remembered, for another full term."""
        due = now_ms + self._config.id_memory_ms
        for put_id, arc in self._store.scan(IDS):
            self.dead[put_id] = due << ARC_BITS | int.from_bytes(arc, "big")

    def prefix(self, arc: int) -> bytes:
        """The 6 bytes that mark this store's own actors on an arc, until they are retired."""
        known = self._prefixes.get(arc)
        if known is None:
            known = self._prefixes[arc] = self._named(arc, self._retired.get(arc, 0))
        return known

    def is_own(self, arc: int, actor: bytes) -> bool:
        """Whether an actor is one of this store's own on the arc, retired ones included."""
        generations = range(self._retired.get(arc, 0) + 1)
        return any(actor.startswith(self._named(arc, number)) for number in generations)

    def _named(self, arc: int, generation: int) -> bytes:
        name = b"%d/%d" % (arc, generation)
        return blake2b(name, digest_size=6, key=self._incarnation).digest()

    def retire(self, arc: int, why: str) -> None:
        """Never mint under this arc's present actors again."""
        self._retired[arc] = self._retired.get(arc, 0) + 1
        self._store.put(META, b"retired", msgspec.msgpack.encode(self._retired))
        self._prefixes.pop(arc, None)
        self.stats["actors_retired"] += 1
        self.events.append(("actor retired", arc, why))

    def synced(self, arc: int) -> bool:
        """Whether this owner's absence of a value is evidence, so that it counts toward R."""
        return bool(self._synced[arc >> 3] & 1 << (arc & 7))

    def set_synced(self, arc: int, synced: bool) -> None:
        if synced:
            self._synced[arc >> 3] |= 1 << (arc & 7)
        else:
            self._synced[arc >> 3] &= ~(1 << (arc & 7))
        self._store.put(META, b"synced", bytes(self._synced))

    def take_doubted(self) -> list[int]:
        """Arcs that stopped being synced since the last call."""
        if not self._doubted:
            return []
        doubted = list(self._doubted)
        self._doubted.clear()
        return doubted

    # --- rows ---------------------------------------------------------------------------------

    def record(self, skey: bytes) -> bytes:
        """The stored record, b"" for none. A corrupt one is set aside and its arc doubted."""
        record: bytes | None = self._store.get(OBJECTS, skey)
        if record is None:
            return b""
        if _digest(record[CHECK_BYTES:], _seed(skey))[:CHECK_BYTES] == record[:CHECK_BYTES]:
            return record
        self._quarantine(skey, record)
        return b""

    def obj(self, skey: bytes) -> bytes:
        """The stored object, b"" for none."""
        return self.record(skey)[CHECK_BYTES:]

    def rows(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` intact (storage key, record) pairs in order, start <= key < end."""
        found = list(self._store.scan(OBJECTS, start, end, limit))
        for skey, record in found:
            if not intact(skey, record):
                self._quarantine(skey, record)
                return self.rows(start, end, limit)
        return found

    def _quarantine(self, skey: bytes, record: bytes) -> None:
        # Corrupt is not absent: treating it as empty would start a new history below what the
        # peers know (riak_kv#679). The arc stops counting toward R until it has synced again.
        arc = int.from_bytes(skey[:2], "big")
        self._store.put(QUARANTINE, skey, record)
        self._store.delete(OBJECTS, skey)
        self._sum_root(arc)
        self.keys -= 1
        self.stats["records_corrupt"] += 1
        self.set_synced(arc, False)
        self._doubted[arc] = None
        self.retire(arc, "corrupt record")

    def _toggle(self, skey: bytes, record: bytes) -> None:
        arc = skey[0] << 8 | skey[1]
        root = self.roots.get(arc, 0) ^ int.from_bytes(record[:CHECK_BYTES], "big")
        if root:
            self.roots[arc] = root
        else:
            self.roots.pop(arc, None)

    def _write(self, skey: bytes, old: bytes, obj: bytes) -> bytes:
        check = _digest(obj, _seed(skey))[:CHECK_BYTES]
        self._store.put(OBJECTS, skey, check + obj)
        arc = skey[0] << 8 | skey[1]
        root = self.roots.get(arc, 0) ^ int.from_bytes(check, "big")
        if old:
            root ^= int.from_bytes(old[:CHECK_BYTES], "big")
        else:
            self.keys += 1
        self.roots[arc] = root
        return obj

    def drop(self, arc: int, rows: int) -> None:
        """Erase all of an arc, `rows` rows, and what was set aside of it: others hold it now.

        Not the actors: they do not continue on a key of which no row is left (D3).
        """
        start, end = ring.arc_range(arc)
        self._store.delete_range(OBJECTS, start, end)
        self._store.delete_range(QUARANTINE, start, end)
        self.keys -= rows
        self.roots.pop(arc, None)
        self._doubted.pop(arc, None)
        self.set_synced(arc, False)

    def discard(self) -> None:
        """Erase all rows of all arcs."""
        self._store.delete_range(OBJECTS, b"", None)
        self._store.delete_range(QUARANTINE, b"", None)
        self.keys = 0
        self.roots.clear()
        self._doubted.clear()
        self._synced = bytearray(len(self._synced))
        self._store.put(META, b"synced", bytes(self._synced))

    @property
    def incarnation(self) -> bytes:
        """16 bytes that change whenever the store may have lost something it had."""
        return bytes(self._incarnation)

    # --- the write door -------------------------------------------------------------------------

    def mint(
        self, arc: int, clock: dvv.Clock, context: dvv.Context, value: dvv.Value
    ) -> tuple[dvv.Clock, bytes, int]:
        """Write `value` under a fresh own dot; return the clock, the actor and the counter."""
        self.notice_foresight(arc, clock, context)
        prefix = self.prefix(arc)
        for actor, _, _ in clock:
            if actor.startswith(prefix):
                break
        else:
            actor = prefix + self._rng.randbytes(6)  # D3: no row, no old actor
        clock, n = dvv.put(clock, context, actor, value)
        return clock, actor, n

    def put(
        self,
        arc: int,
        skey: bytes,
        old: bytes,
        clock: dvv.Clock,
        context: dvv.Context,
        value: dvv.Value,
    ) -> Minted:
        """Store a client's value over the row that `record` gave; one of the two ways to change it.

        `old` is that record and `clock` its clock.
        """
        new, actor, n = self.mint(arc, clock, context, value)
        new, gone = self.settle(skey, clock, new)
        return new, self._write(skey, old, dvv.encode(new)), actor, n, gone

    def merge(self, arc: int, skey: bytes, obj: bytes, dead: Iterable[bytes] = ()) -> bytes:
        """Take in an object from elsewhere; return the row that results.

        Idempotent and commutative: late, repeated and reordered objects need no special case.
        `dead` are put ids that the sender knows as superseded. Raises `Malformed`.
        """
        return self.accept(arc, skey, obj, dead, b"")[0]

    def accept(
        self, arc: int, skey: bytes, obj: bytes, dead: Iterable[bytes], actor: bytes
    ) -> tuple[bytes, int]:
        """`merge`, for an object that was just minted under `actor`: also gives `seen`.

        Where that is not 0 a dot was used twice, and the object is not let in: the merge would
        take its value for superseded.
        """
        old = self.record(skey)
        held = old[CHECK_BYTES:]
        if held == obj:
            for put_id in dead:
                self.remember(put_id, arc)
            return obj, 0
        theirs = dvv.decode(obj)
        mine = dvv.decode(held)
        if actor and mine:
            seen = self.seen(mine, theirs, actor)
            if seen:
                self.stats["dots_used_twice"] += 1
                return held, seen
        for put_id in dead:
            self.remember(put_id, arc)
        merged = dvv.merge(mine, theirs)
        if not self.notice_amnesia(arc, mine, theirs):
            merged, _ = self.settle(skey, mine, merged)
        if merged == mine:
            return held, 0
        return self._write(skey, old, dvv.encode(merged)), 0

    def notice_amnesia(self, arc: int, mine: dvv.Clock, theirs: dvv.Clock) -> bool:
        """Retire the arc's actors if `theirs` knows more of them than `mine` does; say whether.

        Then what `mine` loses by the merge may be a value under a dot that was used twice, and
        must not be remembered as superseded: its put is going to be minted anew.
        """
        prefix = self.prefix(arc)
        for actor, n, _ in theirs:
            if actor.startswith(prefix) and n > dvv.counter(mine, actor):
                self.retire(arc, "amnesia")
                self.stats["amnesia"] += 1
                return True
        return False

    def notice_foresight(self, arc: int, clock: dvv.Clock, context: dvv.Context) -> None:
        """Retire the arc's actors if a client's context knows more of them than `clock` does.

        History: S stood in, minted (s1,1) to (s1,3), delivered, erased. It stood in again for a
        client whose context said (s1,1), and minted (s2,1); with the context the entry (s1,1) had
        come into the row, and the next put continued it, with (s1,2) for another value.
        """
        prefix = self.prefix(arc)
        for actor, n in context.items():
            if actor.startswith(prefix) and n > dvv.counter(clock, actor):
                self.retire(arc, "a context knows more of it")
                self.stats["foresight"] += 1
                return

    def settle(
        self, skey: bytes, mine: dvv.Clock, merged: dvv.Clock
    ) -> tuple[dvv.Clock, list[bytes]]:
        """Remember the put ids of dots that `mine` loses, and let their other dots go too (D5).

        History: a retry's dot was superseded while the first attempt's dot was still arriving;
        ids were compared and not dots, the id was still there, and so the value stayed.
        """
        gone = dvv.lost_ids(mine, merged) if mine else []
        for put_id in gone:
            self.remember(put_id, skey[0] << 8 | skey[1])
        if self.dead and merged and (len(merged) > 1 or len(merged[0][2]) > 1):
            merged = self._shed(skey, merged, dvv.ids_of(merged))
        return merged, gone

    def _shed(self, skey: bytes, clock: dvv.Clock, ids: list[bytes]) -> dvv.Clock:
        # A second dot of a superseded put: shed it where the form allows, else hide it from
        # readers (`live`) and keep its id for as long as the row holds it. Not if nothing else is
        # left: where the row that superseded it was lost here, it may be the last copy there is.
        dead = [put_id for put_id in ids if put_id in self.dead]
        if dead and len(dead) < len(ids):
            self.stats["ids_met_again"] += 1
            clock = dvv.shed(clock, self.dead)
            for put_id in dvv.ids_of(clock):
                if put_id in self.dead:
                    self.stats["ids_hidden"] += 1
                    self._ghosts[put_id] = skey
        return clock

    def seen(self, mine: dvv.Clock, theirs: dvv.Clock, actor: bytes) -> int:
        """What REPLICATE_OK tells a coordinator that just minted under `actor`: usually 0.

        Non-zero is the counter held for its actor when that already includes the new dot, and
        the dot's value was never seen here: the coordinator's store went back in time. Not so
        where the value is known and superseded, or where nothing is left to compare with.
        """
        prior = dvv.counter(mine, actor)
        if not prior:
            return 0
        n, values = next(((n, v) for a, n, v in theirs if a == actor), (0, []))
        if prior < n or not values:
            return 0
        put_id = values[0][0]
        held = next(v for a, _, v in mine if a == actor)
        if put_id in self.dead or put_id in dvv.ids_of(mine) or (prior == n and not held):
            return 0
        return prior

    # --- put ids ------------------------------------------------------------------------------

    def begin_step(self, now_ms: int) -> None:
        self._now = now_ms

    def remember(self, put_id: bytes, arc: int) -> None:
        """Keep the id of a superseded put, durably, for twice the longest deadline."""
        if put_id not in self.dead:
            self.dead[put_id] = self._now + self._config.id_memory_ms << ARC_BITS | arc
            self._store.put(IDS, put_id, arc.to_bytes(2, "big"))

    def ids_of(self, arcs: Iterable[int]) -> dict[int, list[bytes]]:
        """Of each arc the ids that an owner new to it has to know, those that have any."""
        found: dict[int, list[bytes]] = {arc: [] for arc in arcs}
        for put_id, due in islice(reversed(self.dead.items()), TOLD_MAX) if found else ():
            told = found.get(due & (1 << ARC_BITS) - 1)
            if told is not None:
                told.append(put_id)
        return {arc: told for arc, told in found.items() if told}

    def revive(self, put_id: bytes) -> None:
        """Take back that a put was superseded: it was lost to a dot used twice."""
        if self.dead.pop(put_id, None) is not None:
            self.stats["ids_revived"] += 1
            self._store.delete(IDS, put_id)

    def hold_ids(self) -> None:
        """Forget no id for its age for another full term: somebody is away.

        History: a coordinator died between commit and send, and stayed away longer than ids were
        kept. It came back with a dot of a put that everybody had seen superseded, and forgotten.
        """
        self._hold_ids_ms = self._now + self._config.id_memory_ms

    def forget_ids(self) -> None:
        """Drop what has been remembered long enough, or beyond `ids_max`."""
        dead, now = self.dead, self._now
        surplus = len(dead) - self._config.ids_max
        if now < self._forget_due_ms and surplus <= 0:
            return
        self._forget_due_ms = now + self._config.id_memory_ms
        while dead:
            put_id, due = next(iter(dead.items()))
            due_ms = due >> ARC_BITS
            if surplus <= 0 and now < max(due_ms, self._hold_ids_ms):
                self._forget_due_ms = max(due_ms, self._hold_ids_ms)
                return
            surplus -= 1
            del dead[put_id]
            if self._haunts(put_id):
                self.stats["ids_kept_for_a_row"] += 1
                arc = due & (1 << ARC_BITS) - 1
                dead[put_id] = now + self._config.id_memory_ms << ARC_BITS | arc
                continue
            self._store.delete(IDS, put_id)

    def _haunts(self, put_id: bytes) -> bool:
        skey = self._ghosts.get(put_id)
        if skey is None:
            return False
        if put_id in dvv.ids_of(dvv.decode(self.obj(skey))):
            return True
        del self._ghosts[put_id]
        return False

    def next_due_ms(self) -> int | None:
        """When to forget the oldest remembered id, and with it those that are due by then."""
        if not self.dead:
            return None
        due_ms = next(iter(self.dead.values())) >> ARC_BITS
        return (due_ms if due_ms > self._hold_ids_ms else self._hold_ids_ms) + FORGET_LATE_MS

    def check(self) -> None:
        """Assert that rows lie where they belong and that roots are their sums. Reads every row."""
        roots: dict[int, int] = {}
        keys = 0
        for skey, record in self._store.scan(OBJECTS):
            arc = int.from_bytes(skey[:2], "big")
            assert skey == ring.storage_key(skey[4:], self._config.partitions), "misplaced row"
            roots[arc] = roots.get(arc, 0) ^ int.from_bytes(record[:CHECK_BYTES], "big")
            keys += 1
        assert keys == self.keys, "key count"
        assert {a: r for a, r in roots.items() if r} == {
            a: r for a, r in self.roots.items() if r
        }, "M1: a root is the sum of the rows of its arc"
