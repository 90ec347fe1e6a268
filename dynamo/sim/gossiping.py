"""A crowd that gossips: rosters and their gossip, a thousand of them, and nothing else of a node.

The simulator proper runs whole nodes, and seven of those are many. How fast a change of the ring is
everywhere, and what it costs, shows only in a crowd. All nodes are up here, and everybody knows
that; a frame takes a few milliseconds, or is lost. Bytes are those of encoded frames.

A thousand rosters of a thousand nodes fit into memory because they share their items, which never
change, and keep nothing on a disk.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any, NamedTuple, cast

from dynamo.core import messages as m
from dynamo.core.config import Config
from dynamo.core.gossip import Gossip
from dynamo.core.items import IN, RUNNING, Goal, Record, Task, Wish
from dynamo.core.liveness import UP, Liveness
from dynamo.core.planner import tie_of
from dynamo.core.ring import COPYING, SWITCHED, Member, advanced, proposal
from dynamo.core.roster import Roster

TAG = b"a crowd!"
DELAY_MS = (1, 20)
ROUNDS_MAX = 60


class Figures(NamedTuple):
    """What one change of the ring took. Bytes are what a node sends, on average."""

    nodes: int
    rounds: float  # until the change was known to all
    idle_bytes_per_s: float
    change_bytes_per_s: float  # while it spread
    change_bytes: float
    idle_frames_per_s: float
    change_frames_per_s: float
    frame_bytes_max: int  # the largest frame of all


class _Nowhere:
    """A store that keeps nothing."""

    def get(self, space: int, key: bytes) -> bytes | None:
        return None

    def put(self, space: int, key: bytes, value: bytes) -> None: ...

    def delete(self, space: int, key: bytes) -> None: ...

    def scan(self, space: int) -> Iterator[tuple[bytes, bytes]]:
        return iter(())


class _AllUp:
    """An opinion on peers: all are there."""

    doubts = 0

    def state(self, name: str) -> str:
        return UP


def member(number: int) -> Member:
    return Member(f"n{number}", f"10.0.{number >> 8}.{number & 255}", 7000, 7001)


def _twin(roster: Roster, me: Member) -> Roster:
    """A roster of another node that knows just the same."""
    twin = copy.copy(roster)
    for slot in Roster.__slots__:
        value = getattr(twin, slot)
        if type(value) in (dict, list):
            setattr(twin, slot, value.copy())
    twin.me, twin.name = me, me.name
    twin.stats, twin.events = Counter(), []
    twin._named = {"n": twin.records, "w": twin.wishes, "s": twin.staged}
    table = twin.table = copy.copy(roster.table)
    for slot in type(table).__slots__:
        value = getattr(table, slot)
        if type(value) is list:
            setattr(table, slot, value.copy())
    table._others, table._walks = {}, {}
    return twin


class Talker:
    """One node of the crowd."""

    __slots__ = ("gossip", "outbox", "roster", "timer_ms")

    def __init__(self, config: Config, roster: Roster, rng: random.Random, seeds: list[str]):
        self.roster = roster
        self.outbox: list[tuple[Any, m.Message]] = []
        self.gossip = Gossip(
            config, roster, cast(Liveness, _AllUp()), self.outbox, rng, seeds
        )  # fmt: skip
        self.timer_ms = -1

    def hear(self, sender: str, message: m.Message, now_ms: int) -> None:
        gossip = self.gossip
        gossip.now_ms = now_ms
        handlers = {m.GOSSIP: gossip.on_gossip, m.BUCKETS: gossip.on_buckets}
        handlers.get(message[0], gossip.on_items)(sender, message, now_ms)


class Crowd:
    """`nodes` members of one ring who know it, some of their frames lost."""

    def __init__(self, nodes: int, seed: int, loss: float = 0.05, partitions: int = 64) -> None:
        self.config = Config(partitions=partitions)
        self.now_ms = 0
        self.loss = loss
        self.frames = self.bytes_sent = self.frame_bytes_max = 0
        self._rng = random.Random(f"{seed}/crowd")
        self._heap: list[tuple[int, int, str, tuple[str, list[m.Message]] | None]] = []
        self._ordinal = 0
        self.talkers: dict[str, Talker] = {}
        self._addresses: dict[str, str] = {}
        founders = [member(number) for number in range(nodes)]
        first = self._founded(founders)
        for founder in founders:
            self._add(founder, _twin(first, founder), [])
        for talker in self.talkers.values():  # not all in the same moment
            talker.gossip._due_ms = self._rng.randrange(self.config.gossip_ms)
            self._attend(talker)

    def _founded(self, founders: list[Member]) -> Roster:
        roster = Roster(self.config, founders[0], founders, _Nowhere(), [], Counter())
        for name, host, client_port, peer_port, zone, _ in founders[1:]:
            roster.take("n/" + name, Record(1, host, client_port, peer_port, zone))
        roster.confirm()
        roster.news.clear()
        roster.moved.clear()
        return roster

    def _add(self, me: Member, roster: Roster, seeds: list[str]) -> Talker:
        talker = Talker(self.config, roster, self._rng, seeds)
        self.talkers[me.name] = talker
        self._addresses[f"@{me.host}:{me.peer_port}"] = me.name
        return talker

    def join(self, me: Member, seed: Member) -> Talker:
        """A node that knows nothing but the address of one that does."""
        roster = Roster(self.config, me, (), _Nowhere(), [], Counter())
        talker = self._add(me, roster, [f"{seed.host}:{seed.peer_port}"])
        self._attend(talker)
        return talker

    def commit(self, name: str, newcomer: str) -> None:
        """What a commit of a join writes: a wish, a task, and goals for some arcs."""
        talker = self.talkers[name]
        roster = talker.roster
        roster.change("w/" + newcomer, Wish(2, IN, 1, 0))
        roster.change("t/2", Task(RUNNING, 1, (("join", newcomer),), ((newcomer, 0, 1),)))
        for arc in range(3):
            owners = (newcomer, *roster.table.owners(arc)[1:])
            roster.change(f"g/{arc}", Goal(2, tie_of(owners, ()), owners))
        self._attend(talker)

    def move(self, arc: int, rng: random.Random, knowing: int) -> None:
        """An arc takes the next step of a move; some nodes hear of it from whoever moves it."""
        names = rng.sample(sorted(self.talkers), knowing)
        held = max(self.talkers[name].roster.table.registers[arc] for name in names)
        if held.phase in (COPYING, SWITCHED):
            after = advanced(held)
        else:
            outside = [name for name in sorted(self.talkers) if name not in held.cur]
            coming = (rng.choice(outside), *held.cur[1:])
            after = proposal(held.round + 1, COPYING, held.cur, coming)
        for name in names:
            self.talkers[name].roster.adopt(arc, after)
            self._attend(self.talkers[name])

    def same(self) -> bool:
        """Whether all know the same."""
        hashes = [talker.roster.hash for talker in self.talkers.values()]
        return hashes.count(hashes[0]) == len(hashes)

    def knows(self, key: str) -> bool:
        """Whether all know of an item."""
        return all(talker.roster.item(key) is not None for talker in self.talkers.values())

    # --- time -------------------------------------------------------------------------------------

    def run(self, ms: int) -> None:
        until_ms = self.now_ms + ms
        heap = self._heap
        while heap and heap[0][0] <= until_ms:
            self.now_ms, _, name, frame = heappop(heap)
            talker = self.talkers[name]
            if frame is not None:
                for message in frame[1]:
                    talker.hear(frame[0], message, self.now_ms)
            elif talker.timer_ms != self.now_ms:
                continue
            talker.gossip.run(self.now_ms)
            self._send(talker)
            self._attend(talker)
        self.now_ms = until_ms

    def run_until_same(self) -> float:
        """How many rounds it took until all knew the same."""
        began_ms, round_ms = self.now_ms, self.config.gossip_ms
        while not self.same():
            assert self.now_ms - began_ms < ROUNDS_MAX * round_ms, "the crowd does not agree"
            self.run(round_ms // 4)
        return (self.now_ms - began_ms) / round_ms

    def _attend(self, talker: Talker) -> None:
        due_ms = max(talker.gossip.next_due_ms(), self.now_ms + 1)
        if not self.now_ms < talker.timer_ms <= due_ms:
            talker.timer_ms = due_ms
            self._post(due_ms, talker.roster.name, None)

    def _post(self, at_ms: int, name: str, frame: tuple[str, list[m.Message]] | None) -> None:
        self._ordinal += 1
        heappush(self._heap, (at_ms, self._ordinal, name, frame))

    def _send(self, talker: Talker) -> None:
        batches: dict[str, list[m.Message]] = {}
        for receiver, message in talker.outbox:
            batches.setdefault(receiver, []).append(message)
        talker.outbox.clear()
        for receiver, batch in batches.items():
            frame = m.encode_frame(TAG, talker.roster.name, 1 << m.LIFE_BITS, self.now_ms, batch)
            self.frames += 1
            self.bytes_sent += len(frame)
            self.frame_bytes_max = max(self.frame_bytes_max, len(frame))
            name = self._addresses.get(receiver, receiver)
            if name in self.talkers and self._rng.random() >= self.loss:
                opened = m.decode_frame(frame, TAG, m.FROM_PEER)
                delay_ms = self._rng.randint(*DELAY_MS)
                self._post(self.now_ms + delay_ms, name, (opened[0], opened[3]))


def measure(nodes: int, seed: int = 1, loss: float = 0.05, idle_rounds: int = 5) -> Figures:
    """A crowd at rest, then a newcomer who learns the ring, and at last the commit of its join."""
    crowd = Crowd(nodes, seed, loss)
    round_ms = crowd.config.gossip_ms
    crowd.run(idle_rounds * round_ms)
    per_node_s = nodes * idle_rounds * round_ms / 1000
    idle_bytes, idle_frames = crowd.bytes_sent / per_node_s, crowd.frames / per_node_s
    newcomer = member(nodes)
    crowd.join(newcomer, member(0))
    crowd.run_until_same()
    crowd.bytes_sent = crowd.frames = 0
    crowd.commit("n1", newcomer.name)
    rounds = crowd.run_until_same()
    spent, took_s = crowd.bytes_sent / (nodes + 1), rounds * round_ms / 1000
    return Figures(
        nodes, rounds, idle_bytes, spent / took_s, spent, idle_frames,
        crowd.frames / (nodes + 1) / took_s, crowd.frame_bytes_max,
    )  # fmt: skip


def burst(nodes: int = 8, changes: int = 500, seed: int = 1, knowing: int = 4) -> Figures:
    """Registers that change all over a ring within a second, as while arcs move.

    `knowing` nodes learn of each at once, from those that move the arc. `rounds` counts from the
    last change; bytes are those of the second, and of what followed.
    """
    crowd = Crowd(nodes, seed, partitions=512)
    rng = random.Random(f"{seed}/burst")
    round_ms = crowd.config.gossip_ms
    crowd.run(3 * round_ms)
    idle_s = nodes * crowd.now_ms / 1000
    idle_bytes, idle_frames = crowd.bytes_sent / idle_s, crowd.frames / idle_s
    crowd.bytes_sent = crowd.frames = 0
    for number in range(changes):
        crowd.move(rng.randrange(512), rng, knowing)
        crowd.run((number + 1) * 1000 // changes - number * 1000 // changes)
    second, frames = crowd.bytes_sent / nodes, crowd.frames / nodes
    rounds = crowd.run_until_same()
    return Figures(
        nodes, rounds, idle_bytes, second, crowd.bytes_sent / nodes, idle_frames, frames,
        crowd.frame_bytes_max,
    )  # fmt: skip
