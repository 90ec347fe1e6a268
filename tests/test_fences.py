"""Requests while an arc moves: who is asked at which phase, who refuses, and what counts.

Nothing moves here on its own: a test says which node is at which phase, and only requests, and what
they teach, travel. Moves themselves are tested in `test_moves`, the rules in `test_fences_model`.
"""

from __future__ import annotations

import pytest
from hand import Hand, value_id

from dynamo.core import fence, ring
from dynamo.core import messages as m
from dynamo.core.fanout import Fanout
from dynamo.core.items import JUMP_MAX, REMOVED
from dynamo.core.requests import Requests
from dynamo.core.ring import COPYING, DONE, STABLE, SWITCHED, Register
from dynamo.core.spaces import OBJECTS

REQUESTS = (
    *(m.REPLICATE, m.REPLICATE_OK, m.FETCH, m.FETCHED, m.ASK_ID, m.ID_IS),
    *(m.REFUSED, m.FORWARD, m.FORWARDED, m.PING, m.PONG),
)


class Still(Hand):
    """A ring that stays as a test sets it up: arc "k" of a, b, c, with d about to take c's place.

    `r0` to `r3` are the registers of the move, by phase.
    """

    def __init__(self, nodes: int = 5, **config) -> None:
        self.still = False
        super().__init__(nodes, **{"exchange_ms": 1_000_000, "hedge_ms_max": 10} | config)
        self.run(60)
        self.still = True
        self.a, self.b, self.c, *_ = self.owners()
        self.d, *self.rest = [name for name in self.names if name not in self.owners()]
        self.plan(self.owners(), (self.a, self.b, self.d))
        self.sent.clear()

    def plan(self, cur: tuple[str, ...], coming: tuple[str, ...], number: int = 1) -> None:
        self.r0 = next(iter(self.nodes.values())).table.registers[self.arc()]
        self.r1 = ring.proposal(number, COPYING, cur, coming)
        self.r2 = ring.advanced(self.r1)
        self.r3 = ring.advanced(self.r2)
        self.phases = (self.r0, self.r1, self.r2, self.r3)

    def _send(self, src, dst, message) -> None:
        kept = message[0] in REQUESTS or (message[0] == m.REGISTER and not message[1])
        if kept or not self.still or isinstance(dst, bytes):
            super()._send(src, dst, message)

    def at(self, phase: int, *names: str) -> None:
        """Tell these nodes, or all, how far the move is; an owner to be has its copy at phase 2."""
        for name in names or self.names:
            node = self.nodes[name]
            node.roster.adopt(self.arc(), self.phases[phase])
            node.step(self.now, [])  # drops what moves has to say about it
            node.replica.set_synced(self.arc(), phase >= SWITCHED or name != self.d)

    def register(self, name: str) -> Register:
        return self.nodes[name].table.registers[self.arc()]

    def asked(self, *kinds: int, since: int = 0) -> list[str]:
        """Who got messages of these kinds, sorted, as often as they did."""
        return sorted(dst for _, dst, msg in self.sent[since:] if msg[0] in kinds)

    def holders(self, value: str = "v") -> list[str]:
        return sorted(name for name in self.nodes if value in self.values(name))

    def ask(self, dst: str, message: m.Message, src: str = "") -> list[m.Message]:
        """What a node answers to one message of another."""
        src = src or next(name for name in self.names if name != dst)
        self.now += 1
        answers = self.nodes[dst].step(self.now, [(src, message, self.now)])
        return [msg for to, msg in answers if to == src and msg[0] in (*REQUESTS, m.REGISTER)
                and msg[0] not in (m.PING, m.PONG)]  # fmt: skip

    def replicate(self, register: Register, req: int = 7, durable: int = 0, home: str = ""):
        obj = self.stores[self.a].get(OBJECTS, self.skey())[8:]
        ver, phase = register[:2]
        return (m.REPLICATE, req, 500, self.full(), ver, phase, home, 1, durable, b"", [], obj)


def ok(answer: m.Message | None) -> bool:
    return answer is not None and answer[0] in (m.PUT_OK, m.GET_OK)


# --- who is asked at which phase ------------------------------------------------------------------


@pytest.mark.parametrize("phase", [STABLE, COPYING, SWITCHED, DONE])
def test_a_put_goes_to_every_owner_that_is_or_is_to_be(phase):
    hand = Still()
    hand.at(phase)
    answer = hand.put(hand.a, "v", w=m.ALL)
    both = phase in (COPYING, SWITCHED)
    wanted = {STABLE: [hand.a, hand.b, hand.c], DONE: [hand.a, hand.b, hand.d]}.get(
        phase, [hand.a, hand.b, hand.c, hand.d]
    )
    assert ok(answer)
    assert sorted(answer[4]) == hand.holders() == sorted(wanted)
    assert hand.asked(m.REPLICATE) == sorted(set(wanted) - {hand.a})
    assert len(wanted) == 3 + both
    assert not hand.asked(m.REFUSED, m.REGISTER)


@pytest.mark.parametrize("phase", [STABLE, COPYING, SWITCHED, DONE])
def test_a_get_asks_the_old_owners_until_the_copy_is_whole_and_then_the_new_ones(phase):
    hand = Still()
    hand.at(phase)
    hand.put(hand.a, "v", w=m.ALL)
    hand.sent.clear()
    answer = hand.get(hand.a, r=m.ALL)
    new = phase in (SWITCHED, DONE)
    assert ok(answer)
    assert sorted(answer[4]) == sorted([hand.a, hand.b, hand.d if new else hand.c])
    assert (hand.d if new else hand.c) in hand.asked(m.FETCH)
    assert (hand.c if new else hand.d) not in hand.asked(m.FETCH)


