"""Using the simulator: campaigns in several processes, replays, shrinking, regression files.

Most of these use a judge that is made up or a mistake that is planted: on the real code everything
here would have nothing to show.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynamo.cli.main import main
from dynamo.sim import regress, zoo
from dynamo.sim.campaign import faults_of, run
from dynamo.sim.farm import Farm
from dynamo.sim.hunt import JUDGED, Hunt
from dynamo.sim.jobs import BROKEN, CRASHED, DIFFERS, HUNG, Job, Outcome
from dynamo.sim.lines import Lines, ranges
from dynamo.sim.network import Weather
from dynamo.sim.profiles import Draw, short
from dynamo.sim.regress import NotARegression, Regression
from dynamo.sim.shrink import Shrinker, Trial
from dynamo.sim.tally import SOMETIMES_FROM, Tally

SEEDS = Path(__file__).parent / "seeds"
MISTAKE = "nothing-superseded"  # caught by the first seed that writes anything twice


# --- Regression files: what was found once must stay mended ---------------------------------------


@pytest.mark.parametrize("file", sorted(SEEDS.glob("*.json")), ids=lambda file: file.stem)
def test_a_draw_that_once_broke_a_promise_runs_as_its_file_foretells(file: Path) -> None:
    found = regress.read(file.read_text("utf-8"), file.name)
    outcome = performed(Job(found.draw.seed, draw=found.draw))
    assert found.as_expected(outcome.numbers), f"{found.sentence}\n{outcome.story}"


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(SEEDS.glob("*.json")), ids=lambda file: file.stem)
def test_a_regression_file_still_breaks_with_its_mistake_in_the_code(file: Path) -> None:
    """If not, the run has become another one: shrink a seed that the zoo catches, anew."""
    found = regress.read(file.read_text("utf-8"), file.name)
    if found.plant:
        job = Job(found.draw.seed, draw=found.draw, plant=found.plant, story=False)
        assert found.violated in performed(job).numbers


def performed(job: Job) -> Outcome:
    from dynamo.sim.farm import perform

    return perform(job)


def a_regression(**changes: Any) -> Regression:
    drawn = replace(short(4), faults=faults_of(short(4)))
    first = Regression("I1", "A put was lost.", "seed 4 at commit 1234", "2025-01-31", drawn)
    return replace(first, **changes)


def test_a_regression_file_gives_the_very_same_run() -> None:
    written = a_regression()
    read = regress.read(regress.write(written))
    assert read == written
    assert run(read.draw).digest == run(short(4)).digest


def test_a_regression_file_reads_well() -> None:
    lines = regress.write(a_regression()).splitlines()
    assert max(map(len, lines)) <= 100
    faults = [line for line in lines if '"kill"' in line or '"split"' in line]
    assert len(faults) <= len(faults_of(short(4)))
    assert '  "sentence": "A put was lost.",' in lines


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text[:-9], "is not JSON"),
        (lambda text: "[1]", "dynamo sim shrink SEED"),
        (lambda text: text.replace('"nodes": ', '"nodes": "x", "n": '), "does not know"),
        (lambda text: text.replace('"load_ms": ', '"load_ms": 1.5e3, "x": '), "does not know"),
        (lambda text: text.replace('"seed": 4', '"seed": "four"'), "Expected `int`, got `str`"),
        (lambda text: text.replace('"n": ', '"n": -'), "n must be at least 1"),
        (lambda text: text.replace('"date"', '"day"'), "does not know"),
    ],
)
def test_a_file_that_is_none_is_refused_with_what_is_wrong(
    change: Callable[[str], str], complaint: str
) -> None:
    text = regress.write(a_regression())
    assert change(text) != text
    with pytest.raises(NotARegression, match=complaint) as caught:
        regress.read(change(text), "a.json")
    assert str(caught.value).startswith("a.json is")


def test_a_file_says_whether_it_is_mended() -> None:
    mended, open_ = a_regression(), a_regression(expected="I1")
    assert mended.as_expected([])
    assert not mended.as_expected(["I1"])
    assert open_.as_expected(["I5", "I1"])
    assert not open_.as_expected([])


# --- Shrinking ------------------------------------------------------------------------------------


def shrunk(shrinker: Shrinker, judge: Callable[[Draw], Trial], tries: int = 3_000) -> Draw:
    steps = shrinker.steps()
    try:
        candidate = next(steps)
        for _ in range(tries):
            candidate = steps.send(judge(candidate))
    except StopIteration:
        pass
    return shrinker.best


def weigh(drawn: Draw) -> int:
    """Events as they might be: more of everything is more."""
    clients = [habit for habit in drawn.habits if habit is not None]
    acts = sum(habit.acts or 200 for habit in clients)
    return drawn.nodes * drawn.load_ms + acts + len(drawn.faults or faults_of(drawn))


def a_large_draw() -> Draw:
    found = (short(seed) for seed in range(100))
    return next(d for d in found if d.nodes >= 5 and len(d.habits) >= 5 and len(faults_of(d)) > 9)


def test_what_a_failure_does_not_need_is_taken_away() -> None:
    drawn = a_large_draw()
    guilty = faults_of(drawn)[4]

    def judge(candidate: Draw) -> Trial:
        breaks = (
            candidate.habits[2] is not None
            and candidate.load_ms >= 700
            and candidate.nodes >= 2
            and guilty.kind in [fault.kind for fault in candidate.faults or ()]
        )
        return Trial(("I3",) if breaks else (), weigh(candidate))

    first = replace(drawn, faults=faults_of(drawn))
    best = shrunk(Shrinker(drawn, "I3", Trial(("I3",), weigh(first))), judge)
    assert [i for i, habit in enumerate(best.habits) if habit is not None] == [2]
    assert [fault.kind for fault in best.faults or ()] == [guilty.kind]
    assert 700 <= best.load_ms < 800
    assert best.nodes == max(2, int(guilty.host[1:]) if guilty.host else 2)
    assert best.weather == Weather(jitter_ms=0)
    assert best.habits[2] is not None
    assert best.habits[2].acts == 1
    assert not best.encode


def test_another_broken_promise_is_not_what_was_to_be_shrunk() -> None:
    drawn = short(4)

    def judge(candidate: Draw) -> Trial:
        return Trial(("I9",), 1)

    shrinker = Shrinker(drawn, "I1", Trial(("I1",), 100))
    assert shrunk(shrinker, judge) == drawn
    assert shrinker.tried > 20


def test_shrinking_may_be_stopped_at_any_time_with_what_there_is() -> None:
    def judge(candidate: Draw) -> Trial:
        return Trial(("I1",), weigh(candidate))

    drawn = a_large_draw()
    shrinker = Shrinker(drawn, "I1", Trial(("I1",), weigh(drawn)))
    shrunk(shrinker, judge, tries=4)
    assert 0 < shrinker.share < 0.9


def test_a_real_failure_shrinks_to_a_tenth_of_its_events_and_reads_as_a_story() -> None:
    def judge(candidate: Draw) -> Trial:
        outcome = performed(Job(1, plant=MISTAKE, draw=candidate, story=False))
        return Trial(tuple(outcome.numbers), outcome.events, outcome.broke_ms)

    drawn = short(54)
    first = judge(drawn)
    shrinker = Shrinker(drawn, first.numbers[0], first)
    best = shrunk(shrinker, judge, tries=100)
    assert shrinker.share <= 0.1
    again = performed(Job(1, plant=MISTAKE, draw=best))
    assert shrinker.number in again.numbers
    assert len(again.story.splitlines()) < 60
    assert not performed(Job(1, draw=best)).failure, "without the mistake nothing is broken"


# --- Sums and the verdict on a campaign -----------------------------------------------------------


def an_outcome(seed: int = 1, **changes: Any) -> Outcome:
    first = Outcome(
        seed, nodes=5, ops={"ok": 90, "info": 10}, marks={"fault kill": 2, "siblings seen": 1},
        steps=10, events=50_000, simulated_ms=20_000, cpu_s=0.25,
    )  # fmt: skip
    return replace(first, **changes)


def a_tally(seeds: int, *sometimes: str, demanding: bool = True, **changes: Any) -> Tally:
    tally = Tally(sometimes, demanding)
    for seed in range(seeds):
        tally.add(an_outcome(seed, **changes))
    return tally


def test_the_sums_of_a_campaign() -> None:
    found = a_tally(180, "siblings seen", "never seen").plain()
    assert found["seeds"] == 180
    assert found["simulated_hours"] == 1.0
    assert found["ops_checked"] == 18_000
    assert found["events_per_s"] == 200_000
    assert found["speed"] == found["speed_five_nodes"] == 80
    assert found["faults"] == {"kill": 360}
    assert (found["sometimes_hit"], found["sometimes_defined"]) == (1, 2)
    assert found["missed"] == ["never seen"]
    assert found["clean"]


def test_many_seeds_that_reach_too_little_are_no_proof() -> None:
    names = ["siblings seen", *(f"state {i}" for i in range(20))]
    few = a_tally(SOMETIMES_FROM - 1, *names)
    assert few.clean
    enough = a_tally(SOMETIMES_FROM, *names)
    assert enough.too_narrow
    assert not enough.clean
    assert a_tally(SOMETIMES_FROM, *names, demanding=False).clean, "calm profiles reach little"
    assert a_tally(SOMETIMES_FROM, *names[:2], marks=dict.fromkeys(names, 1)).clean


def test_one_failed_seed_fails_the_campaign() -> None:
    tally = a_tally(3)
    tally.add(an_outcome(7, failure=BROKEN, violations=[("I1", "k0", "x is lost")]))
    assert not tally.clean
    assert tally.plain()["failed"][0]["numbers"] == ["I1"]
    assert ("failed", "1: I1 in 1") in tally.rows()


# --- Many seeds in several processes --------------------------------------------------------------

# Workers that behave badly in one way each, as the source of what they run before they serve.
HASH_ORDER = """
from dynamo.core.node import Node
real = Node.step
def step(self, now_ms, inbox, wall_ms=0):
    out = real(self, now_ms, inbox, wall_ms)
    return sorted(out, key=lambda one: hash(str(one[0])))
