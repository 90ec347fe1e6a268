"""Faults at set times of a run, and when each of them began and was over.

    kill        one node by SIGKILL at a third of the run, back at two thirds
    partition   one node cut off from the others in the same time, then healed
    slow        one node stopped (SIGSTOP) half of the time in bursts of 250 ms, in the same time
    rolling     every node in turn stopped cleanly and started again

or by hand: "kill n3 @ 5s; start n3 @ 10s". Verbs: kill, stop, start, pause, resume, burst with a
node; partition with nodes that are cut off together; heal.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import dynamo

PRESETS = ("kill", "partition", "slow", "rolling")
VERBS = ("kill", "stop", "start", "pause", "resume", "burst", "partition", "heal")
ENDING = ("start", "resume", "heal")  # after these the ring is on its way back
BURST_S = 0.25
STEPS_MAX = 1_000
CONVERGE_S = 60.0
_STEP = re.compile(r"^(\w+)((?:\s+[\w,]+)*)\s*@\s*(\d+(?:\.\d+)?)\s*s?$")


class FaultError(ValueError):
    """A timeline that cannot be carried out."""


@dataclass(frozen=True)
class Step:
    """One thing done to the ring, so many seconds after the measured part began."""

    at_s: float
    verb: str
    nodes: tuple[str, ...] = ()

    def describe(self) -> str:
        return " ".join([self.verb, *self.nodes])


def parse(text: str, nodes: list[str], seconds: float) -> list[Step]:
    """The steps of a preset or of a timeline written by hand."""
    if not text:
        return []
    steps = _preset(text, nodes, seconds) if text in PRESETS else _by_hand(text)
    for step in steps:
        if step.at_s >= seconds:
            raise FaultError(f"{step.describe()} @ {step.at_s:g}s is after the run of {seconds:g}s")
        for name in step.nodes:
            if name not in nodes:
                raise FaultError(f"no node {name!r}; this ring has {', '.join(nodes)}")
    if len(steps) > STEPS_MAX:
        raise FaultError(f"at most {STEPS_MAX:,} steps, not {len(steps):,}")
    return steps


def _preset(name: str, nodes: list[str], seconds: float) -> list[Step]:
    if len(nodes) < 2:
        raise FaultError(f"the faults {name!r} need two nodes or more")
    last, begin, end = nodes[-1], seconds / 3, seconds * 2 / 3
    if name == "kill":
        return [Step(begin, "kill", (last,)), Step(end, "start", (last,))]
    if name == "partition":
        return [Step(begin, "partition", (last,)), Step(end, "heal")]
    if name == "slow":
        bursts = int((end - begin) / (2 * BURST_S))
        return [Step(begin + i * 2 * BURST_S, "burst", (last,)) for i in range(max(1, bursts))]
    gap = seconds / (len(nodes) + 1)
    return [
        Step(gap * (number + 0.5) + part * gap / 2, verb, (node,))
        for number, node in enumerate(nodes)
        for part, verb in enumerate(("stop", "start"))
    ]


def _by_hand(text: str) -> list[Step]:
    steps = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        found = _STEP.match(part)
        verb = found[1] if found else ""
        names = tuple(re.findall(r"\w+", found[2])) if found else ()
        right = {"heal": not names, "partition": bool(names)}.get(verb, len(names) == 1)
        if found is None or verb not in VERBS or not right:
            raise FaultError(
                f"{part!r} is no fault: one of {', '.join(PRESETS)}, or steps such as "
                f"'kill n3 @ 5s; start n3 @ 10s' with {', '.join(VERBS)}"
            )
        steps.append(Step(float(found[3]), verb, names))
    return sorted(steps, key=lambda step: step.at_s)


class Timeline:
    """Carries out steps in a thread of its own while the load goes on."""

    def __init__(self, ring: Any, steps: list[Step], start: float) -> None:
        self.marks: list[dict[str, Any]] = []
        self.converged_s: float | None = None
        self.trouble = ""
        self._ring = ring
        self._steps = steps
        self._start = start
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last step, then see to it that every node is back."""
        self._thread.join(CONVERGE_S * 2)
        self._ended.set()
        self._ring.heal()
        for name in self._ring.nodes:
            self._ring.start(name)

    def _run(self) -> None:
        try:
            for step in self._steps:
                time.sleep(max(0.0, self._start + step.at_s - time.monotonic()))
                self._carry_out(step)
            if self._steps and (self._steps[-1].verb in (*ENDING, "burst")):
                self._converge()
        except Exception as error:
            # In the result and on the screen; the run itself is not worth less for it.
            self.trouble = f"{type(error).__name__}: {error}"

    def _now_s(self) -> float:
        return round(time.monotonic() - self._start, 3)

    def _carry_out(self, step: Step) -> None:
        at_s = self._now_s()
        ring, names = self._ring, step.nodes
        if step.verb == "heal":
            ring.heal()
        elif step.verb == "partition":
            ring.partition(list(names))
        elif step.verb == "burst":
            # Not ring.resume, which waits until all see the node again: it never would.
            process = ring._processes[names[0]]
            process.pause()
            time.sleep(BURST_S)
            process.resume()
        else:
            getattr(ring, step.verb)(names[0])
        repeated = step.verb == "burst" and bool(self.marks)
        if repeated:
            self.marks[-1]["over_s"] = self._now_s()
        else:
            what = f"slow {names[0]}" if step.verb == "burst" else step.describe()
            self.marks.append({"at_s": at_s, "what": what, "over_s": self._now_s()})

    def _converge(self) -> None:
        began = time.monotonic()
        with suppress(dynamo.NotConverged):
            self._ring.wait_converged(timeout=CONVERGE_S)
            self.converged_s = round(time.monotonic() - began, 3)
            self.marks.append(
                {"at_s": self._now_s(), "what": "replicas equal", "over_s": self._now_s()}
            )
