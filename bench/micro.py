"""The pieces alone, in one process and without IO: where the microseconds of a request go.

The last lines run whole requests through three `Node` objects over memory stores, delivering
their outboxes by hand: all that a replicated put or get costs three nodes in Python, without
frames, sockets and disks. What a real ring needs on top is transport. The update of an arc's root
is an exclusive or, and part of these.

`baseline.json` holds what each piece cost when it was last looked at, in units of a yardstick that
is no code of ours, so that a slower machine changes neither. Save a new one with the change that
moved it: `python -m bench micro --save`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from bench.figures import conditions, heading
from dynamo.core import context, dvv, planner, ring
from dynamo.core import messages as m
from dynamo.core.config import Config
from dynamo.core.node import Cluster, Node
from dynamo.core.replica import intact, seal_record
from dynamo.core.spaces import OBJECTS
from dynamo.storage.memory import MemoryStore
from dynamo.storage.rocks import RocksStore

BATCH = 64  # requests that one step of a node finds in its inbox
REPEATS = 5
TAG = b"bench..."
SECRET = b"s" * 32
KEY = ring.full_key(b"default", b"user:1234567890")
PAYLOAD = b"v" * 100
PARTITIONS = 256

BASELINE = Path(__file__).parent / "baseline.json"
COMMITS = (1, 8, 32, 128)

Clock = Callable[[], float]
Piece = tuple[str, int, Callable[[], Any]]  # name, operations per call, the call


def measure(seconds: float, only: str = "") -> dict[str, Any]:
    """Best and median of `REPEATS` for every piece, in microseconds per operation.

    `ratio` is the best in units of the yardstick, `change` that against the baseline.
    """
    unit = yardstick_us(seconds, thread_time)
    before = baseline()
    rows = []
    for name, per_call, call in pieces():
        if only in name:
            # Where nothing is waited for, only the time of this thread counts: others do not.
            clock = perf_counter if on_disk(name) else thread_time
            row: dict[str, Any] = {"name": name, **timed(call, per_call, seconds, clock)}
            row["ratio"] = round(row["best_us"] / unit, 4)
            row["change"] = round(row["ratio"] / before[name], 3) if name in before else None
            rows.append(row)
    return {
        "bench": "micro",
        **conditions(),
        "seconds": seconds,
        "yardstick_us": unit,
        "pieces": rows,
    }


def baseline() -> dict[str, float]:
    """Piece -> what it cost when the baseline was saved, in units of the yardstick."""
    found: dict[str, float] = json.loads(BASELINE.read_text("utf-8"))["ratios"]
    return found


def save(result: dict[str, Any]) -> None:
    """Make a whole result the baseline; pieces that wait for a disk are left out."""
    ratios = {
        row["name"]: row["ratio"] for row in result["pieces"] if not on_disk(str(row["name"]))
    }
    about = {"machine": result["machine"]["cpu"], "commit": result["commit"], "ratios": ratios}
    BASELINE.write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def on_disk(name: str) -> bool:
    """Whether a piece waits for a disk, so that no yardstick of the processor fits it."""
    return "synced" in name


def yardstick_us(seconds: float, clock: Clock = perf_counter) -> float:
    """Python at work that is not ours: dicts, bytes, tuples, a hash."""

    def work() -> None:
        rows = {str(number): (number, b"v" * number) for number in range(60)}
        joined = b"".join(value for _, value in sorted(rows.values()))
        hashlib.blake2b(joined).digest()

    return timed(work, 1, seconds, clock)["best_us"]


def timed(
    call: Callable[[], Any], per_call: int, seconds: float, clock: Clock = perf_counter
) -> dict[str, float]:
    """Microseconds per operation. The best is nearest to the piece; noise only ever adds.

    `clock`: `time.thread_time` where a comparison on a busy machine should not count the time in
    which others ran; the piece must not wait for anything then.
    """
    calls = 1
    while (first := _elapsed(call, calls, clock)) < seconds / REPEATS / 4:
        calls *= 2
    calls = max(1, int(calls * seconds / REPEATS / first))
    each = sorted(_elapsed(call, calls, clock) / calls / per_call * 1e6 for _ in range(REPEATS))
    return {"best_us": round(each[0], 3), "median_us": round(each[REPEATS // 2], 3)}


def _elapsed(call: Callable[[], Any], calls: int, clock: Clock) -> float:
    began = clock()
    for _ in range(calls):
        call()
    return clock() - began


def pieces() -> list[Piece]:
    return [
        *_ring_pieces(),
        *_clock_pieces(),
        *_frame_pieces(),
        *_commit_pieces(),
        *_step_pieces(),
    ]


def _ring_pieces() -> list[Piece]:
    members = [ring.Member(f"n{i}", "127.0.0.1", 1, 2) for i in range(12)]
    shape = {member.name: (member.zone, member.weight) for member in members}
    table = ring.Table(members, 3, PARTITIONS)
    skey = ring.storage_key(KEY, PARTITIONS)
    record = seal_record(skey, PAYLOAD)
    return [
        ("ring: key to owners", 1, lambda: table.owners(ring.arc_of(KEY, PARTITIONS))),
        ("ring: storage key", 1, lambda: ring.storage_key(KEY, PARTITIONS)),
        (
            "ring: bootstrap of 1,024 arcs, 12 nodes",
            1,
            lambda: planner.plan([()] * 1024, shape, 3),
        ),
        ("record: checksum of 100 B", 1, lambda: seal_record(skey, PAYLOAD)),
        ("record: verify 100 B", 1, lambda: intact(skey, record)),
    ]


def _clock_pieces() -> list[Piece]:
    actors = [bytes([i]) * dvv.ACTOR_BYTES for i in range(1, 4)]
    value: dvv.Value = (b"i" * 16, 0, 1_700_000_000_000, 0, PAYLOAD)
    old: dvv.Clock = [(actors[0], 4, []), (actors[1], 2, []), (actors[2], 1, [value])]
    seen = dvv.context_of(old)
    mine, _ = dvv.put(old, seen, actors[0], value)
    theirs, _ = dvv.put(old, seen, actors[1], value)
    obj = dvv.encode(mine)
    token = context.seal(SECRET, KEY, mine)
    return [
        ("clock: put over 3 actors", 1, lambda: dvv.put(old, seen, actors[0], value)),
        ("clock: merge of 3 actors, 2 siblings", 1, lambda: dvv.merge(mine, theirs)),
        ("clock: encode", 1, lambda: dvv.encode(mine)),
        ("clock: decode and check", 1, lambda: dvv.decode(obj)),
        ("context: seal", 1, lambda: context.seal(SECRET, KEY, mine)),
        ("context: verify", 1, lambda: context.unseal(SECRET, KEY, token)),
    ]


def _frame_pieces() -> list[Piece]:
    puts = [_put(req, req) for req in range(BATCH)]
    frame = m.encode_frame(TAG, "n1", 1, 123_456, puts)
    return [
        (
            f"frame: encode {BATCH} puts of 100 B",
            BATCH,
            lambda: m.encode_frame(TAG, "n1", 1, 123_456, puts),
        ),
        (
            f"frame: decode {BATCH} puts of 100 B",
            BATCH,
            lambda: m.decode_frame(frame, TAG, m.FROM_CLIENT),
        ),
    ]


class Commits:
    """Batches of records of 1 KB over 10,000 keys, committed to RocksDB in a directory that goes
    with this object. Opened when first used: a run of other pieces should not wait for it."""

    def __init__(self, durability: str) -> None:
        self._durability = durability
        self._store: RocksStore | None = None
        self._next = 0

    def __call__(self, batch: int) -> None:
        store = self._store or self._opened()
        for _ in range(batch):
            self._next = (self._next * 7 + 13) % 10_000
            store.put(OBJECTS, b"%018d" % self._next, b"v" * 1024)
        store.commit()

    def _opened(self) -> RocksStore:
        folder = tempfile.mkdtemp(prefix="bench-commit-")
        self._store = RocksStore(Path(folder) / "data", self._durability, "bench", "n1")
        weakref.finalize(self, _remove, self._store, folder)
        return self._store


def _remove(store: RocksStore, folder: str) -> None:
    store.close()
    shutil.rmtree(folder, ignore_errors=True)


def _commit_pieces() -> list[Piece]:
    synced = Commits("fsync")
    return [
        (f"commit: 1 KB records to RocksDB, synced, {batch} at once", batch, _commit(synced, batch))
        for batch in COMMITS
    ]


def _commit(commits: Commits, batch: int) -> Callable[[], None]:
    return lambda: commits(batch)


def _step_pieces() -> list[Piece]:
    found: list[Piece] = []
    for batch in (1, BATCH):
        fresh, again = Trio(), Trio()
        again.put(batch, same=True)
        found += [
            (f"step: put of a new key, 3 nodes, {batch} at once", batch, _new(fresh, batch)),
            (f"step: overwrite, 3 nodes, {batch} at once", batch, _same(again, batch)),
            (f"step: get, R=2 of 3 nodes, {batch} at once", batch, _get(again, batch)),
        ]
    return found


def _new(trio: Trio, batch: int) -> Callable[[], None]:
    return lambda: trio.put(batch, same=False)


def _same(trio: Trio, batch: int) -> Callable[[], None]:
    return lambda: trio.put(batch, same=True)


def _get(trio: Trio, batch: int) -> Callable[[], None]:
    return lambda: trio.get(batch)


def _key(number: int) -> bytes:
    return ring.full_key(b"default", b"user:%d" % number)


def _put(req: int, number: int, context: bytes = b"") -> m.Message:
    put_id = req.to_bytes(16, "big")
    return (
        m.PUT,
        req,
        5000,
        _key(number),
        1,
        0,
        m.CAUSAL if context else m.AUTO,
        context,
        put_id,
        0,
        0,
        0,
        m.SLOPPY,
        0,
        PAYLOAD,
    )


def _ask(req: int, number: int) -> m.Message:
    return (m.GET, req, 5000, _key(number), 1, 0, 0, 0, m.SLOPPY)


class Trio:
    """Three nodes in one process; what they send is handed over by reference, nothing is lost."""

    def __init__(self) -> None:
        config = Config(partitions=PARTITIONS)
        members = [ring.Member(name, "127.0.0.1", 1, 2) for name in ("n1", "n2", "n3")]
        cluster = Cluster("bench", SECRET)
        self._nodes = {
            member.name: Node(config, member, members, cluster, MemoryStore(), random.Random(i), 0)
            for i, member in enumerate(members)
        }
        self._config = config
        self._now_ms = 0
        self._req = 0
        self._inboxes: dict[str, list[tuple[Any, m.Message, int]]] = {n: [] for n in self._nodes}
        self._answers: list[m.Message] = []
        self._seen: dict[int, bytes] = {}  # key -> the context of its last put
        for _ in range(1000):
            self._turn()
            if all(node.ready for node in self._nodes.values()):
                return
        raise AssertionError("three nodes in one process do not become ready")

    def _turn(self) -> None:
        """Virtual time moves one millisecond; each node takes what arrived since its last step."""
        self._now_ms += 1
        inboxes, self._inboxes = self._inboxes, {name: [] for name in self._nodes}
        for name, node in self._nodes.items():
            for receiver, message in node.step(self._now_ms, inboxes[name], self._now_ms):
                if type(receiver) is bytes:
                    self._answers.append(message)
                else:
                    self._inboxes[receiver].append((name, message, self._now_ms))

    def _run(self, messages: list[m.Message], answer: int) -> list[m.Message]:
        """Give each message to its first owner; go on until all are answered and all is quiet."""
        table = self._nodes["n1"].table
        for message in messages:
            owner = table.owners(ring.arc_of(message[3], self._config.partitions))[0]
            self._inboxes[owner].append((b"client", message, self._now_ms))
        for _ in range(100):
            self._turn()
            if len(self._answers) == len(messages) and not any(self._inboxes.values()):
                break
        answers, self._answers = self._answers, []
        assert [a[0] for a in answers] == [answer] * len(messages), answers[:1]
        return answers

    def put(self, batch: int, same: bool) -> None:
        first = self._req
        self._req += batch
        keys = range(batch) if same else range(first, self._req)
        seen = self._seen if same else {}
        puts = [_put(first + i, key, seen.get(key, b"")) for i, key in enumerate(keys)]
        answers = self._run(puts, m.PUT_OK)
        if same:  # as a client that goes on writing what it has written
            self._seen = {answer[1] - first: answer[2] for answer in answers}

    def get(self, batch: int) -> None:
        self._run([_ask(i, i) for i in range(batch)], m.GET_OK)


def table(result: dict[str, Any]) -> str:
    width = max((len(row["name"]) for row in result["pieces"]), default=0)
    lines = [
        heading(result),
        "",
        f"{'piece':{width}}   best us  median us  / yardstick  / baseline   (us per operation)",
    ]
    for row in result["pieces"]:
        change = f"{row['change']:10.2f}x" if row["change"] is not None else " " * 10 + "-"
        lines.append(
            f"{row['name']:{width}}  {row['best_us']:8.2f}  {row['median_us']:9.2f}"
            f"  {row['ratio']:11.3f}  {change}"
        )
    return "\n".join(lines)
