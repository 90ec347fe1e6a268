"""What goes wrong, when, and for how long: a schedule drawn once, to be played by `nemesis`.

The schedule is a plain list made from the seed alone, before anything runs, so that it can be
printed, cut down and played again. A fault that makes no sense when its time comes (its host is
down already) is passed over. What a fault breaks it also mends, unless `heal` came first.

  processes
    kill       a process dies between two steps, and is started again later
    before     it dies in its next writing step, before the commit
    after      ... after the commit, before anything is sent
    sending    ... when some frames have left
    loop       it dies again and again, soon after each start
    blackout   all processes die at once
    pause      a host takes no turns; its queue fills, its clock goes on
    freeze     the same, and its monotonic clock stands still, as of a suspended machine

  links
    split      two groups of hosts and clients that do not hear each other, of any size
    isolate    the same, with one host alone
    halves     ... halves, as nearly as possible
    majority   ... the smallest majority against the rest
    third      ... the largest group below a third against the rest
    ring       each host hears a majority, and no two hear the same one
    bridge     two groups that do not hear each other, and one host between that hears both
    deaf       a host hears no other, everybody hears it
    mute       the reverse
    oneway     one link in one direction, until the end
    flap       a split that comes and goes many times
    swizzle    the links of some hosts are stopped, host by host, and opened in another order
    slow       every frame from and to a host takes longer

  disks
    wipe       a disk is lost: the host returns empty under its name
    torn       a process dies and its disk has lost the last while, and says so (`unclean`)
    power      the power goes, and with it what was not synced; at durability "interval" only
    relapse    an old copy of the directory is put back, and nobody tells the node; only where it
               has minted nothing since, and only while everybody else holds what it forgets
    restore    the same without those limits: not drawn, as it is promised only once nodes remember
               each other's start counters
    forget     one row is no longer there when its process starts
    rot        a byte of one record is another one
    unreadable the next read of a row fails, and ends the process
    fsync      the next commit fails and ends the process; what it held is there afterwards or not
    full       no room: new values are refused, reads and deletes are not

  clocks
    skew       a wall clock jumps
    strobe     a wall clock jumps to and fro
"""

from __future__ import annotations

import random
from typing import NamedTuple

from dynamo.sim.network import across, one_way

PROCESSES = ("kill", "before", "after", "sending", "loop", "blackout", "pause", "freeze")
SPLITS = ("split", "isolate", "halves", "majority", "third")
CUTS = (*SPLITS, "ring", "bridge", "deaf", "mute", "oneway", "flap")
LINKS = (*CUTS, "swizzle", "slow")
DISKS = (
    "wipe", "torn", "power", "relapse", "forget", "rot", "unreadable", "fsync", "full",
)  # fmt: skip
CLOCKS = ("skew", "strobe")
KINDS = (*PROCESSES, *LINKS, *DISKS, *CLOCKS)
BEYOND = ("restore",)  # not promised yet: played only where a draw is told to
LOSSES = ("wipe", "torn", "power", "relapse", "forget", "rot")  # of something that was stored

HOUR_MS, YEAR_MS = 3_600_000, 365 * 86_400_000


class Fault(NamedTuple):
    """One thing that goes wrong. `groups` for cuts; `amount_ms` for slow, skew and what repeats."""

    at_ms: int
    kind: str
    host: str
    for_ms: int
    groups: tuple[tuple[str, ...], ...] = ()
    hold: bool = False  # cuts: what passes is held, not lost; fsync: the batch is kept, not lost
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
        if kind in CUTS or kind == "swizzle":
            groups = _groups(rng, kind, host, hosts, clients)
            hold = rng.random() < (0.8 if kind == "swizzle" else 0.3)
        elif kind == "fsync":
            hold = rng.random() < 0.5
        if kind in ("pause", "freeze") and rng.random() < 0.3:
            for_ms += longest_ms  # beyond any suspicion
        elif kind == "oneway":
            for_ms = until_ms - at_ms
        amount_ms = _amount_ms(rng, kind, for_ms)
        found.append(Fault(at_ms, kind, host, for_ms, groups, hold, amount_ms))
    return found


def _amount_ms(rng: random.Random, kind: str, for_ms: int) -> int:
    if kind == "slow":
        return rng.choice((5, 20, 100, 400))
    if kind == "skew":
        return rng.choice((-1, 1)) * rng.choice((50, 5_000, HOUR_MS, YEAR_MS))
    if kind == "strobe":
        return rng.choice((3, 200, HOUR_MS))
    if kind in ("loop", "flap"):  # how long one round takes
        return max(5, for_ms // rng.randrange(2, 9))
    return 0


def _groups(
    rng: random.Random, kind: str, host: str, hosts: list[str], clients: list[str]
) -> tuple[tuple[str, ...], ...]:
    others = [name for name in hosts if name != host]
    if kind in ("deaf", "mute"):
        return (host,), tuple(others)
    if kind == "oneway":
        return (host,), (rng.choice(others or hosts),)
    if kind == "ring":
        return _pairs_of_ring(rng, hosts)
    if kind == "bridge":
        rng.shuffle(others)
        half = len(others) // 2
        return tuple((a, b) for a in others[:half] for b in others[half:])
    mixed = hosts[:]
    rng.shuffle(mixed)
    if kind == "swizzle":
        chosen = mixed[: rng.randrange(1, len(mixed) + 1)]
        return tuple(chosen), tuple(rng.sample(chosen, len(chosen)))
    return _sides(rng, kind, mixed, clients)


def _pairs_of_ring(rng: random.Random, hosts: list[str]) -> tuple[tuple[str, ...], ...]:
    # Cut each from the one across the circle. Three have no majority to spare: one pair is cut.
    circle = hosts[:]
    rng.shuffle(circle)
    if len(circle) < 4:
        return (tuple(circle[:2]),)
    return tuple(
        (name, circle[(i + len(circle) // 2) % len(circle)]) for i, name in enumerate(circle)
    )


def _sides(
    rng: random.Random, kind: str, mixed: list[str], clients: list[str]
) -> tuple[tuple[str, ...], ...]:
    count = len(mixed)
    at = {
        "isolate": 1, "halves": count // 2, "majority": count // 2 + 1,
        "third": max(1, (count - 1) // 3),
    }.get(kind, rng.randrange(1, max(2, count)))  # fmt: skip
    sides: list[list[str]] = [mixed[:at], mixed[at:]]
    for client in clients:
        # A client beside no side hears everybody: the usual case of a client in the same rack.
        side = rng.randrange(3)
        if side < 2:
            sides[side].append(client)
    return tuple(map(tuple, sides))


def links_of(kind: str, groups: tuple[tuple[str, ...], ...]) -> list[tuple[str, str]]:
    """The directed links that a cut stops."""
    if kind in ("ring", "bridge"):
        return [link for a, b in groups for link in ((a, b), (b, a)) if a != b]
    if kind == "deaf":
        return one_way(groups[1], groups[0])
    if kind in ("mute", "oneway"):
        return one_way(groups[0], groups[1])
    return across(groups)
