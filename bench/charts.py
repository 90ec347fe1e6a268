"""The pictures that set results against each other: sweeps, before and after, peers."""

from __future__ import annotations

from typing import Any

from bench.plots import Picture, canvas, colour, plain, plain_ms


def sweep(result: dict[str, Any]) -> Picture:
    """Latency against offered load, with the knee."""
    figure, grid = canvas(2, 5.4, sharex=True, height_ratios=(3, 2))
    top, bottom = grid[0][0], grid[1][0]
    steps = result["steps"]
    offered = [step["offered_s"] for step in steps]
    shown = (("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9"))
    for number, (name, label) in enumerate(shown):
        values = [step["ops"]["all"]["response"][name] for step in steps]
        top.plot(offered, values, marker="o", markersize=4, color=colour(number), label=label)
    plain_ms(top, "response [ms]")
    top.set_title("Latency against offered load")
    achieved = [step["ops"]["all"]["ops_s"] for step in steps]
    bottom.plot(offered, offered, color="#999999", linestyle="--", label="offered")
    bottom.plot(offered, achieved, marker="o", markersize=4, color=colour(0), label="acknowledged")
    refused = [step["ops"]["all"]["refused"] / step["seconds"] for step in steps]
    if any(refused):
        bottom.plot(offered, refused, marker="s", markersize=4, color=colour(1), label="refused")
    bottom.set_xlabel("offered load [ops/s]")
    bottom.set_ylabel("[ops/s]")
    bottom.yaxis.set_major_formatter(plain)
    bottom.set_ylim(bottom=0)
    for axis in (top, bottom):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(plain)
        axis.xaxis.set_minor_formatter("")
    bottom.set_xticks(offered, [plain(round(rate)) for rate in offered], rotation=30)
    bottom.set_xticks([], minor=True)
    invalid = [step for step in steps if not step["harness"]["valid"]]
    for step in invalid:
        for axis in (top, bottom):
            axis.axvspan(step["offered_s"] / 1.06, step["offered_s"] * 1.06,
                         color="#eeeeee", zorder=0)  # fmt: skip
    knee = result.get("knee_s")
    if knee:
        for axis in (top, bottom):
            axis.axvline(knee, color=colour(3), linestyle=":")
        top.annotate(
            f"knee: {knee:,.0f}/s", (knee, 0.97), xycoords=("data", "axes fraction"),
            xytext=(-5, 0), textcoords="offset points", ha="right", va="top", color=colour(3),
        )  # fmt: skip
    top.legend(loc="upper left")
    bottom.legend(loc="upper left")
    grey = " Grey: the harness was late or busy there: not valid." if invalid else ""
    return Picture(
        "sweep", "Latency against offered load",
        "Open loop; the knee is the highest load that was still served in full, at no more than "
        f"{result['knee_rule']}." + grey, figure,
    )  # fmt: skip


def compare(result: dict[str, Any]) -> Picture:
    """B against A for each figure, with its interval."""
    rows = result["figures"]
    figure, grid = canvas(1, 1.6 + 0.42 * len(rows))
    axis = grid[0][0]
    for number, row in enumerate(reversed(rows)):
        change, low, high = (100 * (row[name] - 1) for name in ("ratio", "low", "high"))
        worse = row["real"] and (change > 0) != row["higher_is_better"]
        tint = "#999999" if not row["real"] else colour(1) if worse else colour(2)
        axis.errorbar(change, number, xerr=[[max(0, change - low)], [max(0, high - change)]],
                      fmt="o", color=tint, capsize=4)  # fmt: skip
    axis.axvline(0, color="#333333", linewidth=1)
    axis.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel("B against A [%]")
    axis.set_title("Before and after")
    return Picture(
        "compare", "Before and after",
        "Median of the paired ratios with its 95 % interval. Grey: within noise. Orange: worse. "
        "Green: better.", figure,
    )  # fmt: skip


def peers(result: dict[str, Any]) -> list[Picture]:
    """Throughput and latency of every store under every workload."""
    return [
        _bars(result, "peers-throughput", "Throughput", "ops_s", "ops/s", "longer is better"),
        _bars(result, "peers-p50", "Median latency", "service.p50_ms", "p50 [ms]", SHORTER),
        _bars(result, "peers-p99", "99th percentile", "service.p99_ms", "p99 [ms]", SHORTER),
    ]


SHORTER = "shorter is better"
LOCAL = ("rocksdb", "lmdb")  # no network: their bars may leave the scale, their numbers stay


def _bars(
    result: dict[str, Any], name: str, title: str, figure_name: str, unit: str, better: str
) -> Picture:
    """A row of panels per workload, a panel per number in flight, a bar per store."""
    workloads = list(dict.fromkeys(cell["workload"] for cell in result["cells"]))
    loads = sorted({cell["in_flight"] for cell in result["cells"]})
    stores = list(reversed(result["stores"]))
    height = 0.9 + len(workloads) * (0.8 + 0.27 * len(stores))
    figure, grid = canvas(len(workloads), height, len(loads), sharey=True)
    figure.suptitle(f"{title} side by side", x=0.01, ha="left", fontsize=11)
    for row, workload in enumerate(workloads):
        for column, in_flight in enumerate(loads):
            values = {
                cell["store"]: cell["median"][figure_name]
                for cell in result["cells"]
                if cell["workload"] == workload and cell["in_flight"] == in_flight
            }
            axis = grid[row][column]
            axis.set_title(f"{workload}, {in_flight} in flight", fontsize=9.5)
            _panel(axis, stores, values)
            if row == len(workloads) - 1:
                axis.set_xlabel(unit)
    return Picture(
        name, f"{title} side by side",
        f"Medians of repeats that took turns; {better}. Pale bars end at the edge: in process, "
        "without a network. What each store promises stands in the table.", figure,
    )  # fmt: skip


def _panel(axis: Any, stores: list[dict[str, Any]], values: dict[str, float]) -> None:
    served = [values.get(store["label"], 0.0) for store in stores if store["name"] not in LOCAL]
    top = max([*served, 1e-9]) if any(served) else max([*values.values(), 1e-9])
    for number, store in enumerate(stores):
        value = values.get(store["label"])
        length = min(value or 0.0, top * 1.08)
        local = store["name"] in LOCAL
        tint = colour(0) if store["name"] == "dynamo" else "#dfe4e8" if local else "#9aa7b2"
        axis.barh(number, length, height=0.7, color=tint)
        text = "not run" if value is None else short(value)
        axis.text(length + top * 0.02, number, text, va="center", fontsize=7.5)
    axis.set_xlim(0, top * 1.45)
    axis.set_yticks(range(len(stores)), [store["label"] for store in stores], fontsize=8.5)
    axis.grid(axis="y", visible=False)
    axis.xaxis.set_major_locator(_few())
    axis.xaxis.set_major_formatter(plain)


def short(value: float) -> str:
    """Three digits that mean something, or whole numbers."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _few() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3)
