"""The histories that the design tells, each as a scenario, and each shown to fail without its rule.

A history names the rule (an invariant id of the core) that makes it end well. The second half of
each test breaks the rule in the real code and expects the loss that the rule prevents.
"""

from __future__ import annotations

import pytest
from hand import Hand, value_id

from dynamo.core import dvv
from dynamo.core import messages as m
from dynamo.core.fanout import Fanout
from dynamo.core.reads import Reads
from dynamo.core.replica import Replica
from dynamo.core.requests import Requests
from dynamo.core.serving import Serving
from dynamo.core.spaces import OBJECTS
from dynamo.core.writes import Writes


def to(*names: str):
    return lambda src, dst, message: dst in names


def hints_without_ids(monkeypatch) -> None:
    """Break D5 in hints: what they superseded is not told to their homes, and not told again."""
    monkeypatch.setattr("dynamo.core.handoff._latest", lambda gone, more: ())


def kinds(*wanted: int):
    return lambda src, dst, message: message[0] in wanted


# --- DESIGN §2: dots, actors, contexts ---------------------------------------------------------


def stand_in_twice() -> Hand:
    """S stands in, mints v1, delivers, erases; stands in again, holds nothing, mints v2."""
    hand = Hand(nodes=4)
    owners = hand.owners()
    (spare,) = [name for name in hand.names if name not in owners]
    hand.isolate(spare)
    hand.run(500)
    assert hand.put(spare, "v1", mode=m.BLIND, w=1)[0] == m.PUT_OK
    hand.settle()
    assert hand.hints(spare) == 0
    hand.isolate(spare)
    hand.run(500)
    assert hand.put(spare, "v2", mode=m.BLIND, w=1)[0] == m.PUT_OK
    hand.settle()
    return hand


def test_a_stand_in_that_erased_its_hint_mints_under_another_actor(monkeypatch):
    """D3: v2 must not claim to have seen v1."""
    hand = stand_in_twice()
    assert hand.read(hand.owners()[0]) == ["v1", "v2"]

    one_actor(monkeypatch)
    hand = stand_in_twice()
    assert len(hand.read(hand.owners()[0])) == 1, "one of two acknowledged writes is gone"


def one_actor(monkeypatch) -> None:
    """Break D3: one actor per arc for ever, whatever the store has forgotten."""

    def mint(self, arc, clock, context, value):
        actor = self.prefix(arc) + b"always"
        clock, n = dvv.put(clock, context, actor, value)
        return clock, actor, n

    monkeypatch.setattr(Replica, "mint", mint)
    monkeypatch.setattr(Replica, "notice_amnesia", lambda *args: None)
    monkeypatch.setattr(Replica, "seen", lambda *args: 0)


def forgotten_key() -> Hand:
    """The coordinator's store loses one row silently; the next put must not look old."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1")
    hand.put(a, "v2")
    hand.forget_row(a)
    hand.lose = to(c)  # c holds v2 and hears nothing of what follows
    hand.put(a, "v3", mode=m.BLIND, w=1, ms=3)
    hand.heal()
    return hand


def test_a_store_that_forgot_a_key_counts_anew(monkeypatch):
    """D3: 1,876 of 4,000 histories lose an update when a forgotten counter is used again."""
    hand = forgotten_key()
    hand.settle()
    assert [hand.values(n) for n in hand.owners()] == [["v2", "v3"]] * 3

    one_actor(monkeypatch)
    hand = forgotten_key()
    hand.settle()
    assert all("v3" not in hand.values(n) for n in hand.owners()), "v3 was acknowledged"


def rolled_back() -> tuple[Hand, m.Message]:
    """The coordinator's row goes back in time; it mints a dot that its peers know already."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1", mode=m.BLIND)
    old = hand.record(a)
    hand.put(a, "v2", mode=m.BLIND)
    hand.put(a, "v3", mode=m.BLIND)
    hand.forget_row(a, row=old)
    answer = hand.put(a, "v4", mode=m.BLIND)
    return hand, answer


