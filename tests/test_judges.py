"""The judges that watch disks, nodes and requests: worlds in the hand, each breaking one promise.

A disk is written to directly, as a node with a mistake would, and the commit is what is judged.
"""

from __future__ import annotations

import random

import pytest

from dynamo.client.errors import BadContext, QuorumTimeout
from dynamo.client.op import Op
from dynamo.core import dvv, ring
from dynamo.core import messages as m
from dynamo.core.config import Config
from dynamo.core.replica import seal_record
from dynamo.core.spaces import HINTS, META, OBJECTS, QUARANTINE
from dynamo.sim import judges, verdict
from dynamo.sim.caller import Caller
from dynamo.sim.machine import Disk
from dynamo.sim.network import Network, Weather, across
from dynamo.sim.oracle import FAIL, Oracle
from dynamo.sim.sometimes import GROUPS, SOMETIMES, missed
from dynamo.sim.world import World

CONFIG = Config(
    partitions=4, probe_ms=50, probe_timeout_ms=20, suspicion_ms=100, exchange_ms=200,
    replica_timeout_ms=20, background_timeout_ms=300,
)  # fmt: skip
KEY = ring.full_key(b"sim", b"k")
SKEY = ring.storage_key(KEY, CONFIG.partitions)
A, B = b"A" * 12, b"B" * 12


def put_id(uid: str) -> bytes:
    return uid.encode().ljust(16, b".")


def value(uid: str, payload: bytes | None = None, tombstone: bool = False) -> dvv.Value:
    body = b"" if tombstone else b"\0" + uid.encode()
    return (put_id(uid), int(tombstone), 0, 0, body if payload is None else payload)


class Bench:
    """A calm ring of four, of which three own the key; puts a1, a2 and b1, and a delete d."""

    def __init__(self) -> None:
        network = Network(random.Random(1), Weather())
        self.world = World(5, ["n1", "n2", "n3", "n4"], CONFIG, network, Oracle())
        for name in self.world.hosts:
            self.world.start(name)
        self.world.run_until(300)
        self.owners = self.world.table.owners(ring.arc_of(KEY, CONFIG.partitions))
        self.other = next(name for name in self.world.hosts if name not in self.owners)
        for uid in ("a1", "a2", "b1", "d"):
            write = self.world.oracle.begin_write(KEY, uid, 0, 300, delete=uid == "d")
            write.payload = b"" if uid == "d" else b"\0" + uid.encode()
            self.world.uids[put_id(uid)] = uid

    def disk(self, at: int = 0) -> Disk:
        return self.world.hosts[self.owners[at]].disk

    def store(self, *clock: dvv.Entry, at: int = 0) -> None:
        """Have an owner commit this row."""
        self.disk(at).put(OBJECTS, SKEY, seal_record(SKEY, dvv.encode(list(clock))))
        self.disk(at).commit()

    def keep(self, homes: list[str], *clock: dvv.Entry) -> None:
        """Have the node beyond the owners commit a hint, or erase it."""
        disk = self.world.hosts[self.other].disk
        if homes:
            row = dvv.encode((homes, 0, dvv.encode(list(clock))))  # type: ignore[arg-type]
            disk.put(HINTS, SKEY, seal_record(SKEY, row))
        else:
            disk.delete(HINTS, SKEY)
        disk.commit()

    def numbers(self) -> list[str]:
        return [violation.number for violation in self.world.oracle.violations]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- Dots -----------------------------------------------------------------------------------------


def test_a_dot_on_several_disks_is_one_write(bench: Bench) -> None:
    bench.store((A, 1, [value("a1")]))
    bench.store((A, 1, [value("a1")]), at=1)
    bench.store((A, 2, [value("a2"), value("a1")]), at=1)
    assert bench.numbers() == []


def test_a_dot_used_for_two_writes_is_found_on_whatever_disks_they_are(bench: Bench) -> None:
    bench.store((A, 1, [value("a1")]))
    bench.store((A, 1, [value("a2")]), at=2)
    assert bench.numbers() == ["D1"]


def test_a_value_that_nobody_put_to_the_key_is_found_on_the_disk(bench: Bench) -> None:
    bench.world.oracle.begin_write(ring.full_key(b"sim", b"other"), "o1", 0, 300)
    bench.world.uids[put_id("o1")] = "o1"
    bench.store((A, 1, [value("o1")]))
    bench.store((B, 1, [value("x9")]), at=1)
    assert bench.numbers() == ["I2", "I2"]


