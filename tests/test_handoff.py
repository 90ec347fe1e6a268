"""Hints: kept for the owner that was away, delivered when it is back, erased on proof."""

from __future__ import annotations

import pytest
from hand import Hand

from dynamo.core import messages as m
from dynamo.core import ring
from dynamo.core.exchange import Exchange
from dynamo.core.handoff import REROUTE_ROWS, Handoff
from dynamo.core.items import FORCED, REMOVED, Wish
from dynamo.core.spaces import HINTS, META


def spare_of(hand: Hand) -> str:
    return next(name for name in hand.names if name not in hand.owners())


def away(nodes: int = 4, **config) -> tuple[Hand, str, str]:
    """A ring whose last owner of "k" is down and known to be; that owner, and the stand-in."""
    hand = Hand(nodes=nodes, exchange_ms=1_000_000, **config)
    home = hand.owners()[2]
    hand.kill(home)
    hand.run(500)
    return hand, home, spare_of(hand)


def test_a_hint_returns_home_when_the_owner_is_back():
    """Dynamo §4.6."""
    hand, home, spare = away()
    hand.put(hand.owners()[0], "v1")
    assert hand.nodes[spare].handoff.counts() == {home: 1}
    hand.start(home)
    hand.lose = lambda src, dst, message: message[0] in (m.KEYS, m.ROOTS)
    hand.run(150)
    assert hand.values(home) == ["v1"]
    assert hand.hints(spare) == 0
    assert hand.nodes[spare].handoff.counts() == {}


def test_one_row_per_key_however_many_writes():
    hand, home, spare = away()
    for value in ("v1", "v2", "v3"):
        hand.put(hand.owners()[0], value)
    assert hand.hints(spare) == 1
    assert hand.nodes[spare].stats["hints_created"] == 1


def test_refused_hints_make_a_round_now_and_then_and_not_one_each():
    """A write past the window refuses a hint, and asks for a comparison: a few a second at most."""
    hand = Hand(nodes=3, exchange_ms=1_000_000, hint_bytes_max=1)
    home = hand.owners()[2]
    hand.kill(home)
    hand.run(500)
    coordinator = hand.owners()[0]
    before = len(hand.sent)
    for i in range(60):
        hand.put(coordinator, f"v{i}", key=f"k{i}", mode=m.BLIND)
    assert hand.nodes[coordinator].stats["hints_refused"] > 50
    rounds = [entry for entry in hand.sent[before:] if entry[2][0] == m.ROOTS]
    assert 1 <= len(rounds) <= 4, "720 ms, and one peer that is up"


def lost_acknowledgement() -> tuple[Hand, str]:
    hand, home, spare = away()
    hand.put(hand.owners()[0], "v1")
    hand.start(home)
    hand.lose = lambda src, dst, message: src == spare and message[0] == m.REPLICATE
    hand.run(150)
    return hand, spare


def test_a_hint_is_erased_only_after_its_home_acknowledged(monkeypatch):
    """H1: erased on send, a lost message is a lost write (trap 16)."""
    hand, spare = lost_acknowledgement()
    assert hand.hints(spare) == 1

    deliver = Handoff._deliver

    def erase_on_send(self, home, skey, now_ms):
        size = deliver(self, home, skey, now_ms)
        self._erase(home, skey, self.row(skey))
        return size

    monkeypatch.setattr(Handoff, "_deliver", erase_on_send)
    hand, spare = lost_acknowledgement()
    assert hand.hints(spare) == 0, "gone, and nobody has it"


def test_a_hint_that_changed_while_it_was_under_way_is_sent_again():
    """H1: the acknowledgement is for what was sent, not for what is held now."""
    hand, home, spare = away()
    a = hand.owners()[0]
    hand.put(a, "v1")
    hand.start(home)
    hand.hold = lambda src, dst, message: (
        (src, dst) == (home, spare) and (message[0] == m.REPLICATE_OK)
    )
    hand.run(150)
    skey = hand.skey()
    hand.nodes[spare].handoff.take(skey, home, hand.nodes[a].replica.obj(skey), True, 0)
    hand.lose = lambda src, dst, message: (src, dst) == (a, home)
    hand.put(a, "v2", ms=170)
    hand.release()
    hand.run(2)
    assert hand.hints(spare) == 1
    hand.run(150)
    assert hand.hints(spare) == 0
    assert hand.values(home) == ["v2"]


