"""Mistakes with put ids: one put, many attempts, one effect (D5)."""

from __future__ import annotations

from dynamo.core import dvv
from dynamo.core.replica import Replica
from dynamo.core.requests import Forward, Requests
from dynamo.sim.zoo.entry import Plant, Shelf
from dynamo.sim.zoo.needs import crashes

mistake = Shelf()


@mistake("trap 5, riak_kv#1046", "I2", "I4", "I6")
def forwarded_again_as_new(plant: Plant) -> None:
    """The second owner that gets a forwarded put does not learn that there was a first."""
    real = Forward.silent

    def silent(self: Forward, now_ms: int) -> int:
        put, self.is_put = self.is_put, False
        try:
            return real(self, now_ms)
        finally:
            self.is_put = put

    plant.set(Forward, "silent", silent)


@mistake("DESIGN, D5", "I4", "I6", "I12")
def put_ids_not_remembered(plant: Plant) -> None:
    """The id of a superseded put is forgotten with its value."""
    plant.set(Replica, "remember", lambda self, put_id, arc: None)


@mistake("history: one dot superseded, the other lived on", "I4", "I3", needs=crashes)
def ids_compared_and_not_dots(plant: Plant) -> None:
    """A put counts as superseded only when no dot of it is left."""

    def settle(
        self: Replica, skey: bytes, mine: dvv.Clock, merged: dvv.Clock
    ) -> tuple[dvv.Clock, list[bytes]]:
        kept = dvv.ids_of(merged)
        gone = [put_id for put_id in dvv.ids_of(mine) if put_id not in kept]
        for put_id in gone:
            self.remember(put_id, skey[0] << 8 | skey[1])
        if self.dead and len(kept) > 1:
            merged = self._shed(skey, merged, kept)
        return merged, gone

    plant.set(Replica, "settle", settle)


@mistake("DESIGN, D5", "I4", "I3")
def second_dot_kept(plant: Plant) -> None:
    """Nobody takes away, or hides, the second dot of a put that was superseded."""
    plant.set(Replica, "_shed", lambda self, skey, clock, ids: clock)
    plant.set(Requests, "shown", lambda self, clock: dvv.live(clock, self.wall_ms))
