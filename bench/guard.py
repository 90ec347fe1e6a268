"""`python -m bench.guard`: cost ratios that a change must not break, for `.ci/run`.

Ratios only: both sides of each are measured here and now, so a slow or a busy machine moves both,
and in processor time of this thread, so that the time of others does not count.
Limits leave about twice the room of what was measured when they were set; a ratio that is over
its limit is measured again, and fails if it is over three times. The pieces of `bench.micro` are
held against `baseline.json` in the same way: each may cost three times what it did, for on a
machine that is busy with other work the same piece was seen at 1.9.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import thread_time
from typing import NamedTuple

from bench import micro
from bench.micro import BATCH, Trio, timed
from dynamo.core import dvv, ring

SECONDS = 0.3
ATTEMPTS = 3
PIECE_SECONDS = 0.05
PIECE_LIMIT = 3.0


class Ratio(NamedTuple):
    name: str
    limit: float
    measure: Callable[[], float]


def _best_us(call: Callable[[], object], per_call: int = 1) -> float:
    return timed(call, per_call, SECONDS, thread_time)["best_us"]


def reference_us() -> float:
    """A yardstick for this machine: one key hashed, one clock encoded and decoded."""
    clock: dvv.Clock = [(b"a" * dvv.ACTOR_BYTES, 1, [(b"i" * 16, 0, 1, 0, b"v" * 100)])]

    def work() -> None:
        ring.storage_key(b"\x07defaultuser:1", 256)
        dvv.decode(dvv.encode(clock))

    return _best_us(work)


def batching() -> float:
    """A put among many must cost less than a put alone: cost falls as load grows."""
    alone, many = Trio(), Trio()
    return _best_us(lambda: many.put(BATCH, same=False), BATCH) / _best_us(
        lambda: alone.put(1, same=False)
    )


def put_cost() -> float:
    trio = Trio()
    return _best_us(lambda: trio.put(BATCH, same=False), BATCH) / reference_us()


def get_cost() -> float:
    trio = Trio()
    trio.put(BATCH, same=True)
    return _best_us(lambda: trio.get(BATCH), BATCH) / reference_us()


def growth() -> float:
    """A get must cost the same with 30,000 keys in the ring as with 64."""
    small, large = Trio(), Trio()
    small.put(BATCH, same=True)
    for _ in range(30_000 // BATCH):
        large.put(BATCH, same=False)
    return _best_us(lambda: large.get(BATCH), BATCH) / _best_us(lambda: small.get(BATCH), BATCH)


RATIOS = (
    Ratio("put among 64 / put alone", 0.8, batching),
    Ratio("put on three nodes / yardstick", 65, put_cost),
    Ratio("get on three nodes / yardstick", 30, get_cost),
    Ratio("get with 30,000 keys / with 64", 1.6, growth),
)


def pieces() -> list[Ratio]:
    """Each piece against the baseline, in units of the yardstick measured beside it."""
    before = micro.baseline()
    return [
        Ratio(f"{name} / baseline", PIECE_LIMIT, _against(before[name], call, per_call))
        for name, per_call, call in micro.pieces()
        if name in before
    ]


def _against(before: float, call: Callable[[], object], per_call: int) -> Callable[[], float]:
    def measure() -> float:
        unit = micro.yardstick_us(PIECE_SECONDS, thread_time)
        return timed(call, per_call, PIECE_SECONDS, thread_time)["best_us"] / unit / before

    return measure


def verdict(ratio: Ratio) -> tuple[float, bool]:
    """The least of up to three measurements, and whether even that is over the limit."""
    least = float("inf")
    for _ in range(ATTEMPTS):
        least = min(least, ratio.measure())
        if least <= ratio.limit:
            break
    return least, least > ratio.limit


def main() -> int:
    failed = False
    for ratio in (*RATIOS, *pieces()):
        found, over = verdict(ratio)
        failed |= over
        print(f"{ratio.name:54} {found:7.2f}  limit {ratio.limit:g}{'  OVER' if over else ''}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
