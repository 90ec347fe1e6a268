"""Contexts as clients hold them: what was seen of one key, sealed so that none can be made up.

    token = version u8 | tag 10 bytes | msgpack [actor, n, actor, n, ...]

The tag is a keyed hash over the full key and the body under the cluster's secret. A genuine
context may name dots that the receiving node has not seen yet, so nothing but a secret tells it
from a forged one, and a forged `(actor, 2^62)` would cover writes that nobody read (D4). Binding
the key stops a context of one key from covering the values of another.
"""

from __future__ import annotations

from hashlib import blake2b
from hmac import compare_digest

import msgspec

from dynamo.core.dvv import ACTOR_BYTES, COUNTER_MAX, Clock, Context
from dynamo.core.messages import Malformed

VERSION = 1
TAG_BYTES = 10
_START = 1 + TAG_BYTES

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes | int]).decode


def seal(secret: bytes, key: bytes, clock: Clock) -> bytes:
    """The context of everything `clock` knows, for clients."""
    flat: list[bytes | int] = []
    for actor, n, _ in clock:
        flat.append(actor)
        flat.append(n)
    body = _encode(flat)
    return b"\x01" + _tag(secret, key, body) + body


def unseal(secret: bytes, key: bytes, token: bytes) -> Context:
    """What a context covers. Raises `Malformed` unless this cluster made it for this key."""
    if not token:
        return {}
    if token[0] != VERSION or len(token) < _START:
        raise Malformed("a context of an unknown version")
    body = token[_START:]
    if not compare_digest(token[1:_START], _tag(secret, key, body)):
        raise Malformed("the context was made for another key or another cluster")
    try:
        flat = _decode(body)
    except msgspec.DecodeError as error:
        raise Malformed(f"not a context: {error}") from None
    context: Context = {}
    for actor, n in zip(flat[::2], flat[1::2], strict=True):
        if not isinstance(actor, bytes) or len(actor) != ACTOR_BYTES or not isinstance(n, int):
            raise Malformed("not a context")
        if not 0 < n <= COUNTER_MAX:
            raise Malformed("a context with a counter out of range")
        context[actor] = n
    return context


def _tag(secret: bytes, key: bytes, body: bytes) -> bytes:
    bound = b"%c%c%b%b" % (len(key) >> 8 & 255, len(key) & 255, key, body)
    return blake2b(bound, digest_size=TAG_BYTES, key=secret).digest()
