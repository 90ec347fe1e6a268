"""URLs, keywords and the public face of the package."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import dynamo
from dynamo.client.options import Options, for_view, parse_url, resolve
from dynamo.core.messages import ALL, QUORUM


def test_a_url_names_seeds_bucket_and_options() -> None:
    options = parse_url("dynamo://h1:7001,h2/shop?r=2&w=quorum&pw=all&timeout=500ms&sloppy=false")
    assert options.seeds == ("h1:7001", "h2:7001")
    assert options.bucket == "shop"
    assert (options.r, options.w, options.pw) == (2, QUORUM, ALL)
    assert (options.timeout_ms, options.sloppy) == (500, False)


def test_hosts_may_be_ipv6_in_brackets_and_buckets_are_unquoted() -> None:
    options = parse_url("dynamo://[::1]:7005,[::2]/gr%C3%BCn")
    assert options.seeds == ("[::1]:7005", "[::2]:7001")
    assert options.bucket == "grün"


@pytest.mark.parametrize(
    ("text", "ms"), [("1s", 1_000), ("500ms", 500), ("0.5s", 500), ("2m", 120_000), ("10us", 1)]
)
def test_durations_in_a_url_have_a_unit(text: str, ms: int) -> None:
    assert parse_url(f"dynamo://h?timeout={text}").timeout_ms == ms


def test_keyword_beats_url_beats_environment_beats_default() -> None:
    env = "dynamo://env:1/fromenv?r=3&timeout=9s"
    url = "dynamo://url:1?r=2"
    both = resolve(url, env, {"r": 1})
    assert (both.seeds, both.r, both.bucket) == (("url:1",), 1, "default")
    assert both.timeout_ms == Options().timeout_ms, "of two URLs only one counts"
    only_env = resolve(None, env, {"timeout": 0.25, "w": None})
    assert (only_env.seeds, only_env.r, only_env.timeout_ms) == (("env:1",), 3, 250)
    assert resolve(None, None, {}).seeds == ("127.0.0.1:7001",)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("dynamo://h?tiemout=1s", "did you mean 'timeout'"),
        ("dynamo://h?color=red", "unknown option 'color'. Options are: r, w"),
        ("dynamo://h?timeout=500", "a unit, such as 500ms"),
        ("dynamo://h?timeout=-1s", "above 0"),
        ("dynamo://h?timeout=nans", "above 0"),
        ("dynamo://h?r=0", "at least 1"),
        ("dynamo://h?r=two", "'one', 'quorum' or 'all'"),
        ("dynamo://h?sloppy=maybe", "true or false"),
        ("dynamo://h?tries=0", "at least 1"),
        ("dynamo://h?r=1&r=2", "given twice"),
        ("dynamo://h:0", "1 to 65535"),
        ("dynamo://h:http", "1 to 65535"),
        ("dynamo://::1:7001", "brackets"),
        ("dynamo://", "names no node"),
        ("dynamo://,", "names no node"),
        ("dynamo://user:pass@h", "no user"),
        ("dynamo://h/" + "b" * 129, "1 to 128 bytes"),
        ("redis://h", "write dynamo://"),
        ("h:7001", "write dynamo://"),
        ("dynamos://h", "needs keys"),
        ("dynamo://[::1", "no URL"),
    ],
)
def test_a_url_that_is_wrong_says_what_is_allowed(url: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_url(url)
    assert isinstance(caught.value, dynamo.ConfigurationError)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"tiemout": 1}, "did you mean 'timeout'"),
        ({"timeout": 0}, "above 0"),
        ({"timeout": -1}, "above 0"),
        ({"timeout": "1s"}, "above 0"),
        ({"timeout": float("inf")}, "above 0"),
        ({"timeout": True}, "above 0"),
        ({"r": True}, "at least 1"),
        ({"w": 1.5}, "at least 1"),
        ({"sloppy": 1}, "True or False"),
        ({"bucket": ""}, "1 to 128"),
        ({"bucket": b"raw"}, "must be a str"),
        ({"via": 3}, "must be a str"),
        ({"max_in_flight": 0}, "at least 1"),
    ],
)
def test_a_keyword_that_is_wrong_says_what_is_allowed(keywords: dict[str, Any], says: str) -> None:
    with pytest.raises(dynamo.ConfigurationError) as caught:
        resolve("dynamo://h", None, keywords)
    assert says in str(caught.value)


def test_a_view_changes_calls_and_not_the_connection() -> None:
    changed = for_view(Options(r=2), {"w": "all", "timeout": 0.1})
    assert (changed.r, changed.w, changed.timeout_ms) == (2, ALL, 100)
    with pytest.raises(dynamo.ConfigurationError, match="when connecting"):
        for_view(Options(), {"via": "n1"})
    with pytest.raises(dynamo.ConfigurationError, match="did you mean 'sloppy'"):
        for_view(Options(), {"slopy": True})


# --- the package ------------------------------------------------------------------------------


def test_importing_dynamo_loads_neither_sockets_nor_engines() -> None:
    program = (
        "import sys, dynamo; heavy = {'zmq', 'rocksdict', 'asyncio', 'msgspec'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "import dynamo.client.session; assert 'zmq' not in sys.modules;"
        "dynamo.connect; assert 'rocksdict' not in sys.modules;"
        "assert not any(m.startswith('dynamo.server') for m in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        check=True,
    )


def test_every_public_name_exists_and_strangers_do_not() -> None:
    for name in dynamo.__all__:
        if name not in ("local", "__version__"):  # need the other layers, or an installation
            assert getattr(dynamo, name) is not None
    assert set(dynamo.__all__) <= set(dir(dynamo))
    with pytest.raises(AttributeError, match="conect"):
        dynamo.conect  # noqa: B018


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigurationError", ValueError),
        ("ConnectionFailed", ConnectionError),
        ("QuorumTimeout", TimeoutError),
        ("KeyMissing", KeyError),
        ("KeyTooLong", ValueError),
        ("ValueTooLarge", ValueError),
        ("WrongType", TypeError),
        ("BatchError", ExceptionGroup),
        ("CodecError", ValueError),
        ("NotConverged", TimeoutError),
        ("ClientClosed", RuntimeError),
        ("ClientForked", RuntimeError),
        ("BadContext", ValueError),
    ],
)
def test_errors_are_dynamo_errors_and_the_built_in_one_expects(name: str, builtin: type) -> None:
    error = getattr(dynamo, name)
    assert issubclass(error, dynamo.DynamoError)
    assert issubclass(error, builtin)


def test_an_error_reads_as_a_sentence_with_its_hint() -> None:
    error = dynamo.KeyMissing("'k' has no value", key="k", hint="Put one")
    assert str(error) == "'k' has no value. Put one"  # not the repr that KeyError would give
    assert (error.timeout, error.retryable, error.maybe_applied) == (False, False, False)
    assert str(dynamo.ConnectionFailed("nobody", {"h:1": "silent"})) == "nobody"
    late = dynamo.NotConverged("they differ", arcs=[1], nodes=["n1"])
    assert (late.arcs, late.nodes, late.timeout) == ([1], ["n1"], True)
