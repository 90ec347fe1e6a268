"""Version vector sets against the thing they stand for: sets of events (DAIS 2014, DESIGN §2)."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo.core import dvv
from dynamo.core.messages import Malformed

A, B, C = (letter * 12 for letter in (b"A", b"B", b"C"))


def value(name: str, flags: int = 0, stamp: int = 0, expires: int = 0) -> dvv.Value:
    return (name.encode().ljust(16, b"."), flags, stamp, expires, name.encode())


def names(clock: dvv.Clock) -> list[str]:
    return sorted(v[4].decode() for v in dvv.values_of(clock))


def test_the_worked_example_of_the_module():
    one, _ = dvv.put([], {}, A, value("v1"))
    two, _ = dvv.put(one, dvv.context_of(one), B, value("v2"))
    three, n = dvv.put(one, {}, A, value("v3"))
    assert (names(two), names(three), n) == (["v2"], ["v1", "v3"], 2)
    merged = dvv.merge(two, three)
    assert [(a, n, len(values)) for a, n, values in merged] == [(A, 2, 1), (B, 1, 1)]
    assert names(merged) == ["v2", "v3"]


def test_equal_clocks_have_equal_bytes_and_survive_the_wire():
    one, _ = dvv.put([], {}, B, value("v1"))
    two, _ = dvv.put(one, {}, A, value("v2"))
    assert dvv.decode(dvv.encode(two)) == two
    assert dvv.encode(dvv.merge(one, two)) == dvv.encode(dvv.merge(two, one))
    assert dvv.decode(b"") == []


@pytest.mark.parametrize(
    "clock",
    [
        [(B, 1, []), (A, 1, [])],
        [(A, 1, []), (A, 2, [])],
        [(A, 0, [])],
        [(A, 1, [value("x"), value("y")])],
        [(b"short", 1, [])],
        [(A, 1 << 63, [])],
    ],
)
def test_a_clock_that_is_not_canonical_is_refused(clock):
    """riak_core#828: two forms of one clock repair each other for ever."""
    with pytest.raises(Malformed):
        dvv.decode(dvv.encode(clock))


@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_raise_malformed(raw):
    try:
        clock = dvv.decode(raw)
    except Malformed:
        return
    dvv.check(clock)


def test_a_reader_sees_no_tombstone_nothing_expired_and_no_put_twice():
    clock = [
        (A, 2, [value("old", stamp=1), value("twice", stamp=5)]),
        (B, 3, [value("twice", stamp=6), value("gone", expires=100), value("", dvv.TOMBSTONE)]),
    ]
    assert [v[4] for v in dvv.live(clock, 99)] == [b"twice", b"old", b"gone"]
    assert [v[4] for v in dvv.live(clock, 100)] == [b"twice", b"old"]
    assert [v[4] for v in dvv.live(clock, 100, {value("old")[0]: 1})] == [b"twice"]


def test_only_the_tail_of_a_list_can_be_shed():
    dead = {value("x")[0]: 1}
    assert dvv.shed([(A, 2, [value("y"), value("x")])], dead) == [(A, 2, [value("y")])]
    kept = [(A, 2, [value("x"), value("y")])]
    assert dvv.shed(kept, dead) is kept


class Model:
    """What a replica knows, as sets: events known, and values still standing."""

    def __init__(self) -> None:
        self.known: set[tuple[bytes, int]] = set()
        self.alive: dict[tuple[bytes, int], str] = {}

    def copy(self) -> Model:
        other = Model()
        other.known, other.alive = set(self.known), dict(self.alive)
        return other

    def merge(self, other: Model) -> None:
        both = {
            dot: name
            for dot, name in {**self.alive, **other.alive}.items()
            if (dot in self.alive or dot not in self.known)
            and (dot in other.alive or dot not in other.known)
        }
        self.known |= other.known
        self.alive = both

    def put(self, seen: set[tuple[bytes, int]], dot: tuple[bytes, int], name: str) -> None:
        self.known |= seen
        self.alive = {d: v for d, v in self.alive.items() if d not in seen}
        self.known.add(dot)
        self.alive[dot] = name


@pytest.mark.parametrize("seed", range(60))
def test_random_histories_agree_with_sets_of_events(seed):
    """D2: after every step, on every replica, the visible values are those of the model."""
    rng = random.Random(seed)
    actors = [A, B, C]
    clocks: list[dvv.Clock] = [[] for _ in actors]
    models = [Model() for _ in actors]
    flying: list[tuple[dvv.Clock, Model]] = []
    contexts: list[tuple[dvv.Context, set]] = [({}, set())]
    for step in range(80):
        at = rng.randrange(3)
        what = rng.random()
        if what < 0.45:
            context, seen = rng.choice(contexts[-4:]) if rng.random() < 0.7 else ({}, set())
            name = f"{step}"
            clocks[at], n = dvv.put(clocks[at], context, actors[at], value(name))
            models[at].put(seen, (actors[at], n), name)
            flying.append((clocks[at], models[at].copy()))
        elif what < 0.85 and flying:
            clock, model = rng.choice(flying)  # late, repeated and out of order
            clocks[at] = dvv.merge(clocks[at], clock)
            models[at].merge(model)
        else:
            contexts.append((dvv.context_of(clocks[at]), set(models[at].known)))
        dvv.check(clocks[at])
        assert names(clocks[at]) == sorted(models[at].alive.values())
        assert {(a, i) for a, n, _ in clocks[at] for i in range(1, n + 1)} == models[at].known


@pytest.mark.parametrize("seed", range(20))
def test_merge_is_commutative_associative_and_idempotent(seed):
    """D2, on clocks that one key can really have."""
    rng = random.Random(seed)
    clocks: list[dvv.Clock] = [[], [], []]
    for step in range(12):
        at = rng.randrange(3)
        context = dvv.context_of(clocks[rng.randrange(3)]) if rng.random() < 0.5 else {}
        clocks[at], _ = dvv.put(clocks[at], context, [A, B, C][at], value(str(step)))
        if rng.random() < 0.4:
            clocks[at] = dvv.merge(clocks[at], clocks[rng.randrange(3)])
    results = {dvv.encode(dvv.merge(dvv.merge(x, y), z)) for x, y, z in permutations(clocks)} | {
        dvv.encode(dvv.merge(x, dvv.merge(y, z))) for x, y, z in permutations(clocks)
    }
    assert len(results) == 1
    for clock in clocks:
        assert dvv.merge(clock, clock) == clock
