"""Latencies in HDR histograms: 1 us to 60 s, three digits everywhere, mergeable, small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

LOWEST_US, HIGHEST_US, DIGITS = 1, 60_000_000, 3
# What the nines curve is drawn from, and what tables show of it.
CURVE = (0, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99, 99.999, 100)
SHOWN = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}
INSTALL = "pip install 'dynamo-ring[bench]'"


class Missing(Exception):
    """A package of the bench extra is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(f"this needs {package}, which is not installed: {INSTALL}")


def histogram() -> Any:
    """An empty one."""
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        raise Missing("hdrhistogram") from None
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


def of(seconds: Iterable[float]) -> Any:
    """The histogram of durations; what is outside its range counts as its ends."""
    made = histogram()
    for us, count in Counter(int(s * 1e6 + 0.5) for s in seconds).items():
        made.record_value(min(max(us, LOWEST_US), HIGHEST_US), count)
    return made


def encoded(made: Any) -> str:
    """As text, in the format that all HDR tools read (V2, zlib, base64)."""
    return str(made.encode().decode("ascii"))


def decoded(text: str) -> Any:
    """The histogram again."""
    made = histogram()
    made.decode_and_add(text.encode("ascii"))
    return made


def summed(texts: Iterable[str]) -> Any:
    """Several of them as one."""
    made = histogram()
    for text in texts:
        made.decode_and_add(text.encode("ascii"))
    return made


def percentiles(made: Any) -> dict[str, float]:
    """What a table shows, in milliseconds; zeros where nothing was counted."""
    if not made.get_total_count():
        return {**dict.fromkeys(SHOWN, 0.0), "max_ms": 0.0, "mean_ms": 0.0}
    return {
        **{name: made.get_value_at_percentile(at) / 1000 for name, at in SHOWN.items()},
        "max_ms": made.get_max_value() / 1000,
        "mean_ms": round(made.get_mean_value() / 1000, 3),
    }


def curve(made: Any) -> list[tuple[float, float]]:
    """(percentile, milliseconds) up to the one that this many values can tell."""
    total = made.get_total_count()
    return [
        (at, made.get_value_at_percentile(at) / 1000)
        for at in CURVE
        if total and (at == 100 or total * (1 - at / 100) >= 1)
    ]
