"""Mistakes with dots, actors, contexts and merges: what supersedes what."""

from __future__ import annotations

import random
from typing import Any

from dynamo.core import dvv, ring
from dynamo.core import messages as m
from dynamo.core.fanout import Fanout, Put
from dynamo.core.node import Node
from dynamo.core.replica import HINT_ARC, Replica
from dynamo.core.requests import Requests
from dynamo.core.spaces import OBJECTS
from dynamo.core.writes import Writes
from dynamo.sim.zoo.entry import Plant, SameBytes, Shelf
from dynamo.sim.zoo.needs import forgetting

mistake = Shelf()


@mistake("trap 1, riak_kv#679", "D1", "I1", "I4", "I6")
def actor_survives_its_disk(plant: Plant) -> None:
    """A wiped node counts on from zero under its old names, and nobody tells it."""
    real_init, real_mint = Node.__init__, Replica.mint

    def init(self: Node, config: Any, me: Any, *rest: Any) -> None:
        real_init(self, config, me, *rest)
        self.replica._incarnation = me.name.encode().ljust(16, b".")
        self.replica._prefixes.clear()

    plant.set(Node, "__init__", init)
    plant.set(Replica, "mint", _with_same_bytes(real_mint, lambda arc: True))
    _never_notice_amnesia(plant)


@mistake("trap 1, found writing the scenario", "D1", "I1", "I12")
def stand_in_counts_on(plant: Plant) -> None:
    """A stand-in that delivered and erased its hint continues under the same actor."""
    plant.set(Replica, "mint", _with_same_bytes(Replica.mint, lambda arc: arc == HINT_ARC))


@mistake("trap 1, riak_kv#679 (one key forgotten)", "D1", "I1", "I6", needs=forgetting)
def actor_survives_its_row(plant: Plant) -> None:
    """A key whose row is gone is counted on from one, under the actor that it had."""
    plant.set(Replica, "mint", _with_same_bytes(Replica.mint, lambda arc: arc != HINT_ARC))
    _never_notice_amnesia(plant)


@mistake("trap 1", "D1", "I1", "I12", "I6")
def unclean_start_unnoticed(plant: Plant) -> None:
    """A store that lost its last writes is opened as if it had lost none."""
    real = Replica._open

    def opened(self: Replica) -> None:
        self._store.unclean = False
        real(self)

    plant.set(Replica, "_open", opened)


@mistake("trap 3, riak_kv#1865", "D1", "I1", "I12", "I6")
def actors_named_alike(plant: Plant) -> None:
    """All nodes derive their actors from the key alone: two of them mint one dot."""
    plant.set(Replica, "prefix", lambda self, arc: b"always")
    plant.set(Replica, "mint", _with_same_bytes(Replica.mint, lambda arc: True))
    plant.set(Replica, "retire", lambda self, arc, why: None)
    _never_notice_amnesia(plant)


def _with_same_bytes(real: Any, where: Any) -> Any:
    def mint(self: Replica, arc: int, clock: Any, context: Any, value: Any) -> Any:
        if not where(arc):
            return real(self, arc, clock, context, value)
        fresh: random.Random = self._rng
        self._rng = SameBytes()
        try:
            return real(self, arc, clock, context, value)
        finally:
            self._rng = fresh

    return mint


def _never_notice_amnesia(plant: Plant) -> None:
    plant.set(Replica, "notice_amnesia", lambda self, arc, mine, theirs: False)
    plant.set(Replica, "seen", lambda self, mine, theirs, actor: 0)


# --- Contexts -------------------------------------------------------------------------------------


@mistake("D4, 3,318 of 4,000 histories", "I6", "I1", "I4")
def siblings_kept_from_the_writer(plant: Plant) -> None:
    """A put's answer covers siblings that it does not show: the next put erases them unread."""
    real = Fanout._answer

    def answer(self: Fanout, op: Put) -> None:
        real(self, op)
        to, message = self.requests.outbox[-1]
        if message[0] == m.PUT_OK:
            self.requests.outbox[-1] = (to, (*message[:3], [], *message[4:]))

    plant.set(Fanout, "_answer", answer)


@mistake("D4", "I6", "I1")
def context_newer_than_its_values(plant: Plant) -> None:
    """The values are those that were read, the context is that of the row as it is now."""
    real = Requests.sealed

    def sealed(self: Requests, key: bytes, clock: dvv.Clock) -> bytes:
        now = dvv.decode(self.replica.obj(ring.storage_key(key, self.table.partitions)))
        return real(self, key, dvv.merge(clock, now))

    plant.set(Requests, "sealed", sealed)


@mistake("trap 4, riak_kv#746", "I4", "I3")
def nothing_superseded(plant: Plant) -> None:
    """A context that covers nothing leaves every old value beside the new one."""
    plant.set(dvv, "discard", lambda clock, context: clock)


