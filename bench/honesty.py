"""Whether a figure is the store's, or the harness's own.

Three questions, and a number that fails one is not called valid:

    H1  Were operations sent when they were due? Late sends are in the response time, as they must
        be, but a harness that is often late did not offer the load that it claims.
    H2  Had the worker processes time to spare? A process that is busy all the time sets the pace.
    H3  What would the same harness do with a store that takes no time? (`drivers.Noop`) A rate
        near that one is the harness's own.

In a closed loop nothing is due, and a full worker process is mostly the client library at work:
the figure is then that of client and store together, and is marked so; H3 still decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.crew import Crew
from bench.records import ops_of
from bench.worker import Plan
from bench.workloads import Workload, to_json

LATE_S = 0.001
LATE_SHARE_MAX = 0.05
BUSY_MAX = 0.9
# Of the rate that the harness reaches without a store.
NOOP_SHARE_MAX = 0.5
NOOP_SECONDS = 0.5


def noop_rate(workload: Workload, in_flight: int, seed: int) -> float:
    """Operations per second of one worker with no store behind it."""
    plan = Plan(
        driver={"driver": "noop"},
        workload=to_json(workload),
        writer=0,
        workers=1,
        number=0,
        seed=seed,
        rate=0.0,
        arrivals="fixed",
        in_flight=in_flight,
        warm_up_s=0.1,
        seconds=NOOP_SECONDS,
        check=False,
    )
    with Crew([plan]) as crew:
        began, logs = crew.go(NOOP_SECONDS)
    start = began + plan.warm_up_s
    count = sum(
        start <= ended < start + NOOP_SECONDS for ops in ops_of(logs) for ended in ops.ended
    )
    return count / NOOP_SECONDS


def judge(
    late: Sequence[float],
    ops_s: float,
    logs: Sequence[Mapping[str, Any]],
    noop_ops_s: float,
    closed: bool,
) -> dict[str, Any]:
    """The verdict on one repeat: valid or not, the three figures, and reasons in words."""
    share = sum(wait > LATE_S for wait in late) / len(late) if late and not closed else 0.0
    busy = max((log["cpu_s"] / log["wall_s"] for log in logs if log["wall_s"]), default=0.0)
    noop = ops_s / len(logs) / noop_ops_s if noop_ops_s else 0.0
    reasons: list[str] = []
    marks: list[str] = []
    if share > LATE_SHARE_MAX:
        reasons.append(
            f"{share:.1%} of the operations were sent more than {LATE_S * 1e3:.0f} ms late"
        )
    if noop > NOOP_SHARE_MAX:
        reasons.append(f"the harness alone reaches only {noop_ops_s:,.0f}/s per process")
    if busy > BUSY_MAX:
        text = f"the busiest worker process used {busy:.0%} of a core"
        (marks if closed else reasons).append(text)
    return {
        "valid": not reasons,
        "client_bound": closed and busy > BUSY_MAX,
        "late_share": round(share, 5),
        "busy": round(busy, 3),
        "noop_ops_s": round(noop_ops_s, 1),
        "noop_share": round(noop, 4),
        "reasons": reasons,
        "marks": marks,
    }
