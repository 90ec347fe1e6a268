"""The command line against real nodes: the shape of every JSON object, every exit code, Ctrl-C.

One ring of three for the whole module; tests that stop a node bring it back.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamo.cli import exits
from dynamo.cli.main import main
from dynamo.client.context import Context
from dynamo.localring import Ring, local
from dynamo.processes import free_ports

pytestmark = pytest.mark.net

Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def ring() -> Iterator[Ring]:
    with local(nodes=3, suspicion_ms=800) as ring:
        yield ring


@pytest.fixture(autouse=True)
def url(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMO_URL", ring.url)


def run_json(capsys: Out, *argv: str, code: int = exits.OK) -> dict[str, Any]:
    """The object that a command puts on stdout."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    told: dict[str, Any] = json.loads(out)
    return told


def run_text(capsys: Out, *argv: str, code: int = exits.OK) -> tuple[str, str]:
    capsys.readouterr()
    assert main(list(argv)) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert "\x1b" not in out + err
    return out, err


def failure(capsys: Out, *argv: str, code: int) -> dict[str, Any]:
    """The object that a command puts on stderr when it fails."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    told: dict[str, Any] = json.loads(err)
    assert {"error", "message", "maybe_applied"} <= set(told)
    return told


def conflict(key: str) -> None:
    """Two values that do not know each other."""
    assert main(["put", key, '["tea"]', "--as", "json", "--blind"]) == exits.OK
    assert main(["put", key, '["jam"]', "--as", "json", "--blind"]) == exits.OK


def await_state(ring: Ring, name: str, state: str) -> None:
    deadline = time.monotonic() + 10
    while {n["name"]: n["state"] for n in ring.status()["nodes"]}[name] != state:
        assert time.monotonic() < deadline, f"{name} did not become {state}"
        time.sleep(0.02)


# --- keys and values ----------------------------------------------------------------------------


def test_put_get_delete_in_the_shapes_of_the_contract(capsys: Out) -> None:
    told = run_json(capsys, "put", "a", '{"x": [1, null]}', "--as", "json")
    assert {"key", "context", "acked_by", "stand_ins"} <= set(told)
    assert told["key"] == "a"
    assert len(told["acked_by"]) >= 2
    assert told["stand_ins"] == {}
    Context.from_token(told["context"])
    for command in ("get", "siblings"):
        told = run_json(capsys, command, "a")
        assert {"key", "exists", "siblings", "context"} <= set(told)
        assert told["exists"] is True
        assert told["siblings"] == [{"x": [1, None]}]
    told = run_json(capsys, "delete", "a", "--context", told["context"])
    assert {"key", "context", "acked_by", "stand_ins"} <= set(told)
    for command in ("get", "siblings"):
        told = run_json(capsys, command, "a", code=exits.ABSENT)
        assert told["exists"] is False
        assert told["siblings"] == []


def test_text_bytes_and_control_characters(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["put", "nasty", "\x1b[2Ja\nb"]) == exits.OK
    assert main(["put", "b64:/wA=", os.fsdecode(b"\xff\x00"), "--as", "bytes"]) == exits.OK
    assert main(["get", "nasty"]) == exits.OK
    out = capsysbinary.readouterr().out
    assert b"\\x1b[2Ja\\nb" in out
    assert b"\x1b" not in out
    assert main(["get", "nasty", "--raw"]) == exits.OK
    assert capsysbinary.readouterr().out == b"\x1b[2Ja\nb"
    assert main(["get", "b64:/wA=", "--raw"]) == exits.OK
    assert capsysbinary.readouterr().out == b"\xff\x00"
    assert main(["get", "b64:/wA=", "--json"]) == exits.OK
    told = json.loads(capsysbinary.readouterr().out)
    assert told["key"] == {"b64": "/wA="}
    assert told["siblings"] == [{"b64": "/wA="}]


def test_a_bucket_is_another_place(capsys: Out) -> None:
    assert main(["put", "a", "here", "-b", "shop"]) == exits.OK
    assert run_text(capsys, "get", "a", "-b", "shop")[0] == "here\n"
    assert run_text(capsys, "get", "a", "-b", "other", code=exits.ABSENT)[0] == ""


def test_a_value_that_expires(capsys: Out) -> None:
    assert main(["put", "brief", "x", "--ttl", "50ms"]) == exits.OK
    time.sleep(0.06)
    run_text(capsys, "get", "brief", code=exits.ABSENT)
    assert run_json(capsys, "explain", "brief", code=exits.ABSENT)["headline"].startswith("expired")


def test_siblings_stop_a_put_with_6_and_a_way_out(capsys: Out) -> None:
    conflict("cart:6")
    out, err = run_text(capsys, "put", "cart:6", "x", code=exits.CONFLICT)
    assert out == ""
    assert "Nothing was written" in err
    assert "dynamo resolve cart:6 --pick 1" in err
    told = failure(capsys, "put", "cart:6", "x", code=exits.CONFLICT)
    assert told["error"] == "ConflictError"
    assert told["maybe_applied"] is False
    assert sorted(told["siblings"]) == [["jam"], ["tea"]]
    assert failure(capsys, "delete", "cart:6", code=exits.CONFLICT)["error"] == "ConflictError"
    told = run_json(capsys, "get", "cart:6", code=exits.CONFLICT)
    assert sorted(told["siblings"]) == [["jam"], ["tea"]]
    out, _ = run_text(capsys, "get", "cart:6", code=exits.CONFLICT)
    assert "2 concurrent values" in out
    assert len(run_json(capsys, "siblings", "cart:6")["siblings"]) == 2
    assert main(["put", "cart:6", "x", "--context", told["context"]]) == exits.OK
    assert run_json(capsys, "get", "cart:6")["siblings"] == ["x"]


def test_resolve_by_number_and_by_value(capsys: Out) -> None:
    conflict("cart:8")
    listed = run_json(capsys, "siblings", "cart:8")
    told = run_json(capsys, "resolve", "cart:8", "--pick", "2", "--context", listed["context"])
    assert {"key", "context", "acked_by", "stand_ins"} <= set(told)
    assert run_json(capsys, "get", "cart:8")["siblings"] == [listed["siblings"][1]]
    assert run_json(capsys, "resolve", "cart:8", "--pick", "1")["acked_by"] == []
    conflict("cart:8")
    assert len(run_json(capsys, "siblings", "cart:8")["siblings"]) == 3
    run_text(capsys, "resolve", "cart:8", "--pick", "4", code=exits.USAGE)
    assert main(["resolve", "cart:8", "--value", '["both"]', "--as", "json"]) == exits.OK
    assert run_json(capsys, "get", "cart:8")["siblings"] == [["both"]]
    run_text(capsys, "resolve", "absent", "--pick", "1", code=exits.ABSENT)


def test_a_pick_refuses_when_the_siblings_have_changed(capsys: Out) -> None:
    conflict("cart:9")
    listed = run_json(capsys, "siblings", "cart:9")
    assert main(["put", "cart:9", "third", "--blind"]) == exits.OK
    told = failure(
        capsys,
        "resolve",
        "cart:9",
        "--pick",
        "1",
        "--context",
        listed["context"],
        code=exits.REFUSED,
    )
    assert "has changed" in told["message"]
    # With a value, exactly what was seen is replaced, and what came since stays: not resolved yet.
    argv = ["resolve", "cart:9", "--value", "x", "--context", listed["context"]]
    told = run_json(capsys, *argv, code=exits.CONFLICT)
    assert told["context"] is None
    assert sorted(told["siblings"]) == ["third", "x"]


def test_a_context_of_another_key_is_refused(capsys: Out) -> None:
    token = run_json(capsys, "put", "one", "1")["context"]
    told = failure(capsys, "put", "two", "2", "--context", token, code=exits.USAGE)
    assert told["error"] == "BadContext"


# --- the ring -----------------------------------------------------------------------------------


def test_status_in_the_shape_of_the_contract(ring: Ring, capsys: Out) -> None:
    told = run_json(capsys, "status")
    assert {"cluster", "nodes", "hints", "ring"} <= set(told)
    assert told["cluster"] == "local"
    assert [node["name"] for node in told["nodes"]] == ["n1", "n2", "n3"]
    for node in told["nodes"]:
        assert {"name", "address", "state", "up_ms", "keys", "primary", "replica"} <= set(node)
        assert node["state"] == "up"
        assert node["replica"] == 1.0
    assert {"version", "partitions", "n"} <= set(told["ring"])
    assert type(told["hints"]) is int
    out, _ = run_text(capsys, "status")
    assert "HEALTHY" in out
    assert max(map(len, out.splitlines())) <= 80


def test_health_is_0_when_all_is_well(ring: Ring, capsys: Out) -> None:
    told = run_json(capsys, "health", "--wait", "10s")
    assert told["healthy"] is True
    assert told["problems"] == []


def test_ring_and_a_key_of_it(capsys: Out) -> None:
    told = run_json(capsys, "ring")
    assert {"cluster", "version", "partitions", "n", "nodes", "owners"} <= set(told)
    assert sum(node["primary"] for node in told["nodes"]) == pytest.approx(1)
    told = run_json(capsys, "ring", "--key", "cart:7")
    assert {"hash", "partition", "owners", "fallbacks"} <= set(told)
    assert sorted(told["owners"]) == ["n1", "n2", "n3"]
    seen = run_json(capsys, "explain", "cart:7", code=exits.ABSENT)
    assert seen["owners"] == told["owners"]
    assert seen["partition"] == told["partition"]
    out, _ = run_text(capsys, "ring")
    assert "PRIMARY" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "owners" in run_text(capsys, "ring", "--key", "cart:7")[0]


def test_hints_when_nobody_is_away(capsys: Out) -> None:
    told = run_json(capsys, "hints")
    assert {"hints", "nodes", "silent"} <= set(told)
    assert told["hints"] == 0
    assert "No hint waits" in run_text(capsys, "hints")[0]


def test_explain_tells_values_dots_and_why(ring: Ring, capsys: Out) -> None:
    conflict("cart:10")
    main(["get", "cart:10", "--r", "all"])
    told = run_json(capsys, "explain", "cart:10")
    assert {"headline", "hash", "owners", "values", "nodes", "hints", "reason"} <= set(told)
    assert told["headline"] == "2 concurrent values; all 3 owners agree"
    assert all(dot["node"] for value in told["values"] for dot in value["dots"])
    out, err = run_text(capsys, "explain", "cart:10")
    assert "Why 2 values?" in out
    assert "Next: dynamo resolve cart:10" in err
    main(["put", "a\tb", "\x1b[2J"])
    out, err = run_text(capsys, "explain", "a\tb")
    assert out.startswith("a\\tb\n")
    assert "\\x1b[2J" in out
    assert "dynamo get $'a\\tb'" in err


def test_questions_change_nothing(ring: Ring, capsys: Out) -> None:
    main(["put", "quiet", "x", "--w", "all"])
    ring.wait_converged(10)
    before = ring._asking.status(ring._addresses(ring.nodes), "roots", 2.0)
    for argv in (["status"], ["hints"], ["ring"], ["explain", "quiet"], ["explain", "absent"]):
        main(argv)
    after = ring._asking.status(ring._addresses(ring.nodes), "roots", 2.0)
    assert before == after


# --- with a node that is away -------------------------------------------------------------------


def test_a_write_that_cannot_be_counted_is_7_and_one_refused_at_once_is_1(
    ring: Ring, capsys: Out
) -> None:
    strict = ("--w", "all", "--no-sloppy", "--timeout", "400ms")
    ring.pause("n3")
    try:
        told = failure(capsys, "put", "strict", "v", *strict, code=exits.UNKNOWN)
        assert told["error"] == "QuorumTimeout"
        assert told["maybe_applied"] is True
        await_state(ring, "n3", "down")
        told = failure(capsys, "put", "strict", "v", *strict, code=exits.FAILED)
        assert told["error"] == "QuorumUnavailable"
        assert told["maybe_applied"] is False
    finally:
        ring.resume("n3")


def test_one_node_down_seen_from_every_command(ring: Ring, capsys: Out) -> None:
    main(["put", "half", "old", "--w", "all"])
    ring.kill("n3")
    try:
        await_state(ring, "n3", "down")
        assert main(["put", "half", "new"]) == exits.OK
        started = time.monotonic()
        told = run_json(capsys, "status")
        assert time.monotonic() - started < 1.5, "a node known as down is not waited for"
        assert told["nodes"][2]["state"] == "down"
        assert told["verdict"] == "degraded"
        assert told["hints"] >= 1
        told = run_json(capsys, "health", code=exits.UNHEALTHY)
        assert told["healthy"] is False
        assert main(["health", "--wait", "300ms"]) == exits.UNHEALTHY
        hints = run_json(capsys, "hints")
        assert hints["silent"] == ["n3"]
        assert any(hint["home"] == "n3" for node in hints["nodes"] for hint in node["hints"])
        told = run_json(capsys, "explain", "half")
        assert told["headline"].startswith("1 value; n3 does not answer; ")
        assert told["headline"].endswith("a hint for it")
        out, _ = run_text(capsys, "explain", "half")
        assert "no answer" in out
        assert run_json(capsys, "ring", "--key", "half")["states"]["n3"] == "down"
        # Stopping a second of three would leave one owner, and a write needs two.
        config = str(ring.path / "n2" / "node.toml")
        told = failure(capsys, "node", "stop", "-c", config, code=exits.REFUSED)
        assert "W=2" in told["message"]
        assert ring._process("n2").running
    finally:
        ring.start("n3")
    assert main(["health", "--wait", "15s"]) == exits.OK
    assert run_json(capsys, "explain", "half")["headline"] == "1 value; all 3 owners agree"


def test_stop_waits_until_the_process_has_ended(ring: Ring, capsys: Out) -> None:
    assert main(["health", "--wait", "15s"]) == exits.OK
    process = ring._process("n1")
    told = run_json(capsys, "node", "stop", "-c", str(ring.path / "n1" / "node.toml"))
    assert told == {"node": "n1", "pid": process.pid, "was_running": True}
    assert not process.running
    assert process.exit_code == 0
    ring.start("n1")
    assert main(["health", "--wait", "15s"]) == exits.OK


# --- processes of their own ---------------------------------------------------------------------


def start(*argv: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dynamo", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


@pytest.mark.parametrize(
    ("argv", "ready"),
    [(["health", "--watch"], "stdout"), (["health", "--wait", "60s"], "stderr")],
)
def test_ctrl_c_ends_with_130_and_one_line(argv: list[str], ready: str, ring: Ring) -> None:
    url = ring.url if argv[1] == "--watch" else "dynamo://127.0.0.1:9"
    with start(*argv, "--url", url, "--timeout", "200ms") as process:
        getattr(process, ready).readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == exits.INTERRUPTED
    assert err == "Interrupted.\n"


def test_a_reader_that_goes_away_is_no_error(ring: Ring) -> None:
    with start("ring", "--json", "--url", ring.url) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
    assert err == ""
    assert process.returncode == 0


def test_from_init_to_the_first_value_and_a_clean_stop(tmp_path: Path, capsys: Out) -> None:
    client, peer = free_ports(2)
    ports = ["--client-port", str(client), "--peer-port", str(peer)]
    told = run_json(capsys, "config", "init", str(tmp_path), *ports)
    [file] = told["files"]
    at = ["--url", told["url"]]
    with start("node", "start", "--exit-with-stdin", "-c", file, stdin=subprocess.PIPE) as node:
        assert main(["health", "--wait", "20s", *at]) == exits.OK
        assert main(["put", "greeting", "hello", *at]) == exits.OK
        assert run_text(capsys, "get", "greeting", *at)[0] == "hello\n"
        told = run_json(capsys, "explain", "greeting", *at)
        assert told["headline"] == "1 value; its only owner has it"
        assert main(["config", "check", file]) == exits.OK
        assert main(["node", "stop", "-c", file]) == exits.OK
        node.communicate(timeout=10)
    assert node.returncode == 0
