"""The command line without a ring: parsing, help, escaping, exit codes, what `explain` makes of it.

What needs running nodes is in test_cli_net.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
import pytest

from dynamo.cli import exits, keyview, show
from dynamo.cli.group import cli
from dynamo.cli.main import COMMANDS, SECTIONS, main
from dynamo.cli.progress import progress
from dynamo.cli.shared import DURATION, Ring, command
from dynamo.cli.survey import Survey, verdict
from dynamo.cli.writing import parse_value
from dynamo.client import errors
from dynamo.client.context import Context
from dynamo.core.ring import Member, Table, full_key
from dynamo.server.config import Address, ConfigError

NOBODY = "dynamo://127.0.0.1:9"


def every_command() -> list[tuple[str, click.Command]]:
    """(words, command) of all commands, those of groups included."""
    found = []
    ctx = click.Context(cli)
    for name in COMMANDS:
        top = cli.get_command(ctx, name)
        if isinstance(top, click.Group):
            found += [(f"{name} {verb}", inner) for verb, inner in top.commands.items()]
        elif top is not None:
            found.append((name, top))
    return found


# --- help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "made"), every_command(), ids=lambda value: str(value))
def test_help_begins_with_examples_and_names_the_common_options(
    words: str, made: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("-h", "--help"):
        assert main([*words.split(), flag]) == exits.OK
        out = capsys.readouterr().out
        assert out.startswith("Examples:\n  ")
        assert f"dynamo {words.split()[0]}" in out.partition("Usage:")[0]
        # The simulator runs without a ring.
        common = ["--json"] if words.startswith("sim") else ["--json", "--url", "--timeout"]
        assert [option for option in common if option not in out] == []
        assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("argv", [[], ["--help"], ["node"], ["config"]])
def test_no_command_prints_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == exits.OK
    assert capsys.readouterr().out.startswith("Examples:")


def test_every_command_stands_in_the_help_once() -> None:
    listed = [name for commands in SECTIONS.values() for name in commands]
    assert sorted(listed) == sorted(COMMANDS)


def test_the_help_of_all_commands_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 79


# --- what was typed wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["gte", "cart:7"], "did you mean get?"),
        (["stauts"], "did you mean status"),
        (["node", "strat"], "did you mean start"),
        (["frobnicate"], "there are: "),
        (["get", "k", "--tiemout", "3"], "--timeout"),
        (["put", "k", "v", "--contxt", "x"], "--context"),
        (["--url", NOBODY, "status"], "behind the command"),
        (["get"], "missing argument 'KEY'"),
        (["get", "k", "--timeout", "soon"], "write 2, 500ms, 2s or 1m"),
        (["get", "k", "--timeout", "0"], "above 0"),
        (["get", "k", "--r", "most"], "a count from 1, quorum or all"),
        (["get", "b64:!"], "not base64"),
        (["get", ""], "at least one byte"),
        (["put", "k", "{", "--as", "json"], "not JSON"),
        (["put", "k", "NaN", "--as", "json"], "NaN is not a JSON value"),
        (["put", "k", "v", "--context", "abc"], "context token"),
        (["put", "k", "v", "--context", "abc", "--blind"], "choose one"),
        (["resolve", "k"], "either --pick N or --value VALUE"),
        (["get", "k", "--url", "http://x"], "no dynamo URL"),
        (["get", "k", "--url", "dynamo://x?timeuot=1s"], "did you mean 'timeout'?"),
        (["completion", "tcsh"], "'bash', 'zsh', 'fish'"),
        (["config", "show", "-c", "absent.toml"], "no configuration file absent.toml"),
    ],
)
def test_what_cannot_work_is_exit_code_2_and_says_what_can(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == exits.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_with_json_a_usage_error_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "k", "--json", "--tiemout", "3"]) == exits.USAGE
    told = json.loads(capsys.readouterr().err)
    assert set(told) == {"error", "message", "maybe_applied"}
    assert told["maybe_applied"] is False


def test_what_the_user_typed_comes_back_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["\x1b[2Jget"]) == exits.USAGE
    assert "\x1b" not in capsys.readouterr().err


# --- exit codes ---------------------------------------------------------------------------------


def applied(error: errors.DynamoError) -> errors.DynamoError:
    error.maybe_applied = True
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.QuorumUnavailable("x"), 1),
        (errors.Overloaded("x"), 1),
        (errors.DiskFull("x"), 1),
        (errors.TooManySiblings("x"), 1),
        (errors.CodecError("x"), 1),
        (errors.AuthError("x"), 1),
        (errors.ConfigurationError("x"), 2),
        (errors.KeyInvalid("x"), 2),
        (errors.KeyTooLong("x"), 2),
        (errors.ValueTooLarge("x"), 2),
        (errors.WrongType("x"), 2),
        (errors.BadContext("x"), 2),
        (ConfigError("x"), 2),
        (click.UsageError("x"), 2),
        (errors.ConnectionFailed("x", {}), 3),
        (errors.KeyMissing("x"), 4),
        (errors.NotConverged("x"), 5),
        (exits.Unhealthy("x"), 5),
        (errors.ConflictError("x", key="k", siblings=[], context=Context(b"")), 6),
        (errors.QuorumTimeout("x"), 7),
        (exits.Unfinished("x"), 7),
        (applied(errors.ConnectionFailed("x", {})), 7),
        (applied(errors.QuorumUnavailable("x")), 7),
        (exits.Refused("x"), 8),
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "Permission denied"), 1),
    ],
)
def test_every_error_has_one_exit_code(error: BaseException, code: int) -> None:
    assert exits.of_error(error) == code


@pytest.mark.parametrize("argv", [["get", "k"], ["put", "k", "v"], ["status"], ["explain", "k"]])
def test_nobody_there_is_exit_code_3(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv, "--url", NOBODY, "--timeout", "150ms"]) == exits.UNREACHABLE
    out, err = capsys.readouterr()
    assert out == ""
    assert "127.0.0.1:9" in err


def test_an_error_with_json_is_one_object_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["get", "k", "--url", NOBODY, "--timeout", "150ms", "--json"]
    assert main(argv) == exits.UNREACHABLE
    out, err = capsys.readouterr()
    assert out == ""
    told = json.loads(err)
    assert told["error"] == "ConnectionFailed"
    assert told["maybe_applied"] is False


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(ctx: Any) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(cli, "invoke", fails)
    with pytest.raises(AssertionError):
        main(["version"])


# --- small commands -----------------------------------------------------------------------------


def test_version_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == exits.OK
    assert capsys.readouterr().out.startswith("dynamo ")
    assert main(["version", "--json"]) == exits.OK
    assert set(json.loads(capsys.readouterr().out)) == {"version", "protocol", "python"}
    assert main(["--version"]) == exits.OK
    assert capsys.readouterr().out.startswith("dynamo ")


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_scripts(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "bash" and not os.access("/bin/bash", os.X_OK):
        pytest.skip("click asks bash for its version")
    assert main(["completion", name]) == exits.OK
    assert "_DYNAMO_COMPLETE" in capsys.readouterr().out
    assert main(["completion", name, "--json"]) == exits.OK
    assert set(json.loads(capsys.readouterr().out)) == {"shell", "script"}


def test_a_shell_is_told_what_could_stand_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_DYNAMO_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "dynamo sta")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert main([]) == exits.OK
    assert "status" in capsys.readouterr().out


# --- files for nodes ----------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("DYNAMO_"):
            monkeypatch.delenv(name)
    return tmp_path


def test_init_writes_a_ring_that_check_accepts(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "init", "ring", "--nodes", "3", "--json"]) == exits.OK
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"files", "url", "next"}
    assert told["files"] == ["ring/n1.toml", "ring/n2.toml", "ring/n3.toml"]
    assert main(["config", "check", *told["files"], "--json"]) == exits.OK
    checked = json.loads(capsys.readouterr().out)
    assert [file["node"] for file in checked["files"]] == ["n1", "n2", "n3"]
    assert checked["differences"] == []
    assert not list(here.rglob("*secret*")), "only a node makes the secret"


def test_init_of_one_node_is_what_node_start_takes_by_default(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "init"]) == exits.OK
    assert "dynamo node start 2> dynamo.log &" in capsys.readouterr().out
    assert main(["config", "check"]) == exits.OK
    assert "n1, alone" in capsys.readouterr().out


def test_init_overwrites_nothing_unless_forced(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "dynamo.toml").write_text("mine")
    assert main(["config", "init"]) == exits.REFUSED
    assert (here / "dynamo.toml").read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["config", "init", "--force"]) == exits.OK


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "a b"], "cluster.name"),
        (["--nodes", "3", "--peer-port", "7002"], "overlap"),
        (["--nodes", "0"], "1<=x<=100"),
    ],
)
def test_init_leaves_nothing_behind_when_it_cannot_work(
    options: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "init", "ring", *options]) == exits.USAGE
    assert said in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_init_of_a_node_that_joins_takes_over_what_must_be_the_rings(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dynamo.server.config import load, make_secret

    main(["config", "init", "ring", "--nodes", "3", "--name", "shop"])
    first = here / "ring" / "n1.toml"
    first.write_text(first.read_text().replace("n = 3", "n = 2") + "\n[tuning]\nprobe_ms = 500\n")
    capsys.readouterr()
    argv = ["config", "init", "--join", "ring/n1.toml", "--nodes", "2", "--zone", "west"]
    assert main([*argv, "--json"]) == exits.OK
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == ["ring/n4.toml", "ring/n5.toml"]
    assert told["next"][2:] == [
        "dynamo cluster join n4",
        "dynamo cluster join n5",
        "dynamo cluster plan",
        "dynamo cluster commit",
    ]
    make_secret(here / "ring" / "cluster.secret")
    known, found = load(first, {}), load(here / "ring" / "n5.toml", {})
    assert found.me == Member("n5", "127.0.0.1", 7005, 7105, "west")
    assert found.seeds == ["127.0.0.1:7101", "127.0.0.1:7102", "127.0.0.1:7103"]
    assert (found.cluster, found.config, found.members) == (known.cluster, known.config, [])
    # From elsewhere, and after the others: names and ports go on.
    assert main(["config", "init", "more", "--join", "ring/n5.toml"]) == exits.OK
    assert "dynamo cluster join n6" in capsys.readouterr().out
    assert load(here / "more" / "n6.toml", {}).cluster == known.cluster
    assert main(["config", "check", "ring/n1.toml", "ring/n4.toml", "more/n6.toml"]) == exits.OK
    assert "n4, to join a ring at 127.0.0.1:7101" in capsys.readouterr().out
    assert main(["config", "show", "-c", "ring/n4.toml"]) == exits.OK
    assert "No members listed: it joins the ring of its seeds" in capsys.readouterr().out
    assert main(["config", "init", "--zone", "west"]) == exits.USAGE


def test_show_says_where_each_value_comes_from_and_never_the_secret(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dynamo.server.config import make_secret

    main(["config", "init"])
    make_secret(here / "cluster.secret")
    monkeypatch.setenv("DYNAMO_NODE_DURABILITY", "interval")
    monkeypatch.setenv("DYNAMO_TUNING_PROBE_MS", "500")
    capsys.readouterr()
    assert main(["config", "show", "--json"]) == exits.OK
    out = capsys.readouterr().out
    settings = json.loads(out)["settings"]
    assert settings["node.name"] == {"value": "n1", "source": "file"}
    assert settings["tuning.hint_batch"]["source"] == "default"
    assert settings["tuning.probe_ms"]["value"] == 500
    assert settings["node.durability"] == {
        "value": "interval",
        "source": "environment DYNAMO_NODE_DURABILITY",
    }
    secret = json.loads((here / "cluster.secret").read_text())["secret"]
    assert secret not in out
    assert main(["config", "show"]) == exits.OK
    out = capsys.readouterr().out
    assert secret not in out
    assert "environment DYNAMO_TUNING_PROBE_MS" in out


def test_check_finds_what_keeps_files_from_being_one_ring(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["config", "init", "a", "--nodes", "2"])
    main(["config", "init", "b", "--nodes", "2", "--name", "other"])
    capsys.readouterr()
    assert main(["config", "check", "a/n1.toml", "b/n1.toml"]) == exits.USAGE
    out = capsys.readouterr().out
    assert "cluster name of b/n1.toml and of a/n1.toml" in out
    assert "both of node n1" in out
    (here / "a" / "n2.toml").write_text("[nod]\n")
    assert main(["config", "check", "a/n1.toml", "a/n2.toml", "--json"]) == exits.USAGE
    told = json.loads(capsys.readouterr().out)
    assert [file["ok"] for file in told["files"]] == [True, False]
    assert "did you mean 'node'?" in told["files"][1]["message"]


def test_stop_of_a_node_that_does_not_run_is_no_error(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dynamo.processes import free_ports

    client, peer = free_ports(2)
    main(["config", "init", "--client-port", str(client), "--peer-port", str(peer)])
    capsys.readouterr()
    assert main(["node", "stop"]) == exits.OK
    assert "not running" in capsys.readouterr().out
    assert main(["node", "stop", "--json"]) == exits.OK
    told = json.loads(capsys.readouterr().out)
    assert told == {"node": "n1", "pid": None, "was_running": False}


# --- showing ------------------------------------------------------------------------------------

NASTY = "a\x1b[2J\x07\tb\r\nc\x7f\x9b\u202ed\u2028\ufeff"


def test_nothing_that_a_terminal_obeys_is_shown_raw() -> None:
    shown = show.escaped(NASTY)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2028\ufeff]", shown)
    assert shown == "a\\x1b[2J\\x07\\tb\\r\\nc\\x7f\\x9b\\u202ed\\u2028\\ufeff"
    assert show.escaped("naïve café – 日本 👍") == "naïve café – 日本 👍"


@pytest.mark.parametrize("value", [NASTY, {"k\x1b": NASTY}, [NASTY], NASTY.encode()])
def test_values_are_escaped_whatever_their_type(value: Any) -> None:
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", show.value_text(value))


@pytest.mark.parametrize("key", ["cart:7", "b64:x", "text:b64:x", "ü", b"\xff\x00", "a\tb", b"abc"])
def test_every_key_can_be_typed_and_read_back(key: str | bytes) -> None:
    back = show.parse_key(show.key_arg(key))
    assert (back.encode() if isinstance(back, str) else back) == (
        key.encode() if isinstance(key, str) else key
    )


@pytest.mark.parametrize("word", ["cart:7", "a b", "it's", "a\tb", "x\x1b[2J'y\\", "", "$HOME"])
def test_a_word_that_is_suggested_reaches_the_program_as_it_was(word: str) -> None:
    shown = show.shell_word(word)
    assert not re.search("[\x00-\x1f]", shown)
    ran = subprocess.run(
        ["bash", "-c", f"printf %s {shown}"], capture_output=True, check=True, timeout=10
    )
    assert ran.stdout.decode() == word


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\xff", {"b64": "/w=="}),
        ({1: (2, b"x")}, {"1": [2, {"b64": "eA=="}]}),
        ({"b", "a"}, ["a", "b"]),
        (float("nan"), "nan"),
        (1 << 70, 1 << 70),
        (None, None),
    ],
)
def test_values_in_json(value: Any, expected: Any) -> None:
    assert json.loads(json.dumps(show.value_json(value))) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.3501, "350 ms"), (-1, "0 ms"), (4.21, "4.2 s"), (59.9, "59 s"), (200, "3m 20s")),
        *((7_260, "2h 1m"), (532_800, "6d 4h")),
    ],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert show.span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(512, "512 B"), (1434, "1.4 KiB"), (96_468_992, "92 MiB"), (1 << 50, "1024 TiB")],
)
def test_amounts_of_bytes(count: int, text: str) -> None:
    assert show.size(count) == text


@pytest.mark.parametrize(("text", "seconds"), [("2", 2), ("500ms", 0.5), (".5s", 0.5), ("1m", 60)])
def test_durations(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


def test_long_words_and_lines_are_wrapped_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "30")
    text = "one line that is longer than a terminal\n  and one indented that is longer"
    assert max(map(len, show.wrapped(text, Terminal()).splitlines())) <= 30
    assert show.wrapped(text, io.StringIO()) == text


def test_values_from_the_command_line_and_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_value("tea", "text") == "tea"
    assert parse_value('["tea"]', "json") == ["tea"]
    assert parse_value("tea", "bytes") == b"tea"
    assert parse_value(os.fsdecode(b"\xff"), "bytes") == b"\xff"
    with pytest.raises(click.UsageError, match="--as bytes"):
        parse_value(os.fsdecode(b"\xff"), "text")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe\n")))
    assert parse_value("-", "text") == "from a pipe\n"


def test_progress_is_lines_in_a_pipe_and_nothing_with_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo.cli.progress.LINE_EVERY_S", 0.0)
    with progress(10, "loading") as bar:
        bar.advance(4)
    assert "loading: 4 of 10 (" in capsys.readouterr().err
    with progress(10, "loading", silent=True) as bar:
        bar.advance(4)
    assert capsys.readouterr().err == ""


def test_a_command_gets_its_shell_first_and_its_options_above_the_common_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @command(examples="dynamo x")
    @click.option("--mine", default="m")
    @click.argument("thing")
    def x(shell: Any, thing: str, mine: str) -> int:
        shell.emit([thing, mine, shell.json, shell.url, shell.timeout])
        return 4

    argv = ["t", "--json", "--url", NOBODY, "--timeout", "500ms"]
    assert x.main(argv, standalone_mode=False) == 4
    assert json.loads(capsys.readouterr().out) == ["t", "m", True, NOBODY, 0.5]
    names = [parameter.name for parameter in x.params]
    assert names == ["mine", "thing", "as_json", "url", "timeout"]


# --- explain, from canned answers ---------------------------------------------------------------

NOW_MS = 1_700_000_000_000
A, B, C = "aa" * 12, "bb" * 12, "cc" * 12


def value(n: int, put: str, **more: Any) -> dict[str, Any]:
    found = {"n": n, "put_id": put, "stamp_ms": NOW_MS - 1000 + n, "expires_ms": 0}
    found |= {"tombstone": False, "bytes": 2, "payload": b64encode(b"\x01\x01").decode()}
    return found | more


def entry(actor: str, n: int, *values: dict[str, Any], here: bool = False) -> dict[str, Any]:
    return {"actor": actor, "n": n, "minted_here": here, "values": list(values)}


def obj(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"digest": f"{len(entries):016x}", "entries": list(entries)}


def answer(name: str, row: Any = None, hint: Any = None, **more: Any) -> dict[str, Any]:
    found = {"node": name, "arc": 3, "ver": 1, "phase": 0, "owners": ["n1", "n2", "n3"]}
    found |= {"fallbacks": ["n4", "n5"], "owner": name in found["owners"], "synced": True}
    return found | {"corrupt": False, "row": row, "hint": hint} | more


def view(*answers: dict[str, Any], **states: str) -> keyview.KeyView:
    everyone = {f"n{i}": states.get(f"n{i}", "up") for i in range(1, 6)}
    peers = dict.fromkeys(everyone, everyone)
    return keyview.view_of({a["node"]: a for a in answers}, everyone, peers, NOW_MS)


def hint(home: str, row: Any) -> dict[str, Any]:
    return {"homes": [home], "since_wall_ms": NOW_MS - 5000, "obj": row}


def test_owners_that_hold_the_same_agree() -> None:
    row = obj(entry(A, 1, value(1, "p1")))
    seen = view(*(answer(name, row) for name in ("n1", "n2", "n3")))
    assert keyview.headline(seen) == "1 value; all 3 owners agree"
    assert keyview.reason(seen) == ""


def test_an_owner_that_is_behind_and_who_keeps_a_hint_for_it() -> None:
    old, new = obj(entry(A, 1, value(1, "p1"))), obj(entry(A, 2, value(2, "p2")))
    seen = view(answer("n1", new), answer("n2", old), answer("n3", new))
    assert keyview.headline(seen) == "1 value; n2 has not yet got the newest value"
    assert seen.holdings[1].superseded == 1
    kept = answer("n4", hint=hint("n2", new))
    seen = view(answer("n1", new), answer("n2", old), answer("n3", new), kept)
    assert keyview.headline(seen).endswith("newest value; n4 keeps a hint for it")
    assert seen.holdings[3].role == "for n2"


def test_an_owner_that_does_not_answer() -> None:
    row = obj(entry(A, 1, value(1, "p1")))
    seen = view(answer("n1", row), answer("n3", row), n2="down")
    assert keyview.headline(seen) == "1 value; n2 does not answer"
    seen = view(answer("n1", row), n2="down", n3="down")
    assert keyview.headline(seen) == "1 value; n2 and n3 do not answer"


def test_two_sides_of_a_split_each_with_a_value() -> None:
    left = obj(entry(A, 1, value(1, "p1"), here=True))
    right = obj(entry(B, 1, value(1, "p2", stamp_ms=NOW_MS), here=True))
    seen = view(answer("n1", left), answer("n2", right), answer("n3", right))
    assert keyview.headline(seen) == (
        "2 concurrent values; n1 has not yet got value 1; n2 and n3 have not yet got value 2"
    )
    # As `siblings` numbers them: newest first.
    assert [v.put_id for v in seen.siblings] == ["p2", "p1"]


def test_why_there_are_siblings_names_nodes_dots_and_times() -> None:
    both = obj(entry(A, 5, value(5, "p1"), here=True), entry(B, 2, value(2, "p2")))
    other = obj(entry(A, 5, value(5, "p1")), entry(B, 2, value(2, "p2"), here=True))
    seen = view(answer("n1", both), answer("n2", other), answer("n3", both | {"x": 1}))
    said = keyview.reason(seen)
    assert "Why 2 values?" in said
    assert "minted by n2 as n2:2 at" in said
    assert "neither writer had seen the other" in said


def test_a_stand_in_that_minted_is_named_as_one() -> None:
    stood_in = obj(entry(C, 1, value(1, "p3"), here=True))
    row = obj(entry(A, 1, value(1, "p1"), here=True))
    seen = view(answer("n1", row), answer("n4", hint=hint("n2", stood_in)), n2="down", n3="down")
    assert "n4, standing in, as n4:1" in keyview.reason(seen)


def test_siblings_that_went_through_one_node_are_told_apart() -> None:
    row = obj(entry(A, 2, value(2, "p2"), value(1, "p1"), here=True))
    seen = view(*(answer(name, row) for name in ("n1", "n2", "n3")))
    assert "All went through one node" in keyview.reason(seen)


def test_what_nobody_who_answers_has_minted_came_from_the_only_silent_node() -> None:
    row = obj(entry(B, 4, value(4, "p1")))
    answers = [answer(name, row) for name in ("n1", "n3", "n4", "n5")]
    seen = view(*answers, n2="down")
    assert keyview.dot_text(seen, (B, 4)) == "n2:4"
    seen = view(*answers[:2], n2="down")
    assert keyview.dot_text(seen, (B, 4)) == "?bbbb:4"


def test_one_put_under_two_dots_is_one_value_and_dies_with_its_first_dot() -> None:
    twice = obj(entry(A, 1, value(1, "p1")), entry(B, 1, value(1, "p1")))
    seen = view(*(answer(name, twice) for name in ("n1", "n2", "n3")))
    assert keyview.headline(seen) == "1 value; all 3 owners agree"
    assert seen.values[0].dots == [(A, 1), (B, 1)]
    # The second dot is still listed somewhere; the first was superseded.
    after = obj(entry(A, 2, value(2, "p2")))
    seen = view(answer("n1", after), answer("n2", twice), answer("n3", after))
    assert [v.put_id for v in seen.values] == ["p2"]


def test_deleted_expired_and_never_written() -> None:
    dead = obj(entry(A, 2, value(2, "p2", tombstone=True)))
    three = ("n1", "n2", "n3")
    seen = view(*(answer(name, dead) for name in three))
    assert keyview.headline(seen) == "deleted; all 3 owners agree"
    assert seen.siblings == []
    old = obj(entry(A, 2, value(2, "p2", expires_ms=NOW_MS - 1)))
    assert keyview.headline(view(*(answer(name, old) for name in three))).startswith("expired;")
    assert keyview.headline(view(*(answer(name) for name in three))).startswith("never written;")
    assert keyview.headline(view(answer("n4"))).startswith("no owner answers")


def test_a_damaged_copy_and_a_write_that_was_not_delivered_of_the_holders_own() -> None:
    row = obj(entry(A, 1, value(1, "p1")))
    seen = view(answer("n1", row), answer("n2", corrupt=True), answer("n3", row))
    assert "n2 has set its damaged copy aside" in keyview.headline(seen)
    owed = answer("n1", row, hint=hint("n2", None))
    seen = view(owed, answer("n3", row), n2="down")
    assert seen.hints[0].own
    assert keyview.headline(seen) == "1 value; n2 does not answer; n1 keeps a hint for it"


# --- the verdict, from canned answers -----------------------------------------------------------


def survey_of(down: Collection[str] = (), **more: dict[str, Any]) -> Survey:
    names = [f"n{i}" for i in range(1, 6)]
    members = [Member(name, "127.0.0.1", 7000 + at, 7100 + at) for at, name in enumerate(names)]
    table = Table(members, 3, 64)
    nodes = {m.name: Address(m.host, m.client_port) for m in members}
    ring = Ring("c", 1, 3, 64, 0, 0, nodes, [table.owners(arc) for arc in range(64)])
    answers = {
        name: {
            "peers": {o: "down" if o in down else "up" for o in names if o != name},
            "hints": {},
            "ready": True,
            "corrupt": 0,
        }
        | more.get(name, {})
        for name in names
        if name not in down
    }
    return Survey(ring, answers)


@pytest.mark.parametrize(
    ("found", "level", "said"),
    [
        (survey_of(), "healthy", "all 5 nodes are up"),
        (survey_of({"n4"}), "degraded", "n4 is down; all keys are readable and writable"),
        (survey_of({"n4", "n5"}), "critical", "fewer than R=2 owners left"),
        (survey_of({"n2", "n3", "n4", "n5"}), "critical", "no key can be written"),
        (survey_of(n1={"hints": {"n2": 3}}), "recovering", "not all is in place"),
        (survey_of(n1={"ready": False}), "recovering", "not all is in place"),
    ],
)
def test_the_verdict(found: Survey, level: str, said: str) -> None:
    judged = verdict(found)
    assert judged.level == level
    assert said in judged.sentence


def test_a_split_is_told_from_a_node_that_has_just_started() -> None:
    cut = {"n1": {"n3": "down", "n4": "down", "n5": "down", "n2": "up"}}
    cut["n2"] = cut["n1"] | {"n1": "up"}
    other = {"n1": "down", "n2": "down", "n3": "up", "n4": "up", "n5": "up"}
    peers = {name: {"peers": cut.get(name, other)} for name in ("n1", "n2", "n3", "n4", "n5")}
    split = survey_of(**peers)
    assert split.sides() == [["n1", "n2"], ["n3", "n4", "n5"]]
    assert "n1 n2 | n3 n4 n5" in verdict(split).sentence
    started = {name: {"peers": dict.fromkeys(peers, "up") | {"n4": "down"}} for name in peers}
    started["n4"] = {"peers": dict.fromkeys(peers, "up")}
    assert len(survey_of(**started).sides()) == 1


def test_stopping_a_node_is_refused_when_a_write_quorum_would_go() -> None:
    from dynamo.cli.stopping import refuse_if_needed

    refuse_if_needed(survey_of(), "n1")
    with pytest.raises(exits.Refused, match=r"W=2 live owners, as n4 is away"):
        refuse_if_needed(survey_of({"n4"}), "n1")


def test_where_a_key_lies_is_what_the_nodes_compute() -> None:
    from dynamo.cli.ring import place

    found = survey_of().ring
    members = [Member(name, *address, 1) for name, address in found.nodes.items()]
    table = Table(members, 3, 64)
    for number in range(200):
        full = full_key(b"default", b"key:%d" % number)
        where = place(found, full)
        assert where["owners"] == list(table.owners(where["partition"]))
        assert where["fallbacks"] == table.fallbacks(where["partition"], lambda name: True)


def test_a_terminal_of_ascii_gets_numbers_for_what_it_cannot_show() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "dynamo", "get", "ü", "--url", "dynamo://ü:x"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ran.returncode == exits.USAGE
    assert "Traceback" not in ran.stderr
    assert "\\xfc:x" in ran.stderr


# --- what a node must not pay for -----------------------------------------------------------------


def test_starting_a_node_imports_neither_rich_nor_the_client() -> None:
    program = (
        "import sys; from dynamo.cli.main import main; "
        "code = main(['node', 'start', '--exit-with-stdin', '-c', '/nonexistent/x.toml']); "
        "print(code, sorted(m for m in sys.modules if m.startswith(('rich', 'asyncio', "
        "'dynamo.client.b', 'dynamo.client.s', 'dynamo.cli.e', 'dynamo.localring'))))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert ran.stdout.strip() == "2 ['dynamo.cli.exits']"
    assert "no configuration file" in ran.stderr


def test_importing_dynamo_imports_neither_click_nor_rich() -> None:
    program = "import sys, dynamo; print([m for m in ('click', 'rich') if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert ran.stdout.strip() == "[]"
