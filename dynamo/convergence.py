"""Whether all replicas agree: asked of every node, never inferred.

Converged means: every node answered, nobody owes a hint, and for every arc all owners reported the
same root over the clocks of all keys. It covers the writes acknowledged before the call:

  W1  Hints first, roots after. A round of answers that shows no hint proves nothing for the roots
      in the same round: H may have been asked before S delivered, and S after. So roots count from
      the next round on.
  W2  An arc once seen equal stays counted, so writes that go on meanwhile cannot keep the call
      from ending: they are not covered.
  W3  A node that does not answer may hold the only difference. Without it there is no verdict.
  W4  Owners are those of the latest ring that anybody knows. They are asked for again and again,
      and an arc that has got others meanwhile is open again.

Roots of one round are not read at one instant, and need not be: whatever was on one owner when it
answered is in its root, and equal roots are equal sets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dynamo.client.errors import NotConverged
from dynamo.core.messages import RING, RING_IS
from dynamo.server.admin import REQ, Admin
from dynamo.server.config import Address

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.25
# One round waits this long for a node that does not answer.
ROUND_S = 1.0
# Comparisons are asked for this often, without insisting on an answer.
NUDGE_EVERY_S, NUDGE_S = 1.0, 0.1
NAMED_MAX = 8
NO_ROWS = "0" * 16

Answers = dict[str, dict[str, Any]]
Owners = list[tuple[str, ...]]


class _Verdict:
    """What is known so far, and what is still missing."""

    def __init__(self, nodes: list[str]) -> None:
        self.nodes = nodes
        self.silent = list(nodes)
        self.owners: Owners = []
        self.open: list[int] = []
        self.hints_done = False
        self.compared = False
        self.owed: dict[str, int] = {}

    def learn_owners(self, owners: Owners) -> None:
        """Take the owners of all arcs, as far as they are news (W4)."""
        changed = [
            arc
            for arc, names in enumerate(owners)
            if arc >= len(self.owners) or names != self.owners[arc]
        ]
        self.owners = owners
        self.open = sorted({*self.open, *changed})

    def judge(self, answers: Answers) -> bool:
        """Take in one round; True once everything is equal."""
        self.silent = [name for name in self.nodes if name not in answers]
        self.owed = {}
        for answer in answers.values():
            for home, count in answer["owed"].items():
                self.owed[home] = self.owed.get(home, 0) + count
        if self.hints_done:  # W1: found in an earlier round
            self.compared = True
            self.open = [arc for arc in self.open if not self._equal(arc, answers)]
        elif not self.silent and not any(answer["hints"] for answer in answers.values()):
            self.hints_done = True
        return self.hints_done and not self.open and not self.silent and bool(self.owners)

    def _equal(self, arc: int, answers: Answers) -> bool:
        owners = self.owners[arc]
        if any(name not in answers for name in owners):
            return False
        return len({answers[name]["roots"].get(str(arc), NO_ROWS) for name in owners}) == 1

    def error(self, seconds: float) -> NotConverged:
        reasons = []
        if self.silent:
            reasons.append(f"no answer from {', '.join(self.silent)}")
        owed = {home: count for home, count in sorted(self.owed.items()) if count}
        if owed and not self.hints_done:
            reasons.append(
                f"hints left: {', '.join(f'{count:,} for {home}' for home, count in owed.items())}"
            )
        arcs = self.open if self.compared else []
        if arcs:
            reasons.append(f"{len(arcs):,} arcs differ: {self._named(arcs)}")
        elif not reasons:
            reasons.append("the last hints were delivered just now, and no arc compared since")
        nodes = [*self.silent, *owed, *(name for arc in arcs for name in self.owners[arc])]
        return NotConverged(
            f"replicas were not all equal after {seconds:.3g} s: {'; '.join(reasons)}",
            arcs=arcs,
            nodes=list(dict.fromkeys(nodes)),
        )

    def _named(self, arcs: list[int]) -> str:
        named = [f"{arc} ({', '.join(self.owners[arc])})" for arc in arcs[:NAMED_MAX]]
        if len(arcs) > NAMED_MAX:
            named.append(f"and {len(arcs) - NAMED_MAX:,} more")
        return ", ".join(named)


def wait_converged(admin: Admin, nodes: Mapping[str, Address], timeout: float) -> None:
    """Return once all replicas are equal; raise NotConverged after `timeout` seconds."""
    started = time.monotonic()
    deadline = started + timeout
    verdict = _Verdict(list(nodes))
    pause, nudged = FIRST_PAUSE_S, 0.0
    while True:
        if time.monotonic() - nudged > NUDGE_EVERY_S:
            nudged = time.monotonic()
            admin.status(nodes, "exchange", NUDGE_S)
            owners = latest_owners(admin, nodes, _left(deadline))
            if owners:
                verdict.learn_owners(owners)
        if verdict.judge(admin.status(nodes, "roots", _left(deadline))):
            return
        if time.monotonic() >= deadline:
            raise verdict.error(time.monotonic() - started)
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(LONGEST_PAUSE_S, pause * 1.5)


def _left(deadline: float) -> float:
    """How long to wait for a round: even a short timeout gets one whole round."""
    return max(0.1, min(ROUND_S, deadline - time.monotonic()))


def latest_owners(admin: Admin, nodes: Mapping[str, Address], timeout: float) -> Owners:
    """The owners of each arc, as whoever answers and knows the latest ring has them."""
    found = admin.ask(nodes, (RING, REQ, int(timeout * 1000), 0), timeout)
    rings = [answer for answer in found.values() if answer[0] == RING_IS]
    if not rings:
        return []
    latest = max(rings, key=lambda answer: int(answer[3]))
    return unpack_owners(latest[9], [member[0] for member in latest[8]])


def unpack_owners(packed: bytes, names: list[str]) -> Owners:
    """RING_IS's owners: per arc a count byte, then that many u16 indices into `names`."""
    owners: Owners = []
    at = 0
    while at < len(packed):
        end = at + 1 + 2 * packed[at]
        pairs = range(at + 1, end, 2)
        owners.append(tuple(names[int.from_bytes(packed[i : i + 2], "big")] for i in pairs))
        at = end
    return owners
