"""What all nodes hold of one key, put together: pure, from their answers to STATUS "key HEX".

Each answer has the node's row and the node's hint, as objects of dots. From these follow

    newest    what a merge of everything that answered would show: the current values
    holding   per node: which of the current values it has, which it has not got, whether it still
              shows superseded ones
    headline  the above in one sentence

Merging follows `dynamo.core.dvv`: a value is superseded once some object knows its dot and does not
carry it any more. Dots of one put (same put id, minted twice because a retry went elsewhere) are
one value; the put is superseded with the first of them (D5).
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dynamo.cli import show

NAMED_MAX = 4  # of many siblings, as many are told one by one

Dot = tuple[str, int]  # (actor, n)
Answers = dict[str, dict[str, Any]]


@dataclass
class Value:
    """One put that is current."""

    put_id: str
    dots: list[Dot]
    stamp_ms: int
    expires_ms: int
    tombstone: bool
    size: int
    payload: bytes
    number: int = 0  # as `siblings` counts, 0 for a deletion or an expired value
    minted_by: list[str] = field(default_factory=list)

    @property
    def cut(self) -> bool:
        """Whether the answers show its beginning only."""
        return self.size > len(self.payload)


@dataclass
class Holding:
    """One node's copy, against what is current."""

    name: str
    role: str  # "owner 1", ..., "for n4" of a stand-in, "" of a node that has nothing of the key
    state: str
    answered: bool = False
    synced: bool = False
    corrupt: bool = False
    digest: str = ""
    clock: dict[str, int] = field(default_factory=dict)
    has: list[Value] = field(default_factory=list)
    lacks: list[Value] = field(default_factory=list)
    superseded: int = 0

    @property
    def is_owner(self) -> bool:
        return self.role.startswith("owner")

    @property
    def current(self) -> bool:
        """Whether it has all that is current, and nothing else."""
        return self.answered and not (self.lacks or self.superseded or self.corrupt)


@dataclass
class Hint:
    """A write that a node keeps for another. `own`: what it owes is its own row.

    `sees`: what the holder, which delivers it, says of the home: up, suspect or down.
    """

    held_by: str
    home: str
    since_ms: int
    own: bool
    sees: str


@dataclass
class KeyView:
    arc: int
    owners: list[str]
    fallbacks: list[str]
    states: dict[str, str]
    values: list[Value]
    holdings: list[Holding]
    hints: list[Hint]
    minters: dict[str, str]

    @property
    def siblings(self) -> list[Value]:
        """Values that a get shows."""
        return [value for value in self.values if value.number]


def view_of(
    answers: Answers, states: dict[str, str], peers: dict[str, dict[str, str]], now_ms: int
) -> KeyView:
    """Put the answers of one key together; `answers` must not be empty.

    `states`: what the ring says of each node; `peers`: what each says of the others.
    """
    first = next(iter(answers.values()))
    owners: list[str] = first["owners"]
    fallbacks: list[str] = first["fallbacks"]
    objects = [obj for answer in answers.values() for obj in _objects(answer)]
    values = _current(objects)
    minters = _minters(answers, [*owners, *fallbacks])
    _number(values, now_ms)
    for value in values:
        value.minted_by = list(dict.fromkeys(minters.get(actor, "") for actor, _ in value.dots))
    holdings = [
        _holding(name, owners, states, answers.get(name), values) for name in [*owners, *fallbacks]
    ]
    hints = [
        Hint(name, home, hint["since_wall_ms"], not hint["obj"], peers[name].get(home, "down"))
        for name, answer in answers.items()
        if (hint := answer["hint"])
        for home in hint["homes"]
    ]
    return KeyView(first["arc"], owners, fallbacks, states, values, holdings, hints, minters)


# --- objects ------------------------------------------------------------------------------------