def test_other_bytes_than_were_put_are_found_on_the_disk(bench: Bench) -> None:
    bench.store((A, 1, [value("a1", b"\0a1 and more")]))
    assert bench.numbers() == ["I14"]


def test_a_damaged_record_is_not_to_be_committed(bench: Bench) -> None:
    record = seal_record(SKEY, dvv.encode([(A, 1, [value("a1")])]))
    bench.disk().put(OBJECTS, SKEY, record[:-1] + b"!")
    bench.disk().commit()
    assert bench.numbers() == ["I14"]


def test_a_failed_write_is_found_on_the_disk_as_it_is_committed(bench: Bench) -> None:
    oracle = bench.world.oracle
    oracle.end_write(oracle.writes["a1"], FAIL, 310)
    bench.store((A, 1, [value("a1")]))
    assert bench.numbers() == ["I2"]


# --- Rows -----------------------------------------------------------------------------------------


def test_a_row_may_let_go_of_values_and_learn_of_others(bench: Bench) -> None:
    bench.store((A, 1, [value("a1")]))
    bench.store((A, 2, [value("a2"), value("a1")]), (B, 1, []))
    bench.store((A, 2, [value("a2")]), (B, 2, [value("b1")]))
    assert bench.numbers() == []


def test_a_value_that_a_row_had_let_go_is_not_to_come_back(bench: Bench) -> None:
    bench.store((A, 2, [value("a2")]))
    bench.store((A, 2, [value("a2"), value("a1")]))
    assert bench.numbers() == ["I3"]


def test_a_row_does_not_forget_what_it_knew(bench: Bench) -> None:
    bench.store((A, 1, [value("a1")]), (B, 1, [value("b1")]))
    bench.store((A, 1, [value("a1")]))
    assert bench.numbers() == ["I1"]


@pytest.mark.parametrize(("tombstone", "number"), [(False, "I1"), (True, "I3")])
def test_a_row_does_not_vanish(bench: Bench, tombstone: bool, number: str) -> None:
    bench.store((A, 1, [value("d" if tombstone else "a1", tombstone=tombstone)]))
    bench.disk().delete(OBJECTS, SKEY)
    bench.disk().commit()
    assert bench.numbers() == [number]


def test_a_row_may_be_set_aside(bench: Bench) -> None:
    bench.store((A, 1, [value("a1")]))
    bench.disk().put(QUARANTINE, SKEY, b"what was there")
    bench.disk().delete(OBJECTS, SKEY)
    bench.disk().commit()
    assert bench.numbers() == []


# --- Hints ----------------------------------------------------------------------------------------


def unbalanced(bench: Bench) -> list[str]:
    """What was found, but for the books: the node knows nothing of what is done behind its back."""
    found = bench.world.oracle.violations
    return [violation.text for violation in found if "created" not in violation.text]


def test_a_hint_is_erased_when_its_home_holds_it(bench: Bench) -> None:
    home = bench.owners[0]
    bench.keep([home], (A, 1, [value("a1")]))
    bench.store((A, 2, [value("a2")]))
    bench.keep([])
    assert unbalanced(bench) == []


def test_a_hint_is_not_erased_before_its_home_holds_it(bench: Bench) -> None:
    bench.keep([bench.owners[0]], (A, 2, [value("a2")]))
    bench.store((A, 1, [value("a1")]))
    bench.keep([])
    assert len(unbalanced(bench)) == 1
    assert "erases its hint" in unbalanced(bench)[0]


def test_each_home_of_a_hint_counts_for_itself(bench: Bench) -> None:
    first, second = bench.owners[:2]
    bench.keep([first, second], (A, 1, [value("a1")]))
    bench.store((A, 1, [value("a1")]))
    bench.keep([second], (A, 1, [value("a1")]))
    assert unbalanced(bench) == []
    bench.keep([])
    assert [f"for {second}" in text for text in unbalanced(bench)] == [True]


def test_a_home_that_lost_its_disk_may_have_acknowledged(bench: Bench) -> None:
    home = bench.owners[0]
    bench.keep([home], (A, 1, [value("a1")]))
    bench.store((A, 1, [value("a1")]))
    bench.world.wipe(home)
    bench.keep([])
    assert unbalanced(bench) == []


def test_hints_created_are_delivered_or_pending(bench: Bench) -> None:
    node = bench.world.hosts[bench.other].node
    assert node is not None
    node.stats["hints_created"] += 1
    bench.keep([bench.owners[0]], (A, 1, [value("a1")]))
    assert bench.numbers() == ["I9"]


