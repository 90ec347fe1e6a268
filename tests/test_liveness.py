"""Opinions about peers: drawn from silence, never from one's own absence."""

from __future__ import annotations

from hand import Hand

from dynamo.core.config import Config
from dynamo.core.liveness import DOWN, SUSPECT, UP, Liveness
from dynamo.core.messages import PING

CONFIG = Config(probe_ms=100, probe_timeout_ms=40, suspicion_ms=300)


class Watch:
    """One `Liveness` with one peer, and a clock."""

    def __init__(self) -> None:
        self.outbox: list = []
        self.events: list = []
        self.now = 0
        self.liveness = Liveness(CONFIG, ["n2"], self.outbox, self.events, 0)

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
    watch.liveness.lost("stranger")
    assert watch.liveness.state("stranger") == UP, "no peer: this node itself"


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
