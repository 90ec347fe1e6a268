"""Python values to bytes and back: one tag byte that names the encoding, then the encoding.

    DO NOT RENUMBER. Stored values live longer than this code.

    1  MessagePack (codec "auto")      2  raw bytes ("raw")
    3  JSON in UTF-8 ("json")          4  text in UTF-8 ("utf8")      128..255  codecs of users

The tag travels with the value, so a reader decodes what is there, whatever its own bucket writes.
"auto" carries None, bool, int of any size, float, str, bytes, list, tuple, dict, set, datetime,
date, Decimal and UUID, nested at will, and gives each back as the type it was; msgspec Structs and
dataclasses go in as maps and come back as their class where the bucket has `type=`. What
MessagePack cannot say itself goes into extensions:

    1  int beyond 64 bits, signed big-endian    2  Decimal as text      3  UUID, 16 bytes
    4  datetime in ISO 8601, fold kept apart    5  date in ISO 8601     6  tuple, as a list
    7  set, and 8 frozenset, as a list in the order of the members' bytes
    9  dict with keys that are no scalars, as a list of pairs

Never pickle: a value from the network must not be able to run code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec

from dynamo.client.errors import CodecError, ConfigurationError

AUTO, RAW, JSON, UTF8 = 1, 2, 3, 4
CUSTOM_TAG_MIN = 128
DEPTH_MAX = 64

_INT, _DECIMAL, _UUID, _DATETIME, _DATE, _TUPLE, _SET, _FROZENSET, _DICT = range(1, 10)
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
_AS_THEY_ARE = frozenset((str, bytes, float, bool, type(None)))
_KEYS = frozenset((str, bytes, int, float, bool, type(None)))
_BUILT_IN = (bytes, datetime, date, Decimal, UUID)

T = TypeVar("T")
Ext = msgspec.msgpack.Ext
_pack = msgspec.msgpack.Encoder().encode


class Codec(Protocol):
    """What a bucket needs of a codec. Tags of your own are 128..255."""

    name: str
    tag: int

    def encode(self, value: Any) -> bytes:
        """The value as bytes, without the tag. May raise anything; it becomes CodecError."""

    def decode(self, data: bytes) -> Any:
        """The value of such bytes."""


# --- auto -------------------------------------------------------------------------------------


def _plain(value: Any, depth: int = 0) -> Any:
    """`value` in terms of what MessagePack says by itself, and extensions."""
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is int:
        return value if _INT_MIN <= value <= _INT_MAX else Ext(_INT, _int_bytes(value))
    if depth > DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX} levels, or containing itself")
    if kind is list:
        return [_plain(item, depth + 1) for item in value]
    if kind is dict:
        return _plain_dict(value, depth)
    special = _SPECIAL.get(kind)
    if special is not None:
        return Ext(*special(value, depth))
    if isinstance(value, msgspec.Struct) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    ):
        return _plain(msgspec.to_builtins(value, builtin_types=_BUILT_IN), depth + 1)
    raise TypeError(
        f"a value of type {kind.__module__}.{kind.__qualname__} cannot be stored: use str, bytes, "
        "int, float, bool, None, list, tuple, dict, set, datetime, date, Decimal, UUID, a msgspec "
        "Struct or a dataclass, or give the bucket a codec="
    )


def _plain_dict(value: dict[Any, Any], depth: int) -> Any:
    for key in value:
        if type(key) not in _KEYS or (type(key) is int and not _INT_MIN <= key <= _INT_MAX):
            pairs = [[_plain(k, depth + 1), _plain(v, depth + 1)] for k, v in value.items()]
            return Ext(_DICT, _pack(pairs))
    return {key: _plain(item, depth + 1) for key, item in value.items()}


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _list_ext(code: int) -> Callable[[Any, int], tuple[int, bytes]]:
    return lambda value, depth: (code, _pack([_plain(item, depth + 1) for item in value]))


def _set_ext(code: int) -> Callable[[Any, int], tuple[int, bytes]]:
    # In the order of their bytes: equal sets have equal bytes in every process.
    return lambda value, depth: (
        code,
        _pack(sorted((_plain(item, depth + 1) for item in value), key=_pack)),
    )


_SPECIAL: dict[type, Callable[[Any, int], tuple[int, bytes]]] = {
    Decimal: lambda value, _: (_DECIMAL, str(value).encode()),
    UUID: lambda value, _: (_UUID, value.bytes),
    datetime: lambda value, _: (_DATETIME, b"%c%b" % (value.fold, value.isoformat().encode())),
    date: lambda value, _: (_DATE, value.isoformat().encode()),
    tuple: _list_ext(_TUPLE),
    set: _set_ext(_SET),
    frozenset: _set_ext(_FROZENSET),
}


def _unext(code: int, view: memoryview) -> Any:
    data = bytes(view)
    if code == _INT:
        return int.from_bytes(data, "big", signed=True)
    if code == _DECIMAL:
        return Decimal(data.decode())
    if code == _UUID:
        return UUID(bytes=data)
    if code == _DATETIME:
        return datetime.fromisoformat(data[1:].decode()).replace(fold=data[0])
    if code == _DATE:
        return date.fromisoformat(data.decode())
    if code in (_TUPLE, _SET, _FROZENSET):
        kind: Any = {_TUPLE: tuple, _SET: set, _FROZENSET: frozenset}[code]
        return kind(_unpack(data))
    if code == _DICT:
        return {key: item for key, item in _unpack(data)}  # noqa: C416 - pairs, checked as such
    raise ValueError(f"extension {code} is of a newer version")


_unpack: Callable[[bytes], Any] = msgspec.msgpack.Decoder(ext_hook=_unext).decode


def _auto_encode(value: Any) -> bytes:
    return _pack(_plain(value))


# --- the other built-in ones ------------------------------------------------------------------


def _raw_encode(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"codec 'raw' takes bytes, not {type(value).__name__}")
    return bytes(value)


def _utf8_encode(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"codec 'utf8' takes str, not {type(value).__name__}")
    return value.encode()


def _raw_decode(data: bytes) -> bytes:
    return data


def _utf8_decode(data: bytes) -> str:
    return data.decode()


_TAG_OF = {"auto": AUTO, "raw": RAW, "json": JSON, "utf8": UTF8}
_ENCODE: dict[int, Callable[[Any], bytes]] = {
    AUTO: _auto_encode,
    RAW: _raw_encode,
    JSON: msgspec.json.encode,
    UTF8: _utf8_encode,
}
_DECODE: dict[int, Callable[[bytes], Any]] = {
    AUTO: _unpack,
    RAW: _raw_decode,
    JSON: msgspec.json.decode,
    UTF8: _utf8_decode,
}
_FAILURES = (
    *(TypeError, ValueError, OverflowError, RecursionError, MemoryError),
    *(LookupError, InvalidOperation, msgspec.MsgspecError),
)


class Coder:
    """One bucket's way of writing, and the reading of whatever is there."""

    __slots__ = ("_custom", "_encode", "_tag", "name", "type")

    def __init__(self, codec: str | Codec = "auto", type_: Any = None) -> None:
        self.type = type_
        self._custom: Codec | None = None
        if isinstance(codec, str):
            if codec not in _TAG_OF:
                raise ConfigurationError(
                    f"codec {codec!r} is unknown: use {', '.join(_TAG_OF)}, or a Codec object"
                )
            self.name = codec
            tag = _TAG_OF[codec]
            self._encode = _ENCODE[tag]
        else:
            tag, self.name = codec.tag, codec.name
            if type(tag) is not int or not CUSTOM_TAG_MIN <= tag <= 255:
                raise ConfigurationError(
                    f"codec {self.name!r} has tag {tag!r}; tags of your own are 128 to 255"
                )
            self._custom = codec
            self._encode = codec.encode
        self._tag = bytes([tag])

    def encode(self, key: str | bytes, value: Any) -> bytes:
        """The payload that stores `value`. Raises CodecError, which names the key."""
        try:
            return self._tag + self._encode(value)
        except _FAILURES as error:
            raise CodecError(
                f"the value for {key!r} cannot be encoded: {error}", key=key, codec=self.name
            ) from error

    def decode(self, key: str | bytes, payload: bytes) -> Any:
        """The value of a payload. Raises CodecError where it is not one, or not of the type."""
        try:
            value = self._decoder(payload)(payload[1:])
            return value if self.type is None else msgspec.convert(value, self.type)
        except _FAILURES as error:
            raise CodecError(
                f"the value stored under {key!r} cannot be decoded: {error}",
                key=key,
                codec=self.name,
            ) from error

    def _decoder(self, payload: bytes) -> Callable[[bytes], Any]:
        if not payload:
            raise ValueError("it is empty, without even a codec tag")
        tag = payload[0]
        if self._custom is not None and tag == self._custom.tag:
            return self._custom.decode
        decode = _DECODE.get(tag)
        if decode is None:
            raise ValueError(
                f"it was written with codec tag {tag}; give the bucket the codec that wrote it"
            )
        return decode
