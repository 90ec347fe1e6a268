"""Owners compare arcs and bring each other up to date."""

from __future__ import annotations

import pytest
from hand import Hand

from dynamo.core import messages as m
from dynamo.core import ring
from dynamo.core.ballots import ABSTAIN_MS
from dynamo.core.items import Goal
from dynamo.core.planner import tie_of
from dynamo.core.spaces import OBJECTS, QUARANTINE


def load(hand: Hand, count: int, missing_at: str = "") -> list[str]:
    """Put `count` keys whose replicas at `missing_at` never arrive; the keys it should own."""
    keys = [f"key{i}" for i in range(count)]
    hand.lose = lambda src, dst, message: dst == missing_at and message[0] == m.REPLICATE
    for key in keys:
        via = next(name for name in hand.owners(key) if name != missing_at)
        assert hand.put(via, f"v-{key}", key=key, put_id=key, ms=4)[0] == m.PUT_OK
    hand.heal()
    return [key for key in keys if missing_at in hand.owners(key)]


def roots_agree(hand: Hand) -> bool:
    for arc in range(hand.config.partitions):
        owners = hand.nodes["n1"].table.owners(arc)
        if len({hand.nodes[name].replica.roots.get(arc, 0) for name in owners}) > 1:
            return False
    return True


def test_what_an_owner_missed_is_found_without_a_read():
    hand = Hand(replica_timeout_ms=100_000)
    c = "n3"
    keys = load(hand, 60, missing_at=c)
    assert not roots_agree(hand)
    hand.settle(100)
    assert roots_agree(hand)
    assert [hand.values(c, key) for key in keys] == [[f"v-{key}"] for key in keys]


def test_both_sides_of_a_difference_take_the_others_rows():
    hand = Hand(replica_timeout_ms=100_000)
    a, b, c = hand.owners()
    hand.isolate(a)
    hand.put(a, "left", mode=m.BLIND, w=1)
    hand.put(b, "right", mode=m.BLIND, w=1)
    hand.settle(300)
    assert [hand.values(name) for name in (a, b, c)] == [["left", "right"]] * 3


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_a_walk_goes_page_by_page_and_carries_on(rows):
    hand = Hand(replica_timeout_ms=100_000, exchange_rows=rows, partitions=2)
    keys = load(hand, 40, missing_at="n2")
    hand.settle(400)
    assert roots_agree(hand)
    assert all(hand.values("n2", key) for key in keys)


def test_a_walk_whose_page_was_lost_is_taken_up_again():
    hand = Hand(replica_timeout_ms=100_000, exchange_ms=500)
    load(hand, 20, missing_at="n2")
    hand.lose = lambda src, dst, message: message[0] == m.KEYS_ARE
    for node in hand.nodes.values():
        node.exchange.hurry_all()
    hand.run(200)
    assert not roots_agree(hand)
    hand.heal()
    hand.run(2500)
    assert roots_agree(hand)


def test_a_wiped_node_is_filled_again_and_is_ready_only_then():
    """X1."""
    hand = Hand(partitions=4)
    keys = load(hand, 50)
    hand.kill("n2")
    hand.wipe("n2")
    hand.lose = lambda src, dst, message: message[0] == m.KEYS_ARE
    node = hand.start("n2")
    hand.run(300)
    assert not node.ready
    hand.heal()
    hand.run(3000)
    assert node.ready
    assert [hand.values("n2", key) for key in keys] == [[f"v-{key}"] for key in keys]
    hand.kill("n2")
    assert hand.start("n2").ready, "it is durable that the arcs are synced"


def test_a_fresh_ring_is_ready_once_its_members_have_met():
    hand = Hand(nodes=5)
    assert all(node.ready for node in hand.nodes.values())
    lone = Hand(nodes=1)
    assert lone.nodes["n1"].ready
    assert lone.put("n1", "v")[0] == m.PUT_OK
    assert lone.read("n1") == ["v"]


def test_a_corrupt_record_is_unknown_set_aside_and_healed():
    """I14: corrupt is not absent; it is never returned, and peers heal it."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1")
    hand.put(a, "v2")
    store = hand.stores[a]
    good = hand.record(a)
    prefix = hand.nodes[a].replica.prefix(hand.arc())
    store.put(OBJECTS, hand.skey(), good[:-1] + b"?")
    store.commit()
    hand.hold = lambda src, dst, message: message[0] in (m.ROOTS_ARE, m.KEYS_ARE)
    answer = hand.get(a)
    assert [payload for _, payload in answer[3]] == [b"v2"]
    assert sorted(answer[4]) == sorted([b, c]), "the doubted owner does not count"
    assert hand.nodes[a].stats["records_corrupt"] == 1
    assert not hand.nodes[a].ready
    assert hand.nodes[a].replica.prefix(hand.arc()) != prefix, "D3"
    assert list(store.scan(QUARANTINE)) == [(hand.skey(), good[:-1] + b"?")]
    hand.release()
    hand.run(1500)
    assert hand.nodes[a].ready
    assert hand.record(a) == good


def test_an_auto_put_at_a_wiped_owner_is_a_plain_overwrite():
    """ "What the coordinator holds" must not be nothing because its disk was lost."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1")
    hand.kill(a)
    hand.wipe(a)
    hand.start(a)
    hand.lose = lambda src, dst, message: message[0] in (m.ROOTS, m.KEYS)
    hand.run(20)
    answer = hand.put(a, "v2")
    assert (answer[0], answer[3]) == (m.PUT_OK, [])
    assert hand.read(b) == ["v2"]


