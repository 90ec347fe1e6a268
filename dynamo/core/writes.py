"""Puts and deletes, up to the mint: who coordinates, what is refused, what the value covers.

An owner coordinates, also one that only writes are for while its arc moves: what it may lack it
asks of those whom reads ask. When no owner can be reached, a stand-in mints in its hint space and
owes the object to all owners. Whatever cannot work is refused before anything is done, so that a
refusal is a promise. What happens from the mint on is in `fanout`.

A put supersedes, by mode: CAUSAL, what its context covers; BLIND, nothing. AUTO comes from a client
that has seen nothing of the key: where there is no value it is stored, and where there is one it is
answered CONFLICT, with what a read would show; the client decides, and comes back with a context.

    History: AUTO covered the one value that the coordinator held. A frame of it was late, or was
    handed on and held up, its client had been served elsewhere, and it covered what had been
    acknowledged meanwhile: two lost writes in a year of simulated time, the second in a frame
    whose age nobody could know. Only what somebody saw may be covered (D4), here as well.

A further attempt of a put asks R owners for its id before it mints (D5 holds the second dots that
slip through all the same).

Sources: Dynamo §4.4-4.6; DESIGN §2, §4.
"""

from __future__ import annotations

from typing import Any

from dynamo.core import dvv, ring
from dynamo.core.config import quorum
from dynamo.core.context import unseal
from dynamo.core.fanout import Fanout, Put
from dynamo.core.handoff import Handoff
from dynamo.core.messages import (
    AUTO,
    BAD_CONTEXT,
    BLIND,
    CAUSAL,
    CONFLICT,
    DELETE,
    DISK_FULL,
    DURABLE,
    INVALID,
    PUT,
    SLOPPY,
    TIMED_OUT,
    TOO_LARGE,
    TOO_MANY_SIBLINGS,
    Malformed,
    Message,
)
from dynamo.core.replica import CHECK_BYTES
from dynamo.core.requests import (
    PUT_ID_BYTES,
    Client,
    Forward,
    Refused,
    Requests,
    unavailable,
)
from dynamo.core.ring import Register

# A put this old on arrival, in ms and as a share of its time, may have been retried elsewhere: more
# than a busy node's queue, less than a client's patience with its first try.
LATE_MS, LATE_SHARE = 10, 20


