"""What a ring at rest looks like, for all of it or for a part that is cut off from the others.

At rest no hint is left that somebody would take, everybody who is there is taken for there, and
the owners of each arc hold the same. Where a part is asked about, the others may be in any state:
hints for them stay, and so does what is thought of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dynamo.core import dvv
from dynamo.sim.machine import Host

if TYPE_CHECKING:
    from dynamo.sim.world import World


def unsettled(world: World, names: Sequence[str]) -> tuple[str, str]:
    """What keeps these nodes from being at rest: the invariant's number and why; or "", ""."""
    for name in names:
        number, why = _restless(world.hosts[name], names)
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


def _restless(host: Host, names: Sequence[str]) -> tuple[str, str]:
    node, name = host.node, host.name
    if node is None:
        return "I5", f"{name} is down"
    if not node.ready:
        return "I5", f"{name} is not ready"
    hints = {home: count for home, count in node.handoff.counts().items() if home in names}
    if hints:
        return "I9", f"{name} keeps hints {hints}"
    for peer, state in node.liveness.states().items():
        if state != "up" and peer in names:
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
