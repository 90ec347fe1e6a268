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

Who compares: all that writes of an arc are for, as the table has it now, but for a node that is
to become an owner. That one is *gaining*: it is not synced from the moment it knows, and counts
only comparisons that `moves` allows (see `ballots`, V8), through `copying`, at a limited rate. It
pulls; nobody pushes to it. An owner that lets go of an arc compares in the same way first.

An unsynced owner also takes over what the others have promised about the arc (`ballots`, V7), and
counts nobody that holds another register.

Sources: Dynamo §4.7; DESIGN §4, §6.
"""

from __future__ import annotations

from typing import Any

from dynamo.core import ring
from dynamo.core.ballots import Ballots, Held, gaining, levels
from dynamo.core.config import Config
from dynamo.core.copying import NEVER_MS, Copies, Peer, Walk, partners, wanted
from dynamo.core.items import UNKNOWN
from dynamo.core.liveness import Liveness
from dynamo.core.messages import (
    KEYS,
    KEYS_ARE,
    REGISTER,
    REPLICATE,
    ROOTS,
    ROOTS_ARE,
    Malformed,
    Message,
)
from dynamo.core.replica import CHECK_BYTES, TOLD_MAX, Replica
from dynamo.core.ring import COPYING, Register, Table

PAGE_BYTES = 1 << 20
UNSYNCED_RETRY_MS = 500
CONFIRM_MS = 200
ROUNDS_MAX = 8
WALK_TIMEOUT_MS = 2_000
PUT_ID_BYTES = 16
TAUGHT_MAX = 64  # registers that one answer may make this node tell


class Exchange:
    """Schedules comparisons, walks what differs, and knows which arcs are synced with whom."""

    __slots__ = (
        "_ballots", "_config", "_due_ms", "_followed", "_liveness", "_me", "_outbox", "_peers",
        "_replica", "_roots_sent", "_seq", "_stirred", "_synced_with", "_table", "_walks", "copies",
        "ready", "stats",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        me: str,
        table: Table,
        replica: Replica,
        liveness: Liveness,
        ballots: Ballots,
        outbox: list[tuple[Any, Message]],
        life: int,
        now_ms: int,
    ) -> None:
        self._config = config
        self._me = me
        self._table = table
        self._replica = replica
        self._liveness = liveness
        self._ballots = ballots
        self._outbox = outbox
        self._seq = life
        self.stats = replica.stats
        self._peers: dict[str, Peer] = {}
        # request -> (peer, arcs, whether differences are walked at once)
        self._roots_sent: dict[int, tuple[str, list[int], bool]] = {}
        self._walks: dict[int, Walk] = {}
        self.copies = Copies(config.transfer_bytes_per_s, now_ms)
        # Arc -> the other owners it was compared with since it was last doubted, and whether
        # those were synced.
        self._synced_with: dict[int, dict[str, bool]] = {}
        # Most steps have nothing to do here, and find that out by one comparison: whatever changes
        # when `run` is due says so.
        self._stirred = True
        self._due_ms = 0
        self.ready = True
        self._followed = [UNKNOWN] * config.partitions
        for arc, register in enumerate(table.registers):
            # A copy that was whole before this node was stopped still is.
            whole = gaining(register) == me and replica.synced(arc)
            self.follow(arc)
            if whole:
                replica.set_synced(arc, True)
        self.ready = not self._synced_with

    # --- who shares what ----------------------------------------------------------------------

    def follow(self, arc: int) -> None:
        """Take up the arc's register, if it has changed."""
        before, register = self._followed[arc], self._table.registers[arc]
        if register is before:
            return
        self._followed[arc] = register
        self._stirred = True
        theirs, mine = partners(before), partners(register)
        for name in theirs if self._me in theirs else ():
            if name not in mine or self._me not in mine:
                self._part(name, arc)
        for name in mine if self._me in mine else ():
            if name != self._me:
                self._peers.setdefault(name, Peer()).arcs[arc] = None
        if register.ver != before.ver or register.phase != COPYING:
            self.copies.drop(arc)
        self._judge(arc, before, register)

    def _part(self, name: str, arc: int) -> None:
        peer = self._peers.get(name)
        if peer is None:
            return
        for known in (peer.arcs, peer.doubtful, peer.differing, peer.unsynced):
            known.pop(arc, None)
        if not peer.arcs:
            del self._peers[name]
            for req in [req for req, sent in self._roots_sent.items() if sent[0] == name]:
                del self._roots_sent[req]

    def _judge(self, arc: int, before: Register, register: Register) -> None:
        """Whether what this node holds of the arc is evidence, now that its owners changed."""
        synced = self._replica.synced(arc)
        if self._me in register.readers:
            if arc in self._synced_with:
                self._compared(arc, "")
            elif not synced:
                self._doubt(arc)
                self.ready = not self._synced_with
            return
        # The loser of a switched arc stays evidence for the owners that it has, until it is let go.
        gains = self._me in register.next and register.ver != before.ver
        if synced and (gains or self._me not in self._table.writers(arc)):
            self._replica.set_synced(arc, False)
        self._synced_with.pop(arc, None)

    # --- what counts toward R ---------------------------------------------------------------

    def _needed(self, arc: int) -> int:
        owners = len(self._table.owners(arc))
        r, w = levels(self._config, owners)
        return min(max(r, owners - w + 1), owners - 1)

    def _doubt(self, arc: int) -> None:
        self._synced_with[arc] = {}
        self._compared(arc, "")

    def _compared(self, arc: int, peer: str) -> None:
        """Note that this node holds all that `peer` held of the arc."""
        met = self._synced_with.get(arc)
        if met is None:
            return
        if peer in self._peers:
            met[peer] = arc not in self._peers[peer].unsynced
        others = [name for name in self._table.owners(arc) if name != self._me]
        found = [met[name] for name in others if name in met]
        if sum(found) >= self._needed(arc) or len(found) == len(others):
            del self._synced_with[arc]
            self._replica.set_synced(arc, True)
            self.stats["arcs_synced"] += 1

    def watch(self, arc: int) -> None:
        """Take up an arc that the replica has come to doubt."""
        if arc not in self._synced_with and self._me in self._table.owners(arc):
            self._doubt(arc)
            self.ready = not self._synced_with
            self._stirred = True

    # --- copies ---------------------------------------------------------------------------------

    def allow(self, arc: int, peer: str, needed: int) -> None:
        """A comparison that begins from now on counts for the copy; it takes `needed` of them."""
        self.copies.allow(arc, peer, needed)
        self._stirred = True

    def _run_copies(self, now_ms: int) -> None:
        for peer, copies in self.copies.questions(now_ms).items():
            self._seq += 1
            self.copies.asked(self._seq, peer, copies, now_ms + WALK_TIMEOUT_MS)
            self._put_roots(self._seq, peer, [copy.arc for copy in copies], True)
        for walk in self.copies.walks(now_ms):
            self._send_page(walk, now_ms)
        for copy in self.copies.whole():
            self.stats["copies_whole"] += 1
            if gaining(self._table.registers[copy.arc]) == self._me:
                self._replica.set_synced(copy.arc, True)

    # --- schedule ---------------------------------------------------------------------------

    def hurry(self, peers: list[str]) -> None:
        """Compare with these peers at the next turn."""
        for name in peers:
            if name in self._peers:
                self._peers[name].roots_due_ms = 0
                self._stirred = True

    def hurry_all(self) -> None:
        self.hurry(list(self._peers))

    def look_soon(self, now_ms: int) -> None:
        """Compare with everybody before long, however often this is asked for.

        History: each hint that was refused, and past the window each write refuses one, made a
        round of all arcs with all peers.
        """
        for peer in self._peers.values():
            peer.roots_due_ms = min(peer.roots_due_ms, now_ms + UNSYNCED_RETRY_MS)
        self._stirred = True

    def run(self, now_ms: int) -> None:
        """Send the comparisons that are due, and keep the walks going."""
        if not self._stirred and now_ms < self._due_ms:
            return
        self._stirred = False
        self._lose_pages(now_ms)
        for name, peer in self._peers.items():
            if self._liveness.state(name) != "up":
                continue
            if now_ms >= peer.roots_due_ms:
                self._round(name, peer, now_ms)
            elif now_ms >= peer.confirm_due_ms:
                peer.confirm_due_ms = NEVER_MS
                self._send_roots(name, list(peer.doubtful), False)
            if peer.differing:
                self._start_walks(name, now_ms)
        self._run_copies(now_ms)
        if not self.ready and not self._synced_with:
            self.ready = True
            self._replica.events.append(("ready",))
        self._due_ms = self._next_due_ms(now_ms)

    def _lose_pages(self, now_ms: int) -> None:
        for walks in (self._walks, self.copies.pages):
            for req in [req for req, walk in walks.items() if now_ms >= walk.due_ms]:
                walk = walks.pop(req)
                self.stats["pages_lost"] += 1
                if not self._goes_on(walk):
                    continue
                if walk.copy is not None:
                    self.copies.lost(walk, self._liveness.state(walk.peer) == "up")
                else:
                    self._peers[walk.peer].differing[walk.arc] = None

    def _shared(self, name: str) -> dict[int, None]:
        peer = self._peers.get(name)
        return peer.arcs if peer is not None else {}

    def _round(self, name: str, peer: Peer, now_ms: int) -> None:
        hurried = peer.roots_due_ms == 0
        wait_ms = self._config.exchange_ms
        if any(self._unsynced(arc, name) for arc in self._synced_with):
            wait_ms = min(wait_ms, UNSYNCED_RETRY_MS)
        peer.roots_due_ms = now_ms + wait_ms
        self._send_roots(name, sorted(peer.arcs), hurried)

    def _unsynced(self, arc: int, name: str) -> bool:
        return name not in self._synced_with.get(arc, (name,)) and name in self._table.owners(arc)

    def _send_roots(self, name: str, arcs: list[int], at_once: bool) -> None:
        self._seq += 1
        req = self._seq
        for old in [old for old, sent in self._roots_sent.items() if sent[0] == name]:
            del self._roots_sent[old]
        self._roots_sent[req] = (name, arcs, at_once)
        self._put_roots(req, name, arcs, False)

    def _put_roots(self, req: int, name: str, arcs: list[int], new: bool) -> None:
        roots, synced_with = self._replica.roots, self._synced_with
        asked = [
            [arc, roots.get(arc, 0), 1] if new or arc in synced_with else [arc, roots.get(arc, 0)]
            for arc in arcs
        ]
        self._outbox.append((name, (ROOTS, req, self._config.background_timeout_ms, asked)))

    def _start_walks(self, name: str, now_ms: int) -> None:
        differing = self._peers[name].differing
        busy = [walk.arc for walk in self._walks.values() if walk.peer == name]
        for arc in list(differing):
            if len(busy) >= self._config.exchange_arcs:
                return
            del differing[arc]
            if arc not in busy:
                busy.append(arc)
                self._send_page(Walk(name, arc), now_ms)

    def _send_page(self, walk: Walk, now_ms: int) -> None:
        rows = self._replica.rows(walk.at, walk.end, self._config.exchange_rows)
        full = len(rows) == self._config.exchange_rows
        end = rows[-1][0] + b"\0" if full else walk.end
        walk.due_ms = now_ms + WALK_TIMEOUT_MS
        self._seq += 1
        req = self._seq
        (self._walks if walk.copy is None else self.copies.pages)[req] = walk
        page = [[skey, record[:CHECK_BYTES]] for skey, record in rows]
        wait_ms = self._config.background_timeout_ms
        self._outbox.append((walk.peer, (KEYS, req, wait_ms, walk.arc, walk.at, end, page)))
        self.stats["exchange_pages"] += 1

    # --- messages -----------------------------------------------------------------------------

    def on_roots(self, sender: str, message: Message, born_ms: int) -> None:
        _, req, _, theirs = message
        mine = self._replica.roots
        try:
            differing = [row[0] for row in theirs if mine.get(row[0], 0) != row[1]]
            unsynced = [row[0] for row in theirs if not self._is_evidence(row[0])]
            new = [row[0] for row in theirs if len(row) > 2]
            ballots = [self._ballot(arc) for arc in new]
        except (TypeError, ValueError, IndexError):
            raise Malformed("ROOTS is a list of [arc, root]") from None
        dead = [[arc, told] for arc, told in self._replica.ids_of(new).items()]
        self._outbox.append((sender, (ROOTS_ARE, req, differing, unsynced, ballots, dead)))

    def _is_evidence(self, arc: int) -> bool:
        return self._replica.synced(arc) and arc not in self._synced_with

    def _ballot(self, arc: int) -> list[int]:
        return [arc, *self._table.registers[arc][:2], *self._ballots.held(arc)]

    def on_roots_are(self, sender: str, message: Message, born_ms: int) -> None:
        _, req, differing, unsynced, ballots, dead = message
        differ = {arc: None for arc in differing if type(arc) is int}
        doubted = {arc: None for arc in unsynced if type(arc) is int}
        copies = self.copies.answered(req, sender)
        for copy in copies:
            equal, evidence = copy.arc not in differ, copy.arc not in doubted
            self.copies.found(copy, sender, equal, evidence, born_ms)
            self._stirred = True
        self._remember(dead)
        name, arcs, at_once = self._roots_sent.pop(req, ("", [], False))
        peer = self._peers.get(sender)
        if name != sender or peer is None:
            return
        self._stirred = True
        arcs = [arc for arc in arcs if arc in peer.arcs]
        for arc in arcs:
            peer.unsynced.pop(arc, None)
            if arc in doubted:
                peer.unsynced[arc] = None
        other = self._learn(sender, ballots)
        fresh = False
        for arc in arcs:
            if arc in other:
                continue
            if arc not in differ:
                peer.doubtful.pop(arc, None)
                self._compared(arc, sender)
            elif at_once or self._unsynced(arc, sender) or self._confirmed(peer.doubtful, arc):
                peer.doubtful.pop(arc, None)
                peer.differing[arc] = None
            else:
                fresh = True
        if fresh and len(arcs) == len(peer.arcs):
            peer.confirm_due_ms = born_ms + CONFIRM_MS

    def _remember(self, dead: list[Any]) -> None:
        """Take over the ids of superseded puts.

        Else a retry of such a put, coming to owners that are all new, is found nowhere, and minted
        again beside what replaced it (D5).
        """
        for row in dead:
            if type(row) is not list or list(map(type, row)) != [int, list]:
                raise Malformed("ids are [arc, [put id, ...]]")
            arc, told = row
            if arc in self.copies.of or arc in self._synced_with:
                for put_id in told[:TOLD_MAX]:
                    if type(put_id) is not bytes or len(put_id) != PUT_ID_BYTES:
                        raise Malformed("put ids have 16 bytes")
                    self._replica.remember(put_id, arc)

    def _learn(self, sender: str, ballots: list[Any]) -> dict[int, None]:
        """Take over the sender's promises about arcs that are not synced here.

        Gives the arcs of which it holds another register: one of the two is taught, and then they
        compare again.
        """
        other: dict[int, None] = {}
        for row in ballots:
            if type(row) is not list or list(map(type, row)) != [int] * 7:
                raise Malformed("ballots are [arc, ver, phase, promised, about, ballot, kill]")
            arc = row[0]
            if arc not in self._synced_with:
                continue
            register = self._table.registers[arc]
            if register[:2] == (row[1], row[2]):
                self._ballots.learn(arc, Held(*row[3:]))
                continue
            if len(other) < TAUGHT_MAX:
                self._seq += 1
                cur, coming = list(register.cur), list(register.next)
                lesson = (REGISTER, self._seq, arc, *register[:3], cur, coming)
                self._outbox.append((sender, lesson))
            other[arc] = None
        return other

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
        want = wanted(theirs, mine, objs, upto)
        self._outbox.append((sender, (KEYS_ARE, req, want, objs, upto)))

    def on_keys_are(self, sender: str, message: Message, born_ms: int) -> None:
        _, req, want, objs, upto = message
        walk = self._walks.get(req) or self.copies.pages.get(req)
        if walk is None or walk.peer != sender:
            return
        (self._walks if walk.copy is None else self.copies.pages).pop(req)
        if not self._goes_on(walk):
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
        if walk.copy is not None:
            size = sum(len(skey) + len(obj) for skey, obj in objs)
            self.copies.brought(walk, len(objs), size, now_ms)
        elif upto < walk.end:
            self._send_page(walk, now_ms)
        else:
            self._compared(walk.arc, walk.peer)
            self._start_walks(walk.peer, now_ms)

    def _goes_on(self, walk: Walk) -> bool:
        """Whether a walk still has a purpose: owners may have changed meanwhile."""
        if walk.copy is not None:
            return self.copies.alive(walk)
        return walk.arc in self._shared(walk.peer)

    def _take(self, walk: Walk, skey: Any, obj: Any) -> None:
        if not isinstance(skey, bytes) or not isinstance(obj, bytes):
            raise Malformed("KEYS_ARE objs are [storage key, obj]")
        if skey != ring.storage_key(skey[4:], self._config.partitions) or not obj:
            raise Malformed("KEYS_ARE with a misplaced key")
        if int.from_bytes(skey[:2], "big") != walk.arc:
            raise Malformed("KEYS_ARE with a key of another arc")
        self._replica.merge(walk.arc, skey, obj)
        self.stats["exchange_pulled"] += 1

    def _push(self, walk: Walk, skey: Any) -> None:
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

    def _next_due_ms(self, now_ms: int) -> int:
        due = self.copies.next_due_ms(now_ms)
        for walks in (self._walks, self.copies.pages):
            due = min(due, min((walk.due_ms for walk in walks.values()), default=NEVER_MS))
        for name, peer in self._peers.items():
            if self._liveness.state(name) == "up":
                due = min(due, peer.roots_due_ms, peer.confirm_due_ms)
        return due
