"""`dynamo.sim.Ring` as the developer of an application uses it, the example of README first."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import dynamo
import dynamo.localring
import dynamo.sim
from dynamo.sim.ring import PLANS
from dynamo.testing import actors

ROOT = Path(__file__).resolve().parent.parent
HEADING = "## In your unit tests"

# The example of README, word for word; `test_readme_shows_this_example` compares.
EXAMPLE = """\
import dynamo
import dynamo.sim


def longest(carts):  # "the fullest cart must be the latest"
    return max(carts, key=len)


def together(carts):  # an item is in, unless somebody took it out
    items = {item for cart in carts for item in cart}
    return {item: all(cart.get(item, True) for cart in carts) for item in items}


def put(kv, item, wanted=True):
    kv.modify("cart", lambda cart: {**cart, item: wanted}, {})


def ann(kv):
    put(kv, "tea")
    put(kv, "jam")


def bob(kv):
    put(kv, "milk")
    put(kv, "soap", wanted=False)


def shop(seed, merge):
    with dynamo.sim.Ring(nodes=3, seed=seed, faults="mild") as ring:
        put(ring.client(timeout=10), "soap")
        ring.run(ann, bob, merge=merge, timeout=10)  # side by side, as the seed has it
        ring.heal()
        ring.wait_converged()
        cart = ring.client(merge=merge)["cart"]
        assert cart == {"tea": True, "jam": True, "milk": True, "soap": False}


def test_nobody_loses_an_item():
    for seed in dynamo.sim.seeds(50):
        shop(seed, together)  # with `longest` it fails, and names the seed
