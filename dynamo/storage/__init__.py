"""Storage: one contract, two engines. Read `contract` first, then `rocks`, then `memory`.

`open_store` picks the engine by the durability named in the configuration. The core is handed a
store and never imports this package.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dynamo.storage.contract import (
    DURABILITIES,
    Store,
    StoreDamaged,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreMismatch,
)
from dynamo.storage.memory import MemoryStore

__all__ = [
    "DURABILITIES",
    "MemoryStore",
    "Store",
    "StoreDamaged",
    "StoreError",
    "StoreFailed",
    "StoreLocked",
    "StoreMismatch",
    "open_store",
]


def open_store(
    path: Path | None,
    durability: str,
    cluster: str,
    node: str,
    *,
    interval_ms: int = 1000,
    monotonic: Callable[[], float] | None = None,
    reserve_bytes: int | None = None,
) -> Store:
    """The store of `node` in `cluster`: RocksDB at `path`, or a new MemoryStore for "memory".

    `interval_ms` and `monotonic` (seconds, as `time.monotonic`) matter at "interval" only, which
    needs the clock. `reserve_bytes`: free disk space below which `free_ok` says no; by default
    64 MiB, or 2 % of the disk if that is less. Raises StoreError and its kinds; ValueError for
    what no store could be opened with.
    """
    if durability not in DURABILITIES:
        raise ValueError(f"durability must be one of {', '.join(DURABILITIES)}, not {durability!r}")
    if durability == "memory":
        return MemoryStore()
    if path is None:
        raise ValueError(f'durability "{durability}" needs a data directory')
    if durability == "interval" and (monotonic is None or interval_ms < 1):
        raise ValueError('durability "interval" needs a clock and interval_ms >= 1')
    # Imported here: a simulation of memory stores must not need the native library.
    from dynamo.storage.rocks import RocksStore

    return RocksStore(path, durability, cluster, node, interval_ms, monotonic, reserve_bytes)
