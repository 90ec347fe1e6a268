"""A scan by the walk of the real client, and what it must not miss.

Every key with a value that W owners acknowledged before the scan began is yielded exactly once,
unless somebody deletes it, or its time runs out; or the scan ends with an error that says so.
"""

from __future__ import annotations

from collections.abc import Generator

from dynamo.client.errors import DynamoError
from dynamo.client.op import Op
from dynamo.client.options import Options
from dynamo.client.scan import Walk
from dynamo.core import messages as m
from dynamo.core import ring
from dynamo.sim.workload import Client, Lane

OPTIONS = Options()


def scan(client: Client, prefix: bytes, timeout_ms: int = 900) -> Lane:
    """Walk over all keys that begin with `prefix`, and judge what came."""
    oracle, world = client.oracle, client.world
    arcs = world.config.partitions

    def until(seconds: float | None) -> int:
        asked_ms = timeout_ms if seconds is None else int(seconds * 1_000)
        return world.now_ms + min(asked_ms, timeout_ms)

    def get(full: bytes) -> Op:
        return Op(m.GET, full, until(None), (m.QUORUM, m.QUORUM, 0))

    began_ms = world.now_ms
    keys = oracle.keys()
    due = [key for key in keys if key.startswith(prefix) and oracle.of(key).strict]
    walk = Walk(prefix, None, m.QUORUM, OPTIONS, until, get, lambda: client.memory.clock)
    found: list[bytes] = []
    try:
        while not walk.complete:
            yield from _fetch(walk)
            while (item := walk.take()) is not None:
                found.append(item.full)
                uids = oracle.payloads(item.full, item.answer[3], f"to a scan by {client.name}")
                oracle.shown(item.full, uids, world.now_ms)
    except DynamoError:
        world.mark("scan gave up")
        return
    world.mark("scan completed")
    oracle.scanned(due, found, began_ms, world.now_ms)
    order = [ring.storage_key(key, arcs) for key in found]
    if order != sorted(order):
        oracle.accuse("I6", prefix, f"a scan by {client.name} went back and forth")


def _fetch(walk: Walk) -> Generator[list[Op], None, None]:
    """Carry out one fetch: all operations that it wants, before it gets any of them back."""
    flow = walk.fetch()
    ops = next(flow, None)
    while ops is not None:
        yield ops
        try:
            ops = flow.send(ops)
        except StopIteration:
            return
