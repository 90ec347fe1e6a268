"""The hash of all that happens in a world, by which two runs of a seed are compared (I16)."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

HASHED_BYTES = 1 << 16  # at once: a call costs as much as hashing some hundred bytes

_encode = msgspec.msgpack.Encoder().encode


class Trace:
    """What happened so far, as a hash."""

    __slots__ = ("_hash", "_waiting")

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)
        self._waiting = bytearray()

    def note(self, now_ms: int, event: tuple[Any, ...]) -> None:
        """Something happened; it may be changed afterwards, as its bytes are taken now."""
        waiting = self._waiting
        waiting += _encode((now_ms, event))
        if len(waiting) > HASHED_BYTES:
            self._hash.update(waiting)
            waiting.clear()

    @property
    def digest(self) -> str:
        """The hash of all of it."""
        self._hash.update(self._waiting)
        self._waiting.clear()
        return self._hash.hexdigest()
