"""What a client has seen of one key, as an opaque object.

    token = base64url( version u8 | crc32 of the rest, 4 bytes | bytes from the node )

The checksum is only there to tell a mangled token from a real one, here and now, with a
ValueError; what makes a context unforgeable is the node's own seal inside it.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from enum import Enum
from typing import Final
from zlib import crc32

TOKEN_VERSION = 1
_HEAD = 5


class Auto(Enum):
    """The default of `put(..., context=)`: cover what this client has seen."""

    AUTO = "AUTO"

    def __repr__(self) -> str:
        return "dynamo.AUTO"


AUTO: Final = Auto.AUTO


class Context:
    """Pass it back to `put` or `delete` to replace exactly what it came with."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def __bytes__(self) -> bytes:
        return self._raw

    def __eq__(self, other: object) -> bool:
        return self._raw == other._raw if isinstance(other, Context) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return f"<Context {crc32(self._raw):08x}, {len(self._raw)} bytes>"

    def to_token(self) -> str:
        """As text that survives a URL or a web form."""
        body = bytes([TOKEN_VERSION]) + crc32(self._raw).to_bytes(4, "big") + self._raw
        return urlsafe_b64encode(body).decode("ascii").rstrip("=")

    @classmethod
    def from_token(cls, token: str) -> Context:
        """The context that `to_token` made into text. Raises ValueError for anything else."""
        if not isinstance(token, str):
            raise ValueError(f"a context token is a str, not {type(token).__name__}")
        if not token.isascii() or set(token) & set("+/= \n\t"):
            raise ValueError("not a context token: it has characters that no token has")
        try:
            body = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raise ValueError("not a context token: not base64") from None
        if len(body) < _HEAD or body[0] != TOKEN_VERSION:
            raise ValueError("not a context token, or one of a newer version")
        raw = body[_HEAD:]
        if crc32(raw) != int.from_bytes(body[1:_HEAD], "big"):
            raise ValueError("a damaged context token: its checksum does not match")
        return cls(raw)
