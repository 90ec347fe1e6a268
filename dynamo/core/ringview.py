"""The ring as this node knows it, in plain values for people and their tools.

Everything is read off the items of the roster; asking changes nothing, and asks nobody else. Two
nodes may answer differently for as long as news are under way: "hash" is of everything known, and
equal hashes are equal views.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from dynamo.core import planning
from dynamo.core.ballots import movers
from dynamo.core.config import Config
from dynamo.core.items import STATUS_NAMES, Task
from dynamo.core.liveness import DOWN, UP
from dynamo.core.planning import Standing, standings, task_id
from dynamo.core.roster import Roster
from dynamo.core.verbs import State, staged, verb_of


class RingView:
    """Answers "members", "tasks" and "table"."""

    def __init__(self, config: Config, roster: Roster, state: State) -> None:
        self._config = config
        self._roster = roster
        self._state = state

    def _head(self) -> dict[str, Any]:
        return {"node": self._roster.name, "ring": self._roster.table.version}

    def members(self) -> dict[str, Any]:
        """Every node of whatever status, and what is staged."""
        roster = self._roster
        owners = planning.present(roster)
        replicas = Counter(name for names in owners for name in names)
        primary = Counter(names[0] for names in owners if names)
        names = dict.fromkeys(sorted((*roster.records, *roster.wishes, *replicas)))
        told = []
        for name in names:
            record, wish = roster.records.get(name), roster.wishes.get(name)
            told.append(
                {
                    "node": name,
                    "address": f"{record.host}:{record.client_port}" if record else "",
                    "peer": f"{record.host}:{record.peer_port}" if record else "",
                    "zone": record.zone if record else "",
                    "weight": wish.weight if wish else 1,
                    "status": STATUS_NAMES[roster.status(name)],
                    "state": self._state(name),
                    "incarnation": record.incarnation if record else 0,
                    "replicas": replicas[name],
                    "primary": primary[name],
                }
            )
        return self._head() | {
            "hash": f"{roster.hash:016x}",
            "closed": roster.closed[1] if roster.closed else "",
            "members": told,
            "staged": [verb.shown() for verb in staged(roster)[0]],
        }

    def table(self) -> dict[str, Any]:
        """Every register and every goal."""
        roster = self._roster
        return self._head() | {
            "n": roster.table.n,
            "partitions": roster.table.partitions,
            "registers": [
                [register.ver, register.phase, register.cur, register.next]
                for register in roster.table.registers
            ],
            "goals": [goal.owners for goal in roster.goals],
        }

    # --- tasks ------------------------------------------------------------------------------------

    def tasks(self) -> dict[str, Any]:
        """The changes that were committed lately, the last one first."""
        found = [
            self._task(number, self._roster.tasks[number], standing)
            for number, standing in standings(self._roster).items()
        ]
        return {"node": self._roster.name, "tasks": found[::-1]}

    def _task(self, number: int, task: Task, standing: Standing) -> dict[str, Any]:
        return {
            "task": task_id(number),
            "state": standing.state,
            "started_wall_ms": task.started_wall_ms,
            "changes": [text for text in map(_sentence, task.verbs) if text],
            "arcs": len(standing.arcs),
            "arcs_done": len(standing.arcs) - len(standing.open),
            "waiting": self._waiting(number, standing),
        }

    def _waiting(self, number: int, standing: Standing) -> list[str]:
        """What keeps a task from being done, apart from the work itself."""
        if standing.state == "superseded":
            return [f"its arcs go on under {task_id(standing.heir)}"]
        if standing.state != "running":
            return []
        silent: Counter[str] = Counter()
        few = 0
        gone: list[str] = []
        for arc in standing.open:
            cur, goal = self._roster.table.registers[arc].cur, self._roster.goals[arc].owners
            silent.update(name for name in goal if name not in cur and self._state(name) != UP)
            if self._too_few(cur):
                few += 1
                gone += [n for n in cur if self._roster.gone(n) and not self._roster.forced(n)]
        found = [
            f"{name} is {self._state(name)}: {count:,} arcs wait for it"
            for name, count in sorted(silent.items())
        ]
        if few:
            text = f"in {few:,} arcs too few of the owners that have the data answer"
            if gone:  # nobody listens to them any more, so it does not help if they come back
                text += f"; to give copies up: dynamo cluster remove {min(gone)} --force"
            found.append(text)
        if not standing.open:
            found += [
                f"{name} hands over what it still holds"
                for name in planning.leavers(self._roster, number)
            ]
        return found

    def _too_few(self, cur: tuple[str, ...]) -> bool:
        electors = [name for name in cur if not self._roster.forced(name)]
        usable = [n for n in electors if not self._roster.gone(n) and self._state(n) != DOWN]
        return len(usable) < movers(self._config, cur, self._roster.forced)


def _sentence(entry: tuple[str, ...]) -> str:
    """An entry of a task for people, "" for what is only for nodes."""
    if entry[0] == planning.ABORT:
        return f"{entry[1]} is taken back"
    if entry[0] == planning.REPLAN:
        return f"planned anew: {entry[1]}"
    if entry[0] == planning.REBALANCE:
        return "shares are evened out"
    verb = verb_of(entry)
    return verb.sentence() if verb else ""
