"""Ballots of the owners of an arc: which proposal follows a register, and does it switch?

A register (S, stable) is followed by proposals (X, COPYING). At most one of those ever becomes
(X, SWITCHED), and from then on nothing but (X, DONE) follows. As many owners as make a *fence*
decide; fences of one list of owners share a member. Each owner keeps, durably, per arc

    promised    the highest ballot it has heard; it serves none below
    about, ballot, kill    its last vote: whether version `about` switches or is dead (`kill`)

and answers, about the register that it holds (`on_promise`, `on_vote`):

    PROMISE z about (B, phase)   yes if it holds just that register and z is above all it promised
    VOTE B switches, ballot z    yes if it holds version B and has promised nothing above z
    VOTE B is dead, ballot z     the same, while B is in phase COPYING
    REGISTERED                   says what it holds and what it promised

A proposer with base B goes through an `Attempt` of ballot z, which is the version it proposes:

    a fence promised            B stable: the register (z, ...) exists from now on
                                B copying: the vote with the highest ballot binds; without any, B
                                is to die. VOTE with ballot z; a fence agreed: B is switched, or
                                it is dead and (z, ...) exists
    a fence REGISTERED (z, COPYING), none of them with a promise above z: the copy may begin
    the copy is whole           VOTE z switches, with ballot z; a fence agreed: (z, SWITCHED)
    a fence REGISTERED phase 2  (z, DONE)

Invariants, and the histories that they prevent
  V1  At most one version from one stable register is ever SWITCHED, and nothing with the same
      owners and a higher version exists beside it. (History: one side of a split brings X to
      phase 3, and a loser drops its rows; the other side, which still sees phase 1, writes Y above
      X with the old owners. The merge brings back an owner that is empty.)
  V2  Promises and votes are on disk before they are answered. (An owner promises Y, loses its
      power, and votes for X, which Y had been told is dead.)
  V3  A version is SWITCHED only by votes. (Its driver alone had gone on to phase 2, and told
      nobody. A majority superseded it. Its clients read from owners that no write went to any
      more: stale reads at R=1.)
  V4  What was voted for binds: whoever finds a vote for X, and none above it that X is dead, makes
      X switch. (The driver died with a fence of votes in its hands, of which one shows in any other
      fence. Whether it told anybody cannot be known, so it has to come true.)
  V5  A base in phase COPYING dies by votes as well, never by promises alone. (P was promised z by
      A and B, and wrote (z, COPYING). Q was promised y above z by B and C, of which C had voted
      for X: X came to be switched below a version that existed.)
  V6  A confirmation of phase 1 counts only without a promise above it. (A and B promised z about S.
      Then X arrived from a proposer of before; A confirmed it, C voted for it, and a third one
      found that vote and made X switch, beside z.)
  V7  An owner that is not synced abstains from all this, and one whose disk was lost also for
      ABSTAIN_MS, the time in which what it promised in its former life may still be counted. It
      takes over promises and votes from those that it is synced with (`learn`): as many as have
      met every fence it was part of. (An acceptor that forgets is no acceptor.)
  V8  The copy comes from `need` owners that confirmed phase 1 before they were compared. (One that
      had not may acknowledge a write under the old register after it was compared, and that write
      reaches no owner to be.)

Fences between phases: reads need R of the old owners or R of the new ones, and phases two apart
must not both succeed. So phase 2 ends only once len - R + 1 of `cur` know it, and copying begins
once len - W + 1 know phase 1. (Model: 2,968 stale reads in 80,000 without.)

What people have given up (`forced`) has no vote, and no fence can be as safe as before.

Everything but `Ballots` and `Elector` is pure.

Sources: Lamport, Paxos made simple, 2001; algorithms §1.5; DESIGN §8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from dynamo.core import ring
from dynamo.core.config import Config, quorum
from dynamo.core.items import JUMP_MAX, read_register
from dynamo.core.messages import (
    PROMISED,
    REGISTER,
    REGISTERED,
    VOTED,
    Malformed,
    Message,
)
from dynamo.core.replica import Replica
from dynamo.core.ring import COPYING, STABLE, SWITCHED, Register
from dynamo.core.roster import Roster
from dynamo.core.spaces import RING

ATTEMPT_MS = 1_000  # after this, what was promised to an attempt is not used any more
ABSTAIN_MS = 2 * ATTEMPT_MS

# What an owner answers, PROMISED.ok and VOTED.ok
NO, YES, BEHIND, AHEAD, UNSYNCED = range(5)

Test = Callable[[str], bool]

# --- how many, and who ----------------------------------------------------------------------------


def levels(config: Config, count: int) -> tuple[int, int]:
    """The ring's own R and W among `count` owners."""
    few = quorum(count)
    return min(config.r or few, count), min(config.w or few, count)


