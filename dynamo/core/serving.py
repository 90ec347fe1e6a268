"""What this node does for coordinators elsewhere: store an object, say what is held, know a put id.

Each handler is one message in, one message out, against the write door. As an owner it works on
the object row, as a stand-in on the hint row of the key. Everything that counts is fenced (F1): a
request made under another register than this node's is refused with this one, see `fence`.

Who counts toward R (R4): an owner that is synced, and that reads ask at the present phase of the
arc, with what it holds or with its absence; a stand-in only with an object, never with "nothing
here". History: with one node down, the empty stand-in was the fastest to answer, and r=1 said "not
found" of a key that two owners held (riak_cs#170).

Sources: Dynamo §4.5-4.6; DESIGN §4.
"""

from __future__ import annotations

from typing import Any

from dynamo.core import dvv, ring
from dynamo.core.handoff import Handoff
from dynamo.core.messages import (
    FETCHED,
    HINT_REFUSED,
    ID_IS,
    NO_SPACE,
    NOT_DURABLE,
    OBJECT,
    REPLICATE_OK,
    SAME,
    STORED,
    SYNCED,
    SYNCED_IF_KEPT,
    Malformed,
    Message,
)
from dynamo.core.replica import CHECK_BYTES, seal_record
from dynamo.core.requests import PUT_ID_BYTES, Requests

# With the disk short of space, objects up to this size are still taken: tombstones, above all.
SMALL_BYTES = 512


class Serving:
    """The replica's side of puts and gets."""

    __slots__ = ("durable_due", "handoff", "requests", "store")

    def __init__(self, requests: Requests, handoff: Handoff, store: Any) -> None:
        self.requests = requests
        self.handoff = handoff
        self.store = store
        self.durable_due = False  # this step must end in a synced commit

    def on_replicate(self, sender: str, message: Message, born_ms: int) -> None:
        """Store an object that somebody else minted: as an owner, or as a stand-in for `home`."""
        _, req, _, key, ver, phase, home, needed, durable, actor, dead, obj = message
        requests = self.requests
        skey = ring.storage_key(key, requests.table.partitions)
        arc = skey[0] << 8 | skey[1]
        # F1. A hint for an owner, brought home, and what an exchange pushes (no number) only merge.
        counts = req and (durable != SYNCED_IF_KEPT or home)
        if counts and requests.stale(sender, req, arc, ver, phase):
            return
        if dead and not all(
            type(put_id) is bytes and len(put_id) == PUT_ID_BYTES for put_id in dead
        ):
            raise Malformed("put ids have 16 bytes")
        status, seen, result = STORED, 0, obj
        if durable == SYNCED and self.store.durability == "memory":
            status = NOT_DURABLE
        elif not self.store.free_ok() and len(obj) > SMALL_BYTES:
            status = NO_SPACE
        elif home and requests.roster.gone(requests.me):
            # It will offer what it holds and be gone: its promise to keep something is worth
            # nothing. History: removed with DISCARD it erased a hint that had counted toward W.
            status = HINT_REFUSED if not needed else NO_SPACE
        elif home:
            if self.handoff.take(skey, home, obj, bool(needed), requests.wall_ms, dead):
                for put_id in dead:
                    requests.replica.remember(put_id, arc)
            else:
                status = HINT_REFUSED
        elif requests.me not in requests.table.writers(arc):
            # One of the two does not know yet who owns the arc, or it would not have come here.
            if counts or not requests.stale(sender, req, arc, ver, phase):
                requests.stats["not_an_owner"] += 1
            return
        else:
            replica = requests.replica
            result, seen = replica.accept(arc, skey, obj, dead, actor)
        if durable and status == STORED:
            self.durable_due = True
        if req:
            returned = b"" if result == obj else result
            requests.outbox.append((sender, (REPLICATE_OK, req, status, seen, returned)))

    def on_fetch(self, sender: str, message: Message, born_ms: int) -> None:
        """Say what is held here, and whether it counts toward R."""
        _, req, _, key, ver, phase, theirs = message
        requests = self.requests
        skey = ring.storage_key(key, requests.table.partitions)
        arc = skey[0] << 8 | skey[1]
        if requests.stale(sender, req, arc, ver, phase):
            return
        if requests.me in requests.table.owners(arc):
            record = requests.replica.record(skey)
            counts = requests.replica.synced(arc)
        elif requests.me in requests.table.writers(arc):
            record = requests.replica.record(skey)
            counts = False
        else:
            obj = self.handoff.peek(skey)
            record = seal_record(skey, obj) if obj else b""
            counts = bool(obj)  # R4
        if record[:CHECK_BYTES] == theirs:
            answer = (FETCHED, req, SAME, int(counts), b"")
        else:
            answer = (FETCHED, req, OBJECT, int(counts), record[CHECK_BYTES:])
        requests.outbox.append((sender, answer))

    def on_ask_id(self, sender: str, message: Message, born_ms: int) -> None:
        """Say whether a put id was applied here, and hand over the row."""
        _, req, _, key, ver, phase, put_id = message
        requests = self.requests
        skey = ring.storage_key(key, requests.table.partitions)
        arc = skey[0] << 8 | skey[1]
        if requests.stale(sender, req, arc, ver, phase):
            return
        owner = requests.me in requests.table.writers(arc)
        obj = requests.replica.obj(skey) if owner else self.handoff.peek(skey)
        known = put_id in requests.replica.dead or put_id in dvv.ids_of(dvv.decode(obj))
        requests.outbox.append((sender, (ID_IS, req, int(known), obj)))
