"""What simulated applications do: read, write back, overwrite blindly, delete, create again.

A client does one thing after another, through the session of the real client: its routing, its
retries, its put ids and its deadlines. Each value it writes is unique, so that a value found
anywhere names the write that made it. What a client knows of a key is the context of an answer,
together with what that answer showed; the ring is told the first, the oracle the second.

    read     look
    modify   read, then write over what was read (now and then over an older read)
    blind    write beside whatever is there
    auto     write over what this client has seen; if nothing, over what the coordinator holds
    remove   read, then delete what was read
    cold     write a key once and never come back: only repairs can complete it

A *loner* has a key to itself and uses strict quorums: whatever happens to the ring, each of its
reads shows the value that it wrote last, and beside it nothing that was ever acknowledged.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dynamo.client.memory import Memory
from dynamo.client.op import Op
from dynamo.client.session import Session
from dynamo.core import messages as m
from dynamo.core import ring
from dynamo.core.messages import Message
from dynamo.sim.network import Frame
from dynamo.sim.oracle import FAIL, INFO, NEVER_MS, OK, Seen, Write
from dynamo.sim.world import CLUSTER, World

BUCKET = b"sim"
CODEC = b"\x00"  # the first byte of a payload is the client's own
KEPT = 4  # contexts of a key that a client may still use

Known = tuple[bytes, Seen]  # a context, and what the answers that carried it showed
Ended = Callable[[Op], None]


class Levels(NamedTuple):
    """As in a request: 0 is the ring's own for r and w, and not asked for pr and pw."""

    r: int = 0
    w: int = 0
    pr: int = 0
    pw: int = 0


OWN_LEVELS = Levels()


@dataclass(frozen=True, slots=True)
class Habit:
    """How one client behaves. `weights` by action."""

    weights: dict[str, int]
    keys: int = 4  # shared keys it chooses from
    think_ms: int = 20
    timeout_ms: int = 400
    tries: int = 3
    levels: Levels = OWN_LEVELS
    sloppy: bool = True
    stale: float = 0.0  # share of writes over an older read than the last
    forgetful: bool = False  # its auto puts are those of a client that just started
    wandering: bool = False  # asks any one node, not the owners in their order
    pinned: str = ""  # talks to this node only
    loner: bool = False


def uids_of(values: Iterable[tuple[int, bytes]]) -> list[str]:
    """The writes that an answer's values name."""
    return [payload[1:].decode() for _, payload in values]


class Caller:
    """A session in a world: carries operations out and says how they ended."""

    def __init__(self, name: str, world: World, rng: random.Random) -> None:
        self.name = name
        self.world = world
        self.rng = rng
        seeds = list(world.addresses)
        rng.shuffle(seeds)
        self.session = Session(seeds, rng)
        self._ended: dict[Op, Ended] = {}
        world.add(self)

    def submit(self, op: Op, ended: Ended) -> None:
        """Carry out an operation; `ended` hears of its end, possibly before this returns."""
        self._ended[op] = ended
        self.session.submit(self.world.now_ms, op)
        self._report()

    def _report(self) -> None:
        while done := self.session.take_completed():
            for op in done:
                self._ended.pop(op)(op)

    # --- as the world sees it -------------------------------------------------------------------

    def receive(self, now_ms: int, frame: Frame) -> None:
        self.session.handle(now_ms, self.world.address_of[frame[0]], frame[3], CLUSTER.tag)
        self._report()

    def wake(self, now_ms: int) -> None:
        self.session.tick(now_ms)
        self._report()

    def next_due_ms(self) -> int:
        return self.session.next_due_ms()

    def take_outgoing(self) -> list[tuple[str, list[Message]]]:
        frames = self.session.outgoing(self.world.now_ms)
        return [(self.world.addresses[address], messages) for address, messages in frames]

    def unsent(self, now_ms: int, node: str, messages: list[Message]) -> None:
        self.session.unsent(now_ms, self.world.address_of[node], messages)
        self._report()

    def connection(self, now_ms: int, node: str, up: bool) -> None:
        tell = self.session.reachable if up else self.session.lost
        tell(now_ms, self.world.address_of[node])
        self._report()


