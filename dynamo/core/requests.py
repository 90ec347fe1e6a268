"""What puts and gets share: admission, deadlines, routing to an owner, and the answer.

A request becomes an *operation*, one slotted object in a bounded table, and ends exactly once
(C1): answered, or refused having done nothing, or answered "unknown" at its deadline. The table
is keyed by request numbers that begin at random in each life of the node, so that a late
acknowledgement of another life does not count here.

A node that is no owner of the key hands the request to one (FORWARD, once: an owner never passes
it on). What comes back is the finished answer, never a second request: a put forwarded twice and
minted twice was riak_kv#1046. If the owner stays silent the next one gets it as a further attempt
of the same put id, which makes it ask before it mints.

An operation keeps the register it began with, and asks everybody under it, until somebody refuses
it (see `fence`).

Sources: Dynamo §4.5-4.6; DESIGN §4.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from dynamo.core import dvv, ring
from dynamo.core.config import Config, quorum
from dynamo.core.context import seal
from dynamo.core.liveness import UP, Liveness
from dynamo.core.messages import (
    ALL,
    CONFLICT,
    FAILED,
    FORWARD,
    FORWARDED,
    GET,
    INVALID,
    KEY_TOO_LONG,
    NOT_A_MEMBER,
    NOT_READY,
    OVERLOADED,
    PUT,
    REFUSED,
    TIMED_OUT,
    TO_CLIENT,
    UNAVAILABLE,
    Malformed,
    Message,
    check,
)
from dynamo.core.replica import Replica
from dynamo.core.ring import Register
from dynamo.core.roster import Roster

RETRY_AFTER_MS = 50
PUT_ID_BYTES = 16

Client = Any  # bytes: a client of this node; (peer, req): one of a node that forwarded


class Refused(Exception):
    """A request that is answered FAILED having done nothing."""

    def __init__(self, code: int, text: str, required: int = 0, received: int = 0) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.required = required
        self.received = received


class Operation:
    """One request under way. `waiting` maps each silent node to the home it stands for, or ""."""

    __slots__ = (
        "acked",
        "arc",
        "client",
        "creq",
        "deadline_ms",
        "done",
        "flags",
        "key",
        "open",
        "owners",
        "refusals",
        "register",
        "req",
        "size",
        "skey",
        "waiting",
    )

    def __init__(
        self, client: Client, creq: int, key: bytes, skey: bytes, register: Register,
        owners: tuple[str, ...], deadline_ms: int, flags: int, size: int,
    ) -> None:  # fmt: skip
        self.client = client
        self.creq = creq
        self.key = key
        self.skey = skey
        self.arc = skey[0] << 8 | skey[1]
        self.register = register  # under which everybody is asked (F1)
        self.owners = owners
        self.refusals = 0
        self.deadline_ms = deadline_ms
        self.flags = flags
        self.size = size
        self.req = 0
        self.done = False  # the client has its answer
        self.open = False  # in the table
        self.acked: list[str] = []
        self.waiting: dict[str, str] = {}

    def silent(self, now_ms: int) -> int:
        """React to silence; return when to be called again."""
        raise AssertionError("each kind of operation has its own")

    def expired(self) -> None:
        """The deadline has come: answer if that has not happened."""
        raise AssertionError("each kind of operation has its own")

    def again(self, peer: str) -> None:
        """Ask a peer that has refused once more, or whoever the register names that holds now."""


class Requests:
    """The operation table of one node, and everything around it that is not put or get."""

    __slots__ = (
        "_bytes",
        "_due",
        "_ordinal",
        "_seq",
        "config",
        "liveness",
        "me",
        "now_ms",
        "outbox",
        "pending",
        "replica",
        "roster",
        "secret",
        "start",
        "stats",
        "table",
        "wall_ms",
    )

    def __init__(
        self,
        config: Config,
        me: str,
        secret: bytes,
        roster: Roster,
        replica: Replica,
        liveness: Liveness,
        outbox: list[tuple[Any, Message]],
        life: int,
    ) -> None:
        self.config = config
        self.me = me
        self.secret = secret
        self.roster = roster
        self.table = roster.table
        self.replica = replica
        self.liveness = liveness
        self.outbox = outbox
        self.stats = replica.stats
        self.now_ms = 0
        self.wall_ms = 0
        self.pending: dict[int, Operation] = {}
        self.start: dict[int, Callable[[Client, Message, int, bool], None]] = {}
        self._bytes = 0
        self._seq = life
        self._ordinal = 0
        self._due: list[tuple[int, int, Operation]] = []

    # --- admission ----------------------------------------------------------------------------

    def on_request(self, client: Client, message: Message, born_ms: int) -> None:
        """PUT or GET from a client of this node."""
        self._begin(client, message, born_ms, forwarded=False)

    def on_forward(self, sender: str, message: Message, born_ms: int) -> None:
        """PUT or GET that a node passed on because this one is an owner."""
        _, req, passed_on, ver, phase = message
        inner = check(tuple(passed_on), (PUT, GET))
        arc = ring.arc_of(inner[3], self.table.partitions)
        # A node that is out of the ring says so whatever it still believes about the arc.
        if self.roster.closed is not None or not self.stale(sender, req, arc, ver, phase):
            self._begin((sender, req), inner, born_ms, forwarded=True)

    def _begin(self, client: Client, message: Message, born_ms: int, forwarded: bool) -> None:
        deadline_ms = born_ms + min(message[2], self.config.timeout_ms_max)
        if deadline_ms <= self.now_ms:
            self.stats["expired"] += 1  # nobody is waiting any more
            return
        try:
            if self.roster.closed is not None:
                raise Refused(*self.roster.closed)
            self._admit(message[3])
            self.start[message[0]](client, message, deadline_ms, forwarded)
        except Refused as refusal:
            self.stats["refused"] += 1
            self.fail(
                client, message[1], refusal.code, refusal.text, refusal.required, refusal.received
            )

    def _admit(self, key: bytes) -> None:
        if len(self.pending) >= self.config.pending_ops_max or (
            self._bytes >= self.config.pending_bytes_max
        ):
            self.stats["overloaded"] += 1
            raise Refused(OVERLOADED, f"{self.me} has {len(self.pending)} operations under way")
        try:
            name = ring.split_key(key)[1]
        except ValueError as error:
            raise Refused(INVALID, str(error)) from None
        if len(name) > self.config.key_bytes_max:
            limit = self.config.key_bytes_max
            raise Refused(KEY_TOO_LONG, f"the key has {len(name)} bytes; at most {limit} fit")

    def unheard(self) -> Refused:
        """The refusal of a request for an arc of which this node was told nothing yet."""
        return Refused(NOT_READY, f"{self.me} has not heard yet who owns this key")

    @staticmethod
    def level(asked: int, own: int, owners: int, name: str) -> int:
        """The count that a level means among `owners` replicas; `own`: the ring's, 0 a quorum."""
        if asked > owners:
            raise Refused(
                INVALID, f"{name}={asked} can never be met: this ring keeps {owners} replicas"
            )
        if asked < ALL:
            raise Refused(INVALID, f"{name}={asked} is no level")
        return share(asked, own, owners)

    # --- the table ------------------------------------------------------------------------------

    def enter(self, op: Operation, due_ms: int) -> None:
        """Put an operation into the table; `silent` is called at `due_ms` unless it ended."""
        self._seq += 1
        op.req = self._seq
        op.open = True
        self.pending[op.req] = op
        self._bytes += op.size
        self.wake(op, due_ms)

    def wake(self, op: Operation, due_ms: int) -> None:
        """Have `op.silent` called at `due_ms`, or `op.expired` if its deadline comes first."""
        self._ordinal += 1
        due_ms = due_ms if due_ms < op.deadline_ms else op.deadline_ms
        heappush(self._due, (due_ms, self._ordinal, op))

    def close(self, op: Operation) -> None:
        """Forget an operation; later answers to it are ignored."""
        if op.open:
            op.open = False
            del self.pending[op.req]
            self._bytes -= op.size

    def run(self) -> None:
        """Call what has waited long enough."""
        due, now_ms = self._due, self.now_ms
        while due and due[0][0] <= now_ms:
            op = heappop(due)[2]
            if not op.open:
                continue
            if op.deadline_ms <= now_ms:
                op.expired()
                self.close(op)
            else:
                next_ms = op.silent(now_ms)
                if op.open:
                    self.wake(op, max(next_ms, now_ms + 1))

    def next_due_ms(self) -> int | None:
        """When `run` has something to do; operations that ended do not count."""
        due = self._due
        while due and not due[0][2].open:
            heappop(due)
        return due[0][0] if due else None

    # --- answers --------------------------------------------------------------------------------

    def reply(self, client: Client, message: Message) -> None:
        """Answer a client, here or behind the node that forwarded."""
        if type(client) is tuple:
            self.outbox.append((client[0], (FORWARDED, client[1], list(message))))
        else:
            self.outbox.append((client, message))

    def fail(
        self, client: Client, creq: int, code: int, text: str, required: int = 0,
        received: int = 0, acked: list[str] | None = None, silent: list[str] | None = None,
        maybe_applied: bool = False,
    ) -> None:  # fmt: skip
        """Answer FAILED: what was required, what was received, from whom."""
        retry_ms = RETRY_AFTER_MS if code == OVERLOADED else 0
        self.reply(
            client,
            (FAILED, creq, code, text, required, received, acked or [], silent or [],
             int(maybe_applied), retry_ms),
        )  # fmt: skip

    def shown(self, clock: dvv.Clock) -> list[dvv.Value]:
        """What a reader may see of a clock, here and now."""
        return dvv.live(clock, self.wall_ms, self.replica.dead)

    def sealed(self, key: bytes, clock: dvv.Clock) -> bytes:
        """The context that goes with everything in `clock`."""
        return seal(self.secret, key, clock)

    # --- routing --------------------------------------------------------------------------------

    def stand_ins(self, arc: int) -> list[str]:
        """Nodes beyond the owners that may keep a hint, best first, never this one."""
        found = self.table.fallbacks(arc, self.liveness.usable)
        return self.liveness.in_order([name for name in found if name != self.me])

    def remaining_ms(self, op: Operation) -> int:
        left_ms = op.deadline_ms - self.now_ms
        return left_ms if left_ms > 0 else 1

    def stale(self, sender: str, req: int, arc: int, ver: int, phase: int) -> bool:
        """Whether a request was made under another register; if so its sender gets this one."""
        register = self.table.registers[arc]
        if register.ver == ver and register.phase == phase:
            return False
        self.stats["stale_register"] += 1
        self.outbox.append((sender, (REFUSED, req, arc, *as_fields(register))))
        return True

    def on_forwarded(self, sender: str, message: Message, born_ms: int) -> None:
        op = self.pending.get(message[1])
        if not isinstance(op, Forward) or sender not in op.waiting:
            return
        answer = check(tuple(message[2]), TO_CLIENT)
        if answer[1] != op.creq:
            raise Malformed("a forwarded answer to another request")
        del op.waiting[sender]
        if answer[0] == FAILED and answer[2] in (NOT_READY, NOT_A_MEMBER):
            self.stats["forwarded_to_a_closed_node"] += 1
            if not op.waiting:
                op.next_one()
            return
        if op.waiting and op.is_put and answer[0] in (FAILED, CONFLICT):
            # "Nothing was done" is true of the owner that says so. An earlier one, which was
            # silent, may have applied the put, and its answer is the one that counts.
            return
        op.done = True
        self.reply(op.client, answer)
        self.close(op)


