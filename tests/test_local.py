"""`dynamo.local`: real rings of real processes do what the contract says, and leave nothing behind.

Rings are shared where a test leaves the ring as it found it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dynamo
from dynamo.convergence import _Verdict, unpack_owners
from dynamo.localring import Ring, local
from dynamo.processes import NodeFailed, free_ports

pytestmark = pytest.mark.net


def pids(ring: Ring) -> dict[str, int]:
    return {name: process.pid for name, process in ring._processes.items()}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def soon(condition: Any, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def states(ring: Ring) -> dict[str, str]:
    return {node["name"]: node["state"] for node in ring.status()["nodes"]}


@pytest.fixture(scope="module")
def shared_five() -> Iterator[Ring]:
    with local(nodes=5, durability="memory") as ring:
        yield ring


@pytest.fixture(scope="module")
def shared_three() -> Iterator[Ring]:
    with local(nodes=3) as ring:
        yield ring


@pytest.fixture
def five(shared_five: Ring) -> Iterator[Ring]:
    """Five nodes in memory, whole again after each test."""
    yield shared_five
    restore(shared_five)


@pytest.fixture
def three(shared_three: Ring) -> Iterator[Ring]:
    """Three nodes on disk, whole again after each test."""
    yield shared_three
    restore(shared_three)


def restore(ring: Ring) -> None:
    ring.heal()
    for name in ring.nodes:
        ring.start(name)


# --- Life of a ring ---------------------------------------------------------------------------


def test_a_ring_serves_when_entered_and_leaves_neither_process_nor_file() -> None:
    with local(nodes=3, durability="memory") as ring:
        assert ring.nodes == ["n1", "n2", "n3"]
        assert ring.url.count(",") == 2
        assert ring.url_of("n2")[len("dynamo://") :] in ring.url
        assert set(states(ring).values()) == {"up"}
        with ring.client() as kv:
            kv["a"] = 1
            assert kv["a"] == 1
        running, path = pids(ring), ring.path
        assert all(alive(pid) for pid in running.values())
    assert not any(alive(pid) for pid in running.values())
    assert not path.exists()
    ring.close()  # again: nothing happens
    with pytest.raises(RuntimeError, match="not open"):
        _ = ring.url


def test_an_exception_in_the_block_leaves_nothing_behind_either() -> None:
    running: dict[str, int] = {}

    def fail_in_the_block() -> None:
        with local(nodes=2, durability="memory") as ring:
            running.update(pids(ring))
            ring.pause("n2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_block()
    assert len(running) == 2
    assert not any(alive(pid) for pid in running.values())


PARENT = """
import json, os, signal
from dynamo.localring import local
ring = local(nodes=2, durability="memory").__enter__()
ring.pause("n2")
print(json.dumps([process.pid for process in ring._processes.values()]), flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit(0)"])
def test_nodes_do_not_outlive_the_process_that_started_them(end: str, tmp_path: Path) -> None:
    parent = subprocess.run(
        [sys.executable, "-c", PARENT.format(end=end)],
        stdout=subprocess.PIPE,
        timeout=60,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # a killed parent cannot clean up
    )
    running = json.loads(parent.stdout)
    assert len(running) == 2
    assert soon(lambda: not any(alive(pid) for pid in running))


def test_one_node_with_a_path_is_the_durable_embedded_form(tmp_path: Path) -> None:
    with local(nodes=1, path=tmp_path / "data") as ring, ring.client() as kv:
        kv["a"] = {"b": [1, 2]}
    assert (tmp_path / "data" / "n1").is_dir()
    with local(nodes=1, path=tmp_path / "data") as ring, ring.client() as kv:
        assert kv["a"] == {"b": [1, 2]}


def test_a_ring_is_not_opened_in_another_shape(tmp_path: Path) -> None:
    with local(nodes=1, path=tmp_path, partitions=16):
        pass
    with (
        pytest.raises(ValueError, match=r"nodes=1, n=3, partitions=16, not nodes=2.*open it as it"),
        local(nodes=2, path=tmp_path, partitions=16),
    ):
        pass


def test_a_ring_that_is_opened_again_is_at_its_old_ports_and_holds_what_it_held(
    tmp_path: Path,
) -> None:
    with local(nodes=3, path=tmp_path, zones=("east", "west")) as ring, ring.client() as kv:
        kv["a"] = 1
        before = ring.url
        members = (tmp_path / "n2" / "node.toml").read_text()
        assert [line for line in members.splitlines() if line.startswith("zone")] == [
            'zone = "east"',
            'zone = "west"',
            'zone = "east"',
        ]
    with local(nodes=3, path=tmp_path) as ring, ring.client() as kv:
        assert ring.url == before
        assert kv["a"] == 1
    port = ring_port(before)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with local(nodes=3, path=tmp_path) as ring, ring.client() as kv:
            assert ring.url != before
            assert kv["a"] == 1


def ring_port(url: str) -> int:
    return int(url.rpartition(":")[2])


# --- Nodes that come --------------------------------------------------------------------------


def test_a_node_that_is_added_is_known_to_all_and_owns_nothing(tmp_path: Path) -> None:
    with local(nodes=2, path=tmp_path) as ring, ring.client() as kv:
        kv["a"] = 1
        assert ring.add_node(zone="west") == "n3"
        assert ring.nodes == ["n1", "n2", "n3"]
        file = (tmp_path / "n3" / "node.toml").read_text()
        assert 'zone = "west"' in file
        assert "[[members]]" not in file
        answers = ring._ask_status(ring.nodes, 2.0)
        assert all(len(answers[name]["peers"]) == 2 for name in ring.nodes)
        with (
            ring.client(via="n3") as there,
            pytest.raises(dynamo.QuorumUnavailable, match="n3 does not belong to the ring yet"),
        ):
            there.get("a", timeout=0.5)
        kv["a"] = 2
        with pytest.raises(ValueError, match="there is a node 'n2' already"):
            ring.add_node("n2")
        ring.partition({"n1", "n3"}, {"n2"})
        assert ring.add_node("late") == "late"
        assert ring._blocked_at("late") == ["n1", "n2", "n3"]
        ring.heal()
        ring.wait_converged(20)
        ring.stop("n3")
        ring.start("n3")
    with local(nodes=4, path=tmp_path) as ring, ring.client() as kv:
        assert ring.nodes == ["n1", "n2", "n3", "late"]
        assert kv["a"] == 2


# --- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"nodes": 0}, "nodes must be 1 to 100, not 0"),
        ({"nodes": "3"}, "nodes must be 1 to 100, not '3'"),
        ({"durability": "sync"}, "must be one of fsync, interval, memory, not 'sync'"),
        ({"partition": 8}, "unknown option 'partition'; did you mean 'partitions'"),
        ({"partitions": 100}, "must be a power of two"),
        ({"n": 2, "w": 3}, "w=3 can never be met with n=2"),
        ({"nodes": 2, "r": 3}, "r=3 can never be met by 2 nodes"),
        ({"probe_ms": 0.5}, "probe_ms must be a whole number, not 0.5"),
    ],
)
def test_what_cannot_work_is_refused_before_a_process_starts(
    arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(dynamo.ConfigurationError) as caught:
        local(**arguments)
    assert sentence in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_node_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(NodeFailed, match=r"(?s)exit code 2.*node\.log_level must be one of debug"),
        local(nodes=2, durability="memory", log_level="loud"),
    ):
        pass


