"""Telling a planted slowdown from noise, and noise from a slowdown."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import compare, stats
from bench.compare import measured_in_turns, sealed


class Machine:
    """A shared machine: it drifts by a third over minutes, and each second has noise of its own."""

    def __init__(self, seed: int, noise: float = 0.04) -> None:
        self._rng = random.Random(seed)
        self._noise = noise
        self._now = 0

    def side(self, speed: float) -> Callable[[], dict[str, float]]:
        """A checkout that is `speed` times as fast."""

        def measure() -> dict[str, float]:
            self._now += 1
            drift = 1 + 0.3 * math.sin(self._now / 17)
            noise = math.exp(self._rng.gauss(0, self._noise))
            return {
                "put ops_s": 10_000 * speed * drift * noise,
                "cpu_us": 90 / speed * math.exp(self._rng.gauss(0, self._noise)),
            }

        return measure


def verdict(seed: int, speed: float, pairs: int = 40) -> dict[str, Any]:
    machine = Machine(seed)
    a, b = measured_in_turns(
        machine.side(1.0), machine.side(speed), pairs, lambda what, share: None
    )
    return sealed("planted", a, b, relevant=0.04, paired=True)


def test_a_planted_slowdown_of_5_percent_is_found_under_drift_six_times_as_large() -> None:
    found = [verdict(seed, 0.95) for seed in range(8)]
    assert all("put ops_s" in each["worse"] or "cpu_us" in each["worse"] for each in found)
    ratios = sorted(each["figures"][0]["ratio"] for each in found)
    assert ratios[4] == pytest.approx(0.95, abs=0.012)
    assert "B is worse" in found[0]["sentence"]


def test_a_speed_up_is_told_as_one_and_is_no_regression() -> None:
    found = verdict(1, 1.1)
    assert not found["worse"]
    assert "better" in found["figures"][0]["verdict"]


def test_equal_sides_are_hardly_ever_called_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """A false alarm is allowed in one of twenty comparisons; 40 of them here."""
    monkeypatch.setattr(stats, "ROUNDS", 600)
    alarms = sum(any(row["real"] for row in verdict(100 + i, 1.0)["figures"]) for i in range(40))
    assert alarms <= 5


def test_without_turns_the_same_drift_would_look_like_a_difference() -> None:
    machine = Machine(3)
    a = [machine.side(1.0)()["put ops_s"] for _ in range(20)]
    b = [machine.side(1.0)()["put ops_s"] for _ in range(20)]
    assert abs(stats.paired(a, b)["ratio"] - 1) > 0.05


def test_the_permutation_test_is_exact_for_few_pairs() -> None:
    # All eight pairs point one way: 2 of 2**8 arrangements are as extreme.
    found = stats.paired([1.0] * 8, [1.1 + i / 100 for i in range(8)])
    assert found["p"] == round(2 / 256, 5)
    assert found["enough"]
    assert found["real"]


def test_too_few_repeats_are_called_so_however_large_the_difference() -> None:
    few = stats.paired([1.0, 1.0, 1.0], [2.0, 2.1, 2.2])
    assert not few["enough"]
    assert not few["real"]
    assert "too few" in stats.sentence(few, True, 0.05)
    assert not stats.unpaired([1, 1.1, 1.2], [2, 2.1, 2.2])["enough"]
    assert stats.unpaired([1 + i / 99 for i in range(6)], [2 + i / 99 for i in range(6)])["real"]


def test_more_figures_need_more_evidence_each() -> None:
    sides = [1.0] * 8, [1.1 + i / 100 for i in range(8)]
    assert stats.paired(*sides, alpha=0.01)["real"]
    assert not stats.paired(*sides, alpha=0.05 / 10)["real"]


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0])])
def test_what_cannot_be_paired_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=r"pairs|above 0"):
        stats.paired(a, b)


def test_the_words_say_which_way_and_how_sure() -> None:
    base = {"pairs": 20, "enough": True, "low": 1.04, "high": 1.08, "p": 0.001, "real": True}
    assert stats.sentence(base | {"ratio": 1.06}, False, 0.05) == "+6.0% (+4.0% to +8.0%): worse"
    assert "better, though by less" in stats.sentence(base | {"ratio": 1.045}, True, 0.05)
    assert "within noise" in stats.sentence(base | {"ratio": 1.06, "real": False}, True, 0.05)


# --- The command --------------------------------------------------------------------------------


def test_what_is_neither_result_nor_checkout_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.json"
    file.write_text("[]")
    for a, words in ((tmp_path, "neither a result"), (file, "two of a kind")):
        assert command.main(["compare", str(a), str(compare.ROOT)]) == command.USAGE
        assert words in capsys.readouterr().err
    assert command.main(["compare", str(file), str(file)]) == command.USAGE
    assert "no result of" in capsys.readouterr().err


def _result(rates: list[float], rate: float = 100.0) -> dict[str, Any]:
    repeats = [
        {"ops": {"read": {"ops_s": r, "response": {"p50_ms": 100 / r, "p99_ms": 200 / r}}}}
        for r in rates
    ]
    return {
        "bench": "run",
        "format": 1,
        "commit": "abc",
        "workload": {"name": "a"},
        "config": {"rate": rate, "in_flight": 0},
        "repeats": repeats,
    }


def test_two_result_files_are_compared_by_their_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(1)
    paths = []
    for name, speed, rate in (("a", 1.0, 100.0), ("b", 0.8, 100.0), ("c", 1.0, 50.0)):
        rates = [1000 * speed * math.exp(rng.gauss(0, 0.02)) for _ in range(8)]
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(_result(rates, rate)))
    assert command.main(["compare", str(paths[0]), str(paths[1])]) == command.WRONG
    assert "B is worse in 3 of 3 figures" in capsys.readouterr().out
    assert command.main(["compare", str(paths[0]), str(paths[0]), "--json"]) == command.FINE
    assert json.loads(capsys.readouterr().out)["worse"] == []
    assert command.main(["compare", str(paths[0]), str(paths[2])]) == command.USAGE
    assert "different workloads or loads" in capsys.readouterr().err


@pytest.mark.net
@pytest.mark.slow
def test_a_checkout_compared_with_itself_shows_no_regression(
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = str(compare.ROOT)
    words = ["compare", here, here, "--what", "micro", "--pairs", "10", "--seconds", "0.3"]
    assert command.main(words) == command.FINE
    assert "B is worse" not in capsys.readouterr().out
