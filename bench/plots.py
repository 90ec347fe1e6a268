"""The pictures of a result, by matplotlib: units on every axis, colours that all can tell."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from bench import hdr

# Okabe and Ito: distinguishable with any kind of colour vision, and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "bench",
    "figure.dpi": 110,
}
WIDTH, HEIGHT = 9.0, 3.6
SEEN_MIN = 20  # reads, for a point of the curve of staleness
LEVELS = ("p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")
NAMES = {"p50_ms": "p50", "p95_ms": "p95", "p99_ms": "p99", "p999_ms": "p99.9", "max_ms": "max"}


@dataclass
class Picture:
    """One figure, with what it is called in a file name and what stands below it."""

    name: str
    title: str
    caption: str
    figure: Any

    def svg(self) -> str:
        """The picture as an element of an HTML page."""
        out = io.StringIO()
        with styled():
            # No metadata: dates and names of formats would only make pages differ.
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            self.figure.savefig(out, format="svg", metadata=nothing)
        text = out.getvalue()
        return text[text.index("<svg") :]

    def png(self) -> bytes:
        out = io.BytesIO()
        with styled():
            self.figure.savefig(out, format="png")
        return out.getvalue()


@contextmanager
def styled() -> Iterator[Any]:
    """matplotlib with our look, and without a screen."""
    try:
        import matplotlib
    except ImportError:
        raise hdr.Missing("matplotlib") from None
    with matplotlib.rc_context(STYLE):
        yield matplotlib


def canvas(rows: int = 1, height: float = HEIGHT, columns: int = 1, **options: Any) -> Any:
    """A figure and its axes, never shown and never kept by pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def plain_ms(axis: Any, what: str = "latency [ms]") -> None:
    """A logarithmic axis of milliseconds with numbers as people write them."""
    axis.set_yscale("log")
    axis.set_ylabel(what)
    axis.yaxis.set_major_formatter(plain)

    def minor(value: float, _: Any = None) -> str:
        """Labels for 2 and 5 of each decade where there is room, and none between."""
        low, high = axis.get_ylim()
        return plain(value) if f"{value:.0e}"[0] in "25" and high < 300 * low else ""

    axis.yaxis.set_minor_formatter(minor)


def plain(value: float, _: Any = None) -> str:
    """A number with thousands apart and no powers of ten."""
    return f"{value:,.10g}"


# --- over time ----------------------------------------------------------------------------------


def _times(result: dict[str, Any]) -> list[float]:
    series = result["repeats"][0]["series"]
    points = len(next(iter(series["kinds"].values()))["ok_s"])
    return [(i + 0.5) * series["every_s"] for i in range(points)]


def _across(result: dict[str, Any], kind: str, name: str) -> list[list[float]]:
    """For each interval the values of all repeats."""
    rows = [
        each["series"]["kinds"][kind][name]
        for each in result["repeats"]
        if kind in each["series"]["kinds"]
    ]
    return [[v for v in column if v is not None] for column in zip(*rows, strict=False)]


def _kinds(result: dict[str, Any]) -> list[str]:
    return list(result["repeats"][0]["series"]["kinds"])


def draw_marks(axes: Sequence[Any], result: dict[str, Any]) -> None:
    """Faults of the first repeat as shades with their names above the topmost axes."""
    marks = result["repeats"][0].get("marks") or []
    for number, mark in enumerate(marks):
        for axis in axes:
            axis.axvline(mark["at_s"], color="#777777", linewidth=1, linestyle=":")
        axes[0].annotate(
            mark["what"],
            (mark["at_s"], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 4 + 11 * (number % 3)),
            textcoords="offset points",
            fontsize=8,
            color="#555555",
        )
    if marks:
        axes[0].set_title(axes[0].get_title(loc="left"), pad=12 + 11 * min(3, len(marks)))


