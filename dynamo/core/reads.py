"""Gets: the local row, R-1 others asked with its check, merged, answered at R, repaired.

    N=3 R=2, owners [a, b, c], those whom reads ask at the present phase of the arc (`ring`):

      client -> a  GET            a reads its row
      a -> b       FETCH check    "is this what you hold?"
      b -> a       FETCHED SAME, or its object
      a -> client  GET_OK         merged, with the context of everything in it
      a -> b       REPLICATE      if b was behind

If b has not answered within min(p99, cap), c is asked as well (a hedge). Owners that turn out to
be behind are repaired after the answer, or before it where the client asked for that.

Who counts toward R is for the one who is asked to say (R4, see `serving`).

Refused by somebody who knows a later register, a read begins again, under a new number, with the
owners named there (`_restart`): answers of two phases do not add up to one quorum. A node that is
no owner may coordinate, and does not count itself.

When the merge shows several values and the replicas differed, they are brought together before
the answer, and what they return counts: another owner may remember that one of the values is a
second dot of a superseded put (D5), which would be shown as a conflict that nobody made.

Sources: Dynamo §4.5, §4.7 (read repair); CASSANDRA-14293 (hedge at min(p99, cap)); DESIGN §4.
"""

from __future__ import annotations

from typing import Any

from dynamo.core import dvv, ring
from dynamo.core.handoff import Handoff
from dynamo.core.messages import (
    FETCH,
    GET,
    GET_OK,
    REPAIR_FIRST,
    REPLICATE,
    SAME,
    SLOPPY,
    TIMED_OUT,
    Message,
)
from dynamo.core.replica import CHECK_BYTES, seal_record
from dynamo.core.requests import (
    Client,
    Forward,
    Operation,
    Refused,
    Requests,
    share,
    unavailable,
)

P99_STEP_MS = 0.5


class Get(Operation):
    """A get under way. `answers` has what each node holds; `waiting` those asked and silent."""

    __slots__ = (
        "answers",
        "check",
        "hedged",
        "left",
        "levels",
        "local",
        "owner",
        "patience_ms",
        "pr",
        "r",
        "reads",
        "repair_due_ms",
        "repairing",
        "result",
        "started_ms",
    )

    reads: Reads
    levels: tuple[int, int]  # r and pr as the client gave them
    r: int
    pr: int

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.owner = True
        self.local = b""  # the object here
        self.check = b""  # its check, b"" for none
        self.answers: dict[str, bytes] = {}
        self.left: list[str] = []  # whom to ask next, best first
        self.hedged = False
        self.patience_ms = 1  # how long silence lasts before everybody is asked again
        self.repairing = False  # repairs are awaited before the answer
        self.repair_due_ms = 0  # ... until then
        self.result: dvv.Clock = []
        self.started_ms = 0

    def silent(self, now_ms: int) -> int:
        """Ask one more; if repairs are awaited, wait no longer."""
        return self.reads.hedge(self, now_ms)

    def expired(self) -> None:
        if self.repairing:
            self.reads.answer(self)
        elif not self.done:
            self.done = True
            requests = self.reads.requests
            requests.fail(
                self.client, self.creq, TIMED_OUT, "too few answers by the deadline",
                self.r, len(self.acked), self.acked, list(self.waiting), False,
            )  # fmt: skip

    def again(self, peer: str) -> None:
        self.reads.again(self, peer)


