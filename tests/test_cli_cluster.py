"""Changes of the ring from the command line: what is asked of which node, and what people see.

On a ring that is made of its answers (see `fakering`), and at the end once on real nodes.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fakering import FakeNode, FakeRing

from dynamo.cli import changing, exits, tasks
from dynamo.cli.main import main
from dynamo.processes import free_ports

Out = pytest.CaptureFixture[str]
ZONES = {"n1": "", "n2": "", "n3": "", "n4": "", "n5": ""}
JOIN = {"verb": "join", "node": "n5"}


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> FakeRing:
    """Four members, and n5, which runs and waits outside."""
    return use(FakeRing(ZONES, outside=["n5"]), monkeypatch)


def use(ring: FakeRing, monkeypatch: pytest.MonkeyPatch) -> FakeRing:
    monkeypatch.setattr("dynamo.server.admin.Admin", lambda: ring)
    monkeypatch.delenv("DYNAMO_URL", raising=False)
    monkeypatch.setattr(tasks, "POLL_S", 0.001)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    return ring


def types(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A person sits there, and types this."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(text))


def said(capsys: Out, *argv: str, code: int = exits.OK) -> str:
    """Everything that a command says."""
    capsys.readouterr()
    assert main(list(argv)) == code
    out, err = capsys.readouterr()
    return out + err


def told(capsys: Out, *argv: str, code: int = exits.OK) -> dict[str, Any]:
    """The object that a command puts on stdout, or on stderr if it fails."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == code
    out, err = capsys.readouterr()
    assert bool(out) != bool(err)
    found: dict[str, Any] = json.loads(out or err)
    return found


# --- stage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "body"),
    [
        (["join", "n5"], JOIN),
        (["join", "n5", "--weight", "2"], JOIN | {"weight": 2}),
        (["leave", "n2"], {"verb": "leave", "node": "n2"}),
        (["replace", "n2", "n5"], {"verb": "replace", "node": "n2", "by": "n5"}),
        (["replace", "n2", "--by", "n5"], {"verb": "replace", "node": "n2", "by": "n5"}),
        (["reweight", "n3", "2"], {"verb": "reweight", "node": "n3", "weight": 2}),
    ],
)
def test_a_change_is_staged_at_the_first_node_by_name_and_nothing_else_happens(
    argv: list[str], body: dict[str, Any], ring: FakeRing, capsys: Out
) -> None:
    text = said(capsys, "cluster", *argv)
    assert ring.done == [("n1", "stage", body)]
    assert text.startswith(f"Staged  {argv[0]} ")
    assert text.endswith("Nothing has changed yet. Next: dynamo cluster plan\n")


