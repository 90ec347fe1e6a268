"""The session alone: virtual time, answers made by hand, no sockets and no sleeps.

Invariants S1-S4 are those of `dynamo/client/session.py`.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from typing import Any

import pytest
from client_fakes import TAG, failed, ring_is

from dynamo.client import errors
from dynamo.client.op import Op
from dynamo.client.routing import Ring
from dynamo.client.session import NO_TAG, Session
from dynamo.core import messages as m
from dynamo.core.messages import Message
from dynamo.core.ring import arc_of, full_key

MEMBERS = [(f"n{i}", "10.0.0.1", 7000 + i) for i in range(1, 5)]  # n4 owns nothing
A1, A2, A3, A4 = (f"{host}:{port}" for _, host, port in MEMBERS)
KEY = full_key(b"default", b"cart")


class Desk:
    """A session at time `now`, with everything it sends collected by address."""

    def __init__(
        self, *, seeds: tuple[str, ...] = (A1,), ring: bool = True, **options: Any
    ) -> None:
        self.session = Session(seeds, random.Random(1), **options)
        self.now = 1_000
        self.refusing: list[str] = []  # addresses without a connection
        if ring:
            op = self.get()
            (_, asked) = self.sent()[0]
            self.session.handle(self.now, A1, [ring_is(asked[1], MEMBERS)], TAG)
            (_, message) = self.sent()[0]
            self.answer(A1, (m.GET_OK, message[1], b"", [], ["n1"]))
            assert self.ended() == [op]

    def put(self, timeout_ms: int = 900, **more: Any) -> Op:
        tail = (more.pop("w", 0), more.pop("pw", 0), m.SLOPPY, 0, more.pop("value", b"v"))
        op = Op(m.PUT, more.pop("key", KEY), self.now + timeout_ms, tail, **more)
        self.session.submit(self.now, op)
        return op

    def get(self, timeout_ms: int = 900, **more: Any) -> Op:
        tail = (more.pop("r", 0), more.pop("pr", 0), m.SLOPPY)
        op = Op(m.GET, more.pop("key", KEY), self.now + timeout_ms, tail, **more)
        self.session.submit(self.now, op)
        return op

    def sent(self) -> list[tuple[str, Message]]:
        """What goes out now, message by message."""
        out: list[tuple[str, Message]] = []
        while frames := self.session.outgoing(self.now):
            for address, messages in frames:
                if address in self.refusing:
                    self.session.unsent(self.now, address, messages)
                else:
                    out += [(address, message) for message in messages]
        return out

    def answer(self, address: str, *messages: Message) -> None:
        self.session.handle(self.now, address, messages)

    def ended(self) -> list[Op]:
        return self.session.take_completed()

    def wait(self, ms: int) -> None:
        """Let time pass in the steps that the session asks for."""
        end = self.now + ms
        while (due := self.session.next_due_ms()) <= end:
            assert due > self.now, "a session never asks to be called at once, again and again"
            self.now = due
            self.session.tick(self.now)
        self.now = end

    def ok(self, message: Message) -> Message:
        return (m.PUT_OK, message[1], b"ctx", [], ["n1", "n2"], [])


# --- routing ----------------------------------------------------------------------------------


def test_requests_go_to_the_first_owner_of_their_arc() -> None:
    desk = Desk(ring=False)
    owners = [[2, 1, 0], [0, 1, 2], [1, 2, 0], [3, 0, 1]] * 2
    desk.get()
    ring = ring_is(desk.sent()[0][1][1], MEMBERS, owners=owners)
    desk.session.handle(desk.now, A1, [ring], TAG)
    desk.sent()
    for i in range(20):
        key = full_key(b"default", b"key%d" % i)
        desk.put(key=key)
        (address, _), *others = desk.sent()
        assert others == []
        assert address == (A1, A2, A3, A4)[owners[arc_of(key, 8)][0]]


def test_operations_wait_for_the_ring_and_then_go_out_together() -> None:
    desk = Desk(ring=False)
    desk.put()
    desk.get()
    (address, asked), *others = desk.sent()
    assert (address, asked[0], others) == (A1, m.RING, [])
    desk.session.handle(desk.now, A1, [ring_is(asked[1], MEMBERS)], TAG)
    frames = desk.session.outgoing(desk.now)
    assert [(a, [x[0] for x in batch]) for a, batch in frames] == [(A1, [m.PUT, m.GET])]


def test_the_next_seed_is_asked_when_one_is_silent_or_refuses() -> None:
    desk = Desk(seeds=(A1, A2, A3), ring=False)
    desk.refusing = [A2]
    desk.get()
    assert [a for a, _ in desk.sent()] == [A1]
    desk.wait(100)
    assert desk.sent() == []  # A2 refused
    desk.wait(1)
    assert [a for a, _ in desk.sent()] == [A3]


def test_the_tag_of_the_first_ring_is_pinned() -> None:
    desk = Desk(ring=False)
    desk.get()
    req = desk.sent()[0][1][1]
    assert desk.session.tag == NO_TAG
    frame = m.encode_frame(TAG, "n1", 1, 5, [ring_is(req, MEMBERS)])
    desk.session.receive(desk.now, A1, frame)
    assert desk.session.tag == TAG
    req = desk.sent()[0][1][1]
    foreign = m.encode_frame(b"another!", "n1", 1, 5, [(m.GET_OK, req, b"", [], [])])
    desk.session.receive(desk.now, A1, foreign)
    assert desk.ended() == []
    assert desk.session.stats["malformed"] == 1


def test_garbage_and_impossible_rings_are_counted_and_dropped() -> None:
    desk = Desk(ring=False)
    desk.get()
    req = desk.sent()[0][1][1]
    good = ring_is(req, MEMBERS)
    desk.session.receive(desk.now, A1, b"\x00" * 50)
    desk.answer(A1, (*good[:9], b"\x03\x00", good[10]))  # owners cut short
    assert desk.session.stats["malformed"] == 2
    assert desk.session.ring is None
    desk.wait(100)  # and the seed is asked again
    assert desk.sent()[0][1][0] == m.RING


def test_a_pinned_client_asks_nobody_else_whatever_happens() -> None:
    desk = Desk(ring=False, via=A3, seeds=(A1, A2))
    op = desk.put()
    (address, asked) = desk.sent()[0]
    assert address == A3
    desk.session.handle(desk.now, A3, [ring_is(asked[1], MEMBERS)], TAG)
    asked_nodes = [a for a, _ in desk.sent()]
    for _ in range(12):
        desk.wait(75)
        asked_nodes += [a for a, _ in desk.sent()]
    assert set(asked_nodes) == {A3}
    assert desk.ended() == [op]


def test_via_of_a_name_that_is_no_member_is_an_error_that_lists_them() -> None:
    desk = Desk()
    op = desk.get(pin="n9")
    assert desk.ended() == [op]
    assert isinstance(op.error, errors.ConfigurationError)
    assert "n1, n2, n3, n4" in str(op.error)


def test_an_old_ring_is_refreshed_with_the_next_request() -> None:
    desk = Desk()
    desk.now += 1_000
    desk.get()
    kinds = sorted(message[0] for _, message in desk.sent())
    assert kinds == [m.GET, m.RING]


def test_a_newer_ring_moves_requests_to_the_new_owners() -> None:
    desk = Desk()
    desk.now += 10_001
    desk.get()
    req = next(message[1] for _, message in desk.sent() if message[0] == m.RING)
    address = next(iter(a for a in (A1, A2, A3, A4) if req in desk.session._nodes[a].waiting))
    desk.answer(address, ring_is(req, MEMBERS, version=2, owners=[[3, 0, 1]] * 8))
    desk.put()
    assert desk.sent()[0][0] == A4


def test_the_same_version_with_other_addresses_is_taken_and_an_older_one_is_not() -> None:
    """A ring that was restarted with other ports, and a node that was away."""
    desk = Desk()
    moved = [(name, host, port + 100) for name, host, port in MEMBERS]
    for version, members, first in ((1, moved, "10.0.0.1:7101"), (0, MEMBERS, "10.0.0.1:7101")):
        desk.now += 10_001
        desk.get()
        question = next(item for item in desk.sent() if item[1][0] == m.RING)
        desk.answer(question[0], ring_is(question[1][1], members, version=version))
        desk.put()
        assert desk.sent()[0][0] == first


# --- tries ------------------------------------------------------------------------------------


def test_a_silent_put_goes_to_the_next_owners_with_one_id_and_rising_attempts() -> None:
    """S2. Time is shared out: 900 ms over three tries."""
    desk = Desk()
    desk.put()
    seen = [(desk.now - 1_000, *pair) for pair in desk.sent()]
    for _ in range(2):
        desk.wait(300)
        seen += [(desk.now - 1_000, *pair) for pair in desk.sent() if pair[1][0] == m.PUT]
    assert [(at, address, put[9]) for at, address, put in seen] == [
        (0, A1, 0),
        (300, A2, 1),
        (600, A3, 2),
    ]
    assert len({put[8] for _, _, put in seen}) == 1
    assert len({put[1] for _, _, put in seen}) == 3


def test_two_puts_have_different_ids() -> None:
    desk = Desk()
    desk.put()
    desk.put()
    assert len({put[8] for _, put in desk.sent()}) == 2


def test_an_operation_ends_exactly_at_its_deadline() -> None:
    """S1."""
    desk = Desk()
    op = desk.put(timeout_ms=777)
    while not op.done:
        desk.sent()
        due = desk.session.next_due_ms()
        desk.now = due
        desk.session.tick(due)
    assert op.ended_ms == op.started_ms + 777
    assert isinstance(op.error, errors.QuorumTimeout)
    assert op.error.elapsed == 0.777
    assert desk.session.in_flight == 0


def test_late_answers_are_dropped_by_number_and_never_reach_the_next_caller() -> None:
    """S3, and riak-python-client #425: asked for X, given Y's value."""
    desk = Desk()
    first = desk.get(timeout_ms=20)
    req = desk.sent()[0][1][1]
    desk.wait(20)
    assert desk.ended() == [first]
    second = desk.get()
    desk.sent()
    desk.answer(A1, (m.GET_OK, req, b"", [[1, b"old"]], ["n1"]))
    assert desk.ended() == []
    assert not second.done
    assert desk.session.stats["late"] == 1


