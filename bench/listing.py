"""`python -m bench list`: what there is to choose from, and what is not installed."""

from __future__ import annotations

import textwrap
from typing import Any

from bench import workloads
from bench.generators import ARRIVALS, CHOOSERS
from bench.stores import STORES, store
from bench.timeline import PRESETS

WIDTH = 96


def everything() -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "workloads": {name: _workload(name) for name in workloads.names()},
        "choosers": list(CHOOSERS),
        "arrivals": list(ARRIVALS),
        "faults": list(PRESETS),
        "stores": {name: {"missing": store(name).missing()} for name in STORES},
    }


def _workload(name: str) -> dict[str, str]:
    found = workloads.load(name)
    does = f"not offered: {found.not_offered}" if found.not_offered else found.describe()
    return {"title": found.title, "about": found.about, "does": does}


def text() -> str:
    """All of it, for people."""
    found = everything()
    lines = ["Workloads (python -m bench run NAME):"]
    for name, workload in found["workloads"].items():
        lines.append(f"  {name:12} {workload['title']}")
        for part in (workload["about"], workload["does"]):
            lines += textwrap.wrap(part, WIDTH - 15, initial_indent=" " * 15,
                                   subsequent_indent=" " * 15)  # fmt: skip
    lines += ["", "Faults (run --faults NAME): " + ", ".join(found["faults"])]
    lines += ["", "Stores (python -m bench peers):"]
    for name, state in found["stores"].items():
        lines.append(f"  {name:12} {state['missing'] or 'ready'}")
    return "\n".join(lines)