class Client(Caller):
    """One application: what it does next, what it knows, and what it tells the oracle."""

    def __init__(
        self, name: str, habit: Habit, world: World, rng: random.Random, until_ms: int
    ) -> None:
        super().__init__(name, world, rng)
        self.habit = habit
        self.counts = {OK: 0, FAIL: 0, INFO: 0}
        self._oracle = world.oracle
        self._until_ms = until_ms
        self._memory = Memory()
        self._seen: dict[tuple[bytes, bytes], Seen] = {}  # (key, context) -> what it covers
        self._kept: dict[bytes, list[bytes]] = {}  # contexts of a key, newest last
        self._serial = 0
        self._begun_ms = 0
        self._next_ms = NEVER_MS
        self._last = ""  # loner: its last write, if that was acknowledged
        self._actions = list(habit.weights)
        self._weights = list(habit.weights.values())

    def begin(self, at_ms: int) -> None:
        """Start acting at `at_ms`."""
        self._next_ms = at_ms
        self.world.attend(self)

    def wake(self, now_ms: int) -> None:
        super().wake(now_ms)
        if now_ms >= self._next_ms:
            self._next_ms = NEVER_MS
            if now_ms < self._until_ms:
                self._act()

    def next_due_ms(self) -> int:
        return min(self.session.next_due_ms(), self._next_ms)

    def take_outgoing(self) -> list[tuple[str, list[Message]]]:
        frames = super().take_outgoing()
        for _, messages in frames:
            for message in messages:
                if message[0] == m.PUT:
                    self._note_attempt(message)
        return frames

    def _note_attempt(self, message: Message) -> None:
        write = self._oracle.writes[self.world.uids[message[8]]]
        write.attempts = max(write.attempts, message[9] + 1)
        self.world.watch_put(self.name, write, message)

    # --- acting -----------------------------------------------------------------------------------

    def _act(self) -> None:
        key = self._key()
        action = self.rng.choices(self._actions, self._weights)[0]
        self.world.mark(f"op {action}")
        if action == "read":
            self._read(key, lambda known: self._rest())
        elif action == "modify":
            self._modify(key)
        elif action == "remove":
            self._read(key, lambda known: self._write(key, known, delete=True))
        elif action == "blind":
            self._write(key, (b"", 0), m.BLIND)
        elif action == "auto":
            self._auto(key)
        else:
            cold = ring.full_key(BUCKET, f"cold-{self.name}-{self._serial}".encode())
            self._write(cold, (b"", 0), m.BLIND)

    def _key(self) -> bytes:
        if self.habit.loner:
            return ring.full_key(BUCKET, f"own-{self.name}".encode())
        return ring.full_key(BUCKET, f"k{self.rng.randrange(self.habit.keys)}".encode())

    def _modify(self, key: bytes) -> None:
        kept = self._kept.get(key)
        if kept and self.rng.random() < self.habit.stale:
            self.world.mark("stale context used")
            context = kept[self.rng.randrange(len(kept))]
            self._write(key, (context, self._seen[key, context]))
        else:
            self._read(key, lambda known: self._write(key, known))

    def _auto(self, key: bytes) -> None:
        """As `Surface._send_put`: over what was seen, siblings nobody has read merged in."""
        seen = None if self.habit.forgetful else self._memory.get(key)
        delete = self.rng.random() < 0.1
        if seen is None:
            self._write(key, None, m.AUTO, delete)
            return
        if seen.unread is not None:
            self.world.mark("unread siblings merged")
        self._write(key, (seen.context, self._seen[key, seen.context]), m.CAUSAL, delete)

    def _rest(self) -> None:
        self._next_ms = self.world.now_ms + 1 + int(self.habit.think_ms * 2 * self.rng.random())

    def _pin(self) -> str:
        if self.habit.wandering:
            names = list(self.world.hosts)
            return names[self.rng.randrange(len(names))]
        return self.habit.pinned

    # --- operations -------------------------------------------------------------------------------

    def _send(self, what: str, op: Op, ended: Ended) -> None:
        oracle, name, now_ms = self._oracle, self.name, self.world.now_ms
        self._begun_ms = now_ms
        self._serial += 1
        number = (name, self._serial)
        oracle.begin(number, f"{name} {what} {op.key[4:].decode()} at {now_ms}", op.deadline_ms)

        def end(op: Op) -> None:
            oracle.end(number, self.world.now_ms)
            status = OK if op.answer is not None else INFO if op.maybe_applied else FAIL
            self.counts[status] += 1
            if op.sent > 1:
                self.world.mark("op took several attempts")
            ended(op)

        self.submit(op, end)

    def _read(self, key: bytes, then: Callable[[Known], None]) -> None:
        habit, levels = self.habit, self.habit.levels
        began = self._memory.clock
        flags = (m.SLOPPY if habit.sloppy else 0) | (
            m.REPAIR_FIRST if self.rng.random() < 0.1 else 0
        )
        op = Op(
            m.GET, key, self.world.now_ms + habit.timeout_ms, (levels.r, levels.pr, flags),
            tries=habit.tries, pin=self._pin(),
        )  # fmt: skip
        self._send("get", op, lambda op: self._on_read(op, began, then))

    def _on_read(self, op: Op, began: int, then: Callable[[Known], None]) -> None:
        if op.answer is None:
            self._rest()
            return
        _, _, context, values, _ = op.answer
        uids = uids_of(values)
        known = self._learn(op.key, context, uids, 0)
        self._memory.read(op.key, began, context)
        if self.habit.levels.pr:
            now_ms = self.world.now_ms
            self._oracle.strict_read(op.key, uids, self._begun_ms, now_ms)
            if self._last:
                self._oracle.lone_read(op.key, uids, self._last, now_ms)
        then(known)

    def _learn(self, key: bytes, context: bytes, uids: list[str], more: Seen) -> Known:
        """Tell the oracle what an answer showed, and keep its context beside it."""
        if len(uids) > 1:
            self.world.mark("siblings seen")
        seen = self._oracle.shown(key, uids, self.world.now_ms) | more
        seen |= self._seen.get((key, context), 0)
        self._seen[key, context] = seen
        kept = self._kept.setdefault(key, [])
        kept.append(context)
        del kept[:-KEPT]
        return context, seen

    def _write(
        self, key: bytes, known: Known | None, mode: int = m.CAUSAL, delete: bool = False
    ) -> None:
        """Write over what is `known`; None if only the coordinator can know what that is."""
        habit, world = self.habit, self.world
        uid = f"{self.name}.{self._serial}"
        context, seen = known if known is not None else (b"", None)
        write = self._oracle.begin_write(key, uid, seen, world.now_ms, delete)
        flags = (m.SLOPPY if habit.sloppy else 0) | (m.DELETE if delete else 0)
        payload = b"" if delete else CODEC + uid.encode()
        tail = (habit.levels.w, habit.levels.pw, flags, 0, payload)
        op = Op(
            m.PUT, key, world.now_ms + habit.timeout_ms, tail,
            mode=mode, context=context, tries=habit.tries, pin=self._pin(),
        )  # fmt: skip
        began = self._memory.clock
        self._send("delete" if delete else "put", op, lambda op: self._on_written(op, write, began))
        world.uids[op.put_id] = uid

    def _on_written(self, op: Op, write: Write, began: int) -> None:
        now_ms = self.world.now_ms
        conflict = op.answer is not None and op.answer[0] == m.CONFLICT
        if op.answer is None or conflict:
            status = INFO if op.maybe_applied else FAIL
        else:
            status = OK
            write.strict = bool(self.habit.levels.pw)
        self._oracle.end_write(write, status, now_ms)
        if self.habit.loner:
            self._last = write.uid if status == OK and not write.delete else ""
        if conflict:
            self._on_conflict(op)
            return
        if op.answer is not None:
            self._acknowledged(op, op.answer, write, began)
        self._rest()

    def _on_conflict(self, op: Op) -> None:
        """Siblings that nobody has read: an application with a merge function merges them."""
        assert op.answer is not None
        self.world.mark("auto put refused")
        known = self._learn(op.key, op.answer[2], uids_of(op.answer[3]), 0)
        if self.rng.random() < 0.5:
            self._write(op.key, known)
        else:
            self._rest()

    def _acknowledged(self, op: Op, answer: Message, write: Write, began: int) -> None:
        _, _, context, values, _, stand_ins = answer
        uids = uids_of(values)
        self._learn(op.key, context, uids, write.bit | write.past)
        self._memory.put(op.key, began, context, values or None)
        if stand_ins:
            self.world.mark("acknowledged with stand-ins")
        if uids and not write.delete and write.uid not in uids:
            # Somebody who read it before its writer heard of it has written over it.
            self.world.mark("superseded before acknowledged")


class Reader(Caller):
    """Reads keys through one node with all owners asked, when all is over."""

    def __init__(self, node: str, world: World, rng: random.Random) -> None:
        super().__init__(f"r-{node}", world, rng)
        self.answers: dict[bytes, list[str]] = {}
        self.failures: dict[bytes, str] = {}
        self._node = node

    def read(self, keys: list[bytes], timeout_ms: int) -> None:
        until_ms = self.world.now_ms + timeout_ms
        for key in keys:
            op = Op(m.GET, key, until_ms, (m.ALL, 0, 0), tries=1, pin=self._node)
            self.submit(op, self._on_read)
        self.world.attend(self)

    def _on_read(self, op: Op) -> None:
        if op.answer is not None:
            self.answers[op.key] = uids_of(op.answer[3])
        else:
            self.failures[op.key] = str(op.error)
