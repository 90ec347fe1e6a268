"""Message kinds, their field order, and the frame that carries them.

    DO NOT RENUMBER, REORDER OR REUSE. Nodes and clients of different ages talk to each other;
    a new field goes to the end of a kind and a new kind gets a new number.

A message is a tuple whose first item is an int kind. `SHAPES` gives the exact type of every
field; a message that is longer is cut to the fields this version knows, anything else malformed
is refused before a handler sees it. Deadlines travel as remaining milliseconds, counted from the
frame's `sent_ms`.

One frame is one ZeroMQ message, a single part, holding all messages of one step for one receiver:

    b"dy"  version u8  0 u8  crc32(body) u32 LE   body
    body = msgpack [tag, sender, boot, sent_ms, [message, ...]]

    tag       8 bytes that name the cluster and prove nothing (the keys of CURVE will); frames
              of another cluster are dropped
    sender    name of the node, or a client's own random id; never trusted for routing replies
    boot      which life of the sender: its start counter above LIFE_BITS random ones. A lower
              counter is a ghost of an earlier process; equal counters with other bits are
              processes whose counter began anew, with their disk
    sent_ms   the sender's monotonic clock, from which a receiver learns how long the frame
              was under way beyond the fastest one seen (see `Ages`)

A *key* in a message is the full key: one byte length of the bucket, the bucket, the key.
An *obj* is a DVV set in its canonical bytes (see `dvv`), b"" for absent.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

import msgspec

Message = tuple[Any, ...]

VERSION = 1
LIFE_BITS = 22
MAGIC = b"dy"

# --- client -> node ----------------------------------------------------------------------------
PUT = 1  # req timeout_ms key ver phase mode context put_id attempt w pw flags ttl_ms value
GET = 2  # req timeout_ms key ver phase r pr flags
RING = 3  # req timeout_ms known_version
STATUS = 4  # req timeout_ms what (see `inspection`); answered by the node that is asked
FAULTS = 5  # req timeout_ms blocked_peers; only where the configuration allows faults
SCAN = 6  # req timeout_ms arc ver phase match start limit; keys of one arc, one page
CHANGE = 7  # req timeout_ms verb json; what an operator wants of the ring (see `changes`)

# --- node -> client ----------------------------------------------------------------------------
PUT_OK = 16  # req context values acked_by stand_ins; values [] = the put is the only survivor
GET_OK = 17  # req context values answered
CONFLICT = 18  # req context values; an auto put met values that its client has not seen
FAILED = 19  # req code text required received acked silent maybe_applied retry_after_ms
RING_IS = 20  # req cluster version n partitions r w members owners limits
STATUS_IS = 21  # req json
SCAN_IS = 22  # req keys upto stamp; upto: where to go on, b"" when the arc is done. stamp: 0 if the
#              list does not count, else (ver * 4 + phase) * 256 + owners of the arc's register
CHANGED = 23  # req ok json; what became of it, or why nothing did

# --- peer -> peer ------------------------------------------------------------------------------
REPLICATE = 32  # req timeout_ms key ver phase home needed durable actor dead obj
REPLICATE_OK = 33  # req status seen obj
FETCH = 34  # req timeout_ms key ver phase digest
FETCHED = 35  # req status counts obj
ASK_ID = 36  # req timeout_ms key ver phase put_id
ID_IS = 37  # req known obj
REFUSED = 38  # req arc ver phase tie cur next; the sender's register is older than this one
FORWARD = 39  # req message ver phase
FORWARDED = 40  # req message
PING = 41  # seq
PONG = 42  # seq
# req timeout_ms roots: [[arc, root], ...]; a third item, 1, asks for what a new owner has to know
ROOTS = 43
# req differing: [arc, ...] unsynced: [arc, ...] of those asked, and of those with a third item
# ballots: [[arc, ver, phase, promised, about, ballot, kill], ...], see `ballots`
# dead: [[arc, [put id, ...]], ...], of puts that are superseded
ROOTS_ARE = 44
KEYS = 45  # req timeout_ms arc start end rows: [[storage_key, digest], ...]
KEYS_ARE = 46  # req want: [storage_key, ...] objs: [[storage_key, obj], ...] upto
GOSSIP = 47  # promise life hash; promise: [n, r, w, partitions], hash: of all known of the ring
BUCKETS = 48  # promise life hashes: [[bucket, hash], ...]; the answer to a GOSSIP of another hash
ITEMS = 49  # promise life heard step items: [[key, item], ...] buckets: [[bucket, hash], ...]
REGISTER = 50  # req arc ver phase tie cur next; adopt it, write it down, say so
REGISTERED = 51  # req arc ver phase tie cur next promised; what is held now, on disk
PROMISE = 52  # req arc ballot ver phase; serve none below, as to what follows (ver, phase)
PROMISED = 53  # req arc ok ballot voted_ver voted_ballot; voted_ver 0: that it is dead
VOTE = 54  # req arc ver ballot kill; agree that version `ver` switches, or that it is dead
VOTED = 55  # req arc ok ballot; ok: see `ballots`
OFFER = 56  # req timeout_ms arc ver phase rows: [[storage_key, digest], ...] objs, as KEYS_ARE
OFFERED = 57  # req ok want: [storage_key, ...]
PING_FOR = 58  # seq target; probe it for me
PONG_FOR = 59  # seq target; it answered

B, N, S, L = bytes, int, str, list
SHAPES: dict[int, tuple[type, ...]] = {
    PUT: (N, N, N, B, N, N, N, B, B, N, N, N, N, N, B),
    GET: (N, N, N, B, N, N, N, N, N),
    RING: (N, N, N, N),
    STATUS: (N, N, N, S),
    FAULTS: (N, N, N, L),
    SCAN: (N, N, N, N, N, N, B, B, N),
    CHANGE: (N, N, N, S, B),
    PUT_OK: (N, N, B, L, L, L),
    GET_OK: (N, N, B, L, L),
    CONFLICT: (N, N, B, L),
    FAILED: (N, N, N, S, N, N, L, L, N, N),
    RING_IS: (N, N, S, N, N, N, N, N, L, B, L),
    STATUS_IS: (N, N, B),
    SCAN_IS: (N, N, L, B, N),
    CHANGED: (N, N, N, B),
    REPLICATE: (N, N, N, B, N, N, S, N, N, B, L, B),
    REPLICATE_OK: (N, N, N, N, B),
    FETCH: (N, N, N, B, N, N, B),
    FETCHED: (N, N, N, N, B),
    ASK_ID: (N, N, N, B, N, N, B),
    ID_IS: (N, N, N, B),
    REFUSED: (N, N, N, N, N, N, L, L),
    FORWARD: (N, N, L, N, N),
    FORWARDED: (N, N, L),
    PING: (N, N),
    PONG: (N, N),
    ROOTS: (N, N, N, L),
    ROOTS_ARE: (N, N, L, L, L, L),
    KEYS: (N, N, N, N, B, B, L),
    KEYS_ARE: (N, N, L, L, B),
    GOSSIP: (N, L, N, N),
    BUCKETS: (N, L, N, L),
    ITEMS: (N, L, N, N, N, L, L),
    REGISTER: (N, N, N, N, N, N, L, L),
    REGISTERED: (N, N, N, N, N, N, L, L, N),
    PROMISE: (N, N, N, N, N, N),
    PROMISED: (N, N, N, N, N, N, N),
    VOTE: (N, N, N, N, N, N),
    VOTED: (N, N, N, N, N),
    OFFER: (N, N, N, N, N, N, L, L),
    OFFERED: (N, N, N, L),
    PING_FOR: (N, N, S),
    PONG_FOR: (N, N, S),
}
NAMES = {
    value: name
    for name, value in list(globals().items())
    if name.isupper()
    and isinstance(value, int)
    and value in SHAPES
    and name not in ("VERSION", "LIFE_BITS")
}
FROM_CLIENT = frozenset((PUT, GET, RING, STATUS, FAULTS, SCAN, CHANGE))
TO_CLIENT = frozenset((PUT_OK, GET_OK, CONFLICT, FAILED, RING_IS, STATUS_IS, SCAN_IS, CHANGED))
FROM_PEER = frozenset(range(REPLICATE, PONG_FOR + 1))
# What a node that does not belong to the ring may say: a joiner, or one that was removed.
FROM_STRANGER = frozenset((GOSSIP, BUCKETS, ITEMS, REGISTERED, OFFER, PING, PONG))

# PUT.mode
CAUSAL = 0  # covers exactly `context`
AUTO = 1  # the client has seen nothing: stored where there is no value, else CONFLICT
BLIND = 2  # covers nothing

# PUT.flags, GET.flags
SLOPPY = 1  # stand-ins may be used
DURABLE = 2  # every counted acknowledgement is synced, whatever the node's durability
DELETE = 4  # the value is a tombstone; `value` is empty
REPAIR_FIRST = 8  # GET: repair stale owners before answering

# PUT.w, PUT.pw, GET.r, GET.pr: a count, or one of these
DEFAULT = 0  # the ring's own setting (for pw and pr: not asked for)
QUORUM = -1
ALL = -2

# FAILED.code
INVALID = 1  # the request can never work; text says why
UNAVAILABLE = 2  # too few live nodes known; nothing was done
TIMED_OUT = 3  # too few answers by the deadline
OVERLOADED = 4  # shed at once; nothing was done
TOO_LARGE = 5
KEY_TOO_LONG = 6
TOO_MANY_SIBLINGS = 7
BAD_CONTEXT = 8
DISK_FULL = 9
NOT_READY = 10  # this node does not know its ring yet; nothing was done
NOT_A_MEMBER = 11  # this node was removed from the ring, or has not joined it; nothing was done

# REPLICATE.durable: 0, or
SYNCED = 1  # stored and synced, or refused as NOT_DURABLE
SYNCED_IF_KEPT = 2  # synced where the store keeps anything at all

# REPLICATE_OK.status
STORED = 0
HINT_REFUSED = 1  # a hint the write did not need, past the window or the byte cap
NO_SPACE = 2
NOT_DURABLE = 3  # a synced write was asked of a store that keeps nothing

# FETCHED.status
OBJECT = 0  # obj is what is held, b"" for nothing
SAME = 1  # what is held has the digest that was sent


class Malformed(Exception):
    """Bytes from outside that are not what they must be: counted and dropped, never fatal."""


def check(message: Any, allowed: Iterable[int] = SHAPES) -> Message:
    """Return `message` as a tuple of exactly the known fields, or raise `Malformed`."""
    if not message or type(message[0]) is not int or message[0] not in allowed:
        raise Malformed(f"unexpected kind {message[0] if message else None!r}")
    shape = SHAPES[message[0]]
    if tuple(map(type, message)) == shape:
        return message if type(message) is tuple else tuple(message)
    known = tuple(message[: len(shape)])
    if tuple(map(type, known)) != shape:
        raise Malformed(f"{NAMES[message[0]]} has fields of the wrong type or number")
    return known


_HEAD = struct.Struct("<2sBBI")
_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], tuple[bytes, str, int, int, list[tuple[Any, ...]]]] = (
    msgspec.msgpack.Decoder(tuple[bytes, str, int, int, list[tuple[Any, ...]]]).decode
)

Frame = tuple[str, int, int, list[Message]]  # sender, boot, sent_ms, messages


def encode_frame(
    tag: bytes, sender: str, boot: int, sent_ms: int, messages: list[Message]
) -> bytes:
    """Pack one batch for one receiver."""
    body = _encode((tag, sender, boot, sent_ms, messages))
    return _HEAD.pack(MAGIC, VERSION, 0, crc32(body)) + body


def decode_frame(frame: bytes, tag: bytes, allowed: Iterable[int]) -> Frame:
    """Unpack a batch; messages of a kind this version does not know are left out.

    `tag` b"" accepts any cluster (a client that has not yet learnt its ring). Raises `Malformed`
    for anything that is not a whole, intact frame of this cluster with known kinds in shape.
    """
    if len(frame) < _HEAD.size:
        raise Malformed("shorter than a frame header")
    magic, version, _, crc = _HEAD.unpack_from(frame)
    if magic != MAGIC:
        raise Malformed("not a dynamo frame")
    if version != VERSION:
        raise Malformed(f"protocol version {version}; this side speaks {VERSION}")
    body = frame[_HEAD.size :]
    if crc32(body) != crc:
        raise Malformed("checksum mismatch")
    try:
        theirs, sender, boot, sent_ms, messages = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        # A name that is no UTF-8 is no DecodeError to msgspec; it ended the node that got it.
        raise Malformed(f"undecodable body: {error}") from None
    if tag and theirs != tag:
        raise Malformed("frame of another cluster")
    return sender, boot, sent_ms, [check(m, allowed) for m in messages if _known(m)]


def frame_tag(frame: bytes) -> bytes:
    """The cluster tag of a frame that `decode_frame` has accepted."""
    return _decode(frame[_HEAD.size :])[0]


def _known(message: tuple[Any, ...]) -> bool:
    # An int kind this version does not know comes from a newer sender and is passed over.
    return not (message and type(message[0]) is int and message[0] not in SHAPES)


class Ages:
    """How old a frame is on arrival, from the two monotonic clocks and the fastest frame lately.

    Why: a frame may wait in a kernel buffer while its receiver is stopped, or in ZeroMQ while its
    sender is, and then arrive with its deadline untouched (measured: 7 of 22 frames more than 5 s
    old after a SIGCONT). `arrival - sent_ms` differs per pair by a constant plus the time under
    way; the least difference seen stands for the constant. It may rise by 1 ms in `CREEP_MS`, so
    that clocks which drift apart (1 in 10,000 at the worst) do not age every frame for ever.

    It rises at once where some seconds of traffic brought nothing but late frames: then the clock
    of the sender stood still. (History: a machine was suspended, its monotonic clock with it, and
    afterwards everybody took each of its frames for minutes old, and dropped it, until it was
    restarted.) A burst of frames that were held up proves nothing, as it comes all at once.
    """

    CREEP_MS = 10_000
    WINDOW_MS = 5_000
    MOMENT_MS = 100  # frames that come closer together are one moment
    MOMENTS_MIN = 8  # in a window that is to count

    __slots__ = ("_base", "_limit")

    def __init__(self, limit: int = 10_000) -> None:
        # -> the least difference, when it was seen; since when the window is open, the least
        # difference in it, how many moments had a frame, and the last of them
        self._base: OrderedDict[tuple[str, int], list[int]] = OrderedDict()
        self._limit = limit

    def age_ms(self, sender: str, boot: int, sent_ms: int, now_ms: int) -> int:
        diff = now_ms - sent_ms
        seen = self._base.get((sender, boot))
        if seen is None:
            if len(self._base) >= self._limit:
                self._base.popitem(last=False)
            self._base[sender, boot] = [diff, now_ms, now_ms, diff, 1, now_ms]
            return 0
        if now_ms - seen[2] >= self.WINDOW_MS:
            if seen[4] >= self.MOMENTS_MIN and seen[3] > seen[0]:
                seen[0], seen[1] = seen[3], now_ms
            seen[2:5] = [now_ms, diff, 0]
        if now_ms - seen[5] >= self.MOMENT_MS:
            seen[4] += 1
            seen[5] = now_ms
        if diff < seen[3]:
            seen[3] = diff
        base = seen[0] + (now_ms - seen[1]) // self.CREEP_MS
        if diff > base:
            return diff - base
        seen[0], seen[1] = diff, now_ms
        return 0
