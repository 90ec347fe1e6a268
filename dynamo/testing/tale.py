"""What happened to one key of a simulated ring, for whoever wrote the test that failed.

First what clients called and what came of it, with the values; the faults stand between. Then what
went on among the nodes, and what they hold in the end, as `dynamo.sim.tell` has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo.client import outcomes
from dynamo.client.codec import Coder
from dynamo.client.errors import CodecError
from dynamo.client.op import Op
from dynamo.core import messages as m
from dynamo.core.ring import full_key, split_key
from dynamo.sim.story import tell
from dynamo.sim.wording import KNOWN, NAMES

if TYPE_CHECKING:
    from dynamo.testing.simring import Ring

HEAD = "dynamo: "
TOLD = ("fault", "killed", "start", "wiped", "taken back")
WIDEST = 110
MESSAGE_LINES = 25

_coder = Coder("auto")


def full(bucket: str, key: str | bytes) -> bytes:
    """The key of a bucket as nodes know it."""
    return full_key(bucket.encode(), key.encode() if isinstance(key, str) else key)


def subject(ring: Ring, error: BaseException) -> bytes:
    """The key that an exception is most likely about: its own, else the last that was asked for."""
    named = getattr(error, "key", None)
    keys = [op.key for _, _, op, _ in reversed(ring.calls) if op.key]
    for key in keys:
        if named is not None and outcomes.shown_key(key) == named:
            return key
    return keys[0] if keys else b""


def of_key(ring: Ring, key: bytes, last: int) -> str:
    """The story of a full key, oldest first."""
    bucket, _ = split_key(key)
    lines = [
        (at_ms, _ended(name, op) if ended else _begun(name, op))
        for at_ms, name, op, ended in ring.calls
        if op.key == key
    ]
    lines += [(at_ms, _event(rest)) for at_ms, *rest in ring.world.log if at_ms and rest[0] in TOLD]
    lines.sort(key=lambda line: line[0])
    return "\n".join(
        [
            f"the story of {outcomes.shown_key(key)!r} in bucket {bucket.decode()!r}, "
            "in ms of virtual time:",
            *[f"{at_ms:7} {_short(text)}" for at_ms, text in lines[-last:]],
            "what went on behind it:",
            *map(_short, _behind(ring, key)),
        ]
    )


def _behind(ring: Ring, key: bytes) -> list[str]:
    """The last messages about a key, and the copies that there are."""
    _, *told = tell(ring.world, key, MESSAGE_LINES).splitlines()
    known = told.index(KNOWN) if KNOWN in told else len(told)  # the calls above say it better
    names = [line for line in told[known:] if line.startswith(NAMES)]
    return [*told[:known], *names]


def value_of(payload: bytes) -> Any:
    """A stored payload as a value; what a codec of the user's wrote stays bytes."""
    try:
        return _coder.decode("", payload)
    except CodecError:
        return payload


def _begun(name: str, op: Op) -> str:
    if op.kind == m.GET:
        return f"{name}: get"
    if op.flags & m.DELETE:
        return f"{name}: delete ..."
    how = {m.BLIND: " blindly", m.AUTO: "", m.CAUSAL: " over what it read"}[op.mode]
    return f"{name}: put {value_of(op.tail[4])!r}{how} ..."


def _ended(name: str, op: Op) -> str:
    what = "get" if op.kind == m.GET else "delete" if op.flags & m.DELETE else "put"
    if op.answer is None:
        error = op.error
        maybe = ", maybe applied" if op.maybe_applied else ""
        return f"{name}: {what} -> {type(error).__name__}{maybe}"
    found = [value_of(payload) for _, payload in op.answer[3]]
    if op.answer[0] == m.GET_OK:
        shown = " and ".join(map(repr, found)) if found else "nothing"
        return f"{name}: get -> {shown}"
    if op.answer[0] == m.CONFLICT:
        return f"{name}: {what} -> refused, there are {' and '.join(map(repr, found))}"
    beside = f", together with {' and '.join(map(repr, found))}" if found else ""
    return f"{name}: {what} -> ok{beside}"


def _event(rest: list[Any]) -> str:
    what, *more = rest
    if what != "fault":
        return f"     {more[0]} {'started' if what == 'start' else what}"
    kind, host, for_ms, groups, _, amount_ms = (*more, 0, 0, 0, 0, 0)[:6]
    text = f"     {kind} {_sides(groups) if groups else host or ''}".rstrip()
    if amount_ms:
        text += f" by {amount_ms} ms"
    return text + (f", for {for_ms} ms" if for_ms else "")


def _sides(groups: Any) -> str:
    return " | ".join(" ".join(group) for group in groups)


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."
