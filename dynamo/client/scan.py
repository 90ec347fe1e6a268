"""Walking over all keys of the ring, a share at a time: the state of a scan, without I/O.

    list    every owner of an arc says which keys it holds, page after page in storage order
    read    each key that any of them names is read at r, and yielded if it has a value

Arcs are walked one after the other, keys inside an arc by their storage key, so the order is the
ring's and not the alphabet's, and a position is one storage key. A stretch of an arc counts as
listed when max(R, N-W+1) of its owners that are synced went through it: a write acknowledged at
the ring's own W is on W of the N owners, so one of those that answered has it, or what replaced
it. While an arc moves to other owners, only those count together that hold the same register; if
too few do, the scan asks who owns the arc now, and goes on with those. Hence

  * Every key that was acknowledged before the scan began, and is not deleted during it, is yielded
    exactly once, while at most N - max(R, N-W+1) owners of its arc are away: one, with N=3 R=W=2.
  * Keys written or deleted meanwhile may appear or not. One that appears has a value at that time.
  * Where stand-ins helped to acknowledge a write and have not delivered it yet, fewer owners have
    it: the scan shows the key where a read at the same time would, and may miss it where a read
    would. So does a write with a lower `w` of its own.
  * It ends by going through all arcs, or by an error that names the arc, with the cursor from
    which to go on. There is no third way.

The owners' lists need not agree. They are merged up to where the slowest of them got, and all
continue from there, so that whoever drops out or comes back changes nothing of what was said.
An owner that did not answer is left out for a while, unless it is needed.

`fetch` is a flow for `run_batch`: it brings in the next few entries and lists ahead meanwhile. No
operation is under way between two fetches, so a scan may be left alone for as long as one likes.
The shares grow from 16 keys to 2,048, and are cut to what fits `READ_BYTES` where values are large.

Sources: Dynamo §4.5-4.6 (what R and W overlap in), §6.2 (arcs); scan of Redis (cursor and promise).
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from dynamo.client.batch import Flow, batch
from dynamo.client.errors import (
    ConfigurationError,
    ConnectionFailed,
    OperationError,
    ScanUnavailable,
)
from dynamo.client.op import Op
from dynamo.client.options import Options
from dynamo.client.outcomes import shown_key
from dynamo.client.results import Results
from dynamo.client.routing import Ring
from dynamo.core import messages as m
from dynamo.core import ring as rings
from dynamo.core.messages import Malformed, Message

PAGE_ROWS = 256  # asked for at a time: a node's share of one step
PACE_MIN, PACE_MAX, PACE_GROWTH = 16, 2_048, 4  # keys a fetch, and rows it lists
WINDOW_MAX = 8  # arcs listed side by side while they are small
READ_BYTES = 8 << 20  # of values that one fetch brings in, about
READ_KEYS_MIN = 4
LEFT_OUT = 8  # fetches without an owner that did not answer
TRIES = 3
MOVES_MAX = 16  # times that the ring is asked for anew at one place

Position = tuple[int, bytes]  # an arc, and the storage key in it to continue after; b"" its start
Fetch = Generator[list[Op], list[Op], None]


class Found(NamedTuple):
    """A key with a value. `op` is the read that saw it; `began`: see `Memory`."""

    full: bytes
    op: Op
    began: int

    @property
    def answer(self) -> Message:
        """The GET_OK."""
        assert self.op.answer is not None, "only reads that were answered are kept"
        return self.op.answer


class _Listing(NamedTuple):
    """What one owner named of an arc, as storage keys. `upto` b"": to the arc's end."""

    keys: list[bytes]
    upto: bytes
    stamp: int  # the register under which it counts, with its number of owners; 0: it does not


