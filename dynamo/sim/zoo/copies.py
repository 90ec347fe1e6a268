"""Mistakes with copies: rows, roots, hints, exchange, and the process around them."""

from __future__ import annotations

from typing import Any

from dynamo.core import dvv
from dynamo.core import messages as m
from dynamo.core.exchange import Exchange
from dynamo.core.handoff import Handoff
from dynamo.core.liveness import DOWN, Liveness
from dynamo.core.node import Node
from dynamo.core.replica import CHECK_BYTES, Replica
from dynamo.core.requests import Requests
from dynamo.core.spaces import META, OBJECTS
from dynamo.core.writes import Writes
from dynamo.sim.zoo.entry import Plant, Shelf
from dynamo.sim.zoo.needs import rotting
from dynamo.storage.contract import StoreError

mistake = Shelf()


# --- Hints ----------------------------------------------------------------------------------------


@mistake("trap 16; H1", "I9", "I12")
def hint_erased_on_send(plant: Plant) -> None:
    """A hint is erased when it leaves, not when its home has it on disk."""
    real = Handoff._deliver

    def deliver(self: Handoff, home: str, skey: bytes, now_ms: int) -> int:
        size = real(self, home, skey, now_ms)
        row = self.row(skey)
        if row is not None and home in row[0]:
            self._erase(home, skey, row)
        return size

    plant.set(Handoff, "_deliver", deliver)


@mistake("H1", "I9")
def hint_erased_though_it_grew(plant: Plant) -> None:
    """What was acknowledged is erased together with what was added while it was under way."""

    def on_replicate_ok(self: Handoff, sender: str, message: Any) -> bool:
        sent = self._sent.pop(message[1], None)
        if sent is None or sent[0] != sender:
            return False
        home, skey = sent[:2]
        row = self.row(skey)
        if message[2] == m.STORED and row is not None and home in row[0]:
            self._erase(home, skey, row)
        return True

    plant.set(Handoff, "on_replicate_ok", on_replicate_ok)


@mistake("trap 16", "I9")
def hint_erased_by_a_refusal(plant: Plant) -> None:
    """A home that had no room for a hint answered, and that passes for having it."""
    real = Handoff.on_replicate_ok

    def on_replicate_ok(self: Handoff, sender: str, message: Any) -> bool:
        return real(self, sender, (*message[:2], m.STORED, *message[3:]))

    plant.set(Handoff, "on_replicate_ok", on_replicate_ok)


@mistake("trap 13, riak_core#154; H4", "N0", "I9")
def hints_forgotten_at_restart(plant: Plant) -> None:
    """What is owed is known to the process that took it, and to none after it."""
    real = Handoff.__init__

    def init(self: Handoff, *args: Any) -> None:
        real(self, *args)
        self._owed.clear()
        self._bytes.clear()
        self._oldest.clear()

    plant.set(Handoff, "__init__", init)


@mistake("trap 13, riak#1135", "I9")
def hints_never_delivered(plant: Plant) -> None:
    """Hints are kept, and nobody brings them home."""
    plant.set(Handoff, "run", lambda self, now_ms: None)


@mistake("H2", "I12")
def needed_hint_dropped_at_the_limit(plant: Plant) -> None:
    """Past the window or the byte cap a hint is acknowledged and not kept, needed or not."""
    real = Handoff.take

    def take(self: Handoff, skey: bytes, home: str, obj: bytes, needed: bool, *rest: Any) -> bool:
        real(self, skey, home, obj, False, *rest)
        return True

    plant.set(Handoff, "take", take)


@mistake("H3", "I5", "I1")
def hint_kept_as_an_own_row(plant: Plant) -> None:
    """A stand-in stores what it was given among the rows that it owns, and owes it to nobody."""

    def take(self: Handoff, skey: bytes, home: str, obj: bytes, *rest: Any) -> bool:
        self._replica.merge(int.from_bytes(skey[:2], "big"), skey, obj)
        return True

    plant.set(Handoff, "take", take)