"""
USER: dict[str, Any] = {}
exec(compile(EXAMPLE, "the example of README", "exec"), USER)


def test_the_example_passes_with_the_merge_function_that_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DYNAMO_SEED", raising=False)
    USER["test_nobody_loses_an_item"]()


def failed(seed: int, merge: str) -> AssertionError | None:
    try:
        USER["shop"](seed, USER[merge])
    except AssertionError as error:
        return error
    return None


def test_the_example_fails_with_the_wrong_one_names_the_seed_and_passes_when_mended() -> None:
    failures = {seed: error for seed in range(10) if (error := failed(seed, "longest"))}
    assert failures
    seed, error = next(iter(failures.items()))
    head, story = error.__notes__
    assert f"nodes=3, seed={seed}, faults='mild'" in head
    assert f"pytest --dynamo-seed {seed}, or DYNAMO_SEED={seed}" in head
    assert "the story of 'cart' in bucket 'default'" in story
    assert "ann: put {" in story
    assert "bob: put -> ok" in story
    assert "has written" in story
    assert "Then they held:" in story
    assert failed(seed, "together") is None


def test_readme_shows_this_example() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    if HEADING not in readme:
        pytest.skip(f"README has no {HEADING!r}")
    assert EXAMPLE.rstrip("\n") in readme


# --- The same seed, the same run --------------------------------------------------------------

RUN = """
import sys
sys.path.insert(0, {root!r})
from tests.test_for_users import everything
print(everything({seed}, {faults!r}))
"""


def everything(seed: int, faults: str) -> str:
    """The digest of a run in which much happens: threads, tasks, faults, merges."""

    def add(kv: dynamo.Client) -> None:
        for number in range(3):
            with suppress(dynamo.QuorumTimeout):
                kv.modify("numbers", lambda held, n=number: [*held, n], [])

    async def add_too(kv: dynamo.AsyncClient) -> None:
        await asyncio.gather(*(kv.put(f"k{n}", n, timeout=5) for n in range(5)))

    with dynamo.sim.Ring(nodes=5, seed=seed, faults=faults) as ring:
        ring.run(add, add, add, merge=dynamo.merge.union)
        ring.heal()
        ring.run_async(add_too, add_too)
        ring.wait_converged()
        held = ring.client(merge=dynamo.merge.union).get("numbers")
        return f"{ring.world.digest} {held} {ring.now}"


def test_a_seed_gives_one_run_in_every_process_and_under_every_hash_seed() -> None:
    here = everything(3, "storm")
    assert everything(3, "storm") == here
    assert everything(4, "storm") != here
    script = RUN.format(root=str(ROOT), seed=3, faults="storm")
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONHASHSEED": "77"},
    )  # fmt: skip
    assert other.stdout.strip() == here, other.stderr


def test_seeds_can_be_narrowed_to_the_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNAMO_SEED", raising=False)
    assert list(dynamo.sim.seeds(3)) == [0, 1, 2]
    assert list(dynamo.sim.seeds(2, first=7)) == [7, 8]
    monkeypatch.setenv("DYNAMO_SEED", "41")
    assert list(dynamo.sim.seeds(3)) == [41]
    monkeypatch.setenv("DYNAMO_SEED", "first")
    with pytest.raises(dynamo.ConfigurationError, match="DYNAMO_SEED must be a whole number"):
        dynamo.sim.seeds(3)


# --- Virtual time -----------------------------------------------------------------------------


def test_time_passes_for_the_ring_and_not_for_us() -> None:
    began = time.monotonic()
    with dynamo.sim.Ring(seed=1) as ring, ring.client() as kv:
        kv["a"] = 1
        assert 0.001 < ring.now - 0.3 < 0.1
        ring.advance(300)
        assert ring.now > 300
        assert kv["a"] == 1
    assert time.monotonic() - began < 30


def test_a_value_with_a_ttl_is_gone_when_its_virtual_time_is_over() -> None:
    with dynamo.sim.Ring(seed=1) as ring, ring.client() as kv:
        kv.put("session", "open", ttl=60)
        ring.advance(59)
        assert kv.get("session") == "open"
        ring.advance(2)
        assert kv.get("session") is None


def test_a_call_that_cannot_succeed_ends_at_its_deadline() -> None:
    with dynamo.sim.Ring(nodes=3, seed=1) as ring, ring.client() as kv:
        kv["a"] = 1
        for name in ring.nodes:
            ring.pause(name)
        began = ring.now
        with pytest.raises(dynamo.QuorumTimeout) as caught:
            kv.put("a", 2, timeout=0.5)
        assert ring.now - began == pytest.approx(0.5, abs=0.01)
        assert caught.value.maybe_applied
        assert caught.value.elapsed == pytest.approx(0.5, abs=0.01)


def test_deadline_blocks_count_virtual_time_and_only_shrink() -> None:
    with dynamo.sim.Ring(nodes=3, seed=1) as ring, ring.client(timeout=30) as kv:
        kv["a"] = 1
        for name in ring.nodes:
            ring.pause(name)
        began = ring.now
        with dynamo.deadline(2):
            ring.advance(0.5)
            with dynamo.deadline(60), pytest.raises(dynamo.QuorumTimeout):
                kv.get("a")
            assert ring.now - began == pytest.approx(2, abs=0.01)
            with pytest.raises(dynamo.QuorumTimeout, match="already passed"):
                kv.get("a")
        ring.resume("n1")
        assert kv.get("a", r=1) == 1


def test_a_ring_that_is_made_inside_a_deadline_block_is_limited_by_it() -> None:
    with dynamo.deadline(1), dynamo.sim.Ring(seed=1) as ring, ring.client(timeout=30) as kv:
        kv["a"] = 1
        ring.advance(1)
        with pytest.raises(dynamo.QuorumTimeout, match="already passed"):
            kv.get("a")


# --- On either kind of ring ---


def test_a_test_can_switch_between_this_ring_and_real_processes() -> None:
    real, simulated = dynamo.localring.Ring, dynamo.sim.Ring
    for name in (
        *("client", "async_client", "kill", "stop", "start", "pause", "resume", "partition"),
        *("heal", "wait_converged", "status"),
    ):
        ours = inspect.signature(getattr(simulated, name)).parameters
        theirs = inspect.signature(getattr(real, name)).parameters
        assert {n: (p.kind, p.default) for n, p in ours.items()} == {
            n: (p.kind, p.default) for n, p in theirs.items()
        }, name


# --- What can be done to it -------------------------------------------------------------------


def test_a_dead_node_is_missed_and_catches_up() -> None:
    with dynamo.sim.Ring(nodes=3, seed=2) as ring, ring.client() as kv:
        kv.put_many({f"k{n}": n for n in range(20)}, raise_on_error=True)
        ring.kill("n2")
        ring.kill("n2")  # again: nothing happens
        kv.put_many({f"k{n}": -n for n in range(20)}, raise_on_error=True)
        ring.advance(5)
        assert {node["name"]: node["state"] for node in ring.status()["nodes"]}["n2"] == "down"
        with pytest.raises(dynamo.NotConverged, match="no answer from n2") as caught:
            ring.wait_converged(timeout=1)
        assert caught.value.nodes[0] == "n2"
        with pytest.raises(RuntimeError, match="n2 is not running"):
            ring.pause("n2")
        ring.start("n2")
        ring.wait_converged()
        assert ring.status()["hints"] == 0
        with ring.client(via="n2") as there:
            found = there.get_many([f"k{n}" for n in range(20)], r="all").found
        assert found == {f"k{n}": -n for n in range(20)}


def test_a_wiped_node_is_filled_again_and_a_stopped_one_comes_back() -> None:
    with dynamo.sim.Ring(nodes=3, seed=2) as ring, ring.client() as kv:
        kv["a"] = 1
        ring.wipe("n1")
        ring.start("n1")
        ring.stop("n3")
        ring.start("n3")
        ring.wait_converged()
        assert kv.get("a", r="all") == 1


def test_a_partition_keeps_both_sides_writable_until_it_heals() -> None:
    with dynamo.sim.Ring(nodes=5, seed=2) as ring, ring.client() as kv:
        ring.partition({"n1", "n2"})
        with ring.client(via="n1", timeout=5) as left, ring.client(via="n4", timeout=5) as right:
            left["cart"] = "tea"
            right["cart"] = "jam"
        ring.heal()
        ring.wait_converged()
        assert sorted(kv.read("cart", r="all").siblings) == ["jam", "tea"]


def test_what_the_test_has_stopped_stays_stopped_whatever_faults_come_and_go() -> None:
    with dynamo.sim.Ring(nodes=5, seed=2, faults="storm") as ring:
        ring.kill("n1")
        ring.partition({"n2"})
        ring.advance(10)
        assert ring.world.hosts["n1"].node is None
        ring.calm()
        ring.advance(5)
        states = {node["name"]: node["state"] for node in ring.status()["nodes"]}
        assert states == {"n1": "down", "n2": "down", "n3": "up", "n4": "up", "n5": "up"}
        ring.start("n1")
        ring.heal()
        ring.wait_converged()


@pytest.mark.parametrize("faults", [*PLANS, ["split", "pause"]])
def test_after_any_faults_a_healed_ring_converges(faults: Any) -> None:
    with dynamo.sim.Ring(nodes=3, seed=6, faults=faults) as ring, ring.client(timeout=5) as kv:
        for number in range(20):
            with suppress(dynamo.DynamoError):
                kv[f"k{number % 5}"] = number
            ring.advance(0.1)
        ring.heal()
        ring.wait_converged()


@pytest.mark.parametrize("seed", range(6))
def test_nothing_acknowledged_in_a_storm_is_missing_after_it(seed: int) -> None:
    acknowledged: list[str] = []

    def writer(kv: dynamo.Client) -> None:
        for number in range(6):
            item = f"{len(acknowledged)}.{ring.now}.{number}"
            with suppress(dynamo.DynamoError):
                kv.modify("set", lambda held, i=item: [*held, i], [], timeout=2)
                acknowledged.append(item)

    with dynamo.sim.Ring(nodes=3 + seed % 3, seed=seed, faults="storm") as ring:
        ring.run(writer, writer, merge=dynamo.merge.union)
        ring.heal()
        ring.wait_converged()
        held = ring.client(merge=dynamo.merge.union).get("set", [])
        assert acknowledged
        assert set(acknowledged) <= set(held)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"nodes": 0}, "nodes must be 1 to 20, not 0"),
        ({"seed": "x"}, "seed must be a whole number, not 'x'"),
        ({"faults": "strom"}, "faults must be one of none, mild, storm, or a list of kinds"),
        ({"faults": ["kil"]}, "no fault 'kil'; did you mean 'kill'?"),
        ({"partition": 8}, "unknown option 'partition'; did you mean 'partitions'"),
        ({"n": 2, "w": 3}, "w=3 can never be met with n=2"),
        ({"nodes": 2, "r": 3}, "r=3 can never be met by 2 nodes"),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(dynamo.ConfigurationError) as caught:
        dynamo.sim.Ring(**arguments)
    assert sentence in str(caught.value)


def test_names_that_are_not_in_the_ring_and_rings_that_are_not_open_are_refused() -> None:
    ring = dynamo.sim.Ring()
    with pytest.raises(RuntimeError, match="this ring is not open"):
        ring.client()
    with ring:
        for act in (ring.kill, ring.stop, ring.start, ring.pause, ring.resume, ring.wipe):
            with pytest.raises(ValueError, match="no node 'n9'; this ring has n1, n2, n3"):
                act("n9")
        with pytest.raises(ValueError, match="n1 is in two sets"):
            ring.partition({"n1"}, {"n1"})
        with pytest.raises(ValueError, match="no node 'n9'"):
            ring.client(via="n9")
        with pytest.raises(AttributeError, match="a simulated ring has no address"):
            _ = ring.url
        kv = ring.client()
    with pytest.raises(RuntimeError, match="this ring is not open"):
        kv.get("a")


# --- Several at once --------------------------------------------------------------------------


def test_functions_are_interleaved_at_their_calls_and_nowhere_else() -> None:
    log: list[str] = []

    def actor(name: str) -> Any:
        def act(kv: dynamo.Client) -> str:
            for _ in range(3):
                log.append(f"{name} begins")  # no call between these two, so nobody comes between
                log.append(f"{name} calls")
                kv.put(name, 1)
            return name

        return act

    with dynamo.sim.Ring(seed=5) as ring:
        assert ring.run(actor("a"), actor("b"), actor("c")) == ["a", "b", "c"]
    assert all(
        first.split()[0] == second.split()[0]
        for first, second in zip(log[::2], log[1::2], strict=True)
    )
    assert [line.split()[0] for line in log[::2]] not in (
        ["a"] * 3 + ["b"] * 3 + ["c"] * 3,
        sorted([line.split()[0] for line in log[::2]], reverse=True),
    )


def test_advance_makes_only_the_function_wait_that_calls_it() -> None:
    woken: list[str] = []

    with dynamo.sim.Ring(seed=5) as ring:

        def late(kv: dynamo.Client) -> None:
            ring.advance(10)
            woken.append("late")

        def early(kv: dynamo.Client) -> None:
            ring.advance(5)
            woken.append("early")

        ring.run(late, early)
        assert woken == ["early", "late"]
        assert 10.3 <= ring.now < 10.4


def test_the_first_failure_stops_the_others_and_is_raised_itself() -> None:
    cleaned_up: list[str] = []

    def fails(kv: dynamo.Client) -> None:
        kv.get("a")
        raise ZeroDivisionError("oh")

    def goes_on(kv: dynamo.Client) -> None:
        try:
            while True:
                kv.get("a")
        finally:
            cleaned_up.append("goes_on")

    before = threading.active_count()
    with (
        pytest.raises(ZeroDivisionError, match="oh") as caught,
        dynamo.sim.Ring(seed=5) as ring,
    ):
        ring.run(goes_on, fails)
    assert cleaned_up == ["goes_on"]
    assert "raised by 'fails', one of the functions of run()" in caught.value.__notes__
    assert threading.active_count() == before


def test_a_function_that_waits_for_another_one_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actors, "TURN_S_MAX", 0.2)
    monkeypatch.setattr(actors, "JOIN_S", 0.2)
    lock = threading.Lock()

    def holds(kv: dynamo.Client) -> None:
        with lock:
            kv.get("a")

    with dynamo.sim.Ring(seed=5) as ring:
        ring.run(holds)

        def waits_for_it(kv: dynamo.Client) -> None:
            assert not lock.acquire(timeout=2)

        lock.acquire()
        with pytest.raises(actors.StuckTurn, match=r"(?s)'waits_for_it' has not.*lock\.acquire"):
            ring.run(waits_for_it)


def test_threads_of_ones_own_are_refused() -> None:
    caught: list[BaseException] = []

    with dynamo.sim.Ring(seed=5) as ring, ring.client() as kv:

        def stranger() -> None:
            try:
                kv.get("a")
            except RuntimeError as error:
                caught.append(error)

        def host(_: dynamo.Client) -> None:
            thread = threading.Thread(target=stranger)
            thread.start()
            thread.join(5)
            with pytest.raises(RuntimeError, match="cannot be used inside a function"):
                ring.run(host)

        ring.run(host)
    assert "used by one thread at a time" in str(caught[0])


def test_deadlines_around_run_hold_inside_it() -> None:
    with dynamo.sim.Ring(seed=5) as ring:

        def act(kv: dynamo.Client) -> None:
            ring.advance(1)
            with pytest.raises(dynamo.QuorumTimeout, match="already passed"):
                kv.get("a")

        with dynamo.deadline(1):
            ring.run(act, act)


# --- asyncio on virtual time ------------------------------------------------------------------


def test_asyncio_clients_share_the_virtual_time_of_their_loop() -> None:
    async def worker(kv: dynamo.AsyncClient) -> list[Any]:
        await asyncio.sleep(90)
        async with asyncio.TaskGroup() as group:
            jobs = [group.create_task(kv.put(f"k{n}", n)) for n in range(10)]
        assert all(job.result().acked_by for job in jobs)
        found = await kv.get_many([f"k{n}" for n in range(11)])
        assert found.missing == ["k10"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return [entry.value async for entry in kv.scan("k")]

    began = time.monotonic()
    with dynamo.sim.Ring(seed=5) as ring:
        lists = ring.run_async(worker, worker)
        assert [sorted(values) for values in lists] == [list(range(10))] * 2
        assert ring.now > 150
    assert time.monotonic() - began < 60


def test_a_task_that_waits_for_the_world_outside_is_found_out() -> None:
    async def waits(kv: dynamo.AsyncClient) -> None:
        await asyncio.Event().wait()

    with (
        pytest.raises(RuntimeError, match="waits for something that will never come"),
        dynamo.sim.Ring(seed=5) as ring,
    ):
        ring.run_async(waits)


def test_a_cancelled_call_leaves_nothing_behind() -> None:
    async def hurried(kv: dynamo.AsyncClient) -> Any:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await kv.get("a")
        return await kv.get("a", 7)

    with dynamo.sim.Ring(seed=5) as ring:
        assert ring.run_async(hurried) == [7]
        with pytest.raises(RuntimeError, match="work inside ring"):
            asyncio.run(ring.async_client().get("a"))
        assert not any(getattr(client, "busy", False) for client in ring.world.clients.values())


def test_the_first_task_that_fails_cancels_the_others() -> None:
    ended: list[str] = []

    async def fails(kv: dynamo.AsyncClient) -> None:
        await kv.get("a")
        raise ZeroDivisionError

    async def goes_on(kv: dynamo.AsyncClient) -> None:
        try:
            while True:
                await kv.get("a")
        finally:
            ended.append("goes_on")

    with pytest.raises(ZeroDivisionError), dynamo.sim.Ring(seed=5) as ring:
        ring.run_async(fails, goes_on)
    assert ended == ["goes_on"]
