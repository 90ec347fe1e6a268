"""People who change the ring, as the world sees them: stage, plan, commit, through one node.

A script is a list of *steps*, drawn with the seed. Each is carried out by an operator of its own,
who asks one node, and another one when that one is silent or refuses, until the change is committed
or `GIVE_UP_MS` have passed: a ring under faults may well refuse, and then nothing has changed.

    join N...      machines are added, started, and asked into the ring
    leave N...     nodes are asked to go
    remove N       a machine is lost for good, and given up
    replace N M    a machine is lost for good, and M, a new one, is to take its place
    relieve N M    the same with a node that runs: it goes, M comes
    reweight N W   a node gets another weight
    abort          the change that was committed last is taken back
    rehouse N      a machine is lost, and another one takes its name: empty, at another address

Steps of one moment that go through different nodes are what two operators do who do not know of
each other, on two sides of a cut perhaps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from dynamo.core import messages as m
from dynamo.core.config import Config, quorum
from dynamo.core.items import FORCED, IN, OUT, REMOVED
from dynamo.core.messages import Message
from dynamo.sim.history import NEVER_MS
from dynamo.sim.limits import Limits
from dynamo.sim.network import Frame
from dynamo.sim.world import World

TIMEOUT_MS = 600
RETRY_MS = 150
GIVE_UP_MS = 8_000
DOWN_MS = 300  # until a machine is replaced


class Step(NamedTuple):
    """What somebody does to the ring at a moment, counted from the first operation."""

    at_ms: int
    verb: str
    names: tuple[str, ...]
    via: int = 0  # which of the hosts is asked first
    weight: int = 1
    force: bool = False


def needs_force(config: Config) -> bool:
    """Whether one owner less is too few for any move: only people can give up its copies."""
    n = config.n
    r, w = config.r or quorum(n), config.w or quorum(n)
    return max(n - r + 1, n - w + 1, quorum(n)) > n - 1


class Operator:
    """One person at work on one step."""

    def __init__(self, world: World, step: Step, number: int) -> None:
        self.name = f"op{number}"
        self.task = ""  # of the change that was committed, "" until then
        self._world = world
        self._step = step
        self._until_ms = world.now_ms + GIVE_UP_MS
        self._turn = step.via
        self._req = 0
        self._outgoing: list[tuple[str, list[Message]]] = []
        self._todo: list[tuple[str, dict[str, Any]]] = []
        self._due_ms = NEVER_MS
        world.add(self)

    @property
    def busy(self) -> bool:
        """Whether it has not given up, and is not done."""
        return self._due_ms != NEVER_MS

    def begin(self, abort: str = "") -> None:
        """Start working. `abort`: the task that is to be taken back."""
        self._abort = abort
        self._again(self._world.now_ms)

    def _script(self) -> list[tuple[str, dict[str, Any]]]:
        verb, names, weight = self._step.verb, self._step.names, self._step.weight
        if verb == "abort":
            return [("abort", {"task": self._abort})]
        if verb == "reweight":
            stages = [{"verb": verb, "node": names[0], "weight": weight}]
        elif verb in ("replace", "relieve"):
            stages = [{"verb": "replace", "node": names[0], "by": names[1]}]
        else:
            stages = [{"verb": verb, "node": name} for name in names]
        if self._step.force or (verb in ("remove", "replace") and needs_force(self._world.config)):
            stages = [{**stage, "force": True} for stage in stages]
        return [("stage", stage) for stage in stages] + [("plan", {}), ("commit", {})]

    def _again(self, now_ms: int) -> None:
        """From the beginning, through the next node: what was staged may be on the other side."""
        self._req += 1  # what is still under way counts no more
        if now_ms >= self._until_ms:
            self._world.mark("change given up")
            self._due_ms = NEVER_MS
            return
        self._todo = self._script()
        self._turn += 1
        self._send(now_ms)

    def _send(self, now_ms: int) -> None:
        verb, body = self._todo[0]
        awake = [name for name in self._world.running if self._world.census.inside(name)]
        self._req += 1
        message = (m.CHANGE, self._req, TIMEOUT_MS, verb, msgspec.json.encode(body))
        self._outgoing.append((awake[self._turn % len(awake)], [message]))
        self._due_ms = now_ms + TIMEOUT_MS
        self._world.attend(self)

    def _answered(self, now_ms: int, ok: int, said: dict[str, Any]) -> None:
        if not ok:
            self._world.mark("change refused")
            self._due_ms = now_ms + RETRY_MS
            self._todo = []
            return
        verb, _ = self._todo.pop(0)
        if verb == "plan":
            self._todo[0] = ("commit", {"plan": said["plan"]})
        if self._todo:
            self._send(now_ms)
            return
        self.task = said.get("task", "")
        self._world.mark(f"committed: {self._step.verb}")
        self._world.record("committed", self._step.verb, self._step.names, self.task)
        self._due_ms = NEVER_MS

    # --- as the world sees it -------------------------------------------------------------------

    def receive(self, now_ms: int, frame: Frame) -> None:
        for message in frame[3]:
            if message[1] != self._req or not self._todo:
                continue
            if message[0] == m.CHANGED:
                self._answered(now_ms, message[2], msgspec.json.decode(message[3]))
            elif message[0] == m.FAILED:
                self._answered(now_ms, 0, {})

    def wake(self, now_ms: int) -> None:
        if now_ms >= self._due_ms:
            self._again(now_ms)

    def next_due_ms(self) -> int:
        return self._due_ms

    def take_outgoing(self) -> list[tuple[str, list[Message]]]:
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def unsent(self, now_ms: int, node: str, messages: list[Message]) -> None:
        self._due_ms = now_ms + RETRY_MS

    def connection(self, now_ms: int, node: str, up: bool) -> None:
        """It does not mind."""


class Changes:
    """Plays the steps of a draw."""

    def __init__(self, world: World, limits: Limits, steps: tuple[Step, ...]) -> None:
        self._world = world
        self._limits = limits
        self.operators: list[Operator] = []
        self._over = False
        self._acts: dict[str, Callable[[Step], bool]] = {
            "join": self._join, "leave": self._stays, "remove": self._lose,
            "replace": self._swap, "relieve": self._relieve, "reweight": self._stays,
            "abort": self._some_task, "rehouse": self._rehouse,
        }  # fmt: skip
        began_ms = world.now_ms
        for step in steps:
            world.at(began_ms + step.at_ms, self._play, step)

    def stop(self) -> None:
        """Nobody begins anything any more."""
        self._over = True

    def _play(self, step: Step) -> None:
        if self._over or not self._acts[step.verb](step):
            return
        wait_ms = 0
        if step.verb in ("remove", "replace"):  # people believe it is lost when nobody hears it
            config = self._world.config
            wait_ms = 2 * config.suspicion_ms + 3 * config.probe_ms
        self._world.at(self._world.now_ms + wait_ms, self._begin, step)

    def _begin(self, step: Step) -> None:
        operator = Operator(self._world, step, len(self.operators))
        done = [other.task for other in self.operators if other.task]
        self.operators.append(operator)
        self._world.record("operator", *step)
        self._world.mark(f"change {step.verb}")
        operator.begin(done[-1] if done else "")

    def clear_up(self) -> None:
        """Nothing goes wrong any more: what is lost, and still counted on, is removed."""
        world = self._world
        for name, host in world.hosts.items():
            if self._lost_and_counted(name, host.forsaken):
                self._begin(Step(world.now_ms, "remove", (name,), force=True))
        while any(operator.busy for operator in self.operators):
            world.run_until(world.now_ms + 100)

    def _lost_and_counted(self, name: str, forsaken: bool) -> bool:
        """Whether a node holds the ring up: lost and still in it, or gone and still needed."""
        census = self._world.census
        wish = census.wishes.get(name)
        if wish is None or wish.flags & FORCED:
            return False
        return (forsaken and census.inside(name)) or (
            wish.status == REMOVED and needs_force(self._world.config) and name in census.owners
        )

    def _add(self, names: tuple[str, ...]) -> bool:
        for name in names:
            if name not in self._world.hosts:
                self._world.add_host(name)
                self._world.start(name)
        return all(self._world.census.status(name) == OUT for name in names)

    def _join(self, step: Step) -> bool:
        return self._add(step.names)

    def _inside(self) -> list[str]:
        census = self._world.census
        return [name for name in self._world.hosts if census.status(name) == IN]

    def _stays(self, step: Step) -> bool:
        inside = self._inside()
        return all(name in inside for name in step.names) and len(inside) > len(step.names)

    def _lose(self, step: Step) -> bool:
        """The machine goes up in flames, if the promise allows."""
        name = step.names[0]
        if not self._stays(step._replace(names=(name,))) or self._world.hosts[name].forsaken:
            return False
        if not self._limits.may_lose(name):
            return False
        self._world.forsake(name)
        return True

    def _rehouse(self, step: Step) -> bool:
        """Nothing that the ring is asked for: it finds out."""
        name, world = step.names[0], self._world
        if self._stays(step) and self._limits.may_lose(name):
            world.wipe(name)
            world.census.rehouse(name)
            world.mark("machine rehoused")
            world.at(world.now_ms + DOWN_MS, world.start, name)
        return False

    def _swap(self, step: Step) -> bool:
        return self._lose(step) and self._add(step.names[1:])

    def _relieve(self, step: Step) -> bool:
        return self._stays(step._replace(names=step.names[:1])) and self._add(step.names[1:])

    def _some_task(self, step: Step) -> bool:
        return any(operator.task for operator in self.operators)
