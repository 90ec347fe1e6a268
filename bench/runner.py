"""`python -m bench run WORKLOAD`: repeats on a fresh store each, checked, judged, summed up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from bench import measure, timeline, watch
from bench.figures import conditions
from bench.honesty import noop_rate
from bench.measure import Ledger, Report, Setup
from bench.stores import Running, store
from bench.values import Corrupt
from bench.workloads import Workload, WorkloadError, to_json

FORMAT = 1  # of result files


class WrongAnswer(Exception):
    """The store answered what nobody had written: no figure is worth anything after that."""


@contextmanager
def started(setup: Setup) -> Iterator[Running]:
    """The store of a setup, up and empty."""
    with store(setup.store).start(setup.nodes, setup.durability, setup.options) as running:
        yield running


def run(setup: Setup, workload: Workload, report: Report) -> dict[str, Any]:
    """All repeats, and the verdicts on them."""
    refuse_not_offered(workload)
    timeline.parse(setup.faults, [f"n{i + 1}" for i in range(setup.nodes)], setup.seconds)
    report("measuring the harness alone", 0.0)
    noop = noop_rate(workload, setup.in_flight or 64, setup.seed)
    repeats = []
    promise = ""
    for number in range(setup.repeats):
        these = replace(setup, seed=setup.seed + number)

        def told(what: str, share: float, number: int = number) -> None:
            report(f"repeat {number + 1} of {setup.repeats}: {what}",
                   (number + share) / setup.repeats)  # fmt: skip

        told("starting the store", 0.0)
        with started(these) as running:
            promise = running.promise
            ledger = Ledger()
            try:
                found = measure.repeat(
                    these, workload, running, ledger, noop, lambda w, s, t=told: t(w, s * 0.8)
                )
                found["check"] = measure.check(
                    running, workload, ledger, lambda w, s, t=told: t(w, 0.8 + s * 0.2)
                )
            except Corrupt as error:
                raise WrongAnswer(str(error)) from None
            if running.ring is not None and number == 0:
                found["balance"] = watch.balance(running.ring)
        repeats.append(found)
    return sealed("run", setup, workload, repeats, promise)


def refuse_not_offered(workload: Workload) -> None:
    if workload.not_offered:
        raise WorkloadError(f"{workload.title} is not offered. {workload.not_offered}")


def sealed(
    kind: str, setup: Setup, workload: Workload, repeats: list[dict[str, Any]], promise: str
) -> dict[str, Any]:
    """A result as files hold it: conditions, configuration, every repeat, medians, verdicts."""
    return {
        "bench": kind,
        "format": FORMAT,
        **conditions(),
        "promise": promise,
        "config": measure.as_json(setup),
        "about": setup.describe(),
        "workload": to_json(workload),
        "repeats": repeats,
        "median": measure.middle(repeats),
        "good": all(each["check"]["good"] for each in repeats if "check" in each),
        "valid": all(each["harness"]["valid"] for each in repeats),
    }


def together(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Several runs as one result, such as the same workload under other levels."""
    return {
        "bench": "set",
        "format": FORMAT,
        "results": results,
        "good": all(each["good"] for each in results),
        "valid": all(each["valid"] for each in results),
    }
