"""Rows left on a node that does not own them: brought to all owners, and only then dropped."""

from __future__ import annotations

import random

import pytest
from hand import Hand

from dynamo.core import dvv, ring
from dynamo.core import messages as m
from dynamo.core.exchange import Exchange
from dynamo.core.items import DISCARD, FORCED, IN, LEAVING, LEFT, REMOVED, Wish
from dynamo.core.orphans import FRESH_MS, RESEND_MS, Orphans
from dynamo.core.replica import CHECK_BYTES, Replica
from dynamo.core.spaces import OBJECTS, QUARANTINE

TELLING = (m.GOSSIP, m.BUCKETS, m.ITEMS)
OLD, NEW = ("n1", "n2", "n3"), ("n4", "n5", "n6")


class Ring(Hand):
    """Six nodes, one arc, all of it owned by n1, n2, n3. Nobody but `Orphans` brings rows about.

    After every step whatever a node has dropped is looked for at every owner (O1).
    """

    twice = False  # everything is delivered again

    def __init__(self, monkeypatch, nodes: int = 6, owners: tuple[str, ...] = OLD, **config):
        super().__init__(nodes, **{"partitions": 1, "exchange_ms": 1_000_000} | config)
        monkeypatch.setattr(Exchange, "run", lambda self, now_ms: None)
        self.register = self.nodes["n1"].table.registers[0]
        self.give(*owners)
        self.sync(*owners)
        real = Replica.drop

        def drop(replica: Replica, arc: int, rows: int) -> None:
            self._check_dropped(replica, arc)
            real(replica, arc, rows)

        monkeypatch.setattr(Replica, "drop", drop)

    def sync(self, *names: str) -> None:
        for name in names:
            for arc in range(self.config.partitions):
                self.nodes[name].replica.set_synced(arc, True)

    def give(self, *owners: str, only: tuple[str, ...] = (), arcs: tuple[int, ...] = ()) -> None:
        """Every node learns that these own the arc, or all arcs."""
        self.register = ring.proposal(self.register.round + 1, ring.DONE, owners, ())
        self.teach(*(only or self.nodes), arcs=arcs)

    def teach(self, *names: str, arcs: tuple[int, ...] = ()) -> None:
        for name in names:
            for arc in arcs or range(self.config.partitions):
                self.nodes[name].roster.adopt(arc, self.register)

    def wish(self, name: str, status: int, flags: int = 0, only: tuple[str, ...] = ()) -> None:
        for node in [self.nodes[only_name] for only_name in only] or self.nodes.values():
            ver = node.roster.wishes[name].ver + 1
            node.roster.change("w/" + name, Wish(ver, status, 1, flags))

    def run(self, ms: int = 12) -> None:
        for _ in range(ms):
            super().run(1)
            if self.twice:
                self.flying += self.flying

    def _check_dropped(self, replica: Replica, arc: int) -> None:
        name = next(name for name, node in self.nodes.items() if node.replica is replica)
        mine = replica.rows(*ring.arc_range(arc), 10_000)
        for owner in self.nodes[name].table.writers(arc):
            assert owner in self.nodes, f"O1: {name} drops what {owner} has not confirmed"
            for skey, record in mine:
                held = dvv.decode((self.stores[owner].get(OBJECTS, skey) or b"")[CHECK_BYTES:])
                merged = dvv.merge(held, dvv.decode(record[CHECK_BYTES:]))
                assert merged == held, f"O1: {owner} lacks what {name} drops"

    def rows(self, name: str) -> dict[bytes, bytes]:
        found = self.stores[name].scan(OBJECTS)
        return {skey: record[CHECK_BYTES:] for skey, record in found}

    def fill(self, keys: int = 10, via: str = "n1", value: str = "v") -> list[str]:
        names = [f"{value}{i}" for i in range(keys)]
        for name in names:
            answer = self.put(via, value, key=name, put_id=name, ms=4)
            assert answer is not None
            assert answer[0] == m.PUT_OK
        self.run(4)
        return names

    def holders(self, keys: list[str]) -> list[str]:
        """Who holds all of these keys."""
        skeys = [self.skey(key) for key in keys]
        return [
            name for name in self.names
            if name in self.nodes and all(skey in self.rows(name) for skey in skeys)
        ]  # fmt: skip

    def why(self, name: str) -> str:
        return self.nodes[name].orphans.view()[0]["why"]

    def count(self, kind: int, src: str = "", dst: str = "") -> int:
        return sum(
            message[0] == kind and src in ("", s) and dst in ("", d) for s, d, message in self.sent
        )


