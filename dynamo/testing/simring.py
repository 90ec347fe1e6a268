"""`dynamo.sim.Ring`: a ring for unit tests, with real nodes under virtual time.

    with dynamo.sim.Ring(nodes=3, seed=7, faults="mild") as ring:
        kv = ring.client()
        kv["cart"] = ["tea"]                  # blocks, and virtual time passes
        ring.run(alice, bob)                  # functions of a client, interleaved
        ring.heal()
        ring.wait_converged()

The nodes are those of production, and so are the client's session and the meaning of its calls; the
network, the clocks and the disks are simulated. The seed decides latencies, faults, and who is next
where several can go on; the same seed and the same test give the same run.

Leaving the block with an exception adds a note to it: the seed, and the story of the key.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dynamo.client.deadlines import Clock
from dynamo.client.errors import ClientClosed
from dynamo.client.op import Op
from dynamo.client.options import Options, resolve
from dynamo.convergence import _Verdict
from dynamo.localring import _opinion
from dynamo.sim.ring import Line, Stage
from dynamo.testing import seeding, tale
from dynamo.testing.actors import Cast
from dynamo.testing.virtual import VirtualAsyncClient, VirtualClient

if TYPE_CHECKING:
    from dynamo.client.aio import AsyncClient
    from dynamo.client.blocking import Client
    from dynamo.testing.virtualloop import VirtualLoop

STORY_LINES = 60


class Ring(Stage, Clock):
    """A simulated ring: `kill`, `partition`, `client` and the rest as in `dynamo.local`."""

    def __init__(
        self,
        nodes: int = 3,
        *,
        seed: int = 0,
        faults: str | Sequence[str] = "none",
        **node_options: Any,
    ) -> None:
        """`faults`: "none", "mild", "storm", or a list of kinds; `node_options`: knobs of a node.

        Raises ConfigurationError for what cannot work.
        """
        Stage.__init__(self, nodes, seed=seed, faults=faults, **node_options)
        Clock.__init__(self)
        self.loop: VirtualLoop | None = None
        self._cast: Cast | None = None
        self._busy = threading.Lock()
        self._is_open = False
        self._names: dict[str, int] = {}

    def __enter__(self) -> Self:
        if self._is_open:
            raise RuntimeError("this ring is open already")
        self._is_open = True
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            self.explain(error)
        self.close()

    def close(self) -> None:
        """Nothing can be asked of it any more. There is nothing to clean up."""
        self._is_open = False

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("this ring is not open: use it in a with block")

    # --- time -------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """Virtual milliseconds since the ring was made."""
        return self.world.now_ms

    def advance(self, seconds: float) -> None:
        """Let so much virtual time pass. Where code under test sleeps, hand it this instead.

        Inside a function of `run` only that function waits.
        """
        until_ms = self.world.now_ms + max(0, round(seconds * 1000))
        self.world.at(until_ms, lambda: None)
        self.wait(lambda: self.world.now_ms >= until_ms)

    def wait(self, ready: Callable[[], bool]) -> None:
        """Let virtual time pass until `ready()`, or give the turn to the others meanwhile."""
        self._check_open()
        cast = self._cast
        if cast is not None:
            actor = cast.current
            if actor is None or threading.current_thread() is not actor.thread:
                raise RuntimeError(_STRANGER)
            actor.wait(ready)
            return
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(_STRANGER)
        try:
            while not ready():
                self.world.turn()
        finally:
            self._busy.release()

    def wait_converged(self, timeout: float = 30.0) -> None:
        """Until all hints are delivered and all owners of every arc hold equal clocks.

        `timeout` is virtual. Raises `dynamo.NotConverged` with the arcs and nodes that kept it from
        ending. While drawn faults go on it hardly ever ends: `heal()` first.
        """
        began_ms = self.world.now_ms
        verdict = _Verdict(self.nodes)
        table = self.world.table
        verdict.learn_owners([table.owners(arc) for arc in range(table.partitions)])
        while not verdict.judge(self._answers("roots")):
            passed = (self.world.now_ms - began_ms) / 1000
            if passed >= timeout:
                raise verdict.error(passed)
            self.advance(0.02)

    def status(self) -> dict[str, Any]:
        """{"cluster", "nodes": [{"name", "address", "state"}], "hints", "ring": {...}}."""
        self._check_open()
        answers = self._answers("status")
        first = next(iter(answers.values()), None)
        return {
            "cluster": first["cluster"] if first else "sim",
            "nodes": [
                {
                    "name": name,
                    "address": self.world.address_of[name],
                    "state": _opinion(name, answers),
                }
                for name in self.nodes
            ],
            "hints": sum(sum(answer["hints"].values()) for answer in answers.values()),
            "ring": first["ring"] if first else {},
        }

    def _answers(self, what: str) -> dict[str, dict[str, Any]]:
        return {
            name: getattr(host.node.inspection, what)()
            for name, host in self.world.hosts.items()
            if host.node is not None and not host.paused
        }

    # --- clients ----------------------------------------------------------------------------------

    def client(self, via: str | None = None, **options: Any) -> Client:
        """A blocking client; with `via` it talks to that node only. Options as for `connect`."""
        return self._client("kv", via, options)

    def _client(self, name: str, via: str | None, options: dict[str, Any]) -> VirtualClient:
        resolved, merge, codec = self._resolve(via, options)
        return VirtualClient(_Wire(self, self._line(name, resolved)), resolved, merge, codec)

    def async_client(self, via: str | None = None, **options: Any) -> AsyncClient:
        """An asyncio client, for coroutines that `run_async` runs."""
        return self._async_client("kv", via, options)

    def _async_client(
        self, name: str, via: str | None, options: dict[str, Any]
    ) -> VirtualAsyncClient:
        resolved, merge, codec = self._resolve(via, options)
        return VirtualAsyncClient(_Wire(self, self._line(name, resolved)), resolved, merge, codec)

    def _resolve(self, via: str | None, given: dict[str, Any]) -> tuple[Options, Any, Any]:
        self._check_open()
        if via is not None:
            self._check(via)
        options = dict(given, via=via)
        merge, codec = options.pop("merge", None), options.pop("codec", None)
        seeds = ",".join(self.world.addresses)
        return resolve(f"dynamo://{seeds}", None, options), merge, codec

    def _line(self, name: str, options: Options) -> Line:
        # Also the nodes have names in this world; clients of one name are numbered.
        taken = self._names.get(name, 0) + 1
        self._names[name] = taken
        if taken > 1 or name == "kv" or name in self.world.hosts:
            name = f"{name}-{taken}"
        rng = random.Random(f"{self.seed}/client/{name}")
        return Line(
            name, self, rng, options.via, options.max_in_flight, options.max_queued_bytes
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Refused: nothing listens anywhere."""
        raise AttributeError(
            "a simulated ring has no address that dynamo.connect could use: take ring.client()"
        )

    # --- several at once --------------------------------------------------------------------------

    def run(self, *functions: Callable[[Client], Any], **options: Any) -> list[Any]:
        """Run plain functions of a client side by side; their results, in order.

        Each gets a client of its own, made with `options`, and a start of its own within 20 ms. One
        at a time runs, until it waits; who is next is drawn from the seed. The first that fails
        stops the others, and its exception is raised.
        """
        self._check_open()
        if self._cast is not None or self.loop is not None:
            raise RuntimeError("run() cannot be used inside a function that run() is running")
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(_STRANGER)
        cast = Cast(random.Random(f"{self.seed}/turns/{self.world.now_ms}"), self.world.turn)
        calls = [(name, self._act(name, function, options)) for name, function in _named(functions)]
        self._cast = cast
        try:
            return cast.run(calls)
        finally:
            self._cast = None
            self._busy.release()

    def _act(
        self, name: str, function: Callable[[Client], Any], options: dict[str, Any]
    ) -> Callable[[], Any]:
        pause = self._rng.randrange(20) / 1000

        def act() -> Any:
            self.advance(pause)
            with self._client(name, None, options) as kv:
                return function(kv)

        return act

    def run_async(
        self,
        *functions: Callable[[AsyncClient], Coroutine[Any, Any, Any]],
        **options: Any,
    ) -> list[Any]:
        """The same for coroutine functions, as tasks of one event loop on virtual time.

        It is a loop of asyncio: gather, TaskGroup, timeout, sleep and queues work and take virtual
        time. Threads and sockets do not: nothing outside the ring can wake it.
        """
        from dynamo.testing.virtualloop import run_all

        self._check_open()
        if self._cast is not None or self.loop is not None:
            raise RuntimeError("run_async() cannot be used inside a function that runs in the ring")
        return run_all(self, _named(functions), options)

    # --- failures ---------------------------------------------------------------------------------

    def story(self, key: str | bytes, bucket: str = "default", last: int = STORY_LINES) -> str:
        """What clients asked of a key, faults, and what the nodes said of it, the last of each."""
        return tale.of_key(self, tale.full(bucket, key), last)

    def explain(self, error: BaseException) -> None:
        """Add to an exception how to see it again, and the story of the key it is about."""
        if any(note.startswith(tale.HEAD) for note in getattr(error, "__notes__", ())):
            return
        again = f"again: pytest --dynamo-seed {self.seed}, or {seeding.VARIABLE}={self.seed}"
        error.add_note(f"{tale.HEAD}{self!r}   {again}")
        key = tale.subject(self, error)
        if key:
            error.add_note(tale.of_key(self, key, STORY_LINES))


class _Wire:
    """One client's way into the ring."""

    def __init__(self, ring: Ring, line: Line) -> None:
        self.clock = ring
        self.line = line
        self.wait = ring.wait

    def begin(self, op: Op, ended: Callable[[Op], None]) -> None:
        self.clock._check_open()
        self.line.send(op, ended)

    def cancel(self, op: Op) -> None:
        self.line.cancel(op)

    def close(self) -> None:
        self.line.close(lambda: ClientClosed("the client was closed while this call was under way"))

    def promise(self) -> Any:
        loop = self.clock.loop
        if loop is None:
            raise RuntimeError("clients from async_client() work inside ring.run_async() only")
        return loop.create_future()


_STRANGER = (
    "a simulated ring is used by one thread at a time, or by the functions of ring.run(): virtual "
    "time cannot pass for two threads that run freely"
)


def _named(functions: Sequence[Any]) -> list[tuple[str, Any]]:
    """Functions under names that differ, for stories."""
    found: dict[str, Any] = {}
    for function in functions:
        name = getattr(function, "__name__", "actor").strip("<>")
        number = 1
        while (unique := name if number == 1 else f"{name}-{number}") in found:
            number += 1
        found[unique] = function
    return list(found.items())
