"""Dotted version vector sets: which values of a key are current, and what each write had seen.

A *clock* (the object of one key) is a list of entries sorted by actor:

    (actor, n, [value, ...newest first])      events (actor, 1..n) are known;
                                              k values stand for dots n, n-1, ... n-k+1;
                                              every older dot is superseded.

    put v1 at A            [(A, 1, [v1])]
    B reads it, puts v2    [(A, 1, []), (B, 1, [v2])]        v1 superseded: its dot is known, its
    A, meanwhile, blind v3 [(A, 2, [v3, v1])]                                    value is gone
    merged                 [(A, 2, [v3]), (B, 1, [v2])]      v3 and v2 are siblings

A value is a tuple `(put_id, flags, stamp_ms, expires_ms, payload)`: the id the client chose for
the put, TOMBSTONE or 0, the coordinator's wall clock for people to read, the wall clock at which
it expires (0 never), and the client's bytes.

An actor is 12 bytes: 6 that name an arc of one store's life, 6 that are random per key. See
`replica` for who may use which (D3).

Invariants
  D1  A dot (actor, n) names one write for ever.
  D2  Merge is commutative, associative, idempotent; equal clocks have equal bytes.
  D3  An actor mints on a key only while its store holds everything it minted there before.
  D4  A context covers only what someone saw.
  D5  One put, many dots: once any dot of a put is superseded, all are.

Sources: Preguiça et al. 2012; Almeida et al., DAIS 2014 (sync, discard, update); DESIGN §2.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import msgspec

from dynamo.core.messages import Malformed

Value = tuple[bytes, int, int, int, bytes]
Entry = tuple[bytes, int, list[Value]]
Clock = list[Entry]
Context = dict[bytes, int]

TOMBSTONE = 1
ACTOR_BYTES = 12
COUNTER_MAX = 1 << 62

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[bytes, int, list[Value]]]).decode


def decode(obj: bytes) -> Clock:
    """The clock in `obj`, b"" for an absent one. Raises `Malformed` if it is not canonical.

    Canonical is checked and not assumed: two byte forms of one clock would repair each other
    for ever (riak_core#828).
    """
    if not obj:
        return []
    try:
        clock = _decode(obj)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"not a clock: {error}") from None
    last = b""
    for actor, n, values in clock:
        if len(actor) != ACTOR_BYTES or actor <= last:
            raise Malformed("clock entries out of order")
        if not len(values) <= n <= COUNTER_MAX or n < 1:
            raise Malformed("clock counter out of range")
        last = actor
    return clock


def merge(mine: Clock, theirs: Clock) -> Clock:
    """What is known when both are known; values that either side knows as superseded are gone.

    Where one dot carries two different values (D1 broken: a store forgot) the first argument's
    is kept, so the side that is asked keeps its own.
    """
    if not mine:
        return theirs
    if not theirs:
        return mine
    merged: Clock = []
    i = j = 0
    while i < len(mine) and j < len(theirs):
        a, b = mine[i], theirs[j]
        if a[0] == b[0]:
            merged.append(_sync(a, b) if a[1] >= b[1] else _sync(b, a))
            i += 1
            j += 1
        elif a[0] < b[0]:
            merged.append(a)
            i += 1
        else:
            merged.append(b)
            j += 1
    merged += mine[i:]
    merged += theirs[j:]
    return merged


def _sync(newer: Entry, older: Entry) -> Entry:
    # `older` lists what it still holds of dots up to its n; anything below has been superseded.
    actor, n, values = newer
    keep = n - older[1] + len(older[2])
    return newer if keep >= len(values) else (actor, n, values[:keep])


def discard(clock: Clock, context: Context) -> Clock:
    """`clock` without the values that `context` covers, knowing all that `context` knows."""
    if not context:
        return clock
    return merge(clock, [(actor, n, []) for actor, n in sorted(context.items())])


def put(clock: Clock, context: Context, actor: bytes, value: Value) -> tuple[Clock, int]:
    """Write `value` under a fresh dot of `actor`; return the new clock and the dot's counter.

    The value supersedes what `context` covers and nothing else. The whole clock must be
    replicated, never the value alone: the list arithmetic needs contiguous knowledge (without
    it 3,994 of 4,000 simulated histories lose writes).
    """
    clock = discard(clock, context)
    for at, (known, n, values) in enumerate(clock):
        if known == actor:
            return [*clock[:at], (actor, n + 1, [value, *values]), *clock[at + 1 :]], n + 1
        if known > actor:
            return [*clock[:at], (actor, 1, [value]), *clock[at:]], 1
    return [*clock, (actor, 1, [value])], 1


def shed(clock: Clock, dead: Iterable[bytes]) -> Clock:
    """`clock` without trailing values whose put id is in `dead` (D5).

    History: a put is stored at A, which dies before it tells anyone; the client's retry is
    minted again at B; the client reads, and supersedes B's copy. A comes back with a dot that
    nobody superseded, of a value that everybody did. Only a list's tail can be shed: a gap
    could not be told from another clock with the same counters.
    """
    changed = False
    result: Clock = []
    for entry in clock:
        actor, n, values = entry
        end = len(values)
        while end and values[end - 1][0] in dead:
            end -= 1
        if end != len(values):
            changed = True
            entry = (actor, n, values[:end])
        result.append(entry)
    return result if changed else clock


def context_of(clock: Clock) -> Context:
    """The version vector: everything that this clock knows to have happened."""
    return {actor: n for actor, n, _ in clock}


def counter(clock: Clock, actor: bytes) -> int:
    """How many events of `actor` the clock knows."""
    for known, n, _ in clock:
        if known == actor:
            return n
    return 0


def values_of(clock: Clock) -> list[Value]:
    """All values, in clock order, with both dots of a put that was applied twice."""
    return [value for _, _, values in clock for value in values]


def ids_of(clock: Clock) -> list[bytes]:
    """The put ids of all values, in clock order."""
    return [value[0] for _, _, values in clock for value in values]


def lost_ids(before: Clock, after: Clock) -> list[bytes]:
    """The put ids of dots whose values are in `before` and superseded in `after`."""
    low = {actor: n - len(values) for actor, n, values in after}
    return [
        value[0]
        for actor, n, values in before
        for i, value in enumerate(values)
        if n - i <= low.get(actor, 0)
    ]


def live(clock: Clock, wall_ms: int, dead: Iterable[bytes] = ()) -> list[Value]:
    """What a reader may see: no tombstone, nothing expired, no put twice; newest stamp first.

    `dead` are put ids known as superseded (D5), hidden even where they cannot be shed, but only
    beside a value that is not: whatever superseded them must be here to take their place.
    """
    values = values_of(clock)
    if dead and len(values) > 1:
        values = [value for value in values if value[0] not in dead] or values
    shown: dict[bytes, Value] = {}
    for value in values:
        if value[1] & TOMBSTONE or (value[3] and value[3] <= wall_ms):
            continue
        shown.setdefault(value[0], value)
    found = list(shown.values())
    if len(found) > 1:
        found.sort(key=lambda value: (-value[2], value[0]))
    return found


def check(clock: Clock) -> None:
    """Assert the shape that all functions here keep."""
    assert all(a[0] < b[0] for a, b in pairwise(clock)), "D2: sorted"
    for _, n, values in clock:
        assert len(values) <= n, "D2: more values than events"