def test_an_answer_from_another_node_than_the_one_asked_does_not_count() -> None:
    """S3."""
    desk = Desk()
    desk.get()
    (_, message) = desk.sent()[0]
    desk.answer(A2, (m.GET_OK, message[1], b"", [], ["n2"]))
    assert desk.ended() == []


def test_an_answer_of_the_wrong_kind_is_refused_and_another_node_asked() -> None:
    desk = Desk()
    op = desk.get()
    (_, message) = desk.sent()[0]
    desk.answer(A1, (m.PUT_OK, message[1], b"", [], [], []))
    desk.wait(50)
    assert desk.sent()[0][0] == A2
    assert not op.done


def test_a_try_that_was_given_up_may_still_answer_first() -> None:
    desk = Desk()
    op = desk.put()
    (_, first) = desk.sent()[0]
    desk.wait(300)
    (_, second) = next(pair for pair in desk.sent() if pair[1][0] == m.PUT)
    desk.answer(A1, desk.ok(first))
    assert desk.ended() == [op]
    assert op.coordinator == "n1"
    desk.answer(A2, desk.ok(second))
    assert desk.session.stats["late"] == 1


def test_a_slow_read_is_hedged_once_to_the_next_owner() -> None:
    desk = Desk()
    op = desk.get()
    desk.sent()
    desk.wait(30)
    ((address, message),) = desk.sent()
    assert address == A2
    assert desk.session.stats["hedges"] == 1
    desk.answer(A2, (m.GET_OK, message[1], b"", [], ["n2"]))
    assert desk.ended() == [op]
    assert not desk.session._nodes[A1].avoided  # slow once is no crime