def test_an_acknowledgement_that_shows_amnesia_makes_the_value_minted_anew(monkeypatch):
    """REPLICATE_OK carries the receiver's counter: that answer does not count toward W."""
    hand, answer = rolled_back()
    assert answer[0] == m.PUT_OK
    assert hand.nodes[hand.owners()[0]].stats["amnesia"] == 1
    hand.settle()
    for name in hand.owners():
        assert hand.values(name) == ["v1", "v2", "v3", "v4"]

    monkeypatch.setattr(Replica, "seen", lambda *args: 0)
    monkeypatch.setattr(Replica, "notice_amnesia", lambda *args: None)
    hand, answer = rolled_back()
    assert answer[0] == m.PUT_OK
    hand.settle()
    assert "v4" not in hand.read(hand.owners()[1]), "v4, acknowledged, is gone"


def test_a_clock_that_shows_more_of_an_own_actor_retires_it():
    """Amnesia seen on a path that is not a put: a repair arrives (riak_kv#1643)."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1")
    old = hand.record(a)
    hand.put(a, "v2")
    before = hand.nodes[a].replica.prefix(hand.arc())
    hand.forget_row(a, row=old)
    assert hand.read(b, r=3) == ["v2"]
    hand.run(20)
    assert hand.nodes[a].replica.prefix(hand.arc()) != before
    assert hand.values(a) == ["v2"]


def test_an_unclean_start_without_synced_writes_retires_all_actors():
    hand = Hand()
    a = hand.owners()[0]
    hand.put(a, "v1")
    prefix = hand.nodes[a].replica.prefix(hand.arc())
    hand.kill(a)
    assert hand.start(a).replica.prefix(hand.arc()) == prefix, "synced: nothing was forgotten"
    hand.kill(a)
    hand.stores[a].unclean = True
    node = hand.start(a)
    assert node.replica.prefix(hand.arc()) != prefix
    assert not node.ready, "X1: what it has lost, it has missed"


def sibling_beside_the_answer() -> Hand:
    """A puts 1; B blind-puts 2; A puts 3 over what it saw, then 4 over the answer's context."""
    hand = Hand()
    a = hand.owners()[0]
    seen = hand.put(a, "1")[2]
    hand.put(a, "2", mode=m.BLIND)
    answer = hand.put(a, "3", mode=m.CAUSAL, context=seen)
    # A client that got no value beside the context has seen nothing of 2.
    if not answer[3]:
        hand.put(a, "4", mode=m.CAUSAL, context=answer[2])
    return hand


def test_an_answer_with_siblings_carries_them(monkeypatch):
    """D4: 3,318 of 4,000 histories lose a value when the context comes without its siblings."""
    hand = sibling_beside_the_answer()
    assert [payload for _, payload in hand.replies[-1][3]] == [b"3", b"2"]
    assert hand.read(hand.owners()[1]) == ["2", "3"]

    monkeypatch.setattr(Requests, "shown", lambda self, clock: dvv.live(clock, 0)[:1])
    monkeypatch.setattr(Fanout, "_answer", answer_without_siblings)
    hand = sibling_beside_the_answer()
    monkeypatch.undo()
    assert hand.read(hand.owners()[1]) == ["4"], "2, acknowledged and unread, is gone"


def answer_without_siblings(self, op) -> None:
    op.done = True
    context = self.requests.sealed(op.key, op.clock)
    self.requests.reply(op.client, (m.PUT_OK, op.creq, context, [], op.acked[:], []))


def retried_put(away_ms: int = 0, **config) -> Hand:
    """a stores a put and dies before it tells anyone; the retry is minted at b, and superseded."""
    hand = Hand(**config)
    a, b, c = hand.owners()
    first = hand.put(a, "old")
    hand.lose = lambda src, dst, message: src == a
    hand.put(a, "x", mode=m.CAUSAL, context=first[2], ms=3)
    hand.kill(a)
    hand.heal()
    again = hand.put(b, "x", mode=m.CAUSAL, context=first[2], attempt=1, ms=400)
    assert again[0] == m.PUT_OK
    assert hand.put(b, "y", mode=m.CAUSAL, context=again[2], ms=400)[0] == m.PUT_OK
    hand.run(away_ms)
    hand.start(a)
    return hand


