"""`dynamo explain KEY`: who holds what of a key, and why. Makes eventual consistency visible.

`keyview` puts the answers together; this module asks for them and draws the result.
"""

from __future__ import annotations

import time
from typing import Any

from dynamo.cli import exits, keyview, show
from dynamo.cli.data import words
from dynamo.cli.keyview import Hint, Holding, KeyView, Value
from dynamo.cli.ring import full_key, place
from dynamo.cli.shared import BUCKET, KEY, Shell, command
from dynamo.cli.survey import STATE_STYLES, ask_those, survey

VALUE_CHARS = 60
CLOCK_DOTS_MAX = 4


@command(
    examples="""
    dynamo explain cart:7
    dynamo explain cart:7 -b shop
    dynamo explain cart:7 --json | jq .headline
    """
)
@KEY
@BUCKET
def explain(shell: Shell, key: str | bytes, bucket: str | None) -> int:
    """Show what every node holds of KEY, what is on its way, and why there are siblings.

    Asks each node for its own copy and changes nothing: no merge, no repair. Exit code 4 if no
    node that answers has a value.
    """
    full = full_key(shell, key, bucket)
    found = survey(shell)
    where = place(found.ring, full)
    answers = ask_those(shell, found, f"key {full.hex()}")
    if not answers:
        raise exits.Unhealthy(
            "the nodes answer, but not about this key: are they of an older version?"
        )
    peers = {name: answer["peers"] for name, answer in found.answers.items()}
    view = keyview.view_of(answers, found.states(), peers, int(time.time() * 1000))
    if shell.json:
        shell.emit(as_json(key, where, view))
    else:
        draw(shell, key, bucket, where, view, found.sides())
    return exits.OK if view.siblings else exits.ABSENT


# --- for scripts ----------------------------------------------------------------------------------


def as_json(key: str | bytes, where: dict[str, Any], view: KeyView) -> dict[str, Any]:
    """Everything that the screen shows."""
    return {
        "key": show.key_json(key),
        "headline": keyview.headline(view),
        **where,
        "values": [_value_json(view, value) for value in view.values],
        "nodes": [_holding_json(view, holding) for holding in view.holdings],
        "hints": [
            {"held_by": hint.held_by, "for": hint.home, "since_ms": hint.since_ms}
            for hint in view.hints
        ],
        "reason": keyview.reason(view) or None,
    }


def _value_json(view: KeyView, value: Value) -> dict[str, Any]:
    return {
        "number": value.number,
        "value": show.value_json(_decoded(value)) if not (value.tombstone or value.cut) else None,
        "bytes": value.size,
        "deleted": value.tombstone,
        "dots": [
            {"actor": actor, "n": n, "node": view.minters.get(actor)} for actor, n in value.dots
        ],
        "put_id": value.put_id,
        "stamp_ms": value.stamp_ms,
        "expires_ms": value.expires_ms or None,
    }


def _holding_json(view: KeyView, holding: Holding) -> dict[str, Any]:
    return {
        "name": holding.name,
        "role": holding.role or "none",
        "state": holding.state,
        "answers": holding.answered,
        "synced": holding.synced,
        "digest": holding.digest or None,
        "clock": holding.clock,
        "current": holding.current,
        "has": [value.put_id for value in holding.has],
        "lacks": [value.put_id for value in holding.lacks] if holding.answered else None,
    }


# --- for people -----------------------------------------------------------------------------------


def draw(
    shell: Shell,
    key: str | bytes,
    bucket: str | None,
    where: dict[str, Any],
    view: KeyView,
    sides: list[list[str]],
) -> None:
    """One screen: headline, place, copies, values, reasons, and what to type next."""
    calm = all(holding.current for holding in view.holdings if holding.is_owner)
    style = "bold green" if calm and len(view.values) < 2 else "bold yellow"
    shell.print(show.text((show.key_arg(key), "bold")))
    shell.print(show.text((keyview.headline(view), style)))
    shell.print(
        show.text(
            (f"hash {where['hash'][:4]}…{where['hash'][-2:]} → ", "dim"),
            f"arc {where['partition']}",
            (" → ", "dim"),
            ", ".join(where["owners"]),
            (f"; then {', '.join(where['fallbacks'])}" if where["fallbacks"] else "", "dim"),
        )
    )
    shell.print()
    shell.print(_copies(view))
    if view.values:
        shell.print()
        shell.print(_values(view))
    _paragraphs(shell, view, sides)
    shell.say(f"\nNext: {_next(view, words(key, bucket))}")


