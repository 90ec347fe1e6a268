"""The ring as items that merge: any order, any repetition, any garbage in between."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.core import items as it
from dynamo.core import ring
from dynamo.core.config import Config
from dynamo.core.items import Goal, Record, Staged, Task, Wish
from dynamo.core.messages import NOT_A_MEMBER, NOT_READY, Malformed
from dynamo.core.planner import tie_of
from dynamo.core.ring import Member
from dynamo.core.roster import Roster
from dynamo.storage.memory import MemoryStore

CONFIG = Config(partitions=8)
NAMES = ["n1", "n2", "n3", "n4", "n5"]
FOUNDERS = [Member(name, "10.0.0.1", 7000, 7001) for name in NAMES[:3]]
ME = FOUNDERS[0]


def roster(founders=FOUNDERS, me=ME, store=None, config=CONFIG) -> Roster:
    return Roster(config, me, founders, store or MemoryStore(), [], Counter())


def everything(some: Roster) -> dict:
    buckets = [bucket for bucket, _ in some.buckets()]
    return {key: some.item(key) for bucket in buckets for key in some.keys_in(bucket)}


# --- items that a real ring may send --------------------------------------------------------------

names = st.sampled_from(NAMES)
counters = st.integers(1, 5)
owners = st.lists(names, min_size=1, max_size=3, unique=True).map(tuple)


@st.composite
def registers(draw) -> ring.Register:
    cur, coming = draw(owners), draw(owners)
    phase = draw(st.sampled_from([ring.STABLE, ring.COPYING, ring.SWITCHED, ring.DONE]))
    if phase == ring.STABLE:
        return ring.proposal(draw(counters), phase, cur, ())
    register = ring.proposal(draw(counters), ring.COPYING, cur, coming)
    for _ in range(phase - ring.COPYING):
        register = ring.advanced(register)
    return register


statuses = st.integers(it.OUT, it.REMOVED)
texts = st.text("abc", max_size=3)
ITEM = {
    "n": st.builds(
        Record, st.integers(0, 5), st.sampled_from(["a", "b"]), st.integers(1, 3),
        st.integers(1, 3), texts,
    ),
    "w": st.builds(Wish, counters, statuses, st.integers(1, 3), st.integers(0, 3)),
    "s": st.builds(Staged, counters, texts, st.lists(texts, max_size=2).map(tuple)),
    "t": st.builds(
        Task, st.integers(0, 1), counters, st.just((("join", "n4"),)), st.just((("n4", 0, 1),))
    ),
    "r": registers(),
    "g": st.builds(lambda ver, names: Goal(ver, tie_of(names, ()), names), counters, owners),
}  # fmt: skip


@st.composite
def items(draw) -> tuple[str, tuple]:
    kind = draw(st.sampled_from("nwstrg"))
    if kind in "rg":
        rest = str(draw(st.integers(0, 7)))
    else:
        rest = str(draw(st.integers(1, 50))) if kind == "t" else draw(names)
    return f"{kind}/{rest}", tuple(draw(ITEM[kind]))


# --- G1 -------------------------------------------------------------------------------------------


@given(st.lists(items(), max_size=40), st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_give_the_same_ring(sent, rng):
    """G1."""
    again = sent + rng.choices(sent, k=10) if sent else []
    rng.shuffle(again)
    one, two = roster(), roster()
    for key, item in sent:
        one.take(key, item)
    for key, item in again:
        two.take(key, item)
    own = "n/" + ME.name  # refuting a claim twice takes a higher incarnation than once
    first, second = everything(one), everything(two)
    assert first.pop(own)[1:] == second.pop(own)[1:]
    assert first == second
    assert one.table.registers == two.table.registers
    assert one.table.version == two.table.version
    assert list(one.table.members) == list(two.table.members)
    assert one.closed == two.closed
    if one.item(own) == two.item(own):
        assert one.hash == two.hash
        assert one.buckets() == two.buckets()
    one.check()


@given(st.lists(items(), max_size=40))
def test_two_that_tell_each_other_all_know_the_same(sent):
    """G1: by merging each other's items, not the ones they were made of."""
    one, two = roster(), roster(me=FOUNDERS[1])
    for i, (key, item) in enumerate(sent):
        (one, two)[i % 2].take(key, item)
    for _ in range(2):  # the second time brings what each had to say against claims about itself
        for here, there in ((one, two), (two, one)):
            here.take_all(list(everything(there).items()))
    assert everything(one) == everything(two)
    assert one.hash == two.hash


