"""Scans: which keys a node names, what a walk makes of that, and what it promises under faults."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hand import Hand, value_id

import dynamo
from dynamo.client.errors import ConfigurationError, QuorumTimeout, ScanUnavailable
from dynamo.client.op import Op
from dynamo.client.options import Options
from dynamo.client.scan import Walk, _Listing, from_cursor, to_cursor
from dynamo.core import dvv, ring
from dynamo.core import messages as m
from dynamo.core.replica import seal_record
from dynamo.core.scanning import ANSWER_BYTES, QUEUE_MAX, ROWS_MAX
from dynamo.core.spaces import OBJECTS, QUARANTINE
from dynamo.testing import Ring as SimRing

# --- one page of one node -----------------------------------------------------------------------


def ask(
    hand: Hand, via: str, arc: int, *, match: bytes = b"", start: bytes = b"", limit: int = 100,
    ver: int = 1, timeout_ms: int = 1_000, ms: int = 2,
) -> m.Message | None:  # fmt: skip
    hand._req += 1
    message = (m.SCAN, hand._req, timeout_ms, arc, ver, 0, match, start, limit)
    return hand._ask(via, message, ms)


def page(hand: Hand, via: str, arc: int, **options) -> tuple[list[str], bytes, int]:
    """The keys without their bucket, where to go on, and whether the node counts."""
    answer = ask(hand, via, arc, **options)
    assert answer is not None
    assert answer[0] == m.SCAN_IS, answer
    _, _, keys, upto, stamp = answer
    return [ring.split_key(key)[1].decode() for key in keys], upto, min(stamp, 1)


def filled(count: int = 40, **config) -> Hand:
    hand = Hand(**config)
    for i in range(count):
        hand.put("n1", f"v{i}", key=f"k{i}", ms=3)
    hand.run(10)
    return hand


def keys_of(hand: Hand, arc: int, count: int = 40) -> list[str]:
    """The keys of an arc in storage order."""
    keys = [f"k{i}" for i in range(count) if hand.arc(f"k{i}") == arc]
    return sorted(keys, key=hand.skey)


def test_a_page_names_the_keys_of_its_arc_in_storage_order():
    hand = filled()
    for arc in range(8):
        assert page(hand, "n2", arc) == (keys_of(hand, arc), b"", 1)


def test_pages_follow_each_other_without_gap_or_repetition():
    hand = filled()
    for arc in range(8):
        found, start = [], b""
        for _ in range(100):
            keys, start, _ = page(hand, "n1", arc, start=start, limit=2)
            assert len(keys) <= 2
            found += keys
            if not start:
                break
        assert found == keys_of(hand, arc)


def test_only_keys_that_begin_with_match_are_named():
    hand = filled()
    match = hand.full("k1")
    found = [key for arc in range(8) for key in page(hand, "n1", arc, match=match)[0]]
    assert sorted(found) == sorted(f"k{i}" for i in range(40) if f"k{i}".startswith("k1"))
    assert all(page(hand, "n1", arc, match=b"\x05other")[0] == [] for arc in range(8))


def test_rows_left_out_count_toward_the_limit_so_that_a_page_stays_cheap():
    hand = filled()
    arc = hand.arc()
    keys, upto, _ = page(hand, "n1", arc, match=b"\x05other", limit=1)
    assert keys == []
    assert upto == hand.skey(keys_of(hand, arc)[0])


def test_tombstones_and_expired_values_are_left_out():
    hand = Hand()
    hand.put("n1", "v1")
    assert page(hand, "n1", hand.arc())[0] == ["k"]
    hand.delete("n1", "gone")
    assert page(hand, "n1", hand.arc()) == ([], b"", 1)
    hand.put("n1", "v2", key="short", ttl_ms=50)
    assert page(hand, "n1", hand.arc("short"))[0] == ["short"]
    hand.run(60)
    assert page(hand, "n1", hand.arc("short"))[0] == []


def test_a_value_beside_a_tombstone_is_named():
    hand = Hand()
    context = hand.context("n1")
    hand.put("n1", "v1", mode=m.BLIND)
    hand.delete("n1", "gone", mode=m.CAUSAL, context=context)
    assert page(hand, "n1", hand.arc())[0] == ["k"]


def test_a_stand_in_names_what_it_keeps_and_does_not_count():
    """R4: its silence about other keys says nothing."""
    hand = Hand(nodes=4, exchange_ms=1_000_000)
    home = hand.owners()[2]
    spare = next(name for name in hand.names if name not in hand.owners())
    hand.kill(home)
    hand.run(500)
    hand.put(hand.owners()[0], "v1")
    assert hand.hints(spare) == 1
    assert page(hand, spare, hand.arc()) == (["k"], b"", 0)


def test_an_owner_that_keeps_its_own_hint_names_the_key_once():
    hand = Hand(exchange_ms=1_000_000)
    home = hand.owners()[2]
    hand.kill(home)
    hand.run(500)
    coordinator = hand.owners()[0]
    hand.put(coordinator, "v1")
    assert hand.hints(coordinator) == 1
    assert page(hand, coordinator, hand.arc()) == (["k"], b"", 1)


def test_a_page_never_ends_between_the_two_rows_of_one_key():
    """The object row shows nothing, the hint row does: cut between them, the key was lost."""
    hand = Hand(nodes=4)
    owner = hand.owners()[0]
    hand.put(owner, "v1")
    hand.delete(owner, "gone")
    node = hand.nodes[owner]
    value = (value_id("v2"), 0, 1, 0, b"v2")
    node.handoff.take(hand.skey(), hand.owners()[1], dvv.encode([(b"a" * 12, 1, [value])]), True, 1)
    hand.lose = lambda src, dst, message: True  # or it would be delivered
    assert page(hand, owner, hand.arc(), limit=1, ms=1)[0] == ["k"]


def test_an_owner_that_is_not_synced_says_so():
    hand = filled(exchange_ms=1_000_000)
    hand.kill("n3")
    hand.wipe("n3")
    hand.lose = lambda src, dst, message: message[0] in (m.ROOTS, m.KEYS)
    hand.start("n3")
    hand.run(20)
    assert page(hand, "n3", hand.arc()) == ([], b"", 0)
    hand.settle()
    assert page(hand, "n3", hand.arc()) == (keys_of(hand, hand.arc()), b"", 1)


def test_a_corrupt_record_is_set_aside_and_is_no_absence():
    hand = filled(exchange_ms=1_000_000)
    arc = hand.arc("k7")
    store, skey = hand.stores["n2"], hand.skey("k7")
    record = store.get(OBJECTS, skey)
    # Rot that keeps the check: the root is the sum of the checks, and the record is found by them.
    store.put(OBJECTS, skey, record[:-1] + bytes([record[-1] ^ 1]))
    store.commit()
    hand.lose = lambda src, dst, message: True
    keys, _, synced = page(hand, "n2", arc, ms=1)
    assert keys == [key for key in keys_of(hand, arc) if key != "k7"]
    assert synced == 0, "its silence about k7 is no evidence"
    assert store.get(QUARANTINE, skey) is not None
    hand.settle()
    assert page(hand, "n2", arc) == (keys_of(hand, arc), b"", 1)


@pytest.mark.parametrize(
    ("arc", "start", "limit", "text"),
    [
        (8, b"", 10, "arc 8 is none of this ring, which has arcs 0 to 7"),
        (-1, b"", 10, "arc -1 is none"),
        (1 << 40, b"", 10, "is none of this ring"),
        (2, b"\x00\x03abc", 10, "in another arc"),
        (2, b"\xff" * 2000, 10, "in another arc"),
        (2, b"\x00", 10, "in another arc"),
        (2, b"", 0, "would never end a scan"),
        (2, b"", -5, "would never end a scan"),
    ],
)
def test_impossible_pages_are_refused_and_the_node_lives(arc, start, limit, text):
    hand = filled(4)
    answer = ask(hand, "n1", arc, start=start, limit=limit)
    assert answer is not None
    assert answer[:3] == (m.FAILED, hand._req, m.INVALID)
    assert text in answer[3]
    assert hand.read("n1", key="k1") == ["v1"]


def test_a_start_that_is_no_key_and_a_match_that_is_no_prefix_of_any_are_answered():
    hand = filled(8)
    assert page(hand, "n1", 3, start=b"\x00\x03\xff\xff\xff")[0] == []
    assert page(hand, "n1", 3, match=b"\xff" * 3000)[0] == []


def test_a_request_under_any_register_is_answered_like_a_get():
    hand = filled()
    arc = hand.arc()
    for ver in (0, 1, 99):
        assert page(hand, "n1", arc, ver=ver)[0] == keys_of(hand, arc)


def test_a_page_names_the_register_under_which_it_counts():
    hand = filled(nodes=4)
    a, b, c = hand.owners()
    (d,) = [name for name in hand.names if name not in (a, b, c)]
    arc, table = hand.arc(), hand.nodes[b].table
    assert ask(hand, b, arc)[4] == (1 << 2) << 8 | 3
    assert ask(hand, d, arc)[4] == 0, "no owner"
    moved = ring.proposal(1, ring.DONE, (d, b, c), ())
    hand.isolate(a, b)
    hand.nodes[b].roster.adopt(arc, moved)
    assert ask(hand, b, arc)[4] == (moved.ver << 2 | ring.DONE) << 8 | 3
    assert table.owners(arc) == (d, b, c)
    hand.nodes[a].roster.adopt(arc, moved)
    assert ask(hand, a, arc)[4] == 0, "an owner no more"


def full_arc(rows: int, key_bytes: int = 8, value_bytes: int = 4) -> tuple[Hand, int]:
    """One node with `rows` rows in each of two arcs, on average."""
    hand = Hand(nodes=1, partitions=2)
    store, node = hand.stores["n1"], hand.nodes["n1"]
    for i in range(2 * rows):
        full = ring.full_key(b"default", b"%0*d" % (key_bytes, i))
        skey = ring.storage_key(full, 2)
        clock = [(b"a" * 12, 1, [(b"%016d" % i, 0, 1, 0, b"v" * value_bytes)])]
        record = seal_record(skey, dvv.encode(clock))
        store.put(OBJECTS, skey, record)
        node.replica._toggle(skey, record)
        node.replica.keys += 1
    store.commit()
    return hand, 0


def test_a_page_is_bounded_whatever_is_asked_for():
    hand, arc = full_arc(1_200)
    keys, upto, _ = page(hand, "n1", arc, limit=1 << 60)
    assert len(keys) == ROWS_MAX
    assert upto == hand.skey(keys[-1])


def test_a_page_is_bounded_in_bytes_of_rows_and_of_keys():
    hand, arc = full_arc(60, value_bytes=100_000)
    keys, upto, _ = page(hand, "n1", arc, limit=1_000)
    assert 10 <= len(keys) <= 12
    assert upto
    hand, arc = full_arc(500, key_bytes=1_000)
    keys, upto, _ = page(hand, "n1", arc, limit=1_000)
    assert sum(map(len, keys)) <= ANSWER_BYTES + 1_010
    assert upto


def test_scans_take_a_bounded_share_of_a_step_and_puts_come_first():
    hand, arc = full_arc(600)
    for _ in range(20):
        hand._req += 1
        scan = (m.SCAN, hand._req, 1_000, arc, 1, 0, b"", b"", 200)
        hand.flying.append(("client", "n1", scan))
    first = hand._req - 19
    hand._req += 1
    hand.flying.append(("client", "n1", (m.GET, hand._req, 1_000, hand.full("x"), 1, 0, 0, 0, 0)))
    hand.run(1)
    assert hand.answer() is not None, "the get did not wait for the scans"
    answered = sum(hand.answer(req) is not None for req in range(first, first + 20))
    assert answered == 2, "256 rows a step, in whole pages"
    assert hand.nodes["n1"].next_due_ms() <= hand.now
    hand.run(10)
    assert all(hand.answer(req) is not None for req in range(first, first + 20))


def test_more_pages_than_may_wait_are_refused_at_once():
    hand, arc = full_arc(300)
    reqs = []
    for _ in range(QUEUE_MAX + 5):
        hand._req += 1
        reqs.append(hand._req)
        scan = (m.SCAN, hand._req, 10_000, arc, 1, 0, b"", b"", 1_000)
        hand.flying.append(("client", "n1", scan))
    hand.run(1)
    refused = [answer for req in reqs if (answer := hand.answer(req)) and answer[0] == m.FAILED]
    assert [answer[2] for answer in refused] == [m.OVERLOADED] * 5
    assert all(answer[9] > 0 for answer in refused), "it says when to come again"


def test_a_page_nobody_waits_for_any_more_is_not_looked_up():
    hand, arc = full_arc(1_000)
    for _ in range(10):
        hand._req += 1
        scan = (m.SCAN, hand._req, 3, arc, 1, 0, b"", b"", 1_000)
        hand.flying.append(("client", "n1", scan))
    hand.run(20)
    stats = hand.nodes["n1"].stats
    assert stats["scan_pages"] + stats["expired"] == 10
    assert stats["expired"] >= 6


# --- a walk over nodes in the hand --------------------------------------------------------------


class Walker:
    """Carries out what a walk asks for, on nodes in the hand; the dead do not answer."""

    def __init__(self, hand: Hand, level: int = 0, after=None, match: bytes = b"", **options):
        self.hand = hand
        self.asked: list[tuple[str, Op]] = []
        self.walk = Walk(
            match, after, level, Options(**options), until=lambda timeout: hand.now + 1_000,
            get=lambda full: Op(m.GET, full, hand.now + 1_000, (level, 0, m.SLOPPY)),
            clock=lambda: 0,
        )  # fmt: skip

    def run(self, op: Op) -> None:
        hand = self.hand
        hand._req += 1
        head = (op.kind, hand._req, 1_000)
        live = list(hand.nodes)
        via = op.pin or live[0]
        if op.kind == m.GET:
            via = next(name for name in hand.owners_of(op.key) if name in live)
            head = (*head, op.key, 1, 0)
        self.asked.append((via, op))
        answer = None
        if via in live:
            hand.flying.append(("client", via, (*head, *op.tail)))
            for _ in range(200):
                hand.run(1)
                answer = hand.answer()
                if answer is not None:
                    break
        op.done = True
        if answer is None or answer[0] == m.FAILED:
            op.error = QuorumTimeout(f"no answer of {via}")
        else:
            if op.kind == m.RING:  # nodes in the hand share an address, and clients go by it
                members = [[name, host, i] for i, (name, host, _) in enumerate(answer[8], 1)]
                answer = (*answer[:8], members, *answer[9:])
            op.answer = answer

    def bring_in(self) -> None:
        """One fetch, as a driver does it."""
        flow = self.walk.fetch()
        with suppress(StopIteration):
            ops = next(flow)
            while True:
                for op in ops:
                    self.run(op)
                ops = flow.send(ops)

    def fetch(self) -> list[str]:
        self.bring_in()
        found = iter(self.walk.take, None)
        return [ring.split_key(each.full)[1].decode() for each in found]

    def all(self) -> list[str]:
        return self.collect([])

    def collect(self, found: list[str]) -> list[str]:
        """Add to `found` until the walk ends, in one way or the other."""
        while not self.walk.complete:
            found += self.fetch()
        return found


@pytest.fixture
def hand(monkeypatch) -> Hand:
    monkeypatch.setattr(
        Hand,
        "owners_of",
        lambda self, full: next(iter(self.nodes.values())).table.owners(
            ring.arc_of(full, self.config.partitions)
        ),
        raising=False,
    )
    return filled(exchange_ms=1_000_000, suspicion_ms=200)


def everything(count: int = 40) -> list[str]:
    return sorted(f"k{i}" for i in range(count))


def test_a_walk_yields_every_key_once_in_the_order_of_the_ring(hand):
    found = Walker(hand).all()
    assert found == sorted(found, key=hand.skey)
    assert sorted(found) == everything()


def test_a_ring_without_keys_is_walked_to_its_end():
    walker = Walker(Hand())
    assert walker.all() == []
    assert walker.walk.complete
    assert walker.walk.share == 1.0


def test_deleted_keys_are_not_yielded(hand):
    hand.delete("n1", "gone", key="k3")
    assert sorted(Walker(hand).all()) == sorted({*everything()} - {"k3"})


@pytest.mark.parametrize("behind", ["n1", "n2", "n3"])
def test_a_key_that_one_owner_has_missed_is_yielded(hand, behind):
    for key in everything():
        hand.forget_row(behind, key)
    assert sorted(Walker(hand).all()) == everything()


def test_a_key_deleted_at_most_owners_is_not_yielded_for_what_the_last_one_holds(hand):
    hand.isolate("n3")
    hand.delete("n1", "gone", key="k5")
    assert "k5" in page(hand, "n3", hand.arc("k5"))[0]
    hand.heal()
    assert "k5" not in Walker(hand).all()


def test_one_owner_away_of_three_is_not_missed(hand):
    hand.kill("n2")
    walker = Walker(hand)
    assert sorted(walker.all()) == everything()
    to_the_dead = sum(via == "n2" for via, _ in walker.asked)
    assert to_the_dead < 8, "an owner that is silent is not waited for at every arc"


def test_two_owners_away_of_three_are_too_many(hand):
    hand.kill("n2")
    hand.kill("n3")
    with pytest.raises(ScanUnavailable, match=r"2 of its owners .* 1 can \(.*n2 no answer") as info:
        Walker(hand).all()
    error = info.value
    assert (error.required, error.received, error.asked) == (2, 1, 3)
    assert error.arc == 0
    assert error.retryable
    assert not error.maybe_applied


def test_a_walk_that_was_stopped_goes_on_from_its_cursor(hand):
    walker = Walker(hand)
    found = walker.fetch()
    hand.kill("n2")
    hand.kill("n3")
    with pytest.raises(ScanUnavailable) as info:
        walker.collect(found)
    error = info.value
    assert 0 < len(found) < 40
    assert error.cursor == walker.walk.cursor
    assert not walker.walk.complete
    for name in ("n2", "n3"):
        hand.start(name)
    hand.settle()
    again = Walker(hand, after=error.cursor).all()
    assert sorted(found + again) == everything(), "and nothing twice"
    found += walker.all()
    assert sorted(found) == everything(), "the walk itself goes on, too"


def test_an_owner_that_lost_its_disk_does_not_count_until_it_has_synced(hand):
    hand.kill("n3")
    hand.kill("n2")
    hand.wipe("n2")
    hand.start("n2")
    hand.run(20)
    with pytest.raises(ScanUnavailable, match="n2 not synced"):
        Walker(hand).all()
    hand.start("n3")
    hand.settle()
    assert sorted(Walker(hand).all()) == everything()


def test_lists_count_together_only_if_their_owners_hold_the_same_register(hand):
    """X2. Else two owners before a move and one after it would be enough, and miss what was
    acknowledged by the other two since."""
    walker = Walker(hand)
    walker.fetch()
    old, new, few = lists(4, 3), lists(9, 3), lists(4, 1)
    enough = walker.walk._enough
    assert enough(0, [old, old])
    assert not enough(0, [old, new, lists(0, 0)])
    assert enough(0, [old, new, new])
    assert enough(0, [few]), "of one owner, one is enough"
    assert not enough(0, [new]), "of three it is not, however many the walk knew of"


def lists(version: int, owners: int) -> _Listing:
    return _Listing([], b"", version << 8 | owners)


def test_every_owner_is_needed_at_r_all(hand):
    assert sorted(Walker(hand, m.ALL).all()) == everything()
    hand.kill("n2")
    with pytest.raises(ScanUnavailable, match="3 of its owners"):
        Walker(hand, m.ALL).all()


def test_more_owners_than_there_are_replicas_are_refused(hand):
    with pytest.raises(ConfigurationError, match="r=4, but the ring keeps 3"):
        Walker(hand, 4).fetch()


def test_a_client_that_may_talk_to_one_node_only_cannot_scan(hand):
    with pytest.raises(ConfigurationError, match="talks to n1 only: connect without via="):
        Walker(hand, via="n1").fetch()


def test_the_cursor_after_any_key_yields_exactly_the_rest(hand):
    order = Walker(hand).all()
    walker = Walker(hand)
    for taken in range(len(order)):
        while (found := walker.walk.take()) is None:
            walker.bring_in()
        assert ring.split_key(found.full)[1].decode() == order[taken]
        if taken % 7 == 0:
            assert Walker(hand, after=walker.walk.cursor).all() == order[taken + 1 :]
    assert Walker(hand, after=walker.walk.cursor).all() == []


def test_a_walk_left_in_the_middle_of_a_fetch_loses_nothing(hand):
    """Ctrl-C, a cancelled task: what was listed and not yet read must come again."""
    walker = Walker(hand)
    found: list[str] = []
    for stop_after in range(60):
        flow = walker.walk.fetch()
        done = 0
        try:
            ops = next(flow)
            while done < stop_after % 9:
                for op in ops:
                    walker.run(op)
                done += 1
                ops = flow.send(ops)
        except StopIteration:
            pass
        flow.close()
        found += [ring.split_key(f.full)[1].decode() for f in iter(walker.walk.take, None)]
    assert sorted(found) == everything()


def test_lists_of_different_length_are_merged_up_to_the_shortest(hand):
    """One owner stops early in each page; keys beyond it are named again, and yielded once."""
    real = Walker.run

    def short(self, op: Op) -> None:
        if op.kind == m.SCAN and op.pin == "n3":
            op.tail = (*op.tail[:5], 1)
        real(self, op)

    walker = Walker(hand)
    walker.run = short.__get__(walker)
    assert sorted(walker.all()) == everything()


@pytest.mark.parametrize("bad", [[b""], [5], [b"\x07default"], ["text"], [b"\x07defaultzzz"]])
def test_an_owner_that_names_nonsense_is_taken_for_silent(hand, bad):
    real = Walker.run

    def lying(self, op: Op) -> None:
        real(self, op)
        if op.kind == m.SCAN and op.pin == "n3" and op.answer is not None:
            keys = [key for key in bad if type(key) is not bytes or hand_arc(key) != op.tail[0]]
            op.answer = (*op.answer[:2], keys or [b""], *op.answer[3:])

    def hand_arc(key: bytes) -> int:
        return ring.arc_of(key, 8) if key else -1

    walker = Walker(hand)
    walker.run = lying.__get__(walker)
    assert sorted(walker.all()) == everything()


def test_an_owner_that_goes_round_does_not_hold_the_walk(hand):
    real = Walker.run

    def turning(self, op: Op) -> None:
        real(self, op)
        if op.kind == m.SCAN and op.pin == "n3" and op.answer is not None and op.tail[4]:
            op.answer = (*op.answer[:3], op.tail[4], 1)

    walker = Walker(hand)
    walker.run = turning.__get__(walker)
    assert sorted(walker.all()) == everything()


def test_a_read_that_fails_stops_the_walk_before_its_key(hand):
    order = Walker(hand).all()
    real = Walker.run
    bad = order[10]

    def failing(self, op: Op) -> None:
        if op.kind == m.GET and op.key == hand.full(bad):
            op.done, op.error = True, QuorumTimeout("too few answers", required=2, received=1)
        else:
            real(self, op)

    walker = Walker(hand)
    walker.run = failing.__get__(walker)
    found: list[str] = []
    with pytest.raises(ScanUnavailable, match="too few answers") as info:
        walker.collect(found)
    assert found == order[:10]
    assert info.value.key == bad
    assert isinstance(info.value.__cause__, QuorumTimeout)
    assert Walker(hand, after=info.value.cursor).all() == order[10:]


def test_cursors_are_checked():
    cursor = to_cursor(8, (3, b"\x00\x03xyz"), b"\x01a")
    assert from_cursor(cursor, b"\x01a") == (8, (3, b"\x00\x03xyz"))
    for text in ("", "zzz", cursor[:-2], "é", cursor.swapcase(), "A" * 400):
        with pytest.raises(ConfigurationError, match="is no cursor"):
            from_cursor(text, b"\x01a")
    with pytest.raises(ConfigurationError, match="another bucket or another prefix"):
        from_cursor(cursor, b"\x01b")


def test_a_cursor_of_a_ring_with_other_arcs_is_refused(hand):
    with pytest.raises(ConfigurationError, match=r"64 arcs, and .* has 8"):
        Walker(hand, after=to_cursor(64, (3, b""), b"")).fetch()


def test_what_is_read_ahead_is_bounded_by_bytes():
    hand = Hand()
    Hand.owners_of = lambda self, full: self.names  # type: ignore[attr-defined]
    try:
        for i in range(60):
            hand.put("n1", "x" * 1_000_000, key=f"k{i}", put_id=f"p{i}", ms=3)
        walker = Walker(hand)
        sizes = []
        while not walker.walk.complete:
            sizes.append(len(walker.fetch()))
    finally:
        del Hand.owners_of  # type: ignore[attr-defined]
    assert sum(sizes) == 60
    assert max(sizes) <= 16, sizes
    assert max(sizes[2:]) <= 8, "8 MiB of values at a time, once their size is known"


# --- the clients, on simulated nodes ------------------------------------------------------------


def test_a_scan_of_a_bucket_yields_entries():
    with SimRing(nodes=4, seed=1) as sim, sim.client() as kv:
        kv.put_many({f"user:{i}": {"i": i} for i in range(300)}, context=None)
        kv["other"] = 1
        people = kv.bucket("people")
        people[b"\xff"] = "bytes"
        people["x"] = "text"
        found = {entry.key: entry.value for entry in kv.scan("user:")}
        assert found == {f"user:{i}": {"i": i} for i in range(300)}
        assert {entry.key: entry.value for entry in people.scan()} == {
            b"\xff": "bytes",
            "x": "text",
        }
        assert [entry.key for entry in people.scan(b"\xff")] == [b"\xff"]
        assert len(list(kv.scan(b""))) == 301
        assert list(kv.bucket("none").scan()) == []


def test_a_scan_shows_siblings_and_its_context_replaces_them():
    with SimRing(nodes=3, seed=2) as sim, sim.client() as kv:
        kv.put("cart", ["tea"], context=None)
        kv.put("cart", ["jam"], context=None)
        (entry,) = kv.scan()
        assert entry.conflict
        assert sorted(entry.siblings) == [["jam"], ["tea"]]
        kv.put("cart", ["both"], context=entry.context)
        assert kv["cart"] == ["both"]


def test_only_what_a_scan_has_given_out_counts_as_seen():
    """Read ahead is not seen: an auto put must not cover what its user never looked at."""
    with SimRing(nodes=3, seed=3) as sim, sim.client() as kv, sim.client() as other:
        for i in range(4):
            other.put(f"k{i}", 1, context=None)
            other.put(f"k{i}", 2, context=None)
        with kv.scan() as scan:
            seen = next(scan).key
        kv[seen] = "over both"
        assert kv[seen] == "over both"
        unseen = next(f"k{i}" for i in range(4) if f"k{i}" != seen)
        with pytest.raises(dynamo.ConflictError):
            kv[unseen] = "over what?"


def test_a_scan_can_be_left_and_taken_up_from_its_cursor():
    with SimRing(nodes=3, seed=4) as sim, sim.client() as kv:
        kv.put_many({f"k{i}": i for i in range(200)}, context=None)
        with kv.scan() as scan:
            first = [next(scan).key for _ in range(77)]
        assert not scan.complete
        assert 0 < scan.share < 1
        assert list(scan) == [], "it was closed"
        rest = kv.scan(after=scan.cursor)
        found = first + [entry.key for entry in rest]
        assert sorted(found) == sorted(f"k{i}" for i in range(200))
        assert rest.complete
        assert list(kv.scan(after=rest.cursor)) == []


def test_a_value_that_cannot_be_decoded_raises_in_its_turn_and_the_rest_follows():
    class Secret:
        name, tag = "secret", 200

        def encode(self, value):
            return value.encode()

        def decode(self, data):
            return data.decode()

    with SimRing(nodes=3, seed=5) as sim, sim.client() as kv:
        kv.put_many({f"k{i}": i for i in range(20)}, context=None)
        kv.bucket("default", codec=Secret())["odd"] = "whisper"
        scan, found, odd = kv.scan(), [], []
        while not scan.complete:
            try:
                for entry in scan:
                    found.append(entry.key)
            except dynamo.CodecError as error:
                odd.append(error.key)
        assert sorted(found) == sorted(f"k{i}" for i in range(20))
        assert odd == ["odd"]


def test_a_deadline_holds_for_each_share_of_a_scan():
    with SimRing(nodes=3, seed=8) as sim, sim.client(timeout=10.0) as kv:
        kv.put_many({f"k{i}": i for i in range(50)}, context=None)
        with dynamo.deadline(0.5):
            assert len(list(kv.scan())) == 50
        for name in sim.nodes:
            sim.kill(name)
        began = sim.now
        with dynamo.deadline(0.5), pytest.raises(dynamo.DynamoError):
            list(kv.scan())
        assert sim.now - began < 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"prefix": 5}, dynamo.WrongType, "keys are str or bytes"),
        ({"after": b"x"}, dynamo.WrongType, "after= is a cursor"),
        ({"after": "nonsense"}, ConfigurationError, "is no cursor"),
        ({"r": 0}, ConfigurationError, "r must be"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(arguments, error, text):
    with SimRing(nodes=3) as sim, sim.client() as kv, pytest.raises(error, match=text):
        kv.scan(**arguments)


def test_len_and_iter_are_refused_and_name_scan():
    with SimRing(nodes=3) as sim, sim.client() as kv:
        for refused in (len, iter, lambda bucket: bucket.clear()):
            with pytest.raises(dynamo.WrongType, match=r"scan\(\)"):
                refused(kv)


def test_the_asyncio_client_scans_alike():
    async def walk(kv: dynamo.AsyncClient) -> list[str]:
        await kv.put_many({f"k{i}": i for i in range(100)}, context=None)
        scan = kv.scan("k")
        async with scan:
            first = [(await anext(scan)).key for _ in range(30)]
        found = first + [entry.key async for entry in kv.scan("k", after=scan.cursor)]
        task = asyncio.ensure_future(anext(kv.scan()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await kv.get("k1") == 1, "a scan that is cancelled leaves no debris"
        return sorted(map(str, found))

    with SimRing(nodes=3, seed=6) as sim:
        (found,) = sim.run_async(walk)
    assert found == sorted(f"k{i}" for i in range(100))


# --- what is promised, with everything going wrong ----------------------------------------------


class Ledger:
    """What writers know for certain. Times are virtual milliseconds."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, int] = {}
        self.written: dict[str, None] = {}
        self.deleting: dict[str, int] = {}  # a delete was begun, and may have happened
        self.deleted: dict[str, int] = {}  # ... and was acknowledged
        self.writers = 0

    def write(self, sim: SimRing, name: str, count: int):
        """Writes keys of its own, without stand-ins, and deletes some of them again.

        In a single try each: what a retry leaves across a partition may come back (DESIGN, D5).
        """

        def act(kv: dynamo.Client) -> None:
            kv = kv.with_options(tries=1)
            for i in range(count):
                key = f"{name}-{i}"
                self.written[key] = None
                try:
                    kv.put(key, key, context=None, sloppy=False)
                except dynamo.DynamoError:
                    continue
                self.acknowledged[key] = sim.now_ms
                if i % 5 == 0:
                    self.deleting[key] = sim.now_ms
                    try:
                        kv.delete(key, sloppy=False)
                    except dynamo.DynamoError:
                        continue
                    self.deleted[key] = sim.now_ms
            self.writers -= 1

        self.writers += 1
        return act

    def judge(self, began_ms: int, ended_ms: int, found: list[str]) -> None:
        """Whether a scan that ran to its end kept its promise."""
        assert len(found) == len(set(found)), "a key came twice"
        must = {
            key
            for key, at_ms in self.acknowledged.items()
            if at_ms < began_ms and self.deleting.get(key, ended_ms) >= ended_ms
        }
        assert not must - set(found), "acknowledged before, not deleted, and missed"
        assert not set(found) - set(self.written), "a key that nobody has written"
        gone = {key for key, at_ms in self.deleted.items() if at_ms < began_ms}
        assert not gone & set(found), "a key whose deletion was acknowledged before"


