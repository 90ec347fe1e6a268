"""One contract, two engines: whatever holds for the memory engine holds on disk.

The crash that a test plays with `die` is a close without a word: uncommitted rows are gone, and
no note of a good end is left. Real processes die in test_storage_crash.py.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Options, Rdict

from dynamo.core import spaces
from dynamo.core.spaces import HINTS, IDS, META, OBJECTS
from dynamo.storage import (
    MemoryStore,
    Store,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreMismatch,
    open_store,
)
from dynamo.storage.contract import PAGE_BYTES, PAGE_ROWS
from dynamo.storage.directory import MEMTABLE_BYTES


class Disk:
    """One engine and its place, so that a test can crash and reopen without knowing which."""

    def __init__(self, engine: str, path: Path) -> None:
        self.engine = engine
        self.path = path
        self.store: Store = self._open()

    def _open(self) -> Store:
        return open_store(self.path, self.engine, "ring", "n1")

    def die(self) -> Store:
        """The process dies and its node starts again on the same disk."""
        self.store.close(clean=False)
        return self._again()

    def restart(self) -> Store:
        self.store.close()
        return self._again()

    def _again(self) -> Store:
        if isinstance(self.store, MemoryStore):
            self.store.crash()
        else:
            self.store = self._open()
        return self.store

    def break_commits(self) -> None:
        if isinstance(self.store, MemoryStore):
            self.store.disk_fails = True
        else:
            break_database(self.store, "write")


def break_database(store: Any, *calls: str) -> None:
    """Let `calls` of the database fail as RocksDB does when the disk returns an error."""

    class Broken:
        def __init__(self, below: Any) -> None:
            self._below = below

        def __getattr__(self, name: str) -> Any:
            if name in calls:
                return self._fail
            return getattr(self._below, name)

        def _fail(self, *_: Any) -> None:
            raise Exception("IO error: While fdatasync: Input/output error")

    store._db, store._rows = Broken(store._db), Broken(store._rows)


@pytest.fixture(params=["memory", "fsync"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(request.param, tmp_path / "n1")
    yield disk
    disk.store.close(clean=False)


def rows(store: Store, space: int = OBJECTS, **bounds: Any) -> list[tuple[bytes, bytes]]:
    return [row for row in store.scan(space, **bounds) if not row[0].startswith(b"store.")]


def keys(store: Store, space: int = OBJECTS, **bounds: Any) -> list[bytes]:
    return [key for key, _ in rows(store, space, **bounds)]


def fill(store: Store, *names: bytes, space: int = OBJECTS) -> None:
    for name in names:
        store.put(space, name, b"=" + name)


# --- Reads, writes, batches ----------------------------------------------------------------------


def test_a_read_sees_the_open_batch(disk: Disk) -> None:
    store = disk.store
    assert store.get(OBJECTS, b"a") is None
    store.put(OBJECTS, b"a", b"1")
    assert store.get(OBJECTS, b"a") == b"1"
    store.commit()
    store.put(OBJECTS, b"a", b"2")
    assert store.get(OBJECTS, b"a") == b"2"
    store.delete(OBJECTS, b"a")
    assert store.get(OBJECTS, b"a") is None
    store.commit()
    assert store.get(OBJECTS, b"a") is None


def test_a_space_does_not_see_its_neighbours(disk: Disk) -> None:
    for space in spaces.ALL:
        disk.store.put(space, b"\xff\xff", bytes([space]))
        disk.store.put(space, b"", b"empty key")
    disk.store.commit()
    for space in spaces.ALL:
        assert rows(disk.store, space) == [(b"", b"empty key"), (b"\xff\xff", bytes([space]))]
    disk.store.delete_range(HINTS, b"", None)
    disk.store.commit()
    assert [len(rows(disk.store, space)) for space in spaces.ALL] == [2, 0, 2, 2, 2, 2]


def test_an_empty_value_is_a_value(disk: Disk) -> None:
    disk.store.put(IDS, b"id", b"")
    assert disk.store.get(IDS, b"id") == b""
    disk.store.commit()
    assert disk.store.get(IDS, b"id") == b""
    assert rows(disk.store, IDS) == [(b"id", b"")]


def test_bytes_that_could_still_change_are_refused(disk: Disk) -> None:
    with pytest.raises(AssertionError):
        disk.store.put(OBJECTS, b"a", bytearray(b"1"))  # type: ignore[arg-type]


def test_a_crash_takes_the_open_batch_and_nothing_else(disk: Disk) -> None:
    fill(disk.store, b"a", b"b", b"c")
    disk.store.commit()
    disk.store.put(OBJECTS, b"a", b"new")
    disk.store.put(OBJECTS, b"a", b"newer")
    disk.store.delete(OBJECTS, b"b")
    disk.store.put(OBJECTS, b"d", b"1")
    disk.store.delete_range(OBJECTS, b"c", None)
    assert rows(disk.store) == [(b"a", b"newer")]
    store = disk.die()
    assert rows(store) == [(b"a", b"=a"), (b"b", b"=b"), (b"c", b"=c")]


def test_a_clean_close_keeps_the_open_batch(disk: Disk) -> None:
    fill(disk.store, b"a")
    store = disk.restart()
    assert rows(store) == [(b"a", b"=a")]


def test_closing_twice_is_harmless_and_a_closed_store_says_so(disk: Disk) -> None:
    unfinished = disk.store.scan(OBJECTS)
    disk.store.close()
    disk.store.close()
    for call in every_call(disk.store):
        with pytest.raises(StoreError, match="closed"):
            call()
    with pytest.raises(StoreError, match="closed"):
        next(unfinished)


def every_call(store: Store) -> list[Callable[[], Any]]:
    return [
        lambda: store.get(OBJECTS, b"a"),
        lambda: store.put(OBJECTS, b"a", b"1"),
        lambda: store.delete(OBJECTS, b"a"),
        lambda: store.delete_range(OBJECTS, b"a", b"b"),
        lambda: store.scan(OBJECTS),
        lambda: store.commit(),
    ]


# --- Scans and ranges ----------------------------------------------------------------------------


def test_a_scan_lays_the_open_batch_over_the_disk_in_byte_order(disk: Disk) -> None:
    fill(disk.store, b"b", b"d", b"f", b"\xff")
    disk.store.commit()
    fill(disk.store, b"a", b"e", b"g")
    disk.store.put(OBJECTS, b"d", b"new")
    disk.store.delete(OBJECTS, b"f")
    assert keys(disk.store) == [b"a", b"b", b"d", b"e", b"g", b"\xff"]
    assert rows(disk.store, start=b"d", end=b"g") == [(b"d", b"new"), (b"e", b"=e")]
    assert keys(disk.store, limit=2) == [b"a", b"b"]
    assert keys(disk.store, start=b"c", limit=1) == [b"d"]
    assert keys(disk.store, limit=0) == []
    assert keys(disk.store, start=b"d", end=b"d") == keys(disk.store, start=b"e", end=b"d") == []


def test_a_scan_of_many_pages_misses_and_repeats_nothing(disk: Disk) -> None:
    names = [b"%05d" % number for number in range(3 * PAGE_ROWS)]
    fill(disk.store, *names[::2])
    disk.store.commit()
    fill(disk.store, *names[1::2])
    assert keys(disk.store) == names
    assert keys(disk.store, limit=PAGE_ROWS) == names[:PAGE_ROWS]
    assert keys(disk.store, limit=PAGE_ROWS + 1) == names[: PAGE_ROWS + 1]


def test_a_scan_ends_at_its_end_whatever_memory_was_reused_meanwhile(disk: Disk) -> None:
    names = [b"%05d" % number for number in range(50)]
    fill(disk.store, *names)
    disk.store.commit()
    for count in range(50):
        found = []
        for key, _ in disk.store.scan(OBJECTS, end=b"%05d" % count):
            found.append(key)
            bytes(bytearray(b"\0%05d" % (99 - count)))  # as long as the bound, and collected
        assert found == names[:count]


def test_a_page_of_big_values_ends_early(disk: Disk) -> None:
    big = bytes(PAGE_BYTES // 2 + 1)
    for name in (b"a", b"b", b"c", b"d"):
        disk.store.put(OBJECTS, name, big)
    disk.store.commit()
    scan = disk.store.scan(OBJECTS)
    assert next(scan)[0] == b"a"
    disk.store.put(OBJECTS, b"b", b"on the page already read")
    disk.store.put(OBJECTS, b"c", b"beyond it")
    assert [value for _, value in scan] == [big, b"beyond it", big]


def test_a_scan_may_delete_what_it_visits(disk: Disk) -> None:
    fill(disk.store, *(b"%05d" % number for number in range(2 * PAGE_ROWS + 7)))
    disk.store.commit()
    seen = 0
    for key, _ in disk.store.scan(OBJECTS):
        disk.store.delete(OBJECTS, key)
        seen += 1
        if seen % 100 == 0:
            disk.store.commit()
    assert seen == 2 * PAGE_ROWS + 7
    assert rows(disk.store) == []


def test_a_dropped_range_is_gone_at_once_and_may_be_written_again(disk: Disk) -> None:
    fill(disk.store, b"a", b"b", b"c", b"d")
    disk.store.commit()
    disk.store.put(OBJECTS, b"bb", b"in the batch, before the drop")
    disk.store.delete_range(OBJECTS, b"b", b"d")
    disk.store.put(OBJECTS, b"c", b"after the drop")
    for _ in ("open", "committed"):
        assert rows(disk.store) == [(b"a", b"=a"), (b"c", b"after the drop"), (b"d", b"=d")]
        assert disk.store.get(OBJECTS, b"b") is None
        assert disk.store.get(OBJECTS, b"bb") is None
        assert disk.store.get(OBJECTS, b"c") == b"after the drop"
        disk.store.commit()
    disk.store.delete_range(OBJECTS, b"d", b"a")
    assert len(rows(disk.store)) == 3


def test_the_last_arc_can_be_dropped_though_no_key_follows_it(disk: Disk) -> None:
    fill(disk.store, b"\xff\xfe", b"\xff\xff", b"\xff\xff\xff\xff")
    disk.store.delete_range(OBJECTS, b"\xff\xff", None)
    assert keys(disk.store) == [b"\xff\xfe"]
    disk.store.commit()
    assert keys(disk.store) == [b"\xff\xfe"]


# --- Against a naive model -----------------------------------------------------------------------


class Model:
    """What a store is, without any cleverness: what is committed, and what the process sees."""

    def __init__(self) -> None:
        self.committed: dict[tuple[int, bytes], bytes] = {}
        self.seen = dict(self.committed)

    def drop(self, space: int, start: bytes, end: bytes | None) -> None:
        for at, key in list(self.seen):
            if at == space and start <= key and (end is None or key < end):
                del self.seen[at, key]

    def rows(self, space: int, start: bytes, end: bytes | None, limit: int | None) -> list[Any]:
        found = sorted(
            (key, value)
            for (at, key), value in self.seen.items()
            if at == space and start <= key and (end is None or key < end)
        )
        return found[:limit]


@pytest.mark.parametrize("seed", range(12))
def test_random_histories_agree_with_the_model(disk: Disk, seed: int) -> None:
    rng, model = random.Random(seed), Model()
    for step in range(400):
        play(rng, model, disk, step)
    for space in (OBJECTS, HINTS):
        assert rows(disk.store, space) == model.rows(space, b"", None, None)


def play(rng: random.Random, model: Model, disk: Disk, step: int) -> None:
    store = disk.store
    space, key = rng.choice((OBJECTS, HINTS)), some_key(rng)
    start, end = some_key(rng), rng.choice((None, some_key(rng)))
    act = rng.choices(
        ("put", "delete", "drop", "get", "scan", "commit", "die", "restart"),
        weights=(40, 12, 2, 20, 10, 8, 1, 0.5),
    )[0]
    if act == "put":
        model.seen[space, key] = value = b"%d" % step
        store.put(space, key, value)
    elif act == "delete":
        model.seen.pop((space, key), None)
        store.delete(space, key)
    elif act == "drop":
        model.drop(space, start, end)
        store.delete_range(space, start, end)
    elif act == "get":
        assert store.get(space, key) == model.seen.get((space, key))
    elif act == "scan":
        limit = rng.choice((None, 1, 5))
        found = rows(store, space, start=start, end=end, limit=limit)
        assert found == model.rows(space, start, end, limit)
    elif act == "die":
        disk.die()
        model.seen = dict(model.committed)
    else:
        store.commit() if act == "commit" else disk.restart()
        model.committed = dict(model.seen)


def some_key(rng: random.Random) -> bytes:
    return bytes(rng.choices(b"\x00a\xff", k=rng.randrange(4)))


# --- A commit that fails -------------------------------------------------------------------------


def test_the_first_failed_commit_ends_the_store(disk: Disk) -> None:
    fill(disk.store, b"a")
    disk.store.commit()
    fill(disk.store, b"b")
    disk.break_commits()
    with pytest.raises(StoreFailed):
        disk.store.commit()
    for call in every_call(disk.store):
        with pytest.raises(StoreFailed):
            call()
    disk.store.close()  # quiet: the first error is the one to report


def test_a_failed_directory_stays_closed_to_this_process(tmp_path: Path) -> None:
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    break_database(store, "write")
    store.put(OBJECTS, b"a", b"1")
    with pytest.raises(StoreFailed, match="Input/output error"):
        store.commit()
    store.close()
    with pytest.raises(StoreFailed, match="Input/output error"):
        open_store(tmp_path / "n1", "fsync", "ring", "n1")


def test_a_clean_close_that_cannot_write_says_so(tmp_path: Path) -> None:
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    break_database(store, "write")
    store.put(OBJECTS, b"a", b"1")
    with pytest.raises(StoreFailed):
        store.close()


def test_an_unreadable_key_is_not_an_absent_key(tmp_path: Path) -> None:
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    break_database(store, "get")
    with pytest.raises(StoreFailed):
        store.get(OBJECTS, b"a")
    with pytest.raises(StoreFailed):
        store.commit()
    store.close()


def test_a_scan_into_a_damaged_table_raises_and_does_not_end_early(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    store = open_store(path, "fsync", "ring", "n1")
    rng = random.Random(1)
    for number in range(2000):
        store.put(OBJECTS, b"%05d" % number, rng.randbytes(100))
    store.close()
    (table,) = path.glob("*.sst")
    flip_byte(table, 100_000)
    store = open_store(path, "fsync", "ring", "n1")
    with pytest.raises(StoreFailed, match="checksum"):
        list(store.scan(OBJECTS))
    store.close()


def flip_byte(file: Path, offset: int) -> None:
    with open(file, "r+b") as handle:
        handle.seek(offset)
        byte = handle.read(1)[0]
        handle.seek(offset)
        handle.write(bytes([byte ^ 1]))


# --- Opening -------------------------------------------------------------------------------------


def test_a_store_is_new_once(disk: Disk) -> None:
    assert (disk.store.fresh, disk.store.unclean) == (True, False)
    fill(disk.store, b"a")
    disk.store.commit()
    assert disk.store.fresh
    store = disk.die()
    assert (store.fresh, store.unclean) == (False, False)


def test_a_store_that_never_committed_is_still_new(disk: Disk) -> None:
    store = disk.die()
    assert store.fresh
    store = disk.restart()
    assert store.fresh
    fill(store, b"a")
    store.commit()
    assert not disk.restart().fresh


def test_a_wiped_directory_is_new_again(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    store = open_store(path, "fsync", "ring", "n1")
    store.put(OBJECTS, b"a", b"1")
    store.close()
    shutil.rmtree(path)
    store = open_store(path, "fsync", "ring", "n1")
    assert store.fresh
    assert store.get(OBJECTS, b"a") is None
    store.close()


def test_the_missing_parents_are_created_for_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "data" / "ring" / "n1"
    open_store(path, "fsync", "ring", "n1").close()
    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("cluster", "node", "said"),
    [
        ("other", "n1", "belongs to cluster 'ring', not to 'other'"),
        ("ring", "n2", "belongs to node 'n1', not to 'n2'"),
    ],
)
def test_the_directory_of_another_node_is_refused(
    tmp_path: Path, cluster: str, node: str, said: str
) -> None:
    open_store(tmp_path / "n1", "fsync", "ring", "n1").close()
    with pytest.raises(StoreMismatch, match=said):
        open_store(tmp_path / "n1", "fsync", cluster, node)
    open_store(tmp_path / "n1", "fsync", "ring", "n1").close()  # and it is left unlocked


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    identity = json.loads(store.get(META, b"store.identity") or b"")
    store.put(META, b"store.identity", json.dumps({**identity, "format": 2}).encode())
    store.close()
    with pytest.raises(StoreMismatch, match=r"format 2, and this version reads up to 1.*newer"):
        open_store(tmp_path / "n1", "fsync", "ring", "n1")


@pytest.mark.parametrize("raw", [True, False])
def test_the_database_of_another_program_is_refused(tmp_path: Path, raw: bool) -> None:
    options = Options(raw_mode=raw)
    options.create_if_missing(True)
    other = Rdict(str(tmp_path / "n1"), options)
    other[b"name"] = b"value"
    other.close()
    with pytest.raises(StoreMismatch, match="another program"):
        open_store(tmp_path / "n1", "fsync", "ring", "n1")


def test_a_directory_opens_once(tmp_path: Path) -> None:
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        open_store(tmp_path / "n1", "fsync", "ring", "n1")
    store.close()
    open_store(tmp_path / "n1", "fsync", "ring", "n1").close()


def test_an_unfinished_scan_does_not_keep_the_directory_locked(tmp_path: Path) -> None:
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    fill(store, b"a", b"b")
    scan = store.scan(OBJECTS)
    assert next(scan) == (b"a", b"=a")
    store.close()
    open_store(tmp_path / "n1", "fsync", "ring", "n1").close()


def test_a_file_in_place_of_the_directory_is_explained(tmp_path: Path) -> None:
    (tmp_path / "n1").write_text("a file")
    with pytest.raises(StoreError, match="is a file"):
        open_store(tmp_path / "n1", "fsync", "ring", "n1")
    with pytest.raises(StoreError, match="cannot create"):
        open_store(tmp_path / "n1" / "below", "fsync", "ring", "n1")


def test_a_directory_without_permission_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(StoreError, match="cannot be read and written"):
        open_store(tmp_path, "fsync", "ring", "n1")


@pytest.mark.parametrize("died_after", ["mkdir", "rocksdict-config.json", "MANIFEST", "first row"])
def test_a_creation_that_died_half_way_opens_again(tmp_path: Path, died_after: str) -> None:
    path = tmp_path / "n1"
    path.mkdir()
    if died_after != "mkdir":
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        Rdict(str(path), options).close()
    if died_after == "rocksdict-config.json":
        for file in path.iterdir():
            file.unlink()
        (path / "rocksdict-config.json").touch()
    elif died_after == "MANIFEST":
        for file in [path / "CURRENT", *path.glob("*.log")]:
            file.unlink()
    store = open_store(path, "fsync", "ring", "n1")
    assert store.fresh
    fill(store, b"a")
    store.close()
    store = open_store(path, "fsync", "ring", "n1")
    assert keys(store) == [b"a"]
    store.close()


def test_what_no_store_can_be_opened_with_is_a_value_error(tmp_path: Path) -> None:
    for path, durability in ((tmp_path, "sometimes"), (None, "fsync"), (tmp_path, "interval")):
        with pytest.raises(ValueError, match="durability"):
            open_store(path, durability, "ring", "n1")


# --- Durability "interval" -----------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def open_interval(path: Path, clock: Clock) -> Any:
    return open_store(path, "interval", "ring", "n1", interval_ms=1000, monotonic=clock)


def count_syncs(store: Any) -> list[str]:
    """Names every sync and plain write that reaches the database from now on."""
    seen: list[str] = []

    class Watched:
        def __init__(self, below: Any) -> None:
            self._below = below

        def __getattr__(self, name: str) -> Any:
            return getattr(self._below, name)

        def write(self, batch: Any, options: Any) -> None:
            seen.append("sync" if options.sync else "write")
            self._below.write(batch, options)

        def flush_wal(self, sync: bool) -> None:
            seen.append("flush")
            self._below.flush_wal(sync)

    store._db = Watched(store._db)
    return seen


def test_an_interval_store_syncs_once_per_interval_and_when_told(tmp_path: Path) -> None:
    clock = Clock()
    store = open_interval(tmp_path / "n1", clock)
    seen = count_syncs(store)
    story = [
        (0.0, True, False, "sync"),  # the last sync is ages ago
        (0.5, True, False, "write"),
        (0.4, False, False, None),  # nothing new, nothing due
        (0.2, False, False, "flush"),  # the row of 0.6 s ago is due although nothing follows it
        (5.0, False, False, None),  # all is synced
        (0.0, True, False, "sync"),
        (0.1, True, True, "sync"),
        (0.5, True, False, "write"),
        (0.1, False, True, "flush"),
    ]
    for number, (passed_s, write, told, expected) in enumerate(story):
        clock.now_s += passed_s
        if write:
            store.put(OBJECTS, b"%d" % number, b"1")
        store.commit(sync=told)
        assert (seen.pop() if seen else None) == expected, number
        assert not seen
    store.close()


def test_an_fsync_store_syncs_each_batch_and_nothing_else(tmp_path: Path) -> None:
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    seen = count_syncs(store)
    store.commit()
    assert seen == []
    for number in range(3):
        store.put(OBJECTS, b"%d" % number, b"1")
        store.commit()
    assert seen == ["sync"] * 3
    store.close()


@pytest.mark.parametrize(
    ("durability", "clean", "unclean"),
    [
        ("interval", True, False),
        ("interval", False, True),
        ("fsync", True, False),
        ("fsync", False, False),
    ],
)
def test_only_an_unsynced_run_that_broke_off_leaves_doubt(
    tmp_path: Path, durability: str, clean: bool, unclean: bool
) -> None:
    store = open_store(tmp_path / "n1", durability, "ring", "n1", monotonic=Clock())
    fill(store, b"a")
    store.commit()
    store.close(clean=clean)
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    assert (store.unclean, store.fresh) == (unclean, False)
    store.close()


def test_doubt_outlives_crashes_until_the_node_has_acted_on_it(tmp_path: Path) -> None:
    store = open_interval(tmp_path / "n1", Clock())
    fill(store, b"a")
    store.commit()
    store.close(clean=False)
    for clean in (False, True):
        store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
        store.commit()  # nothing was written, so nothing was concluded
        store.close(clean=clean)
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    assert store.unclean
    store.put(META, b"actors", b"retired")
    store.commit()
    store.close(clean=False)
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    assert not store.unclean
    store.close()


# --- The disk around it --------------------------------------------------------------------------


def test_nothing_is_ever_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("pickle was called")

    for name in ("dumps", "loads", "dump", "load"):
        monkeypatch.setattr(pickle, name, refuse)
    store: Any = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    fill(store, b"a")
    store.commit()
    assert rows(store) == [(b"a", b"=a")]
    assert store.get(OBJECTS, b"a") == b"=a"
    assert store._db.get(b"\0a") == b"=a"  # the bytes on disk are the bytes given, no more
    with pytest.raises(ValueError, match="raw mode"):
        store._db.put(b"a", {"not": "bytes"})
    store.close()


def test_a_disk_below_its_reserve_is_noticed_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 65 << 20

    def usage(_: Path) -> Any:
        return shutil._ntuple_diskusage(100 << 30, 0, free)  # type: ignore[attr-defined]

    monkeypatch.setattr(shutil, "disk_usage", usage)
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    assert store.free_ok()
    free = 63 << 20
    assert store.free_ok()  # looked up once per batch
    fill(store, b"a")
    store.commit()
    assert not store.free_ok()
    free = 65 << 20
    assert store.free_ok()
    store.close()
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1", reserve_bytes=66 << 20)
    assert not store.free_ok()
    store.close()


def test_reopening_often_does_not_heap_up_log_files(tmp_path: Path) -> None:
    for _ in range(8):
        open_store(tmp_path / "n1", "fsync", "ring", "n1").close()
    assert len(list((tmp_path / "n1").glob("LOG*"))) <= 3


def test_settings_reach_a_store_that_was_created_with_others(tmp_path: Path) -> None:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(1 << 20)
    Rdict(str(tmp_path / "n1"), options).close()
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    newest = max((tmp_path / "n1").glob("OPTIONS-*"))
    assert f"write_buffer_size={MEMTABLE_BYTES}" in newest.read_text()
    store.close()


# --- The memory engine, as the simulator uses it -------------------------------------------------


def test_an_old_copy_of_the_disk_comes_back() -> None:
    store = MemoryStore()
    fill(store, b"a")
    store.commit()
    fill(store, b"uncommitted")
    old = store.snapshot()
    store.commit()
    fill(store, b"b")
    store.commit()
    for _ in range(2):
        store.restore(old)
        assert rows(store) == [(b"a", b"=a")]
        assert not store.fresh
        fill(store, b"c")
        store.commit()


def test_a_full_disk_is_the_simulators_to_say() -> None:
    store = MemoryStore()
    assert store.free_ok()
    store.disk_full = True
    assert not store.free_ok()


def test_a_failed_store_opens_after_its_process_died() -> None:
    store = MemoryStore()
    fill(store, b"a")
    store.disk_fails = True
    with pytest.raises(StoreFailed):
        store.commit()
    store.disk_fails = False
    store.crash()
    assert rows(store) == []
    fill(store, b"b")
    store.commit()


def test_a_space_that_is_never_scanned_does_not_remember_every_key_it_had() -> None:
    store = MemoryStore()
    for number in range(10_000):
        store.put(IDS, b"%d" % number, b"")
        if number >= 100:
            store.delete(IDS, b"%d" % (number - 100))
        store.commit()
    assert len(store._moved[IDS]) < 2_500
    assert len(rows(store, IDS)) == 100


def test_a_copy_that_was_put_back_knows_that_it_may_be_old(tmp_path: Path) -> None:
    path, copy = tmp_path / "n1", tmp_path / "copy"
    store = open_store(path, "fsync", "ring", "n1")
    fill(store, b"a")
    store.commit()
    store.close()
    shutil.copytree(path, copy)
    store = open_store(path, "fsync", "ring", "n1")
    assert not store.unclean
    fill(store, b"b")
    store.commit()
    store.close()
    shutil.rmtree(path)
    copy.rename(path)
    store = open_store(path, "fsync", "ring", "n1")
    assert (store.unclean, store.fresh) == (True, False)
    store.put(META, b"actors", b"retired")
    store.commit()
    store.close()
    store = open_store(path, "fsync", "ring", "n1")
    assert not store.unclean, "what it is by now, its peers know"
    store.close()


def test_a_directory_that_was_moved_is_no_copy(tmp_path: Path) -> None:
    store = open_store(tmp_path / "n1", "fsync", "ring", "n1")
    fill(store, b"a")
    store.commit()
    store.close()
    (tmp_path / "n1").rename(tmp_path / "n2")
    store = open_store(tmp_path / "n2", "fsync", "ring", "n1")
    assert not store.unclean
    store.close()