def throughput(result: dict[str, Any]) -> Picture:
    """Acknowledged operations and failures per second, over time."""
    figure, grid = canvas(2, 4.6, sharex=True, height_ratios=(3, 1))
    top, bottom = grid[0][0], grid[1][0]
    times = _times(result)
    for number, kind in enumerate(_kinds(result)):
        columns = _across(result, kind, "ok_s")
        top.plot(times, [median(c) for c in columns], color=colour(number), label=kind)
        top.fill_between(
            times,
            [min(c) for c in columns],
            [max(c) for c in columns],
            color=colour(number),
            alpha=0.15,
            linewidth=0,
        )
        failed = [median(c) for c in _across(result, kind, "failed_s")]
        bottom.plot(times, failed, color=colour(number), label=kind)
    top.set_title("Throughput and failures over time")
    top.set_ylabel("acknowledged [ops/s]")
    top.yaxis.set_major_formatter(plain)
    top.set_ylim(bottom=0)
    top.legend(loc="lower right", ncols=4)
    bottom.set_ylabel("failed [ops/s]")
    bottom.set_ylim(bottom=0)
    if bottom.get_ylim()[1] < 1:
        bottom.set_ylim(0, 1)
    bottom.set_xlabel("time since the end of warm-up [s]")
    draw_marks([top, bottom], result)
    many = len(result["repeats"])
    return Picture(
        "throughput", "Throughput and failures over time",
        f"Median of {many} repeats; the shade is from the lowest to the highest of them.", figure,
    )  # fmt: skip


