"""Mistakes with arcs on their way: fences, ballots, copies, and rows that are left behind."""

from __future__ import annotations

from typing import Any

from dynamo.core import ballots, planner, ring
from dynamo.core.ballots import Attempt, Held
from dynamo.core.driving import Driver, Move, Task
from dynamo.core.exchange import Exchange
from dynamo.core.fanout import Fanout, Put
from dynamo.core.items import Goal
from dynamo.core.moves import Moves
from dynamo.core.orphans import Orphans
from dynamo.core.requests import Requests
from dynamo.core.ring import SWITCHED, Register
from dynamo.core.spaces import OBJECTS
from dynamo.sim.zoo.entry import Plant, Shelf
from dynamo.sim.zoo.needs import bereft, contested, moving, thin, untold

mistake = Shelf("membership")


# --- Operations while an arc moves ----------------------------------------------------------------


@mistake("DESIGN §8, algorithms §1.5", "I6", "I12", "I13", "I1", needs=untold)
def no_fence(plant: Plant) -> None:
    """A request is served under whatever register it was made."""
    plant.set(Requests, "stale", lambda self, *request: False)


@mistake("algorithms §1.5: joint quorums", "I6", "I1", "I12", "I4", needs=moving)
def no_joint_quorum(plant: Plant) -> None:
    """While an arc moves a put needs W of those whom readers ask, and of nobody else."""
    real = Fanout.aim

    def aim(self: Fanout, op: Put) -> None:
        real(self, op)
        op.sets = tuple(each for each in op.sets if each[0] == op.register.readers)
        op.w, op.pw = (op.sets[0][1:]) if op.sets else (op.w, op.pw)

    plant.set(Fanout, "aim", aim)


# --- From phase to phase --------------------------------------------------------------------------


@mistake("DESIGN §8: phases two apart have no quorum in common", "I10", "I6", "I1")
def one_step_flip(plant: Plant) -> None:
    """A copy that is whole and voted for makes the arc done at once: COPYING to DONE."""
    real = Attempt.result

    def result(self: Attempt) -> Register:
        found = real(self)
        return ring.advanced(found) if found.phase == SWITCHED else found

    plant.set(Attempt, "result", result)


@mistake("V3: its driver alone had gone on to phase 2", "I10", "I6", "I1", needs=contested)
def phase_2_without_votes(plant: Plant) -> None:
    """Whose copy is whole declares the arc switched, and asks nobody."""

    def agree(self: Driver, move: Move) -> None:
        self.durable_due = True
        self._create(move, ring.advanced(move.task.register))

    plant.set(Driver, "_agree", agree)


@mistake("V1, V5: two sides of a split", "I10", "I6", "I1", needs=contested)
def superseded_without_a_quorum_of_promises(plant: Plant) -> None:
    """One promise, be it the proposer's own, is enough to put another version above the last."""
    real = Attempt.enough
    plant.set(
        Attempt,
        "enough",
        lambda self, fence: bool(self.promises) or (self.voting and real(self, fence)),
    )
    plant.set(Attempt, "decide", lambda self: False)
    plant.set(Attempt, "result", lambda self: _follower(self))


def _follower(attempt: Attempt) -> Register:
    if attempt.voting and not attempt.kill:
        return ring.advanced(attempt.base)
    return attempt.target


@mistake("V2, Lamport: Paxos made simple", "I10", "I6", "I1", needs=contested)
def promise_not_kept(plant: Plant) -> None:
    """An owner that has promised a ballot votes below it all the same."""
    real = ballots.on_vote

    def on_vote(
        held: Held, register: Register, ver: int, ballot: int, kill: int
    ) -> tuple[int, Held]:
        return real(held._replace(promised=0), register, ver, ballot, kill)

    plant.set(ballots, "on_vote", on_vote)


@mistake(
    "DESIGN §8: the driver of a switched arc may be lost for good",
    "I10",
    "I13",
    needs=bereft,
)
def phase_2_left_to_its_driver(plant: Plant) -> None:
    """Nobody ends phase 2 but the node that began the move."""
    real = Moves._finishes

    def finishes(self: Moves, arc: int, register: Register) -> bool:
        return real(self, arc, register) and ballots.gaining(register) in ("", self._me)

    plant.set(Moves, "_finishes", finishes)


@mistake("R1: goals are stored, never derived again", "I10")
def target_derived_again(plant: Plant) -> None:
    """Each node plans for itself where arcs go, from those whom it knows and what they have now."""
    real = Moves._task

    def task(self: Moves, arc: int) -> Task | None:
        roster, stored = self._roster, self._roster.goals
        if not any(goal.ver for goal in stored):
            return real(self, arc)
        now = [register.cur for register in self._table.registers]
        found = planner.plan(now, roster.planned(), self._config.n)
        roster.goals = [Goal(1, 0, tuple(owners)) for owners in found]
        try:
            return real(self, arc)
        finally:
            roster.goals = stored

    plant.set(Moves, "_task", task)


# --- Copies ---------------------------------------------------------------------------------------


@mistake("V8: CASSANDRA-2434, bootstrap from one replica", "I6", "I4", "I1", "I5", needs=thin)
def copy_from_one_owner_only(plant: Plant) -> None:
    """A copy is whole when it has been compared with one owner, whatever W is."""
    real = ballots.need
    plant.set(ballots, "need", lambda *args: min(1, real(*args)))


@mistake("V8: a write acknowledged after the comparison", "I6", "I1", "I4", needs=untold)
def copy_counted_from_an_owner_that_was_not_confirmed(plant: Plant) -> None:
    """The copy is compared with any owner, whether or not that one knows of the move."""
    real = Driver._known

    def known(self: Driver, move: Move) -> None:
        real(self, move)
        register = move.task.register
        if move.stage == "copy":
            for name in self._electors(register):
                if name != self._me:
                    self._exchange.allow(move.arc, name, self._need(register))

    plant.set(Driver, "_known", known)


@mistake("X1: the absence that a new owner finds is no evidence", "I6", "I4", "I1", needs=moving)
def gaining_owner_counts_before_its_copy_is_whole(plant: Plant) -> None:
    """An owner to be is taken for evidence from the moment it knows, and has nothing to copy."""
    real = Exchange._judge

    def judge(self: Exchange, arc: int, before: Register, register: Register) -> None:
        real(self, arc, before, register)
        if ballots.gaining(register) == self._me:
            self._replica.set_synced(arc, True)

    plant.set(Exchange, "_judge", judge)


# --- Rows left behind -----------------------------------------------------------------------------


@mistake("O1, algorithms §1.5 I5", "I1", "I3")
def dropped_before_proof(plant: Plant) -> None:
    """Who owns an arc no more drops its rows, and offers them to nobody."""

    def step(self: Orphans, orphan: Any, name: str, walk: Any, now_ms: int, may: bool) -> None:
        walk.rows = len(list(self._store.scan(OBJECTS, *ring.arc_range(orphan.arc))))
        walk.done_ms = now_ms

    plant.set(Orphans, "_step", step)


@mistake("O1", "I1", "I3")
def orphan_dropped_when_one_owner_confirmed(plant: Plant) -> None:
    """Rows are dropped when the first of the owners has them all."""
    real = Orphans._confirm

    def confirm(self: Orphans, orphan: Any, walk: Any, want: list[bytes]) -> None:
        real(self, orphan, walk, want)
        if walk.done_ms >= 0:
            for other in orphan.walks.values():
                self._sent.pop(other.req, None)
                other.req, other.rows, other.done_ms = 0, walk.rows, walk.done_ms

    plant.set(Orphans, "_confirm", confirm)
