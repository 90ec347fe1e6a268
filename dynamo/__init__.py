"""dynamo: an always-writable, eventually consistent key-value store.

    with dynamo.local(nodes=3) as ring:
        kv = ring.client()
        kv["user:42"] = {"name": "Ada"}

Names are loaded when first used: `import dynamo` alone imports neither sockets nor a storage
engine, and nodes do not pay for the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo.client import merge as merge
    from dynamo.client.aio import AsyncBucket, AsyncClient, connect_async
    from dynamo.client.blocking import Bucket, Client, connect
    from dynamo.client.codec import Codec
    from dynamo.client.context import AUTO, Context
    from dynamo.client.deadlines import deadline
    from dynamo.client.errors import (
        AuthError,
        BadContext,
        BatchError,
        ClientClosed,
        ClientForked,
        CodecError,
        ConfigurationError,
        ConflictError,
        ConnectionFailed,
        DiskFull,
        DynamoError,
        KeyInvalid,
        KeyMissing,
        KeyTooLong,
        NotConverged,
        OperationError,
        Overloaded,
        ProtocolError,
        QuorumTimeout,
        QuorumUnavailable,
        ScanUnavailable,
        TooManySiblings,
        ValueTooLarge,
        WrongType,
    )
    from dynamo.client.results import Entry, Results, Trace, Written
    from dynamo.client.scans import AsyncScan, Scan
    from dynamo.localring import local

    __version__: str

__all__ = [
    "AUTO",
    "AsyncBucket",
    "AsyncClient",
    "AsyncScan",
    "AuthError",
    "BadContext",
    "BatchError",
    "Bucket",
    "Client",
    "ClientClosed",
    "ClientForked",
    "Codec",
    "CodecError",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailed",
    "Context",
    "DiskFull",
    "DynamoError",
    "Entry",
    "KeyInvalid",
    "KeyMissing",
    "KeyTooLong",
    "NotConverged",
    "OperationError",
    "Overloaded",
    "ProtocolError",
    "QuorumTimeout",
    "QuorumUnavailable",
    "Results",
    "Scan",
    "ScanUnavailable",
    "TooManySiblings",
    "Trace",
    "ValueTooLarge",
    "Written",
    "WrongType",
    "__version__",
    "connect",
    "connect_async",
    "deadline",
    "local",
    "merge",
]

_HOMES = {
    "AUTO": "dynamo.client.context",
    "AsyncBucket": "dynamo.client.aio",
    "AsyncClient": "dynamo.client.aio",
    "AsyncScan": "dynamo.client.scans",
    "Bucket": "dynamo.client.blocking",
    "Client": "dynamo.client.blocking",
    "Codec": "dynamo.client.codec",
    "Context": "dynamo.client.context",
    "Entry": "dynamo.client.results",
    "Results": "dynamo.client.results",
    "Scan": "dynamo.client.scans",
    "Trace": "dynamo.client.results",
    "Written": "dynamo.client.results",
    "connect": "dynamo.client.blocking",
    "connect_async": "dynamo.client.aio",
    "deadline": "dynamo.client.deadlines",
    "local": "dynamo.localring",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dynamo' has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version("dynamo-ring")
    elif name == "merge":
        found = import_module("dynamo.client.merge")
    else:  # an error, unless it is listed
        found = getattr(import_module(_HOMES.get(name, "dynamo.client.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
