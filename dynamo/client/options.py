"""Options of a client: a closed, typed set, from URL, environment, keywords and calls.

    dynamo://host:port,host:port/bucket?r=2&w=quorum&timeout=500ms

Precedence: call argument > keyword > URL > DYNAMO_URL > default. Durations are float seconds in
Python and carry a unit in a URL. A name that does not exist is an error that suggests one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from dynamo.client.errors import ConfigurationError
from dynamo.core.messages import ALL, DEFAULT, QUORUM
from dynamo.core.ring import BUCKET_BYTES_MAX

DEFAULT_PORT = 7001
DEFAULT_URL = f"dynamo://127.0.0.1:{DEFAULT_PORT}"

Level = int | str
_LEVELS = {"one": 1, "quorum": QUORUM, "all": ALL}
_UNITS_MS = {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_TTL_MS_MAX = 1 << 53


@dataclass(frozen=True, slots=True)
class Options:
    """Everything decided before a call. The first block may also change per view or call."""

    # Answers that must come: 0 leaves it to the ring; see core.messages for -1 and -2.
    r: int = DEFAULT
    w: int = DEFAULT
    pr: int = DEFAULT
    pw: int = DEFAULT
    sloppy: bool = True
    durable: bool = False
    # The whole of an operation, retries included. Lower: more calls end unknown while a node
    # fails over (about 150 ms). Higher: callers wait longer for what will not come.
    timeout_ms: int = 1_000
    # Nodes that are asked, one after the other, before an operation gives up early.
    tries: int = 3
    # Whether a merged value is written back; None: where the merge belongs to bucket or client.
    write_back: bool | None = None

    seeds: tuple[str, ...] = (f"127.0.0.1:{DEFAULT_PORT}",)
    bucket: str = "default"
    codec: str = "auto"
    # Talk to this node only: its name or host:port.
    via: str = ""
    # How long `connect` waits for a first answer; 0: it does not.
    wait_ms: int = 0
    # Operations under way at once, and bytes of their values. Past either a call fails with
    # Overloaded, at once: a queue without end would only turn load into timeouts.
    max_in_flight: int = 10_000
    max_queued_bytes: int = 64 << 20


# --- single values ----------------------------------------------------------------------------


def level(name: str, value: Any) -> int:
    """r, w, pr or pw as the wire has it."""
    if type(value) is int and value >= 1:
        return int(value)
    if isinstance(value, str):
        named = _LEVELS.get(value)
        if named is not None:
            return named
    raise ConfigurationError(
        f"{name} must be a count of at least 1, 'one', 'quorum' or 'all', not {value!r}"
    )


def seconds_ms(name: str, value: Any) -> int:
    """A duration in float seconds as whole milliseconds, at least one."""
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise ConfigurationError(f"{name} must be seconds above 0, such as 0.5, not {value!r}")
    ms = math.ceil(float(value) * 1000)
    if ms > _TTL_MS_MAX:
        raise ConfigurationError(f"{name}={value!r} seconds is longer than anything lasts")
    return ms


def _maybe_seconds_ms(name: str, value: Any) -> int:
    return 0 if value is None or value == 0 else seconds_ms(name, value)


def _flag(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")
    return value


def _maybe_flag(name: str, value: Any) -> bool | None:
    return None if value is None else _flag(name, value)


def _count(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{name} must be a whole number of at least 1, not {value!r}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a str, not {value!r}")
    return value


def bucket_name(name: str, value: Any) -> str:
    """A bucket's name: text of 1 to 128 bytes in UTF-8."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a str, not {value!r}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} {value!r} cannot be said in UTF-8") from None
    if not 1 <= size <= BUCKET_BYTES_MAX:
        raise ConfigurationError(
            f"{name} must have 1 to {BUCKET_BYTES_MAX} bytes; {value[:20]!r} has {size}"
        )
    return value


# --- the same from text -----------------------------------------------------------------------


def _level_text(name: str, text: str) -> int:
    return level(name, int(text) if text.isdecimal() else text)


def _flag_text(name: str, text: str) -> bool:
    if text not in ("true", "false", "1", "0", "yes", "no"):
        raise ConfigurationError(f"{name} must be true or false, not {text!r}")
    return text in ("true", "1", "yes")


def _count_text(name: str, text: str) -> int:
    return _count(name, int(text) if text.isdecimal() else text)


def _duration_text(name: str, text: str) -> int:
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :]
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if unit not in _UNITS_MS or not math.isfinite(value) or value <= 0:
        raise ConfigurationError(
            f"{name}={text!r} is no duration: give a number above 0 and a unit, such as 500ms or 2s"
        )
    return seconds_ms(name, value * _UNITS_MS[unit] / 1000)


