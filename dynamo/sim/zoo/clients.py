"""Mistakes of the client: its session, its contexts, its merge functions, and what it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamo.client.op import Try
from dynamo.client.session import Session
from dynamo.core import context, dvv, writes
from dynamo.core import messages as m
from dynamo.core.requests import Requests
from dynamo.sim import acts
from dynamo.sim.workload import Client
from dynamo.sim.zoo.entry import Plant, Shelf

mistake = Shelf()


@mistake("jepsen: 'failed' of a write that succeeded", "I2")
def timeout_passes_for_a_refusal(plant: Plant) -> None:
    """The client says 'nothing was done' of a put whose coordinator gave up waiting."""
    real = Session._refused

    def refused(self: Session, now_ms: int, op: Any, node: Any, failed: m.Message) -> None:
        real(self, now_ms, op, node, (*failed[:8], 0, *failed[9:]))

    plant.set(Session, "_refused", refused)


@mistake("S1", "I2")
def broken_connection_proves_nothing_was_done(plant: Plant) -> None:
    """The client takes a put for undone because the node that it was sent to died."""
    real = Session.lost

    def lost(self: Session, now_ms: int, address: str) -> None:
        node = self._nodes.get(address)
        items = list(node.waiting.values()) if node is not None else []
        sure = [item.op for item in items if item.op is not None and not item.op.uncertain]
        real(self, now_ms, address)
        for op in sure:
            op.uncertain = False

    plant.set(Session, "lost", lost)


@mistake("S3, riak-python-client#425", "I1", "I2", "I14", "I6")
def late_answer_given_to_the_next(plant: Plant) -> None:
    """What comes after its caller has left is given to whoever waits now."""
    real = Session.handle

    def handle(self: Session, now_ms: int, address: str, messages: Any, tag: bytes = b"") -> None:
        waiting = self._nodes[address].waiting
        found = []
        for message in messages:
            if message[1] not in waiting:
                kinds = {m.GET_OK: m.GET, m.PUT_OK: m.PUT}
                for req, item in waiting.items():
                    if item.op is not None and item.op.kind == kinds.get(message[0]):
                        message = (message[0], req, *message[2:])
                        break
            found.append(message)
        real(self, now_ms, address, found, tag)

    plant.set(Session, "handle", handle)


@mistake("S1, redis-raft: loops on any request", "I13")
def deadline_forgotten(plant: Plant) -> None:
    """A client that waits for ever."""
    plant.set(Session, "_expire", lambda self, now_ms, op: None)


@mistake("trap 3", "I14", "I2", "I12")
def put_ids_shared_by_clients(plant: Plant) -> None:
    """Each client counts its put ids from one: a put is taken for another client's."""
    real = Session.__init__

    def init(self: Session, *args: Any, **how: Any) -> None:
        real(self, *args, **how)
        self._put_ids = 0

    plant.set(Session, "__init__", init)


@mistake("trap 5: a retry that is a new request", "I4", "I3")
def retried_under_another_id(plant: Plant) -> None:
    """Each try of a put has an id of its own, so that nobody knows that they are one."""
    real_message, real_note = Try.message, Client._note_attempt
    at = 8  # the highest byte of the counter in an id: 0 for the first try

    def message(self: Try, now_ms: int, ring: Any) -> Any:
        op = self.op
        if op is None or not op.put_id or not op.sent:
            return real_message(self, now_ms, ring)
        first = op.put_id
        op.put_id = first[:at] + bytes([op.sent % 256]) + first[at + 1 :]
        try:
            return real_message(self, now_ms, ring)
        finally:
            op.put_id = first

    def note(self: Client, message: m.Message) -> None:
        put_id, uids = message[8], self.world.uids
        uids[put_id] = uids[put_id[:at] + b"\0" + put_id[at + 1 :]]
        real_note(self, message)

    plant.set(Try, "message", message)
    plant.set(Client, "_note_attempt", note)


# --- What it is given, and what it makes of it ----------------------------------------------------


@mistake("security checklist: contexts from clients; D4", "D4")
def contexts_not_checked(plant: Plant) -> None:
    """Any bytes pass for a context, whoever made them, and for whatever key they were made."""
    real = context.unseal

    def unseal(secret: bytes, key: bytes, token: bytes) -> dvv.Context:
        try:
            return real(secret, key, token)
        except m.Malformed:
            return {}

    plant.set(writes, "unseal", unseal)


@mistake("fault matrix 13: expiry", "I3")
def expired_shown(plant: Plant) -> None:
    """A value whose time to live is over is shown as long as its row lies there."""
    plant.set(Requests, "shown", lambda self, clock: dvv.live(clock, 0, self.replica.dead))


@mistake("trap 25, S3 2008: no checksum on messages", "I2", "I14", "N0")
def frames_not_checked(plant: Plant) -> None:
    """A frame is taken as it arrives, and nobody compares its checksum."""
    plant.set(m, "crc32", lambda body: 0)


@mistake("I8: jepsen set-full", "I8")
def merge_function_drops(plant: Plant) -> None:
    """A merge function takes one side of a conflict for the whole of it."""

    def union(siblings: Sequence[Any]) -> Any:
        return list(siblings[0])

    plant.set(acts, "union", union)