class Walk:
    """One scan: where it is, what it has listed, what it has read."""

    def __init__(
        self,
        match: bytes,
        after: Position | str | None,
        level: int,
        options: Options,
        until: Callable[[float | None], int],
        get: Callable[[bytes], Op],
        clock: Callable[[], int],
    ) -> None:
        """`match`: what full keys begin with. `level`: r as on the wire. `clock`: of the memory.

        `until`: the end of an operation that begins now, given its seconds or None for the usual.
        """
        self.match = match
        self._level = level
        self._options = options
        self._until = until
        self._get = get
        self._clock = clock
        self._ring: Ring | None = None
        self._tries = 0  # at this place, with the ring asked for anew
        self._partitions = 0  # as a cursor says
        self._front: Position = (0, b"")  # listed so far
        if isinstance(after, str):
            self._partitions, self._front = from_cursor(after, match)
        elif after is not None:
            self._front = after
        self._taken = self._read_upto = self._front
        self._keys: deque[bytes] = deque()  # listed and not read, as storage keys
        self._ready: deque[Found] = deque()
        self._left_out: dict[str, int] = {}  # owner -> fetches without it
        self._pace = PACE_MIN
        self._window = 1
        self._value_bytes = 0  # of a key, on average

    # --- for drivers --------------------------------------------------------------------------

    def take(self) -> Found | None:
        """The next key, None if `fetch` has to bring one in first."""
        if not self._ready:
            return None
        found = self._ready.popleft()
        skey = rings.storage_key(found.full, self.partitions)
        self._taken = (skey[0] << 8 | skey[1], skey)
        return found

    @property
    def partitions(self) -> int:
        """Arcs of the ring, 0 as long as that is not known."""
        return self._partitions

    @property
    def complete(self) -> bool:
        """Whether every key was taken, and nothing is left."""
        listed = self._ring is not None and self._front[0] >= self._partitions
        return listed and not self._keys and not self._ready

    @property
    def position(self) -> Position:
        """Everything up to here has been taken, or is not there."""
        if self._ready:
            return self._taken
        return self._read_upto if self._keys else self._front

    @property
    def cursor(self) -> str:
        """The position as text, for `after` of another scan."""
        return to_cursor(self._partitions, self.position, self.match)

    @property
    def share(self) -> float:
        """How much of the ring lies behind, 0 to 1."""
        arc, skey = self.position
        leaf = (skey[2] << 8 | skey[3]) / rings.LEAVES if skey else 0.0
        return (arc + leaf) / self._partitions if self._partitions else 0.0

    def fetch(self) -> Fetch:
        """Bring in what comes next: then there is something to take, or the walk is complete.

        Raises ScanUnavailable. After that, or any other error, it may be called again.
        """
        self._taken = self.position
        while not self._ready and not self.complete:
            if self._ring is None:
                yield from self._learn()
            elif self._keys:
                yield from self._read()
            else:
                yield from self._list()

    # --- the ring -----------------------------------------------------------------------------

    def _learn(self) -> Fetch:
        op = Op(m.RING, b"", self._until(None), (0,))
        while not op.done:
            yield [op]
        if op.answer is None:
            raise op.error or AssertionError("an operation ends with an answer or an error")
        ring = Ring(op.answer, {})
        if self._level > ring.n:
            raise ConfigurationError(
                f"the scan asks for r={self._level}, but the ring keeps {ring.n} replicas: "
                f"choose 1 to {ring.n}, 'one', 'quorum' or 'all'"
            )
        if self._partitions not in (0, ring.partitions):
            raise ConfigurationError(
                f"after= is a cursor of a ring with {self._partitions} arcs, and "
                f"{ring.cluster!r} has {ring.partitions}: begin without it"
            )
        self._ring, self._partitions = ring, ring.partitions

    def _owners(self, arc: int) -> list[str]:
        """The owners that this client may ask."""
        assert self._ring is not None, "learnt before anything is asked"
        via = self._options.via
        owners = self._ring.owners[arc]
        found = [node.name for node in owners if not via or via in (node.name, node.address)]
        if len(found) < self._needed(arc):
            raise ConfigurationError(
                f"a scan asks {self._needed(arc)} owners of every arc, and this client talks to "
                f"{via} only: connect without via="
            )
        return found

    def _needed(self, arc: int, owners: int = 0) -> int:
        """How many synced owners make a list that misses nothing acknowledged.

        `owners`: how many there are, if not as many as the ring had when it was asked for.
        """
        assert self._ring is not None, "learnt before anything is asked"
        n = owners or len(self._ring.owners[arc])
        named = {m.DEFAULT: self._ring.r, m.QUORUM: n // 2 + 1, m.ALL: n}
        r = named.get(self._level, self._level)
        return min(max(r, n - self._ring.w + 1), n)

    # --- listing ------------------------------------------------------------------------------

    def _list(self) -> Fetch:
        """List the next stretch, whatever it takes: owners that were left out are asked, too."""
        spots = self._spots()
        results: Results = yield from batch(self._ask(spots), False, self._options)
        heard = self._heard(results)
        if not self._absorb(spots, heard):
            # Somebody is missing. The first question was short of patience; now all get the rest.
            spot = spots[0]
            silent = [name for name in self._owners(spot[0]) if (spot[0], name) not in heard]
            again = [((spot[0], name), self._pages(name, spot, True)) for name in silent]
            results = yield from batch(again, False, self._options)
            heard.update(self._heard(results))
            if not self._absorb(spots[:1], heard):
                error = self._unavailable(spot[0], heard, self._needed(spot[0]))
                if (yield from self._moves(spot[0], heard)):
                    return
                self._ring = None  # its owners may be others when it goes on
                raise error
        self._grow()

    def _moves(
        self, arc: int, heard: dict[tuple[int, str], _Listing]
    ) -> Generator[list[Op], list[Op], bool]:
        """Whether the arc is on its way to other owners, so that asking again is worth it."""
        if self._tries >= MOVES_MAX:
            return False
        self._tries += 1
        before = self._owners(arc)
        yield from self._learn()
        stamps = {made.stamp for (other, _), made in heard.items() if other == arc and made.stamp}
        return len(stamps) > 1 or self._owners(arc) != before

    def _spots(self) -> list[Position]:
        """Where to list next: from the front on, and in a few arcs beyond."""
        arc = self._front[0]
        beyond = range(arc + 1, min(arc + self._window, self._partitions))
        return [self._front, *((other, b"") for other in beyond)]

    def _ask(self, spots: list[Position]) -> Iterator[tuple[Any, Flow[_Listing]]]:
        """The questions to the owners that are not left out."""
        for spot in spots:
            for name in self._owners(spot[0]):
                if not self._left_out.get(name):
                    yield (spot[0], name), self._pages(name, spot, False)

    def _pages(self, name: str, spot: Position, patient: bool) -> Flow[_Listing]:
        """Ask one owner, page after page, for `pace` rows."""
        arc, start = spot
        keys: list[bytes] = []
        upto, stamp, rows = start, -1, self._pace
        while rows > 0:
            op = self._page_op(name, arc, upto, min(rows, PAGE_ROWS), patient)
            yield op
            if op.answer is None:
                self._left_out[name] = LEFT_OUT
                if upto == start:
                    raise op.error or AssertionError("ended without an answer or an error")
                break
            self._left_out.pop(name, None)
            _, _, found, following, counts = op.answer
            keys += self._checked(found, arc)
            stamp = counts if stamp in (-1, counts) else 0
            rows -= PAGE_ROWS
            if following and following <= upto:
                raise Malformed(f"{name} goes round in arc {arc}")
            upto = following
            if not upto:
                break
        return _Listing(keys, upto, max(stamp, 0))

    def _page_op(self, name: str, arc: int, start: bytes, rows: int, patient: bool) -> Op:
        assert self._ring is not None, "learnt before anything is asked"
        # The rest of the time is for asking again, should somebody have died just now.
        until_ms = self._until(None if patient else self._options.timeout_ms / 4_000)
        tail = (arc, self._ring.version, 0, self.match, start, rows)
        return Op(m.SCAN, b"", until_ms, tail, tries=TRIES, pin=name)

    def _checked(self, keys: list[Any], arc: int) -> list[bytes]:
        found = []
        for key in keys:
            skey = rings.storage_key(key, self._partitions) if type(key) is bytes and key else b""
            if not skey or skey[0] << 8 | skey[1] != arc or not key.startswith(self.match):
                raise Malformed(f"an owner of arc {arc} names a key that is not of it")
            found.append(skey)
        return found

    def _heard(self, results: Results) -> dict[tuple[int, str], _Listing]:
        """The lists among the outcomes of a batch."""
        return {where: made for where, made in results.found.items() if type(where) is tuple}

    def _absorb(self, spots: list[Position], heard: dict[tuple[int, str], _Listing]) -> bool:
        """Take over as far as enough owners were heard; False if that is not a single step."""
        before, through = self._front, 0
        for arc, _ in spots:
            lists = [made for (other, _), made in heard.items() if other == arc]
            if not self._enough(arc, lists):
                break
            # To where the slowest got: beyond it some owner has not been heard.
            end = min((made.upto for made in lists if made.upto), default=b"")
            named = {skey for made in lists for skey in made.keys if not end or skey <= end}
            self._keys.extend(sorted(named))
            self._front = (arc, end) if end else (arc + 1, b"")
            if end:
                break
            through += 1
        self._window = min(self._window * 2, WINDOW_MAX) if through == len(spots) else 1
        return self._front != before

    def _enough(self, arc: int, lists: list[_Listing]) -> bool:
        """Whether lists of one register suffice for it."""
        counted = Counter(made.stamp for made in lists if made.stamp)
        return any(count >= self._needed(arc, stamp & 255) for stamp, count in counted.items())

    def _grow(self) -> None:
        self._tries = 0
        self._pace = min(self._pace * PACE_GROWTH, PACE_MAX)
        self._left_out = {name: left - 1 for name, left in self._left_out.items() if left > 1}

    def _unavailable(
        self, arc: int, heard: dict[tuple[int, str], _Listing], needed: int
    ) -> ScanUnavailable:
        said, counted = [], 0
        for name in self._owners(arc):
            made = heard.get((arc, name))
            counted += made is not None and made.stamp > 0
            state = "no answer" if made is None else "ok" if made.stamp else "not synced"
            said.append(f"{name} {state}")
        return ScanUnavailable(
            f"the scan stopped at arc {arc} of {self._partitions}: {needed} of its owners have to "
            f"say which keys they hold, and {counted} can ({'; '.join(said)})",
            hint="Go on from the error's .cursor once they are back",
            arc=arc,
            cursor=self.cursor,
            op="scan",
            required=needed,
            received=counted,
            asked=len(said),
            alive=counted,
        )

    # --- reading ------------------------------------------------------------------------------

    def _read(self) -> Fetch:
        """Read the next keys, and list further ones meanwhile."""
        affordable = READ_BYTES // self._value_bytes if self._value_bytes else PACE_MIN
        count = min(len(self._keys), self._pace, max(affordable, READ_KEYS_MIN))
        # Taken out when their outcome is known: the caller may be interrupted, and go on later.
        skeys = list(islice(self._keys, count))
        ahead = len(self._keys) < self._pace and self._front[0] < self._partitions
        spots = self._spots() if ahead else []
        began = self._clock()
        reads = ((skey, self._get_one(skey)) for skey in skeys)
        results: Results = yield from batch(chain(self._ask(spots), reads), False, self._options)
        if ahead:
            self._absorb(spots, self._heard(results))
        self._grow()
        size = 0
        for skey in skeys:
            error = results.failed.get(skey)
            if error is not None:
                if not self._ready:
                    raise self._unreadable(skey, error)
                return
            self._keys.popleft()
            self._read_upto = (skey[0] << 8 | skey[1], skey)
            found = Found(skey[4:], results.found[skey], began)
            if found.answer[3]:
                self._ready.append(found)
                size += sum(len(payload) for _, payload in found.answer[3])
        self._value_bytes = max(size // count, 1)

    def _get_one(self, skey: bytes) -> Flow[Op]:
        op = self._get(skey[4:])
        yield op
        if op.error is not None:
            raise op.error
        return op

    def _unreadable(self, skey: bytes, error: Exception) -> Exception:
        """What the end of a read means for the scan: it may go on from here later."""
        if not isinstance(error, OperationError | ConnectionFailed):
            return error
        arc = skey[0] << 8 | skey[1]
        stopped = ScanUnavailable(
            f"the scan stopped at arc {arc} of {self._partitions}: {error}",
            arc=arc,
            cursor=self.cursor,
            op="scan",
            key=shown_key(skey[4:]),
            required=getattr(error, "required", 0),
            received=getattr(error, "received", 0),
        )
        stopped.__cause__ = error
        return stopped


# --- cursors ------------------------------------------------------------------------------------

_VERSION = 1
_HEAD = 5  # version u8 | crc32 of the rest
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, int, int, bytes]).decode


def to_cursor(partitions: int, position: Position, match: bytes) -> str:
    """A position as text that survives a URL. It remembers the ring's shape and what matched."""
    body = _pack((partitions, crc32(match), *position))
    raw = bytes([_VERSION]) + crc32(body).to_bytes(4, "big") + body
    return urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def from_cursor(cursor: str, match: bytes) -> tuple[int, Position]:
    """The ring's partitions and the position. Raises ConfigurationError for anything else."""
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        if raw[0] != _VERSION or crc32(raw[_HEAD:]) != int.from_bytes(raw[1:_HEAD], "big"):
            raise ValueError
        partitions, matched, arc, start = _unpack(raw[_HEAD:])
    except (binascii.Error, ValueError, IndexError, msgspec.MsgspecError):
        raise ConfigurationError(
            f"after={cursor[:20]!r} is no cursor: take what .cursor of a scan, or of the error "
            "that ended it, has given"
        ) from None
    if matched != crc32(match):
        raise ConfigurationError(
            "after= is the cursor of a scan of another bucket or another prefix: a scan goes on "
            "where one of the same keys has stopped"
        )
    return partitions, (arc, start)
