"""What this client has seen of each key: a bounded memory of contexts.

An auto put covers what its user has *seen*. A read delivers values, so its context is remembered
as seen. A put's answer may bring siblings that nobody looked at; they are kept as *unread*, and
the next auto put must merge them or refuse:

    A puts 1. B blind-puts 2. A puts 3 and is told "siblings 3 and 2". Were that context taken for
    seen, A's next put would erase 2, acknowledged and unread by anybody.

Overlap. Calls of one client may run at once, so an answer can describe an older state than what
is remembered. What a put has taught is kept against any call that began before that put ended:
covering less than possible makes a sibling, which is safe; forgetting a put's own context would
make this client's next write a sibling of its own last one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

KEYS_MAX = 10_000


class Seen:
    """One key. `unread`: [stamp_ms, payload] of siblings not yet delivered, or None."""

    __slots__ = ("by_put", "context", "ended", "unread")

    def __init__(self, context: bytes, unread: list[Any] | None, by_put: bool, ended: int) -> None:
        self.context = context
        self.unread = unread
        self.by_put = by_put
        self.ended = ended


class Memory:
    """Least recently used of `KEYS_MAX` keys. Forgetting one is safe: its next put asks again."""

    __slots__ = ("_keys", "_limit", "clock")

    def __init__(self, limit: int = KEYS_MAX) -> None:
        # Not a dict: taking the first of a dict walks over all that were taken before (6 us here).
        self._keys: OrderedDict[bytes, Seen] = OrderedDict()
        self._limit = limit
        self.clock = 0  # calls that have ended; a call notes it when it begins

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: bytes) -> Seen | None:
        """What was seen of a full key, or None."""
        return self._keys.get(key)

    def read(self, key: bytes, began: int, context: bytes) -> None:
        """A read that began at `began` delivered everything under `context` to the user."""
        held = self._keys.get(key)
        self.clock += 1
        if held is None or not held.by_put or began >= held.ended:
            self._keep(key, Seen(context, None, False, self.clock))

    def put(self, key: bytes, began: int, context: bytes, unread: list[Any] | None) -> None:
        """A put that began at `began` was acknowledged; `unread` stand beside it."""
        held = self._keys.get(key)
        self.clock += 1
        if held is None or began >= held.ended or held.unread is None or unread is not None:
            self._keep(key, Seen(context, unread, True, self.clock))

    def _keep(self, key: bytes, seen: Seen) -> None:
        keys = self._keys
        keys[key] = seen
        keys.move_to_end(key)
        if len(keys) > self._limit:
            keys.popitem(last=False)
