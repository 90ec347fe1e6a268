"""`dynamo health`: the verdict as an exit code, at once, after waiting, or for ever."""

from __future__ import annotations

import time

import click

from dynamo.cli import exits, show
from dynamo.cli.membership import Membership, membership
from dynamo.cli.shared import DURATION, Shell, command
from dynamo.cli.status import as_json, print_verdict
from dynamo.cli.survey import (
    CHANGING,
    HEALTHY,
    RECOVERING,
    STYLES,
    Survey,
    Verdict,
    survey,
    verdict,
)

POLL_S, WATCH_S = 0.25, 1.0
SAY_EVERY_S = 5.0


@command(
    examples="""
    dynamo health                      exit code 0: healthy, 5: not
    dynamo health --wait 30s           as soon as it is healthy, or 5 after 30 s
    dynamo health --watch              a line whenever something changes
    """
)
@click.option("--wait", type=DURATION, metavar="TIME", help="Wait so long for a healthy ring.")
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C.")
def health(shell: Shell, wait: float | None, watch: bool) -> int:
    """Check that all nodes answer, see each other, have compared, and owe each other nothing.

    And that the ring is at rest: no arc is on its way to another owner, and all know the same of
    it.

    Exit code 0 if so, 5 if not, 3 if no node can be reached.
    """
    if watch and (wait is not None or shell.json):
        raise click.UsageError("--watch goes on for ever: leave out --wait and --json")
    if watch:
        _watch(shell)
    found, known, judged = _await(shell, wait or 0.0)
    if shell.json:
        shell.emit({"healthy": judged.level == HEALTHY} | as_json(found, known, judged))
    else:
        print_verdict(shell, judged, "" if judged.level == HEALTHY else "dynamo status")
    return exits.OK if judged.level == HEALTHY else exits.UNHEALTHY


def _judge(shell: Shell) -> tuple[Survey, Membership, Verdict]:
    found = survey(shell)
    known = membership(shell, found)
    return found, known, verdict(found, known.changes(), known.closed())


def _await(shell: Shell, wait: float) -> tuple[Survey, Membership, Verdict]:
    """The first healthy verdict, or the one after `wait` seconds; tells meanwhile what is amiss."""
    deadline = time.monotonic() + wait
    said, said_at = "", time.monotonic()
    while True:
        last = time.monotonic() + POLL_S >= deadline
        judged = None
        try:
            found, known, judged = _judge(shell)
            if judged.level == HEALTHY or last:
                return found, known, judged
        except ConnectionError:
            if last:  # nobody was there, from the first try to the last
                raise
        now = _amiss(judged) if judged else "no node can be reached yet"
        if now != said and (not said or time.monotonic() - said_at > SAY_EVERY_S):
            shell.say(f"waiting: {show.escaped(now)}")
            said, said_at = now, time.monotonic()
        time.sleep(POLL_S)


def _amiss(judged: Verdict) -> str:
    """Without the reassurance: what keeps it from being healthy, on one line."""
    if judged.level in (RECOVERING, CHANGING):
        return "; ".join(judged.problems)
    return "; ".join([judged.sentence.rstrip("."), *judged.problems])


def _watch(shell: Shell) -> None:
    said = ""
    while True:
        judged = None
        try:
            _, _, judged = _judge(shell)
            now = f"{judged.level.upper()}: {'; '.join([judged.sentence, *judged.problems])}"
        except ConnectionError as error:
            now = f"UNREACHABLE: {error}"
        if now != said:
            said = now
            level, _, rest = now.partition(":")
            style = STYLES[judged.level] if judged else "bold red"
            clock = time.strftime("%H:%M:%S ")
            shell.print(show.text((clock, "dim"), (level, style), f":{rest}"))
        time.sleep(WATCH_S)
