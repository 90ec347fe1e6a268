"""Results as rows of text, for the console and for the page."""

from __future__ import annotations

from typing import Any

Rows = tuple[list[str], list[list[str]]]


def ms(value: float) -> str:
    """Milliseconds with three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def run(result: dict[str, Any]) -> Rows:
    """Per kind of operation: outcomes, rate, response times, service time, spreads."""
    names = ["op", "ok", "failed", "ops/s", "±", "p50 ms", "p95", "p99", "p99.9", "max", "±p99"]
    names += ["serv p99"]
    rows = []
    kinds = result["median"]
    for kind, row in kinds.items():
        if kind == "all" and len(kinds) == 2:
            continue
        middle, spread = row["median"], row["spread"]
        rows.append(
            [
                kind,
                f"{row['ok']:,}",
                failures(row),
                f"{middle['ops_s']:,.0f}",
                f"{spread['ops_s']:.0%}",
                *(
                    ms(middle[f"response.{name}"])
                    for name in ("p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")
                ),
                f"{spread['response.p99_ms']:.0%}",
                ms(middle["service.p99_ms"]),
            ]
        )
    return names, rows


def failures(row: dict[str, Any]) -> str:
    """The outcomes that were not ok, each with its letter; see `FAILURE_KEY`."""
    letters = {"refused": "r", "error": "e", "timeout": "t", "maybe": "m", "unsent": "u"}
    found = [f"{row[name]:,}{letter}" for name, letter in letters.items() if row[name]]
    return " ".join(found) or "0"


FAILURE_KEY = "failed: r refused, e error, t timeout, m maybe applied, u not sent (queue full)"


def remarks(result: dict[str, Any]) -> list[str]:
    """What stands below the figures, a sentence each."""
    repeats = result["repeats"]
    lines = []
    if any(row[name] for row in result["median"].values() for name in _FAILED):
        lines.append(FAILURE_KEY)
    reads = sum(each["siblings"]["reads"] for each in repeats)
    if reads:
        several = sum(each["siblings"]["several"] for each in repeats)
        stale = sum(sum(each["staleness"]["stale"]) for each in repeats)
        judged = sum(sum(each["staleness"]["reads"]) for each in repeats)
        lines.append(
            f"reads with siblings {several / reads:.2%}; stale reads "
            f"{stale / judged if judged else 0:.3%} of {judged:,} that could be"
        )
    refused = [each["refused_in"] for each in repeats if each["refused_in"]]
    if refused:
        lines.append(
            f"refusals were answered within {ms(max(r['p50_ms'] for r in refused))} ms (p50), "
            f"{ms(max(r['p99_ms'] for r in refused))} ms (p99)"
        )
    counters = [each["nodes"]["counters"] for each in repeats if "nodes" in each]
    if counters:
        repairs = [each["repairs_per_read"] for each in repeats if "repairs_per_read" in each]
        hints = max((s["hints"] for each in repeats for s in each["nodes"]["samples"]), default=0)
        lines.append(
            f"read repairs {max(repairs):.3%} of reads; hints owed at most {hints:,}"
            + "".join(
                f"; replicas equal {each['converged_s']:.2f} s after the last step"
                for each in repeats[:1]
                if each.get("converged_s") is not None
            )
        )
    cpu = [each["cpu"] for each in repeats if each.get("cpu")]
    if cpu:
        middle = sorted(cpu, key=lambda part: part["us_per_op"])[len(cpu) // 2]
        lines.append(
            f"CPU {middle['us_per_op']:,.0f} us per operation: {middle['nodes_us_per_op']:,.0f} in "
            f"the store, {middle['clients_us_per_op']:,.0f} in the clients"
        )
    errors: dict[str, int] = {}
    for each in repeats:
        for name, count in each["errors"].items():
            errors[name] = errors.get(name, 0) + count
    if errors:
        lines.append("errors: " + ", ".join(f"{count:,} {name}" for name, count in errors.items()))
    lines += [f"faults: {e['fault_trouble']}" for e in repeats if e.get("fault_trouble")]
    return lines


_FAILED = ("refused", "error", "timeout", "maybe", "unsent")
OTHERS_BUSY = 0.2


def verdicts(result: dict[str, Any]) -> list[tuple[bool, str]]:
    """(good, sentence): the check of the data, the harness, the machine."""
    lines = []
    checks = [each["check"] for each in result["repeats"] if "check" in each]
    if checks:
        lines.append(data_verdict(checks))
    harness = [each["harness"] for each in result["repeats"]]
    reasons = max((each["reasons"] for each in harness), key=len)
    if reasons:
        bad = sum(not each["valid"] for each in harness)
        lines.append(
            (
                False,
                f"not valid in {bad} of {len(harness)} repeats, the harness itself was in the way: "
                + "; ".join(reasons),
            )
        )
    else:
        late = max(each["late_share"] for each in harness)
        busy = max(each["busy"] for each in harness)
        share = max(each["noop_share"] for each in harness)
        lines.append(
            (
                True,
                f"harness ok: late sends {late:.1%}, busiest worker {busy:.0%}, "
                f"{share:.1%} of the rate without a store",
            )
        )
    if any(each["client_bound"] for each in harness):
        lines.append((True, "client-bound: the figure is that of client and store together"))
    others = max((each["cpu"]["others_busy"] for each in result["repeats"] if each.get("cpu")),
                 default=0.0)  # fmt: skip
    if others > OTHERS_BUSY:
        lines.append((False, f"other work kept {others:.1f} cores busy meanwhile: measure again"))
    return lines


def data_verdict(checks: list[dict[str, Any]]) -> tuple[bool, str]:
    """What the checks of all repeats come to."""
    keys, writes, reads = (sum(c[name] for c in checks) for name in ("keys", "writes", "reads"))
    if all(check["good"] for check in checks):
        return True, (
            f"data ok: {writes:,} writes and {reads:,} reads checked, {keys:,} keys read from all "
            "replicas at the end; nothing lost, no phantom, no false sibling"
        )
    wrong = [
        f"{sum(c[name] for c in checks):,} {text}"
        for name, text in (
            ("lost", "lost"),
            ("phantoms", "phantoms"),
            ("false_siblings", "false siblings"),
        )
        if any(c[name] for c in checks)
    ]
    example = next(example for check in checks for example in check["examples"])
    return False, f"WRONG DATA, so no figure counts: {', '.join(wrong)}; {example}"


def sweep(result: dict[str, Any]) -> Rows:
    """One row per load."""
    names = ["offered/s", "ok/s", "failed", "resp p50 ms", "p99", "p99.9", "max", "serv p99"]
    names += ["CPU us/op", "harness"]
    rows = []
    for step in result["steps"]:
        row = step["ops"]["all"]
        response = row["response"]
        rows.append(
            [
                f"{step['offered_s']:,.0f}",
                f"{row['ops_s']:,.0f}",
                failures(row),
                *(ms(response[name]) for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")),
                ms(row["service"]["p99_ms"]),
                f"{step['cpu']['us_per_op']:,.0f}",
                "ok" if step["harness"]["valid"] else "not valid",
            ]
        )
    return names, rows


def compare(result: dict[str, Any]) -> Rows:
    """One row per figure."""
    names = ["figure", "A", "B", "B against A", "p"]
    rows = [
        [
            row["name"],
            f"{row['a']:,.4g}",
            f"{row['b']:,.4g}",
            row["verdict"],
            f"{row['p']:.4f}",
        ]
        for row in result["figures"]
    ]
    return names, rows


def peers(result: dict[str, Any]) -> Rows:
    """One row per workload, load and store, with its ratio to dynamo's figure."""
    names = ["workload", "in flight", "store", "ops/s", "±", "p50 ms", "p99 ms", "ours / theirs"]
    names += ["marks"]
    rows = []
    for cell in result["cells"]:
        middle, spread = cell["median"], cell["spread"]
        ratio = cell.get("ratio")
        rows.append(
            [
                cell["workload"],
                f"{cell['in_flight']}",
                cell["store"],
                f"{middle['ops_s']:,.0f}",
                f"{spread['ops_s']:.0%}",
                ms(middle["service.p50_ms"]),
                ms(middle["service.p99_ms"]),
                f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
                if ratio
                else "",
                ", ".join(cell["marks"]),
            ]
        )
    return names, rows