def test_names_that_are_not_in_the_ring_are_refused_with_those_that_are(three: Ring) -> None:
    for act in (three.kill, three.stop, three.start, three.pause, three.resume, three.url_of):
        with pytest.raises(ValueError, match="no node 'n9'; this ring has n1, n2, n3"):
            act("n9")
    with pytest.raises(ValueError, match="no node 'n9'"):
        three.partition({"n1"}, {"n9"})
    with pytest.raises(ValueError, match="n1 is in two sets"):
        three.partition({"n1"}, {"n1", "n2"})
    with pytest.raises(ValueError, match="no node 'n9'"):
        three.client(via="n9")


# --- One node ---------------------------------------------------------------------------------


def test_what_was_written_while_a_node_was_dead_is_there_when_it_is_back(three: Ring) -> None:
    with three.client() as kv:
        kv.put_many({f"key-{number}": number for number in range(50)}, raise_on_error=True)
        old = pids(three)["n2"]
        three.kill("n2")
        three.kill("n2")  # again: nothing happens
        assert not alive(old)
        kv.put_many({f"key-{number}": -number for number in range(50)}, raise_on_error=True)
        with pytest.raises(dynamo.NotConverged) as caught:
            three.wait_converged(0.3)
        assert "no answer from n2" in str(caught.value)
        assert caught.value.nodes[0] == "n2"
        assert isinstance(caught.value, TimeoutError)
        three.start("n2")
        assert pids(three)["n2"] != old
        three.wait_converged(20)
        assert three.status()["hints"] == 0
        with three.client(via="n2") as there:
            found = there.get_many([f"key-{number}" for number in range(50)], r="all").found
        assert found == {f"key-{number}": -number for number in range(50)}


def test_a_stopped_node_ends_cleanly_and_starts_again(three: Ring) -> None:
    three.stop("n3")
    three.stop("n3")
    assert three._processes["n3"].exit_code == 0
    with pytest.raises(NodeFailed, match="n3 is not running"):
        three.pause("n3")
    three.start("n3")
    three.start("n3")
    assert set(states(three).values()) == {"up"}


def test_a_paused_node_is_missed_and_comes_back(three: Ring) -> None:
    three.pause("n1")
    three.pause("n1")
    assert soon(lambda: states(three)["n1"] == "down")
    with three.client(via="n2") as kv:
        kv["while paused"] = 1
    three.resume("n1")
    assert states(three)["n1"] == "up"
    three.wait_converged(20)
    three.pause("n1")
    three.stop("n1")  # a paused node can be stopped, too
    assert three._processes["n1"].exit_code == 0
    three.start("n1")


