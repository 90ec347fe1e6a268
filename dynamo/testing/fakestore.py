"""The store behind `FakeClient`: one dictionary that keeps keys as owners keep them.

Values, siblings and contexts are the core's: a clock per key, sealed contexts, tombstones, expiry,
and the limits of a node with its defaults. What is missing is everything that makes a ring slow or
unsure: there is one copy, and it is always right. Answers claim the owners that a ring of three
would have had.
"""

from __future__ import annotations

from dynamo.client.op import Op
from dynamo.core import dvv
from dynamo.core import messages as m
from dynamo.core.config import Config
from dynamo.core.context import seal, unseal
from dynamo.core.messages import Malformed, Message
from dynamo.core.ring import storage_key

NAMES = ("n1", "n2", "n3")
ADDRESSES = tuple(f"127.0.0.1:{7001 + i}" for i in range(len(NAMES)))
CONFIG = Config()
PARTITIONS = 1
WALL_ORIGIN_MS = 1_600_000_000_000
_SECRET = b"a secret of clients that fake."
_ACTOR = b"fake-actor12"


class Refusal(Exception):
    """A request that is refused, having done nothing: a code of FAILED, and why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class FakeStore:
    """Full key -> clock."""

    def __init__(self) -> None:
        self._rows: dict[bytes, dvv.Clock] = {}
        self._put_ids = 0

    def perform(self, op: Op, wall_ms: int) -> Message:
        """The answer to an operation. Raises `Refusal`."""
        if op.kind == m.GET:
            return self._get(op, wall_ms)
        if op.kind == m.SCAN:
            return self._scan(op, wall_ms)
        return self._put(op, wall_ms)

    def _get(self, op: Op, wall_ms: int) -> Message:
        clock = self._rows.get(op.key, [])
        count = self.level(op.levels[0], CONFIG.r)
        context = seal(_SECRET, op.key, clock)
        return (m.GET_OK, 0, context, _shown(clock, wall_ms), list(NAMES[:count]))

    def _scan(self, op: Op, wall_ms: int) -> Message:
        """One page of keys with a value, in the ring's order, after `start`."""
        _, _, _, match, start, limit = op.tail
        rows = sorted((storage_key(key, PARTITIONS), key) for key in self._rows)
        page = [(skey, key) for skey, key in rows if skey > start]
        upto = page[limit - 1][0] if len(page) > limit else b""
        keys = [
            key for _, key in page[:limit]
            if key.startswith(match) and _shown(self._rows[key], wall_ms)
        ]  # fmt: skip
        return (m.SCAN_IS, 0, keys, upto, 1)

    def _put(self, op: Op, wall_ms: int) -> Message:
        clock = self._rows.get(op.key, [])
        try:
            given = unseal(_SECRET, op.key, op.context)
        except Malformed as error:
            raise Refusal(m.BAD_CONTEXT, str(error)) from None
        context = self._covered(op, clock, given, wall_ms)
        if context is None:
            return (m.CONFLICT, 0, seal(_SECRET, op.key, clock), _shown(clock, wall_ms))
        self._put_ids += 1
        w, _, flags, ttl_ms, payload = op.tail
        value = (
            self._put_ids.to_bytes(16, "big"), dvv.TOMBSTONE if flags & m.DELETE else 0, wall_ms,
            wall_ms + ttl_ms if ttl_ms else 0, payload,
        )  # fmt: skip
        clock, _ = dvv.put(clock, context, _ACTOR, value)
        self._rows[op.key] = clock
        live = dvv.live(clock, wall_ms)
        alone = not live or (len(live) == 1 and live[0][0] == value[0])
        shown = [] if alone else _shown(clock, wall_ms)
        acked = list(NAMES[: self.level(w, CONFIG.w)])
        return (m.PUT_OK, 0, seal(_SECRET, op.key, clock), shown, acked, [])

    def _covered(
        self, op: Op, clock: dvv.Clock, given: dvv.Context, wall_ms: int
    ) -> dvv.Context | None:
        """What a put supersedes; None if it met values that it may not cover."""
        if op.mode == m.CAUSAL or not clock:
            return given
        shown = _shown(clock, wall_ms)
        if op.mode == m.BLIND:
            if len(shown) >= CONFIG.siblings_max:
                raise Refusal(
                    m.TOO_MANY_SIBLINGS,
                    f"the key has {len(shown)} concurrent values: read them, and put one value "
                    "with the context of that read",
                )
            return {}
        return None if shown else {}

    def level(self, asked: int, default: int) -> int:
        """The count that a level means among three owners."""
        copies = len(NAMES)
        if asked > 0:
            return asked
        return copies if asked == m.ALL else (default if asked == m.DEFAULT else 0) or 2

    def replace(self, key: bytes, payloads: list[bytes], wall_ms: int) -> None:
        """What others leave behind who wrote at once, having seen what is there. Newest first."""
        clock = self._rows.get(key, [])
        clock = dvv.discard(clock, dvv.context_of(clock))
        for age_ms, payload in enumerate(payloads):
            self._put_ids += 1
            value = (self._put_ids.to_bytes(16, "big"), 0, wall_ms - age_ms, 0, payload)
            clock, _ = dvv.put(clock, {}, _ACTOR, value)
        self._rows[key] = clock


def _shown(clock: dvv.Clock, wall_ms: int) -> list[list[object]]:
    return [[value[2], value[4]] for value in dvv.live(clock, wall_ms)]