@pytest.mark.parametrize("argv", [["join", "n6"], ["replace", "n2", "n6"]])
def test_a_node_that_was_started_just_now_is_waited_for(
    argv: list[str], ring: FakeRing, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    """`node start &` and `join`, as they stand in README: found by typing them."""

    def time_passes(seconds: float) -> None:
        assert 0 < seconds < 1
        ring.nodes["n6"] = FakeNode(7006, "", 1, "out")

    monkeypatch.setattr(changing.time, "sleep", time_passes)
    text = said(capsys, "cluster", *argv)
    assert "Waiting to hear of n6.\n" in text
    assert [(verb, body["verb"]) for _, verb, body in ring.done] == [("stage", argv[0])]


def test_a_node_that_never_comes_is_not_waited_for_long(ring: FakeRing, capsys: Out) -> None:
    ring.refusal = {"error": "nothing was ever heard of 'n6'", "try": "dynamo node start"}
    text = said(capsys, "cluster", "join", "n6", "--timeout", "50ms", code=exits.REFUSED)
    assert "dynamo: nothing was ever heard of 'n6'\n" in text


def test_all_that_is_staged_is_shown_and_given_to_scripts(ring: FakeRing, capsys: Out) -> None:
    said(capsys, "cluster", "leave", "n2")
    assert "Staged  leave n2\n        join n5\n" in said(capsys, "cluster", "join", "n5")
    assert told(capsys, "cluster", "join", "n5")["staged"] == [
        {"verb": "leave", "node": "n2"},
        JOIN,
    ]


def test_a_node_that_serves_nobody_is_not_asked_for_changes(ring: FakeRing, capsys: Out) -> None:
    ring.nodes["n1"].closed = "n1 is being drained: ask another node"
    said(capsys, "cluster", "join", "n5")
    assert ring.done[0][0] == "n2"
    for node in ring.nodes.values():
        node.closed = "no"
    assert "dynamo: no" in said(capsys, "cluster", "join", "n5", code=exits.REFUSED)


def test_what_a_node_refuses_is_a_sentence_the_next_command_and_exit_code_8(
    ring: FakeRing, capsys: Out
) -> None:
    ring.refusal = {"error": "n4 does not answer", "try": "dynamo cluster remove n4"}
    text = said(capsys, "cluster", "leave", "n4", code=exits.REFUSED)
    assert text == "dynamo: n4 does not answer\nNext: dynamo cluster remove n4\n"
    found = told(capsys, "cluster", "leave", "n4", code=exits.REFUSED)
    assert found["message"] == "n4 does not answer"
    assert found["try"] == "dynamo cluster remove n4"


def test_a_change_without_an_answer_may_have_been_made(ring: FakeRing, capsys: Out) -> None:
    ring.silent = True
    found = told(capsys, "cluster", "join", "n5", "--timeout", "50ms", code=exits.UNKNOWN)
    assert found["maybe_applied"] is True
    assert "dynamo cluster plan" in found["message"]


@pytest.mark.parametrize(
    "argv",
    [
        ["cluster", "join", "n5"],
        ["cluster", "leave", "n2"],
        ["cluster", "remove", "n2"],
        ["cluster", "replace", "n2", "n5"],
        ["cluster", "reweight", "n2", "3"],
        ["cluster", "clear"],
        ["node", "drain", "n2"],
    ],
)
def test_a_dry_run_changes_nothing(argv: list[str], ring: FakeRing, capsys: Out) -> None:
    ring.staged = [JOIN]
    text = said(capsys, *argv, "--dry-run")
    assert re.search(r"[Ww]ould ", text)
    assert told(capsys, *argv, "--dry-run")
    assert ring.done == []


def test_a_name_that_nobody_knows_is_answered_with_its_like(ring: FakeRing, capsys: Out) -> None:
    text = said(capsys, "cluster", "join", "n55", "--dry-run", code=exits.REFUSED)
    assert "did you mean n5?" in text


@pytest.mark.parametrize("more", [[], ["n5", "--by", "n5"]])
def test_a_replacement_names_one_newcomer(more: list[str], ring: FakeRing, capsys: Out) -> None:
    text = said(capsys, "cluster", "replace", "n2", *more, code=exits.USAGE)
    assert "dynamo cluster replace n2 NEWCOMER" in text


# --- what is asked of people --------------------------------------------------------------------


@pytest.fixture
def down(ring: FakeRing) -> FakeRing:
    ring.nodes["n4"].state = "down"
    ring.nodes["n1"].hints = {"n4": 1204}
    return ring


def test_a_removal_shows_what_goes_and_asks_for_the_name(
    down: FakeRing, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    types(monkeypatch, "n4\n")
    text = said(capsys, "cluster", "remove", "n4", "--force")
    assert "DOWN 3m 20s" in text
    assert "at least 2 other copies" in text
    assert "1,204 hints wait for it" in text
    assert "what only its copies hold is given up" in text
    assert "type n4: " in text
    assert "Staged  remove n4, giving its copies up" in text
    assert down.done == [("n1", "stage", {"verb": "remove", "node": "n4", "force": True})]


@pytest.mark.parametrize("typed", ["", "y\n", "n5\n"])
def test_anything_else_that_is_typed_changes_nothing(
    typed: str, down: FakeRing, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    types(monkeypatch, typed)
    assert "nothing is changed" in said(capsys, "cluster", "remove", "n4", code=exits.REFUSED)
    assert down.done == []


def test_nobody_is_asked_where_nobody_can_type(down: FakeRing, capsys: Out) -> None:
    assert "Add --yes" in said(capsys, "cluster", "remove", "n4", code=exits.REFUSED)
    assert down.done == []
    said(capsys, "cluster", "remove", "n4", "--yes")
    assert [verb for _, verb, _ in down.done] == ["stage"]


def test_a_script_that_reads_json_is_never_asked(
    down: FakeRing, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    types(monkeypatch, "n4\n")
    found = told(capsys, "cluster", "remove", "n4", code=exits.REFUSED)
    assert "confirmed" in found["message"]
    assert told(capsys, "cluster", "remove", "n4", "--yes")["staged"]


def test_the_removal_of_a_node_that_is_up_is_left_to_the_node_to_refuse(
    ring: FakeRing, capsys: Out
) -> None:
    ring.refusal = {"error": "n2 answers: let it leave", "try": "dynamo cluster leave n2"}
    text = said(capsys, "cluster", "remove", "n2", code=exits.REFUSED)
    assert "Next: dynamo cluster leave n2" in text


# --- plan ---------------------------------------------------------------------------------------


def test_a_plan_shows_before_and_after_what_moves_and_how_to_go_on(
    ring: FakeRing, capsys: Out
) -> None:
    ring.staged = [JOIN | {"weight": 2}]
    text = said(capsys, "cluster", "plan")
    assert "Staged  join n5 with weight 2" in text
    [row] = [line for line in text.splitlines() if line.startswith("n5")]
    assert re.fullmatch(r"n5 +2  up, joins +0\.0 % → +\d+\.\d % +0\.0 % → +\d+\.\d %", row)
    assert re.search(r"Moves \d+ of 192 replicas \(\d+ %\), in \d+ of 64 arcs: about", text)
    assert "of copying at the limit of 5.0 MiB/s a node" in text
    assert "costs no quorum" in text
    assert f"Apply: dynamo cluster commit {ring.plan_id}\n" in text
    assert text.endswith("Forget: dynamo cluster clear\n")
    found = told(capsys, "cluster", "plan")
    assert {"plan", "staged", "moves", "bytes", "seconds", "nodes", "risks"} <= set(found)


def test_risks_violations_and_losses_are_told(ring: FakeRing, capsys: Out) -> None:
    ring.staged = [JOIN]
    ring.extra = {"risks": ["if n1 fails"], "warnings": ["late"], "violations": ["two in z1"]}
    text = said(capsys, "cluster", "plan")
    assert "risk    if n1 fails" in text
    assert "warn    late" in text
    assert "broken  two in z1" in text
    assert "costs no quorum" not in text
    ring.extra = {"loss": "all of 3 arcs"}
    assert "LOSS  all of 3 arcs" in said(capsys, "cluster", "plan")


def test_nothing_staged_is_nothing_to_plan_and_nothing_to_commit(
    ring: FakeRing, capsys: Out
) -> None:
    assert "nothing to plan: nothing is staged" in said(capsys, "cluster", "plan")
    assert told(capsys, "cluster", "plan") == {"plan": "", "staged": []}
    text = said(capsys, "cluster", "commit", "--yes", code=exits.REFUSED)
    assert "nothing is staged" in text


# --- commit and clear ---------------------------------------------------------------------------


def test_the_plan_that_was_looked_at_is_committed_without_a_question(
    ring: FakeRing, capsys: Out
) -> None:
    ring.staged = [JOIN]
    text = said(capsys, "cluster", "commit", ring.plan_id[:6])
    assert ring.done[-1] == ("n1", "commit", {"plan": ring.plan_id})
    assert "Committed as task c3-9f21" in text
    assert "Next: dynamo tasks c3-9f21 --wait" in text


def test_a_plan_of_another_ring_is_not_committed(ring: FakeRing, capsys: Out) -> None:
    ring.staged = [JOIN]
    text = said(capsys, "cluster", "commit", "0000", code=exits.REFUSED)
    assert "changed since plan 0000" in text
    assert "Next: dynamo cluster plan" in text
    assert "too short" in said(capsys, "cluster", "commit", "3f", code=exits.USAGE)
    assert [verb for _, verb, _ in ring.done] == ["plan"]


def test_a_commit_without_a_plan_shows_it_and_asks(
    ring: FakeRing, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring.staged = [JOIN]
    text = said(capsys, "cluster", "commit", code=exits.REFUSED)
    assert "PRIMARY now → after" in text
    types(monkeypatch, "yes\n")
    assert "Committed as task" in said(capsys, "cluster", "commit")


def test_a_commit_that_may_lose_data_asks_for_the_names_even_of_a_known_plan(
    down: FakeRing, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    down.staged = [{"verb": "remove", "node": "n4", "force": True}]
    down.extra = {"loss": "all keys of 3 arcs"}
    text = said(capsys, "cluster", "commit", down.plan_id, code=exits.REFUSED)
    assert "LOSS  all keys of 3 arcs" in text
    types(monkeypatch, "yes\n")
    assert "something else" in said(capsys, "cluster", "commit", down.plan_id, code=exits.REFUSED)
    types(monkeypatch, "n4\n")
    assert "Committed" in said(capsys, "cluster", "commit", down.plan_id)


def test_a_dry_run_of_a_commit_shows_the_plan(ring: FakeRing, capsys: Out) -> None:
    ring.staged = [JOIN]
    assert "PRIMARY now → after" in said(capsys, "cluster", "commit", "--dry-run")
    found = told(capsys, "cluster", "commit", "--dry-run")
    assert found["would_commit"] == ring.plan_id
    assert {verb for _, verb, _ in ring.done} == {"plan"}


def test_clear_forgets_all_or_what_is_staged_for_one(ring: FakeRing, capsys: Out) -> None:
    ring.staged = [JOIN, {"verb": "leave", "node": "n2"}]
    assert "Forgotten: leave n2." in said(capsys, "cluster", "clear", "n2")
    assert ring.staged == [JOIN]
    assert told(capsys, "cluster", "clear") == {"forgotten": [JOIN], "staged": []}
    assert "Nothing is staged." in said(capsys, "cluster", "clear")


def test_init_is_the_one_of_config(tmp_path: Path, capsys: Out) -> None:
    found = told(capsys, "cluster", "init", str(tmp_path / "ring"), "--nodes", "2")
    assert [Path(file).name for file in found["files"]] == ["n1.toml", "n2.toml"]
    assert any("node start" in line for line in found["next"])


# --- tasks --------------------------------------------------------------------------------------


@pytest.fixture
def moving(ring: FakeRing) -> FakeRing:
    """n5 joins; a part of its arcs has arrived."""
    ring.staged = [JOIN]
    ring._do_commit({"plan": ring.plan_id})
    ring.step = 10
    ring._advance()
    ring.step = 0
    return ring


def test_tasks_and_one_of_them(moving: FakeRing, capsys: Out) -> None:
    text = said(capsys, "tasks")
    assert re.search(r"c3-9f21 +running .* 10 of \d+ \(\d+ %\) +n5 joins", text)
    assert "Next: dynamo tasks c3-9f21 --wait" in text
    moving.tasks[0]["waiting"] = ["n5 is down: 12 arcs wait for it"]
    assert "waits  n5 is down: 12 arcs wait for it" in said(capsys, "tasks", "c3")
    assert told(capsys, "tasks", "c3")["task"] == "c3-9f21"
    assert "there is no task 'c9'" in said(capsys, "tasks", "c9", code=exits.USAGE)


def test_waiting_ends_with_the_task(moving: FakeRing, capsys: Out) -> None:
    moving.step = 7
    assert "DONE: n5 joins. " in said(capsys, "tasks", "--wait")
    assert "Nothing is under way" in said(capsys, "tasks", "--wait")
    assert told(capsys, "tasks", "c3", "--wait")["state"] == "done"


def test_a_commit_may_wait_for_its_task(ring: FakeRing, capsys: Out) -> None:
    ring.staged, ring.step = [JOIN], 50
    assert told(capsys, "cluster", "commit", "--yes", "--wait")["state"] == "done"


def test_waiting_says_what_the_task_waits_for_and_ends_in_time(
    moving: FakeRing, capsys: Out
) -> None:
    moving.tasks[0]["waiting"] = ["n5 is down: 12 arcs wait for it"]
    text = said(capsys, "tasks", "--wait", "--timeout", "30ms", code=exits.UNKNOWN)
    assert text.count("c3-9f21 waits: n5 is down") == 1
    assert "goes on" in text


def test_ctrl_c_leaves_the_task_running_and_says_how_to_come_back(
    moving: FakeRing, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks.time, "sleep", interrupted)
    text = said(capsys, "tasks", "--wait", code=exits.INTERRUPTED)
    assert "dynamo tasks c3-9f21 --wait" in text
    assert "dynamo tasks c3-9f21 --abort" in text
    assert moving.tasks[0]["state"] == "running"


def test_waiting_outlives_a_silence_of_all_nodes(
    moving: FakeRing, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    asked = tasks.contact

    def now_and_then(shell: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            raise ConnectionError
        return asked(shell)

    monkeypatch.setattr(tasks, "contact", now_and_then)
    moving.step = 20
    assert "DONE" in said(capsys, "tasks", "c3", "--wait")
    assert calls >= 4


def test_abort_and_resume_make_new_tasks_which_are_followed(moving: FakeRing, capsys: Out) -> None:
    text = said(capsys, "tasks", "c3", "--abort")
    assert moving.done[-1][1:] == ("abort", {"task": "c3-9f21"})
    assert "10 go back" in text
    assert "Next: dynamo tasks c4-9f21 --wait" in text
    failed = said(capsys, "tasks", "c3", "--wait", code=exits.TASK_FAILED)
    assert "c3-9f21 was aborted" in failed
    assert told(capsys, "tasks", "--resume")["resumes"] == "c3-9f21"
    moving.step = 64
    assert "DONE: n5 joins. " in said(capsys, "tasks", "c5", "--wait")


def test_abort_dry_run_and_both_at_once(moving: FakeRing, capsys: Out) -> None:
    assert "Would abort c3-9f21" in said(capsys, "tasks", "--abort", "--dry-run")
    assert told(capsys, "tasks", "--abort", "--dry-run")["would"] == "abort"
    assert "opposites" in said(capsys, "tasks", "--abort", "--resume", code=exits.USAGE)
    assert moving.done == []


def test_no_task_at_all(ring: FakeRing, capsys: Out) -> None:
    assert "No change was ever committed" in said(capsys, "tasks")
    assert told(capsys, "tasks") == {"tasks": []}


# --- status and health --------------------------------------------------------------------------


def test_status_shows_who_joins_how_many_arcs_are_left_and_what_to_type(
    moving: FakeRing, capsys: Out
) -> None:
    text = said(capsys, "status")
    assert "ring v37 (all agree)" in text
    assert re.search(r"n5 .* up, joining \+\d+ ", text)
    assert re.search(r"n1 .* up, −\d+ ", text)
    assert "CHANGING: all keys are readable and writable" in text
    assert re.search(r"\d+ arcs of 64 have yet to move \(n5 joins, c3-9f21\)", text)
    assert "Next: dynamo tasks c3-9f21 --wait" in text
    found = told(capsys, "status")
    assert found["verdict"] == "changing"
    assert found["changes"]["tasks"] == ["c3-9f21"]
    assert {node["name"]: node["wish"] for node in found["nodes"]}["n5"] == "joining"


def test_status_shows_who_leaves_who_is_outside_and_what_is_staged(
    ring: FakeRing, capsys: Out
) -> None:
    text = said(capsys, "status")
    assert "up, outside" in text
    assert "Next: dynamo cluster join n5" in text
    ring.staged = [{"verb": "leave", "node": "n2"}]
    text = said(capsys, "status")
    assert "Staged, and not committed: leave n2." in text
    assert "HEALTHY" in text
    assert "Next: dynamo cluster plan" in text
    ring._do_commit({"plan": ring.plan_id})
    assert re.search(r"n2 .* up, leaving −\d+ ", said(capsys, "status"))


def test_health_waits_for_the_moves_to_end(moving: FakeRing, capsys: Out) -> None:
    text = said(capsys, "health", code=exits.UNHEALTHY)
    assert "CHANGING" in text
    moving.step = 9
    text = said(capsys, "health", "--wait", "20s")
    assert "waiting: " in text
    assert "HEALTHY" in text


def test_nodes_that_know_different_rings_are_not_healthy(ring: FakeRing, capsys: Out) -> None:
    ring.nodes["n3"].hash = "44aa" * 4
    text = said(capsys, "health", code=exits.UNHEALTHY)
    assert "not all know the same of the ring: n1 n2 n4 | n3" in text
    assert told(capsys, "status")["changes"]["views"] == [["n1", "n2", "n4"], ["n3"]]
    assert "NOT YET EQUAL" in said(capsys, "gossip")


def test_a_member_that_refuses_requests_is_trouble(ring: FakeRing, capsys: Out) -> None:
    ring.nodes["n2"].closed = "n2 is being drained"
    text = said(capsys, "health", code=exits.UNHEALTHY)
    assert "n2 refuses requests: n2 is being drained" in text
    assert "RECOVERING" in text


# --- transfers, gossip, drain -------------------------------------------------------------------


def test_transfers_show_copies_first_and_why_others_wait(moving: FakeRing, capsys: Out) -> None:
    copy = {"what": "copy", "arc": 3, "from": ["n1", "n3"], "to": "n5", "phase": 1}
    wait = copy | {"what": "propose", "arc": 1, "phase": 0, "rows": 0, "bytes": 0}
    copy |= {"rows": 1204, "bytes": 96_000, "since_ms": 4200, "why": "", "retry_ms": 0}
    wait |= {"since_ms": 31_000, "why": "n4 is down", "retry_ms": 2500}
    moving.transfers = {"n5": [wait, copy]}
    text = said(capsys, "transfers")
    assert re.search(r"copy +3  n1, n3 → n5  copying  1,204  94 KiB", text)
    assert text.index("copy ") < text.index("propose")
    assert "waits  n5, arc 1: n4 is down; tries again in 2.5 s" in text
    assert "n5 takes in 4.7 MiB/s of at most 5.0 MiB/s." in text
    found = told(capsys, "transfers")
    assert found["arcs_left"] > 0
    assert len([item for node in found["nodes"] for item in node["transfers"]]) == 2


def test_nothing_moves_and_all_know_the_same(ring: FakeRing, capsys: Out) -> None:
    assert "Nothing moves" in said(capsys, "transfers")
    text = said(capsys, "gossip")
    assert "EQUAL: all 4 nodes that answered know the same of the ring." in text
    assert re.search(r"n1 +up +9f3a21c4 +1,204 ", text)
    assert set(told(capsys, "gossip")) == {"views", "nodes", "silent"}


def test_drain_waits_until_the_node_owes_nothing_to_anybody_who_is_there(
    ring: FakeRing, capsys: Out
) -> None:
    text = said(capsys, "node", "drain", "n2")
    assert ring.done == [("n2", "drain", {"node": "n2"})]
    assert "it takes no requests and owes nothing" in text
    ring.nodes["n4"].state = "down"
    ring.nodes["n2"].hints = {"n4": 3}
    assert "3 hints for n4 stay on its disk" in said(capsys, "node", "drain", "n2")
    ring.nodes["n2"].hints = {"n3": 3}
    text = said(capsys, "node", "drain", "n2", "--timeout", "30ms", code=exits.UNKNOWN)
    assert "still owes hints" in text
    assert told(capsys, "node", "drain", "n2", "--off") == {"node": "n2", "draining": False}


def test_a_node_that_is_not_there_cannot_be_drained(down: FakeRing, capsys: Out) -> None:
    assert "hand nothing over" in said(capsys, "node", "drain", "n4", code=exits.REFUSED)
    assert "no member 'n9'" in said(capsys, "node", "drain", "n9", code=exits.REFUSED)


# --- the picture --------------------------------------------------------------------------------


def test_the_ring_in_the_terminal_has_a_sign_per_arc_and_marks_what_moves(
    moving: FakeRing, capsys: Out
) -> None:
    text = said(capsys, "ring")
    assert "OF ITS SHARE" in text
    lines = text.splitlines()
    [at] = [i for i, line in enumerate(lines) if line.startswith("     0  ")]
    signs, marks = lines[at][8:], lines[at + 1][8:]
    assert signs == "".join(owners[0][1:] for owners in moving.cur)
    goals = zip(moving.goals, moving.cur, strict=True)
    assert marks.ljust(64) == "".join("^" if {*goal} != {*cur} else " " for goal, cur in goals)


def test_a_ring_at_rest_is_balanced_by_weights_and_zones(
    capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones = {"n1": "a", "n2": "a", "n3": "b", "n4": "b", "n5": "c"}
    use(FakeRing(zones), monkeypatch)
    assert said(capsys, "ring").count("100 %") >= len(zones)


@pytest.mark.parametrize(("nodes", "arcs"), [(1, 1), (4, 64), (30, 1024), (3, 4096)])
def test_the_drawing_is_whole_xml_and_shows_every_node(
    nodes: int, arcs: int, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = use(FakeRing({f"n{i:02}": f"z{i % 3}" for i in range(nodes)}, (), arcs), monkeypatch)
    ring.nodes[f"n{nodes - 1:02}"].state = "down" if nodes > 1 else "up"
    file = tmp_path / "ring.svg"
    assert str(file) in said(capsys, "ring", "--svg", str(file))
    text = file.read_text("utf-8")
    root = ET.fromstring(text)
    texts = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert set(ring.nodes) <= texts
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert ("DOWN" in texts) == (nodes > 1)
    assert len(text) < 1_000_000


def test_the_drawing_goes_with_json_and_not_with_a_key(
    ring: FakeRing, tmp_path: Path, capsys: Out
) -> None:
    file = str(tmp_path / "ring.svg")
    assert told(capsys, "ring", "--svg", file)["svg"] == file
    assert "--key" in said(capsys, "ring", "--svg", file, "--key", "a", code=exits.USAGE)


# --- on real nodes ------------------------------------------------------------------------------


@pytest.mark.net
def test_a_ring_grows_and_shrinks_by_commands_alone(
    tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = dict(zip(("--client-port", "--peer-port"), _two_ranges(), strict=True))
    options = [word for pair in ports.items() for word in map(str, pair)]
    monkeypatch.setenv("DYNAMO_CLUSTER_PARTITIONS", "64")
    monkeypatch.setenv("DYNAMO_TUNING_GOSSIP_MS", "100")
    monkeypatch.delenv("DYNAMO_URL", raising=False)
    made = told(capsys, "cluster", "init", str(tmp_path), "--nodes", "3", *options)
    monkeypatch.setenv("DYNAMO_URL", made["url"])
    with ExitStack() as running:
        for file in made["files"]:
            running.enter_context(_started(file))
        assert main(["health", "--wait", "30s"]) == exits.OK
        for number in range(30):
            assert main(["put", f"key:{number}", "tea"]) == exits.OK
        joined = told(capsys, "config", "init", "--join", made["files"][0])
        running.enter_context(_started(joined["files"][0]))
        _await_outside("n4", capsys)
        assert told(capsys, "cluster", "join", "n4")["staged"][0]["node"] == "n4"
        plan = told(capsys, "cluster", "plan")
        assert sum(node["replicas_after"] for node in plan["nodes"]) == 192
        done = told(capsys, "cluster", "commit", plan["plan"], "--wait", "--timeout", "60s")
        assert done["state"] == "done"
        assert main(["cluster", "leave", "n1"]) == exits.OK
        assert main(["cluster", "commit", "--yes", "--wait", "--timeout", "60s"]) == exits.OK
        assert main(["health", "--wait", "30s"]) == exits.OK
        found = told(capsys, "status")
        assert [node["name"] for node in found["nodes"]] == ["n2", "n3", "n4"]
        assert {node["keys"] for node in found["nodes"]} == {30}
        text = said(capsys, "cluster", "join", "n1", code=exits.REFUSED)
        assert "names are never used again" in text


def _two_ranges() -> tuple[int, int]:
    """Where client ports and peer ports of five nodes may begin."""
    for _ in range(50):
        first, second = sorted(free_ports(2))
        if second - first > 10 and second < 65_000:
            return first, second
    raise AssertionError("no two ranges of ports are free")


def _started(file: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "dynamo", "node", "start", "--exit-with-stdin", "-c", file]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(argv, stdin=pipe, stdout=quiet, stderr=quiet)


def _await_outside(name: str, capsys: Out) -> None:
    for _ in range(200):
        if name in told(capsys, "status")["changes"]["outside"]:
            return
    raise AssertionError(f"{name} was never heard of")
