"""What people want of the ring: refused with the right word, planned, committed, taken back.

The first part asks whole nodes. The second takes rosters alone, and merges what several of them
decided at once; the third draws long histories of changes for the planner.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hand import Hand

from dynamo.core import messages as m
from dynamo.core import planning, ring
from dynamo.core.changes import ROUNDS, ROUNDS_STAGED, Changes
from dynamo.core.config import Config
from dynamo.core.items import FORCED, IN, LEAVING, LEFT, OUT, REMOVED, Goal, Record, Wish
from dynamo.core.planner import Quota, tie_of
from dynamo.core.ringview import RingView
from dynamo.core.roster import Roster
from dynamo.core.verbs import Refusal
from dynamo.localring import local
from dynamo.processes import free_ports
from dynamo.server.admin import Admin
from dynamo.server.config import Address
from dynamo.storage.memory import MemoryStore

JOINER = Record(1, "127.0.0.1", 1, 2, "")


def change(hand: Hand, via: str, what: str, /, **body: Any) -> tuple[int, dict[str, Any]]:
    message = (m.CHANGE, 7, 1_000, what, msgspec.json.encode(body))
    outbox = hand.nodes[via].step(hand.now, [(b"operator", message, hand.now)], 5_000)
    found = [answer for to, answer in outbox if to == b"operator"]
    assert [answer[:2] for answer in found] == [(m.CHANGED, 7)]
    return found[0][2], msgspec.json.decode(found[0][3])


def done(hand: Hand, via: str, what: str, /, **body: Any) -> dict[str, Any]:
    ok, answer = change(hand, via, what, **body)
    assert ok == 1, answer
    return answer


def refused(hand: Hand, via: str, what: str, /, **body: Any) -> tuple[str, str]:
    before = hand.nodes[via].roster.hash
    ok, answer = change(hand, via, what, **body)
    assert ok == 0, answer
    assert sorted(answer) == ["error", "try"]
    assert hand.nodes[via].roster.hash == before, "refused is nothing done"
    return answer["error"], answer["try"]


def stage(hand: Hand, via: str, verb: str, node: str, **more: Any) -> dict[str, Any]:
    return done(hand, via, "stage", verb=verb, node=node, **more)


def stage_refused(hand: Hand, via: str, verb: str, node: str, **more: Any) -> tuple[str, str]:
    return refused(hand, via, "stage", verb=verb, node=node, **more)


def commit(hand: Hand, via: str) -> dict[str, Any]:
    return done(hand, via, "commit", plan=done(hand, via, "plan")["plan"])


def introduce(hand: Hand, *names: str, zone: str = "") -> None:
    """Every node hears of nodes that want to join."""
    for node in hand.nodes.values():
        for name in names:
            node.roster.take(f"n/{name}", JOINER._replace(zone=zone))


def down(hand: Hand, name: str) -> None:
    hand.kill(name)
    hand.run(600)


# --- staging --------------------------------------------------------------------------------------


def test_a_leave_of_a_node_that_does_not_answer_names_remove() -> None:
    hand = Hand(5)
    down(hand, "n3")
    error, advice = stage_refused(hand, "n1", "leave", "n3")
    assert "does not answer" in error
    assert advice == "dynamo cluster remove n3"
    assert stage(hand, "n1", "remove", "n3")["staged"] == [
        {"verb": "remove", "node": "n3", "force": False, "discard": False}
    ]


@pytest.mark.parametrize("node", ["n1", "n3"])
def test_a_remove_of_a_node_that_answers_names_leave(node: str) -> None:
    error, advice = stage_refused(Hand(5), "n1", "remove", node)
    assert "stop it first" in error
    assert advice == f"dynamo cluster leave {node}"


def test_a_name_that_nobody_has_heard_of_is_met_with_the_nearest() -> None:
    hand = Hand(3)
    introduce(hand, "kiwi")
    assert "did you mean kiwi?" in stage_refused(hand, "n1", "join", "kivi")[0]
    assert stage_refused(hand, "n1", "join", "zebra")[1].startswith("dynamo node start --join")


def test_a_join_wants_a_node_that_is_out() -> None:
    hand = Hand(3)
    assert "member already" in stage_refused(hand, "n1", "join", "n2")[0]
    for status, word in ((LEFT, "left the ring"), (REMOVED, "was removed")):
        introduce(hand, "n9")
        hand.nodes["n1"].roster.take("w/n9", Wish(9, status, 1, 0))
        error, _ = stage_refused(hand, "n1", "join", "n9")
        assert word in error
        assert "never used again" in error


def test_a_replacement_wants_a_newcomer_that_is_out_and_not_taken() -> None:
    hand = Hand(5)
    introduce(hand, "n6", "n7")
    assert "who is to replace" in stage_refused(hand, "n1", "replace", "n2")[0]
    assert "itself" in stage_refused(hand, "n1", "replace", "n2", by="n2")[0]
    assert "member already" in stage_refused(hand, "n1", "replace", "n2", by="n3")[0]
    assert stage_refused(hand, "n1", "replace", "n6", by="n7")[1] == "dynamo cluster join n7"
    stage(hand, "n1", "replace", "n2", by="n6")
    assert "already" in stage_refused(hand, "n1", "replace", "n3", by="n6")[0]
    assert stage_refused(hand, "n1", "join", "n6")[1] == "dynamo cluster clear n2"
    assert len(stage(hand, "n1", "replace", "n2", by="n6")["staged"]) == 1, "once more is harmless"


@pytest.mark.parametrize("weight", [-1, 1 << 21, "2", 1.5])
def test_a_weight_out_of_range_is_refused(weight: Any) -> None:
    assert "whole number" in stage_refused(Hand(3), "n1", "reweight", "n2", weight=weight)[0]


def test_the_last_member_cannot_leave() -> None:
    hand = Hand(2)
    stage(hand, "n1", "leave", "n1")
    assert "last member" in stage_refused(hand, "n1", "leave", "n2")[0]
    introduce(hand, "n3")
    stage(hand, "n1", "join", "n3")
    assert len(stage(hand, "n1", "leave", "n2")["staged"]) == 3


def test_what_is_staged_can_be_cleared_one_by_one_or_all() -> None:
    hand = Hand(5)
    for name in ("n1", "n2", "n3"):
        stage(hand, "n1", "leave", name)
    assert [v["node"] for v in done(hand, "n1", "clear", node="n2")["staged"]] == ["n1", "n3"]
    assert "nothing is staged for n2" in refused(hand, "n1", "clear", node="n2")[0]
    assert done(hand, "n1", "clear") == {"staged": []}
    assert "nothing is staged" in refused(hand, "n1", "plan")[0]


@pytest.mark.parametrize(
    ("verb", "body"),
    [("stage", b"[]"), ("stage", b"\xff"), ("stage", b'{"verb": []}'), ("dance", b"{}"),
     ("stage", b'{"verb": "join", "node": 7}'), ("abort", b'{"task": {}}'), ("commit", b"{}"),
     ("stage", b'{"verb": "leave", "node": ["n1"]}'), ("clear", b'{"node": []}')],
)  # fmt: skip
def test_a_request_that_cannot_be_read_is_answered_and_harmless(verb: str, body: bytes) -> None:
    hand = Hand(3)
    hand.nodes["n1"].step(hand.now, [(b"x", (m.CHANGE, 1, 99, verb, body), hand.now)])
    outbox = hand.nodes["n1"].step(hand.now, [(b"x", (m.CHANGE, 2, 99, verb, body), hand.now)])
    assert [(to, msg[2]) for to, msg in outbox if msg[0] == m.CHANGED] == [(b"x", 0)]


def test_a_node_that_does_not_belong_to_the_ring_changes_nothing_in_it() -> None:
    hand = Hand(3)
    node = hand.nodes["n1"]
    node.roster.take("w/n1", Wish(9, REMOVED, 1, 0))
    assert "was removed" in stage_refused(hand, "n1", "leave", "n2")[0]


def test_what_is_staged_outlives_the_node_that_was_asked() -> None:
    hand = Hand(3)
    stage(hand, "n1", "leave", "n2")
    hand.kill("n1")
    hand.start("n1")
    assert [verb["node"] for verb in done(hand, "n1", "plan")["staged"]] == ["n2"]


# --- the plan -------------------------------------------------------------------------------------


def test_a_plan_shows_shares_before_and_after_and_changes_nothing() -> None:
    hand = Hand(5, partitions=64)
    introduce(hand, "n6")
    for i in range(20):
        hand.put("n1", f"v{i}", f"k{i}")
    stage(hand, "n1", "join", "n6")
    before = hand.nodes["n1"].roster.hash
    plan = done(hand, "n1", "plan")
    assert hand.nodes["n1"].roster.hash == before
    assert done(hand, "n1", "plan")["plan"] == plan["plan"]
    shares = {node["node"]: node for node in plan["nodes"]}
    assert shares["n6"]["replicas_now"] == shares["n6"]["primary_now"] == 0
    assert shares["n6"]["replicas_after"] == plan["moves"] == 32
    assert shares["n6"]["status"] == "out"
    assert sum(node["replicas_after"] for node in plan["nodes"]) == 192
    assert sum(node["primary_after"] for node in plan["nodes"]) == 64
    assert plan["arcs"] == 32
    assert plan["bytes"] > 0
    assert plan["loss"] == ""
    assert plan["violations"] == []


def test_a_replacement_moves_exactly_the_places_of_the_one_that_goes() -> None:
    hand = Hand(5, partitions=64)
    introduce(hand, "n6")
    roster = hand.nodes["n1"].roster
    before = planning.present(roster)
    stage(hand, "n1", "replace", "n2", by="n6")
    commit(hand, "n1")
    after = planning.wanted(roster)
    assert after == [tuple("n6" if n == "n2" else n for n in names) for names in before]
    assert [roster.status(name) for name in ("n2", "n6")] == [LEAVING, IN]


def test_a_dead_node_is_replaced_by_removing_it() -> None:
    hand = Hand(5)
    introduce(hand, "n6")
    down(hand, "n2")
    stage(hand, "n1", "replace", "n2", by="n6", force=True, discard=True)
    commit(hand, "n1")
    wish = hand.nodes["n1"].roster.wishes["n2"]
    assert (wish.status, wish.flags) == (REMOVED, 3)


def test_a_node_that_came_back_before_the_commit_is_not_removed() -> None:
    hand = Hand(5)
    down(hand, "n2")
    stage(hand, "n1", "remove", "n2")
    plan = done(hand, "n1", "plan")
    hand.start("n2")
    hand.run(300)
    assert "answers" in refused(hand, "n1", "commit", plan=plan["plan"])[0]


def test_the_plan_names_the_single_failures_that_would_cost_a_quorum() -> None:
    hand = Hand(5, partitions=64)
    assert done_plan(hand, "leave", "n2")["risks"] == []
    down(hand, "n2")
    plan = done_plan(hand, "remove", "n2")
    assert {text.split()[1] for text in plan["risks"]} == {"n1", "n3", "n4", "n5"}
    assert "fewer owners left than the 2 that a quorum takes" in plan["risks"][0]
    assert not any("in reach" in text for text in plan["violations"])


def test_a_newcomer_that_is_down_costs_its_arcs_their_reserve() -> None:
    hand = Hand(3)
    introduce(hand, "n6")
    hand.run(600)
    stage(hand, "n1", "join", "n6")
    plan = done(hand, "n1", "plan")
    assert {text.split()[1] for text in plan["risks"]} == {"n1", "n2", "n3"}
    assert any("n6 is down" in text and "wait for it" in text for text in plan["warnings"])


def done_plan(hand: Hand, verb: str, node: str, **more: Any) -> dict[str, Any]:
    done(hand, "n1", "clear")
    stage(hand, "n1", verb, node, **more)
    return done(hand, "n1", "plan")


def test_with_two_of_three_owners_gone_a_change_waits_or_says_what_is_given_up() -> None:
    hand = Hand(6, partitions=64)
    down(hand, "n2")
    down(hand, "n3")
    stage(hand, "n1", "remove", "n2")
    plan = done_plan(hand, "remove", "n3")
    assert any("--force" in text for text in plan["violations"])
    assert plan["loss"] == ""
    stage(hand, "n1", "remove", "n2", force=True)
    stage(hand, "n1", "remove", "n3", force=True)
    plan = done(hand, "n1", "plan")
    both = sum({"n2", "n3"} <= {*names} for names in planning.present(hand.nodes["n1"].roster))
    assert f"of {both} arcs too few copies are left" in plan["loss"]
    assert not any("--force" in text for text in plan["violations"])


@pytest.mark.parametrize("levels", [{"r": 1, "w": 1}, {"r": 3, "w": 3}, {"n": 2}])
def test_the_plan_says_where_one_dead_owner_is_too_many_for_a_change(
    levels: dict[str, int],
) -> None:
    """Fences meet every R and every W: where these may be any one owner, they are all owners."""
    hand = Hand(5, partitions=64, **levels)
    down(hand, "n2")
    assert any("--force" in text for text in done_plan(hand, "remove", "n2")["violations"])
    commit(hand, "n1")
    node = hand.nodes["n1"]
    [task] = RingView(node.requests.config, node.roster, node.changes.state).tasks()["tasks"]
    assert any("dynamo cluster remove n2 --force" in text for text in task["waiting"])
    plan = done_plan(hand, "remove", "n2", force=True)
    assert not any("--force" in text for text in plan["violations"])


def test_giving_up_one_copy_of_three_loses_nothing_and_giving_up_all_loses_keys() -> None:
    hand = Hand(5)
    down(hand, "n2")
    assert "nothing that was acknowledged" in done_plan(hand, "remove", "n2", force=True)["loss"]
    alone = Hand(3, n=1)
    down(alone, "n2")
    assert "all keys there are lost" in done_plan(alone, "remove", "n2", force=True)["loss"]


def test_too_few_members_zones_or_partitions_are_violations() -> None:
    hand = Hand(3)
    assert (
        "2 members for N=3: only 2 copies of a key" in done_plan(hand, "leave", "n2")["violations"]
    )
    introduce(hand, "n9", zone="b")
    texts = done_plan(hand, "join", "n9")["violations"]
    assert any("one zone" in text for text in texts)
    assert any("below 30" in text for text in texts)


# --- the commit -----------------------------------------------------------------------------------


def test_a_commit_writes_wishes_goals_and_a_task_under_one_number_and_clears_the_stage() -> None:
    hand = Hand(5, partitions=64)
    introduce(hand, "n6")
    roster = hand.nodes["n1"].roster
    stage(hand, "n1", "join", "n6", weight=2)
    answer = commit(hand, "n1")
    (number,) = roster.tasks
    assert answer["task"] == planning.task_id(number)
    assert roster.wishes["n6"] == Wish(1, IN, 2, 0)
    changed = [goal for goal in roster.goals if goal.ver]
    assert {goal.ver for goal in changed} == {number}
    assert len(changed) == answer["arcs"] < 64, "only arcs that change get a goal"
    assert roster.tasks[number].before == (("n6", OUT, 1),)
    assert roster.tasks[number].started_wall_ms == 5_000
    assert [item.verb for item in roster.staged.values()] == [""]
    roster.check()


def test_a_commit_is_refused_once_anything_was_decided_since_the_plan() -> None:
    hand = Hand(5)
    introduce(hand, "n6", "n7")
    stage(hand, "n1", "join", "n6")
    plan = done(hand, "n1", "plan")["plan"]
    stage(hand, "n1", "join", "n7")
    assert "look at the new one" in refused(hand, "n1", "commit", plan=plan)[0]
    done(hand, "n1", "clear", node="n7")
    roster = hand.nodes["n1"].roster
    owners = planning.wanted(roster)[0][::-1]
    number = 5 << 16
    roster.change("g/0", Goal(number, tie_of(owners, ()), owners))
    assert "look at the new one" in refused(hand, "n1", "commit", plan=plan)[0]
    commit(hand, "n1")
    assert max(roster.tasks) >> 16 == 6, "above every number that is known"


@pytest.mark.parametrize("what", ["stage", "commit", "abort", "resume"])
def test_the_answer_to_a_change_leaves_after_a_sync(what: str) -> None:
    hand = Hand(3)
    node = hand.nodes["n1"]
    body = {"verb": "leave", "node": "n2"}
    if what != "stage":
        done(hand, "n1", "stage", **body)
        body = {"plan": done(hand, "n1", "plan")["plan"]}
    if what in ("abort", "resume"):
        body = {"task": done(hand, "n1", "commit", **body)["task"]}
    if what == "resume":
        done(hand, "n1", "abort", **body)
    synced = []
    whole = node._store.commit
    node._store.commit = lambda sync=False: (synced.append(sync), whole(sync=sync))[1]
    done(hand, "n1", what, **body)
    assert synced == [True]


def test_a_second_change_is_planned_from_the_present_owners_and_takes_over() -> None:
    """Two joins in a row, before anything moved, move what one double join moves."""
    one, two = Hand(5, partitions=64), Hand(5, partitions=64)
    for hand in (one, two):
        introduce(hand, "n6", "n7")
    for name in ("n6", "n7"):
        stage(one, "n1", "join", name)
        plan_one = commit(one, "n1")
        stage(two, "n1", "join", name)
    plan_two = commit(two, "n1")
    rosters = [hand.nodes["n1"].roster for hand in (one, two)]
    assert planning.wanted(rosters[0]) == planning.wanted(rosters[1])
    assert plan_one["moves"] == plan_two["moves"]


def test_a_stale_stage_is_left_out_and_said_so() -> None:
    hand = Hand(5)
    introduce(hand, "n6", "n7")
    stage(hand, "n1", "join", "n6")
    roster = hand.nodes["n1"].roster
    roster.change("w/n6", Wish(1, IN, 1, 0))  # committed on the other side meanwhile
    stage(hand, "n1", "join", "n7")
    plan = done(hand, "n1", "plan")
    assert [verb["node"] for verb in plan["staged"]] == ["n7"]
    assert any("n6 is a member already" in text for text in plan["warnings"])


# --- abort and resume -----------------------------------------------------------------------------


def test_an_abort_brings_wishes_and_goals_back_and_a_resume_does_it_again() -> None:
    hand = Hand(5, partitions=64)
    introduce(hand, "n6")
    roster = hand.nodes["n1"].roster
    before = planning.wanted(roster)
    stage(hand, "n1", "join", "n6")
    task = commit(hand, "n1")["task"]
    told = done(hand, "n1", "abort", task=task)
    assert told["task"] == task
    assert roster.wishes["n6"] == Wish(2, OUT, 1, 0)
    assert planning.wanted(roster) == before
    assert [planning.task_id(n) for n in sorted(roster.tasks)] == [task, told["undo"]]
    assert refused(hand, "n1", "abort", task=task)[1] == f"dynamo tasks {task} --resume"
    again = done(hand, "n1", "resume", task=task)
    assert again["resumes"] == task
    assert roster.wishes["n6"].status == IN
    assert sum("n6" in names for names in planning.wanted(roster)) == 32
    assert "was not aborted" in refused(hand, "n1", "resume", task=again["task"])[0]


def test_an_abort_takes_back_what_had_switched_and_keeps_what_had_not() -> None:
    """From phase 2 on an arc goes on; its way back is a move of its own."""
    hand = Hand(5, partitions=64)
    introduce(hand, "n6")
    roster = hand.nodes["n1"].roster
    stage(hand, "n1", "join", "n6")
    task = commit(hand, "n1")["task"]
    gained = [arc for arc, goal in enumerate(roster.goals) if goal.ver]
    for arc, phase in zip(gained, (ring.COPYING, ring.SWITCHED), strict=False):
        cur, coming = roster.table.registers[arc].cur, roster.goals[arc].owners
        register = ring.proposal(1, ring.COPYING, cur, coming)
        roster.adopt(arc, register)
        if phase == ring.SWITCHED:
            roster.adopt(arc, ring.advanced(register))
    told = done(hand, "n1", "abort", task=task)
    assert told["arcs"] == told["moves"] == 1
    assert planning.present(roster)[gained[1]] == roster.table.registers[gained[1]].next
    assert not any("n6" in names for names in planning.wanted(roster))


def test_a_removal_cannot_be_taken_back() -> None:
    hand = Hand(5)
    down(hand, "n2")
    stage(hand, "n1", "remove", "n2")
    task = commit(hand, "n1")["task"]
    assert "never used again" in refused(hand, "n1", "abort", task=task)[0]


def test_an_abort_leaves_alone_what_was_changed_once_more_since() -> None:
    hand = Hand(5)
    introduce(hand, "n6", "n7")
    roster = hand.nodes["n1"].roster
    for name in ("n6", "n7"):
        stage(hand, "n1", "join", name)
    task = commit(hand, "n1")["task"]
    stage(hand, "n1", "reweight", "n6", weight=3)
    commit(hand, "n1")
    assert done(hand, "n1", "abort", task=task)["kept"] == ["n6 was changed once more since then"]
    assert roster.wishes["n6"][1:] == (IN, 3, 0)
    assert roster.wishes["n7"][1:] == (OUT, 1, 0)


def test_a_task_that_is_done_is_not_aborted_and_an_unknown_one_is_met_with_the_nearest() -> None:
    hand = Hand(5)
    introduce(hand, "n6")
    roster = hand.nodes["n1"].roster
    stage(hand, "n1", "join", "n6")
    task = commit(hand, "n1")["task"]
    assert f"did you mean {task}?" in refused(hand, "n1", "abort", task=task[:-1])[0]
    arrive(roster)
    assert "is done" in refused(hand, "n1", "abort", task=task)[0]


def arrive(roster: Roster) -> None:
    """Move every arc to its goal, as if by itself."""
    for arc, goal in enumerate(roster.goals):
        register = roster.table.registers[arc]
        if goal.ver and {*register.cur} != {*goal.owners}:
            move = ring.proposal(register.round + 1, ring.COPYING, register.cur, goal.owners)
            roster.adopt(arc, ring.advanced(ring.advanced(move)))


# --- drain, and going when empty ------------------------------------------------------------------


def test_a_node_that_is_drained_says_so_until_that_is_taken_back_or_it_starts_anew() -> None:
    hand = Hand(3)
    assert done(hand, "n1", "drain", node="n1") == {"node": "n1", "draining": True, "hints": 0}
    closed = hand.nodes["n1"].roster.closed
    assert closed is not None
    assert closed[0] == m.NOT_READY
    assert "ask another node" in closed[1]
    done(hand, "n1", "drain", node="n1")
    assert done(hand, "n1", "drain", off=True)["draining"] is False
    assert hand.nodes["n1"].roster.closed is None
    assert "ask n2" in refused(hand, "n1", "drain", node="n2")[0]
    done(hand, "n1", "drain")
    hand.kill("n1")
    hand.start("n1")
    assert hand.nodes["n1"].roster.closed is None


def test_a_leaver_writes_itself_off_once_it_owns_holds_and_owes_nothing() -> None:
    hand = Hand(4)
    hand.put("n1", "v")
    holder = hand.owners()[0]
    node = hand.nodes[holder]
    stage(hand, holder, "leave", holder)
    commit(hand, holder)
    hand.run(1_500)
    assert node.roster.status(holder) == LEAVING, "it owns arcs"
    hand.lose = lambda src, dst, message: message[0] == m.OFFER
    arrive(node.roster)
    assert not node.table.arcs_of(holder)
    hand.run(1_500)
    assert node.roster.status(holder) == LEAVING, "it holds a row"
    hand.heal()
    hand.run(4_000)
    assert node.roster.status(holder) == LEFT
    assert node.roster.closed is not None


# --- two changes that met -------------------------------------------------------------------------


class Side:
    """A roster with the changes of one node, and no network."""

    def __init__(self, name: str, founders: Sequence[ring.Member], config: Config) -> None:
        me = next(member for member in founders if member.name == name)
        self.hand_outbox: list[Any] = []
        self.roster = Roster(config, me, founders, MemoryStore(), [], Counter())
        self.roster.confirm()
        self.changes = Changes(self.roster, Alone(config), Alone(config), MemoryStore())

    def commit(self, verbs: Sequence[tuple[str, dict[str, Any]]]) -> str:
        """Stage and commit; what cannot be staged is left out. The task, "" for none."""
        for verb, body in verbs:
            try:
                self.changes._stage({"verb": verb, **body})
            except Refusal:
                continue
        try:
            return self.changes._commit({"plan": self.changes._decision()[2].id})["task"]
        except Refusal:
            self.changes._clear({})
            return ""

    def items(self) -> list[tuple[str, Any]]:
        buckets = [bucket for bucket, _ in self.roster.buckets()]
        keys = [key for bucket in buckets for key in self.roster.keys_in(bucket)]
        return [(key, self.roster.item(key)) for key in keys]


class Alone:
    """What `Changes` asks of the rest of a node, for one that hears everybody but the dead."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stats: Counter[str] = Counter()
        self.wall_ms = 1
        self.liveness = self
        self.dead: list[str] = []
        self.keys = 0
        self.roots: dict[int, int] = {}
        self.replica = self

    def states(self) -> dict[str, str]:
        return Everybody(self.dead)

    def state(self, name: str) -> str:
        return self.states().get(name)

    def counts(self) -> dict[str, int]:
        return {}


