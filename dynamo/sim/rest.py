"""What a ring at rest looks like, for all of it or for a part that is cut off from the others.

At rest no hint is left that somebody would take, everybody who is there is taken for there, and
the owners of each arc hold the same. Where a part is asked about, the others may be in any state:
hints for them stay, and so does what is thought of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dynamo.core import dvv
from dynamo.core.items import LEAVING, LEFT
from dynamo.sim.machine import Host

if TYPE_CHECKING:
    from dynamo.sim.world import World


def unsettled(world: World, names: Sequence[str]) -> tuple[str, str]:
    """What keeps these nodes from being at rest: the invariant's number and why; or "", ""."""
    for name in names:
        number, why = _restless(world, world.hosts[name], names)
        if number:
            return number, why
    number, why = _in_motion(world, names)
    if number:
        return number, why
    for arc in range(world.config.partitions):
        roots = {
            name: node.replica.roots.get(arc, 0)
            for name in world.table.owners(arc)
            if name in names and (node := world.hosts[name].node) is not None
        }
        if len(dict.fromkeys(roots.values())) > 1:
            return "I5", f"arc {arc} has roots {roots}"
    return "", ""


def _in_motion(world: World, names: Sequence[str]) -> tuple[str, str]:
    """Whether the ring itself is still on its way somewhere, or known differently here and there.

    Where a part is asked about, only what the part can settle alone is: nothing of a change.
    """
    if len(names) < len(world.running):
        return "", ""
    rosters = {name: node.roster for name in names if (node := world.hosts[name].node) is not None}
    # Who is out of it is told nothing more.
    inside = [name for name in rosters if world.census.status(name) < LEFT]
    hashes = {name: rosters[name].hash for name in inside}
    if len(dict.fromkeys(hashes.values())) > 1:
        return "I10", f"the ring is known differently: {hashes}"
    roster = rosters[inside[0]]
    for arc, (register, goal) in enumerate(zip(roster.table.registers, roster.goals, strict=True)):
        if register.next or (goal.ver and sorted(goal.owners) != sorted(register.cur)):
            return "I10", f"arc {arc} is at {register}, and shall come to {goal.owners}"
    for name, host in world.hosts.items():
        if host.forsaken and world.census.inside(name):
            return "I10", f"{name} is lost, and nobody has removed it"
    for name, status in ((name, world.census.status(name)) for name in names):
        if status == LEAVING:
            return "I10", f"{name} is still leaving"
        node = world.hosts[name].node
        roots = node.replica.roots if node is not None else {}
        strays = [arc for arc in roots if name not in roster.table.writers(arc)]
        if strays:
            return "I10", f"{name} holds rows of arcs {strays} and owns none of them"
    return "", ""


def _restless(world: World, host: Host, names: Sequence[str]) -> tuple[str, str]:
    node, name = host.node, host.name
    if node is None:
        return "I5", f"{name} is down"
    if world.census.status(name) >= LEFT:
        # It serves nobody and knows nobody; what it had, the others have taken, or will not.
        kept = node.handoff.counts()
        return ("I9", f"{name} is gone and keeps hints {kept}") if kept else ("", "")
    if not node.ready:
        return "I5", f"{name} is not ready"
    hints = {home: count for home, count in node.handoff.counts().items() if home in names}
    if hints:
        return "I9", f"{name} keeps hints {hints}"
    for peer, state in node.liveness.states().items():
        if state != "up" and peer in names and world.census.status(peer) < LEFT:
            return "I5", f"{name} takes {peer} for {state}"
    return "", ""


def only_copy(hosts: Mapping[str, Host], name: str, only: bytes | None = None) -> bool:
    """Whether this disk holds anything of any key (or of one) that no other disk holds."""
    mine = hosts[name].disk
    for skey in [only] if only is not None else mine.skeys():
        others: dvv.Clock = []
        for other, host in hosts.items():
            if other != name:
                for obj in host.disk.held(skey):
                    others = dvv.merge(others, dvv.decode(obj))
        for obj in mine.held(skey):
            if dvv.merge(others, dvv.decode(obj)) != others:
                return True
    return False


def scrub(world: World) -> None:
    """Read every row of every host on which rot lies, so that it is come upon.

    Nodes verify what they read, and nothing else reads what no client asks for. This stands for a
    scrub, or for an operator who copies the directory.
    """
    for host in world.hosts.values():
        if host.node is not None and host.disk.still_rotten():
            host.node.replica.rows(b"", b"\xff" * 5, 1 << 30)
