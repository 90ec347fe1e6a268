"""Puts and deletes: mint once, store first, replicate the finished object, answer at W.

    N=3 W=2, owners [a, b, c], c is down, d is beyond the owners:

      client -> a  PUT            a mints (a,1), stores, acked = [a]
      a -> b, c    REPLICATE      the whole object, never the value alone
      b -> a       REPLICATE_OK   acked = [a, b]: the client hears PUT_OK
      ... replica_timeout_ms pass, or c is DOWN already ...
      a -> d       REPLICATE home=c                      d keeps a hint (see `handoff`)
      d -> a       REPLICATE_OK   c's home is covered: the operation is forgotten

When no owner can be reached, a stand-in mints in its hint space and owes the object to all owners.

What the answer covers (D4): only if the new value is the sole survivor does the client get a
context without values; otherwise it gets every sibling, as a read gives it.

    A puts 1; B blind-puts 2; A puts 3 over {a:1}: the row is a:(3,[3,2]). Were {a:3} returned
    alone, A's next put would erase 2, acknowledged and unread (3,318 of 4,000 histories).

A further attempt of a put asks R owners for its id before it mints. REPLICATE_OK carries back the
receiver's row where it differs from what was sent, and the receiver's counter where this node's
store has gone back in time (`Replica.seen`): then the actor is retired and the value minted anew
before the client hears anything.

Invariants
  C1  An operation is answered exactly once.
  C2  Acknowledgements are counted per distinct node, so no duplicate reaches W alone.
  C3  Each stand-in acts for one named owner; a strict put (sloppy off) does not count it.

Sources: Dynamo §4.5-4.6; DESIGN §2, §4, §5.
"""

from __future__ import annotations

from typing import Any

from dynamo.core import dvv, ring
from dynamo.core.config import quorum
from dynamo.core.context import unseal
from dynamo.core.handoff import Handoff
from dynamo.core.messages import (
    ASK_ID,
    AUTO,
    BAD_CONTEXT,
    BLIND,
    CAUSAL,
    CONFLICT,
    DELETE,
    DISK_FULL,
    DURABLE,
    HINT_REFUSED,
    INVALID,
    NO_SPACE,
    NOT_DURABLE,
    PUT,
    PUT_OK,
    REPLICATE,
    SLOPPY,
    STORED,
    TIMED_OUT,
    TOO_LARGE,
    TOO_MANY_SIBLINGS,
    UNAVAILABLE,
    Malformed,
    Message,
)
from dynamo.core.replica import CHECK_BYTES
from dynamo.core.requests import (
    PUT_ID_BYTES,
    Client,
    Forward,
    Operation,
    Refused,
    Requests,
    unavailable,
)


class Put(Operation):
    """A put or delete under way."""

    __slots__ = (
        "actor",
        "asking",
        "clock",
        "context",
        "gone",
        "minted",
        "mode",
        "n",
        "obj",
        "pw",
        "stand_ins",
        "uncovered",
        "used",
        "value",
        "w",
        "writes",
    )

    writes: Writes
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
        self.asking = 0  # answers about the put id still wanted before minting
        self.stand_ins: list[list[str]] = []
        self.used: dict[str, None] = {}  # nodes that have been asked to store
        self.uncovered: dict[str, None] = {}  # owners that neither hold it nor are owed it

    def silent(self, now_ms: int) -> int:
        """Whoever has not answered gets a stand-in; questions about the id are given up."""
        if self.asking:
            self.asking = 0
            self.waiting.clear()
            self.writes.apply(self)
        else:
            self.writes.cover(self, list(self.uncovered))
        return now_ms + self.writes.requests.config.replica_timeout_ms

    def expired(self) -> None:
        """Say what is known: it may have been stored, and may yet spread."""
        if not self.done:
            self.done = True
            self.writes.requests.fail(
                self.client, self.creq, TIMED_OUT, "too few acknowledgements by the deadline",
                self.w, len(self.acked), self.acked, list(self.waiting), self.minted,
            )  # fmt: skip

    def again(self, peer: str) -> None:
        self.writes.send(self, peer, self.waiting[peer])


