"""Opinions about peers: drawn from silence, never from one's own absence."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hand import Hand

from dynamo.core import messages as m
from dynamo.core import ring
from dynamo.core.config import Config
from dynamo.core.liveness import DOWN, PROBES_MAX, RELAYS_MAX, SUSPECT, UP, Liveness
from dynamo.core.messages import PING, PING_FOR, PONG, PONG_FOR

CONFIG = Config(probe_ms=100, probe_timeout_ms=40, suspicion_ms=300)


def watching(me: str, peers: list[str], now_ms: int = 0, config: Config = CONFIG) -> Liveness:
    return Liveness(config, me, peers, [], [], Counter(), random.Random(1), now_ms)


class Watch:
    """One `Liveness` with one peer, and a clock."""

    def __init__(self) -> None:
        self.now = 0
        self.liveness = watching("n1", ["n2"])
        self.outbox, self.events = self.liveness._outbox, self.liveness._events

    def run(self, ms: int, heard: bool = False) -> str:
        for _ in range(ms):
            self.now += 1
            if heard:
                self.liveness.heard("n2", self.now)
            self.liveness.run(self.now)
        return self.liveness.state("n2")


def test_a_peer_is_suspect_until_heard_and_down_after_suspicion():
    watch = Watch()
    assert watch.run(1) == SUSPECT
    assert watch.run(5, heard=True) == UP
    assert watch.run(99 + 40) in (UP, SUSPECT)
    assert watch.run(60) == SUSPECT
    assert watch.run(200) == DOWN
    assert not watch.liveness.usable("n2")
    assert watch.run(1, heard=True) == UP
    assert watch.liveness.came_up == ["n2", "n2"]
    assert watch.events == [("up", "n2"), ("suspect", "n2"), ("down", "n2"), ("up", "n2")]


def test_an_unanswered_probe_is_repeated_and_not_piled_up():
    watch = Watch()
    watch.run(1000)
    pings = [message for _, message in watch.outbox if message[0] == PING]
    assert len(pings) == 10


def test_a_node_that_was_stopped_itself_calls_nobody_dead():
    """L2: after a pause of ten seconds all peers would look dead at once."""
    watch = Watch()
    watch.run(200, heard=True)
    watch.now += 10_000
    assert watch.run(1) == UP
    assert watch.run(35) == UP
    assert watch.run(400) == DOWN


def test_a_frame_that_could_not_be_handed_over_is_doubt_at_once():
    watch = Watch()
    watch.run(5, heard=True)
    watch.liveness.lost("n2")
    assert watch.liveness.state("n2") == SUSPECT
    watch.outbox.clear()
    assert watch.liveness.next_due_ms() <= watch.now
    watch.run(1)
    assert [message[0] for _, message in watch.outbox] == [PING], "and a probe at once"
    watch.liveness.lost("stranger")
    assert watch.liveness.state("stranger") == DOWN
    assert watch.liveness.state("n1") == UP, "this node itself"


def test_no_opinion_moves_an_arc():
    """L1: liveness picks fallbacks and read order, nothing else."""
    hand = Hand(nodes=5)
    before = list(hand.nodes["n1"].table.registers)
    for name in ("n2", "n3", "n4"):
        hand.kill(name)
    hand.run(600)
    assert hand.nodes["n1"].liveness.states() == {"n2": DOWN, "n3": DOWN, "n4": DOWN, "n5": UP}
    assert hand.nodes["n1"].table.registers == before
    assert hand.owners() == hand.nodes["n5"].table.owners(hand.arc())


def test_suspects_are_asked_last():
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v")
    hand.nodes[a].lost(b)
    hand.sent.clear()
    hand.read(a)
    assert [dst for _, dst, msg in hand.sent if msg[0] == 34] == [c]


def test_the_next_due_time_is_never_later_than_what_is_due():
    hand = Hand()
    node = hand.nodes["n1"]
    for _ in range(50):
        due = node.next_due_ms()
        assert hand.now <= due <= hand.now + CONFIG.probe_ms
        hand.run(7)


def test_a_list_of_members_does_not_change_a_ring_that_exists():
    """R1: were owners derived from a changed list, keys would be looked for where they are not."""
    hand = Hand()
    registers = list(hand.nodes["n1"].table.registers)
    hand.put("n1", "v")
    hand.kill("n1")
    hand.members.append(hand.members[0]._replace(name="n4"))
    node = hand.start("n1")
    assert node.table.registers == registers
    assert [event for event in node.events if event[0] == "listed and no member"] == [
        ("listed and no member", "n4")
    ]


# --- Through others -------------------------------------------------------------------------------


class Net:
    """Detectors that talk to each other, a millisecond a hop, over links that lose messages."""

    def __init__(self, nodes: int, config: Config = CONFIG, seed: int = 1) -> None:
        self.names = [f"n{i}" for i in range(nodes)]
        self.rng = random.Random(seed)
        self.now = 0
        self.nodes = {name: watching(name, self.names, config=config) for name in self.names}
        for i, node in enumerate(self.nodes.values()):
            node._rng = random.Random(seed * 100 + i)
        self.flying: list = []
        self.sent: Counter = Counter()
        self.loss = 0.0
        self.cut: list[tuple[str, str]] = []
        self.dead: list[str] = []

    def run(self, ms: int) -> None:
        for _ in range(ms):
            self.now += 1
            flying, self.flying = self.flying, []
            for src, dst, message in flying:
                self._deliver(src, dst, message)
            for name, node in self.nodes.items():
                node.run(self.now)
                if name not in self.dead:
                    self._send(name, node)
                node._outbox.clear()

    def _deliver(self, src: str, dst: str, message: m.Message) -> None:
        if dst in self.dead:
            return
        node = self.nodes[dst]
        node.heard(src, self.now)
        handler = {
            PING: node.on_ping, PONG: node.on_pong,
            PING_FOR: node.on_ping_for, PONG_FOR: node.on_pong_for,
        }[message[0]]  # fmt: skip
        handler(src, m.check(message), self.now)

    def _send(self, name: str, node: Liveness) -> None:
        for dst, message in node._outbox:
            self.sent[message[0]] += 1
            lost = (name, dst) in self.cut or (dst, name) in self.cut
            if not lost and self.rng.random() >= self.loss:
                self.flying.append((name, dst, message))

    def downs(self) -> int:
        return sum(e[0] == "down" for node in self.nodes.values() for e in node._events)


def test_a_peer_that_others_reach_is_suspect_for_twice_as_long():
    """And DOWN in the end: direct writes would go nowhere, and nobody would stand in for them."""
    net = Net(5)
    net.run(200)
    net.cut = [("n0", "n1")]
    net.run(400)
    assert net.nodes["n0"].state("n1") == SUSPECT
    assert net.nodes["n0"].stats["peers_vouched_for"] > 3
    assert [net.nodes[name].state("n1") for name in ("n2", "n3", "n4")] == [UP] * 3
    net.run(300)
    assert net.nodes["n0"].state("n1") == DOWN
    asked = net.sent[PING_FOR]
    net.run(300)
    assert net.sent[PING_FOR] == asked, "nobody asks after a peer that is DOWN"
    net.cut = []
    net.run(110)
    assert net.nodes["n0"].state("n1") == UP


def test_a_peer_that_nobody_reaches_is_down_after_one_suspicion():
    net = Net(5)
    net.run(200)
    net.dead = ["n1"]
    net.run(300 + 110)
    assert [net.nodes[name].state("n1") for name in ("n0", "n2", "n3", "n4")] == [DOWN] * 4
    assert net.downs() == 4 + 4, "n1 heard nobody either"


def test_each_unanswered_probe_asks_a_few_helpers_once():
    watch = Watch()
    liveness = watch.liveness
    liveness.follow([f"n{i}" for i in range(2, 9)], 0)
    watch.run(1)
    for name in ("n3", "n4", "n5", "n6", "n7"):
        liveness.heard(name, 1)
    watch.outbox.clear()
    watch.run(38)
    assert not watch.outbox
    watch.run(2)
    asked = Counter(message[2] for _, message in watch.outbox if message[0] == PING_FOR)
    assert asked == {"n2": 3, "n8": 3}, "neither was heard yet"
    helpers = [dst for dst, message in watch.outbox if message[2] == "n2"]
    assert len(set(helpers)) == 3
    assert set(helpers) <= {"n3", "n4", "n5", "n6", "n7"}, "only peers that are UP"


def test_a_late_answer_about_an_earlier_probe_vouches_for_nothing():
    watch = Watch()
    watch.liveness.follow(["n2", "n3"], 0)
    watch.liveness.heard("n3", 0)
    watch.run(50)
    watch.liveness.heard("n3", watch.now)
    old = next(message[1] for _, message in watch.outbox if message[0] == PING_FOR)
    watch.run(100)
    watch.liveness.on_pong_for("n3", (PONG_FOR, old, "n2"), watch.now)
    assert not watch.liveness.stats["peers_vouched_for"]
    new = [message[1] for _, message in watch.outbox if message[0] == PING_FOR][-1]
    watch.liveness.on_pong_for("n3", (PONG_FOR, new, "n2"), watch.now)
    watch.liveness.on_pong_for("n3", (PONG_FOR, new, "nobody"), watch.now)
    assert watch.liveness.stats["peers_vouched_for"] == 1


def test_a_helper_remembers_a_bounded_number_of_probes_for_others():
    helper = watching("n1", ["n2", "n3"])
    for seq in range(RELAYS_MAX + 5):
        helper.on_ping_for("n2", (PING_FOR, seq, "n3"), 0)
    assert len(helper._relays) == RELAYS_MAX
    pings = [message[1] for dst, message in helper._outbox if dst == "n3"]
    helper._outbox.clear()
    helper.on_pong("n3", (PONG, pings[0]), 5)
    assert helper._outbox == [], "forgotten"
    helper.on_pong("n2", (PONG, pings[-1]), 5)
    assert helper._outbox == [], "another's answer"
    helper.on_pong("n3", (PONG, pings[-1]), 5)
    assert helper._outbox == [("n2", (PONG_FOR, RELAYS_MAX + 4, "n3"))]
    helper.on_pong("n3", (PONG, pings[-2]), CONFIG.suspicion_ms)
    assert len(helper._outbox) == 1, "too late to matter"
    helper.on_ping_for("stranger", (PING_FOR, 1, "n3"), 5)
    helper.on_ping_for("n2", (PING_FOR, 1, "stranger"), 5)
    assert len(helper._outbox) == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_lost_messages_indirect_probes_prevent_most_false_verdicts(seed, monkeypatch):
    """Five nodes for a minute, one message in twenty lost, and a suspicion of little more than one
    probe: too short, so that there is something to count."""
    config = Config(probe_ms=100, probe_timeout_ms=40, suspicion_ms=110)

    def false_verdicts() -> int:
        net = Net(5, config, seed)
        net.run(150)
        before = net.downs()
        net.loss = 0.05
        net.run(60_000)
        return net.downs() - before

    with_helpers = false_verdicts()
    monkeypatch.setattr(Liveness, "_ask_helpers", lambda self, name, peer: None)
    without = false_verdicts()
    assert without >= 20
    assert with_helpers * 4 <= without, (with_helpers, without)


# --- Who is watched -------------------------------------------------------------------------------


def test_who_joins_is_probed_at_once_and_who_left_is_forgotten():
    watch = Watch()
    liveness = watch.liveness
    watch.run(50, heard=True)
    assert liveness.doubts == 0
    liveness.follow(["n1", "n3"], watch.now)
    assert liveness.states() == {"n3": SUSPECT}
    assert (liveness.state("n2"), liveness.usable("n2")) == (DOWN, False), "forgotten"
    assert (liveness.state("n1"), liveness.usable("n1")) == (UP, True), "this node itself"
    assert liveness.doubts == 1
    assert liveness.came_up == []
    watch.outbox.clear()
    watch.run(1)
    assert [dst for dst, message in watch.outbox if message[0] == PING] == ["n3"]
    liveness.heard("n3", watch.now)
    liveness.heard("n2", watch.now)
    assert liveness.state("n2") == DOWN, "whatever it says"
    assert liveness.doubts == 0
    liveness.follow(["n2", "n3"], watch.now)
    assert liveness.states() == {"n3": UP, "n2": SUSPECT}, "it begins anew"
    watch.outbox.clear()
    watch.run(1000)
    probed = Counter(dst for dst, message in watch.outbox if message[0] == PING)
    assert probed == {"n2": 10, "n3": 10}, "one timer each"


def test_a_name_in_the_owner_lists_that_is_no_peer_is_a_doubt():
    """With no doubts nobody looks before asking: a removed node would be asked first, for ever."""
    hand = Hand(nodes=4)
    node = hand.nodes["n1"]
    hand.run(50)
    assert node.liveness.doubts == 0
    node.roster.change("w/n2", (2, 4, 1, 0))
    hand.run(1)
    assert node.liveness.state("n2") == DOWN
    assert node.liveness.doubts == 1
    for arc, register in enumerate(node.table.registers):
        cur = tuple(name for name in register.cur if name != "n2")
        node.roster.adopt(arc, ring.proposal(1, 0, cur, ()))
    hand.run(1)
    assert node.liveness.doubts == 0


def test_a_thousand_peers_are_probed_in_turns():
    names = [f"p{i}" for i in range(1000)]
    config = Config(probe_ms=1000, probe_timeout_ms=300, suspicion_ms=8000)
    liveness = watching("me", names, config=config)
    now, per_step, turns = 0, [], 0
    probed: Counter = Counter()
    while now < 100_000:
        liveness.run(now)
        per_step.append(len(liveness._outbox))
        for dst, _ in liveness._outbox:
            probed[dst] += 1
            liveness.heard(dst, now)
        liveness._outbox.clear()
        assert now < liveness.next_due_ms() <= now + 1000
        now = liveness.next_due_ms()
        turns += 1
    assert per_step[0] == PROBES_MAX
    assert max(per_step[1:]) <= 3
    assert sum(per_step) / 100 < 1.1 * PROBES_MAX
    assert min(probed.values()) >= 3, "everybody has a turn"
    assert max(probed.values()) <= 4
    assert turns < 2.2 * sum(per_step)
    assert liveness.doubts == 0


def test_in_a_large_ring_a_dead_peer_is_down_a_suspicion_after_its_probe():
    """Its last sign of life may be half a minute old by then, and that alone proves nothing."""
    names = [f"p{i}" for i in range(200)]
    liveness = watching("me", names)
    at: dict[str, list[int]] = {"probe": []}
    for now in range(3_000):
        liveness.run(now)
        for dst, message in liveness._outbox:
            if message[0] == PING and (dst != "p7" or now < 700):
                liveness.heard(dst, now)
            elif message[0] == PING and dst == "p7":
                at["probe"].append(now)
        liveness._outbox.clear()
        for event in liveness._events:
            at.setdefault(event[0], []).append(now)
        liveness._events.clear()
    first = at["probe"][0]
    assert at["suspect"] == [first + 40]
    assert at["down"] == [first + 200], "from a probe before, as in a small ring"
    assert at["probe"][1] == first + 100, "a suspect does not wait for its turn"
