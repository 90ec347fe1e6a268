"""Puts and gets through a ring in the hand: who is asked, who counts, what the client hears."""

from __future__ import annotations

import pytest
from hand import Hand

from dynamo.core import messages as m


def test_a_put_is_answered_at_w_and_reaches_every_owner():
    hand = Hand()
    a, b, c = hand.owners()
    kind, _, context, values, acked, stand_ins = hand.put(a, "v")
    assert (kind, values, stand_ins) == (m.PUT_OK, [], [])
    assert acked == [a, b] or acked == [a, c]
    assert context
    assert [hand.values(name) for name in (a, b, c)] == [["v"]] * 3
    assert hand.record(a) == hand.record(b) == hand.record(c)


def test_a_get_asks_one_other_owner_with_the_digest_and_hears_same():
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v")
    hand.sent.clear()
    assert hand.read(a) == ["v"]
    fetches = [(dst, msg) for _, dst, msg in hand.sent if msg[0] == m.FETCH]
    answers = [msg for _, _, msg in hand.sent if msg[0] == m.FETCHED]
    assert len(fetches) == 1
    assert (answers[0][2], answers[0][4]) == (m.SAME, b"")


def test_an_absent_key_has_a_context_that_a_put_can_use():
    hand = Hand()
    a = hand.owners()[0]
    answer = hand.get(a)
    assert (answer[0], answer[3]) == (m.GET_OK, [])
    assert hand.put(a, "v", mode=m.CAUSAL, context=answer[2])[0] == m.PUT_OK


def test_a_delete_hides_the_value_and_a_put_over_it_shows_the_new_one():
    hand = Hand()
    a, b, c = hand.owners()
    seen = hand.put(a, "v1")[2]
    gone = hand.delete(a, "d", mode=m.CAUSAL, context=seen)
    assert (gone[0], gone[3]) == (m.PUT_OK, [])
    assert hand.read(b) == []
    assert hand.put(b, "v2")[3] == []
    assert hand.read(c) == ["v2"]


def test_a_blind_delete_removes_nothing():
    hand = Hand()
    a = hand.owners()[0]
    hand.put(a, "v1")
    answer = hand.delete(a, "d", mode=m.BLIND)
    assert [payload for _, payload in answer[3]] == [b"v1"]
    assert hand.read(a) == ["v1"]


def test_an_expired_value_is_hidden_and_still_in_the_clock():
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1", ttl_ms=50)
    assert hand.read(b) == ["v1"]
    hand.run(60)
    assert hand.read(b) == []
    assert hand.values(b) == ["v1"]


@pytest.mark.parametrize(("r", "counted"), [(1, 1), (m.QUORUM, 2), (m.ALL, 3), (m.DEFAULT, 2)])
def test_levels_of_a_read(r, counted):
    hand = Hand()
    a = hand.owners()[0]
    hand.put(a, "v")
    answer = hand.get(a, r=r)
    assert len(answer[4]) == counted


@pytest.mark.parametrize("levels", [{"w": 4}, {"pw": 4}, {"w": -7}])
def test_a_level_that_no_ring_like_this_can_meet_is_refused_with_nothing_done(levels):
    hand = Hand()
    a = hand.owners()[0]
    answer = hand.put(a, "v", **levels)
    assert (answer[0], answer[2], answer[8]) == (m.FAILED, m.INVALID, 0)
    assert hand.read(a) == []
    assert hand.get(a, r=4)[2] == m.INVALID


def test_a_slow_owner_is_hedged_and_its_late_answer_repairs_it():
    hand = Hand()
    a = hand.owners()[0]
    b, c = hand.nodes[a].table.others(hand.arc(), a)
    hand.put(a, "v1")
    hand.lose = lambda src, dst, message: dst == b and message[0] == m.REPLICATE
    hand.put(a, "v2")
    hand.heal()
    hand.hold = lambda src, dst, message: message[0] == m.FETCHED and src == b
    answer = hand.get(a, ms=80)
    assert [payload for _, payload in answer[3]] == [b"v2"]
    assert answer[4] == [a, c]
    assert hand.nodes[a].stats["hedged"] == 1
    hand.release()
    hand.run(5)
    assert hand.values(b) == ["v2"], "a straggler is repaired"