def _objects(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if answer["row"]:
        yield answer["row"]
    if answer["hint"] and answer["hint"]["obj"]:
        yield answer["hint"]["obj"]


def _clock(obj: dict[str, Any]) -> dict[str, int]:
    return {entry["actor"]: entry["n"] for entry in obj["entries"]}


def _live(obj: dict[str, Any]) -> dict[Dot, dict[str, Any]]:
    return {
        (entry["actor"], value["n"]): value for entry in obj["entries"] for value in entry["values"]
    }


def _current(objects: list[dict[str, Any]]) -> list[Value]:
    """The values that survive the merge of all objects, newest first."""
    known = [(_clock(obj), _live(obj)) for obj in objects]
    everything = {dot: value for _, live in known for dot, value in live.items()}
    superseded = {
        (actor, n)
        for actor, n in everything
        if any(clock.get(actor, 0) >= n and (actor, n) not in live for clock, live in known)
    }
    alive = {dot: value for dot, value in everything.items() if dot not in superseded}
    dead_puts = {everything[dot]["put_id"] for dot in superseded}
    if any(value["put_id"] not in dead_puts for value in alive.values()):  # D5
        alive = {d: value for d, value in alive.items() if value["put_id"] not in dead_puts}
    found: dict[str, Value] = {}
    for dot, value in sorted(alive.items()):
        if value["put_id"] in found:
            found[value["put_id"]].dots.append(dot)
        else:
            found[value["put_id"]] = _value(dot, value)
    # The order in which a get shows them, so that numbers are those of `resolve --pick`.
    return sorted(found.values(), key=lambda value: (-value.stamp_ms, value.put_id))


def _value(dot: Dot, value: dict[str, Any]) -> Value:
    return Value(
        value["put_id"],
        [dot],
        value["stamp_ms"],
        value["expires_ms"],
        value["tombstone"],
        value["bytes"],
        b64decode(value["payload"]),
    )


def _number(values: list[Value], now_ms: int) -> None:
    number = 0
    for value in values:
        if not value.tombstone and not 0 < value.expires_ms <= now_ms:
            number += 1
            value.number = number


def _minters(answers: Answers, names: list[str]) -> dict[str, str]:
    """actor -> the node that minted under it.

    Each node knows its own. What none of those that answered calls its own was minted by one that
    did not; where that is a single one, it has a name.
    """
    found: dict[str, str] = {}
    actors: dict[str, None] = {}
    for name, answer in answers.items():
        for obj in _objects(answer):
            for entry in obj["entries"]:
                actors[entry["actor"]] = None
                if entry["minted_here"]:
                    found[entry["actor"]] = name
    silent = [name for name in names if name not in answers]
    if len(silent) == 1:
        return {actor: found.get(actor, silent[0]) for actor in actors}
    return found


# --- nodes --------------------------------------------------------------------------------------


def _holding(
    name: str,
    owners: list[str],
    states: dict[str, str],
    answer: dict[str, Any] | None,
    values: list[Value],
) -> Holding:
    role = f"owner {owners.index(name) + 1}" if name in owners else ""
    holding = Holding(name, role, states.get(name, "down"))
    if answer is None:
        return holding
    holding.answered, holding.corrupt = True, answer["corrupt"]
    holding.synced = answer["synced"]
    hint = answer["hint"]
    if hint and name not in owners:
        holding.role = f"for {show.listed(hint['homes'])}"
    obj = answer["row"] if name in owners else hint and hint["obj"]
    if obj:
        holding.digest, holding.clock = obj["digest"], _clock(obj)
    live = _live(obj) if obj else {}
    for value in values:
        (holding.has if any(dot in live for dot in value.dots) else holding.lacks).append(value)
    current = {value.put_id for value in values}
    holding.superseded = len(
        {value["put_id"] for value in live.values() if value["put_id"] not in current}
    )
    return holding


# --- in words -----------------------------------------------------------------------------------


def headline(view: KeyView) -> str:
    """What is there and who has it, in one sentence."""
    owners = [holding for holding in view.holdings if holding.is_owner]
    if not any(holding.answered for holding in owners) and not view.values:
        return "no owner answers, so nothing can be said about this key"
    what = _what(view)
    behind = [holding for holding in owners if not holding.current]
    if not behind:
        if len(owners) == 1:
            return f"{what}; its only owner has it" if view.values else what
        return f"{what}; all {len(owners)} owners agree"
    if len(behind) == 1:
        return f"{what}; {_behind(view, behind[0])}"
    return f"{what}; {_all_behind(view, behind)}"


def _all_behind(view: KeyView, behind: list[Holding]) -> str:
    """Several owners: grouped by what is amiss with them, the hints for all of them last."""
    groups: dict[str, list[str]] = {}
    for holding in behind:
        groups.setdefault(_amiss(view, holding), []).append(holding.name)
    parts = [
        f"{show.listed(names)} {amiss if len(names) == 1 else _of_several(amiss)}"
        for amiss, names in groups.items()
    ]
    homes = [name for name in view.owners if any(hint.home == name for hint in view.hints)]
    if homes:
        parts.append(f"hints wait for {show.listed(homes)}")
    return "; ".join(parts)


def _what(view: KeyView) -> str:
    count = len(view.siblings)
    if count > 1:
        return f"{count} concurrent values"
    if count == 1:
        beside = any(value.tombstone for value in view.values)
        return "1 value, beside a concurrent delete" if beside else "1 value"
    if not view.values:
        return "never written" if not any(h.clock for h in view.holdings) else "no value"
    return "deleted" if any(value.tombstone for value in view.values) else "expired"


def _behind(view: KeyView, holding: Holding) -> str:
    """One owner, and who keeps a hint for it."""
    keepers = [hint.held_by for hint in view.hints if hint.home == holding.name]
    text = f"{holding.name} {_amiss(view, holding)}"
    if keepers:
        verb = "keeps" if len(keepers) == 1 else "keep"
        text += f"; {show.listed(keepers)} {verb} a hint for it"
    return text


def _amiss(view: KeyView, holding: Holding) -> str:
    if not holding.answered:
        return "does not answer"
    if holding.corrupt:
        return "has set its damaged copy aside"
    if not holding.lacks:
        return f"still shows {show.plural(holding.superseded, 'superseded value')}"
    if not holding.clock:
        return "has nothing of it yet"
    if len(view.values) == 1:
        return "has not yet got the newest value" if view.siblings else "still lacks the delete"
    return f"has not yet got {numbers(holding.lacks)}"


def _of_several(amiss: str) -> str:
    """The same words about more than one node."""
    for one, many in (("does ", "do "), ("has ", "have "), ("still lacks", "still lack")):
        if amiss.startswith(one):
            return many + amiss.removeprefix(one)
    return amiss.replace("still shows", "still show")


def numbers(values: list[Value]) -> str:
    """value 1 · values 1, 2 · the delete."""
    counted = [str(value.number) for value in values if value.number]
    parts = []
    if counted:
        parts.append(f"value{'s' if len(counted) > 1 else ''} {', '.join(counted)}")
    if any(value.tombstone for value in values):
        parts.append("the delete")
    elif not counted and values:
        parts.append("an expired value")
    return " and ".join(parts)


def dot_text(view: KeyView, dot: Dot) -> str:
    """A dot as node:n; with a piece of the actor where one node has minted under several."""
    actor, n = dot
    minter = view.minters.get(actor)
    if minter is None:
        return f"?{actor[:4]}:{n}"
    alone = sum(name == minter for name in view.minters.values()) == 1
    return f"{minter}:{n}" if alone else f"{minter}/{actor[-4:]}:{n}"


def reason(view: KeyView) -> str:
    """Why there are several values: who minted what when, and what that proves; "" for one."""
    count = len(view.values)
    if count < 2:
        return ""
    minted = "; ".join(_minted(view, value) for value in view.values[:NAMED_MAX])
    if count > NAMED_MAX:
        minted += f"; and so on for {count - NAMED_MAX} more"
    return f"Why {count} values? {minted}. {_proof(view)}"


def _minted(view: KeyView, value: Value) -> str:
    places = [
        f"{name}, standing in," if name in view.fallbacks else name or "a node that is silent"
        for name in value.minted_by
    ]
    dots = " and ".join(dot_text(view, dot) for dot in value.dots)
    twice = " (one put, minted again for a retry)" if len(value.dots) > 1 else ""
    when = show.clock(value.stamp_ms / 1000)
    return f"{numbers([value])} was minted by {show.listed(places)} as {dots} at {when}{twice}"


def _proof(view: KeyView) -> str:
    if len({value.dots[0][0] for value in view.values}) == 1:
        return (
            "All went through one node, and each came with no context that covers the ones before "
            "it: a blind put, or one made from an older read. They stay until a write that has "
            "seen them all replaces them."
        )
    if len(view.values) == 2:
        return (
            "Neither came with a context that covers the other's dot, so neither writer had seen "
            "the other. Both stay until a write that has seen both replaces them."
        )
    return (
        "None came with a context that covers another's dot, so no writer had seen another. They "
        "stay until a write that has seen them all replaces them."
    )
