"""What every measurement needs: percentiles, medians with spread, and under which conditions."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of an ascending sequence: a value that did occur."""
    if not ordered:
        raise ValueError("no values, no percentile")
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile lies above 0 and up to 100, not at {percent}")
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the longest, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(percentile(ordered, 50) * 1e3, 3),
        "p99_ms": round(percentile(ordered, 99) * 1e3, 3),
        "max_ms": round(ordered[-1] * 1e3, 3),
    }


def summary(repeats: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of every figure, and the spread of ops_s: (highest - lowest) / median."""
    result = {name: round(median(r[name] for r in repeats), 3) for name in repeats[0]}
    rates = [r["ops_s"] for r in repeats]
    result["spread"] = round((max(rates) - min(rates)) / median(rates), 3)
    return result


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used, all threads; 0 once it is gone.

    To the nanosecond where the kernel counts so, or in ticks of 10 ms, too coarse for one second.
    """
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        total = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
        if total:
            return total / 1e9
    except (OSError, IndexError, ValueError):
        pass  # not this kernel, or a thread ended between the two looks
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND if fields else 0.0


def machine_cpu_seconds() -> float:
    """Processor time that everything on this machine has used together, all cores."""
    first = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, first[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


def descendants(pid: int) -> list[int]:
    """The processes that `pid` started, and those they started."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            parents[int(entry)] = int(fields[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


def _stat(pid: int) -> list[str]:
    # After the name, which stands in brackets and may hold spaces: state ppid ... utime stime.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def conditions() -> dict[str, Any]:
    """Machine, versions and commit: a number without them cannot be compared with another."""
    return {
        "machine": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
            ),
            "system": f"{platform.system()} {platform.release()}",
            "load_before": [round(load, 2) for load in os.getloadavg()],
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("pyzmq", "msgspec", "mmh3", "rocksdict")},
        },
        "commit": _commit(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "?")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _commit() -> str:
    """The commit of the checkout, marked where files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "-s") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def heading(conditions: dict[str, Any]) -> str:
    """The conditions in one line."""
    machine, versions = conditions["machine"], conditions["versions"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before'][0]}, "
        f"Python {versions['python']}, commit {conditions['commit']}"
    )