def test_read_repair_before_the_answer():
    hand = Hand(exchange_ms=1_000_000)
    a, b, c = hand.owners()
    hand.lose = lambda src, dst, message: message[0] == m.REPLICATE and dst == b
    hand.put(a, "v1")
    hand.heal()
    hand.hold = lambda src, dst, message: message[0] == m.REPLICATE_OK
    assert hand.get(a, r=3, flags=m.SLOPPY | m.REPAIR_FIRST) is None
    assert hand.values(b) == ["v1"]
    hand.release()
    hand.run(3)
    assert hand.answer()[0] == m.GET_OK


def test_with_two_of_three_owners_down_a_sloppy_put_uses_stand_ins_and_a_strict_one_is_refused():
    hand = Hand(nodes=5)
    a, b, c = hand.owners()
    hand.kill(b)
    hand.kill(c)
    hand.run(500)
    kind, _, _, _, acked, stand_ins = hand.put(a, "v1")
    assert kind == m.PUT_OK
    assert stand_ins[0][0] in acked
    assert stand_ins[0][1] in (b, c)
    strict = hand.put(a, "v2", flags=0)
    assert (strict[2], strict[5], strict[8]) == (m.UNAVAILABLE, 1, 0)
    strict = hand.put(a, "v3", pw=2)
    assert (strict[2], strict[8]) == (m.UNAVAILABLE, 0)
    assert hand.read(a) == ["v1"], "a refusal did nothing"


def test_a_sloppy_read_finds_the_hint_that_a_stand_in_holds():
    hand = Hand(nodes=5)
    a, b, c = hand.owners()
    hand.kill(b)
    hand.kill(c)
    hand.run(500)
    hand.put(a, "v1")
    answer = hand.get(a, ms=100)
    assert [payload for _, payload in answer[3]] == [b"v1"]
    assert any(name not in (a, b, c) for name in answer[4])


def test_a_node_that_is_no_owner_forwards_once():
    hand = Hand(nodes=5)
    owners = hand.owners()
    spare = next(name for name in hand.names if name not in owners)
    assert hand.put(spare, "v1")[0] == m.PUT_OK
    assert hand.read(spare) == ["v1"]
    assert hand.hints(spare) == 0
    assert len([1 for src, _, msg in hand.sent if msg[0] == m.FORWARD]) == 2


def test_a_forward_that_meets_a_silent_owner_goes_to_the_next_as_a_further_attempt():
    hand = Hand(nodes=5)
    owners = hand.owners()
    spare = next(name for name in hand.names if name not in owners)
    hand.lose = lambda src, dst, message: dst == owners[0]
    answer = hand.put(spare, "v1", ms=400)
    assert answer[0] == m.PUT_OK
    attempts = [msg[2][9] for _, _, msg in hand.sent if msg[0] == m.FORWARD]
    assert attempts == [0, 1]
    assert any(msg[0] == m.ASK_ID for _, _, msg in hand.sent)


def test_a_silent_owner_gets_a_stand_in_after_the_replica_timeout():
    hand = Hand(nodes=5)
    a, b, c = hand.owners()
    hand.lose = lambda src, dst, message: dst == b
    hand.put(a, "v1", ms=170)
    held = [name for name in hand.names if hand.hints(name)]
    assert len(held) == 1
    assert held[0] not in (a, b, c)
    assert not hand.nodes[a].requests.pending, "the operation is over once everybody is covered"


def test_a_value_over_the_limit_and_a_key_over_the_limit_are_refused_with_the_numbers():
    hand = Hand(value_bytes_max=100, key_bytes_max=10)
    a = hand.owners()[0]
    answer = hand.put(a, "x" * 101, put_id="x")
    assert (answer[2], answer[3]) == (m.TOO_LARGE, "the value has 101 bytes; at most 100 fit")
    answer = hand.put(a, "v", key="12345678901")
    assert (answer[2], answer[3]) == (m.KEY_TOO_LONG, "the key has 11 bytes; at most 10 fit")


