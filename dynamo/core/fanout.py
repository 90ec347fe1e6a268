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

While an arc moves a put is for two lists, the owners that are and the owners to be (`ring`), and
needs W of each; who is in both counts in both. Refused by somebody who knows a later register, the
put goes on under that one (`retarget`): what was acknowledged stays, as a fact about a disk, and
what it lacks of the lists that hold now is asked for.

    a, b acknowledged, W=2; then c refuses: next = a, b, d       a and b are W of both: answered
    a alone had; c refuses: next = b, d, e                       c, b or d, e must still come

Invariants
  C1  An operation is answered exactly once.
  C2  Acknowledgements are counted per distinct owner: by itself, or by one stand-in, never both.
      So no duplicate reaches W alone, and no hint that has been delivered, and erased, meanwhile.
      And per distinct disk: a stand-in that became an owner of the list counts in it once.
  C3  Each stand-in acts for one named owner; a strict put (sloppy off) does not count it.

  C4  Who is no owner under the operation's register counts for nothing, also this node itself: it
      may drop its copy.

Sources: Dynamo §4.5-4.6; algorithms §1.5; DESIGN §2, §4, §5, §8.
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
    share,
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
        "levels",
        "maybe",
        "minted",
        "mode",
        "n",
        "obj",
        "pw",
        "sets",
        "stand_ins",
        "uncovered",
        "used",
        "value",
        "w",
    )

    fanout: Fanout
    value: dvv.Value
    mode: int
    context: dvv.Context
    levels: tuple[int, int]  # w and pw as the client gave them
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
        # While the arc moves: each list of owners, with the W and the PW that it must reach.
        self.sets: tuple[tuple[tuple[str, ...], int, int], ...] = ()
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
            self.fanout.resume(self)
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
        if self.register is not self.fanout.requests.table.registers[self.arc]:
            if self.asking:
                self.fanout.restart(self)
            else:
                self.fanout.retarget(self)
        elif self.asking:
            # History: the question was refused, the object sent in its place, although there was
            # none yet, and its acknowledgement counted for the one that was minted later.
            self.fanout.requests.stats["asked_again"] += 1
            self.fanout.ask(self, peer)
        else:
            self.fanout.send(self, peer, self.waiting[peer])