# --- Counters, Bounds -----------------------------------------------------------------------------


def test_a_start_counter_rises(bench: Bench) -> None:
    name = bench.owners[0]
    bench.world.kill(name)
    bench.world.start(name)
    assert bench.numbers() == []
    bench.world.kill(name)
    disk = bench.world.hosts[name].disk
    boot = int.from_bytes(disk.get(META, b"boot") or b"", "big")
    disk.put(META, b"boot", (boot - 1).to_bytes(8, "big"))
    disk.commit()
    bench.world.start(name)
    assert bench.numbers() == ["I11"]


def test_a_store_that_is_new_counts_from_the_beginning(bench: Bench) -> None:
    name = bench.owners[0]
    bench.world.kill(name)
    bench.world.start(name)
    bench.world.run_until(310)
    bench.world.wipe(name)
    bench.world.start(name)
    assert bench.numbers() == []


def test_a_table_beyond_its_limit_is_found(bench: Bench) -> None:
    host = bench.world.hosts["n1"]
    assert host.node is not None
    bounds = judges.Bounds(bench.world)
    bounds.stepped(host, host.node)
    assert bench.numbers() == []
    host.node.events += [("up", "n2")] * 2_000
    bounds.stepped(host, host.node)
    assert bench.numbers() == ["I15"]


def test_an_operation_that_is_left_over_at_rest_is_found(bench: Bench) -> None:
    bounds = judges.Bounds(bench.world)
    bench.world.run_until(3_000)
    bounds.at_rest()
    assert bench.numbers() == []
    node = bench.world.hosts["n1"].node
    assert node is not None
    node.requests._bytes += 1
    assert not bounds.is_idle()
    bounds.at_rest()
    assert bench.numbers() == ["I15"]


def test_a_walk_of_a_node_whose_clock_stood_still_is_waited_for(bench: Bench) -> None:
    """Its pages look too old to everybody, until they understand: it sends them again till then."""
    world, (name, peer, *_) = bench.world, bench.owners
    world.run_until(10_000)
    world.pause(name, freeze=True)
    world.run_until(10_000 + CONFIG.background_timeout_ms + 200)
    world.resume(name)
    node = world.hosts[name].node
    assert node is not None
    node.exchange._peers[peer].differing[ring.arc_of(KEY, CONFIG.partitions)] = None
    node.exchange.hurry([peer])
    world.run_until(world.now_ms + verdict.DRAIN_MS)
    assert node.exchange._walks
    verdict._drain(world)
    assert not node.exchange._walks
    for judge in world.judges:
        judge.at_rest()
    assert bench.numbers() == []


# --- Reach ----------------------------------------------------------------------------------------


class Asker:
    """A client, and a read of its that ends without an answer."""

    def __init__(self, bench: Bench, tries: int = 3) -> None:
        self.world = bench.world
        self.client = Caller("c0", self.world, random.Random(2))
        self.tries = tries
        self.reach = next(j for j in self.world.judges if type(j).__name__ == "Reach")
        self.world.at(self.world.now_ms + 1, self._warm_up)
        self.world.run_until(self.world.now_ms + 2_000)

    def _warm_up(self) -> None:
        op = Op(m.GET, KEY, self.world.now_ms + 200, (1, 0, m.SLOPPY))
        self.client.submit(op, lambda op: None)
        self.world.attend(self.client)

    def fails(self, kind: int = m.GET, tail: tuple = (0, 0, m.SLOPPY), error=None) -> list[str]:
        """Whether this failure is one too many."""
        now_ms = self.world.now_ms
        op = Op(kind, KEY, now_ms + 900, tail, tries=self.tries)
        op.started_ms, op.done = now_ms, True
        op.error = error or QuorumTimeout("too few")
        before = len(self.world.oracle.violations)
        self.reach.answered(self.client, op)
        return [found.number for found in self.world.oracle.violations[before:]]

    def later(self, ms: int = 2_000) -> Asker:
        self.world.run_until(self.world.now_ms + ms)
        return self


PUT = (0, 0, m.SLOPPY, 0, b"")


def test_where_nothing_is_wrong_nothing_fails(bench: Bench) -> None:
    asker = Asker(bench)
    assert asker.fails() == ["I13"]
    assert asker.fails(m.PUT, PUT) == ["I13"]
    assert asker.fails(error=BadContext("not ours")) == []


