"""What a node asks of its disk: an ordered byte map with one open batch, and errors that say why.

    put, delete, delete_range   join the open batch; later reads of this store see them
    commit                      all of the batch becomes durable, as far as the level promises
    get, scan                   committed rows below, the open batch above

A store is synchronous and belongs to one thread of one process. Keys and values are `bytes` and
nothing else: a `bytearray` kept in the batch could change between put and commit.

Invariants
  S1  A batch is atomic: after any crash all of it is there, or nothing.
  S2  What `commit` confirmed at level "fsync" survives the power cord; at "interval" it survives
      the death of the process, and the power cord once `interval_ms` and a further commit passed.
  S3  The first failed commit or read ends the store: every later call raises StoreFailed.
  S4  A key whose bytes cannot be read raises. It is never reported as absent.

Why S3: after a failed fsync the kernel may mark the lost pages clean, so that the next commit
reports success although its predecessors never reached the disk ("fsyncgate", 2018). Only a new
process that reads the disk again can tell what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

# How durable a commit is. "fsync": on the disk before `commit` returns. "interval": handed to the
# operating system, synced at most every `interval_ms`. "memory": gone with the process.
DURABILITIES = ("fsync", "interval", "memory")

# A scan reads ahead this far: the first of the two limits that is met ends a page. By rows, so
# that a caller who stops early pays little; by bytes, because 256 values may be 1 GiB.
PAGE_ROWS = 256
PAGE_BYTES = 1 << 20

Row = tuple[bytes, bytes]
Page = tuple[list[Row], bytes | None]


class StoreError(Exception):
    """The store cannot be opened or used; the sentence says what was found and what to do."""


class StoreFailed(StoreError):
    """A commit or a read failed: acknowledge nothing of the batch, and end the process."""


class StoreLocked(StoreError):
    """Another process, or another store of this process, has the directory open."""


class StoreMismatch(StoreError):
    """The directory belongs to another cluster or node, or to a newer version of this program."""


class StoreDamaged(StoreError):
    """The log or the tables fail their checksums: the disk is suspect, beyond a torn last write."""


class Store(Protocol):
    durability: str
    # Two verdicts of the open, fixed for the run. Both are given again after a crash that comes
    # before the first commit with rows, for that commit is where the node writes what it concludes
    # from them. (History: crash while creating; the next start finds an empty store that is not
    # new, and counts itself toward R with it.)
    # `unclean`: confirmed writes may be missing, as the last run neither closed cleanly nor ran at
    # "fsync", or as this is a copy of what it wrote. `fresh`: nothing that an earlier store in this
    # place knew is known here.
    unclean: bool
    fresh: bool

    def get(self, space: int, key: bytes) -> bytes | None: ...

    def put(self, space: int, key: bytes, value: bytes) -> None: ...

    def delete(self, space: int, key: bytes) -> None: ...

    def scan(
        self,
        space: int,
        start: bytes = b"",
        end: bytes | None = None,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """Rows with start <= key < end in byte order, at most `limit`; no `end`: to the last one.

        Read lazily, page by page (PAGE_ROWS, PAGE_BYTES); the caller may write meanwhile, also
        to this space. A row shows the state at the moment its page was read: a write behind the
        page is not seen, one beyond it is. Nothing is pinned between pages, so a scan may be left
        unfinished for as long as one likes.
        """
        ...

    def delete_range(self, space: int, start: bytes, end: bytes | None) -> None:
        """Delete every key with start <= key < end (None: to the last one)."""
        ...

    def commit(self, sync: bool = False) -> None:
        """Make the open batch durable. Call it when nothing was written, too: it pays a due sync.

        `sync` forces the disk at "interval". Raises StoreFailed, and the store is over (S3).
        """
        ...

    def free_ok(self) -> bool:
        """False when the disk is below its reserve, and writes should be refused early."""
        ...

    def close(self, clean: bool = True) -> None:
        """Clean: commit the open batch, synced, and note that this run ended well. Else drop it.

        Harmless when repeated, and after a StoreFailed (then nothing is noted).
        """
        ...


def pages(read: Callable[[bytes, int], Page], start: bytes, limit: int | None) -> Iterator[Row]:
    """The rows of `read(start, rows_max) -> (rows, where the next page starts)`, up to `limit`.

    Both engines scan through here, so that a scan beside writes sees the same rows in the
    simulator as on disk.
    """
    left = limit if limit is not None else PAGE_ROWS
    following: bytes | None = start
    while left > 0 and following is not None:
        rows, following = read(following, min(left, PAGE_ROWS))
        if limit is not None:
            left -= len(rows)
        yield from rows


def check_range(start: bytes, end: bytes | None) -> bool:
    """False for an empty range, which is allowed and does nothing."""
    return end is None or start < end
