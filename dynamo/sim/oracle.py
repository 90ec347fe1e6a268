"""What the ring promised, judged from what clients did and saw, never from what servers claim.

Per key the oracle keeps every write in the order in which clients began them, and for each one
its *past*: the writes that it covers, transitively. A read that returned S has *seen*
`S ∪ past(S)`; a write made with that read's context covers exactly that. Sets of writes are the
bits of an int, bit i for the i-th write of the key.

    a  put 1, blind              past {}
    b  put 2, blind              past {}
    a  read -> {1, 2}            seen {1, 2}
    a  put 3 over that read      past {1, 2}
    at rest: {3}, or {3} and whatever was written without having seen 3

The verdict at rest is exact: per key the values shown are the maximal elements of the writes that
were acknowledged, and of those with unknown outcome that turn out to have happened. Deletes are
writes without a value; what a delete covers must not be shown.

One kind of write is not exact. An *auto* put by a client that has seen nothing covers what its
coordinator happened to hold, which no client can know. Such a write may have covered anything
that was begun before it ended, or in the same millisecond, so it excuses the absence of those
values and of no others; it accuses nobody. (`horizon_ms` below; workloads without such puts get
the exact verdict.)

A put that was sent more than once may live under two dots, and the copy that a cut kept apart may
come back after the other was superseded. DESIGN §2 admits that, so it is counted and not judged:
only for writes with more than one attempt, and only where messages can be lost or held (`cuts`).

What is checked, by the numbers of the invariants:

  I1   an acknowledged write is shown at rest, or covered by something that is there
  I2   only what was written to the key is shown, after it was begun, and never a failed write
  I3   at rest, nothing that an acknowledged delete covers is shown
  I4   values shown together are concurrent, and none twice
  I5   at rest all owners hold equal rows, others hold none, and all nodes answer alike
  I6   a strict read shows what strict writes acknowledged before it, or what covers them
  I9   at rest no hint is left
  I12  an acknowledged put is on W disks when its client is told
  I13  every operation ends by its deadline
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

OPEN, OK, FAIL, INFO = "open", "ok", "fail", "info"

NEVER_MS = 1 << 60
Seen = int  # a set of writes of one key, as bits


class Violation(NamedTuple):
    """One broken promise: the invariant's number, the key (b"" for none), and the story."""

    number: str
    key: bytes
    text: str

    def __str__(self) -> str:
        return f"{self.number} {self.key.decode(errors='replace')}: {self.text}"


class Write:
    """One logical put or delete, however often it was sent."""

    __slots__ = (
        "attempts", "auto", "begun_ms", "bit", "delete", "ended_ms", "key", "past", "status",
        "strict", "uid",
    )  # fmt: skip

    def __init__(
        self, key: bytes, uid: str, bit: int, past: Seen, auto: bool, delete: bool, now_ms: int
    ) -> None:
        self.key = key
        self.uid = uid
        self.bit = bit
        self.past = past
        self.auto = auto  # covers what the coordinator held, which is unknown
        self.delete = delete
        self.begun_ms = now_ms
        self.ended_ms = NEVER_MS
        self.status = OPEN
        self.strict = False  # W owners acknowledged it
        self.attempts = 1

    def __repr__(self) -> str:
        what = "delete" if self.delete else "put"
        return f"{what} {self.uid} {self.status} {self.begun_ms}..{self.ended_ms}"


