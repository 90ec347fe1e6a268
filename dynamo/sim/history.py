"""What clients did, per key: every write, what it covers, and what became of it.

Ground truth comes from calls alone. Writes of a key are numbered in the order in which clients
began them, and a set of writes is an int whose bit i stands for the i-th. So "covered by" is one
`&`, and the verdict on a key with a thousand writes costs no more than on one with ten.

    a  put 1, blind              past {}
    b  put 2, blind              past {}
    a  read -> {1, 2}            seen {1, 2}
    a  put 3 over that read      past {1, 2}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        "attempts", "begun_ms", "bit", "delete", "ended_ms", "frail", "kept", "key",
        "mortal", "opaque", "past", "payload", "status", "strict", "uid",
    )  # fmt: skip

    def __init__(
        self, key: bytes, uid: str, bit: int, past: Seen, opaque: bool, delete: bool, now_ms: int
    ) -> None:
        self.key = key
        self.uid = uid
        self.bit = bit
        self.past = past
        self.opaque = opaque  # what its context covers is not known: told, never judged
        self.delete = delete
        self.begun_ms = now_ms
        self.ended_ms = NEVER_MS
        self.status = OPEN
        self.payload: bytes | None = None  # the very bytes, where they are compared
        self.strict = False  # W owners acknowledged it
        self.frail = False  # it asked for fewer copies than survive the loss of a disk
        self.mortal = False  # it carries a time to live
        self.kept = False  # some disk has committed it
        self.attempts = 1

    def __repr__(self) -> str:
        what = "delete" if self.delete else "put"
        ended = self.ended_ms if self.ended_ms != NEVER_MS else ""
        return f"{what} {self.uid} {self.status} {self.begun_ms}..{ended}"


class KeyHistory:
    """The writes of one key, and sets of them that verdicts ask for again and again."""

    __slots__ = ("deleted", "strict", "strictly_past", "writes")

    def __init__(self) -> None:
        self.writes: list[Write] = []
        # Deletes and puts with a time to live that have not failed, and all they cover. They do
        # not show, or not for long, and a read that shows nothing may carry a context over one, so
        # each excuses the absence of these.
        self.deleted: Seen = 0
        self.strict: Seen = 0  # acknowledged by W owners
        self.strictly_past: Seen = 0  # covered by one of those

    def begin(self, key: bytes, uid: str, seen: Seen | None, delete: bool, now_ms: int) -> Write:
        write = Write(key, uid, 1 << len(self.writes), seen or 0, seen is None, delete, now_ms)
        self.writes.append(write)
        if delete:
            self.deleted |= write.bit | write.past
        return write

    def note_mortal(self, write: Write) -> None:
        """It carries a time to live."""
        write.mortal = True
        self.deleted |= write.bit | write.past

    def end(self, write: Write) -> None:
        """Note how a write ended."""
        if write.status == FAIL and (write.delete or write.mortal):
            self.deleted = 0
            for other in self.writes:
                if (other.delete or other.mortal) and other.status != FAIL:
                    self.deleted |= other.bit | other.past

    def note_strict(self, write: Write) -> None:
        """W owners acknowledged it."""
        write.strict = True
        self.strict |= write.bit
        self.strictly_past |= write.past

    def of(self, bits: Seen) -> Iterator[Write]:
        """The writes of a set, oldest first."""
        while bits:
            low = bits & -bits
            yield self.writes[low.bit_length() - 1]
            bits ^= low

    def newest(self, bits: Seen) -> list[Write]:
        """The writes of a set that no other of the set covers."""
        covered = 0
        for write in self.of(bits):
            covered |= write.past
        return list(self.of(bits & ~covered))

    def uncovered(self, among: Seen, seen: Seen) -> list[Write]:
        """Puts of `among` that nothing in `seen` and no delete accounts for."""
        left = among & ~(seen | self.deleted)
        return [write for write in self.of(left) if not write.delete and not write.mortal]

    def covers(self, seen: Seen, write: Write) -> bool:
        """Whether `seen` accounts for this write."""
        return bool(write.bit & (seen | self.deleted))


def bits_of(writes: Iterable[Write]) -> Seen:
    """What is covered by a context that came with exactly these values."""
    seen = 0
    for write in writes:
        seen |= write.bit | write.past
    return seen
