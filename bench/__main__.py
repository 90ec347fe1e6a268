"""`python -m bench`: measure dynamo, and what one would use instead. See README.md here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import arguments, micro, quick

FINE, WRONG, USAGE, NOT_VALID = 0, 1, 2, 5
EXITS = f"exit codes: {FINE} fine, {WRONG} wrong data or a real regression, {USAGE} usage, "
EXITS += f"{NOT_VALID} the harness was in the way, so the figures are not valid"


class Refused(Exception):
    """Something that was asked for cannot be done; the sentence is for the user."""


def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser(EXITS)
    options = parser.parse_args(argv)
    if problem := arguments.contradiction(options):
        parser.error(problem)
    try:
        return COMMANDS[options.command](options)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # its reader has gone (`bench list | head`): no last words
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE


# --- the commands -------------------------------------------------------------------------------


def _run(options: Any) -> int:
    if options.workload is None:
        return _quick(options)
    from bench import runner, workloads
    from bench.console import progress

    def work() -> dict[str, Any]:
        workload = workloads.load(options.workload).changed(options.keys, options.size)
        setup = arguments.setup(options)
        levels = options.levels or [(setup.r, setup.w)]
        results = []
        with progress(options.json) as report:
            for number, (r, w) in enumerate(levels):
                these = replace(setup, r=r, w=w)

                def told(what: str, share: float, number: int = number) -> None:
                    report(what, (number + share) / len(levels))

                results.append(runner.run(these, workload, told))
        if len(results) == 1:
            return results[0]
        return runner.together(results)

    return _finish(options, work)


def _quick(options: Any) -> int:
    seconds = None if options.ops else options.seconds or 3.0
    load = quick.Load(
        nodes=options.nodes,
        durability=options.durability,
        in_flight=options.in_flight or 64,
        size=options.size or 100,
        seconds=seconds,
        ops=options.ops,
        repeats=options.repeats,
    )
    try:
        result = quick.measure(load)
    except quick.WrongRead as error:
        print(f"this run is worth nothing: {error}", file=sys.stderr)
        return WRONG
    print(json.dumps(result, indent=2) if options.json else quick.table(result))
    return FINE


def _sweep(options: Any) -> int:
    from bench import sweep, workloads
    from bench.console import progress

    def work() -> dict[str, Any]:
        workload = workloads.load(options.workload).changed(options.keys, options.size)
        loads = sweep.rates(options.low, options.high, options.steps)
        with progress(options.json) as report:
            return sweep.run(arguments.setup(options), workload, loads, report)

    return _finish(options, work)


def _compare(options: Any) -> int:
    from bench import compare
    from bench.console import progress

    def work() -> dict[str, Any]:
        with progress(options.json) as report:
            return compare.compare(options.a, options.b, arguments.trial(options), report)

    return _finish(options, work)


def _peers(options: Any) -> int:
    from bench import contest
    from bench.console import progress

    def work() -> dict[str, Any]:
        with progress(options.json) as report:
            return contest.run(arguments.contest(options), report)

    return _finish(options, work)


def _report(options: Any) -> int:
    from bench import report
    from bench.console import print_result

    results = _refusing(lambda: [report.read(path) for path in options.files])
    for result in results:
        print_result(result)
        print()
    for path in _refusing(lambda: report.write(results, Path(options.out), options.png)):
        print(path)
    return FINE


def _list(options: Any) -> int:
    from bench import listing

    print(json.dumps(listing.everything(), indent=2) if options.json else listing.text())
    return FINE


def _micro(options: Any) -> int:
    result = micro.measure(options.seconds, options.only)
    if options.save:
        micro.save(result)
    print(json.dumps(result, indent=2) if options.json else micro.table(result))
    return FINE


COMMANDS: dict[str, Callable[[Any], int]] = {
    "run": _run,
    "sweep": _sweep,
    "compare": _compare,
    "peers": _peers,
    "report": _report,
    "list": _list,
    "micro": _micro,
}


# --- results and errors -------------------------------------------------------------------------


def _refusing(work: Callable[[], Any]) -> Any:
    """What `work` returns; foreseeable trouble becomes one sentence."""
    from bench.hdr import Missing

    try:
        return work()
    except (Missing, ValueError) as error:  # all our own refusals are ValueErrors
        raise Refused(str(error)) from None


def _needed(options: Any) -> None:
    """Miss what is not installed now, not after minutes of measuring."""
    from bench import hdr, plots

    if options.command != "compare":
        hdr.histogram()
    if options.out:
        with plots.styled():
            pass


def _finish(options: Any, work: Callable[[], dict[str, Any]]) -> int:
    """Carry it out, show it, keep it, and say by the exit code what it is worth."""
    from bench import report
    from bench.console import print_result
    from bench.crew import CrewFailed
    from bench.runner import WrongAnswer

    _refusing(lambda: _needed(options))
    try:
        result = _refusing(work)
    except WrongAnswer as error:
        print(f"WRONG DATA, so no figure counts: {error}", file=sys.stderr)
        return WRONG
    except CrewFailed as error:
        raise Refused(f"the run broke off: {error}") from None
    if options.out:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(result), "utf-8")
        written = _refusing(lambda: report.write([result], folder, options.png))
        for path in (folder / "result.json", *written):
            print(path, file=sys.stderr)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_result(result)
    if not result["good"]:
        return WRONG
    return FINE if result["valid"] else NOT_VALID


if __name__ == "__main__":
    sys.exit(main())
