"""The story in plain lines: for pipes, for CI, and for reading it again afterwards.

It holds only if everything in it was checked: a line that says otherwise begins with "!", and the
exit code is 1.
"""

from __future__ import annotations

import shutil
import textwrap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from dynamo.demo.stage import CART, NODES, SIDES, Side, Stage, listed, words
from dynamo.demo.traffic import Counts

WIDTH_MAX = 100
INDENT = 9
# Each trouble lasts at least this long, so that the load gets to see it.
TROUBLE_S = 4.0
HINTS_WITHIN_S = 15.0
LOAD_LINE_EVERY_S = 2.0
# A busy machine may delay single calls beyond their time; going on means that nearly all succeed.
FAILED_PER_CENT_MAX = 1


class Teller:
    """Says lines with the time since the beginning, and remembers those that should not be."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.broken: list[str] = []
        self._write = write
        self._began = time.monotonic()
        self._width = min(WIDTH_MAX, shutil.get_terminal_size((WIDTH_MAX, 24)).columns)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def say(self, text: str, mark: str = " ") -> None:
        """A line of its own, with its time."""
        self._wrapped(f"{self.seconds:5.1f} s {mark}", text)

    def more(self, text: str) -> None:
        """A line that belongs to the one before."""
        self._wrapped(" " * INDENT, text)

    def claim(self, holds: bool, text: str) -> bool:
        """A line that the story stands or falls by."""
        if not holds:
            self.broken.append(text)
        self.say(text, " " if holds else "!")
        return holds

    def _wrapped(self, head: str, text: str) -> None:
        lines = textwrap.wrap(text, max(20, self._width - INDENT), break_on_hyphens=False)
        self._write(head + lines[0])
        for line in lines[1:]:
            self._write(" " * INDENT + line)


class Story:
    """Load, kill, catch up, split, heal, resolve, and the reckoning. `facts` is for --json."""

    def __init__(
        self,
        stage: Stage,
        teller: Teller,
        timeout: float,
        held: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`held` keeps signals away while a node is started."""
        self._held = held
        self._stage = stage
        self._teller = teller
        self._timeout = timeout
        self.facts: dict[str, Any] = {}

    def play(self) -> None:
        """From the first node to the reckoning; what did not hold is in the teller's `broken`."""
        self._nodes()
        self._load()
        self._stage.traffic.switch(True)
        self._teller.say(
            "From here on reads and writes go on all the time; every write that was acknowledged "
            "is remembered and will be checked."
        )
        self._kill()
        self._revive()
        self._split()
        self._heal()
        self._resolve()
        self._reckon()

    # --- the acts -------------------------------------------------------------------------------

    def _nodes(self) -> None:
        stage, teller = self._stage, self._teller
        nodes = {name: str(at) for name, at in stage.addresses.items()}
        teller.say(
            f"{NODES} nodes are up on this machine, each a process with a disk store of its own. "
            "Every key is kept on 3 of them; a write counts once 2 have it on disk."
        )
        teller.more(stage.ring.url)
        self.facts["nodes"] = nodes

    def _load(self) -> None:
        stage, teller = self._stage, self._teller
        cities, source = stage.records.cities, stage.records.source
        teller.say(f"Loading {len(cities):,} cities, the largest of the world ({source}).")
        began = said = time.monotonic()

        def told(done: int) -> None:
            nonlocal said
            if time.monotonic() - said > LOAD_LINE_EVERY_S and done < len(cities):
                said = time.monotonic()
                teller.say(f"{done:,} of {len(cities):,} are in.")

        stage.load(told)
        took = time.monotonic() - began
        teller.say(f"Loaded in {took:.1f} s ({len(cities) / took:,.0f} records/s).")
        self.facts["records"] = {
            "source": source,
            "count": len(cities),
            "load_seconds": round(took, 3),
        }

    def _kill(self) -> None:
        stage, teller = self._stage, self._teller
        time.sleep(0.5)  # some traffic before, so that the kill falls into it
        before = self._mark()
        node = stage.kill()
        teller.say(f"kill -9 {node}, in the middle of them.")
        hints = self._await_hints(node)
        counts = stage.traffic.counts().since(before)
        self._went_on("Without it", counts)
        teller.claim(
            hints > 0,
            f"{hints:,} writes that {node} should have got wait for it on the other nodes, "
            "as hints: copies that say whom they are for.",
        )
        self.facts["kill"] = {"node": node, "hints": hints, **_told(counts)}

    def _await_hints(self, node: str) -> int:
        began = time.monotonic()
        hints = 0
        while (spent := time.monotonic() - began) < HINTS_WITHIN_S:
            hints = self._stage.hints_for(node)
            if hints and spent >= TROUBLE_S:
                break
            time.sleep(0.1)
        return hints

    def _revive(self) -> None:
        stage, teller = self._stage, self._teller
        began = time.monotonic()
        with self._held():
            nodes = stage.revive()
        teller.say(f"{listed(nodes)} is started again, with what its disk had at its death.")
        stage.wait_equal(self._timeout)
        took = time.monotonic() - began
        left = sum(stage.hints_for(node) for node in nodes)
        teller.say(
            f"{took:.1f} s after its start it has caught up: no hints left, all copies equal."
        )
        self.facts["kill"] |= {"caught_up_seconds": round(took, 3), "hints_left": left}

    def _split(self) -> None:
        stage, teller = self._stage, self._teller
        before = self._mark()
        began = time.monotonic()
        sides = stage.split()
        shown = "   |   ".join(" ".join(names) for names in SIDES)
        teller.say(f"The network splits:   {shown}   Neither side reaches the other.")
        for names, side in zip(SIDES, sides, strict=True):
            teller.say(f"{listed(names)} take a write: {CART} = {words(side.value)}{_kept(side)}")
        time.sleep(max(0.0, TROUBLE_S - (time.monotonic() - began)))
        counts = stage.traffic.counts().since(before)
        self._went_on("Meanwhile", counts)
        self.facts["partition"] = {
            "sides": [list(names) for names in SIDES],
            "key": CART,
            "written": [side.value for side in sides],
            **_told(counts),
        }

    def _heal(self) -> None:
        stage, teller = self._stage, self._teller
        stage.heal()
        took = stage.wait_equal(self._timeout)
        teller.say(f"The network is whole again, and all copies are equal after {took:.1f} s.")
        facts = self.facts["partition"]
        values = stage.cart()
        teller.claim(
            values == sorted(facts["written"]),
            f"{CART} has {len(values)} values now: {'  and  '.join(map(words, values))}",
        )
        teller.more(
            "Neither write knew of the other, so neither may replace the other. Such values are "
            "called siblings; a reader gets them all, and decides."
        )
        facts |= {"siblings": values, "healed_seconds": round(took, 3)}

    def _resolve(self) -> None:
        stage, teller = self._stage, self._teller
        merged = stage.resolve()
        values = stage.cart(r="all")
        teller.claim(
            values == [merged],
            f"Resolved, by one write that has seen both: {CART} = "
            f"{'  and  '.join(map(words, values))}",
        )
        self.facts["partition"]["resolved"] = values

    # --- what is said of the load ---------------------------------------------------------------

    def _mark(self) -> Counts:
        traffic = self._stage.traffic
        traffic.writes.forget_slowest()
        traffic.reads.forget_slowest()
        return traffic.counts()

    def _went_on(self, when: str, counts: Counts) -> None:
        traffic = self._stage.traffic
        calls = counts.writes + counts.reads
        slowest_ms = max(traffic.writes.slowest_ms, traffic.reads.slowest_ms)
        older = f" Reads that showed an older value: {counts.older:,}." if counts.older else ""
        failed = f"{counts.failed:,} failed"
        if counts.failed:
            failed += f" (the last: {traffic.error})"
        enough = counts.writes > 0 and counts.reads > 0
        self._teller.claim(
            enough and counts.failed * 100 <= calls * FAILED_PER_CENT_MAX,
            f"{when} {counts.writes:,} writes and {counts.reads:,} reads succeeded, {failed}; "
            f"the slowest took {slowest_ms:,.0f} ms.{older}",
        )

    def _reckon(self) -> None:
        stage, teller = self._stage, self._teller
        counts = stage.traffic.stop()
        stage.wait_equal(self._timeout)
        verdict = stage.traffic.verify(stage.kv)
        teller.claim(
            verdict.kept == verdict.keys and not counts.wrong,
            f"The load has stopped: {counts.writes:,} writes were acknowledged, to "
            f"{verdict.keys:,} keys. Read again from all 3 owners: "
            f"{verdict.kept:,} of {verdict.keys:,} as they should be.",
        )
        cities = stage.records.cities
        equal = stage.verify_cities()
        teller.claim(
            equal == len(cities),
            f"And the cities, from all 3 owners: {equal:,} of {len(cities):,} equal.",
        )
        self.facts["records"]["equal"] = equal
        self.facts["load"] = {
            **_told(counts),
            "wrong": counts.wrong,
            "keys": verdict.keys,
            "kept": verdict.kept,
            "lost": list(verdict.lost),
        }


def _told(counts: Counts) -> dict[str, int]:
    return {"writes": counts.writes, "reads": counts.reads, "failed": counts.failed}


def _kept(side: Side) -> str:
    """Who keeps a write of one side of the partition."""
    keep = [
        f"by {name} for {side.stand_ins[name]}" if name in side.stand_ins else f"by {name}"
        for name in side.acked_by
    ]
    return f"   (kept {listed(keep)})"
