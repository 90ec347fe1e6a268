"""Which owners a copy of an arc is still to be compared with: the bookkeeping of gaining nodes.

A node that is to become an owner, or that lets go of one, compares its rows with `need` owners
that `moves` allows one by one (see `ballots` for how many, and when they may count: V8). It asks
all of them for their roots at once, walks what differs with one after the other, and asks the
others again after each walk, because the first walk brings most of what they hold. So a copy
travels once, and what was there before is not sent again: a copy that was broken off, by whatever,
goes on where it was. A page that is lost is asked for again from its first key.

What copies bring is limited to `transfer_bytes_per_s`, by a bucket of tokens that a page may
overdraw; the next one then waits. Ordinary repair is not held up by that.

No messages here: `exchange` sends what is due, and reports what came of it.
"""

from __future__ import annotations

from dynamo.core import ring

# A bucket holds what may be copied in this time.
BURST_MS = 250
RETRY_MS = 500


class Walk:
    """One arc being compared with one peer: where it is, and when the page counts as lost."""

    __slots__ = ("arc", "at", "copy", "due_ms", "end", "peer")

    def __init__(self, peer: str, arc: int, copy: Copy | None = None) -> None:
        self.peer = peer
        self.arc = arc
        self.copy = copy
        self.at, self.end = ring.arc_range(arc)
        self.due_ms = 0


class Copy:
    """One arc that is compared with `need` of the owners that are allowed."""

    __slots__ = ("allowed", "arc", "ask", "bytes", "differ", "met", "need", "retry", "rows", "walk")

    def __init__(self, arc: int, need: int) -> None:
        self.arc = arc
        self.need = need
        self.allowed: dict[str, None] = {}
        self.ask: dict[str, None] = {}  # whose roots are to be asked for at the next turn
        self.retry: dict[str, int] = {}  # when to ask those again that are no evidence yet
        self.differ: dict[str, None] = {}
        self.met: dict[str, None] = {}
        self.walk: Walk | None = None
        self.rows = 0
        self.bytes = 0


class Bucket:
    """Bytes that may be copied now: filled with time, overdrawn by at most one page."""

    __slots__ = ("_at_ms", "_rate", "_thousandths")

    def __init__(self, bytes_per_s: int, now_ms: int) -> None:
        self._rate = bytes_per_s
        self._thousandths = bytes_per_s * BURST_MS  # of a byte
        self._at_ms = now_ms

    def _fill(self, now_ms: int) -> None:
        passed_ms = max(0, now_ms - self._at_ms)
        self._at_ms = max(now_ms, self._at_ms)
        full = self._rate * BURST_MS
        self._thousandths = min(full, self._thousandths + passed_ms * self._rate)

    def take(self, count: int, now_ms: int) -> None:
        self._fill(now_ms)
        self._thousandths -= count * 1_000

    def free_ms(self, now_ms: int) -> int:
        """When the next page may be asked for: `now_ms` or later."""
        self._fill(now_ms)
        return now_ms if self._thousandths > 0 else now_ms + 1 - self._thousandths // self._rate


