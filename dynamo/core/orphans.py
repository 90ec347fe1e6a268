"""Rows of arcs that this node does not own: brought to all that do, and only then dropped.

    a holds rows of an arc; b, c, e own it, and its register is at rest (STABLE or DONE)
      a -> b  OFFER   arc, (ver, phase), a page of [storage key, check]
      b -> a  OFFERED ok, want            what b lacks, or holds in another form
      a -> b  OFFER   the wanted objects, and the next page
      b -> a  OFFERED ok, want            the objects are in b's rows, on disk
      ...                                 the same with c and e, each at its own pace
      a       drops the arc               when all of them have all of it

There is one way for everybody who is left with rows: the node that lost an arc by a ring change,
the one that leaves, the one that was removed and comes back, and the loser of a split brain.

Invariants
  O1  No row is dropped that the owners do not all hold, durably, under the register that names
      them (algorithms.md §1.5, I5: no orphan drop). History: both sides of a partition gave an arc
      to other nodes, and finished. After the heal one of the two registers won. The owners of the
      other one had acknowledged writes which nobody else held, saw that they owned nothing of the
      arc any more, and cleaned up.
  O2  What is dropped is what was offered: the root of the arc is the one with which the walk began.
      A row that changes meanwhile begins it anew; pages that the owners hold cost only digests.
  O3  Nothing is dropped under an operation: a put that this node coordinates on the arc, begun
      while it owned it, has its row here and may be minted anew from it.
  O4  An owner that lost what it had confirmed counts for nothing. Each OFFERED names the store that
      took the page; if another one answers, its walk begins anew, and a confirmation older than
      FRESH_MS is asked for once more before the drop. History: an owner took the first pages, lost
      its disk, came back empty, and took the last.
  O5  Rows of a stranger are taken never, those of a removed node unless people discarded them.

The owner takes objects through `replica.merge`, under the ordinary rules. Offers keep to
`transfer_arcs` arcs and `transfer_bytes_per_s` of objects. Nothing is remembered of a walk: after a
restart it begins anew.

A removed node whose rows are not wanted (DISCARD) erases rows and hints as soon as it knows.
"""

from __future__ import annotations

from typing import Any

from dynamo.core import ring
from dynamo.core.handoff import Handoff
from dynamo.core.items import DISCARD, REMOVED
from dynamo.core.liveness import UP
from dynamo.core.messages import OFFER, OFFERED, REFUSED, Malformed, Message
from dynamo.core.replica import CHECK_BYTES, intact
from dynamo.core.requests import Requests
from dynamo.core.ring import Register
from dynamo.core.spaces import OBJECTS

PAGE_BYTES = 1 << 20  # of rows read for a page of digests, and of objects in a message
RESEND_MS = 2_000
FRESH_MS = 2_000
WAIT_MS = 200  # after which something is looked at again that no message tells of
LOOK_MS = 5_000  # how often rows of arcs not owned are looked for, apart from ring changes
SHOWN_MAX = 64


class _Walk:
    """One owner, and how far it has confirmed the rows of an arc."""

    __slots__ = (
        "at", "bytes", "done_ms", "due_ms", "objs", "page", "req", "rows", "store", "todo", "why",
    )  # fmt: skip

    def __init__(self, arc: int) -> None:
        self.begin(arc)
        self.why = ""

    def begin(self, arc: int) -> None:
        self.at = ring.arc_range(arc)[0]  # pages below it are confirmed, but for `todo`
        # Under way: a page, as its end and its keys, and so many objects, the first of `todo`.
        self.page: tuple[bytes, dict[bytes, None]] | None = None
        self.objs = 0
        self.todo: list[bytes] = []  # wanted, and not confirmed
        self.rows = 0  # in the pages below `at`
        self.bytes = 0  # of objects sent
        self.store = 0  # which store confirmed them
        self.req = 0  # under way, 0 for nothing
        self.due_ms = 0  # when that counts as lost, or when to ask next
        self.done_ms = -1  # when the last of it was confirmed


class _Orphan:
    """An arc to be handed over: to whom, under which register, and what it held at the start."""

    __slots__ = ("arc", "register", "root", "since_ms", "walks", "why")

    def __init__(self, arc: int, register: Register, root: int, now_ms: int) -> None:
        self.arc = arc
        self.register = register
        self.root = root
        self.since_ms = now_ms
        self.walks = {name: _Walk(arc) for name in register.cur}
        self.why = ""