@pytest.mark.parametrize("reader", [0, 1, 2])
def test_the_second_dot_of_a_superseded_put_is_never_shown(reader, monkeypatch):
    """D5: a lone read-modify-write client never sees a sibling, whoever answers it."""
    hand = retried_put()
    hand.run(60)
    assert hand.read(hand.owners()[reader], ms=60) == ["y"]
    hand.settle()
    assert [hand.values(name) for name in hand.owners()] == [["y"]] * 3

    monkeypatch.setattr(Replica, "_shed", lambda self, skey, clock, ids: clock)
    monkeypatch.setattr(Requests, "shown", lambda self, clock: dvv.live(clock, 0))
    hand = retried_put()
    hand.settle()
    assert hand.read(hand.owners()[reader]) == ["x", "y"]


def test_a_retry_finds_its_id_at_another_owner_and_is_not_minted_again():
    """§2: a retry asks R owners for its id before minting."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.lose = kinds(m.REPLICATE_OK)
    hand.put(a, "x", timeout_ms=5, ms=10)
    hand.heal()
    answer = hand.put(b, "x", attempt=1)
    assert answer[0] == m.PUT_OK
    assert len(hand.row(b)) == 1, "one dot"
    assert hand.read(c) == ["x"]


def test_a_retry_of_a_put_that_was_superseded_meanwhile_changes_nothing():
    hand = Hand()
    a, b, c = hand.owners()
    seen = hand.put(a, "x")[2]
    hand.put(a, "y", mode=m.CAUSAL, context=seen)
    answer = hand.put(b, "x", attempt=1)
    assert answer[0] == m.PUT_OK
    assert [payload for _, payload in answer[3]] == [b"y"], "what became of it"
    hand.settle()
    assert hand.read(a) == ["y"]


def test_ids_of_superseded_puts_survive_a_restart():
    hand = Hand()
    a, b, c = hand.owners()
    seen = hand.put(a, "x")[2]
    hand.put(a, "y", mode=m.CAUSAL, context=seen)
    for name in (a, b, c):
        hand.kill(name)
        hand.start(name)
    hand.run(60)
    hand.put(b, "x", attempt=1)
    hand.settle()
    assert hand.read(a) == ["y"]


def lone_value() -> Hand:
    """Two blind values at a; c holds none of it and gets only the second message."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "1", mode=m.BLIND)
    hand.lose = to(c)
    hand.put(a, "2", mode=m.BLIND)
    hand.heal()
    hand.put(a, "3", mode=m.BLIND)
    return hand


def test_replicas_get_the_whole_object(monkeypatch):
    """§2: 3,994 of 4,000 histories lose writes when only the new value is sent."""
    hand = lone_value()
    assert hand.values(hand.owners()[2]) == ["1", "2", "3"]

    message = Fanout._message

    def value_only(self, op, home):
        return (*message(self, op, home)[:-1], dvv.encode([(op.actor, op.n, [op.value])]))

    monkeypatch.setattr(Fanout, "_message", value_only)
    hand = lone_value()
    hand.settle()
    assert hand.read(hand.owners()[0]) != ["1", "2", "3"]


def test_a_forged_or_foreign_context_is_refused_and_covers_nothing():
    hand = Hand()
    a = hand.owners()[0]
    context = hand.put(a, "v1")[2]
    for bad in (context[:-1], context[:5] + b"\0" + context[6:], b"\x02" + context[1:], b"junk"):
        answer = hand.put(a, "v2", mode=m.CAUSAL, context=bad)
        assert (answer[0], answer[2]) == (m.FAILED, m.BAD_CONTEXT)
    other = hand.put(hand.owners("other")[0], "w1", key="other")[2]
    answer = hand.put(a, "v2", mode=m.CAUSAL, context=other)
    assert (answer[0], answer[2], answer[8]) == (m.FAILED, m.BAD_CONTEXT, 0)
    assert hand.read(a) == ["v1"]


def test_an_auto_put_over_several_values_is_a_conflict_and_does_nothing():
    hand = Hand()
    a = hand.owners()[0]
    hand.put(a, "1", mode=m.BLIND)
    hand.put(a, "2", mode=m.BLIND)
    answer = hand.put(a, "3")
    assert answer[0] == m.CONFLICT
    assert sorted(payload for _, payload in answer[3]) == [b"1", b"2"]
    answer = hand.put(a, "4", mode=m.CAUSAL, context=answer[2])
    assert answer[3] == []
    assert hand.read(a) == ["4"]