def electors(cur: Sequence[str], forced: Test) -> list[str]:
    """The owners that decide about their arc."""
    return [name for name in cur if not forced(name)]


def fence(config: Config, cur: Sequence[str], forced: Test) -> int:
    """How many of them: any two fences meet, and each meets every R and every W of `cur`."""
    r, w = levels(config, len(cur))
    count = len(cur)
    return min(len(electors(cur, forced)), max(count - r + 1, count - w + 1, quorum(count)))


def need(config: Config, cur: Sequence[str], forced: Test, me: str) -> int:
    """With how many other owners a copy is compared: some W of every write is among them."""
    r, w = levels(config, len(cur))
    others = [name for name in electors(cur, forced) if name != me]
    # An owner is evidence itself.
    return min(len(others), max(r, len(cur) - w + 1) - (me in cur))


def movers(config: Config, cur: Sequence[str], forced: Test) -> int:
    """How many owners have to answer before the arc can move to somebody new."""
    return max(fence(config, cur, forced), need(config, cur, forced, ""))


def step(cur: Sequence[str], goal: Sequence[str], gone: Test) -> tuple[str, ...]:
    """The owners after one replica has moved towards the goal; () where it is reached.

    Whoever is gone for good is replaced first: until then the arc has one copy less.
    """
    losers = sorted((name for name in cur if name not in goal), key=lambda name: not gone(name))
    gainers = [name for name in goal if name not in cur]
    if not losers and not gainers:
        return ()
    if losers and gainers:
        after = [gainers[0] if name == losers[0] else name for name in cur]
    elif gainers:
        after = [*cur, gainers[0]]
    else:
        after = [name for name in cur if name != losers[0]]
    if sorted(after) == sorted(goal):
        return tuple(goal)
    return tuple(after)


def gaining(register: Register) -> str:
    """The owner to be that is none yet, "" for none."""
    return next((name for name in register.next if name not in register.cur), "")


# --- what an owner answers ------------------------------------------------------------------------


class Held(NamedTuple):
    """What an owner has promised for an arc, and how it voted last."""

    promised: int = 0
    about: int = 0
    ballot: int = 0
    kill: int = 0


NOTHING = Held()


def on_promise(
    held: Held, register: Register, ballot: int, ver: int, phase: int
) -> tuple[int, Held]:
    """The answer to PROMISE, and what is held from then on."""
    if register[:2] != (ver, phase):
        return (BEHIND if register[:2] < (ver, phase) else AHEAD), held
    if phase == SWITCHED or ballot <= max(held.promised, register.ver):
        return NO, held
    return YES, held._replace(promised=ballot)


def on_vote(held: Held, register: Register, ver: int, ballot: int, kill: int) -> tuple[int, Held]:
    """The answer to VOTE, and what is held from then on."""
    if register.ver != ver:
        return (BEHIND if register.ver < ver else AHEAD), held
    if register.phase != COPYING:
        # It has switched: a vote that it does says nothing new.
        return (AHEAD if kill or register.phase == STABLE else YES), held
    other = (held.about, held.ballot) == (ver, ballot) and held.kill != kill
    if ballot < held.promised or other:
        return NO, held
    return YES, Held(ballot, ver, ballot, kill)


