"""One logical request and its tries: plain records that the session moves along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo.client import outcomes
from dynamo.core import messages as m
from dynamo.core.messages import Message

if TYPE_CHECKING:
    from dynamo.client.errors import DynamoError
    from dynamo.client.routing import Node, Ring

RING_TIMEOUT_MS = 1_000
# Kept back from a request's time, so that the coordinator's own account of a timeout (who
# answered, who did not) arrives before the client gives up. At most a tenth of the time.
ACCOUNT_MS = 50


class Op:
    """One logical request, and what became of it.

    `tail` holds the last fields of its message: PUT (w, pw, flags, ttl_ms, value), GET (r, pr,
    flags), RING (known_version,), SCAN (arc, ver, phase, match, start, limit). `pin` names the only
    node, by name or address, that may be asked.
    """

    __slots__ = (
        "answer",
        "arc",
        "asked",
        "context",
        "coordinator",
        "deadline_ms",
        "done",
        "due_ms",
        "ended_ms",
        "error",
        "failure",
        "key",
        "kind",
        "levels",
        "mode",
        "open",
        "patience_ms",
        "pin",
        "put_id",
        "resting_at",
        "sent",
        "size",
        "slot",
        "started_ms",
        "tail",
        "tries",
        "uncertain",
        "waiter",
    )

    def __init__(
        self,
        kind: int,
        key: bytes,
        deadline_ms: int,
        tail: tuple[Any, ...],
        *,
        mode: int = m.CAUSAL,
        context: bytes = b"",
        tries: int = 3,
        pin: str = "",
    ) -> None:
        self.kind = kind
        self.key = key
        self.deadline_ms = deadline_ms
        self.tail = tail
        self.mode = mode
        self.context = context
        self.tries = tries
        self.pin = pin
        # Levels are the first two fields of a put's and of a get's tail.
        self.levels: tuple[int, ...] = tail[:2] if kind <= m.GET else ()
        self.size = len(key) + len(context) + (len(tail[4]) if kind == m.PUT else 0)
        self.arc = -1
        self.put_id = b""
        self.started_ms = self.due_ms = self.patience_ms = self.ended_ms = 0
        self.sent = 0  # tries handed over
        self.uncertain = False  # some try may have been applied, and its answer will not come
        self.done = False
        self.answer: Message | None = None
        self.error: DynamoError | None = None
        self.coordinator = ""
        self.failure: tuple[Node, Message] | None = None  # the one to be told
        self.asked: list[Node] = []
        self.open: list[Try] = []
        self.resting_at: Node | None = None
        self.waiter: Any = None  # the driver's
        self.slot: Any = None  # the flow's

    def __repr__(self) -> str:
        state = "done" if self.done else f"{len(self.open)} open"
        return f"<{m.NAMES[self.kind]} {outcomes.shown_key(self.key)!r} {state}>"

    @property
    def flags(self) -> int:
        """The flags of a put or a get."""
        return int(self.tail[2])

    @property
    def value_bytes(self) -> int:
        """The size of the value that a put carries."""
        return len(self.tail[4]) if self.kind == m.PUT else 0

    @property
    def maybe_applied(self) -> bool:
        """Whether a write may have happened, or may yet, as far as answers tell."""
        return self.kind == m.PUT and (self.uncertain or any(t.sent for t in self.open))


class Try:
    """An operation in the hands of one node; `op` None asks for the ring."""

    __slots__ = ("node", "op", "req", "sent", "sent_ms")

    def __init__(self, req: int, op: Op | None, node: Node) -> None:
        self.req = req
        self.op = op
        self.node = node
        self.sent = False
        self.sent_ms = 0

    def message(self, now_ms: int, ring: Ring | None) -> Message:
        """The request as it is handed over now. Counts as sent from here on."""
        op = self.op
        self.sent = True
        self.sent_ms = now_ms
        version = ring.version if ring is not None else 0
        if op is None:
            return (m.RING, self.req, RING_TIMEOUT_MS, version)
        attempt = op.sent
        op.sent += 1
        left_ms = op.deadline_ms - now_ms
        left_ms -= min(ACCOUNT_MS, left_ms // 10)
        if ring is not None and left_ms > ring.timeout_ms_max:
            left_ms = ring.timeout_ms_max
        head = (op.kind, self.req, left_ms if left_ms > 0 else 1)
        if op.kind == m.PUT:
            put = (op.key, version, 0, op.mode, op.context, op.put_id, attempt)
            return head + put + op.tail
        if op.kind == m.GET:
            return (*head, op.key, version, 0, *op.tail)
        return head + op.tail
