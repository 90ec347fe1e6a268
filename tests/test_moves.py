"""Arcs move from the owners they have to the owners they shall have, whatever happens meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hand import Hand

from dynamo.core import ballots, ring
from dynamo.core import messages as m
from dynamo.core.items import FORCED, REMOVED, Goal, Wish
from dynamo.core.planner import tie_of
from dynamo.core.ring import COPYING, DONE, STABLE, SWITCHED, Register
from dynamo.storage.memory import MemoryStore

# What the driver of a move sends, stage by stage, to whom.
STAGES = {
    "propose": lambda msg: msg[0] == m.PROMISE,
    "confirm": lambda msg: msg[0] == m.REGISTER and msg[1] and msg[4] == COPYING,
    "copy": lambda msg: msg[0] == m.KEYS,
    "vote": lambda msg: msg[0] == m.VOTE,
    "switch": lambda msg: msg[0] == m.REGISTER and msg[1] and msg[4] == SWITCHED,
    "done": lambda msg: msg[0] == m.REGISTER and msg[4] == DONE,
}


class Ring(Hand):
    """A ring whose nodes have been up for long enough to vote (V7); "k" is the key of the tests."""

    def __init__(self, nodes: int = 5, **config) -> None:
        super().__init__(nodes, **{"partitions": 4, "gossip_ms": 50, "exchange_ms": 500} | config)
        self.run(ballots.ABSTAIN_MS)
        self.a, self.b, self.c = self.owners()
        self.spare = [name for name in self.names if name not in self.owners()]
        self.tasks = 0
        for i in range(12):
            self.put(self.a, f"v{i}", key=f"key{i}", put_id=f"key{i}", ms=4)
        self.put(self.a, "v")
        self.sent.clear()

    def go(self, *owners: str, via: str = "", arc: int | None = None) -> None:
        """Have people want these owners of the arc."""
        node = self.nodes[via or next(iter(self.nodes))]
        self.tasks += 1
        number = self.arc() if arc is None else arc
        goal = Goal(self.tasks << ring.BALLOT_BITS, tie_of(owners, ()), owners)
        node.roster.change(f"g/{number}", goal)

    def register(self, name: str) -> Register:
        return self.nodes[name].table.registers[self.arc()]

    def until(self, met: Callable[[], bool], ms: int = 15_000) -> int:
        """Run until something is so; how long it took."""
        began = self.now
        while not met():
            assert self.now - began < ms, self.why()
            self.run(1)
        return self.now - began

    def until_sent(self, stage: str, ms: int = 3_000) -> None:
        """Run until a driver has sent the first message of a stage, and let none of it arrive."""
        seen = len(self.sent)
        self.until(lambda: any(STAGES[stage](msg) for _, _, msg in self.sent[seen:]), ms)

    def until_done(self, *owners: str, ms: int = 15_000) -> int:
        return self.until(lambda: self.is_done(*owners), ms)

    def is_done(self, *owners: str) -> bool:
        found = [node.table.registers[self.arc()] for node in self.nodes.values()]
        return all(r.phase in (STABLE, DONE) and r.cur == owners for r in found)

    def why(self) -> str:
        lines = [f"{name} {self.register(name)} {node.moves.view()}" for name, node in
                 self.nodes.items()]  # fmt: skip
        return "\n".join(lines)

    def check_data(self) -> None:
        """Every owner holds what was written, and everybody reads it."""
        self.settle(1500)
        owners = self.owners()
        keys = [
            "k",
            *(key for key in (f"key{i}" for i in range(12)) if self.arc(key) == self.arc()),
        ]
        for name in owners:
            if name in self.nodes:
                assert all(self.values(name, key) for key in keys), name
                assert self.nodes[name].replica.synced(self.arc())
                assert self.nodes[name].ready
        for name in self.nodes:
            assert self.read(name, r=min(2, len(owners))) == self.values(
                next(owner for owner in owners if owner in self.nodes)
            )


def lost(*kinds: int) -> Callable[[str, str, m.Message], bool]:
    return lambda src, dst, msg: msg[0] in kinds


# --- in calm weather ------------------------------------------------------------------------------


def test_an_arc_moves_in_eight_delays_and_nobody_waits_for_a_timer():
    hand = Ring()
    goal = (hand.a, hand.spare[0], hand.c)
    hand.go(*goal, via=hand.spare[0])
    took = hand.until(lambda: hand.register(hand.spare[0]).phase == SWITCHED)
    assert took <= 1 + 8 + 4, "four are for rows that differ"
    assert hand.until_done(*goal) <= 6, "two more, and news of it for all others"
    hand.check_data()
    assert not hand.values(hand.b), "the loser has dropped it"
    assert not hand.nodes[hand.b].replica.synced(hand.arc())


def test_an_empty_arc_moves_in_eight_delays():
    hand = Hand(nodes=5)
    hand.run(ballots.ABSTAIN_MS)
    a, b, c = hand.owners()
    new = next(name for name in hand.names if name not in (a, b, c))
    goal = Goal(1 << ring.BALLOT_BITS, tie_of((new, b, c), ()), (new, b, c))
    hand.nodes[new].roster.change(f"g/{hand.arc()}", goal)
    hand.run(1 + 8)
    assert hand.nodes[new].table.registers[hand.arc()].phase == SWITCHED


def test_every_owner_is_replaced_one_after_the_other():
    hand = Ring(nodes=6)
    seen = []
    node = hand.nodes[hand.a]
    hand.go(*hand.spare)
    while not hand.is_done(*hand.spare):
        hand.run(1)
        seen.append(node.table.registers[hand.arc()])
        assert hand.now < 10_000
    for register in seen:
        assert len({*register.next} - {*register.cur}) <= 1
    assert len({register.ver for register in seen}) == 4
    assert hand.now - ballots.ABSTAIN_MS < 400, "each step begins as the one before ends"
    hand.check_data()


def test_lists_grow_and_shrink():
    hand = Ring(nodes=4, n=3)
    hand.go(hand.a, hand.b)
    hand.until_done(hand.a, hand.b)
    hand.check_data()
    hand.go(hand.a, hand.b, hand.spare[0])
    hand.until_done(hand.a, hand.b, hand.spare[0])
    hand.check_data()


def test_writes_go_on_while_an_arc_moves_and_reads_see_them():
    hand = Ring(nodes=6, transfer_bytes_per_s=4_000)
    payload = "x" * 3_000
    for i in range(8):
        hand.put(hand.a, payload, key=f"big{i}", put_id=f"big{i}")
    hand.go(hand.a, hand.spare[0], hand.spare[1])
    for i in range(60):
        via = hand.names[i % 6]
        assert hand.put(via, f"w{i}", flags=0, ms=40)[0] == m.PUT_OK
        assert hand.read(hand.names[(i + 1) % 6], flags=0, ms=40) == [f"w{i}"]
    hand.until_done(hand.a, hand.spare[0], hand.spare[1])
    assert hand.read(hand.a) == ["w59"]
    hand.check_data()


def test_a_goal_that_is_reached_and_an_arc_without_one_make_no_work():
    hand = Ring()
    hand.go(hand.c, hand.a, hand.b)
    hand.run(300)
    kinds = {msg[0] for _, _, msg in hand.sent}
    assert not kinds & {m.PROMISE, m.REGISTER, m.VOTE}
    assert all(not node.moves.view() for node in hand.nodes.values())


def test_so_many_arcs_at_once_and_no_more():
    hand = Ring(nodes=4, partitions=32, transfer_arcs=3)
    new = "n4"
    node = hand.nodes[new]
    for arc, register in enumerate(node.table.registers):
        if new not in register.cur:
            hand.go(new, *register.cur[1:], via=new, arc=arc)
    most = 0
    while any(new not in register.cur for register in node.table.registers):
        hand.run(1)
        moving = sum(register.phase == COPYING for register in node.table.registers)
        most = max(most, moving)
        assert hand.now < 10_000
    assert most == 3
    hand.settle()


def test_a_change_of_many_arcs_takes_a_moment_and_one_message_per_peer_asks_for_roots():
    hand = Ring(nodes=5, partitions=256)
    members = dict.fromkeys(hand.names[:4], ("", 1))
    table = hand.nodes["n1"].table
    from dynamo.core import planner

    goals = planner.plan([register.cur for register in table.registers], members, 3)
    for arc, goal in enumerate(goals):
        if sorted(goal) != sorted(table.registers[arc].cur):
            hand.go(*goal, arc=arc)
    count = hand.tasks
    hand.sent.clear()
    hand.until(lambda: [sorted(r.cur) for r in table.registers] == [sorted(g) for g in goals], 1500)
    asked = [msg for _, _, msg in hand.sent if msg[0] == m.ROOTS]
    assert len(asked) < 2 * count


# --- somebody dies --------------------------------------------------------------------------------


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("stage", STAGES)
def test_the_gaining_node_dies_and_comes_back(stage, arrives):
    """The phase lives in the register; how far the rest got is found out again."""
    hand = Ring()
    new = hand.spare[0]
    hand.go(new, hand.b, hand.c)
    hand.until_sent(stage)
    hand.kill(new)
    if not arrives:
        hand.flying = [entry for entry in hand.flying if entry[0] != new]
    hand.run(700)
    hand.put(hand.b, "later", mode=m.BLIND)
    hand.start(new)
    hand.until_done(new, hand.b, hand.c)
    hand.check_data()


@pytest.mark.parametrize("stage", STAGES)
def test_the_gaining_node_loses_its_disk_in_the_middle(stage):
    hand = Ring()
    new = hand.spare[0]
    hand.go(new, hand.b, hand.c)
    hand.until_sent(stage)
    hand.run(1)
    hand.kill(new)
    hand.wipe(new)
    hand.start(new)
    hand.until_done(new, hand.b, hand.c)
    hand.check_data()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("role", ["loser", "owner"])
def test_one_of_the_owners_dies_and_a_fence_is_left(role, stage):
    hand = Ring()
    new, victim = hand.spare[0], hand.a if role == "loser" else hand.b
    hand.go(new, hand.b, hand.c)
    hand.until_sent(stage)
    hand.kill(victim)
    hand.until_done(new, hand.b, hand.c)
    hand.start(victim)
    hand.run(1500)
    hand.check_data()


@pytest.mark.parametrize("stage", ["propose", "confirm", "vote", "switch"])
def test_without_a_fence_the_arc_waits_and_says_for_whom(stage):
    hand = Ring()
    new = hand.spare[0]
    hand.go(new, hand.b, hand.c)
    hand.until_sent(stage)
    for name in (hand.b, hand.c):
        hand.kill(name)
    hand.flying = [entry for entry in hand.flying if entry[1] == new]
    hand.run(3000)
    assert not hand.is_done(new, hand.b, hand.c)
    (line,) = hand.nodes[new].moves.view()
    first, second = sorted((hand.b, hand.c), key=(hand.a, hand.b, hand.c).index)
    assert line["why"] == (
        f"{first} and {second} are down, 2 of 3 owners are needed to know of the move"
    ), line
    assert (line["to"], line["arc"], line["from"]) == (new, hand.arc(), [hand.a])
    for name in (hand.b, hand.c):
        hand.start(name)
    hand.until_done(new, hand.b, hand.c)
    hand.check_data()


def test_phase_2_is_ended_by_another_owner_when_its_driver_is_silent():
    hand = Ring()
    new = hand.spare[0]
    hand.go(new, hand.b, hand.c)
    hand.until_sent("switch")
    hand.run(1)
    hand.kill(new)
    assert hand.register(hand.b).phase == SWITCHED
    hand.run(hand.config.suspicion_ms - 50)
    assert hand.register(hand.b).phase == SWITCHED, "patience"
    hand.until_done(new, hand.b, hand.c)
    hand.start(new)
    hand.check_data()


def test_a_driver_that_died_with_the_votes_in_its_hands_is_followed():
    """V4: the goal changes, and still what was voted for comes first."""
    hand = Ring()
    new, other = hand.spare
    hand.go(new, hand.b, hand.c)
    hand.until_sent("vote")
    hand.run(1)
    hand.kill(new)
    hand.go(other, hand.b, hand.c)
    hand.until_done(other, hand.b, hand.c)
    assert sum(node.stats["moves_rolled_on"] for node in hand.nodes.values()) == 1
    hand.start(new)
    hand.run(3000)
    hand.check_data()
    assert not hand.values(new)


def test_a_copy_under_way_is_superseded_when_nobody_has_voted():
    hand = Ring()
    new, other = hand.spare
    hand.go(new, hand.b, hand.c)
    hand.until_sent("copy")
    hand.kill(new)
    version = hand.register(hand.b).ver
    hand.go(other, hand.b, hand.c)
    hand.until_done(other, hand.b, hand.c)
    assert not sum(node.stats["moves_rolled_on"] for node in hand.nodes.values())
    hand.start(new)
    hand.run(3000)
    assert hand.register(new).ver > version
    hand.check_data()


@pytest.mark.parametrize("stage", ["confirm", "copy", "vote", "switch", "done"])
def test_another_goal_at_any_stage_is_reached_as_well(stage):
    hand = Ring()
    new, other = hand.spare
    hand.go(new, hand.b, hand.c)
    hand.until_sent(stage)
    hand.go(hand.a, other, hand.c, via=other)
    hand.until_done(hand.a, other, hand.c)
    hand.check_data()


@pytest.mark.parametrize("stage", ["confirm", "copy", "vote", "switch"])
def test_a_change_that_is_taken_back_leaves_the_owners_that_were(stage):
    """In phase 1 it is aborted; from phase 2 on it is finished, and moved back."""
    hand = Ring()
    new = hand.spare[0]
    before = (hand.a, hand.b, hand.c)
    hand.go(new, hand.b, hand.c)
    hand.until_sent(stage)
    early = stage in ("confirm", "copy")
    hand.lose = lambda src, dst, msg: early and msg[0] == m.KEYS  # or it is whole before
    hand.go(*before, via=hand.b)
    hand.until(lambda: all(sorted(hand.register(n).cur) == sorted(before)
                           and not hand.register(n).next for n in hand.names))  # fmt: skip
    phases = {hand.register(name).phase for name in hand.names}
    assert phases == ({STABLE} if early else {DONE})
    hand.check_data()
    assert not hand.values(new), "and what was copied is dropped"


# --- splits ---------------------------------------------------------------------------------------


def split(hand: Hand, *names: str) -> None:
    hand.isolate(*names)


def test_a_minority_moves_nothing_and_the_majority_goes_on():
    hand = Ring()
    new, other = hand.spare
    split(hand, hand.a, new)
    hand.run(500)
    hand.go(new, hand.b, hand.c, via=new)
    hand.run(3000)
    assert hand.register(new).phase == STABLE
    hand.go(hand.a, hand.b, other, via=other)
    hand.until(lambda: hand.register(other).cur == (hand.a, hand.b, other))
    hand.settle(500)
    hand.go(new, hand.b, other)
    hand.until_done(new, hand.b, other)
    hand.check_data()


def test_two_goals_from_both_sides_of_a_split_end_in_the_higher_one():
    hand = Ring(nodes=6)
    x, y, z = hand.spare
    split(hand, hand.a, hand.b, x)
    hand.run(500)
    hand.go(hand.a, hand.b, x, via=x)
    hand.go(hand.a, y, hand.c, via=y)
    hand.run(4000)
    assert hand.register(x).cur == (hand.a, hand.b, x), "a fence was on its side"
    assert hand.register(y).phase == STABLE
    hand.settle(3000)
    hand.until(lambda: {*hand.register(z).cur} == {hand.a, y, hand.c})
    hand.until(lambda: all(not hand.register(n).next for n in hand.names))
    hand.check_data()


def test_the_split_brain_history_of_a_register_that_is_superseded(monkeypatch):
    """DESIGN §8, V1: one side reaches phase 3 and a loser drops its rows; the other, which still
    sees phase 1, wants the old owners back. Without promises it would bring back an empty one."""

    def play(hand: Ring) -> tuple[str, Register]:
        new = hand.spare[0]
        before = (hand.a, hand.b, hand.c)
        hand.go(new, hand.b, hand.c)
        hand.until_sent("copy")
        # `c` alone hears nothing any more, beyond phase 1; the others go through to the end.
        split(hand, hand.c, hand.spare[1])
        hand.until(lambda: hand.register(new).phase == DONE)
        hand.go(*before, via=hand.c)
        hand.run(4_000)
        there = hand.register(hand.c)
        hand.heal()
        return new, there

    hand = Ring()
    new, there = play(hand)
    assert there.phase == COPYING, "c knows that it cannot know"
    hand.run(200)
    assert max(hand.register(name)[:3] for name in hand.names)[1] != STABLE
    hand.until(lambda: {*hand.register(new).cur} == {hand.a, hand.b, hand.c}
               and not hand.register(new).next)  # fmt: skip
    hand.check_data()

    # The same with proposers that ask nobody.
    monkeypatch.setattr(ballots, "fence", lambda config, cur, forced: 1)
    hand = Ring()
    new, there = play(hand)
    assert there.phase == STABLE, "an owner list of the past, above everything"
    hand.until(lambda: hand.register(new)[:3] == there[:3])
    assert not hand.nodes[hand.a].replica.synced(hand.arc()), "it might have dropped its rows"


# --- disks ----------------------------------------------------------------------------------------


def test_an_owner_that_lost_its_disk_abstains_until_it_has_learnt_what_was_promised():
    """V7."""
    hand = Ring()
    new, other = hand.spare
    hand.go(new, hand.b, hand.c)
    hand.until_sent("vote")
    hand.run(1)
    hand.kill(new)
    held = {name: hand.nodes[name].elector.ballots.held(hand.arc()) for name in (hand.a, hand.b)}
    assert {vote.about for vote in held.values()} == {hand.register(hand.a).ver}
    hand.kill(hand.a)
    hand.wipe(hand.a)
    hand.lose = lambda src, dst, msg: dst == hand.a and msg[0] == m.ROOTS_ARE
    hand.start(hand.a)
    hand.run(ballots.ABSTAIN_MS + 200)
    mine = hand.nodes[hand.a].elector.ballots
    assert mine.abstains(hand.arc()), "it has compared with nobody"
    assert mine.promise(hand.arc(), 99 << 16, *hand.register(hand.a)[:2])[0] == ballots.UNSYNCED
    hand.heal()
    hand.until(lambda: not mine.abstains(hand.arc()))
    assert mine.held(hand.arc()) == held[hand.b]


def test_after_a_lost_disk_an_owner_has_no_say_for_as_long_as_promises_are_used():
    """V7: it is synced at once, and still might have promised something that is under way."""
    hand = Ring()
    hand.kill(hand.a)
    hand.wipe(hand.a)
    hand.start(hand.a)
    began = hand.now
    node = hand.nodes[hand.a]
    hand.until(lambda: node.replica.synced(hand.arc()))
    assert node.elector.ballots.abstains(hand.arc())
    hand.until(lambda: not node.elector.ballots.abstains(hand.arc()))
    assert hand.now - began >= ballots.ATTEMPT_MS * 2 - 1


def test_promises_that_come_too_late_are_not_used():
    """V7."""
    hand = Ring()
    new = hand.spare[0]
    hand.hold = lambda src, dst, msg: msg[0] == m.PROMISED
    hand.go(new, hand.b, hand.c)
    hand.run(ballots.ATTEMPT_MS + 20)
    assert hand.held
    for _, _, msg in hand.held:
        hand.flying.append((hand.a, new, msg))
    hand.held.clear()
    hand.run(2)
    assert hand.register(new).phase == STABLE
    hand.release()
    hand.until_done(new, hand.b, hand.c)


def test_answers_leave_after_a_synced_commit():
    """V2."""
    hand = Ring()
    synced: list[tuple[str, bool]] = []
    for name, store in hand.stores.items():

        def commit(sync: bool = False, real=store.commit, name=name) -> None:
            synced.append((name, sync))
            real(sync)

        store.commit = commit
    hand.go(hand.spare[0], hand.b, hand.c)
    steps: dict[tuple[str, int], bool] = {}
    for _ in range(30):
        synced.clear()
        before = len(hand.sent)
        hand.run(1)
        steps = dict(synced)
        for src, _, msg in hand.sent[before:]:
            if msg[0] in (m.PROMISED, m.VOTED, m.REGISTERED) or (
                msg[0] in (m.REGISTER, m.VOTE) and msg[2] == hand.arc()
            ):
                assert steps[src], m.NAMES[msg[0]]
    assert hand.is_done(hand.spare[0], hand.b, hand.c)


# --- people give up copies ------------------------------------------------------------------------


def test_dead_owners_are_replaced_by_force_and_the_survivor_is_copied():
    hand = Ring()
    x, y = hand.spare
    for name in (hand.b, hand.c):
        hand.kill(name)
    hand.go(hand.a, x, y)
    hand.run(2000)
    assert hand.register(x).phase == STABLE
    for name in (hand.b, hand.c):
        hand.nodes[x].roster.change(f"w/{name}", Wish(5, REMOVED, 1, FORCED))
    hand.until_done(hand.a, x, y)
    assert hand.values(x) == hand.values(y) == ["v"]


def test_where_all_owners_were_given_up_the_arc_begins_empty():
    hand = Ring(nodes=6)
    x, y, z = hand.spare
    for name in (hand.a, hand.b, hand.c):
        hand.kill(name)
        for other in hand.nodes.values():
            other.roster.change(f"w/{name}", Wish(5, REMOVED, 1, FORCED))
    hand.go(x, y, z)
    hand.until_done(x, y, z)
    assert hand.put(x, "new", mode=m.BLIND)[0] == m.PUT_OK
    assert hand.read(y) == ["new"]


def test_a_node_that_is_no_member_any_more_drives_nothing():
    hand = Ring()
    new = hand.spare[0]
    hand.go(new, hand.b, hand.c)
    hand.until_sent("copy")
    hand.nodes[new].roster.change(f"w/{new}", Wish(5, REMOVED, 1, 0))
    hand.run(2)
    assert not hand.nodes[new].moves.view()
    hand.go(hand.a, hand.b, hand.c, via=hand.b)
    hand.until_done(hand.a, hand.b, hand.c)


# --- copies ---------------------------------------------------------------------------------------


def loaded(rows: int, **config) -> Ring:
    hand = Ring(partitions=1, exchange_rows=4, **config)
    for i in range(rows):
        hand.put(hand.a, "x" * 1_000, key=f"row{i}", put_id=f"row{i}", ms=3)
    hand.run(20)
    hand.sent.clear()
    return hand


def test_a_copy_keeps_to_its_rate_and_a_repair_does_not():
    hand = loaded(40, transfer_bytes_per_s=20_000)
    new = hand.spare[0]
    hand.go(new, hand.b, hand.c)
    took = hand.until_done(new, hand.b, hand.c)
    assert 1_400 < took < 3_000, "40 kB at 20 kB/s, less a quarter of a second in advance"
    copied = hand.nodes[new].stats["exchange_pulled"]
    assert copied < 60, "a copy travels once"
    hand.kill(hand.c)
    hand.wipe(hand.c)
    hand.start(hand.c)
    assert hand.until(lambda: hand.nodes[hand.c].ready) < 300
    hand.check_data()


def test_a_copy_that_was_broken_off_goes_on_where_it_was():
    hand = loaded(40, transfer_bytes_per_s=20_000)
    new = hand.spare[0]
    hand.go(new, hand.b, hand.c)
    hand.until(lambda: hand.nodes[new].stats["exchange_pulled"] >= 24)
    had = hand.nodes[new].replica.keys
    hand.kill(new)
    hand.start(new)
    hand.until_done(new, hand.b, hand.c)
    assert hand.nodes[new].stats["exchange_pulled"] <= 53 - had + 20
    hand.check_data()


def test_the_source_of_a_copy_dies_and_another_one_is_copied_from():
    hand = loaded(40, transfer_bytes_per_s=20_000)
    new = hand.spare[0]
    hand.go(hand.a, hand.b, new)
    hand.until(lambda: hand.nodes[new].stats["exchange_pulled"] >= 16)
    (line,) = hand.nodes[new].moves.view()
    source = line["why"].removeprefix("copying from ")
    assert source in hand.owners()
    assert line["rows"] >= 16
    assert line["bytes"] > 10_000
    hand.kill(source)
    hand.until_done(hand.a, hand.b, new)
    hand.start(source)
    hand.check_data()


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_write_that_two_owners_hold_reaches_the_new_one_from_whichever_copies(absent):
    """V8: of max(R, N - W + 1) owners one has it, of a single one that cannot be said."""
    hand = Ring(exchange_ms=1_000_000)
    cast = (hand.a, hand.b, hand.c)
    hand.lose = lambda src, dst, msg: dst == cast[absent] and msg[0] == m.REPLICATE
    via = cast[absent - 1]
    assert hand.put(via, "w", mode=m.BLIND, flags=0)[0] == m.PUT_OK
    hand.run(1200)
    hand.heal()
    assert hand.values(cast[absent]) == ["v"]
    new = hand.spare[0]
    hand.go(new, hand.b, hand.c)
    hand.until_sent("vote")
    assert hand.values(new) == ["v", "w"]


def test_an_owner_that_did_not_confirm_is_not_compared_with():
    """V8: it may go on to acknowledge writes under the old register."""
    hand = Ring()
    new = hand.spare[0]
    hand.lose = lambda src, dst, msg: src == hand.a and msg[0] == m.REGISTERED
    hand.go(new, hand.b, hand.c)
    hand.until_done(new, hand.b, hand.c)
    asked = [dst for src, dst, msg in hand.sent if src == new and msg[0] in (m.ROOTS, m.KEYS)]
    first = asked[: asked.index(hand.c) + 2]
    assert hand.a not in first
    assert {hand.b, hand.c} <= {*first}


def test_owners_that_are_all_new_know_which_puts_are_superseded():
    """D5: a late retry asks them, and would be minted again beside what replaced it."""
    hand = Ring(nodes=6)
    hand.put(hand.a, "w1")
    hand.put(hand.a, "w2")
    hand.go(*hand.spare)
    hand.until_done(*hand.spare)
    answer = hand.put(hand.spare[0], "w1", mode=m.BLIND, attempt=1)
    assert answer[0] == m.PUT_OK
    assert hand.read(hand.spare[1]) == ["w2"]


def test_an_unsynced_owner_is_no_source():
    hand = Ring()
    new = hand.spare[0]
    hand.kill(hand.b)
    hand.wipe(hand.b)
    hand.lose = lambda src, dst, msg: dst == hand.b and msg[0] in (m.ROOTS_ARE, m.KEYS_ARE)
    hand.start(hand.b)
    hand.run(50)
    hand.go(new, hand.b, hand.c)
    hand.until_done(new, hand.b, hand.c)
    assert hand.values(new) == ["v"]
    hand.heal()
    hand.run(1000)
    hand.check_data()


def test_a_gaining_node_makes_no_owner_look_unready():
    hand = loaded(10, transfer_bytes_per_s=1_000)
    new = hand.spare[0]
    hand.go(new, hand.b, hand.c)
    for _ in range(500):
        hand.run(1)
        assert all(node.ready for node in hand.nodes.values())
    assert hand.register(new).phase == COPYING
    assert not hand.nodes[new].replica.synced(0)


def test_a_gaining_node_that_had_been_an_owner_before_begins_unsynced():
    hand = Ring()
    new = hand.spare[0]
    hand.go(new, hand.b, hand.c)
    hand.until_done(new, hand.b, hand.c)
    hand.check_data()
    hand.hold = lambda src, dst, msg: msg[0] == m.ROOTS
    hand.go(hand.a, hand.b, hand.c)
    hand.until_sent("confirm")
    hand.run(5)
    assert not hand.nodes[hand.a].replica.synced(hand.arc())
    hand.release()
    hand.until_done(hand.a, hand.b, hand.c)
    hand.check_data()


# --- messages go astray ---------------------------------------------------------------------------

KINDS = (m.PROMISE, m.PROMISED, m.REGISTER, m.REGISTERED, m.VOTE, m.VOTED, m.ROOTS_ARE)


@pytest.mark.parametrize("kind", KINDS)
def test_each_message_may_be_lost_once(kind):
    hand = Ring()
    count = itertools.count()
    hand.lose = lambda src, dst, msg: msg[0] == kind and next(count) < 3
    hand.go(hand.spare[0], hand.b, hand.c)
    hand.until_done(hand.spare[0], hand.b, hand.c)
    hand.check_data()


@pytest.mark.parametrize("kind", KINDS)
def test_each_message_may_come_twice_and_late(kind):
    hand = Ring()
    hand.hold = lambda src, dst, msg: False
    hand.go(hand.spare[0], hand.b, hand.c)
    again = []
    for _ in range(60):
        hand.run(1)
        again += [entry for entry in hand.flying if entry[2][0] == kind]
        hand.flying += again[-8:-4]
    hand.until_done(hand.spare[0], hand.b, hand.c)
    hand.flying += again
    hand.run(50)
    assert hand.is_done(hand.spare[0], hand.b, hand.c)
    hand.check_data()


def test_strange_messages_are_counted_and_change_nothing():
    hand = Ring()
    arc, cur = hand.arc(), list(hand.owners())
    register = hand.register(hand.a)
    far = register.ver + (1 << 40)
    for message in (
        (m.REGISTER, 1, arc, far, STABLE, tie_of(cur, ()), cur, []),
        (m.REGISTER, 1, arc, 1 << 17, STABLE, 3, cur, []),
        (m.REGISTER, 1, arc, 1 << 17, COPYING, tie_of(cur, ()), cur, []),
        (m.REGISTER, 1, 99, 1 << 17, STABLE, tie_of(cur, ()), cur, []),
        (m.REGISTER, 1, arc, 1 << 17, STABLE, 3, [7], []),
        (m.PROMISE, 1, 99, 1 << 17, *register[:2]),
        (m.PROMISE, 1, -1, 1 << 17, *register[:2]),
        (m.PROMISE, 1, arc, far, *register[:2]),
        (m.VOTE, 1, arc, register.ver, far, 0),
        (m.VOTE, 1, arc, register.ver, -5, 0),
        (m.REGISTERED, 1, arc, far, STABLE, tie_of(cur, ()), cur, [], 0),
    ):
        hand.flying.append((hand.b, hand.a, message))
    for message in (
        (m.PROMISED, 1, arc, 1, 2, 3, 4),
        (m.PROMISED, 1, -7, 1, 2, 3, 4),
        (m.VOTED, 1, arc, 1, 5),
    ):
        hand.flying.append((hand.b, hand.a, message))
    hand.run(3)
    assert hand.nodes[hand.a].stats["malformed"] == 11
    assert hand.register(hand.a) == register
    assert hand.nodes[hand.a].elector.ballots.held(arc) == ballots.NOTHING


def test_a_fresh_node_with_an_empty_store_has_no_ring_to_move():
    """A joiner that knows nothing drives nothing, and answers that it has no say."""
    hand = Ring(nodes=4)
    hand.stores["n4"] = MemoryStore()
    hand.kill("n4")
    hand.wipe("n4")
    node = hand.start("n4")
    assert not node.moves.view()
