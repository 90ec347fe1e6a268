"""What fakes are told, and the carrying out of their operations.

Each operation goes through the checks of a real client's session, then through what the fake was
told about it, then to the store. It takes one virtual millisecond, or as long as it was told; real
time never passes. Errors are made where the real client makes them, in `client.outcomes`, so their
classes, numbers and sentences are the real ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from dynamo.client import errors, outcomes
from dynamo.client.deadlines import Clock
from dynamo.client.op import Op
from dynamo.client.routing import Node, Ring
from dynamo.core import messages as m
from dynamo.core.messages import Message
from dynamo.core.ring import split_key
from dynamo.testing.fakestore import (
    ADDRESSES,
    CONFIG,
    NAMES,
    PARTITIONS,
    WALL_ORIGIN_MS,
    FakeStore,
    Refusal,
)

TAKES_MS = 1
MODES = {m.CAUSAL: "causal", m.AUTO: "auto", m.BLIND: "blind"}
_CODES: dict[type[BaseException], tuple[int, str]] = {
    errors.QuorumUnavailable: (m.UNAVAILABLE, "too few nodes can be reached"),
    errors.Overloaded: (m.OVERLOADED, "n1 has 20,000 operations under way"),
    errors.DiskFull: (m.DISK_FULL, "n1 is short of disk space; reads and deletes still work"),
    errors.ValueTooLarge: (m.TOO_LARGE, "the value is too large"),
    errors.KeyTooLong: (m.KEY_TOO_LONG, "the key is too long"),
    errors.TooManySiblings: (m.TOO_MANY_SIBLINGS, "the key has 100 concurrent values"),
    errors.BadContext: (m.BAD_CONTEXT, "the context was made for another key or another cluster"),
}
_RING_IS: Message = (
    m.RING_IS, 0, "fake", 1, len(NAMES), PARTITIONS, CONFIG.r, CONFIG.w,
    [[name, *_split] for name, _split in zip(
        NAMES, ([host, int(port)] for host, port in (a.split(":") for a in ADDRESSES)), strict=True
    )],
    b"\x03\x00\x00\x00\x01\x00\x02",
    [CONFIG.key_bytes_max, CONFIG.value_bytes_max, CONFIG.timeout_ms_max],
)  # fmt: skip


class Call(NamedTuple):
    """One operation that reached a fake. A `modify` is a get and one or more puts.

    `op` is "get", "put" or "delete"; `value` what a put wrote; `mode` how a put or delete treats
    what is there: "auto", "causal" or "blind"; `error` what it raised, or None.
    """

    op: str
    bucket: str
    key: str | bytes
    value: Any
    mode: str
    error: BaseException | None


class FakeClock(Clock):
    """Moves when a fake does something, or is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.at_ms = 0

    @property
    def now_ms(self) -> int:
        return self.at_ms


class Rule:
    """One thing that a fake was told. `key` None: any; `op` "": any; `times` None: for ever."""

    def __init__(
        self, text: str, key: bytes | None, op: str, times: int | None,
        act: Callable[[Op], errors.DynamoError | int | None],
    ) -> None:  # fmt: skip
        self.text = text
        self.key = key
        self.op = op
        self.times = times
        # Returns an error that ends the operation, milliseconds that it takes, or None.
        self.act = act

    def meets(self, op: Op) -> bool:
        """Whether it is about this operation, and not used up."""
        return (
            self.times != 0 and self.key in (None, op.key) and self.op in ("", verb(op))
        )  # fmt: skip


def verb(op: Op) -> str:
    """What the caller asked for."""
    if op.kind == m.PUT:
        return "delete" if op.flags & m.DELETE else "put"
    return "get" if op.kind == m.GET else "ping"