class Reads:
    """Coordinates gets, and answers what other coordinators ask."""

    __slots__ = ("_p99_ms", "handoff", "requests")

    def __init__(self, requests: Requests, handoff: Handoff) -> None:
        self.requests = requests
        self.handoff = handoff
        self._p99_ms = float(requests.config.hedge_ms_max)
        requests.start[GET] = self.start

    def start(self, client: Client, message: Message, deadline_ms: int, forwarded: bool) -> None:
        """Take up a GET: hand it to an owner, or coordinate it here."""
        _, creq, _, key, _, _, r, pr, flags = message
        requests = self.requests
        config = requests.config
        skey = ring.storage_key(key, requests.table.partitions)
        arc = skey[0] << 8 | skey[1]
        register = requests.table.registers[arc]
        if not register.ver:
            raise requests.unheard()
        owners = requests.table.owners(arc)
        op = Get(client, creq, key, skey, register, owners, deadline_ms, flags, 0)
        op.reads = self
        op.levels = (r, pr)
        count = len(register.cur)
        if register.next:
            count = max(count, len(register.next))
        op.r = requests.level(r, config.r, count, "r")
        op.pr = requests.level(pr, config.r, count, "pr") if pr else 0
        if register.next:
            self._aim(op)
        if forwarded or requests.me in owners:
            self._coordinate(op)
        else:
            Forward(
                requests, client, message, skey, deadline_ms, register,
                lambda again: self._stand_in(op),
            ).silent(requests.now_ms)  # fmt: skip

    def _aim(self, op: Get) -> None:
        """Make a get one for the owners that its arc has now, and keep its levels within reach."""
        requests = self.requests
        op.register = requests.table.registers[op.arc]
        op.owners = op.register.readers
        (r, pr), own, count = op.levels, requests.config.r, len(op.owners)
        op.r = share(r, own, count)
        op.pr = share(pr, own, count) if pr else 0

    def _coordinate(self, op: Get) -> None:
        requests = self.requests
        if requests.me in op.owners:
            record = requests.replica.record(op.skey)
            op.local, op.check = record[CHECK_BYTES:], record[:CHECK_BYTES]
            op.answers[requests.me] = op.local
            if requests.replica.synced(op.arc):
                op.acked.append(requests.me)
        else:
            self._look_at_hints(op)
        op.left = requests.liveness.in_order(requests.table.others(op.arc, requests.me))[:]
        self._reach(op, len(op.acked))

    def _look_at_hints(self, op: Get) -> None:
        """This node is none that reads ask: a hint that it holds counts, and nothing else (R4)."""
        op.owner = False
        op.local = self.handoff.peek(op.skey)
        op.check = seal_record(op.skey, op.local)[:CHECK_BYTES] if op.local else b""
        if op.local:
            op.answers[self.requests.me] = op.local
            if op.flags & SLOPPY:
                op.acked.append(self.requests.me)

    def _stand_in(self, op: Get) -> None:
        """Answer for owners none of whom answered this node, from hints."""
        requests = self.requests
        self._aim(op)
        try:
            if requests.me in op.owners:  # since a moment ago
                self._coordinate(op)
                return
            self._look_at_hints(op)
            # Owners last: they were silent, or would not coordinate and may answer all the same.
            op.left = requests.stand_ins(op.arc) if op.flags & SLOPPY else []
            op.left += requests.liveness.in_order(requests.table.others(op.arc, requests.me))
            self._reach(op, len(op.acked))
        except Refused as refusal:  # `start` has returned: nobody else answers for it
            self._refuse(op, refusal)

    def _refuse(self, op: Get, refusal: Refused) -> None:
        op.done = True
        self.requests.close(op)
        self.requests.fail(
            op.client, op.creq, refusal.code, str(refusal), op.r, len(op.acked), op.acked
        )

    def again(self, op: Get, peer: str) -> None:
        """A peer has refused to answer, or to be repaired, under the register of this read."""
        requests = self.requests
        moved = op.register is not requests.table.registers[op.arc]
        if op.repairing:
            # The quorum of the read stands; who owns the arc no longer need not be repaired.
            op.register = requests.table.registers[op.arc]
            if peer not in requests.table.writers(op.arc) or not self._repair(op, [peer]):
                self._repaired(op, peer)
        elif op.done:
            del op.waiting[peer]
            self._leave(op)
        elif moved:
            self._restart(op)
        else:
            self.ask(op, peer)

    def _restart(self, op: Get) -> None:
        """Read again, from the owners that reads ask now."""
        self.requests.stats["gets_restarted"] += 1
        self.requests.close(op)
        self._aim(op)
        op.owner = True
        op.answers = {}
        op.acked = []
        op.waiting = {}
        op.hedged = False
        try:
            self._coordinate(op)
        except Refused as refusal:
            self._refuse(op, refusal)

    def _reach(self, op: Get, counted: int) -> None:
        """Ask as many as R needs, stand-ins where owners are missing; refuse what cannot work."""
        requests = self.requests
        if op.flags & SLOPPY and counted + len(op.left) < op.r:
            op.left += [name for name in requests.stand_ins(op.arc) if name not in op.left]
        if counted + len(op.left) < op.r:
            raise unavailable(f"r={op.r}", op.r, counted + len(op.left), op.acked + op.left)
        if op.pr:
            up = [name for name in op.acked + op.left if name in op.owners]
            if len(up) < op.pr:
                raise unavailable(f"pr={op.pr}", op.pr, len(up), up)
        op.started_ms = requests.now_ms
        op.patience_ms = requests.config.replica_timeout_ms
        # A stand-in counts toward R and not toward PR. History: the only owner of a key was cut off
        # and not yet DOWN, and a hint alone answered a strict read.
        strictly = sum(name in op.owners for name in op.acked)
        if counted >= op.r and strictly >= op.pr:
            self._complete(op)
            return
        if op.pr:
            op.left.sort(key=lambda name: name not in op.owners)
        requests.enter(op, requests.now_ms + self._hedge_ms())
        for _ in range(max(op.r - counted, op.pr - strictly)):
            self.ask(op, op.left.pop(0))

    def _hedge_ms(self) -> int:
        return max(2, min(int(self._p99_ms), self.requests.config.hedge_ms_max))

    def ask(self, op: Get, name: str) -> None:
        """Ask one node for what it holds, unless it is what is held here."""
        requests, register = self.requests, op.register
        op.waiting[name] = ""
        left_ms = requests.remaining_ms(op)
        requests.outbox.append(
            (name, (FETCH, op.req, left_ms, op.key, register.ver, register.phase, op.check))
        )

    def hedge(self, op: Get, now_ms: int) -> int:
        """Somebody is slow: ask the next, or stop waiting for repairs."""
        if op.repairing:
            if now_ms < op.repair_due_ms:
                return op.repair_due_ms  # woken for the hedge that was due before
            if self._repair_others(op):
                return op.repair_due_ms
            self.answer(op)
            self.requests.close(op)
        elif op.done:
            self.requests.close(op)  # stragglers had their time; exchange will find them
        elif op.left:
            if not op.hedged:
                op.hedged = True
                self.requests.stats["hedged"] += 1
            self._observe(now_ms - op.started_ms)
            self.ask(op, op.left.pop(0))
        else:
            self._ask_beyond(op)
        if op.left:
            return now_ms + self._hedge_ms()
        op.patience_ms *= 2
        return now_ms + op.patience_ms // 2

    def _repair_others(self, op: Get) -> bool:
        """Repairs stayed unanswered: bring together what is here with owners not asked so far.

        History: a retry's first dot came back with its coordinator. The owner that had been asked
        remembered the put as superseded, took the repair, and died before it said so. The third
        owner remembered it as well; the client saw a sibling of its own write.
        """
        others = [name for name in op.left if name in op.owners]
        if not others or len(self.requests.shown(op.result)) < 2:
            return False
        self.requests.stats["repairs_of_others"] += 1
        op.left = []
        op.waiting = dict.fromkeys(self._repair(op, others), "")
        op.repair_due_ms = self.requests.now_ms + self.requests.config.replica_timeout_ms
        return True

    def _ask_beyond(self, op: Get) -> None:
        # All owners have been asked. A lost frame must not decide the read, and stand-ins may hold
        # a hint. History: a late frame of a peer's earlier life made its present one look like a
        # ghost for a moment, and reads of all owners waited for an answer that had been dropped.
        # Each time with twice the patience: whoever is silent for long is not helped by being asked
        # a hundred times (fifteen questions per read, in a ring with two of five nodes frozen).
        self.requests.stats["asked_beyond"] += 1
        for name in list(op.waiting):
            self.ask(op, name)
        if op.flags & SLOPPY and all(name in op.owners for name in op.waiting):
            op.left = [name for name in self.requests.stand_ins(op.arc) if name not in op.answers]
            if op.left:
                self.ask(op, op.left.pop(0))

    def _observe(self, took_ms: int) -> None:
        # A running p99: up by 0.99 steps when exceeded, down by 0.01 when not.
        if took_ms > self._p99_ms:
            self._p99_ms += 0.99 * P99_STEP_MS
        else:
            self._p99_ms = max(2.0, self._p99_ms - 0.01 * P99_STEP_MS)

    # --- answers ----------------------------------------------------------------------------------

    def on_fetched(self, sender: str, message: Message, born_ms: int) -> None:
        """Take one answer; at R the client gets its own."""
        _, req, status, counts, obj = message
        op = self.requests.pending.get(req)
        if not isinstance(op, Get) or sender not in op.waiting or op.repairing:
            return
        del op.waiting[sender]
        op.answers[sender] = op.local if status == SAME else obj
        if op.done:
            self._late(op, sender)
            return
        if counts:
            op.acked.append(sender)
        enough = len(op.acked) >= op.r and (
            not op.pr or sum(name in op.owners for name in op.acked) >= op.pr
        )
        if enough:
            self._observe(self.requests.now_ms - op.started_ms)
            self._complete(op)
        elif not op.waiting:
            self._ask_last(op)

    def _ask_last(self, op: Get) -> None:
        """Everybody asked has answered, and too few count: ask the next, or refuse.

        Refused is what the owners in reach could never answer; an owner that will be synced in a
        moment is waited for. History (found with the demo): on the side of a partition with one
        owner of a key, that owner and a stand-in without a hint had answered in a millisecond, and
        the client heard nothing for a third of its deadline. The other side could have answered.
        """
        requests = self.requests
        if not op.left and op.flags & SLOPPY:
            op.left = [name for name in requests.stand_ins(op.arc) if name not in op.answers]
        if op.left:
            self.ask(op, op.left.pop(0))
            return
        usable = requests.liveness.usable
        if sum(name == requests.me or usable(name) for name in op.owners) >= max(op.r, op.pr):
            return
        self._refuse(op, unavailable(f"r={op.r}", op.r, len(op.acked), op.acked))

    def _late(self, op: Get, sender: str) -> None:
        self._repair(op, [sender])
        if not op.waiting:
            self.requests.close(op)

    def _complete(self, op: Get) -> None:
        """Merge what was answered; answer now, or after replicas that differ were repaired."""
        local = op.local
        differing = [name for name, obj in op.answers.items() if obj != local]
        if not differing:
            op.result = dvv.decode(local)
            self.answer(op)
            self._leave(op)
            return
        self._merge(op, differing)
        several = len(self.requests.shown(op.result)) > 1
        if (several or op.flags & REPAIR_FIRST) and op.open:
            stale = self._repair(op, list(op.answers))
            if stale:
                self.requests.stats["repairs_awaited"] += 1
                op.repairing = True
                op.waiting = dict.fromkeys(stale, "")
                wait_ms = self.requests.config.replica_timeout_ms
                op.repair_due_ms = self.requests.now_ms + wait_ms
                self.requests.wake(op, op.repair_due_ms)
                return
            self.answer(op)
        else:
            self.answer(op)
            self._repair(op, list(op.answers))
        self._leave(op)

    def _merge(self, op: Get, differing: list[str]) -> None:
        requests = self.requests
        clock = dvv.decode(op.local)
        for name in differing:
            clock = dvv.merge(clock, dvv.decode(op.answers[name]))
        if op.owner:
            op.local = requests.replica.merge(op.arc, op.skey, dvv.encode(clock))
            op.answers[requests.me] = op.local
            clock = dvv.decode(op.local)
            requests.stats["read_repairs_own"] += 1
        else:
            op.local = dvv.encode(clock)
        op.result = clock

    def _leave(self, op: Get) -> None:
        # Those who were asked and have not answered yet may still turn out to be behind.
        if op.open and not op.waiting:
            self.requests.close(op)

    def _repair(self, op: Get, names: list[str]) -> list[str]:
        """Send the merged object to owners that hold something else; say to whom."""
        requests = self.requests
        merged, register = op.local, op.register
        sent = []
        for name in names:
            known = op.answers.get(name)  # None: not asked
            if name == requests.me or name not in op.owners or known == merged:
                continue
            sent.append(name)
            wait_ms = min(requests.config.background_timeout_ms, requests.remaining_ms(op))
            requests.outbox.append(
                (
                    name,
                    (REPLICATE, op.req, wait_ms, op.key, register.ver, register.phase, "", 0, 0,
                     b"", [], merged),
                )
            )  # fmt: skip
            requests.stats["read_repairs"] += 1
        return sent

    def on_replicate_ok(self, sender: str, message: Message, born_ms: int) -> None:
        """A repair was stored; its row comes back if it knows more than was sent."""
        _, req, _, _, returned = message
        op = self.requests.pending.get(req)
        if not isinstance(op, Get) or not op.repairing or sender not in op.waiting:
            return
        if returned:
            op.answers[sender] = returned
            self._merge(op, [sender])
        self._repaired(op, sender)

    def _repaired(self, op: Get, peer: str) -> None:
        """A peer need not be waited for any longer."""
        del op.waiting[peer]
        if not op.waiting:
            self.answer(op)
            self.requests.close(op)

    def answer(self, op: Get) -> None:
        """Give the client what was merged."""
        requests = self.requests
        op.done = True
        op.repairing = False
        dead = requests.replica.dead
        if dead and op.owner and any(put_id in dead for put_id in dvv.ids_of(op.result)):
            # The row has moved on since it was read. Ids that it has left behind are hidden (D5),
            # so what took their place must be shown. History: a put came in between, both values
            # of the old row were hidden, and the answer was "nothing here".
            requests.stats["gets_overtaken"] += 1
            now = requests.replica.obj(op.skey)
            op.result = dvv.merge(op.result, dvv.decode(now))
        shown = requests.shown(op.result)
        values = [[stamp_ms, payload] for _, _, stamp_ms, _, payload in shown]
        requests.reply(
            op.client,
            (GET_OK, op.creq, requests.sealed(op.key, op.result), values, op.acked[:]),
        )
