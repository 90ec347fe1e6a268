"""The bookkeeping of comparisons: with whom, how far, and which of them a copy still needs.

`Peer` is what two owners share, `Walk` one arc on its way page by page, `Copies` the arcs that this
node gains. Whoever is to become an owner, or lets go of one, compares its rows with `need` owners
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
from dynamo.core.ring import COPYING, Register

# A bucket holds what may be copied in this time.
BURST_MS = 250
RETRY_MS = 500
NEVER_MS = 1 << 62


class Peer:
    """What this node shares with one other, and how far they have compared it."""

    __slots__ = ("arcs", "confirm_due_ms", "differing", "doubtful", "roots_due_ms", "unsynced")

    def __init__(self) -> None:
        self.arcs: dict[int, None] = {}
        self.roots_due_ms = 0
        # arc -> (own root, rounds) when it differed last; and when to look again
        self.doubtful: dict[int, tuple[int, int]] = {}
        self.confirm_due_ms = NEVER_MS
        self.differing: dict[int, None] = {}
        self.unsynced: dict[int, None] = {}  # arcs of which it says that it is no evidence


def partners(register: Register) -> tuple[str, ...]:
    """Who compares an arc with whom, as a matter of course."""
    if register.phase == COPYING:
        return register.cur
    return (*register.cur, *(name for name in register.next if name not in register.cur))


def wanted(
    theirs: dict[bytes, bytes], mine: dict[bytes, None], objs: list[list[bytes]], upto: bytes
) -> list[bytes]:
    """The sender's keys that are missing here, or differ: both sides take the other's."""
    differing = {pair[0]: None for pair in objs}
    return [skey for skey in theirs if skey < upto and (skey not in mine or skey in differing)]


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

    __slots__ = ("_at_ms", "_rate", "_second", "_thousandths")

    def __init__(self, bytes_per_s: int, now_ms: int) -> None:
        self._rate = bytes_per_s
        self._thousandths = bytes_per_s * BURST_MS  # of a byte
        self._at_ms = now_ms
        self._second = (now_ms, 0, 0)  # the second that began then, its bytes, those of the last

    def per_second(self, now_ms: int) -> int:
        """Bytes taken in the last whole second."""
        began_ms, count, before = self._second
        passed_ms = now_ms - began_ms
        if passed_ms >= 1_000:
            began_ms, count, before = now_ms, 0, count if passed_ms < 2_000 else 0
            self._second = (began_ms, count, before)
        return max(count, before)

    def _fill(self, now_ms: int) -> None:
        passed_ms = max(0, now_ms - self._at_ms)
        self._at_ms = max(now_ms, self._at_ms)
        full = self._rate * BURST_MS
        self._thousandths = min(full, self._thousandths + passed_ms * self._rate)

    def take(self, count: int, now_ms: int) -> None:
        self._fill(now_ms)
        self._thousandths -= count * 1_000
        self.per_second(now_ms)
        began_ms, so_far, before = self._second
        self._second = (began_ms, so_far + count, before)

    def free_ms(self, now_ms: int) -> int:
        """When the next page may be asked for: `now_ms` or later."""
        self._fill(now_ms)
        return now_ms if self._thousandths > 0 else now_ms + 1 - self._thousandths // self._rate


class Copies:
    """All copies of one node, and what is due in them."""

    __slots__ = ("_asked", "_bucket", "_parked", "done", "of", "pages")

    def __init__(self, bytes_per_s: int, now_ms: int) -> None:
        self._bucket = Bucket(bytes_per_s, now_ms)
        self.of: dict[int, Copy] = {}
        self.done: dict[int, Copy] = {}  # arc -> its copy, which is whole; `moves` clears it
        # request -> (peer, copies, when it counts as lost)
        self._asked: dict[int, tuple[str, list[Copy], int]] = {}
        self._parked: dict[int, Walk] = {}  # arc -> a walk that waits for tokens
        self.pages: dict[int, Walk] = {}  # request -> a walk whose page is under way

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

    def per_second(self, now_ms: int) -> int:
        """Bytes that copies brought in the last second."""
        return self._bucket.per_second(now_ms)

    def whole(self) -> list[Copy]:
        """Copies that have met as many owners as they need; they are done."""
        found = [copy for copy in self.of.values() if len(copy.met) >= copy.need]
        for copy in found:
            self.drop(copy.arc)
            self.done[copy.arc] = copy
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
        """A page came. The next one waits its turn; after the last, the others may be equal."""
        copy = walk.copy
        assert copy is not None
        copy.rows += rows
        copy.bytes += size
        self._bucket.take(size, now_ms)
        if walk.at < walk.end:
            self._parked[walk.arc] = walk
            return
        copy.walk = None
        copy.met[walk.peer] = None
        copy.ask.update(copy.differ)
        copy.differ.clear()

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
        if not (self.of or self._asked or self._parked):
            return NEVER_MS  # as on nearly every node
        due = min((at for _, _, at in self._asked.values()), default=NEVER_MS)
        for copy in self.of.values():
            due = min(due, *copy.retry.values(), NEVER_MS)
            if copy.ask:
                due = now_ms
        if self._parked or any(c.differ and c.walk is None for c in self.of.values()):
            due = min(due, self._bucket.free_ms(now_ms))
        return due
