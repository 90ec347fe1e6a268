"""Draws for mistakes that an ordinary seed reaches too rarely to wait for.

Each turns what a seed has drawn into something that goes to the same place again and again. The
clients, the ring and the knobs stay as drawn, and the promises are the same.
"""

from __future__ import annotations

import random
from dataclasses import replace

from dynamo.sim.faults import SPLITS
from dynamo.sim.network import Weather
from dynamo.sim.operators import Step
from dynamo.sim.profiles import Draw

UNREPAIRED = (("page lost", 0.3), ("page answer lost", 0.2), ("comparison lost", 0.3))


def crashes(drawn: Draw) -> Draw:
    """One process after another dies, mostly with a step that nobody hears of, and comes back."""
    return replace(
        drawn, kinds=("after", "sending", "kill"), every_ms=60, longest_ms=150, weather=Weather(),
        singly=True, forced=(), broken=(), durability="fsync", interval_ms=0,
    )  # fmt: skip


def forgetting(drawn: Draw) -> Draw:
    """Single rows vanish all the time, and many writes are blind."""
    habits = tuple(
        habit if habit is None or habit.loner
        else replace(habit, weights={**habit.weights, "blind": 60})
        for habit in drawn.habits
    )  # fmt: skip
    return replace(
        drawn, kinds=("forget",), every_ms=50, longest_ms=100, habits=habits, broken=(),
        forced=UNREPAIRED,
    )  # fmt: skip


def rotting(drawn: Draw) -> Draw:
    """Records rot all the time, and comparing takes long."""
    return replace(
        drawn, kinds=("rot",), every_ms=30, longest_ms=100, broken=(), forced=UNREPAIRED,
    )  # fmt: skip


def impatient(drawn: Draw) -> Draw:
    """Owners are slow, and whoever asks them turns to stand-ins at once."""
    return replace(
        drawn, kinds=("slow",), every_ms=100, longest_ms=300, broken=(),
        weather=replace(Weather(), jitter_ms=10), forced=(("silence comes early", 0.3),),
    )  # fmt: skip


def moving(drawn: Draw) -> Draw:
    """Few arcs go to and fro all the time, under busy clients, and copies of what they put are
    lost as often as not."""
    calm = _restless(drawn)
    return replace(
        calm, kinds=("oneway", "deaf", "mute", "slow", "split"),
        config=replace(calm.config, gossip_ms=50, exchange_rows=64, replica_timeout_ms=300),
        # A vote that is lost leaves time between the end of a copy and the switch.
        forced=(("register lost", 0.2), ("vote lost", 0.4), ("owner left out", 0.4),
                ("repair lost", 0.5)),
    )  # fmt: skip


def thin(drawn: Draw) -> Draw:
    """The same, and what is put is on few owners for as long as their silence is borne."""
    return replace(
        moving(drawn), kinds=("slow",),
        forced=(("register lost", 0.1), ("owner left out", 0.5), ("repair lost", 0.8)),
    )  # fmt: skip


def untold(drawn: Draw) -> Draw:
    """The same, and owners hear late of what becomes of their arcs."""
    calm = _restless(drawn)
    habits = tuple(
        habit and replace(habit, think_ms=min(habit.think_ms, 5)) for habit in drawn.habits
    )
    return replace(
        calm, kinds=("oneway", "deaf", "mute", "slow", "split"), habits=habits,
        config=replace(calm.config, replica_timeout_ms=80, gossip_ms=3_000),
        weather=Weather(jitter_ms=3, straggle=0.05, straggle_ms=80),
        forced=(("register lost", 0.6), ("news lost", 0.8), ("owner left out", 0.3),
                ("silence comes early", 0.1), ("repair lost", 0.5), ("page lost", 0.1)),
    )  # fmt: skip


def contested(drawn: Draw) -> Draw:
    """The same, and who moves arcs is cut off, dies, and comes back while others try."""
    return replace(
        _restless(drawn), kinds=(*SPLITS, "oneway", "kill", "after", "sending", "pause"),
        forced=(("register lost", 0.3), ("news lost", 0.5), ("promise lost", 0.1),
                ("vote lost", 0.2), ("page lost", 0.2)),
    )  # fmt: skip


def bereft(drawn: Draw) -> Draw:
    """A newcomer is lost, and removed, in the middle of taking over its arcs."""
    rng = random.Random(f"{drawn.seed}/bereft")
    calm = _restless(drawn)
    lost_ms = rng.randrange(1_300, 3_500)
    steps = Step(1_000, "join", ("n6",)), Step(lost_ms, "remove", ("n6",))
    return replace(
        calm, kinds=(), steps=steps, config=replace(calm.config, partitions=32, gossip_ms=50),
        forced=(("register lost", 0.5), ("page lost", 0.1)),
    )  # fmt: skip


def rehoused(drawn: Draw) -> Draw:
    """A machine is replaced under the name of a node: it comes back empty, at another address."""
    calm = _restless(drawn)
    return replace(calm, kinds=(), steps=(Step(2_000, "rehouse", ("n1",)), *calm.steps[-1:]))


def _restless(drawn: Draw) -> Draw:
    """Weights change, and change back, every few hundred milliseconds, at two ends at once."""
    rng = random.Random(f"{drawn.seed}/restless")
    names = [f"n{i + 1}" for i in range(5)]
    steps = [
        Step(at_ms + rng.choice((0, 40)), "reweight", (rng.choice(names),), rng.randrange(5),
             rng.choice((1, 3, 20)))
        for at_ms in range(200, 6_000, 400) for _ in range(rng.choice((1, 1, 2)))
    ]  # fmt: skip
    config = replace(
        drawn.config, n=3, r=0, w=0, partitions=4, gossip_ms=500, transfer_arcs=8,
        transfer_bytes_per_s=1 << 25, background_timeout_ms=400, probe_ms=100, suspicion_ms=240,
        exchange_ms=3_000, exchange_rows=2,
    )  # fmt: skip
    return replace(
        drawn, nodes=5, config=config, steps=tuple(sorted(steps)),
        load_ms=7_000, every_ms=250, longest_ms=400, weather=Weather(jitter_ms=3), zones=(),
        drift=(),
    )  # fmt: skip
