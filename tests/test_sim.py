"""The simulator: seeds that must be clean, mistakes that it must find, and its own machinery.

    python -m pytest tests/test_sim.py --seed N      one seed, with its story when it fails
    python -m pytest tests/test_sim.py --seeds 2000  more of them
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dynamo.client import outcomes
from dynamo.client.session import Session
from dynamo.core import dvv, ring
from dynamo.core import messages as m
from dynamo.core.config import Config
from dynamo.core.exchange import Exchange
from dynamo.core.fanout import Fanout, Put
from dynamo.core.handoff import Handoff
from dynamo.core.node import Node
from dynamo.core.reads import Reads
from dynamo.core.replica import Replica
from dynamo.core.spaces import OBJECTS
from dynamo.core.writes import Writes
from dynamo.sim.campaign import draw, run
from dynamo.sim.faults import KINDS, schedule
from dynamo.sim.network import Network, Weather, across, one_way
from dynamo.sim.oracle import Oracle
from dynamo.sim.workload import Client, Habit, Reader
from dynamo.sim.world import AFTER_COMMIT, BEFORE_COMMIT, WHILE_SENDING, World


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        one, many = metafunc.config.getoption("--seed"), metafunc.config.getoption("--seeds")
        metafunc.parametrize("seed", range(many) if one is None else [one])


def test_a_seed_keeps_every_promise(seed: int) -> None:
    report = run(seed)
    assert not report.violations, "\n" + report.story()


# --- The same seed is the same run (I16) ----------------------------------------------------------

DIGEST = "import sys; from dynamo.sim.campaign import run; print(run(int(sys.argv[1])).digest)"


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


def test_the_seeds_of_a_run_reach_what_they_are_for() -> None:
    """Not one lucky seed but forty together: each fault is played, each rare state is met."""
    marks: dict[str, int] = {}
    for number in range(40):
        for what, count in run(number).marks.items():
            marks[what] = marks.get(what, 0) + count
    wanted = [f"fault {kind}" for kind in KINDS]
    wanted += ["died before commit", "died after commit", "died while sending"]
    wanted += ["siblings seen", "stale context used", "auto put refused", "unread siblings merged"]
    wanted += ["acknowledged with stand-ins", "op took several attempts", "hints_delivered"]
    wanted += ["read_repairs", "exchange_pulled", "exchange_pushed", "stood_in", "hedged"]
    wanted += ["superseded before acknowledged", "frame of a ghost", "expired"]
    assert [what for what in wanted if not marks.get(what)] == []


# --- Mistakes that it must find -------------------------------------------------------------------
# Each planted mistake changes one rule of the real code. Some seed must notice, and name the
# promise that broke: a check that never failed is no evidence.

SEEDS_MAX = 150
Plant = Callable[[pytest.MonkeyPatch], None]


def one_answer_counts_twice(patch: pytest.MonkeyPatch) -> None:
    """C2: a duplicated acknowledgement reaches W alone."""
    real = Fanout.on_replicate_ok

    def on_replicate_ok(self: Fanout, sender: str, message: m.Message, born_ms: int) -> None:
        op = self.requests.pending.get(message[1])
        if isinstance(op, Put) and sender in op.waiting and not op.asking:
            op.acked.append(f"{sender} again")
        real(self, sender, message, born_ms)

    patch.setattr(Fanout, "on_replicate_ok", on_replicate_ok)


def only_the_new_value_is_replicated(patch: pytest.MonkeyPatch) -> None:
    """DVV sets need the whole object: the list arithmetic is wrong without it."""
    real = Fanout.send

    def send(self: Fanout, op: Put, name: str, home: str) -> None:
        whole = op.obj
        if op.actor:
            op.obj = dvv.encode([(op.actor, op.n, [op.value])])
        real(self, op, name, home)
        op.obj = whole

    patch.setattr(Fanout, "send", send)


def a_put_tells_its_context_without_the_siblings(patch: pytest.MonkeyPatch) -> None:
    """D4: the writer's next put then covers values that it never saw."""
    real = Fanout._answer

    def answer(self: Fanout, op: Put) -> None:
        real(self, op)
        to, message = self.requests.outbox[-1]
        if message[0] == m.PUT_OK:
            self.requests.outbox[-1] = (to, (*message[:3], [], *message[4:]))

    patch.setattr(Fanout, "_answer", answer)


def a_blank_owner_counts_toward_r(patch: pytest.MonkeyPatch) -> None:
    """X1: "nothing here" of a node that was just wiped is taken for evidence."""
    patch.setattr(Replica, "synced", lambda self, arc: True)


def a_retry_does_not_ask_for_its_id(patch: pytest.MonkeyPatch) -> None:
    """Each attempt of a put mints a dot of its own, and a covered value comes back."""
    real = Writes._ask_or_apply

    def ask_or_apply(self: Writes, op: Put, attempt: int) -> None:
        real(self, op, 0)

    patch.setattr(Writes, "_ask_or_apply", ask_or_apply)
    patch.setattr(Replica, "remember", lambda self, put_id: None)


