"""Telling a difference from noise with few, paired and not at all normal measurements.

Two sides are measured in turns, A B B A A B ..., so that whatever else the machine does falls on
both. What counts is the ratio within each pair; its logarithm makes +5 % and -5 % alike.

    estimate     median of the ratios
    interval     95 %, of bootstrap medians
    p            permutation test: how often, were the sides the same, so that each pair might as
                 well have come the other way round, the sum of signed ranks (Wilcoxon's) would be
                 as far from 0 as it is. Ranks, as one second in which the machine did something
                 else can be further off than all others together

A difference is called real when p is below `alpha` *and* the interval leaves out 1; it is called
relevant when it is also larger than the share that one asked for. Where several figures are looked
at together, `alpha` is shared among them: of ten figures one is beyond 1 in 10 by chance alone.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

ROUNDS = 4_000
ALPHA = 0.01
CONFIDENCE = 0.95
# Below this many pairs every arrangement is looked at, above them so many drawn by lot.
EXACT_PAIRS_MAX = 12


def paired(
    a: Sequence[float], b: Sequence[float], alpha: float = ALPHA, seed: int = 0
) -> dict[str, Any]:
    """B against A: ratio above 1 means that B's figures are higher."""
    if len(a) != len(b) or not a:
        raise ValueError(f"pairs need as many of one as of the other, not {len(a)} and {len(b)}")
    if min(*a, *b) <= 0:
        raise ValueError("ratios need figures above 0")
    logs = [math.log(y / x) for x, y in zip(a, b, strict=True)]
    rng = random.Random(seed)
    low, high = _bootstrap(logs, rng)
    p = _sign_flips(logs, rng)
    return {
        "pairs": len(logs),
        # With fewer no arrangement is rare enough, whatever the difference.
        "enough": 2 / 2 ** len(logs) < alpha,
        "ratio": round(math.exp(median(logs)), 4),
        "low": round(math.exp(low), 4),
        "high": round(math.exp(high), 4),
        "p": round(p, 5),
        "real": bool(p < alpha and (low > 0 or high < 0)),
    }


def unpaired(
    a: Sequence[float], b: Sequence[float], alpha: float = ALPHA, seed: int = 0
) -> dict[str, Any]:
    """The same for two files that were measured one after the other: drift counts as difference."""
    if not a or not b or min(*a, *b) <= 0:
        raise ValueError("both sides need figures above 0")
    x, y = ([math.log(value) for value in side] for side in (a, b))
    rng = random.Random(seed)
    drawn = sorted(
        median(rng.choices(y, k=len(y))) - median(rng.choices(x, k=len(x))) for _ in range(ROUNDS)
    )
    low, high = _ends(drawn)
    pool = _signed_ranks([value - min(*x, *y) + 1 for value in (*x, *y)])
    found = abs(fmean(pool[len(x) :]) - fmean(pool[: len(x)]))
    as_far = 0
    for _ in range(ROUNDS):
        rng.shuffle(pool)
        as_far += abs(fmean(pool[len(x) :]) - fmean(pool[: len(x)])) >= found - 1e-12
    p = (as_far + 1) / (ROUNDS + 1)
    return {
        "pairs": 0,
        "enough": 2 / math.comb(len(x) + len(y), len(x)) < alpha,
        "ratio": round(math.exp(median(y) - median(x)), 4),
        "low": round(math.exp(low), 4),
        "high": round(math.exp(high), 4),
        "p": round(p, 5),
        "real": bool(p < alpha and (low > 0 or high < 0)),
    }


def _bootstrap(logs: Sequence[float], rng: random.Random) -> tuple[float, float]:
    drawn = sorted(median(rng.choices(logs, k=len(logs))) for _ in range(ROUNDS))
    return _ends(drawn)


def _ends(ordered: Sequence[float]) -> tuple[float, float]:
    cut = int(len(ordered) * (1 - CONFIDENCE) / 2)
    return ordered[cut], ordered[-1 - cut]


def _signed_ranks(logs: Sequence[float]) -> list[float]:
    """Each value replaced by the rank of its size, with its sign; equal sizes share theirs."""
    sizes = sorted(abs(x) for x in logs)
    ranks = {s: (bisect_left(sizes, s) + bisect_right(sizes, s) + 1) / 2 for s in sizes}
    return [math.copysign(ranks[abs(x)], x) if x else 0.0 for x in logs]


def _sign_flips(values: Sequence[float], rng: random.Random) -> float:
    """The two-sided p of signed ranks under all, or many, assignments of signs."""
    logs = _signed_ranks(values)
    found = abs(math.fsum(logs)) - 1e-12
    count = len(logs)
    if count <= EXACT_PAIRS_MAX:
        hits = sum(
            abs(math.fsum(-x if mask >> i & 1 else x for i, x in enumerate(logs))) >= found
            for mask in range(1 << count)
        )
        return hits / (1 << count)
    hits = sum(
        abs(math.fsum(x if rng.random() < 0.5 else -x for x in logs)) >= found
        for _ in range(ROUNDS)
    )
    return (hits + 1) / (ROUNDS + 1)


def sentence(found: dict[str, Any], higher_is_better: bool, relevant: float) -> str:
    """The verdict in words."""
    change = found["ratio"] - 1
    span = f"{found['low'] - 1:+.1%} to {found['high'] - 1:+.1%}"
    if not found["enough"]:
        return f"{change:+.1%} ({span}): too few repeats to tell"
    if not found["real"]:
        return f"{change:+.1%} ({span}): within noise"
    better = (change > 0) == higher_is_better
    word = "better" if better else "worse"
    size = "" if abs(change) >= relevant else f", though by less than {relevant:.0%}"
    return f"{change:+.1%} ({span}): {word}{size}"
