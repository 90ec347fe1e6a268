"""The harness end to end: faults, workers, figures, verdicts on itself, tables and pages."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import struct
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import drivers, hdr, honesty, records, sweep, tables, timeline, workloads
from bench.alarm import Alarm
from bench.contest import Contest, entrants
from bench.dynamodriver import merge_fields
from bench.peers import etcd, servers
from bench.stores import STORES, promise, store
from bench.values import ACKED, Reads, Writes, packed, unpacked
from bench.worker import CODE, IN_FLIGHT_MAX, UNSENT, Hand, Ops, Plan, closed_loop, open_loop
from bench.workloads import KINDS, to_json

pytest.importorskip("hdrh", reason="needs the bench extra")

NODES = ["n1", "n2", "n3"]


# --- Faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", timeline.PRESETS)
def test_presets_bring_everything_back_within_the_run(preset: str) -> None:
    steps = timeline.parse(preset, NODES, 12.0)
    assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)
    assert steps[0].at_s > 0
    assert steps[-1].at_s < 12
    assert steps[-1].verb in (*timeline.ENDING, "burst")
    if preset == "rolling":
        assert [(s.verb, *s.nodes) for s in steps] == [
            (verb, name) for name in NODES for verb in ("stop", "start")
        ]


def test_steps_by_hand_are_sorted_by_time() -> None:
    steps = timeline.parse("start n3 @ 7.5s; kill n3 @ 5; partition n1,n2 @ 8s;heal@9", NODES, 10)
    assert [(s.at_s, s.verb, s.nodes) for s in steps] == [
        (5, "kill", ("n3",)),
        (7.5, "start", ("n3",)),
        (8, "partition", ("n1", "n2")),
        (9, "heal", ()),
    ]
    assert timeline.parse("", NODES, 10) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kil n3 @ 5s", "no fault"),
        ("kill @ 5s", "no fault"),
        ("heal n1 @ 5s", "no fault"),
        ("kill n3", "no fault"),
        ("kill n9 @ 5s", "no node 'n9'"),
        ("kill n3 @ 50s", "after the run"),
    ],
)
def test_a_timeline_that_cannot_be_carried_out_is_refused(text: str, words: str) -> None:
    with pytest.raises(timeline.FaultError, match=words):
        timeline.parse(text, NODES, 10.0)


# --- Waking up, and the loops -------------------------------------------------------------------


def test_an_alarm_wakes_the_loop_closer_than_a_millisecond() -> None:
    async def late() -> float:
        alarm = Alarm()
        found = []
        for _ in range(20):
            due = time.monotonic() + 0.0023
            await alarm.until(due)
            found.append(time.monotonic() - due)
        await alarm.until(time.monotonic() - 1)
        alarm.close()
        assert min(found) >= 0
        return sorted(found)[5]  # a busy machine may be late now and then

    assert asyncio.run(late()) < 0.001


def plan(**changes: Any) -> Plan:
    workload = workloads.load(changes.pop("workload", "a")).changed(100, None)
    base: dict[str, Any] = {
        "driver": {"driver": "noop"},
        "workload": to_json(workload),
        "writer": 0,
        "workers": 1,
        "number": 0,
        "seed": 1,
        "rate": 0.0,
        "arrivals": "fixed",
        "in_flight": 4,
        "warm_up_s": 0.0,
        "seconds": 0.2,
    }
    return Plan(**(base | changes))


def hand(of: Plan, driver: Any = None) -> Hand:
    return Hand(of, workloads.from_json(of.workload), driver or drivers.Noop())


def test_an_open_loop_sends_what_is_due_whatever_became_of_the_rest() -> None:
    class Stuck(drivers.Noop):
        async def read(self, key: str) -> list[bytes]:
            await asyncio.sleep(0.15)
            return []

        update = drivers.Noop.update

    these = plan(rate=500.0)
    mine = hand(these, Stuck())
    asyncio.run(open_loop(mine, these, time.monotonic()))
    assert len(mine.ops) == 100
    dues = sorted(mine.ops.due)
    gaps = [b - a for a, b in itertools.pairwise(dues)]
    assert min(gaps) == pytest.approx(0.002, abs=1e-4)


def test_what_is_beyond_the_queue_is_counted_and_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(drivers.Noop):
        async def read(self, key: str) -> list[bytes]:
            await asyncio.sleep(0.5)
            return []

        async def update(self, key: str, value: bytes) -> None:
            await asyncio.sleep(0.5)

    monkeypatch.setattr("bench.worker.IN_FLIGHT_MAX", 10)
    assert IN_FLIGHT_MAX > 10
    these = plan(rate=500.0)
    mine = hand(these, Silent())
    asyncio.run(open_loop(mine, these, time.monotonic()))
    assert mine.ops.outcome.count(UNSENT) == 90
    assert mine.ops.outcome.count(CODE["ok"]) == 10


def test_a_closed_loop_has_so_many_under_way_and_ends_by_count() -> None:
    seen = []

    class Watched(drivers.Noop):
        async def read(self, key: str) -> list[bytes]:
            seen.append(mine.under_way)
            return await super().read(key)

    these = plan(workload="c", ops=200)
    mine = hand(these, Watched())
    asyncio.run(closed_loop(mine, these, time.monotonic()))
    assert len(mine.ops) == 200
    assert max(seen) == 4


@pytest.mark.parametrize("name", [n for n in workloads.names() if n != "e"])
def test_every_workload_runs_on_a_store_in_memory_and_reads_what_it_wrote(name: str) -> None:
    these = plan(workload=name, ops=300)
    mine = hand(these)
    if not mine._adds:
        asyncio.run(mine.load(these))
    asyncio.run(closed_loop(mine, these, time.monotonic()))
    assert len(mine.ops) == 300
    assert set(mine.ops.outcome) == {CODE["ok"]}
    assert set(mine.writes.state) <= {ACKED}


def test_a_store_that_damages_a_value_ends_the_run_at_once() -> None:
    class Rotten(drivers.Noop):
        async def read(self, key: str) -> list[bytes]:
            return [b"rot"]

    these = plan(workload="c", rate=200.0)
    with pytest.raises(Exception, match="no value of this harness"):
        asyncio.run(open_loop(hand(these, Rotten()), these, time.monotonic()))


def test_outcomes_of_failures_are_kept_apart() -> None:
    class Failing(drivers.Noop):
        async def update(self, key: str, value: bytes) -> None:
            raise KeyError(key)

        def outcome(self, error: Exception, writing: bool) -> str:
            return "maybe" if writing else "error"

    these = plan(ops=100)
    mine = hand(these, Failing())
    asyncio.run(closed_loop(mine, these, time.monotonic()))
    updates = mine.ops.kind.count(KINDS.index("update"))
    assert mine.ops.outcome.count(CODE["maybe"]) == updates == mine.errors["KeyError"] > 20


def test_logs_survive_the_way_to_the_parent() -> None:
    writes, reads = Writes(), Reads()
    writes.end(writes.begin(7, 1.5), 2.5, ACKED)
    reads.note(3, 1.0, 2.0, [])
    for log in (writes, reads):
        again = unpacked(type(log)(), packed(log))
        assert packed(again) == packed(log)


def test_maps_of_counts_merge_by_the_maximum_in_any_order() -> None:
    rng = random.Random(4)
    siblings = [{f"f{rng.randrange(5)}": rng.randrange(9) for _ in range(4)} for _ in range(6)]
    merged = merge_fields(siblings)
    rng.shuffle(siblings)
    assert merge_fields([merge_fields(siblings[:3]), *siblings[2:]]) == merged


# --- Figures ------------------------------------------------------------------------------------


def ops_of(rows: list[tuple[str, str, float, float, float]]) -> Ops:
    ops = Ops()
    for kind, outcome, due, sent, ended in rows:
        code = UNSENT if outcome == "unsent" else CODE[outcome]
        ops.note(KINDS.index(kind), code, due, sent, ended)
    return ops


def test_response_counts_from_due_service_from_sent_and_warm_up_not_at_all() -> None:
    window = records.Window(
        [
            ops_of(
                [
                    ("read", "ok", 0.5, 0.5, 9.0),  # before the measured part
                    ("read", "ok", 1.0, 1.2, 1.3),
                    ("update", "timeout", 1.5, 1.5, 2.5),
                    ("update", "refused", 1.6, 1.6, 1.601),
                    ("update", "unsent", 1.7, 1.7, 1.7),
                    ("read", "ok", 2.0, 2.0, 2.1),  # after it
                ]
            )
        ],
        1.0,
        2.0,
    )
    found = records.figures_of(window)
    read = found["read"]
    assert (read["due"], read["ok"], read["ops_s"]) == (1, 1, 1.0)
    times = [read[name]["p50_ms"] for name in records.TIMES]
    assert times == pytest.approx([300, 100, 200], rel=1e-3)
    update = found["update"]
    counts = [update[name] for name in ("due", "ok", "timeout", "refused", "unsent")]
    assert counts == [3, 0, 1, 1, 1]
    assert found["all"]["due"] == 4
    series = records.series_of(window)["kinds"]
    assert sum(series["read"]["ok_s"]) * 0.25 == pytest.approx(1)
    assert sum(series["update"]["failed_s"]) * 0.25 == pytest.approx(3)


def test_what_is_answered_after_the_end_has_not_been_served_at_that_rate() -> None:
    late = [("read", "ok", 1.0 + i / 10, 1.0, 3.0 + i) for i in range(9)]
    early = [("read", "ok", 0.5, 0.5, 1.5)]  # due in the warm-up, done in the measured part
    found = records.figures_of(records.Window([ops_of([*early, *late])], 1.0, 2.0))
    assert (found["read"]["ok"], found["read"]["ops_s"]) == (9, 1.0)


def test_histograms_keep_three_digits_and_add_up() -> None:
    rng = random.Random(3)
    parts = [[rng.expovariate(200) for _ in range(3_000)] for _ in range(3)]
    summed = hdr.summed(hdr.encoded(hdr.of(part)) for part in parts)
    everything = sorted(value for part in parts for value in part)
    assert summed.get_total_count() == 9_000
    for at in (50, 99, 99.9):
        exact = everything[int(len(everything) * at / 100) - 1] * 1e3
        assert summed.get_value_at_percentile(at) / 1e3 == pytest.approx(exact, rel=0.01)
    assert [at for at, _ in hdr.curve(hdr.of([0.001] * 150))][-2:] == [99, 100]


def test_a_percentile_is_not_told_from_too_few_values() -> None:
    assert records._tell([0.001] * 99, 99.0) is None
    assert records._tell([0.001] * 100, 99.0) == 1.0
    assert records._tell([0.001, 0.002], 100.0) == 2.0
    assert records._tell([], 50.0) is None


# --- Honesty ------------------------------------------------------------------------------------


def log(cpu_s: float) -> dict[str, float]:
    return {"cpu_s": cpu_s, "wall_s": 1.0}


def test_a_harness_that_kept_up_is_believed() -> None:
    found = honesty.judge([0.0] * 100, 1_000, [log(0.2), log(0.3)], 50_000, closed=False)
    assert found["valid"]
    assert found["noop_share"] == 0.01


@pytest.mark.parametrize(
    ("late", "ops_s", "cpu_s", "words"),
    [
        ([0.0] * 90 + [0.002] * 10, 1_000, 0.2, "10.0% of the operations were sent more than 1 ms"),
        ([0.0], 1_000, 0.95, "used 95% of a core"),
        ([0.0], 30_000, 0.2, "the harness alone reaches only 50,000/s"),
    ],
)
def test_a_harness_in_the_way_refuses_its_number(
    late: list[float], ops_s: float, cpu_s: float, words: str
) -> None:
    found = honesty.judge(late, ops_s, [log(cpu_s)], 50_000, closed=False)
    assert not found["valid"]
    assert words in found["reasons"][0]


def test_in_a_closed_loop_a_full_client_is_marked_and_only_the_harness_itself_refuses() -> None:
    full = honesty.judge([0.0], 10_000, [log(0.99)], 50_000, closed=True)
    assert full["valid"]
    assert full["client_bound"]
    assert not honesty.judge([0.0], 30_000, [log(0.99)], 50_000, closed=True)["valid"]


# --- Sweeps -------------------------------------------------------------------------------------


def step(offered: float, served: float, p99_ms: float) -> dict[str, Any]:
    row = {"ops_s": offered * served, "due": offered * 2, "response": {"p99_ms": p99_ms}}
    return {"offered_s": offered, "seconds": 2.0, "ops": {"all": row}}


def test_the_knee_is_the_last_load_served_in_full_and_in_time_with_all_below_it() -> None:
    low = [step(100, 1, 2), step(200, 1, 3), step(400, 1, 15)]
    assert sweep.knee([*low, step(800, 0.9, 15)]) == 400
    assert sweep.knee([*low, step(800, 1, 50), step(1600, 1, 3)]) == 400
    assert sweep.knee([step(100, 0.5, 2)]) is None


def test_loads_go_up_in_equal_ratios() -> None:
    assert sweep.rates(100, 800, 4) == pytest.approx([100, 200, 400, 800])
    for words in ((0, 1, 3), (5, 5, 3), (1, 2, 1), (1, 2, 99)):
        with pytest.raises(ValueError, match="a sweep"):
            sweep.rates(*words)


# --- Peers --------------------------------------------------------------------------------------


def test_stores_that_are_not_installed_are_named_with_what_installs_them() -> None:
    nothing = servers.absent([("no-such-program", "apt-get install it")], [("no_such", "no-such")])
    assert nothing == "not installed: apt-get install it && pip install no-such"
    assert servers.absent([], [("json", "json")]) == ""


def test_who_takes_part_depends_on_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.etcd.Etcd.missing", lambda self: "not installed: x")
    base = Contest(("dynamo", "etcd", "rocksdb"), ("put",), (1,), "both", 1, 1, 1, 100, 10, 1, 1)
    present, missing = entrants(base)
    assert [(e.name, e.durability) for e in present] == [
        ("dynamo", "fsync"), ("rocksdb", "fsync"), ("dynamo", "interval"), ("rocksdb", "interval"),
    ]  # fmt: skip
    assert missing == ["etcd: not installed: x"]


def test_every_store_can_say_whether_it_is_there() -> None:
    for name in STORES:
        assert store(name).missing() == "" or "install" in store(name).missing()


def test_messages_of_etcd_are_read_as_they_are_written() -> None:
    pair = (
        etcd.field(1, b"key") + etcd.varint(2 << 3) + etcd.varint(300) + etcd.field(5, b"v" * 200)
    )
    assert list(etcd.fields(etcd.field(2, pair))) == [(2, pair)]
    assert list(etcd.fields(pair)) == [(1, b"key"), (2, 300), (5, b"v" * 200)]
    with pytest.raises(ValueError, match="kind 5"):
        list(etcd.fields(struct.pack("<BI", 1 << 3 | 5, 7)))


def test_the_promise_names_the_levels() -> None:
    assert promise(3, "fsync", {}, {}).startswith("2 of 3 copies synced")
    assert "reads ask 1" in promise(3, "memory", {"r": 1, "w": 3}, {})


# --- The command, with a real ring --------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "run --rate 100",
        "run a --rate 100 --in-flight 5",
        "run a --ops 5",
        "run a --levels 2 ",
        "run a --levels 1/1 --r 1",
        "run a --png",
        "sweep a --steps 1",
        "peers --in-flight 0",
        "run a --set n",
    ],
)
def test_what_does_not_go_together_is_refused(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main(words.split())
    assert refused.value.code == command.USAGE
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("run e", "is not offered. A hash ring keeps no order"),
        ("run nope", "no workload 'nope'"),
        ("run a --size 20", "values.bytes is from 40"),
        ("sweep a --from 10 --to 5", "a sweep goes up"),
        ("run a --faults sabotage", "'sabotage' is no fault"),
        ("peers --stores oracle", "no store 'oracle'"),
        ("peers --workloads cart", "no peer offers"),
        ("report /no/such/file", "No such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    words: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words.split()) == command.USAGE
    assert text in capsys.readouterr().err


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in [*workloads.names(), *STORES])
    assert command.main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faults"] == list(timeline.PRESETS)


@pytest.mark.net
def test_a_short_open_loop_through_a_fault_is_measured_checked_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(honesty, "NOOP_SECONDS", 0.1)
    words = "run f --rate 250 --seconds 1 --warm-up 0.2 --repeats 1 --durability memory --keys 60"
    words = f"{words} --out {tmp_path}"
    faults = ["--faults", "kill n3 @ 0.4s; start n3 @ 0.6s"]
    code = command.main([*words.split(), *faults])
    shown = capsys.readouterr().out
    assert code in (command.FINE, command.NOT_VALID)  # a busy machine may send late
    assert "data ok" in shown
    result = json.loads((tmp_path / "result.json").read_text())
    each = result["repeats"][0]
    assert each["ops"]["all"]["due"] > 150
    assert [mark["what"] for mark in each["marks"]][:2] == ["kill n3", "start n3"]
    assert each["check"]["keys"] == 60
    assert each["balance"]["join"]["copies_moved"] >= each["balance"]["join"]["ideal"]
    assert tables.run(result)[1][0][0] == "read"
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "http" not in page.replace("http://www.w3.org/", "")  # names of formats, not fetched
    assert "Availability through faults" in page


@pytest.mark.net
@pytest.mark.parametrize("name", ["rocksdb", "lmdb"])
def test_the_floor_keeps_what_it_was_given(name: str) -> None:
    if store(name).missing():
        pytest.skip(store(name).missing())
    assert asyncio.run(_tried(store(name))) == [[b"two"], [b"two!"], []]


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.parametrize("name", list(STORES))
def test_every_store_that_is_installed_does_what_a_driver_must(name: str) -> None:
    if store(name).missing():
        pytest.skip(store(name).missing())
    assert asyncio.run(_tried(store(name))) == [[b"two"], [b"two!"], []]


async def _tried(one: Any) -> list[list[bytes]]:
    found = []
    starting = one.start(3, "fsync", {"timeout_s": 5.0})
    running = await asyncio.to_thread(starting.__enter__)
    try:
        driver = drivers.make(running.spec)
        await driver.connect()
        await driver.insert("k", b"one")
        await driver.update("k", b"two")
        found.append(await driver.read("k"))
        await driver.modify("k", lambda values: values[0] + b"!")
        found.append(await driver.read("k"))
        await driver.delete("k")
        found.append(await driver.read("k"))
        await driver.close()
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)
    return found


@pytest.mark.net
def test_a_closed_loop_of_carts_keeps_every_item(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(honesty, "NOOP_SECONDS", 0.1)
    words = "run cart --in-flight 8 --seconds 0.6 --warm-up 0 --repeats 1 --durability memory"
    assert command.main([*words.split(), "--keys", "20", "--json"]) in (0, command.NOT_VALID)
    result = json.loads(capsys.readouterr().out)
    assert result["good"]
    assert result["repeats"][0]["check"]["writes"] > 20


def test_arrays_of_logs_have_the_sizes_that_workers_and_parents_agree_on() -> None:
    assert {code: array(code).itemsize for code in "bdqi"} == {"b": 1, "d": 8, "q": 8, "i": 4}
