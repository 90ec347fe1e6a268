"""Opening a RocksDB directory: create it, lock it, tune it, and say what is wrong with it.

rocksdict reports every failure as a bare Exception, so the kinds are told apart by the text that
RocksDB 9 writes; an unknown text becomes a plain StoreError that carries it.
"""

from __future__ import annotations

import os
from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
)

from dynamo.storage.contract import StoreDamaged, StoreError, StoreLocked, StoreMismatch

# Several nodes share a machine in `local` and in tests, so each takes little: at most three
# memtables and the block cache, 128 MiB. A flush stalls the commits beside it for some ms. Four
# interleaved runs of 3,000 synced commits of 32 KB, on a shared machine, memtables of 16 / 32 / 64
# MiB: commits above 2 ms 30-93 / 21-72 / 4-50, p99 2.0-4.0 / 0.6-4.0 / 0.5-3.6 ms, means alike.
MEMTABLE_BYTES = 32 << 20
BLOCK_CACHE_BYTES = 32 << 20
# Tables kept open; 64 MiB each, so a store of 30 GiB never closes one. Bounds descriptors.
OPEN_FILES_MAX = 512


def open_database(path: Path) -> Rdict:
    """The database in `path`, created if absent and locked to this process, or why not."""
    _prepare_directory(path)
    options = _options()
    try:
        # The families' options are passed by name: otherwise rocksdict takes those which it finds
        # in the directory, and a changed setting would never reach an existing store.
        return Rdict(str(path), options, {"default": options})
    except Exception as error:
        raise opening_error(path, str(error)) from error


def opening_error(path: Path, found: str) -> StoreError:
    """What kind of trouble RocksDB's words `found` are, and what to do about it."""
    if "lock hold by current process" in found or "While lock file" in found:
        return StoreLocked(
            f"{path} is in use by another node{_owner(path)}. "
            "Two nodes cannot share a data directory: stop that one, or choose another directory."
        )
    if found.startswith("Corruption") or "No such file" in found:
        return StoreDamaged(
            f"{path} is damaged: {found}. More than the last write is affected, so nothing in it "
            "is trusted: move it away and start the node empty; the other replicas refill it."
        )
    if "comparator" in found:
        return StoreMismatch(
            f"{path} holds a database of another program. Give the node an empty directory."
        )
    return StoreError(f"cannot open the data directory {path}: {found}")


def _owner(path: Path) -> str:
    # A file of its own: closing RocksDB's LOCK file anywhere in a process drops that lock.
    try:
        return f" (process {int((path / 'pid').read_text())})"
    except (OSError, ValueError):
        return ""


def _prepare_directory(path: Path) -> None:
    try:
        _create(path)
    except OSError as error:
        raise StoreError(
            f"cannot create the data directory {path}: {error.strerror}. "
            "Choose a path that this user may write."
        ) from error
    if not path.is_dir():
        raise StoreError(f"{path} is a file; the data directory must be a directory, or be absent")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StoreError(f"the data directory {path} cannot be read and written by this user")


def _create(path: Path) -> None:
    if path.exists():
        return
    _create(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Without it, a power cut after the first acknowledged write may take the directory along."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_write_buffer_size(MEMTABLE_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_max_background_jobs(2)
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_level_compaction_dynamic_level_bytes(True)
    # Halves what is half compressible, and costs neither gets nor commits (it runs in the flush).
    options.set_compression_type(DBCompressionType.lz4())
    # Spaces that are queues (hints, ids) are mostly tombstones; such tables are compacted early.
    options.add_compact_on_deletion_collector_factory(1000, 500, 0.5)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_block_based_table_factory(_table_options())
    return options


def _table_options() -> BlockBasedOptions:
    table = BlockBasedOptions()
    table.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    # A put of a new key reads first: the filter answers in 0.5 us that no table holds it. Index
    # and filters stay outside the cache, below 10 bytes a key; inside, with this small a cache,
    # they pushed each other out and a get took 150 us.
    table.set_bloom_filter(10, False)
    return table