class Forward(Operation):
    """A request that an owner is handling for this node."""

    __slots__ = ("_left", "_message", "_patient_ms", "_requests", "_stand_in", "_tried", "is_put")

    def __init__(
        self, requests: Requests, client: Client, message: Message, skey: bytes,
        deadline_ms: int, register: Register, stand_in: Callable[[Message], None],
    ) -> None:  # fmt: skip
        super().__init__(
            client, message[1], message[3], skey, register, (), deadline_ms, 0,
            len(message[-1]) if message[0] == PUT else 0,
        )  # fmt: skip
        self._requests = requests
        self._message = message
        self._tried = 0
        self._patient_ms = 0  # until then the owner asked last has its time, whatever was due
        self._stand_in = stand_in
        self.is_put = message[0] == PUT
        self._aim()

    def _aim(self) -> None:
        # Owners that readers ask come first. A put may as well go to one that only writes are for.
        requests, register = self._requests, self.register
        self.owners = register.readers
        if self.is_put and register.next:
            writers = requests.table.writers(self.arc)
            self.owners += tuple(name for name in writers if name not in self.owners)
        # Of the owners in doubt one is tried: all of them would use up the time that a stand-in
        # needs, when a partition has just begun and nobody is DOWN yet.
        ordered = requests.liveness.in_order([name for name in self.owners if name != requests.me])
        up = sum(requests.liveness.state(name) is UP for name in ordered)
        self._left = [name for name in ordered[: up + 1] if name not in self.waiting]

    def silent(self, now_ms: int) -> int:
        """Give the request to the next owner; when none is left, act for them."""
        requests = self._requests
        if now_ms < self._patient_ms:
            return self._patient_ms
        message = list(self._message)
        message[2] = requests.remaining_ms(self)
        if self.is_put:
            message[9] += self._tried  # a further attempt asks for the id before minting
        self._tried += 1
        if self._left:
            owner = self._left.pop(0)
            if self.waiting:
                requests.stats["forwarded_again"] += 1
            self.waiting[owner] = ""
            due_ms = now_ms + requests.config.replica_timeout_ms
            if not self.is_put:
                # The owner may have to hedge first. History: with one owner deaf the others needed
                # longer than this node's patience, which went through all of them and refused.
                due_ms += 2 * requests.config.hedge_ms_max
            if not self.open:
                requests.enter(self, due_ms)
            requests.outbox.append((owner, (FORWARD, self.req, message, *self.register[:2])))
            return due_ms
        self.done = True
        requests.close(self)
        self._stand_in(tuple(message))
        return self.deadline_ms

    def again(self, peer: str) -> None:
        """Give it to the owners of the register that holds now; to `peer` first if it is one.

        It counts as a further attempt. Refused is as good as never asked, but the refusal may be a
        late second copy, and the owner at work on what was sent since.
        """
        del self.waiting[peer]
        register = self._requests.table.registers[self.arc]
        if register is not self.register:
            self.register = register
            self._requests.stats["forwards_retargeted"] += 1
            self._aim()
        if peer in self.owners:
            self._left = [peer, *(name for name in self._left if name != peer)]
        self.next_one()

    def next_one(self) -> None:
        """Whoever had the request has not taken it: give it to the next at once."""
        now_ms = self._requests.now_ms
        self._patient_ms = 0
        self._patient_ms = self.silent(now_ms)

    def expired(self) -> None:
        if not self.done:
            self._requests.fail(
                self.client, self.creq, TIMED_OUT, "no owner answered the node that forwarded",
                1, 0, [], list(self.waiting), self.is_put,
            )  # fmt: skip


def share(asked: int, own: int, owners: int) -> int:
    """The count that a level means among `owners` replicas, never more than there are."""
    count = asked or own
    if count > 0:
        return count if count < owners else owners
    return owners if asked == ALL else quorum(owners)


def as_fields(register: Register) -> tuple[int, int, int, list[str], list[str]]:
    """A register as messages carry it."""
    return *register[:3], list(register.cur), list(register.next)


def unavailable(what: str, required: int, found: int, names: list[str]) -> Refused:
    """The refusal of a request that too few live nodes could serve."""
    seen = ", ".join(names) if names else "none"
    return Refused(
        UNAVAILABLE, f"{what} needs {required} nodes and {found} can be reached ({seen})",
        required, found,
    )  # fmt: skip
