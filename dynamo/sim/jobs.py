"""One run that is asked for, and what came of it, in the types that JSON has.

They travel between processes, and into what `dynamo sim run --json` prints.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dynamo.sim.profiles import PROFILES, Draw

BROKEN, CRASHED, HUNG, DIFFERS = "broken", "crashed", "hung", "differs"
MEANS = {
    BROKEN: "a promise was broken",
    CRASHED: "the process that ran it died",
    HUNG: "it did not end in time",
    DIFFERS: "it ran differently in another process: something depends on the order of a hash",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One run that is asked of a worker: a seed of a profile, or a draw."""

    seed: int
    profile: str = "default"
    plant: str = ""  # a fault of the zoo that is planted for this run
    draw: Draw | None = None
    story: bool = True  # tell what happened if it fails; costs a second run
    twice: bool = False  # run it in two processes, and compare
    digest: bool = True  # of all that happened; a campaign only wants it of those it compares

    def drawn(self) -> Draw:
        return PROFILES[self.profile](self.seed) if self.draw is None else self.draw


@dataclass(slots=True)
class Outcome:
    """What came of one seed, in the types that JSON has."""

    seed: int
    failure: str = ""  # "" or why the seed counts as failed, see MEANS
    violations: list[tuple[str, str, str]] = field(default_factory=list)  # number, key, text
    digest: str = ""
    nodes: int = 0
    ops: dict[str, int] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    events: int = 0
    simulated_ms: int = 0
    broke_ms: int = -1
    retry_siblings: int = 0
    cpu_s: float = 0.0
    draw: str = ""  # the draw for people, of failed seeds
    story: str = ""  # what a person needs to see of the failure
    twice: bool = False  # it ran in two processes
    profile: str = "default"
    plant: str = ""

    @property
    def numbers(self) -> list[str]:
        """The promises that broke, each once, in the order in which that was seen."""
        return list(dict.fromkeys(number for number, _, _ in self.violations))

    @property
    def reason(self) -> str:
        """One line: what failed."""
        means = MEANS.get(self.failure, "clean")
        return f"{means}: {', '.join(self.numbers)}" if self.failure == BROKEN else means