def test_hints_are_found_on_disk_after_the_stand_in_restarts():
    """H4: riak_core#154, fallback data that nobody handed off after a restart."""
    hand, home, spare = away()
    hand.put(hand.owners()[0], "v1")
    hand.kill(spare)
    hand.start(spare)
    assert hand.nodes[spare].handoff.counts() == {home: 1}
    hand.start(home)
    hand.run(200)
    assert hand.values(home) == ["v1"]
    assert hand.hints(spare) == 0


def test_without_a_node_beyond_the_owners_an_owner_keeps_the_mark():
    hand = Hand(nodes=3, exchange_ms=1_000_000)
    a, b, c = hand.owners()
    hand.kill(c)
    hand.run(500)
    answer = hand.put(a, "v1")
    assert (answer[0], answer[4], answer[5]) == (m.PUT_OK, [a, b], [])
    assert hand.nodes[a].handoff.counts() == {c: 1}
    assert hand.put(a, "v2", w=3)[2] == m.UNAVAILABLE, "one disk counts once"
    hand.start(c)
    hand.lose = lambda src, dst, message: message[0] in (m.KEYS, m.ROOTS)
    hand.run(200)
    assert hand.values(c) == ["v1"]
    assert hand.hints(a) == 0


def test_the_cap_refuses_hints_that_are_not_needed_and_keeps_those_that_are():
    """H2: a write that met its quorum never fails because a hint could not be kept."""
    hand, home, spare = away(hint_bytes_max=1)
    a, b = hand.owners()[:2]
    first = hand.put(a, "v1")  # fills the cap
    assert first[0] == m.PUT_OK
    keys = [f"key{i}" for i in range(200)]
    other = next(key for key in keys if set(hand.owners(key)) == set(hand.owners()) and key != "k")
    hand.hold = lambda src, dst, message: dst == spare
    answer = hand.put(a, "w1", key=other)
    assert answer[0] == m.PUT_OK
    for i, (src, dst, msg) in enumerate(hand.held):
        if msg[0] == m.REPLICATE:
            hand.held[i] = (src, dst, (*msg[:7], 0, *msg[8:]))  # as if W had been met already
    hand.release()
    hand.run(5)
    assert hand.nodes[spare].stats["hints_refused"] == 1
    assert not hand.nodes[a].requests.pending
    hand.kill(b)
    hand.run(500)
    hand.lose = lambda src, dst, message: dst == b
    assert hand.put(a, "w2", key=other)[0] == m.PUT_OK, "needed for W: kept past the cap"


def test_the_window_counts_from_the_oldest_undelivered_hint():
    hand, home, spare = away(hint_window_ms=100)
    handoff = hand.nodes[spare].handoff
    skeys = [hand.skey(f"x{i}") for i in range(3)]
    obj = b"\x91\x93\xc4\x0cAAAAAAAAAAAA\x01\x90"
    assert handoff.take(skeys[0], home, obj, False, 1000)
    assert handoff.take(skeys[1], home, obj, False, 1100)
    assert not handoff.take(skeys[2], home, obj, False, 1101)
    assert handoff.take(skeys[0], home, obj, False, 9999), "merging adds no row"
    assert handoff.take(skeys[2], home, obj, True, 9999), "needed: kept at any age"


def test_a_corrupt_hint_row_is_set_aside_and_the_others_go_home():
    """Trap 15: one bad record must not stop the dispatcher."""
    hand, home, spare = away()
    keys = [key for key in ("k", *map(str, range(99))) if home in hand.owners(key)]
    keys = [key for key in keys if spare not in hand.owners(key)][:5]
    for key in keys:
        hand.put(hand.owners(key)[0], "v1", key=key)
    store = hand.stores[spare]
    bad, record = next(iter(store.scan(HINTS)))
    store.put(HINTS, bad, record[:-1] + b"?")
    store.commit()
    hand.start(home)
    hand.settle()
    assert hand.hints(spare) == 0
    assert hand.nodes[spare].stats["hints_corrupt"] == 1
    assert [hand.values(home, key) for key in keys] == [["v1"]] * len(keys), "by exchange"


