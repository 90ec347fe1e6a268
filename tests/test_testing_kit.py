"""`dynamo.testing`: fakes that do what they are told, exactly as a ring would; and the fixtures.

The parity tests run one list of scenarios against a fake, a simulated ring and, marked `net`, real
processes: what a scenario observes must be the same everywhere.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import dynamo
import dynamo.sim
from dynamo.testing import FakeAsyncClient, FakeClient

ROOT = Path(__file__).resolve().parent.parent


# --- Parity -----------------------------------------------------------------------------------


@dataclass
class User:
    name: str
    visits: int = 0


def failure(call: Callable[[], Any]) -> tuple[Any, ...]:
    """What a caller can act on in an error."""
    try:
        return ("no error", call())
    except dynamo.OperationError as error:
        return (type(error), error.op, error.key, error.maybe_applied, error.retryable)
    except dynamo.DynamoError as error:
        return (type(error), str(error), error.maybe_applied)


def values_come_back(kv: dynamo.Client) -> Any:
    values = [
        None, True, 7, 1 << 80, 0.5, "é", b"\0", [1, [2]], (1, 2), {"a": {1, 2}}, Decimal("30.40"),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), {(1, 2): frozenset((3,))},
    ]  # fmt: skip
    for number, value in enumerate(values):
        kv[f"v{number}"] = value
    found = [kv[f"v{number}"] for number in range(len(values))]
    assert found == values
    users = kv.bucket("users", type=User)
    users["ada"] = User("Ada", 3)
    blobs = kv.bucket("blobs", codec="raw")
    blobs["b"] = b"\xff"
    return found, [type(value) for value in found], users["ada"], blobs["b"]


def siblings_stay_until_somebody_has_seen_them(kv: dynamo.Client) -> Any:
    kv["cart"] = ["tea"]
    seen = kv.read("cart").context
    first = kv.put("cart", ["tea", "milk"], context=seen)
    second = kv.put("cart", ["tea", "jam"], context=seen)
    entry = kv.read("cart")
    assert first.context is not None
    assert second.context is None
    with pytest.raises(dynamo.ConflictError) as caught:
        kv.get("cart")
    conflict = caught.value
    assert entry.conflict
    with pytest.raises(dynamo.ConflictError):
        _ = entry.value
    resolved = conflict.resolve(["tea", "milk", "jam"])
    return (
        sorted(second.siblings), sorted(entry.siblings), sorted(conflict.siblings),
        resolved.siblings, kv["cart"], len(entry.stamps),
    )  # fmt: skip


def auto_puts_merge_or_refuse_what_nobody_has_read(kv: dynamo.Client) -> Any:
    seen = kv.read("k").context
    kv.put("k", [1], context=seen)
    kv.put("k", [2], context=seen)
    refused = failure(lambda: kv.put("k", [3]))
    merging = kv.bucket("default", merge=dynamo.merge.union)
    merging.put("k", [4])
    return refused, sorted(kv.get("k"))


def merges_are_written_back(kv: dynamo.Client) -> Any:
    kv.put("k", [1], context=None)
    kv.put("k", [2], context=None)
    once = kv.get("k", merge=dynamo.merge.longest)
    still = len(kv.read("k").siblings)
    carts = kv.bucket("default", merge=dynamo.merge.union)
    return once, still, sorted(carts.get("k")), len(kv.read("k").siblings)


def modify_reads_merges_applies_and_writes(kv: dynamo.Client) -> Any:
    kv.put("n", 1, context=None)
    kv.put("n", 5, context=None)
    refused = failure(lambda: kv.modify("n", lambda n: n + 1, 0))
    made = kv.modify("n", lambda n: n + 1, 0, merge=max)
    return refused, made, kv["n"], kv.modify("new", lambda n: n + 1, 41)


def deletes_cover_what_was_seen(kv: dynamo.Client) -> Any:
    kv["k"] = 1
    seen = kv.read("k").context
    del kv["k"]
    gone = kv.read("k")
    kv.put("k", 2, context=seen)  # its writer has not seen the delete
    kv.delete("never there")
    return gone.exists, gone.value, kv.read("k").siblings, kv.get("never there", "no")


def many_keys_have_an_outcome_each(kv: dynamo.Client) -> Any:
    put = kv.put_many({"a": 1, "": 2, "b": object(), "c": 3})
    got = kv.get_many(["a", "b", "c", "a"])
    with pytest.raises(dynamo.BatchError) as caught:
        kv.put_many({"": 1}, raise_on_error=True)
    return (
        sorted(put.found), {key: type(error) for key, error in put.failed.items()}, got.found,
        got.missing, list(caught.value.failed), sorted(e.key for e in kv.scan()),
    )  # fmt: skip


def it_feels_like_a_dict_as_far_as_that_is_honest(kv: dynamo.Client) -> Any:
    kv["a"] = 1
    with pytest.raises(KeyError):
        kv["b"]
    for refused in (lambda: len(kv), lambda: list(kv), kv.clear):
        with pytest.raises(TypeError, match="whole ring"):
            refused()
    return "a" in kv, "b" in kv, bool(kv), failure(lambda: kv["b"]), kv.ping() >= 0


def bad_input_gets_the_same_error(kv: dynamo.Client) -> Any:
    kv["k"] = 1
    stranger = kv.read("other").context
    typed = kv.bucket("default", type=User)
    return [
        failure(call)
        for call in (
            lambda: kv.get("k", r=4),
            lambda: kv.get("k", r=0),
            lambda: kv.put("k", 1, w=4),
            lambda: kv.get("k" * 2000),
            lambda: kv.put("k", b"x" * (5 << 20)),
            lambda: kv.put("k", 1, context=stranger),
            lambda: kv.put("k", 1, context="token"),  # type: ignore[arg-type]
            lambda: kv.get(7),  # type: ignore[call-overload]
            lambda: kv.put("k", 1, timeout=-1),
            lambda: typed.get("k"),
            lambda: kv.with_options(bucket="x"),
        )
    ]


def levels_are_what_was_asked_for(kv: dynamo.Client) -> Any:
    every = kv.put("k", 1, w="all")
    strict = kv.with_options(r="all", sloppy=False, timeout=5)
    entry = strict.read("k")
    return len(every.acked_by), every.stand_ins, len(entry.trace.answered), entry.value


def blind_puts_pile_up_to_a_limit(kv: dynamo.Client) -> Any:
    for number in range(100):
        kv.put("k", number, context=None)
    refused = failure(lambda: kv.put("k", 100, context=None))
    return refused, sorted(kv.read("k").siblings)


def contexts_travel_as_tokens(kv: dynamo.Client) -> Any:
    kv["k"] = 1
    token = kv.read("k").context.to_token()
    kv.put("k", 2, context=dynamo.Context.from_token(token))
    return kv["k"]


SCENARIOS = [
    values_come_back,
    siblings_stay_until_somebody_has_seen_them,
    auto_puts_merge_or_refuse_what_nobody_has_read,
    merges_are_written_back,
    modify_reads_merges_applies_and_writes,
    deletes_cover_what_was_seen,
    many_keys_have_an_outcome_each,
    it_feels_like_a_dict_as_far_as_that_is_honest,
    bad_input_gets_the_same_error,
    levels_are_what_was_asked_for,
    blind_puts_pile_up_to_a_limit,
    contexts_travel_as_tokens,
]


def on_a_fake(scenario: Callable[[dynamo.Client], Any]) -> Any:
    with FakeClient() as kv:
        return scenario(kv)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_fake_does_what_a_simulated_ring_does(scenario: Callable[[dynamo.Client], Any]) -> None:
    with dynamo.sim.Ring(seed=1) as ring, ring.client() as kv:
        assert on_a_fake(scenario) == scenario(kv)


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    with dynamo.local(nodes=3, durability="memory") as ring:
        yield ring


@pytest.mark.net
def test_a_fake_does_what_real_nodes_do(processes: Any) -> None:
    for scenario in SCENARIOS:
        with processes.client(timeout=10) as kv:
            bucket = kv.bucket(scenario.__name__)
            if scenario in (
                auto_puts_merge_or_refuse_what_nobody_has_read,
                merges_are_written_back,
                bad_input_gets_the_same_error,
                values_come_back,
            ):
                bucket = kv  # they go to the default bucket themselves
            for entry in bucket.scan():
                bucket.delete(entry.key, context=entry.context)
            assert scenario(bucket) == on_a_fake(scenario), scenario.__name__


# --- What a fake can be told ------------------------------------------------------------------


@pytest.fixture
def fake() -> FakeClient:
    return FakeClient()


def test_a_conflict_is_there_and_heals_by_the_merge_function(fake: FakeClient) -> None:
    carts = fake.bucket("carts", merge=dynamo.merge.union)
    carts["7"] = ["tea"]
    carts.conflict("7", ["tea", "jam"], ["tea", "milk"])
    assert fake.bucket("carts").read("7").siblings == [["tea", "jam"], ["tea", "milk"]]
    assert sorted(carts.get("7") or []) == ["jam", "milk", "tea"]
    assert not carts.read("7").conflict
    assert [call.op for call in fake.calls] == ["put", "get", "get", "put", "get"]


@pytest.mark.parametrize("applied", [True, False])
def test_a_timeout_is_of_unknown_outcome_whatever_happened(fake: FakeClient, applied: bool) -> None:
    fake["k"] = 1
    fake.time_out("k", applied=applied)
    began = time.monotonic()
    with pytest.raises(dynamo.QuorumTimeout) as caught:
        fake.put("k", 2, timeout=30)
    assert time.monotonic() - began < 5
    error = caught.value
    assert error.maybe_applied
    assert (error.op, error.key, error.required, error.received, error.asked) == (
        "put",
        "k",
        2,
        1,
        3,
    )
    assert error.elapsed == pytest.approx(30, abs=0.01)
    assert "got 1 of 2 answers in 30,0" in str(error)
    assert fake["k"] == (2 if applied else 1)


def test_without_a_word_on_it_a_timeout_has_happened_as_often_as_not() -> None:
    found = []
    for seed in range(20):
        fake = FakeClient(seed=seed)
        fake.time_out("k", op="put")
        with pytest.raises(dynamo.QuorumTimeout):
            fake.put("k", 1)
        found.append(fake.get("k"))
    assert found.count(1) > 3
    assert found.count(None) > 3


def test_a_counter_that_retries_without_thinking_counts_twice(fake: FakeClient) -> None:
    def visit(kv: dynamo.Client) -> None:
        try:
            kv.modify("visits", lambda n: n + 1, 0)
        except dynamo.QuorumTimeout:
            kv.modify("visits", lambda n: n + 1, 0)

    fake.time_out("visits", applied=True, op="put")
    visit(fake)
    assert fake["visits"] == 2  # the test that its author should have written


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (dynamo.QuorumUnavailable, True),
        (dynamo.Overloaded, True),
        (dynamo.DiskFull, True),
        (dynamo.ConnectionFailed, True),
        (dynamo.TooManySiblings, False),
        (dynamo.ValueTooLarge, False),
        (dynamo.KeyTooLong, False),
        (dynamo.BadContext, False),
        (dynamo.ClientClosed, False),
        (dynamo.AuthError, False),
        (dynamo.ProtocolError, False),
        (ZeroDivisionError, None),
    ],
)
def test_failures_are_the_real_classes_and_nothing_was_done(
    fake: FakeClient, error: type[Exception], retryable: bool | None
) -> None:
    fake.fail("k", error, times=2)
    for _ in range(2):
        with pytest.raises(error) as caught:
            fake.put("k", 1)
        if retryable is not None:
            assert caught.value.retryable is retryable
            assert caught.value.maybe_applied is False
    assert fake.get("k") is None
    assert fake.pending == []


def test_an_exception_object_is_raised_as_it_is(fake: FakeClient) -> None:
    told = dynamo.Overloaded("come back later", retry_after=3.0)
    fake.fail(None, told)
    with pytest.raises(dynamo.Overloaded) as caught:
        fake.get("whatever")
    assert caught.value is told


def test_somebody_else_may_be_quicker(fake: FakeClient) -> None:
    fake["stock"] = 5
    fake.overtake("stock", 3)
    assert fake.modify("stock", lambda n: n - 1, merge=min) == 3
    assert [(c.op, c.value, c.mode) for c in fake.calls] == [
        ("put", 5, "auto"), ("get", None, ""), ("put", 4, "causal"), ("put", 3, "causal")
    ]  # fmt: skip


def test_slow_calls_take_virtual_time_and_run_into_their_timeout(fake: FakeClient) -> None:
    fake.slow(0.3, "k")
    fake.put("k", 1)
    assert fake.now == pytest.approx(0.301)
    assert fake.read("k").trace.elapsed == pytest.approx(0.301)
    with pytest.raises(dynamo.QuorumTimeout, match="no answer in 200 ms") as caught:
        fake.put("k", 2, timeout=0.2)
    assert caught.value.maybe_applied
    fake.reset()
    assert fake["k"] == 2


def test_deadlines_and_expiry_follow_the_virtual_clock(fake: FakeClient) -> None:
    fake.put("k", 1, ttl=10)
    fake.advance(9)
    with dynamo.deadline(5):
        assert fake["k"] == 1
        fake.advance(6)
        with pytest.raises(dynamo.QuorumTimeout, match="already passed"):
            fake.get("k")
    assert fake.get("k") is None


def test_rules_say_for_which_key_which_call_and_how_often(fake: FakeClient) -> None:
    fake.fail("k", dynamo.Overloaded, times=2, op="put")
    other = fake.bucket("other")
    other["k"] = 1
    assert fake.get("k") is None
    assert fake.pending == ["fail with Overloaded 'k'"]
    with pytest.raises(dynamo.Overloaded):
        fake["k"] = 1
    fake.reset()
    fake["k"] = 1
    fake.fail(None, dynamo.Overloaded, times=None)
    for _ in range(5):
        with pytest.raises(dynamo.Overloaded):
            other.get("k")


@pytest.mark.parametrize(
    ("tell", "sentence"),
    [
        (lambda fake: fake.conflict("k", 1), "at least two values, not 1"),
        (lambda fake: fake.time_out("k", times=0), "times must be a whole number of at least 1"),
        (lambda fake: fake.time_out("k", op="read"), "op must be 'get', 'put' or 'delete'"),
        (lambda fake: fake.time_out("k", applied="yes"), "applied must be True, False or None"),
        (lambda fake: fake.fail("k", "Overloaded"), "error must be an exception or a class"),
        (lambda fake: fake.fail("k", dynamo.ConflictError), "use conflict"),
        (lambda fake: fake.slow(0), "seconds must be above 0"),
        (lambda fake: FakeClient(tmeout=1), "did you mean 'timeout'"),
    ],
)
def test_what_cannot_be_told_is_refused(
    fake: FakeClient, tell: Callable[[FakeClient], Any], sentence: str
) -> None:
    with pytest.raises(dynamo.ConfigurationError) as caught:
        tell(fake)
    assert sentence in str(caught.value)


def test_calls_show_values_as_their_bucket_reads_them(fake: FakeClient) -> None:
    users = fake.bucket("users", type=User)
    users["ada"] = User("Ada")
    users.delete("ada")
    with pytest.raises(dynamo.KeyMissing):
        users["ada"]
    assert fake.calls == [
        ("put", "users", "ada", User("Ada"), "auto", None),
        ("delete", "users", "ada", None, "causal", None),
        ("get", "users", "ada", None, "", None),
    ]


def test_a_closed_fake_refuses_as_a_client_does() -> None:
    with FakeClient() as fake:
        fake["k"] = 1
    with pytest.raises(dynamo.ClientClosed):
        fake.get("k")


def test_a_fake_costs_microseconds(fake: FakeClient) -> None:
    began = time.perf_counter()
    for number in range(500):
        fake[f"k{number}"] = number
    assert time.perf_counter() - began < 2  # measured: 0.02


def test_the_asyncio_twin_is_told_the_same_things() -> None:
    async def scenario() -> None:
        async with FakeAsyncClient(merge=dynamo.merge.union) as fake:
            await fake.put("cart", ["tea"])
            fake.conflict("cart", ["jam"], ["milk"])
            assert sorted(await fake.get("cart")) == ["jam", "milk"]
            fake.time_out("cart", applied=False)
            with pytest.raises(dynamo.QuorumTimeout):
                await fake.put("cart", [])

            async def add(item: str) -> Any:
                return await fake.modify("cart", lambda held: [*held, item], [])

            await asyncio.gather(*(add(f"i{number}") for number in range(2)))
            assert len(await fake.get("cart")) == 4
            results = await fake.get_many(["cart", "nothing"])
            assert results.missing == ["nothing"]
            assert {call.op for call in fake.calls} == {"get", "put"}
            assert [entry.key async for entry in fake.scan()] == ["cart"]

    asyncio.run(scenario())


# --- Fixtures ---------------------------------------------------------------------------------


def test_the_fixture_for_a_fake(dynamo_fake: FakeClient) -> None:
    dynamo_fake.conflict("k", 1, 2)
    assert dynamo_fake.get("k", merge=max) == 2


@pytest.mark.dynamo_sim(nodes=5, faults="none")
def test_the_fixture_for_a_simulated_ring(dynamo_sim: dynamo.sim.Ring, dynamo_seed: int) -> None:
    assert dynamo_sim.nodes == ["n1", "n2", "n3", "n4", "n5"]
    assert dynamo_sim.faults == "none"
    assert dynamo_sim.seed == dynamo_seed
    dynamo_sim.client()["k"] = 1


OF_A_USER = """
import sys
import pytest

