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
        _bars(result, "peers-throughput", "Throughput", "ops_s", "ops/s", False),
        _bars(result, "peers-p50", "Median latency", "service.p50_ms", "p50 [ms]", True),
        _bars(result, "peers-p99", "99th percentile", "service.p99_ms", "p99 [ms]", True),
    ]


def _bars(
    result: dict[str, Any], name: str, title: str, figure_name: str, unit: str, low_is_good: bool
) -> Picture:
    cells = _cells(result)
    figure, grid = canvas(1, 1.3 + 0.36 * len(result["stores"]), len(cells), sharey=True)
    stores = list(reversed(result["stores"]))
    for column, (heading, values) in enumerate(cells):
        axis = grid[0][column]
        rows = [values.get(store["label"]) for store in stores]
        bars = [row["median"][figure_name] if row else 0.0 for row in rows]
        axis.barh(
            range(len(stores)), bars, height=0.65,
            color=[colour(0) if store["name"] == "dynamo" else "#aab4bd" for store in stores],
        )  # fmt: skip
        top = max([*bars, 1e-9])
        for number, value in enumerate(bars):
            text = f"{value:,.0f}" if figure_name == "ops_s" else f"{value:,.2f}"
            axis.text(value + top * 0.02, number, text if rows[number] else "not run",
                      va="center", fontsize=8)  # fmt: skip
        axis.set_xlim(0, top * 1.28)
        axis.set_yticks(range(len(stores)), [store["label"] for store in stores])
        axis.set_title(heading, fontsize=9.5)
        axis.set_xlabel(unit)
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_major_locator(_few())
    better = "shorter is better" if low_is_good else "longer is better"
    return Picture(
        name, f"{title} of stores side by side",
        f"Medians of repeats that took turns; {better}. What each promises stands in the table.",
        figure,
    )  # fmt: skip


def _few() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3)


def _cells(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """One column per workload and number in flight: its heading, and the results by store."""
    found: dict[str, dict[str, Any]] = {}
    for cell in result["cells"]:
        found.setdefault(f"{cell['workload']}, {cell['in_flight']} in flight", {})[
            cell["store"]
        ] = cell
    return list(found.items())
