"""Whole rings in one thread, under virtual time, with everything going wrong on purpose.

    oracle     what was promised, and a verdict with the number of the promise that broke
    network    frames late, lost, doubled, replayed, cut off, held back
    machine    a disk that stays, a process that dies at a point, clocks that lie
    world      machines, clients and network around the nodes of production
    faults     a schedule of what goes wrong, and the limit up to which that is allowed
    workload   clients, through the session of production, and what they know
    profiles   what a seed draws: ring, knobs, weather, faults, clients
    campaign   one seed: its run, its verdict
    story      what happened to one key, for people
    ring       the same nodes and faults for the unit tests of applications: `Ring`, `seeds`

    from dynamo.sim import run
    report = run(7)
    assert not report.violations, report.story()

Read `oracle` first: it says what the rest is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo.sim.campaign import Draw, Report, draw, run
from dynamo.sim.oracle import Oracle, Violation
from dynamo.sim.story import tell
from dynamo.sim.world import World

if TYPE_CHECKING:
    from dynamo.testing import Ring, seeds

__all__ = [
    "Draw",
    "Oracle",
    "Report",
    "Ring",
    "Violation",
    "World",
    "draw",
    "run",
    "seeds",
    "tell",
]


def __getattr__(name: str) -> Any:
    # Clients that block need threads, and `seeds` the environment: both belong to the world, which
    # this package does not see. They live above it, and are fetched when somebody asks.
    if name not in ("Ring", "seeds"):
        raise AttributeError(f"module 'dynamo.sim' has no attribute {name!r}")
    import dynamo.testing

    return getattr(dynamo.testing, name)