def test_hedges_are_budgeted_so_that_a_slow_ring_is_not_asked_twice_for_everything() -> None:
    desk = Desk()
    for _ in range(200):
        desk.get()
    desk.sent()
    desk.wait(250)
    desk.sent()
    assert 0 < desk.session.stats["hedges"] <= 32 + 200 // 16


def test_a_silent_node_is_avoided_until_it_answers_a_probe() -> None:
    desk = Desk()
    desk.put()
    desk.sent()
    desk.wait(300)
    desk.sent()
    desk.put()
    assert desk.sent()[0][0] == A2
    desk.wait(100)
    desk.put()
    sent = desk.sent()
    probe = next(message for address, message in sent if address == A1)
    assert probe[0] == m.RING
    desk.answer(A1, ring_is(probe[1], MEMBERS))
    desk.put()
    assert desk.sent()[0][0] == A1


def test_with_every_node_avoided_requests_still_go_out() -> None:
    desk = Desk()
    for address in (A1, A2, A3, A4):
        desk.session.lost(desk.now, address)
    desk.put()
    assert len([pair for pair in desk.sent() if pair[1][0] == m.PUT]) == 1


def test_a_broken_connection_moves_its_requests_at_once() -> None:
    desk = Desk()
    op = desk.put()
    desk.sent()
    desk.session.lost(desk.now, A1)
    puts = [pair for pair in desk.sent() if pair[1][0] == m.PUT]
    assert [(address, put[9]) for address, put in puts] == [(A2, 1)]
    desk.answer(A2, desk.ok(puts[0][1]))
    assert op.done
    assert op.error is None


