"""What goes wrong, when, and for how long: a schedule drawn once, then played on a world.

The schedule is a plain list made from the seed alone, before anything runs, so that it can be
printed, cut down and played again. A fault that makes no sense when its time comes (its host is
down already) is passed over. What a fault breaks it also mends, unless `heal` came first.

    kill      a process dies between two steps, and is started again later
    before    it dies in its next writing step, before the commit
    after     ... after the commit, before anything is sent
    sending   ... when some frames have left
    blackout  all processes die at once
    pause     a host takes no turns; its queue fills, its clock goes on
    split     groups of hosts and clients that do not hear each other
    ring      each host hears all but one other (a bridge, for three)
    deaf      a host hears nobody, everybody hears it
    mute      the reverse
    slow      every frame from and to a host takes longer
    wipe      a disk is lost: the host returns empty under its name
    torn      a process dies and its disk has lost the last while, and says so (`unclean`)
    restore   the same from an old copy of the directory, and nobody tells the node: not drawn,
              as it is promised only once nodes remember each other's start counters
    skew      a wall clock jumps

Losing disks is placed at the limit of what is promised. With every write acknowledged by W >= 2
disks, any one disk may be lost at any time, and another only once the first has caught up and
nothing lies on the second alone. The first loss is not looked at beforehand, or it would spare
exactly the rows that a mistake left with a single copy.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from dynamo.sim.machine import AFTER_COMMIT, BEFORE_COMMIT, WHILE_SENDING, Disk, Snapshot
from dynamo.sim.network import across, one_way
from dynamo.sim.world import World

POINTS = {"before": BEFORE_COMMIT, "after": AFTER_COMMIT, "sending": WHILE_SENDING}
KINDS = (
    "kill", "before", "after", "sending", "blackout", "pause", "split", "ring", "deaf", "mute",
    "slow", "wipe", "torn", "skew",
)  # fmt: skip
BEYOND = ("restore",)  # not promised yet: played only where a draw is told to


class Fault(NamedTuple):
    """One thing that goes wrong. `groups` for cuts, `amount_ms` for slow and skew."""

    at_ms: int
    kind: str
    host: str
    for_ms: int
    groups: tuple[tuple[str, ...], ...] = ()
    hold: bool = False
    amount_ms: int = 0


def schedule(
    rng: random.Random, kinds: tuple[str, ...], hosts: list[str], clients: list[str],
    until_ms: int, every_ms: int, longest_ms: int,
) -> list[Fault]:  # fmt: skip
    """Faults of these kinds at random moments, one in `every_ms` on average."""
    found: list[Fault] = []
    at_ms = 0
    while kinds:
        at_ms += 1 + int(rng.expovariate(1 / every_ms))
        if at_ms >= until_ms:
            break
        kind = kinds[rng.randrange(len(kinds))]
        host = hosts[rng.randrange(len(hosts))]
        for_ms = 1 + int(longest_ms * rng.random() ** 2)
        groups: tuple[tuple[str, ...], ...] = ()
        hold = False
        if kind in ("split", "ring", "deaf", "mute"):
            groups = _groups(rng, kind, host, hosts, clients)
            hold = rng.random() < 0.3
        amount_ms = 0
        if kind == "slow":
            amount_ms = rng.choice((5, 20, 100, 400))
        elif kind == "skew":
            amount_ms = rng.choice((-1, 1)) * rng.choice((50, 5_000, 3_600_000))
        found.append(Fault(at_ms, kind, host, for_ms, groups, hold, amount_ms))
    return found


def _groups(
    rng: random.Random, kind: str, host: str, hosts: list[str], clients: list[str]
) -> tuple[tuple[str, ...], ...]:
    others = [name for name in hosts if name != host]
    if kind in ("deaf", "mute"):
        return (host,), tuple(others)
    if kind == "ring":
        # Cut pairs across the circle, so that majorities exist and none is the same.
        pairs = []
        for i, name in enumerate(hosts):
            pairs.append((name, hosts[(i + len(hosts) // 2) % len(hosts)]))
        return tuple(pairs)
    mixed = hosts[:]
    rng.shuffle(mixed)
    at = 1 if rng.random() < 0.4 else rng.randrange(1, max(2, len(mixed)))
    sides: list[list[str]] = [mixed[:at], mixed[at:]]
    for client in clients:
        # A client beside no side hears everybody: the usual case of a client in the same rack.
        side = rng.randrange(3)
        if side < 2:
            sides[side].append(client)
    return tuple(map(tuple, sides))


class Nemesis:
    """Plays a schedule on a world. `singly`: one process down at a time, or about to be."""

    def __init__(self, world: World, singly: bool, faults: list[Fault]) -> None:
        self._world = world
        self._singly = singly
        self._lost: dict[str, None] = {}  # hosts whose disk has lost something
        self._over = False
        self.played = dict.fromkeys((*KINDS, *BEYOND), 0)
        self._acts: dict[str, Callable[[Fault], bool]] = {
            "kill": self._kill, "before": self._doom, "after": self._doom, "sending": self._doom,
            "blackout": self._blackout, "pause": self._pause, "split": self._cut,
            "ring": self._cut, "deaf": self._cut, "mute": self._cut, "slow": self._slow,
            "wipe": self._wipe, "torn": self._copy, "restore": self._copy, "skew": self._skew,
        }  # fmt: skip
        for fault in faults:
            world.at(fault.at_ms, self._play, fault)

    def stop(self) -> None:
        """Nothing more goes wrong, and the world is whole again."""
        self._over = True
        self._world.heal()

    def _play(self, fault: Fault) -> None:
        if self._over:
            return
        if self._acts[fault.kind](fault):
            self.played[fault.kind] += 1
            self._world.mark(f"fault {fault.kind}")
            self._world.record("fault", *fault[1:])

    def _cut(self, fault: Fault) -> bool:
        first, *rest = fault.groups
        if fault.kind == "split":
            links = across(fault.groups)
        elif fault.kind == "ring":
            links = [link for a, b in fault.groups for link in ((a, b), (b, a)) if a != b]
        elif fault.kind == "deaf":
            links = one_way(rest[0], first)
        else:
            links = one_way(first, rest[0])
        self._world.network.cut(links, fault.hold)
        self._later(fault.for_ms, self._mend, links, fault.hold)
        return True

    def _mend(self, links: list[tuple[str, str]], hold: bool) -> None:
        world = self._world
        world.post(world.network.mend(world.now_ms, links, hold))

    def _later(self, ms: int, call: Callable[..., None], *args: object) -> None:
        self._world.at(self._world.now_ms + ms, self._unless_over, call, *args)

    def _unless_over(self, call: Callable[..., None], *args: object) -> None:
        if not self._over:
            call(*args)

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
        self._world.pause(fault.host)
        self._later(fault.for_ms, self._world.resume, fault.host)
        return True

    def _slow(self, fault: Fault) -> bool:
        self._world.network.slow(fault.host, fault.amount_ms)
        self._later(fault.for_ms, self._world.network.slow, fault.host, 0)
        return True

    def _skew(self, fault: Fault) -> bool:
        self._world.hosts[fault.host].wall_ms += fault.amount_ms
        return True

    def _may_lose(self, name: str) -> bool:
        """Whether the promise allows this disk to lose something now, see the top."""
        world = self._world
        lost = [world.hosts[other].node for other in self._lost]
        back = all(node is not None and node.ready for node in lost)
        if self._lost and (not back or world.only_copy(name)):
            world.mark("loss withheld")
            return False
        self._lost[name] = None
        return True

    def _wipe(self, fault: Fault) -> bool:
        world = self._world
        if not self._may_lose(fault.host):
            return False
        world.wipe(fault.host)
        world.at(world.now_ms + fault.for_ms, world.start, fault.host)
        return True

    def _copy(self, fault: Fault) -> bool:
        """Take a copy of the disk now, and put it back in its place later."""
        disk = self._world.hosts[fault.host].disk
        self._later(fault.for_ms, self._take_back, fault, disk, disk.snapshot())
        return True

    def _take_back(self, fault: Fault, disk: Disk, snapshot: Snapshot) -> None:
        world = self._world
        if world.hosts[fault.host].disk is disk and self._may_lose(fault.host):
            world.take_back(fault.host, snapshot, told=fault.kind == "torn")
            world.mark(f"disk taken back by {fault.kind}")
            world.at(world.now_ms + 1 + fault.for_ms // 4, world.start, fault.host)
