"""Whole nodes, arcs that move all the time, and weather: no acknowledged write is ever unseen.

Messages take their time, get lost and arrive twice; nodes are killed and come back; the ring is
cut in two; people change their minds about who shall own what. Clients write values that nothing
supersedes, with strict quorums. Whatever was acknowledged before a read began must be in what the
read shows (algorithms §1.5, I4), at R = W = 2 and at the uneven levels.
"""

from __future__ import annotations

import random
from heapq import heappop, heappush

import pytest
from test_moves import Ring

from dynamo.core import ballots, ring
from dynamo.core import messages as m
from dynamo.core.items import Goal
from dynamo.core.planner import tie_of

KEYS = ("k", "key1", "key2")


class Storm(Ring):
    def __init__(self, seed: int, wipes: bool = False, **config) -> None:
        self.rng = random.Random(seed)
        self.later: list[tuple[int, int, tuple]] = []
        self.ordinal = 0
        self.loss = 0.0
        self.deaf: list[str] = []  # who hears nothing of the ring, but for what refusals say
        self.wipes = wipes
        self.acked: dict[str, set[str]] = {key: set() for key in KEYS}
        self.asked: dict[int, tuple[str, object]] = {}
        self.heard = 0
        self.reads = self.writes = self.unknown = 0
        self.dead: dict[str, int] = {}  # name -> when it comes back
        self.healed_ms = 0
        self.wiped_ms = 0
        self.number = 0
        # Pages and rates so small that a copy takes a while.
        tuning = {"partitions": 2, "exchange_rows": 2, "transfer_bytes_per_s": 60_000}
        # Nor does anything but a move, a read or a hint bring replicas together.
        tuning |= {"exchange_ms": 1_000_000}
        super().__init__(6, **tuning | config)
        for _ in range(100):  # what was put so far is everywhere
            self.tick()
        for key in KEYS:
            self.acked[key] = set(self.values(self.owners(key)[0], key))

    def _send(self, src, dst, message) -> None:
        before = len(self.flying)
        super()._send(src, dst, message)
        if len(self.flying) == before or self.now < ballots.ABSTAIN_MS:
            return
        entry = self.flying.pop()
        if dst in self.deaf and message[0] in (m.REGISTER, m.ITEMS, m.GOSSIP, m.BUCKETS):
            return
        for _ in range(2 if self.rng.random() < 0.02 else 1):
            if self.rng.random() >= self.loss:
                delay = self.rng.choice((1, 1, 2, 3, 5, 9, 30))
                self.ordinal += 1
                heappush(self.later, (self.now + delay, self.ordinal, entry))

    def tick(self) -> None:
        while self.later and self.later[0][0] <= self.now + 1:
            self.flying.append(heappop(self.later)[2])
        self.run(1)
        for answer in self.replies[self.heard :]:
            self._heard(answer)
        self.heard = len(self.replies)

    def _heard(self, answer) -> None:
        key, what = self.asked.pop(answer[1], ("", None))
        if answer[0] == m.PUT_OK and key:
            self.acked[key].add(what)
            self.writes += 1
        elif answer[0] == m.GET_OK and key:
            shown = {payload.decode() for _, payload in answer[3]}
            assert what <= shown, f"{self.now}: {key} lacks {what - shown}\n{self.why()}"
            self.reads += 1
        else:
            self.unknown += 1

    # --- what happens -------------------------------------------------------------------------

    def client(self) -> None:
        key, via = self.rng.choice(KEYS), self.rng.choice(list(self.nodes))
        self._req += 1
        if self.rng.random() < 0.3:
            value = f"w{self._req}"
            self.asked[self._req] = (key, value)
            message = (
                m.PUT, self._req, 500, self.full(key), 1, 0, m.BLIND, b"", value.encode().ljust(16),
                0, 0, 0, 0, 0, value.encode(),
            )  # fmt: skip
        else:
            self.asked[self._req] = (key, set(self.acked[key]))
            message = (m.GET, self._req, 500, self.full(key), 1, 0, 0, 0, 0)
        self.flying.append(("client", via, message))

    def people(self) -> None:
        owners = tuple(self.rng.sample(self.names, self.rng.choice((3, 3, 3, 3, 2))))
        arc = self.rng.randrange(self.config.partitions)
        node = self.nodes[self.rng.choice(list(self.nodes))]
        self.number += 1
        goal = Goal(self.number << ring.BALLOT_BITS, tie_of(owners, ()), owners)
        node.roster.change(f"g/{arc}", goal)

    def weather(self) -> None:
        chance = self.rng.random()
        if chance < 0.25:
            self.deaf = self.rng.sample(self.names, self.rng.randint(0, 4))
        elif chance < 0.5 and len(self.dead) < 2:
            name = self.rng.choice(list(self.nodes))
            whole = all(node.ready for node in self.nodes.values()) and not self.dead
            self.kill(name)
            self.dead[name] = self.now + self.rng.randrange(20, 900)
            if self.wipes and whole and self.now - self.wiped_ms > 3_000:
                self.wipe(name)
                self.wiped_ms = self.now
        elif chance < 0.8:
            self.isolate(*self.rng.sample(self.names, self.rng.randint(1, 3)))
            self.healed_ms = self.now + self.rng.randrange(50, 1_200)
        else:
            self.loss = self.rng.choice((0.0, 0.02, 0.2))

    def play(self, ms: int) -> None:
        end = self.now + ms
        while self.now < end:
            self.tick()
            if self.rng.random() < 0.15:
                self.client()
            if self.rng.random() < 0.006:
                self.people()
            if self.rng.random() < 0.006:
                self.weather()
            if self.healed_ms == self.now:
                self.heal()
            for name in [name for name, at in self.dead.items() if at <= self.now]:
                del self.dead[name]
                self.start(name)

    def rest(self) -> None:
        """All is well again, and every arc gets where people wanted it last."""
        self.heal()
        self.loss = 0.0
        self.deaf = []
        for name in list(self.dead):
            self.start(name)
        self.dead.clear()
        for _ in range(15_000):
            self.tick()
            if all(map(self.at_goal, range(self.config.partitions))):
                break
        else:
            raise AssertionError(self.why())
        for node in self.nodes.values():
            node.exchange.hurry_all()
        for _ in range(1_500):
            self.tick()
        for key in KEYS:
            arc = self.arc(key)
            for name in next(iter(self.nodes.values())).table.owners(arc):
                assert self.acked[key] <= set(self.values(name, key)), (name, key)

    def at_goal(self, arc: int) -> bool:
        found = {
            (node.table.registers[arc][:3], node.roster.goals[arc]) for node in self.nodes.values()
        }
        register = next(iter(self.nodes.values())).table.registers[arc]
        goal = next(iter(found))[1].owners
        return (
            len(found) == 1
            and not register.next
            and sorted(goal or register.cur) == sorted(register.cur)
        )


def play(seed: int, ms: int = 4_000, **config) -> Storm:
    storm = Storm(seed, **config)
    storm.play(ms)
    storm.rest()
    return storm


@pytest.mark.parametrize("seed", range(12))
def test_every_acknowledged_write_is_read_while_arcs_move(seed):
    levels = ({}, {}, {"r": 1, "w": 3}, {"r": 3, "w": 1})[seed % 4]
    storm = play(seed, **levels)
    assert storm.reads > 60


@pytest.mark.parametrize("seed", range(100, 106))
def test_and_while_one_disk_after_the_other_is_lost(seed):
    assert play(seed, wipes=True).reads > 60
