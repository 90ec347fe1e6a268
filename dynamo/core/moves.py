"""Arcs on their way from the owners they have to the owners they shall have, one replica at a time.

    goal differs ── propose ──▶ COPYING ── a fence knows ── copy ── a fence votes ──▶ SWITCHED
                       ▲                                                                 │
                       └──────────────── DONE ◀── a fence knows phase 2 ─────────────────┘

The node that gains the arc drives; where none does, the first owner that can be reached. Whatever
it has to remember is in the register; how far it got is not stored, and found out again. `ballots`
says what each stage needs, and why.

What a node does about an arc follows from its register, its goal, and who can be reached
(`_task`): when any of these changes, the answer is worked out anew, and what was under way for
another answer is dropped. Every message may be lost or come again: a question is asked anew, with
growing pauses, and only an answer to the last one counts.

    propose   the next step of an arc at rest, or another one than the copy under way serves
    copy      of a version in phase 1: confirm, copy, have it voted for
    switch    of a version in phase 2: confirm, and say that it is done. Its driver does that, and
              after some patience the first of the other owners to be

At most `transfer_arcs` are proposed and copied at once; what makes no progress does not keep others
waiting. Two that propose at once refuse each other, and try again after times drawn at random.

Sources: algorithms §1.5; DESIGN §8.
"""

from __future__ import annotations

import random
from typing import Any

from dynamo.core import ballots as rules
from dynamo.core.ballots import NO, UNSYNCED, Elector
from dynamo.core.config import Config
from dynamo.core.copying import Copy
from dynamo.core.driving import RESEND_MS, Driver, Move, Task
from dynamo.core.exchange import Exchange
from dynamo.core.liveness import DOWN, UP, Liveness
from dynamo.core.messages import Message
from dynamo.core.replica import Replica
from dynamo.core.ring import COPYING, SWITCHED, Register
from dynamo.core.roster import Roster

STALLED_MS = 2_000  # without progress for so long, an arc does not count among those under way
WATCH_MS = 500
VIEW_MAX = 256


