"""Who belongs to the ring and who shall, what moves for that, and whether all know the same.

Asked of the nodes that answered the survey; a node of an older version answers nothing here, and
then nothing is said about any of it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from dynamo.cli import show
from dynamo.cli.shared import Shell
from dynamo.cli.survey import Answers, Survey

COPYING, SWITCHED = 1, 2  # phases of an arc on its way (see `dynamo.core.ring`)
GONE = ("left", "removed")


class Membership:
    """STATUS "members" of all that answered; the registers and tasks as the first has them."""

    def __init__(self, views: Answers, table: dict[str, Any], tasks: list[dict[str, Any]]) -> None:
        self.views = {name: view for name, view in views.items() if "members" in view}
        self.table = table
        self.running = [task for task in tasks if task["state"] == "running"]

    @cached_property
    def members(self) -> dict[str, dict[str, Any]]:
        """Every node the ring knows, of whatever status, as the first view has it."""
        first = next(iter(self.views.values()), None)
        return {member["node"]: member for member in first["members"]} if first else {}

    @property
    def staged(self) -> list[dict[str, Any]]:
        first = next(iter(self.views.values()), None)
        return list(first["staged"]) if first else []

    @property
    def outside(self) -> list[str]:
        """Nodes that run and know the ring, and do not belong to it."""
        return [name for name, member in self.members.items() if member["status"] == "out"]

    def sides(self) -> list[list[str]]:
        """The nodes that answered, in groups that know the same of the ring; largest first."""
        groups: dict[str, list[str]] = {}
        for name, view in self.views.items():
            groups.setdefault(view["hash"], []).append(name)
        return sorted(groups.values(), key=lambda group: (-len(group), group))

    @cached_property
    def moving(self) -> list[int]:
        """The arcs whose owners are not yet those they shall have."""
        goals = self.table.get("goals") or []
        arcs = []
        for arc, (_, phase, cur, _) in enumerate(self.table.get("registers") or []):
            goal = goals[arc] if arc < len(goals) else ()
            if phase in (COPYING, SWITCHED) or (goal and set(goal) != set(cur)):
                arcs.append(arc)
        return arcs

    def balance_of(self, name: str) -> tuple[int, int]:
        """How many arcs a node has yet to take in, and how many to give away."""
        gains = loses = 0
        goals = self.table.get("goals") or []
        for arc in self.moving:
            _, _, cur, coming = self.table["registers"][arc]
            goal = (goals[arc] if arc < len(goals) else ()) or coming
            gains += name in goal and name not in cur
            loses += name in cur and name not in goal
        return gains, loses

    def wish(self, name: str) -> str:
        """What becomes of a node, in a word: joining, leaving, removed; "" if it stays."""
        member = self.members.get(name)
        if member is None:
            return ""
        status = str(member["status"])
        if status == "out":
            return "not in the ring"
        if status == "leaving" or status in GONE:
            return status
        return "joining" if name in self._joining else ""

    @cached_property
    def _joining(self) -> list[str]:
        """Members that a running task brought in, and that have arcs to take in."""
        # Sentences of changes begin with the node: "n4 joins", "n6 takes the places of n2".
        pairs = [text.split()[:2] for task in self.running for text in task["changes"]]
        return [
            pair[0]
            for pair in pairs
            if pair[1:] in (["joins"], ["takes"]) and self.balance_of(pair[0])[0]
        ]

    def change_text(self) -> str:
        """What is under way, in one sentence; "" if nothing is."""
        if not self.moving:
            return ""
        count = len(self.moving)
        text = f"{show.plural(count, 'arc')} of {len(self.table['registers']):,} "
        text += "has yet to move" if count == 1 else "have yet to move"
        what = [f"{'; '.join(task['changes'])}, {task['task']}" for task in self.running]
        return text + (f" ({' · '.join(what)})" if what else "")

    def changes(self) -> list[str]:
        """What keeps the ring from being at rest."""
        found = []
        if text := self.change_text():
            found.append(text)
        sides = self.sides()
        if len(sides) > 1 and not self.moving:
            found.append(f"not all know the same of the ring: {show.split(sides)}")
        return found

    def closed(self) -> list[str]:
        """Members that answer here, and refuse the requests of clients."""
        found = []
        for name, view in self.views.items():
            if not view.get("closed") or self.wish(name) in (*GONE, "not in the ring"):
                continue
            own = next((x["status"] for x in view["members"] if x["node"] == name), "")
            if own == "out":  # a commit is known to others first; its own words are of before
                found.append(f"{name} has not heard yet that it belongs to the ring")
            else:
                found.append(f"{name} refuses requests: {view['closed']}")
        return found


def membership(shell: Shell, found: Survey) -> Membership:
    """Ask those that answered the survey for members, and the first for registers and tasks."""
    nodes = {name: found.ring.nodes[name] for name in found.answers}
    views = shell.admin.status(nodes, "members", shell.ask_s) if nodes else {}
    ordered = {name: views[name] for name in nodes if "members" in views.get(name, {})}
    first = next((name for name, view in ordered.items() if not view.get("closed")), None)
    if first is None:
        return Membership(ordered, {}, [])
    ordered = {first: ordered[first], **ordered}
    table, tasks = (_ask(shell, nodes, first, what) for what in ("table", "tasks"))
    return Membership(ordered, table, tasks.get("tasks", []))


def _ask(shell: Shell, nodes: dict[str, Any], name: str, what: str) -> dict[str, Any]:
    answers = shell.admin.status({name: nodes[name]}, what, shell.ask_s)
    return answers.get(name, {})


def as_json(known: Membership) -> dict[str, Any]:
    """What `status` and `health` give to scripts of all this."""
    return {
        "views": known.sides(),
        "moving": len(known.moving),
        "tasks": [task["task"] for task in known.running],
        "staged": known.staged,
        "outside": known.outside,
    }
