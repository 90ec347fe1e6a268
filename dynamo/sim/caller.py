"""A session of the real client in a world: operations in, frames out, and how they ended."""

from __future__ import annotations

import random
from collections.abc import Callable

from dynamo.client.op import Op
from dynamo.client.session import Session
from dynamo.core import messages as m
from dynamo.core.messages import Message
from dynamo.sim.network import Frame
from dynamo.sim.world import TAG, World

Ended = Callable[[Op], None]


class Caller:
    """A session in a world: carries operations out and says how they ended."""

    def __init__(self, name: str, world: World, rng: random.Random) -> None:
        self.name = name
        self.world = world
        self.rng = rng
        seeds = list(world.addresses)
        rng.shuffle(seeds)
        self.session = Session(seeds, rng)
        self._ended: dict[Op, Ended] = {}
        world.add(self)

    def submit(self, op: Op, ended: Ended) -> None:
        """Carry out an operation; `ended` hears of its end, possibly before this returns."""
        self._ended[op] = ended
        self.session.submit(self.world.now_ms, op)
        self._report()

    def give_up(self, op: Op) -> None:
        """Nobody waits for this operation any more; `ended` hears of it all the same."""
        if not op.done:
            self.session.cancel(self.world.now_ms, op)
            self._ended.pop(op)(op)

    def _report(self) -> None:
        session = self.session
        while session.completed:
            for op in session.take_completed():
                self._ended.pop(op)(op)

    # --- as the world sees it -------------------------------------------------------------------

    def receive(self, now_ms: int, frame: Frame) -> None:
        self.session.handle(now_ms, self.world.address_of[frame[0]], frame[3], TAG)
        self._report()

    def wake(self, now_ms: int) -> None:
        self.session.tick(now_ms)
        self._report()

    def next_due_ms(self) -> int:
        return self.session.next_due_ms()

    def take_outgoing(self) -> list[tuple[str, list[Message]]]:
        if not self.session.has_outgoing:
            return []
        frames = self.session.outgoing(self.world.now_ms)
        return [(self.world.addresses[address], messages) for address, messages in frames]

    def unsent(self, now_ms: int, node: str, messages: list[Message]) -> None:
        self.session.unsent(now_ms, self.world.address_of[node], messages)
        self._report()

    def connection(self, now_ms: int, node: str, up: bool) -> None:
        tell = self.session.reachable if up else self.session.lost
        tell(now_ms, self.world.address_of[node])
        self._report()


class Reader(Caller):
    """Reads keys through one node with all owners asked, when all is over.

    An owner that has just set a damaged record aside does not count until it has compared its arc
    again, so a read of all owners is asked for until it is answered, or `until_ms` has come.
    """

    TIMEOUT_MS = 400

    def __init__(self, node: str, world: World, rng: random.Random) -> None:
        super().__init__(f"r-{node}", world, rng)
        self.answers: dict[bytes, list[tuple[int, bytes]]] = {}
        self.failures: dict[bytes, str] = {}
        self.node = node
        self._until_ms = 0
        self._postponed: dict[bytes, None] = {}  # keys that are to be asked for again

    @property
    def busy(self) -> bool:
        """Whether it still waits for an answer."""
        return bool(self._ended or self._postponed)

    def read(self, keys: list[bytes], until_ms: int) -> None:
        self._until_ms = until_ms
        for key in keys:
            self._ask(key)
        self.world.attend(self)

    def _ask(self, key: bytes) -> None:
        due_ms = min(self.world.now_ms + self.TIMEOUT_MS, self._until_ms)
        self.submit(Op(m.GET, key, due_ms, (m.ALL, 0, 0), tries=1, pin=self.node), self._on_read)

    def _on_read(self, op: Op) -> None:
        if op.answer is not None:
            self.answers[op.key] = op.answer[3]
            self.failures.pop(op.key, None)
            return
        self.failures[op.key] = str(op.error)
        if self.world.now_ms < self._until_ms:
            self._postponed[op.key] = None
            self.world.at(self.world.now_ms + 20, self._again, op.key)

    def _again(self, key: bytes) -> None:
        del self._postponed[key]
        self._ask(key)
        self.world.attend(self)
