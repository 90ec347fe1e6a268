"""Hints: writes that belong to an owner who could not be reached, kept here until it can.

A hint row holds the object and the homes it is owed to, one row per key however many writes:

    check 8 | msgpack [[home, ...], since_wall_ms, obj, [put id, ...]]

The put ids are those that `obj` superseded on its way to here: the home must remember them (D5).
obj b"" means "read my own object row": in a ring with no node beyond the owners, an owner that
acknowledged the write itself keeps the mark for the missing one (it is not counted twice).

    a owner, coordinates   b owner   c owner, down      d no owner
      a -> b REPLICATE                                   stores, acknowledges
      a -> d REPLICATE home=c                            keeps the hint, acknowledges for c
      ... c is heard again ...
      d -> c REPLICATE                                   the ordinary write door
      c -> d REPLICATE_OK                                d erases the row if it is unchanged

Invariants
  H1  A hint is erased only after its home acknowledged, durably, exactly the object it holds. At
      durability "interval" the delivery asks for a sync. (History: a put with durable=True was
      acknowledged by a stand-in, synced; its hint went home and was erased; the home's power went
      within the interval, and of W synced copies one was left.)
  H2  A hint that may have counted toward W is kept at any age. The window and the byte cap only
      refuse new hints that the write did not need; each refusal is counted and leaves a "needs
      repair" mark, so that the arc is compared with its home at the next exchange.
  H3  A stand-in acts for one named absent owner, so every hint knows its home (Dynamo §4.6).
  H4  What is owed is found on disk at start: nothing depends on the process that took it.
  H5  A hint whose home does not own its arc any more becomes owed to all that own it, and not
      before. (History: a put was acknowledged by a, and by d for c. Then e replaced c, and copied
      the arc from owners of which a was none. The hint at d was for c, who was not coming back:
      fallback data that nobody handed off, riak_core#154. Other stores drop such hints with their
      target, or cannot shut down for them, CASSANDRA-21217.)

A hint for a home that is merely DOWN stays what it is, and so does one for a home that was removed,
as long as the register names it: it is one of the W copies, and waits for the owner that comes in
its place. A node that re-routes and owns the arc itself takes the object into its own row, through
the write door. One that does not belong to the ring takes all its hints into rows of its own,
whoever owns them: nobody would listen to a hint of its, and its rows it may still offer (see
`orphans`). History: a join was aborted; the newcomer, out again but not for good, sent the hints of
its few moments as an owner for ever.

Delivery is by window (`hint_batch` on the wire per home), so its rate follows the home's answers
and never floods a node that just came back.

Sources: Dynamo §4.6; riak_core#154 (fallback data nobody handed off); scylladb#8863, #12805;
CASSANDRA-21217.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from dynamo.core import dvv, ring
from dynamo.core.config import Config
from dynamo.core.liveness import Liveness
from dynamo.core.messages import REPLICATE, STORED, SYNCED_IF_KEPT, Message
from dynamo.core.replica import CHECK_BYTES, HINT_ARC, Minted, Replica, intact, seal_record
from dynamo.core.roster import Roster
from dynamo.core.spaces import HINTS, QUARANTINE

_encode = msgspec.msgpack.Encoder().encode

ROW_OVERHEAD_BYTES = 64
# Superseded put ids that a hint carries at most, the latest ones. They matter for twice the longest
# deadline: a key with more writes than this in that time, and its home away, may forget the first.
GONE_MAX = 64


class Row(NamedTuple):
    """Whom a hint is owed to, since when, its object, and the put ids that this superseded."""

    homes: list[str]
    since_ms: int  # by the wall clock
    obj: bytes
    gone: tuple[bytes, ...] = ()


decode_row = msgspec.msgpack.Decoder(Row).decode
# A delivery not acknowledged by then is sent again: a cut shorter than a probe leaves no other
# trace.
RESEND_MS = 2_000
# Hints that one step re-routes at most, in number and in bytes.
REROUTE_ROWS = 64
REROUTE_BYTES = 1 << 20


class Handoff:
    """The hint rows of one node, what is owed to whom, and what is on its way."""

    __slots__ = (
        "_arcs",
        "_astray",
        "_bytes",
        "_config",
        "_liveness",
        "_now_ms",
        "_oldest",
        "_outbox",
        "_owed",
        "_replica",
        "_roster",
        "_seen",
        "_sent",
        "_seq",
        "_stirred",
        "_store",
        "_table",
        "events",
        "needs_repair",
        "stats",
    )

    def __init__(
        self,
        config: Config,
        roster: Roster,
        store: Any,
        replica: Replica,
        liveness: Liveness,
        outbox: list[tuple[Any, Message]],
        life: int,
    ) -> None:
        self._config = config
        self._roster = roster
        self._table = roster.table
        self._store = store
        self._replica = replica
        self._liveness = liveness
        self._outbox = outbox
        self._seq = life | 1 << 39
        self._now_ms = 0
        self.events = replica.events
        self.stats = replica.stats
        self.needs_repair: dict[int, None] = {}
        self._owed: dict[str, dict[bytes, int]] = {}  # home -> storage key -> bytes
        self._bytes: dict[str, int] = {}
        self._oldest: dict[str, int] = {}  # home -> since_wall_ms of its oldest hint, at least
        self._arcs: dict[str, dict[int, int]] = {}  # home -> arc -> how many hints
        # Arcs with hints for homes that do not own them -> where to go on re-routing (H5); and what
        # of the ring that follows from.
        self._astray: dict[int, bytes] = {}
        self._seen = (-1, -1)
        # request -> (home, storage key, what was sent, when it counts as lost)
        self._sent: dict[int, tuple[str, bytes, bytes, int]] = {}
        # Most steps have nothing to send: whatever makes something to send, or room, says so.
        self._stirred = True
        for skey, record in list(store.scan(HINTS)):
            row = self._read(skey, record)
            if row is not None:
                for home in row[0]:
                    self._index(home, skey, row)

    # --- keeping ------------------------------------------------------------------------------

    def take(
        self, skey: bytes, home: str, obj: bytes, needed: bool, wall_ms: int,
        dead: Iterable[bytes] = (),
    ) -> bool:  # fmt: skip
        """Keep `obj` for `home`; False if it was not needed and the window or the cap says no.

        `dead` are put ids that `obj` superseded. They go home with it. History: a put was stored
        by its coordinator and acknowledged by stand-ins, and overwritten there; the hints went home
        without its id; its second attempt came late to those homes, nobody knew it, and as an auto
        put it was minted over an acknowledged write that it had never seen.
        """
        if not needed and self._closed(home, skey, wall_ms):
            self.stats["hints_refused"] += 1
            self.needs_repair[int.from_bytes(skey[:2], "big")] = None
            return False
        homes, since, held, gone = self.row(skey) or Row([], wall_ms, b"")
        if homes:
            self.stats["hints_merged" if home in homes else "hints_shared"] += 1
        mine, theirs = dvv.decode(held), dvv.decode(obj)
        merged = dvv.merge(mine, theirs)
        lost: list[bytes] = []
        if not self._replica.notice_amnesia(HINT_ARC, mine, theirs):
            merged, lost = self._replica.settle(skey, mine, merged)
        gone = _latest(gone, [*dead, *lost])
        self._write(skey, Row(_with(homes, home), since, dvv.encode(merged), gone))
        return True

    def keep_own(self, skey: bytes, home: str, wall_ms: int, dead: Iterable[bytes] = ()) -> None:
        """Mark this node's own row of the key as owed to `home`: nobody else can stand in."""
        if self._closed(home, skey, wall_ms):
            self.stats["hints_refused"] += 1
            self.needs_repair[int.from_bytes(skey[:2], "big")] = None
            return
        homes, since, held, gone = self.row(skey) or Row([], wall_ms, b"")
        self.stats["hints_own"] += 1
        self._write(skey, Row(_with(homes, home), since, held, _latest(gone, dead)))

    def mint(
        self,
        skey: bytes,
        owners: tuple[str, ...],
        context: dvv.Context,
        value: dvv.Value,
        wall_ms: int,
    ) -> Minted:
        """Write a client's value here because no owner can be reached; owed to all of them.

        The actor is one of the hint space (D3).
        """
        homes, since, held, before = self.row(skey) or Row([], wall_ms, b"")
        clock = dvv.decode(held)
        new, actor, n = self._replica.mint(HINT_ARC, clock, context, value)
        new, gone = self._replica.settle(skey, clock, new)
        for home in owners:
            homes = _with(homes, home)
        obj = dvv.encode(new)
        self._write(skey, Row(homes, since, obj, _latest(before, gone)))
        return new, obj, actor, n, gone

    def peek(self, skey: bytes) -> bytes:
        """The object of a hint held for this key, b"" for none."""
        row = self.row(skey)
        return row[2] if row is not None else b""

    def _closed(self, home: str, skey: bytes, wall_ms: int) -> bool:
        if skey in self._owed.get(home, ()):
            return False  # merging into a kept row adds no row
        if self._bytes.get(home, 0) >= self._config.hint_bytes_max:
            return True
        return wall_ms - self._oldest.get(home, wall_ms) > self._config.hint_window_ms

    # --- rows ---------------------------------------------------------------------------------

    def row(self, skey: bytes) -> Row | None:
        """Whom the hint on this key is owed to, since when, and its object; None for no hint."""
        record = self._store.get(HINTS, skey)
        return None if record is None else self._read(skey, record)

    def _read(self, skey: bytes, record: bytes) -> Row | None:
        if intact(skey, record):
            return decode_row(record[CHECK_BYTES:])
        # One bad row must not stop the others (a corrupt hint file once killed a dispatcher).
        self._store.put(QUARANTINE, skey, record)
        self._give_up(skey)
        return None

    def _give_up(self, skey: bytes) -> None:
        """What was owed is not here any more: leave the homes to the exchange, all of them."""
        self._store.delete(HINTS, skey)
        self.stats["hints_corrupt"] += 1
        self.needs_repair[int.from_bytes(skey[:2], "big")] = None
        self.events.append(("hint corrupt", skey.hex()))
        for home in [home for home, owed in self._owed.items() if skey in owed]:
            self._drop(home, skey)

    def _write(self, skey: bytes, row: Row) -> None:
        self._store.put(HINTS, skey, seal_record(skey, _encode(row)))
        for home in row[0]:
            self._index(home, skey, row)

    def _index(self, home: str, skey: bytes, row: Row) -> None:
        owed = self._owed.setdefault(home, {})
        size = len(row[2]) + ROW_OVERHEAD_BYTES
        if skey not in owed:
            self.stats["hints_created"] += 1
            arc = skey[0] << 8 | skey[1]
            arcs = self._arcs.setdefault(home, {})
            arcs[arc] = arcs.get(arc, 0) + 1
            if self._wrong(home, arc):
                self._astray[arc] = b""
        self._bytes[home] = self._bytes.get(home, 0) + size - owed.get(skey, 0)
        owed[skey] = size
        self._stirred = True
        self._oldest[home] = min(self._oldest.get(home, row[1]), row[1])

    def _erase(self, home: str, skey: bytes, row: Row) -> None:
        homes = [other for other in row[0] if other != home]
        if homes:
            left = row._replace(homes=homes)
            self._store.put(HINTS, skey, seal_record(skey, _encode(left)))
        else:
            self._store.delete(HINTS, skey)
        self._drop(home, skey)
        self.stats["hints_delivered"] += 1

    def _drop(self, home: str, skey: bytes) -> None:
        self._bytes[home] -= self._owed[home].pop(skey)
        arcs, arc = self._arcs[home], skey[0] << 8 | skey[1]
        arcs[arc] -= 1
        if not arcs[arc]:
            del arcs[arc]
        if not self._owed[home]:
            del self._owed[home], self._bytes[home], self._oldest[home], self._arcs[home]

    # --- homes that own nothing of it any more (H5) ----------------------------------------------

    def _wrong(self, home: str, arc: int) -> bool:
        # Whoever the register names is the home, gone or not. History: a home was removed, its
        # hints were given to the owners that were left, who had the write already, and W copies
        # had become fewer. They wait for the owner that comes in its place.
        return home not in self._table.writers(arc)

    def _find_astray(self) -> None:
        seen = (self._table.changes, self._roster.people)
        if seen != self._seen:
            self._seen = seen
            self._astray = {
                arc: b""
                for home, arcs in self._arcs.items()
                for arc in arcs
                if self._wrong(home, arc)
            }

    def _reroute(self) -> None:
        """Owe the next hints to those who own their arcs now, a bounded number."""
        rows_left, bytes_left = REROUTE_ROWS, REROUTE_BYTES
        for arc, at in list(self._astray.items()):
            low, high = ring.arc_range(arc)
            if self._targets(arc) is None:
                del self._astray[arc]  # until the ring changes there is nobody to owe it to
                continue
            for skey, record in self._page(at or low, high, rows_left, bytes_left):
                rows_left -= 1
                bytes_left -= len(record)
                self._astray[arc] = skey + b"\0"
                row = self._read(skey, record)
                if row is not None:
                    self._pass_on(arc, skey, row)
            if rows_left <= 0 or bytes_left <= 0:
                return
            del self._astray[arc]

    def _page(self, start: bytes, end: bytes, rows: int, size: int) -> list[tuple[bytes, bytes]]:
        found = []
        for skey, record in self._store.scan(HINTS, start, end, rows):
            found.append((skey, record))
            size -= len(record)
            if size <= 0:
                break
        return found

    def _targets(self, arc: int) -> list[str] | None:
        """Who else owns the arc and is in the ring; None if nobody at all owns it."""
        found = [name for name in self._table.writers(arc) if not self._roster.gone(name)]
        return [name for name in found if name != self._roster.name] if found else None

    def _pass_on(self, arc: int, skey: bytes, row: Row) -> None:
        wrong = [home for home in row.homes if self._wrong(home, arc)]
        if not wrong:
            return
        homes = [home for home in row.homes if home not in wrong]
        for home in self._targets(arc) or ():
            homes = _with(homes, home)
        if row.obj and self._roster.name in self._table.writers(arc):
            self._replica.merge(arc, skey, row.obj, row.gone)
        if homes:
            self._write(skey, row._replace(homes=homes))
        else:
            self._store.delete(HINTS, skey)
        for home in wrong:
            self._drop(home, skey)
        self.stats["hints_rerouted"] += len(wrong)

    def _absorb(self) -> None:
        """Make hints rows of this node, which is not in the ring and may only offer rows."""
        for skey, record in self._page(b"", b"\xff" * 3, REROUTE_ROWS, REROUTE_BYTES):
            row = self._read(skey, record)
            if row is None:
                continue
            if row.obj:
                self._replica.merge(skey[0] << 8 | skey[1], skey, row.obj, row.gone)
            self._store.delete(HINTS, skey)
            for home in row.homes:
                self._drop(home, skey)
            self.stats["hints_rerouted"] += len(row.homes)

    def owes(self, arc: int) -> bool:
        """Whether any hint of an arc is left here."""
        return any(arc in arcs for arcs in self._arcs.values())

    def discard(self) -> None:
        """Erase all hints: they are not wanted any more."""
        self._store.delete_range(HINTS, b"", None)
        self.stats["hints_discarded"] += sum(map(len, self._owed.values()))
        for kept in (self._owed, self._arcs, self._bytes, self._oldest, self._sent, self._astray):
            kept.clear()

    # --- delivery -----------------------------------------------------------------------------

    def run(self, now_ms: int) -> None:
        """Send the next hints to every home that answers."""
        self._now_ms = now_ms
        if self._sent:
            self._give_up_lost(now_ms)
        if not self._owed:
            self._astray.clear()
        elif not self._roster.belongs(self._roster.name):
            self._absorb()
        else:
            self._find_astray()
            if self._astray:
                self._reroute()
        if self._owed and self._stirred:
            self._stirred = False
            for home, owed in list(self._owed.items()):
                if self._liveness.state(home) == "up":
                    self._send(home, owed, now_ms)

    def _send(self, home: str, owed: dict[bytes, int], now_ms: int) -> None:
        flying = {skey for to, skey, _, _ in self._sent.values() if to == home}
        room = self._config.hint_batch - len(flying)
        size = 0
        for skey in list(islice(owed, self._config.hint_batch * 2)) if room > 0 else ():
            if skey in flying or self._wrong(home, skey[0] << 8 | skey[1]):
                continue
            size += self._deliver(home, skey, now_ms)
            room -= 1
            if size >= self._config.hint_batch_bytes:
                self._stirred = True  # the next step goes on
                return
            if room <= 0:
                return

    def _deliver(self, home: str, skey: bytes, now_ms: int) -> int:
        row = self.row(skey)
        if row is None:  # found corrupt just now
            return 0
        obj = row[2] or self._replica.obj(skey)
        if not obj:
            # The own row that was owed is set aside as corrupt. History: "nothing" was sent, the
            # home acknowledged that, and the mark was erased with nobody repaired.
            self._give_up(skey)
            return 0
        self._seq += 1
        req = self._seq
        wait_ms = min(RESEND_MS, self._config.background_timeout_ms)
        register = self._table.registers[int.from_bytes(skey[:2], "big")]
        self._sent[req] = (home, skey, obj, now_ms + wait_ms)
        self._outbox.append(
            (
                home,
                (REPLICATE, req, wait_ms, skey[4:], register.ver, register.phase, "", 0,
                 SYNCED_IF_KEPT, b"", list(row.gone), obj),
            )
        )  # fmt: skip
        return len(obj)

    def _give_up_lost(self, now_ms: int) -> None:
        # All waits are equal, so the oldest is first.
        while self._sent:
            req, (_, _, _, due_ms) = next(iter(self._sent.items()))
            if due_ms > now_ms:
                return
            del self._sent[req]
            self._stirred = True
            self.stats["hints_unanswered"] += 1

    def on_replicate_ok(self, sender: str, message: Message) -> bool:
        """Handle an acknowledgement if it is of a hint; say whether it was."""
        _, req, status, _, _ = message
        sent = self._sent.get(req)
        if sent is None or sent[0] != sender:
            return False
        if status != STORED:
            # It stays on the list of what is on its way until it would count as lost. History: a
            # home with a full disk refused a hint, which was sent again at once, and refused; two
            # nodes did nothing else any more.
            self.stats["hints_put_off"] += 1
            return True
        del self._sent[req]
        self._stirred = True
        home, skey, obj, _ = sent
        row = self.row(skey)
        if row is None or home not in row[0]:
            return True
        if obj == (row[2] or self._replica.obj(skey)):  # H1
            self._erase(home, skey, row)
        else:
            self.stats["hints_outgrown"] += 1
        return True

    def drop_node(self, name: str) -> None:
        """Forget what is on its way to a peer that is heard again; it will be sent again."""
        self._stirred = True
        for req in [req for req, sent in self._sent.items() if sent[0] == name]:
            del self._sent[req]

    def next_due_ms(self) -> int | None:
        """When a delivery counts as lost, or now; None if there is nothing to wait for."""
        if self._astray or (self._owed and not self._roster.belongs(self._roster.name)):
            return self._now_ms
        return next(iter(self._sent.values()))[3] if self._sent else None

    def counts(self) -> dict[str, int]:
        """Undelivered hints per home."""
        return {home: len(owed) for home, owed in sorted(self._owed.items())}

    def sizes(self) -> dict[str, int]:
        """Bytes that the hints of each home take."""
        return {home: self._bytes[home] for home in sorted(self._owed)}

    def oldest(self) -> dict[str, int]:
        """Per home the wall clock at which its oldest hint was taken, in ms, or earlier."""
        return {home: self._oldest[home] for home in sorted(self._owed)}

    def check(self) -> None:
        """Assert that what is indexed is what is stored (H4). Reads every hint row."""
        stored: dict[str, list[bytes]] = {}
        for skey, record in self._store.scan(HINTS):
            assert intact(skey, record), "hint record"
            for home in decode_row(record[CHECK_BYTES:]).homes:
                stored.setdefault(home, []).append(skey)
        indexed = {home: sorted(owed) for home, owed in self._owed.items() if owed}
        assert indexed == {home: sorted(keys) for home, keys in stored.items()}, "H4"
        for home, owed in self._owed.items():
            arcs = Counter(skey[0] << 8 | skey[1] for skey in owed)
            assert arcs == self._arcs[home], "H5: arcs in which something is owed"


def _latest(gone: tuple[bytes, ...], more: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys((*gone, *more)))[-GONE_MAX:]


def _with(homes: list[str], home: str) -> list[str]:
    return homes if home in homes else sorted([*homes, home])
