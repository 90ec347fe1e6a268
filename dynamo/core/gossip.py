"""Gossip: nodes compare what they know of the ring, two at a time, and tell one another the rest.

    a -> b  GOSSIP   promise, hash of everything      one peer each round; equal hashes: b says so
    b -> a  BUCKETS  the hash of each bucket
    a -> b  ITEMS    whole buckets that differ, and a's hashes of these
    b -> a  ITEMS    what a lacks of them

A message holds as many differing buckets as fit into MESSAGE_BYTES, and one at least. While buckets
are left over and something was learnt, the two go on at once. Which bucket comes first is drawn,
so that one that cannot be agreed upon does not keep all others waiting.

News, whatever changed here, go to a few peers at once, and from each on to a few others: a change
is everywhere in the time of some hops. What that misses, rounds find.

A node that nobody has told of the ring yet asks everybody it knows at once, by BUCKETS, and so
knows after one round trip.

Whom to trust: frames carry the tag of the cluster, every message here the promise of the ring (n,
r, w, partitions), and items are checked one by one (G3). What a node says that is gone for good is
not listened to but for its address, so that it can be told.

Steps of ITEMS
    NEWS   unasked, or not to be gone on with
    PART   of what differs; whoever learns from it asks for more
    LAST   all that differs: the receiver now knows what the sender knew

Each message names the life of its sender, a random number, and ITEMS the life of the receiver that
it answers. (An answer that was under way while its receiver lost its disk would make a node that
knows nothing believe that it had been told.)

Cost: a round in which nothing differs is two messages, about 60 bytes each with their frames.

Sources: Demers et al. 1987 (anti-entropy and rumours); DESIGN §8.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from dynamo.core.config import Config, quorum
from dynamo.core.items import KINDS, LEFT, NODES_MAX
from dynamo.core.liveness import UP, Liveness
from dynamo.core.messages import BUCKETS, GOSSIP, ITEMS, Malformed, Message
from dynamo.core.roster import Roster

NEWS, PART, LAST = range(3)

MESSAGE_BYTES = 32 << 10
ITEMS_MAX = 20_000  # in one message, of whatever size
NEWS_PEERS = 3  # whom a node tells what is new to it
# More news than this are no news but another state of the ring: comparing tells it cheaper.
NEWS_MAX = 512
NEWS_MS = 100  # news leave no oftener, or ten times a round where rounds are quick
FIRST_PEERS = 16  # whom a node asks at once that nobody has told of the ring
FIRST_RETRY_MS = 50
HURRIED_MAX = 4
DOUBTED_EVERY = 8  # a round in so many goes to a peer that is not up, one to a seed
GONE_ROUNDS = 10  # a node that is gone for good speaks up so much more rarely

_encode = msgspec.msgpack.Encoder().encode


class _Met:
    """What came of the last word with a peer."""

    __slots__ = ("heard_ms", "life", "promise", "same", "told_ms")

    def __init__(self) -> None:
        self.heard_ms = -1
        self.life = 0
        self.same = False
        self.promise: list[Any] = []  # the one it gave, if it is another
        self.told_ms = -1  # when it was last told that it is gone


class Gossip:
    """Spreads what the roster learns, and lets it learn what others know."""

    __slots__ = (
        "_config",
        "_due_ms",
        "_first_wait_ms",
        "_hurried",
        "_life",
        "_liveness",
        "_met",
        "_news_due_ms",
        "_outbox",
        "_peers",
        "_people",
        "_promise",
        "_rng",
        "_roster",
        "_seeds",
        "now_ms",
        "rounds",
        "stats",
    )

    def __init__(
        self,
        config: Config,
        roster: Roster,
        liveness: Liveness,
        outbox: list[tuple[Any, Message]],
        rng: random.Random,
        seeds: tuple[str, ...] | list[str] = (),
    ) -> None:
        """`seeds`: peer addresses, "host:port", asked for what they know whoever lives there."""
        self._config = config
        self._roster = roster
        self._liveness = liveness
        self._outbox = outbox
        self._rng = random.Random(rng.getrandbits(64))
        self._life = rng.getrandbits(32)
        own = f"{roster.me.host}:{roster.me.peer_port}"
        self._seeds = [f"@{seed}" for seed in dict.fromkeys(seeds) if seed != own]
        n = config.n
        self._promise = [n, config.r or quorum(n), config.w or quorum(n), config.partitions]
        self.stats = roster.stats
        self.rounds = 0
        self.now_ms = 0
        self._due_ms = 0
        self._news_due_ms = 0
        self._first_wait_ms = min(FIRST_RETRY_MS, config.gossip_ms)
        self._hurried: dict[str, None] = {}
        self._met: dict[str, _Met] = {}
        self._peers: list[str] = []
        self._people = -1

    # --- schedule ---------------------------------------------------------------------------------

    def run(self, now_ms: int) -> None:
        """Say what is due: first questions, a round, news."""
        self.now_ms = now_ms
        if now_ms >= self._due_ms:
            self.rounds += 1
            if self._roster.confirmed:
                self._round(now_ms)
            else:
                self._ask_all(now_ms)
        if (self._roster.news or self._hurried) and now_ms >= self._news_due_ms:
            self._news_due_ms = now_ms + max(1, min(NEWS_MS, self._config.gossip_ms // 10))
            for name in self._hurried:
                self._speak(name)
            self._hurried.clear()
            self._tell_news()

    def next_due_ms(self) -> int:
        """When `run` has something to do next."""
        if self._roster.news or self._hurried:
            return min(self._due_ms, self._news_due_ms)
        return self._due_ms

    def hurry(self, names: list[str]) -> None:
        """Compare with these soon: they were away, or know of something unknown here."""
        for name in names:
            if len(self._hurried) < HURRIED_MAX:
                self._hurried[name] = None

    def _ask_all(self, now_ms: int) -> None:
        self._due_ms = now_ms + self._first_wait_ms
        self._first_wait_ms = min(2 * self._first_wait_ms, self._config.gossip_ms)
        peers = self._known_peers()
        if len(peers) > FIRST_PEERS:
            peers = self._rng.sample(peers, FIRST_PEERS)
        seeds = self._seeds
        if len(seeds) > FIRST_PEERS:  # others next time: the first ones may all be gone
            seeds = self._rng.sample(seeds, FIRST_PEERS)
        for receiver in (*peers, *seeds):
            self._introduce(receiver)
            self._send(receiver, (BUCKETS, self._promise, self._life, self._roster.buckets()))

    def _round(self, now_ms: int) -> None:
        wait_ms = self._config.gossip_ms
        if self._roster.gone(self._roster.name):
            wait_ms *= GONE_ROUNDS
        # Rounds of different nodes must not fall into step, or one node answers all at once.
        self._due_ms = now_ms + max(1, wait_ms * self._rng.randrange(75, 126) // 100)
        choice = self._rng.randrange(DOUBTED_EVERY)
        if choice == 0 and self._seeds:
            self._speak(self._rng.choice(self._seeds))
            return
        name = self._pick(up=choice != 1)
        if name:
            self._speak(name)
        elif self._seeds:
            self._speak(self._rng.choice(self._seeds))

    def _known_peers(self) -> list[str]:
        if self._people != self._roster.people:
            self._people = self._roster.people
            self._peers = self._roster.peers()
        return self._peers

    def _pick(self, up: bool) -> str:
        """A peer of which this is true if there is one, else any; "" if there is nobody."""
        peers = self._known_peers()
        if not peers:
            return ""
        if up or self._liveness.doubts:
            for _ in range(4):  # in most rings the first one will do
                name = self._rng.choice(peers)
                if (self._liveness.state(name) is UP) == up:
                    return name
            fitting = [name for name in peers if (self._liveness.state(name) is UP) == up]
            if fitting:
                return self._rng.choice(fitting)
        return self._rng.choice(peers)

    def _speak(self, receiver: str) -> None:
        """Begin to compare with a peer, or with whoever lives at a seed's address."""
        if receiver[:1] == "@" or self._liveness.state(receiver) is not UP:
            self._introduce(receiver)
        self._send(receiver, (GOSSIP, self._promise, self._life, self._roster.hash))

    def _introduce(self, receiver: str) -> None:
        """Send the own record first: who does not know this node's address cannot answer it."""
        self._send_items(receiver, NEWS, [self._own_record()], [])

    def _own_record(self) -> list[Any]:
        key = "n/" + self._roster.name
        return [key, self._roster.item(key)]

    def _tell_news(self) -> None:
        """Pass on what changed here, as far as one message takes it; the rest comes next time."""
        roster, news = self._roster, self._roster.news
        if not roster.confirmed or len(news) > NEWS_MAX:
            # What a newcomer learns, all others know. Its own record went ahead of its questions.
            self.stats["gossip_news_left_to_rounds"] += len(news)
            news.clear()
            return
        receivers = self._some_up(NEWS_PEERS)
        if not receivers and self._known_peers():
            return  # it can wait until somebody is heard
        items: list[list[Any]] = []
        size = 0
        for key in list(news):
            item = roster.item(key)
            if item is not None:
                size += _size(key, item)
                if size > MESSAGE_BYTES and items:
                    break
                items.append([key, item])
            del news[key]
        if items:
            for name in receivers:
                self._send_items(name, NEWS, items, [])

    def _some_up(self, count: int) -> list[str]:
        peers = self._known_peers()
        if self._liveness.doubts:
            peers = [name for name in peers if self._liveness.state(name) is UP]
        return peers if len(peers) <= count else self._rng.sample(peers, count)

    # --- what others say --------------------------------------------------------------------------

    def on_gossip(self, sender: str, message: Message, born_ms: int) -> None:
        _, promise, life, theirs = message
        if not self._listens_to(sender, promise, life):
            return
        same = self._met[sender].same = theirs == self._roster.hash
        if same:
            self._send_items(sender, LAST, [], [])
        else:
            self._send(sender, (BUCKETS, self._promise, self._life, self._roster.buckets()))

    def on_buckets(self, sender: str, message: Message, born_ms: int) -> None:
        _, promise, life, hashes = message
        if not self._listens_to(sender, promise, life):
            return
        theirs = self._hashes(hashes)
        mine = self._roster.bucket_hashes()
        differing = [b for b in sorted({**mine, **theirs}) if mine.get(b, 0) != theirs.get(b, 0)]
        self._met[sender].same = not differing
        if differing:
            turn = self._rng.randrange(len(differing))
            differing = differing[turn:] + differing[:turn]
        items: list[list[Any]] = []
        sent: list[list[int]] = []
        size = 0
        for bucket in differing:
            found = [[key, self._roster.item(key)] for key in self._roster.keys_in(bucket)]
            size += sum([_size(key, item) for key, item in found])
            if size > MESSAGE_BYTES and sent:
                break
            items += found
            sent.append([bucket, mine.get(bucket, 0)])
        whole = len(sent) == len(differing)
        if not whole:  # a newcomer cannot go on before it knows where this node is
            items.append(self._own_record())
        self._send_items(sender, LAST if whole else PART, items, sent)

    def on_items(self, sender: str, message: Message, born_ms: int) -> None:
        _, promise, life, heard, step, items, buckets = message
        if len(items) > ITEMS_MAX or not all(_is_pair(entry) for entry in items):
            raise Malformed("items of the ring that are no list of keys and items")
        wanted = self._hashes(buckets)
        if not self._listens_to(sender, promise, life, items):
            if wanted and promise == self._promise and self._roster.gone(sender):
                self._send_back(sender, wanted, items, NEWS)
            return
        learnt, refused = self._roster.take_all(items)
        self.stats["gossip_items_taken"] += learnt
        if refused:
            self._roster.events.append(("refused what a node tells of the ring", sender, refused))
        if items:
            self._check_address(sender, items)
        goes_on = step == PART and learnt > 0
        if wanted:
            # One side goes on, not both: else each exchange would beget two.
            self._send_back(sender, wanted, items, NEWS if goes_on else step)
        if goes_on:
            self._send(sender, (BUCKETS, self._promise, self._life, self._roster.buckets()))
        if step == LAST and heard == self._life:
            self._met[sender].same = not refused
            if self._roster.belongs(sender):
                self._roster.confirm()  # G5

    def _send_back(
        self, sender: str, wanted: dict[int, int], items: list[list[Any]], step: int
    ) -> None:
        """What the sender lacks of the buckets that it sent whole."""
        roster = self._roster
        sent = {key: item for key, item in items if type(key) is str}
        lacking: list[list[Any]] = []
        for bucket, theirs in wanted.items():
            if roster.bucket_hash(bucket) != theirs:
                held = [[key, roster.item(key)] for key in roster.keys_in(bucket)]
                lacking += [x for x in held if x[0] not in sent or not _equal(sent[x[0]], x[1])]
        self._send_items(sender, step, lacking, [])

    def _hashes(self, buckets: list[Any]) -> dict[int, int]:
        known = self._roster.has_bucket
        for entry in buckets:
            if not _is_pair(entry) or type(entry[0]) is not int or type(entry[1]) is not int:
                raise Malformed("hashes that are no list of buckets and hashes")
            if not known(entry[0]):
                raise Malformed("a bucket that this ring has not")
        return dict(buckets)

    # --- whom to listen to ------------------------------------------------------------------------

    def _listens_to(
        self,
        sender: str,
        promise: list[Any],
        life: int,
        items: Sequence[list[Any]] = (),
    ) -> bool:
        """Whether what the sender says of the ring is heard at all."""
        met = self._meet(sender)
        if promise != self._promise:
            self._refuse_promise(sender, met, promise)
            return False
        met.promise = []
        met.life = life
        met.heard_ms = self.now_ms
        if not self._roster.gone(sender):
            return True
        # Two nodes may each know the other as gone, after a split: so both are told.
        mine = "w/" + self._roster.name
        allowed = [x for x in items if x[0] == "n/" + sender]
        for wish in [_read("w", item) for key, item in items if key == mine]:
            if wish is not None and wish.status >= LEFT:
                allowed.append([mine, wish])
        self._roster.take_all(allowed)
        self._check_address(sender, items)
        self.tell(sender)
        return False

    def _refuse_promise(self, sender: str, met: _Met, promise: list[Any]) -> None:
        self.stats["gossip_promises_refused"] += 1
        if met.promise != promise:
            met.promise = promise[:8]
            names = ("n", "r", "w", "partitions")
            here = ", ".join(f"{k}={v}" for k, v in zip(names, self._promise, strict=True))
            there = ", ".join(f"{k}={v!r}"[:40] for k, v in zip(names, promise, strict=False))
            self._roster.events.append(
                ("another ring: settings differ", sender, f"there {there}", f"here {here}")
            )

    def _meet(self, sender: str) -> _Met:
        met = self._met.get(sender)
        if met is None:
            if len(self._met) >= NODES_MAX:
                del self._met[next(iter(self._met))]
            met = self._met[sender] = _Met()
        return met

    def _check_address(self, sender: str, items: Sequence[list[Any]]) -> None:
        """Tell a node that began anew with a lower incarnation, at an address of its own.

        Its record counts for nothing here, so answers go where it was before. It must hear of the
        record that is held, at the address it names, to refute it (G4).
        """
        key = "n/" + sender
        held = self._roster.item(key)
        for claimed in [_read("n", item) for name, item in items if name == key]:
            if held is None or claimed is None or claimed.incarnation > held.incarnation:
                continue
            if (claimed.host, claimed.peer_port) != (held.host, held.peer_port):
                place = f"@{claimed.host}:{claimed.peer_port}"
                self._send_items(place, NEWS, [[key, held]], [])
                return

    def tell(self, sender: str) -> None:
        """Tell a node that it is gone for good: at first contact, then once a round."""
        met = self._meet(sender)
        if met.told_ms < 0 or self.now_ms - met.told_ms >= self._config.gossip_ms:
            met.told_ms = self.now_ms
            key = "w/" + sender
            self.stats["gossip_gone_told"] += 1
            self._send_items(sender, NEWS, [[key, self._roster.item(key)]], [])
            # Nothing of it is taken, but it is told: it has rows to hand over, and must hear who
            # owns them. (History: one that came back from its disk offered them to nobody, since
            # by the registers that it held it owned them still.)
            self._send(sender, (BUCKETS, self._promise, self._life, self._roster.buckets()))

    def stranger(self, sender: str) -> None:
        """A request of a node that does not belong to the ring, as far as is known here."""
        if self._roster.gone(sender):
            self.tell(sender)
        else:  # it may have joined, and the news not be here yet
            self.hurry([sender])

    # --- out --------------------------------------------------------------------------------------

    def _send_items(
        self, receiver: str, step: int, items: list[list[Any]], buckets: list[list[int]]
    ) -> None:
        met = self._met.get(receiver)
        heard = met.life if met is not None else 0
        self._send(receiver, (ITEMS, self._promise, self._life, heard, step, items, buckets))

    def _send(self, receiver: str, message: Message) -> None:
        self.stats["gossip_messages"] += 1
        self._outbox.append((receiver, message))

    def report(self) -> dict[str, Any]:
        """What people see of it: with whom this node agrees, and since when it heard of them."""
        stats = self.stats
        met = [(name, self._met[name]) for name in sorted(self._known_peers()) if name in self._met]
        return {
            "node": self._roster.name,
            "hash": f"{self._roster.hash:016x}",
            "rounds": self.rounds,
            "messages": stats["gossip_messages"],
            "items_taken": stats["gossip_items_taken"],
            "items_refused": stats["ring_items_refused"],
            "peers": {
                name: {"ago_ms": self.now_ms - m.heard_ms, "same": m.same}
                for name, m in met
                if m.heard_ms >= 0
            },
        }


def _is_pair(entry: Any) -> bool:
    return type(entry) in (list, tuple) and len(entry) == 2


def _read(kind: str, item: Any) -> Any:
    """An item as its kind, None if it is none: `roster` has refused it then."""
    try:
        return KINDS[kind].parse(tuple(item))
    except (TypeError, ValueError):
        return None


def _size(key: str, item: Any) -> int:
    return len(key) + len(_encode(item)) + 4


def _equal(sent: Any, held: Any) -> bool:
    return sent == held or bool(_encode(sent) == _encode(held))