def test_what_could_not_be_handed_over_is_no_attempt() -> None:
    desk = Desk()
    desk.session.reachable(desk.now, A1)
    desk.refusing = [A1]
    desk.put()
    ((address, put),) = desk.sent()
    assert (address, put[9]) == (A2, 0)


def test_a_first_connection_is_waited_for_rather_than_passed_over() -> None:
    desk = Desk()
    desk.refusing = [A1]
    desk.put()
    assert desk.sent() == []
    desk.refusing = []
    desk.session.reachable(desk.now, A1)
    assert [address for address, _ in desk.sent()] == [A1]


def test_nobody_reachable_names_every_node_and_why() -> None:
    desk = Desk(seeds=(A1, A2), ring=False)
    desk.refusing = [A1, A2]
    op = desk.put()
    while not op.done:
        desk.sent()
        desk.wait(10)
    assert isinstance(op.error, errors.ConnectionFailed)
    assert set(op.error.seeds) == {A1, A2}
    assert "no connection" in op.error.seeds[A1]
    assert A2 in str(op.error)
    assert op.error.maybe_applied is False


def test_a_seed_that_speaks_another_version_is_told_apart_from_silence() -> None:
    desk = Desk(ring=False)
    op = desk.get(timeout_ms=90)
    desk.sent()
    desk.session.receive(desk.now, A1, b"dy\x09\x00" + bytes(8))
    desk.wait(90)
    assert op.error is not None
    assert "protocol version 9" in str(op.error)


# --- refusals ---------------------------------------------------------------------------------

DONE_NOTHING = [
    (m.UNAVAILABLE, errors.QuorumUnavailable),
    (m.OVERLOADED, errors.Overloaded),
    (m.DISK_FULL, errors.DiskFull),
]
FINAL = [
    (m.INVALID, errors.ConfigurationError),
    (m.TOO_LARGE, errors.ValueTooLarge),
    (m.KEY_TOO_LONG, errors.KeyTooLong),
    (m.TOO_MANY_SIBLINGS, errors.TooManySiblings),
    (m.BAD_CONTEXT, errors.BadContext),
]


@pytest.mark.parametrize(("code", "kind"), FINAL)
def test_a_request_that_can_never_work_is_not_tried_again(code: int, kind: type) -> None:
    desk = Desk()
    op = desk.put()
    (_, put) = desk.sent()[0]
    desk.answer(A1, failed(put[1], code, "the reason"))
    assert desk.ended() == [op]
    assert type(op.error) is kind
    assert "the reason" in str(op.error)
    assert op.error is not None
    assert not op.error.maybe_applied


@pytest.mark.parametrize(("code", "kind"), DONE_NOTHING)
def test_refusals_are_tried_on_other_owners_and_then_reported(code: int, kind: type) -> None:
    desk = Desk()
    op = desk.put()
    asked = []
    for _ in range(3):
        ((address, put),) = desk.sent()
        asked.append(address)
        desk.answer(address, failed(put[1], code, retry_after_ms=5))
        desk.wait(200)
    assert asked == [A1, A2, A3]
    assert desk.ended() == [op]
    assert type(op.error) is kind
    assert op.error is not None
    assert not op.error.maybe_applied


def test_pauses_between_tries_grow_and_are_jittered() -> None:
    pauses = []
    for seed in range(8):
        desk = Desk()
        desk.session._rng = random.Random(seed)
        desk.put()
        for _ in range(2):
            ((address, put),) = desk.sent()
            desk.answer(address, failed(put[1], m.UNAVAILABLE))
            before = desk.now
            desk.now = desk.session.next_due_ms()
            desk.session.tick(desk.now)
            pauses.append(desk.now - before)
    assert all(5 <= pause <= 10 for pause in pauses[::2])
    assert all(10 <= pause <= 20 for pause in pauses[1::2])
    assert len(set(pauses)) > 4


def test_nodes_that_are_not_ready_do_not_use_up_the_tries() -> None:
    desk = Desk()
    op = desk.put()
    refused = 0
    while not op.done:
        for address, message in desk.sent():
            if message[0] == m.PUT and refused < 5:
                refused += 1
                desk.answer(address, failed(message[1], m.NOT_READY))
            elif message[0] == m.PUT:
                desk.answer(address, desk.ok(message))
        desk.wait(20)
    assert op.error is None


# --- a ring that changes ----------------------------------------------------------------------

A5 = "10.0.0.1:7005"
FIVE = [*MEMBERS, ("n5", "10.0.0.1", 7005)]


