"""`dynamo export`: every key as a line, in the order of the ring, into a file that is whole or not.

    FILE.partial        lines so far; becomes FILE when the last one is on the disk
    FILE.partial.info   which ring and which keys it is of

The order of the lines is the order of the ring, so the last whole line of FILE.partial says where
to go on, and an export that was killed loses at most the line it was writing. A ring that is short
of owners for a while is waited for; the export goes on where it was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from dynamo.cli.exits import Refused
from dynamo.cli.records import BadLine, line_of, record_of
from dynamo.client.errors import DynamoError
from dynamo.client.raw import Raw
from dynamo.client.scan import Found, Position, Walk
from dynamo.core.ring import storage_key

STALL_S = 30.0  # how long a ring may be short of owners before the export gives up
PAUSE_S = 0.2
CHUNK_BYTES = 1 << 20


class Counts:
    """What has gone out. `kept`: keys that an earlier run had written."""

    __slots__ = ("bytes", "kept", "keys", "siblings")

    def __init__(self) -> None:
        self.keys = self.siblings = self.bytes = self.kept = 0


class Subject(NamedTuple):
    """Which keys of which ring: what two runs must have in common to share a file."""

    cluster: str
    partitions: int
    match: bytes

    def info(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "partitions": self.partitions,
            "match": self.match.hex(),
        }


class _Siblings(msgspec.Struct):
    siblings: list[msgspec.Raw]


_siblings_of = msgspec.json.Decoder(_Siblings).decode


class Target:
    """FILE under construction."""

    def __init__(self, path: Path, subject: Subject, counts: Counts) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self._info = path.with_name(path.name + ".partial.info")
        self._subject = subject
        self._counts = counts
        self._file: IO[bytes] | None = None

    def open(self, restart: bool) -> Position | None:
        """Take up what an earlier run has left, if anything; the position to continue after."""
        position = None
        if restart or not self.partial.exists():
            self.partial.unlink(missing_ok=True)
            self._info.write_text(json.dumps(self._subject.info()) + "\n", "utf-8")
        else:
            self._check()
            position = self._take_up()
        self._file = self.partial.open("ab", CHUNK_BYTES)
        return position

    def _check(self) -> None:
        """A file of other keys would end with a gap that nobody could see."""
        try:
            found = json.loads(self._info.read_text("utf-8"))
        except (OSError, ValueError):
            found = None
        if found != self._subject.info():
            raise Refused(
                f"{self.partial} is of another export than this one (another ring, --bucket or "
                "--prefix), and this one cannot go on from there. Name another FILE, or begin anew "
                "with --restart"
            )

    def _take_up(self) -> Position | None:
        """Cut off a line that was being written; count the others and find where the last is."""
        last, end = b"", 0
        with self.partial.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                last, end = line, end + len(line)
                try:
                    self._counts.siblings += len(_siblings_of(line).siblings)
                except msgspec.MsgspecError:
                    raise self._damaged() from None
                self._counts.keys += 1
            file.truncate(end)
        self._counts.bytes = end
        self._counts.kept = self._counts.keys
        if not last:
            return None
        try:
            skey = storage_key(record_of(last, b"").full, self._subject.partitions)
        except BadLine:
            raise self._damaged() from None
        return skey[0] << 8 | skey[1], skey

    def _damaged(self) -> Refused:
        return Refused(
            f"{self.partial} has a line that no export has written. Begin anew with --restart"
        )

    def write(self, lines: bytes) -> None:
        assert self._file is not None, "opened before it is written"
        self._file.write(lines)

    def finish(self) -> None:
        """All is there: on the disk first, then under its name."""
        assert self._file is not None, "opened before it is finished"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.partial.replace(self.path)
        self._info.unlink(missing_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Leave it as it is, for another run."""
        if self._file is not None:
            self._file.close()


def pour(
    raw: Raw, walk: Walk, write: Callable[[bytes], Any], counts: Counts, told: Callable[[int], None]
) -> None:
    """Write the line of every key of the walk. `told` hears how many keys, share by share."""
    while not walk.complete:
        found = _fetch(raw, walk)
        lines = []
        for each in found:
            _, _, context, values, _ = each.answer
            counts.siblings += len(values)
            lines.append(line_of(each.full, [payload for _, payload in values], context))
        text = b"".join(lines)
        write(text)
        counts.keys += len(found)
        counts.bytes += len(text)
        told(len(found))


def _fetch(raw: Raw, walk: Walk) -> list[Found]:
    """The next keys; a ring that is short of owners gets `STALL_S` to find them."""
    give_up_s = time.monotonic() + STALL_S
    while True:
        try:
            return raw.fetch(walk)
        except DynamoError as error:
            if not error.retryable or time.monotonic() >= give_up_s:
                raise
            time.sleep(PAUSE_S)
