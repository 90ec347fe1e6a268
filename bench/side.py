"""One of two checkouts under comparison, in a process of its own: see `bench.compare`.

Its dynamo is that of the checkout; bench is always the one that compares, so both are measured
alike. Reads "go" lines, answers each with one line of JSON: figure -> value.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import nullcontext
from time import thread_time
from typing import Any

import dynamo
from bench import micro, quick


def figures_of_ring(ring: Any, trial: dict[str, Any]) -> dict[str, float]:
    """Puts, then gets, in a closed loop."""
    load = quick.Load(
        nodes=trial["nodes"],
        durability=trial["durability"],
        in_flight=trial["in_flight"],
        size=trial["size"],
        seconds=trial["seconds"] / 2,
        ops=None,
        repeats=1,
    )
    found = asyncio.run(quick.with_client(ring, load))
    return {
        f"{op} {name}": figures[name]
        for op, figures in found.items()
        for name in ("ops_s", "p50_ms", "p99_ms", "cpu_us")
        if figures[name] > 0
    }


def figures_of_pieces(trial: dict[str, Any]) -> dict[str, float]:
    """The best time of every piece that is asked for; a disk is too noisy for this."""
    pieces = [
        piece
        for piece in micro.pieces()
        if trial["only"] in piece[0] and not micro.on_disk(piece[0])
    ]
    seconds = trial["seconds"] / max(1, len(pieces))
    return {
        f"{name} us": micro.timed(call, per_call, seconds, thread_time)["best_us"]
        for name, per_call, call in pieces
    }


def main() -> None:
    trial = json.loads(sys.stdin.readline())
    ringed = trial["what"] == "ring"
    opened: Any = (
        dynamo.local(nodes=trial["nodes"], durability=trial["durability"])
        if ringed
        else nullcontext()
    )
    with opened as ring:
        print(json.dumps({"dynamo": dynamo.__file__}), flush=True)
        for _ in sys.stdin:
            found = figures_of_ring(ring, trial) if ringed else figures_of_pieces(trial)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
