"""`python -m bench sweep`: latency against offered load, from idle to beyond what is served.

All steps on one ring that keeps what it holds; each sends at a fixed mean rate whatever becomes of
the operations before. The knee is the highest load that was still served in full and in time, with
every lower one: what one may plan with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench import measure, runner
from bench.figures import conditions
from bench.honesty import noop_rate
from bench.measure import Ledger, Report, Setup
from bench.values import Corrupt
from bench.workloads import Workload, to_json

STEPS_MAX = 30
# A step is served in full if so much of the offered load was acknowledged, and in time if its p99
# is at most so many times that of the lowest load.
SERVED = 0.97
SLOWER = 10.0
KNEE_RULE = f"{SLOWER:g} times the p99 of the lowest load, {SERVED:.0%} of it acknowledged"


def rates(low: float, high: float, steps: int) -> list[float]:
    """Loads in equal ratios from `low` to `high`."""
    if not 0 < low < high:
        raise ValueError(f"a sweep goes up from a rate above 0, not from {low:g} to {high:g}")
    if not 2 <= steps <= STEPS_MAX:
        raise ValueError(f"a sweep has 2 to {STEPS_MAX} steps, not {steps}")
    factor = (high / low) ** (1 / (steps - 1))
    return [low * factor**i for i in range(steps)]


def knee(steps: Sequence[dict[str, Any]]) -> float | None:
    """The offered load of the knee; None if even the lowest was not served."""
    found = None
    limit = SLOWER * steps[0]["ops"]["all"]["response"]["p99_ms"]
    for step in steps:
        row = step["ops"]["all"]
        served = row["ops_s"] >= SERVED * row["due"] / step["seconds"]
        if not served or row["response"]["p99_ms"] > limit:
            break
        found = step["offered_s"]
    return found


def run(setup: Setup, workload: Workload, loads: list[float], report: Report) -> dict[str, Any]:
    """Every load once, on one store, and the check of everything at the end."""
    runner.refuse_not_offered(workload)
    report("measuring the harness alone", 0.0)
    noop = noop_rate(workload, 64, setup.seed)
    steps: list[dict[str, Any]] = []
    with runner.started(setup) as running:
        ledger = Ledger()
        try:
            for number, rate in enumerate(loads):
                these = replace(setup, rate=rate, seed=setup.seed + number, repeats=1)

                def told(what: str, share: float, number: int = number, rate: float = rate) -> None:
                    report(f"{rate:,.0f}/s: {what}", (number + share * 0.9) / len(loads))

                steps.append(
                    measure.repeat(these, workload, running, ledger, noop, told, load=number == 0)
                )
            check = measure.check(running, workload, ledger, report)
        except Corrupt as error:
            raise runner.WrongAnswer(str(error)) from None
        promise = running.promise
    return _sealed(setup, workload, steps, check, promise)


def _sealed(
    setup: Setup,
    workload: Workload,
    steps: list[dict[str, Any]],
    check: dict[str, Any],
    promise: str,
) -> dict[str, Any]:
    found = knee(steps)
    if found is None:
        text = "no knee: not even the lowest load was served in full and in time"
    elif found == steps[-1]["offered_s"]:
        text = f"no knee: even {found:,.0f}/s was served; go on with a higher --to"
    else:
        text = f"knee at {found:,.0f}/s: the highest load served in full and in time"
    low, high = steps[0]["offered_s"], steps[-1]["offered_s"]
    return {
        "bench": "sweep",
        "format": runner.FORMAT,
        **conditions(),
        "promise": promise,
        "config": measure.as_json(setup),
        "about": f"{replace(setup, repeats=0).describe()}; "
        f"{len(steps)} loads from {low:,.0f} to {high:,.0f}/s",
        "workload": to_json(workload),
        "steps": steps,
        "knee_s": found,
        "knee": text,
        "knee_rule": KNEE_RULE,
        "check": check,
        "good": check["good"],
        "valid": all(
            step["harness"]["valid"] for step in steps if step["offered_s"] <= (found or 0)
        ),
    }
