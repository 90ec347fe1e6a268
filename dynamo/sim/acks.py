"""Each acknowledgement held against the disks, before its client hears of it (I12).

A put that is answered OK at level W must be on W disks: itself, or what was written over it. A disk
that has lost something since the put began may have had it, and gets the benefit of the doubt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo.core import dvv, ring
from dynamo.core import messages as m
from dynamo.core.config import quorum
from dynamo.core.messages import Message
from dynamo.core.spaces import IDS
from dynamo.sim.machine import Disk
from dynamo.sim.oracle import Write

if TYPE_CHECKING:
    from dynamo.sim.world import World


class Acks:
    """The puts under way, and what their acknowledgements promise."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._puts: dict[tuple[str, int], tuple[Write, bytes, bytes, int]] = {}

    def watch(self, client: str, write: Write, message: Message) -> None:
        """Remember an attempt of a put, to look at the disks when it is acknowledged."""
        world = self._world
        owners = len(world.table.owners(ring.arc_of(message[3], world.config.partitions)))
        asked = message[10]
        w = asked if asked > 0 else world.config.w or quorum(owners)
        w = {m.QUORUM: quorum(owners), m.ALL: owners}.get(asked, min(w, owners))
        self._puts[client, message[1]] = (write, message[3], message[8], w)

    def before_answer(self, client: str, message: Message) -> None:
        """A node is about to send this to a client."""
        if message[0] != m.PUT_OK or (client, message[1]) not in self._puts:
            return
        world = self._world
        write, key, put_id, w = self._puts[client, message[1]]
        skey = ring.storage_key(key, world.config.partitions)
        disks = [
            name for name, host in world.hosts.items()
            if host.lost_ms >= write.begun_ms or self._has(host.disk, skey, put_id, write)
        ]  # fmt: skip
        world.oracle.on_disks(write, w, disks)

    def _has(self, disk: Disk, skey: bytes, put_id: bytes, write: Write) -> bool:
        """Whether a put is on this disk, or what was written over it."""
        if disk.peek(IDS, put_id) is not None:
            return True
        held = [i for obj in disk.held(skey) for i in dvv.ids_of(dvv.decode(obj))]
        return self._world.oracle.covers([self._world.uids[i] for i in held], write)
