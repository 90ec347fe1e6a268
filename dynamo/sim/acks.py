"""Each acknowledgement held against the disks, before its client hears of it (I12).

A put that is answered OK at level W must be on W disks: itself, or what was written over it; and if
it asked to be durable, in what a power cut would leave there. A disk that has lost something since
the put began may have had it, and gets the benefit of the doubt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo.core import dvv, ring
from dynamo.core import messages as m
from dynamo.core.config import quorum
from dynamo.core.messages import Message
from dynamo.core.ring import FIRST_VER
from dynamo.core.spaces import IDS
from dynamo.sim.judges import Dots, clock_of
from dynamo.sim.machine import Disk
from dynamo.sim.oracle import Write

if TYPE_CHECKING:
    from dynamo.sim.world import World


class Acks:
    """The puts under way, and what their acknowledgements promise."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._puts: dict[tuple[str, int], tuple[Write, bytes, bytes, int, int]] = {}

    def watch(self, client: str, write: Write, message: Message) -> None:
        """Remember an attempt of a put, to look at the disks when it is acknowledged."""
        world = self._world
        owners = len(world.table.owners(ring.arc_of(message[3], world.config.partitions)))
        asked = message[10]
        w = asked if asked > 0 else world.config.w or quorum(owners)
        w = {m.QUORUM: quorum(owners), m.ALL: owners}.get(asked, min(w, owners))
        self._puts[client, message[1]] = (write, message[3], message[8], w, message[12])

    def before_answer(self, client: str, message: Message) -> None:
        """A node is about to send this to a client."""
        if message[0] != m.PUT_OK or (client, message[1]) not in self._puts:
            return
        world = self._world
        write, key, put_id, w, flags = self._puts[client, message[1]]
        durable = bool(flags & m.DURABLE)
        skey = ring.storage_key(key, world.config.partitions)
        register = world.table.registers[skey[0] << 8 | skey[1]]
        owners = register.readers
        names = list(owners)
        # Stand-ins count where the put is sloppy (C3). And where the arc has moved, an owner of one
        # phase before, as its coordinator knows it, or one after.
        if flags & m.SLOPPY or register.ver != FIRST_VER:
            names += [name for name in world.hosts if name not in owners]
        disks: list[str] = []
        for name in names:
            host = world.hosts[name]
            lost = host.lost_ms >= write.begun_ms
            if lost or self._has(host.disk, skey, put_id, durable):
                disks.append(name)
                if len(disks) >= w:
                    return
        world.oracle.on_disks(write, w, disks)

    def _has(self, disk: Disk, skey: bytes, put_id: bytes, durable: bool) -> bool:
        """Whether this disk knows a dot of the put: it holds the value, or what superseded it."""
        read = disk.synced if durable else disk.peek
        if read(IDS, put_id) is not None:
            return True
        dots = self._dots().of(put_id)
        for obj in disk.held(skey, durable):
            clock = clock_of(obj)
            for actor, n in dots:
                if dvv.counter(clock, actor) >= n:
                    return True
        return False

    def _dots(self) -> Dots:
        for judge in self._world.judges:
            if isinstance(judge, Dots):
                return judge
        raise LookupError("acknowledgements are judged by the dots that disks have committed")