# name -> field of Options, from a Python value, from URL text (None: only as a keyword)
_Reader = Callable[[str, Any], Any]
_OPTIONS: dict[str, tuple[str, _Reader, Callable[[str, str], Any] | None]] = {
    "r": ("r", level, _level_text),
    "w": ("w", level, _level_text),
    "pr": ("pr", level, _level_text),
    "pw": ("pw", level, _level_text),
    "sloppy": ("sloppy", _flag, _flag_text),
    "durable": ("durable", _flag, _flag_text),
    "timeout": ("timeout_ms", seconds_ms, _duration_text),
    "tries": ("tries", _count, _count_text),
    "write_back": ("write_back", _maybe_flag, _flag_text),
    "bucket": ("bucket", bucket_name, None),
    "codec": ("codec", _text, _text),
    "via": ("via", _text, _text),
    "wait": ("wait_ms", _maybe_seconds_ms, _duration_text),
    "max_in_flight": ("max_in_flight", _count, _count_text),
    "max_queued_bytes": ("max_queued_bytes", _count, _count_text),
}
PER_VIEW = ("r", "w", "pr", "pw", "sloppy", "durable", "timeout", "tries", "write_back")


def _unknown(name: str, known: list[str]) -> ConfigurationError:
    close = get_close_matches(name, known, 1, 0.5)
    guess = f"; did you mean {close[0]!r}?" if close else "."
    return ConfigurationError(f"unknown option {name!r}{guess} Options are: {', '.join(known)}")


def with_keywords(options: Options, given: Mapping[str, Any]) -> Options:
    """`options` changed by keywords of `connect`; None leaves the option as it is."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _OPTIONS:
            raise _unknown(name, list(_OPTIONS))
        if value is not None:
            field, read, _ = _OPTIONS[name]
            fields[field] = read(name, value)
    return replace(options, **fields) if fields else options


def for_view(options: Options, given: Mapping[str, Any]) -> Options:
    """`options` changed by `with_options`: what belongs to the connection is refused."""
    for name in given:
        if name not in PER_VIEW:
            if name in _OPTIONS:
                raise ConfigurationError(
                    f"{name} is decided when connecting, not by with_options. "
                    f"Options here are: {', '.join(PER_VIEW)}"
                )
            raise _unknown(name, list(PER_VIEW))
    return with_keywords(options, given)


# --- URLs -------------------------------------------------------------------------------------


def parse_url(url: str) -> Options:
    """The options that a URL carries. Raises ConfigurationError that says what is wrong."""
    if not isinstance(url, str):
        raise ConfigurationError(f"a URL is a str, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is no URL: {error}") from None
    if parts.scheme == "dynamos":
        raise ConfigurationError("dynamos:// needs keys, which this version does not have yet")
    if parts.scheme != "dynamo":
        raise ConfigurationError(
            f"{url!r} is no dynamo URL: write dynamo://host:port,host:port/bucket?r=2&timeout=1s"
        )
    if parts.fragment or "@" in parts.netloc:
        raise ConfigurationError(f"{url!r}: a dynamo URL has no user, password or #fragment")
    fields: dict[str, Any] = {"seeds": _seeds(url, parts.netloc)}
    bucket = unquote(parts.path.removeprefix("/"))
    if bucket:
        fields["bucket"] = bucket_name("bucket", bucket)
    fields.update(_query(parts.query))
    return replace(Options(), **fields)


def _query(query: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    known = [name for name, entry in _OPTIONS.items() if entry[2] is not None]
    for name, text in parse_qsl(query, keep_blank_values=True):
        read = _OPTIONS[name][2] if name in _OPTIONS else None
        if read is None:
            raise _unknown(name, known)
        if _OPTIONS[name][0] in fields:
            raise ConfigurationError(f"option {name!r} is given twice in the URL")
        fields[_OPTIONS[name][0]] = read(name, text)
    return fields


def _seeds(url: str, netloc: str) -> tuple[str, ...]:
    seeds = tuple(dict.fromkeys(address(part) for part in netloc.split(",") if part))
    if not seeds:
        raise ConfigurationError(f"{url!r} names no node: write dynamo://host:port")
    return seeds


def address(text: str) -> str:
    """host:port with the default port filled in. IPv6 hosts stand in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigurationError(f"{text!r}: write an IPv6 address in brackets, [::1]:7001")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigurationError(f"{text!r} is no host:port with a port of 1 to 65535")
    return f"{host}:{int(port)}"


def resolve(url: str | None, env_url: str | None, keywords: Mapping[str, Any]) -> Options:
    """The options of a new client: keyword beats URL, a URL given beats DYNAMO_URL."""
    return with_keywords(parse_url(url or env_url or DEFAULT_URL), keywords)
