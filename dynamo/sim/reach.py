"""Which requests must succeed (I13): those with enough nodes within reach for all of their life.

A ring of which half is gone may refuse, and one that is just falling apart may fail. What it may
not do is fail for no reason. So a failure is looked at when it happens, and is a violation if all
of this holds:

    nothing changed   nobody died, came back, was cut off or joined again, since well before the
                      operation began: long enough for everybody to have noticed
    the air is clear  no frame is lost, late or damaged
    a clean cut       the nodes that the client reaches reach each other, both ways, and each other
                      node is down or silent to all of them
    enough of them    W of them can hold a put, counting stand-ins where it is sloppy; R owners that
                      count can answer a get; pw and pr are met by owners
    enough time       each attempt may wait for a silent owner, there is an attempt for each node
                      that will not answer, and nobody loses patience before an answer can be there

"Overloaded", "too many siblings" and "disk full" are answers, and right at their limits; so are
refusals of what can never work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo.client import errors
from dynamo.client.op import Op
from dynamo.core import messages as m
from dynamo.core.config import quorum
from dynamo.core.ring import arc_of
from dynamo.sim.judge import Judge

if TYPE_CHECKING:
    from dynamo.sim.caller import Caller
    from dynamo.sim.world import World

ANSWERS = (
    errors.Overloaded, errors.TooManySiblings, errors.DiskFull, errors.BadContext,
    errors.ConfigurationError, errors.KeyInvalid, errors.ValueTooLarge,
)  # fmt: skip
# How long until everybody has understood that a clock stood still.
UNDERSTOOD_MS = 2 * m.Ages.WINDOW_MS + m.Ages.MOMENT_MS
SLACK_MS = 60  # turns of nodes, round trips, and the margin that a client keeps
NOTICED_MS = 500  # on top of a suspicion: backlogs run off, clients try again


class Reach(Judge):
    """No request fails while enough nodes are within reach."""

    numbers = ("I13",)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        config = world.config
        self._settle_ms = (
            config.suspicion_ms + 3 * config.probe_ms + config.probe_timeout_ms + NOTICED_MS
        )

    def answered(self, client: Caller, op: Op) -> None:
        world = self.world
        if op.kind not in (m.PUT, m.GET):
            return
        if world.changed_ms + self._settle_ms > op.started_ms:
            return
        if op.answer is not None:
            if any(host.node is None for host in world.hosts.values()):
                world.mark("served while somebody was down")
            return
        if op.error is None or isinstance(op.error, ANSWERS) or client.session.ring is None:
            return
        if op.started_ms < world.thawed_ms + UNDERSTOOD_MS:
            return  # its frames look old for a while, and are dropped where somebody waits
        if not world.network.is_clear() or any(what.startswith("forced") for what in world.marks):
            return
        near = self._within_reach(client.name)
        if near is None or (op.pin and op.pin not in near):
            return
        if self._had_time(op, len(world.hosts) - len(near)) and self._are_enough(op, near):
            self.oracle.accuse(
                "I13", op.key,
                f"{client.name} could reach {', '.join(near)} all the time, and failed: {op.error}",
            )  # fmt: skip

    def _within_reach(self, client: str) -> list[str] | None:
        """The nodes on the client's side of a clean cut; None if the cut is none."""
        world = self.world
        joined = world.network.are_joined
        awake = [
            name for name, host in world.hosts.items() if host.node is not None and not host.paused
        ]
        near = [name for name in awake if joined(client, name)]
        for name in near:
            if any(other != name and not joined(name, other) for other in near):
                return None
        for name in awake:
            if name not in near and any(
                world.network.is_open(a, b)
                for other in near
                for a, b in ((name, other), (other, name))
            ):
                return None
        return near

    def _had_time(self, op: Op, silent: int) -> bool:
        world = self.world
        time_ms = min(op.deadline_ms - op.started_ms, world.config.timeout_ms_max)
        if world.config.replica_timeout_ms < 2 * world.trip_ms:
            return False  # owners count as silent before they can have answered
        needed_ms = 3 * world.config.replica_timeout_ms + 6 * world.trip_ms + SLACK_MS
        return op.tries > silent and time_ms // op.tries >= needed_ms

    def _are_enough(self, op: Op, near: list[str]) -> bool:
        config, world = self.world.config, self.world
        arc = arc_of(op.key, config.partitions)
        owners = world.table.owners(arc)
        there = [name for name in owners if name in near]
        asked, strictly, flags = op.tail[:3]
        if op.kind == m.GET:
            ready = [name for name in there if self._counts(name, arc)]
            r = self._level(asked, config.r, len(owners))
            pr = self._level(strictly, 0, len(owners)) if strictly else 0
            return len(ready) >= max(r, pr, 1)
        w = self._level(asked, config.w, len(owners))
        pw = self._level(strictly, 0, len(owners)) if strictly else 0
        if any(host.disk.disk_full for host in world.hosts.values()) or len(there) < pw:
            return False
        holders = len(there)
        if flags & m.SLOPPY:
            holders += min(len(near) - len(there), len(owners) - len(there))
        return holders >= w and (bool(there) or bool(flags & m.SLOPPY and not pw))

    def _counts(self, name: str, arc: int) -> bool:
        node = self.world.hosts[name].node
        return node is not None and node.replica.synced(arc)

    @staticmethod
    def _level(asked: int, own: int, owners: int) -> int:
        if asked == m.ALL:
            return owners
        return quorum(owners) if asked == m.QUORUM else min(asked or own or quorum(owners), owners)
