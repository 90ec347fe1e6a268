"""What a seed runs: ring, knobs, weather, faults and clients, drawn from the seed alone.

    default   what `run(seed)` and campaigns use: at least 20 simulated seconds, 100 operations each
    short     a few seconds with fewer operations, for quick tests
    calm      the same, and nothing goes wrong: every operation must succeed
    membership  nodes join, leave, are lost and replaced, while clients work and things go wrong

A profile is a function from a seed to a `Draw`, and a draw is plain values: it can be printed,
written down as JSON, changed in one place with `dataclasses.replace`, and run again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from dynamo.core.config import Config, quorum
from dynamo.sim import force, growth
from dynamo.sim.faults import KINDS, LOSSES, Fault
from dynamo.sim.habits import habits
from dynamo.sim.network import Weather
from dynamo.sim.operators import Step
from dynamo.sim.oracle import NEVER_MS
from dynamo.sim.workload import Habit

FAULTS_TOLD = 20  # in the story of a draw
# Faults of one process at a time, over a network without fault: there is no copy out of reach.
SINGLE = ("kill", "before", "after", "sending", "loop", "unreadable", "fsync", "skew", "strobe")
BROKEN = ("dead", "paused", "deaf", "mute", "flapping")  # how a host may stay for ever

# Knobs at the ends of what is legal. Tables of one entry, batches of one row, patience of 1 ms.
EXTREMES: dict[str, tuple[int, ...]] = {
    "pending_ops_max": (2, 8),
    "pending_bytes_max": (1, 64),
    "siblings_max": (1, 2),
    "hint_bytes_max": (1, 300),
    "hint_window_ms": (1, 500),
    "hint_batch": (1,),
    "hint_batch_bytes": (1,),
    "exchange_rows": (1,),
    "exchange_arcs": (1, 64),
    "exchange_ms": (60,),
    "replica_timeout_ms": (12, 300),  # above the round trip: below it a ring cannot answer
    "hedge_ms_max": (1, 200),
    "background_timeout_ms": (20,),
    "timeout_ms_max": (200,),
    "partitions": (1, 2, 256),
    "ids_max": (1, 8),
}


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
    habits: tuple[Habit | None, ...]  # None: left out, the others keep their names
    encode: bool
    split: bool
    notice_lost: bool
    work_ms: int
    singly: bool  # one process down at a time, over a network without fault
    profile: str = "default"
    # What goes wrong, in place of what `kinds` would draw; `at_ms` counts from the first operation.
    faults: tuple[Fault, ...] | None = None
    durability: str = "fsync"
    interval_ms: int = 0  # at durability "interval": between two syncs
    drift: tuple[int, ...] = ()  # how much too fast each monotonic clock is, in millionths
    forced: tuple[tuple[str, float], ...] = ()  # points of `force`, and their chances
    # Who stays broken for ever in the second phase, and how, as far as quorums allow; see `endure`.
    broken: tuple[tuple[str, str], ...] = ()
    core_ms: int = 0  # how long clients go on in that phase
    steps: tuple[Step, ...] = ()  # what people do to the ring; see `operators`
    zones: tuple[str, ...] = ()  # given to the nodes in turn

    @property
    def names(self) -> list[str]:
        return [f"n{i + 1}" for i in range(self.nodes)]

    @property
    def copies(self) -> int:
        return min(self.config.n, self.nodes)

    @property
    def w(self) -> int:
        """On how many disks a write is when it is acknowledged, at the least."""
        return self.config.w or quorum(self.copies)

    @property
    def cuts(self) -> bool:
        """Whether a copy of a put may be out of reach of those that are asked on a retry."""
        copies = self.copies
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
        """The draw in a few lines, without whatever is as usual."""
        odd = [name for name in ("encode", "split", "notice_lost", "singly") if getattr(self, name)]
        lines = [
            f"seed {self.seed} ({self.profile}): {self.nodes} nodes, load {self.load_ms} ms, "
            f"work_ms {self.work_ms}, {' '.join(odd)}",
            f"  disks {self.durability} {self.interval_ms or ''}".rstrip(),
            f"  knobs {_unusual(self.config)}",
            f"  weather {_unusual(self.weather)}",
        ]
        if any(self.drift):
            lines.append(f"  clocks too fast by {self.drift} millionths")
        if self.forced:
            lines.append(f"  forced {', '.join(f'{name} {x:g}' for name, x in self.forced)}")
        if self.steps:
            zones = f", zones {' '.join(self.zones)}" if self.zones else ""
            lines.append(f"  ring: {'; '.join(map(_step_told, self.steps))}{zones}")
        if self.broken:
            broken = ", ".join(f"{host} {how}" for host, how in self.broken)
            lines.append(f"  broken for ever {broken}, for {self.core_ms} ms")
        lines += self._faults_told()
        lines += [f"  c{i} {_unusual(habit)}" for i, habit in enumerate(self.habits) if habit]
        return "\n".join(lines)

    def _faults_told(self) -> list[str]:
        if self.faults is None:
            every = f"every {self.every_ms} ms, up to {self.longest_ms} ms"
            return [f"  faults {', '.join(self.kinds)}, {every}" if self.kinds else "  no faults"]
        lines = [f"  {_told(fault)}" for fault in self.faults[:FAULTS_TOLD]]
        more = len(self.faults) - FAULTS_TOLD
        return [*lines, f"  and {more} faults more"] if more > 0 else lines or ["  no faults"]


def _told(fault: Fault) -> str:
    """250 ms after the start: split n2 for 571 ms, n2 c2 | n1 n4 n3"""
    text = f"{fault.at_ms} ms after the start: {fault.kind} {fault.host} for {fault.for_ms} ms"
    if fault.groups:
        text += ", " + " | ".join(" ".join(group) for group in fault.groups)
    return text + (f", {fault.amount_ms} ms" if fault.amount_ms else "") + ", hold" * fault.hold


def _step_told(step: Step) -> str:
    """after 812 ms join n6 n7"""
    weight = f" to {step.weight}" if step.verb == "reweight" else ""
    return f"after {step.at_ms} ms {' '.join((step.verb, *step.names))}{weight}"


def _unusual(thing: Any) -> str:
    """What differs from its default in a dataclass or a named tuple: name and value."""
    if isinstance(thing, tuple):
        usual: dict[str, Any] = getattr(thing, "_field_defaults", {})
        there = {name: getattr(thing, name) for name in getattr(thing, "_fields", ())}
    else:
        usual = {field.name: field.default for field in fields(thing)}
        there = {name: getattr(thing, name) for name in usual}
    told = []
    for name, value in there.items():
        if isinstance(value, dict):
            told += [f"{what} {share}" for what, share in value.items() if share]
        elif name not in usual or usual[name] != value:
            shown = f"({_unusual(value)})" if hasattr(value, "_fields") else value
            told.append(f"{name} {shown}")
    return ", ".join(told) or "as usual"


def short(seed: int) -> Draw:
    """A few seconds, for quick tests."""
    rng = random.Random(f"{seed}/draw")
    nodes = rng.choice((3, 3, 4, 5, 5, 6))
    drawn = _drawn(seed, rng, nodes, "short")
    return replace(
        drawn,
        longest_ms=min(rng.choice((100, 500, 1_500, 4_000)), _longest_ms(drawn)),
        load_ms=rng.choice((2_000, 4_000, 6_000)),
        core_ms=500 if drawn.broken else 0,
    )


def default(seed: int) -> Draw:
    """What campaigns run: long enough for one thing to follow from another."""
    rng = random.Random(f"{seed}/draw")
    nodes = rng.choice((3, 3, 4, 5, 5, 5, 6, 7))
    drawn = _drawn(seed, rng, nodes, "default")
    return replace(
        drawn,
        every_ms=rng.choice((200, 500, 1_000, 2_000)),
        longest_ms=min(rng.choice((300, 1_000, 2_000, 5_000)), _longest_ms(drawn)),
        load_ms=20_000,
        core_ms=2_000 if drawn.broken else 0,
    )


def calm(seed: int) -> Draw:
    """Nothing goes wrong, no knob is at an end, and nobody gives up."""
    rng = random.Random(f"{seed}/draw")
    nodes = rng.choice((3, 4, 5))
    drawn = _drawn(seed, rng, nodes, "calm")
    patient = tuple(
        habit and replace(habit, hasty=0.0, weights={**habit.weights, "pile": 0, "quit": 0})
        for habit in drawn.habits
    )
    return replace(
        drawn, kinds=(), weather=Weather(), forced=(), broken=(), load_ms=3_000, habits=patient
    )


def membership(seed: int) -> Draw:
    """A ring that changes. What disks lose is left to the other profiles, but for those that are
    given up with their machines."""
    rng = random.Random(f"{seed}/draw")
    nodes = rng.choice((3, 4, 5, 5, 6))
    drawn = _drawn(seed, rng, nodes, "membership")
    n = rng.choice((2, 3, 3, 3, 3, 4))
    r, w = rng.choice(((0, 0), (0, 0), (0, 0), (1, n), (n, 1)))
    config = replace(
        drawn.config, n=n, r=r, w=w, partitions=rng.choice((4, 8, 16, 32)),
        gossip_ms=rng.choice((50, 200, 500)), transfer_arcs=rng.choice((1, 4, 8)),
        transfer_bytes_per_s=rng.choice((20_000, 1 << 25)),
    )  # fmt: skip
    load_ms = rng.choice((6_000, 10_000, 15_000))
    steps = growth.Growth(rng, drawn.names, load_ms, n).draw()
    return replace(
        drawn, config=config, kinds=growth.kinds(rng), steps=steps, load_ms=load_ms, singly=False,
        longest_ms=rng.choice((100, 500, 1_500)), every_ms=rng.choice((300, 1_000, 3_000)),
        habits=habits(rng, config, nodes, rng.random() < 0.5, rng.random() < 0.2),
        work_ms=rng.choice((0, 2, 3, 4, 6)), broken=(), core_ms=0,
        durability="fsync", interval_ms=0, forced=(),
        zones=rng.choice(((), (), ("a", "b"), ("a", "b", "c"))),
    )  # fmt: skip


PROFILES: dict[str, Callable[[int], Draw]] = {
    "default": default, "short": short, "calm": calm, "membership": membership,
}  # fmt: skip


def draw(seed: int, profile: str = "default") -> Draw:
    """What this seed runs."""
    return PROFILES[profile](seed)


def _longest_ms(drawn: Draw) -> int:
    # Where retries are judged, nobody stays away for longer than ids of puts are remembered.
    return 1_500 if drawn.singly else NEVER_MS


def _drawn(seed: int, rng: random.Random, nodes: int, profile: str) -> Draw:
    long = profile == "default"
    n = rng.choice((*(3,) * (10 if long else 6), 1, 2, 4, 5))
    config = _config(rng, nodes, n, long)
    durability = "interval" if rng.random() < 0.25 else "fsync"
    weather, kinds = _weather(rng), _kinds(rng, config, nodes, durability)
    singly = rng.random() < 0.15
    if singly:
        # What retries leave behind is judged here, and not excused.
        weather, kinds, durability = Weather(), SINGLE, "fsync"
    encode = seed % 8 == 7
    if encode and not singly and rng.random() < 0.6:
        weather = replace(weather, corrupt=rng.choice((0.001, 0.01, 0.05)))
    names = [f"n{i + 1}" for i in range(nodes)]
    forced = force.draw_chances(rng) if rng.random() < 0.35 and not singly else ()
    exact = rng.random() < 0.5  # no auto puts
    if not singly and profile != "calm" and rng.random() < 0.4:
        config = _extreme(rng, config)
    return Draw(
        seed=seed,
        nodes=nodes,
        config=config,
        weather=weather,
        kinds=kinds,
        every_ms=rng.choice((100, 300, 300, 1_000)),
        longest_ms=0,
        load_ms=0,
        habits=habits(rng, config, nodes, exact, profile != "default"),
        encode=encode,
        split=rng.random() < (0.1 if profile == "default" else 0.3),
        notice_lost=rng.random() < 0.7,
        # A step that waits for a disk takes milliseconds, in which its inbox fills.
        work_ms=rng.choice((0, 4, 4, 5, 5, 6, 6, 8, 8, 10) if long else (0, 0, 0, 1, 3)),
        singly=singly,
        profile=profile,
        durability=durability,
        interval_ms=rng.choice((50, 300, 1_000)) if durability == "interval" else 0,
        drift=tuple(rng.randrange(-100, 101) for _ in names) if rng.random() < 0.4 else (),
        forced=forced,
        broken=_broken(rng, names) if rng.random() < 0.6 else (),
    )


def _broken(rng: random.Random, names: list[str]) -> tuple[tuple[str, str], ...]:
    if len(names) < 3:
        return ()
    chosen = rng.sample(names, rng.randrange(1, len(names)))
    return tuple((name, rng.choice(BROKEN)) for name in chosen)


def _extreme(rng: random.Random, config: Config) -> Config:
    """One to three knobs at one of their ends.

    `ids_max` is what D5 stands on: a put whose id was forgotten may be minted a second time, and
    then lives beside whatever replaced it. The oracle counts that as a retry sibling, as it does
    with a copy that comes back.
    """
    names = list(EXTREMES)
    changes = {name: rng.choice(EXTREMES[name]) for name in rng.sample(names, rng.randrange(1, 4))}
    return replace(config, **changes)


def _config(rng: random.Random, nodes: int, n: int, long: bool) -> Config:
    copies = min(n, nodes)
    r, w = rng.choice(((0, 0), (0, 0), (0, 0), (1, copies), (copies, 1), (1, 1)))
    # Long runs are nearer to what a ring is configured to: else half of them is small talk.
    probe_ms = rng.choice((300, 1_000, 1_000, 2_000) if long else (50, 100, 300))
    probe_timeout_ms = rng.choice((20, 40))
    return Config(
        n=n,
        r=r,
        w=w,
        partitions=rng.choice((4, 8, 16, 64)),
        timeout_ms_max=rng.choice((1_000, 5_000)),
        replica_timeout_ms=rng.choice((50, 100, 150) if long else (10, 30, 80)),
        hedge_ms_max=rng.choice((30, 50, 50) if long else (3, 10, 30)),
        background_timeout_ms=rng.choice((100, 400, 1_500)),
        probe_ms=probe_ms,
        probe_timeout_ms=probe_timeout_ms,
        suspicion_ms=probe_timeout_ms + rng.choice((40, 200, 800)),
        hint_batch=rng.choice((1, 2, 64)),
        exchange_ms=rng.choice((500, 2_000, 3_000) if long else (100, 300, 1_000, 3_000)),
        exchange_rows=rng.choice((4, 8, 64, 256) if long else (1, 2, 8, 256)),
        exchange_arcs=rng.choice((1, 4)),
        gossip_ms=rng.choice((1_000, 3_000)) if long else 1_000,
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
        shape=rng.choice(("even", "even", "fixed", "tail")),
    )


def _kinds(rng: random.Random, config: Config, nodes: int, durability: str) -> tuple[str, ...]:
    """A random part of the faults; losing what disks hold only where W promises to survive it."""
    if rng.random() < 0.06:
        return ()
    copies = min(config.n, nodes)
    w = config.w or quorum(copies)
    share = rng.choice((0.1, 0.3, 0.5))
    kinds = [kind for kind in KINDS if rng.random() < share]
    if w < 2 or copies < 2:
        kinds = [kind for kind in kinds if kind not in LOSSES]
    if durability == "fsync":
        kinds = [kind for kind in kinds if kind != "power"]
    return tuple(kinds)
