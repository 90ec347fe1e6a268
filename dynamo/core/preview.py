"""What a decision would do, told before it is carried out: shares, work, risks, losses.

Figures are estimates of one node. Bytes: the mean size of sampled rows here, times the rows of an
arc here, times the replicas that travel. Seconds: the node that takes in most, at the limit that
every node has for itself; comparing and waiting come on top.

A risk is a single failure that would cost some arc a quorum while it moves: then reads or writes
that insist on owners fail there, and the arc moves on only when the node is back. A loss is what
giving up copies may cost: a write counts as acknowledged once W owners have it, so it may be gone
where W or more copies were given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dynamo.core.ballots import movers
from dynamo.core.config import Config, quorum
from dynamo.core.items import FORCED, LEFT, REMOVED, STATUS_NAMES
from dynamo.core.liveness import DOWN, UP
from dynamo.core.planner import Owners, Quota
from dynamo.core.planning import Decision, standings, task_id
from dynamo.core.roster import Roster
from dynamo.core.verbs import State, Verb

SHOWN_MAX = 12  # sentences of one kind; the rest is counted
ARCS_PER_MEMBER = 30  # replicas of arcs that each member should hold for an even ring


class Sample(NamedTuple):
    """What this node knows of sizes: of an arc, on average; `arcs` 0 where it knows nothing."""

    arcs: int
    rows_per_arc: float
    bytes_per_row: float


class Preview:
    """All that there is to say about one decision."""

    def __init__(
        self,
        roster: Roster,
        config: Config,
        decision: Decision,
        verbs: Sequence[Verb],
        state: State,
        sample: Sample,
    ) -> None:
        self._roster = roster
        self._config = config
        self._decision = decision
        self._verbs = verbs
        self._ask = state
        self._states: dict[str, str] = {}  # each asked once: they are looked up arc by arc
        self._sample = sample

    def told(self, notes: Iterable[str] = ()) -> dict[str, Any]:
        """As plain values; `notes` go with the warnings."""
        decision, config = self._decision, self._config
        size = self._sample.rows_per_arc * self._sample.bytes_per_row
        return {
            "plan": decision.id,
            "ring": self._roster.table.version,
            "staged": [verb.shown() for verb in self._verbs],
            "n": config.n,
            "partitions": config.partitions,
            "moves": decision.moves,
            "arcs": len(decision.arcs),
            "bytes": round(decision.moves * size),
            "seconds": round(self._most_taken() * size / config.transfer_bytes_per_s, 1),
            "limit_bytes_per_s": config.transfer_bytes_per_s,
            "nodes": self._nodes(),
            "risks": _shortened(self._risks()),
            "violations": _shortened(self._violations()),
            "warnings": _shortened([*notes, *self._warnings()]),
            "loss": self._loss(),
        }

    def _state(self, name: str) -> str:
        if name not in self._states:
            self._states[name] = self._ask(name)
        return self._states[name]

    def _most_taken(self) -> int:
        taken = Counter(
            name
            for now, then in zip(self._decision.before, self._decision.owners, strict=True)
            for name in then
            if name not in now
        )
        return max(taken.values(), default=0)

    def _nodes(self) -> list[dict[str, Any]]:
        roster, decision = self._roster, self._decision
        now, then = _shares(decision.before), _shares(decision.owners)
        names = dict.fromkeys(
            sorted((*roster.table.names, *decision.members, *decision.wishes, *now[0], *then[0]))
        )
        told = []
        for name in names:
            wish = decision.wishes.get(name) or roster.wishes.get(name)
            record = roster.records.get(name)
            told.append(
                {
                    "node": name,
                    "zone": record.zone if record else "",
                    "weight": wish.weight if wish else 1,
                    "status": STATUS_NAMES[roster.status(name)],
                    "state": self._state(name),
                    "primary_now": now[1][name],
                    "primary_after": then[1][name],
                    "replicas_now": now[0][name],
                    "replicas_after": then[0][name],
                }
            )
        return told

    # --- what may go wrong ------------------------------------------------------------------------

    def needed(self, owners: Owners) -> int:
        """How many owners a read or a write needs, whichever needs more."""
        size, config = len(owners), self._config
        return max(min(level or quorum(config.n), size) for level in (config.r, config.w))

    def usable(self, owners: Owners) -> list[str]:
        """Those of them on which a request can count now."""
        return [n for n in owners if not self._is_gone(n) and self._state(n) != DOWN]

    def _is_gone(self, name: str) -> bool:
        """Whether it is out for good once this is committed; it may be merely SUSPECT by now."""
        wish = self._decision.wishes.get(name)
        return self._roster.gone(name) or (wish is not None and wish.status == REMOVED)

    def _moving(self) -> list[tuple[int, tuple[Owners, Owners]]]:
        decision = self._decision
        return [(arc, (decision.before[arc], decision.owners[arc])) for arc in decision.arcs]

    def _risks(self) -> list[str]:
        thin: dict[str, dict[int, None]] = {}
        needed = 0
        for arc, lists in self._moving():
            for owners in lists:
                left = self.usable(owners)
                if self.needed(owners) == len(left):
                    needed = max(needed, self.needed(owners))
                    for name in left:
                        thin.setdefault(name, {})[arc] = None
        return [
            f"if {name} fails meanwhile, {_arcs(len(arcs))} {_have(len(arcs))} fewer owners left "
            f"than the {needed} that a quorum takes"
            for name, arcs in sorted(thin.items(), key=lambda item: (-len(item[1]), item[0]))
        ]

    def _violations(self) -> list[str]:
        config, members = self._config, self._decision.members
        quota = Quota(members, config.n, config.partitions)
        zones = len(dict.fromkeys(quota.zone.values()))
        found = []
        if len(members) < config.n:
            found.append(
                f"{_members(len(members))} for N={config.n}: only {len(members)} copies of a key"
            )
        if zones > 1 and quota.zone_cap > 1:
            found.append(
                f"the zones do not take one copy each of N={config.n}: up to {quota.zone_cap} "
                f"copies of an arc lie in one zone"
            )
        per_member = config.partitions * quota.length / len(members)
        if len(members) > config.n and per_member < ARCS_PER_MEMBER:
            found.append(
                f"{config.partitions} partitions give a member {per_member:.0f} arcs on average; "
                f"below {ARCS_PER_MEMBER} shares are uneven"
            )
        short = self._short()
        if short:
            found.append(
                f"{_arcs(short)} {_have(short)} fewer owners in reach than a change needs: "
                f"there it waits until those that are down are back, and those that are removed "
                f"are given up with --force"
            )
        return found

    def _short(self) -> int:
        """Arcs that cannot move as things are; copies that were given up ask for nothing."""
        count = 0
        for _, (now, _) in self._moving():
            needed = movers(self._config, now, self._given_up)
            count += needed > sum(not self._given_up(name) for name in self.usable(now))
        return count

    def _given_up(self, name: str) -> bool:
        wish = self._decision.wishes.get(name) or self._roster.wishes.get(name)
        return wish is not None and wish.status == REMOVED and bool(wish.flags & FORCED)

    def _warnings(self) -> list[str]:
        found = []
        gains = Counter(
            name for _, (now, then) in self._moving() for name in then if name not in now
        )
        for name, count in sorted(gains.items()):
            if self._state(name) != UP:
                found.append(
                    f"{name} is {self._state(name)}: {_arcs(count)} that it is to take "
                    f"{'waits' if count == 1 else 'wait'} for it"
                )
        for number, standing in standings(self._roster).items():
            if standing.state == "running" and standing.open and self._decision.goals:
                found.append(
                    f"{task_id(number)} still has {_arcs(len(standing.open))} to move; what has "
                    f"not moved is planned anew"
                )
        if self._decision.moves and not self._sample.arcs:
            found.append("this node owns nothing yet, so it cannot tell how much there is to move")
        return found

    def _loss(self) -> str:
        """What giving up copies may cost, "" if none are given up."""
        names = [
            name
            for name, wish in sorted(self._decision.wishes.items())
            if wish.status == REMOVED and wish.flags & FORCED
        ]
        if not names:
            return ""
        every = some = 0
        for owners in self._decision.before:
            if not any(name in owners for name in names):
                continue
            given = sum(
                self._given_up(name) or self._roster.status(name) == LEFT for name in owners
            )
            if given == len(owners):
                every += 1
            elif given >= min(self._config.w or quorum(self._config.n), len(owners)):
                some += 1
        who = ", ".join(names)
        if not every and not some:
            return f"nothing that was acknowledged: of no arc enough copies were on {who} alone"
        parts = []
        if every:
            parts.append(f"{_arcs(every)} {_have(every)} no other copy: all keys there are lost")
        if some:
            parts.append(
                f"of {_arcs(some)} too few copies are left: writes there that only {who} had "
                f"acknowledged are lost"
            )
        return "; ".join(parts)


def _shares(table: Sequence[Owners]) -> tuple[Counter[str], Counter[str]]:
    """Replicas per node, and arcs of which it is the first owner."""
    every = Counter(name for owners in table for name in owners)
    return every, Counter(owners[0] for owners in table if owners)


def _shortened(sentences: list[str]) -> list[str]:
    rest = len(sentences) - SHOWN_MAX
    return sentences[:SHOWN_MAX] + [f"and {rest} more like these"] * (rest > 0)


def _arcs(count: int) -> str:
    return "1 arc" if count == 1 else f"{count:,} arcs"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _members(count: int) -> str:
    return "1 member" if count == 1 else f"{count} members"