@pytest.mark.parametrize("phase", [STABLE, COPYING, SWITCHED, DONE])
def test_a_scan_counts_at_those_whom_reads_ask(phase):
    hand = Still()
    hand.at(phase)
    found = {}
    for name in hand.names:
        hand.flying.append(("client", name, (m.SCAN, 100, 500, hand.arc(), 1, 0, b"", b"", 10)))
        hand.run(2)
        found[name] = hand.replies.pop()[4]
    new = phase in (SWITCHED, DONE)
    readers = [hand.a, hand.b, hand.d if new else hand.c]
    assert {name for name, synced in found.items() if synced} == set(readers)


def test_an_owner_that_only_writes_are_for_coordinates_a_put_and_passes_a_get_on():
    hand = Still()
    hand.put(hand.a, "v", w=m.ALL)
    hand.at(COPYING)
    hand.sent.clear()
    assert hand.put(hand.d, "x", again=False)[0] == m.CONFLICT, "its own silence is no evidence"
    assert hand.asked(m.ASK_ID)
    assert ok(hand.put(hand.d, "x"))
    assert not hand.asked(m.FORWARD)
    assert hand.read(hand.d) == ["x"]
    assert len(hand.asked(m.FORWARD)) == 1
    hand.at(SWITCHED)
    hand.sent.clear()
    assert hand.put(hand.c, "y", again=False)[0] == m.CONFLICT
    assert hand.asked(m.ASK_ID) == sorted([hand.a, hand.b, hand.d])
    assert ok(hand.put(hand.c, "y"))
    assert hand.read(hand.c) == ["y"]


@pytest.mark.parametrize(("phase", "writer"), [(COPYING, "d"), (SWITCHED, "c")])
def test_what_an_owner_holds_whom_reads_do_not_ask_is_shown_and_does_not_count(phase, writer):
    """R4: it lacks what was written before, or does not get what is written after."""
    hand = Still()
    hand.put(hand.a, "v")
    hand.at(phase)
    name = getattr(hand, writer)
    hand.nodes[name].replica.set_synced(hand.arc(), True)
    hand.ask(name, hand.replicate(hand.phases[phase]))
    (answer,) = hand.ask(name, (m.FETCH, 7, 500, hand.full(), *hand.phases[phase][:2], b""))
    assert answer[:4] == (m.FETCHED, 7, m.OBJECT, 0)
    assert answer[4], "and yet whoever asks may merge it"


def test_the_questions_of_a_retry_are_for_those_whom_reads_ask():
    hand = Still()
    hand.put(hand.a, "v", w=m.ALL)
    hand.at(SWITCHED)
    hand.sent.clear()
    assert ok(hand.put(hand.a, "w", attempt=1, mode=m.BLIND))
    assert hand.asked(m.ASK_ID) == sorted([hand.b, hand.d])
    hand.sent.clear()
    assert ok(hand.put(hand.c, "x", attempt=1, mode=m.BLIND))
    assert hand.asked(m.ASK_ID) == sorted([hand.a, hand.b, hand.d])


# --- the fence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("here", [STABLE, COPYING, SWITCHED, DONE])
@pytest.mark.parametrize("there", [STABLE, COPYING, SWITCHED, DONE])
def test_a_request_is_served_under_an_equal_register_only(here, there):
    """F1, in both directions."""
    hand = Still()
    hand.put(hand.a, "v")
    hand.at(there, hand.b)
    hand.forget_row(hand.b)
    register = hand.phases[here]
    ver, phase = register[:2]
    put = (m.PUT, 3, 500, hand.full(), 1, 0, m.AUTO, b"", value_id("p"), 0, 1, 0, 1, 0, b"p")
    for message in (
        (m.FETCH, 7, 500, hand.full(), ver, phase, b""),
        (m.ASK_ID, 7, 500, hand.full(), ver, phase, value_id("v")),
        (m.FORWARD, 7, list(put), ver, phase),
        hand.replicate(register),
        hand.replicate(register, home=hand.c),
    ):
        answers = hand.ask(hand.b, message, hand.a)
        if here == there:
            assert answers
            assert all(answer[0] != m.REFUSED for answer in answers)
        else:
            theirs = hand.phases[there]
            fields = (*theirs[:3], list(theirs.cur), list(theirs.next))
            assert answers == [(m.REFUSED, 7, hand.arc(), *fields)]
    assert bool(hand.values(hand.b)) == (here == there)
    assert bool(hand.hints(hand.b)) == (here == there)
    assert hand.register(hand.b) == hand.phases[there], "a request teaches its receiver nothing"


@pytest.mark.parametrize("phase", [STABLE, COPYING, SWITCHED, DONE])
def test_what_is_merely_merged_comes_in_at_any_phase(phase):
    hand = Still()
    hand.put(hand.a, "v")
    hand.at(phase, hand.b)
    for here in hand.phases:
        hand.forget_row(hand.b)
        assert hand.ask(hand.b, hand.replicate(here, req=0)) == []
        assert hand.values(hand.b) == ["v"]
        hand.forget_row(hand.b)
        (answer,) = hand.ask(hand.b, hand.replicate(here, durable=m.SYNCED_IF_KEPT))
        assert answer[:3] == (m.REPLICATE_OK, 7, m.STORED)
        assert hand.values(hand.b) == ["v"]