class Everybody(dict):
    def __init__(self, dead: list[str]) -> None:
        self.dead = dead

    def get(self, name: str, default: str = "") -> str:
        return "down" if name in self.dead else "up"


def merge(sides: Sequence[Side], rng: random.Random) -> None:
    """Everybody learns everything, each in an order of its own."""
    items = [item for side in sides for item in side.items()]
    for side in sides:
        mine = items[:]
        rng.shuffle(mine)
        for key, item in mine:
            side.roster.take(key, item)
    assert len({side.roster.hash for side in sides}) == 1


def check_wanted(roster: Roster, config: Config) -> None:
    members = roster.planned()
    quota = Quota(members, config.n, config.partitions)
    wanted = planning.wanted(roster)
    loads = Counter(name for names in wanted for name in names)
    for names in wanted:
        assert len(names) == len({*names}) == min(config.n, len(members))
        assert all(name in members for name in names), "nobody who is not to stay"
        assert max(Counter(members[name][0] for name in names).values()) <= quota.zone_cap
    assert all(quota.low[name] <= loads[name] <= quota.high[name] for name in members)


def draw(rng: random.Random, side: Side, fresh: Iterator[str]) -> list[tuple[str, dict[str, Any]]]:
    """One to three things that people want, some of which make no sense."""
    roster, verbs = side.roster, []
    inside = [name for name, wish in roster.wishes.items() if wish.status == IN] or ["n1"]
    out = [name for name in roster.records if roster.status(name) == OUT]
    for _ in range(rng.randint(1, 3)):
        verb = rng.choice(["join", "join", "leave", "remove", "replace", "reweight"])
        node = rng.choice(inside)
        side.changes._requests.dead = [node] if verb == "remove" or rng.random() < 0.2 else []
        body = {"node": node, "weight": rng.choice([1, 1, 2, 5]), "force": rng.random() < 0.5}
        if verb in ("join", "replace"):
            newcomer = rng.choice(out) if out and rng.random() < 0.5 else next(fresh)
            if newcomer not in roster.records:
                roster.take(f"n/{newcomer}", JOINER._replace(zone=rng.choice(["", "a", "b"])))
            body |= {"node": newcomer} if verb == "join" else {"by": newcomer}
        verbs.append((verb, body))
    return verbs