def test_a_home_with_a_full_disk_is_asked_now_and_then_and_gets_its_hint_when_it_has_room():
    """A hint that was refused was sent again at once, and refused: two nodes did nothing else."""
    hand, home, spare = away(background_timeout_ms=400)
    hand.put(hand.owners()[0], "large " * 100, put_id="v1")
    hand.start(home)
    hand.stores[home].disk_full = True
    hand.lose = lambda src, dst, message: message[0] in (m.KEYS, m.ROOTS)
    before = len(hand.sent)
    hand.run(2_000)
    sent = hand.sent[before:]
    refusals = [entry for entry in sent if entry[2][0] == m.REPLICATE_OK and entry[0] == home]
    assert {entry[2][2] for entry in refusals} == {m.NO_SPACE}
    assert 4 <= len(refusals) <= 6, "one in 400 ms"
    assert hand.nodes[spare].stats["hints_put_off"] == len(refusals)
    assert hand.hints(spare) == 1, "it is owed still"
    hand.stores[home].disk_full = False
    hand.run(450)
    assert hand.values(home) == ["large " * 100]
    assert hand.hints(spare) == 0


def test_delivery_keeps_to_its_window():
    hand, home, spare = away(hint_batch=4)
    keys = [str(i) for i in range(300)]
    keys = [k for k in keys if home in hand.owners(k) and spare not in hand.owners(k)][:40]
    for key in keys:
        hand.put(hand.owners(key)[0] if hand.owners(key)[0] != home else hand.owners(key)[1],
                 "v", key=key, ms=3)  # fmt: skip
    hand.run(10)
    assert hand.nodes[spare].handoff.counts()[home] >= 40
    hand.start(home)
    hand.hold = lambda src, dst, message: src == home and message[0] == m.REPLICATE_OK
    hand.sent.clear()
    hand.run(200)
    sent = [msg for src, dst, msg in hand.sent if (src, dst) == (spare, home)]
    assert len([1 for msg in sent if msg[0] == m.REPLICATE]) == 4
    hand.release()
    hand.run(200)
    assert hand.nodes[spare].handoff.counts() == {}


@pytest.mark.parametrize("owners_back", [1, 3])
def test_what_a_stand_in_minted_goes_to_every_owner(owners_back):
    hand = Hand(nodes=4, exchange_ms=1_000_000)
    owners = hand.owners()
    spare = spare_of(hand)
    for name in owners:
        hand.kill(name)
    hand.run(500)
    answer = hand.put(spare, "v1", w=1)
    assert (answer[0], answer[4]) == (m.PUT_OK, [spare])
    assert answer[5] == [[spare, owners[0]]]
    assert hand.read(spare, r=1) == ["v1"], "its own hint counts"
    assert hand.put(spare, "v2", w=2)[2] == m.UNAVAILABLE
    for name in owners[:owners_back]:
        hand.start(name)
    hand.run(200)
    assert [hand.values(name) for name in owners[:owners_back]] == [["v1"]] * owners_back
    assert hand.hints(spare) == (0 if owners_back == 3 else 1)


def test_the_store_itself_counts_its_starts():
    hand = Hand()
    assert hand.nodes["n1"].inspection.status()["boot"] == 1
    hand.kill("n1")
    assert hand.start("n1").inspection.status()["boot"] == 2
    assert hand.stores["n1"].get(META, b"boot") == (2).to_bytes(8, "big")


# --- Homes that own nothing of it any more (H5) ---------------------------------------------------


def give(hand: Hand, owners: tuple[str, ...], key: str = "k") -> None:
    """Every node learns that these own the arc of the key."""
    arc = hand.arc(key)
    for node in hand.nodes.values():
        held = node.table.registers[arc]
        node.roster.adopt(arc, ring.proposal(held.round + 1, ring.DONE, owners, ()))