def test_a_hint_that_comes_to_no_owner_is_refused_with_why_or_dropped():
    hand = Still()
    hand.put(hand.a, "v")
    hand.at(DONE)
    hand.forget_row(hand.c)
    (answer,) = hand.ask(hand.c, hand.replicate(hand.r0, durable=m.SYNCED_IF_KEPT))
    assert answer[:4] == (m.REFUSED, 7, hand.arc(), hand.r3.ver)
    assert hand.ask(hand.c, hand.replicate(hand.r3, durable=m.SYNCED_IF_KEPT)) == []
    assert hand.nodes[hand.c].stats["not_an_owner"] == 1
    assert hand.values(hand.c) == []


def test_whoever_is_behind_is_taught_by_the_first_request_in_either_direction():
    hand = Still()
    hand.at(COPYING, hand.b)
    assert ok(hand.put(hand.a, "v", w=m.ALL))
    assert [hand.register(name) for name in (hand.a, hand.b, hand.c, hand.d)] == [hand.r1] * 4
    assert hand.nodes[hand.a].stats["registers_learnt"] == 1, "from b"
    assert hand.nodes[hand.a].stats["registers_taught"] == 2, "to c and to d"
    assert hand.holders() == sorted([hand.a, hand.b, hand.c, hand.d])


def test_a_peer_that_was_never_told_of_the_arc_is_told():
    hand = Still()
    arc = hand.arc()
    hand.nodes[hand.b].table.registers[arc] = Register(0, 0, 0, (), ())
    refusal = hand.ask(hand.b, (m.FETCH, 7, 500, hand.full(), *hand.r0[:2], b""))
    assert refusal == [(m.REFUSED, 7, arc, 0, 0, 0, [], [])]
    asked = hand.put(hand.b, "x")
    assert (asked[0], asked[2], asked[8]) == (m.FAILED, m.NOT_READY, 0)
    assert ok(hand.put(hand.a, "v", w=m.ALL))
    assert hand.register(hand.b) == hand.r0


def test_a_node_that_cannot_be_taught_is_asked_so_often_and_no_more():
    """F3: a peer that refuses whatever it is told counts as silent."""
    hand = Still()
    hand.at(COPYING, hand.a)
    hand.lose = lambda src, dst, message: message[0] == m.REGISTER
    assert hand.put(hand.a, "v", flags=0, ms=500) is None
    refusals = len([1 for _, dst, msg in hand.sent if msg[0] == m.REFUSED and dst == hand.a])
    assert fence.REFUSALS_MAX <= refusals <= fence.REFUSALS_MAX + 8
    assert hand.nodes[hand.a].stats["refusals_ignored"] > 0


def test_registers_from_outside_are_checked_and_nothing_of_a_bad_one_is_taken():
    """G3: the field of a register that was flipped on its way moves no arc."""
    hand = Still()
    arc = hand.arc()
    far = ring.proposal(JUMP_MAX + 5, COPYING, hand.r1.cur, hand.r1.next).ver
    cur, coming = list(hand.r1.cur), list(hand.r1.next)
    bad = [
        (arc, hand.r1.ver, 1, hand.r1.tie ^ 1, cur, coming),
        (arc, hand.r1.ver, 0, hand.r1.tie, cur, coming),
        (arc, hand.r1.ver, 1, hand.r1.tie, [], coming),
        (arc, hand.r1.ver, 1, hand.r1.tie, [*cur[:2], cur[0]], coming),
        (arc, hand.r1.ver, 1, hand.r1.tie, [1, 2, 3], coming),
        (arc, hand.r1.ver, 9, hand.r1.tie, cur, coming),
        (arc, -5, 1, hand.r1.tie, cur, coming),
        (arc, far, 1, hand.r1.tie, cur, coming),
        (99, hand.r1.ver, 1, hand.r1.tie, cur, coming),
        (-1, 0, 0, 0, [], []),
        (99, 0, 0, 0, [], []),
    ]
    node = hand.nodes[hand.a]
    for fields in bad:
        hand.ask(hand.a, (m.REFUSED, 7, *fields), hand.b)
    assert node.stats["malformed"] == len(bad)
    assert hand.register(hand.a) == hand.r0
    hand.ask(hand.a, (m.REFUSED, 7, arc, *hand.r1[:3], cur, coming), hand.b)
    assert hand.register(hand.a) == hand.r1, "nobody need have asked for it"


def test_a_register_that_was_adopted_is_synced_before_anything_is_answered_under_it():
    hand = Still()
    store, synced = hand.stores[hand.a], []
    real = store.commit
    store.commit = lambda sync=False: (synced.append(sync), real(sync=sync))[1]
    hand.ask(hand.a, (m.REFUSED, 7, hand.arc(), *hand.r1[:3], list(hand.r1.cur),
                      list(hand.r1.next)))  # fmt: skip
    hand.ask(hand.a, (m.PING, 1))
    assert synced == [True, False]


# --- puts under a register that holds no longer ---------------------------------------------------