def test_blind_puts_are_refused_at_the_sibling_limit_and_nothing_is_dropped():
    hand = Hand(siblings_max=3)
    a = hand.owners()[0]
    for i in range(3):
        assert hand.put(a, str(i), mode=m.BLIND)[0] == m.PUT_OK
    answer = hand.put(a, "3", mode=m.BLIND)
    assert (answer[0], answer[2]) == (m.FAILED, m.TOO_MANY_SIBLINGS)
    assert "context" in answer[3]
    assert hand.read(a) == ["0", "1", "2"]


# --- DESIGN §4: requests --------------------------------------------------------------------------


def test_a_duplicated_acknowledgement_does_not_reach_w_alone(monkeypatch):
    """C2: acknowledgements are counted per distinct node."""

    def strict_put() -> tuple[Hand, m.Message | None]:
        hand = Hand()
        a, b, c = hand.owners()
        hand.lose = to(c)
        hand.hold = kinds(m.REPLICATE_OK)
        hand.put(a, "x", w=3, flags=0, ms=5)
        hand.held *= 3
        hand.release()
        hand.run(5)
        return hand, hand.answer()

    assert strict_put()[1] is None

    plain = Fanout.on_replicate_ok

    def count_each(self, sender, message, born_ms):
        op = self.requests.pending.get(message[1])
        plain(self, sender, message, born_ms)
        if op is not None and not op.done:
            op.waiting[sender] = ""

    monkeypatch.setattr(Fanout, "on_replicate_ok", count_each)
    monkeypatch.setattr(Fanout, "count", staticmethod(count_names))
    with pytest.raises(AssertionError, match="C2"):
        strict_put()


def lonely_reader() -> m.Message | None:
    """Two of three owners are cut off from the third; the stand-in holds nothing of the key."""
    hand = Hand(nodes=4)
    a, b, c = hand.owners()
    (spare,) = [name for name in hand.names if name not in (a, b, c)]
    hand.lose = to(a)
    hand.run(500)
    hand.put(b, "v1", flags=0)
    hand.heal()
    hand.lose = lambda src, dst, message: b in (src, dst) or c in (src, dst)
    hand.run(500)
    return hand.get(a, r=2, ms=30, timeout_ms=20)


def test_the_absence_at_a_stand_in_never_satisfies_r(monkeypatch):
    """R4: 'not found' by an empty fallback, of a key that owners hold (riak_cs#170)."""
    answer = lonely_reader()
    assert answer[0] == m.FAILED

    plain = Serving.on_fetch

    def all_count(self, sender, message, born_ms):
        plain(self, sender, message, born_ms)
        dest, (kind, req, status, _, obj) = self.requests.outbox.pop()
        self.requests.outbox.append((dest, (kind, req, status, 1, obj)))

    monkeypatch.setattr(Serving, "on_fetch", all_count)
    answer = lonely_reader()
    assert (answer[0], answer[3]) == (m.GET_OK, [])


