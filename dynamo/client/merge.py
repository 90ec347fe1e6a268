"""Merge functions: several concurrent values in, the one that replaces them out.

Any function `merge(siblings: list) -> value` will do. It should be commutative, associative and
idempotent, or two clients that resolve the same conflict make a new one. Siblings come newest
first by the clock of the node that took them; a value that a put wants to add stands last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
Merge = Callable[[list[Any]], Any]


class _Newest:
    """Last writer wins, by the nodes' wall clocks: concurrent updates are lost, by request."""

    def __call__(self, siblings: Sequence[T]) -> T:
        return siblings[0]

    def __repr__(self) -> str:
        return "dynamo.merge.newest"


newest = _Newest()


def union(siblings: Sequence[Any]) -> Any:
    """All elements of all lists, sets, or dicts. What was removed on one side comes back.

    Lists keep first-seen order without repeats, oldest value first; of a dict key with several
    values the newest stays.
    """
    oldest_first = list(reversed(siblings))
    kinds = {type(value) for value in siblings}
    if kinds <= {set, frozenset}:
        return set().union(*siblings)
    if kinds == {dict}:
        return {key: item for value in oldest_first for key, item in value.items()}
    if kinds <= {list, tuple}:
        merged: list[Any] = []
        for value in oldest_first:
            merged += [item for item in value if item not in merged]
        return merged
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise TypeError(f"merge.union takes lists, sets or dicts, all alike; these are {names}")


def longest(siblings: Sequence[Any]) -> Any:
    """The longest value; of equally long ones the greatest by its repr, so that all agree."""
    return max(siblings, key=lambda value: (len(value), repr(value)))


def raise_(siblings: Sequence[Any]) -> NoReturn:
    """The default by name: no merge, `ConflictError`. For a call that must not merge."""
    raise AssertionError("recognised by identity, never called")


def combine(merge: Merge, siblings: list[Any], value: Any) -> Any:
    """Merge `value`, about to be written, with siblings that its writer has not seen."""
    if merge in (newest, union, longest):
        return merge([value, *siblings])  # these look at the order: newest first
    return merge([*siblings, value])
