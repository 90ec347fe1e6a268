"""The bug zoo: every mistake in it is seen, the first promise to break is one that it should break,
and nothing of it is left in the code afterwards.

    python -m pytest tests/test_zoo.py              each entry with a seed that is known to see it
    python -m pytest tests/test_zoo.py -m slow      a real hunt, from seed 0 on
    python tests/test_zoo.py                        hunt, and print a new `SEEN` below

A seed sees what it sees only as long as draws, and the code, stay as they are. When this becomes
slow after a change, print the table anew.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from statistics import median
from types import ModuleType
from typing import Any

import pytest

import dynamo.client
import dynamo.core
import dynamo.sim
import dynamo.storage
from dynamo.core.fanout import Fanout
from dynamo.sim import force, run, zoo
from dynamo.sim.hunt import JUDGED, Hunt
from dynamo.sim.profiles import PROFILES, Draw
from dynamo.sim.zoo import needs

# Entry -> profile, a seed that sees it, and the promise that this seed sees broken first.
SEEN: dict[str, tuple[str, int, str]] = {
    "actor-survives-its-disk": ("short", 68, "D1"),
    "stand-in-counts-on": ("short", 117, "D1"),
    "actor-survives-its-row": ("short", 57, "D1"),
    "unclean-start-unnoticed": ("default", 16, "D1"),
    "actors-named-alike": ("short", 57, "D1"),
    "siblings-kept-from-the-writer": ("short", 62, "I1"),
    "context-newer-than-its-values": ("short", 107, "I6"),
    "nothing-superseded": ("short", 38, "I4"),
    "last-write-wins": ("short", 38, "I6"),
    "only-the-new-value-replicated": ("short", 38, "I6"),
    "one-sibling-per-actor": ("short", 38, "I6"),
    "superseded-values-return": ("short", 62, "I3"),
    "clocks-not-canonical": ("short", 29, "I5"),
    "delete-covers-everything": ("short", 57, "I6"),
    "tombstone-dropped-at-once": ("short", 38, "I1"),
    "refused-and-stored": ("short", 38, "I2"),
    "forwarded-again-as-new": ("short", 56, "I2"),
    "put-ids-not-remembered": ("short", 88, "I4"),
    "ids-compared-and-not-dots": ("short", 110, "I4"),
    "second-dot-kept": ("short", 88, "I4"),
    "answer-counted-twice": ("short", 38, "I12"),
    "answer-of-a-stranger": ("short", 8, "N0"),
    "names-counted-and-not-disks": ("default", 3, "I12"),
    "acknowledged-by-the-coordinator-alone": ("short", 38, "I12"),
    "stand-in-counts-for-a-strict-put": ("short", 45, "I12"),
    "numbers-begin-alike": ("short", 80, "D1"),
    "sent-before-the-commit": ("short", 29, "I12"),
    "empty-stand-in-counts": ("short", 2, "I6"),
    "blank-owner-counts": ("short", 24, "I5"),
    "first-answer-decides": ("short", 92, "I6"),
    "superseded-hidden-and-nothing-shown": ("short", 89, "I6"),
    "second-refusal-passed-on": ("short", 13, "I2"),
    "stand-in-forgets-the-forward": ("short", 45, "I2"),
    "minted-and-denied": ("short", 38, "I2"),
    "hint-erased-on-send": ("short", 29, "I9"),
    "hint-erased-though-it-grew": ("short", 114, "I9"),
    "hint-erased-by-a-refusal": ("short", 99, "I9"),
    "hints-forgotten-at-restart": ("short", 45, "I9"),
    "hints-never-delivered": ("short", 38, "I9"),
    "needed-hint-dropped-at-the-limit": ("short", 76, "I12"),
    "hint-kept-as-an-own-row": ("short", 45, "I5"),
    "deletes-not-handed-off": ("short", 35, "I12"),
    "hints-sent-all-at-once": ("short", 62, "I15"),
    "root-not-updated": ("short", 38, "N0"),
    "corrupt-taken-for-absent": ("short", 38, "I6"),
    "checks-not-checked": ("short", 119, "D1"),
    "long-values-cut": ("short", 38, "I14"),
    "failed-commit-ignored": ("short", 70, "I12"),
    "owners-never-compare": ("short", 29, "I5"),
    "copied-and-not-merged": ("short", 38, "I1"),
    "newest-row-wins": ("short", 38, "I1"),
    "moved-and-not-copied": ("short", 38, "I1"),
    "deletes-not-exchanged": ("short", 5, "I5"),
    "once-down-always-down": ("short", 38, "I9"),
    "no-limit-to-operations": ("short", 92, "I15"),
    "put-ids-kept-for-ever": ("short", 92, "I15"),
    "start-counter-stands-still": ("short", 38, "I11"),
    "operations-never-forgotten": ("short", 38, "I5"),
    "numbered-by-address": ("short", 38, "I16"),
    "timeout-passes-for-a-refusal": ("short", 38, "I2"),
    "broken-connection-proves-nothing-was-done": ("short", 38, "I2"),
    "late-answer-given-to-the-next": ("short", 57, "I2"),
    "deadline-forgotten": ("short", 38, "I13"),
    "put-ids-shared-by-clients": ("short", 29, "I2"),
    "retried-under-another-id": ("short", 106, "I4"),
    "contexts-not-checked": ("short", 62, "D4"),
    "expired-shown": ("short", 107, "I3"),
    "frames-not-checked": ("short", 87, "I2"),
    "merge-function-drops": ("short", 96, "I8"),
    "no-fence": ("membership", 49, "I6"),
    "no-joint-quorum": ("membership", 82, "I6"),
    "one-step-flip": ("membership", 0, "I10"),
    "phase-2-without-votes": ("membership", 4, "I10"),
    "superseded-without-a-quorum-of-promises": ("membership", 73, "I10"),
    "promise-not-kept": ("membership", 20, "I10"),
    "phase-2-left-to-its-driver": ("membership", 0, "I10"),
    "target-derived-again": ("membership", 5, "I10"),
    "copy-from-one-owner-only": ("membership", 47, "I6"),
    "copy-counted-from-an-owner-that-was-not-confirmed": ("membership", 114, "I6"),
    "gaining-owner-counts-before-its-copy-is-whole": ("membership", 34, "I6"),
    "dropped-before-proof": ("membership", 1, "I1"),
    "orphan-dropped-when-one-owner-confirmed": ("membership", 6, "I1"),
    "news-never-compared": ("membership", 0, "I10"),
    "register-adopted-and-not-written-down": ("membership", 0, "N0"),
    "own-record-not-refuted": ("membership", 0, "I10"),
    "incarnation-from-the-clock": ("membership", 14, "I11"),
    "removed-node-admitted-again": ("membership", 1, "I11"),
    "hints-of-a-moved-home-dropped": ("membership", 6, "I9"),
    "hints-of-a-removed-home-kept-for-it": ("membership", 0, "I9"),
}  # fmt: skip

SEEDS_MAX = 300
LOOKS_MAX = 120
TRIED_MAX = 100


# --- Every mistake is seen ------------------------------------------------------------------------


@cache
def clean(profile: str, seed: int, needs: Callable[[Draw], Draw] | None) -> bool:
    """Whether the code as it is keeps its promises: a seed that fails by itself proves nothing."""
    draw = PROFILES[profile](seed)
    return not run(draw if needs is None else needs(draw)).violations


def profiles(entry: zoo.Entry) -> list[str]:
    """Where a mistake may be hunted, the quickest first."""
    return [entry.profile] if entry.profile else ["short", "default"]


@cache
def seen(name: str) -> str:
    """The promise that is seen broken first with this mistake in the code, "" for none.

    The seed of the table comes first. Any change to the core shifts what seeds do, so others have
    their turn where it sees nothing any more; that takes its time, and a new table makes it short.
    """
    entry = zoo.ENTRIES[name]
    others = [(profile, seed) for profile in profiles(entry) for seed in range(TRIED_MAX)]
    known = [SEEN[name][:2]] if name in SEEN else []
    for profile, seed in [*known, *others]:
        number, text = zoo.provoke(entry, entry.draw(seed, profile))
        if number and clean(profile, seed, entry.needs):
            assert "TypeError" not in text, "it does not fit the code that it replaces"
            return number
    return ""


# An entry without a row takes a long hunt: run by hand.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SEEN else (pytest.mark.slow,)) for name in zoo.ENTRIES],
)
def test_a_mistake_is_seen_and_without_it_the_same_seed_is_clean(name: str) -> None:
    assert seen(name), f"in none of {TRIED_MAX} seeds of each profile"
    assert seen(name) in zoo.ENTRIES[name].breaks


@pytest.mark.parametrize("needs", [needs.moving, needs.untold, needs.contested])
def test_where_arcs_move_all_the_time_the_real_code_keeps_its_promises(
    needs: Callable[[Draw], Draw],
) -> None:
    report = run(needs(PROFILES["membership"](2)))
    assert not report.violations, report.story()
    assert report.marks["moves_switched"] > 0
    forced = dict(report.draw.forced)
    assert {name for name in force.OF_MOVES if name in forced and report.marks[f"forced {name}"]}


def test_there_are_enough_mistakes_and_each_says_where_it_comes_from() -> None:
    assert len(zoo.ENTRIES) >= 30
    for entry in zoo.ENTRIES.values():
        assert entry.story.endswith("."), entry.name
        assert entry.source, entry.name
        assert entry.breaks, entry.name


def test_every_promise_that_is_judged_is_the_first_to_report_some_mistake() -> None:
    assert {*JUDGED, "N0"} <= {seen(name) for name in SEEN}


@pytest.mark.slow
def test_a_hunt_from_the_first_seed_on_catches_every_mistake() -> None:
    catches = {name: zoo.hunt(entry, SEEDS_MAX) for name, entry in zoo.ENTRIES.items()}
    assert [name for name, catch in catches.items() if catch is None] == []
    assert median(catch.seeds for catch in catches.values() if catch) <= SEEDS_MAX


# --- Nothing is left of it ------------------------------------------------------------------------


def modules() -> Iterator[ModuleType]:
    for package in (dynamo.core, dynamo.client, dynamo.sim, dynamo.storage):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if found.name.rpartition(".")[2] not in ("aio", "blocking", "farm", "rocks", "wires"):
                yield importlib.import_module(found.name)


def contents() -> dict[tuple[str, str], Any]:
    """Every function and every attribute of every class that a mistake could have replaced."""
    found: dict[tuple[str, str], Any] = {}
    for module in modules():
        for name, value in vars(module).items():
            if callable(value):
                found[module.__name__, name] = value
            if isinstance(value, type) and value.__module__ == module.__name__:
                owner = f"{module.__name__}.{name}"
                found.update(((owner, member), x) for member, x in vars(value).items())
    return found


def changed(before: dict[tuple[str, str], Any]) -> list[tuple[str, str]]:
    now = contents()
    return [key for key in {**before, **now} if before.get(key) is not now.get(key)]


def test_a_mistake_changes_the_real_code_and_everything_is_put_back() -> None:
    before = contents()
    for entry in zoo.ENTRIES.values():
        with entry.planted():
            assert changed(before), f"{entry.name} changes nothing"
        assert changed(before) == [], entry.name


def test_everything_is_put_back_when_the_run_raises() -> None:
    before = contents()
    with pytest.raises(ZeroDivisionError):
        with_planted(zoo.ENTRIES["names-counted-and-not-disks"], lambda: 1 // 0)
    assert changed(before) == []


def test_one_thing_replaced_twice_comes_back_as_it_was_first() -> None:
    class Real:
        """What was there."""

        @staticmethod
        def done() -> str:
            return "real"

    first = vars(Real)["done"]
    plant = zoo.Plant()
    plant.set(Real, "done", lambda self: "once")
    plant.set(Real, "done", lambda self: "twice")
    plant.clear()
    assert vars(Real)["done"] is first
    assert Real.done() == "real"


def test_what_is_inherited_is_not_left_behind_in_the_heir() -> None:
    class Parent:
        """It has something."""

        kept = 1

    class Heir(Parent):
        """It has nothing of its own."""

    plant = zoo.Plant()
    plant.set(Heir, "kept", 2)
    assert (Parent.kept, Heir.kept) == (1, 2)
    plant.clear()
    assert "kept" not in vars(Heir)


def test_a_mistake_that_does_not_fit_the_code_any_more_says_so() -> None:
    with pytest.raises(AttributeError, match="Fanout has no old_name"):
        zoo.Plant().set(Fanout, "old_name", None)


# --- Hunting --------------------------------------------------------------------------------------


def test_a_hunt_counts_its_seeds_and_says_what_was_seen_first() -> None:
    catch = zoo.hunt(zoo.ENTRIES["nothing-superseded"], 5, 2, "short")
    assert catch is not None
    assert (catch.seeds, catch.number) == (catch.seed - 2 + 1, "I4")
    assert catch.text.startswith("I4 ")


def test_a_hunt_that_sees_nothing_says_so() -> None:
    harmless = zoo.Entry("none", "Nothing is wrong.", "nowhere", ("I1",), lambda plant: None)
    assert zoo.hunt(harmless, 2, 0, "short") is None


def test_a_mistake_with_a_profile_of_its_own_is_hunted_there_whatever_is_asked_for() -> None:
    entry = zoo.ENTRIES["one-step-flip"]
    assert entry.within("short") == entry.draw(3, "short").profile == "membership"
    assert zoo.ENTRIES["nothing-superseded"].draw(3, "short") == PROFILES["short"](3)
    job = Hunt(["one-step-flip"], profile="short").more()
    assert job is not None
    assert job.drawn() == entry.draw(0)


def test_a_seed_that_fails_by_itself_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = zoo.ENTRIES["refused-and-stored"]
    monkeypatch.setattr(zoo, "run", lambda draw: with_planted(entry, lambda: run(draw)))
    harmless = zoo.Entry("none", "Nothing is wrong.", "nowhere", ("I1",), lambda plant: None)
    assert zoo.hunt(harmless, 2, 0, "short") is None


def with_planted(entry: zoo.Entry, call: Callable[[], Any]) -> Any:
    with entry.planted():
        return call()


# --- The table ------------------------------------------------------------------------------------


def cheap() -> list[tuple[str, int]]:
    """Clean short seeds, those first that take the least."""
    took_s: dict[int, float] = {}
    for seed in range(LOOKS_MAX):
        began_s = time.process_time()
        if not run(PROFILES["short"](seed)).violations:
            took_s[seed] = time.process_time() - began_s
    return [("short", seed) for seed in sorted(took_s, key=took_s.__getitem__)]


def look(name: str, order: list[tuple[str, int]]) -> tuple[str, int, str] | None:
    """The first of these seeds that sees a mistake; a long one where no short one does."""
    entry = zoo.ENTRIES[name]
    if entry.profile:
        order = [(entry.profile, seed) for seed in range(SEEDS_MAX)]
    else:
        order = [*order, *(("default", seed) for seed in range(LOOKS_MAX))]
    for profile, seed in order:
        catch = zoo.hunt(entry, 1, seed, profile)
        if catch is not None and catch.number in entry.breaks and "TypeError" not in catch.text:
            return profile, seed, catch.number
    return None


def main(names: list[str]) -> None:
    """Print the table with seeds that see, and take little time to."""
    order = cheap() if any(not zoo.ENTRIES[name].profile for name in names or zoo.ENTRIES) else []
    for name in names or zoo.ENTRIES:
        found = look(name, order)
        if found is None:
            print(f"    # {name}: not seen in {LOOKS_MAX} seeds of each profile", flush=True)
        else:
            profile, seed, number = found
            print(f'    "{name}": ("{profile}", {seed}, "{number}"),', flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
