"""`dynamo sim`: seeds, planted mistakes and one failing seed, from the command line."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import click

from dynamo.cli import exits, show
from dynamo.cli.shared import Shell, command, group
from dynamo.cli.simone import coverage, replay, shrink
from dynamo.cli.simshared import JOBS, LIMIT, PLANT, PROFILE, Live, PlantName, commit, cores

if TYPE_CHECKING:
    from dynamo.sim.hunt import Hunt
    from dynamo.sim.jobs import Job, Outcome
    from dynamo.sim.tally import Tally

COUNT = 200
TWICE_EVERY = 20
FAILURES_MAX = 5
DRAWN_BELOW = 1 << 31


@group(
    examples="""
    dynamo sim run --count 1000            a thousand drawn rings, with everything going wrong
    dynamo sim run --seeds 0..199          the same two hundred every time
    dynamo sim replay 4711                 what happened in seed 4711, message by message
    dynamo sim shrink 4711                 the smallest run that fails as seed 4711 does
    dynamo sim zoo                         plant known mistakes, and see each one caught
    """
)
def sim() -> None:
    """Prove the ring: whole clusters in one thread, with every fault we could think of.

    A seed draws a cluster, its settings, its clients and what goes wrong, runs them under virtual
    time, and compares what is there at the end with what was promised. The same seed is the same
    run on every machine. No network, no files, no running ring is needed.
    """


class Seeds(show.ParamType):
    """A..B, both included, or one number."""

    name = "A..B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> range:
        if isinstance(value, range):
            return value
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(value))
        if not found or (found[2] and int(found[2]) < int(found[1])):
            self.fail(f"{value!r} is no range of seeds: write 0..199, or one number", param, ctx)
        return range(int(found[1]), int(found[2] or found[1]) + 1)


# --- run --------------------------------------------------------------------------------------


@command(
    ring=False,
    examples="""
    dynamo sim run                         200 seeds, from a drawn one on
    dynamo sim run --seeds 0..4999 --jobs 4
    dynamo sim run --minutes 30            as many as that takes
    dynamo sim run --plant hint-erased-on-send      see a mistake being found
    """,
)
@click.option("--seeds", type=Seeds(), metavar="A..B", help="These seeds, both ends included.")
@click.option(
    "--count", type=click.IntRange(1), metavar="N", help=f"So many seeds. Default: {COUNT}."
)
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), metavar="M",
    help="Start no seed after so many minutes.",
)  # fmt: skip
@JOBS
@PROFILE
@PLANT
@LIMIT
@click.option(
    "--failures", type=click.IntRange(1), default=FAILURES_MAX, metavar="N", show_default=True,
    help="Stop after so many failed seeds.",
)  # fmt: skip
def run(
    shell: Shell, seeds: range | None, count: int | None, minutes: float | None, jobs: int | None,
    profile: str, plant: str, limit: float, failures: int,
) -> int:  # fmt: skip
    """Run seeds until one breaks a promise.

    Exit code 0 if all is well; 1 if a seed broke a promise, did not end, or ran differently in
    another process (every twentieth runs twice); 1 also if 500 seeds or more together reached
    less than 95 % of the rare states that they are meant to reach.
    """
    from dynamo.sim.sometimes import SOMETIMES
    from dynamo.sim.tally import Tally
    from dynamo.sim.zoo import ENTRIES

    if seeds is not None and count is not None:
        raise click.UsageError("--seeds says which, --count how many from a drawn one on: give one")
    chosen = _seeds(seeds, count, minutes)
    profile = ENTRIES[plant].within(profile) if plant else profile
    # Another profile, or a mistake, need not go where the default one goes.
    tally = Tally(SOMETIMES, demanding=profile == "default" and not plant)
    shell.say(f"seeds from {chosen.start} on, profile {profile}, {commit()}")
    began_s = time.monotonic()
    until_s = began_s + minutes * 60 if minutes else None
    jobs = jobs or cores()
    more = _more(chosen, profile, plant, tally, until_s, failures)
    total = len(chosen) if len(chosen) < DRAWN_BELOW else None
    try:
        _campaign(shell, tally, more, jobs=jobs, limit=limit, start=chosen.start, total=total)
        interrupted = False
    except KeyboardInterrupt:
        interrupted = True
    about = {"commit": commit(), "profile": profile, "plant": plant, "start": chosen.start,
             "jobs": jobs, "wall_s": round(time.monotonic() - began_s, 1),
             "interrupted": interrupted}  # fmt: skip
    if shell.json:
        shell.emit({**tally.plain(), **about})
    else:
        _table(shell, tally, about)
    return exits.INTERRUPTED if interrupted else exits.OK if tally.clean else exits.FAILED


def _seeds(seeds: range | None, count: int | None, minutes: float | None) -> range:
    if seeds is not None:
        return seeds
    start = SystemRandom().randrange(DRAWN_BELOW)
    if count is None:
        count = DRAWN_BELOW if minutes else COUNT  # with --minutes the clock ends it
    return range(start, start + count)


def _more(
    seeds: range, profile: str, plant: str, tally: Tally, until_s: float | None, failures: int
) -> Callable[[], Job | None]:
    """The next job, until there are enough: of seeds, of time, or of failures."""
    from dynamo.sim.jobs import Job

    left: Iterator[int] = iter(seeds)

    def more() -> Job | None:
        late = until_s is not None and time.monotonic() >= until_s
        seed = None if late or len(tally.failed) >= failures else next(left, None)
        if seed is None:
            return None
        twice = seed % TWICE_EVERY == 0
        return Job(seed, profile, plant, twice=twice, digest=twice)

    return more


def _campaign(
    shell: Shell, tally: Tally, more: Callable[[], Job | None], *, jobs: int, limit: float,
    start: int, total: int | None,
) -> None:  # fmt: skip
    from dynamo.sim.farm import Farm

    with (
        Live(shell, lambda: _line(tally, total, live.passed_s)) as live,
        Farm(jobs, limit_s=limit, hash_seed=start) as farm,
    ):
        for outcome in farm.run(more):
            if outcome is not None:
                tally.add(outcome)
                if outcome.failure and not shell.json:
                    live.interrupt(_failure(outcome))
            live.tick()


def _line(tally: Tally, total: int | None, passed_s: float) -> str:
    of = f" of {total:,}" if total else ""
    rate = tally.seeds / passed_s if passed_s else 0.0
    left = ""
    if total and rate:
        left = f" · {show.span((total - tally.seeds) / rate)} left"
    return (
        f"{tally.seeds:,}{of} seeds · {rate:,.1f}/s · {tally.hours:,.1f} h simulated, "
        f"{tally.simulated_ms / 1000 / (passed_s or 1):,.0f} x life · "
        f"{len(tally.failed)} failed{left}"
    )


def _failure(outcome: Outcome) -> str:
    more = f" --profile {outcome.profile}" if outcome.profile != "default" else ""
    more += f" --plant {outcome.plant}" if outcome.plant else ""
    return (
        f"FAILED seed {outcome.seed} at {commit()}: {outcome.reason}\n{outcome.story}\n"
        f"the whole story: dynamo sim replay {outcome.seed}{more}\n"
        f"a smaller one:   dynamo sim shrink {outcome.seed}{more}\n"
    )


def _table(shell: Shell, tally: Tally, about: dict[str, Any]) -> None:
    if not tally.seeds:
        shell.print("No seed was run to its end.")
        return
    rows = tally.rows()
    shell.print(show.table(("", ""), [*rows, ("took", f"{show.span(about['wall_s'])}")]))
    if about["interrupted"]:
        shell.print("\nInterrupted; the figures are of the seeds that ended.")
    elif tally.failed:
        shell.print(f"\nFAILED: {show.plural(len(tally.failed), 'seed')} of {tally.seeds:,}.")
    elif tally.too_narrow:
        shell.print(
            f"\nFAILED: no promise was broken, but only {tally.hit} of {len(tally.sometimes)} "
            "rare states were reached, less than 95 %: the seeds do not go where they should."
        )
    else:
        shell.print("\nClean: every promise was kept.")


# --- zoo --------------------------------------------------------------------------------------


@command(
    ring=False,
    examples="""
    dynamo sim zoo                         plant every known mistake, one at a time
    dynamo sim zoo hint-erased-on-send     only this one
    """,
)
@click.argument("names", nargs=-1, type=PlantName(), metavar="[NAME]...")
@click.option(
    "--seeds", "seeds_max", type=click.IntRange(1), default=300, metavar="N", show_default=True,
    help="Give up on a mistake after so many seeds.",
)  # fmt: skip
@JOBS
@PROFILE
@LIMIT
def zoo(
    shell: Shell, names: tuple[str, ...], seeds_max: int, jobs: int | None, profile: str,
    limit: float,
) -> int:  # fmt: skip
    """Plant known mistakes in the real code, and count the seeds until each one is caught.

    A simulator that never failed proves nothing. Mistakes with changes of the ring are hunted in
    the profile "membership", whatever --profile says. Exit code 0 if every mistake was caught and,
    when the whole zoo ran, every promise was the first to be seen broken by at least one.
    """
    from dynamo.sim.farm import Farm
    from dynamo.sim.hunt import Hunt

    hunt = Hunt(names, seeds_max, profile)
    try:
        with (
            Live(shell, lambda: hunt.line(live.passed_s)) as live,
            Farm(jobs or cores(), limit_s=limit) as farm,
        ):
            for outcome in farm.run(hunt.more):
                if outcome is not None:
                    hunt.add(outcome)
                live.tick()
    except KeyboardInterrupt:
        with suppress(KeyboardInterrupt):
            shell.say("Interrupted; the table has what was caught until then.")
        hunt.interrupted = True
    if shell.json:
        shell.emit({**hunt.plain(), "commit": commit(), "profile": profile})
    else:
        _zoo_table(shell, hunt)
    return exits.INTERRUPTED if hunt.interrupted else exits.OK if hunt.clean else exits.FAILED


def _zoo_table(shell: Shell, hunt: Hunt) -> None:
    rows = []
    for name, quarry in hunt.quarries.items():
        seeds = f"{quarry.seeds}" if quarry.caught else f"> {quarry.ended}"
        story = show.text(quarry.entry.story, (f"  {quarry.entry.source}", "dim"))
        rows.append((name, seeds, quarry.by or "-", story))
    table = show.table(
        ("MISTAKE", ">SEEDS", "BY", "WHAT IS WRONG, AND WHERE IT IS KNOWN FROM"), rows
    )
    for column in table.columns[:3]:
        column.no_wrap = True
    shell.print(table)
    counts = ", ".join(f"{number} {count}" for number, count in hunt.first_by.items())
    shell.print(
        f"\n{len(hunt.caught)} of {len(hunt.quarries)} caught, median after "
        f"{hunt.median_seeds:g} seeds. First reported by: {counts or 'none'}."
    )
    if loose := [name for name, quarry in hunt.quarries.items() if not quarry.caught]:
        shell.print(f"FAILED: {show.plural(len(loose), 'mistake')} not caught: {', '.join(loose)}.")
    if hunt.idle:
        shell.print(f"FAILED: no mistake was first reported by {show.listed(hunt.idle)}.")


for each in (run, replay, shrink, zoo, coverage):
    sim.add_command(each)