def founders(rng: random.Random, count: int, zones: int) -> list[ring.Member]:
    return [
        ring.Member(f"n{i}", "127.0.0.1", 1, 2, f"z{i % zones}" if zones > 1 else "")
        for i in range(1, count + 1)
    ]


def advance(side: Side, rng: random.Random) -> None:
    """Some arcs go some way."""
    roster = side.roster
    for arc, goal in enumerate(roster.goals):
        register = roster.table.registers[arc]
        if not goal.ver or {*register.cur} == {*goal.owners} or rng.random() < 0.5:
            continue
        move = ring.proposal(register.round + 1, ring.COPYING, register.cur, goal.owners)
        for _ in range(rng.randint(0, 2)):
            move = ring.advanced(move)
        roster.adopt(arc, move)


@pytest.mark.parametrize("seed", range(40))
def test_changes_that_met_are_planned_anew_once_and_alike_everywhere(seed: int) -> None:
    """K1, K2: merged in any order, mended once, and then nothing is left to mend."""
    rng = random.Random(seed)
    config = Config(n=3, partitions=32)
    members = founders(rng, rng.randint(3, 9), rng.randint(1, 3))
    sides = [Side(member.name, members, config) for member in members[: rng.randint(2, 3)]]
    fresh = iter(f"j{i}" for i in range(1_000))
    for _ in range(rng.randint(1, 4)):
        for side in sides:
            for _ in range(rng.randint(0, 2)):
                side.commit(draw(rng, side, fresh))
                advance(side, rng)
        merge(sides, rng)
        tasks = max(side.roster.tasks, default=0) if (side := sides[0]) else 0
        if not sides[0].roster.planned():
            return  # each side let go whom the other kept: people have to say who stays
        mended = [side.changes.mend() for side in sides]
        assert len({*mended}) == 1
        assert len({side.roster.hash for side in sides}) == 1, "all would write the same"
        check_wanted(sides[0].roster, config)
        assert (max(sides[0].roster.tasks, default=0) > tasks) == mended[0]
        assert not any(side.changes.mend() for side in sides), "a fixpoint"
        for side in sides:
            side.roster.check()