def test_a_put_of_phase_0_that_meets_phases_1_and_2_goes_on_under_phase_2():
    hand = Still()
    hand.at(COPYING, hand.b)
    hand.at(SWITCHED, hand.c, hand.d)
    answer = hand.put(hand.a, "v", w=m.ALL)
    assert ok(answer)
    assert sorted(answer[4]) == hand.holders() == sorted([hand.a, hand.b, hand.c, hand.d])
    assert {hand.register(name) for name in (hand.a, hand.b, hand.c, hand.d)} == {hand.r2}
    assert hand.nodes[hand.a].stats["puts_retargeted"] in (1, 2)


def two_phases_behind() -> tuple[Hand, m.Message | None]:
    """a is at phase 0 and hears of nothing; the others have gone on to phase 2."""
    hand = Still()
    hand.at(SWITCHED, hand.b, hand.c, hand.d)
    hand.lose = lambda src, dst, message: message[0] == m.REFUSED
    return hand, hand.put(hand.a, "v", flags=0, ms=400, timeout_ms=300)


def test_a_coordinator_two_phases_behind_does_not_succeed(monkeypatch):
    """I3: at phase 2 readers ask a, b, d, of whom its put would have reached only a."""
    hand, answer = two_phases_behind()
    assert (answer[0], answer[2], answer[5], answer[8]) == (m.FAILED, m.TIMED_OUT, 1, 1)
    stale = hand.get(hand.a, r=2, flags=0, ms=400, timeout_ms=300)
    assert stale[0] == m.FAILED, "nor does a read"

    monkeypatch.setattr(Requests, "stale", lambda *_: False)
    hand, answer = two_phases_behind()
    assert ok(answer), "without the fence it is acknowledged"
    hand.forget_row(hand.b)
    hand.lose = lambda src, dst, message: hand.a in (src, dst)
    assert hand.read(hand.d, r=1) == [], "and one of the readers knows nothing of it"


def held_up_put(w: int = 2, phase: int = COPYING) -> Still:
    """a's put has b's acknowledgement, or not yet W of them, when c refuses it."""
    hand = Still()
    hand.at(phase, hand.c)
    hand.hold = lambda src, dst, message: message[0] == m.REFUSED
    hand.put(hand.a, "v", w=w, ms=6)
    return hand


def test_a_retarget_in_mid_put_keeps_what_was_acknowledged_and_needs_the_new_list_as_well():
    """F2: a and b have it; W=3 of a, b, c and of a, b, d lacks c and d, and only they are asked."""
    hand = held_up_put(w=3)
    assert hand.answer() is None
    seen = len(hand.sent)
    hand.hold = lambda src, dst, message: src == hand.d and message[0] == m.REPLICATE_OK
    hand.flying, hand.held = hand.held, []
    hand.run(8)
    assert set(hand.asked(m.REPLICATE, since=seen)) == {hand.c, hand.d}
    assert hand.answer() is None, "c has it too, and d has not said so"
    hand.release()
    hand.run(3)
    assert ok(hand.answer())
    assert sorted(hand.answer()[4]) == sorted([hand.a, hand.b, hand.c, hand.d])


def test_what_was_acknowledged_before_the_refusal_may_be_enough_for_both_lists():
    hand = Still()
    hand.at(COPYING, hand.c)
    hand.hold = lambda src, dst, message: (
        (message[0] == m.REPLICATE_OK and src == hand.b) or message[0] == m.REFUSED
    )
    hand.put(hand.a, "v", ms=6)
    hand.held.sort(key=lambda entry: entry[2][0] == m.REFUSED)
    hand.lose = lambda src, dst, message: hand.d in (src, dst)
    hand.release()
    hand.run(2)
    assert ok(hand.answer())
    assert sorted(hand.answer()[4]) == sorted([hand.a, hand.b])


def test_a_put_that_was_answered_still_brings_its_value_to_the_owner_that_refused():
    hand = held_up_put()
    assert ok(hand.answer())
    hand.release()
    hand.run(6)
    assert hand.holders() == sorted([hand.a, hand.b, hand.c, hand.d])
    assert not hand.nodes[hand.a].requests.pending


def left_by_the_coordinator() -> tuple[Still, m.Message | None]:
    """The arc goes from a, b, c to d, b, c; a coordinates at phase 0 what the others do at 3."""
    hand = Still()
    hand.plan((hand.a, hand.b, hand.c), (hand.d, hand.b, hand.c))
    hand.at(DONE, hand.b, hand.c, hand.d)
    hand.lose = lambda src, dst, message: message[0] == m.REPLICATE_OK and src != hand.b
    return hand, hand.put(hand.a, "v", flags=0)


def test_a_coordinator_that_owns_the_arc_no_longer_does_not_count_itself(monkeypatch):
    """C4: it may drop its copy at any moment, and readers do not ask it."""
    hand, answer = left_by_the_coordinator()
    assert answer is None, "b alone has it"
    hand.heal()
    hand.run(200)
    assert hand.nodes[hand.a].requests.pending == {} or hand.answer() is None
    hand, answer = left_by_the_coordinator()
    hand.lose = lambda src, dst, message: False
    answer = hand.put(hand.b, "w", mode=m.BLIND, w=3)
    assert ok(answer)
    assert hand.a not in answer[4]

    real = Fanout.retarget

    def keep(self, op):
        homes, acked = dict(op.homes), list(op.acked)
        real(self, op)
        op.homes |= homes
        op.acked = list(dict.fromkeys([*acked, *op.acked]))

    monkeypatch.setattr(Fanout, "retarget", keep)
    hand, answer = left_by_the_coordinator()
    assert ok(answer), "with a counted"
    assert hand.a in answer[4]


