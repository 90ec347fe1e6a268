"""Which key next, and when: seeded, pure, and held against closed forms by their tests.

    uniform      every key alike
    zipf         key k with a share of 1 / (k + 1)**theta: 0 is the hottest
    scrambled    the same shares, dealt out over all keys, so that hot keys are no neighbours
    latest       zipf over age: the key inserted last is the hottest
    hotspot      some keys (20 %) get most of the operations (80 %), alike among themselves

Zipf is drawn exactly, by rejection inversion (Hormann and Derflinger, 1996). YCSB's own generator
is an approximation that is right for the two hottest keys only, and its scrambling hashes, so that
a third of the keys is never drawn and others are drawn for two: neither has a closed form to be
tested against.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, Protocol


class Chooser(Protocol):
    """Draws key numbers from 0 to `count` - 1."""

    count: int

    def next(self) -> int:
        """The next key."""

    def share(self, key: int) -> float:
        """The probability of a key, in closed form."""


class Uniform:
    """Every key alike."""

    def __init__(self, rng: random.Random, count: int) -> None:
        self.count = count
        self._random = rng.random

    def next(self) -> int:
        return int(self._random() * self.count)

    def share(self, key: int) -> float:
        return 1 / self.count


class Zipf:
    """Key k with a share of 1 / (k + 1)**theta. `count` may grow between two draws."""

    def __init__(self, rng: random.Random, count: int, theta: float) -> None:
        if not 0 < theta <= 10:
            raise ValueError(f"theta lies above 0 and up to 10, not at {theta}")
        self.count = 0
        self._random = rng.random
        self._theta = theta
        self._low = self._area(1.5) - 1
        # Within this distance of a whole number a draw is accepted without a look at the curve.
        self._sure = 2 - self._inverse(self._area(2.5) - 2**-theta)
        self.grow(count)

    def grow(self, count: int) -> None:
        """Draw from so many keys from now on."""
        if count < 1:
            raise ValueError(f"a choice needs at least one key, not {count}")
        self.count = count
        self._high = self._area(count + 0.5)

    def next(self) -> int:
        while True:
            area = self._high + self._random() * (self._low - self._high)
            at = self._inverse(area)
            rank = min(max(int(at + 0.5), 1), self.count)
            if rank - at <= self._sure or area >= self._area(rank + 0.5) - rank**-self._theta:
                return rank - 1

    def share(self, key: int) -> float:
        total = math.fsum(rank**-self._theta for rank in range(1, self.count + 1))
        return float((key + 1) ** -self._theta) / total

    def _area(self, x: float) -> float:
        """The integral of x**-theta from 1, also where theta is 1 or next to it."""
        log = math.log(x)
        flat = (1 - self._theta) * log
        return log * (math.expm1(flat) / flat if abs(flat) > 1e-8 else 1 + flat / 2)

    def _inverse(self, area: float) -> float:
        flat = max(area * (1 - self._theta), -1.0)
        if flat == -1.0:
            return 1.0
        return math.exp(area * (math.log1p(flat) / flat if abs(flat) > 1e-8 else 1 - flat / 2))


class Scrambled:
    """Zipf's shares over keys in no order: rank r is key (a r + b) mod count, a bijection."""

    def __init__(self, rng: random.Random, count: int, theta: float, seed: int) -> None:
        self.count = count
        self._zipf = Zipf(rng, count, theta)
        # Of its own seed: all processes of a run must agree on which keys are hot.
        dealer = random.Random(f"scramble {seed}")
        self._factor = next(
            factor
            for factor in iter(lambda: dealer.randrange(count // 3, count) or 1, None)
            if math.gcd(factor, count) == 1
        )
        self._offset = dealer.randrange(count)
        self._back = pow(self._factor, -1, count) if count > 1 else 0

    def next(self) -> int:
        return (self._zipf.next() * self._factor + self._offset) % self.count

    def share(self, key: int) -> float:
        return self._zipf.share((key - self._offset) * self._back % self.count)


class Latest:
    """Zipf over age: key count - 1, inserted last, is the hottest."""

    def __init__(self, rng: random.Random, count: int, theta: float) -> None:
        self._zipf = Zipf(rng, count, theta)

    @property
    def count(self) -> int:
        return self._zipf.count

    def grow(self, count: int) -> None:
        """So many keys exist from now on."""
        self._zipf.grow(count)

    def next(self) -> int:
        return self._zipf.count - 1 - self._zipf.next()

    def share(self, key: int) -> float:
        return self._zipf.share(self.count - 1 - key)


class Hotspot:
    """The first `hot_keys` (a share) of the keys get `hot_ops` (a share) of the operations."""

    def __init__(self, rng: random.Random, count: int, hot_keys: float, hot_ops: float) -> None:
        for name, value in (("hot_keys", hot_keys), ("hot_ops", hot_ops)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {value}")
        self.count = count
        self._random = rng.random
        self._hot = min(count, max(1, round(count * hot_keys)))
        self._hot_ops = hot_ops if self._hot < count else 1.0

    def next(self) -> int:
        if self._random() < self._hot_ops:
            return int(self._random() * self._hot)
        return self._hot + int(self._random() * (self.count - self._hot))

    def share(self, key: int) -> float:
        if key < self._hot:
            return self._hot_ops / self._hot
        return (1 - self._hot_ops) / (self.count - self._hot)


CHOOSERS = ("uniform", "zipf", "scrambled", "latest", "hotspot")


def chooser(
    kind: str,
    rng: random.Random,
    count: int,
    *,
    theta: float = 0.99,
    hot_keys: float = 0.2,
    hot_ops: float = 0.8,
    seed: int = 0,
) -> Any:
    """The chooser of that name; a ValueError names those there are."""
    if count < 1:
        raise ValueError(f"a choice needs at least one key, not {count}")
    if kind == "uniform":
        return Uniform(rng, count)
    if kind == "zipf":
        return Zipf(rng, count, theta)
    if kind == "scrambled":
        return Scrambled(rng, count, theta, seed)
    if kind == "latest":
        return Latest(rng, count, theta)
    if kind == "hotspot":
        return Hotspot(rng, count, hot_keys, hot_ops)
    raise ValueError(f"no chooser {kind!r}; there are {', '.join(CHOOSERS)}")


ARRIVALS = ("fixed", "poisson")


def arrivals(kind: str, rng: random.Random, rate: float) -> Iterator[float]:
    """When each operation is due, in seconds from the beginning, without end.

    "fixed": evenly. "poisson": independently of each other, as many callers who know nothing of
    one another, with the bursts that these make.
    """
    if rate <= 0:
        raise ValueError(f"a rate is above 0, not {rate}")
    if kind == "fixed":
        number = 0
        while True:
            yield number / rate
            number += 1
    elif kind == "poisson":
        at = 0.0
        while True:
            at += rng.expovariate(rate)
            yield at
    else:
        raise ValueError(f"no arrivals {kind!r}; there are {', '.join(ARRIVALS)}")
