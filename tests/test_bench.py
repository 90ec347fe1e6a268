"""The harness: its arithmetic by hand-made numbers, its refusals, and one very short run."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from bench import __main__ as command
from bench import figures, micro, quick
from bench.quick import Load, WrongRead

SHORT = Load(nodes=3, durability="memory", in_flight=8, size=100, seconds=None, ops=50, repeats=1)


# --- Figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percent", "value"), [(1, 10), (25, 10), (26, 20), (50, 20), (75, 30), (99, 40), (100, 40)]
)
def test_a_percentile_is_a_value_that_occurred_by_nearest_rank(percent: int, value: int) -> None:
    assert figures.percentile([10, 20, 30, 40], percent) == value


def test_of_a_hundred_values_the_99th_percentile_leaves_out_exactly_one() -> None:
    assert figures.percentile(range(1, 101), 99) == 99
    assert figures.percentile(range(1, 1001), 99) == 990
    assert figures.percentile([7], 99) == 7


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1], 0), ([1], 100.1)])
def test_a_percentile_of_nothing_or_beyond_the_values_is_refused(
    values: list[float], percent: float
) -> None:
    with pytest.raises(ValueError, match="percentile"):
        figures.percentile(values, percent)


def test_latencies_are_sorted_first_and_reported_in_milliseconds() -> None:
    assert figures.latencies([0.003, 0.001, 0.002]) == {"p50_ms": 2, "p99_ms": 3, "max_ms": 3}


def test_repeats_are_summed_up_by_medians_and_the_spread_of_the_rate() -> None:
    repeats = [{"ops_s": rate, "p50_ms": p50} for rate, p50 in [(90, 3), (100, 1), (120, 2)]]
    assert figures.summary(repeats) == {"ops_s": 100, "p50_ms": 2, "spread": 0.3}


def test_processor_time_of_this_process_and_its_children_is_seen() -> None:
    before = figures.cpu_seconds(os.getpid())
    while figures.cpu_seconds(os.getpid()) < before + 0.02:
        sum(range(10_000))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in figures.descendants(os.getpid())
        assert child.stdin
        child.stdin.write(b"\n")
    assert figures.cpu_seconds(child.pid) == 0


def test_every_result_says_under_which_conditions_it_was_made() -> None:
    found = figures.conditions()
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["pyzmq"] != "missing"
    assert found["commit"]


# --- The load, against a client made of a dict ------------------------------------------------


class Shelf:
    """An asyncio client with nobody behind it; `rot` spoils one key."""

    def __init__(self, rot: str = "") -> None:
        self.data: dict[str, bytes] = {}
        self.rot = rot

    async def put(self, key: str, value: bytes) -> None:
        await asyncio.sleep(0)
        self.data[key] = b"rotten" if key == self.rot else value

    async def get(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        return self.data.get(key)


def test_a_run_by_count_puts_and_gets_that_many_after_the_warm_up() -> None:
    shelf = Shelf()
    result = asyncio.run(quick.puts_and_gets(shelf, SHORT))
    assert [result[op]["ops"] for op in ("put", "get")] == [50, 50]
    assert len(shelf.data) == quick.WARM_UP_OPS_MIN + 50
    assert {len(value) for value in shelf.data.values()} == {100}


def test_a_run_by_time_ends_by_time() -> None:
    load = Load(**{**vars(SHORT), "ops": None, "seconds": 0.1})
    result = asyncio.run(quick.puts_and_gets(Shelf(), load))
    assert result["put"]["ops"] > 8
    assert result["get"]["ops"] > 8


@pytest.mark.parametrize("lost", [False, True])
def test_a_wrong_or_missing_value_ends_the_run(lost: bool) -> None:
    shelf = Shelf(rot="bench-210")

    async def get(key: str) -> bytes | None:
        return None if lost and key == shelf.rot else shelf.data[key]

    shelf.get = get  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as failure:
        asyncio.run(quick.puts_and_gets(shelf, SHORT))
    assert failure.group_contains(WrongRead, match="bench-210")


def test_values_of_different_keys_differ_whatever_their_size() -> None:
    for size in (16, 100, 5000):
        values = {quick.value_of(f"bench-{i}", size) for i in range(1000)}
        assert len(values) == 1000
        assert {len(value) for value in values} == {size}


# --- The command ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "run --nodes 0",
        "run --nodes 1000",
        "run --seconds 1e9",
        "run --seconds 1 --ops 5",
        "run --durability most",
        "run --size 3",
        "run --in-flight x",
        "",
    ],
)
def test_what_is_out_of_bounds_is_refused_before_anything_starts(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main(words.split())
    assert refused.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_micro_measures_every_piece(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["micro", "--seconds", "0.001", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in result["pieces"]]
    assert len(names) == len(set(names)) == len(micro.pieces())
    assert all(0 < row["best_us"] <= row["median_us"] for row in result["pieces"])
    assert "step: get" in micro.table(result)


@pytest.mark.net
def test_a_short_run_on_a_real_ring(capsys: pytest.CaptureFixture[str]) -> None:
    words = "run --nodes 3 --durability memory --in-flight 16 --ops 300 --repeats 1 --json"
    assert command.main(words.split()) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["config"]["ops"] == 300
    assert result["median"]["put"]["ops"] == 300
    assert result["median"]["get"]["cpu_us_nodes"] >= 0
    assert "16 in flight" in quick.table(result)
