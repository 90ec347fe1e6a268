"""Plays a schedule of faults on a world, and mends what they broke.

Each kind has one method, which says whether the fault made sense. Where a fault needs a choice
that depends on how things stand (which record rots), it is drawn by a generator of its own, so
that leaving out another fault does not change it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from dynamo.core.replica import CHECK_BYTES
from dynamo.core.spaces import HINTS, OBJECTS
from dynamo.sim.faults import BEYOND, CUTS, KINDS, Fault, links_of
from dynamo.sim.limits import Limits
from dynamo.sim.machine import AFTER_COMMIT, BEFORE_COMMIT, WHILE_SENDING, Disk, Snapshot
from dynamo.sim.network import across
from dynamo.sim.world import World

POINTS = {"before": BEFORE_COMMIT, "after": AFTER_COMMIT, "sending": WHILE_SENDING}
ROT_TRIES = 8  # records looked at for one that may rot


class Nemesis:
    """Plays faults on a world. `singly`: one process down at a time, or about to be.

    `w`: on how many disks an acknowledged write is at least, which limits what may be lost.
    """

    def __init__(
        self, world: World, singly: bool, faults: Iterable[Fault] = (), w: int = 2
    ) -> None:
        self._world = world
        self._singly = singly
        self.limits = Limits(world, w)
        self._over = False
        self.played = dict.fromkeys((*KINDS, *BEYOND), 0)
        self._acts: dict[str, Callable[[Fault], bool]] = {
            **dict.fromkeys(CUTS, self._cut), **dict.fromkeys(POINTS, self._doom),
            "flap": self._flap, "swizzle": self._swizzle, "slow": self._slow,
            "kill": self._kill, "loop": self._loop, "blackout": self._blackout,
            "pause": self._pause, "freeze": self._pause, "wipe": self._wipe, "torn": self._copy,
            "restore": self._copy, "relapse": self._copy, "power": self._power,
            "forget": self._forget, "rot": self._rot, "unreadable": self._arm, "fsync": self._arm,
            "full": self._full, "skew": self._skew, "strobe": self._strobe,
        }  # fmt: skip
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """Play these, too; `at_ms` is the world's time."""
        for fault in faults:
            self._world.at(fault.at_ms, self._play, fault)

    def stop(self) -> None:
        """Nothing more goes wrong, and the world is whole again."""
        self._over = True
        self._world.heal()

    def _play(self, fault: Fault) -> None:
        if self._over:
            return
        if self._acts[fault.kind](fault):
            self._note(fault)

    def _note(self, fault: Fault) -> None:
        self.played[fault.kind] += 1
        self._world.mark(f"fault {fault.kind}")
        self._world.record("fault", *fault[1:])

    def _later(self, ms: int, call: Callable[..., None], *args: object) -> None:
        self._world.at(self._world.now_ms + ms, self._unless_over, call, *args)

    def _unless_over(self, call: Callable[..., None], *args: object) -> None:
        if not self._over:
            call(*args)

    def _rng(self, fault: Fault) -> random.Random:
        return random.Random(f"{self._world.seed}/{fault.kind}/{fault.host}/{fault.at_ms}")

    # --- links ------------------------------------------------------------------------------------

    def _cut(self, fault: Fault) -> bool:
        links = links_of(fault.kind, fault.groups)
        if not links:
            return False
        self._stop_links(links, fault.hold)
        self._later(fault.for_ms, self._mend, links, fault.hold)
        return True

    def _stop_links(self, links: list[tuple[str, str]], hold: bool) -> None:
        self._world.network.cut(links, hold)
        self._world.note_change()

    def _mend(self, links: list[tuple[str, str]], hold: bool) -> None:
        world = self._world
        world.note_change()
        world.post(world.network.mend(world.now_ms, links, hold))

    def _flap(self, fault: Fault) -> bool:
        links = links_of(fault.kind, fault.groups)
        for at_ms in range(0, fault.for_ms, fault.amount_ms):
            self._later(at_ms, self._stop_links, links, fault.hold)
            self._later(at_ms + max(1, fault.amount_ms // 2), self._mend, links, fault.hold)
        return True

    def _swizzle(self, fault: Fault) -> bool:
        """Stop the links of one host after the other, then open them in another order."""
        stopping, opening = fault.groups
        world = self._world
        everybody = [*world.hosts, *world.clients]
        links = {
            name: across([(name,), [other for other in everybody if other != name]])
            for name in stopping
        }
        step_ms = max(1, fault.for_ms // (2 * len(stopping)))
        for i, name in enumerate(stopping):
            self._later(i * step_ms, self._stop_links, links[name], fault.hold)
        for i, name in enumerate(opening, len(stopping)):
            self._later(i * step_ms, self._mend, links[name], fault.hold)
        return True

    def _slow(self, fault: Fault) -> bool:
        self._slow_down(fault.host, fault.amount_ms)
        self._later(fault.for_ms, self._slow_down, fault.host, 0)
        return True

    def _slow_down(self, name: str, extra_ms: int) -> None:
        self._world.network.slow(name, extra_ms)
        self._world.note_change()

    # --- processes --------------------------------------------------------------------------------

    def _up(self, name: str) -> bool:
        """Whether this process runs, and may be stopped."""
        hosts = self._world.hosts
        if self._singly and any(host.node is None or host.doom for host in hosts.values()):
            return False
        return hosts[name].node is not None

    def _kill(self, fault: Fault) -> bool:
        if not self._up(fault.host):
            return False
        self._world.kill(fault.host)
        self._world.at(self._world.now_ms + fault.for_ms, self._world.start, fault.host)
        return True

    def _loop(self, fault: Fault) -> bool:
        """Each life ends somewhere within its round; the next one begins with the next round."""
        if not self._up(fault.host):
            return False
        rng = self._rng(fault)
        for at_ms in range(0, fault.for_ms, fault.amount_ms):
            self._later(at_ms, self._world.start, fault.host)
            life_ms = rng.randrange(fault.amount_ms)
            self._later(at_ms + life_ms, self._die_within, fault, fault.amount_ms - life_ms)
        return True

    def _die_within(self, fault: Fault, down_ms: int) -> None:
        if self._kill(fault._replace(for_ms=down_ms)):
            self._world.mark("died again and again")

    def _blackout(self, fault: Fault) -> bool:
        for name in self._world.hosts:
            self._kill(fault._replace(host=name))
        return True

    def _doom(self, fault: Fault) -> bool:
        if not self._up(fault.host):
            return False
        self._world.doom(fault.host, POINTS[fault.kind], fault.for_ms)
        return True

    def _pause(self, fault: Fault) -> bool:
        if not self._up(fault.host):
            return False
        self._world.pause(fault.host, freeze=fault.kind == "freeze")
        self._later(fault.for_ms, self._world.resume, fault.host)
        return True

    # --- disks ------------------------------------------------------------------------------------

    def _wipe(self, fault: Fault) -> bool:
        world = self._world
        if not self.limits.may_lose(fault.host):
            return False
        world.wipe(fault.host)
        world.at(world.now_ms + fault.for_ms, world.start, fault.host)
        return True

    def _copy(self, fault: Fault) -> bool:
        """Take a copy of the disk now, and put it back in its place later."""
        disk = self._world.hosts[fault.host].disk
        self._later(fault.for_ms, self._take_back, fault, disk, disk.snapshot())
        return fault.kind != "relapse"  # which counts only where it may be put back

    def _take_back(self, fault: Fault, disk: Disk, snapshot: Snapshot) -> None:
        world, limits = self._world, self.limits
        if world.hosts[fault.host].disk is not disk:
            return
        if fault.kind == "relapse":
            if not limits.may_relapse(fault.host, snapshot):
                return
            self._note(fault)
        elif not limits.may_lose(fault.host):
            return
        world.take_back(fault.host, snapshot, told=fault.kind == "torn")
        world.mark(f"disk taken back by {fault.kind}")
        world.at(world.now_ms + 1 + fault.for_ms // 4, world.start, fault.host)

    def _power(self, fault: Fault) -> bool:
        """The host loses its power, and what it had not synced."""
        world = self._world
        disk = world.hosts[fault.host].disk
        if not self._up(fault.host) or not disk.unsynced:
            return False
        if not self.limits.may_lose(fault.host):
            return False
        lost = world.lose_power(fault.host, self._rng(fault).randrange(disk.unsynced + 1))
        world.mark("unsynced batches lost", lost)
        world.at(world.now_ms + fault.for_ms, world.start, fault.host)
        return True

    def _forget(self, fault: Fault) -> bool:
        world = self._world
        if not self._up(fault.host):
            return False
        chosen = self._some_row(fault, self.limits.may_forget)
        if chosen is None:
            return False
        world.kill(fault.host)
        world.forget(fault.host, *chosen)
        world.at(world.now_ms + fault.for_ms, world.start, fault.host)
        return True

    def _rot(self, fault: Fault) -> bool:
        world, rng = self._world, self._rng(fault)

        def may_rot(name: str, space: int, skey: bytes) -> bool:
            return self.limits.may_rot(name, skey)

        chosen = self._some_row(fault, may_rot)
        if chosen is None:
            return False
        # One time in four it hits the check itself, which tells as little about the row.
        at = rng.randrange(CHECK_BYTES) if rng.random() < 0.25 else rng.randrange(1 << 16)
        world.rot(fault.host, *chosen, at, 1 << rng.randrange(8))
        return True

    def _some_row(
        self, fault: Fault, may: Callable[[str, int, bytes], bool]
    ) -> tuple[int, bytes] | None:
        """A row of this disk that may be damaged, or None."""
        disk, rng = self._world.hosts[fault.host].disk, self._rng(fault)
        rows = [(space, skey) for space in (OBJECTS, HINTS) for skey, _ in disk.scan(space)]
        for _ in range(min(ROT_TRIES, len(rows))):
            space, skey = rows[rng.randrange(len(rows))]
            if may(fault.host, space, skey):
                return space, skey
        return None

    def _arm(self, fault: Fault) -> bool:
        """Let the disk fail at the next read of a row, or at the next sync."""
        if not self._up(fault.host):
            return False
        host = self._world.hosts[fault.host]
        host.down_ms = fault.for_ms
        if fault.kind == "fsync":
            host.disk.fsync_fails = "kept" if fault.hold else "lost"
        else:
            host.disk.fail_reads()
        return True

    def _full(self, fault: Fault) -> bool:
        self._set_full(fault.host, True)
        self._later(fault.for_ms, self._set_full, fault.host, False)
        return True

    def _set_full(self, name: str, full: bool) -> None:
        self._world.hosts[name].disk.disk_full = full

    # --- clocks -----------------------------------------------------------------------------------

    def _skew(self, fault: Fault) -> bool:
        self._world.hosts[fault.host].wall_ms += fault.amount_ms
        return True

    def _strobe(self, fault: Fault) -> bool:
        host = self._world.hosts[fault.host]
        start_ms = host.wall_ms
        every_ms = max(2, fault.for_ms // 20)
        for i, at_ms in enumerate(range(0, fault.for_ms, every_ms)):
            self._later(at_ms, self._set_wall, fault.host, start_ms + (i % 2) * fault.amount_ms)
        return True

    def _set_wall(self, name: str, wall_ms: int) -> None:
        self._world.hosts[name].wall_ms = wall_ms
