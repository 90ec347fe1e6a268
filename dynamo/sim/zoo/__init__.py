"""The bug zoo: mistakes put into the real code one at a time, and how fast the simulator sees them.

A simulator that has never failed proves nothing: its faults may miss the rare state, or its
oracle may not look. So everything that is known to go wrong in stores like this one is planted
here, from the traps that others fell into and from this project's own history, and a campaign
must find each of them.

    from dynamo.sim import zoo
    entry = zoo.ENTRIES["hint-erased-on-send"]
    zoo.hunt(entry, seeds_max=300)     Catch(seeds=2, number="I12", seed=1, text=...)
    with entry.planted():
        run(1)

An entry that nobody catches is either no mistake, and does not belong here, or shows a hole.
"""

from __future__ import annotations

from typing import NamedTuple

from dynamo.sim.campaign import Draw, Report, run
from dynamo.sim.zoo import clients, copies, dots, ids, moves, people, quorums
from dynamo.sim.zoo.entry import Entry, Plant

__all__ = ["ENTRIES", "Catch", "Entry", "Plant", "hunt", "provoke"]

SEEDS_MAX = 300

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for module in (dots, ids, quorums, copies, clients, moves, people)
    for entry in module.mistake.entries
}


class Catch(NamedTuple):
    """How an entry was caught."""

    seeds: int  # how many seeds it took, this one included
    number: str  # of the promise that was seen broken first
    seed: int
    text: str  # what the oracle said


def hunt(
    entry: Entry, seeds_max: int = SEEDS_MAX, start: int = 0, profile: str = "default"
) -> Catch | None:
    """Run seeds with the mistake in the code until one breaks a promise; None if none does."""
    for seed in range(start, start + seeds_max):
        drawn = entry.draw(seed, profile)
        number, text = provoke(entry, drawn)
        # A seed that fails by itself proves nothing.
        if number and not run(drawn).violations:
            return Catch(seed - start + 1, number, seed, text)
    return None


def provoke(entry: Entry, drawn: Draw) -> tuple[str, str]:
    """The first promise that this draw sees broken with the mistake in the code, and its story."""
    with entry.planted():
        report = run(drawn)
        if report.violations:
            first = report.violations[0]
            return first.number, str(first)
        if entry.twice and (differs := _differs(report, run(drawn))):
            return "I16", differs
    return "", ""


def _differs(report: Report, again: Report) -> str:
    """I16: one seed, one trace."""
    if report.digest == again.digest:
        return ""
    return (
        f"I16 : two runs of seed {report.draw.seed} have digests {report.digest} and {again.digest}"
    )