def merged(mine: Held, theirs: Held) -> Held:
    """What an owner holds that takes over from another one: the higher promise, the later vote."""
    vote = max(mine[1:], theirs[1:])
    return Held(max(mine.promised, theirs.promised), *vote)


# --- what a proposer does -------------------------------------------------------------------------


class Attempt:
    """One ballot to have `target` follow `base`: who promised, how it must go on, who voted."""

    __slots__ = ("base", "kill", "promises", "refused", "target", "votes", "voting")

    def __init__(self, base: Register, target: Register) -> None:
        self.base = base
        self.target = target
        self.promises: dict[str, tuple[int, int]] = {}  # name -> (ballot, kill) of its vote
        self.votes: dict[str, None] = {}
        self.refused: dict[str, int] = {}  # name -> the ballot that it prefers
        self.voting = False
        self.kill = 1

    def promised(self, name: str, ballot: int, kill: int) -> None:
        if not self.voting:
            self.promises[name] = (ballot, kill)

    def enough(self, fence: int) -> bool:
        return len(self.votes if self.voting else self.promises) >= fence

    def decide(self) -> bool:
        """A fence has promised: say whether votes are needed. If so, `kill` says for what."""
        if self.base.phase != COPYING or self.voting:
            return False
        ballot, kill = max(self.promises.values(), default=(0, 1))
        self.kill = kill if ballot else 1  # V4
        self.voting = True
        return True

    def result(self) -> Register:
        """The register that exists now."""
        if self.base.phase == COPYING and not self.kill:
            return ring.advanced(self.base)
        return self.target


# --- on disk --------------------------------------------------------------------------------------


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, int, int, int]).decode


class Ballots:
    """This node's promises and votes. Whoever sends an answer sees to a synced commit (V2)."""

    __slots__ = ("_held", "_me", "_new_ms", "_replica", "_roster", "_store", "_unsure", "now_ms")

    def __init__(self, roster: Roster, replica: Replica, store: Any, now_ms: int) -> None:
        self._roster = roster
        self._me = roster.name
        self._replica = replica
        self._store = store
        self._new_ms = self.now_ms = now_ms
        partitions = roster.table.partitions
        # Arcs of which this store may have forgotten what it promised (V7).
        self._unsure = bytes(0 if replica.synced(arc) else 1 for arc in range(partitions))
        self._held: dict[int, Held] = {}
        for key, value in list(store.scan(RING, b"b/", b"b0")):
            self._held[int(key[2:])] = Held(*_decode(value))

    def held(self, arc: int) -> Held:
        return self._held.get(arc, NOTHING)

    def _hold(self, arc: int, held: Held) -> None:
        if held != self.held(arc):
            self._held[arc] = held
            self._store.put(RING, b"b/%d" % arc, _encode(held))

    def confirmed_under(self, arc: int) -> int:
        """What goes with a confirmation: the ballot promised, -1 for one that must not count."""
        return -1 if self.abstains(arc) else self.held(arc).promised

    def learn(self, arc: int, held: Held) -> None:
        """Take over what another owner has promised and voted."""
        self._hold(arc, merged(self.held(arc), held))

    def abstains(self, arc: int) -> bool:
        """Whether this node has no say about the arc at present (V7)."""
        if self._me not in self._roster.table.registers[arc].cur or not self._replica.synced(arc):
            return True
        return bool(self._unsure[arc]) and self.now_ms < self._new_ms + ABSTAIN_MS

    def promise(self, arc: int, ballot: int, ver: int, phase: int) -> tuple[int, int, int, int]:
        """Answer PROMISE: how, the highest ballot, and version and ballot of the own vote.

        A vote that the version is dead is told as one for version 0.
        """
        register = self._roster.table.registers[arc]
        self._check(register, ballot)
        before = self.held(arc)
        code, held = on_promise(before, register, ballot, ver, phase)
        if code in (YES, NO) and self.abstains(arc):
            return UNSYNCED, 0, 0, 0
        self._hold(arc, held)
        voted = held.ballot if held.about == ver else 0
        return code, max(held.promised, register.ver), 0 if held.kill else held.about, voted

    def vote(self, arc: int, ver: int, ballot: int, kill: int) -> tuple[int, int]:
        """Answer VOTE: how, and the highest ballot promised."""
        register = self._roster.table.registers[arc]
        self._check(register, ballot)
        code, held = on_vote(self.held(arc), register, ver, ballot, kill)
        if code in (YES, NO) and self.abstains(arc) and register.phase == COPYING:
            return UNSYNCED, 0
        self._hold(arc, held)
        return code, max(held.promised, register.ver)

    @staticmethod
    def _check(register: Register, ballot: int) -> None:
        if not 0 < ballot >> ring.BALLOT_BITS <= register.round + JUMP_MAX:
            raise Malformed("a ballot that jumps too far")


