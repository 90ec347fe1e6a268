"""Draws for mistakes that an ordinary seed reaches too rarely to wait for.

Each turns what a seed has drawn into something that goes to the same place again and again. The
clients, the ring and the knobs stay as drawn, and the promises are the same.
"""

from __future__ import annotations

from dataclasses import replace

from dynamo.sim.network import Weather
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