Node.step = step
"""
HANGS = """
import dynamo.sim.farm as farm
real = farm.perform
def perform(job):
    while job.seed == 3:
        pass
    return real(job)
farm.perform = perform
"""
DIES = HANGS.replace("while", "if").replace("pass", "print('last words'); import os; os.abort()")
RAISES = HANGS.replace("while", "if").replace("pass", "raise OSError('a broken simulator')")


def a_farm(prelude: str = "", jobs: int = 2, limit_s: float = 60.0) -> Farm:
    source = prelude + "\nfrom dynamo.sim.farm import serve\nserve()"
    return Farm(jobs, limit_s=limit_s, command=["-c", source])


def outcomes(farm: Farm, *jobs: Job) -> dict[int, Outcome]:
    left = list(jobs)
    found = farm.run(lambda: left.pop(0) if left else None)
    return {outcome.seed: outcome for outcome in found if outcome is not None}


def quick(seed: int, **how: Any) -> Job:
    drawn = short(seed)
    return Job(seed, draw=replace(drawn, load_ms=300, kinds=()), **how)


@pytest.mark.net
def test_a_seed_runs_alike_in_two_processes_with_other_hash_seeds() -> None:
    with a_farm() as farm:
        assert len({worker.hash_seed for worker in farm.workers}) == 2
        found = outcomes(farm, *(quick(seed, twice=seed < 2) for seed in range(4)))
    assert [found[seed].failure for seed in range(4)] == [""] * 4
    assert [found[seed].twice for seed in range(4)] == [True, True, False, False]


@pytest.mark.net
def test_a_run_that_depends_on_the_order_of_hashes_is_found() -> None:
    with a_farm(HASH_ORDER, jobs=1) as farm:
        found = farm.one(quick(1, twice=True))
    assert found.failure == DIFFERS
    assert found.numbers == ["I16"]
    assert "PYTHONHASHSEED=2" in found.story
    assert "PYTHONHASHSEED=3" in found.story


@pytest.mark.net
def test_a_seed_that_hangs_fails_and_the_others_go_on() -> None:
    with a_farm(HANGS, limit_s=2.0) as farm:
        found = outcomes(farm, *map(quick, range(6)))
    assert [found[seed].failure for seed in range(6)] == ["", "", "", HUNG, "", ""]
    assert "had not ended after 2 s" in found[3].story
    assert found[3].draw.startswith("seed 3")


@pytest.mark.net
def test_a_process_that_dies_fails_its_seed_with_its_last_words() -> None:
    with a_farm(DIES) as farm:
        found = outcomes(farm, *map(quick, range(6)))
    assert [found[seed].failure for seed in range(6)] == ["", "", "", CRASHED, "", ""]
    assert "signal 6\nlast words" in found[3].story


@pytest.mark.net
def test_a_simulator_that_raises_fails_the_seed_with_the_traceback() -> None:
    with a_farm(RAISES) as farm:
        found = outcomes(farm, *map(quick, range(2, 5)))
    assert found[3].failure == CRASHED
    assert "OSError: a broken simulator" in found[3].story


def children(parent: int) -> list[int]:
    asked = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True)
    return [int(pid) for pid in asked.stdout.split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(what: Callable[[], Any], limit_s: float = 20.0) -> Any:
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        if found := what():
            return found
        time.sleep(0.02)
    pytest.fail("it did not happen in time")


@pytest.fixture
def campaign() -> Iterator[subprocess.Popen[str]]:
    """A campaign from the command line, with both its workers at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dynamo", "sim", "run", "--minutes", "5", "--jobs", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip
    with process:
        wait_for(lambda: len(children(process.pid)) == 2)
        yield process
        process.kill()


