"""Which seeds a test tries: so many of them, or the one that somebody wants to see again."""

from __future__ import annotations

import os

from dynamo.client.errors import ConfigurationError

VARIABLE = "DYNAMO_SEED"


def chosen() -> int | None:
    """The seed that DYNAMO_SEED, or `pytest --dynamo-seed`, asks for."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(f"{VARIABLE} must be a whole number, not {text!r}") from None


def seeds(count: int, first: int = 0) -> list[int]:
    """`count` seeds in a row; only the one chosen by DYNAMO_SEED, where that is set.

    for seed in dynamo.sim.seeds(50):
        with dynamo.sim.Ring(seed=seed, faults="mild") as ring: ...
    """
    if type(count) is not int or count < 1:
        raise ConfigurationError(f"seeds takes a whole number of at least 1, not {count!r}")
    one = chosen()
    return list(range(first, first + count)) if one is None else [one]
