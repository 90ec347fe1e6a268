"""What is on its way out: frames that ZeroMQ would not take yet, counted in bytes and in time.

ZeroMQ's own limit counts messages, so a thousand of them may be a gigabyte, and a frame that it
took may still be lost without a word. Hence here:

  O1  Every send is non-blocking, and every receiver has a backlog bounded in bytes. Past the bound
      new frames are dropped and counted: their senders have deadlines, and the oldest frames, which
      are next to go, are not worth less than the newest.
  O2  A frame waits at most a bounded time. What an unreachable peer gets when it comes back must
      not be the past.
  O3  Frames leave in the order in which they were given.

Nothing here is retried beyond that: answers, deadlines, hints and exchange cover every loss.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator

import zmq

from dynamo.core.messages import (
    CONFLICT,
    FETCHED,
    FORWARD,
    FORWARDED,
    GET_OK,
    KEYS,
    KEYS_ARE,
    PUT_OK,
    REPLICATE,
    REPLICATE_OK,
    RING_IS,
    STATUS_IS,
    Message,
)

# A batch is cut here, so that one big value does not hold up a probe behind it for long.
BATCH_BYTES = 1 << 20
# A message without bulk: header, numbers, key. Only has to be right within a factor.
SMALL_BYTES = 100

NOW = int(zmq.DONTWAIT)
MORE_NOW = int(zmq.SNDMORE) | NOW
GONE = zmq.EHOSTUNREACH


def _values(message: Message) -> int:
    return sum([len(payload) for _, payload in message[3]])


# The bulk that a message carries; kinds that are not here have none.
_BULK: dict[int, Callable[[Message], int]] = {
    PUT_OK: _values,
    GET_OK: _values,
    CONFLICT: _values,
    RING_IS: lambda m: len(m[9]),
    STATUS_IS: lambda m: len(m[2]),
    REPLICATE: lambda m: len(m[11]),
    REPLICATE_OK: lambda m: len(m[4]),
    FETCHED: lambda m: len(m[4]),
    FORWARD: lambda m: _bulk_of(m[2]),
    FORWARDED: lambda m: _bulk_of(m[2]),
    KEYS: lambda m: sum([len(row[0]) + 12 for row in m[6]]),
    KEYS_ARE: lambda m: sum(map(len, m[2])) + sum([len(row[0]) + len(row[1]) for row in m[3]]),
}


def _bulk_of(inner: Message) -> int:
    return len(inner[-1]) if type(inner[-1]) is bytes else _BULK.get(inner[0], len)(inner)


def batches(messages: list[Message]) -> Iterator[list[Message]]:
    """`messages` in order, in lists of about BATCH_BYTES, or of one message that is larger."""
    if len(messages) == 1:
        yield messages
        return
    start = size = 0
    for at, message in enumerate(messages):
        bulk = _BULK.get(message[0])
        more = SMALL_BYTES if bulk is None else SMALL_BYTES + bulk(message)
        if size + more > BATCH_BYTES and at > start:
            yield messages[start:at]
            start, size = at, 0
        size += more
    yield messages[start:] if start else messages


class Backlog:
    """Frames for one receiver, oldest first, with the time each was given."""

    __slots__ = ("bytes_held", "bytes_max", "frames", "hold_ms", "stats")

    def __init__(self, bytes_max: int, hold_ms: int, stats: Counter[str]) -> None:
        self.bytes_max = bytes_max
        self.hold_ms = hold_ms
        self.stats = stats
        self.bytes_held = 0
        self.frames: deque[tuple[int, bytes]] = deque()

    def add(self, frame: bytes, now_ms: int) -> None:
        """Keep a frame, or drop it if there is no room (O1)."""
        self.expire(now_ms)
        if self.bytes_held + len(frame) > self.bytes_max and self.frames:
            self.stats["frames_dropped_full"] += 1
            return
        self.frames.append((now_ms, frame))
        self.bytes_held += len(frame)

    def expire(self, now_ms: int) -> None:
        """Drop what has waited too long (O2)."""
        while self.frames and now_ms - self.frames[0][0] > self.hold_ms:
            self.pop()
            self.stats["frames_dropped_late"] += 1

    def pop(self) -> None:
        self.bytes_held -= len(self.frames.popleft()[1])

    def clear(self) -> None:
        self.frames.clear()
        self.bytes_held = 0


class PeerOutlet:
    """The way to one peer: its PUSH socket, and what that does not take."""

    __slots__ = ("backlog", "name", "socket", "told")

    def __init__(self, name: str, socket: zmq.Socket[bytes], backlog: Backlog) -> None:
        self.name = name
        self.socket = socket
        self.backlog = backlog
        # The core has been told of this outage; set by the loop, reset when a frame gets through.
        self.told = False

    def send(self, frame: bytes, now_ms: int) -> bool:
        """Hand a frame over; False if it has to wait, or was dropped."""
        if not self.backlog.frames:
            try:
                self.socket.send(frame, NOW)
            except zmq.Again:
                pass
            else:
                self.told = False
                return True
        self.backlog.add(frame, now_ms)
        return False

    def retry(self, now_ms: int) -> None:
        """Send what waits, as far as the socket takes it."""
        backlog = self.backlog
        backlog.expire(now_ms)
        while backlog.frames:
            try:
                self.socket.send(backlog.frames[0][1], NOW)
            except zmq.Again:
                return
            backlog.pop()
            self.told = False


class ClientOutlets:
    """The way to all clients: one ROUTER, and a backlog for each client that does not read.

    A slow client costs at most `bytes_max`, all slow clients together `total_bytes_max`.
    """

    def __init__(
        self,
        router: zmq.Socket[bytes],
        stats: Counter[str],
        *,
        bytes_max: int,
        total_bytes_max: int,
        hold_ms: int,
    ) -> None:
        self._router = router
        self._stats = stats
        self._bytes_max = bytes_max
        self._total_bytes_max = total_bytes_max
        self._hold_ms = hold_ms
        self.slow: dict[bytes, Backlog] = {}

    def full(self, client: bytes) -> bool:
        """Whether it is not even worth encoding for this client."""
        backlog = self.slow.get(client)
        return backlog is not None and (
            backlog.bytes_held >= self._bytes_max or self.bytes_held >= self._total_bytes_max
        )

    @property
    def bytes_held(self) -> int:
        return sum(backlog.bytes_held for backlog in self.slow.values())

    def send(self, client: bytes, frame: bytes, now_ms: int) -> None:
        if client not in self.slow:
            taken = self._try(client, frame)
            if taken is not None:
                return
            self.slow[client] = Backlog(self._bytes_max, self._hold_ms, self._stats)
        if self.bytes_held + len(frame) > self._total_bytes_max:
            self._stats["frames_dropped_full"] += 1
            return
        self.slow[client].add(frame, now_ms)

    def retry(self, now_ms: int) -> None:
        """Send what slow clients take; forget those that are gone or have nothing waiting."""
        for client, backlog in list(self.slow.items()):
            backlog.expire(now_ms)
            while backlog.frames:
                taken = self._try(client, backlog.frames[0][1])
                if taken is None:
                    break
                if not taken:
                    backlog.clear()
                    break
                backlog.pop()
            if not backlog.frames:
                del self.slow[client]

    def _try(self, client: bytes, frame: bytes) -> bool | None:
        """True: handed over. False: this client is gone. None: not now."""
        try:
            self._router.send(client, MORE_NOW)
            self._router.send(frame, NOW)
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            if error.errno != GONE:
                raise
            self._stats["clients_gone"] += 1
            return False
        return True
