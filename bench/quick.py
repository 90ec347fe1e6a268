"""The quick closed loop on a real ring: puts of unique keys, then gets that check what was put.

    this process                       node processes, loopback
    in_flight asyncio tasks  ────────▶ n1 n2 n3 ...
    each: next key, put, note the time, again

Closed means that each task waits for its answer before it asks again: the figure is the ring's
throughput at that many requests in flight, and its latency says nothing about an overload, in
which an open loop would keep sending. Warm-up is discarded; a wrong or missing value, or any
error, makes the whole run worthless and ends it.
"""

from __future__ import annotations

import asyncio
import os
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, cycle, islice
from typing import Any

import dynamo
from bench.figures import (
    conditions,
    cpu_seconds,
    descendants,
    heading,
    latencies,
    machine_cpu_seconds,
    summary,
)

WARM_UP_SHARE = 0.2  # of the measured length, before each phase
WARM_UP_OPS_MIN = 200
# From here on the table says that a figure is not the ring's own, in busy cores.
CLIENT_BUSY_MAX = 0.9
OTHERS_BUSY_MAX = 0.2


class WrongRead(Exception):
    """The ring answered something else than what was put."""


@dataclass(frozen=True)
class Load:
    """What one run does. Exactly one of `seconds` and `ops` is set; each is per phase."""

    nodes: int
    durability: str
    in_flight: int
    size: int
    seconds: float | None
    ops: int | None
    repeats: int


def value_of(key: str, size: int) -> bytes:
    """The value that belongs to a key, so that a read is checked without a copy of the data."""
    return (f"{key}=".encode() * (size // (len(key) + 1) + 1))[:size]


Figures = dict[str, float]
Operation = Callable[[int], Awaitable[None]]


async def drive(
    operation: Operation, numbers: Iterator[int], in_flight: int, seconds: float | None
) -> tuple[array[float], float]:
    """Run `operation` on the numbers until they or the time end: latencies, seconds in all."""
    taken = array("d")
    clock = time.perf_counter
    began = clock()
    until = began + seconds if seconds else float("inf")

    async def worker() -> None:
        # The time is looked at first: a number once taken is used, so none is missing later.
        while (start := clock()) < until and (number := next(numbers, None)) is not None:
            await operation(number)
            taken.append(clock() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())
    return taken, clock() - began


async def phase(
    operation: Operation, warm_up: Iterator[int], numbers: Iterator[int], load: Load
) -> Figures:
    """Warm up, then measure one kind of operation."""
    await drive(operation, warm_up, load.in_flight, load.seconds and load.seconds * WARM_UP_SHARE)
    client, nodes = os.getpid(), descendants(os.getpid())
    client_before, nodes_before = cpu_seconds(client), sum(map(cpu_seconds, nodes))
    all_before = machine_cpu_seconds()
    taken, elapsed = await drive(operation, numbers, load.in_flight, load.seconds)
    client_cpu = cpu_seconds(client) - client_before
    nodes_cpu = sum(map(cpu_seconds, nodes)) - nodes_before
    others_cpu = machine_cpu_seconds() - all_before - client_cpu - nodes_cpu
    return {
        "ops": len(taken),
        "ops_s": round(len(taken) / elapsed, 1),
        **latencies(taken),
        "cpu_us": round((client_cpu + nodes_cpu) / len(taken) * 1e6, 1),
        "cpu_us_nodes": round(nodes_cpu / len(taken) * 1e6, 1),
        "cpu_us_client": round(client_cpu / len(taken) * 1e6, 1),
        "client_busy": round(client_cpu / elapsed, 2),
        "others_busy": round(max(0.0, others_cpu / elapsed), 2),
    }


async def puts_and_gets(kv: Any, load: Load) -> dict[str, Figures]:
    """Both phases with one client. Warm-up keys are read but not measured."""
    written = 0
    size = load.size

    async def put(number: int) -> None:
        nonlocal written
        key = f"bench-{number}"
        await kv.put(key, value_of(key, size))
        written = max(written, number + 1)

    async def get(number: int) -> None:
        key = f"bench-{number}"
        value = await kv.get(key)
        if value != value_of(key, size):
            raise WrongRead(f"{key} holds {value!r}")

    # With --seconds the numbers do not end, the time does.
    warm = max(WARM_UP_OPS_MIN, int((load.ops or 0) * WARM_UP_SHARE))
    numbers = count()
    warm_up = None if load.seconds else warm
    puts = await phase(put, islice(numbers, warm_up), islice(numbers, load.ops), load)
    again = cycle(range(written))
    gets = await phase(get, islice(again, warm_up), islice(again, load.ops), load)
    return {"put": puts, "get": gets}


def measure(load: Load) -> dict[str, Any]:
    """Every repeat on a ring of its own, and the median of them all."""
    result: dict[str, Any] = {"bench": "run", **conditions(), "config": asdict(load)}
    repeats: list[dict[str, Figures]] = []
    for _ in range(load.repeats):
        with dynamo.local(nodes=load.nodes, durability=load.durability) as ring:
            repeats.append(asyncio.run(with_client(ring, load)))
    result["repeats"] = repeats
    result["median"] = {op: summary([r[op] for r in repeats]) for op in ("put", "get")}
    return result


async def with_client(ring: Any, load: Load) -> dict[str, Figures]:
    """Both phases on a ring that is up."""
    try:
        async with ring.async_client() as kv:
            return await puts_and_gets(kv, load)
    except* WrongRead as wrong:
        raise WrongRead(str(wrong.exceptions[0])) from None


def table(result: dict[str, Any]) -> str:
    load, middle = result["config"], result["median"]
    n = min(3, load["nodes"])
    length = f"{load['ops']:,} ops" if load["ops"] else f"{load['seconds']:g} s"
    lines = [
        f"{load['nodes']} nodes  N={n} R=W={n // 2 + 1}  {load['durability']}  "
        f"{load['in_flight']} in flight  {load['size']} B  {load['repeats']} x {length}",
        heading(result),
        "",
        "op       ops/s  spread   p50 ms   p99 ms   max ms   CPU us/op  (nodes  client)",
    ]
    for op in ("put", "get"):
        f = middle[op]
        lines.append(
            f"{op}  {f['ops_s']:10,.0f}  {f['spread']:5.0%}  {f['p50_ms']:7.2f}  {f['p99_ms']:7.2f}"
            f"  {f['max_ms']:7.1f}  {f['cpu_us']:10.1f}  ({f['cpu_us_nodes']:5.1f}"
            f"  {f['cpu_us_client']:6.1f})"
        )
    busy, others = (
        max(middle[op][name] for op in ("put", "get")) for name in ("client_busy", "others_busy")
    )
    if busy > CLIENT_BUSY_MAX:
        lines += ["", f"the client process was {busy:.0%} busy: it set the pace, not the ring"]
    if others > OTHERS_BUSY_MAX:
        lines += ["", f"other work used {others:.1f} of the cores meanwhile: measure again"]
    return "\n".join(lines)