def _copies(view: KeyView) -> Any:
    rows = []
    for holding in view.holdings:
        if not holding.role and not holding.answered:
            continue
        if not holding.role and not _would_stand_in(view, holding):
            continue
        state = holding.state.upper() if holding.state == "down" else holding.state
        rows.append(
            (
                holding.name,
                holding.role or "stands in next",
                show.text((state, STATE_STYLES[holding.state])),
                _holds(view, holding),
                holding.digest[:8] or "–",
                _clock(view, holding),
            )
        )
    return show.table(("NODE", "ROLE", "STATE", "HOLDS", "DIGEST", "VERSION"), rows)


def _would_stand_in(view: KeyView, holding: Holding) -> bool:
    """Whether the next write would go there: the first that is up, while an owner is down."""
    if all(view.states[name] != "down" for name in view.owners):
        return False
    up = [name for name in view.fallbacks if view.states[name] == "up"]
    return up[:1] == [holding.name] and not any(hint.held_by == holding.name for hint in view.hints)


def _holds(view: KeyView, holding: Holding) -> Any:
    if not holding.answered:
        return show.text(("no answer", "red"))
    if holding.corrupt:
        return show.text(("damaged, set aside", "red"))
    if not view.values and not holding.superseded:
        return "–"
    parts: list[str | tuple[str, str]] = []
    if holding.has:
        parts.append((keyview.numbers(holding.has), "green"))
    if holding.lacks and (holding.is_owner or holding.clock):
        lacking = keyview.numbers(holding.lacks)
        parts.append((f"{', ' if parts else ''}not {lacking}", "yellow"))
    if holding.superseded:
        old = show.plural(holding.superseded, "old value")
        parts.append((f"{', ' if parts else ''}{old}", "yellow"))
    return show.text(*parts) if parts else "–"


def _clock(view: KeyView, holding: Holding) -> str:
    """What it has seen: the highest event per actor, the latest values' actors first."""
    latest = [actor for value in view.values for actor, _ in value.dots]
    ordered = sorted(
        holding.clock.items(),
        key=lambda dot: (latest.index(dot[0]) if dot[0] in latest else len(latest), dot),
    )
    shown = [keyview.dot_text(view, dot) for dot in ordered[:CLOCK_DOTS_MAX]]
    more = [f"+{len(ordered) - CLOCK_DOTS_MAX}"] if len(ordered) > CLOCK_DOTS_MAX else []
    return " ".join([*shown, *more]) or "–"


def _values(view: KeyView) -> Any:
    rows = []
    now = time.time()
    for value in view.values:
        dots = " = ".join(keyview.dot_text(view, dot) for dot in value.dots)
        when = value.stamp_ms / 1000
        rows.append(
            (
                str(value.number) if value.number else "–",
                _value_text(value),
                dots,
                f"{show.clock(when)}, {show.span(now - when)} ago",
            )
        )
    return show.table(("#", "VALUE", "DOT", "WRITTEN"), rows)


def _value_text(value: Value) -> Any:
    if value.tombstone:
        return show.text(("deleted", "italic"))
    if value.cut:
        return show.text((f"{show.size(value.size)}, not shown", "italic"))
    text = show.value_text(_decoded(value), VALUE_CHARS)
    return text if value.number else show.text(f"{text} ", ("expired", "italic"))


def _decoded(value: Value) -> Any:
    from dynamo.client.codec import Coder
    from dynamo.client.errors import CodecError

    try:
        return Coder().decode("", value.payload)
    except CodecError:
        return value.payload


def _paragraphs(shell: Shell, view: KeyView, sides: list[list[str]]) -> None:
    paragraphs = [_hint_text(hint) for hint in view.hints]
    if len(sides) > 1:
        paragraphs.insert(0, f"The ring is split: {show.split(sides)}.")
    if why := keyview.reason(view):
        paragraphs += ["", why] if paragraphs else [why]
    if paragraphs:
        shell.print()
    for paragraph in paragraphs:
        shell.print(show.text(paragraph))


def _hint_text(hint: Hint) -> str:
    since = show.span(time.time() - hint.since_ms / 1000)
    what = "owes its own copy to" if hint.own else "keeps a hint for"
    then = f"it hears nothing from {hint.home}, and delivers once it does"
    if hint.sees == "up":
        then = f"{hint.home} is up, so it is delivered any moment"
    return f"{hint.held_by} {what} {hint.home} since {since} ({then})."


def _next(view: KeyView, key: str) -> str:
    if len(view.siblings) > 1:
        return f"dynamo resolve {key} --pick 1, or --value VALUE"
    if any(not holding.answered for holding in view.holdings if holding.is_owner):
        return "dynamo status"
    if not all(holding.current for holding in view.holdings if holding.is_owner):
        return f"dynamo get {key} --r all, which brings the owners together"
    return f"dynamo get {key}" if view.siblings else f"dynamo put {key} VALUE"