def wiped_reader() -> tuple[Hand, list[str]]:
    """b loses its disk; with c cut off, a read at r=2 asks a wiped owner and a stale one."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1")
    hand.lose = to(c)
    hand.put(b, "v2", ms=6)  # at a and b
    hand.kill(a)
    hand.heal()
    hand.kill(b)
    hand.wipe(b)
    hand.start(b)
    hand.lose = lambda src, dst, message: message[0] in (m.ROOTS, m.KEYS)
    hand.run(500)
    answer = hand.get(c, r=2, ms=210, timeout_ms=200)
    return hand, answer


def test_a_wiped_owner_does_not_count_toward_r_until_it_has_synced(monkeypatch):
    """X1: a and b held v2 (W=2); with a away and b wiped, nobody may answer 'v1' at R=2."""
    hand, answer = wiped_reader()
    assert answer[0] == m.FAILED
    hand.start(hand.owners()[0])
    hand.settle(1500)
    assert all(node.ready for node in hand.nodes.values())
    assert hand.read(hand.owners()[1]) == ["v2"]

    monkeypatch.setattr(Replica, "synced", lambda self, arc: True)
    _, answer = wiped_reader()
    assert [payload for _, payload in answer[3]] == [b"v1"], "a stale read of an acknowledged write"


def test_a_request_under_an_older_register_is_refused_with_the_newer_one():
    hand = Hand()
    a, b, c = hand.owners()
    arc = hand.arc()
    register = hand.nodes[a].table.registers[arc]
    for name in (b, c):
        hand.nodes[name].roster.adopt(arc, register._replace(ver=2))
    assert hand.nodes[a].table.registers[arc].ver == 1
    answer = hand.put(a, "v1")
    assert answer[0] == m.PUT_OK
    assert hand.nodes[a].table.registers[arc].ver == 2, "taught on contact"
    assert hand.read(b) == ["v1"]
    assert any(message[0] == m.REFUSED for _, _, message in hand.sent)


def test_a_message_that_was_under_way_too_long_is_not_executed():
    """A node that was paused must not act on the past, nor spread it."""
    hand = Hand()
    a, b, c = hand.owners()
    node = hand.nodes[b]
    before = len(hand.sent)
    late = (m.REPLICATE, 7, 500, hand.full(), 1, 0, "", 0, 0, b"", [], b"")
    assert node.step(hand.now + 1, [(a, late, hand.now - 600)]) == []
    put = (m.PUT, 1, 500, hand.full(), 1, 0, m.AUTO, b"", value_id("x"), 0, 0, 0, 1, 0, b"x")
    assert node.step(hand.now + 2, [(b"c", put, hand.now - 600)]) == []
    assert node.stats["expired"] == 2
    assert len(hand.sent) == before


def test_every_operation_ends_by_its_deadline_with_what_is_known():
    hand = Hand()
    a, b, c = hand.owners()
    hand.lose = lambda src, dst, message: dst in (b, c)
    hand.put(a, "x", timeout_ms=100, flags=0, ms=98)
    assert hand.answer() is None
    hand.run(4)
    kind, _, code, _, required, received, acked, silent, maybe, _ = hand.answer()
    assert (kind, code, required, received, maybe) == (m.FAILED, m.TIMED_OUT, 2, 1, 1)
    assert (acked, sorted(silent)) == ([a], sorted([b, c]))
    assert not hand.nodes[a].requests.pending


def test_past_the_bound_the_answer_is_overloaded_at_once():
    hand = Hand(pending_ops_max=2)
    a, b, c = hand.owners()
    hand.lose = lambda src, dst, message: dst in (b, c)
    for value in ("1", "2"):
        hand.put(a, value, flags=0, ms=1)
    answer = hand.put(a, "3", ms=1)
    assert (answer[0], answer[2], answer[8]) == (m.FAILED, m.OVERLOADED, 0)
    assert answer[9] > 0, "when to come back"
    assert hand.values(a) == ["2"], "nothing was done"


def overtaken_get() -> Hand:
    """A get has read its row and waits for an answer, while a put supersedes all of it."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "1", mode=m.BLIND)
    hand.put(a, "2", mode=m.BLIND)
    context = hand.context(a)
    hand.hold = kinds(m.FETCHED)
    hand.get(a, ms=2)
    get = hand._req
    hand.put(a, "3", mode=m.CAUSAL, context=context, ms=2)
    hand.release()
    hand.run(4)
    hand._req = get
    return hand


def test_a_get_that_a_put_overtakes_shows_the_new_value_and_never_nothing(monkeypatch):
    """D5: hide what was superseded only beside what superseded it (found by the simulator)."""
    hand = overtaken_get()
    assert [payload for _, payload in hand.answer()[3]] == [b"3"]

    def hide_all(clock, wall_ms, dead=()):
        return [v for v in dvv.values_of(clock) if v[0] not in dead]

    answer = Reads.answer

    def answer_from_what_was_read(self, op):
        op.owner = False
        answer(self, op)

    monkeypatch.setattr(dvv, "live", hide_all)
    monkeypatch.setattr(Reads, "answer", answer_from_what_was_read)
    hand = overtaken_get()
    assert hand.answer()[3] == []


