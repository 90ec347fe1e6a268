"""The verdict on a ring at rest: every key, every owner, every node, read or never read.

read      each key through nodes that are asked for all its owners; keys that were much written
          through every node, the others through two
compare   what is shown, and what each owner's own row says, with what was promised (`oracle`)
look      at rows as bytes: equal, intact, only where they belong, only of keys that were put
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial

from dynamo.core import dvv, ring
from dynamo.core.replica import CHECK_BYTES, intact
from dynamo.core.spaces import OBJECTS
from dynamo.sim.acts import SET_PREFIX, elements
from dynamo.sim.caller import Reader
from dynamo.sim.inspector import Inspector
from dynamo.sim.judges import clock_of
from dynamo.sim.reach import UNDERSTOOD_MS
from dynamo.sim.world import World

BUSY_WRITES = 5  # a key with as many writes is read through every node
READ_MS = 2_000
INSPECT_MS = 20
DRAIN_MS = 4_000  # beyond the longest wait for a lost message

Rows = dict[str, dict[bytes, bytes]]  # host -> storage key -> record


def judge(world: World, rest: Callable[[], object], read_ms: int = READ_MS) -> None:
    """Judge a world that is at rest. `rest` lets it come to rest once more, after the reading:
    a read finds damage that nobody had come upon, and what it finds is mended after it. For as
    long as that takes, `read_ms` at most, a read of all owners is asked for again."""
    oracle = world.oracle
    keys = oracle.keys()
    began_ms = world.now_ms
    readers = _read(world, keys, read_ms)
    for reader in readers:
        for key, text in reader.failures.items():
            oracle.accuse("I13", key, f"a healed ring did not answer {reader.name}: {text}")
    rest()
    rows = {name: dict(world.hosts[name].disk.scan(OBJECTS)) for name in world.running}
    dead_at = cache(partial(_dead, world))
    for key in keys:
        _judge_key(world, key, readers, rows, dead_at, began_ms)
    _judge_rows(world, rows)
    oracle.hints_at_rest(
        {
            name: sum(host.node.handoff.counts().values())
            for name, host in world.hosts.items()
            if host.node is not None
        }
    )
    _drain(world)
    _inspect(world, keys)
    for each in world.judges:
        each.at_rest()


def _inspect(world: World, keys: list[bytes]) -> None:
    """Ask every node about itself, and about the key that most was written to."""
    operator = Inspector(world)
    busiest = sorted(keys, key=lambda key: -len(world.oracle.writes_of(key)))[:1]
    for name in world.running:
        for what in ("status", "hints", *(f"key {key.hex()}" for key in busiest)):
            operator.ask(name, what)
    world.run_until(world.now_ms + INSPECT_MS)
    operator.judge(busiest)


def _drain(world: World) -> None:
    """Let what is under way among nodes come to its end, lost pages and lost hints too.

    Pages of a node whose clock stood still are dropped, and sent again, until that is understood.
    """
    until_ms = max(world.now_ms, world.thawed_ms + UNDERSTOOD_MS) + DRAIN_MS
    while world.now_ms < until_ms and not all(each.is_idle() for each in world.judges):
        world.run_until(world.now_ms + 50)


def _read(world: World, keys: list[bytes], read_ms: int) -> list[Reader]:
    rng = random.Random(f"{world.seed}/readers")
    inside = [name for name in world.running if world.census.inside(name)]
    readers = {name: Reader(name, world, rng) for name in inside}
    names = list(readers)
    asked: dict[str, list[bytes]] = {name: [] for name in names}
    for key in keys:
        many = len(world.oracle.writes_of(key)) >= BUSY_WRITES
        for name in names if many else rng.sample(names, min(2, len(names))):
            asked[name].append(key)
    until_ms = world.now_ms + read_ms
    for name, reader in readers.items():
        reader.read(asked[name], until_ms)
    while world.now_ms < until_ms and any(reader.busy for reader in readers.values()):
        world.run_until(world.now_ms + 20)
    return list(readers.values())


def _judge_key(
    world: World, key: bytes, readers: list[Reader], rows: Rows,
    dead_at: Callable[[tuple[str, ...]], dict[bytes, None]], began_ms: int,
) -> None:  # fmt: skip
    oracle = world.oracle
    owners = world.table.owners(ring.arc_of(key, world.config.partitions))
    skey = ring.storage_key(key, world.config.partitions)
    views: dict[str, list[str]] = {}
    held: dict[str, None] = {}
    ends: dict[str, int] = {}  # uid -> when it expires
    found: dict[str, None] = {}  # elements of a set
    dead: dict[bytes, None] = {}
    if any(write.attempts > 1 for write in oracle.writes_of(key)):
        dead = dead_at(owners)
    for name in owners:
        record = rows.get(name, {}).get(skey)
        if record is None or not intact(skey, record):
            continue
        values = dvv.values_of(clock_of(record[CHECK_BYTES:]))
        named = [world.uids.get(value[0], value[0].hex()) for value in values]
        held.update(dict.fromkeys(named))
        # A row may hold a second dot of a superseded put, which readers do not get to see (D5).
        views[f"the disk of {name}"] = [
            world.uids.get(value[0], value[0].hex())
            for value in dvv.live(clock_of(record[CHECK_BYTES:]), 0, dead)
        ]
        for uid, value in zip(named, values, strict=True):
            if value[3]:  # a put under two dots has two ends, by the clocks of two coordinators
                ends[uid] = max(ends.get(uid, 0), value[3])
    for reader in readers:
        if key not in reader.answers:
            continue
        answer = reader.answers[key]
        uids = views[reader.name] = oracle.payloads(key, answer, f"to {reader.name} at rest")
        if reader.node in owners:
            wall_ms = began_ms + world.hosts[reader.node].wall_ms
            _judge_age(world, key, uids, ends, reader.node, wall_ms)
        if key.startswith(SET_PREFIX):
            for _, payload in answer:
                found.update(dict.fromkeys(elements(payload)))
    oracle.at_rest(key, views, list(held))
    if key.startswith(SET_PREFIX) and any(key in reader.answers for reader in readers):
        oracle.set_read(key, found, world.now_ms + 1, world.now_ms)


def _dead(world: World, owners: tuple[str, ...]) -> dict[bytes, None]:
    """The ids of superseded puts that any of these remembers."""
    nodes = [world.hosts[name].node for name in owners]
    return {put_id: None for node in nodes if node is not None for put_id in node.replica.dead}


def _judge_age(
    world: World, key: bytes, uids: list[str], ends: dict[str, int], node: str, wall_ms: int
) -> None:
    for uid in uids:
        if 0 < ends.get(uid, 0) <= wall_ms:
            world.oracle.accuse(
                "I3", key, f"{node} shows {uid}, which expired {wall_ms - ends[uid]} ms before"
            )


def _judge_rows(world: World, rows: Rows) -> None:
    oracle = world.oracle
    known = dict.fromkeys(oracle.keys())
    strays: dict[str, list[bytes]] = {}
    owned: dict[str, Rows] = {
        str(arc): {name: {} for name in world.table.owners(arc)}
        for arc in range(world.config.partitions)
    }
    for name, found in rows.items():
        for skey, record in found.items():
            key = skey[4:]
            if key not in known:
                oracle.accuse("I2", key, f"{name} holds a row of a key that nobody wrote to")
            if not intact(skey, record):
                oracle.accuse("I14", key, f"the row on {name} is damaged, at rest and after a read")
            owners = owned[str(int.from_bytes(skey[:2], "big"))]
            if name in owners:
                owners[name][key] = record
            else:
                strays.setdefault(name, []).append(key)
    oracle.rows_at_rest(owned)
    oracle.strays_at_rest(strays)
