"""Words for a story: names of actors, faults, and what became of writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from dynamo.core.dvv import ACTOR_BYTES
from dynamo.sim.history import INFO, NEVER_MS, OK, OPEN, Write
from dynamo.sim.world import World

_ACTOR = re.compile(rf"\b[0-9a-f]{{{2 * ACTOR_BYTES}}}\b")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WRITES_MAX = 24

# Faults as `nemesis` records them: kind, host, for_ms, groups, hold, amount.
_FAULTS = {
    "kill": "{host} will be killed, for {for_ms} ms",
    "before": "{host} dies in its next writing step, before it commits, for {for_ms} ms",
    "after": "{host} dies in its next writing step, before it sends anything, for {for_ms} ms",
    "sending": "{host} dies in its next writing step, while it sends, for {for_ms} ms",
    "loop": "{host} dies again and again, for {for_ms} ms",
    "blackout": "all nodes die, for {for_ms} ms",
    "pause": "{host} is stopped for {for_ms} ms",
    "freeze": "{host} is stopped for {for_ms} ms, and so is its clock",
    "slow": "frames of {host} take {amount} ms longer, for {for_ms} ms",
    "deaf": "{host} hears nobody, for {for_ms} ms",
    "mute": "nobody hears {host}, for {for_ms} ms",
    "wipe": "{host} loses its disk, and is back after {for_ms} ms",
    "torn": "the disk of {host} is going to lose what it takes in the next {for_ms} ms",
    "relapse": "the disk of {host} goes back to an old copy",
    "restore": "the disk of {host} goes back to an old copy, and nobody tells it",
    "unreadable": "the disk of {host} fails with its next read",
    "fsync": "the disk of {host} fails with its next commit",
    "full": "the disk of {host} has no room, for {for_ms} ms",
    "skew": "the wall clock of {host} jumps by {amount} ms",
    "strobe": "the wall clock of {host} jumps to and fro, for {for_ms} ms",
}


# What the last parts of a story begin with.
KNOWN = "What the clients know of these writes:"
NAMES = "Names"


def listed(things: Iterable[object]) -> str:
    """One, two and three."""
    words = list(map(str, things))
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def fault_in_words(what: str, rest: Sequence[Any]) -> tuple[str, str]:
    """To whom something happened, and what."""
    if what == "fault" and len(rest) >= 6:
        kind, host, for_ms, groups, hold, amount = rest[:6]
        if kind in _FAULTS:
            return host, _FAULTS[kind].format(host=host, for_ms=for_ms, amount=amount)
        sides = " | ".join(" ".join(group) for group in groups)
        how = "is held back" if hold else "is lost"
        cut = f", sides {sides}; what passes {how}" if groups else ""
        return host, f"{kind} at {host} for {for_ms} ms{cut}"
    words = {
        "start": "starts", "killed": "is killed", "wiped": "has lost its disk",
        "power lost": "has lost what was not synced", "taken back": "has an older disk",
        "forgotten": "has lost a row, and does not know", "rotten": "has a damaged record",
    }  # fmt: skip
    if what in words and rest:
        return str(rest[0]), words[what]
    return "", " ".join(map(str, (what, *rest)))


class Names:
    """Short names for actors, in the order in which a story meets them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._letters: dict[bytes, str] = {}
        self._nodes: dict[bytes, str] = {}

    def of(self, actor: bytes) -> str:
        """The letter of an actor: A to Z, then A' and so on."""
        at = len(self._letters)
        letter = _ALPHABET[at % len(_ALPHABET)] + "'" * (at // len(_ALPHABET))
        return self._letters.setdefault(actor, letter)

    def note(self, actor: bytes, node: str) -> None:
        """This node was seen to write under it."""
        self._nodes.setdefault(actor, node)

    def in_words(self, text: str) -> str:
        """A text with letters in place of actors."""
        return _ACTOR.sub(lambda found: self.of(bytes.fromhex(found[0])), text)

    def legend(self) -> list[str]:
        """Who writes under which letter."""
        if not self._letters:
            return []
        said = [
            f"{letter} is a name of {self._nodes[actor]}"
            for actor, letter in self._letters.items()
            if actor in self._nodes
        ]
        return [f"{NAMES}: {'; '.join(said)}."] if said else []


def writes_in_words(world: World, writes: Sequence[Write]) -> list[str]:
    """What became of these writes, as their clients know it."""
    if not writes:
        return []
    said = {OK: "acknowledged", INFO: "outcome unknown", OPEN: "under way"}
    lines = [KNOWN]
    for write in writes[-WRITES_MAX:]:
        history = world.oracle.of(write.key)
        over = listed([other.uid for other in history.newest(write.past)])
        what = "delete" if write.delete else "put"
        if write.opaque:
            over = "what it had seen"
        ended = f" to {write.ended_ms}" if write.ended_ms != NEVER_MS else ""
        attempts = f", {write.attempts} attempts" if write.attempts > 1 else ""
        how = said.get(write.status, "failed")
        lines.append(
            f"         {write.uid:16} {what} over {over or 'nothing'}, "
            f"{write.begun_ms}{ended} ms: {how}{attempts}"
        )
    return lines
