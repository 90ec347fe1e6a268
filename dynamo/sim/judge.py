"""What watches a world from the side, and is told of each thing that happens in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from dynamo.client.op import Op
from dynamo.core.node import Node
from dynamo.sim.machine import Change, Host

if TYPE_CHECKING:
    from dynamo.sim.caller import Caller
    from dynamo.sim.world import World

# What a commit changed: space and key, and what was there before the step.
Changes = dict[tuple[int, bytes], bytes | None]


def first_changes(changes: Iterable[Change]) -> Changes:
    """What a commit changed, each with what was there before the step."""
    found: Changes = {}
    for space, key, before in changes:
        found.setdefault((space, key), before)
    return found


class Judge:
    """One promise. Each method hears of something, and accuses where the promise is broken."""

    numbers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, world: World) -> None:
        self.world = world
        self.oracle = world.oracle

    def started(self, host: Host) -> None:
        """A process has started over the disk of its host."""

    def committed(self, host: Host, first: Changes) -> None:
        """A commit has succeeded; `first` has each row it changed, with what was there before."""

    def stepped(self, host: Host, node: Node) -> None:
        """A step has been committed, and nothing of its outbox has left."""

    def answered(self, client: Caller, op: Op) -> None:
        """An operation of a client has ended."""

    def lost(self, host: Host) -> None:
        """The disk has lost something by a fault."""

    def is_idle(self) -> bool:
        """Whether everything that this judge waits for has come to its end."""
        return True

    def at_rest(self) -> None:
        """Nothing goes wrong any more, and the ring has come to rest."""


class Watched:
    """What has judges, and tells them. Most of them listen to one thing only, and each of these
    happens thousands of times in a run: so nobody is told of what it does not listen to."""

    on_step: list[Callable[..., None]]
    on_answer: list[Callable[..., None]]

    @property
    def judges(self) -> list[Judge]:
        """Who watches from the side."""
        return self._judges

    @judges.setter
    def judges(self, judges: list[Judge]) -> None:
        self._judges = judges
        self._on_commit = _listeners(judges, "committed")
        self.on_step = _listeners(judges, "stepped")
        self.on_answer = _listeners(judges, "answered")

    def tell_committed(self, host: Host, changes: list[Change]) -> None:
        """A commit of this host has succeeded."""
        first = first_changes(changes)
        for committed in self._on_commit:
            committed(host, first)


def _listeners(judges: Iterable[Judge], method: str) -> list[Callable[..., None]]:
    """This method of every judge that has one of its own."""
    default = getattr(Judge, method)
    return [
        getattr(judge, method) for judge in judges if getattr(type(judge), method) is not default
    ]
