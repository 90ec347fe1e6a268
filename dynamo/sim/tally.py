"""What came of many seeds together: the sums, the verdict, and the table that people read.

A campaign is clean if every seed kept every promise, ended, ran alike in two processes where it
was run twice, and if the seeds together went where they are meant to go: from `SOMETIMES_FROM`
seeds on they must have reached `SOMETIMES_SHARE` of the states in `sometimes.SOMETIMES`. Seeds that
break nothing because they do nothing would otherwise look like proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamo.sim.jobs import Outcome

SOMETIMES_FROM = 500
SOMETIMES_SHARE = 0.95
FAULT = "fault "


class Tally:
    """Sums over outcomes as they come in, in any order."""

    def __init__(self, sometimes: Sequence[str] = (), demanding: bool = True) -> None:
        self.sometimes = tuple(sometimes)
        self._demanding = demanding  # whether too few rare states fail the campaign
        self.seeds = 0
        self.twice = 0
        self.failed: list[Outcome] = []
        self.violations = 0
        self.ops: dict[str, int] = {}
        self.marks: dict[str, int] = {}
        self.steps = self.events = self.simulated_ms = self.retry_siblings = 0
        self.cpu_s = 0.0
        self._by_nodes: dict[int, tuple[int, float]] = {}  # nodes -> simulated ms, cpu seconds

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.twice += outcome.twice
        if outcome.failure:
            self.failed.append(outcome)
        self.violations += len(outcome.violations)
        self.steps += outcome.steps
        self.events += outcome.events
        self.simulated_ms += outcome.simulated_ms
        self.retry_siblings += outcome.retry_siblings
        self.cpu_s += outcome.cpu_s
        ms, cpu_s = self._by_nodes.get(outcome.nodes, (0, 0.0))
        self._by_nodes[outcome.nodes] = (ms + outcome.simulated_ms, cpu_s + outcome.cpu_s)
        for sums, found in ((self.ops, outcome.ops), (self.marks, outcome.marks)):
            for what, count in found.items():
                sums[what] = sums.get(what, 0) + count

    @property
    def hours(self) -> float:
        return self.simulated_ms / 3_600_000

    @property
    def ops_checked(self) -> int:
        return sum(self.ops.values())

    @property
    def events_per_s(self) -> float:
        return self.events / self.cpu_s if self.cpu_s else 0.0

    @property
    def speed(self) -> float:
        """Simulated time against processor time: how many times faster than life on one core."""
        return self.simulated_ms / 1_000 / self.cpu_s if self.cpu_s else 0.0

    def speed_of(self, nodes: int) -> float:
        """The same over rings of this size only."""
        ms, cpu_s = self._by_nodes.get(nodes, (0, 0.0))
        return ms / 1_000 / cpu_s if cpu_s else 0.0

    @property
    def faults(self) -> dict[str, int]:
        """Faults that were injected, by kind, the most frequent first."""
        found = [(what, n) for what, n in self.marks.items() if what.startswith(FAULT)]
        return {what.removeprefix(FAULT): n for what, n in sorted(found, key=lambda x: (-x[1], x))}

    @property
    def missed(self) -> list[str]:
        """States that were meant to be reached and never were."""
        return [what for what in self.sometimes if not self.marks.get(what)]

    @property
    def hit(self) -> int:
        return len(self.sometimes) - len(self.missed)

    @property
    def too_narrow(self) -> bool:
        """Whether this many seeds should have reached more than they did."""
        wanted = SOMETIMES_SHARE * len(self.sometimes)
        return self._demanding and self.seeds >= SOMETIMES_FROM and self.hit < wanted

    @property
    def clean(self) -> bool:
        return not self.failed and not self.too_narrow

    def plain(self) -> dict[str, Any]:
        """Everything, for a script."""
        return {
            "seeds": self.seeds,
            "violations": self.violations,
            "simulated_hours": round(self.hours, 3),
            "events": self.events,
            "ops_checked": self.ops_checked,
            "sometimes_hit": self.hit,
            "sometimes_defined": len(self.sometimes),
            "clean": self.clean,
            "ops": self.ops,
            "events_per_s": round(self.events_per_s),
            "speed": round(self.speed, 1),
            "speed_five_nodes": round(self.speed_of(5), 1),
            "steps": self.steps,
            "cpu_s": round(self.cpu_s, 1),
            "faults": self.faults,
            "missed": self.missed,
            "ran_twice": self.twice,
            "retry_siblings": self.retry_siblings,
            "failed": [
                {
                    "seed": outcome.seed,
                    "failure": outcome.failure,
                    "numbers": outcome.numbers,
                    "violations": outcome.violations[:12],
                    "draw": outcome.draw,
                    "story": outcome.story,
                }
                for outcome in self.failed
            ],
        }

    def rows(self) -> list[tuple[str, str]]:
        """The table at the end of a campaign: what, and how much of it."""
        faults = ", ".join(f"{kind} {count:,}" for kind, count in self.faults.items()) or "none"
        ops = ", ".join(f"{count:,} {status}" for status, count in self.ops.items())
        rows = [
            ("seeds", f"{self.seeds:,}, {self.twice:,} of them twice, in two processes"),
            ("failed", self._failed()),
            ("simulated", f"{self.hours:,.2f} hours, {self.events:,} events"),
            ("speed", f"{self.events_per_s:,.0f} events/s and {self.speed:,.0f} x life per core"),
            ("operations", f"{self.ops_checked:,} checked: {ops}"),
            ("faults", f"{sum(self.faults.values()):,} injected: {faults}"),
        ]
        if self.speed_of(5):
            rows[3] = (rows[3][0], f"{rows[3][1]}, {self.speed_of(5):,.0f} x with five nodes")
        if self.sometimes:
            rows.append(("rare states", self._reached()))
        return rows

    def _failed(self) -> str:
        if not self.failed:
            return "none"
        kinds: dict[str, int] = {}
        for outcome in self.failed:
            for what in outcome.numbers or [outcome.failure]:
                kinds[what] = kinds.get(what, 0) + 1
        found = ", ".join(f"{what} in {count}" for what, count in kinds.items())
        return f"{len(self.failed)}: {found}"

    def _reached(self) -> str:
        missed = f"; missed: {', '.join(self.missed)}" if self.missed else ""
        return f"{self.hit} of {len(self.sometimes)} reached{missed}"
