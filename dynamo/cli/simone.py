"""`dynamo sim replay`, `shrink`, `coverage`: one seed or one regression file, seen closely."""

from __future__ import annotations

import contextlib
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamo.cli import exits, show
from dynamo.cli.shared import DURATION, Shell, command
from dynamo.cli.simshared import LIMIT, PLANT, PROFILE, Live, commit

if TYPE_CHECKING:
    from dynamo.sim.campaign import Draw, Report
    from dynamo.sim.jobs import Job, Outcome
    from dynamo.sim.shrink import Shrinker

SEEDS = Path("tests", "seeds")
EVERYTHING = 1_000_000  # lines of a story


class What(show.ParamType):
    """A seed, or a regression file."""

    name = "SEED"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Path:
        if isinstance(value, int | Path):
            return value
        if str(value).isdecimal():
            return int(value)
        if not Path(value).is_file():
            self.fail(
                f"{value!r} is neither a seed, which is a number, nor a regression file", param, ctx
            )
        return Path(value)


WHAT = click.argument("what", type=What(), metavar="SEED|FILE")


def asked(what: int | Path, profile: str, plant: str) -> Job:
    """The run that a seed or a regression file stands for."""
    from dynamo.sim import regress
    from dynamo.sim.jobs import Job
    from dynamo.sim.profiles import PROFILES
    from dynamo.sim.zoo import ENTRIES

    if isinstance(what, int):
        if not plant:
            return Job(what, profile, "", PROFILES[profile](what))
        entry = ENTRIES[plant]
        return Job(what, entry.within(profile), plant, entry.draw(what, profile))
    try:
        found = regress.read(what.read_text("utf-8"), str(what))
    except (regress.NotARegression, UnicodeDecodeError) as error:
        raise click.UsageError(str(error)) from None
    return Job(found.draw.seed, found.draw.profile, plant or found.plant, found.draw)


# --- replay -----------------------------------------------------------------------------------


@command(
    ring=False,
    examples="""
    dynamo sim replay 4711                 the story of the key that failed
    dynamo sim replay 4711 --key k3        the story of another one
    dynamo sim replay tests/seeds/I1-4711.json
    """,
)
@WHAT
@click.option(
    "--key", metavar="KEY", help="Tell the story of this key, as the verdict names it: k3, own-c6."
)
@click.option(
    "--last", type=click.IntRange(1), default=EVERYTHING, metavar="N",
    help="Only the last so many lines of the story. Default: all.",
)  # fmt: skip
@PROFILE
@PLANT
def replay(
    shell: Shell, what: int | Path, key: str | None, last: int, profile: str, plant: str
) -> int:
    """Run one seed, or the draw in a regression file, and tell what happened.

    Shows what was drawn, which promises were broken, and every message, fault and death around the
    key that failed first, up to the moment it failed. Exit code 0 if all promises were kept, 1 if
    not.
    """
    from dynamo.sim.campaign import run
    from dynamo.sim.story import tell
    from dynamo.sim.zoo import ENTRIES

    job = asked(what, profile, plant)
    assert job.draw is not None
    with ENTRIES[job.plant].planted() if job.plant else contextlib.nullcontext():
        report = run(job.draw, logging=True)
    chosen = _key(report, key)
    story = tell(report.world, chosen, last).splitlines() if report.violations or key else []
    if shell.json:
        shell.emit(_replayed(report, job, chosen, story))
    else:
        _show_replay(shell, report, job, chosen, story)
    return exits.FAILED if report.violations else exits.OK


def _key(report: Report, asked_for: str | None) -> bytes:
    """The full key whose story to tell: the one asked for, else that of the first violation."""
    if asked_for is None:
        return next((violation.key for violation in report.violations if violation.key), b"")
    keys = report.world.oracle.keys()
    known = {named(key): key for key in keys}
    if asked_for not in known:
        raise click.UsageError(
            f"no client wrote {asked_for!r}; they wrote {', '.join(list(known)[:20])}"
        )
    return known[asked_for]


def named(key: bytes) -> str:
    """A full key as people see it: without its bucket."""
    return key[1 + key[0] :].decode(errors="replace") if key else ""


def _replayed(report: Report, job: Job, key: bytes, story: list[str]) -> dict[str, Any]:
    from dynamo.sim.regress import plain

    return {
        "seed": report.draw.seed,
        "commit": commit(),
        "plant": job.plant,
        "digest": report.digest,
        "violations": [
            {"number": number, "key": named(key), "text": text}
            for number, key, text in report.violations
        ],
        "ops": report.ops,
        "events": report.events,
        "simulated_ms": report.simulated_ms,
        "draw": plain(report.draw),
        "key": named(key),
        "story": story,
    }