def test_two_joins_at_once_end_as_one_double_join_would() -> None:
    """Where nothing has moved yet, planning anew from the present owners is the joint plan."""
    config = Config(n=3, partitions=64)
    members = founders(random.Random(1), 5, 1)
    left, right, both = (Side(name, members, config) for name in ("n1", "n2", "n3"))
    for side in (left, right, both):
        for name in ("n6", "n7"):
            side.roster.take(f"n/{name}", JOINER)
    one = left.commit([("join", {"node": "n6"})])
    other = right.commit([("join", {"node": "n7"})])
    assert one != other
    assert {task.split("-")[0] for task in (one, other)} == {"c1"}, "one round, two numbers"
    both.commit([("join", {"node": "n6"}), ("join", {"node": "n7"})])
    merge([left, right], random.Random(2))
    assert left.changes.mend()
    assert planning.wanted(left.roster) == planning.wanted(both.roster)
    states = {n: s.state for n, s in planning.standings(left.roster).items()}
    assert states.popitem()[1] == "running"
    assert "superseded" in states.values()
    arrive(left.roster)
    states = {n: s.state for n, s in planning.standings(left.roster).items()}
    assert list(states.values()) == ["superseded", "superseded", "done"]


def test_equal_commits_on_two_sides_are_one() -> None:
    config = Config(n=3, partitions=64)
    members = founders(random.Random(1), 5, 1)
    left, right = (Side(name, members, config) for name in ("n1", "n2"))
    for side in (left, right):
        side.roster.take("n/n6", JOINER)
    assert left.commit([("join", {"node": "n6"})]) == right.commit([("join", {"node": "n6"})])
    merge([left, right], random.Random(2))
    assert len(left.roster.tasks) == 1
    assert not left.changes.mend()