@given(st.lists(items(), max_size=40))
def test_what_is_known_is_on_disk(sent):
    store = MemoryStore()
    first = roster(store=store)
    first.take_all(sent)
    store.commit()
    again = roster(store=store)
    again.check()
    assert everything(again) == everything(first)
    assert (again.hash, again.buckets()) == (first.hash, first.buckets())
    assert again.table.registers == first.table.registers
    assert again.closed == first.closed
    assert not again.news


def test_many_tasks_leave_the_latest_in_any_order():
    """G1 at the limit: which tasks are kept does not depend on which came first."""
    numbers = range(1, it.TASKS_MAX + 20)
    task = Task(it.RUNNING, 1, (), ())
    one, two = roster(), roster()
    for number in numbers:
        one.take(f"t/{number}", task)
    for number in reversed(numbers):
        two.take(f"t/{number}", task)
    assert one.hash == two.hash
    assert sorted(one.tasks) == list(numbers)[-it.TASKS_MAX :]
    one.check()


def test_an_item_never_falls():
    """G1, R3."""
    some = roster()
    assert some.take("w/n4", (5, it.IN, 1, 0))
    assert not some.take("w/n4", (5, it.IN, 1, 0))
    assert not some.take("w/n4", (4, it.LEAVING, 9, 0))
    higher = ring.proposal(3, ring.COPYING, ("n1", "n2"), ("n1", "n4"))
    assert some.adopt(2, higher)
    assert not some.adopt(2, ring.proposal(2, ring.STABLE, ("n5",), ()))
    assert not some.take("r/2", some.table.registers[2])
    assert some.table.registers[2] == higher


def test_what_is_written_here_must_rise():
    some = roster()
    some.change("w/n4", Wish(1, it.IN, 1, 0))
    with pytest.raises(AssertionError, match="falls"):
        some.change("w/n4", Wish(1, it.IN, 1, 0))


# --- G2 -------------------------------------------------------------------------------------------


@given(st.sampled_from([it.LEFT, it.REMOVED]), st.lists(items(), max_size=20))
def test_who_is_gone_stays_gone_whatever_comes(status, sent):
    """G2."""
    some = roster()
    some.take("w/n3", (1, status, 1, 0))
    for key, item in [*sent, ("w/n3", (it.JUMP_MAX, it.IN, 1, 0))]:
        some.take(key, item)
    assert some.gone("n3")
    assert "n3" not in some.table.members
    assert "n3" not in some.peers()


def test_a_node_that_was_removed_is_closed_and_stays_so_over_its_disk():
    store = MemoryStore()
    some = roster(store=store)
    some.confirm()
    assert some.closed is None
    some.take("w/n1", (2, it.REMOVED, 1, 0))
    assert some.closed == (NOT_A_MEMBER, "n1 was removed from the ring: ask another node")
    store.commit()
    assert roster(store=store).closed == some.closed
    some.take("w/n1", (9, it.IN, 1, 0))
    assert some.closed is not None


# --- G3 -------------------------------------------------------------------------------------------

GOOD = ring.proposal(1, ring.COPYING, ("n1", "n2"), ("n1", "n4"))
BAD = [
    ("", ()), ("n", ()), ("x/n1", ()), ("n/", (1, "h", 1, 2, "")), (7, ()), (None, ()),
    (b"n/n1", ()),
    ("n/../x", (1, "h", 1, 2, "")), ("n/" + "x" * 65, (1, "h", 1, 2, "")),
    ("n/n4", None), ("n/n4", 7), ("n/n4", "hello"), ("n/n4", (1, "h", 1, 2)), ("n/n4", {"a": 1}),
    ("n/n4", (1, "h", 1, 2, "", 0)), ("n/n4", (-1, "h", 1, 2, "")), ("n/n4", (True, "h", 1, 2, "")),
    ("n/n4", (1, b"h", 1, 2, "")), ("n/n4", (1, "h", 0, 2, "")), ("n/n4", (1, "h", 1, 1 << 16, "")),
    ("n/n4", (1, "h\n", 1, 2, "")), ("n/n4", (1, "h" * 300, 1, 2, "")),
    ("w/n4", (0, 1, 1, 0)), ("w/n4", (1, 9, 1, 0)), ("w/n4", (1, 1, 0, 0)),
    ("w/n4", (1.0, 1, 1, 0)),
    ("s/n4", (1, "join", ["x"] * 9)), ("s/n4", (1, "join", [7])),
    ("t/0", (0, 1, [], [])), ("t/007", (0, 1, [], [])), ("t/-1", (0, 1, [], [])),
    ("t/\u0663", (0, 1, [], [])), ("t/" + "9" * 60, (0, 1, [], [])), ("t/5", (7, 1, [], [])),
    ("t/5", (0, 1, [], [["n1", 1]])), ("t/5", (0, 1, 3, [])),
    ("t/5", (0, 1, [["x" * 200] * 8] * 200, [])),
    ("r/8", GOOD), ("r/-1", GOOD), ("r/07", GOOD), ("r/x", GOOD), ("r/" + "1" * 5000, GOOD),
    ("r/1", GOOD._replace(tie=GOOD.tie ^ 1)), ("r/1", GOOD._replace(ver=GOOD.ver ^ 1)),
    ("r/1", GOOD._replace(phase=ring.STABLE)), ("r/1", GOOD._replace(cur=())),
    ("r/1", GOOD._replace(cur=("n1", "n1"))), ("r/1", GOOD._replace(next=("n1", ["n4"]))),
    ("r/1", ring.proposal(1, ring.STABLE, ("n1", "n2", "n3", "n4"), ())),
    ("r/1", ring.proposal(it.JUMP_MAX + 1, ring.STABLE, ("n1",), ())),
    ("g/1", (1, 1, ["n1"])), ("g/1", (1, tie_of((), ()), [])),
    ("g/1", (1, tie_of(("n1", "n2", "n3", "n4"), ()), ["n1", "n2", "n3", "n4"])),
    ("n/n4", (it.JUMP_MAX + 1, "h", 1, 2, "")), ("w/n1", (it.JUMP_MAX + 2, 1, 1, 0)),
    ("n/n1", (it.JUMP_MAX + 2, "h", 1, 2, "")),
]  # fmt: skip