class Writes:
    """Coordinates puts, and stores what other coordinators send."""

    __slots__ = ("durable_due", "handoff", "requests", "store")

    def __init__(self, requests: Requests, handoff: Handoff, store: Any) -> None:
        self.requests = requests
        self.handoff = handoff
        self.store = store
        self.durable_due = False  # this step must end in a synced commit
        requests.start[PUT] = self.start

    # --- from the client to the mint ------------------------------------------------------------

    def start(self, client: Client, message: Message, deadline_ms: int, forwarded: bool) -> None:
        """Take up a PUT: refuse it, hand it to an owner, or coordinate it here."""
        requests = self.requests
        key = message[3]
        skey = ring.storage_key(key, requests.table.partitions)
        owners = requests.table.owners(skey[0] << 8 | skey[1])
        op = self._operation(client, message, deadline_ms, skey, owners)
        if requests.me in owners:
            self._check_reachable(op)
            self._ask_or_apply(op, message[9])
        elif forwarded:
            raise unavailable("a forwarded put", 1, 0, list(owners))
        else:
            Forward(
                requests, client, message, skey, deadline_ms, owners,
                lambda again: self._stand_in(op, again[9]),
            ).silent(requests.now_ms)  # fmt: skip

    def _operation(
        self, client: Client, message: Message, deadline_ms: int, skey: bytes,
        owners: tuple[str, ...],
    ) -> Put:  # fmt: skip
        (_, creq, _, key, _, _, mode, context, put_id, _, w, pw, flags, ttl_ms, payload) = message
        requests = self.requests
        config = requests.config
        if len(payload) > config.value_bytes_max:
            raise Refused(
                TOO_LARGE,
                f"the value has {len(payload)} bytes; at most {config.value_bytes_max} fit",
            )
        if len(put_id) != PUT_ID_BYTES or mode not in (CAUSAL, AUTO, BLIND) or ttl_ms < 0:
            raise Refused(INVALID, "a put without a proper id, mode or ttl")
        if flags & DURABLE and self.store.durability == "memory":
            raise Refused(INVALID, f"durable=True, but {requests.me} keeps nothing on disk")
        if not flags & DELETE and not self.store.free_ok():
            raise Refused(
                DISK_FULL, f"{requests.me} is short of disk space; reads and deletes still work"
            )
        op = Put(client, creq, key, skey, owners, deadline_ms, flags, len(payload))
        op.writes = self
        op.mode = mode
        try:
            op.context = unseal(requests.secret, key, context)
        except Malformed as error:
            raise Refused(BAD_CONTEXT, str(error)) from None
        count = len(owners)
        op.w = requests.level(w, config.w or quorum(count), count, "w")
        op.pw = requests.level(pw, config.w, count, "pw") if pw else 0
        wall_ms = requests.wall_ms
        op.value = (
            put_id, dvv.TOMBSTONE if flags & DELETE else 0, wall_ms,
            wall_ms + ttl_ms if ttl_ms else 0, payload,
        )  # fmt: skip
        return op

    def _check_reachable(self, op: Put) -> None:
        # Refuse what cannot work before anything is done: maybe_applied is then certainly False.
        requests = self.requests
        usable = requests.liveness.usable
        up = [name for name in op.owners if usable(name)]
        if len(up) < op.pw:
            raise unavailable(f"pw={op.pw}", op.pw, len(up), up)
        if len(up) >= op.w:
            return
        if op.flags & SLOPPY:
            up += requests.stand_ins(op.arc)[: len(op.owners) - len(up)]
        if len(up) < op.w:
            raise unavailable(f"w={op.w}", op.w, len(up), up)

    def _ask_or_apply(self, op: Put, attempt: int) -> None:
        """Mint, or first ask others for what this node may be missing.

        A further attempt asks R owners for its id. So does an auto put on an arc that is not
        synced: "what the coordinator holds" would be nothing, and a plain overwrite a sibling.
        """
        requests = self.requests
        synced = requests.replica.synced(op.arc)
        requests.enter(op, requests.now_ms + requests.config.replica_timeout_ms)
        if attempt > 0 or (op.mode == AUTO and not synced):
            others = [name for name in op.owners if name != requests.me]
            if self._ask(op, requests.in_order(others), synced):
                return
        self.apply(op)

    def _ask(self, op: Put, nodes: list[str], self_counts: bool) -> bool:
        requests = self.requests
        r = requests.config.r or quorum(len(op.owners))
        op.asking = min(r - (1 if self_counts else 0), len(nodes))
        if op.asking <= 0:
            op.asking = 0
            return False
        register = requests.table.registers[op.arc]
        left_ms = requests.remaining_ms(op)
        for name in nodes:
            op.waiting[name] = ""
            requests.outbox.append(
                (name, (ASK_ID, op.req, left_ms, op.key, *register[:2], op.value[0]))
            )
        return True

    def on_id_is(self, sender: str, message: Message, born_ms: int) -> None:
        _, req, known, obj = message
        op = self.requests.pending.get(req)
        if not isinstance(op, Put) or not op.asking or sender not in op.waiting:
            return
        del op.waiting[sender]
        if obj:
            self._take_in(op, obj)
        op.asking = 0 if known else op.asking - 1
        if not op.asking:
            op.waiting.clear()
            self.apply(op)

    def _take_in(self, op: Put, obj: bytes) -> None:
        if self.requests.me in op.owners:
            self.requests.replica.merge(op.arc, op.skey, obj)
        elif self.handoff.peek(op.skey):
            self.handoff.take(op.skey, op.owners[0], obj, True, self.requests.wall_ms)

    # --- the mint and the fan-out ---------------------------------------------------------------

    def apply(self, op: Put) -> None:
        """Mint, store and replicate; or refuse, having done nothing."""
        requests = self.requests
        try:
            if requests.me in op.owners:
                self._mint(op)
            else:
                self._mint_hint(op)
        except Refused as refusal:
            op.done = True
            requests.close(op)
            requests.fail(op.client, op.creq, refusal.code, refusal.text)
            return
        if op.done:
            requests.close(op)
            return
        self._fan_out(op)
        self._progress(op)

    def _mint(self, op: Put) -> None:
        replica = self.requests.replica
        record = replica.record(op.skey)
        clock = dvv.decode(record[CHECK_BYTES:])
        context = self._context(op, clock)
        if context is None:
            return
        op.minted = True
        op.acked.append(self.requests.me)
        if self._is_applied(op, clock):
            op.clock, op.obj = clock, record[CHECK_BYTES:]
            return
        op.clock, op.obj, op.actor, op.n, op.gone = replica.put(
            op.arc, op.skey, record, clock, context, op.value
        )

    def _mint_hint(self, op: Put) -> None:
        requests = self.requests
        held = self.handoff.peek(op.skey)
        clock = dvv.decode(held)
        context = self._context(op, clock)
        if context is None:
            return
        op.minted = True
        op.acked.append(requests.me)
        op.stand_ins.append([requests.me, op.owners[0]])
        if self._is_applied(op, clock):
            op.clock, op.obj = clock, held
            return
        op.clock, op.obj, op.actor, op.n, op.gone = self.handoff.mint(
            op.skey, op.owners, context, op.value, requests.wall_ms
        )

    def _is_applied(self, op: Put, clock: dvv.Clock) -> bool:
        put_id = op.value[0]
        return put_id in self.requests.replica.dead or put_id in dvv.ids_of(clock)

    def _context(self, op: Put, clock: dvv.Clock) -> dvv.Context | None:
        """What the put covers; None if it met values it may not cover and was answered so."""
        requests = self.requests
        if op.mode == CAUSAL or self._is_applied(op, clock):
            return op.context
        shown = requests.shown(clock)
        if op.mode == BLIND:
            if len(shown) >= requests.config.siblings_max:
                raise Refused(
                    TOO_MANY_SIBLINGS,
                    f"the key has {len(shown)} concurrent values: read them, and put one value "
                    "with the context of that read",
                )
            return {}
        if len(shown) > 1:
            op.done = True
            values = [[stamp_ms, payload] for _, _, stamp_ms, _, payload in shown]
            requests.reply(op.client, (CONFLICT, op.creq, requests.sealed(op.key, clock), values))
            return None
        return dvv.context_of(clock)

    def _fan_out(self, op: Put) -> None:
        requests = self.requests
        me = requests.me
        if op.flags & DURABLE:
            self.durable_due = True
        op.used[me] = None
        missing = []
        for name in op.owners:
            if name == me:
                continue
            op.uncovered[name] = None
            if requests.liveness.usable(name):
                self.send(op, name, "")
            else:
                missing.append(name)
        if me not in op.owners:
            del op.uncovered[op.owners[0]]  # this node stands in for it
            missing = [name for name in missing if name in op.uncovered]
        if missing:
            self.cover(op, missing)

    def send(self, op: Put, name: str, home: str) -> None:
        """Send the object to an owner, or to a stand-in for `home`."""
        requests = self.requests
        register = requests.table.registers[op.arc]
        op.waiting[name] = home
        op.used[name] = None
        requests.outbox.append(
            (
                name,
                (REPLICATE, op.req, requests.remaining_ms(op), op.key, register.ver,
                 register.phase, home, int(not op.done), 1 if op.flags & DURABLE else 0,
                 op.actor, op.gone, op.obj),
            )
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
                self.handoff.keep_own(op.skey, home, requests.wall_ms)
                del op.uncovered[home]
        self._finish(op)

    def _stand_in(self, op: Put, attempt: int) -> None:
        """Coordinate for owners none of whom answered this node."""
        requests = self.requests
        others = requests.stand_ins(op.arc)
        try:
            if not op.flags & SLOPPY or op.pw:
                raise unavailable("a put without stand-ins", 1, 0, [])
            if 1 + len(others) < op.w:
                raise unavailable(f"w={op.w}", op.w, 1 + len(others), [requests.me, *others])
        except Refused as refusal:
            code, maybe = refusal.code, attempt > 0
            requests.fail(
                op.client, op.creq, TIMED_OUT if maybe else code, refusal.text, op.w, 0, [],
                list(op.owners), maybe,
            )  # fmt: skip
            return
        requests.stats["stood_in"] += 1
        requests.enter(op, requests.now_ms + requests.config.replica_timeout_ms)
        if attempt > 0 and self._ask(op, others, True):
            return
        self.apply(op)

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
        covered = home or sender
        op.uncovered.pop(covered, None)
        if not home:
            op.acked.append(sender)
        elif op.flags & SLOPPY and not op.done:
            op.acked.append(sender)
            op.stand_ins.append([sender, home])
        self._progress(op)

    def _not_stored(self, op: Put, sender: str, home: str, status: int) -> None:
        if status == HINT_REFUSED:
            op.uncovered.pop(home, None)  # the arc is marked for repair there
            self._finish(op)
        elif status in (NO_SPACE, NOT_DURABLE) and not op.done:
            self.cover(op, [home or sender])

    def _learn(self, op: Put, returned: bytes) -> None:
        # The receiver knew more than was sent. The client is told of it, as of a read.
        theirs = dvv.decode(returned)
        self._take_in(op, returned)
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
        op.acked = [requests.me]
        op.stand_ins.clear()
        op.waiting.clear()
        # A new number: acknowledgements of the first object must not count for this one.
        requests.close(op)
        requests.enter(op, requests.now_ms + requests.config.replica_timeout_ms)
        self._fan_out(op)
        self._progress(op)
        return True

    def _progress(self, op: Put) -> None:
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
