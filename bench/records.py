"""From the logs of the workers to the figures of one repeat: plain JSON, everything with its unit.

response   from when an operation was due to its answer: what a caller feels who does not wait
service    from when it was sent to its answer: what the store and its client took
wait       from due to sent: the harness, or the client process, was busy
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bench import hdr
from bench.drivers import OK, OUTCOMES
from bench.figures import percentile
from bench.values import ACKED, Reads, Writes
from bench.verify import Logs
from bench.worker import UNSENT, Ops
from bench.workloads import KINDS

TIMES = ("response", "service", "wait")
SERIES_POINTS = 60
OK_CODE = OUTCOMES.index(OK)
# Ages of the newest acknowledged write at which reads are sorted, in milliseconds.
AGES_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000)
STALE_READS_MAX = 200_000


def ops_of(logs: Sequence[Mapping[str, Any]]) -> list[Ops]:
    """The operations of each worker."""
    found = []
    for log in logs:
        ops = Ops()
        for name in Ops.COLUMNS:
            getattr(ops, name).frombytes(log["ops"][name])
        found.append(ops)
    return found


class Window:
    """The operations that were due in the measured part, and what was done in it, by kind."""

    def __init__(self, workers: Sequence[Ops], start: float, end: float) -> None:
        self.start, self.end = start, end
        self.outcomes: dict[int, Counter[int]] = defaultdict(Counter)
        self.times: dict[int, dict[str, array[float]]] = {}
        # Acknowledged within the window, whenever due: an overloaded store that answers all
        # of a second's operations five seconds later has not served them at that rate.
        self.done: Counter[int] = Counter()
        self.ended: dict[int, array[float]] = defaultdict(lambda: array("d"))
        self.refused_s = array("d")
        self.failed: dict[int, array[float]] = defaultdict(lambda: array("d"))
        self.sent = 0
        self.late: list[float] = []
        for ops in workers:
            self._take(ops)

    def _take(self, ops: Ops) -> None:
        refused = OUTCOMES.index("refused")
        for kind, outcome, due, sent, ended in zip(
            ops.kind, ops.outcome, ops.due, ops.sent, ops.ended, strict=True
        ):
            if outcome == OK_CODE and self.start <= ended < self.end:
                self.done[kind] += 1
            if not self.start <= due < self.end:
                continue
            self.outcomes[kind][outcome] += 1
            if outcome != UNSENT:
                self.sent += 1
                self.late.append(sent - due)
            if outcome != OK_CODE:
                self.failed[kind].append(ended)
                if outcome == refused:
                    self.refused_s.append(ended - sent)
                continue
            times = self.times.get(kind)
            if times is None:
                times = self.times[kind] = {name: array("d") for name in TIMES}
            times["response"].append(ended - due)
            times["service"].append(ended - sent)
            times["wait"].append(sent - due)
            self.ended[kind].append(ended)


def figures_of(window: Window) -> dict[str, Any]:
    """Per kind of operation, and of all: counts by outcome, rate, percentiles, histograms."""
    seconds = window.end - window.start
    found: dict[str, Any] = {}
    for kind, outcomes in sorted(window.outcomes.items()):
        times = window.times.get(kind, {name: array("d") for name in TIMES})
        found[KINDS[kind]] = _figures(outcomes, times, window.done[kind] / seconds)
    everything = {
        name: array("d", [t for times in window.times.values() for t in times[name]])
        for name in TIMES
    }
    total: Counter[int] = Counter()
    for outcomes in window.outcomes.values():
        total.update(outcomes)
    found["all"] = _figures(total, everything, window.done.total() / seconds)
    return found


def _figures(
    outcomes: Mapping[int, int], times: Mapping[str, Sequence[float]], ops_s: float
) -> dict[str, Any]:
    made = {name: hdr.of(values) for name, values in times.items()}
    return {
        "due": sum(outcomes.values()),
        **{outcome: outcomes.get(code, 0) for code, outcome in enumerate(OUTCOMES)},
        "unsent": outcomes.get(UNSENT, 0),
        "ops_s": round(ops_s, 1),
        **{name: hdr.percentiles(histogram) for name, histogram in made.items()},
        "hdr": {name: hdr.encoded(histogram) for name, histogram in made.items()},
    }


def series_of(window: Window) -> dict[str, Any]:
    """The same over time: rates, errors and percentiles of each interval, by kind."""
    seconds = window.end - window.start
    every = max(0.25, seconds / SERIES_POINTS)
    points = max(1, round(seconds / every))
    every = seconds / points
    kinds: dict[str, Any] = {}
    for kind in sorted(window.outcomes):
        buckets: list[list[float]] = [[] for _ in range(points)]
        times = window.times.get(kind)
        if times is not None:
            for ended, response in zip(window.ended[kind], times["response"], strict=True):
                # Drained after the end: it belongs to the last interval.
                buckets[min(points - 1, max(0, int((ended - window.start) / every)))].append(
                    response
                )
        failed = [0] * points
        for ended in window.failed[kind]:
            failed[min(points - 1, max(0, int((ended - window.start) / every)))] += 1
        for bucket in buckets:
            bucket.sort()
        kinds[KINDS[kind]] = {
            "ok_s": [round(len(bucket) / every, 1) for bucket in buckets],
            "failed_s": [round(count / every, 2) for count in failed],
            **{
                name: [_tell(bucket, at) for bucket in buckets]
                for name, at in {**hdr.SHOWN, "max_ms": 100.0}.items()
            },
        }
    return {"every_s": round(every, 4), "kinds": kinds}


def staleness(logs: Logs, start: float, end: float, seed: int = 0) -> dict[str, Any]:
    """How many reads missed the newest write acknowledged before they began, by its age.

    A read is fresh if it shows that write, or one that ended after it began: concurrent or later.
    A write that may have been applied makes no read stale.
    """
    written = _acked_by_key(logs.writes)
    counts = [[0, 0] for _ in range(len(AGES_MS) + 1)]
    looked = [
        (writer, index)
        for writer, log in logs.reads.items()
        for index, begun in enumerate(log.begun)
        if start <= begun < end
    ]
    if len(looked) > STALE_READS_MAX:
        looked = random.Random(seed).sample(looked, STALE_READS_MAX)
    for writer, index in looked:
        log = logs.reads[writer]
        ends, begins, tags = written.get(log.key[index], ((), (), ()))
        at = bisect_left(ends, log.begun[index]) - 1
        if at < 0:
            continue
        bucket = counts[bisect_right(AGES_MS, (log.begun[index] - ends[at]) * 1e3)]
        bucket[0] += 1
        shown = logs.shown(writer, index)
        if tags[at] not in shown and not any(
            tag[0] in logs.writes and logs.end_of(tag) > begins[at] for tag in shown
        ):
            bucket[1] += 1
    reads, stale = (sum(bucket[i] for bucket in counts) for i in (0, 1))
    return {
        "ages_ms": list(AGES_MS),
        "reads": [bucket[0] for bucket in counts],
        "stale": [bucket[1] for bucket in counts],
        "share": round(stale / reads, 6) if reads else 0.0,
    }


def _tell(ordered: list[float], at: float) -> float | None:
    """A percentile in milliseconds; None where there are too few values to tell it from the top."""
    if not ordered or len(ordered) < 100 / max(100 - at, 1e-9) <= 1e6:
        return None
    return round(percentile(ordered, at) * 1e3, 3)


Acked = tuple[Sequence[float], Sequence[float], Sequence[tuple[int, int]]]


def _acked_by_key(writes: Mapping[int, Writes]) -> dict[int, Acked]:
    """Per key its acknowledged writes by their end: ends, begins, tags."""
    rows: dict[int, list[tuple[float, float, tuple[int, int]]]] = defaultdict(list)
    for writer, log in writes.items():
        for seq, key in enumerate(log.key):
            if log.state[seq] == ACKED and not log.gone[seq]:
                rows[key].append((log.ended[seq], log.begun[seq], (writer, seq)))
    found: dict[int, Acked] = {}
    for key, row in rows.items():
        row.sort()
        ends, begins, tags = zip(*row, strict=True)
        found[key] = (ends, begins, tags)
    return found


def siblings_of(logs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many reads showed more than one value."""
    reads = sum(log["reads_n"] for log in logs)
    several = sum(log["with_siblings"] for log in logs)
    return {"reads": reads, "several": several, "share": round(several / reads, 6) if reads else 0}


def errors_of(logs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """By name, most frequent first."""
    total: Counter[str] = Counter()
    for log in logs:
        total.update(log["errors"])
    return dict(total.most_common(20))


def logs_of(messages: Sequence[Mapping[str, Any]]) -> tuple[dict[int, Writes], dict[int, Reads]]:
    """Writes and reads by writer, as the workers sent them."""
    from bench.values import unpacked

    writes: dict[int, Writes] = {}
    reads: dict[int, Reads] = {}
    for message in messages:
        if message["writes"]:
            writes[message["writer"]] = unpacked(Writes(), message["writes"])
            log = unpacked(Reads(), message["reads"])
            log.extras = [
                (index, [tuple(tag) for tag in tags]) for index, tags in message["extras"]
            ]
            log.with_siblings = message["with_siblings"]
            reads[message["writer"]] = log
    return writes, reads
