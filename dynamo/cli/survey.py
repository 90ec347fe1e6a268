"""What the members say of themselves and of each other, all asked at once, some of them down.

A node's state is what most of those that answer say of it, because that is what the ring acts on:
a node that answers here and that the others cannot reach gets no replicas. Who answers nobody is
asked with little patience, so that a command does not wait seconds for what is known to be down.

What a question changes: nothing (riak#754: polling the status of vnodes kept them from handing
off).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dynamo.cli import show
from dynamo.cli.shared import Ring, Shell

# How long everybody is waited for; beyond it, only those whom nobody calls down.
FIRST_ROUND_S = 0.4
STATES = ("up", "suspect", "down")

Answers = dict[str, dict[str, Any]]


class Survey(NamedTuple):
    """The ring, and STATUS of every member that answered."""

    ring: Ring
    answers: Answers

    @property
    def away(self) -> list[str]:
        """Members that cannot take their part: down, or silent a moment ago."""
        return [
            name
            for name, state in self.states().items()
            if state == "down" or name not in self.answers
        ]

    @property
    def silent(self) -> list[str]:
        """Members that did not answer."""
        return [name for name in self.ring.nodes if name not in self.answers]

    def state(self, name: str) -> str:
        """up, suspect or down, as most of those that answer have it."""
        votes = Counter(
            answer["peers"][name] for answer in self.answers.values() if name in answer["peers"]
        )
        answered = name in self.answers
        if not votes:
            return "up" if answered else "down"
        said = max(STATES, key=lambda state: votes[state])
        # It answered nobody here, though its peers have heard it lately.
        return "suspect" if said == "up" and not answered else said

    def silent_s(self, name: str) -> float | None:
        """Since when no member has heard of it, in seconds; None if one has it up."""
        seen = [answer for peer, answer in self.answers.items() if peer != name]
        if not seen or not all(name in answer.get("silent_ms", ()) for answer in seen):
            return None
        return float(min(answer["silent_ms"][name] for answer in seen)) / 1000

    def states(self) -> dict[str, str]:
        return {name: self.state(name) for name in self.ring.nodes}

    def hints_for(self) -> dict[str, int]:
        """home -> hints that wait for it, on all nodes that answered."""
        waiting: Counter[str] = Counter()
        for answer in self.answers.values():
            waiting.update({home: count for home, count in answer["hints"].items() if count})
        return dict(sorted(waiting.items()))

    def sides(self) -> list[list[str]]:
        """Those that answered, in groups that see each other; one group unless the ring is split.

        Split are two that call each other down. One that has just started is down to others, while
        it waits to hear of them.
        """
        left = list(self.answers)
        groups = []
        while left:
            group, queue = [], [left.pop(0)]
            while queue:
                name = queue.pop()
                group.append(name)
                near = [other for other in left if self._see_each_other(name, other)]
                queue += near
                left = [other for other in left if other not in near]
            groups.append(sorted(group))
        return groups

    def _see_each_other(self, one: str, other: str) -> bool:
        views = (self.answers[one]["peers"].get(other), self.answers[other]["peers"].get(one))
        return any(view != "down" for view in views)

    # --- what that means for keys ---------------------------------------------------------------

    @property
    def r(self) -> int:
        return self.ring.r or _quorum(self.ring)

    @property
    def w(self) -> int:
        return self.ring.w or _quorum(self.ring)

    def arcs_below(self, needed: int, without: Iterable[str] = ()) -> list[int]:
        """Arcs with fewer than `needed` owners there, `without` counted as away."""
        gone = {*self.away, *without}
        return [
            arc
            for arc, owners in enumerate(self.ring.owners)
            if sum(name not in gone for name in owners) < needed
        ]

    def shares(self) -> dict[str, tuple[float, float]]:
        """name -> the part of all keys of which it is the first owner, and one of the owners."""
        first = Counter(owners[0] for owners in self.ring.owners)
        any_ = Counter(name for owners in self.ring.owners for name in owners)
        total = len(self.ring.owners)
        return {name: (first[name] / total, any_[name] / total) for name in self.ring.nodes}


def _quorum(ring: Ring) -> int:
    return ring.n // 2 + 1


def survey(shell: Shell) -> Survey:
    """Ask all members for their status."""
    ring = shell.ring()
    first = min(FIRST_ROUND_S, shell.ask_s)
    found = Survey(ring, shell.admin.status(ring.nodes, "status", first))
    late = {
        name: ring.nodes[name]
        for name in found.silent
        if not found.answers or found.state(name) != "down"
    }
    if late and shell.ask_s > first:
        answers = shell.admin.status(late, "status", shell.ask_s - first)
        found = Survey(ring, {**found.answers, **answers})
    # In the order of names, whoever was quickest.
    return Survey(ring, {name: found.answers[name] for name in ring.nodes if name in found.answers})


def ask_those(shell: Shell, found: Survey, what: str) -> Answers:
    """Ask a further question of the members that answered the first."""
    nodes = {name: found.ring.nodes[name] for name in found.answers}
    answers = shell.admin.status(nodes, what, shell.ask_s)
    return {name: answers[name] for name in nodes if name in answers}


# --- the verdict --------------------------------------------------------------------------------

HEALTHY, CHANGING, RECOVERING = "healthy", "changing", "recovering"
DEGRADED, CRITICAL = "degraded", "critical"
STYLES = {
    HEALTHY: "bold green",
    CHANGING: "bold cyan",
    RECOVERING: "bold yellow",
    DEGRADED: "bold yellow",
    CRITICAL: "bold red",
}
STATE_STYLES = {"up": "green", "suspect": "yellow", "down": "bold red"}


class Verdict(NamedTuple):
    """One word for scripts, one sentence for people, and every single trouble."""

    level: str
    sentence: str
    problems: list[str]


def verdict(found: Survey, changes: Sequence[str] = (), closed: Sequence[str] = ()) -> Verdict:
    """Whether anything is wrong, and what it means for keys.

    `changes`: what keeps the ring from being at rest, `closed`: members that refuse requests (see
    `membership`).
    """
    troubles = [*_node_problems(found), *_hint_problems(found), *closed]
    problems = [*troubles, *changes]
    states, away = found.states(), found.away
    who, live = _who(found), len(states) - len(away)
    if live < found.w:
        need = f"{show.plural(live, 'node is', 'nodes are')} left, and a write needs {found.w}"
        return Verdict(CRITICAL, f"{who}; no key can be written: {need}.", problems)
    sides = found.sides()
    if len(sides) > 1:
        text = (
            f"the ring is split: {show.split(sides)}. Each side goes on as far as it can; what "
            "both write to one key will be siblings."
        )
        return Verdict(DEGRADED, text, problems)
    if unread := found.arcs_below(found.r):
        text = (
            f"{who}; {_share(found, unread)} of the keys have fewer than R={found.r} owners left: "
            "reads of them fail unless stand-ins hold them. Writes go to stand-ins."
        )
        return Verdict(CRITICAL, text, problems)
    if away:
        how = f"what {'it misses' if len(away) == 1 else 'they miss'} is kept as hints"
        text = f"{who}; all keys are readable and writable, and {how}."
        return Verdict(DEGRADED, text, problems)
    if troubles:
        text = "all keys are readable and writable; not all is in place."
        return Verdict(RECOVERING, text, problems)
    if problems:
        text = "all keys are readable and writable, while the ring changes."
        return Verdict(CHANGING, text, problems)
    count = len(states)
    every = "the node is" if count == 1 else f"all {count} nodes are"
    return Verdict(HEALTHY, f"{every} up, and no hint waits.", problems)


def _who(found: Survey) -> str:
    down = [name for name in found.away if found.state(name) == "down"]
    silent = [name for name in found.away if name not in down]
    parts = []
    if down:
        parts.append(f"{show.listed(down)} {'is' if len(down) == 1 else 'are'} down")
    if silent:
        verb = "does" if len(silent) == 1 else "do"
        parts.append(f"{show.listed(silent)} {verb} not answer")
    return ", ".join(parts)


def _share(found: Survey, arcs: list[int]) -> str:
    return f"{100 * len(arcs) / len(found.ring.owners):.0f} %"


def _node_problems(found: Survey) -> list[str]:
    problems = []
    comparing = [name for name, answer in found.answers.items() if not answer["ready"]]
    if comparing:
        one = len(comparing) == 1
        verb, whose = ("is", "its") if one else ("are", "their")
        problems.append(f"{show.listed(comparing)} {verb} still comparing {whose} rows with others")
    split = len(found.sides()) > 1
    for name, answer in found.answers.items():
        state = found.state(name)
        if state != "up" and not split:
            problems.append(f"{name} answers here, and most others call it {state}")
        if answer.get("corrupt"):
            damaged = show.plural(answer["corrupt"], "damaged record")
            problems.append(f"{name} has set aside {damaged} since it started")
    return problems


def _hint_problems(found: Survey) -> list[str]:
    waiting = found.hints_for()
    if not waiting:
        return []
    total = show.plural(sum(waiting.values()), "hint waits", "hints wait")
    if len(waiting) == 1:
        return [f"{total} for {show.listed(waiting)}"]
    return [f"{total}: {', '.join(f'{count:,} for {home}' for home, count in waiting.items())}"]
