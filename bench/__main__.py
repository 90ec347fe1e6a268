"""`python -m bench run` and `python -m bench micro`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from bench import micro, run

# Bounds, so that a slip of the finger does not occupy a machine for an hour.
NODES_MAX = 12
SECONDS_MAX = 120.0
OPS_MAX = 5_000_000
IN_FLIGHT_MAX = 4096
SIZE_MAX = 1 << 20
REPEATS_MAX = 20


def number(kind: type, low: float, high: float) -> Any:
    """An argparse type: a number within bounds, refused in words otherwise."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not from {low:,} to {high:,}")
        return value

    return parse


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    go = commands.add_parser("run", help="closed loop of puts, then gets, on a ring of processes")
    go.add_argument("--nodes", type=number(int, 1, NODES_MAX), default=3)
    go.add_argument("--durability", choices=("memory", "interval", "fsync"), default="fsync")
    go.add_argument("--in-flight", type=number(int, 1, IN_FLIGHT_MAX), default=64)
    go.add_argument("--size", type=number(int, 16, SIZE_MAX), default=100, help="bytes of a value")
    length = go.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=number(float, 0.1, SECONDS_MAX), default=3.0)
    length.add_argument("--ops", type=number(int, 1, OPS_MAX), help="puts, and gets, per repeat")
    go.add_argument("--repeats", type=number(int, 1, REPEATS_MAX), default=3)
    go.add_argument("--json", action="store_true", help="print one JSON object, no table")

    pieces = commands.add_parser("micro", help="the pieces alone, in one process, without IO")
    pieces.add_argument("--seconds", type=number(float, 0.001, 10.0), default=0.2, help="per line")
    pieces.add_argument("--only", default="", help="lines whose name contains this")
    pieces.add_argument("--json", action="store_true", help="print one JSON object, no table")
    return top


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.command == "micro":
        result = micro.measure(options.seconds, options.only)
        text = micro.table(result)
    else:
        load = run.Load(
            nodes=options.nodes,
            durability=options.durability,
            in_flight=options.in_flight,
            size=options.size,
            seconds=None if options.ops else options.seconds,
            ops=options.ops,
            repeats=options.repeats,
        )
        try:
            result = run.measure(load)
        except run.WrongRead as error:
            print(f"this run is worth nothing: {error}", file=sys.stderr)
            return 1
        text = run.table(result)
    print(json.dumps(result, indent=2) if options.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
