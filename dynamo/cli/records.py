"""One key as one line of JSON, for `dynamo export` and `dynamo import`; nothing is lost between.

    {"bucket": "shop", "key": "cart:7", "siblings": [["tea"], ["tea", "milk"]], "context": "AQ..."}

A sibling stands as plain JSON if exactly its bytes come out again when it is stored from there.
What does not come through is wrapped:

    {"b64": "..."}    bytes
    {"raw": "..."}    the stored payload, codec tag included: datetime, Decimal, tuple, NaN, what
                      another codec wrote, and dicts that look like one of these two wrappers

A key or bucket that is no UTF-8 is {"b64": "..."}, too. For hands and scripts there is a short
form, {"key": "cart:7", "value": ["tea"]}, which says nothing of siblings and contexts.

When a value was written and when it expires is not in a line: what had a time to live, and is
imported, stays until somebody deletes it.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from dynamo.client.codec import AUTO, Coder
from dynamo.client.context import Context
from dynamo.core.ring import BUCKET_BYTES_MAX, full_key, split_key

_TAG = bytes([AUTO])
_WRAPPERS = ("b64", "raw")
_pack = msgspec.msgpack.Encoder().encode
_unpack: Callable[[bytes], Any] = msgspec.msgpack.Decoder().decode
_to_json = msgspec.json.Encoder().encode
_of_json: Callable[[Any], Any] = msgspec.json.Decoder().decode
_coder = Coder()


class BadLine(ValueError):
    """A line that is no record. `reason` is short and the same for all lines of its kind."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Record(NamedTuple):
    """What a line says. `plain`: the short form, a value and nothing about others."""

    full: bytes
    payloads: list[bytes]
    context: bytes | None
    plain: bool


class _B64(msgspec.Struct):
    b64: str


class _Line(msgspec.Struct):
    key: str | _B64
    bucket: str | _B64 | None = None
    siblings: list[msgspec.Raw] | None = None
    value: msgspec.Raw = msgspec.Raw(b"")  # the text of it, so that null is a value
    context: str | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


# --- out --------------------------------------------------------------------------------------


def line_of(full: bytes, payloads: list[bytes], context: bytes) -> bytes:
    """The line of one key, with its newline."""
    bucket, key = split_key(full)
    return b'{"bucket":%b,"key":%b,"siblings":[%b],"context":%b}\n' % (
        _name(bucket),
        _name(key),
        b",".join(map(_sibling, payloads)),
        _to_json(Context(context).to_token()),
    )


def _name(raw: bytes) -> bytes:
    try:
        return _to_json(raw.decode())
    except UnicodeDecodeError:
        return _wrapped("b64", raw)


def _wrapped(what: str, raw: bytes) -> bytes:
    return _to_json({what: b64encode(raw).decode()})


def _sibling(payload: bytes) -> bytes:
    """A payload as plain JSON where that is exact, else wrapped."""
    try:
        # Tried, and not derived from types: whatever a codec may write, what is not certain to
        # come back as it was does not pass here.
        value = _unpack(payload[1:])
        if type(value) is bytes:
            text = _wrapped("b64", value)
        else:
            text = _to_json(value)
        if _payload(text) == payload:
            return text
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        pass
    return _wrapped("raw", payload)


# --- in ---------------------------------------------------------------------------------------


def record_of(line: bytes, bucket: bytes) -> Record:
    """What a line says; `bucket` is for lines that name none. Raises BadLine."""
    try:
        said = _decode_line(line)
    except msgspec.ValidationError as error:
        raise BadLine(_not_a_record(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadLine("not JSON") from None
    full = _full(said, bucket)
    if said.siblings:
        values = said.siblings
    elif said.siblings is None and bytes(said.value):
        values = [said.value]
    else:
        raise BadLine("no value")
    try:
        payloads = [_payload(bytes(value)) for value in values]
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        raise BadLine("a value that cannot be stored") from None
    return Record(full, payloads, _context(said), said.siblings is None)


def _not_a_record(text: str) -> str:
    if "missing required field `key`" in text:
        return "no key"
    if "$.key" in text or "$.bucket" in text:
        return "a key or bucket that is neither text nor b64"
    return "not a record"


def _full(said: _Line, bucket: bytes) -> bytes:
    key = _bytes_of(said.key)
    if not key:
        raise BadLine("an empty key")
    if said.bucket is not None:
        bucket = _bytes_of(said.bucket)
    if not 1 <= len(bucket) <= BUCKET_BYTES_MAX:
        raise BadLine(f"a bucket name that has not 1 to {BUCKET_BYTES_MAX} bytes")
    return full_key(bucket, key)


def _bytes_of(name: str | _B64) -> bytes:
    if isinstance(name, str):
        return name.encode()
    try:
        return b64decode(name.b64, validate=True)
    except (binascii.Error, ValueError):
        raise BadLine("a key or bucket that is neither text nor b64") from None


def _context(said: _Line) -> bytes | None:
    if said.siblings is None or said.context is None:
        return None
    try:
        return bytes(Context.from_token(said.context))
    except ValueError:
        raise BadLine("a damaged context") from None


def _payload(text: bytes) -> bytes:
    """The payload that a sibling in a line stands for."""
    value = _of_json(text)
    if type(value) is dict and len(value) == 1:
        what, inner = next(iter(value.items()))
        if what in _WRAPPERS and type(inner) is str:
            raw = b64decode(inner, validate=True)
            if what == "b64":
                return _TAG + _pack(raw)
            if not raw:
                raise ValueError("a payload has at least its codec tag")
            return raw
    try:
        return _TAG + _pack(value)  # what JSON can say, the codec packs as it is
    except OverflowError:  # but for numbers beyond 64 bits
        return _coder.encode("", value)
