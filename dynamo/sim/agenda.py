"""What is going to happen, by the millisecond in which it is due.

Nearly everything in a world happens in the same few milliseconds as something else: a ring of five
makes 1,500 calls in a hundred of them. So there is a queue per millisecond, and a heap of distinct
milliseconds only; what is due in one of them happens in the order in which it was noted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Call = tuple[Callable[..., None], tuple[Any, ...]]


class Agenda:
    """Calls that are due, the earliest first, and of one millisecond the first noted first."""

    __slots__ = ("_moments", "times")

    def __init__(self) -> None:
        self.times: list[int] = []  # a heap; the first is when something is due next
        self._moments: dict[int, deque[Call]] = {}

    def add(self, at_ms: int, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        """Have `call(*args)` made then."""
        moment = self._moments.get(at_ms)
        if moment is None:
            self._moments[at_ms] = deque(((call, args),))
            heappush(self.times, at_ms)
        else:
            moment.append((call, args))

    def happen(self, now_ms: int) -> int:
        """Make the calls of the next moment, and those that they add to it; how many."""
        moment, count = self._moments[now_ms], 0
        while moment:
            call, args = moment.popleft()  # first: should it raise, it is over all the same
            count += 1
            call(*args)
        del self._moments[now_ms]
        heappop(self.times)
        return count