def remove(hand: Hand, name: str) -> None:
    for node in hand.nodes.values():
        ver = node.roster.wishes[name].ver + 1
        node.roster.change("w/" + name, Wish(ver, REMOVED, 1, FORCED))


def balanced(hand: Hand, name: str) -> bool:
    """Whether every hint that was ever owed was delivered, re-routed, or is owed still."""
    node = hand.nodes[name]
    stats, pending = node.stats, sum(node.handoff.counts().values())
    done = stats["hints_delivered"] + stats["hints_rerouted"]
    return stats["hints_created"] == done + pending


@pytest.fixture
def astray(monkeypatch):
    """Five nodes; "k" was written while its last owner was down; the hint, and a node beyond."""
    hand, home, _ = away(nodes=5)
    monkeypatch.setattr(Exchange, "run", lambda self, now_ms: None)
    hand.put(hand.owners()[0], "v1")
    spare = next(name for name in hand.nodes if hand.hints(name))
    other = next(name for name in hand.nodes if name not in (*hand.owners(), spare))
    return hand, home, spare, other


def test_a_hint_whose_home_was_replaced_goes_to_all_owners(astray):
    """riak_core#154: d kept it for c, who was not coming back, and e never heard of the write."""
    hand, home, spare, other = astray
    a, b, _ = hand.owners()
    give(hand, (a, b, other))
    hand.run(20)
    assert hand.values(other) == ["v1"]
    assert hand.hints(spare) == 0
    assert hand.nodes[spare].inspection.hints()["rerouted"] == 1
    assert balanced(hand, spare)
    assert not hand.nodes[spare].handoff._astray
    hand.nodes[spare].check_rows()


def test_the_home_is_not_waited_for_and_gets_nothing_when_it_comes_back(astray):
    hand, home, spare, other = astray
    a, b, _ = hand.owners()
    give(hand, (a, b, other))
    hand.lose = lambda src, dst, message: dst == other and message[0] == m.REPLICATE
    hand.run(20)
    assert hand.nodes[spare].handoff.counts() == {other: 1}, "a and b acknowledged it by now"
    hand.sent.clear()
    hand.start(home)
    hand.run(150)
    assert not [1 for src, dst, msg in hand.sent if dst == home and msg[0] == m.REPLICATE]
    assert balanced(hand, spare)


def test_a_hint_for_a_removed_node_waits_for_the_owner_that_comes_in_its_place(astray):
    """H5 (membership seed 79): given to the owners that remain, who had the write already, a write
    acknowledged by three was on two disks."""
    hand, home, spare, other = astray
    a, b, _ = hand.owners()
    remove(hand, home)
    hand.run(50)
    assert hand.nodes[spare].handoff.counts() == {home: 1}, "the register still names it"
    give(hand, (a, b, other))
    hand.run(2_100)
    assert hand.hints(spare) == 0
    assert hand.values(other) == ["v1"]
    assert balanced(hand, spare)


def test_a_hint_for_a_home_that_is_merely_down_stays(astray):
    hand, home, spare, other = astray
    a, b, _ = hand.owners()
    give(hand, (home, b, other))
    hand.run(50)
    assert hand.nodes[spare].handoff.counts() == {home: 1}
    assert hand.nodes[spare].stats["hints_rerouted"] == 0


def test_a_hint_is_owed_to_those_who_own_the_arc_while_it_moves(astray):
    hand, home, spare, other = astray
    a, b, _ = hand.owners()
    moving = ring.proposal(1, ring.COPYING, (a, b), (a, other))
    for node in hand.nodes.values():
        node.roster.adopt(hand.arc(), moving)
    hand.sent.clear()
    hand.run(20)
    sent = [dst for src, dst, msg in hand.sent if src == spare and msg[0] == m.REPLICATE]
    assert sorted(sent) == sorted((a, b, other))


