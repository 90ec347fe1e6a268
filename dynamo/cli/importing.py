"""`dynamo import`: lines into the ring, so that running it again finishes what was begun.

Every line is compared with what the ring holds before anything is written: siblings that are there
are not written again. What is missing is put

    over the line's context     in the cluster that the line came from: what the line has seen is
                                replaced by its siblings, and what was written since stays
    beside what is there        elsewhere (blind), for there the context means nothing
    over what was just read     for {"key", "value"}, as `dynamo put` would; if the ring holds
                                several values nobody has decided between, the line is skipped

Why compare: a put that ends with "unknown" may have happened, or may yet. Its own retries carry its
id, by which nodes recognise it; but a call that has ended is over, and calling again makes a new
put with a new id. Where the first one did happen, the two would stand beside each other as
siblings that nobody wrote. So a line is given a long deadline first, within which all tries are
one put, and only when that is over it is looked up, and put again if it is not there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from dynamo.cli.records import BadLine, Record, record_of
from dynamo.client.batch import Flow
from dynamo.client.errors import (
    BadContext,
    ConfigurationError,
    DynamoError,
    KeyTooLong,
    OperationError,
    TooManySiblings,
    ValueTooLarge,
)
from dynamo.client.raw import Raw

# Lines that are stored, and tried again where that is needed, before the next ones are read. The
# end of a batch leaves the ring idle for a moment: with 4,000 an import took a fifth longer.
BATCH_LINES = 20_000
BATCH_BYTES = 32 << 20
LINE_BYTES_MAX = 1 << 30
TOLD_LINES = 500  # are done before it is told
LINES_NAMED = 5  # of those skipped for one reason
PATIENCE_S = 30.0  # for the lines of one batch, from their first failure
PAUSE_S = 0.25
# One call of the client: so long that a node may die and its successor take over within it.
CALL_S, CALL_TRIES = 10.0, 12

WRITTEN, THERE = "written", "there"
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (KeyTooLong, "key too long"),
    (ValueTooLarge, "value too large"),
    (TooManySiblings, "too many siblings"),
    (BadContext, "context of another key"),
    (ConfigurationError, "refused by the ring"),
    (OperationError, "refused by the ring"),
)


class Skipped(Exception):
    """A line that cannot be taken, though the ring is well."""


class Stuck(DynamoError):
    """The ring did not take lines for as long as is waited for it."""


class Skips:
    """Lines that were not taken, by reason: how many, and the first ones."""

    def __init__(self) -> None:
        self.reasons: dict[str, list[int]] = {}
        self.counts: Counter[str] = Counter()

    def add(self, reason: str, line: int) -> None:
        self.counts[reason] += 1
        lines = self.reasons.setdefault(reason, [])
        if len(lines) < LINES_NAMED:
            lines.append(line)

    def as_json(self) -> dict[str, Any]:
        return {
            reason: {"count": self.counts[reason], "lines": lines}
            for reason, lines in self.reasons.items()
        }


class Load:
    """One import: what has become of the lines so far."""

    def __init__(self, raw: Raw, bucket: bytes, told: Callable[[int], None]) -> None:
        """`bucket`: of lines that name none. `told` hears how many lines are done, and when."""
        self._raw = raw
        self._bucket = bucket
        self._told = told
        self._left: dict[int, Record] = {}  # of the batch under way, by line
        self._untold = 0
        self.outcomes: Counter[str] = Counter()
        self.skips = Skips()
        self.lines = 0
        self.home: bool | None = None  # whether contexts are of this cluster, once that is known

    @property
    def next_line(self) -> int | None:
        """The first line of which it is not known that it is there, in the batch under way."""
        return min(self._left, default=None)

    def run(self, lines: Iterator[tuple[int, bytes]]) -> None:
        """Take in all lines, given with their numbers. Raises Stuck."""
        for batch in _batches(lines):
            self.lines += len(batch)
            for number, line in batch:
                self._parse(number, line)
            self._untold += len(batch) - len(self._left)
            self._finish()
            self._tell()

    def _parse(self, number: int, line: bytes) -> None:
        try:
            if len(line) > LINE_BYTES_MAX:
                raise BadLine("line too long")
            self._left[number] = record_of(line, self._bucket)
        except BadLine as error:
            self.skips.add(error.reason, number)

    def _finish(self) -> None:
        """Store the batch; lines that the ring cannot take now are tried again for a while."""
        give_up_s = 0.0
        while self._left:
            failed = self._turn()
            if failed:
                now_s = time.monotonic()
                give_up_s = give_up_s or now_s + PATIENCE_S
                if now_s >= give_up_s:
                    raise self._stuck(failed)
                time.sleep(PAUSE_S)

    def _turn(self) -> dict[int, Exception]:
        """Try every line that is left, those of one key one after the other; what failed."""
        by_key: dict[bytes, list[tuple[int, Record]]] = {}
        for number, record in self._left.items():
            by_key.setdefault(record.full, []).append((number, record))
        failed: dict[int, Exception] = {}
        flows = ((full, self._store_all(of_one, failed)) for full, of_one in by_key.items())
        self._raw.stream(flows, _nothing_else)
        return failed

    def _store_all(
        self, of_one: list[tuple[int, Record]], failed: dict[int, Exception]
    ) -> Flow[None]:
        """The lines of one key in their order, up to one that the ring cannot take now."""
        for number, record in of_one:
            try:
                self._note(number, (yield from self._store(record)), None)
            except Exception as error:
                if getattr(error, "retryable", False):
                    failed[number] = error
                    return
                self._note(number, "", error)

    def _note(self, number: int, outcome: str, error: Exception | None) -> None:
        if error is None:
            self.outcomes[outcome] += 1
        elif isinstance(error, Skipped):
            self.skips.add(str(error), number)
        else:
            self.skips.add(_reason(error), number)
        del self._left[number]
        self._untold += 1
        if self._untold >= TOLD_LINES:
            self._tell()

    def _tell(self) -> None:
        self._told(self._untold)
        self._untold = 0

    def _stuck(self, failed: dict[int, Exception]) -> Stuck:
        number, error = next(iter(failed.items()))
        return Stuck(
            f"the ring did not take line {number:,} and {len(failed) - 1:,} more within "
            f"{PATIENCE_S:g} s: {error}",
            maybe_applied=any(getattr(e, "maybe_applied", False) for e in failed.values()),
        )

    # --- one line -----------------------------------------------------------------------------

    def _store(self, record: Record) -> Flow[str]:
        """Compare, and write what is missing."""
        full, payloads = record.full, record.payloads
        context, held = yield from self._raw.get(full, sum(map(len, payloads)))
        missing = list((Counter(payloads) - Counter(held)).elements())
        if not missing:
            return THERE
        if record.plain:
            if len(held) > 1:
                raise Skipped("several values are there already")
            yield from self._raw.put(full, payloads[0], context)
            return WRITTEN
        for payload in missing:
            yield from self._put(record, payload)
        present = Counter(payloads) & Counter(held)
        if present and record.context is not None:
            # They may have been what the context covers, and gone with the first put.
            _, held = yield from self._raw.get(full)
            for payload in (present - Counter(held)).elements():
                yield from self._put(record, payload)
        return WRITTEN

    def _put(self, record: Record, payload: bytes) -> Flow[None]:
        """One sibling, causally where its context is of this cluster."""
        if record.context is not None and self.home is not False:
            try:
                yield from self._raw.put(record.full, payload, record.context)
            except BadContext:
                if self.home:
                    raise  # others were good, so this one is of another key
                self.home = False
            else:
                self.home = True
                return
        yield from self._raw.put(record.full, payload, None)


def _nothing_else(full: bytes, value: None, error: Exception | None) -> None:
    if error is not None:
        raise error  # no line's fault: the client was closed, or this program is wrong


def _reason(error: Exception) -> str:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    raise error


def _batches(lines: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    batch: list[tuple[int, bytes]] = []
    size = 0
    for number, line in lines:
        batch.append((number, line))
        size += len(line)
        if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def numbered(file: IO[bytes], first: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a file from line `first` on, each with its number; blank ones are left out."""
    for number, line in enumerate(_lines(file), 1):
        if number >= first and not line.isspace():
            yield number, line


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines, the rest of a monstrous one passed over."""
    while line := file.readline(LINE_BYTES_MAX + 1):
        yield line
        while len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
            line = file.readline(LINE_BYTES_MAX + 1)


def count_lines(file: IO[bytes]) -> int:
    """How many lines a seekable file has, which then stands at its beginning again."""
    chunks: Iterable[bytes] = iter(lambda: file.read(1 << 20), b"")
    count = sum(chunk.count(b"\n") for chunk in chunks)
    file.seek(0)
    return count