def test_what_fails_just_after_something_happened_is_excused(bench: Bench) -> None:
    asker = Asker(bench)
    bench.world.kill(bench.other)
    assert asker.later(20).fails() == []
    assert asker.later().fails() == ["I13"]


def test_with_all_owners_but_one_away_a_sloppy_put_may_still_not_fail(bench: Bench) -> None:
    asker = Asker(bench)
    for name in bench.owners[:2]:
        bench.world.kill(name)
    asker.later()
    assert asker.fails(m.PUT, PUT) == ["I13"], "one owner and a stand-in"
    assert asker.fails(m.PUT, (0, 0, 0, 0, b"")) == [], "a strict one may"
    assert asker.fails(m.PUT, (0, 2, m.SLOPPY, 0, b"")) == [], "and one that asks for owners"
    assert asker.fails() == [], "one owner answers, and two are asked for"
    assert asker.fails(tail=(1, 0, m.SLOPPY)) == ["I13"]


def test_too_few_attempts_for_those_who_are_silent_may_fail(bench: Bench) -> None:
    asker = Asker(bench, tries=1)
    bench.world.kill(bench.other)
    assert asker.later().fails() == []


def test_lost_frames_and_half_cuts_excuse_everything(bench: Bench) -> None:
    asker = Asker(bench)
    network = bench.world.network
    network.weather = Weather(loss=0.1)
    assert asker.fails() == []
    network.weather = Weather()
    assert asker.fails() == ["I13"]
    network.cut([(bench.other, bench.owners[0])], False)
    assert asker.later().fails() == []


def test_a_clean_cut_excuses_only_what_needs_the_other_side(bench: Bench) -> None:
    asker = Asker(bench)
    far = [bench.owners[0]]
    near = [*(name for name in bench.world.hosts if name not in far), "c0"]
    bench.world.network.cut(across([far, near]), False)
    bench.world.note_change()
    asker.later()
    assert asker.fails() == ["I13"]
    assert asker.fails(tail=(3, 0, 0)) == []


# --- At rest, and the rest ------------------------------------------------------------------------


def test_a_row_of_a_key_that_nobody_wrote_to_is_found_at_rest(bench: Bench) -> None:
    key = ring.full_key(b"sim", b"nobody")
    skey = ring.storage_key(key, CONFIG.partitions)
    rows = {name: {skey: seal_record(skey, dvv.encode([(A, 1, [])]))} for name in ("n1",)}
    verdict._judge_rows(bench.world, rows)
    assert "I2" in bench.numbers()


def test_a_damaged_row_is_found_at_rest(bench: Bench) -> None:
    rows = {name: {SKEY: b"12345678"} for name in bench.owners}
    verdict._judge_rows(bench.world, rows)
    assert bench.numbers() == ["I14"] * 3


def test_an_expired_value_that_is_shown_is_found_at_rest(bench: Bench) -> None:
    ends = {"a1": 500}
    verdict._judge_age(bench.world, KEY, ["a1", "a2"], ends, "n1", 499)
    assert bench.numbers() == []
    verdict._judge_age(bench.world, KEY, ["a1", "a2"], ends, "n1", 500)
    assert bench.numbers() == ["I3"]


def test_what_a_power_cut_would_take_does_not_count_for_a_durable_put(bench: Bench) -> None:
    disk = Disk("interval", 1_000)
    disk.put(OBJECTS, SKEY, b"12345678first")
    disk.commit(sync=True)
    disk.put(OBJECTS, SKEY, b"12345678second")
    disk.commit()
    assert disk.held(SKEY) == [b"second"]
    assert disk.held(SKEY, synced=True) == [b"first"]
    disk.commit(sync=True)
    assert disk.held(SKEY, synced=True) == [b"second"]


def test_every_judge_says_which_promises_it_is_for() -> None:
    text = judges.__doc__ or ""
    for judge in judges.JUDGES:
        assert judge.__name__ in text
        for number in judge.numbers:
            assert number in text


def test_rare_states_have_one_meaning_each() -> None:
    assert len(SOMETIMES) == len(set(SOMETIMES)) >= 60
    assert all(meaning for group in GROUPS.values() for meaning in group.values())
    assert missed({}) == list(SOMETIMES)
    assert missed(dict.fromkeys(SOMETIMES, 1)) == []
    assert missed(dict.fromkeys(SOMETIMES[1:], 1)) == [SOMETIMES[0]]
