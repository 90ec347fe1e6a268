"""One seed, from its draw to its verdict.

    draw      the seed picks the ring, its knobs, the weather, the faults and the clients
    safety    clients work while things go wrong
    liveness  some hosts stay broken for ever, and the others go on without them (`endure`)
    healing   nothing goes wrong any more, all nodes run, clients have stopped
    rest      within a bound computed from the knobs: no hints left, owners agree
    reading   every key is read through every node, all owners asked
    verdict   the oracle compares what is there with what was promised

Each concern has a random generator of its own, split from the seed, so that changing one (fewer
clients, no faults) leaves the others as they were.
"""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass

from dynamo.core.messages import Ages
from dynamo.sim import verdict
from dynamo.sim.acts import choose
from dynamo.sim.endure import Endure
from dynamo.sim.faults import Fault, schedule
from dynamo.sim.force import Forced
from dynamo.sim.nemesis import Nemesis
from dynamo.sim.network import Network, Weather
from dynamo.sim.operators import Changes
from dynamo.sim.oracle import Oracle, Violation
from dynamo.sim.profiles import Draw, draw
from dynamo.sim.rest import scrub
from dynamo.sim.story import tell
from dynamo.sim.workload import Client, Pace
from dynamo.sim.world import World

__all__ = ["Draw", "Report", "draw", "faults_of", "run"]

STORY_LINES = 60
DRAIN_ROUNDS_MAX = 16  # a client may go on with the rest of what it is doing, a few operations


@dataclass(slots=True)
class Report:
    """What came of one seed."""

    draw: Draw
    digest: str
    violations: list[Violation]
    retry_siblings: int
    ops: dict[str, int]
    steps: int
    events: int
    simulated_ms: int
    rested_ms: int
    marks: dict[str, int]
    world: World

    def story(self) -> str:
        """What a person needs to see of a failure."""
        digest = f"digest {self.digest}, " if self.digest else ""
        lines = [self.draw.story(), f"  {digest}ops {self.ops}"]
        lines += [f"  {violation}" for violation in self.violations[:12]]
        key = next((violation.key for violation in self.violations if violation.key), b"")
        if key and not self.world.log:
            # Once more with a log: a run is cheaper than keeping one that nobody reads.
            lines.append(tell(run(self.draw, logging=True).world, key, STORY_LINES))
        if self.draw == draw(self.draw.seed, self.draw.profile):
            seed, profile = self.draw.seed, self.draw.profile
            lines.append(f"replay: dynamo sim replay {seed} --profile {profile}")
        return "\n".join(lines)


def run(what: int | Draw, *, logging: bool = False, tracing: bool = True) -> Report:
    """Run one seed, or a draw, to its verdict. `tracing`: somebody wants the digest."""
    drawn = draw(what) if isinstance(what, int) else what
    seed = drawn.seed
    oracle = Oracle(drawn.cuts)
    network = Network(random.Random(f"{seed}/network"), drawn.weather)
    world = World(
        seed, drawn.names, drawn.config, network, oracle, encode=drawn.encode, split=drawn.split,
        notice_lost=drawn.notice_lost, work_ms=drawn.work_ms, durability=drawn.durability,
        interval_ms=drawn.interval_ms, drift=drawn.drift, zones=drawn.zones,
    )  # fmt: skip
    world.logging, world.tracing = logging, tracing
    rested_ms = -1
    clients: list[Client] = []
    with Forced(world, drawn.forced) as forced:
        try:
            _load(drawn, world, forced, clients)
            rested_ms = _rest(drawn, world)
            verdict.judge(world, lambda: _rest(drawn, world), drawn.rest_ms)
        except Exception as error:  # a node or a session that raises is a finding like any other
            where = traceback.extract_tb(error.__traceback__)[-1]
            oracle.accuse(
                "N0", b"", f"{type(error).__name__} in {where.name}, line {where.lineno}: {error}"
            )
    world.note_all_stats()
    ops: dict[str, int] = {}
    for client in clients:
        for status, count in client.counts.items():
            ops[status] = ops.get(status, 0) + count
    return Report(
        drawn, world.digest, oracle.violations, oracle.retry_siblings, ops, world.steps,
        world.events, world.now_ms, rested_ms, world.marks, world,
    )  # fmt: skip


