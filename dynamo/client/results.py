"""What calls return: Entry, Written, Results. Plain objects, filled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from dynamo.client.context import Context
from dynamo.client.errors import BatchError, ConflictError

T = TypeVar("T")


class Trace(NamedTuple):
    """How a read was served. `asked`: nodes this client asked, in order; `elapsed` in seconds."""

    coordinator: str
    answered: list[str]
    asked: list[str]
    elapsed: float


class Entry(Generic[T]):
    """Everything a read found. `stamps` are the seconds since 1970 at which values were taken."""

    __slots__ = ("_conflict", "context", "key", "siblings", "stamps", "trace")

    def __init__(
        self,
        key: str | bytes,
        siblings: list[T],
        stamps: list[float],
        context: Context,
        trace: Trace,
        conflict: Callable[[], ConflictError],
    ) -> None:
        self.key = key
        self.siblings = siblings
        self.stamps = stamps
        self.context = context
        self.trace = trace
        self._conflict = conflict

    @property
    def exists(self) -> bool:
        """Whether there is any value."""
        return bool(self.siblings)

    @property
    def conflict(self) -> bool:
        """Whether there are several."""
        return len(self.siblings) > 1

    @property
    def value(self) -> T | None:
        """The one value, None if there is none. Raises ConflictError if there are several."""
        if len(self.siblings) > 1:
            raise self._conflict()
        return self.siblings[0] if self.siblings else None

    def __repr__(self) -> str:
        return f"<Entry {self.key!r}: {self.siblings!r}>"


class Written:
    """An acknowledged put or delete.

    `context` is None while other values stand beside the one written: `siblings` then holds all
    of them. `acked_by` are the nodes that stored it; `stand_ins` maps those of them that act for
    an absent owner to that owner.
    """

    __slots__ = ("acked_by", "context", "siblings", "stand_ins")

    def __init__(
        self,
        context: Context | None,
        siblings: list[Any],
        acked_by: list[str],
        stand_ins: dict[str, str],
    ) -> None:
        self.context = context
        self.siblings = siblings
        self.acked_by = acked_by
        self.stand_ins = stand_ins

    def __repr__(self) -> str:
        beside = f", {len(self.siblings)} siblings" if self.siblings else ""
        return f"<Written by {', '.join(self.acked_by)}{beside}>"


class Results:
    """Many keys at once, each with its own outcome; nothing is all-or-nothing."""

    __slots__ = ("failed", "found", "missing")

    def __init__(self) -> None:
        self.found: dict[Any, Any] = {}
        self.missing: list[Any] = []
        self.failed: dict[Any, Exception] = {}

    def check(self) -> None:
        """Raise BatchError if any key failed."""
        if self.failed:
            total = len(self.found) + len(self.missing) + len(self.failed)
            first = next(iter(self.failed.values()))
            raise BatchError(
                f"{len(self.failed):,} of {total:,} keys failed, the first with: {first}",
                self.failed,
            )

    def __repr__(self) -> str:
        return (
            f"<Results {len(self.found)} found, {len(self.missing)} missing, "
            f"{len(self.failed)} failed>"
        )