class Writes:
    """Takes up puts and brings them to their mint; from there on they are `Fanout`'s."""

    __slots__ = ("fanout", "handoff", "requests", "store")

    def __init__(self, requests: Requests, handoff: Handoff, fanout: Fanout, store: Any) -> None:
        self.requests = requests
        self.handoff = handoff
        self.fanout = fanout
        self.store = store
        requests.start[PUT] = self.start
        fanout.resume = self.apply
        fanout.restart = self._ask_anew

    # --- from the client to the mint ------------------------------------------------------------

    def start(self, client: Client, message: Message, deadline_ms: int, forwarded: bool) -> None:
        """Take up a PUT: refuse it, hand it to an owner, or coordinate it here."""
        requests = self.requests
        key = message[3]
        skey = ring.storage_key(key, requests.table.partitions)
        register = requests.table.registers[skey[0] << 8 | skey[1]]
        if not register.ver:
            raise requests.unheard()
        message = self._doubt_if_late(message, deadline_ms)
        op = self._operation(client, message, deadline_ms, skey, register)
        if requests.me in op.owners:
            self._check_reachable(op)
            self._ask_or_apply(op, message[9])
        elif forwarded:
            raise unavailable("a forwarded put", 1, 0, list(op.owners))
        else:
            Forward(
                requests, client, message, skey, deadline_ms, register,
                lambda again: self._stand_in(op, again[9]),
            ).silent(requests.now_ms)  # fmt: skip

    def _doubt_if_late(self, message: Message, deadline_ms: int) -> Message:
        """Take a first attempt that was long under way for a further one: it asks before it mints.

        History: the first attempt of an auto put lay in the network, its client retried elsewhere,
        went on to other writes, and then the first arrived, at a node that had never heard of the
        put. Auto puts covered what the node held then: everything the client had written since.
        They cover nothing any more, but a second dot of a put that was superseded is still to be
        avoided where that costs one question (D5).
        """
        timeout_ms = min(message[2], self.requests.config.timeout_ms_max)
        age_ms = timeout_ms - (deadline_ms - self.requests.now_ms)
        if message[9] or age_ms < max(LATE_MS, timeout_ms // LATE_SHARE):
            return message
        self.requests.stats["late_puts"] += 1
        return (*message[:9], 1, *message[10:])

    def _operation(
        self, client: Client, message: Message, deadline_ms: int, skey: bytes,
        register: Register,
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
        owners = register.cur  # of one that does not move; else `aim` knows better
        op = Put(client, creq, key, skey, register, owners, deadline_ms, flags, len(payload))
        op.fanout = self.fanout
        op.mode = mode
        try:
            op.context = unseal(requests.secret, key, context)
        except Malformed as error:
            raise Refused(BAD_CONTEXT, str(error)) from None
        op.levels = (w, pw)
        count = len(register.cur)
        if register.next:
            count = max(count, len(register.next))
        op.w = requests.level(w, config.w, count, "w")
        op.pw = requests.level(pw, config.w, count, "pw") if pw else 0
        if register.next:
            self.fanout.aim(op)
        wall_ms = requests.wall_ms
        op.value = (
            put_id, dvv.TOMBSTONE if flags & DELETE else 0, wall_ms,
            wall_ms + ttl_ms if ttl_ms else 0, payload,
        )  # fmt: skip
        return op

    def _check_reachable(self, op: Put) -> None:
        # Refuse what cannot work before anything is done: maybe_applied is then certainly False.
        requests = self.requests
        if not requests.liveness.doubts:
            return
        usable = requests.liveness.usable
        missing = self.fanout.by_need(op, [name for name in op.owners if not usable(name)])
        spare = requests.stand_ins(op.arc) if op.flags & SLOPPY else []
        kept = dict(zip(missing, spare, strict=False))
        for names, w, pw in op.sets or ((op.owners, op.w, op.pw),):
            up = [name for name in names if usable(name)]
            if len(up) < pw:
                raise unavailable(f"pw={pw}", pw, len(up), up)
            up += [kept[name] for name in names if name in kept]
            if len(up) < w:
                raise unavailable(f"w={w}", w, len(up), up)

    def _ask_or_apply(self, op: Put, attempt: int) -> None:
        """Mint, or first ask others for what this node may be missing.

        A further attempt asks R owners for its id. So does an auto put on an arc that is not
        synced: what is missing here would pass for "no value", and a plain overwrite be a sibling.
        """
        requests = self.requests
        requests.enter(op, requests.now_ms + requests.config.replica_timeout_ms)
        if attempt > 0 or op.mode == AUTO:
            known = self._knows(op)
            if attempt > 0 or not known:
                others = [name for name in op.register.readers if name != requests.me]
                if self._ask(op, requests.liveness.in_order(others), known):
                    return
        self._apply(op)

    def _knows(self, op: Put) -> bool:
        """Whether this node's own silence about the put is evidence, as in a read (R4, X1)."""
        requests = self.requests
        if op.register.next and requests.me not in op.register.readers:
            return False
        return requests.replica.synced(op.arc)

    def _ask_anew(self, op: Put) -> None:
        """The questions about the id were refused under a register that holds no longer."""
        requests = self.requests
        requests.stats["questions_retargeted"] += 1
        requests.close(op)
        op.asking = 0
        op.waiting.clear()
        self.fanout.aim(op)
        requests.enter(op, requests.now_ms + requests.config.replica_timeout_ms)
        nodes = requests.liveness.in_order(
            [name for name in op.register.readers if name != requests.me]
        )
        is_owner = requests.me in op.owners
        if not is_owner:
            nodes += requests.stand_ins(op.arc)
        if not self._ask(op, nodes, is_owner and self._knows(op)):
            self.apply(op)

    def _ask(self, op: Put, nodes: list[str], self_counts: bool) -> bool:
        requests = self.requests
        # At least a quorum, also where R is 1: a retry is rare and can afford it, and one that asks
        # nobody mints beside what has replaced it.
        enough = max(requests.config.r, quorum(len(op.register.readers)))
        op.asking = min(enough - (1 if self_counts else 0), len(nodes))
        if op.asking <= 0:
            op.asking = 0
            return False
        for name in nodes:
            self.fanout.ask(op, name)
        return True

    def on_id_is(self, sender: str, message: Message, born_ms: int) -> None:
        _, req, known, obj = message
        op = self.requests.pending.get(req)
        if not isinstance(op, Put) or not op.asking or sender not in op.waiting:
            return
        del op.waiting[sender]
        if obj:
            self.fanout.take_in(op, obj)
        if known and not self._holds(op):
            # It was applied and superseded. Believe it. History: only the row that came with the
            # answer was looked at; the put was minted again, over the value that had replaced it.
            self.requests.replica.remember(op.value[0], op.arc)
        if known:
            self.requests.stats["ids_found"] += 1
        op.asking = 0 if known else op.asking - 1
        if not op.asking:
            op.waiting.clear()
            self.apply(op)

    # --- the mint ---------------------------------------------------------------

    def apply(self, op: Put) -> None:
        """Mint what has asked for its id, under the register that holds now."""
        if op.register is not self.requests.table.registers[op.arc]:
            # The arc has moved on while the put was asking. Its own copy is one of this phase.
            self.fanout.aim(op)
        self._apply(op)

    def _apply(self, op: Put) -> None:
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
            self._refuse(op, refusal)
            return
        if op.done:
            requests.close(op)
            return
        self.fanout.spread(op)
        self.fanout.progress(op)

    def _mint(self, op: Put) -> None:
        replica = self.requests.replica
        record = replica.record(op.skey)
        clock = dvv.decode(record[CHECK_BYTES:])
        context = self._context(op, clock)
        if context is None:
            return
        op.minted = True
        self.fanout.count(op, self.requests.me, "")
        if clock and self._is_applied(op, clock):
            op.clock, op.obj = clock, record[CHECK_BYTES:]
            return
        op.clock, op.obj, op.actor, op.n, op.gone = replica.put(
            op.arc, op.skey, record, clock, context, op.value
        )

    def _mint_hint(self, op: Put) -> None:
        requests = self.requests
        if not op.flags & SLOPPY or op.pw:
            raise unavailable("a put without stand-ins", 1, 0, [])
        held = self.handoff.peek(op.skey)
        clock = dvv.decode(held)
        context = self._context(op, clock)
        if context is None:
            return
        op.minted = True
        self.fanout.count(op, requests.me, op.owners[0])
        if self._is_applied(op, clock):
            op.clock, op.obj = clock, held
            return
        op.clock, op.obj, op.actor, op.n, op.gone = self.handoff.mint(
            op.skey, op.owners, context, op.value, requests.wall_ms
        )

    def _refuse(self, op: Put, refusal: Refused) -> None:
        # "Nothing was done" is not this node's to say once it has given the put to an owner, who
        # may be slow and not dead.
        self.requests.fail(
            op.client, op.creq, TIMED_OUT if op.maybe else refusal.code, refusal.text,
            refusal.required or op.w, refusal.received, [], list(op.owners) if op.maybe else [],
            op.maybe,
        )  # fmt: skip

    def _holds(self, op: Put) -> bool:
        if self.requests.me in op.owners:
            obj = self.requests.replica.obj(op.skey)
        else:
            obj = self.handoff.peek(op.skey)
        return op.value[0] in dvv.ids_of(dvv.decode(obj))

    def _is_applied(self, op: Put, clock: dvv.Clock) -> bool:
        put_id = op.value[0]
        return put_id in self.requests.replica.dead or put_id in dvv.ids_of(clock)

    def _context(self, op: Put, clock: dvv.Clock) -> dvv.Context | None:
        """What the put covers; None if it met values it may not cover and was answered so."""
        requests = self.requests
        if op.mode == CAUSAL or not clock or self._is_applied(op, clock):
            return op.context
        shown = requests.shown(clock)
        if op.mode == BLIND:
            if len(shown) >= requests.config.siblings_max:
                requests.stats["siblings_refused"] += 1
                raise Refused(
                    TOO_MANY_SIBLINGS,
                    f"the key has {len(shown)} concurrent values: read them, and put one value "
                    "with the context of that read",
                )
            return {}
        # Where an owner may have the put as well, refusing it would not be true: it stays beside.
        if shown and not op.maybe:
            requests.stats["conflicts"] += 1
            op.done = True
            values = [[stamp_ms, payload] for _, _, stamp_ms, _, payload in shown]
            requests.reply(op.client, (CONFLICT, op.creq, requests.sealed(op.key, clock), values))
            return None
        # Not even a tombstone: an attempt that comes after the delete that its put was covered by
        # would bring the value back. What is left beside it, the next write covers.
        return {}

    def _stand_in(self, op: Put, attempt: int) -> None:
        """Coordinate for owners none of whom answered this node."""
        requests = self.requests
        op.maybe = attempt > 0
        self.fanout.aim(op)
        try:
            if requests.me in op.owners:  # since a moment ago
                self._check_reachable(op)
                self._ask_or_apply(op, attempt)
                return
            others = requests.stand_ins(op.arc)
            self._check_stand_ins(op, [requests.me, *others])
        except Refused as refusal:
            self._refuse(op, refusal)
            return
        requests.stats["stood_in"] += 1
        requests.enter(op, requests.now_ms + requests.config.replica_timeout_ms)
        # A stand-in's own silence proves nothing: it is no owner, and others may have stood in.
        if attempt > 0 and self._ask(op, others, False):
            return
        self.apply(op)

    def _check_stand_ins(self, op: Put, nodes: list[str]) -> None:
        if not op.flags & SLOPPY or op.pw:
            raise unavailable("a put without stand-ins", 1, 0, [])
        kept = self.fanout.by_need(op, list(op.owners))[: len(nodes)]
        for names, w, _ in op.sets or ((op.owners, op.w, 0),):
            if sum(name in kept for name in names) < w:
                raise unavailable(f"w={w}", w, len(nodes), nodes)
