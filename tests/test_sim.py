"""The simulator: seeds that must be clean, and its own machinery. What it must find: `test_zoo`.

    python -m pytest tests/test_sim.py --seed N          one seed, with its story when it fails
    python -m pytest tests/test_sim.py --seeds 2000      the first 2000
    python -m pytest tests/test_sim.py --seeds 500..700  these

Without either: the same 200 seeds every time, and 50 that nobody has run before, drawn from the day
and the commit. A seed that fails is written up as a scenario before what it found is mended.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from datetime import date
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from dynamo.cli.simone import core_lines
from dynamo.client.op import Op
from dynamo.core import messages as m
from dynamo.core import ring
from dynamo.core.config import Config
from dynamo.core.spaces import OBJECTS
from dynamo.sim import campaign, zoo
from dynamo.sim.campaign import Draw, Report
from dynamo.sim.farm import Farm
from dynamo.sim.faults import KINDS, schedule
from dynamo.sim.jobs import Job, Outcome
from dynamo.sim.machine import AFTER_COMMIT, BEFORE_COMMIT, WHILE_SENDING
from dynamo.sim.network import Network, Weather, across, one_way
from dynamo.sim.oracle import Oracle
from dynamo.sim.profiles import short as draw
from dynamo.sim.sometimes import SOMETIMES, missed
from dynamo.sim.workload import Caller
from dynamo.sim.world import World

ROOT = Path(__file__).resolve().parent.parent


def run(what: int | Draw) -> Report:
    """A short run: campaigns have the long ones."""
    return campaign.run(draw(what) if isinstance(what, int) else what)


FIXED, FRESH = 200, 50
FRESH_FROM = 1_000_000  # fresh seeds are never among those that somebody looked at on purpose
LIMITS = ("pending_ops_max", "pending_bytes_max", "siblings_max", "timeout_ms_max")
JOBS = min(4, os.cpu_count() or 1)


def fresh_seeds() -> range:
    """Seeds that change with the day and the commit, so that each run explores."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    name = f"{date.today()}/{commit.strip()}".encode()
    start = FRESH_FROM + int.from_bytes(blake2b(name, digest_size=4).digest(), "big")
    return range(start, start + FRESH)