@pytest.mark.net
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_a_campaign(how: int, campaign: subprocess.Popen[str]) -> None:
    workers = children(campaign.pid)
    os.kill(campaign.pid, how)
    out, _ = campaign.communicate(timeout=20)
    wait_for(lambda: not any(map(alive, workers)))
    if how == signal.SIGINT:
        assert campaign.returncode == 130
        assert "No seed was run" in out or "Interrupted" in out


# --- The command line -----------------------------------------------------------------------------


def called(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["sim", *args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.net
def test_a_clean_campaign_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("run", "--seeds", "0..1", "--profile", "short", "--json")
    code, out, err = called(capsys, *args)
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["seeds"] == 2
    assert found["ran_twice"] == 1
    wanted = "violations simulated_hours events ops_checked sometimes_hit sometimes_defined"
    assert not [x for x in [*wanted.split(), "commit", "profile", "speed"] if x not in found]
    assert {"faults", "missed", "failed"} <= found.keys()
    assert found["events"] > 10_000
    assert found["ops_checked"] > 100


@pytest.mark.net
def test_a_failed_seed_is_printed_with_all_that_is_needed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ("run", "--seeds", "0", "--profile", "short", "--plant", MISTAKE)
    code, out, err = called(capsys, *args)
    assert code == 1
    assert "FAILED seed 0 at " in out
    assert "a promise was broken: I" in out
    assert "knobs" in out
    assert f"dynamo sim shrink 0 --profile short --plant {MISTAKE}" in out
    assert " puts " in out
    assert out.endswith("FAILED: 1 seed of 1.\n")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("run", "--seeds", "9..3"), "write 0..199"),
        (("run", "--seeds", "1..3", "--count", "4"), "give one"),
        (("run", "--profile", "sunny"), "there are default"),
        (("run", "--plant", "nothing-supersedes"), f"did you mean {MISTAKE}"),
        (("replay", "nowhere.json"), "neither a seed, which is a number, nor"),
        (("replay", "3", "--profile", "short", "--key", "k77"), "they wrote"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(
    args: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = called(capsys, *args)
    assert (code, out) == (2, "")
    assert complaint in err


def test_a_replay_of_a_clean_seed_can_tell_of_any_key(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "replay", "3", "--profile", "short", "--key", "k0")
    assert code == 0
    assert "What happened to k0" in out
    assert " puts " in out
    assert "Clean: every promise was kept." in out


@pytest.mark.net
def test_a_failing_seed_shrinks_to_a_file_that_fails_alike(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "small.json"
    code, out, _ = called(
        capsys, "shrink", "2", "--profile", "short", "--plant", MISTAKE, "--out", str(file),
        "--within", "6s", "--sentence", "Nothing is ever superseded.", "--json",
    )  # fmt: skip
    told = json.loads(out)
    assert code == 0
    assert told["events"] < told["events_before"]
    found = regress.read(file.read_text("utf-8"))
    assert (found.violated, found.plant, found.expected) == (told["number"], MISTAKE, "clean")
    assert found.sentence == "Nothing is ever superseded."

    code, out, _ = called(capsys, "replay", str(file), "--json")
    again = json.loads(out)
    assert code == 1
    assert again["digest"] == found.digest
    assert again["events"] == told["events"]
    assert found.violated in [violation["number"] for violation in again["violations"]]


@pytest.mark.net
def test_there_is_nothing_to_shrink_in_a_clean_seed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "shrink", "3", "--profile", "short")
    assert code == 1
    assert "keeps every promise" in out


@pytest.mark.net
def test_the_zoo_reports_seeds_to_catch(capsys: pytest.CaptureFixture[str]) -> None:
    names = (MISTAKE, "only-the-new-value-replicated")
    code, out, _ = called(capsys, "zoo", *names, "--profile", "short", "--seeds", "20", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["planted"], found["caught"]) == (2, 2)
    assert 1 <= found["median_seeds"] <= 20
    assert {entry["name"] for entry in found["entries"]} == {*names}
    assert {entry["by"] for entry in found["entries"]} == {*found["first_by"]}


# --- Hunts and coverage ---------------------------------------------------------------------------


def test_the_lowest_seed_that_failed_counts_however_many_processes_hunt() -> None:
    hunt = Hunt((MISTAKE,), seeds_max=9)
    jobs = [hunt.more() for _ in range(3)]
    assert [job and job.seed for job in jobs] == [0, 1, 2]
    hunt.add(an_outcome(2, failure=BROKEN, plant=MISTAKE, violations=[("I4", "k", "late")]))
    hunt.add(an_outcome(0, plant=MISTAKE))
    assert hunt.more() is None, "it is caught: no further seed is started"
    hunt.add(an_outcome(1, failure=BROKEN, plant=MISTAKE, violations=[("I1", "k", "early")]))
    assert hunt.plain()["entries"][0]["seeds"] == 2
    assert hunt.plain()["entries"][0]["by"] == "I1"


def test_a_mistake_at_large_or_an_idle_promise_fails_the_zoo() -> None:
    hunt = Hunt((MISTAKE,), seeds_max=1)
    assert hunt.more() is not None
    hunt.add(an_outcome(0, plant=MISTAKE))
    assert hunt.more() is None
    assert not hunt.clean
    everything = Hunt()
    assert "I1" in everything.idle


def test_the_promises_that_must_speak_first_are_those_that_runs_judge() -> None:
    root = Path(zoo.__file__).parent.parent
    texts = [file.read_text("utf-8") for file in root.glob("*.py") if file.stem != "hunt"]
    found = {number for text in texts for number in re.findall(r'"([ID]\d+)"', text)}
    assert found == set(JUDGED)


def test_lines_are_counted_where_a_function_runs() -> None:
    text = "import sys\nclass C:\n x = 1\n def f(self, a):\n  if a:\n   return 1\n  return 2\n"
    lines = Lines({"made-up.py": text})
    scope: dict[str, Any] = {}
    exec(compile(text, "made-up.py", "exec"), scope)
    with lines:
        scope["C"]().f(True)
    assert lines.missed() == {"made-up.py": [7]}
    assert lines.counts() == {"made-up.py": (2, 3)}
    with lines:
        scope["C"]().f(False)
    assert lines.missed() == {"made-up.py": []}


def test_line_numbers_are_shown_as_ranges() -> None:
    assert ranges([12, 15, 16, 17, 40]) == "12, 15-17, 40"
    assert ranges([]) == ""
