"""What this node knows of the ring, item by item: the one door through which that changes.

An item is a key and a tuple of plain values. Items merge one by one, each kind by an order of its
own (see `items`), so any two nodes that have seen the same, in whatever order, know the same (G1).

Everything is written down in the step that brings it. Nothing here knows of messages (`gossip`)
or of how an arc gets from its register to its goal (`moves`).

Invariants
  G1  Merging is commutative, associative and idempotent; an item never falls in its order.
  G2  Who has left or was removed stays so: whatever else arrives, under whatever counter.
  G3  An item that is malformed, or whose counter jumps by more than JUMP_MAX, is neither taken nor
      passed on. (History: one flipped bit in a gossiped counter stopped a whole storage service.)
  G4  Only the node itself writes its record. What others claim of it under a counter as high as
      its own, it refutes with a higher one.
  G5  A store that has never been told of the ring by another node does not serve: it cannot know
      whether the founders' table still holds. (A disk that was lost looks like a new one.)

Sources: Das et al., SWIM, 2002 (incarnations); Dynamo §4.8; DESIGN §8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import mmh3
import msgspec

from dynamo.core.config import Config
from dynamo.core.items import (
    BUCKET_ARCS,
    COUNTER_MAX,
    FORCED,
    IN,
    JUMP_MAX,
    KINDS,
    LEAVING,
    LEFT,
    NAME,
    NO_GOAL,
    NODES_MAX,
    OTHER_BUCKETS,
    OTHERS,
    OUT,
    REMOVED,
    TASK_BYTES_MAX,
    TASKS_MAX,
    UNKNOWN,
    Item,
    Record,
    Staged,
    Task,
    Wish,
    bucket_of,
)
from dynamo.core.messages import NOT_A_MEMBER, NOT_READY, Malformed
from dynamo.core.ring import Member, Register, Table
from dynamo.core.spaces import RING

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode
_digest = mmh3.mmh3_x64_128_digest


class Roster:
    """Records, wishes, registers and goals; `table` is made of them, and follows."""

    __slots__ = (
        "_buckets",
        "_config",
        "_named",
        "_store",
        "_unknown_arcs",
        "closed",
        "confirmed",
        "draining",
        "events",
        "goals",
        "hash",
        "me",
        "moved",
        "name",
        "news",
        "people",
        "records",
        "staged",
        "stats",
        "table",
        "tasks",
        "wishes",
    )

    def __init__(
        self,
        config: Config,
        me: Member,
        founders: Sequence[Member],
        store: Any,
        events: list[tuple[Any, ...]],
        stats: Counter[str],
    ) -> None:
        """`founders`: the members of a ring that is new; none for a node that wants to join one.

        They matter only to a store that holds no ring.
        """
        self._config = config
        self._store = store
        self.me = me
        self.name = me.name
        self.events = events
        self.stats = stats
        self.records: dict[str, Record] = {}
        self.wishes: dict[str, Wish] = {}
        self.staged: dict[str, Staged] = {}
        self._named: dict[str, dict[str, Any]] = {
            "n": self.records, "w": self.wishes, "s": self.staged
        }  # fmt: skip
        self.tasks: dict[int, Task] = {}
        self.goals = [NO_GOAL] * config.partitions
        self.hash = 0
        self._buckets: dict[int, int] = {}
        self.news: dict[str, None] = {}  # keys of what changed here; whoever spreads it clears it
        self.moved: dict[int, None] = {}  # arcs whose register or goal changed; `moves` clears it
        self.people = 0  # grows whenever a node comes, goes, or changes its address
        # Why requests are refused, as (code, text): None while this node serves.
        self.closed: tuple[int, str] | None = None
        self.draining = False  # people want to stop this node
        self.table = Table((), config.n, config.partitions, [UNKNOWN] * config.partitions)
        self._unknown_arcs = config.partitions
        self.confirmed = store.get(RING, b"confirmed") is not None
        self._load()
        # Only a store that has heard of no ring at all: half of a ring is no reason to found one.
        if founders and not self.wishes and self._unknown_arcs == config.partitions:
            self._found(founders)
        for founder in founders:
            if self.status(founder.name) == OUT:  # people expect it to join by being listed
                events.append(("listed and no member", founder.name))
        self._introduce()
        self._settle()

    # --- from the disk, or from nothing -----------------------------------------------------------

    def _load(self) -> None:
        for key, value in list(self._store.scan(RING)):
            name = key.decode()
            if name[1:2] == "/" and name[0] in KINDS:
                self._set(name, KINDS[name[0]].parse(tuple(_decode(value))), stored=True)
        self.moved.clear()
        self.news.clear()

    def _found(self, founders: Sequence[Member]) -> None:
        for member in founders:
            name, host, client_port, peer_port, zone, weight = member
            if name != self.name:
                self._set("n/" + name, Record(0, host, client_port, peer_port, zone))
            self._set("w/" + name, Wish(1, IN, weight, 0))
        first = Table(founders, self._config.n, self._config.partitions)
        for arc, register in enumerate(first.registers):
            self._set(f"r/{arc}", register)
        self.news.clear()  # every founder computes the same
        if [member.name for member in founders] == [self.name]:
            self._confirm()  # there is nobody to be told by

    def _introduce(self) -> None:
        """Write the own record, under a higher incarnation if anything in it is new."""
        known = self.records.get(self.name)
        mine = Record(0, self.me.host, self.me.client_port, self.me.peer_port, self.me.zone)
        if known is None:
            self._set("n/" + self.name, mine._replace(incarnation=1))
        elif known[1:] != mine[1:]:
            self._set("n/" + self.name, mine._replace(incarnation=known.incarnation + 1))

    def confirm(self) -> None:
        """Another node has told what it knows, and it was taken in (G5)."""
        if not self.confirmed:
            self._confirm()
            self.closed = self._why_closed()

    def _confirm(self) -> None:
        self.confirmed = True
        self._store.put(RING, b"confirmed", b"")

    def drain(self, on: bool) -> None:
        """Refuse clients from now on, or no longer: people want to stop this node."""
        self.draining = on
        self._settle()

    # --- what follows from the items --------------------------------------------------------------

    def status(self, name: str) -> int:
        """OUT, IN, LEAVING, LEFT or REMOVED."""
        wish = self.wishes.get(name)
        return OUT if wish is None else wish.status

    def gone(self, name: str) -> bool:
        """Whether a node is out of the ring for good."""
        return self.status(name) >= LEFT

    def belongs(self, name: str) -> bool:
        """Whether a node is a member of the ring, be it one that is about to leave."""
        return self.status(name) in (IN, LEAVING)

    def forced(self, name: str) -> bool:
        """Whether people gave up the copies of a node that is gone."""
        wish = self.wishes.get(name)
        return wish is not None and wish.status == REMOVED and bool(wish.flags & FORCED)

    def peers(self) -> list[str]:
        """Every other node that is not gone for good, member or not yet."""
        return [name for name in sorted(self.records) if name != self.name and not self.gone(name)]

    def member(self, name: str) -> Member | None:
        """A node's address, zone and weight; None if nothing is known of it."""
        record = self.records.get(name)
        if record is None:
            return None
        wish = self.wishes.get(name)
        return Member(name, *record[1:4], record.zone, wish.weight if wish else 1)

    def planned(self) -> dict[str, tuple[str, int]]:
        """What the planner may give arcs to: name -> (zone, weight) of all that are to stay."""
        return {
            name: (self.records[name].zone if name in self.records else "", wish.weight)
            for name, wish in sorted(self.wishes.items())
            if wish.status == IN
        }

    def _settle(self) -> None:
        """Make the table's members, and whether this node serves, follow from the items."""
        inside = [n for n, wish in sorted(self.wishes.items()) if wish.status in (IN, LEAVING)]
        found = [member for member in map(self.member, inside) if member is not None]
        if found != list(self.table.members.values()):
            self.table.set_members(found)
        self.people += 1
        self.closed = self._why_closed()

    def _why_closed(self) -> tuple[int, str] | None:
        status = self.status(self.name)
        if status == LEFT:
            return NOT_A_MEMBER, f"{self.name} has left the ring: ask another node"
        if status == REMOVED:
            return NOT_A_MEMBER, f"{self.name} was removed from the ring: ask another node"
        if self.draining:
            return NOT_READY, f"{self.name} is being drained: ask another node"
        if not self.confirmed:
            return NOT_READY, f"{self.name} has not heard from another node of its ring yet"
        if status == OUT:
            return NOT_A_MEMBER, (
                f"{self.name} does not belong to the ring yet: stage it with `dynamo cluster join "
                f"{self.name}` and commit"
            )
        if self._unknown_arcs:
            return NOT_READY, f"{self.name} is still learning who owns what"
        return None

    # --- changes ----------------------------------------------------------------------------------

    def take(self, key: Any, item: Any) -> bool:
        """Merge one item from elsewhere; say whether it was news. Raises `Malformed`."""
        news = self._take(key, item)
        if news and key[0] in "nw":
            self._settle()
        return news

    def take_all(self, items: Iterable[Sequence[Any]]) -> tuple[int, int]:
        """Merge pairs of key and item from elsewhere; how many were news, how many refused.

        One that is refused does not keep the others out: else one bad item somewhere would stop
        all that travels with it.
        """
        learnt = refused = 0
        settled = True
        for key, item in items:
            try:
                if self._take(key, item):
                    learnt += 1
                    settled = settled and key[0] not in "nw"
            except Malformed:
                refused += 1
        self.stats["ring_items_refused"] += refused
        if not settled:
            self._settle()
        return learnt, refused

    def _take(self, key: Any, item: Any) -> bool:
        new = self._parsed(key, item)
        held = self.item(key)
        if key == "n/" + self.name:
            return self._refute(new)
        if held is not None and KINDS[key[0]].order(new) <= KINDS[key[0]].order(held):
            return False
        if held is None and not self._has_room(key):
            self.stats["ring_items_refused"] += 1
            return False
        self._set(key, new)
        if self.closed and key[0] == "r":
            self.closed = self._why_closed()
        return True

    def adopt(self, arc: int, register: Register) -> bool:
        """Take a register if it is above the one held (R3); say whether it was."""
        if register[:3] <= self.table.registers[arc][:3]:
            return False
        self._set(f"r/{arc}", register)
        if self.closed:
            self.closed = self._why_closed()
        return True

    def change(self, key: str, item: Item) -> None:
        """Write an item of this node's own making; it must be above the one held."""
        taken = self.take(key, item)
        assert taken, f"{key} falls"

    def _refute(self, claimed: Record) -> bool:
        mine = self.records[self.name]
        if claimed.incarnation < mine.incarnation or claimed == mine:
            return False
        self.stats["claims_refuted"] += 1
        self._set("n/" + self.name, mine._replace(incarnation=claimed.incarnation + 1))
        return True

    def _parsed(self, key: Any, item: Any) -> Any:
        """The item as its kind, checked in every field (G3)."""
        if type(key) is not str or key[1:2] != "/" or key[0] not in KINDS or len(key) > 66:
            raise Malformed("an item of the ring under no known key")
        kind, rest = KINDS[key[0]], key[2:]
        if kind.of_arc:
            if not rest.isdecimal() or key != f"{key[0]}/{int(rest)}":
                raise Malformed("an item of an arc that has no number")
            if int(rest) >= self._config.partitions:
                raise Malformed("an item of an arc that this ring has not")
        elif key[0] == "t":
            number = int(rest) if rest.isdecimal() else 0
            if key != f"t/{number}" or not 0 < number < COUNTER_MAX:
                raise Malformed("a task without a number")
        elif not NAME.fullmatch(rest):
            raise Malformed("an item of a node without a proper name")
        try:
            new = kind.parse(tuple(item))
        except (TypeError, ValueError, IndexError, AttributeError):
            raise Malformed(f"an item {key[0]} of the wrong shape") from None
        if kind.of_arc and max(map(len, new[2 if key[0] == "g" else 3 :])) > self._config.n:
            raise Malformed("more owners than the ring has replicas")
        if key[0] == "t" and len(_encode(new)) > TASK_BYTES_MAX:
            raise Malformed("a task beyond all bounds")
        held = self.item(key)
        if kind.counter(new) - (kind.counter(held) if held is not None else 0) > JUMP_MAX:
            raise Malformed(f"an item {key[0]} whose counter jumps too far")
        return new

    def _has_room(self, key: str) -> bool:
        if key[0] == "n":
            return len(self.records) < NODES_MAX
        if key[0] in "ws":
            return len(self.wishes) < NODES_MAX and len(self.staged) < NODES_MAX
        if key[0] == "t":
            return len(self.tasks) < TASKS_MAX or int(key[2:]) > min(self.tasks)
        return True

    def _set(self, key: str, item: Any, stored: bool = False) -> None:
        """The only place where an item changes."""
        held = self.item(key)
        if held is not None:
            self._toggle(key, _encode(held))
        value = _encode(item)
        self._toggle(key, value)
        if not stored:
            self._store.put(RING, key.encode(), value)
        self.news[key] = None
        kind, rest = key[0], key[2:]
        if kind == "r":
            self._put_register(int(rest), item)
        elif kind == "g":
            self.goals[int(rest)] = item
            self.moved[int(rest)] = None
        elif kind == "t":
            self._put_task(int(rest), item)
        else:
            held_by_name: dict[str, Any] = self._named[kind]
            held_by_name[rest] = item

    def _toggle(self, key: str, value: bytes) -> None:
        digest = int.from_bytes(_digest(key.encode() + b"=" + value)[:8], "big") >> 1
        self.hash ^= digest
        bucket = bucket_of(key)
        self._buckets[bucket] = self._buckets.get(bucket, 0) ^ digest

    def _put_register(self, arc: int, register: Register) -> None:
        if not self.table.registers[arc].ver:
            self._unknown_arcs -= 1
        self.table.adopt(arc, register)
        self.moved[arc] = None

    def _put_task(self, number: int, task: Task) -> None:
        self.tasks[number] = task
        while len(self.tasks) > TASKS_MAX:
            oldest = min(self.tasks)
            self._toggle(f"t/{oldest}", _encode(self.tasks.pop(oldest)))
            self._store.delete(RING, f"t/{oldest}".encode())

    # --- for gossip -------------------------------------------------------------------------------

    def item(self, key: str) -> Any:
        """The item held under a key, None for none."""
        rest = key[2:]
        if key[0] == "r":
            register = self.table.registers[int(rest)]
            return register if register.ver else None
        if key[0] == "g":
            goal = self.goals[int(rest)]
            return goal if goal.ver else None
        if key[0] == "t":
            return self.tasks.get(int(rest))
        return self._named[key[0]].get(rest)

    def buckets(self) -> list[list[int]]:
        """[bucket, hash] of every bucket that holds anything."""
        return [[bucket, found] for bucket, found in sorted(self._buckets.items()) if found]

    def bucket_hashes(self) -> dict[int, int]:
        return {bucket: found for bucket, found in self._buckets.items() if found}

    def bucket_hash(self, bucket: int) -> int:
        return self._buckets.get(bucket, 0)

    def has_bucket(self, bucket: int) -> bool:
        """Whether anything of this ring can lie in a bucket of that number."""
        arcs = -(-self._config.partitions // BUCKET_ARCS)
        return 0 <= bucket < arcs or OTHERS <= bucket < OTHERS + OTHER_BUCKETS

    def keys_in(self, bucket: int) -> list[str]:
        """The keys of everything that a bucket holds."""
        if bucket < OTHERS:
            first = bucket * BUCKET_ARCS
            arcs = range(first, min(first + BUCKET_ARCS, self._config.partitions))
            keys = [f"{kind}/{arc}" for arc in arcs for kind in "rg"]
            return [key for key in keys if self.item(key) is not None]
        keys = [f"{kind}/{name}" for kind, held in self._named.items() for name in sorted(held)]
        keys += [f"t/{number}" for number in sorted(self.tasks)]
        return [key for key in keys if bucket_of(key) == bucket]

    def check(self) -> None:
        """Assert that hashes and table follow from the items (G1)."""
        self.table.check()
        total, rows = 0, dict(self._store.scan(RING))
        for bucket in [
            *range(-(-self._config.partitions // BUCKET_ARCS)),
            *range(OTHERS, OTHERS + OTHER_BUCKETS),
        ]:
            for key in self.keys_in(bucket):
                value = _encode(self.item(key))
                assert rows[key.encode()] == value, "what is known is on disk"
                total ^= int.from_bytes(_digest(key.encode() + b"=" + value)[:8], "big") >> 1
        assert total == self.hash, "G1: the hash is of everything known"