def _show_replay(shell: Shell, report: Report, job: Job, key: bytes, story: list[str]) -> None:
    shell.print(report.draw.story())
    if job.plant:
        shell.print(f"  planted: {job.plant}")
    ops = ", ".join(f"{count:,} {status}" for status, count in report.ops.items())
    shell.print(
        f"  {report.simulated_ms / 1000:,.1f} s, {report.events:,} events, {ops}; "
        f"digest {report.digest}"
    )
    if story:
        shell.print(f"\nWhat happened to {named(key) or 'the ring'} (ms, who, what):")
        for line in story:
            shell.print(line)
    shell.print()
    for number, about, text in report.violations[:12]:
        shell.print(f"{number} {named(about)}: {text}" if about else f"{number}: {text}")
    if len(report.violations) > 12:
        shell.print(f"... and {len(report.violations) - 12:,} more")
    if not report.violations:
        shell.print("Clean: every promise was kept.")


# --- shrink -----------------------------------------------------------------------------------


@command(
    ring=False,
    examples="""
    dynamo sim shrink 4711                 ends with tests/seeds/I1-4711.json
    dynamo sim shrink 4711 --out small.json --sentence "A put was lost when its owner died twice."
    """,
)
@WHAT
@click.option(
    "--number", metavar="I1", help="Keep this promise broken. Default: the first that broke."
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Where the regression file goes. Default: tests/seeds/, else the current directory.",
)  # fmt: skip
@click.option("--sentence", metavar="TEXT", help="What went wrong, in one sentence, for the file.")
@click.option(
    "--within", type=DURATION, default="5m", metavar="TIME", show_default=True,
    help="Stop trying after this long.",
)  # fmt: skip
@PROFILE
@PLANT
@LIMIT
def shrink(
    shell: Shell, what: int | Path, number: str | None, out: Path | None, sentence: str | None,
    within: float, profile: str, plant: str, limit: float,
) -> int:  # fmt: skip
    """Make a failing seed as small as it gets, and write it down as a regression file.

    Tries fewer clients, keys, operations, faults and nodes, less time, calm weather and ordinary
    knobs, and keeps what still breaks the same promise. The file is run by the ordinary tests from
    then on: once the bug is mended, it must stay clean. Exit code 0 if the file was written, 1 if
    there was nothing to shrink.
    """
    from dynamo.sim.farm import Farm
    from dynamo.sim.jobs import BROKEN, DIFFERS

    job = asked(what, profile, plant)
    with Farm(1, limit_s=limit) as farm:
        first = farm.one(_twice(job, True))
        if first.failure not in (BROKEN, DIFFERS):
            return _nothing(shell, job, first)
        number = number or first.numbers[0]
        if number not in first.numbers:
            raise click.UsageError(f"seed {job.seed} breaks {show.listed(first.numbers)} only")
        shrinker, complete = _shrunk(shell, farm, job, number, first, within)
        last = farm.one(_as_job(job, shrinker.best, number, story=True))
    regression = _regression(shrinker, job, number, last, sentence)
    path = out or (SEEDS if SEEDS.is_dir() else Path()) / f"{number}-{job.seed}.json"
    from dynamo.sim import regress

    path.write_text(regress.write(regression), "utf-8")
    found = {
        "file": str(path), "number": number, "events_before": shrinker.first.events,
        "events": shrinker.trial.events, "share": round(shrinker.share, 4),
        "tried": shrinker.tried, "complete": complete, "commit": commit(),
    }  # fmt: skip
    if shell.json:
        shell.emit({**found, "draw": regress.plain(shrinker.best), "story": last.story})
    else:
        shell.print(last.story)
        shell.print(_shrunk_text(found))
    return exits.OK


def _twice(job: Job, twice: bool, **more: Any) -> Job:
    from dataclasses import replace

    return replace(job, twice=twice, **more)


def _as_job(job: Job, drawn: Draw, number: str, story: bool = False) -> Job:
    return _twice(job, number == "I16", seed=drawn.seed, draw=drawn, story=story)


def _nothing(shell: Shell, job: Job, first: Outcome) -> int:
    if not first.failure:
        why = f"seed {job.seed} keeps every promise: there is nothing to shrink"
    else:
        why = f"seed {job.seed} cannot be shrunk, because {first.reason}:\n{first.story}"
    if shell.json:
        shell.emit({"file": None, "why": why, "failure": first.failure})
    else:
        shell.print(why)
    return exits.FAILED