@pytest.mark.parametrize(
    ("faults", "seed"),
    [("mild", 1), ("mild", 2), ("storm", 3), ("storm", 4), ("storm", 5), (["wipe", "kill"], 6)],
)
def test_a_scan_misses_nothing_that_was_acknowledged_and_shows_no_phantom(faults, seed):
    ledger = Ledger()
    complete = errors = 0

    def scanner(kv: dynamo.Client) -> None:
        nonlocal complete, errors
        while ledger.writers:
            began_ms, found = sim.now_ms, []
            scan = kv.scan()
            for _ in range(200):
                try:
                    for entry in scan:
                        found.append(entry.key)
                    break
                except dynamo.DynamoError as error:  # too few owners: go on from where it was
                    errors += 1
                    if isinstance(error, ScanUnavailable) and errors % 2:
                        scan = kv.scan(after=error.cursor)
                    sim.advance(0.05)
            if scan.complete:
                complete += 1
                ledger.judge(began_ms, sim.now_ms, found)

    with SimRing(nodes=5, seed=seed, faults=faults, partitions=16) as sim:
        writers = [ledger.write(sim, f"w{i}", 60) for i in range(3)]
        sim.run(*writers, scanner, scanner)
        sim.heal()
        sim.wait_converged(60)
        with sim.client() as kv:
            began_ms = sim.now_ms
            ledger.judge(began_ms, began_ms + 1, [entry.key for entry in kv.scan()])
    assert complete >= 2, (complete, errors)


def test_the_judge_of_scans_can_fail():
    ledger = Ledger()
    ledger.written = dict.fromkeys("abc")
    ledger.acknowledged = {"a": 5, "b": 5}
    ledger.deleting = ledger.deleted = {"b": 6}
    ledger.judge(10, 20, ["a", "c"])
    for found in ([], ["a", "a"], ["a", "x"], ["a", "b"]):
        with pytest.raises(AssertionError):
            ledger.judge(10, 20, found)
