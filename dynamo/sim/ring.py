"""The stage of a ring in somebody's unit test: nodes, faults that go on, and clients to be driven.

`dynamo.sim.Ring` is a `Stage` with blocking and asyncio clients on it; those need threads and
codecs, which are part of the world that nothing here may see, so they live in
`dynamo.testing.simring`. Here is what does not: the nodes and what is done to them.

Its names and meanings are those of `dynamo.local`, so that a test can run on either. Time is
virtual and moves only while somebody waits: for a call to end, or in `advance`.

Faults go on while the test runs. They are drawn a window at a time, so that clients made meanwhile
end up on one side of a partition, too. What a test does itself stands above them: a node that it
has killed is not started by the end of a drawn fault.

    none     frames take 1 to 4 ms, nothing else happens
    mild     now and then a node dies, pauses, is slow, or cut off
    storm    most of the time something is wrong, lost disks included, up to what is promised
    [kinds]  these kinds (see `faults`), as often as in a storm, over a calm network
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, NamedTuple

from dynamo.client.errors import ConfigurationError
from dynamo.client.op import Op
from dynamo.client.session import Session
from dynamo.core import messages as m
from dynamo.core.config import Config, quorum
from dynamo.sim.caller import Caller, Ended
from dynamo.sim.faults import KINDS, schedule
from dynamo.sim.machine import NEVER_MS
from dynamo.sim.nemesis import Nemesis
from dynamo.sim.network import Network, Weather, across
from dynamo.sim.oracle import Oracle
from dynamo.sim.world import World

NODES_MAX = 20
SETTLE_MS = 300  # every node hears every other, as in a ring that has just started
WINDOW_MS = 500  # faults are drawn for so long at a time
READY_MS = 3_000  # with a peer away some arcs may be unable to sync; as `dynamo.local` waits
LOG_LINES_MAX = 40_000

# As `dynamo.local` sets them, so that a node that fails is missed as quickly.
KNOBS = {
    "partitions": 64,
    "probe_ms": 200,
    "probe_timeout_ms": 400,
    "suspicion_ms": 1_500,
    "exchange_ms": 1_000,
    "background_timeout_ms": 2_000,
}
_NAMES = [item.name for item in fields(Config)]


class Plan(NamedTuple):
    """What goes wrong in a test: kinds, how often, how long, over which network."""

    kinds: tuple[str, ...]
    every_ms: int
    longest_ms: int
    weather: Weather


CALM = Weather(delay_ms=1, jitter_ms=3)
# A test's calls take milliseconds, so faults that come every few seconds would never be met.
PLANS = {
    "none": Plan((), 0, 0, CALM),
    "mild": Plan(
        ("kill", "pause", "split", "slow"), 200, 600,
        Weather(delay_ms=1, jitter_ms=5, straggle=0.01, straggle_ms=100),
    ),
    "storm": Plan(
        (
            "kill", "after", "sending", "blackout", "pause", "split", "ring", "deaf", "mute",
            "slow", "wipe", "torn", "skew",
        ),
        120, 1_000,
        Weather(delay_ms=1, jitter_ms=10, loss=0.02, double=0.02, straggle=0.02, straggle_ms=200),
    ),
}  # fmt: skip


def plan(faults: str | Sequence[str]) -> Plan:
    """The plan that `faults` names. Raises ConfigurationError for what cannot be one."""
    if isinstance(faults, str):
        if faults in PLANS:
            return PLANS[faults]
        raise ConfigurationError(
            f"faults must be one of {', '.join(PLANS)}, or a list of kinds, not {faults!r}. "
            f"Kinds are: {', '.join(KINDS)}"
        )
    kinds = tuple(faults)
    for kind in kinds:
        if kind not in KINDS:
            close = get_close_matches(str(kind), KINDS, 1)
            guess = f"; did you mean {close[0]!r}?" if close else "."
            raise ConfigurationError(f"no fault {kind!r}{guess} Kinds are: {', '.join(KINDS)}")
    return Plan(kinds, 120, 1_000, CALM)


def _config(nodes: object, knobs: dict[str, Any]) -> Config:
    if type(nodes) is not int or not 1 <= nodes <= NODES_MAX:
        raise ConfigurationError(f"nodes must be 1 to {NODES_MAX}, not {nodes!r}")
    for name in knobs:
        if name not in _NAMES:
            close = get_close_matches(name, _NAMES, 1)
            guess = f"; did you mean {close[0]!r}?" if close else f". Known: {', '.join(_NAMES)}"
            raise ConfigurationError(f"unknown option {name!r}{guess}")
    try:
        config = Config(**{**KNOBS, **knobs})
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    for level in ("r", "w"):
        if getattr(config, level) > nodes:
            raise ConfigurationError(
                f"{level}={getattr(config, level)} can never be met by {nodes} nodes"
            )
    return config


class _World(World):
    """A world in which what the test has stopped stays stopped."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.held_down: dict[str, None] = {}
        self.held_still: dict[str, None] = {}

    def start(self, name: str) -> None:
        if name not in self.held_down:
            super().start(name)

    def resume(self, name: str) -> None:
        if name not in self.held_still:
            super().resume(name)

    def turn(self) -> None:
        """Let everything happen that is due at the next moment at which anything is."""
        self.run_until(self.next_ms if self.next_ms != NEVER_MS else self.now_ms + 1)
        if len(self.log) > LOG_LINES_MAX:
            del self.log[: LOG_LINES_MAX // 2]

    def tick_until(self, until_ms: int) -> bool:
        """One `turn`, unless that would go beyond; whether anything is left before `until_ms`."""
        if self.next_ms <= until_ms:
            self.turn()
            return True
        self.run_until(until_ms)
        return False


class Line(Caller):
    """The session of one client of a stage, and a record of its calls."""

    def __init__(
        self, name: str, stage: Stage, rng: random.Random,
        via: str = "", max_in_flight: int = 10_000, max_queued_bytes: int = 64 << 20,
    ) -> None:  # fmt: skip
        super().__init__(name, stage.world, rng)
        seeds = list(self.world.addresses)
        rng.shuffle(seeds)
        self.session = Session(
            seeds, rng, via=self.world.address_of.get(via, via),
            max_in_flight=max_in_flight, max_queued_bytes=max_queued_bytes,
        )  # fmt: skip
        self._calls = stage.calls
        self._closed = False
        self._written = 0

    @property
    def busy(self) -> bool:
        """Whether anybody waits for an answer."""
        return bool(self._ended)

    def send(self, op: Op, ended: Ended) -> None:
        """Carry out an operation; `ended` hears of its end, possibly before this returns."""
        self._note(op, False)

        def end(op: Op) -> None:
            self._note(op, True)
            ended(op)

        self.submit(op, end)
        if op.kind == m.PUT:
            # Stories name a write by its client; the oracle wants to have heard of it.
            self._written += 1
            uid = f"{self.name}.{self._written}"
            delete = bool(op.flags & m.DELETE)
            self.world.oracle.begin_write(op.key, uid, None, self.world.now_ms, delete)
            self.world.payloads[op.tail[4]] = uid
            self.world.uids[op.put_id] = uid
        self.world.attend(self)

    def _note(self, op: Op, ended: bool) -> None:
        self._calls.append((self.world.now_ms, self.name, op, ended))
        if len(self._calls) > LOG_LINES_MAX:
            del self._calls[: LOG_LINES_MAX // 2]

    def cancel(self, op: Op) -> None:
        """Nobody waits any more."""
        if self._ended.pop(op, None) is not None:
            self.session.cancel(self.world.now_ms, op)

    def close(self, error: Callable[[], Any]) -> None:
        """End everything under way, and hear nothing from now on."""
        self._closed = True
        self.session.fail_all(self.world.now_ms, error)
        self._report()

    def receive(self, now_ms: int, frame: Any) -> None:
        if not self._closed:
            super().receive(now_ms, frame)


class Stage:
    """Nodes under virtual time, and what a test does to them."""

    def __init__(
        self,
        nodes: int = 3,
        *,
        seed: int = 0,
        faults: str | Sequence[str] = "none",
        **node_options: Any,
    ) -> None:
        config = _config(nodes, node_options)
        if type(seed) is not int:
            raise ConfigurationError(f"seed must be a whole number, not {seed!r}")
        self.seed = seed
        self.faults = faults
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.calls: list[tuple[int, str, Op, bool]] = []  # when, whose, what, whether it ended
        self._plan = plan(faults)
        self._rng = random.Random(f"{seed}/stage")
        self._cut: list[tuple[str, str]] = []
        self._raging = False
        network = Network(random.Random(f"{seed}/network"), CALM)
        self.world = _World(seed, self.nodes, config, network, Oracle(), check_rows_every=1 << 30)
        self.world.judges = []  # they judge nodes; here it is the test's own code that is tried
        self.world.logging = True
        copies = min(config.n, nodes)
        self._nemesis = Nemesis(self.world, False, w=min(config.w or quorum(copies), copies))

    def __repr__(self) -> str:
        return f"dynamo.sim.Ring(nodes={len(self.nodes)}, seed={self.seed}, faults={self.faults!r})"

    # --- time -------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual seconds since the ring was made."""
        return self.world.now_ms / 1000

    def advance(self, seconds: float) -> None:
        """Let so much virtual time pass. Where code under test sleeps, hand it this instead."""
        until_ms = self.world.now_ms + round(seconds * 1000)
        while self.world.tick_until(until_ms):
            pass

    def open(self) -> None:
        """Start the nodes, let them find each other, and then the faults begin."""
        for name in self.nodes:
            self.world.start(name)
        self.world.run_until(SETTLE_MS)
        if self._plan.kinds or self._plan.weather is not CALM:
            self._raging = True
            self.world.network.weather = self._plan.weather
            self.world.at(self.world.now_ms, self._draw_faults)

    def _draw_faults(self) -> None:
        if not self._raging or not self._plan.kinds:
            return
        world, chosen = self.world, self._plan
        found = schedule(
            self._rng, chosen.kinds, self.nodes, list(world.clients),
            WINDOW_MS, chosen.every_ms, chosen.longest_ms,
        )  # fmt: skip
        self._nemesis.add([fault._replace(at_ms=world.now_ms + fault.at_ms) for fault in found])
        world.at(world.now_ms + WINDOW_MS, self._draw_faults)

    def calm(self) -> None:
        """End the drawn faults and mend what they broke. What the test did itself stays."""
        if self._raging:
            self._raging = False
            cut, self._cut = self._cut, []
            self._nemesis.stop()
            self.world.record("fault", "no drawn faults from here on")
            self.world.network.weather = CALM
            self._cut_off(cut)

    # --- one node ---------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """The process is gone. Nothing happens if it is not running."""
        self._check(name)
        self.world.held_down[name] = None
        self.world.held_still.pop(name, None)
        if self.world.hosts[name].node is not None:
            self.world.kill(name)

    def stop(self, name: str) -> None:
        """The process ends cleanly: what has arrived is done first."""
        self._check(name)
        self.resume(name)
        self.advance(0.001)
        self.kill(name)

    def start(self, name: str) -> None:
        """Start a node that was killed, stopped or wiped; a paused one is resumed."""
        self._check(name)
        self.world.held_down.pop(name, None)
        self.world.held_still.pop(name, None)
        self.world.start(name)
        self.world.resume(name)
        self._await_ready(name)

    def pause(self, name: str) -> None:
        """It keeps its connections and does nothing."""
        self._running(name)
        self.world.held_still[name] = None
        self.world.pause(name)

    def resume(self, name: str) -> None:
        """Nothing else happens if it was not paused."""
        self._check(name)
        if self.world.held_still.pop(name, "") is None:
            self.world.resume(name)
            self._await_ready(name)

    def wipe(self, name: str) -> None:
        """The node dies and its disk is lost; it returns empty with the next `start`."""
        self.kill(name)
        self.world.wipe(name)

    def _check(self, name: str) -> None:
        if name not in self.world.hosts:
            raise ValueError(f"no node {name!r}; this ring has {', '.join(self.nodes)}")

    def _running(self, name: str) -> None:
        self._check(name)
        if self.world.hosts[name].node is None:
            raise RuntimeError(f"{name} is not running: start it first")

    def _await_ready(self, name: str) -> None:
        """Until it is synced and sees all it can reach; bounded, as a peer may be away."""
        until_ms = self.world.now_ms + READY_MS
        while self.world.now_ms < until_ms and not self._is_ready(name):
            self.advance(0.02)

    def _is_ready(self, name: str) -> bool:
        hosts = self.world.hosts
        node = hosts[name].node
        if node is None:
            return False
        seen = node.liveness.states()
        return node.ready and all(
            seen[other] == "up" and host.node.liveness.states()[name] == "up"
            for other, host in hosts.items()
            if other != name and host.node is not None and not host.paused
            and (name, other) not in self._cut
        )  # fmt: skip

    # --- partitions -------------------------------------------------------------------------------

    def partition(self, *sets: Iterable[str]) -> None:
        """Cut the ring into `sets`: no message passes between them from now on.

        Nodes that are not named form one further group. Replaces an earlier partition. Clients
        reach every node, as they do in `dynamo.local`.
        """
        group_of: dict[str, int] = {}
        for number, names in enumerate(sets):
            for name in [names] if isinstance(names, str) else names:
                self._check(name)
                if group_of.setdefault(name, number) != number:
                    raise ValueError(f"{name} is in two sets of the partition")
        groups: dict[int, list[str]] = {}
        for name in self.nodes:
            groups.setdefault(group_of.get(name, -1), []).append(name)
        self._mend()
        self._cut_off(across(list(groups.values())))
        self.world.record("fault", "partition", "", 0, list(groups.values()))

    def heal(self) -> None:
        """End the partition, and the drawn faults with all that they broke."""
        self.calm()
        self._mend()

    def _cut_off(self, links: list[tuple[str, str]]) -> None:
        self._cut = links
        self.world.network.cut(links, False)

    def _mend(self) -> None:
        if self._cut:
            world = self.world
            world.post(world.network.mend(world.now_ms, self._cut, False))
            self._cut = []
            world.record("fault", "the partition is healed")