def ask_again(desk: Desk) -> tuple[str, Message]:
    """Let the ring go out of date, and start a read; the question that goes along."""
    desk.now += 1_000
    desk.get()
    return next(item for item in desk.sent() if item[1][0] == m.RING)


def as_known(question: Message, members: list[tuple[str, str, int]] = MEMBERS) -> Message:
    """A RING_IS of the version that was named: without owners."""
    full = ring_is(question[1], members, version=question[3])
    return (*full[:9], b"", full[10])


def test_the_ring_is_asked_for_once_a_second_while_there_are_requests() -> None:
    desk = Desk()
    asked = []
    for _ in range(50):
        desk.wait(100)
        desk.get(timeout_ms=50)
        for address, message in desk.sent():
            if message[0] == m.RING:
                asked.append((desk.now, address))
                desk.answer(address, as_known(message))
            else:
                desk.answer(address, (m.GET_OK, message[1], b"", [], ["n1"]))
    pauses = [after - before for (before, _), (after, _) in itertools.pairwise(asked)]
    assert set(pauses) == {1_000}
    assert {address for _, address in asked} == {A1, A2, A3, A4}, "in turn"
    desk.wait(60_000)
    assert desk.sent() == [], "and not while there are none"


def test_an_answer_without_owners_means_as_you_know_it() -> None:
    desk = Desk()
    address, question = ask_again(desk)
    assert question[3] == 1, "the version that is known"
    before = desk.session.ring
    desk.answer(address, as_known(question))
    assert desk.session.ring is before
    # Nothing but an address may have changed: a node that came back elsewhere.
    address, question = ask_again(desk)
    moved = [("n1", "10.0.0.1", 7101), *MEMBERS[1:]]
    desk.answer(address, as_known(question, moved[::-1]))
    desk.put()
    assert desk.sent()[0][0] == "10.0.0.1:7101"
    # And one that leaves out an owner makes no ring.
    address, question = ask_again(desk)
    desk.answer(address, as_known(question, moved[1:]))
    assert desk.session.stats["malformed"] == 1
    desk.put()
    assert desk.sent()[0][0] == "10.0.0.1:7101"


def test_a_node_that_does_not_belong_to_the_ring_costs_a_pause_and_no_try() -> None:
    desk = Desk()
    op = desk.put(tries=1)
    ((address, put),) = desk.sent()
    desk.now += 500
    desk.answer(address, failed(put[1], m.NOT_A_MEMBER))
    ((other, question),) = desk.sent()
    assert (question[0], other != address) == (m.RING, True), "asked at once, and of another"
    desk.wait(10)
    ((other, put),) = desk.sent()
    assert (put[0], other) == (m.PUT, A2)
    desk.answer(other, desk.ok(put))
    assert (desk.ended(), op.error) == ([op], None)


def test_a_node_outside_the_ring_is_not_believed_because_it_answers_questions() -> None:
    desk = Desk()
    desk.put()
    ((address, put),) = desk.sent()
    desk.answer(address, failed(put[1], m.NOT_A_MEMBER))
    assert address == A1
    seen = []
    for _ in range(9):
        desk.wait(100)
        desk.put(timeout_ms=50)
        for address, message in desk.sent():
            if message[0] == m.RING:
                desk.answer(address, as_known(message))
            else:
                seen.append(address)
                desk.answer(address, desk.ok(message))
    assert A1 not in seen
    desk.wait(1_000)
    desk.put()
    for address, message in desk.sent():
        if message[0] == m.RING:
            desk.answer(address, as_known(message))
    desk.put()
    assert A1 in [address for address, _ in desk.sent()], "it may have joined since"


def test_that_a_node_is_no_member_is_told_only_if_there_is_nothing_else_to_tell() -> None:
    for code, kind in ((m.TIMED_OUT, "QuorumTimeout"), (m.NOT_A_MEMBER, "QuorumUnavailable")):
        desk = Desk()
        op = desk.put()
        first = True
        while not op.done:
            for address, message in desk.sent():
                if message[0] == m.PUT:
                    desk.answer(address, failed(message[1], code if first else m.NOT_A_MEMBER))
                    first = False
            desk.wait(20)
        assert type(op.error).__name__ == kind
        assert not op.error.maybe_applied


