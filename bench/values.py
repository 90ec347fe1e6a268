"""Values that say who wrote them, and the log of a worker: what the checks at the end are made of.

Every value is `key.writer.seq|` repeated to its size, so it is unique, and a reader finds without
a copy of the data whether it is whole, belongs to the key, and whose it is.
"""

from __future__ import annotations

from array import array
from typing import Any

# States of a write in the log.
OPEN, ACKED, FAILED, MAYBE = range(4)
# Values beyond the first that a worker notes of its reads; further ones are only counted.
EXTRAS_MAX = 100_000
NOBODY = -1

Tag = tuple[int, int]  # writer, seq


class Corrupt(Exception):
    """A read returned what nobody can have written."""


def value_of(key: int, writer: int, seq: int, size: int) -> bytes:
    """The value that write `seq` of a writer stores under a key."""
    tag = b"%d.%d.%d|" % (key, writer, seq)
    return (tag * (size // len(tag) + 1))[:size]


def tag_of(key: int, value: Any) -> Tag:
    """Who wrote this value; raises Corrupt unless it is whole and of this key."""
    try:
        found, writer, seq = map(int, value[: value.index(b"|")].split(b"."))
    except (ValueError, AttributeError, TypeError):
        raise Corrupt(f"key {key} holds {value!r:.60}, no value of this harness") from None
    if found != key or value != value_of(key, writer, seq, len(value)):
        raise Corrupt(f"key {key} holds {value!r:.60}, damaged or of another key")
    return writer, seq


class Writes:
    """Every write of one worker; its seq is its index."""

    COLUMNS = ("key", "begun", "ended", "state", "gone", "count")

    def __init__(self) -> None:
        self.key = array("q")
        self.begun = array("d")
        self.ended = array("d")
        self.state = array("b")
        self.gone = array("b")  # 1: a delete
        self.count = array("q")  # of an `add`: its count, 0 for other writes

    def __len__(self) -> int:
        return len(self.key)

    def begin(self, key: int, now: float, gone: int = 0, count: int = 0) -> int:
        self.key.append(key)
        self.begun.append(now)
        self.ended.append(0.0)
        self.state.append(OPEN)
        self.gone.append(gone)
        self.count.append(count)
        return len(self.key) - 1

    def end(self, seq: int, now: float, state: int) -> None:
        self.ended[seq] = now
        self.state[seq] = state


class Reads:
    """Every read of one worker with the first value it showed; further ones in `extras`."""

    COLUMNS = ("key", "begun", "ended", "writer", "seq")

    def __init__(self) -> None:
        self.key = array("q")
        self.begun = array("d")
        self.ended = array("d")
        self.writer = array("i")
        self.seq = array("q")
        self.extras: list[tuple[int, list[Tag]]] = []
        self.with_siblings = 0

    def __len__(self) -> int:
        return len(self.key)

    def note(self, key: int, begun: float, ended: float, values: list[bytes]) -> None:
        """A read that ended well; raises Corrupt where a value is not what it claims."""
        self.key.append(key)
        self.begun.append(begun)
        self.ended.append(ended)
        tags = [tag_of(key, value) for value in values]
        writer, seq = tags[0] if tags else (NOBODY, NOBODY)
        self.writer.append(writer)
        self.seq.append(seq)
        if len(tags) > 1:
            self.with_siblings += 1
            if len(self.extras) < EXTRAS_MAX:
                self.extras.append((len(self.key) - 1, tags[1:]))

    def tags(self, index: int, extras: dict[int, list[Tag]]) -> list[Tag]:
        """Everything that a read showed."""
        if self.writer[index] == NOBODY:
            return []
        return [(self.writer[index], self.seq[index]), *map(tuple, extras.get(index, ()))]


def packed(log: Writes | Reads) -> dict[str, bytes]:
    """The columns as bytes, for the way from a worker to its parent."""
    return {name: getattr(log, name).tobytes() for name in log.COLUMNS}


def unpacked(log: Any, columns: dict[str, bytes]) -> Any:
    """The same log again."""
    for name in log.COLUMNS:
        getattr(log, name).frombytes(columns[name])
    return log