def an_actor_is_used_again_after_its_disk_was_lost(patch: pytest.MonkeyPatch) -> None:
    """D3: a wiped node counts on from zero under its old names, and nobody tells it."""
    real_init, real_mint = Node.__init__, Replica.mint

    def init(self: Node, config: Config, name: str, *rest: Any) -> None:
        real_init(self, config, name, *rest)
        self.replica._incarnation = name.encode().ljust(16, b".")
        self.replica._prefixes.clear()

    def mint(self: Replica, arc: int, clock: Any, context: Any, value: Any) -> Any:
        fresh, self._rng = self._rng, SameBytes()
        try:
            return real_mint(self, arc, clock, context, value)
        finally:
            self._rng = fresh

    patch.setattr(Node, "__init__", init)
    patch.setattr(Replica, "mint", mint)
    patch.setattr(Replica, "notice_amnesia", lambda self, arc, mine, theirs: False)
    patch.setattr(Replica, "seen", lambda self, mine, theirs, actor: 0)


class SameBytes(random.Random):
    """Six random bytes that are always the same."""

    def randbytes(self, n: int) -> bytes:
        return bytes(n)


def a_tombstone_is_dropped_at_once(patch: pytest.MonkeyPatch) -> None:
    """A delete that keeps no tombstone is undone by the next owner that missed it."""
    real = Replica._write

    def write(self: Replica, skey: bytes, old: bytes, obj: bytes) -> bytes:
        if not all(value[1] & dvv.TOMBSTONE for value in dvv.values_of(dvv.decode(obj))):
            return real(self, skey, old, obj)
        if old:
            self._store.delete(OBJECTS, skey)
            self._toggle(skey, old)
            self.keys -= 1
        return obj

    patch.setattr(Replica, "_write", write)


def nothing_is_ever_superseded(patch: pytest.MonkeyPatch) -> None:
    """A context that covers nothing leaves every old value beside the new one."""
    patch.setattr(dvv, "discard", lambda clock, context: clock)


def owners_never_compare(patch: pytest.MonkeyPatch) -> None:
    """Without the exchange, cold keys that missed an owner stay missing there."""
    patch.setattr(Exchange, "_start_walks", lambda self, peer, now_ms: None)


def hints_stay(patch: pytest.MonkeyPatch) -> None:
    """Handoff without delivery."""
    patch.setattr(Handoff, "run", lambda self, now_ms: None)


def the_commit_comes_after_the_sending(patch: pytest.MonkeyPatch) -> None:
    """N1: the outbox leaves first, the rows become durable with the next step."""
    real = Node.step

    def step(self: Node, now_ms: int, inbox: Any, wall_ms: int = 0) -> Any:
        self._store.commit()
        commit, self._store.commit = self._store.commit, lambda sync=False: None
        try:
            return real(self, now_ms, inbox, wall_ms)
        finally:
            self._store.commit = commit

    patch.setattr(Node, "step", step)
    patch.setattr(World, "_examine", lambda self, host, node: None)


def a_timeout_passes_for_a_refusal(patch: pytest.MonkeyPatch) -> None:
    """The client says "nothing was done" of a put whose coordinator gave up waiting."""
    real = Session._refused

    def refused(self: Session, now_ms: int, op: Any, node: Any, failed: m.Message) -> None:
        real(self, now_ms, op, node, (*failed[:8], 0, *failed[9:]))

    patch.setattr(Session, "_refused", refused)


def a_deadline_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A client that waits for ever."""
    patch.setattr(Session, "_expire", lambda self, now_ms, op: None)


WIPES = {"kinds": ("wipe",), "every_ms": 100, "longest_ms": 100}
CRASHES = {
    "kinds": ("before", "after", "sending"), "every_ms": 100, "weather": Weather(), "singly": True,
}  # fmt: skip
PLANTED: list[tuple[Plant, str, dict[str, Any]]] = [
    (one_answer_counts_twice, "I12", {}),
    (only_the_new_value_is_replicated, "I1", {}),
    (a_put_tells_its_context_without_the_siblings, "I1", {}),
    (a_blank_owner_counts_toward_r, "I6", WIPES),
    (a_retry_does_not_ask_for_its_id, "I4", CRASHES),
    (an_actor_is_used_again_after_its_disk_was_lost, "I1", WIPES),
    (a_tombstone_is_dropped_at_once, "I3", {}),
    (nothing_is_ever_superseded, "I4", {}),
    (owners_never_compare, "I5", {}),
    (hints_stay, "I9", {}),
    (the_commit_comes_after_the_sending, "I12", CRASHES),
    (a_timeout_passes_for_a_refusal, "I2", {}),
    (a_deadline_is_forgotten, "I13", {}),
]


@pytest.mark.parametrize(
    ("plant", "number", "changes"), PLANTED, ids=[plant.__name__ for plant, _, _ in PLANTED]
)
def test_a_planted_mistake_is_found(
    plant: Plant, number: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found: list[str] = []
    for seed in range(SEEDS_MAX):
        report = run(replace(draw(seed), **changes))
        found += [violation.number for violation in report.violations]
        if number in found:
            return
    pytest.fail(f"{SEEDS_MAX} seeds found {found or 'nothing'}")


def test_every_invariant_that_a_run_checks_has_a_mistake_that_breaks_it() -> None:
    assert {number for _, number, _ in PLANTED} == {
        "I1", "I2", "I3", "I4", "I5", "I6", "I9", "I12", "I13",
    }  # fmt: skip
