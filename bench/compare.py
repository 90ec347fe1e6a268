"""`python -m bench compare A B`: is B slower than A, or is it the machine?

Two checkouts are both started, each with a ring of its own, and measured in turns, A B B A A B ...,
a second at a time; see `bench.stats` for what becomes of the pairs. Two result files are compared
by their repeats, which is weaker: whatever changed on the machine in between counts as difference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import stats
from bench.figures import ROOT, conditions
from bench.measure import Report
from bench.report import NotAResult, read
from bench.runner import FORMAT

# All figures together mislead in one comparison of twenty.
FAMILY_ALPHA = 0.05
END_S = 30.0


@dataclass(frozen=True)
class Trial:
    """How two checkouts are compared."""

    what: str = "ring"
    pairs: int = 20
    seconds: float = 1.0
    in_flight: int = 64
    size: int = 100
    nodes: int = 3
    durability: str = "memory"
    relevant: float = 0.05
    only: str = ""  # of the pieces of micro, those whose name contains this


Measure = Callable[[], dict[str, float]]


def compare(a: str, b: str, trial: Trial, report: Report) -> dict[str, Any]:
    """Whatever A and B are."""
    kinds = [_kind(path) for path in (a, b)]
    if kinds[0] != kinds[1]:
        raise NotAResult(f"{a} is a {kinds[0]} and {b} a {kinds[1]}: give two of a kind")
    if kinds[0] == "result":
        return _of_results(a, b, trial.relevant)
    with ExitStack() as stack:
        report("starting both sides", 0.0)
        sides = [stack.enter_context(side(Path(path), trial)) for path in (a, b)]
        rows = measured_in_turns(sides[0], sides[1], trial.pairs, report)
    about = (
        f"{trial.what}: A is {Path(a).resolve().name}, B is {Path(b).resolve().name}; "
        f"{trial.pairs} pairs of {trial.seconds:g} s in turns"
        + (f"; {trial.durability}, {trial.in_flight} in flight, {trial.size} B"
           if trial.what == "ring" else "")
    )  # fmt: skip
    return sealed(about, *rows, relevant=trial.relevant, paired=True) | {"config": asdict(trial)}


def _kind(path: str) -> str:
    place = Path(path)
    if place.is_file() or (place / "result.json").is_file():
        return "result"
    if (place / "dynamo" / "__init__.py").is_file():
        return "checkout"
    raise NotAResult(f"{path} is neither a result file nor a checkout with a folder dynamo in it")


def measured_in_turns(
    a: Measure, b: Measure, pairs: int, report: Report
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """A B, B A, A B, ...: a machine that slows down slows both. The first pair only warms up."""
    rows: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for number in range(pairs + 1):
        order = ((0, a), (1, b)) if number % 2 else ((1, b), (0, a))
        for which, measure in order:
            found = measure()
            if number:
                rows[which].append(found)
        report(f"pair {number} of {pairs}", number / pairs)
    return rows


@contextmanager
def side(checkout: Path, trial: Trial) -> Iterator[Measure]:
    """A process that measures this checkout whenever it is called."""
    place = checkout.resolve()
    popen = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(ROOT)],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    assert popen.stdin
    assert popen.stdout
    say, hear = popen.stdin, popen.stdout

    def answer() -> dict[str, Any]:
        line = hear.readline()
        if not line:
            raise NotAResult(f"{checkout} could not be measured: its process ended, see above")
        found: dict[str, Any] = json.loads(line)
        return found

    def measure() -> dict[str, float]:
        say.write(b"go\n")
        say.flush()
        return answer()

    try:
        say.write(json.dumps(asdict(trial)).encode() + b"\n")
        say.flush()
        found = Path(answer()["dynamo"])
        if not found.is_relative_to(place):
            raise NotAResult(f"{checkout} was meant, but Python found dynamo in {found.parent}")
        yield measure
    finally:
        say.close()
        try:
            popen.wait(END_S)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
        hear.close()


# dynamo is that of the checkout, and its submodules with it; bench is ours.
_LAUNCH = """
import sys
import dynamo
sys.path.insert(0, sys.argv[1])
from bench import side
side.main()
"""


def _of_results(a: str, b: str, relevant: float) -> dict[str, Any]:
    paths = [str(Path(p) / "result.json") if Path(p).is_dir() else p for p in (a, b)]
    results = [read(path) for path in paths]
    for path, result in zip(paths, results, strict=True):
        if result["bench"] != "run":
            raise NotAResult(f"{path} is a result of {result['bench']}; only runs are compared")
    workloads = [result["workload"] for result in results]
    loads = [(r["config"]["rate"], r["config"]["in_flight"]) for r in results]
    if workloads[0] != workloads[1] or loads[0] != loads[1]:
        raise NotAResult(f"{a} and {b} are results of different workloads or loads")
    rows = [[_flat(each) for each in result["repeats"]] for result in results]
    about = f"A is {a} (commit {results[0]['commit']}), B is {b} (commit {results[1]['commit']})"
    return sealed(about, rows[0], rows[1], relevant=relevant, paired=False)


def _flat(each: dict[str, Any]) -> dict[str, float]:
    found = {}
    for kind, row in each["ops"].items():
        if kind != "all" or len(each["ops"]) > 2:
            found[f"{kind} ops_s"] = row["ops_s"]
            for name in ("p50_ms", "p99_ms"):
                found[f"{kind} {name}"] = row["response"][name]
    if each.get("cpu"):
        found["cpu_us"] = each["cpu"]["us_per_op"]
    return found


def sealed(
    about: str,
    a: Sequence[dict[str, float]],
    b: Sequence[dict[str, float]],
    *,
    relevant: float,
    paired: bool,
) -> dict[str, Any]:
    """Every figure with its verdict, and the verdict on all."""
    names = [name for name in a[0] if all(row.get(name, 0) > 0 for row in (*a, *b))]
    if not names:
        raise NotAResult("the two sides have no figure in common")
    test = stats.paired if paired else stats.unpaired
    rows = []
    for name in names:
        x, y = ([row[name] for row in side] for side in (a, b))
        found = test(x, y, FAMILY_ALPHA / len(names))
        higher = name.endswith("ops_s")
        rows.append(
            {
                "name": name,
                "a": median(x),
                "b": median(y),
                **found,
                "higher_is_better": higher,
                "verdict": stats.sentence(found, higher, relevant),
            }
        )
    worse = [row for row in rows if _is_worse(row) and abs(row["ratio"] - 1) >= relevant]
    return {
        "bench": "compare",
        "format": FORMAT,
        **conditions(),
        "about": about,
        "figures": rows,
        "worse": [row["name"] for row in worse],
        "sentence": _sentence(rows, worse, relevant),
        "good": not worse,
        "valid": True,
    }


def _is_worse(row: dict[str, Any]) -> bool:
    return bool(row["real"]) and (row["ratio"] > 1) != row["higher_is_better"]


def _sentence(rows: list[dict[str, Any]], worse: list[dict[str, Any]], relevant: float) -> str:
    if worse:
        most = max(worse, key=lambda row: abs(row["ratio"] - 1))
        return (
            f"B is worse in {len(worse)} of {len(rows)} figures, most in {most['name']}: "
            f"{most['ratio'] - 1:+.1%}"
        )
    if not any(row["enough"] for row in rows):
        return "too few repeats to tell anything: take more pairs"
    unsure = [row for row in rows if max(abs(row["low"] - 1), abs(row["high"] - 1)) > relevant]
    if unsure:
        widest = max(unsure, key=lambda row: row["high"] - row["low"])
        return (
            f"no real regression found; a change of {relevant:.0%} could hide in the noise of "
            f"{len(unsure)} figures, most in {widest['name']}: take more pairs"
        )
    return f"no regression, and none of {relevant:.0%} could hide in the noise"