def test_equal_replicas_exchange_roots_and_nothing_else():
    hand = Hand()
    load(hand, 30)
    hand.settle(50)
    hand.sent.clear()
    for node in hand.nodes.values():
        node.exchange.hurry_all()
    hand.run(20)
    found = {msg[0] for _, _, msg in hand.sent} - {m.PING, m.PONG}
    assert found == {m.ROOTS, m.ROOTS_ARE}


def test_a_difference_that_is_a_write_under_way_is_not_walked():
    """DESIGN §6: confirmed before anything is compared key by key."""
    hand = Hand(exchange_ms=100, replica_timeout_ms=10_000)
    a, b, c = hand.owners()
    hand.hold = lambda src, dst, message: dst == c and message[0] == m.REPLICATE
    for i in range(10):
        hand.put(a, f"v{i}", mode=m.BLIND, ms=35)
        if i % 3 == 2:
            hand.flying += hand.held
            hand.held = []
    assert not [msg for _, _, msg in hand.sent if msg[0] == m.KEYS and msg[6]]
    hand.run(800)
    assert [msg for _, _, msg in hand.sent if msg[0] == m.KEYS and msg[6]], "it stayed: walked"
    assert roots_agree(hand)


def test_two_wiped_owners_do_not_vouch_for_each_other():
    """X1 (found by the simulator): their roots are equal, and so is what they do not know."""
    hand = Hand(r=1, w=3)
    a, b, c = hand.owners()
    hand.put(a, "v1")
    for name in (a, b, c):
        hand.kill(name)
    for name in (a, b):
        hand.wipe(name)
        hand.start(name)
    hand.run(1500)
    assert not hand.nodes[a].ready
    assert not hand.nodes[b].ready
    assert hand.get(a, r=1, timeout_ms=100, ms=110)[0] == m.FAILED
    hand.start(c)
    hand.run(2500)
    assert hand.nodes[a].ready
    assert hand.read(a, r=1) == ["v1"]


# --- owners change ------------------------------------------------------------------------------


def move(hand: Hand, *owners: str) -> None:
    """Have the arc of "k" owned by others, as `moves` does it."""
    goal = Goal(1 << ring.BALLOT_BITS, tie_of(owners, ()), owners)
    hand.run(ABSTAIN_MS)
    next(iter(hand.nodes.values())).roster.change(f"g/{hand.arc()}", goal)
    hand.run(300)
    assert hand.owners() == owners


def test_a_node_that_has_let_go_of_an_arc_does_not_pull_it_back():
    """It had kept asking those it once owned the arc with, found a difference, and walked it."""
    hand = Hand(nodes=5, exchange_ms=200)
    a, b, c = hand.owners()
    new = next(name for name in hand.names if name not in (a, b, c))
    hand.put(a, "v")
    move(hand, new, b, c)
    hand.sent.clear()
    for node in hand.nodes.values():
        node.exchange.hurry_all()
    hand.run(1500)
    assert not hand.values(a)
    arc = hand.arc()
    asked = {
        name
        for src, dst, msg in hand.sent
        if msg[0] == m.ROOTS and arc in [row[0] for row in msg[3]]
        for name in (src, dst)
    }
    assert asked == {new, b, c}
    assert hand.nodes[new].replica.synced(arc)
    assert not hand.nodes[a].replica.synced(arc)


def test_a_new_owner_is_repaired_like_any_other():
    hand = Hand(nodes=5, exchange_ms=200)
    a, b, c = hand.owners()
    new = next(name for name in hand.names if name not in (a, b, c))
    move(hand, new, b, c)
    hand.lose = lambda src, dst, message: dst == new and message[0] == m.REPLICATE
    hand.put(b, "v", w=2)
    hand.heal()
    hand.run(1200)
    assert hand.values(new) == ["v"]


def test_an_unsynced_owner_counts_nobody_that_holds_another_register():
    """V7: first one of the two is taught, then they compare."""
    hand = Hand(nodes=4)
    a, b, c = hand.owners()
    arc = hand.arc()
    hand.put(a, "v")
    hand.run(ABSTAIN_MS)
    hand.kill(a)
    hand.wipe(a)
    # Nobody but the owners' comparison may tell.
    told = (m.ITEMS, m.BUCKETS, m.GOSSIP)
    other = next(name for name in hand.names if name not in (a, b, c))
    coming = ring.proposal(3, ring.COPYING, (a, b, c), (other, b, c))
    hand.start(a)
    hand.run(3)
    hand.lose = lambda src, dst, message: message[0] in (*told, m.REGISTERED, m.REGISTER)
    for name in (b, c):
        hand.nodes[name].roster.adopt(arc, coming)
    hand.kill(other)
    hand.nodes[a].replica.set_synced(arc, False)
    hand.nodes[a].exchange.watch(arc)
    hand.nodes[a].exchange.hurry_all()
    hand.run(1500)
    assert not hand.nodes[a].replica.synced(arc)
    hand.lose = lambda src, dst, message: message[0] in told
    hand.run(1500)
    assert hand.nodes[a].table.registers[arc] == coming
    assert hand.nodes[a].replica.synced(arc)