def superseded_under_one_dot() -> Hand:
    """A retry's dot at b is read and superseded there, while the first dot is still arriving."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.lose = lambda src, dst, message: (src, dst) == (a, c) or dst == a
    hand.hold = lambda src, dst, message: (src, dst) == (a, b)
    hand.flying = []
    hand.put(a, "x", ms=3, timeout_ms=2)  # at a; its copy for b is under way
    answer = hand.put(b, "x", attempt=1, ms=200)
    held, hand.held = hand.held, []
    assert len(hand.row(b)) == 1
    context = answer[2]
    hand.flying += [entry for entry in held if entry[2][0] == m.REPLICATE]
    hand.run(1)
    hand.run(1)
    assert len(dvv.values_of(hand.row(b))) == 2, "both dots of x"
    hand.put(b, "y", mode=m.CAUSAL, context=context, ms=3)
    return hand


def test_superseding_one_dot_of_a_put_supersedes_the_other_in_the_same_row(monkeypatch):
    """D5, inside one row (found by the simulator)."""
    hand = superseded_under_one_dot()
    assert hand.values(hand.owners()[1]) == ["y"]

    def ids_that_left(before, after):
        kept = dvv.ids_of(after)
        return [put_id for put_id in dvv.ids_of(before) if put_id not in kept]

    monkeypatch.setattr(dvv, "lost_ids", ids_that_left)
    hand = superseded_under_one_dot()
    assert hand.values(hand.owners()[1]) == ["x", "y"]


def test_a_retry_believes_that_its_put_was_applied_and_superseded():
    """D5 (found by the simulator, a lost write): the answer's row alone does not tell."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.lose = to(b)
    seen = hand.put(a, "x", flags=m.SLOPPY)[2]
    hand.put(a, "y", mode=m.CAUSAL, context=seen)
    hand.kill(b)
    hand.wipe(b)
    hand.start(b)
    hand.lose = lambda src, dst, message: message[0] in (m.ROOTS, m.KEYS)
    hand.run(20)
    answer = hand.put(b, "x", attempt=1)
    assert answer[0] == m.PUT_OK
    assert [payload for _, payload in answer[3]] == [b"y"]
    hand.settle(1500)
    assert [hand.values(name) for name in hand.owners()] == [["y"]] * 3


def count_names(op, node, home):
    """Break C2: every acknowledgement is one more."""
    op.acked.append(node)


def counted_twice() -> tuple[Hand, m.Message | None]:
    """c is slow, its stand-in acknowledges, delivers and erases; then c acknowledges itself."""
    hand = Hand(nodes=5, probe_timeout_ms=90)
    a, b, c = hand.owners()
    hand.lose = lambda src, dst, message: (
        dst == b or (message[0] == m.REPLICATE and message[6] == b)
    )
    hand.hold = lambda src, dst, message: (src, dst) == (c, a) and message[0] == m.REPLICATE_OK
    hand.put(a, "x", w=3, ms=165, timeout_ms=290)
    hand.release()
    hand.run(8)
    return hand, hand.answer()


def test_an_owner_and_its_stand_in_count_once(monkeypatch):
    """C2 (found by the simulator): W=3 was met by two disks, one of them under two names."""
    hand, answer = counted_twice()
    assert answer is None
    monkeypatch.setattr(Fanout, "count", staticmethod(count_names))
    hand, answer = counted_twice()
    assert len(answer[4]) == 3


def test_put_ids_are_remembered_for_as_long_as_somebody_is_away(monkeypatch):
    """D5 (found by the simulator): the first coordinator comes back after the ids' time."""
    hand = retried_put(away_ms=3000, timeout_ms_max=1000)
    hand.settle()
    assert [hand.values(name) for name in hand.owners()] == [["y"]] * 3
    hand.run(2500)
    assert not any(node.replica.dead for node in hand.nodes.values()), "and then forgotten"

    monkeypatch.setattr(Replica, "hold_ids", lambda self: None)
    hints_without_ids(monkeypatch)
    hand = retried_put(away_ms=3000, timeout_ms_max=1000)
    hand.settle()
    assert hand.read(hand.owners()[1]) == ["x", "y"]


