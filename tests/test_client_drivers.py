"""Both drivers over real sockets, against fake nodes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from client_fakes import FakeRing, failed, ring_is

import dynamo
from dynamo.core import messages as m
from dynamo.core.messages import Message

pytestmark = pytest.mark.net


@pytest.fixture
def ring() -> Iterator[FakeRing]:
    with FakeRing() as fake:
        yield fake


def silent(name: str, message: Message) -> Any:
    """A node that tells its ring and answers nothing else."""
    return NotImplemented if message[0] == m.RING else None


# --- the same story with both drivers ---------------------------------------------------------


def test_a_story_with_the_blocking_client(ring: FakeRing) -> None:
    with dynamo.connect(ring.url, wait=5) as kv:
        assert kv.get("a") is None
        assert kv.get("a", default=[]) == []
        kv["a"] = {"x": [1]}
        assert kv["a"] == {"x": [1]}
        assert "a" in kv
        assert "b" not in kv
        entry = kv.read("a")
        assert entry.value == {"x": [1]}
        assert entry.trace.coordinator == "n1"
        assert kv.put("a", 2, context=entry.context).acked_by == ["n1"]
        assert kv.modify("a", lambda x: x + 1) == 3
        del kv["a"]
        kv.delete("a")
        with pytest.raises(KeyError):
            kv["a"]
        written = kv.put_many({"a": 1, b"b": 2})
        assert sorted(map(str, written.found)) == ["a", "b'b'"]
        results = kv.get_many(["a", "b", "c"])
        assert (results.found, results.missing, results.failed) == ({"a": 1, "b": 2}, ["c"], {})
        assert kv.ping() < 5


def test_the_same_story_with_the_asyncio_client(ring: FakeRing) -> None:
    async def story() -> None:
        async with dynamo.connect_async(ring.url, wait=5) as kv:
            assert await kv.get("a") is None
            assert await kv.get("a", default=[]) == []
            await kv.put("a", {"x": [1]})
            entry = await kv.read("a")
            assert entry.value == {"x": [1]}
            assert entry.trace.coordinator == "n1"
            assert (await kv.put("a", 2, context=entry.context)).acked_by == ["n1"]
            assert await kv.modify("a", lambda x: x + 1) == 3
            await kv.delete("a")
            written = await kv.put_many({"a": 1, b"b": 2})
            assert sorted(map(str, written.found)) == ["a", "b'b'"]
            results = await kv.get_many(["a", "b", "c"])
            assert (results.found, results.missing, results.failed) == (
                {"a": 1, "b": 2},
                ["c"],
                {},
            )
            assert await kv.ping() < 5

    asyncio.run(story())


def test_both_clients_have_the_same_calls_with_the_same_arguments() -> None:
    import inspect

    for name in (
        "get",
        "read",
        "put",
        "delete",
        "modify",
        "get_many",
        "put_many",
        "bucket",
        "ping",
    ):
        one, other = getattr(dynamo.Bucket, name), getattr(dynamo.AsyncBucket, name)
        assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters)
        assert one.__doc__ == other.__doc__


def test_buckets_share_connections_and_not_keys(ring: FakeRing) -> None:
    with dynamo.connect(ring.url) as kv:
        carts = kv.bucket("carts", type=list[str], merge=dynamo.merge.union)
        carts["a"] = ["tea"]
        kv["a"] = "other"
        assert carts["a"] == ["tea"]
        assert kv.with_options(r=1, timeout=5).get("a") == "other"
        raw = kv.bucket("raw", codec="raw")
        raw["a"] = b"\x00"
        assert raw["a"] == b"\x00"


def test_scans_are_refused_with_advice(ring: FakeRing) -> None:
    with dynamo.connect(ring.url) as kv:
        for scan in (lambda: len(kv), lambda: list(kv), lambda: kv.clear()):
            with pytest.raises(TypeError, match="whole ring"):
                scan()
        assert kv


def test_one_conflict_resolved_with_either_driver() -> None:
    def two_values(name: str, message: Message) -> Any:
        if message[0] != m.GET:
            return NotImplemented
        return (m.GET_OK, message[1], b"both", [[2, b"\x01\x02"], [1, b"\x01\x01"]], [name])

    async def story(url: str) -> None:
        async with dynamo.connect_async(url) as kv:
            with pytest.raises(dynamo.ConflictError) as caught:
                await kv.get("k")
            await caught.value.resolve(3)

    with FakeRing(answer=two_values) as fake:
        with dynamo.connect(fake.url) as kv:
            with pytest.raises(dynamo.ConflictError) as caught:
                kv.get("k")
            assert caught.value.siblings == [2, 1]
            caught.value.resolve(3)
        asyncio.run(story(fake.url))
        puts = [message for _, batch in fake.frames for message in batch if message[0] == m.PUT]
        assert [(put[6], put[7], put[14]) for put in puts] == [(m.CAUSAL, b"both", b"\x01\x03")] * 2


# --- packing ----------------------------------------------------------------------------------


def test_what_one_turn_of_the_loop_issues_arrives_in_one_frame(ring: FakeRing) -> None:
    async def story() -> None:
        async with dynamo.connect_async(ring.url) as kv:
            await kv.ping()
            ring.frames.clear()
            await asyncio.gather(*(kv.put(f"k{i}", i) for i in range(100)))
            assert [(name, len(batch)) for name, batch in ring.frames] == [("n1", 100)]
            ring.frames.clear()
            await kv.get_many([f"k{i}" for i in range(100)])
            assert [(name, len(batch)) for name, batch in ring.frames] == [("n1", 100)]

    asyncio.run(story())


def test_a_batch_of_the_blocking_client_travels_in_one_frame(ring: FakeRing) -> None:
    with dynamo.connect(ring.url) as kv:
        kv.ping()
        ring.frames.clear()
        kv.put_many({f"k{i}": i for i in range(100)})
        assert [(name, len(batch)) for name, batch in ring.frames] == [("n1", 100)]


# --- failures ---------------------------------------------------------------------------------


def test_a_killed_node_is_left_at_once_and_not_by_timeout(ring: FakeRing) -> None:
    with dynamo.connect(ring.url, timeout=20) as kv:
        kv["a"] = 1
        ring.answer = lambda name, message: None if name == "n1" else NotImplemented
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(kv.put("a", 2)))
        thread.start()
        while not any(name == "n1" for name, _ in ring.frames[-1:]):
            time.sleep(0.001)
        began = time.monotonic()
        ring.kill("n1")
        thread.join(10)
        assert got
        assert got[0].acked_by == ["n2"]
        assert time.monotonic() - began < 2  # a third of the timeout would be 6.7 s


def test_deadlines_are_kept_by_both_drivers() -> None:
    async def story(url: str) -> float:
        async with dynamo.connect_async(url) as kv:
            await kv.ping()
            began = time.monotonic()
            with pytest.raises(TimeoutError) as caught:
                await kv.put("k", 1, timeout=0.15)
            assert caught.value.maybe_applied  # type: ignore[attr-defined]
            return time.monotonic() - began

    with FakeRing(answer=silent) as fake:
        with dynamo.connect(fake.url) as kv:
            kv.ping()
            began = time.monotonic()
            with pytest.raises(dynamo.QuorumTimeout):
                kv.get("k", timeout=0.15)
            assert 0.149 <= time.monotonic() - began < 1
        assert 0.149 <= asyncio.run(story(fake.url)) < 1


def test_a_deadline_block_only_shrinks_and_covers_several_calls() -> None:
    with FakeRing(answer=silent) as fake, dynamo.connect(fake.url, timeout=30) as kv:
        kv.ping()
        began = time.monotonic()
        with dynamo.deadline(0.1), dynamo.deadline(60):
            for _ in range(3):
                with pytest.raises(dynamo.QuorumTimeout):
                    kv.get("k")
        assert time.monotonic() - began < 2
        with pytest.raises(dynamo.ConfigurationError):
            dynamo.deadline(0)


def test_unreachable_seeds_are_listed_one_by_one() -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(dynamo.ConnectionFailed) as caught:
            dynamo.connect(f"dynamo://{address}", wait=0.1)
        assert list(caught.value.seeds) == [address]
        assert "no connection" in str(caught.value)
        assert isinstance(caught.value, ConnectionError)


def test_refusals_reach_the_caller_with_their_numbers() -> None:
    def refuse(name: str, message: Message) -> Any:
        if message[0] == m.RING:
            return NotImplemented
        return failed(message[1], m.UNAVAILABLE, "w=2 needs 2 nodes", required=2, received=1)

    with FakeRing(answer=refuse) as fake, dynamo.connect(fake.url) as kv:
        with pytest.raises(dynamo.QuorumUnavailable) as caught:
            kv.put("k", 1)
        assert (caught.value.required, caught.value.alive) == (2, 1)
        assert not caught.value.maybe_applied


def test_via_talks_to_one_node_only(ring: FakeRing) -> None:
    _, host, port = ring.members[2]
    for via in ("n3", f"{host}:{port}"):
        with dynamo.connect(ring.url, via=via) as kv:
            ring.frames.clear()
            kv.put_many({f"k{i}": i for i in range(50)})
            assert {name for name, _ in ring.frames} == {"n3"}


# --- threads ----------------------------------------------------------------------------------


def test_eight_threads_share_one_client(ring: FakeRing) -> None:
    errors: list[BaseException] = []

    def work(kv: dynamo.Client, me: int) -> None:
        try:
            for i in range(150):
                kv.put(f"{me}-{i % 7}", (me, i))
                assert kv.get(f"{me}-{i % 7}") == (me, i)
            assert len(kv.get_many([f"{me}-{i}" for i in range(7)]).found) == 7
        except BaseException as error:
            errors.append(error)

    with dynamo.connect(ring.url, timeout=20) as kv:
        threads = [threading.Thread(target=work, args=(kv, me)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert errors == []


def test_a_thread_with_a_short_call_leaves_the_lead_to_one_with_a_long_call() -> None:
    """The leader leaves while a follower still waits: somebody must go on receiving."""
    release = threading.Event()

    def slow_for_some(name: str, message: Message) -> Any:
        if message[0] == m.GET and message[3].endswith(b"slow") and not release.is_set():
            return None
        return NotImplemented

    with FakeRing(answer=slow_for_some) as fake, dynamo.connect(fake.url, timeout=20) as kv:
        kv["slow"] = 1
        outcome: list[Any] = []

        def follow() -> None:
            with contextlib.suppress(dynamo.QuorumTimeout):
                outcome.append(kv.get("slow", timeout=0.4))
            outcome.append("ended")

        first = threading.Thread(target=lambda: _ignore_timeout(kv))
        second = threading.Thread(target=follow)
        first.start()
        second.start()
        first.join(10)
        second.join(10)
        assert outcome == ["ended"]
        release.set()
        assert kv["slow"] == 1


def _ignore_timeout(kv: dynamo.Client) -> None:
    with contextlib.suppress(dynamo.QuorumTimeout):
        kv.get("slow", timeout=0.1)


def test_ctrl_c_in_the_leading_thread_leaves_the_client_usable() -> None:
    with FakeRing(answer=silent) as fake, dynamo.connect(fake.url, timeout=20) as kv:
        kv.ping()
        begun = threading.Event()

        def press() -> None:
            begun.wait(5)
            while not fake.frames:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)

        presser = threading.Thread(target=press)
        presser.start()
        begun.set()
        with pytest.raises(KeyboardInterrupt):
            kv.get("k")
        presser.join(5)
        assert kv._core.session.in_flight == 0
        fake.answer = None
        kv["k"] = 1
        assert kv["k"] == 1


def test_closing_ends_calls_of_other_threads() -> None:
    with FakeRing(answer=silent) as fake:
        kv = dynamo.connect(fake.url, timeout=20)
        kv.ping()
        caught: list[BaseException] = []

        def call() -> None:
            try:
                kv.put("k", 1)
            except dynamo.ClientClosed as error:
                caught.append(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        while kv._core.session.in_flight < 3:
            time.sleep(0.001)
        kv.close()
        for thread in threads:
            thread.join(10)
        assert len(caught) == 3
        assert all(error.maybe_applied for error in caught)  # type: ignore[attr-defined]
        kv.close()
        with pytest.raises(dynamo.ClientClosed):
            kv.get("k")


def test_a_forked_child_is_told_and_the_parent_is_unharmed(ring: FakeRing) -> None:
    with dynamo.connect(ring.url, timeout=20) as kv:
        kv["a"] = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
            child = os.fork()
        if child == 0:
            code = 1
            try:
                kv.get("a")
            except dynamo.ClientForked:
                try:
                    kv.get_many(["a"])
                except dynamo.ClientForked:
                    kv.close()
                    code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert kv["a"] == 1


def test_a_client_that_nobody_closed_warns_with_the_line_that_made_it(ring: FakeRing) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kv = dynamo.connect(ring.url)
        del kv
        gc.collect()
        kv2 = dynamo.connect_async(ring.url)
        del kv2
        gc.collect()
    ours = [str(w.message) for w in caught if "dynamo client" in str(w.message)]
    assert len(ours) == 2
    assert all(__file__ in text for text in ours)


# --- asyncio ----------------------------------------------------------------------------------


def test_a_cancelled_call_is_forgotten() -> None:
    async def story(url: str) -> None:
        async with dynamo.connect_async(url, timeout=20) as kv:
            await kv.ping()
            one = asyncio.ensure_future(kv.put("k", 1))
            many = asyncio.ensure_future(kv.put_many({f"k{i}": i for i in range(20)}))
            await asyncio.sleep(0.02)
            assert kv._core.session.in_flight == 21
            one.cancel()
            many.cancel()
            await asyncio.gather(one, many, return_exceptions=True)
            assert kv._core.session.in_flight == 0

    with FakeRing(answer=silent) as fake:
        asyncio.run(story(fake.url))


def test_an_asyncio_client_belongs_to_one_loop(ring: FakeRing) -> None:
    kv = dynamo.connect_async(ring.url)

    async def use() -> None:
        await kv.put("k", 1)

    asyncio.run(use())
    with pytest.raises(dynamo.ConfigurationError, match="one client per loop"):
        asyncio.run(use())
    asyncio.run(kv.aclose())
    with pytest.raises(dynamo.ClientClosed):
        asyncio.run(use())


def test_closing_ends_calls_of_other_tasks() -> None:
    async def story(url: str) -> None:
        kv = dynamo.connect_async(url, timeout=20)
        await kv.ping()
        job = asyncio.ensure_future(kv.put("k", 1))
        await asyncio.sleep(0.01)
        await kv.aclose()
        with pytest.raises(dynamo.ClientClosed):
            await job

    with FakeRing(answer=silent) as fake:
        asyncio.run(story(fake.url))


def test_more_calls_at_once_than_allowed_are_shed_and_batches_wait(ring: FakeRing) -> None:
    async def story() -> None:
        async with dynamo.connect_async(ring.url, max_in_flight=10) as kv:
            await kv.ping()
            calls = (kv.put(f"k{i}", i) for i in range(30))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert sum(isinstance(o, dynamo.Overloaded) for o in outcomes) == 20
            assert len((await kv.put_many({f"k{i}": i for i in range(200)})).found) == 200

    asyncio.run(story())


def test_large_values_and_many_frames_arrive_whole(ring: FakeRing) -> None:
    async def story() -> None:
        async with dynamo.connect_async(ring.url, timeout=20) as kv:
            big = {f"k{i}": os.urandom(300_000) for i in range(20)}
            (await kv.put_many(big)).check()
            assert (await kv.get_many(big)).found == big

    asyncio.run(story())


def test_a_client_that_is_dropped_without_close_warns_and_does_not_hang():
    """Also when the collector finds it in a cycle, and sockets and context in any order."""
    script = """