def test_an_own_row_that_is_owed_goes_to_all_owners(monkeypatch):
    """`keep_own`: the mark has no object, what is owed is the row beside it."""
    hand = Hand(nodes=3, exchange_ms=1_000_000)
    a, b, c = hand.owners()
    hand.kill(c)
    hand.run(500)
    monkeypatch.setattr(Exchange, "run", lambda self, now_ms: None)
    hand.put(a, "v1")
    assert hand.nodes[a].handoff.counts() == {c: 1}
    hand.forget_row(b)
    give(hand, (a, b))
    hand.run(20)
    assert hand.values(b) == ["v1"]
    assert hand.hints(a) == 0
    assert hand.values(a) == ["v1"]
    assert balanced(hand, a)


def test_a_stand_in_that_owns_the_arc_by_now_takes_the_object_itself(astray):
    hand, home, spare, _ = astray
    a, b, _ = hand.owners()
    give(hand, (spare, a))
    hand.run(20)
    assert hand.values(spare) == ["v1"]
    assert hand.hints(spare) == 0
    assert balanced(hand, spare)
    hand.nodes[spare].check_rows()


def test_the_only_owner_that_is_left_owes_it_to_nobody(astray):
    hand, home, spare, _ = astray
    give(hand, (spare,))
    hand.run(2)
    assert hand.values(spare) == ["v1"]
    assert hand.hints(spare) == 0
    assert balanced(hand, spare)


def test_where_every_owner_is_gone_the_hint_is_kept(astray):
    """Nothing is owed to nobody: until the ring changes, and then it goes to those who own it."""
    hand, home, spare, other = astray
    owners = hand.owners()
    for name in owners:
        remove(hand, name)
        hand.nodes.pop(name, None)
    hand.run(20)
    assert hand.nodes[spare].handoff.counts() == {home: 1}
    assert hand.nodes[spare].handoff.next_due_ms() is None, "and no step is spent on it"
    give(hand, (other,))
    hand.run(20)
    assert hand.values(other) == ["v1"]
    assert hand.hints(spare) == 0


def test_hints_are_found_astray_after_a_restart(astray):
    """H4 and H5: what is on the disk is looked at with what the ring is by then."""
    hand, home, spare, other = astray
    a, b, _ = hand.owners()
    hand.kill(spare)
    give(hand, (a, b, other))
    hand.start(spare)
    hand.run(150)
    assert hand.hints(spare) == 0
    assert hand.values(other) == ["v1"]


def test_a_step_re_routes_a_bounded_number(astray):
    hand, home, spare, other = astray
    handoff = hand.nodes[spare].handoff
    obj = handoff.peek(hand.skey())
    keys = [f"x{i}" for i in range(3_000)]
    keys = [key for key in keys if hand.arc(key) == hand.arc()][: 3 * REROUTE_ROWS]
    for key in keys:
        handoff.take(hand.skey(key), home, obj, True, 0)
    hand.hold = lambda src, dst, message: src == spare
    give(hand, (other,))
    counts = []
    for _ in range(5):
        before = hand.nodes[spare].stats["hints_rerouted"]
        assert handoff.next_due_ms() is None or handoff.next_due_ms() <= hand.now or counts
        hand.run(1)
        counts.append(hand.nodes[spare].stats["hints_rerouted"] - before)
    assert counts == [REROUTE_ROWS] * 3 + [1, 0]
    hand.release()
    hand.run(100)
    assert handoff.counts() == {}
    assert balanced(hand, spare)


def test_a_corrupt_hint_does_not_keep_others_from_being_re_routed(astray):
    hand, home, spare, other = astray
    handoff, store = hand.nodes[spare].handoff, hand.stores[spare]
    obj = handoff.peek(hand.skey())
    key = next(f"x{i}" for i in range(99) if hand.arc(f"x{i}") == hand.arc())
    handoff.take(hand.skey(key), home, obj, True, 0)
    store.put(HINTS, hand.skey(), store.get(HINTS, hand.skey())[:-1] + b"?")
    store.commit()
    give(hand, (other,))
    hand.run(20)
    assert hand.values(other, key) == ["v1"]
    assert hand.hints(spare) == 0
    assert hand.nodes[spare].stats["hints_corrupt"] == 1