class Oracle:
    """Records calls as they happen; `violations` fills up during the run and by the verdicts."""

    def __init__(self, cuts: bool = True) -> None:
        self._cuts = cuts  # whether messages may be lost or kept apart, see above
        self.violations: list[Violation] = []
        self.retry_siblings = 0
        self.writes: dict[str, Write] = {}  # by uid
        self._keys: dict[bytes, list[Write]] = {}
        self._shown: dict[str, int] = {}  # uid -> when a read first showed it
        self._due: dict[tuple[str, int], tuple[str, int]] = {}  # open operation -> what, deadline

    def keys(self) -> list[bytes]:
        return sorted(self._keys)

    def writes_of(self, key: bytes) -> list[Write]:
        return self._keys.get(key, [])

    def accuse(self, number: str, key: bytes, text: str) -> None:
        self.violations.append(Violation(number, key, text))

    # --- operations -----------------------------------------------------------------------------

    def begin(self, op: tuple[str, int], what: str, deadline_ms: int) -> None:
        """An operation of any kind begins, and must end by `deadline_ms`."""
        self._due[op] = (what, deadline_ms)

    def end(self, op: tuple[str, int], now_ms: int) -> None:
        what, deadline_ms = self._due.pop(op)
        if now_ms > deadline_ms:
            self.accuse("I13", b"", f"{what} ended {now_ms - deadline_ms} ms after its deadline")

    def nothing_open(self, now_ms: int) -> None:
        """All clients have stopped: what has not ended by now never will."""
        for what, deadline_ms in self._due.values():
            self.accuse("I13", b"", f"{what} never ended; due {deadline_ms}, now {now_ms}")
        self._due.clear()

    def begin_write(
        self, key: bytes, uid: str, seen: Seen | None, now_ms: int, delete: bool = False
    ) -> Write:
        """A put or delete begins. `seen`: what its context covers, 0 for blind, None unknown."""
        assert uid not in self.writes, "values are unique"
        writes = self._keys.setdefault(key, [])
        write = Write(key, uid, 1 << len(writes), seen or 0, seen is None, delete, now_ms)
        writes.append(write)
        self.writes[uid] = write
        return write

    def end_write(self, write: Write, status: str, now_ms: int) -> None:
        """OK: acknowledged. FAIL: it provably did nothing. INFO: nobody knows, it may yet come."""
        write.status = status
        if status == OK:
            write.ended_ms = now_ms
        elif status == FAIL and write.uid in self._shown:
            self.accuse("I2", write.key, f"{write} was shown at {self._shown[write.uid]}")

    def seen(self, key: bytes, uids: Iterable[str]) -> Seen:
        """What is covered by a context that came with exactly these values."""
        seen = 0
        for uid in uids:
            write = self.writes.get(uid)
            if write is not None and write.key == key:
                seen |= write.bit | write.past
        return seen

    def shown(self, key: bytes, uids: Sequence[str], now_ms: int) -> Seen:
        """Some answer showed these values: judge them, and return what its context covers."""
        known = [self._known(key, uid, now_ms) for uid in uids]
        writes = [write for write in known if write is not None]
        self._judge_siblings(key, writes, now_ms)
        return self.seen(key, uids)

    def _known(self, key: bytes, uid: str, now_ms: int) -> Write | None:
        write = self.writes.get(uid)
        if write is None or write.key != key or write.delete:
            self.accuse("I2", key, f"{uid} was shown at {now_ms} and never put here")
            return None
        if write.status == FAIL:
            self.accuse("I2", key, f"{write} was shown at {now_ms}")
        self._shown.setdefault(uid, now_ms)
        return write

    def _judge_siblings(self, key: bytes, writes: list[Write], now_ms: int) -> None:
        if len(writes) < 2:
            return
        bits = 0
        for write in writes:
            if bits & write.bit:
                self._excuse_or_accuse("I4", write, f"{write} was shown twice at {now_ms}")
            bits |= write.bit
        for write in writes:
            older = [other for other in writes if other.bit & write.past]
            for other in older:
                self._excuse_or_accuse(
                    "I4", other, f"{other} was shown at {now_ms} beside {write}, which covers it"
                )

    def _may_return(self, uid: str) -> bool:
        write = self.writes.get(uid)
        return self._cuts and write is not None and write.attempts > 1

    def _excuse_or_accuse(self, number: str, write: Write, text: str) -> None:
        if self._may_return(write.uid):
            self.retry_siblings += 1
        else:
            self.accuse(number, write.key, text)

    def strict_read(self, key: bytes, uids: Iterable[str], begun_ms: int, now_ms: int) -> None:
        """A read that R owners answered: it must show what W owners had acknowledged (I6)."""
        for write in self._uncovered(key, self.seen(key, uids)):
            if write.strict and write.ended_ms < begun_ms:
                self.accuse("I6", key, f"{write} is missing from a strict read at {now_ms}")

    def lone_read(self, key: bytes, uids: Sequence[str], last: str, now_ms: int) -> None:
        """A strict read by the key's only writer, whose last write was acknowledged.

        Writes of its own with unknown outcome may turn up beside it; no others may (I4).
        """
        if last not in uids:
            self.accuse(
                "I6", key, f"its only writer wrote {last} last, and reads {uids} at {now_ms}"
            )
        for uid in uids:
            write = self.writes[uid]
            if uid != last and write.status == OK:
                self._excuse_or_accuse(
                    "I4", write, f"its only writer wrote {last} last, and reads {uids} at {now_ms}"
                )

    def _uncovered(self, key: bytes, seen: Seen) -> list[Write]:
        """Puts that are neither in `seen` nor covered by a delete or by an auto put."""
        seen = self._with_deletes(key, seen)
        horizon_ms = self._horizon_ms(key, seen)
        return [
            write
            for write in self.writes_of(key)
            if not write.delete and not write.bit & seen and write.begun_ms > horizon_ms
        ]

    def _with_deletes(self, key: bytes, seen: Seen) -> Seen:
        """`seen`, and what deletes cover.

        Deletes do not show, and a read that shows nothing may carry a context over one. So any
        delete that has not failed excuses what it covers, whatever became of its tombstone.
        """
        for write in self.writes_of(key):
            if write.delete and write.status != FAIL:
                seen |= write.bit | write.past
        return seen

    def _horizon_ms(self, key: bytes, seen: Seen) -> int:
        """By when writes must have begun for an auto put in `seen` to have covered them."""
        ends = [w.ended_ms for w in self.writes_of(key) if w.auto and w.bit & seen]
        return max(ends, default=-1)

    def covers(self, uids: Sequence[str], write: Write) -> bool:
        """Whether a disk that holds these has, or once had, that write."""
        if not uids:
            return False
        seen = self._with_deletes(write.key, self.seen(write.key, uids))
        return bool(write.bit & seen) or write.begun_ms <= self._horizon_ms(write.key, seen)

    def on_disks(self, write: Write, w: int, disks: Sequence[str]) -> None:
        """The client is about to be told OK with level `w`; these disks hold the write (I12)."""
        if len(disks) < w:
            self.accuse("I12", write.key, f"{write} acknowledged at w={w}, only on {list(disks)}")

    # --- at rest --------------------------------------------------------------------------------

    def at_rest(
        self, key: bytes, answers: Mapping[str, Sequence[str]], held: Sequence[str]
    ) -> None:
        """The exact verdict on one key.

        `answers`: what a read of all owners through each node showed. `held`: uids of every
        write, deletes included, whose value or tombstone an owner holds.
        """
        shown = list(dict.fromkeys(uid for uids in answers.values() for uid in uids))
        present = self._present(key, shown, held)
        self._nothing_missing(key, present)
        self._nothing_extra(key, shown, present)
        # Some nodes remember that a put was superseded under another dot, and hide this one.
        same = [uid for uid in shown if not self._may_return(uid)]
        views = {node: [uid for uid in same if uid in uids] for node, uids in answers.items()}
        first = next(iter(views), "")
        for node, view in views.items():
            if view != views[first]:
                self.accuse("I5", key, f"{node} shows {view}, {first} shows {views[first]}")

    def _present(self, key: bytes, shown: Iterable[str], held: Sequence[str]) -> list[Write]:
        found: dict[str, Write] = {}
        for uid in [*shown, *held]:
            write = self.writes.get(uid)
            if write is None or write.key != key:
                self.accuse("I2", key, f"{uid} is there at rest and was never written")
            elif write.status == FAIL:
                self.accuse("I2", key, f"{write} is there at rest")
            else:
                found[uid] = write
        return list(found.values())

    def _nothing_missing(self, key: bytes, present: list[Write]) -> None:
        for write in self._uncovered(key, self.seen(key, [write.uid for write in present])):
            if write.status == OK:
                there = ", ".join(map(repr, present)) or "nothing"
                self.accuse("I1", key, f"{write} is lost; at rest: {there}")

    def _nothing_extra(self, key: bytes, shown: Iterable[str], present: list[Write]) -> None:
        happened = {write.uid: write for write in present}
        happened.update((write.uid, write) for write in self.writes_of(key) if write.status == OK)
        for uid in shown:
            write = self.writes.get(uid)
            if write is None:
                continue
            for other in happened.values():
                if write.bit & other.past:
                    number = "I3" if other.delete else "I4"
                    self._excuse_or_accuse(
                        number, write, f"{write} is shown at rest; {other} covers it"
                    )
                    break

    def rows_at_rest(self, owned: Mapping[str, Mapping[str, Mapping[bytes, bytes]]]) -> None:
        """Owners of an arc hold byte-equal rows (I5): arc name -> owner -> key -> row."""
        for arc, owners in owned.items():
            names = list(owners)
            for name in names[1:]:
                mine, theirs = owners[names[0]], owners[name]
                for key in sorted({**mine, **theirs}):
                    if mine.get(key) != theirs.get(key):
                        self.accuse(
                            "I5", key, f"arc {arc}: {names[0]} and {name} hold different rows"
                        )

    def strays_at_rest(self, strays: Mapping[str, Iterable[bytes]]) -> None:
        """No node holds object rows of arcs that it does not own (I5)."""
        for node, keys in strays.items():
            for key in keys:
                self.accuse("I5", key, f"{node} holds a row and is no owner")

    def hints_at_rest(self, hints: Mapping[str, int]) -> None:
        """All hints have gone home (I9)."""
        for node, count in hints.items():
            if count:
                self.accuse("I9", b"", f"{node} still keeps {count} hints")