import gc, dynamo
for _ in range(5):
    kv = dynamo.connect("dynamo://127.0.0.1:9")
    try:
        kv.get("k", timeout=0.05)
    except dynamo.DynamoError as error:
        ring = [kv, error]
        ring.append(ring)
    del kv, ring
    gc.collect()
print("done")
"""
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", script], capture_output=True, text=True, timeout=30
    )
    assert ran.stdout == "done\n", ran.stderr
    assert "unclosed dynamo client" in ran.stderr


# --- a ring that changes under a client -------------------------------------------------------


class Changing:
    """Four nodes of which three are the ring: n1, n2, n3 at first, then n2, n3, n4."""

    def __init__(self) -> None:
        self.moved = False
        self.fake = FakeRing(nodes=4, answer=self.answer)

    def answer(self, name: str, message: Message) -> Any:
        members = self.fake.members[1:] if self.moved else self.fake.members[:3]
        if message[0] == m.RING:
            full = ring_is(message[1], members, version=2 if self.moved else 1)
            return (*full[:9], b"", full[10]) if message[3] == full[3] else full
        if name not in [member[0] for member in members]:
            return failed(message[1], m.NOT_A_MEMBER, f"{name} has left the ring")
        return NotImplemented

    @property
    def addresses(self) -> list[str]:
        return [f"{host}:{port}" for _, host, port in self.fake.members]


def test_the_blocking_client_follows_a_ring_in_which_nodes_come_and_go() -> None:
    changing = Changing()
    with changing.fake as fake, dynamo.connect(fake.url_of("n1"), timeout=10) as kv:
        wires = kv._core._wires
        kv["k"] = 1
        assert sorted(wires._sockets) == sorted(changing.addresses[:3])
        old = [wires._sockets[address] for address in changing.addresses[:3]]
        changing.moved = True
        kv["k"] = 2  # refused by n1, and kept by n2
        time.sleep(0.15)  # a question that follows another one at once waits so long
        for number in range(50):
            kv["k"] = number
        assert kv["k"] == 49
        assert sorted(wires._sockets) == sorted(changing.addresses[1:])
        assert [socket.closed for socket in old] == [True, False, False]
        fake.frames.clear()
        kv.put_many({f"k{number}": number for number in range(50)}, raise_on_error=True)
        assert "n1" not in [name for name, _ in fake.frames]


def test_threads_share_a_client_while_nodes_come_and_go() -> None:
    changing = Changing()
    errors: list[BaseException] = []
    over = threading.Event()

    def work(kv: dynamo.Client, me: int) -> None:
        try:
            number = 0
            while not over.is_set() or number < 5:
                number += 1
                kv.put(f"k{me}", number)
                assert kv.get(f"k{me}") == number
        except BaseException as error:
            errors.append(error)

    with changing.fake as fake, dynamo.connect(fake.url_of("n2"), timeout=20) as kv:
        threads = [threading.Thread(target=work, args=(kv, me)) for me in range(6)]
        for thread in threads:
            thread.start()
        for moved in (True, False, True):  # its version falls as well, which no client believes
            time.sleep(0.3)
            changing.moved = moved
        over.set()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert errors == []
        assert sorted(kv._core._wires._sockets) == sorted(changing.addresses[1:])


def test_the_asyncio_client_follows_a_ring_in_which_nodes_come_and_go() -> None:
    changing = Changing()

    async def story(fake: FakeRing) -> None:
        async with dynamo.connect_async(fake.url_of("n1"), timeout=10) as kv:
            wires = kv._core._wires
            await kv.put("k", 1)
            changing.moved = True
            await kv.put("k", 2)
            await asyncio.sleep(0.15)
            for number in range(50):
                await asyncio.gather(*[kv.put(f"k{at}", number) for at in range(4)])
            assert await kv.get("k3") == 49
            assert sorted(wires._sockets) == sorted(changing.addresses[1:])
            fake.frames.clear()
            await kv.put_many({f"k{number}": number for number in range(50)}, raise_on_error=True)
            assert "n1" not in [name for name, _ in fake.frames]

    with changing.fake as fake:
        asyncio.run(story(fake))


def test_a_node_that_leaves_while_its_answer_is_waited_for_may_still_give_it() -> None:
    changing = Changing()
    release = threading.Event()
    ordinary = changing.answer

    def slow_for_one(name: str, message: Message) -> Any:
        if message[0] == m.PUT and message[3].endswith(b"slow") and name == "n1":
            release.wait(5)
            return NotImplemented
        return ordinary(name, message)

    changing.fake.answer = slow_for_one
    with changing.fake as fake, dynamo.connect(fake.url_of("n1"), timeout=10) as kv:
        kv["k"] = 1
        wires, gone = kv._core._wires, changing.addresses[0]
        slow = threading.Thread(target=lambda: kv.put("slow", 1))
        slow.start()
        changing.moved = True
        release.set()  # one thread serves all nodes of the fake: it answers this put first
        slow.join(10)
        assert not slow.is_alive()
        kv["k"] = 2
        time.sleep(0.15)
        for number in range(20):
            kv["k"] = number
        assert gone not in wires._sockets
        assert fake.values
