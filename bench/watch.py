"""What only the nodes of a ring know, while a run goes on: hints owed, repairs, memory, balance."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from bench.figures import cpu_seconds
from dynamo.convergence import unpack_owners
from dynamo.core import planner
from dynamo.server.admin import Admin
from dynamo.server.config import Address

EVERY_S = 0.5
ASK_S = 0.4
COUNTERS = (
    *("read_repairs", "read_repairs_own", "conflicts", "hints_created", "hints_delivered"),
    *("stood_in", "hedged", "overloaded", "exchange_pages", "exchange_pulled", "exchange_pushed"),
)


def addresses_of(ring: Any) -> dict[str, Address]:
    """The nodes of a `dynamo.local` ring."""
    names = ring.nodes
    found = {}
    for name in names:
        host, _, port = ring.url_of(name).removeprefix("dynamo://").rpartition(":")
        found[name] = Address(host, int(port))
    return found


class Watch:
    """Asks all nodes twice a second, in a thread of its own."""

    def __init__(self, ring: Any, start: float) -> None:
        self._nodes = addresses_of(ring)
        self._start = start
        self._admin = Admin()
        self._stop = threading.Event()
        self.samples: list[dict[str, Any]] = []
        self._before = self._counters()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> dict[str, Any]:
        """End; the samples, and what the counters of all nodes rose by.

        A node that was restarted begins again at zero, so with restarts the sums are too low.
        """
        self._stop.set()
        self._thread.join()
        after = self._counters()
        rose = {
            name: sum(
                max(0, counts.get(name, 0) - self._before.get(node, {}).get(name, 0))
                for node, counts in after.items()
            )
            for name in COUNTERS
        }
        return {"every_s": EVERY_S, "samples": self.samples, "counters": rose}

    def _counters(self) -> dict[str, dict[str, int]]:
        answers = self._admin.status(self._nodes, "status", 2.0)
        return {name: answer["stats"] for name, answer in answers.items()}

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            answers = self._admin.status(self._nodes, "status", ASK_S)
            self.samples.append(
                {
                    "at_s": round(time.monotonic() - self._start, 2),
                    "answering": len(answers),
                    "hints": sum(sum(a["hints"].values()) for a in answers.values()),
                    "pending": sum(a["pending"] for a in answers.values()),
                }
            )


def balance(ring: Any) -> dict[str, Any]:
    """How the copies of all arcs are dealt out, and what a further node would move."""
    answers = Admin().ring(addresses_of(ring), 5.0)
    if not answers:
        return {}
    answer = next(iter(answers.values()))
    owners = unpack_owners(answer[9], [member[0] for member in answer[8]])
    counts = dict.fromkeys(ring.nodes, 0)
    for names in owners:
        for name in names:
            counts[name] += 1
    mean = sum(counts.values()) / len(counts)
    copies = len(owners[0]) if owners else 0
    shape = dict.fromkeys(ring.nodes, ("", 1)) | {"joining": ("", 1)}
    moved = joined = 0
    for old, new in zip(owners, planner.plan(owners, shape, copies), strict=True):
        moved += len(set(new) - set(old))
        joined += "joining" in new
    return {
        "copies_by_node": counts,
        "max_over_mean": round(max(counts.values()) / mean, 4) if mean else 0.0,
        "join": {
            "copies_moved": moved,
            "to_the_new_node": joined,
            "ideal": round(len(owners) * copies / (len(ring.nodes) + 1), 1),
            "of": len(owners) * copies,
        },
    }


def memory_mb(pids: list[int]) -> list[float]:
    """Resident memory of processes, those that are gone left out."""
    page = os.sysconf("SC_PAGE_SIZE")
    found = []
    for pid in pids:
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        found.append(round(pages * page / 1e6, 1))
    return found


def cpu_of(pids: list[int]) -> float:
    """Processor seconds of processes together."""
    return sum(map(cpu_seconds, pids))