@mistake("trap 11, riak_kv#1850", "I12")
def deletes_not_handed_off(plant: Plant) -> None:
    """A stand-in takes a tombstone for nothing, and keeps nothing."""
    real = Handoff.take

    def take(self: Handoff, skey: bytes, home: str, obj: bytes, *rest: Any) -> bool:
        values = dvv.values_of(dvv.decode(obj))
        if values and all(value[1] & dvv.TOMBSTONE for value in values):
            return True
        return real(self, skey, home, obj, *rest)

    plant.set(Handoff, "take", take)


@mistake("trap 14, scylladb#8863: hint storm", "I15")
def hints_sent_all_at_once(plant: Plant) -> None:
    """A home that comes back gets everything that is owed to it in one go."""

    def send(self: Handoff, home: str, owed: dict[bytes, int], now_ms: int) -> None:
        flying = {skey for to, skey, _, _ in self._sent.values() if to == home}
        for skey in list(owed):
            if skey not in flying:
                self._deliver(home, skey, now_ms)

    plant.set(Handoff, "_send", send)


# --- Rows and their roots -------------------------------------------------------------------------


@mistake("trap 18, riak_kv#473; M1", "N0", "I5")
def root_not_updated(plant: Plant) -> None:
    """A row that is overwritten leaves the root of its arc as it was."""
    real = Replica._write

    def write(self: Replica, skey: bytes, old: bytes, obj: bytes) -> bytes:
        arc = skey[0] << 8 | skey[1]
        before = self.roots.get(arc, 0)
        real(self, skey, old, obj)
        if old:
            self.roots[arc] = before
        return obj

    plant.set(Replica, "_write", write)


@mistake("trap 6, riak_kv#679", "I6", "I1", "N0", "I12", needs=rotting)
def corrupt_taken_for_absent(plant: Plant) -> None:
    """A record that rotted is dropped, and 'nothing here' said in good faith."""

    def quarantine(self: Replica, skey: bytes, record: bytes) -> None:
        self._store.delete(OBJECTS, skey)
        self._sum_root(int.from_bytes(skey[:2], "big"))
        self.keys -= 1
        self.stats["records_corrupt"] += 1

    plant.set(Replica, "_quarantine", quarantine)


