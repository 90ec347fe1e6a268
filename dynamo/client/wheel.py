"""Which operations are due when. Adding costs a dict lookup; nothing is ever removed early.

Almost all operations end long before they are due, so an entry is not taken out when its operation
ends or moves: `due_ms` on the operation tells a live entry from a stale one. (A heap of single
operations would pay a log-n push and pop for each of them; here it holds distinct milliseconds.)
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamo.client.op import Op

NEVER_MS = 1 << 60


class Wheel:
    """Operations by the millisecond in which they are due."""

    __slots__ = ("_buckets", "_heap")

    def __init__(self) -> None:
        self._buckets: dict[int, list[Op]] = {}
        self._heap: list[int] = []

    def add(self, op: Op, due_ms: int) -> None:
        """Make `op` due then, or at its deadline if that is earlier, and at no other time."""
        if due_ms > op.deadline_ms:
            due_ms = op.deadline_ms
        op.due_ms = due_ms
        bucket = self._buckets.get(due_ms)
        if bucket is None:
            self._buckets[due_ms] = [op]
            heappush(self._heap, due_ms)
        else:
            bucket.append(op)

    def next_ms(self) -> int:
        """When the next live operation is due."""
        heap, buckets = self._heap, self._buckets
        while heap:
            due_ms = heap[0]
            bucket = buckets[due_ms]
            while bucket and (bucket[-1].done or bucket[-1].due_ms != due_ms):
                bucket.pop()
            if bucket:
                return due_ms
            del buckets[heappop(heap)]
        return NEVER_MS

    def due(self, now_ms: int) -> Iterator[Op]:
        """Operations due by now, in order. The caller may add others while it goes through."""
        heap = self._heap
        while heap and heap[0] <= now_ms:
            due_ms = heappop(heap)
            for op in self._buckets.pop(due_ms):
                if not op.done and op.due_ms == due_ms:
                    yield op