@mistake("trap 8, aphyr 299", "I6", "I1", "I4")
def last_write_wins(plant: Plant) -> None:
    """Of several values a reader is shown the newest by the clock, with a context over all."""
    real = Requests.shown
    plant.set(Requests, "shown", lambda self, clock: real(self, clock)[:1])


@mistake("D2, DESIGN §2", "I1", "I6", "I12")
def only_the_new_value_replicated(plant: Plant) -> None:
    """Replicas get the new value under its dot, and not the whole clock."""
    real = Fanout._message

    def message(self: Fanout, op: Put, home: str) -> Any:
        whole = op.obj
        if op.actor:
            op.obj = dvv.encode([(op.actor, op.n, [op.value])])
        try:
            return real(self, op, home)
        finally:
            op.obj = whole

    plant.set(Fanout, "_message", message)


@mistake("D2", "I6", "I1", "I12", "I9")
def one_sibling_per_actor(plant: Plant) -> None:
    """A merge keeps the newest value of each actor: two clients at one coordinator are one."""
    real = dvv._sync

    def sync(newer: dvv.Entry, older: dvv.Entry) -> dvv.Entry:
        actor, n, values = real(newer, older)
        return actor, n, values[:1]

    plant.set(dvv, "discard", _discard)
    plant.set(dvv, "_sync", sync)


@mistake("D2; riak_kv#1094", "I3", "I4", "I9")
def superseded_values_return(plant: Plant) -> None:
    """A merge keeps what either side still holds, though the other has let it go."""

    def sync(newer: dvv.Entry, older: dvv.Entry) -> dvv.Entry:
        actor, n, values = newer
        low = n - len(values)  # the newest dot that this side has let go
        back = older[2][older[1] - low :] if older[1] >= low else []
        return actor, n, values + back

    plant.set(dvv, "discard", _discard)
    plant.set(dvv, "_sync", sync)


def _discard(clock: dvv.Clock, covered: dvv.Context) -> dvv.Clock:
    """`dvv.discard` without `dvv.merge`, so that a mistake there leaves this as it is."""
    left = [
        (actor, max(n, covered.get(actor, 0)), values[: max(0, n - covered.get(actor, 0))])
        for actor, n, values in clock
    ]
    known = dvv.context_of(clock)
    return sorted([*left, *((actor, n, []) for actor, n in covered.items() if actor not in known)])


@mistake("trap 20, riak_core#828", "I5")
def clocks_not_canonical(plant: Plant) -> None:
    """Equal clocks have other bytes, by the order in which their entries came."""

    def merge(mine: dvv.Clock, theirs: dvv.Clock) -> dvv.Clock:
        merged = {entry[0]: entry for entry in mine}
        for entry in theirs:
            held = merged.get(entry[0], entry)
            newer, older = (held, entry) if held[1] >= entry[1] else (entry, held)
            merged[entry[0]] = dvv._sync(newer, older)
        return list(merged.values())

    plant.set(dvv, "merge", merge)
    plant.set(dvv, "decode", lambda obj: sorted(dvv._decode(obj)) if obj else [])


# --- Deletes --------------------------------------------------------------------------------------


@mistake("trap 9", "I6", "I1")
def delete_covers_everything(plant: Plant) -> None:
    """A delete removes what its coordinator holds, read by its client or not."""
    real = Writes._context

    def context(self: Writes, op: Put, clock: dvv.Clock) -> dvv.Context | None:
        return dvv.context_of(clock) if op.flags & m.DELETE else real(self, op, clock)

    plant.set(Writes, "_context", context)


@mistake("trap 9, riak_kv#226", "I12", "I1", "I3")
def tombstone_dropped_at_once(plant: Plant) -> None:
    """A delete leaves nothing behind, and the next owner that missed it brings the value back."""
    real = Replica._write

    def write(self: Replica, skey: bytes, old: bytes, obj: bytes) -> bytes:
        if not all(value[1] & dvv.TOMBSTONE for value in dvv.values_of(dvv.decode(obj))):
            return real(self, skey, old, obj)
        if old:
            self._store.delete(OBJECTS, skey)
            self._toggle(skey, old)
            self.keys -= 1
        return obj

    plant.set(Replica, "_write", write)


# --- Refusals -------------------------------------------------------------------------------------


@mistake("DESIGN: a refusal is certain to have done nothing", "I2")
def refused_and_stored(plant: Plant) -> None:
    """A put is answered CONFLICT, and stored beside the values that it met all the same."""
    real = Writes._context

    def context(self: Writes, op: Put, clock: dvv.Clock) -> dvv.Context | None:
        found = real(self, op, clock)
        return {} if found is None else found

    plant.set(Writes, "_context", context)
