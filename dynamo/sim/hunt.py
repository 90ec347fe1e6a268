"""The zoo as a list of jobs: which seed to run with which mistake next, and what caught it.

Entries are hunted in their order, each from seed 0 on. Several seeds may be under way at once, so
the seed that counts is the lowest that failed: the number of seeds to a catch does not depend on
how many processes took part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from dynamo.sim.jobs import Job, Outcome
from dynamo.sim.zoo import ENTRIES, Entry

# The promises that runs judge. Each must be the first to report some mistake: a check that never
# spoke first may be one that cannot speak.
JUDGED = (
    "I1", "I2", "I3", "I4", "I5", "I6", "I8", "I9", "I10", "I11", "I12", "I13", "I14", "I15", "I16",
    "D1", "D4",
)  # fmt: skip


@dataclass(slots=True)
class Quarry:
    """One mistake, and how far the hunt for it is."""

    entry: Entry
    next_seed: int = 0
    ended: int = 0
    caught: Outcome | None = None

    @property
    def running(self) -> int:
        return self.next_seed - self.ended

    @property
    def seeds(self) -> int:
        """Seeds to the catch, the one that caught it included; 0 if it is at large."""
        return self.caught.seed + 1 if self.caught is not None else 0

    @property
    def by(self) -> str:
        """The promise that was first seen broken, or how else the run failed."""
        if self.caught is None:
            return ""
        return next(iter(self.caught.numbers), self.caught.failure)


@dataclass(slots=True)
class Hunt:
    """All of the zoo, or the entries of these names, with so many seeds each at most."""

    names: Sequence[str] = ()
    seeds_max: int = 300
    profile: str = "default"
    interrupted: bool = False
    quarries: dict[str, Quarry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.quarries = {name: Quarry(ENTRIES[name]) for name in self.names or ENTRIES}

    def more(self) -> Job | None:
        """The next job: for a mistake that nobody works on, else for the first one at large."""
        loose = [
            quarry
            for quarry in self.quarries.values()
            if quarry.caught is None and quarry.next_seed < self.seeds_max
        ]
        if not loose:
            return None
        quarry = next((quarry for quarry in loose if not quarry.running), loose[0])
        seed = quarry.next_seed
        quarry.next_seed += 1
        entry, profile = quarry.entry, quarry.entry.within(self.profile)
        draw = entry.draw(seed, profile) if entry.needs is not None else None
        return Job(seed, profile, entry.name, draw, story=False, twice=entry.twice)

    def add(self, outcome: Outcome) -> None:
        quarry = self.quarries[outcome.plant]
        quarry.ended += 1
        if outcome.failure and (quarry.caught is None or outcome.seed < quarry.caught.seed):
            quarry.caught = outcome

    @property
    def caught(self) -> list[Quarry]:
        return [quarry for quarry in self.quarries.values() if quarry.caught is not None]

    @property
    def median_seeds(self) -> float:
        return median([quarry.seeds for quarry in self.caught]) if self.caught else 0.0

    @property
    def first_by(self) -> dict[str, int]:
        """How many mistakes each promise was the first to report."""
        counts: dict[str, int] = {}
        for quarry in self.caught:
            counts[quarry.by] = counts.get(quarry.by, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: _order(item[0])))

    @property
    def idle(self) -> list[str]:
        """Promises that were the first to report no mistake at all; only of a whole zoo."""
        return [number for number in JUDGED if number not in self.first_by and not self.names]

    @property
    def clean(self) -> bool:
        return len(self.caught) == len(self.quarries) and not self.idle

    def line(self, passed_s: float) -> str:
        """For people who wait."""
        ended = sum(quarry.ended for quarry in self.quarries.values())
        busy = [name for name, quarry in self.quarries.items() if quarry.running > 0]
        rate = ended / passed_s if passed_s else 0.0
        return (
            f"{len(self.caught)} of {len(self.quarries)} mistakes caught · {ended:,} seeds, "
            f"{rate:.1f}/s · hunting {', '.join(busy[:2]) or 'none'}"
        )

    def plain(self) -> dict[str, Any]:
        """Everything, for a script."""
        return {
            "planted": len(self.quarries),
            "caught": len(self.caught),
            "median_seeds": self.median_seeds,
            "clean": self.clean,
            "first_by": self.first_by,
            "idle": self.idle,
            "entries": [
                {
                    "name": name,
                    "story": quarry.entry.story,
                    "source": quarry.entry.source,
                    "breaks": list(quarry.entry.breaks),
                    "caught": quarry.caught is not None,
                    "seeds": quarry.seeds or None,
                    "tried": quarry.ended,
                    "by": quarry.by or None,
                    "text": _text(quarry),
                }
                for name, quarry in self.quarries.items()
            ],
        }


def _text(quarry: Quarry) -> str | None:
    if quarry.caught is None:
        return None
    return next((text for _, _, text in quarry.caught.violations), quarry.caught.story)


def _order(number: str) -> tuple[str, int]:
    """I2 comes before I12."""
    digits = number.lstrip("INX")
    return number[:1], int(digits) if digits.isdigit() else 0
