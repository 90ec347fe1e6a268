"""The command line: what may be asked for, within which bounds, and what goes together."""

from __future__ import annotations

import argparse
import re
from typing import Any

# Bounds, so that a slip of the finger does not occupy a machine for an hour.
NODES_MAX = 12
SECONDS_MAX = 600.0
OPS_MAX = 5_000_000
IN_FLIGHT_MAX = 4096
SIZE_MAX = 1 << 20
REPEATS_MAX = 20
RATE_MAX = 1_000_000.0
PROCESSES_MAX = 16
KEYS_MAX = 10_000_000


def number(kind: type, low: float, high: float) -> Any:
    """An argparse type: a number within bounds, refused in words otherwise."""

    def parse(text: str) -> Any:
        try:
            value = kind(text.replace(",", "").replace("_", ""))
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not from {low:,} to {high:,}")
        return value

    return parse


def levels(text: str) -> list[tuple[int, int]]:
    """ "1/1,2/2": R and W of each variant."""
    pairs = [re.fullmatch(r"(\d+)/(\d+)", part.strip()) for part in text.split(",")]
    if not all(pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not R/W pairs such as 1/1,1/2,2/2")
    return [(int(pair[1]), int(pair[2])) for pair in pairs if pair]


def counts(text: str) -> list[int]:
    """ "1,16,64": numbers in flight."""
    parse = number(int, 1, IN_FLIGHT_MAX)
    return [parse(part) for part in text.split(",")]


def knob(text: str) -> tuple[str, int]:
    """ "name=value": an option of `dynamo.local`, which says itself what it does not know."""
    name, _, value = text.partition("=")
    if not name.isidentifier() or not value.replace("_", "").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not name=number, as in hedge_ms_max=20")
    return name, int(value)


def words(text: str) -> list[str]:
    """Names with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parser(epilog: str) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m bench", description="Measure dynamo on this machine.", epilog=epilog
    )
    commands = top.add_subparsers(dest="command", required=True)
    go = commands.add_parser(
        "run",
        help="a workload on a ring of processes; without one the quick closed loop",
        description="With a workload: an open loop at --rate, or a closed loop of --in-flight, "
        "checked and judged. Without: puts, then gets, in a closed loop, for a quick figure.",
        epilog="python -m bench run a --rate 2000 --out results/a",
    )
    go.add_argument("workload", nargs="?", help="a name from `list`, or a .toml file")
    _store(go)
    _load(go)
    _output(go)
    go.add_argument("--rate", type=number(float, 0.1, RATE_MAX), help="operations due per second")
    go.add_argument("--in-flight", type=number(int, 1, IN_FLIGHT_MAX), help="a closed loop instead")
    length = go.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=number(float, 0.1, SECONDS_MAX), help="measured part")
    length.add_argument("--ops", type=number(int, 1, OPS_MAX), help="of the quick closed loop")
    pinned = "each process talks to one node only, as behind a load balancer"
    go.add_argument("--pinned", action="store_true", help=pinned)
    go.add_argument("--levels", type=levels, help="R/W variants, each a run: 1/1,1/2,2/2")
    go.add_argument(
        "--faults", default="", help="kill, partition, slow, rolling, or 'kill n3 @ 5s'"
    )

    up = commands.add_parser("sweep", help="latency against offered load, and the knee")
    up.add_argument("workload", nargs="?", default="a")
    _store(up)
    _load(up)
    _output(up)
    up.add_argument("--from", dest="low", type=number(float, 0.1, RATE_MAX), default=500.0)
    up.add_argument("--to", dest="high", type=number(float, 0.1, RATE_MAX), default=32_000.0)
    up.add_argument("--steps", type=number(int, 2, 30), default=10)
    up.add_argument("--seconds", type=number(float, 0.1, SECONDS_MAX), default=5.0, help="per step")

    _compare(commands)
    _peers(commands)

    page = commands.add_parser("report", help="tables and one HTML page of result files")
    page.add_argument("files", nargs="+")
    page.add_argument("--out", default=".", help="folder for report.html")
    page.add_argument("--png", action="store_true", help="every picture as a file, too")

    names = commands.add_parser("list", help="workloads, generators, faults and stores")
    names.add_argument("--json", action="store_true")

    pieces = commands.add_parser("micro", help="the pieces alone, in one process, without IO")
    pieces.add_argument("--seconds", type=number(float, 0.001, 10.0), default=0.2, help="per line")
    pieces.add_argument("--only", default="", help="lines whose name contains this")
    pieces.add_argument("--save", action="store_true", help="as the baseline of later ones")
    pieces.add_argument("--json", action="store_true", help="print one JSON object, no table")
    return top


def _store(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the ring")
    group.add_argument("--nodes", type=number(int, 1, NODES_MAX), default=3)
    group.add_argument("--durability", choices=("memory", "interval", "fsync"), default="fsync")
    group.add_argument("--r", type=number(int, 1, 7), help="answers of a read; default: the ring's")
    group.add_argument("--w", type=number(int, 1, 7), help="copies of a write; default: the ring's")
    group.add_argument("--n", type=number(int, 1, 7), help="copies of a key; default 3")
    tuning = "a setting of every node, such as pending_ops_max=200; may be given again"
    group.add_argument("--set", type=knob, action="append", metavar="NAME=N", help=tuning)
    group.add_argument("--partitions", type=number(int, 1, 65_536), help="arcs; default 64")


def _load(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the load")
    group.add_argument("--size", type=number(int, 16, SIZE_MAX), help="bytes of a value")
    group.add_argument("--keys", type=number(int, 1, KEYS_MAX), help="loaded before the run")
    group.add_argument("--arrivals", choices=("poisson", "fixed"), default="poisson")
    group.add_argument("--processes", type=number(int, 1, PROCESSES_MAX), default=2)
    group.add_argument(
        "--warm-up", type=number(float, 0, 60), default=2.0, help="seconds, not counted"
    )
    group.add_argument("--repeats", type=number(int, 1, REPEATS_MAX), default=3)
    group.add_argument("--seed", type=number(int, 0, 2**32), default=1)
    group.add_argument(
        "--timeout", type=number(float, 0.01, 10), default=2.0, help="seconds, of an operation"
    )


def _output(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object, no table")
    group.add_argument("--out", help="folder for result.json and report.html")
    group.add_argument("--png", action="store_true", help="every picture as a file in --out, too")


def _compare(commands: Any) -> None:
    two = commands.add_parser(
        "compare",
        help="tell a difference between two checkouts, or two results, from noise",
        description="Two checkouts are measured in turns, A B B A ..., and compared pair by pair. "
        "Two result files are compared as they are: what changed on the machine in between "
        "counts as difference.",
        epilog="python -m bench compare ../before . --pairs 20",
    )
    two.add_argument("a", help="a checkout, or a result file: before")
    two.add_argument("b", help="the same: after")
    two.add_argument("--pairs", type=number(int, 1, 200), default=20)
    two.add_argument("--seconds", type=number(float, 0.1, 60), default=1.0, help="per measurement")
    two.add_argument("--what", choices=("ring", "micro"), default="ring")
    two.add_argument("--only", default="", help="of micro's pieces, whose name contains this")
    two.add_argument("--in-flight", type=number(int, 1, IN_FLIGHT_MAX), default=64)
    two.add_argument("--size", type=number(int, 16, SIZE_MAX), default=100)
    two.add_argument("--nodes", type=number(int, 1, NODES_MAX), default=3)
    two.add_argument("--durability", choices=("memory", "interval", "fsync"), default="memory")
    two.add_argument(
        "--relevant", type=number(float, 0, 1), default=0.05, help="share that matters"
    )
    _output(two)


def _peers(commands: Any) -> None:
    them = commands.add_parser(
        "peers",
        help="the same load on dynamo and on what one would use instead",
        description="Stores take turns, repeat by repeat. What is not installed is named with the "
        "command that installs it.",
    )
    them.add_argument("--stores", type=words, help="only these; see `list`")
    them.add_argument("--workloads", type=words, default=["put", "get"])
    them.add_argument("--in-flight", type=counts, default=[1, 16, 64], help="default 1,16,64")
    them.add_argument("--durability", choices=("fsync", "interval", "both"), default="both")
    them.add_argument("--seconds", type=number(float, 0.1, 60), default=2.0)
    them.add_argument("--warm-up", type=number(float, 0, 60), default=0.5)
    them.add_argument("--repeats", type=number(int, 1, REPEATS_MAX), default=3)
    them.add_argument("--size", type=number(int, 40, SIZE_MAX), default=100)
    them.add_argument("--keys", type=number(int, 1, 100_000), default=2_000)
    them.add_argument("--processes", type=number(int, 1, PROCESSES_MAX), default=1)
    them.add_argument("--seed", type=number(int, 0, 2**32), default=1)
    _output(them)


ONLY_WITH_WORKLOAD = (
    *("rate", "pinned", "levels", "faults", "r", "w", "n", "partitions", "set", "keys", "out"),
)


def contradiction(options: argparse.Namespace) -> str:
    """What does not go together, in words, or ""."""
    if options.command == "run":
        if options.workload is None:
            given = [f"--{name}" for name in ONLY_WITH_WORKLOAD if getattr(options, name)]
            if given:
                return f"{', '.join(given)} needs a workload: python -m bench run a ..."
        elif options.rate and options.in_flight:
            return "--rate is an open loop, --in-flight a closed one: give one of them"
        elif options.ops:
            return "--ops is for the quick closed loop, without a workload: give --seconds"
        elif options.levels and (options.r or options.w):
            return "--levels gives R and W already: leave out --r and --w"
    if options.command == "micro" and options.save and options.only:
        return "--save needs all pieces: leave out --only"
    if options.command in ("run", "sweep", "compare", "peers") and options.png and not options.out:
        return "--png needs --out with a folder"
    return ""


def setup(options: argparse.Namespace) -> Any:
    """The setup of a run or a sweep."""
    from bench.measure import Setup

    closed = getattr(options, "in_flight", None) or 0
    knobs = {name: getattr(options, name) for name in ("n", "partitions") if getattr(options, name)}
    knobs |= dict(options.set or [])
    return Setup(
        nodes=options.nodes,
        durability=options.durability,
        r=options.r or 0,
        w=options.w or 0,
        rate=0.0 if closed else getattr(options, "rate", None) or 2_000.0,
        arrivals=options.arrivals,
        in_flight=closed,
        seconds=options.seconds or 10.0,
        warm_up_s=options.warm_up,
        repeats=options.repeats,
        processes=min(options.processes, closed) if closed else options.processes,
        seed=options.seed,
        faults=getattr(options, "faults", ""),
        pinned=getattr(options, "pinned", False),
        timeout_s=options.timeout,
        knobs=knobs,
    )


def trial(options: argparse.Namespace) -> Any:
    """How two checkouts are compared."""
    from bench.compare import Trial

    return Trial(
        what=options.what,
        only=options.only,
        pairs=options.pairs,
        seconds=options.seconds,
        in_flight=options.in_flight,
        size=options.size,
        nodes=options.nodes,
        durability=options.durability,
        relevant=options.relevant,
    )


def contest(options: argparse.Namespace) -> Any:
    """Which stores meet under which loads."""
    from bench.contest import Contest

    return Contest(
        stores=tuple(options.stores or ()),
        workloads=tuple(options.workloads),
        in_flight=tuple(options.in_flight),
        durability=options.durability,
        seconds=options.seconds,
        warm_up_s=options.warm_up,
        repeats=options.repeats,
        size=options.size,
        keys=options.keys,
        processes=options.processes,
        seed=options.seed,
    )