# --- on the wire ----------------------------------------------------------------------------------


class Elector:
    """Answers whoever moves arcs of this node; nothing leaves before it is on disk (V2)."""

    __slots__ = ("_outbox", "_roster", "ballots", "durable_due")

    def __init__(self, roster: Roster, ballots: Ballots, outbox: list[tuple[Any, Message]]) -> None:
        self._roster = roster
        self._outbox = outbox
        self.ballots = ballots
        self.durable_due = False  # this step must end in a synced commit

    def on_register(self, sender: str, message: Message, born_ms: int) -> None:
        """Adopt a register; say what is held, once that is on disk."""
        register = told(self._roster, message)
        _, req, arc = message[:3]
        self._roster.adopt(arc, register)
        if req:
            held = self._roster.table.registers[arc]
            promised = self.ballots.confirmed_under(arc)
            self._outbox.append((sender, (REGISTERED, *lesson(req, arc, held), promised)))
            self.durable_due = True

    def on_promise(self, sender: str, message: Message, born_ms: int) -> None:
        self._reply(sender, self.promise(message))

    def on_vote(self, sender: str, message: Message, born_ms: int) -> None:
        self._reply(sender, self.vote(message))

    def _reply(self, sender: str, answer: Message) -> None:
        if answer[3] == AHEAD:
            register = self._roster.table.registers[answer[2]]
            self._outbox.append((sender, (REGISTER, *lesson(0, answer[2], register))))
        self._outbox.append((sender, answer))

    def promise(self, message: Message) -> Message:
        _, req, arc, ballot, ver, phase = message
        self.durable_due = True
        return (
            PROMISED,
            req,
            arc,
            *self.ballots.promise(_arc(self._roster, arc), ballot, ver, phase),
        )

    def vote(self, message: Message) -> Message:
        _, req, arc, ver, ballot, kill = message
        self.durable_due = True
        answer = self.ballots.vote(_arc(self._roster, arc), ver, ballot, int(bool(kill)))
        return (VOTED, req, arc, *answer)


def lesson(req: int, arc: int, register: Register) -> Message:
    """The fields of a REGISTER."""
    return (req, arc, *register[:3], list(register.cur), list(register.next))


def _arc(roster: Roster, arc: int) -> int:
    if not 0 <= arc < roster.table.partitions:
        raise Malformed("an arc that this ring has not")
    return arc


def told(roster: Roster, message: Message) -> Register:
    """The register in a REGISTER or REGISTERED."""
    arc = _arc(roster, message[2])
    try:
        register = read_register(message[3:8])
    except (TypeError, ValueError):
        raise Malformed("no register") from None
    if register.round > roster.table.registers[arc].round + JUMP_MAX:
        raise Malformed("a register whose round jumps too far")
    return register
