"""Mistakes with put ids: one put, many attempts, one effect (D5)."""

from __future__ import annotations

from typing import Any

from dynamo.core import dvv
from dynamo.core.fanout import Fanout, Put
from dynamo.core.node import Node
from dynamo.core.replica import Replica
from dynamo.core.requests import Forward, Requests
from dynamo.core.writes import Writes
from dynamo.sim.zoo.entry import Plant, Shelf

mistake = Shelf()


@mistake("DESIGN §2; trap 5", "I4", "I1", "I3")
def retry_mints_without_asking(plant: Plant) -> None:
    """A further attempt of a put is taken for a first one."""
    real = Writes._ask_or_apply
    plant.set(Writes, "_ask_or_apply", lambda self, op, attempt: real(self, op, 0))


@mistake("trap 5, riak_kv#1046", "I4", "I1", "I3")
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


@mistake("history: a first attempt that comes after its retry", "I1", "I4", "I12")
def late_put_taken_for_new(plant: Plant) -> None:
    """A first attempt that was long under way mints without asking for its id."""
    plant.set(Writes, "_doubt_if_late", lambda self, message, deadline_ms: message)


@mistake("history: a retried put minted over what had replaced it", "I1", "I4", "I12")
def known_id_not_believed(plant: Plant) -> None:
    """Another owner says that a put was applied and superseded, and it is minted again."""

    def on_id_is(self: Writes, sender: str, message: Any, born_ms: int) -> None:
        _, req, known, obj = message
        op = self.requests.pending.get(req)
        if not isinstance(op, Put) or not op.asking or sender not in op.waiting:
            return
        del op.waiting[sender]
        if obj:
            self.fanout.take_in(op, obj)
        op.asking = 0 if known else op.asking - 1
        if not op.asking:
            op.waiting.clear()
            self.apply(op)

    plant.set(Writes, "on_id_is", on_id_is)


@mistake("DESIGN, D5", "I4", "I1", "I3")
def put_ids_not_remembered(plant: Plant) -> None:
    """The id of a superseded put is forgotten with its value."""
    plant.set(Replica, "remember", lambda self, put_id: None)


@mistake("DESIGN, D5", "I4", "I1", "I3")
def put_ids_lost_at_restart(plant: Plant) -> None:
    """Ids of superseded puts are known to the process and not to its disk."""
    plant.set(Replica, "load_ids", lambda self, now_ms: None)


@mistake("DESIGN, D5", "I4", "I3")
def put_ids_stay_at_home(plant: Plant) -> None:
    """A put's replicas are not told which ids it superseded."""
    real = Fanout._message

    def message(self: Fanout, op: Put, home: str) -> Any:
        gone, op.gone = op.gone, []
        try:
            return real(self, op, home)
        finally:
            op.gone = gone

    plant.set(Fanout, "_message", message)


@mistake("history: one dot superseded, the other lived on", "I4", "I3")
def ids_compared_and_not_dots(plant: Plant) -> None:
    """A put counts as superseded only when no dot of it is left."""

    def settle(
        self: Replica, skey: bytes, mine: dvv.Clock, merged: dvv.Clock
    ) -> tuple[dvv.Clock, list[bytes]]:
        kept = dvv.ids_of(merged)
        gone = [put_id for put_id in dvv.ids_of(mine) if put_id not in kept]
        for put_id in gone:
            self.remember(put_id)
        if self.dead and len(kept) > 1:
            merged = self._shed(skey, merged, kept)
        return merged, gone

    plant.set(Replica, "settle", settle)


@mistake("DESIGN, D5", "I4", "I3")
def second_dot_kept(plant: Plant) -> None:
    """Nobody takes away, or hides, the second dot of a put that was superseded."""
    plant.set(Replica, "_shed", lambda self, skey, clock, ids: clock)
    plant.set(Requests, "shown", lambda self, clock: dvv.live(clock, self.wall_ms))


@mistake("fault matrix 13: a clock that jumps", "I4", "I3")
def put_ids_kept_by_the_wall_clock(plant: Plant) -> None:
    """How long ids are kept is measured by a clock that is set forward now and then."""
    real = Node._handle
    began: dict[str, int] = {}

    def handle(self: Node, inbox: Any, now_ms: int) -> None:
        ahead_ms = self.requests.wall_ms - now_ms
        self.replica._now = now_ms + ahead_ms - began.setdefault(self.name, ahead_ms)
        real(self, inbox, now_ms)

    plant.set(Node, "_handle", handle)