class Fanout:
    """Replicates puts that were minted here, and counts who has them."""

    __slots__ = ("durable_due", "handoff", "requests", "restart", "resume")

    resume: Callable[[Put], None]  # goes on after the questions about the id
    restart: Callable[[Put], None]  # asks them again, of the owners that there are now

    def __init__(self, requests: Requests, handoff: Handoff) -> None:
        self.requests = requests
        self.handoff = handoff
        self.durable_due = False  # this step must end in a synced commit

    def aim(self, op: Put) -> None:
        """Make a put one for the owners that its arc has now, and keep its levels within reach."""
        requests, config = self.requests, self.requests.config
        register = op.register = requests.table.registers[op.arc]
        op.owners = requests.table.writers(op.arc)
        w, pw = op.levels
        op.sets = tuple(
            (names, share(w, config.w, len(names)), share(pw, config.w, len(names)) if pw else 0)
            for names in register.write_sets
        )
        op.w = max(need for _, need, _ in op.sets)
        op.pw = max(need for _, _, need in op.sets)
        if not register.next:
            op.sets = ()

    def spread(self, op: Put) -> None:
        """Send what was minted to every other owner, or to whoever stands in for it."""
        requests = self.requests
        me = requests.me
        if op.flags & DURABLE:
            self.durable_due = True
        op.used[me] = None
        missing = []
        homes = op.homes
        kept = len(homes) > 1 or me not in op.owners
        doubts = requests.liveness.doubts
        message = self._message(op, "")
        for name in op.owners:
            if name == me or (kept and homes.get(name) == name):
                continue
            op.uncovered[name] = None
            if not doubts or requests.liveness.usable(name):
                op.waiting[name] = ""
                op.used[name] = None
                requests.outbox.append((name, message))
            else:
                missing.append(name)
        if kept:
            for name in homes:  # a stand-in, or this node, keeps it for them
                op.uncovered.pop(name, None)
            missing = [name for name in missing if name in op.uncovered]
        if missing:
            self.cover(op, missing)

    def ask(self, op: Put, name: str) -> None:
        """Ask a node whether it knows the put's id, before anything is minted."""
        requests = self.requests
        op.waiting[name] = ""
        left_ms = requests.remaining_ms(op)
        requests.outbox.append(
            (name, (ASK_ID, op.req, left_ms, op.key, *op.register[:2], op.value[0]))
        )

    def send(self, op: Put, name: str, home: str) -> None:
        """Send the object to an owner, or to a stand-in for `home`."""
        op.waiting[name] = home
        op.used[name] = None
        self.requests.outbox.append((name, self._message(op, home)))

    def _message(self, op: Put, home: str) -> Message:
        register = op.register
        return (
            REPLICATE, op.req, self.requests.remaining_ms(op), op.key, register.ver, register.phase,
            home, int(not op.done), 1 if op.flags & DURABLE else 0, op.actor, op.gone, op.obj,
        )  # fmt: skip

    def cover(self, op: Put, homes: list[str]) -> None:
        """Have somebody keep the write for owners that do not answer."""
        requests = self.requests
        used = op.used
        spare = [n for n in requests.stand_ins(op.arc) if n not in used and n not in op.owners]
        for home in self.by_need(op, homes):
            if spare:
                self.send(op, spare.pop(0), home)
            elif requests.me in op.owners and home in op.uncovered:
                # Nobody beyond the owners is left: keep the mark beside the own row. It is the
                # same disk, so it does not count a second time.
                self.handoff.keep_own(op.skey, home, requests.wall_ms, op.gone)
                del op.uncovered[home]
        self._finish(op)

    @staticmethod
    def by_need(op: Put, homes: list[str]) -> list[str]:
        """Owners of both lists first, so that few stand-ins go far."""
        if not op.sets:
            return homes
        return sorted(homes, key=lambda home: -sum(home in names for names, _, _ in op.sets))

    def retarget(self, op: Put) -> None:
        """Go on under the register that holds now, with what has been acknowledged (C4).

        Under a new number, and everybody who has not acknowledged is asked anew: an answer on its
        way may be that of a stand-in which is an owner now, and would count for a row it lacks.
        """
        requests = self.requests
        requests.stats["puts_retargeted"] += 1
        requests.close(op)
        self.aim(op)
        owners = op.owners
        op.homes = {owner: node for owner, node in op.homes.items() if owner in owners}
        op.stand_ins = [pair for pair in op.stand_ins if pair[1] in owners]
        op.acked = list(dict.fromkeys(op.homes.values()))
        op.waiting.clear()
        op.uncovered.clear()
        requests.enter(op, requests.now_ms + requests.config.replica_timeout_ms)
        if requests.me in owners and requests.me not in op.homes:
            # It coordinated as a stand-in and owns the arc now: what it minted is its own row, too.
            requests.replica.merge(op.arc, op.skey, op.obj, op.gone)
            self.count(op, requests.me, "")
        self.spread(op)
        self.progress(op)

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
            if node not in op.acked:
                op.acked.append(node)
            if home:
                op.stand_ins.append([node, home])
        elif not home and counted != node:
            op.homes[owner] = node
            op.acked = list(dict.fromkeys(op.homes.values()))
            op.stand_ins.remove([counted, owner])

    @staticmethod
    def met(op: Put) -> bool:
        """Whether enough of every list have the write: W disks, PW of them the owners' own."""
        if len(op.acked) < op.w:
            return False
        homes = op.homes
        if not op.sets:
            return not op.pw or sum(homes.get(name) == name for name in op.owners) >= op.pw
        for names, w, pw in op.sets:
            disks = dict.fromkeys(homes[name] for name in names if name in homes)
            if len(disks) < min(w, op.w) or sum(homes.get(name) == name for name in names) < pw:
                return False
        return True

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
        # A new number: acknowledgements of the first object must not count for this one.
        requests.close(op)
        self.aim(op)
        replica.revive(op.value[0])
        clock = dvv.merge(dvv.decode(returned), dvv.decode(record[CHECK_BYTES:]))
        op.clock, op.obj, op.actor, op.n, op.gone = replica.put(
            op.arc, op.skey, record, clock, op.context, op.value
        )
        op.acked.clear()
        op.homes.clear()
        op.stand_ins.clear()
        if requests.me in op.owners:
            self.count(op, requests.me, "")
        op.waiting.clear()
        op.uncovered.clear()
        requests.enter(op, requests.now_ms + requests.config.replica_timeout_ms)
        self.spread(op)
        self.progress(op)
        return True

    def progress(self, op: Put) -> None:
        """Answer at W, and leave once everybody is covered."""
        if not op.done and len(op.acked) >= op.w and (not (op.sets or op.pw) or self.met(op)):
            self._answer(op)
        self._finish(op)

    def _finish(self, op: Put) -> None:
        # Every owner holds it or is owed it, or there is nobody left to wait for.
        if not op.uncovered and op.done:
            self.requests.close(op)
        elif not op.waiting and not op.done and not op.uncovered and not self.met(op):
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