def crossed(zone: str = "") -> tuple[Side, Side]:
    config = Config(n=3, partitions=64)
    members = founders(random.Random(1), 5, 1)
    left, right = (Side(name, members, config) for name in ("n1", "n2"))
    left.roster.take("n/n6", JOINER._replace(zone=zone))
    left.commit([("join", {"node": "n6"})])
    right.commit([("leave", {"node": "n5"})])
    return left, right


def rounds(side: Side, count: int, start: int = 0) -> int:
    """Let so many rounds of gossip pass; in which of them, counted from 1, it planned anew."""
    found = 0
    for turn in range(1, count + 1):
        before = max(side.roster.tasks)
        side.changes.run((start + turn) * side.changes._requests.config.gossip_ms)
        if max(side.roster.tasks) != before:
            assert not found, "once"
            found = turn
    return found


def test_only_the_lowest_that_is_up_plans_anew_and_only_when_all_is_steady() -> None:
    left, right = crossed()
    merge([left, right], random.Random(1))
    assert rounds(right, 3 * ROUNDS) == 0, "n1 is up, and lower"
    assert rounds(left, 3 * ROUNDS) == ROUNDS + 1
    left, right = crossed()
    merge([left, right], random.Random(1))
    right.changes._requests.dead = ["n1"]
    assert rounds(right, 3 * ROUNDS) == ROUNDS + 1


