"""Puts and deletes, from the mint on: replicate the finished object, count, cover, answer at W.

    N=3 W=2, owners [a, b, c], c is down, d is beyond the owners:

      client -> a  PUT            a mints (a,1), stores, acked = [a]
      a -> b, c    REPLICATE      the whole object, never the value alone
      b -> a       REPLICATE_OK   acked = [a, b]: the client hears PUT_OK
      ... replica_timeout_ms pass, or c is DOWN already ...
      a -> d       REPLICATE home=c                      d keeps a hint (see `handoff`)
      d -> a       REPLICATE_OK   c's home is covered: the operation is forgotten

What the answer covers (D4): only if the new value is the sole survivor does the client get a
context without values; otherwise it gets every sibling, as a read gives it.

    A puts 1; B blind-puts 2; A puts 3 over {a:1}: the row is a:(3,[3,2]). Were {a:3} returned
    alone, A's next put would erase 2, acknowledged and unread (3,318 of 4,000 histories).

REPLICATE_OK carries back the receiver's row where it differs from what was sent, and the receiver's
counter where this node's store has gone back in time (`Replica.seen`): then the actor is retired
and the value minted anew before the client hears anything.

Invariants
  C1  An operation is answered exactly once.
  C2  Acknowledgements are counted per distinct owner: by itself, or by one stand-in, never both.
      So no duplicate reaches W alone, and no hint that has been delivered, and erased, meanwhile.
  C3  Each stand-in acts for one named owner; a strict put (sloppy off) does not count it.

Sources: Dynamo §4.5-4.6; DESIGN §2, §4, §5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamo.core import dvv
from dynamo.core.handoff import Handoff
from dynamo.core.messages import (
    ASK_ID,
    DURABLE,
    HINT_REFUSED,
    NO_SPACE,
    NOT_DURABLE,
    PUT_OK,
    REPLICATE,
    SLOPPY,
    STORED,
    TIMED_OUT,
    UNAVAILABLE,
    Message,
)
from dynamo.core.replica import CHECK_BYTES
from dynamo.core.requests import (
    Operation,
    Requests,
)


class Put(Operation):
    """A put or delete under way."""

    __slots__ = (
        "actor",
        "asking",
        "clock",
        "context",
        "fanout",
        "gone",
        "homes",
        "maybe",
        "minted",
        "mode",
        "n",
        "obj",
        "pw",
        "resume",
        "stand_ins",
        "uncovered",
        "used",
        "value",
        "w",
    )

    fanout: Fanout
    resume: Callable[[Put], None]  # goes on after the questions about the id
    value: dvv.Value
    mode: int
    context: dvv.Context
    w: int
    pw: int

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.actor = b""
        self.n = 0
        self.clock: dvv.Clock = []
        self.obj = b""
        self.gone: list[bytes] = []
        self.minted = False
        self.maybe = False  # an earlier attempt, given to others, may have been applied
        self.homes: dict[str, str] = {}  # owner -> the node whose acknowledgement counts for it
        self.asking = 0  # answers about the put id still wanted before minting
        self.stand_ins: list[list[str]] = []
        self.used: dict[str, None] = {}  # nodes that have been asked to store
        self.uncovered: dict[str, None] = {}  # owners that neither hold it nor are owed it

    def silent(self, now_ms: int) -> int:
        """Whoever has not answered gets a stand-in; questions about the id are given up."""
        stats = self.fanout.requests.stats
        if self.asking:
            stats["questions_unanswered"] += 1
            self.asking = 0
            self.waiting.clear()
            self.resume(self)
        else:
            stats["owners_silent"] += 1
            self.fanout.cover(self, list(self.uncovered))
            if not self.uncovered:
                return self.deadline_ms  # nobody is left who could be covered
        return now_ms + self.fanout.requests.config.replica_timeout_ms

    def expired(self) -> None:
        """Say what is known: it may have been stored, and may yet spread."""
        if not self.done:
            self.done = True
            self.fanout.requests.fail(
                self.client, self.creq, TIMED_OUT, "too few acknowledgements by the deadline",
                self.w, len(self.acked), self.acked, list(self.waiting), self.minted or self.maybe,
            )  # fmt: skip

    def again(self, peer: str) -> None:
        if self.asking:
            # History: the question was refused, the object sent in its place, although there was
            # none yet, and its acknowledgement counted for the one that was minted later.
            self.fanout.requests.stats["asked_again"] += 1
            self.fanout.ask(self, peer)
        else:
            self.fanout.send(self, peer, self.waiting[peer])


class Fanout:
    """Replicates puts that were minted here, and counts who has them."""

    __slots__ = ("durable_due", "handoff", "requests")

    def __init__(self, requests: Requests, handoff: Handoff) -> None:
        self.requests = requests
        self.handoff = handoff
        self.durable_due = False  # this step must end in a synced commit

    def spread(self, op: Put) -> None:
        """Send what was minted to every other owner, or to whoever stands in for it."""
        requests = self.requests
        me = requests.me
        if op.flags & DURABLE:
            self.durable_due = True
        op.used[me] = None
        missing = []
        doubts = requests.liveness.doubts
        message = self._message(op, "")
        for name in op.owners:
            if name == me:
                continue
            op.uncovered[name] = None
            if not doubts or requests.liveness.usable(name):
                op.waiting[name] = ""
                op.used[name] = None
                requests.outbox.append((name, message))
            else:
                missing.append(name)
        if me not in op.owners:
            del op.uncovered[op.owners[0]]  # this node stands in for it
            missing = [name for name in missing if name in op.uncovered]
        if missing:
            self.cover(op, missing)

    def ask(self, op: Put, name: str) -> None:
        """Ask a node whether it knows the put's id, before anything is minted."""
        requests = self.requests
        register = requests.table.registers[op.arc]
        op.waiting[name] = ""
        left_ms = requests.remaining_ms(op)
        requests.outbox.append(
            (name, (ASK_ID, op.req, left_ms, op.key, *register[:2], op.value[0]))
        )

    def send(self, op: Put, name: str, home: str) -> None:
        """Send the object to an owner, or to a stand-in for `home`."""
        op.waiting[name] = home
        op.used[name] = None
        self.requests.outbox.append((name, self._message(op, home)))

    def _message(self, op: Put, home: str) -> Message:
        requests = self.requests
        register = requests.table.registers[op.arc]
        return (
            REPLICATE, op.req, requests.remaining_ms(op), op.key, register.ver, register.phase,
            home, int(not op.done), 1 if op.flags & DURABLE else 0, op.actor, op.gone, op.obj,
        )  # fmt: skip

    def cover(self, op: Put, homes: list[str]) -> None:
        """Have somebody keep the write for owners that do not answer."""
        requests = self.requests
        spare = [name for name in requests.stand_ins(op.arc) if name not in op.used]
        for home in homes:
            if spare:
                self.send(op, spare.pop(0), home)
            elif requests.me in op.owners and home in op.uncovered:
                # Nobody beyond the owners is left: keep the mark beside the own row. It is the
                # same disk, so it does not count a second time.
                self.handoff.keep_own(op.skey, home, requests.wall_ms, op.gone)
                del op.uncovered[home]
        self._finish(op)

    # --- acknowledgements -----------------------------------------------------------------------

    def on_replicate_ok(self, sender: str, message: Message, born_ms: int) -> None:
        """Count one node, once, unless it proves that this store has forgotten (C2)."""
        _, req, status, seen, returned = message
        op = self.requests.pending.get(req)
        if not isinstance(op, Put) or op.asking or sender not in op.waiting:
            return
        home = op.waiting.pop(sender)
        if status != STORED:
            self._not_stored(op, sender, home, status)
            return
        if seen >= op.n > 0 and self._forgot(op, returned):
            return
        if returned:
            self._learn(op, returned)
        op.uncovered.pop(home or sender, None)
        if not op.done:
            self.count(op, sender, home)
        self.progress(op)

    @staticmethod
    def count(op: Put, node: str, home: str) -> None:
        """Count `node` toward W, for itself or for the owner `home` that it stands in for (C2)."""
        owner = home or node
        counted = op.homes.get(owner)
        if counted is None:
            if home and not op.flags & SLOPPY:
                return
            op.homes[owner] = node
            op.acked.append(node)
            if home:
                op.stand_ins.append([node, home])
        elif not home and counted != node:
            op.homes[owner] = node
            op.acked[op.acked.index(counted)] = node
            op.stand_ins.remove([counted, owner])

    def _not_stored(self, op: Put, sender: str, home: str, status: int) -> None:
        self.requests.stats["not_stored"] += 1
        if status == HINT_REFUSED:
            op.uncovered.pop(home, None)  # the arc is marked for repair there
            self._finish(op)
        elif status in (NO_SPACE, NOT_DURABLE) and not op.done:
            self.cover(op, [home or sender])

    def _learn(self, op: Put, returned: bytes) -> None:
        # The receiver knew more than was sent. The client is told of it, as of a read.
        self.requests.stats["puts_taught"] += 1
        theirs = dvv.decode(returned)
        self.take_in(op, returned)
        op.clock = dvv.shed(dvv.merge(op.clock, theirs), self.requests.replica.dead)

    def _forgot(self, op: Put, returned: bytes) -> bool:
        """Whether a counter above the own one proves amnesia; then mint anew (C1 still holds).

        Not if the own row has let the value go under an actor that is still good: then later
        writes of this node have overtaken the message, and the receiver saw them first.
        """
        requests = self.requests
        replica = requests.replica
        if requests.me not in op.owners:
            return False
        record = replica.record(op.skey)
        if op.actor.startswith(replica.prefix(op.arc)):
            if op.value[0] not in dvv.ids_of(dvv.decode(record[CHECK_BYTES:])):
                return False
            replica.retire(op.arc, "a peer knows more of it")
            requests.stats["amnesia"] += 1
        replica.revive(op.value[0])
        clock = dvv.merge(dvv.decode(returned), dvv.decode(record[CHECK_BYTES:]))
        op.clock, op.obj, op.actor, op.n, op.gone = replica.put(
            op.arc, op.skey, record, clock, op.context, op.value
        )
        op.acked.clear()
        op.homes.clear()
        op.stand_ins.clear()
        self.count(op, requests.me, "")
        op.waiting.clear()
        # A new number: acknowledgements of the first object must not count for this one.
        requests.close(op)
        requests.enter(op, requests.now_ms + requests.config.replica_timeout_ms)
        self.spread(op)
        self.progress(op)
        return True

    def progress(self, op: Put) -> None:
        """Answer at W, and leave once everybody is covered."""
        if not op.done and len(op.acked) >= op.w:
            owners = op.owners
            if not op.pw or sum(name in owners for name in op.acked) >= op.pw:
                self._answer(op)
        self._finish(op)

    def _finish(self, op: Put) -> None:
        # Every owner holds it or is owed it, or there is nobody left to wait for.
        if not op.uncovered and op.done:
            self.requests.close(op)
        elif not op.waiting and not op.done and not op.uncovered and len(op.acked) < op.w:
            op.done = True
            self.requests.close(op)
            self.requests.fail(
                op.client, op.creq, UNAVAILABLE if not op.minted else TIMED_OUT,
                "no further node can store it", op.w, len(op.acked), op.acked, [], op.minted,
            )  # fmt: skip

    def _answer(self, op: Put) -> None:
        requests = self.requests
        op.done = True
        shown = requests.shown(op.clock)
        if shown and (len(shown) > 1 or shown[0][0] != op.value[0]):
            values = [[stamp_ms, payload] for _, _, stamp_ms, _, payload in shown]
        else:
            values = []
        requests.reply(
            op.client,
            (PUT_OK, op.creq, requests.sealed(op.key, op.clock), values, op.acked[:],
             op.stand_ins[:]),
        )  # fmt: skip

    def take_in(self, op: Put, obj: bytes) -> None:
        """Merge what another node knows of the key into what is held here."""
        if self.requests.me in op.owners:
            self.requests.replica.merge(op.arc, op.skey, obj)
        else:
            self.handoff.take(op.skey, op.owners[0], obj, True, self.requests.wall_ms)