def test_whoever_left_the_ring_is_asked_nothing_new_and_may_still_answer() -> None:
    desk = Desk()
    first = desk.get()
    ((address, get),) = desk.sent()
    assert address == A1
    address, question = ask_again(desk)
    left = [(name, host, port) for name, host, port in FIVE if name != "n1"]
    desk.answer(address, ring_is(question[1], left, version=2, owners=[[0, 1, 3]] * 8))
    assert not desk.session.let_go(A1), "an answer is waited for"
    desk.answer(A1, (m.GET_OK, get[1], b"", [], ["n1"]))
    assert first in desk.ended()
    desk.wait(900)  # and the read that went along with the question is over
    assert desk.session.let_go(A1)
    assert desk.session.addresses() == [A2, A3, A4, A5]
    desk.answer(A1, (m.GET_OK, 99, b"", [], ["n1"]))  # too late, and harmless
    for call in (desk.session.lost, desk.session.reachable):
        call(desk.now, A1)


def test_what_rests_at_a_node_that_left_goes_to_those_that_are_there() -> None:
    desk = Desk()
    address, question = ask_again(desk)
    desk.refusing = [A1, A2, A3, A4]
    op = desk.put(timeout_ms=5_000)
    desk.sent()
    assert op.resting_at is not None
    desk.answer(address, ring_is(question[1], FIVE[4:], version=2, owners=[[0]] * 8, n=1))
    assert [(a, message[0]) for a, message in desk.sent()][-1] == (A5, m.PUT)
    desk.wait(900)  # the read that went along with the question has ended
    assert desk.session.let_go(A1)


def test_nodes_that_came_and_went_are_not_remembered() -> None:
    desk = Desk()
    for number in range(100):
        address, question = ask_again(desk)
        names = [("n1", "10.0.0.1", 7001), (f"x{number}", "10.0.0.2", 8000 + number)]
        answer = ring_is(question[1], names, version=2 + number, owners=[[0, 1]] * 8)
        desk.answer(address, answer)
        desk.wait(900)
    assert len(desk.session._nodes) <= 4


def test_the_seeds_are_asked_again_when_every_node_that_was_known_is_gone() -> None:
    """A client that slept while the whole ring was replaced; its seed is a name that stays."""
    desk = Desk(ring=False, seeds=("seed.example:7001",))
    desk.get(timeout_ms=50)
    ((seed, question),) = desk.sent()
    desk.session.handle(desk.now, seed, [ring_is(question[1], MEMBERS)], TAG)
    desk.sent()
    desk.wait(60_000)
    desk.refusing = [A1, A2, A3, A4]
    op = desk.get(timeout_ms=5_000)
    asked: list[tuple[str, Message]] = []
    while not asked:
        asked = [item for item in desk.sent() if item[0] == seed]
        desk.wait(10)
    assert asked[0][1][0] == m.RING
    answer = ring_is(asked[0][1][1], FIVE[4:], version=9, owners=[[0]] * 8, n=1)
    desk.answer(seed, answer)
    ((address, get),) = desk.sent()
    assert (address, get[0]) == (A5, m.GET)
    desk.answer(A5, (m.GET_OK, get[1], b"", [], ["n5"]))
    assert op.error is None
    assert desk.ended()[-1] is op


def test_a_seed_whose_connection_comes_up_is_asked_while_nobody_else_is_there() -> None:
    desk = Desk(ring=False, seeds=("seed.example:7001",))
    desk.get(timeout_ms=50)
    ((seed, question),) = desk.sent()
    desk.session.handle(desk.now, seed, [ring_is(question[1], MEMBERS)], TAG)
    desk.wait(60_000)
    desk.sent()
    desk.refusing = [A1, A2, A3, A4, seed]
    desk.get(timeout_ms=5_000)
    desk.sent()
    desk.wait(400)
    desk.sent()
    desk.refusing.remove(seed)
    desk.session.reachable(desk.now, seed)
    assert [(a, message[0]) for a, message in desk.sent() if a == seed] == [(seed, m.RING)]


def test_an_owner_of_which_nobody_knows_where_it_is_counts_and_is_never_asked() -> None:
    desk = Desk(ring=False)
    desk.get(timeout_ms=50)
    ((_, question),) = desk.sent()
    members = [("n1", "", 0), *MEMBERS[1:3]]
    desk.session.handle(desk.now, A1, [ring_is(question[1], members)], TAG)
    ring = desk.session.ring
    assert ring is not None
    assert [len(arc) for arc in ring.owners] == [3] * 8
    assert desk.session.addresses() == [A2, A3]
    op = desk.put(timeout_ms=3_000)
    asked = set()
    while not op.done:
        asked |= {address for address, _ in desk.sent()}
        desk.wait(50)
    assert asked <= {A1, A2, A3}, "A1 is the seed"
    nobody = ring_is(1, [("n1", "", 0)] * 1, n=1)
    with pytest.raises(m.Malformed, match="no node has an address"):
        Ring(nobody, {})