class Orphans:
    """Offers what is left here, and takes what others offer."""

    __slots__ = (
        "_arcs",
        "_config",
        "_due_ms",
        "_free_ms",
        "_handoff",
        "_liveness",
        "_look_due_ms",
        "_now_ms",
        "_outbox",
        "_replica",
        "_requests",
        "_roster",
        "_seen",
        "_sent",
        "_seq",
        "_store",
        "durable_due",
        "stats",
    )

    def __init__(self, requests: Requests, handoff: Handoff, store: Any, life: int) -> None:
        self._config = requests.config
        self._roster = requests.roster
        self._replica = requests.replica
        self._store = store
        self._liveness = requests.liveness
        self._handoff = handoff
        self._requests = requests
        self._outbox = requests.outbox
        self._seq = life | 1 << 38
        self.stats = requests.stats
        self.durable_due = False  # this step must end in a synced commit
        self._now_ms = 0
        self._arcs: dict[int, _Orphan] = {}
        self._sent: dict[int, tuple[int, str]] = {}  # request -> arc and owner
        self._free_ms = 0  # before it, no objects are sent: the rate
        self._seen = (-1, -1)
        self._look_due_ms = 0
        self._due_ms = 0

    # --- which arcs ---------------------------------------------------------------------------

    def run(self, now_ms: int) -> None:
        """Look for rows that do not belong here, and bring them on their way."""
        self._now_ms = now_ms
        roster, table = self._roster, self._roster.table
        seen = (table.changes, roster.people)
        if now_ms < self._due_ms and seen == self._seen:
            return
        if seen != self._seen or now_ms >= self._look_due_ms:
            self._seen = seen
            self._look_due_ms = now_ms + LOOK_MS
            self._look(now_ms)
        busy = 0
        self._due_ms = self._look_due_ms
        for orphan in list(self._arcs.values()):
            if self._work(orphan, now_ms, busy < self._config.transfer_arcs):
                busy += 1

    def _look(self, now_ms: int) -> None:
        roster = self._roster
        wish = roster.wishes.get(roster.name)
        if wish is not None and wish.status == REMOVED and wish.flags & DISCARD:
            self._discard()
        found = {}
        for arc in sorted(self._replica.roots):
            register = roster.table.registers[arc]
            if roster.name in roster.table.writers(arc) or not register.cur:
                continue
            known = self._arcs.get(arc)
            if known is None or known.register != register:
                known = _Orphan(arc, register, self._replica.roots[arc], now_ms)
            found[arc] = known
        self._arcs = found
        for req in [req for req, (arc, name) in self._sent.items() if self._walk(req) is None]:
            del self._sent[req]

    def _discard(self) -> None:
        if self._replica.keys or self._handoff.counts():
            self._roster.events.append(("discarded", self._replica.keys))
            self.stats["rows_discarded"] += self._replica.keys
            self._replica.discard()
            self._handoff.discard()

    def _walk(self, req: int) -> _Walk | None:
        """The walk that a request under way belongs to, unless it began anew since."""
        arc, name = self._sent.get(req, (-1, ""))
        orphan = self._arcs.get(arc)
        walk = orphan.walks.get(name) if orphan is not None else None
        return walk if walk is not None and walk.req == req else None

    # --- one arc ------------------------------------------------------------------------------

    def _work(self, orphan: _Orphan, now_ms: int, may_send: bool) -> bool:
        """Do what can be done for an arc; whether anything of it is under way now."""
        arc = orphan.arc
        if self._replica.roots.get(arc, 0) != orphan.root:  # O2
            self._begin_anew(orphan)
        register = orphan.register
        if register.next:
            orphan.why = "the arc is being moved"
            return False
        orphan.why = "" if may_send else "its turn has not come"
        for name, walk in orphan.walks.items():
            self._step(orphan, name, walk, now_ms, may_send)
            if walk.done_ms < 0 and self._liveness.state(name) == UP and (may_send or walk.req):
                self._due_ms = min(self._due_ms, max(walk.due_ms, now_ms))
        if all(walk.done_ms >= 0 for walk in orphan.walks.values()):
            self._finish(orphan, now_ms)
        return any(walk.req for walk in orphan.walks.values())

    def _step(self, orphan: _Orphan, name: str, walk: _Walk, now_ms: int, may_send: bool) -> None:
        if walk.req and now_ms >= walk.due_ms:
            del self._sent[walk.req]
            walk.req = 0
            walk.why = f"{name} does not answer"
            self.stats["offers_unanswered"] += 1
        if walk.req or walk.done_ms >= 0 or not may_send or now_ms < walk.due_ms:
            return
        state = self._liveness.state(name)
        if self._roster.gone(name):
            walk.why = f"{name} is out of the ring, and not replaced yet"
        elif state != UP:
            walk.why = f"{name} is {state}"
        else:
            self._send(orphan, name, walk, now_ms)

    def _begin_anew(self, orphan: _Orphan) -> None:
        self.stats["orphans_changed"] += 1
        orphan.root = self._replica.roots.get(orphan.arc, 0)
        for walk in orphan.walks.values():
            self._sent.pop(walk.req, None)
            walk.begin(orphan.arc)

    def _finish(self, orphan: _Orphan, now_ms: int) -> None:
        """All owners have confirmed all rows: drop them, if that still holds."""
        arc = orphan.arc
        if any(op.arc == arc for op in self._requests.pending.values()):  # O3
            orphan.why = "an operation on it is under way here"
        elif self._handoff.owes(arc):
            orphan.why = "hints of the arc have to be delivered first"
        else:
            self._drop(orphan, now_ms)
        self._due_ms = min(self._due_ms, now_ms + WAIT_MS)

    def _drop(self, orphan: _Orphan, now_ms: int) -> None:
        walks = list(orphan.walks.values())
        stale = [walk for walk in walks if now_ms - walk.done_ms > FRESH_MS]
        for walk in stale:  # O4: asked again, with nothing but the question
            walk.done_ms = -1
            self._due_ms = now_ms
        if not stale:
            # Each page was read while the root was what it is now, so it is the number of rows.
            rows = walks[0].rows
            self._replica.drop(orphan.arc, rows)
            self.stats["arcs_dropped"] += 1
            self._roster.events.append(("arc dropped", orphan.arc, rows))
            del self._arcs[orphan.arc]

    def _send(self, orphan: _Orphan, name: str, walk: _Walk, now_ms: int) -> None:
        objs, size = [], 0
        if walk.todo and now_ms < self._free_ms:
            walk.due_ms = self._free_ms
            walk.why = "as fast as transfer_bytes_per_s allows"
            return
        for skey in walk.todo:
            obj = self._replica.obj(skey)
            if size and size + len(obj) > PAGE_BYTES:
                break
            objs.append([skey, obj])
            size += len(obj)
        page: list[list[bytes]] = []
        walk.page = None
        if len(objs) == len(walk.todo):
            page = self._page(orphan.arc, walk)
        if self._replica.roots.get(orphan.arc, 0) != orphan.root:
            return  # a row was found corrupt just now, and set aside
        self._seq += 1
        walk.req = self._seq
        walk.objs = len(objs)
        wait_ms = min(RESEND_MS, self._config.background_timeout_ms)
        walk.due_ms = now_ms + wait_ms
        walk.bytes += size
        rate = self._config.transfer_bytes_per_s
        self._free_ms = max(self._free_ms, now_ms) + size * 1_000 // rate
        self._sent[walk.req] = (orphan.arc, name)
        self.stats["offers"] += 1
        ver, phase = orphan.register[:2]
        self._outbox.append((name, (OFFER, walk.req, wait_ms, orphan.arc, ver, phase, page, objs)))

    def _page(self, arc: int, walk: _Walk) -> list[list[bytes]]:
        """The next digests, bounded in number and in bytes read."""
        end = ring.arc_range(arc)[1]
        page: list[list[bytes]] = []
        size, upto = 0, end
        for skey, record in self._store.scan(OBJECTS, walk.at, end):
            if len(page) >= self._config.exchange_rows or size >= PAGE_BYTES:
                upto = skey
                break
            if not intact(skey, record):
                self._replica.record(skey)  # sets it aside, and the walk begins anew
                break
            page.append([skey, record[:CHECK_BYTES]])
            size += len(record)
        walk.page = (upto, dict.fromkeys(skey for skey, _ in page))
        return page

    # --- answers ------------------------------------------------------------------------------

    def on_offered(self, sender: str, message: Message, born_ms: int) -> None:
        """An owner has what was sent, durably, and says what it wants of the page."""
        _, req, store, want = message
        walk = self._walk(req)
        if walk is None or self._sent[req][1] != sender:
            return
        orphan = self._arcs[self._sent[req][0]]
        keys = walk.page[1] if walk.page is not None else {}
        if not all(type(skey) is bytes and skey in keys for skey in want):
            raise Malformed("OFFERED wants what was not offered")
        del self._sent[req]
        walk.req = 0
        self._due_ms = 0
        walk.due_ms = 0
        walk.why = ""
        if not store:
            walk.why = f"{sender} has no room for it"
            walk.due_ms = self._now_ms + RESEND_MS
            walk.objs = 0
            return
        if walk.store not in (0, store):  # O4
            self.stats["offers_forgotten"] += 1
            walk.begin(orphan.arc)
            return
        walk.store = store
        self._confirm(orphan, walk, want)

    def _confirm(self, orphan: _Orphan, walk: _Walk, want: list[bytes]) -> None:
        self.stats["orphans_pushed"] += walk.objs
        del walk.todo[: walk.objs]
        walk.objs = 0
        if walk.page is not None:
            walk.at, keys = walk.page
            walk.rows += len(keys)
            walk.todo.extend(want)
            walk.page = None
        if walk.at >= ring.arc_range(orphan.arc)[1] and not walk.todo:
            walk.done_ms = self._now_ms

    # --- what others offer ----------------------------------------------------------------------

    def on_offer(self, sender: str, message: Message, born_ms: int) -> None:
        """Take objects as an owner of their arc, and say what else is wanted."""
        _, req, _, arc, ver, phase, rows, objs = message
        roster, table = self._roster, self._roster.table
        if not 0 <= arc < table.partitions:
            raise Malformed("OFFER of an arc that this ring has not")
        self._check_pairs(arc, rows)
        self._check_pairs(arc, objs)
        wish = roster.wishes.get(sender)
        known = roster.confirmed and not roster.gone(roster.name)
        if wish is None or (wish.status == REMOVED and wish.flags & DISCARD) or not known:
            self.stats["offers_refused"] += 1  # O5
            return
        register = table.registers[arc]
        if (ver, phase) != register[:2]:
            cur, coming = list(register.cur), list(register.next)
            self._outbox.append((sender, (REFUSED, req, arc, *register[:3], cur, coming)))
            return
        if roster.name not in table.writers(arc):
            self.stats["offers_refused"] += 1
            return
        if objs and not self._store.free_ok():
            self._outbox.append((sender, (OFFERED, req, 0, [])))
            return
        for skey, obj in objs:
            self._replica.merge(arc, skey, obj)
        want = [skey for skey, check in rows if self._replica.record(skey)[:CHECK_BYTES] != check]
        self.stats["orphans_taken"] += len(objs)
        self.durable_due = True
        store = int.from_bytes(self._replica.incarnation[:6], "big") | 1
        self._outbox.append((sender, (OFFERED, req, store, want)))

    def _check_pairs(self, arc: int, pairs: list[Any]) -> None:
        for pair in pairs:
            if not isinstance(pair, list) or list(map(type, pair)) != [bytes, bytes] or not pair[1]:
                raise Malformed("OFFER holds pairs of a storage key and a check or an object")
            skey = pair[0]
            if (
                len(skey) < 5
                or skey[0] << 8 | skey[1] != arc
                or skey != ring.storage_key(skey[4:], self._config.partitions)
            ):
                raise Malformed("OFFER with a misplaced key")

    def hurry(self) -> None:
        """Somebody is back: look at the next turn."""
        self._due_ms = 0

    # --- for people -----------------------------------------------------------------------------

    def view(self) -> list[dict[str, Any]]:
        """What waits to be dropped here: per arc the owner that is furthest behind, and why."""
        found = []
        for orphan in list(self._arcs.values())[:SHOWN_MAX]:
            name, walk = min(orphan.walks.items(), key=lambda it: (it[1].done_ms >= 0, it[1].rows))
            found.append(
                {
                    "what": "drop", "arc": orphan.arc, "from": [self._roster.name], "to": name,
                    "phase": orphan.register.phase, "rows": walk.rows,
                    "bytes": sum(it.bytes for it in orphan.walks.values()),
                    "since_ms": self._now_ms - orphan.since_ms,
                    "why": orphan.why or walk.why,
                    "retry_ms": max(0, walk.due_ms - self._now_ms),
                }
            )  # fmt: skip
        return found

    def next_due_ms(self) -> int:
        """When `run` has something to do next, apart from messages."""
        return self._due_ms