class Copies:
    """All copies of one node, and what is due in them."""

    __slots__ = ("_asked", "_bucket", "_parked", "done", "of")

    def __init__(self, bytes_per_s: int, now_ms: int) -> None:
        self._bucket = Bucket(bytes_per_s, now_ms)
        self.of: dict[int, Copy] = {}
        self.done: dict[int, None] = {}  # arcs whose copy is whole; `moves` clears it
        # request -> (peer, copies, when it counts as lost)
        self._asked: dict[int, tuple[str, list[Copy], int]] = {}
        self._parked: dict[int, Walk] = {}  # arc -> a walk that waits for tokens

    def allow(self, arc: int, peer: str, need: int) -> None:
        """From now on a comparison with `peer` counts. With need 0 there is nobody to ask."""
        copy = self.of.get(arc)
        if copy is None:
            copy = self.of[arc] = Copy(arc, need)
        copy.need = need
        if peer and peer not in copy.allowed:
            copy.allowed[peer] = None
            copy.ask[peer] = None

    def drop(self, arc: int) -> None:
        """Forget a copy: its register is no more."""
        self.of.pop(arc, None)
        self._parked.pop(arc, None)
        self.done.pop(arc, None)

    def whole(self) -> list[Copy]:
        """Copies that have met as many owners as they need; they are done."""
        found = [copy for copy in self.of.values() if len(copy.met) >= copy.need]
        for copy in found:
            self.drop(copy.arc)
            self.done[copy.arc] = None
        return found

    # --- what is due ------------------------------------------------------------------------------

    def questions(self, now_ms: int) -> dict[str, list[Copy]]:
        """Whom to ask for the roots of which copies."""
        for req, (peer, copies, due_ms) in list(self._asked.items()):
            if now_ms >= due_ms:
                del self._asked[req]
                for copy in copies:
                    copy.ask[peer] = None
        found: dict[str, list[Copy]] = {}
        for copy in self.of.values():
            for peer, at_ms in list(copy.retry.items()):
                if now_ms >= at_ms:
                    del copy.retry[peer]
                    copy.ask[peer] = None
            for peer in copy.ask:
                if peer not in copy.met:
                    found.setdefault(peer, []).append(copy)
            copy.ask.clear()
        return found

    def asked(self, req: int, peer: str, copies: list[Copy], due_ms: int) -> None:
        self._asked[req] = (peer, copies, due_ms)

    def answered(self, req: int, sender: str) -> list[Copy]:
        """The copies that a ROOTS_ARE is about, none if it is not about copies."""
        peer, copies, _ = self._asked.get(req, ("", [], 0))
        if peer != sender:
            return []
        del self._asked[req]
        return [copy for copy in copies if self.of.get(copy.arc) is copy]

    def found(self, copy: Copy, peer: str, equal: bool, evidence: bool, now_ms: int) -> None:
        """What came of asking a peer for its root."""
        if not evidence:
            copy.retry[peer] = now_ms + RETRY_MS
        elif equal:
            copy.met[peer] = None
        else:
            copy.differ[peer] = None

    def walks(self, now_ms: int) -> list[Walk]:
        """Walks that begin, or go on, now."""
        if self._bucket.free_ms(now_ms) > now_ms:
            return []
        found = list(self._parked.values())
        self._parked.clear()
        for copy in self.of.values():
            if copy.walk is None and copy.differ:
                peer = next(iter(copy.differ))
                del copy.differ[peer]
                copy.walk = Walk(peer, copy.arc, copy)
                found.append(copy.walk)
        return [walk for walk in found if self.alive(walk)]

    def alive(self, walk: Walk) -> bool:
        """Whether a walk still serves a copy."""
        return walk.copy is not None and self.of.get(walk.arc) is walk.copy

    def brought(self, walk: Walk, rows: int, size: int, now_ms: int) -> None:
        """A page came; the next one waits its turn."""
        assert walk.copy is not None
        walk.copy.rows += rows
        walk.copy.bytes += size
        self._bucket.take(size, now_ms)
        self._parked[walk.arc] = walk

    def walked(self, walk: Walk) -> None:
        """The whole arc was compared with a peer: now the others may be equal, too."""
        copy = walk.copy
        assert copy is not None
        copy.walk = None
        copy.met[walk.peer] = None
        copy.ask.update(copy.differ)
        copy.differ.clear()
        self._parked.pop(walk.arc, None)

    def lost(self, walk: Walk, reachable: bool) -> None:
        """A page did not come. It is asked for again, of another owner if this one is away."""
        copy = walk.copy
        assert copy is not None
        if reachable:
            self._parked[walk.arc] = walk
        else:
            copy.walk = None
            copy.ask[walk.peer] = None

    def next_due_ms(self, now_ms: int) -> int:
        """When something is due here, apart from pages on their way."""
        due = min((at for _, _, at in self._asked.values()), default=1 << 62)
        for copy in self.of.values():
            due = min(due, *copy.retry.values(), 1 << 62)
            if copy.ask:
                due = now_ms
        if self._parked or any(c.differ and c.walk is None for c in self.of.values()):
            due = min(due, self._bucket.free_ms(now_ms))
        return due

    def __len__(self) -> int:
        return len(self._asked)
