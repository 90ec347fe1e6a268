"""One simulated machine: a disk that stays, a process that comes and goes, clocks of its own.

A step of the process can be cut short at three points (N1 says what each must leave behind):

    before the commit    the open batch is gone, and so is the outbox
    after the commit     the rows are there, nobody hears of them
    while sending        the rows are there, some hear of them

A disk survives the death of its process. What it may do wrong, each armed from outside:

    full         short of its reserve: `free_ok` says no until there is room again
    unreadable   the next read of a row fails, and the store is over (S3)
    fsync        the next commit fails, and the store is over; its batch may have reached the disk
                 all the same, or not
    power        at durability "interval", the commits since the last sync are lost, from some
                 batch on (S1: never half a batch)
    rot          a byte of a record is another one, from now on, in place
    forget       a row is no longer there; only while no process runs, as a running one would
                 have to lose it from its caches as well

Each host has a monotonic clock with an arbitrary origin, which may run too fast or too slow, and
stands still while the host is frozen; and a wall clock that may jump.
"""

from __future__ import annotations

from collections.abc import Callable

from dynamo.core import messages as m
from dynamo.core.handoff import decode_row
from dynamo.core.node import Node
from dynamo.core.replica import CHECK_BYTES, intact
from dynamo.core.spaces import HINTS, OBJECTS
from dynamo.sim.network import Frame
from dynamo.storage.contract import StoreFailed
from dynamo.storage.memory import MemoryStore

NEVER_MS = 1 << 60

# Where a step may die.
BEFORE_COMMIT, AFTER_COMMIT, WHILE_SENDING = "before commit", "after commit", "while sending"

Snapshot = list[dict[bytes, bytes]]
Change = tuple[int, bytes, bytes | None]  # space, key, what was there before


class PowerCut(Exception):
    """The process dies here; what was not committed is gone."""


class Disk(MemoryStore):
    """A durable disk. `doomed`: the next commit that writes something never happens."""

    def __init__(self, durability: str = "fsync", interval_ms: int = 0) -> None:
        super().__init__()
        self.durability = durability
        self.doomed = False
        self.fsync_fails = ""  # what becomes of the next batch: "kept" or "lost"
        self.wrote = False  # the last commit had something to write
        self.watch: Callable[[list[Change]], None] | None = None  # hears of each commit
        self.now_ms = 0  # set by the world before each step
        self.stepping = False  # a step is on: whoever reads is the node
        self.rotten: dict[tuple[int, bytes], bytes] = {}  # records with a flipped byte, as they lie
        self._interval_ms = interval_ms
        self._synced_ms = 0
        self._unsynced: list[list[Change]] = []  # batches that no sync has covered

    def commit(self, sync: bool = False) -> None:
        wrote = self.wrote = bool(self._undo)
        if not wrote:
            self._sync_if_due(sync)
            super().commit(sync)
            return
        if self.doomed:
            raise PowerCut
        if self.fsync_fails:
            self._fail_to_sync()
        self.unclean = False  # what the node concludes from it is on the disk
        changes = self._undo[:]
        if self.durability == "interval":
            self._unsynced.append(changes)
            self._sync_if_due(sync)
        super().commit(sync)
        if self.watch is not None:
            self.watch(changes)

    def _sync_if_due(self, sync: bool) -> None:
        if self._unsynced and (sync or self.now_ms - self._synced_ms >= self._interval_ms):
            self._synced_ms = self.now_ms
            self._unsynced.clear()

    def _fail_to_sync(self) -> None:
        changes, kept = self._undo[:], self.fsync_fails == "kept"
        self.fsync_fails = ""
        if kept:
            self._undo.clear()
            self._used = True
            if self.watch is not None:
                self.watch(changes)
        raise StoreFailed("the disk failed to sync")

    # --- what goes wrong ------------------------------------------------------------------------

    def fail_reads(self) -> None:
        """Let the node's next read of a row fail, with which the store is over (S3)."""

        def fails(space: int, key: bytes) -> bytes | None:
            if space != OBJECTS or not self.stepping:
                return MemoryStore.get(self, space, key)
            del self.get
            self._failed, self._open = True, False
            raise StoreFailed("the disk failed to read a row")

        self.get = fails  # type: ignore[method-assign]

    def calm(self) -> None:
        """Nothing is about to go wrong any more."""
        self.doomed, self.fsync_fails, self.disk_full = False, "", False
        self.stepping = False
        self.__dict__.pop("get", None)

    def crash(self) -> None:
        """The process died, and took nothing with it but the open batch."""
        full = self.disk_full
        self.calm()
        self.disk_full = full
        super().crash()
        if self.durability != "fsync":
            self.unclean = True  # the store cannot know that the power stayed on

    def lose_power(self, kept: int) -> int:
        """What no sync has covered is gone, but for the first `kept` batches; how many went."""
        self.crash()
        lost = self._unsynced[kept:]
        for changes in reversed(lost):
            self._undo += changes
            super().crash()
        self._unsynced.clear()
        return len(lost)

    @property
    def unsynced(self) -> int:
        """How many batches a power cut would put at risk."""
        return len(self._unsynced)

    def restore(self, snapshot: Snapshot) -> None:
        self._unsynced.clear()
        super().restore(snapshot)
        # The copy may have been taken of a record that was damaged by then.
        self.rotten = {
            (space, key): record
            for space in (OBJECTS, HINTS)
            for key, record in self._rows[space].items()
            if not intact(key, record)
        }

    def rot(self, space: int, key: bytes, at: int, bits: int) -> None:
        """Flip bits of one byte of a record, in place: no batch, no note of it."""
        record = bytearray(self._rows[space][key])
        record[at % len(record)] ^= bits
        self._rows[space][key] = self.rotten[space, key] = bytes(record)

    def still_rotten(self) -> bool:
        """Whether a flipped byte lies here that nobody has come upon."""
        if self.rotten:
            for (space, key), record in list(self.rotten.items()):
                if self._rows[space].get(key) != record:
                    del self.rotten[space, key]
        return bool(self.rotten)

    def forget(self, space: int, key: bytes) -> None:
        """A row is gone as if it had never been there."""
        self.delete(space, key)
        self._undo.clear()

    @property
    def dirty(self) -> bool:
        """Whether something waits for a commit."""
        return bool(self._undo)

    def peek(self, space: int, key: bytes) -> bytes | None:
        """What lies there, for whoever only watches: it meets no fault."""
        return self._rows[space].get(key)

    def synced(self, space: int, key: bytes) -> bytes | None:
        """What would lie there if the power went now."""
        for batch in self._unsynced:
            for other, name, before in batch:
                if other == space and name == key:
                    return before
        return self._rows[space].get(key)

    def skeys(self) -> list[bytes]:
        """The storage keys of everything that lies here, as owner and as stand-in."""
        return list(dict.fromkeys((*self._rows[OBJECTS], *self._rows[HINTS])))

    def held(self, skey: bytes, synced: bool = False) -> list[bytes]:
        """The objects that lie here for a key, as owner and as stand-in; `synced`: for certain."""
        read = self.synced if synced and self._unsynced else self.peek
        found = []
        record = read(OBJECTS, skey)
        if record is not None and not (self.rotten and not intact(skey, record)):
            found.append(record[CHECK_BYTES:])
        record = read(HINTS, skey)
        if record is not None and not (self.rotten and not intact(skey, record)):
            found.append(decode_row(record[CHECK_BYTES:]).obj)
        return found


