"""A node: `step(now_ms, inbox) -> outbox` over a store.

    inbox ──▶ Requests  admission, routing, deadlines        ┐
              Writes, Fanout    puts                         │
              Reads     gets                                 ├──▶ Replica, Handoff ──▶ store.commit
              Serving   what coordinators elsewhere ask      │
              Fence     who is at which phase of a move      │
              Handoff   hints for owners that are away       │     (the write door)         │
              Exchange  owners compare arcs                  │                              ▼
              Liveness  who answers                          │
              Gossip    what the ring is                     │                            outbox
              Orphans   rows that others own                 │
              Scanning  which keys an arc has                │
              Changes   what people want of the ring         │
              Inspection  what people ask                    ┘

The order commit-then-send exists once, here, so server and simulator cannot disagree about it:

  N1  Nothing leaves before everything it depends on is durable at the configured level.

    A mints (a,7), sends it, dies before the commit, restarts at 6 and mints (a,7) for another
    value. Replicas take the two for one event, and a merge drops a live value without a sibling.

  N2  Same state, same inbox, same times: same outbox. No clock, no socket, no global randomness.

A message that a peer or client should not have sent is counted and dropped; it must not be able
to stop a node. A failed commit goes through to the caller, and the only right answer to it is to
exit, because memory is now ahead of the disk.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from dynamo.core.ballots import Ballots, Elector
from dynamo.core.changes import Changes
from dynamo.core.config import Config
from dynamo.core.exchange import Exchange
from dynamo.core.fanout import Fanout
from dynamo.core.fence import Fence
from dynamo.core.gossip import Gossip
from dynamo.core.handoff import Handoff
from dynamo.core.inspection import Inspection
from dynamo.core.liveness import Liveness
from dynamo.core.messages import (
    ASK_ID,
    BUCKETS,
    CHANGE,
    FETCH,
    FETCHED,
    FORWARD,
    FORWARDED,
    FROM_STRANGER,
    GET,
    GOSSIP,
    ID_IS,
    ITEMS,
    KEYS,
    KEYS_ARE,
    LIFE_BITS,
    OFFER,
    OFFERED,
    PING,
    PING_FOR,
    PONG,
    PONG_FOR,
    PROMISE,
    PROMISED,
    PUT,
    REFUSED,
    REGISTER,
    REGISTERED,
    REPLICATE,
    REPLICATE_OK,
    RING,
    ROOTS,
    ROOTS_ARE,
    SCAN,
    STATUS,
    VOTE,
    VOTED,
    Malformed,
    Message,
)
from dynamo.core.moves import Moves
from dynamo.core.orphans import Orphans
from dynamo.core.reads import Reads
from dynamo.core.replica import Replica
from dynamo.core.requests import Requests
from dynamo.core.ring import Member
from dynamo.core.roster import Roster
from dynamo.core.scanning import Scanning
from dynamo.core.serving import Serving
from dynamo.core.writes import Writes

Handler = Callable[[Any, Message, int], None]
EVENTS_MAX = 1_000

# Kinds whose third field is the time they have left.
_TIMED = frozenset(
    (PUT, GET, RING, STATUS, CHANGE, SCAN, REPLICATE, FETCH, ASK_ID, ROOTS, KEYS, OFFER)
)


class Cluster(NamedTuple):
    """Which ring this is. The secret seals contexts; frames carry only `tag`."""

    name: str
    secret: bytes

    @property
    def tag(self) -> bytes:
        """8 bytes that differ between clusters, and between secrets of one name."""
        return blake2b(self.name.encode(), digest_size=8, key=self.secret).digest()

    def __repr__(self) -> str:
        return f"Cluster({self.name!r})"


class Node:
    """One member of the ring, driven by a server or by the simulator."""

    def __init__(
        self,
        config: Config,
        me: Member,
        founders: Sequence[Member],
        cluster: Cluster,
        store: Any,
        rng: random.Random,
        now_ms: int = 0,
        seeds: Sequence[str] = (),
    ) -> None:
        """`founders` make a new ring; `seeds` are peer addresses, "host:port", of one to join.

        Both only matter where the store holds no ring.
        """
        self.config = config
        self.name = name = me.name
        self.cluster = cluster
        self.events: list[tuple[Any, ...]] = []
        self.stats: Counter[str] = Counter()
        self._store = store
        self._outbox: list[tuple[Any, Message]] = []
        self._now_ms = now_ms
        outbox = self._outbox
        self.roster = Roster(config, me, founders, store, self.events, self.stats)
        self.table = self.roster.table
        self.replica = Replica(config, store, rng, self.events, self.stats)
        self.replica.load_ids(now_ms)
        # Request numbers begin anew, at random, in every life. History: built from the start
        # counter, they came back after a disk was wiped, and a slow acknowledgement of the life
        # before counted for another put.
        life = rng.getrandbits(LIFE_BITS)
        self.boot = self.replica.boot << LIFE_BITS | life
        life <<= 40
        self.liveness = Liveness(
            config, name, self.roster.peers(), outbox, self.events, self.stats, rng, now_ms
        )
        self._followed = (-1, -1)
        self.gossip = Gossip(config, self.roster, self.liveness, outbox, rng, list(seeds))
        self.handoff = Handoff(
            config, self.roster, store, self.replica, self.liveness, outbox, life
        )
        self.requests = Requests(
            config, name, cluster.secret, self.roster, self.replica, self.liveness, outbox, life
        )
        self.fence = Fence(self.requests)
        self.serving = Serving(self.requests, self.handoff, store)
        self.fanout = Fanout(self.requests, self.handoff)
        self.writes = Writes(self.requests, self.handoff, self.fanout, store)
        self.reads = Reads(self.requests, self.handoff)
        ballots = Ballots(self.roster, self.replica, store, now_ms)
        self.elector = Elector(self.roster, ballots, outbox)
        self.exchange = Exchange(
            config, name, self.table, self.replica, self.liveness, ballots, outbox, life,
            now_ms,
        )  # fmt: skip
        self.moves = Moves(
            config, self.roster, self.replica, self.liveness, self.exchange, self.elector, outbox,
            rng, life, now_ms,
        )  # fmt: skip
        self.orphans = Orphans(self.requests, self.handoff, store, life)
        self._look_inward(cluster, store, now_ms)
        self._client_handlers = self._for_clients()
        self._peer_handlers = self._for_peers()
        # Before anything else: the identity and the start counter of this life are on disk.
        store.commit(sync=True)

    def _look_inward(self, cluster: Cluster, store: Any, now_ms: int) -> None:
        """What people and clients ask of the ring, and the lists of parts that a step goes by."""
        config, name = self.config, self.name
        self.scanning = Scanning(self.requests, self.handoff, store)
        self.changes = Changes(self.roster, self.requests, self.handoff, store)
        self.inspection = Inspection(
            name, cluster.name, config, self.roster, store, self.requests, self.handoff,
            self.exchange, self.changes, now_ms,
        )  # fmt: skip
        self.inspection.movers += [self.moves.view, self.orphans.view]
        self.inspection.rates.append(self.moves.rate_bytes_per_s)
        self.inspection.gossip_view = self.gossip.report
        # What may ask for a step that ends in a synced commit.
        self._durable: tuple[Any, ...] = (
            self.fanout, self.serving, self.fence, self.orphans, self.changes, self.elector,
            self.moves.driver,
        )  # fmt: skip
        self._background = (self.liveness, self.handoff, self.exchange, self.replica)
        self._parts: tuple[Any, ...] = (
            *self._background[1:], self.requests, self.scanning, self.gossip, self.orphans,
            self.changes, self.moves,
        )  # fmt: skip

    def _for_clients(self) -> dict[int, Handler]:
        return {
            PUT: self.requests.on_request,
            GET: self.requests.on_request,
            RING: self.inspection.on_ring,
            STATUS: self.inspection.on_status,
            SCAN: self.scanning.on_scan,
            CHANGE: self.changes.on_change,
        }

    def _for_peers(self) -> dict[int, Handler]:
        return {
            REPLICATE: self.serving.on_replicate,
            REPLICATE_OK: self._on_replicate_ok,
            FETCH: self.serving.on_fetch,
            FETCHED: self.reads.on_fetched,
            ASK_ID: self.serving.on_ask_id,
            ID_IS: self.writes.on_id_is,
            REFUSED: self.fence.on_refused,
            FORWARD: self.requests.on_forward,
            FORWARDED: self.requests.on_forwarded,
            PING: self.liveness.on_ping,
            PONG: self.liveness.on_pong,
            PING_FOR: self.liveness.on_ping_for,
            PONG_FOR: self.liveness.on_pong_for,
            ROOTS: self.exchange.on_roots,
            ROOTS_ARE: self.exchange.on_roots_are,
            KEYS: self.exchange.on_keys,
            KEYS_ARE: self.exchange.on_keys_are,
            OFFER: self.orphans.on_offer,
            OFFERED: self.orphans.on_offered,
            REGISTER: self.elector.on_register,
            REGISTERED: self.moves.driver.on_registered,
            PROMISE: self.elector.on_promise,
            PROMISED: self.moves.driver.on_promised,
            VOTE: self.elector.on_vote,
            VOTED: self.moves.driver.on_voted,
            GOSSIP: self.gossip.on_gossip,
            BUCKETS: self.gossip.on_buckets,
            ITEMS: self.gossip.on_items,
        }

    # --- the one step -------------------------------------------------------------------------

    def step(
        self, now_ms: int, inbox: list[tuple[Any, Message, int]], wall_ms: int = 0
    ) -> list[tuple[Any, Message]]:
        """Handle everything in `inbox`, do what is due at `now_ms`, and return what to send.

        `inbox` holds (sender, message, born_ms): a peer's name or a client's token (bytes), a
        message that passed `messages.check`, and `now_ms` less the time it was under way. The
        result pairs receivers with messages in the same way. The caller sends it only after
        this returns, and none of it if this raises.

        `now_ms` is a monotonic count; going backwards is a caller's bug and asserts. `wall_ms`
        is the wall clock, for stamps and expiry only; it may jump.
        """
        assert now_ms >= self._now_ms, "time goes forward"
        self._now_ms = now_ms
        self.requests.now_ms = now_ms
        self.requests.wall_ms = wall_ms
        self.gossip.now_ms = now_ms
        self.elector.ballots.now_ms = now_ms
        self.moves.begin_step(now_ms)
        self.replica.begin_step(now_ms)
        self._handle(inbox, now_ms)
        self._run_due(now_ms)
        sync = False
        for part in self._durable:
            if part.durable_due:
                part.durable_due = False
                sync = True
        self._store.commit(sync=sync)  # N1
        outbox = self._outbox[:]
        self._outbox.clear()
        return outbox

    def _handle(self, inbox: list[tuple[Any, Message, int]], now_ms: int) -> None:
        heard: Any = None
        member = True
        for sender, message, born_ms in inbox:
            kind = message[0]
            if type(sender) is bytes:
                handler = self._client_handlers.get(kind)
            else:
                if sender is not heard:
                    heard = sender
                    self.liveness.heard(sender, now_ms)
                    member = self.roster.belongs(sender)
                if sender == self.name or not (member or kind in FROM_STRANGER):
                    self._refuse(sender)
                    continue
                handler = self._peer_handlers.get(kind)
            if handler is None:
                self.stats["unexpected"] += 1
            elif kind in _TIMED and born_ms + message[2] <= now_ms:
                self.stats["expired"] += 1  # it was under way too long: nobody waits for it
            else:
                try:
                    handler(sender, message, born_ms)
                except Malformed as error:
                    self.stats["malformed"] += 1
                    self.events.append(("malformed", kind, str(error)))

    def _refuse(self, sender: str) -> None:
        """A node that does not belong to the ring asks for more than to be told of it."""
        if sender == self.name:
            self.stats["refused_own_name"] += 1  # one of the seeds is this node itself
        else:
            self.stats["refused_of_strangers"] += 1
            self.gossip.stranger(sender)

    def _run_due(self, now_ms: int) -> None:
        self._follow(now_ms)
        liveness, handoff, exchange, replica = self._background
        self.requests.run()
        liveness.run(now_ms)
        if liveness.came_up:
            # Fallbacks deliver to, and replicas compare with, whoever is back.
            for name in liveness.came_up:
                handoff.drop_node(name)
            exchange.hurry(liveness.came_up)
            self.orphans.hurry()
            self.gossip.hurry(liveness.came_up)
            self.moves.hurry()
            liveness.came_up.clear()
        handoff.run(now_ms)
        self.gossip.run(now_ms)
        self.scanning.run()
        for arc in replica.take_doubted():
            exchange.watch(arc)
        if handoff.needs_repair:
            handoff.needs_repair.clear()
            exchange.look_soon(now_ms)
        self.moves.run(now_ms)
        exchange.run(now_ms)
        if exchange.copies.done:
            self.moves.run(now_ms)
        self.orphans.run(now_ms)
        self.changes.run(now_ms)
        if liveness.doubts:
            replica.hold_ids()
        replica.forget_ids()
        if len(self.events) > EVENTS_MAX:
            del self.events[:-EVENTS_MAX]

    def _follow(self, now_ms: int) -> None:
        """Watch whom the ring has now, and count whom its registers name besides."""
        seen = (self.roster.people, self.table.changes)
        if seen == self._followed:
            return
        peers, writers = self.roster.peers(), self.table.writers
        known = {*peers, self.name}
        named = {name: None for arc in range(self.config.partitions) for name in writers(arc)}
        absent = sum(name not in known for name in named)
        self.liveness.follow(peers, now_ms, absent)
        self._followed = seen

    def next_due_ms(self) -> int:
        """Until when there is nothing to do unless a message comes."""
        if self._followed != (self.roster.people, self.table.changes):
            return self._now_ms
        due = self.liveness.next_due_ms()
        for part in self._parts:
            other = part.next_due_ms()
            if other is not None and other < due:
                due = other
        return due

    def lost(self, peer: str) -> None:
        """A frame to this peer could not be handed over: it counts as silence."""
        self.liveness.lost(peer)
        self.stats["frames_lost"] += 1

    def close(self) -> None:
        """Make everything durable before the store is closed."""
        self._store.commit(sync=True)

    # --- what others ask -------------------------------------------------------------------------

    def _on_replicate_ok(self, sender: str, message: Message, born_ms: int) -> None:
        if not self.handoff.on_replicate_ok(sender, message):
            self.fanout.on_replicate_ok(sender, message, born_ms)
            self.reads.on_replicate_ok(sender, message, born_ms)

    @property
    def ready(self) -> bool:
        """Whether every arc owned here is synced, so that this node counts in every read."""
        return self.exchange.ready

    def check(self) -> None:
        """Assert what is cheap to assert; the simulator calls it after every step."""
        for req, op in self.requests.pending.items():
            assert op.open, "C1: ended operations leave the table"
            assert op.req == req, "C1"
            assert len({*op.acked}) == len(op.acked), "C2: an acknowledgement per node"

    def check_rows(self) -> None:
        """Assert what needs every row: the table, roots and the hint index."""
        self.roster.check()
        self.replica.check()
        self.handoff.check()

    def __repr__(self) -> str:
        return (
            f"<Node {self.name} boot={self.replica.boot} keys={self.replica.keys} "
            f"pending={len(self.requests.pending)} hints={self.handoff.counts()}>"
        )