def test_a_timeout_tells_who_answered_and_who_did_not() -> None:
    desk = Desk()
    op = desk.put(tries=1)
    (_, put) = desk.sent()[0]
    assert put[2] == 850  # 50 ms are kept back for this very account
    desk.wait(850)
    account = failed(
        put[1], m.TIMED_OUT, required=2, received=1, acked=("n1",), silent=("n2", "n3"), maybe=1
    )
    desk.answer(A1, account)
    error = op.error
    assert isinstance(error, errors.QuorumTimeout)
    assert isinstance(error, TimeoutError)
    assert (error.required, error.received, error.asked) == (2, 1, 3)
    assert (error.coordinator, error.key, error.op) == ("n1", "cart", "put")
    assert "got 1 of 2 answers in 850 ms (n1 ok; n2 no answer; n3 no answer)" in str(error)
    assert error.maybe_applied
    assert error.timeout


def test_of_several_timeouts_the_one_that_got_furthest_is_told() -> None:
    desk = Desk()
    op = desk.put()
    (_, first) = desk.sent()[0]
    desk.wait(300)
    (_, second) = next(pair for pair in desk.sent() if pair[1][0] == m.PUT)
    desk.wait(550)
    desk.answer(A1, failed(first[1], m.TIMED_OUT, received=1, acked=("n1",), maybe=1))
    desk.answer(A2, failed(second[1], m.TIMED_OUT, received=0, silent=("n1",)))
    desk.wait(50)
    assert isinstance(op.error, errors.QuorumTimeout)
    assert op.error.received == 1
    assert "n1 ok" in str(op.error)


# Each history is a list of what befalls the tries of one put, in order.
SILENT, BREAKS, UNSENT, REFUSED, TIMED_OUT_MINTED, TIMED_OUT_BEFORE = range(6)
TRUTH_TABLE = [
    ([UNSENT, UNSENT, UNSENT], False),
    ([REFUSED], False),
    ([REFUSED, REFUSED, REFUSED], False),
    ([UNSENT, REFUSED, REFUSED, REFUSED], False),
    ([TIMED_OUT_BEFORE, REFUSED, REFUSED], False),
    ([SILENT], True),
    ([SILENT, REFUSED, REFUSED], True),
    ([REFUSED, SILENT], True),
    ([BREAKS, REFUSED, REFUSED], True),
    ([TIMED_OUT_MINTED, REFUSED, REFUSED], True),
    ([UNSENT, BREAKS, BREAKS, BREAKS], True),
]


@pytest.mark.parametrize(("history", "maybe"), TRUTH_TABLE)
def test_maybe_applied_is_true_unless_every_try_is_known_to_have_done_nothing(
    history: list[int], maybe: bool
) -> None:
    desk = Desk()
    for address in (A1, A2, A3, A4):
        desk.session.reachable(desk.now, address)
    op = desk.put()
    fate = iter(history)
    while not op.done:
        befalls = next(fate, history[-1])
        desk.refusing = [A1, A2, A3, A4] if befalls == UNSENT else []
        for address, message in desk.sent():
            if message[0] != m.PUT:
                continue
            if befalls == BREAKS:
                desk.session.lost(desk.now, address)
            elif befalls == REFUSED:
                desk.answer(address, failed(message[1], m.UNAVAILABLE))
            elif befalls in (TIMED_OUT_MINTED, TIMED_OUT_BEFORE):
                minted = int(befalls == TIMED_OUT_MINTED)
                desk.answer(address, failed(message[1], m.TIMED_OUT, maybe=minted))
        if not op.done:
            desk.now = desk.session.next_due_ms()
            desk.session.tick(desk.now)
    assert op.error is not None
    assert op.error.maybe_applied is maybe
    assert not (maybe and isinstance(op.error, errors.QuorumUnavailable))


def test_a_read_is_never_maybe_applied() -> None:
    desk = Desk()
    op = desk.get()
    desk.sent()
    desk.wait(900)
    assert op.error is not None
    assert not op.error.maybe_applied


# --- limits -----------------------------------------------------------------------------------


def test_operations_beyond_the_limit_are_refused_at_once() -> None:
    desk = Desk(max_in_flight=2)
    for _ in range(2):
        desk.put()
    op = desk.put()
    assert desk.ended() == [op]
    assert isinstance(op.error, errors.Overloaded)
    assert op.error.retry_after > 0
    assert desk.session.in_flight == 2


def test_bytes_beyond_the_limit_are_refused_at_once() -> None:
    desk = Desk(max_queued_bytes=1_000)
    desk.put(value=b"x" * 900)
    op = desk.put(value=b"x" * 900)
    assert isinstance(op.error, errors.Overloaded)
    assert "912 bytes" in str(op.error)