class Host:
    """One machine: a disk that stays, and a process that comes and goes."""

    __slots__ = (
        "ages",
        "boot",
        "boots",
        "called",
        "clock_ms",
        "disk",
        "doom",
        "down_ms",
        "drift_ppm",
        "due_ms",
        "forsaken",
        "froze_ms",
        "lives",
        "lost_ms",
        "name",
        "node",
        "paused",
        "queue",
        "seen_hash",
        "timer_ms",
        "wall_ms",
    )  # fmt: skip

    def __init__(self, name: str, clock_ms: int, wall_ms: int, drift_ppm: int = 0) -> None:
        self.name = name
        self.disk = Disk()
        self.node: Node | None = None
        self.clock_ms = clock_ms
        self.wall_ms = wall_ms
        self.drift_ppm = drift_ppm  # how much too fast its monotonic clock is, in millionths
        self.lives = 0
        self.boot = 0
        self.queue: list[tuple[str, Frame]] = []
        self.called = False  # it has its turn when everything of this moment has arrived
        self.due_ms = NEVER_MS  # when it wants a turn, whatever arrives
        self.timer_ms = NEVER_MS  # when it is looked at next; others in the heap are void
        self.paused = False
        self.froze_ms = -1  # since when its monotonic clock stands still, -1 if it does not
        self.doom = ""  # where its next writing step dies
        self.down_ms = 0  # how long it then stays down
        self.lost_ms = -1  # when its disk last lost something
        self.ages = m.Ages()
        self.boots: dict[str, tuple[int, int]] = {}  # peer -> boot, when heard
        self.seen_hash = 0  # of what its node knew of the ring when the world last looked
        self.forsaken = False  # lost for good: nobody starts it again

    def is_ghost(self, peer: str, boot: int, clock_ms: int, suspicion_ms: int) -> bool:
        """As the server does: a frame of an earlier process of a peer that was heard just now."""
        known = self.boots.get(peer)
        if known is not None and known[0] != boot:
            earlier = boot >> m.LIFE_BITS < known[0] >> m.LIFE_BITS
            if earlier and clock_ms - known[1] < suspicion_ms:
                return True
        self.boots[peer] = (boot, clock_ms)
        return False

    def clock(self, now_ms: int) -> int:
        """What its monotonic clock shows."""
        return self.clock_ms + now_ms + now_ms * self.drift_ppm // 1_000_000

    def when(self, clock_ms: int) -> int:
        """When its monotonic clock will show that, or more, for the first time."""
        at_ms = clock_ms - self.clock_ms
        if self.drift_ppm:
            at_ms -= at_ms * self.drift_ppm // 1_000_000
            while self.clock(at_ms) < clock_ms:
                at_ms += 1
        return at_ms

    def thaw(self, now_ms: int) -> None:
        """Its clocks go on: the monotonic one from where it stood."""
        if self.froze_ms >= 0:
            self.clock_ms -= now_ms - self.froze_ms
            self.froze_ms = -1
