"""From what people want to who shall own what: goals, and the number under which they are written.

Everything here is computed from the items of the roster and from nothing else, so whoever has the
same items decides the same (K1). What the planner is given as the table that was:

    present   whom reads ask now. A change is planned from it, not from the goals of a change that
              still goes on: what has not moved yet need not move there first (measured: the work
              of two joins that met is then that of one double join, and up to half more if not).
    wanted    the goal of an arc, or its owners where nobody ever wanted others. A table is judged
              by it: while arcs move, `present` is out of balance and nothing is wrong.

Replacing is renaming: the newcomer is written over the leaver before the planner sees the table,
so exactly its places move where zone and weight are alike.

A number is a round above BALLOT_BITS bits of the hash of what it decides: two sides of a split that
decide at once in one round never write different goals under one number.

Invariants
  K1  Same items, same decision.
  K2  What was decided is never re-derived: as long as what is wanted fits the members, nothing
      changes by itself. What is decided anew fits, so deciding twice changes nothing (P4).

Sources: DESIGN §3, §8; planner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from dynamo.core import planner
from dynamo.core.config import Config
from dynamo.core.items import ABORTED, IN, LEAVING, Wish
from dynamo.core.planner import Owners
from dynamo.core.ring import BALLOT_BITS
from dynamo.core.roster import Roster
from dynamo.core.verbs import Refusal, Verb
from dynamo.core.verbs import wishes as wishes_of

_encode = msgspec.msgpack.Encoder().encode

# Entries of `Task.verbs` that are no verb of people:
FOR = "for"  # digests of the members, and of their zones and N: for whom this was planned
OVER = "over"  # tasks whose unfinished arcs this one takes over
ABORT = "abort"  # the task that is undone
REPLAN = "replan"  # why this was decided without anybody asking
REBALANCE = "rebalance"  # people asked for nothing but balance


class Decision(NamedTuple):
    """A change that is ready to be written down."""

    id: str  # hash of everything that people decided, for this or before it
    wishes: dict[str, Wish]  # those that change
    members: dict[str, tuple[str, int]]  # that are to stay: name -> (zone, weight)
    before: list[Owners]  # present owners
    owners: list[Owners]  # and who shall own
    goals: dict[int, Owners]  # of the arcs whose goal changes

    @property
    def arcs(self) -> list[int]:
        """The arcs that have to move, now that this is wanted."""
        pairs = enumerate(zip(self.before, self.owners, strict=True))
        return [arc for arc, (now, then) in pairs if {*now} != {*then}]

    @property
    def moves(self) -> int:
        """Replicas that have to travel."""
        pairs = zip(self.before, self.owners, strict=True)
        return sum(name not in now for now, then in pairs for name in then)


def present(roster: Roster) -> list[Owners]:
    """Whom reads of each arc ask now."""
    return [register.readers for register in roster.table.registers]


def wanted(roster: Roster) -> list[Owners]:
    """Who shall own each arc once everything has been carried out."""
    pairs = zip(roster.goals, roster.table.registers, strict=True)
    return [goal.owners if goal.ver else register.readers for goal, register in pairs]


def members_with(roster: Roster, changed: Mapping[str, Wish]) -> dict[str, tuple[str, int]]:
    """Who is to stay, once these wishes hold: name -> (zone, weight)."""
    held = {**roster.wishes, **changed}
    return {
        name: (roster.records[name].zone if name in roster.records else "", wish.weight)
        for name, wish in sorted(held.items())
        if wish.status == IN
    }


def decide(roster: Roster, config: Config, verbs: Sequence[Verb]) -> Decision:
    """What these verbs come to. Raises `Refusal` where nobody would be left."""
    renamed = {verb.node: verb.by for verb in verbs if verb.by}
    return _decide(roster, config, wishes_of(verbs, roster), renamed, [v.entry for v in verbs])


def restore(roster: Roster, config: Config, undone: dict[str, Wish]) -> Decision:
    """What it comes to when these wishes are as they were."""
    return _decide(roster, config, undone, {}, [])


def _decide(
    roster: Roster,
    config: Config,
    changed: dict[str, Wish],
    renamed: Mapping[str, str],
    entries: Sequence[tuple[str, ...]],
) -> Decision:
    members = members_with(roster, changed)
    if not members:
        raise Refusal("nobody would be left in the ring: the last member cannot go")
    now, old = present(roster), wanted(roster)
    if not changed and planner.plan(old, members, config.n) == old:
        owners = old
    else:
        table = [tuple(renamed.get(name, name) for name in names) for names in now]
        owners = planner.plan(table, members, config.n)
    goals: dict[int, Owners] = {}
    for arc, names in enumerate(owners):
        if {*names} == {*old[arc]}:
            owners[arc] = old[arc]  # the order of a list is worth no new goal
        else:
            goals[arc] = names
    # The progress of moves towards goals that are known is not in it: it goes on all the time, and
    # while it does nobody could commit anything.
    basis = [old, sorted(roster.wishes.items()), sorted(changed.items()), list(entries),
             sorted(members.items()), config.n]  # fmt: skip
    return Decision(_digest(basis), changed, members, now, owners, goals)


def _digest(what: Any, size: int = 8) -> str:
    return blake2b(_encode(what), digest_size=size).hexdigest()


# --- numbers ------------------------------------------------------------------------------------


def next_number(roster: Roster, decision: Decision) -> int:
    """The number of a task that carries this out: above all that are known."""
    rounds = [goal.ver >> BALLOT_BITS for goal in roster.goals]
    rounds += [number >> BALLOT_BITS for number in roster.tasks]
    what = _digest([decision.id, sorted(decision.goals.items())], BALLOT_BITS // 8)
    return 1 + max(rounds) << BALLOT_BITS | int(what, 16)


def task_id(number: int) -> str:
    """A task's number as people see it."""
    return f"c{number >> BALLOT_BITS}-{number & (1 << BALLOT_BITS) - 1:04x}"