def test_a_coordinator_that_owns_the_arc_no_longer_succeeds_with_w_of_those_who_do():
    hand = Still()
    hand.plan((hand.a, hand.b, hand.c), (hand.d, hand.b, hand.c))
    hand.at(DONE, hand.b, hand.c, hand.d)
    answer = hand.put(hand.a, "v", flags=0)
    assert ok(answer)
    assert len(answer[4]) == 2
    assert hand.a not in answer[4]
    hand.run(5)
    assert {hand.b, hand.c, hand.d} <= set(hand.holders())


def test_an_acknowledgement_as_a_stand_in_is_none_as_an_owner():
    """d keeps a hint for c; then it is an owner itself, and its late answer speaks of the hint."""
    hand = Still(nodes=4)
    hand.kill(hand.c)
    hand.hold = lambda src, dst, message: src == hand.d and message[0] == m.REPLICATE_OK
    hand.put(hand.a, "v", w=3, ms=200)
    assert hand.answer() is None
    assert hand.hints(hand.d) == 1
    late, hand.held = hand.held, []
    hand.plan((hand.a, hand.b, hand.c), (hand.a, hand.b, hand.d))
    hand.at(COPYING, hand.b, hand.d)
    hand.hold = lambda src, dst, message: message[0] == m.REPLICATE and dst == hand.d
    hand.ask_again = hand.nodes[hand.a].requests.pending
    (op,) = hand.ask_again.values()
    hand.nodes[hand.a].roster.adopt(hand.arc(), hand.r1)
    op.again(hand.c)
    hand.flying += late
    hand.run(3)
    assert op.homes == {hand.a: hand.a, hand.b: hand.b}
    assert hand.answer() is None
    hand.release()
    hand.run(5)
    assert op.homes[hand.d] == hand.d
    assert hand.values(hand.d) == ["v"]


def test_a_stand_in_that_comes_to_own_the_arc_has_a_row_of_its_own_and_counts_once():
    """C2: d coordinates for a, b, c, none of whom answers; then the arc is d's as well."""
    hand = Still()
    hand.plan((hand.a, hand.b, hand.c), (hand.a, hand.b, hand.d))
    for name in (hand.a, hand.b, hand.c):
        hand.kill(name)
    hand.run(600)
    hand.lose = lambda src, dst, message: message[0] == m.REPLICATE
    hand.put(hand.d, "v", w=2, ms=5)
    (op,) = hand.nodes[hand.d].requests.pending.values()
    assert op.acked == [hand.d]
    hand.nodes[hand.d].roster.adopt(hand.arc(), hand.r1)
    op.again(next(iter(op.waiting)))
    assert op.homes == {hand.a: hand.d, hand.d: hand.d}
    assert op.acked == [hand.d]
    Fanout.count(op, hand.c, "")
    assert not Fanout.met(op), "W disks in all; of a, b, d two owners, and one disk"
    hand.run(2)
    assert hand.values(hand.d) == ["v"]


def test_a_put_asks_everybody_under_its_own_register_until_it_is_refused():
    """F2: the node has heard of phase 1 in another way, and a stand-in is asked under phase 0."""
    hand = Still()
    hand.lose = lambda src, dst, message: dst == hand.c
    hand.hold = lambda src, dst, message: dst == hand.b
    hand.put(hand.a, "v", ms=4)
    hand.at(COPYING, hand.a, *hand.rest)
    hand.run(160)
    stood_in = [msg[4:6] for _, _, msg in hand.sent if msg[0] == m.REPLICATE and msg[6]]
    assert stood_in[0] == hand.r0[:2]
    assert {msg[0] for _, dst, msg in hand.sent if dst == hand.a} >= {m.REFUSED}
    hand.release()
    hand.run(4)
    assert ok(hand.answer())
    (op,) = hand.nodes[hand.a].requests.pending.values()
    assert op.register == hand.r1


def test_the_questions_of_a_retry_are_asked_anew_and_its_copy_is_one_of_the_new_phase():
    hand = Still()
    hand.at(COPYING, hand.b, hand.c, hand.d)
    hand.hold = lambda src, dst, message: message[0] == m.REPLICATE
    answer = hand.put(hand.a, "v", attempt=1, ms=6)
    (op,) = hand.nodes[hand.a].requests.pending.values()
    assert answer is None
    assert op.register == hand.r1
    assert op.homes == {hand.a: hand.a}
    assert hand.nodes[hand.a].stats["questions_retargeted"] == 1
    hand.release()
    hand.run(4)
    assert ok(hand.answer())
    assert {msg[4:6] for _, _, msg in hand.sent if msg[0] == m.REPLICATE} == {hand.r1[:2]}


def test_an_arc_that_moves_while_a_retry_asks_is_minted_under_what_holds_then():
    """Nobody refused; the node was told in another way. What it stores then is of that phase."""
    hand = Still()
    hand.hold = lambda src, dst, message: message[0] == m.ID_IS
    hand.put(hand.a, "v", attempt=1, ms=4)
    hand.at(COPYING)
    hand.release()
    hand.run(6)
    assert ok(hand.answer())
    assert {msg[4:6] for _, _, msg in hand.sent if msg[0] == m.REPLICATE} == {hand.r1[:2]}
    assert hand.holders() == sorted([hand.a, hand.b, hand.c, hand.d])


