"""What the live view shows, as plain values, and what it suggests to try next.

Pure: a scene in, text out. So every stage of the story can be looked at without a ring.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from dynamo.demo.traffic import IDLE, NOTHING, Counts, Rate

UP, STARTING, BEHIND, SILENT, KILLED = "up", "starting", "catching up", "no answer", "killed"
PLAIN, GOOD, BAD = "", "good", "bad"


class NodeScene(NamedTuple):
    """One node. `owed`: writes that wait for it elsewhere; `keeps`: those it keeps, by home."""

    name: str
    state: str = UP
    for_s: float | None = None  # how long it has been dead
    keys: int | None = None
    owed: int = 0
    keeps: dict[str, int] = {}  # noqa: RUF012 - never changed
    side: int = -1  # of a partition; -1: there is none


class Event(NamedTuple):
    at_s: float
    text: str
    mood: str = PLAIN


class Advice(NamedTuple):
    """What to do next: a key, or "" for waiting, and why."""

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One moment. `done`: which of kill, split and resolve have been seen to their end."""

    elapsed_s: float = 0.0
    nodes: tuple[NodeScene, ...] = ()
    owners: tuple[tuple[str, ...], ...] = ()
    cart_arc: int = -1
    loaded: int = 0
    records: int = 0
    load_on: bool = False
    writes: Rate = IDLE
    reads: Rate = IDLE
    counts: Counts = NOTHING
    checked: str = ""
    cart: tuple[str, ...] = ()
    cart_note: str = ""
    undecided: bool = False  # the sides of a partition have written, and nobody resolved it
    shown: bool = False  # the user has seen all values of the cart
    settled: bool = True  # all copies are known to be equal
    busy: str = ""
    done: frozenset[str] = field(default_factory=frozenset)
    events: tuple[Event, ...] = ()
    url: str = ""
    program: str = "dynamo"

    @property
    def down(self) -> list[str]:
        return [node.name for node in self.nodes if node.state == KILLED]

    @property
    def split(self) -> bool:
        return any(node.side >= 0 for node in self.nodes)

    @property
    def hints(self) -> int:
        return sum(node.owed for node in self.nodes)


def advice(scene: Scene) -> Advice:
    """The one thing to try next, so that a newcomer is led through the whole story."""
    if scene.busy:
        return Advice("", f"{scene.busy} ...")
    if scene.loaded < scene.records and not scene.down and not scene.split:
        return Advice("", "Real records are being loaded. Each is stored on 3 of the 5 nodes.")
    return _trouble(scene) or _after(scene) or _next_act(scene)


def _trouble(scene: Scene) -> Advice | None:
    """While something is broken: what to notice, and how to mend it."""
    if scene.split:
        return Advice(
            "h",
            "Neither side reaches the other; both took a write for cart:7. "
            "Heal, and see what becomes of the two.",
        )
    if len(scene.down) > 1:
        names = " and ".join((", ".join(scene.down[:-1]), scene.down[-1]))
        return Advice(
            "r",
            f"{names} are dead. Writes go on; reads of keys that have one copy left may fail. "
            "Bring them back.",
        )
    if scene.down:
        kept = f" Others keep what it misses: {scene.hints:,} hints." * bool(scene.hints)
        return Advice("r", f"{scene.down[0]} is dead; reads and writes go on.{kept} Bring it back.")
    return None


def _after(scene: Scene) -> Advice | None:
    """When it is mended: what is left to do."""
    if not scene.settled:
        return Advice("", "What was missed is being delivered, and all copies compared.")
    if scene.undecided and not scene.shown:
        return Advice("s", "Both sides changed cart:7 while apart. See what it holds now.")
    if scene.undecided:
        return Advice(
            "s",
            "Two values, neither lost: siblings. Put both into one cart, by one write that "
            "has seen both.",
        )
    return None


def _next_act(scene: Scene) -> Advice:
    if not scene.load_on:
        return Advice(
            "w", "Reads and writes pause. Let them go on: there should be something to lose."
        )
    if "kill" not in scene.done:
        return Advice("k", "kill -9 a node while it is being written to.")
    if "split" not in scene.done:
        return Advice("p", "Cut the network in two. Both sides will change the same shopping cart.")
    return Advice(
        "",
        "That is the whole story. Play it again in any order, or look at the ring from another "
        "terminal.",
    )