@pytest.mark.parametrize(("key", "item"), BAD)
def test_an_item_that_cannot_be_is_refused_and_changes_nothing(key, item):
    """G3. History: one flipped bit in a gossiped counter stopped a whole storage service."""
    some = roster()
    before, people = everything(some), some.people
    some.news.clear()
    with pytest.raises(Malformed):
        some.take(key, item)
    assert some.take_all([(key, item)]) == (0, 1)
    assert some.stats["ring_items_refused"] == 1
    assert (everything(some), some.people, some.news) == (before, people, {})
    some.check()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=6)
    | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)  # fmt: skip
keys = st.builds("{}/{}".format, st.sampled_from("nwstrgx"), st.sampled_from([*NAMES, *"0179"]))


@given(st.lists(st.tuples(keys | plain, plain), max_size=12))
def test_garbage_is_refused_and_never_raises_anything_else(sent):
    """G3."""
    some = roster()
    known = some.hash
    learnt, _ = some.take_all(sent)
    assert learnt or some.hash == known
    some.check()


@given(items(), st.integers(0, 400), st.integers(1, 255), st.lists(items(), max_size=5))
def test_a_real_item_with_a_flipped_byte_is_refused_or_is_an_item(real, at, flip, around):
    """G3: whatever is taken in is a proper item, so that it merges everywhere alike."""
    raw = bytearray(msgspec.msgpack.encode(real))
    raw[at % len(raw)] ^= flip
    try:
        key, item = msgspec.msgpack.decode(bytes(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, TypeError):
        return
    one, two = roster(), roster()
    one.take_all([*around, (key, item)])
    two.take_all([(key, item), *around])
    one.check()
    assert everything(one) == everything(two)
    for name, held in everything(one).items():
        assert it.KINDS[name[0]].parse(tuple(held)) == held


def test_one_bad_item_does_not_keep_the_others_out():
    some = roster()
    good = ("w/n4", (1, it.IN, 1, 0))
    assert some.take_all([("r/99", GOOD), good, ("w/n4", None)]) == (1, 2)
    assert some.belongs("n4")


def test_names_are_bounded():
    """B1: whoever has the secret can invent names, and cannot fill the memory with them."""
    some = roster()
    learnt, _ = some.take_all([(f"n/x{i}", (1, "h", 1, 2, "")) for i in range(it.NODES_MAX + 50)])
    assert learnt == it.NODES_MAX - 3
    assert len(some.records) == it.NODES_MAX
    assert some.take("n/n2", (3, "h", 1, 2, "")), "those that are known may still change"


# --- G4 -------------------------------------------------------------------------------------------


def test_what_others_claim_of_this_node_it_refutes():
    """G4."""
    some = roster()
    mine = some.records["n1"]
    assert not some.take("n/n1", mine)
    assert not some.take("n/n1", mine._replace(incarnation=0, host="elsewhere"))
    assert some.take("n/n1", mine._replace(incarnation=7, host="elsewhere"))
    assert some.records["n1"] == mine._replace(incarnation=8)
    assert "n/n1" in some.news


def test_over_an_old_disk_a_node_passes_its_former_incarnations():
    """G4: others know its record under 9; under 1 or 2 nobody would believe its new address."""
    store = MemoryStore()
    roster(store=store)
    store.commit()
    moved = roster(store=store, me=ME._replace(host="10.0.0.9"))
    assert moved.records["n1"] == Record(2, "10.0.0.9", 7000, 7001, "")
    moved.take("n/n1", Record(9, "10.0.0.5", 7000, 7001, ""))
    assert moved.records["n1"] == Record(10, "10.0.0.9", 7000, 7001, "")


def test_a_restart_with_nothing_new_keeps_the_incarnation():
    store = MemoryStore()
    first = roster(store=store)
    store.commit()
    assert roster(store=store).records == first.records


# --- G5, and who founds a ring --------------------------------------------------------------------


def test_a_store_that_nobody_told_of_the_ring_does_not_serve():
    """G5: a lost disk looks like a new one."""
    some = roster()
    assert some.closed == (NOT_READY, "n1 has not heard from another node of its ring yet")
    some.confirm()
    assert some.closed is None


def test_whoever_founds_a_ring_alone_serves_at_once_and_after_a_restart():
    store = MemoryStore()
    assert roster(founders=[ME], store=store).closed is None
    store.commit()
    assert roster(founders=FOUNDERS, store=store).closed is None, "it was a ring before"


def test_a_joiner_says_what_it_waits_for():
    some = roster(founders=(), me=ME._replace(name="n4"))
    assert some.closed is not None
    assert some.closed[0] == NOT_READY
    some.take_all(list(everything(roster()).items()))
    some.confirm()
    assert some.closed is not None
    assert some.closed[0] == NOT_A_MEMBER
    assert "dynamo cluster join n4" in some.closed[1]
    some.take("w/n4", (1, it.IN, 1, 0))
    assert some.closed is None


def test_a_member_that_lacks_an_arc_is_still_learning():
    """History: only the first arc was looked at; an arc of which nothing is known has no owner."""
    some = roster(founders=(), me=ME._replace(name="n4"))
    known = everything(roster()) | {"w/n4": (1, it.IN, 1, 0)}
    last = known.pop("r/7")
    some.take_all(list(known.items()))
    some.confirm()
    assert some.closed == (NOT_READY, "n4 is still learning who owns what")
    some.take("r/7", last)
    assert some.closed is None


@pytest.mark.parametrize("known", ["w/n1", "r/5"])
def test_half_a_ring_is_no_reason_to_found_one(known):
    """A joiner heard of its removal, or of some arcs, before it was started with `members`.

    To found a ring over that would have brought it back, or put arcs where they are no more.
    """
    store = MemoryStore()
    some = roster(founders=(), store=store)
    item = Wish(1, it.REMOVED, 1, 0) if known == "w/n1" else ring.proposal(4, 0, ("n5",), ())
    some.take(known, item)
    store.commit()
    again = roster(store=store)
    assert again.item(known) == item
    assert sum(bool(register.ver) for register in again.table.registers) == (known == "r/5")
    assert again.closed is not None


def test_founders_agree_but_for_their_own_records():
    one, two = everything(roster()), everything(roster(me=FOUNDERS[1]))
    assert {key for key in one if one[key] != two[key]} == {"n/n1", "n/n2"}
    assert list(roster().news) == ["n/n1"], "nobody needs to be told of the rest"


# --- what follows ---------------------------------------------------------------------------------


def test_the_table_and_whoever_watches_it_follow():
    some = roster()
    changes, people = some.table.changes, some.people
    some.take_all([("n/n4", (1, "h", 1, 2, "z")), ("w/n4", (1, it.IN, 3, 0))])
    assert some.table.members["n4"] == Member("n4", "h", 1, 2, "z", 3)
    assert some.people == people + 1, "once for all that came together"
    assert some.table.changes > changes
    assert some.peers() == ["n2", "n3", "n4"]
    some.moved.clear()
    some.take("g/3", (1, tie_of(("n4",), ()), ("n4",)))
    some.take("r/5", GOOD)
    assert list(some.moved) == [3, 5]
    assert some.planned()["n4"] == ("z", 3)


def test_buckets_are_those_of_this_ring():
    some = roster(config=Config(partitions=64))
    tried = (-1, 0, 1, 2, it.OTHERS - 1, it.OTHERS, it.OTHERS + it.OTHER_BUCKETS)
    assert [bucket for bucket in tried if some.has_bucket(bucket)] == [0, 1, it.OTHERS]
    assert sum(len(some.keys_in(bucket)) for bucket, _ in some.buckets()) == 64 + 6
