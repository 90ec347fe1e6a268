"""What happened to one key, as a story: every message about it, every death, every fault.

    2210 n3 -> n2    REPLICATE needed {4db7.23:11[c3.25] 9134.65:8[c3.24]}
    2278 n3          killed

Clocks are shown as {actor:counter[writes, newest first]}, a tombstone with a cross. A world keeps
what is needed only if it was told to (`run(seed, logging=True)`): it is by far the slowest part.
"""

from __future__ import annotations

from typing import Any

from dynamo.core import dvv
from dynamo.core import messages as m
from dynamo.core.messages import Malformed, Message
from dynamo.sim.world import World

# Messages that carry no key belong to the story if they answer one that does.
_KEYED = (m.PUT, m.GET, m.REPLICATE, m.FETCH, m.ASK_ID)


def tell(world: World, key: bytes, last: int = 80) -> str:
    """The last so many events around a full key up to the first violation, oldest first."""
    lines: list[str] = []
    numbers: dict[Any, None] = {}
    for now_ms, what, *rest in world.log:
        if 0 <= world.broke_ms < now_ms:
            break
        if what == "step":
            host, _, outbox = rest
            for target, message in outbox:
                if _about(key, message, numbers):
                    lines.append(_line(world, now_ms, host, target, message))
        elif what == "client":
            name, node, messages = rest
            for message in messages:
                if _about(key, message, numbers):
                    lines.append(_line(world, now_ms, name, node, message))
        else:
            lines.append(f"{now_ms:6} {what} {' '.join(map(str, rest))}")
    return "\n".join(lines[-last:])


def _about(key: bytes, message: Message, numbers: dict[Any, None]) -> bool:
    kind = message[0]
    inner = message[2] if kind in (m.FORWARD, m.FORWARDED) else message
    if inner[0] in _KEYED:
        if inner[3] != key:
            return False
        numbers[message[1]] = None
        return True
    if kind in (m.KEYS, m.KEYS_ARE):
        return any(key in part for part in _byte_strings(message))
    return len(message) > 1 and kind not in (m.PING, m.PONG) and message[1] in numbers


def _byte_strings(thing: Any) -> list[bytes]:
    if isinstance(thing, bytes):
        return [thing]
    if isinstance(thing, list | tuple):
        return [found for item in thing for found in _byte_strings(item)]
    return []


def _line(world: World, now_ms: int, source: str, target: Any, message: Message) -> str:
    to = target.decode() if isinstance(target, bytes) else target
    fields = " ".join(_shown(world, field) for field in message[1:])
    return f"{now_ms:6} {source} -> {to:4} {m.NAMES[message[0]]} {fields}"


def _shown(world: World, field: Any) -> str:
    if isinstance(field, list | tuple):
        return "[" + " ".join(_shown(world, item) for item in field) + "]"
    if not isinstance(field, bytes):
        return str(field)
    if field in world.uids:
        return f"id:{world.uids[field]}"
    if len(field) > 12:
        try:
            return _clock(world, dvv.decode(field))
        except Malformed:
            return f"{field[:3].hex()}.."
    return repr(field)[1:]


def _clock(world: World, clock: dvv.Clock) -> str:
    entries = []
    for actor, n, values in clock:
        held = ",".join(
            world.uids.get(value[0], "?") + ("+" if value[1] & dvv.TOMBSTONE else "")
            for value in values
        )
        entries.append(f"{actor[:2].hex()}.{actor[-1:].hex()}:{n}[{held}]")
    return "{" + " ".join(entries) + "}"
