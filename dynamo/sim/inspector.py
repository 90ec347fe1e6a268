"""An operator in a world: asks nodes what they say of themselves, and holds it against their disks.

Asked at any moment, a node must answer and not fall over; asked at rest, it must say what is there.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo.core import messages as m
from dynamo.core import ring
from dynamo.core.messages import Message
from dynamo.core.replica import CHECK_BYTES
from dynamo.core.spaces import HINTS, OBJECTS
from dynamo.sim.history import NEVER_MS
from dynamo.sim.network import Frame
from dynamo.sim.world import World

NAME = "operator"
TIMEOUT_MS = 1_000
ANSWERS_MAX = 256


class Inspector:
    """The one operator of a world."""

    def __init__(self, world: World) -> None:
        self.name = NAME
        self.answers: dict[tuple[str, str], dict[str, Any]] = {}  # (node, question) -> the last
        self._world = world
        self._asked: dict[int, tuple[str, str]] = {}
        self._outgoing: list[tuple[str, list[Message]]] = []
        self._req = 0
        world.add(self)

    def ask(self, node: str, what: str) -> None:
        """Ask one node; its answer comes when it comes, if it does."""
        self._req += 1
        self._asked[self._req] = (node, what)
        if len(self._asked) > ANSWERS_MAX:
            del self._asked[next(iter(self._asked))]
        self._outgoing.append((node, [(m.STATUS, self._req, TIMEOUT_MS, what)]))
        self._world.attend(self)

    def judge(self, keys: list[bytes]) -> None:
        """What was said at rest is what is there (I5)."""
        for (name, what), said in self.answers.items():
            disk = self._world.hosts[name].disk
            if what == "status":
                rows = sum(1 for _ in disk.scan(OBJECTS))
                self._compare(name, "keys", said.get("keys"), rows)
                self._compare(name, "ready", said.get("ready"), True)
                self._compare(name, "pending", said.get("pending"), 0)
            elif what == "hints":
                self._compare(name, "hints", len(said["hints"]), sum(1 for _ in disk.scan(HINTS)))
        for key in keys:
            skey = ring.storage_key(key, self._world.config.partitions)
            for name, host in self._world.hosts.items():
                said = self.answers.get((name, f"key {key.hex()}"), {})
                if said:
                    record = host.disk.peek(OBJECTS, skey) or b""
                    row = said["row"]["digest"] if said["row"] else ""
                    self._compare(name, f"row of {key!r}", row, record[:CHECK_BYTES].hex())

    def _compare(self, node: str, what: str, said: object, there: object) -> None:
        if said != there:
            self._world.oracle.accuse("I5", b"", f"{node} says {what} {said}, and it is {there}")

    # --- as the world sees it -------------------------------------------------------------------

    def receive(self, now_ms: int, frame: Frame) -> None:
        for message in frame[3]:
            asked = self._asked.pop(message[1], None)
            if asked is not None:
                said = msgspec.json.decode(message[2])
                self.answers[asked] = said
                self._world.mark(f"asked about {asked[1].split()[0]}")

    def wake(self, now_ms: int) -> None:
        """It waits for nothing."""

    def next_due_ms(self) -> int:
        return NEVER_MS

    def take_outgoing(self) -> list[tuple[str, list[Message]]]:
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def unsent(self, now_ms: int, node: str, messages: list[Message]) -> None:
        """A node that is down says nothing."""

    def connection(self, now_ms: int, node: str, up: bool) -> None:
        """It does not mind."""


def inspector_of(world: World) -> Inspector:
    """The operator of this world."""
    found = world.clients.get(NAME)
    return found if isinstance(found, Inspector) else Inspector(world)
