"""One seed, from its draw to its verdict.

    draw      the seed picks the ring, its knobs, the weather, the faults and the clients
    safety    clients work while things go wrong
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
from dataclasses import dataclass, fields

from dynamo.core import dvv, ring
from dynamo.core.config import Config, quorum
from dynamo.core.replica import CHECK_BYTES
from dynamo.core.spaces import OBJECTS
from dynamo.sim.faults import KINDS, Nemesis, schedule
from dynamo.sim.network import Network, Weather
from dynamo.sim.oracle import NEVER_MS, Oracle, Violation
from dynamo.sim.story import tell
from dynamo.sim.workload import Client, Habit, Levels, Reader
from dynamo.sim.world import World

READ_TIMEOUT_MS = 2_000
STORY_LINES = 60
LOSSES = ("wipe", "torn")
SINGLE = ("kill", "before", "after", "sending", "skew")


@dataclass(frozen=True, slots=True)
class Draw:
    """Everything that a seed decides. Printed when it fails; parts may be replaced to shrink it."""

    seed: int
    nodes: int
    config: Config
    weather: Weather
    kinds: tuple[str, ...]
    every_ms: int  # mean time between faults
    longest_ms: int  # a fault's longest duration
    load_ms: int
    habits: tuple[Habit, ...]
    encode: bool
    split: bool
    notice_lost: bool
    work_ms: int
    singly: bool  # one process down at a time, over a network without fault

    @property
    def names(self) -> list[str]:
        return [f"n{i + 1}" for i in range(self.nodes)]

    @property
    def cuts(self) -> bool:
        """Whether a copy of a put may be out of reach of those that are asked on a retry."""
        copies = min(self.config.n, self.nodes)
        overlap = min(self.config.r or copies, self.config.w or copies) >= quorum(copies)
        return not (self.singly and copies >= 3 and overlap)

    @property
    def rest_ms(self) -> int:
        """How long a healed ring may take to come to rest.

        Peers are heard within a probe and believed at once; a walk or a hint that was lost on the
        way counts as lost after its own wait; hints go home `hint_batch` a round trip, walks
        `exchange_arcs` at a time; the rest is rounds of the exchange, each of which may find
        what the one before brought.
        """
        config = self.config
        waits_ms = config.suspicion_ms + 3 * config.probe_ms + 2 * config.background_timeout_ms
        rounds = 4 + config.partitions // config.exchange_arcs
        return waits_ms + 4_000 + 4 * config.exchange_ms + rounds * 100

    def story(self) -> str:
        """The draw in a few lines, without the knobs that have their default."""
        default = Config()
        knobs = {
            field.name: getattr(self.config, field.name)
            for field in fields(Config)
            if getattr(self.config, field.name) != getattr(default, field.name)
        }
        lines = [
            f"seed {self.seed}: {self.nodes} nodes, load {self.load_ms} ms, encode={self.encode} "
            f"split={self.split} notice_lost={self.notice_lost} work_ms={self.work_ms} "
            f"singly={self.singly}",
            f"  knobs {knobs}",
            f"  weather {self.weather}",
            f"  faults {self.kinds or 'none'} every {self.every_ms} ms, up to {self.longest_ms} ms",
        ]
        lines += [f"  c{i} {habit}" for i, habit in enumerate(self.habits)]
        return "\n".join(lines)


def draw(seed: int) -> Draw:
    """What this seed runs."""
    rng = random.Random(f"{seed}/draw")
    nodes = rng.choice((3, 3, 4, 5, 5, 6))
    n = rng.choice((3, 3, 3, 3, 3, 3, 1, 2, 4, 5))
    config = _config(rng, nodes, n)
    weather, kinds = _weather(rng), _kinds(rng, config, nodes)
    singly = rng.random() < 0.15
    if singly:
        # What retries leave behind is judged here, and not excused. Nobody stays away for longer
        # than ids of superseded puts are remembered.
        weather, kinds = Weather(), SINGLE
    return Draw(
        seed=seed,
        nodes=nodes,
        config=config,
        weather=weather,
        kinds=kinds,
        every_ms=rng.choice((100, 300, 300, 1_000)),
        longest_ms=min(rng.choice((100, 500, 1_500, 4_000)), 1_500 if singly else NEVER_MS),
        load_ms=rng.choice((2_000, 4_000, 6_000)),
        habits=_habits(rng, config, nodes),
        encode=seed % 8 == 7,
        split=rng.random() < 0.3,
        notice_lost=rng.random() < 0.7,
        work_ms=rng.choice((0, 0, 0, 1, 3)),
        singly=singly,
    )


def _config(rng: random.Random, nodes: int, n: int) -> Config:
    copies = min(n, nodes)
    r, w = rng.choice(((0, 0), (0, 0), (0, 0), (1, copies), (copies, 1), (1, 1)))
    probe_ms = rng.choice((50, 100, 300))
    probe_timeout_ms = rng.choice((20, 40))
    return Config(
        n=n,
        r=r,
        w=w,
        partitions=rng.choice((4, 8, 16, 64)),
        timeout_ms_max=rng.choice((1_000, 5_000)),
        replica_timeout_ms=rng.choice((10, 30, 80)),
        hedge_ms_max=rng.choice((3, 10, 30)),
        background_timeout_ms=rng.choice((100, 400, 1_500)),
        probe_ms=probe_ms,
        probe_timeout_ms=probe_timeout_ms,
        suspicion_ms=probe_timeout_ms + rng.choice((40, 200, 800)),
        hint_batch=rng.choice((1, 2, 64)),
        exchange_ms=rng.choice((100, 300, 1_000, 3_000)),
        exchange_rows=rng.choice((1, 2, 8, 256)),
        exchange_arcs=rng.choice((1, 4)),
    )


def _weather(rng: random.Random) -> Weather:
    if rng.random() < 0.2:
        return Weather()
    return Weather(
        delay_ms=rng.choice((0, 1, 1, 2)),
        jitter_ms=rng.choice((0, 1, 3, 10)),
        loss=rng.choice((0.0, 0.0, 0.01, 0.05, 0.15)),
        double=rng.choice((0.0, 0.0, 0.02, 0.1)),
        straggle=rng.choice((0.0, 0.0, 0.01, 0.05)),
        straggle_ms=rng.choice((50, 300, 2_000)),
        replay=rng.choice((0.0, 0.0, 0.0, 0.02, 0.1)),
    )


def _kinds(rng: random.Random, config: Config, nodes: int) -> tuple[str, ...]:
    """A random half of the faults; losing disks only where W promises to survive it."""
    if rng.random() < 0.06:
        return ()
    copies = min(config.n, nodes)
    w = config.w or quorum(copies)
    kinds = [kind for kind in KINDS if rng.random() < 0.45]
    if w < 2 or copies < 2:
        kinds = [kind for kind in kinds if kind not in LOSSES]
    return tuple(kinds)


def _habits(rng: random.Random, config: Config, nodes: int) -> tuple[Habit, ...]:
    copies = min(config.n, nodes)
    exact = rng.random() < 0.5  # no auto puts: the verdict is exact
    keys = rng.choice((1, 2, 4, 8))
    habits = []
    for _ in range(rng.choice((2, 3, 4, 6))):
        weights = {
            "read": rng.choice((0, 1, 3)),
            "modify": rng.choice((1, 4)),
            "blind": rng.choice((0, 0, 1, 2)),
            "auto": 0 if exact else rng.choice((0, 1, 3)),
            "remove": rng.choice((0, 0, 1, 2)),
            "cold": rng.choice((0, 0, 1)),
        }
        habits.append(
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
            )
        )
    loner = Habit(
        weights={"read": 1, "modify": 5}, think_ms=10, timeout_ms=500, sloppy=False, loner=True,
        levels=_strict(config, copies),
    )  # fmt: skip
    return (*habits, loner)


def _strict(config: Config, copies: int) -> Levels:
    """Levels that overlap. Never below the ring's own W: an owner that lost its disk counts
    again once it has met enough others for that W, and for no lower one."""
    w = max(config.w, quorum(copies))
    return Levels(r=quorum(copies), w=w, pr=quorum(copies), pw=w)


def _levels(rng: random.Random, config: Config, copies: int) -> Levels:
    if rng.random() < 0.75:
        return Levels()
    if rng.random() < 0.5:
        return _strict(config, copies)
    return Levels(r=rng.randrange(1, copies + 1), w=max(config.w, quorum(copies)))


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
        lines = [self.draw.story(), f"  digest {self.digest}, ops {self.ops}"]
        lines += [f"  {violation}" for violation in self.violations[:12]]
        key = next((violation.key for violation in self.violations if violation.key), b"")
        if key and not self.world.log:
            # Once more with a log: a run is cheaper than keeping one that nobody reads.
            lines.append(tell(run(self.draw, logging=True).world, key, STORY_LINES))
        lines.append(f"replay: python -m pytest tests/test_sim.py --seed {self.draw.seed}")
        return "\n".join(lines)


def run(what: int | Draw, *, logging: bool = False) -> Report:
    """Run one seed, or a draw, to its verdict."""
    drawn = draw(what) if isinstance(what, int) else what
    seed = drawn.seed
    oracle = Oracle(drawn.cuts)
    network = Network(random.Random(f"{seed}/network"), drawn.weather)
    world = World(
        seed, drawn.names, drawn.config, network, oracle, encode=drawn.encode, split=drawn.split,
        notice_lost=drawn.notice_lost, work_ms=drawn.work_ms,
    )  # fmt: skip
    world.logging = logging
    rested_ms = -1
    clients: list[Client] = []
    try:
        clients = _safety(drawn, world)
        rested_ms = _rest(drawn, world)
        _verdict(world)
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


def _safety(drawn: Draw, world: World) -> list[Client]:
    names = drawn.names
    for name in names:
        world.start(name)
    world.network.weather = Weather()
    world.run_until(300)  # every node hears every other, as a ring that just started
    world.network.weather = drawn.weather
    until_ms = world.now_ms + drawn.load_ms
    clients = []
    for i, habit in enumerate(drawn.habits):
        rng = random.Random(f"{drawn.seed}/client/{i}")
        client = Client(f"c{i}", habit, world, rng, until_ms)
        clients.append(client)
        client.begin(world.now_ms + rng.randrange(50))
    faults = schedule(
        random.Random(f"{drawn.seed}/faults"), drawn.kinds, names, [c.name for c in clients],
        drawn.load_ms, drawn.every_ms, drawn.longest_ms,
    )  # fmt: skip
    nemesis = Nemesis(
        world, drawn.singly, [fault._replace(at_ms=300 + fault.at_ms) for fault in faults]
    )
    world.run_until(until_ms)
    # Operations may still be under way, and clients learn how they end before all is healed.
    world.run_until(until_ms + max(habit.timeout_ms for habit in drawn.habits) * 2 + 10)
    nemesis.stop()
    world.oracle.nothing_open(world.now_ms)
    return clients


def _rest(drawn: Draw, world: World) -> int:
    """Run until the ring is at rest; how long that took, or -1 if it does not come to rest."""
    began_ms = world.now_ms
    if drawn.weather.straggle:
        # Frames of the storm are still on their way; those of earlier lives can silence a node
        # that lost its disk, and with it its start counter, for as long as a suspicion.
        world.run_until(began_ms + drawn.weather.straggle_ms + drawn.config.suspicion_ms)
    while True:
        world.run_until(world.now_ms + 50)
        number, why = world.unsettled()
        if not number:
            return world.now_ms - began_ms
        if world.now_ms - began_ms > drawn.rest_ms:
            world.oracle.accuse(number, b"", f"not at rest after {drawn.rest_ms} ms: {why}")
            return -1


def _verdict(world: World) -> None:
    oracle = world.oracle
    keys = oracle.keys()
    rng = random.Random(f"{world.seed}/readers")
    readers = [Reader(name, world, rng) for name in world.hosts]
    for reader in readers:
        reader.read(keys, READ_TIMEOUT_MS)
    world.run_until(world.now_ms + READ_TIMEOUT_MS)
    for reader in readers:
        for key, text in reader.failures.items():
            oracle.accuse("I13", key, f"a healed ring did not answer {reader.name}: {text}")
    for key in keys:
        answers = {r.name: r.answers[key] for r in readers if key in r.answers}
        oracle.at_rest(key, answers, _held(world, key))
    _judge_rows(world)
    oracle.hints_at_rest(
        {
            name: sum(host.node.handoff.counts().values())
            for name, host in world.hosts.items()
            if host.node is not None
        }
    )


def _held(world: World, key: bytes) -> list[str]:
    """Uids of everything that the owners' rows hold of a key, tombstones too."""
    skey = ring.storage_key(key, world.config.partitions)
    found: dict[str, None] = {}
    for name in world.table.owners(ring.arc_of(key, world.config.partitions)):
        record = world.hosts[name].disk.get(OBJECTS, skey)
        for put_id in dvv.ids_of(dvv.decode(record[CHECK_BYTES:])) if record else ():
            found[world.uids.get(put_id, put_id.hex())] = None
    return list(found)


def _judge_rows(world: World) -> None:
    rows: dict[str, dict[int, dict[bytes, bytes]]] = {}
    strays: dict[str, list[bytes]] = {}
    for name, host in world.hosts.items():
        arcs = rows.setdefault(name, {})
        for skey, record in host.disk.scan(OBJECTS):
            arc = int.from_bytes(skey[:2], "big")
            if name in world.table.owners(arc):
                arcs.setdefault(arc, {})[skey[4:]] = record
            else:
                strays.setdefault(name, []).append(skey[4:])
    owned = {
        str(arc): {name: rows[name].get(arc, {}) for name in world.table.owners(arc)}
        for arc in range(world.config.partitions)
    }
    world.oracle.rows_at_rest(owned)
    world.oracle.strays_at_rest(strays)
