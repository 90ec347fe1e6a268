"""What a node says of itself, of what it owes and of one key. Asking changes nothing."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import msgspec
import pytest
from hand import Hand

from dynamo.core import messages as m
from dynamo.core.spaces import OBJECTS, QUARANTINE


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
    before = {space: list(store.scan(space)) for space in range(5)}
    for what in ("status", "roots", "hints", f"key {hand.full().hex()}"):
        ask(hand, a, what)
    assert {space: list(store.scan(space)) for space in range(5)} == before


@pytest.mark.parametrize("text", ["", "zz", "00", "0162"])
def test_what_is_no_full_key_is_named_and_harmless(text: str) -> None:
    hand = Hand(3)
    assert "hex of a full key" in ask(hand, "n1", f"key {text}")["error"]


def test_a_question_that_nobody_knows_is_answered_with_nothing() -> None:
    assert ask(Hand(3), "n1", "the weather") == {}