def test_room_comes_back_when_operations_end_or_are_cancelled() -> None:
    desk = Desk(max_in_flight=1)
    first = desk.put()
    desk.session.cancel(desk.now, first)
    second = desk.put()
    assert second.error is None
    desk.wait(900)
    assert (desk.session.in_flight, desk.session.queued_bytes) == (0, 0)


def test_frames_are_cut_at_a_quarter_mebibyte() -> None:
    desk = Desk()
    for _ in range(10):
        desk.put(value=b"x" * 100_000)
    frames = desk.session.outgoing(desk.now)
    assert [len(batch) for _, batch in frames] == [2, 2, 2, 2, 2]


def test_nothing_is_kept_for_operations_that_have_ended() -> None:
    desk = Desk()
    for _ in range(100):
        desk.put(timeout_ms=50)
        desk.get(timeout_ms=60)
    desk.sent()
    desk.wait(5_000)
    session = desk.session
    assert len(desk.ended()) == 200
    assert session._ops == {}
    assert not session._wheel._buckets
    assert all(len(node.waiting) <= 1 for node in session._nodes.values())  # a probe, at most


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"w": 4}, errors.ConfigurationError, "3 replicas"),
        ({"pw": 9}, errors.ConfigurationError, "3 replicas"),
        ({"value": b"x" * ((4 << 20) + 1)}, errors.ValueTooLarge, "4,194,304"),
        ({"key": full_key(b"default", b"k" * 1025)}, errors.KeyTooLong, "1,024"),
    ],
)
def test_what_the_ring_can_never_do_is_refused_without_asking(
    options: dict[str, Any], kind: type, says: str
) -> None:
    desk = Desk()
    op = desk.put(**options)
    assert desk.sent() == []
    assert type(op.error) is kind
    assert says in str(op.error)


def test_requests_carry_no_more_time_than_nodes_allow_and_puts_end_with_it() -> None:
    """Nodes remember put ids for twice the longest deadline; a later retry would mint anew."""
    desk = Desk()
    put, get = desk.put(timeout_ms=60_000), desk.get(timeout_ms=60_000)
    assert [message[2] for _, message in desk.sent()] == [9_950, 10_000]
    assert put.deadline_ms == desk.now + 10_000
    assert get.deadline_ms == desk.now + 60_000


# --- the same again ---------------------------------------------------------------------------


def run_a_history(seed: int) -> str:
    """Random answers to random requests; a transcript of everything sent and every outcome."""
    rng = random.Random(seed)
    desk = Desk(max_in_flight=40)
    lines = []
    for _ in range(400):
        key = full_key(b"default", b"k%d" % rng.randrange(30))
        (desk.put if rng.random() < 0.5 else desk.get)(key=key, timeout_ms=rng.randint(1, 400))
        desk.refusing = rng.sample([A1, A2, A3, A4], rng.choice((0, 0, 1, 2)))
        for address, message in desk.sent():
            lines.append(f"{desk.now} {address} {message}")
            fate = rng.random()
            if fate < 0.1:
                desk.session.lost(desk.now, address)
            elif fate < 0.2:
                desk.session.reachable(desk.now, address)
            elif message[0] == m.RING:
                desk.answer(address, ring_is(message[1], MEMBERS, version=rng.randint(1, 3)))
            elif fate < 0.4:
                code = rng.choice((m.UNAVAILABLE, m.TIMED_OUT, m.OVERLOADED, m.NOT_READY))
                desk.answer(address, failed(message[1], code, maybe=rng.randrange(2)))
            elif fate < 0.8 and message[0] == m.PUT:
                desk.answer(address, desk.ok(message))
            elif fate < 0.8:
                desk.answer(address, (m.GET_OK, message[1], b"", [], []))
        desk.wait(rng.randrange(12))
        for op in desk.ended():
            assert op.ended_ms <= max(op.deadline_ms, op.started_ms)  # S1
            lines.append(f"{desk.now} {op!r} {op.error!r} {op.maybe_applied}")
    desk.wait(1_000)
    assert desk.session.in_flight == 0
    assert desk.session.queued_bytes == 0
    return "\n".join(lines)


def test_random_histories_end_every_operation_once_and_in_time() -> None:
    for seed in range(30):
        run_a_history(seed)


def test_the_same_history_gives_the_same_frames_under_any_hash_seed() -> None:
    """S4: the simulator replays by seed, in another process."""
    program = (
        "import test_client_session as t, zlib; print(zlib.crc32(t.run_a_history(7).encode()))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