class Moves:
    """Which arcs this node is to move, and when."""

    __slots__ = (
        "_config", "_due_ms", "_exchange", "_liveness", "_me", "_people", "_roster", "_standing",
        "_table", "_watch_ms", "_watched", "driver", "now_ms",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        roster: Roster,
        replica: Replica,
        liveness: Liveness,
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
        self._liveness = liveness
        self._exchange = exchange
        self.driver = Driver(config, roster, replica, exchange, elector, outbox, rng, life, now_ms)
        self.now_ms = now_ms
        # Arcs that may come to be this node's work by time or silence alone -> their register, and
        # since when it is known.
        self._watched: dict[int, tuple[Register, int]] = {}
        self._watch_ms = now_ms
        self._due_ms = 0
        self._people = -1
        self._standing: tuple[Any, ...] = ()

    def begin_step(self, now_ms: int) -> None:
        self.now_ms = self.driver.now_ms = now_ms

    # --- what is to be done -----------------------------------------------------------------------

    def _usable(self, name: str) -> bool:
        return name == self._me or (
            self._roster.belongs(name) and self._liveness.state(name) != DOWN
        )

    def _leader(self, names: tuple[str, ...]) -> str:
        return next((name for name in names if self._usable(name)), "")

    def _task(self, arc: int) -> Task | None:
        """What is this node's to do about an arc, now."""
        register, goal = self._table.registers[arc], self._roster.goals[arc]
        if not register.ver or not self._roster.belongs(self._me) or not self._roster.confirmed:
            return None
        if register.phase == SWITCHED:
            return Task("switch", register, ()) if self._finishes(arc, register) else None
        wanted: tuple[str, ...] = ()
        if goal.ver:
            wanted = rules.step(register.cur, goal.owners, self._roster.gone)
        if register.phase == COPYING and (not goal.ver or sorted(wanted) == sorted(register.next)):
            mine = (rules.gaining(register) or self._leader(register.next)) == self._me
            return Task("copy", register, ()) if mine else None
        if not wanted and register.phase != COPYING:
            return None
        gainer = next((name for name in wanted if name not in register.cur), "")
        if (gainer or self._leader(register.cur)) != self._me:
            return None
        return Task("propose", register, wanted)

    def _finishes(self, arc: int, register: Register) -> bool:
        """Whether this node ends phase 2: as its driver, or because that one is silent."""
        driver = rules.gaining(register) or self._leader(register.next)
        if driver == self._me or self._me not in register.next:
            return driver == self._me
        known, since_ms = self._watched.get(arc, (register, self.now_ms))
        if known[:2] != register[:2] or self.now_ms - since_ms < self._config.suspicion_ms:
            return False
        others = tuple(name for name in register.next if name != driver)
        return self._leader(others) == self._me

    def _review(self, arc: int) -> None:
        task = self._task(arc)
        move = self.driver.active.get(arc) or self.driver.waiting.get(arc)
        if move is not None and move.task == task:
            return
        self.driver.active.pop(arc, None)
        self.driver.waiting.pop(arc, None)
        self._due_ms = 0
        if task is None:
            self._watch(arc)
            return
        self._watched.pop(arc, None)
        fresh = self.driver.waiting[arc] = Move(arc, task, self.now_ms)
        if move is not None:
            fresh.round = move.round

    def _watch(self, arc: int) -> None:
        register, goal = self._table.registers[arc], self._roster.goals[arc]
        open_ = register.phase in (COPYING, SWITCHED) or (
            goal.ver and sorted(goal.owners) != sorted(register.cur)
        )
        if not open_ or self._me not in self._table.writers(arc):
            self._watched.pop(arc, None)
        elif self._watched.get(arc, ((),))[0] != register:
            self._watched[arc] = (register, self.now_ms)

    # --- turns ------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Somebody can be reached again: what waits for another try need not wait longer."""
        for move in self.driver.waiting.values():
            move.due_ms = self.now_ms
            move.tries = 0
        for move in self.driver.active.values():
            move.due_ms = min(move.due_ms, self.now_ms + RESEND_MS)
        self._due_ms = 0

    def run(self, now_ms: int) -> None:
        """Take up what has changed, and do what is due."""
        if self._people != self._roster.people:
            self._follow_people()
        while self._roster.moved:
            for arc in list(self._roster.moved):
                del self._roster.moved[arc]
                self._exchange.follow(arc)
                self._review(arc)
        done = self._exchange.copies.done
        if now_ms < self._due_ms and not done and not self.driver.stirred:
            return
        self.driver.stirred = False
        if now_ms >= self._watch_ms:
            self._watch_ms = now_ms + WATCH_MS
            for arc in list(self._watched):
                self._review(arc)
        for copy in list(done.values()):
            self.driver.copied(copy)
        done.clear()
        for move in [move for move in self.driver.active.values() if now_ms >= move.due_ms]:
            self.driver.overdue(move)
        self._start(now_ms)
        if self._roster.moved:
            self.run(now_ms)
        self._due_ms = self._next_due_ms(now_ms)

    def _follow_people(self) -> None:
        """Who belongs to the ring decides who drives: look at all arcs if that has changed.

        History: its goals reached a joiner before the wish that made it a member; they were none
        of its business, and stayed so.
        """
        self._people = self._roster.people
        wishes = self._roster.wishes
        standing = (self._roster.confirmed, *((name, wishes[name][1:]) for name in sorted(wishes)))
        if standing != self._standing:
            self._standing = standing
            self._roster.moved.update(dict.fromkeys(range(self._config.partitions)))

    def _start(self, now_ms: int) -> None:
        """Begin what may begin: what is under way already always may."""
        under_way = [move for move in self.driver.active.values() if move.task.what != "switch"]
        busy = sum(now_ms - move.progress_ms < STALLED_MS for move in under_way)
        busy += sum(move.task.what == "copy" for move in self.driver.waiting.values())
        free = self._config.transfer_arcs - busy
        for move in list(self.driver.waiting.values()):
            if now_ms < move.due_ms or (move.task.what == "propose" and free <= 0):
                continue
            free -= move.task.what == "propose"
            self.driver.start(move)

    def _next_due_ms(self, now_ms: int) -> int:
        due = self._watch_ms if self._watched else 1 << 62
        for move in self.driver.active.values():
            due = min(due, move.due_ms)
            if self.driver.waiting and move.progress_ms + STALLED_MS > now_ms:
                due = min(due, move.progress_ms + STALLED_MS)
        for move in self.driver.waiting.values():
            if move.due_ms > now_ms:
                due = min(due, move.due_ms)
        return due

    def next_due_ms(self) -> int:
        """When `run` has something to do next, apart from messages."""
        if self._roster.moved or self._exchange.copies.done or self._people != self._roster.people:
            return self.now_ms
        return self._due_ms

    # --- for people ---------------------------------------------------------------------------

    def view(self) -> list[dict[str, Any]]:
        """What this node moves, what came of it so far, and why what waits is waiting."""
        under_way = list(self.driver.active.values())
        queued = list(self.driver.waiting.values())
        return [self._line(move, len(under_way)) for move in (under_way + queued)[:VIEW_MAX]]

    def rate_bytes_per_s(self) -> int:
        """What copies to this node brought in the last second."""
        return self._exchange.copies.per_second(self.now_ms)

    def _line(self, move: Move, others: int) -> dict[str, Any]:
        register = move.task.register
        wanted = move.task.wanted if move.task.what == "propose" else register.next
        copy = self._exchange.copies.of.get(move.arc)
        gainer = next((name for name in wanted if name not in register.cur), "")
        return {
            "what": move.task.what,
            "arc": move.arc,
            "from": [name for name in register.cur if name not in wanted],
            "to": gainer,
            "phase": register.phase,
            "rows": copy.rows if copy is not None else move.rows,
            "bytes": copy.bytes if copy is not None else move.bytes,
            "since_ms": self.now_ms - move.began_ms,
            "why": self._why(move, copy, others),
            "retry_ms": max(0, move.due_ms - self.now_ms) if move.stage != "copy" else 0,
        }

    def _why(self, move: Move, copy: Copy | None, others: int) -> str:
        """What the arc waits for, as a sentence; "" where it goes on as it should."""
        if move.stage == "wait" and not move.tries:
            return f"{others} other {'arc' if others == 1 else 'arcs'} first"
        if move.stage == "copy" and copy is not None:
            return self._why_copying(copy)
        register = move.task.register
        names = rules.electors(register.cur, self._roster.forced)
        count = rules.fence(self._config, register.cur, self._roster.forced)
        silent = [name for name in names if name != self._me and name not in move.heard]
        barred = [name for name in names if move.refusals.get(name) == UNSYNCED]
        promised = [name for name in names if move.refusals.get(name) == NO]
        if barred:
            return f"{_listed(barred)} still catching up, {count} of {len(names)} owners must agree"
        if promised:
            return "another change of this arc is under way"
        if move.stage == "wait" or self.now_ms - move.taken_ms >= RESEND_MS:
            down = [name for name in silent if self._liveness.state(name) != UP]
            who = f"{_listed(down)} down" if down else f"{_listed(silent)} silent"
            if silent:
                return f"{who}, {count} of {len(names)} owners are needed to know of the move"
        return ""

    def _why_copying(self, copy: Copy) -> str:
        if copy.walk is not None:
            if self._liveness.state(copy.walk.peer) != UP:
                return f"{_listed([copy.walk.peer])} down, it was being copied from"
            return f"copying from {copy.walk.peer}"
        if copy.retry:
            return f"{_listed(list(copy.retry))} still catching up"
        left = [name for name in copy.allowed if name not in copy.met]
        return f"comparing with {left[0]}" if left else "more owners have to know of the move first"


def _listed(names: list[str]) -> str:
    """ "n2 is", "n2 and n3 are": how a sentence about them begins."""
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{', '.join(names[:-1])} and {names[-1]} are"
