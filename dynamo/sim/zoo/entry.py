"""What a zoo is made of: mistakes with a name, and the tool that puts them into the real code.

    @mistake("trap 16", "I12", "I9")
    def hint_erased_on_send(plant: Plant) -> None:
        \"\"\"A hint is erased when it leaves, not when its home has it.\"\"\"
        plant.set(Handoff, "_deliver", ...)

A mistake replaces functions of classes and modules while it is planted and puts the very same
objects back afterwards. The code of production has no switch for it, and pays nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from dynamo.sim.profiles import PROFILES, Draw

_ABSENT = object()


class Plant:
    """Replaces attributes of classes and modules, and puts back what was there."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Let `owner.name` be `value` until `clear`. What is not there cannot be replaced."""
        if not hasattr(owner, name):
            raise AttributeError(f"{owner.__name__} has no {name}: the mistake does not fit it")
        # From the dict of the owner: a static method is to come back as one.
        self._before.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    def clear(self) -> None:
        """Put everything back, the last first."""
        while self._before:
            owner, name, value = self._before.pop()
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


Planting = Callable[[Plant], None]
Needs = Callable[[Draw], Draw]


class Entry(NamedTuple):
    """One mistake. `source`: a trap of the reference, or what happened to this project."""

    name: str
    story: str
    source: str
    breaks: tuple[str, ...]  # promises that may be the first to be seen broken
    planting: Planting
    twice: bool = False  # seen only where a seed is run a second time
    needs: Needs | None = None  # what to make of a draw; None: an ordinary one will do
    profile: str = ""  # the only one whose seeds come near it; "" for any

    def within(self, profile: str) -> str:
        """The profile to hunt in where that one is asked for."""
        return self.profile or profile

    def draw(self, seed: int, profile: str = "default") -> Draw:
        """What a seed runs that hunts for this mistake."""
        drawn = PROFILES[self.within(profile)](seed)
        return drawn if self.needs is None else self.needs(drawn)

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The real code with this mistake in it."""
        plant = Plant()
        try:
            self.planting(plant)
            yield
        finally:
            plant.clear()


class Shelf:
    """Entries of one module, in the order in which they are written down."""

    def __init__(self, profile: str = "") -> None:
        """`profile`: the one that all of them are hunted in, "" for any."""
        self.entries: list[Entry] = []
        self._profile = profile

    def __call__(
        self, source: str, *breaks: str, twice: bool = False, needs: Needs | None = None
    ) -> Callable[[Planting], Planting]:
        def keep(planting: Planting) -> Planting:
            name = planting.__name__.replace("_", "-")
            story = " ".join((planting.__doc__ or "").split())
            self.entries.append(
                Entry(name, story, source, breaks, planting, twice, needs, self._profile)
            )
            return planting

        return keep


class SameBytes(random.Random):
    """A generator whose bytes are always the same."""

    def randbytes(self, n: int) -> bytes:
        return bytes(n)
