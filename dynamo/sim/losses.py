"""What a disk may lose, by a fault: everything, a suffix, a row, a byte, or the last while.

Each kills the process first where it has to, says that the disk has lost something, so that nobody
is judged for it, and goes into the trace.
"""

from __future__ import annotations

from collections.abc import Callable

from dynamo.sim.judge import Watched
from dynamo.sim.machine import Host, Snapshot
from dynamo.sim.oracle import Oracle


class Losses(Watched):
    """The part of a world that takes things away from disks."""

    hosts: dict[str, Host]
    oracle: Oracle
    now_ms: int
    changed_ms: int
    kill: Callable[[str], None]
    record: Callable[..., None]
    _new_disk: Callable[[Host], None]

    def note_loss(self, name: str) -> None:
        """A disk has lost something that it had: rows may be gone, or wrong, from now on."""
        host = self.hosts[name]
        host.lost_ms = self.changed_ms = self.now_ms
        self.oracle.note_loss(self.now_ms)
        for judge in self.judges:
            judge.lost(host)

    def wipe(self, name: str) -> None:
        """The disk is lost; the host comes back empty, under its old name."""
        self.kill(name)
        self._new_disk(self.hosts[name])
        self.note_loss(name)
        self.record("wiped", name)

    def forsake(self, name: str) -> None:
        """A host is lost for good, with its disk."""
        self.wipe(name)
        self.hosts[name].forsaken = True

    def lose_power(self, name: str, kept: int) -> int:
        """The power goes, and what was not synced but for `kept` batches; how many are lost."""
        self.kill(name)
        lost = self.hosts[name].disk.lose_power(kept)
        self.note_loss(name)
        self.record("power lost", name, lost)
        return lost

    def forget(self, name: str, space: int, skey: bytes) -> None:
        """The process dies, and one row is not there when it returns; nobody tells it."""
        self.kill(name)
        self.hosts[name].disk.forget(space, skey)
        self.note_loss(name)
        self.record("forgotten", name, space, skey)

    def rot(self, name: str, space: int, skey: bytes, at: int, bits: int) -> None:
        """A byte of a record is another one from now on."""
        self.hosts[name].disk.rot(space, skey, at, bits)
        self.note_loss(name)
        self.record("rotten", name, space, skey)

    def take_back(self, name: str, snapshot: Snapshot, told: bool) -> None:
        """The disk goes back to what it was; `told`: the store knows that it ended badly."""
        self.kill(name)
        host = self.hosts[name]
        host.disk.restore(snapshot)
        host.disk.unclean = told
        self.note_loss(name)
        self.record("taken back", name, told)
