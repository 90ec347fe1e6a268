"""Values and contexts survive the way to bytes and back, as the type they were."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import math
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo.client.codec import CUSTOM_TAG_MIN, Coder
from dynamo.client.context import AUTO, Context
from dynamo.client.errors import CodecError, ConfigurationError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.just(dt.UTC))
)
KEYS = st.text() | st.binary() | st.integers() | st.uuids() | st.tuples(st.text(), st.integers())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(SCALARS, max_size=4)
        | st.frozensets(st.integers(), max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal, and of equal types all the way down (True == 1 and 1.0 == 1 otherwise)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(map(type, a)) == list(map(type, b)) and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_auto_gives_back_what_went_in(value: Any) -> None:
    coder = Coder()
    assert same(coder.decode("k", coder.encode("k", value)), value)


@pytest.mark.parametrize(
    "value",
    [
        *(2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**500, -(10**500)),
        *(math.inf, -math.inf, Decimal("1E+3"), Decimal("-0.00"), Decimal("Infinity")),
        dt.datetime(2026, 3, 29, 2, 30, fold=1),
        dt.datetime(2026, 1, 1, 12, 0, 0, 123456, dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
        {2**70: [1], (1, 2): {3}, dt.date(2026, 1, 1): None},
        [[], {}, (), set(), frozenset(), "", b"", 0, None],
    ],
)
def test_auto_at_the_edges(value: Any) -> None:
    coder = Coder()
    assert same(coder.decode("k", coder.encode("k", value)), value)


def test_nan_comes_back_as_nan() -> None:
    coder = Coder()
    assert math.isnan(coder.decode("k", coder.encode("k", math.nan)))


def test_equal_sets_have_equal_bytes() -> None:
    coder = Coder()
    forward = coder.encode("k", {f"m{i}" for i in range(50)})
    backward = coder.encode("k", {f"m{i}" for i in reversed(range(50))})
    assert forward == backward


class User(msgspec.Struct):
    name: str
    born: dt.date
    ids: list[UUID] = []
    balance: Decimal = Decimal(0)


@dataclasses.dataclass
class Point:
    x: float
    tags: set[str]
    at: dt.datetime | None = None


def test_structs_and_dataclasses_come_back_as_their_type() -> None:
    user = User("Ada", dt.date(1815, 12, 10), [uuid4()], Decimal("1.50"))
    users = Coder(type_=User)
    assert users.decode("k", users.encode("k", user)) == user
    point = Point(1.5, {"a", "b"}, dt.datetime(2026, 1, 1))
    points = Coder(type_=Point)
    assert points.decode("k", points.encode("k", point)) == point


def test_without_a_type_they_come_back_as_maps() -> None:
    coder = Coder()
    plain = coder.decode("k", coder.encode("k", User("Ada", dt.date(1815, 12, 10))))
    assert plain["name"] == "Ada"
    assert plain["born"] == dt.date(1815, 12, 10)


def test_a_value_that_does_not_fit_the_type_is_an_error_that_names_the_key() -> None:
    data = Coder().encode("k", {"name": 7})
    with pytest.raises(CodecError, match=r"'user:1'.*name") as caught:
        Coder(type_=User).decode("user:1", data)
    assert caught.value.key == "user:1"
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("codec", "value"), [("raw", b"\x00\xff"), ("json", {"a": [1, None]}), ("utf8", "grün")]
)
def test_other_codecs_round_trip_and_any_bucket_can_read_them(codec: str, value: Any) -> None:
    coder = Coder(codec)
    data = coder.encode("k", value)
    assert coder.decode("k", data) == value
    assert Coder().decode("k", data) == value


def test_raw_costs_one_byte_and_takes_any_buffer() -> None:
    coder = Coder("raw")
    assert coder.encode("k", memoryview(b"abc"))[1:] == b"abc"


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        ("raw", "text"),
        ("utf8", b"bytes"),
        ("utf8", "\ud800"),
        ("json", object()),
        ("auto", object()),
        ("auto", print),
        ("auto", {"deep": [object()]}),
        ("auto", "\ud800"),
        ("auto", Point),
    ],
)
def test_what_a_codec_cannot_say_is_refused(codec: str, value: Any) -> None:
    with pytest.raises(CodecError, match="'k' cannot be encoded"):
        Coder(codec).encode("k", value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CodecError, match="containing itself"):
        Coder().encode("k", loop)


@given(st.binary(max_size=60))
@settings(max_examples=400, deadline=None)
def test_any_bytes_decode_or_raise_codec_error(data: bytes) -> None:
    for start in (b"", b"\x01", b"\x03", b"\x04", b"\x01\xc7\x05\x02", b"\x01\xc7\x05\x04"):
        with contextlib.suppress(CodecError):
            Coder().decode("k", start + data)


class Upper:
    name = "upper"
    tag = 200

    def encode(self, value: Any) -> bytes:
        return str(value).upper().encode()

    def decode(self, data: bytes) -> Any:
        return data.decode()


def test_a_codec_of_ones_own() -> None:
    coder = Coder(Upper())
    data = coder.encode("k", "abc")
    assert data == b"\xc8ABC"
    assert coder.decode("k", data) == "ABC"
    with pytest.raises(CodecError, match="codec tag 200"):
        Coder().decode("k", data)
    assert coder.decode("k", Coder().encode("k", [1])) == [1]


def test_codecs_that_do_not_exist_or_take_a_tag_that_is_ours_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="auto, raw, json, utf8"):
        Coder("pickle")
    mine = Upper()
    mine.tag = CUSTOM_TAG_MIN - 1
    with pytest.raises(ConfigurationError, match="128 to 255"):
        Coder(mine)


# --- contexts ---------------------------------------------------------------------------------


@given(st.binary())
def test_a_context_survives_its_token(raw: bytes) -> None:
    context = Context(raw)
    again = Context.from_token(context.to_token())
    assert again == context
    assert hash(again) == hash(context)
    assert bytes(again) == raw


def test_a_context_compares_with_contexts_only() -> None:
    assert Context(b"a") != Context(b"b")
    assert Context(b"a") != b"a"
    assert repr(Context(b"a")) == repr(Context(b"a"))
    assert repr(AUTO) == "dynamo.AUTO"


@pytest.mark.parametrize("token", ["", "A", "!!!!", "AAAA", "ä", "AQAAAAA=", None, 7, b"AQAA", " "])
def test_what_is_no_token_is_a_value_error(token: Any) -> None:
    with pytest.raises(ValueError, match="token"):
        Context.from_token(token)


@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_token_with_one_changed_character_is_refused(raw: bytes, data: st.DataObject) -> None:
    token = Context(raw).to_token()
    place = data.draw(st.integers(0, len(token) - 2))  # the last one may hold unused bits
    other = data.draw(st.sampled_from([c for c in "AbZ09-_" if c != token[place]]))
    with pytest.raises(ValueError, match="token"):
        Context.from_token(token[:place] + other + token[place + 1 :])