def test_a_retry_that_asks_while_its_coordinator_loses_the_arc_is_kept_for_the_owners():
    hand = Still()
    hand.plan((hand.a, hand.b, hand.c), (hand.d, hand.b, hand.c))
    hand.hold = lambda src, dst, message: message[0] == m.ID_IS
    hand.put(hand.a, "v", attempt=1, ms=4)
    hand.at(DONE)
    hand.release()
    hand.run(8)
    assert ok(hand.answer())
    assert hand.values(hand.a) == [], "not a row"
    assert hand.nodes[hand.a].stats["hints_delivered"] == 3
    assert {hand.b, hand.c, hand.d} <= set(hand.holders())


def test_a_strict_retry_whose_coordinator_loses_the_arc_is_refused_with_nothing_done():
    hand = Still()
    hand.plan((hand.a, hand.b, hand.c), (hand.d, hand.b, hand.c))
    hand.hold = lambda src, dst, message: message[0] == m.ID_IS
    hand.put(hand.a, "v", attempt=1, flags=0, ms=4)
    hand.at(DONE)
    hand.release()
    hand.run(4)
    answer = hand.answer()
    assert (answer[0], answer[2], answer[8]) == (m.FAILED, m.UNAVAILABLE, 0)
    assert hand.holders() == []


# --- levels over two lists ------------------------------------------------------------------------


def test_w_1_needs_one_of_each_list():
    hand = Still()
    hand.at(COPYING)
    hand.lose = lambda src, dst, message: message[0] == m.REPLICATE
    assert ok(hand.put(hand.a, "v", w=1, ms=2)), "a is in both"
    hand = Still()
    hand.at(COPYING)
    hand.hold = lambda src, dst, message: message[0] == m.REPLICATE
    hand.put(hand.c, "v", w=1, ms=3)
    assert hand.answer() is None, "c is only in the old one"
    hand.release()
    hand.run(4)
    assert ok(hand.answer())


def test_pw_needs_that_many_owners_of_each_list_themselves():
    hand = Still(nodes=6)
    hand.at(COPYING)
    hand.kill(hand.d)
    hand.run(600)
    answer = hand.put(hand.a, "v", pw=3)
    assert (answer[0], answer[2], answer[4:6], answer[8]) == (m.FAILED, m.UNAVAILABLE, (3, 2), 0)
    assert ok(hand.put(hand.a, "v", pw=2, w=3)), "a and b are in both; a stand-in is W's third"


def test_stand_ins_keep_the_write_for_any_owner_of_either_list():
    hand = Still(nodes=6)
    hand.at(COPYING)
    hand.kill(hand.c)
    hand.kill(hand.d)
    hand.run(600)
    answer = hand.put(hand.a, "v", w=3)
    assert ok(answer)
    assert sorted(home for _, home in answer[5]) == sorted([hand.c, hand.d])
    assert len(set(answer[4])) == 4
    strict = hand.put(hand.a, "w", w=3, flags=0, mode=m.BLIND)
    assert (strict[2], strict[8]) == (m.UNAVAILABLE, 0)


def test_a_scarce_stand_in_stands_for_an_owner_of_both_lists():
    """Of a, b, c and d, b, c only c and, beside the owners, one node are left."""
    hand = Still(nodes=5)
    hand.plan((hand.a, hand.b, hand.c), (hand.d, hand.b, hand.c))
    hand.at(COPYING)
    for name in (hand.a, hand.b, hand.d):
        hand.kill(name)
    hand.run(600)
    answer = hand.put(hand.c, "v")
    assert ok(answer)
    assert answer[5] == [[hand.rest[0], hand.b]]
    hand.kill(hand.rest[0])
    hand.run(600)
    refused = hand.put(hand.c, "w", mode=m.BLIND)
    assert (refused[2], refused[8]) == (m.UNAVAILABLE, 0), "nothing was begun"


def test_a_put_for_which_no_owner_answers_is_kept_for_both_lists():
    hand = Still(nodes=7)
    hand.at(COPYING)
    for name in (hand.a, hand.b, hand.c, hand.d):
        hand.kill(name)
    hand.run(600)
    answer = hand.put(hand.rest[0], "v")
    assert ok(answer)
    assert hand.nodes[hand.rest[0]].handoff.row(hand.skey()).homes == sorted(
        [hand.a, hand.b, hand.c, hand.d]
    )
    assert hand.get(hand.rest[0], r=1)[3], "and read from there"
    strict = hand.get(hand.rest[0], r=1, flags=0)
    assert (strict[0], strict[2]) == (m.FAILED, m.UNAVAILABLE), "by whom a hint will do"


@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("level", [3, m.ALL])
def test_levels_go_by_the_longer_list_and_ask_no_more_of_the_shorter_than_it_has(grows, level):
    hand = Still(nodes=4)
    short, long = (hand.a, hand.b), hand.owners()
    lists = (short, long) if grows else (long, short)
    hand.plan(*lists)
    hand.at(COPYING)
    answer = hand.put(hand.a, "v", w=level)
    assert ok(answer)
    assert sorted(answer[4]) == sorted(long)
    assert sorted(hand.get(hand.a, r=level)[4]) == sorted(lists[0])
    assert hand.put(hand.a, "w", w=4)[2] == m.INVALID
    assert hand.get(hand.a, r=4)[2] == m.INVALID


