"""What the ring promised, judged from what clients did and saw, never from what servers claim.

Per key the oracle keeps every write and its *past*, the writes that it covers, transitively (see
`history`). A read that returned S has *seen* `S ∪ past(S)`; a write made with that read's context
covers exactly that. The verdict at rest is exact: per key the values shown are the maximal elements
of the writes that were acknowledged, and of those with unknown outcome that turn out to have
happened. Deletes are writes without a value; what a delete covers must not be shown.

    at rest: {3}, or {3} and whatever was written without having seen 3

Promises that no client can see broken are watched on the disks and the wire, by one class each in
`judges` and `reach`; `verdict` looks at the ring as a whole when it has come to rest. A later
promise is a class there, or a method here, and leaves the others as they are.

By the numbers under which violations are reported:

  I1   whole    an acknowledged write is shown at rest, or covered; where no disk lost anything, so
                is one of unknown outcome that a disk committed; no row vanishes from a disk
  I2   whole    only what was written to the key is shown or stored, after it was begun, and never a
                write that its client was told had failed
  I3   whole    at rest nothing that a delete covers is shown; a strict read shows nothing that a
                delete acknowledged before it covers; no row brings back what it has let go
  I4   whole    values shown together are concurrent, and none twice; a key's only writer, reading
                strictly, meets none of its acknowledged writes but the last
  I5   whole    within a bound from the knobs: owners hold equal bytes, others nothing, roots are
                equal, all nodes answer alike, of the ring as well
  I6   part     strict reads show what strict writes acknowledged before them, or what covers it,
                and nothing covered; through one coordinator that did not restart, a session's
                reads never fall behind what it has read and written; a scan misses no key that was
                written strictly before it. Not promised: monotonic reads across coordinators below
                strict levels
  I7   not yet  there are no counters
  I8   part     sets kept as siblings and merged by their clients: no acknowledged element is
                missing. Not yet: convergent sets and maps
  I9   whole    no hint is erased before its home holds what it says; created is delivered and
                pending at all times; none is left at rest
  I10  whole    the owners of an arc are distinct, registers only rise, versions that switched form
                one chain per arc (`ringjudge`), and at rest the table is the same everywhere
  I11  part     who is gone stays gone and owns nothing at rest, incarnations rise; the start
                counter of a store rises with every start. Not yet: start counters among peers
  I12  whole    an acknowledged put is on W disks when its client is told, synced where it asked
  I13  whole    an operation ends by its deadline, and succeeds where enough nodes were within
                reach for all its life (`reach`)
  I14  whole    the bytes of a value are the bytes that were put, in every answer and on every disk
                that commits them; at rest no record is damaged
  I15  part     tables, memories and queues of nodes and clients are within their limits after every
                step, and empty at rest. Not yet: the length of clocks, the number of tombstones
  I16  whole    two runs of a seed are one, see `campaign`
  D1            a dot names one write for ever
  D4   part     a context that was damaged, or given for another key, is refused
  N0            no node and no session raises

A put that was sent more than once may live under two dots, and the copy that a cut kept apart may
come back after the other was superseded. DESIGN §2 admits that, so it is counted and not judged:
only for writes with more than one attempt, and only where messages can be lost or held (`cuts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dynamo.sim.history import (
    FAIL,
    INFO,
    NEVER_MS,
    OK,
    OPEN,
    KeyHistory,
    Seen,
    Violation,
    Write,
    bits_of,
)

__all__ = [
    "FAIL", "INFO", "NEVER_MS", "OK", "OPEN", "KeyHistory", "Oracle", "Seen", "Violation", "Write",
]  # fmt: skip

_EMPTY = KeyHistory()


class Oracle:
    """Records calls as they happen; `violations` fills up during the run and by the verdicts."""

    def __init__(self, cuts: bool = True) -> None:
        self._cuts = cuts  # whether messages may be lost or kept apart, see above
        self.violations: list[Violation] = []
        self.retry_siblings = 0
        self.writes: dict[str, Write] = {}  # by uid
        self._keys: dict[bytes, KeyHistory] = {}
        self._shown: dict[str, int] = {}  # uid -> when a read first showed it
        self._due: dict[tuple[str, int], tuple[str, int]] = {}  # open operation -> what, deadline
        self._loss_ms = -1  # when a disk last lost something

    def keys(self) -> list[bytes]:
        return sorted(self._keys)

    def writes_of(self, key: bytes) -> list[Write]:
        return self.of(key).writes

    def of(self, key: bytes) -> KeyHistory:
        """The history of a key; an empty one where nobody wrote."""
        return self._keys.get(key, _EMPTY)

    def accuse(self, number: str, key: bytes, text: str) -> None:
        self.violations.append(Violation(number, key, text))

    def note_loss(self, now_ms: int) -> None:
        """A disk has lost something, by a fault."""
        self._loss_ms = now_ms

    # --- operations -----------------------------------------------------------------------------

    def begin(self, op: tuple[str, int], what: str, deadline_ms: int) -> None:
        """An operation of any kind begins, and must end by `deadline_ms`."""
        self._due[op] = (what, deadline_ms)

    def end(self, op: tuple[str, int], now_ms: int) -> None:
        what, deadline_ms = self._due.pop(op)
        if now_ms > deadline_ms:
            self.accuse("I13", b"", f"{what} ended {now_ms - deadline_ms} ms after its deadline")

    def last_due_ms(self) -> int:
        """By when all that is under way must have ended; -1 if nothing is."""
        return max((deadline_ms for _, deadline_ms in self._due.values()), default=-1)

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
        history = self._keys.get(key)
        if history is None:
            history = self._keys[key] = KeyHistory()
        write = self.writes[uid] = history.begin(key, uid, seen, delete, now_ms)
        return write

    def end_write(self, write: Write, status: str, now_ms: int, strict: bool = False) -> None:
        """OK: acknowledged. FAIL: it provably did nothing. INFO: nobody knows, it may yet come.

        `strict`: W owners acknowledged it, so that reads from R owners must show it.
        """
        write.status = status
        history = self._keys[write.key]
        history.end(write)
        if status == OK:
            write.ended_ms = now_ms
            if strict:
                history.note_strict(write)
        elif status == FAIL and write.uid in self._shown:
            self.accuse("I2", write.key, f"{write} was shown at {self._shown[write.uid]}")
        elif status == FAIL and write.kept:
            self.accuse("I2", write.key, f"{write} is on a disk, and its client heard it is not")

    def committed(self, write: Write) -> None:
        """Some disk has the write now."""
        write.kept = True
        if write.status == FAIL:
            self.accuse("I2", write.key, f"{write} is on a disk, and its client heard it is not")

    # --- what answers show ----------------------------------------------------------------------

    def seen(self, key: bytes, uids: Iterable[str]) -> Seen:
        """What is covered by a context that came with exactly these values."""
        found = [self.writes[uid] for uid in uids if uid in self.writes]
        return bits_of(write for write in found if write.key == key)

    def shown(self, key: bytes, uids: Sequence[str], now_ms: int, few: bool = False) -> Seen:
        """Some answer showed these values: judge them, and return what its context covers.

        `few`: fewer nodes than a quorum speak in it. One that was away may not know yet that a put
        of several attempts, of which it holds the first, was superseded under another dot.
        """
        known = [self._known(key, uid, now_ms) for uid in uids]
        writes = [write for write in known if write is not None]
        if len(writes) > 1:
            self._judge_siblings(key, writes, now_ms, few)
        return bits_of(writes)

    def payloads(self, key: bytes, values: Iterable[tuple[int, bytes]], where: str) -> list[str]:
        """The writes that an answer's values name, after comparing every byte of them (I14)."""
        uids = []
        for _, payload in values:
            uid = uid_of(payload)
            self.compare(key, uid, payload, where)
            uids.append(uid)
        return uids

    def compare(self, key: bytes, uid: str, payload: bytes, where: str) -> None:
        """These bytes stand where the value of `uid` is due: they are the ones that were put."""
        write = self.writes.get(uid)
        if write is not None and write.payload is not None and write.payload != payload:
            self.accuse(
                "I14", key,
                f"{write} is shown with other bytes {where}: {len(payload)} instead of "
                f"{len(write.payload)}, {payload[:24]!r}",
            )  # fmt: skip

    def _known(self, key: bytes, uid: str, now_ms: int) -> Write | None:
        write = self.writes.get(uid)
        if write is None or write.key != key or write.delete:
            self.accuse("I2", key, f"{uid} was shown at {now_ms} and never put here")
            return None
        if write.status == FAIL:
            self.accuse("I2", key, f"{write} was shown at {now_ms}")
        self._shown.setdefault(uid, now_ms)
        return write

    def _judge_siblings(self, key: bytes, writes: list[Write], now_ms: int, few: bool) -> None:
        bits = 0
        for write in writes:
            if bits & write.bit:
                self._excuse_or_accuse("I4", write, f"{write} was shown twice at {now_ms}", few)
            bits |= write.bit
        for write in writes:
            if not bits & write.past:
                continue
            for other in writes:
                if other.bit & write.past:
                    self._excuse_or_accuse(
                        "I4", other,
                        f"{other} was shown at {now_ms} beside {write}, which covers it", few,
                    )  # fmt: skip

    def may_return(self, uid: str) -> bool:
        """Whether a second copy of this put is counted and not judged."""
        write = self.writes.get(uid)
        return self._cuts and write is not None and write.attempts > 1

    def _excuse_or_accuse(self, number: str, write: Write, text: str, few: bool = False) -> None:
        if self.may_return(write.uid) or (few and write.attempts > 1):
            self.retry_siblings += 1
        else:
            self.accuse(number, write.key, text)

    def strict_read(self, key: bytes, uids: Iterable[str], begun_ms: int, now_ms: int) -> None:
        """A read that R owners answered: it must show what W owners had acknowledged (I6),
        and nothing that is covered by it (I3 for deletes)."""
        history = self.of(key)
        uids = list(uids)
        seen = self.seen(key, uids)
        for write in history.uncovered(history.strict, seen):
            if write.ended_ms < begun_ms:
                self.accuse("I6", key, f"{write} is missing from a strict read at {now_ms}")
        for uid in uids:
            found = self.writes.get(uid)  # a phantom has been accused already
            if found is not None and found.bit & history.strictly_past:
                self._judge_stale(history, found, begun_ms, now_ms)

    def _judge_stale(self, history: KeyHistory, write: Write, begun_ms: int, now_ms: int) -> None:
        for later in history.of(history.strict):
            if write.bit & later.past and later.ended_ms < begun_ms:
                self._excuse_or_accuse(
                    "I3" if later.delete else "I6", write,
                    f"a strict read at {now_ms} shows {write}, and {later} covers it",
                )  # fmt: skip
                return

    def session_read(
        self, who: str, key: bytes, uids: Iterable[str], before: Seen, now_ms: int
    ) -> None:
        """A read through the coordinator that gave this session all of `before` (I6)."""
        for write in self.of(key).uncovered(before, self.seen(key, uids)):
            if self.may_return(write.uid):
                continue  # a second copy, hidden since it is known to be superseded
            self.accuse(
                "I6", key, f"{who} has read or written {write} through the same node before, "
                f"and misses it at {now_ms}",
            )  # fmt: skip

    def set_read(self, key: bytes, elements: Iterable[str], begun_ms: int, now_ms: int) -> None:
        """A strict read, or one at rest, of a set that its clients merge (I8)."""
        found = dict.fromkeys(elements)
        for write in self.of(key).writes:
            if write.status == OK and write.uid not in found and write.ended_ms < begun_ms:
                self.accuse("I8", key, f"the element of {write} is missing at {now_ms}")

    def scanned(
        self, due: Iterable[bytes], found: Sequence[bytes], begun_ms: int, now_ms: int
    ) -> None:
        """A scan came to its end. `due`: keys that had been written strictly before it began."""
        seen = dict.fromkeys(found)
        for key in due:
            history = self.of(key)
            known = any(write.ended_ms < begun_ms for write in history.of(history.strict))
            if key not in seen and known and not history.deleted:
                self.accuse("I6", key, f"a scan from {begun_ms} to {now_ms} misses the key")
        if len(seen) < len(found):
            self.accuse("I6", b"", f"a scan from {begun_ms} to {now_ms} yields a key twice")

    def lone_read(self, key: bytes, uids: Sequence[str], last: str, now_ms: int) -> None:
        """A strict read by the key's only writer, whose last write was acknowledged.

        Writes of its own with unknown outcome may turn up beside it; no others may (I4).
        """
        if last not in uids:
            self.accuse(
                "I6", key, f"its only writer wrote {last} last, and reads {uids} at {now_ms}"
            )
        for uid in uids:
            write = self.writes.get(uid)
            if write is not None and uid != last and write.status == OK:
                self._excuse_or_accuse(
                    "I4", write, f"its only writer wrote {last} last, and reads {uids} at {now_ms}"
                )

    def covers(self, uids: Sequence[str], write: Write) -> bool:
        """Whether a disk that holds these has, or once had, that write."""
        return bool(uids) and self.of(write.key).covers(self.seen(write.key, uids), write)

    def on_disks(self, write: Write, w: int, disks: Sequence[str]) -> None:
        """The client is about to be told OK with level `w`; these disks hold the write (I12)."""
        if len(disks) < w:
            self.accuse("I12", write.key, f"{write} acknowledged at w={w}, only on {list(disks)}")

    # --- at rest --------------------------------------------------------------------------------

    def at_rest(
        self, key: bytes, answers: Mapping[str, Sequence[str]], held: Sequence[str]
    ) -> None:
        """The exact verdict on one key.

        `answers`: what is shown, by a read of all owners through a node, or by one owner's own
        row. `held`: uids of every write, deletes included, whose value or tombstone an owner holds.
        """
        shown = list(dict.fromkeys(uid for uids in answers.values() for uid in uids))
        present = self._present(key, shown, held)
        self._nothing_missing(key, present)
        self._nothing_extra(key, shown, present)
        # Some nodes remember that a put was superseded under another dot, and hide this one; and a
        # value expires by the clock of whoever is asked.
        same = [uid for uid in shown if not self.may_return(uid) and not self._mortal(uid)]
        views = {node: [uid for uid in same if uid in uids] for node, uids in answers.items()}
        first = next(iter(views), "")
        for node, view in views.items():
            if view != views[first]:
                self.accuse("I5", key, f"{node} shows {view}, {first} shows {views[first]}")

    def _mortal(self, uid: str) -> bool:
        write = self.writes.get(uid)
        return write is not None and write.mortal

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
        history = self.of(key)
        for write in history.uncovered((1 << len(history.writes)) - 1, bits_of(present)):
            if self._must_stay(write):
                there = ", ".join(map(repr, present)) or "nothing"
                self.accuse("I1", key, f"{write} is lost; at rest: {there}")

    def _must_stay(self, write: Write) -> bool:
        if write.status == OK:
            return not write.frail or self._loss_ms < write.begun_ms
        return write.kept and write.status != FAIL and self._loss_ms < 0

    def _nothing_extra(self, key: bytes, shown: Iterable[str], present: list[Write]) -> None:
        history = self.of(key)
        happened = {write.uid: write for write in present}
        happened.update((write.uid, write) for write in history.writes if write.status == OK)
        covered = 0
        for write in happened.values():
            covered |= write.past
        for uid in shown:
            found = self.writes.get(uid)
            if found is None or not found.bit & covered:
                continue
            other = next(write for write in happened.values() if found.bit & write.past)
            self._excuse_or_accuse(
                "I3" if other.delete else "I4", found,
                f"{found} is shown at rest; {other} covers it",
            )  # fmt: skip

    def rows_at_rest(self, owned: Mapping[str, Mapping[str, Mapping[bytes, bytes]]]) -> None:
        """Owners of an arc hold byte-equal rows (I5): arc name -> owner -> key -> row."""
        for arc, owners in owned.items():
            names = list(owners)
            for name in names[1:]:
                mine, theirs = owners[names[0]], owners[name]
                if mine == theirs:
                    continue
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


def uid_of(payload: bytes) -> str:
    """The write that a value names: what stands between the codec's byte and the first line end."""
    return payload[1:].split(b"\n", 1)[0].decode(errors="replace")