def latency(result: dict[str, Any]) -> Picture:
    """Percentiles of the response time over time, one panel per kind of operation."""
    kinds = _kinds(result)
    figure, grid = canvas(len(kinds), 1.0 + 2.5 * len(kinds), sharex=True)
    times = _times(result)
    for row, kind in enumerate(kinds):
        axis = grid[row][0]
        for number, name in enumerate(LEVELS):
            columns = _across(result, kind, name)
            points = [(t, median(c)) for t, c in zip(times, columns, strict=False) if c]
            if not points:
                continue  # no interval has operations enough to tell
            axis.plot(*zip(*points, strict=True), color=colour(number), label=NAMES[name])
        plain_ms(axis, "response [ms]")
        axis.set_title(f"Response time of {kind} over time")
    grid[0][0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    grid[-1][0].set_xlabel("time since the end of warm-up [s]")
    draw_marks([row[0] for row in grid], result)
    return Picture(
        "latency", "Percentiles over time",
        "From when an operation was due to its answer; median of the repeats per interval.",
        figure,
    )  # fmt: skip


def nines(result: dict[str, Any]) -> Picture:
    """The whole distribution, with one unit of the x axis per nine."""
    figure, grid = canvas(1, 4.2)
    axis = grid[0][0]
    farthest = 10.0
    for number, kind in enumerate(_kinds(result)):
        for name, line in (("response", "-"), ("service", "--")):
            made = hdr.summed(
                each["ops"][kind]["hdr"][name] for each in result["repeats"] if kind in each["ops"]
            )
            points = [(1 / (1 - at / 100), ms) for at, ms in hdr.curve(made) if at < 100]
            if points:
                farthest = max(farthest, points[-1][0])
                axis.plot(*zip(*points, strict=True), linestyle=line, color=colour(number),
                          label=f"{kind}, {name}")  # fmt: skip
    axis.set_xscale("log")
    plain_ms(axis)
    ticks = [1, 2, 10, 100, 1_000, 10_000, 100_000]
    ticks = [tick for tick in ticks if tick <= farthest * 1.01]
    axis.set_xticks(ticks, [_percent(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("percentile")
    axis.set_title("Latency by percentile")
    axis.legend(loc="upper left")
    return Picture(
        "nines", "Latency by percentile",
        "All repeats together. Solid: response, from when an operation was due. Dashed: service, "
        "from when it was sent; the gap between them is waiting in the client process.", figure,
    )  # fmt: skip


def _percent(tick: float) -> str:
    return f"{round(100 * (1 - 1 / tick), 4):g} %"


def availability(result: dict[str, Any]) -> Picture:
    """The share of operations that succeeded, and hints owed, through faults."""
    figure, grid = canvas(2, 4.4, sharex=True, height_ratios=(2, 1))
    top, bottom = grid[0][0], grid[1][0]
    times = _times(result)
    for number, kind in enumerate(_kinds(result)):
        shares = []
        for ok, failed in zip(_across(result, kind, "ok_s"), _across(result, kind, "failed_s"),
                              strict=False):  # fmt: skip
            total = sum(ok) + sum(failed)
            shares.append(100 * sum(ok) / total if total else float("nan"))
        top.plot(times, shares, color=colour(number), label=kind)
    top.set_ylabel("succeeded [%]")
    low = min([100.0, *(v for line in top.get_lines() for v in line.get_ydata() if v == v)])
    top.set_ylim(min(98.0, low - 2), 100.5)
    top.set_title("Availability through faults")
    top.legend(loc="lower left", ncols=4)
    for number, each in enumerate(result["repeats"]):
        samples = each.get("nodes", {}).get("samples", [])
        bottom.plot([s["at_s"] for s in samples], [s["hints"] for s in samples],
                    color="#555555", alpha=0.9 if number == 0 else 0.4,
                    drawstyle="steps-post")  # fmt: skip
    bottom.set_ylabel("hints owed")
    bottom.yaxis.set_major_formatter(plain)
    bottom.set_ylim(bottom=0)
    if bottom.get_ylim()[1] < 1:
        bottom.set_ylim(0, 1)
    bottom.set_xlim(0, max(times) * 1.02)
    bottom.set_xlabel("time since the end of warm-up [s]")
    draw_marks([top, bottom], result)
    took = [e["converged_s"] for e in result["repeats"] if e.get("converged_s") is not None]
    text = f" All replicas were equal {median(took):.2f} s after the last step." if took else ""
    return Picture(
        "availability", "Availability through faults",
        "Marks are those of the first repeat; hints of all repeats." + text, figure,
    )  # fmt: skip


# --- what only a ring has ---------------------------------------------------------------------


def staleness(results: Sequence[dict[str, Any]]) -> Picture:
    """How likely a read shows the newest acknowledged write, by that write's age."""
    figure, grid = canvas(1, 4.0)
    axis = grid[0][0]
    lowest = 100.0
    for number, result in enumerate(results):
        parts = [each["staleness"] for each in result["repeats"]]
        ages = parts[0]["ages_ms"]
        reads, stale = (
            [sum(column) for column in zip(*(part[name] for part in parts), strict=True)]
            for name in ("reads", "stale")
        )
        points = []
        # Each point stands in the middle of its range of ages, by ratio.
        bounds = [ages[0] / 4, *ages, ages[-1] * 4]
        middles = [math.sqrt(low * high) for low, high in pairwise(bounds)]
        for age, seen, missed in zip(middles, reads, stale, strict=True):
            if seen >= SEEN_MIN:
                points.append((age, 100 * (1 - missed / seen)))
        if points:
            lowest = min(lowest, *(share for _, share in points))
            label = f"{levels_of(result)}, {result['workload']['name']}"
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4,
                      color=colour(number), label=label)  # fmt: skip
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(plain)
    axis.set_xlabel("age of the newest acknowledged write when the read began [ms]")
    axis.set_ylabel("reads that showed it [%]")
    axis.set_ylim(min(99.0, lowest - 1), 100.1)
    axis.set_title("How fresh reads are")
    if axis.get_lines():
        axis.legend(loc="lower right")
    return Picture(
        "staleness", "How fresh reads are",
        f"Only points with {SEEN_MIN} reads or more. R + W above the number of copies should show "
        "100 % while no node is away.", figure,
    )  # fmt: skip


def levels_of(result: dict[str, Any]) -> str:
    """R and W of a result."""
    config = result["config"]
    quorum = min(3, config["nodes"]) // 2 + 1
    return f"R={config['r'] or quorum} W={config['w'] or quorum}"


def balance(result: dict[str, Any]) -> Picture:
    """How many copies of arcs each node holds."""
    found = result["repeats"][0]["balance"]
    counts = found["copies_by_node"]
    figure, grid = canvas(1, 2.8)
    axis = grid[0][0]
    axis.bar(list(counts), list(counts.values()), color=colour(0), width=0.6)
    mean = sum(counts.values()) / len(counts)
    axis.axhline(mean, color=colour(1), linestyle="--", label=f"mean {mean:,.1f}")
    axis.set_ylabel("copies of arcs")
    axis.set_title("Ownership by node")
    axis.set_ylim(0, max(counts.values()) * 1.25)
    axis.legend(loc="upper right")
    axis.grid(axis="x", visible=False)
    join = found["join"]
    return Picture(
        "balance", "Ownership by node",
        f"Most over mean: {found['max_over_mean']:.3f}. A further node would move "
        f"{join['copies_moved']:,} of {join['of']:,} copies; {join['ideal']:,} is the least for an "
        "even share (as planned, not carried out).", figure,
    )  # fmt: skip