def test_a_full_disk_refuses_puts_and_keeps_reads_and_deletes():
    hand = Hand()
    a = hand.owners()[0]
    seen = hand.put(a, "v1")[2]
    hand.stores[a].disk_full = True
    answer = hand.put(a, "v2", mode=m.CAUSAL, context=seen)
    assert (answer[2], answer[8]) == (m.DISK_FULL, 0)
    assert hand.read(a) == ["v1"]
    assert hand.delete(a, "d", mode=m.CAUSAL, context=seen)[0] == m.PUT_OK
    hand.stores[a].disk_full = False
    assert hand.put(a, "v3")[0] == m.PUT_OK


def test_a_synced_write_asked_of_a_node_without_a_disk_is_refused():
    hand = Hand()
    answer = hand.put(hand.owners()[0], "v", flags=m.SLOPPY | m.DURABLE)
    assert (answer[2], answer[8]) == (m.INVALID, 0)


def test_a_request_number_of_an_earlier_life_counts_nowhere():
    """C1: late acknowledgements after a restart do not count toward another operation."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.hold = lambda src, dst, message: message[0] == m.REPLICATE_OK
    hand.put(a, "v1", ms=5)
    hand.kill(a)
    hand.start(a)
    hand.run(60)
    late = [entry for entry in hand.held if entry[1] == a]
    hand.held = []
    hand.lose = lambda src, dst, message: message[0] == m.REPLICATE
    hand.put(a, "v2", ms=3)
    hand.flying += late
    hand.run(3)
    assert hand.answer() is None


def test_a_message_of_the_wrong_side_is_counted_and_dropped():
    hand = Hand()
    node = hand.nodes["n1"]
    hand.flying.append(("client", "n1", (m.PING, 1)))
    hand.flying.append(("n2", "n1", (m.RING, 1, 1000, 0)))
    hand.run(2)
    assert node.stats["unexpected"] == 2


def test_a_malformed_object_from_a_peer_changes_nothing():
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1")
    for obj in (b"junk", b"\x91\x93\xc4\x01a\x01\x90", b"\xdf\xff\xff\xff\xff"):
        hand.flying.append((b, a, (m.REPLICATE, 9, 500, hand.full(), 1, 0, "", 0, 0, b"", [], obj)))
    hand.flying.append((b, a, (m.REPLICATE, 9, 500, hand.full(), 1, 0, "", 0, 0, b"", ["x"], b"")))
    hand.flying.append((b, a, (m.FORWARD, 9, [m.PUT, "x"], 1, 0)))
    hand.flying.append((b, a, (m.KEYS, 9, 500, 77, b"a", b"b", [])))
    hand.flying.append((b, a, (m.ROOTS, 9, 500, [1, 2])))
    hand.run(3)
    assert hand.nodes[a].stats["malformed"] == 7
    assert hand.read(a) == ["v1"]


def test_an_acknowledgement_from_before_a_disk_was_lost_counts_nowhere():
    """C1 (found by the simulator): start counters begin anew with the disk, numbers must not."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.hold = lambda src, dst, message: message[0] == m.REPLICATE_OK and dst == a
    hand.put(a, "v1", ms=5)
    hand.kill(a)
    hand.wipe(a)
    hand.start(a)
    hand.run(200)
    late = [entry for entry in hand.held if entry[1] == a]
    hand.held = []
    hand.lose = lambda src, dst, message: message[0] == m.REPLICATE
    hand.put(a, "v2", mode=m.BLIND, ms=3)
    hand.flying += late
    hand.run(3)
    assert hand.answer() is None


