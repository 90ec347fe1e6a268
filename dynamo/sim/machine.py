"""One simulated machine: a disk that stays, a process that comes and goes, clocks of its own.

A step of the process can be cut short at three points (N1 says what each must leave behind):

    before the commit    the open batch is gone, and so is the outbox
    after the commit     the rows are there, nobody hears of them
    while sending        the rows are there, some hear of them

Disks are durable: they survive the death of their process. Each host has a monotonic clock with an
arbitrary origin, and a wall clock that may jump.
"""

from __future__ import annotations

import msgspec

from dynamo.core import messages as m
from dynamo.core.node import Node
from dynamo.core.replica import CHECK_BYTES
from dynamo.core.spaces import HINTS, OBJECTS
from dynamo.sim.network import Frame
from dynamo.storage.memory import MemoryStore

NEVER_MS = 1 << 60

# Where a step may die.
BEFORE_COMMIT, AFTER_COMMIT, WHILE_SENDING = "before commit", "after commit", "while sending"

Snapshot = list[dict[bytes, bytes]]

_row = msgspec.msgpack.Decoder(tuple[list[str], int, bytes]).decode


class PowerCut(Exception):
    """The process dies here; what was not committed is gone."""


class Disk(MemoryStore):
    """A durable disk. `doomed`: the next commit that writes something never happens."""

    durability = "fsync"

    def __init__(self) -> None:
        super().__init__()
        self.doomed = False
        self.wrote = False  # the last commit had something to write

    def commit(self, sync: bool = False) -> None:
        self.wrote = self.dirty
        if self.doomed and self.wrote:
            raise PowerCut
        if self.wrote:
            self.unclean = False  # what the node concludes from it is on the disk
        super().commit(sync)

    @property
    def dirty(self) -> bool:
        """Whether something waits for a commit."""
        return bool(self._undo)

    def held(self, skey: bytes) -> list[bytes]:
        """The objects that lie here for a key, as owner and as stand-in."""
        found = []
        record = self.get(OBJECTS, skey)
        if record is not None:
            found.append(record[CHECK_BYTES:])
        record = self.get(HINTS, skey)
        if record is not None:
            found.append(_row(record[CHECK_BYTES:])[2])
        return found


class Host:
    """One machine: a disk that stays, and a process that comes and goes."""

    __slots__ = (
        "ages",
        "boot",
        "boots",
        "clock_ms",
        "disk",
        "doom",
        "down_ms",
        "lives",
        "lost_ms",
        "name",
        "node",
        "paused",
        "queue",
        "turn_ms",
        "wall_ms",
    )  # fmt: skip

    def __init__(self, name: str, clock_ms: int, wall_ms: int) -> None:
        self.name = name
        self.disk = Disk()
        self.node: Node | None = None
        self.clock_ms = clock_ms
        self.wall_ms = wall_ms
        self.lives = 0
        self.boot = 0
        self.queue: list[tuple[str, Frame]] = []
        self.turn_ms = NEVER_MS  # the one scheduled turn; others in the heap are void
        self.paused = False
        self.doom = ""  # where its next writing step dies
        self.down_ms = 0  # how long it then stays down
        self.lost_ms = -1  # when its disk last lost something
        self.ages = m.Ages()
        self.boots: dict[str, tuple[int, int]] = {}  # peer -> boot, when heard
