"""Simulated applications: clients that do several things at once and know what they have seen.

Each client works through the session of the real client: its routing, its retries, its put ids
and its deadlines. It has some *lanes*, each of which does one thing after another (see `acts`), so
that calls of one client overlap as those of a real one do. Each value it writes is unique, so that
a value found anywhere names the write that made it. What a client knows of a key is the context of
an answer, together with what that answer showed; the ring is told the first, the oracle the second.

A lane is a generator: it yields an operation, or several, and gets them back when they have ended,
or it yields a time to wait. So an action reads as what it is:

    known = yield from client.get(key)
    yield from client.put(key, known)

A *loner* has a key to itself and uses strict quorums: whatever happens to the ring, each of its
reads shows the value that it wrote last, and beside it nothing that was ever acknowledged.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from itertools import accumulate
from typing import NamedTuple

from dynamo.client.memory import Memory, Seen
from dynamo.client.op import Op
from dynamo.core import messages as m
from dynamo.core.config import quorum
from dynamo.core.messages import Message
from dynamo.core.ring import arc_of
from dynamo.sim.caller import Caller, Ended
from dynamo.sim.habits import OWN_LEVELS, Habit, Levels, strict
from dynamo.sim.history import FAIL, INFO, NEVER_MS, OK, Write
from dynamo.sim.history import Seen as Bits
from dynamo.sim.network import Frame
from dynamo.sim.world import World

__all__ = [
    "OWN_LEVELS", "Caller", "Client", "Ended", "Habit", "Known", "Lane", "Levels", "Put", "strict",
]  # fmt: skip

CODEC = b"\x00"  # the first byte of a payload is the client's own
EMPTY_BYTES = 12  # a sealed context of a key of which nothing is known
KEPT = 4  # contexts of a key that a client may still use

# What a lane waits for: operations, or so many milliseconds.
Lane = Generator[list[Op] | int, None, None]


class Known(NamedTuple):
    """What a client knows of a key: a context, what it covers, and the bytes that came with it."""

    context: bytes
    seen: Bits
    payloads: list[bytes]


class Put(NamedTuple):
    """How a put ended, and what its answer taught."""

    write: Write
    status: str
    conflict: bool
    known: Known | None  # of the answer, with siblings if there are any


BLANK = Known(b"", 0, [])


class Pace:
    """Puts and gets that the clients of a seed have begun, so that together they keep a rate.

    Some things are one operation and some are twelve, a client that died starts anew, and one that
    talks to a silent node stands still: so what counts is what all of them have begun so far. The
    requests of a scan come on top.
    """

    def __init__(self, began_ms: int, each_ms: Sequence[int]) -> None:
        self.clients = len(each_ms)  # those that keep it; others only count
        self.begun = 0
        self._began_ms = began_ms
        self._per_ms = sum(1 / ms for ms in each_ms)

    def behind(self, now_ms: int) -> float:
        """How many operations each of the clients is behind, or ahead if negative."""
        return ((now_ms - self._began_ms) * self._per_ms - self.begun) / self.clients


class Client(Caller):
    """One application: what it does next, what it knows, and what it tells the oracle."""

    def __init__(
        self, name: str, habit: Habit, world: World, rng: random.Random, until_ms: int
    ) -> None:
        super().__init__(name, world, rng)
        self.habit = habit
        self.counts = {OK: 0, FAIL: 0, INFO: 0}
        self.oracle = world.oracle
        self.last = ""  # loner: its last write, if that was acknowledged
        self.memory = Memory()
        self.until_ms = until_ms
        self._seen: dict[tuple[bytes, bytes], Bits] = {}  # (key, context) -> what it covers
        self._kept: dict[bytes, list[Known]] = {}  # what it knew of a key, newest last
        # Key -> node that answered, what was read and written through it, and since when.
        self._through: dict[bytes, tuple[str, Bits, int]] = {}
        self._serial = 0
        self._acts = 0
        self.names = list(habit.weights)  # of what it does
        self.limits = list(accumulate(habit.weights.values()))
        self.pace = Pace(0, [habit.pace_ms or 1])
        self._busy = 0  # lanes under way
        self._more = 0  # things to begin at this moment, of those that are begun together
        self._next: Callable[[Client], Lane] | None = None
        self._due: list[tuple[int, Lane | None]] = []  # sleeping lanes; None: one between actions
        self._due_ms = NEVER_MS  # the first of them
        self.gone = False

    def begin(self, at_ms: int, act: Callable[[Client], Lane]) -> None:
        """Start acting at `at_ms`; `act` chooses what a lane does next."""
        self._next = act
        lanes = 1 if self.habit.pace_ms else self.habit.lanes
        for i in range(lanes):
            self._sleep(at_ms + i, None)
        self.world.attend(self)

    def inherit(self, other: Client) -> None:
        """Go on counting where another process of the same application has ended."""
        self._acts = other._acts
        self.pace = other.pace

    def quit(self) -> None:
        """The process of this application is gone, with all it knew; nobody hears of the rest."""
        self.gone = True
        for op in list(self._ended):
            self.give_up(op)
            if op.kind == m.PUT:
                self.oracle.end_write(self.oracle.writes[op.waiter], INFO, self.world.now_ms)
            if op.slot is None:
                self.counts[INFO] += 1
        self._due.clear()
        self._due_ms = NEVER_MS

    # --- lanes ----------------------------------------------------------------------------------

    def wake(self, now_ms: int) -> None:
        super().wake(now_ms)
        self._rouse(now_ms)

    def _rouse(self, now_ms: int) -> None:
        """Let the lanes go on that have slept long enough."""
        if self._due_ms > now_ms:
            return
        sleeping, self._due, self._due_ms = self._due, [], NEVER_MS
        due = []
        for at_ms, lane in sleeping:
            if at_ms <= now_ms:
                due.append(lane)
            else:
                self._sleep(at_ms, lane)
        for lane in due:
            self._resume(lane)

    def _sleep(self, until_ms: int, lane: Lane | None) -> None:
        self._due.append((until_ms, lane))
        if until_ms < self._due_ms:
            self._due_ms = until_ms

    def next_due_ms(self) -> int:
        due_ms = self.session.next_due_ms()
        return due_ms if due_ms < self._due_ms else self._due_ms

    def _resume(self, lane: Lane | None) -> None:
        if lane is None:
            lane = self._start()
            if lane is None:
                return
        wanted = next(lane, None)
        if self.gone:
            return  # it was this lane that ended the client
        if wanted is None:
            self._busy -= 1
            if not self.habit.pace_ms:
                self._wait(self.habit.think_ms)
        elif isinstance(wanted, int):
            self._sleep(self.world.now_ms + wanted, lane)
        else:
            self._carry_out(wanted, lane)

    def _start(self) -> Lane | None:
        """The next thing to do, if it is time for one."""
        habit = self.habit
        over = self.world.now_ms >= self.until_ms or bool(habit.acts and self._acts >= habit.acts)
        if self.gone or over or self._next is None:
            return None
        if habit.pace_ms:
            if not self._more:
                # As a page that is put together of several keys does.
                self._more = habit.together
                self._wait(self._pace_ms())
            self._more -= 1
            if self._more:
                self._sleep(self.world.now_ms, None)
            if self._busy >= habit.lanes:
                self.world.mark("all lanes busy")
                return None
        self._acts += 1
        self._busy += 1
        return self._next(self)

    def _pace_ms(self) -> int:
        """How long to wait before the next thing, so that operations keep their pace."""
        behind = self.pace.behind(self.world.now_ms)
        return int(self.habit.pace_ms * min(max(self.habit.together - behind, 0), 20))

    def _wait(self, mean_ms: int) -> None:
        self._sleep(self.world.now_ms + 1 + int(mean_ms * 2 * self.rng.random()), None)

    def _carry_out(self, ops: list[Op], lane: Lane) -> None:
        left = len(ops)

        def ended(op: Op) -> None:
            nonlocal left
            left -= 1
            if not left:
                # In a turn of its own: an operation may end while it is being submitted.
                self._sleep(self.world.now_ms, lane)

        for op in ops:
            self._send(op, ended)

    def _send(self, op: Op, ended: Ended) -> None:
        oracle, now_ms = self.oracle, self.world.now_ms
        self._serial += 1
        self.pace.begun += op.slot is None
        number = (self.name, self._serial)
        what = m.NAMES[op.kind].lower()
        oracle.begin(
            number, f"{self.name} {what} {op.key[4:].decode()} at {now_ms}", op.deadline_ms
        )

        def end(op: Op) -> None:
            oracle.end(number, self.world.now_ms)
            if op.sent > 1:
                self.world.mark("op took several attempts")
            for answered in self.world.on_answer:
                answered(self, op)
            ended(op)

        self.submit(op, end)
        if op.put_id:
            self.world.uids[op.put_id] = op.waiter
        alone = op.kind in (m.PUT, m.GET) and op.slot is None  # not one of a scan's
        if self.habit.hasty and alone and self.rng.random() < self.habit.hasty:
            self.world.at(now_ms + self.rng.randrange(1, 40), self._lose_patience, op)

    def _lose_patience(self, op: Op) -> None:
        if not op.done:
            self.world.mark("given up by its client")
            self.give_up(op)

    # --- as the world sees it -------------------------------------------------------------------

    def take_outgoing(self) -> list[tuple[str, list[Message]]]:
        frames = super().take_outgoing()
        for _, messages in frames:
            for message in messages:
                if message[0] == m.PUT:
                    self._note_attempt(message)
        return frames

    def _note_attempt(self, message: Message) -> None:
        write = self.oracle.writes[self.world.uids[message[8]]]
        write.attempts = max(write.attempts, message[9] + 1)
        self.world.watch_put(self.name, write, message)

    def receive(self, now_ms: int, frame: Frame) -> None:
        super().receive(now_ms, frame)
        if self._due_ms <= now_ms:
            self.wake(now_ms)

    # --- reading --------------------------------------------------------------------------------

    def levels(self) -> Levels:
        """What the next operation asks for."""
        if not self.habit.mixed:
            return self.habit.levels
        copies = min(self.world.config.n, len(self.world.hosts))
        some = (0, 1, copies, m.QUORUM, m.ALL)
        choose = self.rng.choice
        return Levels(
            choose(some), choose(some), choose((0, 0, 0, m.QUORUM)), choose((0, 0, m.ALL))
        )

    def level(self, asked: int, own: int) -> int:
        """The number of owners that a level means."""
        copies = min(self.world.config.n, len(self.world.hosts))
        if asked == m.QUORUM:
            return quorum(copies)
        return copies if asked == m.ALL else min(asked or own or quorum(copies), copies)

    def get(
        self, key: bytes, levels: Levels | None = None
    ) -> Generator[list[Op], None, Known | None]:
        """Read a key; what it showed, None if there was no answer."""
        levels = self.levels() if levels is None else levels
        began, before, now_ms = self.memory.clock, self._through.get(key), self.world.now_ms
        flags = m.SLOPPY if self.habit.sloppy else 0
        if self.rng.random() < 0.1:
            flags |= m.REPAIR_FIRST
        op = Op(
            m.GET, key, now_ms + self.habit.timeout_ms, (levels.r, levels.pr, flags),
            tries=self.habit.tries, pin=self._pin(),
        )  # fmt: skip
        yield [op]
        return self._on_read(op, levels, began, before)

    def _on_read(
        self, op: Op, levels: Levels, began: int, before: tuple[str, Bits, int] | None
    ) -> Known | None:
        if op.answer is None:
            self.counts[INFO if op.done and op.error is None else FAIL] += 1
            return None
        self.counts[OK] += 1
        _, _, context, values, _ = op.answer
        now_ms, key = self.world.now_ms, op.key
        known, uids = self._learn(key, context, values, 0, op.answer[4])
        self.memory.read(key, began, context)
        copies = min(self.world.config.n, len(self.world.hosts))
        if levels.pr and self.level(levels.pr, 0) >= quorum(copies):
            self.oracle.strict_read(key, uids, op.started_ms, now_ms)
            if self.last:
                self.oracle.lone_read(key, uids, self.last, now_ms)
        elif len(context) == EMPTY_BYTES and self._overlaps(levels.r, copies):
            # "Nothing was ever here", from R nodes each of which must know (R4).
            self.oracle.strict_read(key, uids, op.started_ms, now_ms)
        if before is not None and before[0] == op.coordinator:
            node, had, since_ms = before
            arc = arc_of(key, self.world.config.partitions)
            if self.world.hosts[node].lost_ms < since_ms and node in self.world.table.owners(arc):
                self.oracle.session_read(self.name, key, uids, had, now_ms)
        self._note_through(key, op.coordinator, known.seen)
        return known

    def _overlaps(self, r: int, copies: int) -> bool:
        """Whether R nodes share a member with the owners of every strict write."""
        config = self.world.config
        w = max(quorum(copies), min(config.w or quorum(copies), copies))
        return self.level(r, config.r) + w > copies

    def _note_through(self, key: bytes, node: str, seen: Bits) -> None:
        """An owner's row has all of this, and only its disk's loss takes it away again."""
        if node not in self.world.table.owners(arc_of(key, self.world.config.partitions)):
            return
        last, had, since_ms = self._through.get(key, ("", 0, 0))
        if last != node or self.world.hosts[node].lost_ms >= since_ms:
            had = 0
        self._through[key] = (node, had | seen, self.world.now_ms)

    def _learn(
        self, key: bytes, context: bytes, values: list[tuple[int, bytes]], more: Bits,
        nodes: Sequence[str],
    ) -> tuple[Known, list[str]]:  # fmt: skip
        """Tell the oracle what an answer of these nodes showed, and keep its context beside it."""
        uids = self.oracle.payloads(key, values, f"to {self.name} at {self.world.now_ms}")
        if len(uids) > 1:
            self.world.mark("siblings seen" if len(uids) < 4 else "four siblings or more seen")
        few = len(nodes) < quorum(min(self.world.config.n, len(self.world.hosts)))
        seen = self.oracle.shown(key, uids, self.world.now_ms, few) | more
        seen |= self._seen.get((key, context), 0)
        self._seen[key, context] = seen
        known = Known(context, seen, [payload for _, payload in values])
        kept = self._kept.setdefault(key, [])
        kept.append(known)
        if len(kept) > KEPT:
            gone = kept.pop(0)
            if all(other.context != gone.context for other in kept):
                held = self.memory.get(key)
                if held is None or held.context != gone.context:
                    self._seen.pop((key, gone.context), None)
        return known, uids

    def kept(self, key: bytes) -> list[Known]:
        """What this client has known of a key, oldest first, as far as it remembers."""
        return self._kept.get(key, [])

    def covers(self, key: bytes, context: bytes) -> Bits:
        """What a context that this client has met covers."""
        return self._seen.get((key, context), 0)

    def lend(self, key: bytes, known: Known) -> None:
        """Take over what another client has read, with the context it came with."""
        self._seen[key, known.context] = self._seen.get((key, known.context), 0) | known.seen

    def remembered(self, key: bytes) -> Seen | None:
        """What the client's own memory would have an auto put cover."""
        return None if self.habit.forgetful else self.memory.get(key)

    # --- writing --------------------------------------------------------------------------------

    def put(
        self, key: bytes, known: Known | None, mode: int = m.CAUSAL, *, delete: bool = False,
        body: bytes | None = None, levels: Levels | None = None,
    ) -> Generator[list[Op], None, Put]:  # fmt: skip
        """Write over what is `known`; None by a client that has seen nothing of the key."""
        began = self.memory.clock
        op, write, strict = self.prepare(key, known, mode, delete, body, levels)
        yield [op]
        return self.on_written(op, write, began, strict)

    def prepare(
        self, key: bytes, known: Known | None, mode: int, delete: bool, body: bytes | None,
        levels: Levels | None,
    ) -> tuple[Op, Write, bool]:  # fmt: skip
        """A put that is about to be sent, as the oracle knows it; and whether it is strict."""
        habit, world, draw = self.habit, self.world, self.rng.random
        levels = self.levels() if levels is None else levels
        self._serial += 1
        uid = f"{self.name}.{self._serial}"
        context, seen = (known.context, known.seen) if known is not None else (b"", 0)
        write = self.oracle.begin_write(key, uid, seen, world.now_ms, delete)
        write.payload = b"" if delete else CODEC + uid.encode() + self._body(body)
        copies = min(world.config.n, len(world.hosts))
        own_w = world.config.w or quorum(copies)
        write.frail = self.level(levels.w, world.config.w) < min(own_w, copies)
        flags = (m.SLOPPY if habit.sloppy else 0) | (m.DELETE if delete else 0)
        if habit.durable and draw() < habit.durable:
            flags |= m.DURABLE
        ttl_ms = 0
        if habit.mortal and not delete and body is None and draw() < habit.mortal:
            ttl_ms = self.rng.choice((20, 300, 2_000))
            self.oracle.of(key).note_mortal(write)
        tail = (levels.w, levels.pw, flags, ttl_ms, write.payload)
        op = Op(
            m.PUT, key, world.now_ms + habit.timeout_ms, tail,
            mode=mode, context=context, tries=habit.tries, pin=self._pin(),
        )  # fmt: skip
        op.waiter = uid
        strict = levels.pw != 0 and self.level(levels.pw, own_w) >= max(
            quorum(copies), min(own_w, copies)
        )
        return op, write, strict

    def _body(self, body: bytes | None) -> bytes:
        if body is not None:
            return b"\n" + body
        if self.habit.large and self.rng.random() < self.habit.large:
            self.world.mark("large value put")
            return b"\n" + self.rng.randbytes(64) * self.rng.choice((16, 256, 1_024))
        return b""

    def on_written(self, op: Op, write: Write, began: int, strict: bool) -> Put:
        """Tell the oracle how a put ended, and take in what its answer teaches."""
        now_ms, answer = self.world.now_ms, op.answer
        conflict = answer is not None and answer[0] == m.CONFLICT
        status = OK
        if answer is None or conflict:
            given_up = answer is None and op.error is None
            status = INFO if op.maybe_applied or given_up else FAIL
        self.counts[OK if conflict else status] += 1  # a conflict is an answer
        self.oracle.end_write(write, status, now_ms, strict)
        if self.habit.loner:
            self.last = write.uid if status == OK and not write.delete else ""
        if answer is None:
            if op.error is not None:
                self.world.mark(f"answered {type(op.error).__name__}")
            return Put(write, status, False, None)
        if conflict:
            self.world.mark("auto put refused")
            known, _ = self._learn(op.key, answer[2], answer[3], 0, ())
            return Put(write, status, True, known)
        return Put(write, status, False, self._acknowledged(op, answer, write, began))

    def _acknowledged(self, op: Op, answer: Message, write: Write, began: int) -> Known:
        _, _, context, values, acked, stand_ins = answer
        known, uids = self._learn(op.key, context, values, write.bit | write.past, acked)
        self.memory.put(op.key, began, context, values or None)
        self._note_through(op.key, op.coordinator, known.seen)
        if stand_ins:
            self.world.mark("acknowledged with stand-ins")
        if uids and not write.delete and write.uid not in uids:
            # Somebody who read it before its writer heard of it has written over it.
            self.world.mark("superseded before acknowledged")
        return known

    def _pin(self) -> str:
        if self.habit.wandering:
            names = list(self.world.hosts)
            return names[self.rng.randrange(len(names))]
        return self.habit.pinned
