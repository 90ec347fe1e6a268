"""From a run that fails to the smallest one that still breaks the same promise.

A failing seed of a campaign is some hundred thousand events by seven clients in a storm, of which a
handful matter. `Shrinker` proposes simpler draws one after another, hears what came of each, and
keeps what still breaks the promise of the same number:

    shrinker = Shrinker(drawn, "I1", first)
    steps = shrinker.steps()
    candidate = next(steps)
    while ...:                             # until StopIteration, or until time is up
        candidate = steps.send(trial of candidate)
    shrinker.best                          # at any time: the smallest so far

It sees no clock and runs nothing, so the caller decides where candidates run and when to stop.

The first step writes down the faults that the seed would draw; it changes nothing, and from then
on faults, clients and load can be taken away without the rest being drawn anew. Clients keep their
names and their generators, so those that stay do what they did. What is left to chance (the order
of frames) changes all the same: large cuts are therefore tried under a few other seeds as well,
because the draw that must fail is the one that is written down, whatever its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import MISSING, fields, replace
from functools import partial
from typing import Any, NamedTuple

from dynamo.core.config import Config
from dynamo.sim.campaign import Draw, faults_of
from dynamo.sim.faults import Fault
from dynamo.sim.network import Weather
from dynamo.sim.regress import plain
from dynamo.sim.workload import Habit

STILL = Weather(jitter_ms=0)
CHANCES = 3  # seeds under which a large cut is tried
FURTHER = 1_000_003  # to the next of those
SLACK = 1.02  # a plainer draw may cost this much more events

Trying = Generator[Draw, "Trial", bool]
Steps = Generator[Draw, "Trial", None]


class Trial(NamedTuple):
    """What came of one candidate."""

    numbers: tuple[str, ...]  # promises that broke
    events: int
    broke_ms: int = -1  # when the first was seen to be broken


class Shrinker:
    """Makes one draw smaller. `best` is the smallest so far that breaks promise `number`."""

    def __init__(self, drawn: Draw, number: str, first: Trial) -> None:
        self.number = number
        self.original = self.best = drawn
        self.first = self.trial = first
        self.what = ""  # what is being left out, for people who wait
        self.tried = 0
        self._seen: dict[str, None] = {}

    @property
    def share(self) -> float:
        """Events that are left, of those that there were."""
        return self.trial.events / max(1, self.first.events)

    def steps(self) -> Steps:
        """Candidates, most promising first; ends when a whole round has made nothing smaller."""
        self._seen[_key(self.best)] = None
        yield from self._try(replace(self.best, faults=faults_of(self.best)))
        passes: dict[str, Callable[[], Steps]] = {
            "time": self._time, "clients": self._clients, "faults": self._faults,
            "nodes": self._nodes, "background traffic": self._quiet, "weather": self._weather,
            "operations": self._acts, "keys": self._keys, "knobs": self._knobs,
            "habits": self._habits, "details of faults": self._details,
        }  # fmt: skip
        while True:
            before = self.best
            for self.what, steps in passes.items():
                yield from steps()
            if self.best is before:
                return

    def _try(self, candidate: Draw, chances: int = 1, slack: float = 1.0) -> Trying:
        """Whether the candidate, perhaps under another seed, fails as it should; then it is kept.

        `slack` is for what makes a draw plainer and not shorter.
        """
        for chance in range(chances):
            drawn = replace(candidate, seed=candidate.seed + chance * FURTHER)
            if (key := _key(drawn)) in self._seen:
                continue
            self._seen[key] = None
            self.tried += 1
            trial = yield drawn
            if self.number in trial.numbers and trial.events <= self.trial.events * slack:
                self.best, self.trial = drawn, trial
                return True
        return False

    def _first_of(self, candidates: Iterator[Draw], chances: int = 1) -> Trying:
        for candidate in candidates:
            if (yield from self._try(candidate, chances)):
                return True
        return False

    def _plainer(self, candidates: Iterator[Draw]) -> Steps:
        for candidate in candidates:
            yield from self._try(candidate, slack=SLACK)

    # --- large cuts -----------------------------------------------------------------------------

    def _time(self) -> Steps:
        """A shorter load: up to where it broke, then by halves."""
        load_ms = self.best.load_ms
        if 0 <= self.trial.broke_ms < load_ms:
            yield from self._try(replace(self.best, load_ms=self.trial.broke_ms))
        shares = (0.1, 0.25, 0.5, 0.75, 0.9)
        while True:
            load_ms = self.best.load_ms
            shorter = (replace(self.best, load_ms=max(1, int(load_ms * x))) for x in shares)
            if not (yield from self._first_of(shorter, CHANCES)):
                return

    def _clients(self) -> Steps:
        """One client alone, else two, else one fewer at a time."""
        there = [i for i, habit in enumerate(self.best.habits) if habit is not None]
        if len(there) > 1:
            alone = (self._with_clients([i]) for i in there)
            if (yield from self._first_of(alone, CHANCES)):
                return
        if len(there) > 2:
            pairs = (self._with_clients([i, j]) for i in there for j in there if i < j)
            if (yield from self._first_of(pairs)):
                return
        for i in there:
            left = [j for j, habit in enumerate(self.best.habits) if habit is not None and j != i]
            if left:
                yield from self._try(self._with_clients(left), CHANCES)

    def _with_clients(self, kept: list[int]) -> Draw:
        habits = self.best.habits
        return replace(
            self.best, habits=tuple(h if i in kept else None for i, h in enumerate(habits))
        )

    def _faults(self) -> Steps:
        """Delta debugging: none, then without one half, a quarter, ... each single one."""
        yield from self._try(replace(self.best, faults=()), CHANCES)
        parts = 2
        while (count := len(self._given())) and parts <= 2 * count:
            size = max(1, -(-count // parts))
            smaller = False
            at = 0
            while at < len(self._given()):
                given = self._given()
                left = given[:at] + given[at + size :]
                if (yield from self._try(replace(self.best, faults=left), slack=SLACK)):
                    smaller = True
                else:
                    at += size
            if size == 1 and not smaller:
                break
            parts = parts if smaller else parts * 2
        # What is given is played; the kinds to draw from are only told.
        kinds = tuple(dict.fromkeys(fault.kind for fault in self._given()))
        yield from self._try(replace(self.best, kinds=kinds))

    def _given(self) -> tuple[Fault, ...]:
        return self.best.faults or ()

    def _nodes(self) -> Steps:
        """Fewer nodes, the last ones first; what named those that are gone goes with them."""
        for nodes in range(1, self.best.nodes):
            names = [f"n{i + 1}" for i in range(nodes)]
            faults = tuple(fault for fault in self._given() if fault.host in names)
            habits = self._each_habit(partial(_unpinned, names))
            candidate = replace(self.best, nodes=nodes, faults=faults, habits=habits)
            if (yield from self._try(candidate, CHANCES)):
                return

    def _quiet(self) -> Steps:
        """Probes and comparisons as rare as the failure allows: they are most of the events."""
        config = self.best.config
        slow = {"probe_ms": 1_000, "exchange_ms": 10_000, "partitions": 1}
        for names in (list(slow), *([name] for name in slow)):
            changes = {name: slow[name] for name in names}
            yield from self._config(changes, CHANCES)
        for name in slow:
            now = getattr(config, name)
            middle = now // 2 if name == "partitions" else now * 3
            if min(now, slow[name]) < middle < max(now, slow[name]):
                yield from self._config({name: middle})

    def _config(self, changes: dict[str, int], chances: int = 1, slack: float = 1.0) -> Trying:
        try:
            config = replace(self.best.config, **changes)
        except ValueError:  # knobs that exclude each other
            return False
        return (yield from self._try(replace(self.best, config=config), chances, slack))

    def _weather(self) -> Steps:
        """Frames that arrive in order, once, after one millisecond; else one trouble fewer."""
        for weather in (STILL, Weather()):
            if self.best.weather == STILL:
                return
            if (yield from self._try(replace(self.best, weather=weather), CHANCES, SLACK)):
                return
        yield from self._plainer(
            replace(self.best, weather=replace(self.best.weather, **{name: getattr(STILL, name)}))
            for name in [field.name for field in fields(Weather)]
        )

    # --- small cuts -----------------------------------------------------------------------------

    def _acts(self) -> Steps:
        """Fewer operations: each client stops after one, two, four, ..."""
        for i in range(len(self.best.habits)):
            habit = self.best.habits[i]
            top = habit.acts if habit is not None and habit.acts else 1 << 7
            for acts in _below(top) if habit is not None else ():
                if (yield from self._try(self._with_habit(i, acts=acts), slack=SLACK)):
                    break

    def _keys(self) -> Steps:
        for keys in (1, 2, 4):
            habits = self._each_habit(partial(_narrowed, keys))
            if (yield from self._try(replace(self.best, habits=habits), CHANCES)):
                return

    def _knobs(self) -> Steps:
        """Ordinary knobs, and a world without oddities."""
        usual = Config()
        for name in [field.name for field in fields(Config)]:
            if name not in ("probe_ms", "exchange_ms", "partitions", "n"):
                yield from self._config({name: getattr(usual, name)}, slack=SLACK)
        ordinary = {"encode": False, "split": False, "notice_lost": True, "work_ms": 0}
        ordinary.update(_defaults(Draw, "profile", "faults"))
        for name, value in ordinary.items():
            yield from self._try(self._with(name, value), slack=SLACK)
            # Not all of the forced points, say, but some of them.
            items = getattr(self.best, name)
            for item in items if isinstance(items, tuple) else ():
                left = tuple(other for other in getattr(self.best, name) if other != item)
                yield from self._try(self._with(name, left), slack=SLACK)

    def _with(self, name: str, value: Any) -> Draw:
        return replace(self.best, **{name: value})

    def _habits(self) -> Steps:
        """Clients that do fewer kinds of things, and nothing fancy."""
        ordinary = _defaults(Habit, "keys", "think_ms", "timeout_ms", "loner", "acts")
        for i in range(len(self.best.habits)):
            if (habit := self.best.habits[i]) is None:
                continue
            for action in habit.weights:
                weights = {**habit.weights, action: 0}
                if habit.weights[action] and any(weights.values()):
                    yield from self._try(self._with_habit(i, weights=weights), slack=SLACK)
                    habit = self.best.habits[i] or habit
            for name, value in ordinary.items():
                yield from self._try(self._with_habit(i, **{name: value}), slack=SLACK)

    def _details(self) -> Steps:
        """Faults that last no longer, and cut off no more, than they must."""
        for i in range(len(self._given())):
            fault = self._given()[i]
            for for_ms in (1, 10, 100, fault.for_ms // 2):
                if for_ms < fault.for_ms and (
                    yield from self._try(self._with_fault(i, fault._replace(for_ms=for_ms)))
                ):
                    break
            fault = self._given()[i]
            yield from self._try(self._with_fault(i, fault._replace(hold=False)), slack=SLACK)
            nodes = tuple(tuple(x for x in g if x in self.best.names) for g in fault.groups)
            fault = self._given()[i]
            yield from self._try(self._with_fault(i, fault._replace(groups=nodes)), slack=SLACK)

    def _with_fault(self, i: int, fault: Fault) -> Draw:
        given = self._given()
        return replace(self.best, faults=(*given[:i], fault, *given[i + 1 :]))

    def _with_habit(self, i: int, **changes: Any) -> Draw:
        habits = list(self.best.habits)
        habit = habits[i]
        assert habit is not None
        habits[i] = replace(habit, **changes)
        return replace(self.best, habits=tuple(habits))

    def _each_habit(self, change: Callable[[Habit], Habit]) -> tuple[Habit | None, ...]:
        return tuple(habit and change(habit) for habit in self.best.habits)


def _unpinned(names: list[str], habit: Habit) -> Habit:
    return habit if habit.pinned in names else replace(habit, pinned="")


def _narrowed(keys: int, habit: Habit) -> Habit:
    return replace(habit, keys=min(keys, habit.keys))


def _defaults(kind: type[Any], *but: str) -> dict[str, Any]:
    """The fields of a dataclass that have a default value, and it."""
    return {
        field.name: field.default
        for field in fields(kind)
        if field.default is not MISSING and field.name not in but
    }


def _below(top: int) -> Iterator[int]:
    at = 1
    while at < top:
        yield at
        at *= 2
    if top > 2:
        yield top - 1


def _key(drawn: Draw) -> str:
    """A draw as text, to recognise it. The profile's name is no part of the run."""
    return repr({**plain(drawn), "profile": ""})
