"""What a node says of itself, of what it owes and of one key. Asking changes nothing."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import msgspec
import pytest
from hand import Hand

from dynamo.core import messages as m
from dynamo.core import ring
from dynamo.core.items import LEFT, REMOVED, Record, Wish
from dynamo.core.spaces import ALL, OBJECTS, QUARANTINE


def ask(hand: Hand, name: str, what: str) -> dict[str, Any]:
    inbox = [(b"asker", (m.STATUS, 1, 1_000, what), hand.now)]
    outbox = hand.nodes[name].step(hand.now, inbox)
    found = [message for to, message in outbox if to == b"asker"]
    assert [message[:2] for message in found] == [(m.STATUS_IS, 1)]
    answer: dict[str, Any] = msgspec.json.decode(found[0][2])
    return answer


def ask_key(hand: Hand, name: str, key: str = "k") -> dict[str, Any]:
    return ask(hand, name, f"key {hand.full(key).hex()}")


def shown(obj: dict[str, Any]) -> list[tuple[str, bool]]:
    """(payload, minted here) of every value in an answer."""
    return [
        (b64decode(value["payload"]).decode(), entry["minted_here"])
        for entry in obj["entries"]
        for value in entry["values"]
    ]


def test_every_owner_shows_its_row_and_only_the_coordinator_calls_the_dot_its_own() -> None:
    hand = Hand(4)
    a, b, c = hand.owners()
    outsider = next(name for name in hand.names if name not in hand.owners())
    hand.put(a, "tea")
    answers = {name: ask_key(hand, name) for name in hand.names}
    assert {x["arc"] for x in answers.values()} == {hand.arc()}
    assert all(x["owners"] == [a, b, c] and x["fallbacks"] == [outsider] for x in answers.values())
    assert [answers[name]["owner"] for name in (a, b, c, outsider)] == [True, True, True, False]
    assert len({answers[name]["row"]["digest"] for name in (a, b, c)}) == 1
    assert shown(answers[a]["row"]) == [("tea", True)]
    assert shown(answers[b]["row"]) == [("tea", False)]
    assert answers[outsider]["row"] is None
    assert answers[outsider]["synced"] is False


def test_a_hint_shows_with_its_home_and_its_object() -> None:
    hand = Hand(4)
    a, b, c = hand.owners()
    outsider = next(name for name in hand.names if name not in hand.owners())
    hand.isolate(c)
    hand.run(600)
    hand.put(a, "tea")
    assert list(ask(hand, a, "status")["silent_ms"]) == [c]
    assert ask(hand, a, "status")["silent_ms"][c] >= 600
    hint = ask_key(hand, outsider)["hint"]
    assert hint["homes"] == [c]
    assert shown(hint["obj"]) == [("tea", False)]
    owed = ask(hand, outsider, "hints")
    assert [(x["home"], x["count"]) for x in owed["hints"]] == [(c, 1)]
    assert owed["hints"][0]["bytes"] > 0
    assert owed["hints"][0]["oldest_wall_ms"] == hint["since_wall_ms"]
    assert ask(hand, outsider, "status")["hint_bytes"][c] == owed["hints"][0]["bytes"]
    hand.settle()
    assert ask(hand, outsider, "hints")["hints"] == []
    assert ask(hand, outsider, "hints")["delivered"] == 1
    assert ask_key(hand, outsider)["hint"] is None
    assert b in ask_key(hand, c)["owners"]


def test_siblings_and_tombstones_show_dot_by_dot() -> None:
    hand = Hand(3)
    a, b, _ = hand.owners()
    hand.put(a, "tea", mode=m.BLIND)
    hand.put(b, "jam", mode=m.BLIND)
    assert sorted(shown(ask_key(hand, a)["row"])) == [("jam", False), ("tea", True)]
    hand.delete(a, "gone", mode=m.CAUSAL, context=hand.context(a))
    row = ask_key(hand, a)["row"]
    values = [value for entry in row["entries"] for value in entry["values"]]
    assert [(value["tombstone"], value["bytes"]) for value in values] == [(True, 0)]
    assert sum(not entry["values"] for entry in row["entries"]) == 1  # jam: known, superseded


def test_a_retired_actor_still_counts_as_the_stores_own() -> None:
    hand = Hand(3)
    a, _, _ = hand.owners()
    hand.put(a, "tea")
    hand.nodes[a].replica.retire(hand.arc(), "test")
    assert shown(ask_key(hand, a)["row"]) == [("tea", True)]


def test_a_corrupt_record_is_reported_and_left_where_it_is() -> None:
    hand = Hand(3)
    a, b, _ = hand.owners()
    hand.put(a, "tea")
    record = bytearray(hand.record(b))
    record[-1] ^= 1
    hand.stores[b].put(OBJECTS, hand.skey(), bytes(record))
    hand.stores[b].commit()
    answer = ask_key(hand, b)
    assert (answer["corrupt"], answer["row"]) == (True, None)
    assert hand.stores[b].get(QUARANTINE, hand.skey()) is None
    assert hand.stores[b].get(OBJECTS, hand.skey()) == bytes(record)


def test_asking_changes_nothing() -> None:
    hand = Hand(4)
    a, _, c = hand.owners()
    hand.isolate(c)
    hand.run(600)
    hand.put(a, "tea")
    store = hand.stores[a]
    before = {space: list(store.scan(space)) for space in ALL}
    whats = ("status", "roots", "hints", "members", "tasks", "table", "transfers", "gossip")
    for what in (*whats, f"key {hand.full().hex()}"):
        ask(hand, a, what)
    assert {space: list(store.scan(space)) for space in ALL} == before


@pytest.mark.parametrize("text", ["", "zz", "00", "0162"])
def test_what_is_no_full_key_is_named_and_harmless(text: str) -> None:
    hand = Hand(3)
    assert "hex of a full key" in ask(hand, "n1", f"key {text}")["error"]


def test_a_question_that_nobody_knows_is_answered_with_nothing() -> None:
    assert ask(Hand(3), "n1", "the weather") == {}


# --- the ring -------------------------------------------------------------------------------------


NOT_HEARD = ("unknown", "suspect", "down")  # of a node, since this one started


def tell(hand: Hand, name: str, what: str, /, **body: Any) -> dict[str, Any]:
    message = (m.CHANGE, 2, 1_000, what, msgspec.json.encode(body))
    outbox = hand.nodes[name].step(hand.now, [(b"asker", message, hand.now)], 9_000)
    ((_, answer),) = [sent for sent in outbox if sent[0] == b"asker"]
    assert answer[:3] == (m.CHANGED, 2, 1), answer
    told: dict[str, Any] = msgspec.json.decode(answer[3])
    return told


def commit(hand: Hand, name: str) -> str:
    task: str = tell(hand, name, "commit", plan=tell(hand, name, "plan")["plan"])["task"]
    return task


def test_members_are_all_nodes_of_whatever_status() -> None:
    hand = Hand(4)
    hand.kill("n4")
    hand.run(600)
    roster = hand.nodes["n1"].roster
    roster.take("n/n5", Record(3, "far", 7, 8, "z2"))
    roster.take("w/n6", Wish(2, REMOVED, 4, 0))
    tell(hand, "n1", "stage", verb="leave", node="n2")
    told = ask(hand, "n1", "members")
    assert (told["node"], told["hash"], told["closed"]) == ("n1", f"{roster.hash:016x}", "")
    assert told["staged"] == [{"verb": "leave", "node": "n2"}]
    rows = {row.pop("node"): row for row in told["members"]}
    assert [(name, row["status"]) for name, row in rows.items()] == [
        ("n1", "in"), ("n2", "in"), ("n3", "in"), ("n4", "in"), ("n5", "out"), ("n6", "removed"),
    ]  # fmt: skip
    states = [row.pop("state") for row in rows.values()]
    assert states[:4] == ["up", "up", "up", "down"]
    assert states[4] in NOT_HEARD
    assert states[5] == "unknown"
    assert rows["n5"] == {
        "address": "far:7", "peer": "far:8", "zone": "z2", "weight": 1, "status": "out",
        "incarnation": 3, "replicas": 0, "primary": 0,
    }  # fmt: skip
    assert sum(row["replicas"] for row in rows.values()) == 24
    assert sum(row["primary"] for row in rows.values()) == 8
    roster.take("w/n1", Wish(2, REMOVED, 1, 0))
    assert "was removed" in ask(hand, "n1", "members")["closed"]


def test_the_table_shows_registers_and_goals() -> None:
    hand = Hand(4)
    tell(hand, "n1", "stage", verb="leave", node="n2")
    commit(hand, "n1")
    node = hand.nodes["n1"]
    told = ask(hand, "n1", "table")
    assert told["partitions"] == len(told["registers"]) == len(told["goals"]) == 8
    assert (told["n"], told["ring"]) == (3, node.table.version)
    for arc, register in enumerate(node.table.registers):
        assert told["registers"][arc] == [register.ver, register.phase, list(register.cur), []]
        assert told["goals"][arc] == list(node.roster.goals[arc].owners)


def test_a_task_shows_what_it_is_how_far_it_is_and_what_it_waits_for() -> None:
    hand = Hand(4)
    roster = hand.nodes["n1"].roster
    roster.take("n/n5", Record(1, "far", 7, 8, ""))
    tell(hand, "n1", "stage", verb="join", node="n5")
    tell(hand, "n1", "stage", verb="leave", node="n2")
    task = commit(hand, "n1")
    (told,) = ask(hand, "n1", "tasks")["tasks"]
    assert told.pop("arcs") > 0
    (waits,) = told.pop("waiting")
    assert waits.endswith(f"{arcs(roster, 'n5')} arcs wait for it")
    assert told == {
        "task": task, "state": "running", "started_wall_ms": 9_000, "arcs_done": 0,
        "changes": ["n2 leaves", "n5 joins with weight 1"],
    }  # fmt: skip
    arrive(roster)
    (told,) = ask(hand, "n1", "tasks")["tasks"]
    assert told["arcs"] == told["arcs_done"]
    assert (told["state"], told["waiting"]) == ("running", ["n2 hands over what it still holds"])
    roster.change("w/n2", Wish(3, LEFT, 1, 0))
    (told,) = ask(hand, "n1", "tasks")["tasks"]
    assert (told["state"], told["waiting"]) == ("done", [])


def test_an_aborted_task_and_a_taken_over_one_say_so() -> None:
    hand = Hand(4)
    roster = hand.nodes["n1"].roster
    for name in ("n5", "n6"):
        roster.take(f"n/{name}", Record(1, "far", 7, 8, ""))
    tell(hand, "n1", "stage", verb="join", node="n5")
    first = commit(hand, "n1")
    tell(hand, "n1", "abort", task=first)
    told = {task["task"]: task for task in ask(hand, "n1", "tasks")["tasks"]}
    assert told[first]["state"] == "aborted"
    (undo,) = [task for name, task in told.items() if name != first]
    assert (undo["state"], undo["changes"]) == ("done", [f"{first} is taken back"])
    tell(hand, "n1", "resume", task=first)
    tell(hand, "n1", "stage", verb="replace", node="n1", by="n6")
    last = commit(hand, "n1")
    tasks = ask(hand, "n1", "tasks")["tasks"]
    assert tasks[0]["task"] == last, "the last one first"
    assert tasks[0]["changes"] == ["n6 takes the places of n1, which leaves"]
    for task in tasks[1:]:
        if task["state"] == "superseded":
            assert task["waiting"] == [f"its arcs go on under {last}"]


def arcs(roster: Any, newcomer: str) -> int:
    return sum(newcomer in goal.owners for goal in roster.goals)


def arrive(roster: Any) -> None:
    for arc, goal in enumerate(roster.goals):
        register = roster.table.registers[arc]
        if goal.ver and {*register.cur} != {*goal.owners}:
            move = ring.proposal(register.round + 1, ring.COPYING, register.cur, goal.owners)
            roster.adopt(arc, ring.advanced(ring.advanced(move)))


def test_transfers_and_gossip_show_what_their_owners_tell() -> None:
    hand = Hand(3)
    inspection = hand.nodes["n1"].inspection
    inspection.movers[:] = [lambda: [{"what": "copy", "arc": 3}], lambda: [{"what": "drop"}]]
    inspection.rates[:] = [lambda: 5, lambda: 7]
    inspection.gossip_view = lambda: {"rounds": 4}
    told = ask(hand, "n1", "transfers")
    assert [line["what"] for line in told["transfers"]] == ["copy", "drop"]
    assert told["rate_bytes_per_s"] == 12
    assert told["limit_bytes_per_s"] == hand.config.transfer_bytes_per_s
    told = ask(hand, "n2", "gossip")
    assert (told["node"], told["hash"]) == ("n2", f"{hand.nodes['n2'].roster.hash:016x}")
    assert list(told["peers"]) == ["n1", "n3"]
    told = ask(hand, "n1", "gossip")
    assert told == {"node": "n1", "hash": f"{hand.nodes['n1'].roster.hash:016x}", "rounds": 4}


def test_a_node_that_is_drained_shows_it() -> None:
    hand = Hand(3)
    assert ask(hand, "n1", "status")["draining"] is False
    tell(hand, "n1", "drain")
    assert ask(hand, "n1", "status")["draining"] is True
    assert "drained" in ask(hand, "n1", "members")["closed"]
