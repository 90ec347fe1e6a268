"""One arc's way through the stages of a move, message by message (see `moves` and `ballots`).

    propose   "promise"  asks for promises     "vote"  that the version before is dead, or goes on
    copy      "confirm"  a fence shall know    "copy"  waits for `exchange`      "agree"  votes
    switch    "confirm"

`start` begins what a task asks for, answers carry it on, `_fail` puts it back for another try, with
growing pauses drawn at random. What a stage counts belongs to one request number: an answer to an
earlier question is not heard. A register that comes of it goes through `roster`, and from there
back to `moves`, which finds the next task.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from dynamo.core import ballots as rules
from dynamo.core import ring
from dynamo.core.ballots import ATTEMPT_MS, BEHIND, NO, UNSYNCED, YES, Attempt, Elector, lesson
from dynamo.core.config import Config
from dynamo.core.copying import Copy
from dynamo.core.exchange import Exchange
from dynamo.core.items import JUMP_MAX
from dynamo.core.messages import PROMISE, REGISTER, VOTE, Message
from dynamo.core.replica import Replica
from dynamo.core.ring import COPYING, DONE, STABLE, SWITCHED, Register
from dynamo.core.roster import Roster

BACKOFF_MS, BACKOFF_MS_MAX = 50, 5_000
RESEND_MS, RESEND_MS_MAX = 300, 5_000


class Task(NamedTuple):
    """What this node is to do about an arc: `what`, from which register, to which owners."""

    what: str
    register: Register
    wanted: tuple[str, ...]


class Move:
    """One arc that this node works on, and how far it got."""

    __slots__ = (
        "arc",
        "attempt",
        "began_ms",
        "bytes",
        "confirmed",
        "due_ms",
        "gap_ms",
        "heard",
        "progress_ms",
        "refusals",
        "req",
        "round",
        "rows",
        "stage",
        "taken_ms",
        "task",
        "taught",
        "tries",
    )

    def __init__(self, arc: int, task: Task, now_ms: int) -> None:
        self.arc = arc
        self.task = task
        self.stage = "wait"
        self.tries = 0
        self.rows = self.bytes = 0  # that the copy brought
        self.round = 0  # the highest that others were seen to use
        self.began_ms = self.due_ms = self.progress_ms = now_ms
        self.clear(0, now_ms)

    def clear(self, req: int, now_ms: int) -> None:
        """Begin another question: answers to earlier ones do not count."""
        self.req = req
        self.taken_ms = now_ms
        self.attempt: Attempt | None = None
        self.confirmed: dict[str, None] = {}
        self.refusals: dict[str, int] = {}  # name -> why it does not count
        self.taught: dict[str, None] = {}
        self.heard: dict[str, None] = {}  # who has answered, whatever
        self.gap_ms = RESEND_MS


class Driver:
    """The moves of one node: those under way, and those that wait for a turn or another try."""

    __slots__ = (
        "_ballots", "_config", "_elector", "_exchange", "_me", "_outbox", "_replica", "_rng",
        "_roster", "_seq", "_table", "active", "durable_due", "now_ms", "stats", "stirred",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        roster: Roster,
        replica: Replica,
        exchange: Exchange,
        elector: Elector,
        outbox: list[tuple[Any, Message]],
        rng: random.Random,
        life: int,
        now_ms: int,
    ) -> None:
        self._config = config
        self._roster = roster
        self._table = roster.table
        self._me = roster.name
        self._replica = replica
        self._exchange = exchange
        self._elector = elector
        self._ballots = elector.ballots
        self._outbox = outbox
        self._rng = rng
        self._seq = life | 1 << 38
        self.stats = roster.stats
        self.now_ms = now_ms
        self.durable_due = False  # this step must end in a synced commit
        self.stirred = True  # something changed that `moves` looks at
        self.active: dict[int, Move] = {}
        self.waiting: dict[int, Move] = {}

    def start(self, move: Move) -> None:
        """Begin a task, or begin it again."""
        del self.waiting[move.arc]
        self.active[move.arc] = move
        move.progress_ms = self.now_ms
        if move.task.what == "propose":
            self._propose(move)
        else:
            self._confirm(move)

    def overdue(self, move: Move) -> None:
        """A stage has waited long enough."""
        if move.stage in ("promise", "vote", "agree"):
            self._fail(move)
        else:
            self._resend(move)

    def copied(self, copy: Copy) -> None:
        """`exchange` has brought the copy that it was allowed to."""
        move = self.active.get(copy.arc)
        if move is not None and move.stage == "copy":
            move.rows, move.bytes = copy.rows, copy.bytes
            self._agree(move)

    def _fail(self, move: Move) -> None:
        """Try again, later and later: whoever else is at it shall get through."""
        if self.active.pop(move.arc, None) is None:
            return
        move.stage = "wait"
        pause_ms = min(BACKOFF_MS << min(move.tries, 10), BACKOFF_MS_MAX)
        move.tries += 1
        move.due_ms = self.now_ms + round(pause_ms * (0.5 + self._rng.random()))
        self.waiting[move.arc] = move
        self.stirred = True
        self.stats["moves_tried_again"] += 1

    # --- asking -------------------------------------------------------------------------------

    def _electors(self, register: Register) -> list[str]:
        return rules.electors(register.cur, self._roster.forced)

    def _fence(self, register: Register) -> int:
        return rules.fence(self._config, register.cur, self._roster.forced)

    def _begin(self, move: Move, stage: str, due_ms: int) -> None:
        self._seq += 1
        move.clear(self._seq, self.now_ms)
        move.stage = stage
        move.due_ms = due_ms
        self.stirred = True

    def _teach(self, name: str, arc: int, register: Register, req: int = 0) -> None:
        if name != self._me:
            self._outbox.append((name, (REGISTER, *lesson(req, arc, register))))

    def _ask_electors(self, move: Move, register: Register, question: Message) -> None:
        """Ask all that decide; this node, if it is one of them, last, as its answer comes first."""
        names = self._electors(register)
        for name in names:
            if name != self._me:
                self._outbox.append((name, question))
        if self._me in names:
            if question[0] == PROMISE:
                self.on_promised(self._me, self._elector.promise(question), self.now_ms)
            else:
                self.on_voted(self._me, self._elector.vote(question), self.now_ms)

    def _create(self, move: Move, register: Register) -> None:
        """A register that exists from now on: write it down, and tell all it is about."""
        arc = move.arc
        move.clear(0, self.now_ms)
        move.stage = "over"
        before = self._table.registers[arc]
        if not self._roster.adopt(arc, register):
            return
        self.durable_due = True
        if register.phase in (COPYING, SWITCHED) and rules.gaining(register) == self._me:
            return  # it will be asked to be confirmed, in this step
        names = dict.fromkeys((*before.cur, *before.next, *register.cur, *register.next))
        goal = self._roster.goals[arc]
        if goal.ver and register.phase == DONE:  # whoever proposes the next step
            names.update(dict.fromkeys(rules.step(register.cur, goal.owners, self._roster.gone)))
        for name in names:
            self._teach(name, arc, register)

    # --- propose ------------------------------------------------------------------------------

    def _propose(self, move: Move, wanted: tuple[str, ...] | None = None) -> None:
        """Ask for promises. `wanted`: other owners than the task says."""
        base = move.task.register
        coming = move.task.wanted if wanted is None else wanted
        seen = max(
            base.round, move.round, self._ballots.held(move.arc).promised >> ring.BALLOT_BITS
        )
        target = ring.proposal(seen + 1, COPYING if coming else STABLE, base.cur, coming)
        move.round = target.round  # which is used up: two attempts never share a ballot
        self._begin(move, "promise", self.now_ms + ATTEMPT_MS)
        move.attempt = Attempt(base, target)
        self.stats["moves_proposed"] += 1
        question = (PROMISE, move.req, move.arc, target.ver, *base[:2])
        self._ask_electors(move, base, question)
        self._decide(move)

    def _decide(self, move: Move) -> None:
        """Go on with an attempt as far as its answers allow."""
        attempt = move.attempt
        if attempt is None or self.active.get(move.arc) is not move:
            return
        base, count = attempt.base, self._fence(attempt.base)
        if not attempt.enough(count):
            left = [name for name in self._electors(base) if name not in move.refusals]
            if len(left) < count:
                self._fail(move)
            return
        if self.now_ms - move.taken_ms >= ATTEMPT_MS:
            self._fail(move)  # V7
        elif attempt.decide():
            self._begin_votes(move, attempt)
        else:
            self.stats["moves_rolled_on" if not attempt.kill else "moves_begun"] += 1
            self._create(move, attempt.result())

    def _begin_votes(self, move: Move, attempt: Attempt) -> None:
        taken_ms = move.taken_ms
        self._begin(move, "vote", taken_ms + ATTEMPT_MS)
        move.taken_ms = taken_ms
        move.attempt = attempt
        base, ballot = attempt.base, attempt.target.ver
        question = (VOTE, move.req, move.arc, base.ver, ballot, attempt.kill)
        self._ask_electors(move, base, question)
        self._decide(move)

    def _refused(self, move: Move, name: str, code: int, ballot: int, again: Message) -> None:
        """Whoever does not agree: teach it once if it is behind, else note why."""
        move.round = max(move.round, min(ballot >> ring.BALLOT_BITS, move.round + JUMP_MAX))
        if code == BEHIND and name not in move.taught:
            move.taught[name] = None
            self._teach(name, move.arc, move.task.register)
            self._outbox.append((name, again))
        else:
            move.refusals[name] = code

    def on_promised(self, sender: str, message: Message, born_ms: int) -> None:
        _, req, arc, code, ballot, voted_ver, voted_ballot = message
        move = self.active.get(arc)
        if move is None or move.req != req or move.stage != "promise" or move.attempt is None:
            return
        attempt = move.attempt
        move.heard[sender] = None
        if sender not in self._electors(attempt.base) or sender in attempt.promises:
            return
        if code == YES:
            attempt.promised(sender, voted_ballot, int(bool(voted_ballot and not voted_ver)))
        else:
            question = (PROMISE, req, arc, attempt.target.ver, *attempt.base[:2])
            self._refused(move, sender, code, ballot, question)
        self._decide(move)

    # --- copy and switch ----------------------------------------------------------------------

    def _confirm(self, move: Move) -> None:
        """Have the owners write the register down, until a fence has."""
        self._begin(move, "confirm", self.now_ms + RESEND_MS)
        register = move.task.register
        for name in self._table.writers(move.arc):
            self._teach(name, move.arc, register, move.req)
        if self._me in self._electors(register):
            self._confirmed(move, self._me, self._ballots.confirmed_under(move.arc))
        self._confirmed(move, "", 0)

    def _confirmed(self, move: Move, name: str, promised: int) -> None:
        """Count an owner that knows the register; go on once a fence does."""
        register = move.task.register
        if name and register.phase == COPYING and not 0 <= promised <= register.ver:  # V6, V7
            move.refusals[name] = UNSYNCED if promised < 0 else NO
            move.round = max(move.round, promised >> ring.BALLOT_BITS)
        elif name:
            move.refusals.pop(name, None)
            move.confirmed[name] = None
            move.progress_ms = self.now_ms
        if move.stage == "copy":
            if name in move.confirmed:
                self._exchange.allow(move.arc, name, self._need(register))
            return
        if len(move.confirmed) >= self._fence(register):
            self._known(move)
        elif NO in move.refusals.values():
            barred = sum(code == NO for code in move.refusals.values())
            if len(self._electors(register)) - barred < self._fence(register):
                self._propose(move, register.next)

    def _need(self, register: Register) -> int:
        return rules.need(self._config, register.cur, self._roster.forced, self._me)

    def _known(self, move: Move) -> None:
        """A fence knows the register."""
        register = move.task.register
        if register.phase == SWITCHED:
            self.stats["moves_done"] += 1
            self._create(move, ring.advanced(register))
            return
        synced = self._replica.synced(move.arc)
        if rules.gaining(register) == self._me:
            if synced:  # it was whole before this node was stopped
                self._agree(move)
                return
        elif not synced:
            self._fail(move)
            return
        move.stage = "copy"
        self._exchange.allow(move.arc, "", self._need(register))
        for name in move.confirmed:
            if name != self._me:
                self._exchange.allow(move.arc, name, self._need(register))

    def _agree(self, move: Move) -> None:
        """The copy is whole, and on disk with this step: have the owners vote for it."""
        register = move.task.register
        self.durable_due = True
        self._begin(move, "agree", self.now_ms + ATTEMPT_MS)
        move.attempt = Attempt(register, register)
        move.attempt.voting, move.attempt.kill = True, 0
        question = (VOTE, move.req, move.arc, register.ver, register.ver, 0)
        self._ask_electors(move, register, question)
        self._count(move)

    def _count(self, move: Move) -> None:
        """See whether this node's own version may switch."""
        attempt, register = move.attempt, move.task.register
        if attempt is None or self.active.get(move.arc) is not move or move.stage != "agree":
            return
        if attempt.enough(self._fence(register)):
            if rules.gaining(register) == self._me and not self._replica.synced(move.arc):
                self._fail(move)  # rows were found rotten meanwhile
                return
            self.stats["moves_switched"] += 1
            self._create(move, attempt.result())
            return
        barred = sum(code == NO for code in move.refusals.values())
        if len(self._electors(register)) - barred < self._fence(register):
            self._propose(move, register.next)

    def on_voted(self, sender: str, message: Message, born_ms: int) -> None:
        _, req, arc, code, ballot = message
        move = self.active.get(arc)
        if move is None or move.req != req or move.attempt is None or not move.attempt.voting:
            return
        attempt = move.attempt
        move.heard[sender] = None
        if sender not in self._electors(attempt.base) or sender in attempt.votes:
            return
        if code == YES:
            attempt.votes[sender] = None
            move.progress_ms = self.now_ms
        else:
            base, number = attempt.base, attempt.target.ver
            question = (VOTE, req, arc, base.ver, number, attempt.kill)
            self._refused(move, sender, code, ballot, question)
        if move.stage == "agree":
            self._count(move)
        else:
            self._decide(move)

    def _resend(self, move: Move) -> None:
        """Tell those that have not confirmed yet once more, at growing intervals."""
        move.gap_ms = min(2 * move.gap_ms, RESEND_MS_MAX)
        move.due_ms = self.now_ms + round(move.gap_ms * (0.5 + self._rng.random()))
        copy = self._exchange.copies.of.get(move.arc)
        if copy is not None and copy.walk is not None:
            move.progress_ms = self.now_ms
        for name in self._table.writers(move.arc):
            if name not in move.confirmed:
                self._teach(name, move.arc, move.task.register, move.req)

    def on_registered(self, sender: str, message: Message, born_ms: int) -> None:
        register = rules.told(self._roster, message)
        _, req, arc = message[:3]
        self._roster.adopt(arc, register)
        move = self.active.get(arc)
        if move is None or move.req != req or move.stage not in ("confirm", "copy"):
            return
        move.heard[sender] = None
        mine = move.task.register
        counts = register[:2] == mine[:2] and sender in self._electors(mine)
        if counts and sender not in move.confirmed:
            self._confirmed(move, sender, message[8])
