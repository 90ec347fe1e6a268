"""Mistakes with counting: who has a write, whose answer is evidence, and what a client is told."""

from __future__ import annotations

import random
from typing import Any

from dynamo.core import dvv
from dynamo.core import messages as m
from dynamo.core.fanout import Fanout, Put
from dynamo.core.node import Node
from dynamo.core.reads import Get, Reads
from dynamo.core.replica import Replica
from dynamo.core.requests import Requests
from dynamo.core.serving import Serving
from dynamo.core.writes import Writes
from dynamo.sim.machine import Disk
from dynamo.sim.zoo.entry import Plant, Shelf
from dynamo.sim.zoo.needs import impatient

mistake = Shelf()


# --- W --------------------------------------------------------------------------------------------


@mistake("C2", "I12")
def answer_counted_twice(plant: Plant) -> None:
    """A duplicated acknowledgement reaches W alone."""
    real = Fanout.on_replicate_ok

    def on_replicate_ok(self: Fanout, sender: str, message: Any, born_ms: int) -> None:
        op = self.requests.pending.get(message[1])
        if isinstance(op, Put) and not op.done and sender in op.waiting:
            op.acked.append(f"{sender} again")
        real(self, sender, message, born_ms)

    plant.set(Fanout, "on_replicate_ok", on_replicate_ok)


@mistake("C2: an answer from whom nobody asked", "N0", "I12")
def answer_of_a_stranger(plant: Plant) -> None:
    """A put takes every acknowledgement with its number, whether or not one is still due."""
    real = Fanout.on_replicate_ok

    def on_replicate_ok(self: Fanout, sender: str, message: Any, born_ms: int) -> None:
        op = self.requests.pending.get(message[1])
        if isinstance(op, Put) and not op.asking and sender not in op.waiting:
            op.acked.append(sender)
        real(self, sender, message, born_ms)

    plant.set(Fanout, "on_replicate_ok", on_replicate_ok)


@mistake("history: W met by one disk under two names", "I12", needs=impatient)
def names_counted_and_not_disks(plant: Plant) -> None:
    """An owner and the stand-in that delivered its hint to it count as two."""

    def count(op: Put, node: str, home: str) -> None:
        if node not in op.acked and not (home and not op.flags & m.SLOPPY):
            op.acked.append(node)
            if home:
                op.stand_ins.append([node, home])

    plant.set(Fanout, "count", staticmethod(count))


@mistake("C2", "I12")
def acknowledged_by_the_coordinator_alone(plant: Plant) -> None:
    """The client hears OK when the first disk has its put, whatever W says."""
    real = Fanout.progress

    def progress(self: Fanout, op: Put) -> None:
        op.w = min(op.w, 1)
        real(self, op)

    plant.set(Fanout, "progress", progress)


@mistake("C3", "I12")
def stand_in_counts_for_a_strict_put(plant: Plant) -> None:
    """A put that asked for owners is acknowledged by a stand-in."""
    real = Fanout.count

    def count(op: Put, node: str, home: str) -> None:
        flags, op.flags = op.flags, op.flags | m.SLOPPY
        real(op, node, home)
        op.flags = flags

    plant.set(Fanout, "count", staticmethod(count))
    plant.set(Put, "pw", property(lambda self: 0, lambda self, value: None))


@mistake("history: an acknowledgement from before a disk was wiped", "D1", "I12", "I1")
def numbers_begin_alike(plant: Plant) -> None:
    """Request numbers are the same in every life: a slow answer to one counts in the next."""
    real = Node.__init__

    def init(self: Node, config: Any, me: Any, founders: Any, cluster: Any, store: Any,
             rng: random.Random, *rest: Any) -> None:  # fmt: skip
        rng.getrandbits = lambda k: 0  # type: ignore[method-assign]
        try:
            real(self, config, me, founders, cluster, store, rng, *rest)
        finally:
            del rng.getrandbits

    plant.set(Node, "__init__", init)


