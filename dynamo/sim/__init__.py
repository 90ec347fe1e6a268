"""Whole rings in one thread, under virtual time, with everything going wrong on purpose.

    oracle     what was promised, and a verdict with the number of the promise that broke
    network    frames late, lost, doubled, replayed, cut off, held back
    machine    a disk that stays, a process that dies at a point, clocks that lie
    world      machines, clients and network around the nodes of production
    faults     a schedule of what goes wrong, and the limit up to which that is allowed
    workload   clients, through the session of production, and what they know
    campaign   one seed: its draw, its run, its verdict
    story      what happened to one key, for people

    from dynamo.sim import run
    report = run(7)
    assert not report.violations, report.story()

Read `oracle` first: it says what the rest is for.
"""

from dynamo.sim.campaign import Draw, Report, draw, run
from dynamo.sim.oracle import Oracle, Violation
from dynamo.sim.story import tell
from dynamo.sim.world import World

__all__ = ["Draw", "Oracle", "Report", "Violation", "World", "draw", "run", "tell"]