def late_first_attempt(hand: Hand) -> None:
    """A first attempt lies in the network; its retry is minted, superseded, and then it arrives."""
    a, b, c = hand.owners()
    hand.lose = to(a)
    hand.put(b, "x", attempt=1, ms=60)
    hand.put(b, "y", ms=60)
    hand.heal()
    hand.put(b, "z", ms=60)
    for node in (a, b, c):
        assert hand.values(node) == ["z"]
    late = (m.PUT, 999, 1000, hand.full(), 1, 0, m.AUTO, b"", value_id("x"), 0, 0, 0, 1, 0, b"x")
    node = hand.nodes[a]
    hand.now += 1
    hand.flying += [
        (a, dst, message)
        for dst, message in node.step(hand.now, [(b"client", late, hand.now - 300)])
        if isinstance(dst, str)
    ]
    hand.run(20)


def test_a_first_attempt_that_arrives_after_its_retry_is_not_minted_again(monkeypatch):
    """D4, D5 (found by the simulator): the old value came back over everything written since."""
    hand = Hand(exchange_ms=1_000_000)
    late_first_attempt(hand)
    hand.settle()
    assert hand.read(hand.owners()[0]) == ["z"]

    monkeypatch.setattr(Writes, "_doubt_if_late", lambda self, message, deadline_ms: message)
    hand = Hand(exchange_ms=1_000_000)
    late_first_attempt(hand)
    hand.settle()
    assert hand.read(hand.owners()[0]) == ["z"], "its age may be unknown: seed 2033"

    monkeypatch.setattr(Writes, "_context", auto_covers)
    hand = Hand(exchange_ms=1_000_000)
    late_first_attempt(hand)
    hand.settle()
    assert "z" not in hand.read(hand.owners()[0]), "acknowledged, and read by nobody"


def auto_covers(self, op, clock):
    return op.context if op.mode == m.CAUSAL else dvv.context_of(clock)


def test_a_late_attempt_does_not_cover_the_delete_that_covered_its_put(monkeypatch):
    """D5: a value that was deleted came back with a second attempt of its put."""

    def deleted_and_late() -> list[str]:
        hand = Hand(exchange_ms=1_000_000)
        a, b, c = hand.owners()
        hand.lose = to(a)
        context = hand.put(b, "x", attempt=1, ms=60)[2]
        hand.delete(b, "d", mode=m.CAUSAL, context=context, ms=60)
        hand.heal()
        hand.settle()
        hand.nodes[a].replica.dead.clear()
        hand.put(a, "x", again=False)
        hand.settle()
        return hand.read(a)

    assert deleted_and_late() == []
    monkeypatch.setattr(Writes, "_context", auto_covers)
    assert deleted_and_late() == ["x"]


def stand_in_with_an_old_context() -> list[str]:
    """S stands in, erases, and stands in again for a client that knows only its first dot."""
    lost = []
    for key in (f"k{i}" for i in range(8)):
        hand = Hand(nodes=4)
        (spare,) = [name for name in hand.names if name not in hand.owners(key)]
        hand.isolate(spare)
        hand.run(500)
        context = hand.put(spare, "v1", key=key, w=1)[2]
        for value in ("v2", "v3"):
            hand.put(spare, value, key=key, mode=m.BLIND, w=1)
        hand.settle()
        assert hand.hints(spare) == 0
        hand.isolate(spare)
        hand.run(500)
        hand.put(spare, "v4", key=key, mode=m.CAUSAL, context=context, w=1)
        for value in ("v5", "v6"):
            hand.put(spare, value, key=key, mode=m.BLIND, w=1)
        hand.settle()
        shown = hand.read(hand.owners(key)[0], key=key)
        lost += [value for value in ("v2", "v3", "v4", "v5", "v6") if value not in shown]
    return lost


def test_an_entry_that_came_with_a_context_is_not_continued(monkeypatch):
    """D3 (found by the simulator, a lost write)."""
    assert stand_in_with_an_old_context() == []

    monkeypatch.setattr(Replica, "notice_foresight", lambda *args: None)
    assert stand_in_with_an_old_context() != []


