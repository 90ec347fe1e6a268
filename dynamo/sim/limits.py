"""Up to where disks may lose what they hold, and not beyond: the atlas of copies.

What is claimed: a write acknowledged at W is on W disks, so W - 1 of them may lose it, at any
time and in any way that the store notices (a disk wiped, a suffix lost, a record that rots).
Beyond those, a disk may lose something if every other that has lost something has caught up, and
what it loses is still somewhere else.

The first W - 1 losses are not looked at beforehand: they would spare exactly the rows that a
mistake left with too few copies. Rot counts per key, so that in one run every disk may rot, each
in other keys, as long as each key keeps its copies.

What a store cannot notice is another matter. A row that vanishes, or an old copy of the directory
that nobody tells the node of, makes an owner say "nothing" or "this old value" in good faith, and
R owners may be just that one and another. So there every other owner must hold the row, or what
came after it; and with an old copy the node must have minted nothing since, because its peers'
knowledge of a dot used twice is complete only once start counters are compared.
"""

from __future__ import annotations

from dynamo.core import dvv
from dynamo.core.config import quorum
from dynamo.core.replica import CHECK_BYTES, intact
from dynamo.core.spaces import HINTS, OBJECTS
from dynamo.sim.machine import Disk, Snapshot
from dynamo.sim.world import World


class Limits:
    """Who has lost what so far, and whether the promise allows more."""

    def __init__(self, world: World, w: int) -> None:
        self._world = world
        self._spare = w - 1  # copies that a key may lose unseen
        self._lost: dict[str, None] = {}  # hosts whose disk has lost what nobody has listed
        self._rows: dict[bytes, dict[str, None]] = {}  # storage key -> hosts that lost its row

    def may_lose(self, name: str) -> bool:
        """Whether this disk may lose something, whatever it is; if so it counts as lost."""
        unseen = self._unseen(name)
        if unseen < self._spare or (self._caught_up(name) and not self._world.only_copy(name)):
            self._lost[name] = None
            return True
        self._world.mark("loss withheld")
        return False

    def _unseen(self, name: str) -> int:
        # Rows that rotted elsewhere may be the very ones that this disk holds.
        worst = max((len({**self._lost, **hosts}) for hosts in self._rows.values()), default=0)
        return max(worst, len(self._lost))

    def may_rot(self, name: str, skey: bytes) -> bool:
        """Whether the row of one key may go bad on this disk."""
        hosts = self._rows.setdefault(skey, {})
        unseen = len({**self._lost, **hosts})
        if unseen < self._spare or (
            self._caught_up(name) and not self._world.only_copy(name, skey)
        ):
            hosts[name] = None
            return True
        self._world.mark("loss withheld")
        return False

    def _caught_up(self, name: str) -> bool:
        """Whether whatever was lost has been replaced, as far as that can be seen from outside."""
        hosts = self._world.hosts
        touched = {**self._lost, **{host: None for rows in self._rows.values() for host in rows}}
        touched.pop(name, None)
        return all(
            (node := hosts[other].node) is not None
            and node.ready
            and not hosts[other].disk.still_rotten()
            for other in touched
        )

    # --- what no store notices --------------------------------------------------------------------

    @property
    def _one_answers(self) -> bool:
        """Whether a read may be served by a single owner, who could be the one that forgot."""
        copies = min(self._world.config.n, len(self._world.hosts))
        return (self._world.config.r or quorum(copies)) < 2

    def may_forget(self, name: str, space: int, skey: bytes) -> bool:
        """Whether a row may vanish: everybody else who answers for the key must hold it.

        If so, it counts as a lost copy of the key from now on. (History: it did not, and the other
        copy was let rot.)
        """
        record = self._world.hosts[name].disk.peek(space, skey)
        if record is None:
            return True
        if self._one_answers:
            return False
        if not self._all_others_hold(name, skey, self._held(name, skey)):
            return False
        self._rows.setdefault(skey, {})[name] = None
        return True

    def may_relapse(self, name: str, old: Snapshot) -> bool:
        """Whether the disk may go back to what it was, see the top."""
        disk = self._world.hosts[name].disk
        changed: dict[bytes, None] = {}
        if self._one_answers:
            return False
        for space in (OBJECTS, HINTS):
            for skey in dict.fromkeys((*old[space], *(key for key, _ in disk.scan(space)))):
                now, then = disk.get(space, skey), old[space].get(skey)
                if now == then:
                    continue
                if self._minted_since(name, disk, space, skey, then):
                    return False
                if not self._all_others_hold(name, skey, self._held(name, skey)):
                    return False
                changed[skey] = None
        for skey in changed:
            self._rows.setdefault(skey, {})[name] = None
        return True

    def _minted_since(
        self, name: str, disk: Disk, space: int, skey: bytes, then: bytes | None
    ) -> bool:
        """Whether the old row has an own entry that might be continued below what others know."""
        node = self._world.hosts[name].node
        if node is None or then is None:
            return then is not None
        if space == HINTS:
            return True  # its actors come and go with its rows: nobody can tell what was minted
        prefix = node.replica.prefix(int.from_bytes(skey[:2], "big"))
        now = dvv.decode((disk.get(space, skey) or b"")[CHECK_BYTES:])
        return any(
            actor.startswith(prefix) and n < dvv.counter(now, actor)
            for actor, n, _ in dvv.decode(then[CHECK_BYTES:])
        )

    def _held(self, name: str, skey: bytes) -> dvv.Clock:
        clock: dvv.Clock = []
        for obj in self._world.hosts[name].disk.held(skey):
            clock = dvv.merge(clock, dvv.decode(obj))
        return clock

    def _all_others_hold(self, name: str, skey: bytes, clock: dvv.Clock) -> bool:
        world = self._world
        others = [x for x in world.table.owners(int.from_bytes(skey[:2], "big")) if x != name]
        for other in others:
            record = world.hosts[other].disk.get(OBJECTS, skey)
            if record is None or not intact(skey, record):
                return False
            theirs = dvv.decode(record[CHECK_BYTES:])
            if dvv.merge(theirs, clock) != theirs:
                return False
        return bool(others)