@mistake("N1", "I12", "I1", "D1")
def sent_before_the_commit(plant: Plant) -> None:
    """The outbox leaves first, and the rows become durable with the next step."""
    real = Node.step

    def step(self: Node, now_ms: int, inbox: Any, wall_ms: int = 0) -> Any:
        store = self._store
        store.commit()
        store.commit = lambda sync=False: None
        try:
            return real(self, now_ms, inbox, wall_ms)
        finally:
            del store.commit

    plant.set(Node, "step", step)
    plant.set(Disk, "dirty", False)  # or the world would say so at once, as nobody else does


# --- R --------------------------------------------------------------------------------------------


@mistake("R4, riak_cs#170", "I6")
def empty_stand_in_counts(plant: Plant) -> None:
    """'Nothing here' of a node that is no owner is taken for evidence."""
    real = Serving.on_fetch

    def on_fetch(self: Serving, sender: str, message: Any, born_ms: int) -> None:
        before = len(self.requests.outbox)
        real(self, sender, message, born_ms)
        for at in range(before, len(self.requests.outbox)):
            to, answer = self.requests.outbox[at]
            if answer[0] == m.FETCHED:
                self.requests.outbox[at] = (to, (*answer[:3], 1, answer[4]))

    plant.set(Serving, "on_fetch", on_fetch)


@mistake("X1", "I6", "I5")
def blank_owner_counts(plant: Plant) -> None:
    """'Nothing here' of a node that was just wiped is taken for evidence."""
    plant.set(Replica, "synced", lambda self, arc: True)


@mistake("R4", "I6", "I12", "I4")
def first_answer_decides(plant: Plant) -> None:
    """A read is answered by the first who answers, whatever R says."""
    real = Reads._reach

    def reach(self: Reads, op: Get, counted: int) -> None:
        op.r, op.pr = 1, min(op.pr, 1)
        real(self, op, counted)

    plant.set(Reads, "_reach", reach)


@mistake("history: a get that a put overtakes", "I6", "I1")
def superseded_hidden_and_nothing_shown(plant: Plant) -> None:
    """A get hides what was superseded while it waited, and does not look at what took its place."""

    def answer(self: Reads, op: Get) -> None:
        requests = self.requests
        op.done = True
        op.repairing = False
        wall_ms, dead = requests.wall_ms, requests.replica.dead
        shown = [value for value in dvv.live(op.result, wall_ms) if value[0] not in dead]
        values = [[stamp_ms, payload] for _, _, stamp_ms, _, payload in shown]
        context = requests.sealed(op.key, op.result)
        requests.reply(op.client, (m.GET_OK, op.creq, context, values, op.acked[:]))

    plant.set(Reads, "answer", answer)


# --- What is told ---------------------------------------------------------------------------------


@mistake("history: 'nothing was done' of a put that an earlier owner had applied", "I2")
def second_refusal_passed_on(plant: Plant) -> None:
    """The refusal of the second owner is told, while the first, who is slow, stores the put."""
    real = Requests.on_forwarded

    def on_forwarded(self: Requests, sender: str, message: Any, born_ms: int) -> None:
        op = self.pending.get(message[1])
        if op is not None and sender in op.waiting:
            op.waiting = {sender: ""}
        real(self, sender, message, born_ms)

    plant.set(Requests, "on_forwarded", on_forwarded)


@mistake("history: a refusal of the second owner", "I2")
def stand_in_forgets_the_forward(plant: Plant) -> None:
    """A node that gave a put to slow owners refuses it as if it had not."""
    real = Writes._refuse

    def refuse(self: Writes, op: Put, refusal: Any) -> None:
        op.maybe = False
        real(self, op, refusal)

    plant.set(Writes, "_refuse", refuse)


@mistake("jepsen: 'failed' of a write that succeeded", "I2")
def minted_and_denied(plant: Plant) -> None:
    """A coordinator that runs out of time says that nothing was done."""
    real = Put.expired

    def expired(self: Put) -> None:
        self.minted = self.maybe = False
        real(self)

    plant.set(Put, "expired", expired)