def read_beside_a_dying_owner() -> Hand:
    """a, back with the first dot of x, reads; b, which remembers x, takes the repair and dies."""
    hand = retried_put()
    a, b, c = hand.owners()
    hand.run(2)
    answering = hand.nodes[a].table.others(hand.arc(), a)[0]
    hand.lose = lambda src, dst, message: (
        (src == answering and message[0] == m.REPLICATE_OK) or message[0] in (m.ROOTS, m.KEYS)
    )
    hand.get(a, ms=6)
    hand.run(400)
    return hand


def test_an_owner_not_asked_so_far_is_asked_when_a_repair_stays_unanswered(monkeypatch):
    """D5: the simulator, seed 206211; a lone writer met a sibling of its own."""
    hand = read_beside_a_dying_owner()
    assert [payload for _, payload in hand.answer()[3]] == [b"y"]

    monkeypatch.setattr(Reads, "_repair_others", lambda self, op: False)
    hints_without_ids(monkeypatch)
    hand = read_beside_a_dying_owner()
    assert [payload for _, payload in hand.answer()[3]] == [b"y", b"x"]


def test_a_question_that_is_refused_under_an_older_register_is_asked_again():
    """C2 (found by the simulator): what was sent instead, an object that did not exist yet, was
    acknowledged, and that counted for the one that was minted a millisecond later."""
    hand = Hand(timeout_ms_max=1_000)
    a, b, c = hand.owners()
    arc = hand.arc()
    hand.nodes[b].roster.adopt(arc, hand.nodes[a].table.registers[arc]._replace(ver=2))
    hand.hold = lambda src, dst, message: src == c and message[0] == m.ID_IS
    answer = hand.put(a, "x", attempt=1)
    sent = [message for _, dst, message in hand.sent if dst == b]
    assert [message[0] for message in sent if message[0] == m.ASK_ID] == [m.ASK_ID] * 2
    assert all(message[11] for message in sent if message[0] == m.REPLICATE)
    assert answer[0] == m.PUT_OK
    assert hand.values(b) == ["x"]


def test_a_record_whose_check_is_damaged_leaves_its_arc_with_a_true_root():
    """M1 (found by the simulator): the root kept what the damaged check took out of it, and owners
    that held the same compared their arc for ever."""
    hand = Hand()
    a, b, c = hand.owners()
    hand.put(a, "v1")
    record = bytearray(hand.record(b))
    record[0] ^= 1
    hand.stores[b].put(OBJECTS, hand.skey(), bytes(record))
    hand.stores[b].commit()
    assert hand.read(b) == ["v1"]
    hand.settle()
    roots = {name: hand.nodes[name].replica.roots[hand.arc()] for name in (a, b, c)}
    assert len(set(roots.values())) == 1
    hand.nodes[b].check_rows()


def late_attempt_after_hints() -> Hand:
    """A put that stand-ins acknowledged is overwritten there; a late attempt meets the homes."""
    hand = Hand(nodes=5)
    a, b, c = hand.owners()
    hand.isolate(b, c)  # from everybody else: they still hear each other
    hand.run(500)
    assert hand.put(a, "v1")[0] == m.PUT_OK
    assert hand.put(a, "v2")[0] == m.PUT_OK, "over v1"
    hand.lose = lambda src, dst, message: a in (src, dst)  # the stand-ins deliver, a is gone
    hand.run(500)
    assert hand.values(b) == hand.values(c) == ["v2"]
    assert hand.put(b, "v3")[0] == m.PUT_OK, "over v2"
    hand.put(b, "v1", attempt=1, timeout_ms=900, ms=200)
    return hand


def test_a_late_attempt_is_known_where_hints_have_brought_what_overwrote_it(monkeypatch):
    """D5, seed 2043: an auto put, minted again, covers an acknowledged value that it never saw."""
    hand = late_attempt_after_hints()
    assert hand.values(hand.owners()[1]) == ["v3"]

    hints_without_ids(monkeypatch)
    hand = late_attempt_after_hints()
    assert hand.values(hand.owners()[1]) == ["v1"], "v3 was acknowledged"