def test_a_refusal_of_the_second_owner_does_not_speak_for_the_silent_first():
    """C1 (found by the simulator): "nothing was done" was passed on of a put that was applied."""
    hand = Hand(nodes=5)
    owners = hand.owners()
    spare = next(name for name in hand.names if name not in owners)
    hand.hold = lambda src, dst, message: src == owners[0] and message[0] == m.FORWARDED
    hand.run(60)
    hand.stores[owners[1]].disk_full = True
    hand.put(spare, "v1", ms=200)
    refusals = [msg for src, _, msg in hand.sent if msg[0] == m.FORWARDED and src == owners[1]]
    assert refusals[0][2][0] == m.FAILED
    assert hand.answer() is None
    hand.release()
    hand.run(3)
    assert hand.answer()[0] == m.PUT_OK


def test_an_owner_that_is_not_synced_does_not_count_toward_pr_either():
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1")
    hand.kill(a)
    hand.wipe(a)
    hand.start(a)
    hand.lose = lambda src, dst, message: message[0] in (m.ROOTS, m.KEYS)
    hand.run(60)
    answer = hand.get(a, pr=3)
    assert (answer[0], answer[2], answer[5]) == (m.FAILED, m.UNAVAILABLE, 2)
    assert hand.read(a, pr=2) == ["v1"]


def test_repairs_are_awaited_for_their_own_time_not_for_the_hedge_that_was_due():
    """Found by the simulator: the hedge's wake gave repairs up a millisecond after they left."""
    hand = Hand(exchange_ms=1_000_000, hedge_ms_max=6)
    a = hand.owners()[0]
    b, c = hand.nodes[a].table.others(hand.arc(), a)
    hand.put(a, "1", mode=m.BLIND)
    hand.lose = lambda src, dst, message: message[0] == m.REPLICATE and dst == b
    hand.put(a, "2", mode=m.BLIND)
    hand.heal()
    hand.hold = lambda src, dst, message: message[0] == m.REPLICATE_OK
    assert hand.get(a, ms=40) is None, "several values, and b had only one: repaired first"
    hand.release()
    hand.run(3)
    assert [payload for _, payload in hand.answer()[3]] == [b"2", b"1"]


def test_a_read_of_all_owners_asks_again_where_a_frame_was_lost():
    """Found by the simulator: one lost answer, and a read at r=3 waited for it to its deadline."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1")
    hand.lose = lambda src, dst, message: message[0] == m.FETCHED and src == b
    assert hand.get(a, r=3, ms=60) is None
    hand.heal()
    hand.run(200)
    assert hand.answer()[0] == m.GET_OK
    assert sorted(hand.answer()[4]) == sorted([a, b, c])


def test_a_read_that_the_owners_in_reach_cannot_answer_is_refused_before_its_deadline():
    """Found with the demo: silence, though the owner and every stand-in had answered at once."""
    hand = Hand(nodes=5)
    a, b, c = hand.owners()
    hand.put(a, "v1")
    spare = next(name for name in hand.names if name not in (a, b, c))
    hand.isolate(a, spare)
    hand.run(600)  # until they are DOWN to each other
    answer = hand.get(a, ms=20)
    assert answer is not None, "nobody is left who could answer, and the client still waits"
    assert (answer[0], answer[2], answer[5]) == (m.FAILED, m.UNAVAILABLE, 1)
    assert hand.read(b) == ["v1"], "the side with two owners reads"


def test_a_hint_alone_does_not_answer_a_strict_read():
    """PR counts owners (short seed 116): the only one was cut off, and not DOWN yet."""
    hand = Hand(nodes=3, n=1)
    (owner,) = hand.owners()
    spare = next(name for name in hand.names if name != owner)
    hand.lose = lambda src, dst, message: owner in (src, dst)
    hand.put(spare, "kept", ms=400)
    assert hand.hints(spare) == 1
    message = (m.GET, 77, 300, hand.full(), 1, 0, 1, 1, m.SLOPPY)
    hand.flying.append(("client", spare, message))
    hand.run(500)
    assert not [reply for reply in hand.replies if reply[0] == m.GET_OK and reply[1] == 77]
