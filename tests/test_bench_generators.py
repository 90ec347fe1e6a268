"""Generators and workloads: draws against closed forms, and files that cannot be used."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import islice, pairwise
from typing import Any

import pytest

from bench import workloads
from bench.generators import CHOOSERS, Latest, Scrambled, Zipf, arrivals, chooser

DRAWS = 40_000


def surprise(made: Any, draws: int = DRAWS) -> float:
    """How far draws are from the closed form: chi squared, in standard deviations of its own.

    Keys too rare for that are taken together.
    """
    counts = Counter(made.next() for _ in range(draws))
    assert min(counts) >= 0
    assert max(counts) < made.count
    total, cells, rare_seen, rare_due = 0.0, 0, 0, 0.0
    for key in range(made.count):
        due = draws * made.share(key)
        if due < 10:
            rare_seen, rare_due = rare_seen + counts[key], rare_due + due
            continue
        total, cells = total + (counts[key] - due) ** 2 / due, cells + 1
    if rare_due > 10:
        total, cells = total + (rare_seen - rare_due) ** 2 / rare_due, cells + 1
    freedom = max(1, cells - 1)
    return (total - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("kind", CHOOSERS)
@pytest.mark.parametrize("count", [1, 2, 3, 200])
def test_draws_follow_the_closed_form(kind: str, count: int) -> None:
    made = chooser(kind, random.Random(7), count, seed=3)
    assert math.fsum(made.share(key) for key in range(count)) == pytest.approx(1)
    assert abs(surprise(made)) < 4


@pytest.mark.parametrize("theta", [0.01, 0.5, 0.99, 1.0, 1.0 + 1e-9, 1.3, 3.0])
def test_zipf_is_exact_for_every_theta_also_beside_the_singular_one(theta: float) -> None:
    assert abs(surprise(Zipf(random.Random(11), 100, theta))) < 4


def test_a_zipf_that_grows_between_draws_is_exact_for_what_it_grew_to() -> None:
    made = Zipf(random.Random(5), 3, 0.99)
    for count in (4, 50, 120):
        made.next()
        made.grow(count)
    assert abs(surprise(made)) < 4


def test_a_wrong_exponent_would_be_noticed() -> None:
    made = Zipf(random.Random(11), 100, 0.99)
    made.share = Zipf(random.Random(11), 100, 0.95).share  # type: ignore[method-assign]
    assert surprise(made) > 6


def test_scrambling_deals_every_share_to_exactly_one_key() -> None:
    for count in (1, 2, 10, 97, 1_000):
        rng = random.Random(1)
        plain, dealt = Zipf(rng, count, 0.99), Scrambled(rng, count, 0.99, seed=8)
        shares = sorted((dealt.share(key) for key in range(count)), reverse=True)
        assert shares == pytest.approx([plain.share(key) for key in range(count)])


def test_processes_of_one_run_agree_on_the_hot_keys_and_other_runs_do_not() -> None:
    hottest = [
        max(range(500), key=Scrambled(random.Random(rng), 500, 0.99, seed).share)
        for rng, seed in ((1, 4), (2, 4), (1, 5))
    ]
    assert hottest[0] == hottest[1] != hottest[2]


def test_the_latest_key_is_the_hottest_also_after_an_insert() -> None:
    made = Latest(random.Random(1), 10, 0.99)
    assert max(range(10), key=made.share) == 9
    made.grow(25)
    assert max(range(25), key=made.share) == 24
    assert Counter(made.next() for _ in range(2_000)).most_common(1)[0][0] == 24


def test_the_same_seed_draws_the_same_keys() -> None:
    for kind in CHOOSERS:
        one, other = (chooser(kind, random.Random(2), 1_000) for _ in range(2))
        assert [one.next() for _ in range(50)] == [other.next() for _ in range(50)]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("zipff", {}, "there are uniform, zipf"),
        ("zipf", {"theta": 0}, "theta"),
        ("hotspot", {"hot_ops": 1.5}, "hot_ops is a share"),
    ],
)
def test_a_chooser_that_cannot_be_is_refused(kind: str, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        chooser(kind, random.Random(0), 10, **options)
    with pytest.raises(ValueError, match="at least one key"):
        chooser("uniform", random.Random(0), 0)


def test_fixed_arrivals_are_even_and_poisson_arrivals_are_independent() -> None:
    assert list(islice(arrivals("fixed", random.Random(1), 4.0), 4)) == [0, 0.25, 0.5, 0.75]
    times = list(islice(arrivals("poisson", random.Random(1), 100.0), 20_000))
    gaps = [b - a for a, b in pairwise(times)]
    mean = math.fsum(gaps) / len(gaps)
    spread = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(0.01, rel=0.03)
    assert spread == pytest.approx(mean, rel=0.03)  # of an exponential they are equal
    with pytest.raises(ValueError, match="there are fixed, poisson"):
        next(arrivals("bursts", random.Random(1), 1.0))


# --- Workloads --------------------------------------------------------------------------------


def test_every_workload_that_comes_along_can_be_used_or_says_why_not() -> None:
    assert {"a", "b", "c", "d", "e", "f", "cart", "counter", "hot-key", "large-value"} <= set(
        workloads.names()
    )
    for name in workloads.names():
        found = workloads.load(name)
        assert found.title
        if name == "e":
            assert "no order" in found.not_offered
            continue
        made = found.choose(random.Random(1), 1)
        assert 0 <= made.next() < found.count
        assert workloads.from_json(workloads.to_json(found)) == found


def test_the_mixes_of_ycsb_are_those_of_ycsb() -> None:
    mixes = {name: dict(workloads.load(name).mix) for name in "abcdf"}
    assert mixes["a"] == {"read": 0.5, "update": 0.5}
    assert mixes["b"] == {"read": 0.95, "update": 0.05}
    assert mixes["c"] == {"read": 1.0}
    assert mixes["d"] == {"read": 0.95, "insert": 0.05}
    assert mixes["f"] == {"read": 0.5, "modify": 0.5}


GOOD = 'title = "t"\nabout = "a"\n[mix]\nread = 1.0\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = ", "no TOML"),
        ("", "title is missing"),
        (GOOD.replace("read = 1.0", "read = 0.4"), "add up to 0.4"),
        (GOOD.replace("read", "raed"), "did you mean 'read'"),
        (GOOD.replace("1.0", '"all"'), "numbers from 0 to 1"),
        (GOOD + "[keys]\ncount = 0\n", "1 to 10,000,000"),
        (GOOD + '[keys]\nchooser = "zip"\n', "one of uniform"),
        (GOOD + "[keys]\nhot = 1\n", "unknown 'hot'"),
        (GOOD + "[values]\nbytes = 5\n", "values.bytes is from 40"),
        (GOOD.replace("read = 1.0", "add = 1.0"), "needs adds"),
        ("keys = 3\n" + GOOD, "a .keys. section"),
        ('adds = "item"\n' + GOOD.replace("read = 1.0", "add = 0.5\nupdate = 0.5"), "reads only"),
    ],
)
def test_a_workload_that_cannot_be_used_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(workloads.WorkloadError, match=words):
        workloads.parse("mine", text)


def test_a_workload_that_does_not_exist_is_guessed_at() -> None:
    with pytest.raises(workloads.WorkloadError, match="did you mean 'counter'"):
        workloads.load("conter")