def seeds_of(one: int | None, many: str | None) -> list[int]:
    """What the options ask for."""
    if one is not None:
        return [one]
    if many is None:
        return [*range(FIXED), *fresh_seeds()]
    first, dots, last = many.partition("..")
    return list(range(int(first), int(last) + 1)) if dots else list(range(int(first)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        option = metafunc.config.getoption
        metafunc.parametrize("seed", seeds_of(option("--seed"), option("--seeds")))


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> dict[int, Outcome]:
    """What came of all the seeds, run in as many processes as there are cores."""
    option = request.config.getoption
    jobs = [Job(seed, "short") for seed in reversed(seeds_of(option("--seed"), option("--seeds")))]
    with Farm(JOBS) as farm:
        found = [each for each in farm.run(lambda: jobs.pop() if jobs else None) if each]
    return {outcome.seed: outcome for outcome in found}


@pytest.mark.timeout(900)
def test_a_seed_keeps_every_promise(seed: int, outcomes: dict[int, Outcome]) -> None:
    outcome = outcomes[seed]
    assert not outcome.failure, f"seed {seed}: {outcome.reason}\n{outcome.story}"


@pytest.mark.timeout(900)
def test_the_seeds_of_a_run_reach_what_they_are_for(
    request: pytest.FixtureRequest, outcomes: dict[int, Outcome]
) -> None:
    """Not one lucky seed but all together: each fault is played, each rare state is met."""
    if len(outcomes) < FIXED:
        pytest.skip("only the seeds of a whole run go everywhere")
    marks: dict[str, int] = {}
    for outcome in outcomes.values():
        for what, count in outcome.marks.items():
            marks[what] = marks.get(what, 0) + count
    wanted = [f"fault {kind}" for kind in KINDS]
    assert [what for what in wanted if not marks.get(what)] == []
    # The rarest are for campaigns of thousands of seeds.
    assert len(missed(marks)) <= len(SOMETIMES) // 10, missed(marks)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_simulation_alone_runs_nine_tenths_of_the_lines_of_the_core() -> None:
    lines = core_lines()
    with lines:
        for number in range(60):
            run(number)
    counts = lines.counts().values()
    done, there = sum(done for done, _ in counts), sum(there for _, there in counts)
    assert done >= 0.9 * there, f"{done} of {there}: {lines.missed()}"


@pytest.mark.parametrize("number", range(6))
def test_where_nothing_goes_wrong_every_operation_succeeds(number: int) -> None:
    """No fault, no loss, no limit: nothing times out and nothing is refused."""
    drawn = draw(number)
    usual = {name: getattr(Config(), name) for name in LIMITS}
    habits = tuple(
        replace(habit, weights={**habit.weights, "quit": 0, "pile": 0, "borrow": 0}, hasty=0.0)
        for habit in drawn.habits
        if habit is not None
    )
    report = run(
        replace(
            drawn, kinds=(), weather=Weather(), forced=(), broken=(), habits=habits,
            config=replace(drawn.config, **usual),
        )
    )  # fmt: skip
    assert not report.violations, "\n" + report.story()
    assert report.ops["info"] == 0
    assert report.ops["fail"] == 0
    assert report.retry_siblings == 0


# --- The same seed is the same run (I16) ----------------------------------------------------------

DIGEST = (
    "import sys; from dynamo.sim import campaign, profiles; "
    "print(campaign.run(profiles.short(int(sys.argv[1]))).digest)"
)


@pytest.mark.parametrize("number", [3, 7])
def test_a_seed_runs_alike_in_every_process_whatever_its_hash_seed(number: int) -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", DIGEST, str(number)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    ]
    assert digests[0] == digests[1] == run(number).digest


def test_another_seed_is_another_run() -> None:
    assert run(3).digest != run(4).digest


# --- The network ----------------------------------------------------------------------------------

FRAME = ("a", 1, 0, [])


def still(**weather: Any) -> Network:
    return Network(random.Random(1), Weather(**{"delay_ms": 5, "jitter_ms": 0, **weather}))


def test_a_calm_link_delivers_once_after_its_delay() -> None:
    assert still().send(100, "a", "b", FRAME) == [(105, "a", "b", FRAME)]


def test_a_cut_link_loses_what_passes_and_only_in_its_direction() -> None:
    network = still()
    network.cut(one_way(["a"], ["b"]), hold=False)
    assert network.send(100, "a", "b", FRAME) == []
    assert len(network.send(100, "b", "a", FRAME)) == 1
    assert network.mend(200, one_way(["a"], ["b"]), hold=False) == []
    assert len(network.send(300, "a", "b", FRAME)) == 1


def test_a_link_that_holds_delivers_the_past_when_it_is_mended() -> None:
    network = still()
    network.cut([("a", "b")], hold=True)
    assert network.send(100, "a", "b", FRAME) == []
    assert network.mend(900, [("a", "b")], hold=True) == [(905, "a", "b", FRAME)]


def test_a_link_cut_twice_is_open_after_two_mends() -> None:
    network = still()
    for _ in range(2):
        network.cut([("a", "b")], hold=True)
    network.send(100, "a", "b", FRAME)
    assert network.mend(200, [("a", "b")], hold=True) == []
    assert len(network.mend(300, [("a", "b")], hold=True)) == 1


def test_healing_opens_every_link_and_lets_go_of_what_was_held() -> None:
    network = still(loss=1.0)
    network.cut(across([["a"], ["b", "c"]]), hold=True)
    network.send(100, "a", "c", FRAME)
    assert [delivery[1:3] for delivery in network.heal(500)] == [("a", "c")]
    assert len(network.send(600, "a", "b", FRAME)) == 1


def test_a_request_of_a_client_is_never_doubled() -> None:
    network = still(double=1.0, replay=1.0)
    assert len(network.send(100, "c0", "a", FRAME, again=False)) == 1
    assert len(network.send(100, "a", "b", FRAME)) == 2


# --- The world ------------------------------------------------------------------------------------

KEY = ring.full_key(b"sim", b"k")
CONFIG = Config(
    partitions=4, probe_ms=50, probe_timeout_ms=20, suspicion_ms=100, exchange_ms=200,
    replica_timeout_ms=20, background_timeout_ms=300,
)  # fmt: skip


class Ring:
    """A calm world of three nodes and one client, that has been up for a while."""

    def __init__(self, **how: Any) -> None:
        network = Network(random.Random(1), Weather())
        self.world = World(5, ["n1", "n2", "n3"], CONFIG, network, Oracle(), **how)
        self.client = Caller("c0", self.world, random.Random(2))
        for name in self.world.hosts:
            self.world.start(name)
        self.run(300)

    def run(self, ms: int) -> None:
        self.world.run_until(self.world.now_ms + ms)

    def ask(self, kind: int, tail: tuple[Any, ...], node: str, timeout_ms: int = 100) -> Op:
        op = Op(kind, KEY, self.world.now_ms + timeout_ms, tail, tries=1, pin=node)
        self.client.submit(op, lambda op: None)
        self.world.uids[op.put_id] = "v"
        self.world.attend(self.client)
        return op

    def put(self, node: str, **how: int) -> Op:
        return self.ask(m.PUT, (0, 0, m.SLOPPY, 0, b"\0v"), node, **how)

    def held_by(self) -> list[str]:
        skey = ring.storage_key(KEY, CONFIG.partitions)
        return [n for n, host in self.world.hosts.items() if host.disk.get(OBJECTS, skey)]


def test_a_put_is_acknowledged_and_stored_by_all_owners() -> None:
    cluster = Ring()
    op = cluster.put("n1")
    cluster.run(20)
    assert op.answer is not None
    assert cluster.held_by() == ["n1", "n2", "n3"]
    assert cluster.world.unsettled() == ("", "")


def test_a_step_that_dies_before_its_commit_leaves_nothing() -> None:
    cluster = Ring()
    cluster.world.doom("n1", BEFORE_COMMIT, 50)
    op = cluster.put("n1")
    cluster.run(20)
    assert cluster.world.hosts["n1"].node is None
    assert cluster.held_by() == []
    cluster.run(300)
    assert op.done
    assert op.answer is None
    assert cluster.world.hosts["n1"].node is not None


def test_a_step_that_dies_after_its_commit_leaves_a_row_that_spreads_later() -> None:
    cluster = Ring()
    cluster.world.doom("n1", AFTER_COMMIT, 50)
    op = cluster.put("n1")
    cluster.run(20)
    assert cluster.held_by() == ["n1"]
    cluster.run(1_000)
    assert op.answer is None
    assert cluster.held_by() == ["n1", "n2", "n3"]


def test_a_step_that_dies_while_sending_reaches_some() -> None:
    reached = []
    for split in range(8):
        cluster = Ring()
        cluster.world._rng.seed(split)
        cluster.world.doom("n1", WHILE_SENDING, 500)
        cluster.put("n1")
        cluster.run(20)
        reached.append(len(cluster.held_by()))
    assert min(reached) < 3
    assert max(reached) > 1


def test_a_wiped_disk_comes_back_empty_and_is_filled_by_the_others() -> None:
    cluster = Ring()
    cluster.put("n1")
    cluster.run(20)
    cluster.world.wipe("n2")
    assert cluster.held_by() == ["n1", "n3"]
    assert not cluster.world.only_copy("n1")
    cluster.world.start("n2")
    cluster.run(1_000)
    assert cluster.held_by() == ["n1", "n2", "n3"]
    assert cluster.world.unsettled() == ("", "")


def test_the_only_copy_of_a_row_is_recognised() -> None:
    cluster = Ring()
    cluster.world.doom("n1", AFTER_COMMIT, 5_000)
    cluster.put("n1")
    cluster.run(20)
    assert cluster.world.only_copy("n1")
    assert not cluster.world.only_copy("n2")


def test_a_paused_node_does_not_carry_out_what_expired_meanwhile() -> None:
    cluster = Ring()
    cluster.ask(m.GET, (1, 0, 0), "n1")  # n1 has met the client: it can tell how old a frame is
    cluster.run(20)
    cluster.world.pause("n1")
    op = cluster.put("n1", timeout_ms=100)
    cluster.run(400)
    assert op.done
    cluster.world.resume("n1")
    cluster.run(400)
    assert cluster.held_by() == []


def test_messages_that_travel_as_bytes_make_the_same_run() -> None:
    plain, encoded = (run(replace(draw(4), encode=encode)) for encode in (False, True))
    assert plain.ops == encoded.ops
    assert not plain.violations
    assert not encoded.violations


def test_an_acknowledgement_is_checked_against_the_disks() -> None:
    cluster = Ring()
    world, oracle = cluster.world, cluster.world.oracle
    write = oracle.begin_write(KEY, "v", 0, world.now_ms)
    op = cluster.put("n1")
    cluster.run(20)
    request = (m.PUT, 99, 0, KEY, 1, 0, m.BLIND, b"", op.put_id, 0, m.ALL, 0, 0, 0, b"")
    world.watch_put("c0", write, request)
    world._before_answer("c0", (m.PUT_OK, 99, b"", [], [], []))
    assert oracle.violations == []
    world.hosts["n3"].disk.delete(OBJECTS, ring.storage_key(KEY, CONFIG.partitions))
    world._before_answer("c0", (m.PUT_OK, 99, b"", [], [], []))
    assert [violation.number for violation in oracle.violations] == ["I12"]


# --- Draws and schedules --------------------------------------------------------------------------


def test_a_draw_depends_on_its_seed_alone() -> None:
    assert draw(11) == draw(11)
    assert draw(11) != draw(12)


def test_one_seed_in_eight_encodes_its_frames() -> None:
    assert sum(draw(seed).encode for seed in range(80)) == 10


def test_disks_are_lost_only_where_two_of_them_acknowledge() -> None:
    for seed in range(300):
        drawn = draw(seed)
        if "wipe" in drawn.kinds:
            copies = min(drawn.config.n, drawn.nodes)
            assert copies >= 2
            assert (drawn.config.w or copies // 2 + 1) >= 2


def test_a_schedule_is_made_before_anything_runs() -> None:
    def one() -> list[Any]:
        return schedule(random.Random(3), KINDS, ["n1", "n2", "n3"], ["c0"], 60_000, 100, 500)

    assert one() == one()
    assert {fault.kind for fault in one()} == set(KINDS)


def test_a_failing_seed_tells_its_draw_the_story_of_the_key_and_how_to_replay_it() -> None:
    with zoo.ENTRIES["nothing-superseded"].planted():
        story = run(2).story()
    assert "seed 2 (short):" in story
    assert "covers it" in story
    assert story.endswith("replay: dynamo sim replay 2 --profile short")
