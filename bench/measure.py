"""One repeat of a workload on a store that is up: load, run, watch, check, sum up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import dynamo
from bench import hdr, honesty, records, timeline, verify, watch
from bench.crew import Crew
from bench.drivers import make
from bench.figures import machine_cpu_seconds
from bench.stores import Running
from bench.values import Reads, Writes
from bench.worker import Plan
from bench.workloads import Workload, to_json

CONVERGE_S = 60.0
# Keys looked at in the end; of more, so many drawn by lot.
FINAL_KEYS_MAX = 200_000
FINAL_IN_FLIGHT = 64
FINAL_TRIES = 8

Report = Callable[[str, float], None]  # what goes on, and which share of it is done


@dataclass(frozen=True)
class Setup:
    """Everything about a run but its workload. `rate` 0: a closed loop of `in_flight`."""

    store: str = "dynamo"
    nodes: int = 3
    durability: str = "fsync"
    r: int = 0
    w: int = 0
    rate: float = 2_000.0
    arrivals: str = "poisson"
    in_flight: int = 0
    seconds: float = 10.0
    warm_up_s: float = 2.0
    repeats: int = 3
    processes: int = 2
    seed: int = 1
    faults: str = ""
    # Each worker talks to one node only, the first to the first, as behind a load balancer.
    pinned: bool = False
    timeout_s: float = 2.0
    knobs: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """As stores take them."""
        return {"r": self.r, "w": self.w, "timeout_s": self.timeout_s, "knobs": self.knobs}

    def describe(self) -> str:
        """In one line, for people."""
        # No repeats: a sweep, which has loads of its own.
        often = f"{self.repeats} x " if self.repeats > 1 else ""
        levels = "".join(f" {n.upper()}={v}" for n, v in (("r", self.r), ("w", self.w)) if v)
        loop = (
            f"open loop {f'{self.rate:,.0f}/s ' if self.repeats else ''}{self.arrivals}"
            if self.rate
            else f"closed loop {self.in_flight} in flight"
        )
        plural = "es" if self.processes > 1 else ""
        return (
            f"{self.store} {self.nodes} nodes{levels} {self.durability}; {loop} from "
            f"{self.processes} process{plural}; {often}{self.seconds:g} s "
            f"after {self.warm_up_s:g} s of warm-up"
            + "".join(f"; {name}={value}" for name, value in self.knobs.items())
            + ("; each process talks to one node" if self.pinned else "")
            + (f"; faults: {self.faults}" if self.faults else "")
        )


def as_json(setup: Setup) -> dict[str, Any]:
    """As a result file has it."""
    return asdict(setup)


class Ledger:
    """The logs of everything that was ever written to one running store."""

    def __init__(self) -> None:
        self.writes: dict[int, Writes] = {}
        self.reads: dict[int, Reads] = {}
        self._next_writer = 0

    def writers(self, count: int) -> list[int]:
        """Numbers that no earlier writer of this store had."""
        first, self._next_writer = self._next_writer, self._next_writer + count
        return list(range(first, self._next_writer))

    def take(self, messages: list[dict[str, Any]]) -> None:
        writes, reads = records.logs_of(messages)
        self.writes |= writes
        self.reads |= reads


def plans(setup: Setup, workload: Workload, running: Running, ledger: Ledger) -> list[Plan]:
    """One plan per worker process."""
    count = setup.processes
    vias = []
    if setup.pinned and running.ring is not None:
        names = running.ring.nodes
        vias = [running.ring.url_of(name).removeprefix("dynamo://") for name in names]
    return [
        Plan(
            driver=running.spec | ({"via": vias[number % len(vias)]} if vias else {}),
            workload=to_json(workload),
            writer=writer,
            workers=count,
            number=number,
            seed=setup.seed,
            rate=setup.rate / count,
            arrivals=setup.arrivals,
            in_flight=max(1, setup.in_flight // count),
            warm_up_s=setup.warm_up_s,
            seconds=setup.seconds,
        )
        for number, writer in enumerate(ledger.writers(count))
    ]


def repeat(
    setup: Setup,
    workload: Workload,
    running: Running,
    ledger: Ledger,
    noop_ops_s: float,
    report: Report,
    load: bool = True,
) -> dict[str, Any]:
    """Load if asked to, run once, and sum up; `check` comes after the last repeat on a store."""
    ring = running.ring
    planned = setup.warm_up_s + setup.seconds
    due = max(1.0, setup.rate * planned)

    def progress(done: int) -> None:
        gone = time.monotonic() - began if began else 0.0
        report("running", min(1.0, max(done / due if setup.rate else 0.0, gone / planned)))

    began = 0.0
    with ExitStack() as stack:
        crew = stack.enter_context(Crew(plans(setup, workload, running, ledger), progress))
        if load and not workload.adds:
            report(f"loading {workload.count:,} keys", 0.0)
            crew.load()
        began = crew.start()
        start = began + setup.warm_up_s
        watching = watch.Watch(ring, start) if ring is not None else None
        steps = timeline.parse(setup.faults, ring.nodes, setup.seconds) if ring is not None else []
        acting = timeline.Timeline(ring, steps, start) if steps else None
        time.sleep(max(0.0, start - time.monotonic()))
        before = (watch.cpu_of(running.pids), machine_cpu_seconds())
        time.sleep(max(0.0, start + setup.seconds - time.monotonic()))
        after = (watch.cpu_of(running.pids), machine_cpu_seconds())
        messages = crew.logs(planned)
        if acting is not None:
            report("bringing every node back", 1.0)
            acting.finish()
        seen = watching.finish() if watching is not None else {}
    ledger.take(messages)
    window = records.Window(records.ops_of(messages), start, start + setup.seconds)
    found = _summary(setup, messages, window, ledger)
    found["cpu"] = {} if steps else _cpu(found, messages, before, after, setup.seconds)
    found["memory_mb"] = watch.memory_mb(running.pids)
    found["harness"] = honesty.judge(
        window.late, found["ops"]["all"]["ops_s"], messages, noop_ops_s, not setup.rate
    )
    if seen:
        found["nodes"] = seen
        found["repairs_per_read"] = _per_read(seen, found)
    if acting is not None:
        found["marks"] = acting.marks
        found["converged_s"] = acting.converged_s
        found["fault_trouble"] = acting.trouble
    return found


def _summary(
    setup: Setup, messages: list[dict[str, Any]], window: records.Window, ledger: Ledger
) -> dict[str, Any]:
    refused = hdr.percentiles(hdr.of(window.refused_s)) if window.refused_s else {}
    return {
        "offered_s": setup.rate,
        "seconds": setup.seconds,
        "ops": records.figures_of(window),
        "series": records.series_of(window),
        "refused_in": refused,
        "errors": records.errors_of(messages),
        "siblings": records.siblings_of(messages),
        "staleness": records.staleness(
            verify.Logs(ledger.writes, ledger.reads), window.start, window.end
        ),
    }


def _cpu(
    found: dict[str, Any],
    messages: list[dict[str, Any]],
    before: tuple[float, float],
    after: tuple[float, float],
    seconds: float,
) -> dict[str, float]:
    """Processor time per acknowledged operation, and what others on the machine used."""
    done = max(1.0, found["ops"]["all"]["ops_s"] * seconds)
    nodes = after[0] - before[0]
    clients = sum(message["cpu_s"] for message in messages)
    others = after[1] - before[1] - nodes - clients
    return {
        "us_per_op": round((nodes + clients) / done * 1e6, 1),
        "nodes_us_per_op": round(nodes / done * 1e6, 1),
        "clients_us_per_op": round(clients / done * 1e6, 1),
        "others_busy": round(max(0.0, others / seconds), 2),
    }


def _per_read(seen: dict[str, Any], found: dict[str, Any]) -> float:
    reads = found["siblings"]["reads"]
    counters = seen["counters"]
    repairs = counters["read_repairs"] + counters["read_repairs_own"]
    return round(repairs / reads, 6) if reads else 0.0


# --- the check at the end -----------------------------------------------------------------------


def check(
    running: Running,
    workload: Workload,
    ledger: Ledger,
    report: Report,
    keys_max: int = FINAL_KEYS_MAX,
) -> dict[str, Any]:
    """Let replicas agree, read what they hold, and hold it against the logs."""
    report("waiting for all replicas to agree", 0.0)
    began = time.monotonic()
    note = ""
    if running.ring is not None:
        try:
            running.ring.wait_converged(timeout=CONVERGE_S)
        except dynamo.NotConverged as error:
            verdict = verify.Verdict(lost=[str(error)])
            return verdict.to_json()
    converged_s = round(time.monotonic() - began, 3)
    logs = verify.Logs(ledger.writes, ledger.reads)
    keys = sorted(logs.written_keys())
    if len(keys) > keys_max:
        note = f"{keys_max:,} of {len(keys):,} keys, drawn by lot, were read at the end"
        keys = sorted(random.Random(0).sample(keys, keys_max))
    held = asyncio.run(_read_all(running, keys, bool(workload.adds), report))
    if workload.adds:
        verdict = verify.verify_fields(ledger.writes, held, workload.adds)
    else:
        tags = {key: verify.final_tags(key, values) for key, values in held.items()}
        verdict = verify.verify(logs, tags)
    verdict.note = note
    return verdict.to_json() | {"replicas_agreed_after_s": converged_s}


async def _read_all(
    running: Running, keys: Iterable[int], fields: bool, report: Report
) -> dict[int, Any]:
    driver = make(running.final)
    await driver.connect()
    keys = list(keys)
    held: dict[int, Any] = {}
    left = iter(keys)
    call = driver.fields if fields else driver.read

    async def lane() -> None:
        for key in left:
            for attempt in range(FINAL_TRIES):
                try:
                    held[key] = await call(f"user{key}")
                    break
                except Exception as error:
                    if attempt + 1 == FINAL_TRIES:
                        raise RuntimeError(
                            f"key {key} cannot be read at the end: {error}"
                        ) from error
                    await asyncio.sleep(0.1 * 2**attempt)
            if len(held) % 500 == 0:
                report("reading every key from all replicas", len(held) / len(keys))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(FINAL_IN_FLIGHT):
                group.create_task(lane())
    finally:
        await driver.close()
    return held


# --- several repeats ----------------------------------------------------------------------------


def middle(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Per kind of operation the medians over repeats, each with its spread where there are some.

    Spread: (highest - lowest) / median; a difference below it is noise.
    """
    found: dict[str, Any] = {}
    for kind in repeats[0]["ops"]:
        rows = [each["ops"][kind] for each in repeats if kind in each["ops"]]
        totals = {
            name: sum(row[name] for row in rows)
            for name in ("due", "ok", "refused", "error", "timeout", "maybe", "unsent")
        }
        found[kind] = totals | _middle_of(rows)
    return found


def _middle_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    flat = [
        {"ops_s": row["ops_s"]}
        | {f"{time}.{name}": v for time in records.TIMES for name, v in row[time].items()}
        for row in rows
    ]
    return {
        "median": {name: round(median(row[name] for row in flat), 3) for name in flat[0]},
        "spread": {
            name: spread([row[name] for row in flat])
            for name in ("ops_s", "response.p50_ms", "response.p99_ms")
        },
    }


def spread(values: list[float]) -> float:
    """(highest - lowest) / median; 0 where nothing was measured."""
    mid = median(values)
    return round((max(values) - min(values)) / mid, 3) if mid else 0.0
