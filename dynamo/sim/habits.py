"""How the clients of a seed behave: drawn from the seed alone.

Each client gets a random part of what there is to do, so that seeds differ in kind and not only in
order: in some nobody ever deletes, in others one key takes all the traffic. Beside them a loner
goes about its own key with strict quorums.

    exact     nobody makes auto puts
    crowded   many operations on few keys, for short runs; else a steady hundred and more a second
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from dynamo.core import messages as m
from dynamo.core.config import Config, quorum


class Levels(NamedTuple):
    """As in a request: 0 is the ring's own for r and w, and not asked for pr and pw."""

    r: int = 0
    w: int = 0
    pr: int = 0
    pw: int = 0


OWN_LEVELS = Levels()


def strict(config: Config, copies: int) -> Levels:
    """Levels that overlap. Never below the ring's own W: an owner that lost its disk counts
    again once it has met enough others for that W, and for no lower one."""
    w = max(config.w, quorum(copies))
    return Levels(r=quorum(copies), w=w, pr=quorum(copies), pw=w)


@dataclass(frozen=True, slots=True)
class Habit:
    """How one client behaves. `weights` by action, see `acts`."""

    weights: dict[str, int]
    keys: int = 4  # shared keys it chooses from
    think_ms: int = 20
    timeout_ms: int = 400
    tries: int = 3
    levels: Levels = OWN_LEVELS
    sloppy: bool = True
    stale: float = 0.0  # share of writes over an older read than the last
    forgetful: bool = False  # its auto puts are those of a client that just started
    wandering: bool = False  # asks any one node, not the owners in their order
    pinned: str = ""  # talks to this node only
    loner: bool = False
    acts: int = 0  # it does so many things and stops; 0: it goes on to the end
    lanes: int = 1  # things it does at once, at most
    pace_ms: int = 0  # it begins an operation so often, however long each takes; 0: when it can
    together: int = 1  # ... and so many of them at one moment, then waiting as much longer
    mixed: bool = False  # each operation has levels of its own
    hot: float = 0.0  # share of operations that go to the first shared key
    large: float = 0.0  # share of values of several kilobytes
    durable: float = 0.0  # share of puts that want every counted copy synced
    mortal: float = 0.0  # share of puts with a time to live
    hasty: float = 0.0  # share of operations that are given up before they end


# Puts and gets in a second of a default seed, of all clients: a little more than the hundred that
# each seed is to reach, for what is begun just before the load ends.
RATE = 101


def habits(
    rng: random.Random, config: Config, nodes: int, exact: bool, crowded: bool
) -> tuple[Habit, ...]:
    """The clients of a seed, the loner last."""
    copies = min(config.n, nodes)
    keys = rng.choice((1, 2, 4, 8) if crowded else (2, 4, 8, 16))
    count = rng.choice((2, 3, 4, 6) if crowded else (4, 5, 7))
    hot = rng.choice((0.0, 0.0, 0.5))
    large = rng.choice((0.0, 0.0, 0.02, 0.1) if crowded else (0.0, 0.0, 0.01, 0.03))
    mortal = rng.choice((0.0, 0.0, 0.0, 0.1))
    durable = rng.choice((0.0, 0.3, 1.0))
    together = 1 if crowded else rng.choice((1, 5, 10))
    found = []
    for _ in range(count):
        weights = _weights(rng, exact, crowded)
        pace_ms = 0
        if not crowded:
            pace_ms = 1_000 * count // RATE
        found.append(
            Habit(
                weights=weights,
                keys=keys,
                think_ms=rng.choice((5, 20, 60)),
                timeout_ms=rng.choice((150, 400, 900)),
                tries=rng.choice((1, 3, 3, 6)),
                sloppy=rng.random() < 0.85,
                stale=rng.choice((0.0, 0.0, 0.05, 0.3)),
                forgetful=rng.random() < 0.5,
                wandering=rng.random() < 0.15,
                pinned=f"n{rng.randrange(nodes) + 1}" if rng.random() < 0.15 else "",
                levels=_levels(rng, config, copies),
                lanes=rng.choice((1, 2)) if crowded else 32,
                pace_ms=pace_ms,
                together=together,
                mixed=rng.random() < 0.15,
                hot=hot,
                large=large,
                durable=durable,
                mortal=mortal,
                hasty=rng.choice((0.0, 0.0, 0.0, 0.05)),
            )
        )
    loner = Habit(
        weights={"read": 1, "modify": 5}, think_ms=10 if crowded else 100, timeout_ms=500,
        sloppy=False, loner=True, levels=strict(config, copies),
    )  # fmt: skip
    return (*found, loner)


def _weights(rng: random.Random, exact: bool, crowded: bool) -> dict[str, int]:
    weights = {
        "read": rng.choice((1, 1, 3) if crowded else (2, 4, 6)),
        "modify": rng.choice((0, 2, 4)),
        "blind": rng.choice((0, 0, 1, 2)),
        "auto": 0 if exact else rng.choice((0, 1, 3)),
        "remove": rng.choice((0, 0, 1)),
        "cold": rng.choice((0, 0, 1)),
        "churn": rng.choice((0, 0, 0, 2)),
        "pile": rng.choice((0, 0, 0, 1)),
        "chain": rng.choice((0, 0, 1)),
        "burst": rng.choice((0, 0, 0, 1)),
        "borrow": rng.choice((0, 0, 1)),
        "set": rng.choice((0, 0, 0, 2)),
    }
    # A client dies, or walks over everything, once in a while and not every other second.
    rare = {name: rng.choice((0, 0, 1)) for name in ("quit", "scan", "inspect")}
    return {name: 20 * weight for name, weight in weights.items()} | rare


def _levels(rng: random.Random, config: Config, copies: int) -> Levels:
    if rng.random() < 0.7:
        return Levels()
    if rng.random() < 0.5:
        return strict(config, copies)
    w = max(config.w, quorum(copies))
    return Levels(r=rng.randrange(1, copies + 1), w=w if rng.random() < 0.8 else m.ALL)