def signature(members: Mapping[str, tuple[str, int]], n: int) -> tuple[str, str, str]:
    """An entry that says for whom a task was planned: for which wishes, and of what shape."""
    weights = [[name, weight] for name, (_, weight) in sorted(members.items())]
    return FOR, _digest(weights), _digest([n, sorted(members.items())])


# --- when two changes have met ------------------------------------------------------------------


def fits(roster: Roster, config: Config) -> bool:
    """Whether what is wanted is what a planner would leave alone."""
    members = roster.planned()
    old = wanted(roster)
    return bool(members) and planner.plan(old, members, config.n) == old


def met(roster: Roster, config: Config) -> Decision | None:
    """What is to be done about changes that were decided at once on two sides; None for nothing.

    Each side wrote goals for the members that it knew of. Arc by arc the later ones hold, and
    together they may name somebody who is to go, or leave some node with twice its share.

    Only people change the ring: a node that was started with another zone makes what is wanted
    unfit, too, but the next change that somebody plans will say so.
    """
    members = roster.planned()
    if not members or not roster.tasks or fits(roster, config):
        return None
    _, weights, shape = signature(members, config.n)
    newest = roster.tasks[max(roster.tasks)]
    planned = next((entry[1:] for entry in newest.verbs if entry[0] == FOR), ())
    if planned and planned[0] == weights and planned[1:] != (shape,):
        return None
    return restore(roster, config, {})


def siblings(roster: Roster) -> list[int]:
    """Tasks that were decided in one round with another, none having known of the other."""
    rounds = [number >> BALLOT_BITS for number in roster.tasks]
    return [n for n in sorted(roster.tasks) if rounds.count(n >> BALLOT_BITS) > 1]


# --- how far a task is --------------------------------------------------------------------------


class Standing(NamedTuple):
    """What is left of a task: its arcs, those of them that are not there yet, and what it is."""

    arcs: list[int]
    open: list[int]
    state: str  # running, done, aborted, superseded
    heir: int  # who has taken over, 0 for nobody


def standings(roster: Roster) -> dict[int, Standing]:
    """Every task that is remembered, oldest first."""
    arcs: dict[int, list[int]] = {number: [] for number in sorted(roster.tasks)}
    for arc, goal in enumerate(roster.goals):
        if goal.ver in arcs:
            arcs[goal.ver].append(arc)
    heirs = _heirs(roster)
    found: dict[int, Standing] = {}
    for number, mine in arcs.items():
        left = [arc for arc in mine if not arrived(roster, arc)]
        heir = heirs.get(number, 0)
        if roster.tasks[number].state == ABORTED:
            state = "aborted"
        elif left or (not heir and leavers(roster, number)):
            state = "running"
        else:
            state = "superseded" if heir else "done"
        found[number] = Standing(mine, left, state, heir)
    return found


def arrived(roster: Roster, arc: int) -> bool:
    """Whether an arc is at rest with the owners that it shall have."""
    register, goal = roster.table.registers[arc], roster.goals[arc]
    return not register.next and (not goal.ver or {*register.cur} == {*goal.owners})


def leavers(roster: Roster, number: int) -> list[str]:
    """Those whom a task asked to leave, and who have not yet."""
    nodes = [entry[1] for entry in roster.tasks[number].verbs if entry[0] in ("leave", "replace")]
    return [name for name in nodes if roster.status(name) == LEAVING]


def _heirs(roster: Roster) -> dict[int, int]:
    by_id = {task_id(number): number for number in roster.tasks}
    heirs: dict[int, int] = {}
    for number in sorted(roster.tasks):
        for entry in roster.tasks[number].verbs:
            if entry[0] == OVER:
                heirs.update({by_id[old]: number for old in entry[1:] if old in by_id})
    return heirs


def over_entries(numbers: Iterable[int]) -> list[tuple[str, ...]]:
    """Entries of a task that name those which it takes over."""
    ids = [task_id(number) for number in numbers]
    return [(OVER, *ids[at : at + 6]) for at in range(0, len(ids), 6)]


def taken_over(roster: Roster, goals: Mapping[int, Owners]) -> list[int]:
    """Running tasks of which nothing unfinished is left once these goals are written."""
    return [
        number
        for number, standing in standings(roster).items()
        if standing.open and standing.state == "running"
        and all(arc in goals for arc in standing.open)
    ]  # fmt: skip