@pytest.fixture
def hand(monkeypatch) -> Ring:
    return Ring(monkeypatch)


def small(monkeypatch, **config) -> Ring:
    """Pages of four rows."""
    return Ring(monkeypatch, **{"exchange_rows": 4} | config)


# --- The way of a row -----------------------------------------------------------------------------


def test_rows_go_to_all_owners_and_are_then_dropped(hand):
    keys = hand.fill()
    assert hand.holders(keys) == list(OLD)
    hand.give(*NEW)
    hand.run(60)
    assert hand.holders(keys) == list(NEW)
    assert [hand.nodes[name].replica.keys for name in hand.names] == [0, 0, 0, 10, 10, 10]
    for node in hand.nodes.values():
        node.check_rows()
        assert node.orphans.view() == []
    assert [hand.nodes[name].replica.synced(0) for name in OLD] == [False] * 3
    hand.sync(*NEW)
    assert hand.read("n4", "v3") == ["v"]


def test_who_stays_an_owner_drops_nothing(hand):
    keys = hand.fill()
    hand.give("n2", "n3", "n4")
    hand.run(60)
    assert hand.holders(keys) == ["n2", "n3", "n4"]
    assert hand.nodes["n4"].stats["orphans_taken"] == 10
    assert hand.nodes["n2"].stats["orphans_taken"] == 0, "digests were enough"


def test_while_the_arc_moves_nothing_is_offered(hand):
    keys = hand.fill()
    hand.register = ring.proposal(9, ring.COPYING, NEW, ("n4", "n5", "n2"))
    hand.teach(*hand.names)
    hand.run(60)
    assert hand.holders(keys) == list(OLD)
    assert hand.count(m.OFFER) == 0
    assert hand.why("n1") == "the arc is being moved"
    assert hand.nodes["n2"].orphans.view() == [], "a writer of the arc is no stranger to it"


