"""`python -m bench peers`: the same load on dynamo and on what one would use instead.

Stores take turns, repeat by repeat, so that whatever else the machine does falls on all of them,
and what counts is the ratio within each turn. One process of clients for all, closed loops; each
store keeps what it holds within a turn, and in the end every store is checked like ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench import measure, stats, workloads
from bench.figures import conditions
from bench.honesty import noop_rate
from bench.measure import Ledger, Report, Setup
from bench.peers.servers import PeerFailed, versions
from bench.runner import FORMAT, WrongAnswer, refuse_not_offered
from bench.stores import STORES, store
from bench.values import Corrupt
from bench.workloads import Workload

# Keys of each store that are read in the end; of more, so many drawn by lot.
CHECKED_KEYS = 5_000
# What the stores call themselves under each durability; those not named do not offer it.
LABELS = {
    "fsync": {
        "dynamo": "dynamo fsync",
        "etcd": "etcd fsync",
        "redis": "Redis WAIT 1, always",
        "nats": "NATS KV x3, sync always",
        "rocksdb": "RocksDB local, sync",
        "lmdb": "LMDB local, sync",
    },
    "interval": {
        "dynamo": "dynamo interval",
        "redis": "Redis WAIT 1, everysec",
        "nats": "NATS KV x3, default",
        "rocksdb": "RocksDB local, no sync",
        "lmdb": "LMDB local, no sync",
    },
}
IN_PROCESS = ("rocksdb", "lmdb")


@dataclass(frozen=True)
class Contest:
    """Which stores meet under which loads."""

    stores: tuple[str, ...]
    workloads: tuple[str, ...]
    in_flight: tuple[int, ...]
    durability: str
    seconds: float
    warm_up_s: float
    repeats: int
    size: int
    keys: int
    processes: int
    seed: int


@dataclass(frozen=True)
class Entrant:
    """One store under one durability."""

    name: str
    durability: str

    @property
    def label(self) -> str:
        return LABELS[self.durability][self.name]


def entrants(contest: Contest) -> tuple[list[Entrant], list[str]]:
    """Who takes part, and in words who cannot."""
    wanted = contest.stores or tuple(STORES)
    for name in wanted:
        if name not in STORES:
            raise ValueError(f"no store {name!r}; there are {', '.join(STORES)}")
    missing = {name: store(name).missing() for name in wanted}
    modes = ("fsync", "interval") if contest.durability == "both" else (contest.durability,)
    present = [
        Entrant(name, mode)
        for mode in modes
        for name in wanted
        if name in LABELS[mode] and not missing[name]
    ]
    return present, [f"{name}: {why}" for name, why in missing.items() if why]


def run(contest: Contest, report: Report) -> dict[str, Any]:
    """Every entrant in every turn; then figures, ratios and verdicts."""
    loads = [workloads.load(name) for name in contest.workloads]
    for load in loads:
        refuse_not_offered(load)
        if load.adds:
            raise ValueError(f"workload {load.name} merges concurrent values, which no peer offers")
    loads = [load.changed(min(contest.keys, load.count), contest.size) for load in loads]
    them, missing = entrants(contest)
    report("measuring the harness alone", 0.0)
    noop = noop_rate(loads[0], max(contest.in_flight), contest.seed)
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    checks: dict[str, list[dict[str, Any]]] = {}
    promises: dict[str, str] = {}
    steps = contest.repeats * len(them)
    turns = list(_turns(contest.repeats, them))
    for number, (turn, entrant) in enumerate(turns):

        def told(what: str, share: float, number: int = number, label: str = "") -> None:
            report(f"{label}: {what}", (number + share) / steps)

        setup = _setup(contest, entrant, turn)
        try:
            promise, cells, check = _turn(
                contest, setup, loads, noop, lambda w, s, e=entrant: told(w, s, label=e.label)
            )
        except PeerFailed as error:
            missing.append(f"{entrant.label}: {error}")
            continue
        promises[entrant.label] = promise
        checks.setdefault(entrant.label, []).append(check)
        for (workload, in_flight), each in cells.items():
            found.setdefault((workload, entrant.label, in_flight), []).append(each)
    return _sealed(contest, them, promises, found, checks, list(dict.fromkeys(missing)))


def _turns(repeats: int, them: list[Entrant]) -> Iterator[tuple[int, Entrant]]:
    """Forth in one turn and back in the next: nobody is always first after a pause."""
    for turn in range(repeats):
        for entrant in them if turn % 2 == 0 else reversed(them):
            yield turn, entrant


def _setup(contest: Contest, entrant: Entrant, turn: int) -> Setup:
    return Setup(
        store=entrant.name,
        durability=entrant.durability,
        rate=0.0,
        seconds=contest.seconds,
        warm_up_s=contest.warm_up_s,
        repeats=1,
        # An engine inside the client's process can be in one process only.
        processes=1 if entrant.name in IN_PROCESS else contest.processes,
        seed=contest.seed + turn,
        timeout_s=5.0,
    )


Cells = dict[tuple[str, int], dict[str, Any]]


def _turn(
    contest: Contest, setup: Setup, loads: list[Workload], noop: float, report: Report
) -> tuple[str, Cells, dict[str, Any]]:
    """One entrant in one turn: its promise, its figures, and whether its answers were right."""
    report("starting", 0.0)
    with store(setup.store).start(setup.nodes, setup.durability, setup.options) as running:
        ledger = Ledger()
        cells: Cells = {}
        try:
            for load in loads:
                for number, in_flight in enumerate(contest.in_flight):
                    these = replace(
                        setup, in_flight=in_flight, processes=min(setup.processes, in_flight)
                    )
                    report(f"{load.name}, {in_flight} in flight", 0.5)
                    cells[load.name, in_flight] = measure.repeat(
                        these, load, running, ledger, noop, lambda w, s: None, number == 0
                    )
            check = measure.check(
                running, loads[0], ledger, lambda what, share: report(what, 0.9), CHECKED_KEYS
            )
        except Corrupt as error:
            raise WrongAnswer(f"{setup.store}: {error}") from None
        return running.promise, cells, check


def _sealed(
    contest: Contest,
    them: list[Entrant],
    promises: dict[str, str],
    found: dict[tuple[str, str, int], list[dict[str, Any]]],
    checks: dict[str, list[dict[str, Any]]],
    missing: list[str],
) -> dict[str, Any]:
    durability = {entrant.label: entrant.durability for entrant in them}
    cells = []
    for (workload, label, in_flight), repeats in sorted(
        found.items(), key=lambda item: (item[0][0], item[0][2])
    ):
        ours = LABELS[durability[label]]["dynamo"]
        cells.append(
            {
                "workload": workload,
                "store": label,
                "in_flight": in_flight,
                **{
                    name: value
                    for name, value in measure.middle(repeats)["all"].items()
                    if name in ("median", "spread", "ok")
                },
                "ratio": _ratio(found.get((workload, ours, in_flight), []), repeats, label == ours),
                "cpu_us": [each["cpu"].get("us_per_op") for each in repeats],
                "marks": _marks(repeats),
                "valid": all(each["harness"]["valid"] for each in repeats),
            }
        )
    verdicts = [_verdict(label, each) for label, each in checks.items()]
    stores = [
        {"name": entrant.name, "label": entrant.label, "promise": promises[entrant.label]}
        for entrant in them
        if entrant.label in promises
    ]
    processes = f"{contest.processes} client process" + ("es" if contest.processes > 1 else "")
    return {
        "bench": "peers",
        "format": FORMAT,
        **conditions(),
        "about": f"{len(stores)} stores in turns; closed loop from {processes}, {contest.size} B, "
        f"{contest.repeats} x {contest.seconds:g} s after {contest.warm_up_s:g} s of warm-up each",
        "config": asdict(contest),
        "peer_versions": versions(),
        "stores": stores,
        "cells": cells,
        "missing": missing,
        "verdicts": verdicts,
        "good": all(verdict["good"] for verdict in verdicts),
        "valid": all(cell["valid"] for cell in cells if not _is_floor(cell, them)),
    }


def _is_floor(cell: dict[str, Any], them: list[Entrant]) -> bool:
    """The floor may be as fast as the harness; that is no reason to refuse the others."""
    return any(e.label == cell["store"] and e.name in IN_PROCESS for e in them)


def _ratio(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], same: bool
) -> dict[str, Any] | None:
    """Our throughput over theirs, turn by turn."""
    if same or len(ours) != len(theirs) or not ours:
        return None
    a, b = ([each["ops"]["all"]["ops_s"] for each in side] for side in (theirs, ours))
    return stats.paired(a, b) if min(*a, *b) > 0 else None


def _marks(repeats: list[dict[str, Any]]) -> list[str]:
    marks = []
    if any(each["harness"]["client_bound"] for each in repeats):
        marks.append("client-bound")
    if not all(each["harness"]["valid"] for each in repeats):
        marks.append("harness-bound")
    failed = sum(
        each["ops"]["all"][name]
        for each in repeats
        for name in ("refused", "error", "timeout", "maybe")
    )
    if failed:
        marks.append(f"{failed:,} failed")
    return marks


def _verdict(label: str, checks: list[dict[str, Any]]) -> dict[str, Any]:
    from bench.tables import data_verdict

    good, text = data_verdict(checks)
    return {"good": good, "text": f"{label}: {text}"}
