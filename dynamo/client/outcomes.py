"""How operations end: what the facts of a request mean as an error that a user can act on.

`maybe_applied` is decided in the session (see `Op.maybe_applied`); here it only chooses the class:
a write that may have happened is never reported by an error that promises nothing was done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dynamo.client import errors
from dynamo.core import messages as m
from dynamo.core.messages import Message
from dynamo.core.ring import split_key

if TYPE_CHECKING:
    from dynamo.client.op import Op
    from dynamo.client.routing import Node, Ring

_FINAL: dict[int, type[errors.OperationError]] = {
    m.TOO_LARGE: errors.ValueTooLarge,
    m.KEY_TOO_LONG: errors.KeyTooLong,
    m.TOO_MANY_SIBLINGS: errors.TooManySiblings,
    m.BAD_CONTEXT: errors.BadContext,
}
_NOTHING_DONE: dict[int, type[errors.OperationError]] = {
    m.UNAVAILABLE: errors.QuorumUnavailable,
    m.OVERLOADED: errors.Overloaded,
    m.DISK_FULL: errors.DiskFull,
    m.NOT_READY: errors.QuorumUnavailable,
    m.NOT_A_MEMBER: errors.QuorumUnavailable,
}
RETRIED = frozenset((m.TIMED_OUT, *_NOTHING_DONE))
# About the node and not about the request: another one answers instead.
ELSEWHERE = frozenset((m.NOT_READY, m.NOT_A_MEMBER))


def shown_key(full: bytes) -> str | bytes:
    """The key as its user most likely wrote it."""
    if not full:
        return ""
    key = split_key(full)[1]
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key


def required(op: Op, ring: Ring | None) -> int:
    """How many answers the operation needs, as far as the client knows."""
    level = op.levels[0] if op.levels else 0
    if level > 0 or ring is None:
        return max(level, 0)
    if level == m.ALL:
        return ring.n
    if level == m.QUORUM:
        return ring.n // 2 + 1
    return ring.w if op.kind == m.PUT else ring.r


def _verb(op: Op) -> str:
    if op.kind == m.PUT:
        return "delete" if op.flags & m.DELETE else "write"
    return {m.GET: "read", m.SCAN: "scan"}.get(op.kind, "request")


def _subject(op: Op) -> str:
    if op.kind == m.SCAN:
        return f"scan of arc {op.tail[0]}"
    link = "to" if _verb(op) == "write" else "of"
    return f"{_verb(op)} {link} {shown_key(op.key)!r}" if op.key else "request"


def _facts(op: Op, now_ms: int) -> dict[str, Any]:
    names = {"write": "put", "read": "get", "request": "status"}
    return {
        "op": names.get(_verb(op), _verb(op)),
        "key": shown_key(op.key),
        "elapsed": (now_ms - op.started_ms) / 1000,
        "maybe_applied": op.maybe_applied,
    }


def _hint(op: Op) -> str | None:
    if op.maybe_applied:
        return f"The {_verb(op)} may still appear later. Repeat it, or try w=1 or a longer timeout"
    return "Try r=1 or a longer timeout" if op.kind == m.GET else None


def refused(op: Op, node: Node, failed: Message, now_ms: int) -> errors.DynamoError:
    """The error for a FAILED answer."""
    _, _, code, text, needed, received, acked, silent, _, retry_after_ms = failed
    if code == m.INVALID:
        return errors.ConfigurationError(f"{_subject(op)} was refused by {node.name}: {text}")
    facts = _facts(op, now_ms)
    facts.update(required=needed, received=received, coordinator=node.name)
    facts["asked"] = len(acked) + len(silent)
    kind = _FINAL.get(code)
    if kind is not None:
        return kind(f"{_subject(op)} was refused by {node.name}: {text}", **facts)
    kind = _NOTHING_DONE.get(code)
    if kind is None or op.maybe_applied:
        return _timeout(op, now_ms, node, failed)
    if code == m.OVERLOADED:
        facts["retry_after"] = retry_after_ms / 1000
    if code == m.UNAVAILABLE:
        facts["alive"] = received
    return kind(f"{_subject(op)} was refused by {node.name}: {text}; nothing was done", **facts)


def _timeout(op: Op, now_ms: int, node: Node, failed: Message) -> errors.QuorumTimeout:
    _, _, _, text, needed, received, acked, silent, _, _ = failed
    parts = [f"{name} ok" for name in acked] + [f"{name} no answer" for name in silent]
    facts = _facts(op, now_ms)
    facts.update(required=needed, received=received, coordinator=node.name)
    facts["asked"] = len(parts)
    return errors.QuorumTimeout(
        f"{_subject(op)} got {received} of {needed} answers in {now_ms - op.started_ms:,} ms "
        f"({'; '.join(parts) or text})",
        hint=_hint(op),
        **facts,
    )


def expired(op: Op, now_ms: int, ring: Ring | None, nodes: Iterable[Node]) -> errors.DynamoError:
    """The error of an operation that has reached its deadline, or has nobody left to ask."""
    if op.failure is not None and op.failure[1][2] in RETRIED:
        return refused(op, op.failure[0], op.failure[1], now_ms)
    if op.sent == 0 and not op.maybe_applied:
        return unreachable(op, now_ms, nodes)
    asked = list(dict.fromkeys(node.name or node.address for node in op.asked))
    return errors.QuorumTimeout(
        f"{_subject(op)} got no answer in {now_ms - op.started_ms:,} ms "
        f"(asked {', '.join(asked) or 'nodes whose connection broke'})",
        hint=_hint(op),
        required=required(op, ring),
        asked=len(asked),
        **_facts(op, now_ms),
    )


def unreachable(op: Op, now_ms: int, nodes: Iterable[Node]) -> errors.ConnectionFailed:
    """The error when nothing could be sent to anybody."""
    seeds = {node.address: node.note for node in nodes}
    listed = "; ".join(f"{address}: {note}" for address, note in seeds.items())
    return errors.ConnectionFailed(
        f"no node could be reached in {now_ms - op.started_ms:,} ms ({listed})",
        seeds,
        hint="Are the nodes running, and are these their client ports?",
    )


def tells_more(failed: Message, known: tuple[Node, Message] | None) -> bool:
    """Whether a refusal is to be told rather than the one known so far.

    Of several timeouts the one that got furthest; and that some node could not serve anybody only
    if there is nothing else to tell.
    """
    if known is None or known[1][2] in ELSEWHERE:
        return True
    code = failed[2]
    return code not in ELSEWHERE and (code != m.TIMED_OUT or failed[5] >= known[1][5])


def late(op: Op, now_ms: int) -> errors.QuorumTimeout:
    """The error of an operation whose deadline was over before it began."""
    return errors.QuorumTimeout(
        f"{_subject(op)} was not sent: its deadline had already passed", **_facts(op, now_ms)
    )


def overloaded(op: Op, now_ms: int, in_flight: int, queued: int) -> errors.Overloaded:
    """The error of an operation that this client has no room for."""
    return errors.Overloaded(
        f"{_subject(op)} was not sent: this client has {in_flight:,} operations with "
        f"{queued:,} bytes under way",
        hint="Wait for some, use put_many or get_many, or raise max_in_flight",
        retry_after=0.01,
        **_facts(op, now_ms),
    )


def impossible(op: Op, ring: Ring, now_ms: int) -> errors.DynamoError | None:
    """Why the ring can never serve this operation, or None."""
    for level in op.levels:
        if level > ring.n:
            return errors.ConfigurationError(
                f"{_subject(op)} asks for {level} answers, but the ring keeps {ring.n} "
                f"replicas: choose 1 to {ring.n}, 'one', 'quorum' or 'all'"
            )
    key_bytes = len(op.key) - 1 - op.key[0] if op.key else 0
    if key_bytes > ring.key_bytes_max:
        shown = shown_key(op.key)[:20]
        return errors.KeyTooLong(
            f"the key {shown!r}... has {key_bytes:,} bytes; at most {ring.key_bytes_max:,} fit",
            **_facts(op, now_ms),
        )
    if op.value_bytes > ring.value_bytes_max:
        return errors.ValueTooLarge(
            f"the value for {shown_key(op.key)!r} has {op.value_bytes:,} bytes encoded; at most "
            f"{ring.value_bytes_max:,} fit",
            **_facts(op, now_ms),
        )
    return None