def test_a_level_that_was_within_reach_when_the_put_began_stays_so_when_the_list_gets_shorter():
    hand = Still(nodes=4)
    hand.plan(hand.owners(), (hand.a, hand.b))
    hand.at(DONE, hand.b, hand.c)
    answer = hand.put(hand.a, "v", w=3)
    assert ok(answer)
    assert sorted(answer[4]) == sorted([hand.a, hand.b])


# --- reads under a register that holds no longer --------------------------------------------------


def test_a_read_begins_again_under_the_register_that_it_was_refused_with():
    hand = Still()
    hand.at(SWITCHED, hand.b, hand.c, hand.d)
    assert ok(hand.put(hand.b, "v", w=m.ALL))
    hand.nodes[hand.a].table.registers[hand.arc()] = hand.r0  # as if it had never heard
    hand.nodes[hand.a].table._readers[hand.arc()] = hand.r0.readers
    hand.nodes[hand.a].table._writers[hand.arc()] = hand.r0.cur
    hand.sent.clear()
    answer = hand.get(hand.a, r=m.ALL)
    assert ok(answer)
    assert sorted(answer[4]) == sorted([hand.a, hand.b, hand.d])
    assert [payload for _, payload in answer[3]] == [b"v"]
    assert hand.nodes[hand.a].stats["gets_restarted"] == 1


def test_answers_of_two_phases_do_not_add_up_to_one_quorum():
    """b answers at phase 0 and is slow about it; c refuses with phase 2. b's answer is not used."""
    hand = Still()
    hand.put(hand.a, "v", w=m.ALL)
    hand.hold = lambda src, dst, message: message[0] == m.FETCHED and src == hand.b
    hand.at(SWITCHED, hand.c, hand.d)
    assert hand.get(hand.a, r=3, ms=3) is None
    late, hand.held = hand.held, []
    hand.hold = lambda src, dst, message: message[0] == m.FETCHED
    hand.flying += late
    hand.run(4)
    (op,) = hand.nodes[hand.a].requests.pending.values()
    assert op.register == hand.r2
    assert op.acked == [hand.a]
    assert late[0][2][1] != op.req
    hand.release()
    hand.run(3)
    assert ok(hand.answer())
    assert sorted(hand.answer()[4]) == sorted([hand.a, hand.b, hand.d])


def test_a_node_that_reads_do_not_ask_any_more_does_not_count_itself():
    hand = Still()
    hand.plan((hand.a, hand.b, hand.c), (hand.d, hand.b, hand.c))
    hand.put(hand.a, "v", w=m.ALL)
    hand.at(DONE, hand.b, hand.c, hand.d)
    answer = hand.get(hand.a)
    assert ok(answer)
    assert hand.a not in answer[4]
    assert len(answer[4]) == 2


def test_a_repair_that_is_refused_is_sent_again_or_given_up_and_the_read_answered():
    """The quorum of the read stands; only whom there is to repair has changed."""
    for loser in ("b", "c"):
        hand = Still()
        old = {"b": hand.b, "c": hand.c}[loser]
        others = tuple(name for name in (hand.a, hand.b, hand.c) if name != old)
        hand.plan((hand.a, hand.b, hand.c), (*others, hand.d))
        hand.put(hand.a, "1", mode=m.BLIND, w=m.ALL)
        hand.lose = lambda src, dst, message, old=old: message[0] == m.REPLICATE and dst == old
        hand.put(hand.a, "2", mode=m.BLIND, ms=4)
        hand.heal()
        hand.hold = lambda src, dst, message: message[0] == m.REPLICATE
        assert hand.get(hand.a, r=3, ms=20, flags=m.REPAIR_FIRST) is None
        hand.at(DONE if loser == "c" else COPYING, old)
        hand.release()
        hand.run(8)
        assert ok(hand.answer()), loser
        assert (hand.values(old) == ["1", "2"]) == (loser == "b")


def test_what_was_acknowledged_at_one_phase_is_read_at_the_next_by_somebody_else():
    """Two clients, each with a coordinator of its own, at phases that follow on each other."""
    for before, after in ((STABLE, COPYING), (COPYING, SWITCHED), (SWITCHED, DONE)):
        hand = Still()
        hand.at(before)
        hand.lose = lambda src, dst, message, d=hand.d: message[0] == m.REPLICATE and dst == d
        assert ok(hand.put(hand.a, "v1", w=2, flags=0))
        hand.heal()
        hand.at(after, hand.b, hand.c, hand.d)
        assert "v1" in hand.read(hand.b, flags=0), (before, after)
        assert ok(hand.put(hand.b, "v2", flags=0))
        assert hand.read(hand.a, flags=0) == ["v2"], "the one that was behind"
        assert hand.register(hand.a) == hand.phases[after]


# --- requests that are passed on ------------------------------------------------------------------


def test_a_request_passed_on_to_a_node_that_lost_the_arc_goes_to_those_who_have_it():
    hand = Still()
    hand.plan((hand.a, hand.b, hand.c), (hand.d, hand.b, hand.c))
    hand.at(DONE, hand.a, hand.b, hand.c, hand.d)
    via = hand.rest[0]
    assert ok(hand.put(via, "v"))
    first, second = [dst for src, dst, msg in hand.sent if src == via and msg[0] == m.FORWARD]
    assert (first, second) == (hand.a, hand.d)
    assert hand.holders() == sorted([hand.b, hand.c, hand.d])
    assert hand.register(via) == hand.r3
    assert hand.read(via) == ["v"]