def faults_of(drawn: Draw) -> tuple[Fault, ...]:
    """What goes wrong in this draw, and when, counted from the first operation."""
    if drawn.faults is not None:
        return drawn.faults
    return tuple(
        schedule(
            random.Random(f"{drawn.seed}/faults"), drawn.kinds, drawn.names,
            [f"c{i}" for i in range(len(drawn.habits))],
            drawn.load_ms - drawn.core_ms, drawn.every_ms, drawn.longest_ms,
        )
    )  # fmt: skip


def _load(drawn: Draw, world: World, forced: Forced, clients: list[Client]) -> None:
    """Clients at work: through the storm, then beside hosts that stay broken, until all ended."""
    for name in drawn.names:
        world.start(name)
    world.network.weather = Weather()
    world.run_until(300)  # every node hears every other, as a ring that just started
    world.network.weather = drawn.weather
    began_ms = world.now_ms
    until_ms = began_ms + drawn.load_ms
    pace = Pace(began_ms, [x.pace_ms for x in drawn.habits if x and x.pace_ms] or [1])
    for i, habit in enumerate(drawn.habits):
        rng = random.Random(f"{drawn.seed}/client/{i}")
        if habit is not None:
            client = Client(f"c{i}", habit, world, rng, until_ms)
            client.pace = pace
            clients.append(client)
            client.begin(began_ms + rng.randrange(50), choose)
    faults = [fault._replace(at_ms=began_ms + fault.at_ms) for fault in faults_of(drawn)]
    nemesis = Nemesis(world, drawn.singly, faults, drawn.w)
    changes = Changes(world, nemesis.limits, drawn.steps)
    if drawn.broken:
        world.run_until(until_ms - drawn.core_ms)
        forced.stop()
        changes.stop()
        nemesis.stop()
        _liveness(drawn, world, until_ms)
    else:
        _drain(world, until_ms)
        forced.stop()
        changes.stop()
        nemesis.stop()
    changes.clear_up()
    world.oracle.nothing_open(world.now_ms)


def _drain(world: World, until_ms: int) -> None:
    """Run to the end of the load, and until clients have learnt how what they began has ended.

    That is before all is healed. Something that is overdue is not waited for.
    """
    world.run_until(until_ms)
    for _ in range(DRAIN_ROUNDS_MAX):
        world.run_until(max(world.oracle.last_due_ms(), world.now_ms) + 50)
        if world.oracle.last_due_ms() < world.now_ms:
            return


def _liveness(drawn: Draw, world: World, until_ms: int) -> None:
    endure = Endure(drawn, world)
    alone = endure.begin()
    _drain(world, until_ms)
    if alone:
        endure.agree(_patience_ms(drawn, world))
        endure.serve()
    endure.end()


def _patience_ms(drawn: Draw, world: World) -> int:
    """How long a ring without faults may take to come to rest, with all that there is to repair."""
    storm_ms = drawn.config.suspicion_ms + drawn.weather.straggle_ms  # frames that are still late
    if "freeze" in drawn.kinds:
        storm_ms += 2 * Ages.WINDOW_MS  # until a clock that stood still is understood
    if drawn.steps:  # a change that was just committed is carried out, arc by arc, at its rate
        storm_ms += 30_000 + 100 * drawn.config.partitions
    trips = len(world.oracle.keys()) // min(drawn.config.hint_batch, drawn.config.exchange_rows)
    return drawn.rest_ms + storm_ms + trips * 20 * drawn.nodes


def _rest(drawn: Draw, world: World) -> int:
    """Run until the ring is at rest; how long that took, or -1 if it does not come to rest."""
    began_ms = world.now_ms
    patience_ms = _patience_ms(drawn, world)
    scrub(world)
    if drawn.weather.straggle:
        # Frames of the storm are still on their way; those of earlier lives can silence a node
        # that lost its disk, and with it its start counter, for as long as a suspicion.
        world.run_until(began_ms + drawn.weather.straggle_ms + drawn.config.suspicion_ms)
    while True:
        world.run_until(world.now_ms + 50)
        number, why = world.unsettled()
        if not number:
            return world.now_ms - began_ms
        if world.now_ms - began_ms > patience_ms:
            world.oracle.accuse(number, b"", f"not at rest after {patience_ms} ms: {why}")
            return -1
