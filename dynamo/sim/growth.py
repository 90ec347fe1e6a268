"""Rings that grow and shrink: the steps of a seed, and the profile that has them.

recipe      join two, then leave two, nothing else going wrong with the ring (riak_kv#1754)
moves       one to five changes of any kind, in any order, at any distance
crossing    two operators at the same moment through two nodes
regret      a change, and its abort soon after
"""

from __future__ import annotations

import random

from dynamo.sim.faults import LINKS
from dynamo.sim.operators import Step

NODES_MAX = 9
CALM = ("kill", "before", "after", "sending", "pause", "slow", "unreadable", "fsync", "skew")
VERBS = ("join", "join", "leave", "leave", "remove", "replace", "relieve", "reweight")


class Growth:
    """Draws steps: knows who would be there if all went well, and what the next name is."""

    def __init__(self, rng: random.Random, names: list[str], load_ms: int, copies: int) -> None:
        self._rng = rng
        self._there = list(names)
        self._next = len(names) + 1
        self._load_ms = load_ms
        self._least = copies
        self.steps: list[Step] = []

    def draw(self) -> tuple[Step, ...]:
        """The steps of a seed, in order of time."""
        kinds = (self._recipe, self._moves, self._moves, self._crossing, self._regret)
        self._rng.choice(kinds)()
        return tuple(sorted(self.steps))

    def _at(self, share: float) -> int:
        return int(self._load_ms * share * self._rng.uniform(0.5, 1.0))

    def _add(self, at_ms: int, verb: str, names: tuple[str, ...], weight: int = 1) -> None:
        via = self._rng.randrange(NODES_MAX)
        self.steps.append(Step(at_ms, verb, names, via, weight))

    def _fresh(self) -> str:
        name = f"n{self._next}"
        self._next += 1
        self._there.append(name)
        return name

    def _leaver(self) -> str:
        name = self._rng.choice(self._there)
        self._there.remove(name)
        return name

    def _recipe(self) -> None:
        first, second = self._at(0.2), self._at(0.5)
        newcomers = (self._fresh(), self._fresh())
        self._add(first, "join", newcomers)
        leavers = tuple(self._rng.sample(self._there[:-2], 2)) if len(self._there) > 4 else ()
        if leavers:
            self._add(first + second, "leave", leavers)

    def _moves(self) -> None:
        at_ms = 0
        for _ in range(self._rng.choice((1, 2, 3, 5))):
            at_ms += int(self._load_ms * self._rng.choice((0.02, 0.1, 0.3)) * self._rng.random())
            self._move(at_ms)

    def _move(self, at_ms: int) -> None:
        verb = self._rng.choice(VERBS)
        few = len(self._there) <= self._least
        if verb == "reweight":
            weight = self._rng.choice((1, 2, 3))
            self._add(at_ms, verb, (self._rng.choice(self._there),), weight)
        elif verb in ("replace", "relieve"):
            old = self._leaver()
            self._add(at_ms, verb, (old, self._fresh()))
        elif (verb == "join" or few) and self._next <= NODES_MAX:
            self._add(at_ms, "join", (self._fresh(),))
        elif not few:
            self._add(at_ms, "leave" if verb == "join" else verb, (self._leaver(),))

    def _crossing(self) -> None:
        at_ms = self._at(0.4)
        for _ in range(2):
            self._move(at_ms + self._rng.choice((0, 0, 30, 300)))
        self._move(at_ms + self._at(0.3))

    def _regret(self) -> None:
        at_ms = self._at(0.3)
        self._move(at_ms)
        self._add(at_ms + self._rng.choice((20, 100, 500, 2_000)), "abort", ())
        if self._rng.random() < 0.5:
            self._move(at_ms + self._at(0.4))


def kinds(rng: random.Random) -> tuple[str, ...]:
    """What goes wrong beside the changes; disks lose nothing but those that are given up."""
    if rng.random() < 0.25:
        return ()
    share = rng.choice((0.15, 0.3, 0.6))
    return tuple(kind for kind in (*CALM, *LINKS) if rng.random() < share)