@mistake("trap 35", "I14", "N0", "D1", "I9")
def checks_not_checked(plant: Plant) -> None:
    """A record is given out as it lies on the disk, rotten or not."""

    def record(self: Replica, skey: bytes) -> bytes:
        found: bytes | None = self._store.get(OBJECTS, skey)
        return found or b""

    def rows(self: Replica, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return list(self._store.scan(OBJECTS, start, end, limit))

    plant.set(Replica, "record", record)
    plant.set(Replica, "rows", rows)


@mistake("fault matrix 33: values at the limit", "I14")
def long_values_cut(plant: Plant) -> None:
    """A value beyond some size is stored as far as it fits, and nobody says so."""
    real = Writes._operation

    def operation(self: Writes, client: Any, message: m.Message, *rest: Any) -> Any:
        return real(self, client, (*message[:-1], message[-1][:1_000]), *rest)

    plant.set(Writes, "_operation", operation)


@mistake("trap 39, fsyncgate", "N0", "I12")
def failed_commit_ignored(plant: Plant) -> None:
    """A commit that failed is tried again with the next step, when the disk has dropped it."""
    real = Node.step

    def step(self: Node, now_ms: int, inbox: Any, wall_ms: int = 0) -> Any:
        store = self._store
        commit = store.commit

        def forgiving(sync: bool = False) -> None:
            try:
                commit(sync)
            except StoreError:
                store.crash()

        store.commit = forgiving
        try:
            return real(self, now_ms, inbox, wall_ms)
        finally:
            del store.commit

    plant.set(Node, "step", step)


# --- Exchange -------------------------------------------------------------------------------------


@mistake("DESIGN §4.7", "I5")
def owners_never_compare(plant: Plant) -> None:
    """Without the exchange, what missed an owner stays missing there."""
    plant.set(Exchange, "_start_walks", lambda self, peer, now_ms: None)


@mistake("trap 21", "I1", "I3", "I9")
def copied_and_not_merged(plant: Plant) -> None:
    """The exchange takes a peer's row for its own, whatever it held."""

    def take(self: Exchange, walk: Any, skey: bytes, obj: bytes) -> None:
        replica = self._replica
        replica._write(skey, replica.record(skey), obj)

    plant.set(Exchange, "_take", take)


@mistake("trap 21: copy newest", "I1", "I3", "I6", "I9", "I12")
def newest_row_wins(plant: Plant) -> None:
    """An owner that is sent a row keeps the newer of the two by the clock, and not both."""

    def newest(obj: bytes) -> int:
        return max((value[2] for value in dvv.values_of(dvv.decode(obj))), default=0)

    def accept(self: Replica, arc: int, skey: bytes, obj: bytes, *rest: Any) -> tuple[bytes, int]:
        old = self.record(skey)
        held = old[CHECK_BYTES:]
        if held and newest(held) >= newest(obj):
            return held, 0
        return self._write(skey, old, obj), 0

    plant.set(Replica, "accept", accept)


@mistake("fault matrix 26: rows on the move", "I1", "I3")
def moved_and_not_copied(plant: Plant) -> None:
    """An owner that gives a row to another one, who lacks it, thinks that it is rid of it."""
    real = Exchange._push

    def push(self: Exchange, walk: Any, skey: bytes) -> None:
        real(self, walk, skey)
        replica = self._replica
        record = replica.record(skey)
        if record:
            replica._store.delete(OBJECTS, skey)
            replica._toggle(skey, record)
            replica.keys -= 1

    plant.set(Exchange, "_push", push)


@mistake("trap 11", "I5")
def deletes_not_exchanged(plant: Plant) -> None:
    """The exchange passes over rows that hold nothing but a tombstone."""
    real = Replica.rows

    def rows(self: Replica, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        found = []
        for skey, record in real(self, start, end, limit):
            values = dvv.values_of(dvv.decode(record[CHECK_BYTES:]))
            if not values or any(not value[1] & dvv.TOMBSTONE for value in values):
                found.append((skey, record))
        return found

    plant.set(Replica, "rows", rows)


# --- The process ----------------------------------------------------------------------------------


@mistake("trap 31: a flag that sticks", "I5", "I9")
def once_down_always_down(plant: Plant) -> None:
    """A peer that was given up is not heard any more."""
    real = Liveness.heard

    def heard(self: Liveness, name: str, now_ms: int) -> None:
        if self.state(name) is not DOWN:
            real(self, name, now_ms)

    plant.set(Liveness, "heard", heard)


@mistake("trap 31, riak_core#314: no cap", "I15")
def no_limit_to_operations(plant: Plant) -> None:
    """A coordinator takes up whatever comes, and says OVERLOADED to nobody."""
    real = Requests._admit

    def admit(self: Requests, key: bytes) -> None:
        pending, self.pending = self.pending, {}
        size, self._bytes = self._bytes, 0
        try:
            real(self, key)
        finally:
            self.pending, self._bytes = pending, size

    plant.set(Requests, "_admit", admit)


@mistake("I15", "I15")
def put_ids_kept_for_ever(plant: Plant) -> None:
    """Ids of superseded puts are remembered, and none is forgotten."""
    plant.set(Replica, "forget_ids", lambda self: None)


@mistake("traps 23 and 24: a generation that does not rise", "I11")
def start_counter_stands_still(plant: Plant) -> None:
    """A node says in each of its lives that it is the same one."""
    real = Replica._open

    def opened(self: Replica) -> None:
        before = self._store.get(META, b"boot")
        real(self)
        if before is not None:
            self._store.put(META, b"boot", before)
            self.boot -= 1

    plant.set(Replica, "_open", opened)


@mistake("trap 31, riak_core#314", "I15", "I5")
def operations_never_forgotten(plant: Plant) -> None:
    """What has been answered stays in the table."""
    real = Requests.close

    def close(self: Requests, op: Any) -> None:
        if op.done and op.waiting:
            return
        real(self, op)

    plant.set(Requests, "close", close)


@mistake("N2", "I16", twice=True)
def numbered_by_address(plant: Plant) -> None:
    """Request numbers depend on where in memory an operation happens to lie."""
    real = Requests.enter

    def enter(self: Requests, op: Any, due_ms: int) -> None:
        self._seq += object.__hash__(op) % 7
        real(self, op, due_ms)

    plant.set(Requests, "enter", enter)
