"""CHANGE: people stage what they want of the ring, look at the plan, and commit it.

    stage     what is wanted of a node waits, on all nodes, until it is committed or cleared
    plan      who would own what, what that costs, what may go wrong; nothing changes
    commit    carries out the plan that was looked at: wishes, goals and a task, in one step here;
              refused if anything was decided since
    abort     wishes are as they were, goals are planned anew from whoever owns the arcs by now:
              what has switched moves back, what has not stays
    resume    commits once more what an aborted task consisted of
    drain     this node stops taking requests of clients, until it is started anew

Any node that serves takes any of them, on either side of a split. Nothing of it waits for others:
items merge (G1), and how arcs get to their goals is the work of `moves`.

What nobody asks for is done here, too:

    two changes met     were decided at once on two sides: the member with the lowest name that is
                        up plans anew, once everything decided has been the same for ROUNDS of
                        gossip. Safety does not depend on who does it, or on its being done once.
    a leaver is empty   owns nothing, holds nothing, owes nothing: it writes itself off as LEFT.

Sources: DESIGN §8; riak-admin cluster plan and commit; algorithms of `planning`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any

import msgspec

from dynamo.core.handoff import Handoff
from dynamo.core.items import (
    ABORTED,
    COUNTER_MAX,
    LEAVING,
    LEFT,
    OUT,
    RUNNING,
    Goal,
    Staged,
    Task,
    Wish,
)
from dynamo.core.liveness import UP
from dynamo.core.messages import CHANGED, Message
from dynamo.core.planner import tie_of
from dynamo.core.planning import (
    ABORT,
    REBALANCE,
    REPLAN,
    Decision,
    decide,
    met,
    next_number,
    over_entries,
    restore,
    siblings,
    signature,
    standings,
    taken_over,
    task_id,
)
from dynamo.core.preview import Preview, Sample
from dynamo.core.requests import Requests
from dynamo.core.ring import arc_range
from dynamo.core.roster import Roster
from dynamo.core.spaces import OBJECTS
from dynamo.core.verbs import Refusal, Verb, asked, check, check_beside, staged, verb_of, wishes

ROUNDS = 10  # of gossip, in which nothing was decided: everybody has heard everything
# With something staged people are about to decide themselves. One that is forgotten must not keep
# a ring from mending for ever.
ROUNDS_STAGED = 100
SAMPLE_ARCS, SAMPLE_ROWS = 32, 8

_encode = msgspec.msgpack.Encoder().encode
Body = dict[str, Any]


class Changes:
    """Answers CHANGE of one node, and mends what two changes made of the ring together."""

    __slots__ = (
        "_decided",
        "_due_ms",
        "_handoff",
        "_requests",
        "_roster",
        "_seen",
        "_settled",
        "_steady",
        "_store",
        "_verbs",
        "durable_due",
    )

    def __init__(self, roster: Roster, requests: Requests, handoff: Handoff, store: Any) -> None:
        self._roster = roster
        self._requests = requests
        self._handoff = handoff
        self._store = store
        self._due_ms = 0
        self._seen = -1  # the roster's hash at the last look
        self._decided = b""  # digest of everything decided
        self._steady = 0  # looks since that changed
        self._settled = False  # nothing is to be mended in it
        self.durable_due = False  # the step must sync: somebody is told that it is done
        self._verbs: dict[str, Callable[[Body], Body]] = {
            "stage": self._stage,
            "clear": self._clear,
            "plan": self._plan,
            "commit": self._commit,
            "abort": self._abort,
            "resume": self._resume,
            "drain": self._drain,
        }

    def on_change(self, client: Any, message: Message, born_ms: int) -> None:
        """Do what somebody wants of the ring, or say why not."""
        _, req, _, verb, body = message
        try:
            ok, answer = 1, self._answer(verb, body)
        except Refusal as refusal:
            ok, answer = 0, {"error": refusal.error, "try": refusal.advice}
        outbox = self._requests.outbox
        outbox.append((client, (CHANGED, req, ok, msgspec.json.encode(answer))))

    def _answer(self, verb: str, body: bytes) -> Body:
        try:
            said = msgspec.json.decode(body or b"{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise Refusal(f"what is wanted cannot be read: {error}") from None
        handler = self._verbs.get(verb)
        if handler is None:
            raise Refusal(f"{verb!r} is nothing that a node does: it can {', '.join(self._verbs)}")
        closed = self._roster.closed
        if closed and verb != "drain" and not self._roster.draining:
            raise Refusal(closed[1])
        return handler(said)

    def state(self, name: str) -> str:
        """What this node thinks of one, itself included; "unknown" of those it does not watch."""
        if name == self._roster.name:
            return UP
        return self._requests.liveness.states().get(name, "unknown")

    # --- staging ----------------------------------------------------------------------------------

    def _stage(self, body: Body) -> Body:
        roster = self._roster
        verb = asked(body, roster, self.state)
        check(verb, roster, self.state)
        check_beside(verb, roster)
        self._put_staged(verb.node, verb.verb, verb.parts)
        return self._all_staged()

    def _clear(self, body: Body) -> Body:
        name = body.get("node", "")
        if type(name) is not str:
            raise Refusal("a node is named by a text")
        waiting = [node for node, item in sorted(self._roster.staged.items()) if item.verb]
        if name and name not in waiting:
            raise Refusal(f"nothing is staged for {name}", "dynamo cluster plan")
        self._forget([name] if name else waiting)
        return self._all_staged()

    def _all_staged(self) -> Body:
        return {"staged": [verb.shown() for verb in staged(self._roster)[0]]}

    def _forget(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            self._put_staged(node, "", ())

    def _put_staged(self, node: str, verb: str, args: tuple[str, ...]) -> None:
        held = self._roster.staged.get(node)
        self._roster.change(f"s/{node}", Staged(held.ver + 1 if held else 1, verb, args))
        self.durable_due = True

    # --- plan and commit --------------------------------------------------------------------------

    def _decision(self) -> tuple[list[Verb], list[str], Decision]:
        """What is staged, what of it makes no sense any more, and what the rest comes to."""
        verbs, stale = staged(self._roster)
        decision = decide(self._roster, self._requests.config, verbs)
        if not verbs and not decision.goals:
            why = f" ({stale[0]})" if stale else ""
            raise Refusal(f"nothing is staged{why}", "dynamo cluster join NODE")
        return verbs, stale, decision

    def _plan(self, body: Body) -> Body:
        verbs, stale, decision = self._decision()
        preview = Preview(
            self._roster, self._requests.config, decision, verbs, self.state, self._sample()
        )
        return preview.told(stale)

    def _sample(self) -> Sample:
        replica = self._requests.replica
        arcs = len(self._roster.table.arcs_of(self._roster.name))
        held = sorted(replica.roots)
        rows = size = 0
        for arc in held[:: max(1, len(held) // SAMPLE_ARCS)]:
            for _, record in self._store.scan(OBJECTS, *arc_range(arc), limit=SAMPLE_ROWS):
                rows += 1
                size += len(record)
        return Sample(arcs, replica.keys / max(1, arcs), size / max(1, rows))

    def _commit(self, body: Body) -> Body:
        verbs, _, decision = self._decision()
        if body.get("plan") != decision.id:
            raise Refusal(
                "the ring was changed since that plan was made: look at the new one",
                "dynamo cluster plan",
            )
        for verb in verbs:
            check(verb, self._roster, self.state)
        entries = [verb.entry for verb in verbs] or [(REBALANCE,)]
        number = self._carry_out(decision, entries)
        self._forget([node for node, item in sorted(self._roster.staged.items()) if item.verb])
        return self._told(number, decision)

    @staticmethod
    def _told(number: int, decision: Decision) -> Body:
        return {"task": task_id(number), "arcs": len(decision.arcs), "moves": decision.moves}

    def _carry_out(
        self, decision: Decision, entries: list[tuple[str, ...]], over: Iterable[int] = ()
    ) -> int:
        """Write a decision down, all of it in this step; its number."""
        roster = self._roster
        number = next_number(roster, decision)
        over = sorted({*over, *taken_over(roster, decision.goals)})
        out = Wish(0, OUT, 1, 0)
        held = {name: roster.wishes.get(name, out) for name in sorted(decision.wishes)}
        for name, wish in sorted(decision.wishes.items()):
            roster.change(f"w/{name}", wish)
        for arc, owners in decision.goals.items():
            roster.change(f"g/{arc}", Goal(number, tie_of(owners, ()), owners))
        entries = [*entries, *over_entries(over)]
        entries.append(signature(decision.members, self._requests.config.n))
        before = tuple((name, wish.status, wish.weight) for name, wish in held.items())
        started_ms = min(max(0, self._requests.wall_ms), COUNTER_MAX)
        roster.change(f"t/{number}", Task(RUNNING, started_ms, tuple(entries), before))
        roster.events.append(("ring change", task_id(number), len(decision.arcs)))
        self.durable_due = True
        return number

    # --- taking back ------------------------------------------------------------------------------

    def _task(self, body: Body) -> tuple[int, Task]:
        ids = {task_id(number): number for number in sorted(self._roster.tasks)}
        asked_for = str(body.get("task"))
        if asked_for in ids:
            number = ids[asked_for]
            return number, self._roster.tasks[number]
        close = get_close_matches(asked_for, list(ids), 1)
        guess = f"; did you mean {close[0]}?" if close else ""
        raise Refusal(f"no task {asked_for!r} is known here{guess}", "dynamo tasks")

    def _abort(self, body: Body) -> Body:
        number, task = self._task(body)
        name = task_id(number)
        state = standings(self._roster)[number].state
        if state in ("aborted", "done"):
            advice = f"dynamo tasks {name} --resume" if state == "aborted" else ""
            raise Refusal(
                f"{name} is {state}: " + ("nothing is left to abort" if advice else
                "to undo it, stage and commit the opposite"), advice,
            )  # fmt: skip
        undone, kept = self._undone(task)
        if not undone:
            why = f": {kept[0]}" if kept else ": it changed nobody's part in the ring"
            raise Refusal(f"nothing of {name} can be taken back{why}")
        decision = restore(self._roster, self._requests.config, undone)
        self._roster.change(f"t/{number}", task._replace(state=ABORTED))
        undo = self._carry_out(decision, [(ABORT, name)])
        return self._told(undo, decision) | {"task": name, "undo": task_id(undo), "kept": kept}

    def _undone(self, task: Task) -> tuple[dict[str, Wish], list[str]]:
        """The wishes as they were before a task, and what cannot be as it was.

        What somebody changed once more since then is left as it is.
        """
        roster = self._roster
        verbs = [verb for verb in map(verb_of, task.verbs) if verb is not None]
        made = wishes(verbs, roster)
        undone: dict[str, Wish] = {}
        kept: list[str] = []
        for name, status, weight in task.before:
            held, meant = roster.wishes.get(name), made.get(name)
            if held is None or meant is None:
                continue
            if roster.gone(name):
                kept.append(f"{name} is out of the ring, and names are never used again")
            elif (held.status, held.weight) != (meant.status, meant.weight):
                kept.append(f"{name} was changed once more since then")
            else:
                undone[name] = Wish(held.ver + 1, status, weight, 0)
        return undone, kept

    def _resume(self, body: Body) -> Body:
        number, task = self._task(body)
        name = task_id(number)
        if task.state != ABORTED:
            raise Refusal(f"{name} was not aborted, so there is nothing to resume", "dynamo tasks")
        verbs = [verb for verb in map(verb_of, task.verbs) if verb is not None]
        for verb in verbs:
            check(verb, self._roster, self.state)
        decision = decide(self._roster, self._requests.config, verbs)
        again = self._carry_out(decision, [verb.entry for verb in verbs])
        return self._told(again, decision) | {"resumes": name}

    # --- stopping one node ------------------------------------------------------------------------

    def _drain(self, body: Body) -> Body:
        me = self._roster.name
        if body.get("node", me) != me:
            raise Refusal(f"this is {me}: a node is drained by itself, so ask {body['node']}")
        self._roster.drain(not body.get("off"))
        return {
            "node": me,
            "draining": self._roster.draining,
            "hints": sum(self._handoff.counts().values()),
        }

    # --- what nobody asks for ---------------------------------------------------------------------

    def run(self, now_ms: int) -> None:
        """Once a round of gossip: mend what two changes made together; go when empty."""
        if now_ms < self._due_ms:
            return
        self._due_ms = now_ms + self._requests.config.gossip_ms
        self._write_off()
        if self._may_mend() and self._is_steady():
            self._settled = True
            self.mend()

    def next_due_ms(self) -> int:
        """When `run` has something to look at next."""
        return self._due_ms

    def _write_off(self) -> None:
        roster, me = self._roster, self._roster.name
        if roster.status(me) != LEAVING or not self._is_empty():
            return
        held = roster.wishes[me]
        roster.change(f"w/{me}", held._replace(ver=held.ver + 1, status=LEFT))
        roster.events.append(("left the ring", me))
        self.durable_due = True

    def _is_empty(self) -> bool:
        """Whether the ring is known here, and nobody counts on this node for anything."""
        roster, me = self._roster, self._roster.name
        registers = roster.table.registers
        if not roster.confirmed or not all(register.ver for register in registers):
            return False
        if self._handoff.counts() or self._requests.replica.keys or roster.table.arcs_of(me):
            return False
        return not any(me in goal.owners for goal in roster.goals)

    def _may_mend(self) -> bool:
        """Whether this is the member whose task it is, and there is anything that can have met."""
        roster = self._roster
        if not roster.confirmed or not roster.tasks or not roster.table.registers[0].ver:
            return False
        up = self._requests.liveness.state
        return next((n for n in roster.table.names if up(n) == UP), "") == roster.name

    def _is_steady(self) -> bool:
        """Whether all that was decided has been the same for long enough, and is not settled."""
        roster = self._roster
        if roster.hash != self._seen:
            self._seen = roster.hash
            decided = _digest_of(roster)
            if decided != self._decided:
                self._decided, self._steady, self._settled = decided, 0, False
        self._steady += 1
        if self._settled:
            return False
        return self._steady > (ROUNDS_STAGED if staged(roster)[0] else ROUNDS)

    def mend(self) -> bool:
        """Plan anew if two changes have met; whether they had."""
        decision = met(self._roster, self._requests.config)
        if decision is None:
            return False
        crossed = siblings(self._roster)
        open_ = [n for n, standing in standings(self._roster).items() if standing.heir == 0]
        over = [n for n in crossed if n in open_ and self._roster.tasks[n].state != ABORTED]
        self._carry_out(decision, [(REPLAN, "changes that did not know of each other met")], over)
        self._requests.stats["ring_replans"] += 1
        return True


def _digest_of(roster: Roster) -> bytes:
    """Of everything that was ever decided, but not of how far its carrying out has come."""
    goals = [goal[:2] for goal in roster.goals]
    what = goals, sorted(roster.wishes.items()), sorted(roster.staged.items()), sorted(roster.tasks)
    return blake2b(_encode(what), digest_size=16).digest()