class FakeDriver:
    """Carries operations out at once. Shared by all views of one fake."""

    def __init__(self, seed: int) -> None:
        self.clock = FakeClock()
        self.store = FakeStore()
        self.rules: list[Rule] = []
        self.calls: list[Call] = []
        self.decoders: dict[str, Callable[[str | bytes, bytes], Any]] = {}
        self.coin = random.Random(f"{seed}/fake")
        self._nodes = {address: Node(address) for address in ADDRESSES}
        self._ring = Ring(_RING_IS, self._nodes)

    # --- as a driver ----------------------------------------------------------------------------

    def begin(self, op: Op, ended: Callable[[Op], None]) -> None:
        """Carry out an operation; it has ended when this returns."""
        now_ms = op.started_ms = self.clock.at_ms
        op.coordinator = NAMES[0]
        op.asked.append(self._ring.nodes[0])
        if op.deadline_ms <= now_ms:
            op.error = outcomes.late(op, now_ms)
        elif op.kind == m.RING:
            self.clock.at_ms += TAKES_MS
            op.answer = _RING_IS
        elif op.kind == m.SCAN:
            self._apply(op)
        else:
            op.error = outcomes.impossible(op, self._ring, now_ms)
            if op.error is None:
                self._perform(op)
        op.ended_ms = self.clock.at_ms
        op.done = True
        self._note(op)
        ended(op)

    def cancel(self, op: Op) -> None:
        """Nothing is ever under way."""

    def close(self) -> None:
        """Nothing is ever under way."""

    def wait(self, ready: Callable[[], bool]) -> None:
        assert ready(), "operations of a fake end when they begin"

    def _perform(self, op: Op) -> None:
        takes_ms = TAKES_MS
        for rule in [rule for rule in self.rules if rule.meets(op)]:
            if rule.times is not None:
                rule.times -= 1
            came = rule.act(op)
            if type(came) is int:
                takes_ms += came
            elif came is not None:
                op.error = came  # type: ignore[assignment]
                return
        if self.clock.at_ms + takes_ms >= op.deadline_ms:
            op.error = self._too_slow(op)
            return
        self.clock.at_ms += takes_ms
        self._apply(op)

    def _apply(self, op: Op) -> None:
        try:
            op.answer = self.store.perform(op, WALL_ORIGIN_MS + self.clock.at_ms)
        except Refusal as refusal:
            op.error = self.refused(op, refusal.code, str(refusal))

    def _note(self, op: Op) -> None:
        if op.kind not in (m.PUT, m.GET):
            return
        bucket, _ = split_key(op.key)
        name, key = bucket.decode(), outcomes.shown_key(op.key)
        payload = op.tail[4] if op.kind == m.PUT else b""
        value = self.decoders[name](key, payload) if payload else None
        mode = MODES[op.mode] if op.kind == m.PUT else ""
        self.calls.append(Call(verb(op), name, key, value, mode, op.error))

    # --- failures ---------------------------------------------------------------------------------

    def _failed(self, op: Op, code: int, text: str, received: int, maybe: bool) -> Message:
        needed = self.store.level(op.levels[0], CONFIG.w if op.kind == m.PUT else CONFIG.r)
        received = min(received, needed - 1)
        acked, silent = NAMES[:received], NAMES[received:]
        if code != m.TIMED_OUT:
            acked, silent = (), ()
        retry_after_ms = 50 if code == m.OVERLOADED else 0
        return (
            m.FAILED, 0, code, text, needed, received, list(acked), list(silent), int(maybe),
            retry_after_ms,
        )  # fmt: skip

    def refused(self, op: Op, code: int, text: str) -> errors.DynamoError:
        """The error of a request that a node refused, having done nothing."""
        self.clock.at_ms += TAKES_MS
        failed = self._failed(op, code, text, 1 if code == m.UNAVAILABLE else 0, False)
        return outcomes.refused(op, self._ring.nodes[0], failed, self.clock.at_ms)

    def timed_out(self, op: Op, applied: bool | None) -> errors.DynamoError:
        """Too few answers by the deadline. A write is `applied`, or not; None: drawn."""
        if applied is None:
            applied = self.coin.random() < 0.5
        if applied and op.kind == m.PUT:
            self.clock.at_ms += TAKES_MS
            self._apply(op)
            if op.answer is not None and op.answer[0] == m.CONFLICT:
                applied = False  # it was refused; but its client hears nothing
            op.answer = op.error = None
        self.clock.at_ms = max(self.clock.at_ms, op.deadline_ms)
        op.uncertain = op.kind == m.PUT
        failed = self._failed(op, m.TIMED_OUT, "", 1, op.uncertain)
        return outcomes.refused(op, self._ring.nodes[0], failed, self.clock.at_ms)

    def _too_slow(self, op: Op) -> errors.DynamoError:
        """The node does its work and answers, after everybody has left."""
        self._apply(op)
        op.answer = op.error = None
        self.clock.at_ms = max(self.clock.at_ms, op.deadline_ms)
        op.sent = 1
        op.uncertain = op.kind == m.PUT
        return outcomes.expired(op, self.clock.at_ms, self._ring, self._ring.nodes)

    def made(self, error: Any) -> Callable[[Op], Any]:
        """What makes the error that a fake was told, with numbers that fit the operation."""
        if isinstance(error, Exception):
            return lambda op: error
        if not (isinstance(error, type) and issubclass(error, Exception)):
            raise errors.ConfigurationError(
                f"error must be an exception or a class of exceptions, not {error!r}"
            )
        if error in _CODES:
            code, text = _CODES[error]
            return lambda op: self.refused(op, code, text)
        if error is errors.QuorumTimeout:
            return lambda op: self.timed_out(op, None)
        if error is errors.ConnectionFailed:
            return self._unreachable
        if error is errors.ConflictError:
            raise errors.ConfigurationError("use conflict(key, a, b) to make a key conflict")
        if error is errors.ProtocolError:
            return lambda op: errors.ProtocolError("the node speaks version 2", ours=1, theirs=2)
        return lambda op: error(f"{verb(op)} of {outcomes.shown_key(op.key)!r} was told to fail")

    def _unreachable(self, op: Op) -> errors.DynamoError:
        self.clock.at_ms = max(self.clock.at_ms, op.deadline_ms)
        waited_ms = op.deadline_ms - op.started_ms
        nodes = [Node(address) for address in ADDRESSES]
        for node in nodes:
            node.note = f"no connection for {waited_ms} ms"
        return outcomes.unreachable(op, self.clock.at_ms, nodes)