def test_lost_and_repeated_messages_do_no_harm(monkeypatch):
    """A third of all messages is lost, and what is left comes twice."""
    hand = small(monkeypatch)
    rng = random.Random(3)
    keys = hand.fill(30)
    hand.twice = True
    hand.lose = lambda src, dst, message: rng.random() < 0.33
    hand.give(*NEW)
    for _ in range(60):
        hand.run(RESEND_MS // 4)
        if hand.holders(keys) == list(NEW):
            break
    hand.heal()
    hand.run(2 * RESEND_MS)
    assert hand.holders(keys) == list(NEW)
    assert [hand.nodes[name].replica.keys for name in OLD] == [0, 0, 0]
    assert sum(hand.nodes[name].stats["offers_unanswered"] for name in OLD) > 3


def test_nothing_is_dropped_while_one_owner_is_away(hand):
    """O1: the others have it by then, and that is not all of them."""
    keys = hand.fill()
    hand.kill("n6")
    hand.run(400)
    hand.give(*NEW)
    hand.run(60)
    assert hand.holders(keys) == [*OLD, "n4", "n5"], "whoever can be reached has it at once"
    assert hand.why("n1") == "n6 is down"
    assert hand.nodes["n1"].orphans.view()[0]["to"] == "n6"
    hand.run(FRESH_MS)
    hand.start("n6")
    hand.teach("n6")
    hand.run(150)
    assert hand.holders(keys) == list(NEW)


def test_drop_before_proof_loses_a_row(hand, monkeypatch):
    """The check of this file can fail: O1, with the mistake planted."""

    def believe(self, orphan, name, walk, now_ms, may_send):
        walk.done_ms = now_ms

    monkeypatch.setattr(Orphans, "_step", believe)
    hand.fill()
    hand.give(*NEW)
    with pytest.raises(AssertionError, match="O1"):
        hand.run(60)


def test_the_holder_dies_in_the_middle_and_begins_anew(monkeypatch):
    hand = small(monkeypatch)
    keys = hand.fill(30)
    for name in ("n2", "n3"):
        hand.kill(name)
    hand.run(400)
    hand.give(*NEW)
    hand.run(8)
    view = hand.nodes["n1"].orphans.view()[0]
    assert 0 < view["rows"] < 30
    hand.kill("n1")
    hand.run(50)
    hand.start("n1")
    hand.run(200)
    assert hand.holders(keys) == list(NEW)
    assert hand.nodes["n1"].replica.keys == 0


def test_a_holder_that_dies_before_the_commit_of_the_drop_still_holds_all(hand):
    """Rows, roots and the count of keys go in one batch, or not at all."""
    keys = hand.fill()
    hand.kill("n2")
    hand.kill("n3")
    hand.run(400)
    hand.give(*NEW)
    store = hand.stores["n1"]
    while hand.nodes["n1"].replica.keys:
        store.disk_fails = False
        hand.now += 1
        inbox = [(src, msg, hand.now) for src, dst, msg in hand.flying if dst == "n1"]
        hand.flying = [entry for entry in hand.flying if entry[1] != "n1"]
        hand.nodes["n1"]._handle(inbox, hand.now)
        hand.nodes["n1"]._run_due(hand.now)
        if not hand.nodes["n1"].replica.keys:
            break
        store.commit()
        for dst, message in hand.nodes["n1"]._outbox:
            hand._send("n1", dst, message)
        hand.nodes["n1"]._outbox.clear()
        hand.nodes["n1"]._now_ms = hand.now
        n1 = hand.nodes.pop("n1")
        hand.run(1)
        hand.nodes = {"n1": n1, **hand.nodes}
    hand.kill("n1")  # what the step did was not committed
    assert len(hand.rows("n1")) == 10
    hand.start("n1").check_rows()
    hand.run(200)
    assert hand.holders(keys) == list(NEW)


# --- What may happen meanwhile --------------------------------------------------------------------


def alone(hand: Ring, keys: int = 30) -> list[str]:
    """n1 is the only node that holds anything."""
    names = hand.fill(keys)
    for name in ("n2", "n3"):
        hand.kill(name)
        hand.wipe(name)
    hand.run(400)
    return names


def test_an_owner_that_lost_its_disk_between_two_pages_gets_all_of_them(monkeypatch):
    """O4: it took the first pages, lost its disk, came back empty, and took the last."""
    hand = small(monkeypatch)
    keys = alone(hand)
    hand.give(*NEW)
    hand.run(8)
    assert 0 < len(hand.rows("n5")) < 30
    hand.kill("n5")
    hand.wipe("n5")
    hand.start("n5")
    hand.teach("n5")
    hand.run(RESEND_MS + 100)
    assert hand.nodes["n1"].stats["offers_forgotten"] == 1
    assert hand.holders(keys) == list(NEW)


def test_an_owner_that_lost_its_disk_after_the_last_page_is_found_out(monkeypatch):
    """O4: a confirmation that had to wait for another owner is asked for once more."""
    hand = small(monkeypatch)
    keys = alone(hand)
    hand.kill("n6")
    hand.run(400)
    hand.give(*NEW)
    hand.run(100)
    assert len(hand.rows("n5")) == 30
    hand.kill("n5")
    hand.wipe("n5")
    hand.start("n5")
    hand.run(FRESH_MS)
    hand.start("n6")
    hand.teach("n5", "n6")
    hand.run(RESEND_MS + 200)
    assert hand.nodes["n1"].stats["offers_forgotten"] == 1
    assert hand.holders(keys) == list(NEW)


def test_another_register_in_the_middle_begins_anew_with_its_owners(monkeypatch):
    """O1: what n4, n5, n6 confirmed is worth nothing when n4, n5, n2 own the arc."""
    hand = small(monkeypatch)
    keys = alone(hand)
    hand.start("n2")
    hand.teach("n2")
    hand.run(100)
    hand.give(*NEW)
    hand.run(8)
    assert hand.count(m.OFFER, "n1", "n6") > 2
    hand.give("n4", "n5", "n2")
    hand.run(100)
    assert hand.holders(keys) == ["n2", "n4", "n5"]
    assert hand.nodes["n1"].replica.keys == 0
    assert hand.nodes["n6"].replica.keys == 0, "n6 was left with some, and gave them away"


def test_an_owner_that_knows_a_later_register_teaches_it(hand):
    keys = alone(hand, 10)
    hand.give(*NEW)
    hand.give("n4", "n5", "n6", only=NEW)
    later = ring.proposal(9, ring.DONE, ("n6", "n5", "n4"), ())
    for name in NEW:
        hand.nodes[name].roster.adopt(0, later)
    hand.run(60)
    assert hand.count(m.REFUSED) >= 3
    assert hand.nodes["n1"].table.registers[0] == later
    assert hand.holders(keys) == list(NEW)


def test_an_owner_that_knows_only_an_earlier_register_confirms_nothing(hand):
    keys = alone(hand, 10)
    hand.lose = lambda src, dst, message: message[0] in TELLING
    hand.give(*NEW, only=("n1", "n4", "n5"))
    hand.run(60)
    assert hand.holders(keys) == ["n1", "n4", "n5"]
    hand.teach("n6")
    hand.run(RESEND_MS + 100)
    assert hand.holders(keys) == list(NEW)


def test_a_row_that_changes_meanwhile_is_offered_again(monkeypatch):
    """O2: a first page was confirmed, and then one of its rows grew."""
    hand = small(monkeypatch)
    keys = alone(hand)
    hand.give(*NEW)
    hand.run(6)
    first = min(hand.rows("n1"))
    value = (b"another put.....", 0, 0, 0, b"late")
    obj = dvv.encode(dvv.put([], {}, b"A" * 12, value)[0])
    hand.nodes["n1"].replica.merge(0, first, obj)
    hand.run(100)
    assert hand.nodes["n1"].stats["orphans_changed"] == 1
    assert hand.holders(keys) == list(NEW)
    assert {b"late"} <= {v[4] for v in dvv.values_of(dvv.decode(hand.rows("n6")[first]))}


def test_a_row_that_rots_here_is_set_aside_and_the_rest_is_handed_over(monkeypatch):
    hand = small(monkeypatch)
    alone(hand)
    store, rotten = hand.stores["n1"], sorted(hand.rows("n1"))[17]
    record = store.get(OBJECTS, rotten)
    hand.give(*NEW)
    store.put(OBJECTS, rotten, record[:-1] + b"?")
    store.commit()
    hand.run(200)
    assert [len(hand.rows(name)) for name in NEW] == [29] * 3
    assert hand.nodes["n1"].replica.keys == 0
    assert list(store.scan(QUARANTINE)) == []
    hand.nodes["n1"].check_rows()


def test_an_owner_that_lost_a_row_gets_it_back(hand):
    """It was set aside as corrupt there, and the last good copy is at one who owns nothing."""
    keys = hand.fill(5)
    for name in ("n2", "n3"):
        store = hand.stores[name]
        store.put(OBJECTS, hand.skey(keys[2]), hand.record(name, keys[2])[:-1] + b"?")
        store.commit()
    hand.give("n2", "n3")
    hand.run(60)
    assert hand.holders(keys) == ["n2", "n3"]
    assert hand.nodes["n2"].stats["records_corrupt"] == 1


def test_nothing_is_dropped_under_a_put(hand):
    """O3: its coordinator may have to mint it anew, over the row that it has here."""
    hand.fill(3)
    hand.hold = lambda src, dst, message: message[0] == m.REPLICATE_OK and dst == "n1"
    hand.lose = lambda src, dst, message: message[0] == m.REPLICATE and src == "n1"
    hand.put("n1", "late", key="v1", mode=m.BLIND, timeout_ms=1000, ms=3, again=False)
    hand.give("n4", "n5", "n6")
    hand.run(60)
    assert hand.nodes["n1"].requests.pending
    assert hand.nodes["n1"].replica.keys == 3
    assert hand.why("n1") == "an operation on it is under way here"
    hand.release()
    hand.heal()
    hand.run(1500)
    assert not hand.nodes["n1"].requests.pending
    hand.run(300)
    assert hand.nodes["n1"].replica.keys == 0
    assert "late" in hand.values("n6", "v1")


def test_nothing_is_dropped_before_the_hints_of_the_arc_are_delivered(hand):
    """They carry ids of superseded puts, and may stand for the very rows (`keep_own`)."""
    hand.fill(3)
    hand.kill("n6")
    hand.run(400)
    hand.give(*NEW)
    hand.nodes["n1"].handoff.keep_own(hand.skey("v1"), "n6", 0)
    hand.lose = lambda src, dst, message: message[0] == m.REPLICATE
    hand.run(20)
    hand.start("n6")
    hand.teach("n6")
    hand.run(100)
    assert hand.nodes["n1"].replica.keys == 3
    assert hand.why("n1") == "hints of the arc have to be delivered first"
    hand.heal()
    hand.run(2 * RESEND_MS)
    assert hand.nodes["n1"].replica.keys == 0
    assert hand.hints("n1") == 0


# --- Who offers, and to whom ----------------------------------------------------------------------


def test_the_loser_of_a_split_brain_loses_no_acknowledged_write(hand):
    """algorithms.md §1.5, I5. Each side gave the arc away, and took writes under its register."""
    hand.fill(3, value="before")
    hand.isolate("n1", "n2", "n3")
    hand.run(400)
    hand.give("n1", "n2", only=("n1", "n2", "n3"))
    mine = hand.fill(3, via="n1", value="mine")
    hand.give("n4", "n5", "n6", only=("n4", "n5", "n6"))
    hand.sync(*NEW)
    theirs = hand.fill(3, via="n4", value="theirs")
    hand.heal()
    hand.teach(*hand.names)  # as gossip will; the later one wins
    hand.run(600)
    assert set(hand.holders([*mine, *theirs])) == set(NEW)
    assert hand.holders([f"before{i}" for i in range(3)]) == list(NEW)
    assert [hand.nodes[name].replica.keys for name in OLD] == [0, 0, 0]


def test_a_removed_node_offers_what_it_holds(hand):
    hand.fill(3)
    hand.isolate("n1")
    hand.run(400)
    skey = hand.skey("only here")
    value = (b"another put.....", 0, 0, 0, b"acknowledged")
    hand.nodes["n1"].replica.merge(0, skey, dvv.encode(dvv.put([], {}, b"A" * 12, value)[0]))
    hand.give("n2", "n3", "n4")
    hand.wish("n1", REMOVED, FORCED)
    hand.heal()
    hand.run(200)
    assert hand.values("n4", "only here") == ["acknowledged"]
    assert hand.holders(["only here"]) == ["n2", "n3", "n4"]
    assert hand.nodes["n1"].replica.keys == 0


def test_a_removed_node_that_is_still_named_by_the_register_waits_for_its_successor(hand):
    hand.fill(3)
    hand.wish("n1", REMOVED, FORCED)
    hand.run(200)
    assert hand.nodes["n1"].replica.keys == 3
    hand.give("n2", "n3", "n4")
    hand.run(200)
    assert hand.nodes["n1"].replica.keys == 0


def test_an_owner_that_is_out_of_the_ring_holds_up_the_drop(hand):
    keys = hand.fill(3)
    hand.give("n4", "n5", "n6")
    hand.wish("n6", REMOVED)
    hand.run(100)
    assert hand.holders(keys) == [*OLD, "n4", "n5"]
    assert hand.why("n2") == "n6 is out of the ring, and not replaced yet"
    hand.give("n4", "n5")
    hand.run(200)
    assert hand.holders(keys) == ["n4", "n5"]


def test_rows_that_people_discarded_are_neither_taken_nor_kept(hand):
    """O5, and the node itself erases them once it knows."""
    hand.fill(3)
    hand.nodes["n1"].handoff.take(hand.skey("h"), "n6", hand.nodes["n1"].replica.obj(
        hand.skey("v1")), True, 0)  # fmt: skip
    hand.give("n4", "n5", "n6")
    hand.wish("n1", REMOVED, DISCARD, only=("n2", "n3", *NEW))
    lost = (m.REPLICATE, *TELLING)
    hand.lose = lambda src, dst, message: src in ("n2", "n3") or message[0] in lost
    hand.run(60)
    assert hand.count(m.OFFER, "n1") >= 3
    assert [len(hand.rows(name)) for name in NEW] == [0, 0, 0]
    assert hand.nodes["n4"].stats["offers_refused"] >= 1
    hand.wish("n1", REMOVED, DISCARD, only=("n1",))
    hand.run(2)
    assert hand.rows("n1") == {}
    assert hand.hints("n1") == 0
    assert hand.nodes["n1"].stats["rows_discarded"] == 4, "and the hint"
    hand.nodes["n1"].check_rows()


def test_a_stranger_is_not_even_answered(hand):
    """O5."""
    hand.flying.append(
        ("somebody", "n1", (m.OFFER, 7, 1000, 0, *hand.register[:2], [], [[hand.skey(), b"x"]]))
    )
    hand.run(3)
    assert hand.count(m.OFFERED) == 0
    assert hand.rows("n1") == {}
    assert hand.nodes["n1"].stats["offers_refused"] == 1


def test_hints_of_a_removed_node_become_rows_that_it_offers(hand):
    """Nobody listens to a hint of its: REPLICATE is no word of a stranger."""
    hand.run(100)
    value = (b"another put.....", 0, 0, 0, b"hinted")
    obj = dvv.encode(dvv.put([], {}, b"A" * 12, value)[0])
    hand.nodes["n6"].handoff.take(hand.skey("h"), "n1", obj, True, 0)
    hand.lose = lambda src, dst, message: src == "n6" and message[0] == m.REPLICATE
    hand.wish("n6", REMOVED, FORCED)
    hand.run(100)
    assert hand.holders(["h"]) == list(OLD)
    assert hand.hints("n6") == 0
    assert hand.nodes["n6"].stats["hints_rerouted"] == 1
    assert hand.nodes["n6"].replica.keys == 0
    hand.nodes["n6"].check_rows()


def test_a_leaving_node_has_left_when_it_owns_holds_and_owes_nothing(hand):
    keys = hand.fill(3)
    hand.kill("n3")
    hand.run(400)
    hand.nodes["n1"].handoff.keep_own(hand.skey("v1"), "n3", 0)
    hand.wish("n1", LEAVING)
    hand.run(300)
    assert hand.nodes["n1"].roster.status("n1") == LEAVING
    hand.give("n2", "n3", "n4")
    hand.run(300)
    assert hand.nodes["n1"].roster.status("n1") == LEAVING
    assert hand.why("n1") == "n3 is down"
    hand.start("n3")
    hand.teach("n3")
    hand.run(FRESH_MS + 700)
    assert hand.holders(keys) == ["n2", "n3", "n4"]
    hand.run(1_500)
    assert hand.nodes["n1"].roster.status("n1") == LEFT
    assert hand.nodes["n1"].roster.closed is not None
    assert hand.nodes["n1"].roster.wishes["n1"] == Wish(3, LEFT, 1, 0)


def test_a_node_that_merely_owns_nothing_stays(hand):
    hand.run(500)
    assert hand.nodes["n6"].roster.status("n6") == IN


# --- Bounds ---------------------------------------------------------------------------------------


def test_large_objects_go_a_bounded_number_of_bytes_at_a_time(monkeypatch):
    hand = Ring(monkeypatch)
    big = "x" * (300 << 10)
    for i in range(8):
        hand.put("n1", big, key=f"big{i}", put_id=f"id{i}", ms=4)
    hand.give(*NEW)
    hand.run(400)
    sizes = [sum(len(obj) for _, obj in msg[7]) for _, _, msg in hand.sent if msg[0] == m.OFFER]
    assert sum(sizes) > 3 * 8 * len(big), "each of the three owners needed all of it"
    assert max(sizes) <= 1 << 20
    pages = [len(msg[6]) for _, _, msg in hand.sent if msg[0] == m.OFFER]
    assert max(pages) <= 4, "a page is a bounded number of bytes read, too"
    assert [hand.nodes[name].replica.keys for name in hand.names] == [0, 0, 0, 8, 8, 8]


def test_objects_keep_to_the_rate(monkeypatch):
    hand = Ring(monkeypatch, transfer_bytes_per_s=1 << 20)
    big = "x" * (300 << 10)
    for i in range(8):
        hand.put("n1", big, key=f"big{i}", put_id=f"id{i}", ms=4)
    for name in ("n2", "n3"):
        hand.kill(name)
    hand.run(400)
    hand.give(*NEW)
    hand.run(3000)
    sent = hand.nodes["n1"].orphans.view()[0]["bytes"]
    assert 3 << 20 < sent <= 4 << 20
    assert "transfer_bytes_per_s" in hand.why("n1")
    hand.run(5000)
    assert hand.nodes["n1"].replica.keys == 0


def test_a_few_arcs_at_a_time_and_one_page_each(monkeypatch):
    hand = Ring(monkeypatch, partitions=16, transfer_arcs=2)
    hand.fill(100)
    hand.give(*NEW)
    hand.hold = lambda src, dst, message: message[0] == m.OFFERED
    hand.run(50)
    offers = [msg for src, _, msg in hand.sent if src == "n1" and msg[0] == m.OFFER]
    assert len(offers) == 2 * 3
    assert len({msg[3] for msg in offers}) == 2
    view = hand.nodes["n1"].orphans.view()
    assert len(view) == 16
    assert view[-1]["why"] == "its turn has not come"
    hand.release()
    hand.run(300)
    assert [hand.nodes[name].replica.keys for name in hand.names] == [0, 0, 0, 100, 100, 100]


def test_an_owner_that_is_away_does_not_hold_up_arcs_that_are_not_its(monkeypatch):
    """Else a few arcs that wait would keep all others from moving, for as long as it is away."""
    hand = Ring(monkeypatch, partitions=16, transfer_arcs=2)
    hand.fill(100)
    hand.kill("n6")
    hand.run(400)
    hand.give(*NEW, arcs=tuple(range(12)))
    hand.give("n4", "n5", arcs=tuple(range(12, 16)))
    hand.run(400)
    assert {entry["arc"] for entry in hand.nodes["n1"].orphans.view()} <= set(range(12))
    left = {skey[1] for skey in hand.rows("n1")}
    assert left
    assert left <= set(range(12))


def test_an_owner_without_room_is_asked_again_later(hand):
    keys = alone(hand, 5)
    hand.stores["n5"].disk_full = True
    hand.give(*NEW)
    hand.run(50)
    assert hand.holders(keys) == ["n1", "n4", "n6"]
    assert hand.why("n1") == "n5 has no room for it"
    hand.stores["n5"].disk_full = False
    hand.run(RESEND_MS + 100)
    assert hand.holders(keys) == list(NEW)


def test_an_offer_is_answered_only_after_a_synced_commit(hand, monkeypatch):
    """O1: at durability "interval" the owner's power may go within the interval."""
    synced = []
    commit = hand.stores["n5"].commit
    monkeypatch.setattr(
        hand.stores["n5"], "commit", lambda sync=False: (synced.append(sync), commit(sync))
    )
    hand.fill(3)
    hand.run(2)
    synced.clear()
    hand.give(*NEW)
    for _ in range(40):
        before = hand.count(m.OFFERED, "n5")
        hand.run(1)
        assert synced == [hand.count(m.OFFERED, "n5") > before]
        synced.clear()
    assert hand.count(m.OFFERED, "n5") >= 6


@pytest.mark.parametrize(
    "fields",
    [
        (99, 1, 3, [], []),
        (0, 1, 3, [[b"", b"12345678"]], []),
        (0, 1, 3, [[b"\0\0\0\0\x07defaultk", b"12345678"]], []),
        (0, 1, 3, [b"x"], []),
        (0, 1, 3, [], [[b"\0\0\0\0k", b"", b""]]),
        (0, 1, 3, [["text", b"12345678"]], []),
    ],
)
def test_an_offer_out_of_shape_is_dropped(hand, fields):
    hand.flying.append(("n4", "n1", (m.OFFER, 7, 1000, *fields)))
    hand.run(3)
    assert hand.nodes["n1"].stats["malformed"] == 1
    assert hand.count(m.OFFERED) == 0


def test_an_answer_that_wants_what_was_not_offered_is_dropped(hand):
    hand.fill(3)
    hand.lose = lambda src, dst, message: message[0] == m.OFFERED
    hand.give(*NEW)
    hand.run(5)
    req = next(msg[1] for src, dst, msg in hand.sent if msg[0] == m.OFFER and dst == "n4")
    hand.flying.append(("n5", "n1", (m.OFFERED, req, 1, [])))
    hand.flying.append(("n4", "n1", (m.OFFERED, req, 1, [b"another"])))
    hand.run(3)
    assert hand.nodes["n1"].stats["malformed"] == 1
    hand.heal()
    hand.run(RESEND_MS)
    assert hand.nodes["n1"].replica.keys == 0
