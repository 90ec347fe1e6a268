"""Exchange: owners of an arc compare what they hold and bring each other up to date.

A plain form that Merkle trees will replace: per arc one root (see `replica`), and where roots
differ a walk over the arc's rows, page by page.

    a -> b  ROOTS     [[arc, root], ...]            for all arcs they share
    b -> a  ROOTS_ARE [arc, ...]                    those that differ
    a -> b  KEYS      arc start end [[key, check]]  one page of a's rows
    b -> a  KEYS_ARE  want, objs, upto              what b lacks; what a lacks, whole; how far
    a -> b  REPLICATE for each wanted key           the ordinary write door
    ...                                             until `upto` is the end of the arc

A difference is confirmed first: most are writes on their way. An arc whose own root has not moved
when it differs for the second time is walked; one that keeps moving is looked at again at the next
round, and walked at the eighth. Nothing is confirmed that was asked for, by a peer that came back,
an unsynced arc or `wait_converged`.

Each side merges, so an empty or forgetful peer never wins. What a pulls comes inside the answer,
so that when a walk ends, a holds everything that b held when its pages were compared.

An owner new to an arc - fresh store, wiped, a record quarantined - is not *synced*: its "absent"
is no evidence and does not count toward R (X1). It becomes synced when, since then, it found equal
roots or finished a walk with max(R, N-W+1) other owners that are synced themselves, or with all of
them: any acknowledged write is on W owners, so at least one of those it asked had it. (Two owners
that were both wiped have equal roots; they vouched for each other until the simulator came.)

Sources: Dynamo §4.7; DESIGN §4, §6.
"""

from __future__ import annotations

from typing import Any

from dynamo.core import ring
from dynamo.core.config import Config, quorum
from dynamo.core.liveness import Liveness
from dynamo.core.messages import (
    KEYS,
    KEYS_ARE,
    REPLICATE,
    ROOTS,
    ROOTS_ARE,
    Malformed,
    Message,
)
from dynamo.core.replica import CHECK_BYTES, Replica
from dynamo.core.ring import Table

PAGE_BYTES = 1 << 20
UNSYNCED_RETRY_MS = 500
CONFIRM_MS = 200
ROUNDS_MAX = 8
WALK_TIMEOUT_MS = 2_000


class _Walk:
    """One arc being compared with one peer: where it is, and when the page counts as lost."""

    __slots__ = ("arc", "at", "due_ms", "end", "peer")

    def __init__(self, peer: str, arc: int) -> None:
        self.peer = peer
        self.arc = arc
        self.at, self.end = ring.arc_range(arc)
        self.due_ms = 0


