"""The second phase: some hosts stay broken for ever, and the others must go on without them.

Faults that always heal never show a ring that waits for somebody who will not come back: a walk
that is begun again and again with a peer that hears nothing, a hint that blocks the ones behind
it, a node that is deaf and looks alive because it talks. So, after the storm:

    choose   hosts to stay dead, paused, deaf, mute or flapping, in the drawn order, as long as
             every arc keeps enough owners in the *core* of the others for reads and writes
    go on    clients work as before; the core is whole, and knows that from nobody
    agree    clients have stopped: owners within the core hold the same, and owe each other
             nothing, within the time that a whole ring is given (I5, I9)
    serve    every node of the core answers whoever asks it, at the ring's own levels (I13)

Then everything is healed, and the ring is judged as a whole. Where no host can be spared the whole
ring is the core.

Source: TigerBeetle, "Simulation Testing For Liveness".
"""

from __future__ import annotations

import random

from dynamo.core.config import quorum
from dynamo.sim.acts import choose
from dynamo.sim.history import FAIL, INFO
from dynamo.sim.network import across, one_way
from dynamo.sim.profiles import Draw
from dynamo.sim.reach import UNDERSTOOD_MS
from dynamo.sim.rest import scrub, unsettled
from dynamo.sim.workload import Client, Habit
from dynamo.sim.world import World

FLAP_MS = 250
SERVE_MS = 4_000
ACTS = 8  # what each node of the core is asked to do


class Endure:
    """Breaks hosts for good, and judges the rest."""

    def __init__(self, drawn: Draw, world: World) -> None:
        self._drawn = drawn
        self._world = world
        self._over = False
        self.how: dict[str, str] = {}  # the hosts that stay broken

    @property
    def core(self) -> list[str]:
        return [name for name in self._world.hosts if name not in self.how]

    # --- choosing -----------------------------------------------------------------------------

    def begin(self) -> bool:
        """Break what can be spared; False if that is nobody."""
        scrub(self._world)
        for name, how in self._drawn.broken:
            if name in self._world.hosts and self._can_spare(name):
                self.how[name] = how
        for name, how in self.how.items():
            self._break(name, how)
            self._world.mark(f"broken for ever: {how}")
            self._world.record("fault", how, name, "for ever")
        return bool(self.how)

    def _can_spare(self, name: str) -> bool:
        world = self._world
        core = [other for other in self.core if other != name]
        owners_of = world.table.owners
        return bool(core) and all(
            self._is_served(arc, owners_of(arc), core) for arc in range(world.config.partitions)
        )

    def _is_served(self, arc: int, owners: tuple[str, ...], core: list[str]) -> bool:
        # An owner that is not synced counts in no read, and becomes synced only with as many
        # others that are (X1): the core must have those, too.
        config = self._world.config
        r, w = config.r or quorum(len(owners)), config.w or quorum(len(owners))
        needed = min(max(r, len(owners) - w + 1), len(owners) - 1)
        there = [name for name in owners if name in core]
        synced = [
            name
            for name in there
            if (node := self._world.hosts[name].node) is not None and node.replica.synced(arc)
        ]
        return len(there) >= w and len(synced) >= max(r, needed)

    def _break(self, name: str, how: str) -> None:
        world = self._world
        others = [other for other in (*world.hosts, *world.clients) if other != name]
        if how == "dead":
            world.kill(name)
        elif how == "paused":
            world.pause(name)
        elif how == "deaf":
            world.network.cut(one_way(others, [name]), False)
        elif how == "mute":
            world.network.cut(one_way([name], others), False)
        else:
            self._flap(across([[name], others]), True)
        world.note_change()

    def _flap(self, links: list[tuple[str, str]], cut: bool) -> None:
        world = self._world
        if self._over:
            return
        world.note_change()
        if cut:
            world.network.cut(links, False)
        else:
            world.post(world.network.mend(world.now_ms, links, False))
        world.at(world.now_ms + FLAP_MS, self._flap, links, not cut)

    # --- judging ------------------------------------------------------------------------------

    def agree(self, patience_ms: int) -> None:
        """Let the core come to rest on its own."""
        world, core = self._world, self.core
        began_ms = world.now_ms
        while True:
            world.run_until(world.now_ms + 50)
            number, why = unsettled(world, core)
            if not number:
                world.mark("the core came to rest without the others")
                return
            if world.now_ms - began_ms > patience_ms:
                world.oracle.accuse(
                    number, b"", f"{self} is not at rest after {patience_ms} ms: {why}"
                )
                return

    def serve(self) -> None:
        """Every node of the core must answer."""
        world = self._world
        # Frames of a host whose clock stood still look old until that is understood.
        world.run_until(max(world.now_ms, world.thawed_ms + UNDERSTOOD_MS))
        until_ms = world.now_ms + SERVE_MS
        keys = max((habit.keys for habit in self._drawn.habits if habit is not None), default=1)
        askers = []
        for name in self.core:
            habit = Habit(
                weights={"cold": 1, "read": 2}, keys=keys, think_ms=10, timeout_ms=SERVE_MS // 2,
                tries=12, pinned=name, acts=ACTS,
            )  # fmt: skip
            rng = random.Random(f"{world.seed}/core/{name}")
            asker = Client(f"core-{name}", habit, world, rng, until_ms)
            askers.append(asker)
            asker.begin(world.now_ms + 1, choose)
        world.run_until(until_ms + SERVE_MS // 2)
        # A table of a few entries is full of writes that wait for somebody deaf: heard, and so
        # taken for UP, and silent. "Overloaded" is then the right answer.
        # And in 200 ms, with frames that are lost, a quorum may not be heard.
        config = world.config
        hasty = config.timeout_ms_max < SERVE_MS // 4 and not world.network.is_clear()
        cramped = config.pending_ops_max < 64 or config.pending_bytes_max < 4_096 or hasty
        for asker in askers:
            if (asker.counts[FAIL] and not cramped) or asker.counts[INFO]:
                world.oracle.accuse(
                    "I13", b"", f"{self} did not serve {asker.name}: {asker.counts}"
                )

    def end(self) -> None:
        """Everything is whole again."""
        self._over = True
        self._world.heal()

    def __str__(self) -> str:
        rest = ", ".join(f"{name} {how}" for name, how in self.how.items())
        return f"the core of {', '.join(self.core)} (for ever: {rest})"