def test_what_is_staged_puts_planning_anew_off_and_not_for_ever() -> None:
    left, right = crossed()
    merge([left, right], random.Random(1))
    left.changes._stage({"verb": "reweight", "node": "n2", "weight": 2})
    assert rounds(left, ROUNDS_STAGED) == 0
    assert rounds(left, ROUNDS, ROUNDS_STAGED) == 1


def test_news_put_planning_anew_off_but_moves_do_not() -> None:
    left, right = crossed()
    merge([left, right], random.Random(1))
    assert rounds(left, ROUNDS) == 0
    left.roster.take("w/n4", Wish(2, IN, 2, 0))
    assert rounds(left, ROUNDS // 2, ROUNDS) == 0
    advance(left, random.Random(3))
    assert rounds(left, ROUNDS, 2 * ROUNDS) == ROUNDS - ROUNDS // 2 + 1


def test_a_node_that_starts_in_another_zone_moves_nothing_by_itself() -> None:
    """Only people move arcs; what they change next takes the zone into account."""
    left, right = crossed()
    merge([left, right], random.Random(1))
    assert left.changes.mend()
    record = left.roster.records["n3"]
    left.roster.take("n/n3", record._replace(incarnation=9, zone="b"))
    assert not planning.fits(left.roster, left.changes._requests.config)
    assert not left.changes.mend()
    verbs, _, decision = left.changes._decision()
    assert verbs == []
    assert decision.goals, "people may plan with nothing staged, for balance alone"


def test_with_nobody_to_stay_nothing_is_planned_and_nothing_breaks() -> None:
    config = Config(n=3, partitions=16)
    members = founders(random.Random(1), 2, 1)
    left, right = (Side(name, members, config) for name in ("n1", "n2"))
    left.commit([("leave", {"node": "n1"})])
    right.commit([("leave", {"node": "n2"})])
    merge([left, right], random.Random(1))
    assert left.roster.planned() == {}
    assert not left.changes.mend()
    left.commit([("join", {"node": "n1"})])  # it is leaving, and stays after all
    assert left.roster.status("n1") == IN
    check_wanted(left.roster, config)


def test_a_split_ring_that_was_changed_on_both_sides_mends_itself_once_and_rests() -> None:
    hand = Hand(6, partitions=16, gossip_ms=20)
    hand.isolate("n1", "n2", "n3")
    hand.run(600)
    stage(hand, "n1", "leave", "n2")
    stage(hand, "n5", "remove", "n3")
    tasks = [commit(hand, "n1")["task"], commit(hand, "n5")["task"]]
    hand.run(20 * ROUNDS + 200)
    assert [len(node.roster.tasks) for node in hand.nodes.values()] == [1] * 6
    hand.heal()
    hand.run(1_500)
    rosters = [hand.nodes[name].roster for name in hand.names if name != "n3"]
    known = [planning.task_id(number) for number in sorted(rosters[0].tasks)]
    assert len(known) == 3
    assert {*tasks} < {*known}
    assert len({roster.hash for roster in rosters}) == 1
    check_wanted(rosters[0], hand.config)
    hand.run(1_500)
    assert len(rosters[0].tasks) == 3, "it rests"
    assert sum(node.stats["ring_replans"] for node in hand.nodes.values()) == 1


# --- long histories of changes with the real planner ----------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_every_commit_of_a_long_history_is_valid_and_moves_no_more_than_it_must(seed: int) -> None:
    rng = random.Random(1_000 + seed)
    zones = rng.randint(1, 5)
    config = Config(n=rng.choice([1, 2, 3, 3, 3, 5]), partitions=64)
    side = Side("n1", founders(rng, rng.randint(1, 12), zones), config)
    flat = zones == 1
    for step in range(12):
        roster = side.roster
        inside = sorted(roster.planned())
        before = planning.wanted(roster)
        verb = rng.choice(["join", "join", "leave", "remove", "replace", "reweight"])
        node = rng.choice(inside)
        side.changes._requests.dead = [node] if verb == "remove" else []
        body: dict[str, Any] = {"node": node, "weight": 1 if flat else rng.choice([1, 2, 5])}
        newcomer = f"j{step}"
        if verb in ("join", "replace"):
            zone = roster.records[node].zone if verb == "replace" else f"z{rng.randrange(zones)}"
            roster.take(f"n/{newcomer}", JOINER._replace(zone="" if flat else zone))
            body |= {"node": newcomer} if verb == "join" else {"by": newcomer}
        if verb == "replace":
            del body["weight"]
        if (verb == "join" and len(inside) >= 24) or not side.commit([(verb, body)]):
            continue
        check_wanted(roster, config)
        after = planning.wanted(roster)
        moved = sum(len({*new} - {*old}) for old, new in zip(before, after, strict=True))
        load = Counter(name for names in before for name in names)
        if verb == "replace":
            assert moved == load[node], "exactly what the leaver had"
            assert all(newcomer in b for a, b in zip(before, after, strict=True) if node in a)
        if flat and verb == "join" and len(inside) >= config.n:
            assert moved <= -(-config.n * 64 // (len(inside) + 1)), "its share, and no more"
        arrive(roster)
        assert not side.changes.mend()


def test_a_forced_removal_after_the_fact_gives_the_copies_up() -> None:
    side = Side("n1", founders(random.Random(1), 5, 1), Config(n=3, partitions=16))
    side.changes._requests.dead = ["n4"]
    assert side.commit([("remove", {"node": "n4"})])
    assert not side.roster.forced("n4")
    with pytest.raises(Refusal, match="already"):
        side.changes._stage({"verb": "remove", "node": "n4"})
    assert side.commit([("remove", {"node": "n4", "force": True})])
    assert side.roster.wishes["n4"].flags == FORCED


# --- from outside ---------------------------------------------------------------------------------


@pytest.mark.net
def test_an_operator_asks_a_real_node_and_is_told_what_became_of_it() -> None:
    with local(nodes=4, durability="memory") as nodes:
        admin, (address, *_) = Admin(), nodes._addresses(["n1"]).values()
        told = admin.change(address, "stage", {"verb": "leave", "node": "n3"}, 5.0)
        assert told == (True, {"staged": [{"verb": "leave", "node": "n3"}]})
        assert admin.change(address, "clear", {}, 5.0) == (True, {"staged": []})
        told = admin.change(address, "stage", {"verb": "remove", "node": "n3"}, 5.0)
        assert told is not None
        assert told[0] is False
        assert told[1]["try"] == "dynamo cluster leave n3"
        (port,) = free_ports(1)
        assert admin.change(Address("127.0.0.1", port), "plan", {}, 0.2) is None
