"""What the simulator does to a ring: each fault does what it says, and stays within the limit.

A fault that does not bite is worse than none, because it is counted. So each kind is shown at
work, with the state that it alone reaches: rot is found and set aside, a row that was forgotten
comes back from the others, a host that was frozen is believed again.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from dynamo.client.op import Op
from dynamo.core import messages as m
from dynamo.core import ring
from dynamo.core.config import Config
from dynamo.core.handoff import Handoff
from dynamo.core.replica import CHECK_BYTES, intact
from dynamo.core.spaces import HINTS, OBJECTS
from dynamo.sim import force
from dynamo.sim.caller import Caller
from dynamo.sim.campaign import Draw, Report, faults_of, run
from dynamo.sim.endure import Endure
from dynamo.sim.faults import KINDS, LOSSES, Fault, links_of, schedule
from dynamo.sim.limits import Limits
from dynamo.sim.machine import Disk, Host
from dynamo.sim.nemesis import Nemesis
from dynamo.sim.network import Network, Weather
from dynamo.sim.oracle import Oracle
from dynamo.sim.profiles import EXTREMES, PROFILES, short
from dynamo.sim.rest import scrub
from dynamo.sim.world import World
from dynamo.storage.contract import StoreFailed

CONFIG = Config(
    partitions=4, probe_ms=50, probe_timeout_ms=20, suspicion_ms=100, exchange_ms=200,
    replica_timeout_ms=20, background_timeout_ms=300,
)  # fmt: skip
KEY = ring.full_key(b"sim", b"k")
SKEY = ring.storage_key(KEY, CONFIG.partitions)


class Ring:
    """A calm world of some nodes and one client, that has been up for a while."""

    def __init__(self, nodes: int = 3, weather: Weather | None = None, **how: Any) -> None:
        names = [f"n{i + 1}" for i in range(nodes)]
        network = Network(random.Random(1), weather or Weather())
        self.world = World(5, names, CONFIG, network, Oracle(), **how)
        self.world.judges = []  # the client below tells nobody what it writes
        self.client = Caller("c0", self.world, random.Random(2))
        for name in names:
            self.world.start(name)
        self.run(300)

    def run(self, ms: int) -> None:
        self.world.run_until(self.world.now_ms + ms)

    def ask(self, kind: int, tail: tuple[Any, ...], node: str, key: bytes, ms: int = 200) -> Op:
        op = Op(kind, key, self.world.now_ms + ms, tail, tries=1, pin=node)
        op.mode = m.BLIND
        self.client.submit(op, lambda op: None)
        self.world.uids[op.put_id] = "v"
        self.world.attend(self.client)
        self.run(ms)
        return op

    def put(self, node: str = "n1", key: bytes = KEY, size: int = 1, flags: int = 0) -> Op:
        return self.ask(m.PUT, (0, 0, m.SLOPPY | flags, 0, bytes(size)), node, key)

    def get(self, node: str = "n1", r: int = m.ALL) -> Op:
        return self.ask(m.GET, (r, 0, 0), node, KEY)

    def play(self, kind: str, host: str = "n1", for_ms: int = 50, **more: Any) -> Nemesis:
        """One fault, now."""
        nemesis = Nemesis(self.world, False, w=more.pop("w", 2))
        nemesis.add([Fault(self.world.now_ms, kind, host, for_ms, **more)])
        self.run(1)
        return nemesis

    def disk(self, name: str) -> Disk:
        return self.world.hosts[name].disk

    def holds(self, name: str) -> bool:
        return self.disk(name).get(OBJECTS, SKEY) is not None

    def stats(self, name: str) -> dict[str, int]:
        node = self.world.hosts[name].node
        assert node is not None
        return node.stats


# --- Every kind is drawn, played and counted ------------------------------------------------------


@cache
def of_one_kind(kind: str, seed: int) -> Report:
    drawn = short(seed)
    durability = "interval" if kind == "power" else "fsync"
    return run(
        replace(
            drawn, kinds=(kind,), every_ms=150, longest_ms=600, nodes=5, load_ms=2_000,
            config=replace(drawn.config, n=3, r=0, w=0), durability=durability, interval_ms=200,
            weather=Weather(), forced=(), broken=(), drift=(), core_ms=0,
        )
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_is_played_and_alone_breaks_nothing(kind: str) -> None:
    for seed in range(4):
        report = of_one_kind(kind, seed)
        assert not report.violations, "\n" + report.story()
        if report.marks.get(f"fault {kind}"):
            return
    pytest.fail(f"{kind} was never played")


def test_a_schedule_names_every_kind_and_only_kinds() -> None:
    found = schedule(random.Random(3), KINDS, ["n1", "n2", "n3"], ["c0"], 60_000, 50, 500)
    assert {fault.kind for fault in found} == set(KINDS)


def test_a_draw_may_carry_its_faults_in_place_of_drawing_them() -> None:
    given = (Fault(50, "kill", "n1", 100), Fault(70, "split", "n2", 100, (("n1",), ("n2", "n3"))))
    drawn = replace(short(2), faults=given, singly=False, broken=(), core_ms=0)
    assert faults_of(drawn) == given
    marks = run(drawn).marks
    assert {what: n for what, n in marks.items() if what.startswith("fault ")} == {
        "fault kill": 1, "fault split": 1,
    }  # fmt: skip


# --- Links --------------------------------------------------------------------------------------


def hears(links: list[tuple[str, str]], hosts: list[str]) -> dict[str, set[str]]:
    """Whom each host still hears, itself included."""
    return {a: {b for b in hosts if (b, a) not in links} for a in hosts}


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7])
def test_in_a_ring_of_majorities_each_host_hears_one_and_no_two_hear_the_same(count: int) -> None:
    hosts = [f"n{i}" for i in range(count)]
    (fault,) = schedule(random.Random(1), ("ring",), hosts, [], 101, 100, 50)[:1]
    heard = hears(links_of("ring", fault.groups), hosts)
    assert all(len(names) > count // 2 for names in heard.values())
    assert len({frozenset(names) for names in heard.values()}) > 1


def test_the_sides_of_a_split_have_the_size_that_its_name_says() -> None:
    hosts = [f"n{i}" for i in range(7)]
    sizes = {}
    for kind in ("isolate", "halves", "majority", "third"):
        (fault,) = schedule(random.Random(1), (kind,), hosts, [], 101, 100, 50)[:1]
        sizes[kind] = [len(side) for side in fault.groups]
    assert sizes == {"isolate": [1, 6], "halves": [3, 4], "majority": [4, 3], "third": [2, 5]}


def test_a_bridge_hears_both_sides_which_do_not_hear_each_other() -> None:
    hosts = [f"n{i}" for i in range(5)]
    (fault,) = schedule(random.Random(1), ("bridge",), hosts, [], 101, 100, 50)[:1]
    heard = hears(links_of("bridge", fault.groups), hosts)
    assert heard[fault.host] == set(hosts)
    assert sorted(len(names) for names in heard.values()) == [3, 3, 3, 3, 5]


def test_a_link_that_is_cut_one_way_stays_cut_until_the_end() -> None:
    faults = schedule(random.Random(1), ("oneway",), ["n1", "n2", "n3"], [], 5_000, 500, 50)
    assert faults
    assert all(fault.at_ms + fault.for_ms == 5_000 for fault in faults)
    cluster = Ring()
    cluster.play("oneway", for_ms=60_000, groups=(("n1",), ("n2",)))
    send = cluster.world.network.send
    assert send(0, "n1", "n2", ("n1", 0, 0, [])) == []
    assert len(send(0, "n2", "n1", ("n2", 0, 0, []))) == 1


def test_a_link_that_flaps_is_cut_and_open_by_turns() -> None:
    cluster = Ring()
    cluster.play("flap", for_ms=100, amount_ms=20, groups=(("n1",), ("n2", "n3")))
    states = []
    for _ in range(10):
        states.append(bool(cluster.world.network.send(0, "n1", "n2", ("n1", 0, 0, []))))
        cluster.run(10)
    assert states.count(True) in (4, 5, 6)
    assert sum(a != b for a, b in pairwise(states)) > 6


def test_a_swizzle_stops_the_links_of_hosts_one_by_one_and_opens_them_in_another_order() -> None:
    cluster = Ring()
    cluster.play("swizzle", for_ms=60, groups=(("n1", "n2", "n3"), ("n2", "n3", "n1")))
    seen = []
    for _ in range(6):
        cluster.run(4)
        silent = [
            name
            for name in cluster.world.hosts
            if not cluster.world.network.send(0, name, "c0", (name, 0, 0, []))
        ]
        seen.append(silent)
        cluster.run(6)
    assert seen == [["n1"], ["n1", "n2"], ["n1", "n2", "n3"], ["n1", "n3"], ["n1"], []]


@pytest.mark.parametrize("shape", ["fixed", "even", "tail"])
def test_delays_have_the_shape_that_the_weather_names(shape: str) -> None:
    network = Network(random.Random(1), Weather(delay_ms=2, jitter_ms=10, shape=shape))
    found = sorted(network.send(0, "a", "b", ("a", 0, 0, []))[0][0] for _ in range(2_000))
    assert found[0] >= 2
    if shape == "fixed":
        assert found[0] == found[-1] == 12
    elif shape == "even":
        assert found[-1] == 12
    else:
        assert found[1_000] < 15
        assert found[-1] > 300


def test_a_corrupted_frame_is_dropped_and_counted_and_the_ring_goes_on() -> None:
    cluster = Ring(encode=True, weather=Weather(corrupt=0.2))
    for _ in range(10):
        cluster.put()
    assert cluster.world.network.counts["corrupted"] > 20
    dropped = cluster.world.marks["malformed frame dropped"]
    assert abs(dropped - cluster.world.network.counts["corrupted"]) <= 20, "some are under way"
    cluster.world.heal()
    cluster.run(1_000)
    assert cluster.world.unsettled() == ("", "")


def test_frames_that_do_not_travel_as_bytes_are_not_corrupted() -> None:
    network = Network(random.Random(1), Weather(corrupt=1.0))
    assert network.send(0, "a", "b", ("a", 0, 0, []))[0][3] == ("a", 0, 0, [])


# --- Processes and clocks -----------------------------------------------------------------------


def test_a_crash_loop_gives_a_node_many_lives_and_a_start_counter_that_only_rises() -> None:
    cluster = Ring()
    boots = []
    cluster.play("loop", for_ms=400, amount_ms=50)
    for _ in range(80):
        cluster.run(5)
        node = cluster.world.hosts["n1"].node
        if node is not None:
            boots.append(node.replica.boot)
    assert cluster.world.marks["died again and again"] >= 5
    assert boots == sorted(boots)
    assert boots[-1] >= 6
    cluster.run(1_000)
    assert cluster.world.unsettled() == ("", "")


def test_a_frozen_host_finds_its_monotonic_clock_where_it_left_it() -> None:
    host = Host("n1", 1_000, 0)
    assert host.clock(50) == 1_050
    host.froze_ms = 50
    host.thaw(5_050)
    assert host.clock(5_050) == 1_050
    assert host.clock(5_060) == 1_060


def test_a_host_that_was_frozen_is_believed_again_after_a_while() -> None:
    """Its frames look as old as it was frozen, and are dropped, until its clock is understood."""
    cluster = Ring()
    cluster.put()
    cluster.play("freeze", for_ms=3_000)
    cluster.run(3_100)
    cluster.put("n1")
    assert max(cluster.stats(name)["expired"] for name in ("n2", "n3")) > 0
    cluster.run(2 * m.Ages.WINDOW_MS)
    assert cluster.put("n1").answer is not None
    cluster.run(1_000)
    assert cluster.world.unsettled() == ("", "")


@pytest.mark.parametrize("ppm", [-100, -1, 0, 1, 100, 5_000])
def test_a_clock_that_drifts_shows_a_time_when_it_is_due_and_not_before(ppm: int) -> None:
    host = Host("n1", 123_456, 0, ppm)
    for due in (200_000, 10_000_000, 123_456_789):
        at = host.when(due)
        assert host.clock(at) >= due
        assert host.clock(at - 1) < due or at == 0


def test_a_wall_clock_that_strobes_jumps_to_and_fro_and_ends_where_it_was_or_one_jump_off() -> None:
    cluster = Ring()
    host = cluster.world.hosts["n1"]
    before = host.wall_ms
    seen = set()
    cluster.play("strobe", for_ms=100, amount_ms=3_600_000)
    for _ in range(110):
        seen.add(host.wall_ms - before)
        cluster.run(1)
    assert seen == {0, 3_600_000}


# --- Disks --------------------------------------------------------------------------------------


def test_a_rotten_record_is_set_aside_and_comes_back_from_the_others() -> None:
    cluster = Ring()
    cluster.put()
    for at in (3, CHECK_BYTES + 5):  # in its check, and in its body
        cluster.world.rot("n2", OBJECTS, SKEY, at, 1)
        assert not intact(SKEY, cluster.disk("n2").get(OBJECTS, SKEY) or b"")
        cluster.get("n2")
        cluster.run(1_000)
        assert cluster.get("n2").answer is not None
        assert not cluster.disk("n2").still_rotten()
        assert cluster.world.unsettled() == ("", "")
    assert cluster.stats("n2")["records_corrupt"] == 2
    cluster.world.hosts["n2"].node.check_rows()  # type: ignore[union-attr]


def test_rot_that_nobody_reads_is_found_by_a_scrub() -> None:
    cluster = Ring()
    cluster.put()
    cluster.world.rot("n3", OBJECTS, SKEY, 20, 4)
    cluster.run(500)
    assert cluster.disk("n3").still_rotten()
    scrub(cluster.world)
    cluster.run(1_000)
    assert cluster.stats("n3")["records_corrupt"] == 1
    assert cluster.world.unsettled() == ("", "")


def test_a_rotten_hint_is_set_aside_and_its_home_is_repaired_all_the_same() -> None:
    cluster = Ring(nodes=4)
    owners = cluster.world.table.owners(int.from_bytes(SKEY[:2], "big"))
    (spare,) = [name for name in cluster.world.hosts if name not in owners]
    cluster.world.kill(owners[2])
    cluster.run(300)
    cluster.put(owners[0])
    assert cluster.disk(spare).get(HINTS, SKEY) is not None
    cluster.world.rot(spare, HINTS, SKEY, 15, 1)
    cluster.world.start(owners[2])
    cluster.run(1_500)
    assert cluster.stats(spare)["hints_corrupt"] == 1
    assert cluster.holds(owners[2])
    assert cluster.world.unsettled() == ("", "")


def test_an_own_row_that_is_owed_and_rots_is_not_delivered_as_nothing() -> None:
    """With no node beyond the owners the mark for the missing one points at the own row."""
    cluster = Ring()
    cluster.world.kill("n3")
    cluster.run(300)
    cluster.put("n1")
    node = cluster.world.hosts["n1"].node
    assert node is not None
    assert node.handoff.counts() == {"n3": 1}
    cluster.world.rot("n1", OBJECTS, SKEY, 20, 1)
    cluster.get("n1", r=1)
    assert cluster.stats("n1")["records_corrupt"] == 1
    cluster.disk("n1").delete(OBJECTS, SKEY)  # nor has the other owner brought it back
    node.replica.roots.clear()
    node.replica.keys = 0
    cluster.disk("n1").commit()
    cluster.world.start("n3")
    cluster.run(2_000)
    assert cluster.stats("n1")["hints_delivered"] == 0
    assert node.handoff.counts() == {}
    assert cluster.holds("n1")
    assert cluster.holds("n3")
    assert cluster.world.unsettled() == ("", "")


def test_a_forgotten_row_is_not_there_at_the_start_and_comes_back() -> None:
    cluster = Ring()
    cluster.put()
    cluster.play("forget", "n2")
    assert not cluster.holds("n2")
    cluster.run(1_000)
    assert cluster.holds("n2")
    assert cluster.world.unsettled() == ("", "")


def test_a_power_cut_loses_what_was_not_synced_and_the_store_says_so() -> None:
    cluster = Ring(durability="interval", interval_ms=10_000)
    cluster.put(key=ring.full_key(b"sim", b"before"))
    disk = cluster.disk("n2")
    disk.commit(sync=True)
    cluster.put()
    assert cluster.holds("n2")
    assert disk.unsynced > 0
    incarnation = cluster.world.hosts["n2"].node.replica._incarnation  # type: ignore[union-attr]
    cluster.world.lose_power("n2", 0)
    assert not cluster.holds("n2")
    assert disk.get(OBJECTS, ring.storage_key(ring.full_key(b"sim", b"before"), 4)) is not None
    assert disk.unclean
    cluster.world.start("n2")
    node = cluster.world.hosts["n2"].node
    assert node is not None
    assert not node.ready
    assert node.replica._incarnation != incarnation
    cluster.run(1_500)
    assert cluster.holds("n2")
    assert cluster.world.unsettled() == ("", "")


def test_a_synced_put_survives_a_power_cut_at_durability_interval() -> None:
    cluster = Ring(durability="interval", interval_ms=10_000)
    cluster.put(flags=m.DURABLE)
    for name in cluster.world.hosts:
        cluster.world.lose_power(name, 0)
    assert sum(cluster.holds(name) for name in cluster.world.hosts) >= 2


def test_a_hint_that_was_delivered_and_erased_survives_the_power_cut_of_its_home() -> None:
    """H1: seed 1198. Of the synced copies that a durable put was promised, one was left."""
    cluster = Ring(nodes=4, durability="interval", interval_ms=10_000)
    owners = cluster.world.table.owners(int.from_bytes(SKEY[:2], "big"))
    cluster.world.kill(owners[2])
    cluster.run(300)
    cluster.put(owners[0], flags=m.DURABLE)
    cluster.world.start(owners[2])
    cluster.run(30)
    assert not any(cluster.disk(name).get(HINTS, SKEY) for name in cluster.world.hosts)
    cluster.world.lose_power(owners[2], 0)
    assert cluster.holds(owners[2])


def test_a_process_that_dies_loses_nothing_at_durability_interval_and_cannot_know_it() -> None:
    cluster = Ring(durability="interval", interval_ms=10_000)
    cluster.put()
    cluster.world.kill("n2")
    assert cluster.holds("n2")
    assert cluster.disk("n2").unclean


def test_a_row_that_cannot_be_read_ends_the_process_which_comes_back() -> None:
    cluster = Ring()
    cluster.put()
    cluster.play("unreadable", "n2", for_ms=100)
    cluster.get("n2")
    assert cluster.world.marks["died of its disk"] == 1
    cluster.run(1_000)
    assert cluster.get("n2").answer is not None


@pytest.mark.parametrize("kept", [True, False])
def test_a_failed_sync_ends_the_process_and_its_batch_is_there_or_not(kept: bool) -> None:
    cluster = Ring()
    cluster.play("fsync", "n1", for_ms=5_000, hold=kept)
    op = cluster.put("n1")
    assert op.answer is None
    assert cluster.world.marks["died of its disk"] == 1
    assert [cluster.holds(name) for name in ("n1", "n2", "n3")] == [kept, False, False]


def test_a_store_that_failed_stays_failed_until_its_process_is_gone() -> None:
    disk = Disk()
    disk.put(OBJECTS, b"k", b"v")
    disk.commit()
    disk.fail_reads()
    assert disk.get(OBJECTS, b"k") == b"v", "who looks on from outside is no node"
    disk.stepping = True
    for _ in range(2):
        with pytest.raises(StoreFailed):
            disk.get(OBJECTS, b"k")
    with pytest.raises(StoreFailed):
        disk.commit()
    disk.crash()
    assert disk.get(OBJECTS, b"k") == b"v"


def test_a_full_disk_refuses_values_and_takes_deletes() -> None:
    cluster = Ring()
    cluster.put()
    cluster.play("full", "n1", for_ms=800)
    refused = cluster.put("n1")
    assert refused.answer is None
    assert not refused.maybe_applied
    assert cluster.get("n1").answer is not None
    assert cluster.ask(m.PUT, (0, 0, m.SLOPPY | m.DELETE, 0, b""), "n1", KEY).answer is not None
    cluster.run(800)
    assert cluster.put("n1").answer is not None


def test_an_owner_whose_disk_is_full_takes_no_large_copy_and_another_stands_in() -> None:
    cluster = Ring(nodes=4)
    owners = cluster.world.table.owners(int.from_bytes(SKEY[:2], "big"))
    cluster.play("full", owners[2], for_ms=400)
    assert cluster.put(owners[0], size=2_000).answer is not None
    assert not cluster.holds(owners[2])
    cluster.run(3_000)
    assert cluster.holds(owners[2])
    assert cluster.world.unsettled() == ("", "")


# --- The limit ------------------------------------------------------------------------------------


def test_as_many_disks_are_lost_unseen_as_an_acknowledged_write_can_spare() -> None:
    for w, allowed in ((1, 0), (2, 1), (3, 2)):
        cluster = Ring(nodes=5)
        cluster.put("n1")
        cluster.run(200)
        limits = Limits(cluster.world, w)
        for name in ("n4", "n5"):  # not back yet, so that nobody may follow them
            if limits.may_lose(name):
                cluster.world.wipe(name)
        assert len(limits._lost) == (allowed if w > 1 else 1)


def test_the_last_copy_is_never_lost() -> None:
    cluster = Ring()
    cluster.put()
    limits = Limits(cluster.world, 2)
    assert limits.may_lose("n1")
    cluster.world.wipe("n1")
    assert not limits.may_lose("n2"), "n1 has not caught up"
    cluster.world.start("n1")
    cluster.run(1_500)
    cluster.world.wipe("n3")
    assert limits.may_lose("n2"), "n1 holds all of it again"


def test_every_disk_may_rot_but_not_in_the_same_key() -> None:
    cluster = Ring()
    keys = [ring.full_key(b"sim", b"%d" % i) for i in range(3)]
    for key in keys:
        cluster.put(key=key)
    limits = Limits(cluster.world, 2)
    skeys = [ring.storage_key(key, 4) for key in keys]
    for name, skey in zip(("n1", "n2", "n3"), skeys, strict=True):
        assert limits.may_rot(name, skey)
        cluster.world.rot(name, OBJECTS, skey, 20, 1)
    assert not limits.may_rot("n2", skeys[0])
    assert not limits.may_lose("n2")


def test_a_row_is_forgotten_only_where_all_other_owners_hold_it() -> None:
    cluster = Ring()
    cluster.world.doom("n1", "after commit", 5_000)
    cluster.put("n1")
    limits = Limits(cluster.world, 2)
    assert not limits.may_forget("n1", OBJECTS, SKEY)
    cluster = Ring()
    cluster.put("n1")
    assert Limits(cluster.world, 2).may_forget("n1", OBJECTS, SKEY)


def test_an_old_copy_is_put_back_untold_only_where_nothing_was_minted_since() -> None:
    cluster = Ring()
    cluster.put("n1")
    snapshots = {name: cluster.disk(name).snapshot() for name in ("n1", "n2")}
    cluster.put("n1")
    cluster.run(100)
    limits = Limits(cluster.world, 2)
    assert not limits.may_relapse("n1", snapshots["n1"])
    assert limits.may_relapse("n2", snapshots["n2"])


# --- Forced branches ------------------------------------------------------------------------------


def with_forced(name: str) -> dict[str, int]:
    """The marks of a few runs in which this point is forced as often as it may be."""
    point, marks = force.POINTS[name], {}
    for seed in (1, 2, 3):
        drawn = short(seed)
        report = run(
            replace(
                drawn, nodes=5, config=replace(drawn.config, n=3, r=0, w=0),
                forced=((name, point.chance),), singly=False, load_ms=2_000,
                kinds=("kill", "full", "split", "pause"), every_ms=200, longest_ms=500,
            )
        )  # fmt: skip
        assert not report.violations, "\n" + report.story()
        for what, count in report.marks.items():
            marks[what] = marks.get(what, 0) + count
    return marks


@pytest.mark.parametrize("name", [name for name in force.POINTS if name != "nothing small"])
def test_a_forced_branch_is_taken_and_breaks_nothing(name: str) -> None:
    assert with_forced(name)[f"forced {name}"] > 0


def test_on_a_full_disk_no_object_is_small_enough_where_that_is_forced() -> None:
    with_forced("nothing small")


def test_nothing_stays_forced_after_a_run() -> None:
    def methods() -> list[Any]:
        return [getattr(point.owner, point.method) for point in force.POINTS.values()]

    before = methods()
    everything = tuple((name, point.chance) for name, point in force.POINTS.items())
    run(replace(short(1), forced=everything, load_ms=300))
    assert methods() == before


def test_chances_are_drawn_for_some_points_and_within_their_limits() -> None:
    drawn = [dict(force.draw_chances(random.Random(seed))) for seed in range(60)]
    assert {name for chances in drawn for name in chances} == set(force.POINTS)
    assert all(
        0 < chance <= force.POINTS[name].chance
        for chances in drawn
        for name, chance in chances.items()
    )


# --- What stays broken for ever -------------------------------------------------------------------


def with_broken(*broken: tuple[str, str], nodes: int = 5) -> Draw:
    drawn = short(1)
    habit = drawn.habits[0]
    assert habit is not None
    return replace(
        drawn, nodes=nodes, broken=broken, core_ms=500, kinds=(), weather=Weather(), load_ms=2_000,
        config=CONFIG, forced=(), habits=(replace(habit, pinned=""),),
    )  # fmt: skip


@pytest.mark.parametrize("how", ["dead", "paused", "deaf", "mute", "flapping"])
def test_the_others_agree_and_serve_beside_a_host_that_stays_broken(how: str) -> None:
    report = run(with_broken(("n1", how)))
    assert not report.violations, "\n" + report.story()
    assert report.marks[f"broken for ever: {how}"] == 1
    assert report.marks["the core came to rest without the others"] == 1


def test_a_core_that_cannot_come_to_rest_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handoff, "run", lambda self, now_ms: None)
    drawn = replace(with_broken(("n1", "dead")), kinds=("kill",), every_ms=200, longest_ms=500)
    found = [violation for violation in run(drawn).violations if violation.number == "I9"]
    assert any("the core of" in violation.text for violation in found)


def test_no_more_hosts_are_broken_than_every_arc_can_spare() -> None:
    cluster = Ring(nodes=3)
    drawn = with_broken(("n1", "dead"), ("n2", "dead"), nodes=3)
    endure = Endure(drawn, cluster.world)
    endure.begin()
    assert list(endure.how) == ["n1"]
    cluster = Ring(nodes=3)
    cluster.world.wipe("n2")
    cluster.world.start("n2")
    endure = Endure(drawn, cluster.world)
    endure.begin()
    assert endure.core == ["n1", "n3"] or not endure.how, "n2 counts in no read yet"


# --- Profiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_draw_depends_on_its_seed_and_profile_alone(profile: str) -> None:
    assert PROFILES[profile](11) == PROFILES[profile](11)
    assert PROFILES[profile](11) != PROFILES[profile](12)
    assert PROFILES[profile](11).profile == profile


def test_seeds_of_the_default_profile_run_long_enough_and_use_everything_there_is() -> None:
    drawn = [PROFILES["default"](seed) for seed in range(400)]
    assert all(one.load_ms >= 20_000 for one in drawn)
    assert {one.nodes for one in drawn} == {3, 4, 5, 6, 7}
    assert {kind for one in drawn for kind in one.kinds} == set(KINDS)
    assert {how for one in drawn for _, how in one.broken} == {
        "dead", "paused", "deaf", "mute", "flapping",
    }  # fmt: skip
    for name, values in EXTREMES.items():
        assert {getattr(one.config, name) for one in drawn} >= set(values), name


def test_what_disks_hold_is_lost_only_where_two_of_them_acknowledge() -> None:
    for seed in range(300):
        drawn = PROFILES["default"](seed)
        if set(drawn.kinds) & set(LOSSES):
            assert drawn.copies >= 2
            assert drawn.w >= 2