def _shrunk(
    shell: Shell, farm: Any, job: Job, number: str, first: Outcome, within_s: float
) -> tuple[Shrinker, bool]:
    """Try candidates until none is left, time is up or Ctrl-C; says whether none was left."""
    from dynamo.sim.shrink import Shrinker

    assert job.draw is not None
    shrinker = Shrinker(job.draw, number, _trial(first))
    steps = shrinker.steps()
    with Live(shell, lambda: _progress(shrinker, within_s - live.passed_s)) as live:
        try:
            candidate = next(steps)
            # What runs much longer than what it is to replace is no simpler.
            farm.limit_s = min(farm.limit_s, 5.0 + 3 * first.cpu_s)
            while live.passed_s < within_s:
                outcome = farm.one(_as_job(job, candidate, number), live.tick)
                candidate = steps.send(_trial(outcome))
        except StopIteration:
            return shrinker, True
        except KeyboardInterrupt:
            farm.close()
            live.interrupt("Interrupted: this is what was reached until then.")
    return shrinker, False


def _trial(outcome: Outcome) -> Any:
    from dynamo.sim.shrink import Trial

    return Trial(tuple(outcome.numbers), outcome.events, outcome.broke_ms)


def _progress(shrinker: Shrinker, left_s: float) -> str:
    best = shrinker.best
    clients = sum(habit is not None for habit in best.habits)
    faults = "drawn" if best.faults is None else f"{len(best.faults)}"
    return (
        f"{shrinker.trial.events:,} of {shrinker.first.events:,} events · {best.nodes} nodes, "
        f"{clients} clients, {faults} faults · {shrinker.tried} tried, less {shrinker.what} · "
        f"{show.span(max(0.0, left_s))} left"
    )


def _regression(
    shrinker: Shrinker, job: Job, number: str, last: Outcome, sentence: str | None
) -> Any:
    from dynamo.sim.regress import Regression

    told = next((text for which, _, text in last.violations if which == number), "")
    return Regression(
        violated=number,
        sentence=sentence or told,
        found=f"seed {job.seed} of profile {job.profile} at {commit()}, "
        f"{shrinker.first.events:,} events shrunk to {shrinker.trial.events:,}",
        date=date.today().isoformat(),
        draw=shrinker.best,
        digest=last.digest,
        plant=job.plant,
    )


def _shrunk_text(found: dict[str, Any]) -> str:
    ended = "nothing smaller fails" if found["complete"] else "time was up, it may get smaller"
    return (
        f"\n{found['events_before']:,} events before, {found['events']:,} now: "
        f"{found['share']:.1%} ({found['tried']} runs tried, {ended}).\n"
        f"Written to {found['file']}. Again: dynamo sim replay {show.shell_word(found['file'])}"
    )


# --- coverage ---------------------------------------------------------------------------------


@command(
    ring=False,
    examples="""
    dynamo sim coverage                    which lines of dynamo/core no seed has run
    dynamo sim coverage --count 1000 --at-least 95
    """,
)
@click.option(
    "--count", type=click.IntRange(1), default=60, metavar="N", show_default=True,
    help="Seeds 0 to N-1.",
)  # fmt: skip
@click.option(
    "--at-least", type=click.FloatRange(0, 100), default=0.0, metavar="PERCENT",
    help="Exit code 1 below this total.",
)  # fmt: skip
@PROFILE
def coverage(shell: Shell, count: int, at_least: float, profile: str) -> int:
    """Count the lines of dynamo/core that simulated rings run, function by function."""
    from dynamo.sim.campaign import run
    from dynamo.sim.lines import ranges
    from dynamo.sim.profiles import PROFILES

    done = 0
    lines = core_lines()
    with Live(shell, lambda: f"{done} of {count} seeds") as live, lines:
        for seed in range(count):
            run(PROFILES[profile](seed))
            done += 1
            live.tick()
    missed = {Path(file).name: ranges(at) for file, at in lines.missed().items()}
    counts = {Path(file).name: pair for file, pair in lines.counts().items() if pair[1]}
    hit, there = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    share = 100 * hit / there
    if shell.json:
        files = {
            name: {"run": n, "lines": of, "missed": missed[name]}
            for name, (n, of) in counts.items()
        }
        shell.emit({"seeds": count, "profile": profile, "percent": round(share, 2), "run": hit,
                    "lines": there, "files": files, "commit": commit()})  # fmt: skip
    else:
        rows = [(name, f"{n}/{of}", f"{100 * n / of:.1f} %", missed[name])
                for name, (n, of) in counts.items()]  # fmt: skip
        rows.append(("all", f"{hit}/{there}", f"{share:.1f} %", ""))
        shell.print(show.table(("MODULE", ">LINES RUN", ">SHARE", "NOT RUN"), rows))
    return exits.OK if share >= at_least else exits.FAILED


def core_lines() -> Any:
    """A watch over every function of dynamo/core."""
    import dynamo.core
    from dynamo.sim.lines import Lines

    assert dynamo.core.__file__ is not None
    files = sorted(Path(dynamo.core.__file__).parent.glob("*.py"))
    return Lines({str(file): file.read_text("utf-8") for file in files})