class Exchange:
    """Schedules comparisons, walks what differs, and knows which arcs are synced with whom."""

    __slots__ = (
        "_config",
        "_confirm_due_ms",
        "_differing",
        "_doubtful",
        "_due_ms",
        "_liveness",
        "_me",
        "_outbox",
        "_replica",
        "_roots_due_ms",
        "_roots_sent",
        "_seq",
        "_shared",
        "_stirred",
        "_synced_with",
        "_table",
        "_unsynced_there",
        "_walks",
        "ready",
        "stats",
    )

    def __init__(
        self,
        config: Config,
        me: str,
        table: Table,
        replica: Replica,
        liveness: Liveness,
        outbox: list[tuple[Any, Message]],
        life: int,
    ) -> None:
        self._config = config
        self._me = me
        self._table = table
        self._replica = replica
        self._liveness = liveness
        self._outbox = outbox
        self._seq = life
        self.stats = replica.stats
        own = table.arcs_of(me)
        self._shared = {
            peer: [arc for arc in own if peer in table.owners(arc)]
            for peer in table.names
            if peer != me
        }
        self._roots_due_ms = dict.fromkeys(self._shared, 0)
        # request -> (peer, arcs, whether differences are walked at once)
        self._roots_sent: dict[int, tuple[str, list[int], bool]] = {}
        # peer -> arc -> (own root, rounds) when it differed last; and when to look again
        self._doubtful: dict[str, dict[int, tuple[int, int]]] = {peer: {} for peer in self._shared}
        self._confirm_due_ms: dict[str, int] = {}
        self._differing: dict[str, dict[int, None]] = {peer: {} for peer in self._shared}
        self._walks: dict[int, _Walk] = {}
        # Arc -> the other owners it was compared with since it was last doubted, and whether
        # those were synced.
        self._synced_with: dict[int, dict[str, bool]] = {}
        self._unsynced_there: dict[str, dict[int, None]] = {peer: {} for peer in self._shared}
        # Most steps have nothing to do here, and find that out by one comparison: whatever changes
        # when `run` is due says so.
        self._stirred = True
        self._due_ms = 0
        for arc in own:
            if not replica.synced(arc):
                self._doubt(arc)
        self.ready = not self._synced_with

    # --- what counts toward R ---------------------------------------------------------------

    def _needed(self, arc: int) -> int:
        owners = len(self._table.owners(arc))
        r = self._config.r or quorum(owners)
        w = self._config.w or quorum(owners)
        return min(max(r, owners - w + 1), owners - 1)

    def _doubt(self, arc: int) -> None:
        self._synced_with[arc] = {}
        self._compared(arc, "")

    def _compared(self, arc: int, peer: str) -> None:
        """Note that this node holds all that `peer` held of the arc."""
        met = self._synced_with.get(arc)
        if met is None:
            return
        if peer:
            met[peer] = arc not in self._unsynced_there[peer]
        others = len(self._table.owners(arc)) - 1
        if sum(met.values()) >= self._needed(arc) or len(met) == others:
            del self._synced_with[arc]
            self._replica.set_synced(arc, True)
            self.stats["arcs_synced"] += 1

    def watch(self, arc: int) -> None:
        """Take up an arc that the replica has come to doubt."""
        if arc not in self._synced_with and self._me in self._table.owners(arc):
            self._doubt(arc)
            self.ready = False
            self._stirred = True

    # --- schedule ---------------------------------------------------------------------------

    def hurry(self, peers: list[str]) -> None:
        """Compare with these peers at the next turn."""
        for peer in peers:
            if peer in self._roots_due_ms:
                self._roots_due_ms[peer] = 0
                self._stirred = True

    def hurry_all(self) -> None:
        self.hurry(list(self._shared))

    def look_soon(self, now_ms: int) -> None:
        """Compare with everybody before long, however often this is asked for.

        History: each hint that was refused, and past the window each write refuses one, made a
        round of all arcs with all peers.
        """
        for peer, due_ms in self._roots_due_ms.items():
            self._roots_due_ms[peer] = min(due_ms, now_ms + UNSYNCED_RETRY_MS)
        self._stirred = True

    def run(self, now_ms: int) -> None:
        """Send the comparisons that are due, and keep the walks going."""
        if not self._stirred and now_ms < self._due_ms:
            return
        self._stirred = False
        for req, walk in list(self._walks.items()):
            if now_ms >= walk.due_ms:
                del self._walks[req]
                self.stats["pages_lost"] += 1
                self._differing[walk.peer][walk.arc] = None
        for peer, arcs in self._shared.items():
            if self._liveness.state(peer) != "up":
                continue
            if arcs and now_ms >= self._roots_due_ms[peer]:
                self._round(peer, arcs, now_ms)
            elif now_ms >= self._confirm_due_ms.get(peer, now_ms + 1):
                del self._confirm_due_ms[peer]
                self._send_roots(peer, list(self._doubtful[peer]), False)
            if self._differing[peer]:
                self._start_walks(peer, now_ms)
        if not self.ready and not self._synced_with:
            self.ready = True
            self._replica.events.append(("ready",))
        self._due_ms = self._next_due_ms()

    def _round(self, peer: str, arcs: list[int], now_ms: int) -> None:
        hurried = self._roots_due_ms[peer] == 0
        wait_ms = self._config.exchange_ms
        if any(self._unsynced(arc, peer) for arc in self._synced_with):
            wait_ms = min(wait_ms, UNSYNCED_RETRY_MS)
        self._roots_due_ms[peer] = now_ms + wait_ms
        self._send_roots(peer, arcs, hurried)

    def _unsynced(self, arc: int, peer: str) -> bool:
        return peer not in self._synced_with.get(arc, (peer,)) and peer in self._table.owners(arc)

    def _send_roots(self, peer: str, arcs: list[int], at_once: bool) -> None:
        roots = self._replica.roots
        self._seq += 1
        req = self._seq
        for old in [old for old, sent in self._roots_sent.items() if sent[0] == peer]:
            del self._roots_sent[old]
        self._roots_sent[req] = (peer, arcs, at_once)
        self._outbox.append(
            (
                peer,
                (ROOTS, req, self._config.background_timeout_ms,
                 [[arc, roots.get(arc, 0)] for arc in arcs]),
            )
        )  # fmt: skip

    def _start_walks(self, peer: str, now_ms: int) -> None:
        busy = [walk.arc for walk in self._walks.values() if walk.peer == peer]
        for arc in list(self._differing[peer]):
            if len(busy) >= self._config.exchange_arcs:
                return
            del self._differing[peer][arc]
            if arc not in busy:
                busy.append(arc)
                self._send_page(_Walk(peer, arc), now_ms)

    def _send_page(self, walk: _Walk, now_ms: int) -> None:
        rows = self._replica.rows(walk.at, walk.end, self._config.exchange_rows)
        full = len(rows) == self._config.exchange_rows
        end = rows[-1][0] + b"\0" if full else walk.end
        walk.due_ms = now_ms + WALK_TIMEOUT_MS
        self._seq += 1
        req = self._seq
        self._walks[req] = walk
        page = [[skey, record[:CHECK_BYTES]] for skey, record in rows]
        wait_ms = self._config.background_timeout_ms
        self._outbox.append((walk.peer, (KEYS, req, wait_ms, walk.arc, walk.at, end, page)))
        self.stats["exchange_pages"] += 1

    # --- messages -----------------------------------------------------------------------------

    def on_roots(self, sender: str, message: Message, born_ms: int) -> None:
        _, req, _, theirs = message
        mine = self._replica.roots
        try:
            differing = [arc for arc, root in theirs if mine.get(arc, 0) != root]
        except (TypeError, ValueError):
            raise Malformed("ROOTS is a list of [arc, root]") from None
        unsynced = [arc for arc, _ in theirs if arc in self._synced_with]
        self._outbox.append((sender, (ROOTS_ARE, req, differing, unsynced)))

    def on_roots_are(self, sender: str, message: Message, born_ms: int) -> None:
        _, req, differing, unsynced = message
        peer, arcs, at_once = self._roots_sent.pop(req, ("", [], False))
        if peer != sender:
            return
        self._stirred = True
        differ = {arc: None for arc in differing if isinstance(arc, int)}
        there = self._unsynced_there[peer]
        for arc in arcs:
            there.pop(arc, None)
        there.update((arc, None) for arc in unsynced if isinstance(arc, int))
        doubtful = self._doubtful[peer]
        fresh = False
        for arc in arcs:
            if arc not in differ:
                doubtful.pop(arc, None)
                self._compared(arc, peer)
            elif at_once or self._unsynced(arc, peer) or self._confirmed(doubtful, arc):
                doubtful.pop(arc, None)
                self._differing[peer][arc] = None
            else:
                fresh = True
        if fresh and len(arcs) == len(self._shared[peer]):
            self._confirm_due_ms[peer] = born_ms + CONFIRM_MS

    def _confirmed(self, doubtful: dict[int, tuple[int, int]], arc: int) -> bool:
        root = self._replica.roots.get(arc, 0)
        before, rounds = doubtful.get(arc, (None, 0))
        doubtful[arc] = (root, rounds + 1)
        self.stats["differences"] += 1
        return root == before or rounds + 1 >= ROUNDS_MAX

    def on_keys(self, sender: str, message: Message, born_ms: int) -> None:
        """Compare one page: say what is wanted, hand over what the sender lacks, and how far."""
        _, req, _, arc, start, end, page = message
        low, high = ring.arc_range(arc) if 0 <= arc < self._config.partitions else (b"", b"")
        if not low <= start <= end <= high or not all(
            isinstance(row, list) and list(map(type, row)) == [bytes, bytes] for row in page
        ):
            raise Malformed("KEYS page out of its arc or shape")
        theirs: dict[bytes, bytes] = dict(page)
        rows = self._replica.rows(start, end, 2 * self._config.exchange_rows)
        upto = rows[-1][0] + b"\0" if len(rows) == 2 * self._config.exchange_rows else end
        objs: list[list[bytes]] = []
        mine: dict[bytes, None] = {}
        size = 0
        for skey, record in rows:
            if size >= PAGE_BYTES:
                upto = skey
                break
            mine[skey] = None
            if theirs.get(skey) != record[:CHECK_BYTES]:
                objs.append([skey, record[CHECK_BYTES:]])
                size += len(record)
        want = _wanted(theirs, mine, objs, upto)
        self._outbox.append((sender, (KEYS_ARE, req, want, objs, upto)))

    def on_keys_are(self, sender: str, message: Message, born_ms: int) -> None:
        _, req, want, objs, upto = message
        walk = self._walks.pop(req, None)
        if walk is None or walk.peer != sender:
            return
        self._stirred = True
        if not walk.at <= upto <= walk.end:
            raise Malformed("KEYS_ARE goes beyond its page")
        for skey, obj in objs:
            self._take(walk, skey, obj)
        for skey in want:
            self._push(walk, skey)
        now_ms = born_ms
        walk.at = upto
        if upto < walk.end:
            self._send_page(walk, now_ms)
        else:
            self._compared(walk.arc, walk.peer)
            self._start_walks(walk.peer, now_ms)

    def _take(self, walk: _Walk, skey: Any, obj: Any) -> None:
        if not isinstance(skey, bytes) or not isinstance(obj, bytes):
            raise Malformed("KEYS_ARE objs are [storage key, obj]")
        if skey != ring.storage_key(skey[4:], self._config.partitions) or not obj:
            raise Malformed("KEYS_ARE with a misplaced key")
        if int.from_bytes(skey[:2], "big") != walk.arc:
            raise Malformed("KEYS_ARE with a key of another arc")
        self._replica.merge(walk.arc, skey, obj)
        self.stats["exchange_pulled"] += 1

    def _push(self, walk: _Walk, skey: Any) -> None:
        if not isinstance(skey, bytes) or int.from_bytes(skey[:2], "big") != walk.arc:
            raise Malformed("KEYS_ARE wants a key of another arc")
        obj = self._replica.obj(skey)
        if obj:
            register = self._table.registers[walk.arc]
            self._outbox.append(
                (
                    walk.peer,
                    (REPLICATE, 0, self._config.background_timeout_ms, skey[4:], register.ver,
                     register.phase, "", 0, 0, b"", [], obj),
                )
            )  # fmt: skip
            self.stats["exchange_pushed"] += 1

    def next_due_ms(self) -> int:
        """When `run` has something to do next, apart from messages."""
        return self._due_ms

    def _next_due_ms(self) -> int:
        due = min((walk.due_ms for walk in self._walks.values()), default=1 << 62)
        for peer, at in self._roots_due_ms.items():
            if self._shared[peer] and self._liveness.state(peer) == "up":
                due = min(due, at, self._confirm_due_ms.get(peer, at))
        return due


def _wanted(
    theirs: dict[bytes, bytes], mine: dict[bytes, None], objs: list[list[bytes]], upto: bytes
) -> list[bytes]:
    """The sender's keys that are missing here, or differ: both sides take the other's."""
    differing = {pair[0]: None for pair in objs}
    return [skey for skey in theirs if skey < upto and (skey not in mine or skey in differing)]