def test_a_wiped_node_is_filled_again_by_the_others(three: Ring) -> None:
    with three.client() as kv:
        kv.put_many({f"wiped-{number}": number for number in range(20)}, raise_on_error=True)
        # More starts than the empty store will have: its start counter falls back to 1.
        for _ in range(2):
            three.kill("n2")
            three.start("n2")
        three.kill("n2")
        for file in sorted((three.path / "n2" / "data").iterdir()):
            file.unlink()
        three.start("n2")
        three.wait_converged(20)
        assert len(kv.get_many([f"wiped-{number}" for number in range(20)], r="all").found) == 20


# --- Partitions -------------------------------------------------------------------------------


def test_a_partition_keeps_both_sides_writable_and_apart_until_it_heals(five: Ring) -> None:
    five.partition({"n1", "n2"})  # the others form one further group
    with five.client(via="n1") as left, five.client(via="n4") as right:
        left.put("cart", "tea", timeout=5)
        right.put("cart", "jam", timeout=5)
        assert left.get("cart", timeout=5) == "tea"
        assert right.get("cart", timeout=5) == "jam"
    five.heal()
    five.wait_converged(20)
    with five.client() as kv:
        assert sorted(kv.read("cart", r="all").siblings) == ["jam", "tea"]


def test_nodes_that_come_back_during_a_partition_are_cut_off_as_well(five: Ring) -> None:
    five.pause("n1")
    five.kill("n2")
    five.partition(["n1", "n2"], ["n3", "n4", "n5"])
    five.resume("n1")
    five.start("n2")
    with five.client(via="n2") as left, five.client(via="n4") as right:
        left.put("left", 1, w=1, timeout=5)
        right.put("right", 1, timeout=5)
        assert right.get("left", timeout=5) is None

    def opinions(name: str) -> set[str]:
        seen = five._ask_status([name], 1.0)[name]["peers"]
        return {seen[other] for other in ("n3", "n4", "n5")}

    assert soon(lambda: opinions("n1") == opinions("n2") == {"down"})
    five.heal()
    five.wait_converged(20)
    with five.client() as kv:
        assert kv.get("left", r="all") == kv.get("right", r="all") == 1


def test_the_status_has_the_shape_of_the_command_line(five: Ring) -> None:
    found = five.status()
    assert found["cluster"] == "local"
    assert found["nodes"][0] == {
        "name": "n1",
        "address": five.url_of("n1").removeprefix("dynamo://"),
        "state": "up",
    }
    assert found["hints"] == 0
    assert found["ring"] == {"version": 1, "partitions": 64, "n": 3}


# --- The verdict of wait_converged ------------------------------------------------------------


def answer(hints: int = 0, **roots: str) -> dict[str, Any]:
    owed = {"c": hints} if hints else {}
    return {"hints": hints, "owed": owed, "roots": {k[1:]: v for k, v in roots.items()}}


def verdict() -> _Verdict:
    made = _Verdict(["a", "b", "c"])
    made.learn_owners([("a", "b"), ("b", "c")])
    return made


def test_roots_count_only_from_the_round_after_the_last_hint() -> None:
    """W1: the home was asked before a hint was delivered to it, and the stand-in after."""
    judge = verdict().judge
    assert not judge({"a": answer(), "b": answer(), "c": answer(hints=1)})
    assert not judge({"a": answer(), "b": answer(), "c": answer()})
    assert not judge({"a": answer(r0="1"), "b": answer(), "c": answer()})
    assert judge({"a": answer(r0="1"), "b": answer(r0="1"), "c": answer()})


def test_an_arc_once_seen_equal_is_done_although_writes_go_on() -> None:
    judge = verdict().judge
    judge({"a": answer(), "b": answer(), "c": answer()})
    assert not judge({"a": answer(r0="1"), "b": answer(r0="1", r1="7"), "c": answer()})
    assert judge({"a": answer(r0="2"), "b": answer(r0="1", r1="7"), "c": answer(r1="7")})


def test_a_silent_node_may_hold_the_only_difference() -> None:
    seen = verdict()
    seen.judge({"a": answer(), "b": answer(), "c": answer()})
    assert not seen.judge({"a": answer(), "b": answer()})
    error = seen.error(1.0)
    assert "no answer from c" in str(error)
    assert "1 arcs differ: 1 (b, c)" in str(error)
    assert (error.arcs, error.nodes) == ([1], ["c", "b"])


def test_hints_left_are_named_by_their_home() -> None:
    seen = verdict()
    seen.judge({"a": answer(hints=1200), "b": answer(hints=34), "c": answer()})
    assert "hints left: 1,234 for c" in str(seen.error(2.0))
    assert seen.error(2.0).nodes == ["c"]


def test_packed_owners_are_read_back() -> None:
    packed = b"\x02\x00\x01\x00\x02\x01\x00\x00"
    assert unpack_owners(packed, ["a", "b", "c"]) == [("b", "c"), ("a",)]


def test_ports_lie_where_outgoing_connections_do_not_take_them() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    assert all(10_000 <= port < 65_536 for port in found)