def test_a_request_passed_on_to_an_owner_that_does_not_know_it_yet_is_served_once_it_was_told():
    hand = Still()
    hand.plan((hand.a, hand.b, hand.c), (hand.d, hand.b, hand.c))
    via = hand.rest[0]
    hand.at(DONE, via)
    hand.nodes[hand.d].replica.set_synced(hand.arc(), True)
    assert ok(hand.put(via, "v"))
    assert hand.register(hand.d) == hand.r3
    asked = [dst for src, dst, msg in hand.sent if src == via and msg[0] == m.FORWARD]
    assert asked == [hand.d, hand.d]
    assert hand.read(via) == ["v"]


def test_a_put_passed_on_again_after_a_refusal_asks_for_its_id_and_is_minted_once():
    """The refusal may be a second copy of one that was heeded, and the owner at work already."""
    hand = Still()
    hand.plan((hand.a, hand.b, hand.c), (hand.a, hand.b, hand.d))
    hand.at(COPYING, hand.a, hand.b, hand.c, hand.d)
    via = hand.rest[0]
    hand.hold = lambda src, dst, message: message[0] == m.FORWARDED
    hand.put(via, "v", ms=8)
    refusal = next(entry for entry in hand.sent if entry[2][0] == m.REFUSED and entry[1] == via)
    hand.flying.append(refusal)
    hand.run(10)
    hand.release()
    hand.run(3)
    assert ok(hand.answer())
    passed_on = [msg[2][9] for src, _, msg in hand.sent if src == via and msg[0] == m.FORWARD]
    assert passed_on == [0, 1, 2]
    clock = hand.row(hand.a)
    assert len(clock) == 1, "one dot, however often it was passed on"
    assert clock[0][1] == 1


def test_a_refusal_does_not_use_up_the_patience_of_the_next_owner():
    hand = Still()
    via = hand.rest[0]
    hand.at(COPYING, hand.a)
    hand.lose = lambda src, dst, message: message[0] == m.FORWARDED
    hand.hold = lambda src, dst, message: message[0] == m.REFUSED and dst == via
    hand.put(via, "v", ms=100, timeout_ms=1_000)
    hand.release()
    hand.run(100)  # 200 ms after the first: the owner asked last has had 100 of its 150
    assert len([1 for src, _, msg in hand.sent if src == via and msg[0] == m.FORWARD]) == 2
    hand.run(60)
    assert len([1 for src, _, msg in hand.sent if src == via and msg[0] == m.FORWARD]) == 3


# --- nodes that do not serve ----------------------------------------------------------------------


@pytest.mark.parametrize("code", [m.NOT_READY, m.NOT_A_MEMBER])
def test_a_node_that_is_closed_refuses_clients_with_its_reason_and_does_nothing(code):
    hand = Still()
    hand.nodes[hand.a].roster.closed = (code, "ask another node")
    for answer in (hand.put(hand.a, "v"), hand.get(hand.a)):
        assert (answer[0], answer[2], answer[3], answer[8]) == (
            m.FAILED,
            code,
            "ask another node",
            0,
        )
    hand.flying.append(("client", hand.a, (m.SCAN, 100, 500, hand.arc(), 1, 0, b"", b"", 10)))
    hand.run(2)
    assert hand.answer(100)[2:4] == (code, "ask another node")
    assert hand.holders() == []
    assert not hand.asked(m.REPLICATE, m.FETCH, m.FORWARD)


def test_a_node_that_is_closed_still_stores_and_answers_for_others():
    hand = Still()
    hand.nodes[hand.b].roster.closed = (m.NOT_READY, "wait")
    assert ok(hand.put(hand.a, "v", w=m.ALL))
    assert hand.read(hand.a, r=m.ALL) == ["v"]


def test_a_request_passed_on_to_a_closed_owner_goes_to_the_next_one():
    hand = Still()
    via = hand.rest[0]
    hand.nodes[hand.a].roster.closed = (m.NOT_READY, "wait")
    assert ok(hand.put(via, "v"))
    assert hand.read(via) == ["v"]
    assert hand.nodes[via].stats["forwarded_to_a_closed_node"] == 2


def test_where_all_owners_are_closed_the_node_that_was_asked_acts_itself():
    """After a restart of all: owners that have not heard of the ring store and answer, too."""
    hand = Still()
    via = hand.rest[0]
    hand.put(hand.a, "v", w=m.ALL)
    for name in (hand.a, hand.b, hand.c):
        hand.nodes[name].roster.closed = (m.NOT_READY, "wait")
    assert hand.read(via, ms=100) == ["v"]
    assert ok(hand.put(via, "w", mode=m.BLIND, ms=100))


def test_a_removed_node_refuses_whatever_it_believes_to_own():
    hand = Still()
    assert hand.nodes[hand.a].roster.take("w/" + hand.a, (2, REMOVED, 1, 0))
    answer = hand.put(hand.a, "v")
    assert (answer[0], answer[2], answer[8]) == (m.FAILED, m.NOT_A_MEMBER, 0)
    put = (m.PUT, 3, 500, hand.full(), 1, 0, m.AUTO, b"", value_id("p"), 0, 1, 0, 1, 0, b"p")
    (answer,) = hand.ask(hand.a, (m.FORWARD, 7, list(put), *hand.r3[:2]), hand.b)
    assert answer[:2] == (m.FORWARDED, 7)
    assert answer[2][:3] == [m.FAILED, 3, m.NOT_A_MEMBER]
    assert hand.holders("p") == []