def test_that_needs_nothing():
    assert "zmq" not in sys.modules
    assert not [name for name in sys.modules if name.startswith(("dynamo.client", "dynamo.sim"))]

def test_that_fails(dynamo_sim):
    kv = dynamo_sim.client()
    kv.put("k", 1, timeout=10)
    assert kv.get("k", timeout=10) == 2

@pytest.mark.parametrize("dynamo_seed", [5, 6])
def test_of_seeds(dynamo_sim, dynamo_seed):
    assert dynamo_sim.seed in (5, 6)

def test_one_seed():
    import dynamo.sim
    assert len(dynamo.sim.seeds(9)) == {count}
"""


OF_A_USER_WITH_NODES = """
import pytest

SEEN = []

@pytest.mark.parametrize("number", [1, 2])
def test_own_bucket(dynamo_kv, dynamo_ring, number):
    assert dynamo_kv.get("k") is None
    dynamo_kv.put("k", number, timeout=5)
    assert dynamo_kv.name not in SEEN
    SEEN.append(dynamo_kv.name)
    dynamo_ring.kill("n2")  # the next test finds the ring whole again
    dynamo_ring.partition({"n1"}, {"n3"})
"""


def of_a_user(tmp_path: Path, text: str, *options: str) -> str:
    """Run the tests of somebody who has dynamo installed; `-p` stands for the entry point."""
    (tmp_path / "test_of_a_user.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    environment = {name: text for name, text in os.environ.items() if name != "DYNAMO_SEED"}
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider",
            "-p", "dynamo.testing.plugin", *options,
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
        env=environment | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    return done.stdout + done.stderr


def test_users_pay_nothing_and_see_the_seed_of_a_failure(tmp_path: Path) -> None:
    told = of_a_user(tmp_path, OF_A_USER.replace("{count}", "9"))
    assert "1 failed, 4 passed" in told, told
    assert "dynamo: dynamo.sim.Ring(nodes=3, seed=" in told
    assert "faults='mild')   again: pytest --dynamo-seed " in told
    assert "the story of 'k' in bucket 'default'" in told


def test_one_seed_can_be_asked_for(tmp_path: Path) -> None:
    told = of_a_user(tmp_path, OF_A_USER.replace("{count}", "1"), "--dynamo-seed", "77")
    assert "1 failed, 4 passed" in told, told
    assert "dynamo: dynamo.sim.Ring(nodes=3, seed=77, faults='mild')" in told


@pytest.mark.net
def test_each_test_on_real_nodes_has_its_own_bucket_and_a_whole_ring(tmp_path: Path) -> None:
    told = of_a_user(tmp_path, OF_A_USER_WITH_NODES)
    assert "2 passed" in told, told
