"""Everything that a user of dynamo may catch.

    DynamoError                          .timeout .retryable .maybe_applied .hint
    ├─ ConfigurationError (ValueError)   a setting that can never work
    ├─ ConnectionFailed (ConnectionError)        nobody reachable; .seeds says why, one by one
    ├─ OperationError                    .op .key .required .received .asked .alive
    │   │                                .coordinator .elapsed
    │   ├─ QuorumUnavailable             too few live replicas known; nothing was done
    │   │  └─ ScanUnavailable            a scan met too few owners; .arc .cursor
    │   ├─ QuorumTimeout (TimeoutError)  too few answers in time; a write may have been applied
    │   ├─ Overloaded                    shed at once; .retry_after
    │   ├─ DiskFull                      a node is short of disk space
    │   ├─ KeyMissing (KeyError)         only from kv[k]
    │   ├─ KeyInvalid (ValueError)       empty, or not UTF-8; ├─ KeyTooLong
    │   ├─ ValueTooLarge (ValueError)
    │   ├─ TooManySiblings               blind puts have piled up
    │   ├─ BadContext (ValueError)       made for another key or another cluster
    │   └─ WrongType (TypeError)         a key, value or context of a type that cannot be one
    ├─ ConflictError                     .key .siblings .context .resolve()
    ├─ BatchError (ExceptionGroup)       .failed
    ├─ CodecError (ValueError)           .key .codec
    ├─ NotConverged (TimeoutError)       .arcs .nodes
    └─ AuthError, ProtocolError, ClientClosed, ClientForked

Each inherits the built-in that a caller would expect and shadows none. Every message is a sentence
with numbers; `maybe_applied` is True exactly when a write may have happened although the call
failed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo.client.context import Context


class DynamoError(Exception):
    """The root. `timeout`: time ran out. `retryable`: the same call may work later."""

    timeout = False
    retryable = False
    maybe_applied = False
    hint: str | None = None

    def __init__(
        self, message: str = "", *, hint: str | None = None, maybe_applied: bool = False
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.maybe_applied = maybe_applied

    def __str__(self) -> str:
        text = str(self.args[0]) if self.args else ""
        return f"{text}. {self.hint}" if self.hint else text


class ConfigurationError(DynamoError, ValueError):
    """A setting that can never work: the text says which, and what is allowed."""


class ConnectionFailed(DynamoError, ConnectionError):
    """No node could be reached. `seeds` maps each address that was tried to the reason."""

    retryable = True

    def __init__(self, message: str, seeds: Mapping[str, str], **more: Any) -> None:
        super().__init__(message, **more)
        self.seeds = dict(seeds)


class OperationError(DynamoError):
    """One get, put or delete that failed, with the numbers.

    `required` answers of `asked` nodes were needed, `received` came; `alive` nodes were known to
    be up, where that was the reason. `coordinator` is the node that reported, "" if none did.
    `elapsed` is in seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        op: str = "",
        key: str | bytes = "",
        required: int = 0,
        received: int = 0,
        asked: int = 0,
        alive: int = 0,
        coordinator: str = "",
        elapsed: float = 0.0,
        **more: Any,
    ) -> None:
        super().__init__(message, **more)
        self.op = op
        self.key = key
        self.required = required
        self.received = received
        self.asked = asked
        self.alive = alive
        self.coordinator = coordinator
        self.elapsed = elapsed


class QuorumUnavailable(OperationError):
    """Too few live replicas are known. Nothing was done."""

    retryable = True


class ScanUnavailable(QuorumUnavailable):
    """A scan cannot go on: too few owners of `arc` answer. Later: `scan(..., after=cursor)`."""

    def __init__(self, message: str, *, arc: int = -1, cursor: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.arc = arc
        self.cursor = cursor


class QuorumTimeout(OperationError, TimeoutError):
    """Too few answers by the deadline. A write may have been applied, or may yet appear."""

    timeout = True
    retryable = True


class Overloaded(OperationError):
    """Shed at once by a node, or by this client's own limits. Wait `retry_after` seconds."""

    retryable = True

    def __init__(self, message: str, *, retry_after: float = 0.0, **more: Any) -> None:
        super().__init__(message, **more)
        self.retry_after = retry_after


class DiskFull(OperationError):
    """A node is short of disk space and takes no new values. Reads and deletes work."""

    retryable = True


class KeyMissing(OperationError, KeyError):
    """kv[key] of a key that has no value."""


class KeyInvalid(OperationError, ValueError):
    """A key that cannot be one: empty, or not expressible in UTF-8."""


class KeyTooLong(KeyInvalid):
    """A key beyond the ring's limit."""


class ValueTooLarge(OperationError, ValueError):
    """An encoded value beyond the ring's limit."""


class TooManySiblings(OperationError):
    """The key has so many concurrent values that a blind put is refused. Read and resolve."""


class BadContext(OperationError, ValueError):
    """A context that was made for another key or another cluster."""


class WrongType(OperationError, TypeError):
    """A key, value or context of a type that cannot be one."""


class ConflictError(DynamoError):
    """Several values are current and no merge function decides between them.

    `siblings` are those values, newest first. Decide, then `error.resolve(value)` writes the
    answer over exactly these (await it with the asyncio client).
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | bytes,
        siblings: Sequence[Any],
        context: Context,
        resolve: Callable[[Any], Any] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message, **more)
        self.key = key
        self.siblings = list(siblings)
        self.context = context
        self._resolve = resolve

    def resolve(self, value: Any) -> Any:
        """Write `value` in place of the siblings. Values that arrived since stay."""
        if self._resolve is None:
            raise ConfigurationError("this conflict is not attached to a client")
        return self._resolve(value)


class BatchError(DynamoError, ExceptionGroup[Exception]):
    """Some keys of a batch failed. `failed` maps each of them to its error."""

    def __new__(cls, message: str, failed: Mapping[Hashable, Exception]) -> BatchError:
        self = super().__new__(cls, message, list(failed.values()))
        self.failed = dict(failed)
        return self

    failed: dict[Any, Exception]

    def __init__(self, message: str, failed: Mapping[Hashable, Exception]) -> None:
        super().__init__(message)
        self.maybe_applied = any(getattr(e, "maybe_applied", False) for e in failed.values())

    def derive(self, excs: Sequence[Exception]) -> BatchError:  # type: ignore[override]
        chosen = {key: error for key, error in self.failed.items() if error in excs}
        return BatchError(self.message, chosen)


class CodecError(DynamoError, ValueError):
    """A value that cannot be encoded, or stored bytes that cannot be decoded."""

    def __init__(
        self, message: str, *, key: str | bytes = "", codec: str = "", **more: Any
    ) -> None:
        super().__init__(message, **more)
        self.key = key
        self.codec = codec


class NotConverged(DynamoError, TimeoutError):
    """Replicas still differ, or hints are still owed, after the time given."""

    timeout = True
    retryable = True

    def __init__(
        self, message: str, *, arcs: Sequence[int] = (), nodes: Sequence[str] = (), **more: Any
    ) -> None:
        super().__init__(message, **more)
        self.arcs = list(arcs)
        self.nodes = list(nodes)


class AuthError(DynamoError):
    """The node refused this client's keys."""


class ProtocolError(DynamoError):
    """The node speaks another version of the protocol."""

    def __init__(self, message: str, *, ours: int, theirs: int, **more: Any) -> None:
        super().__init__(message, **more)
        self.ours = ours
        self.theirs = theirs


class ClientClosed(DynamoError, RuntimeError):
    """The client was closed, or closed while the call was under way."""


class ClientForked(DynamoError, RuntimeError):
    """The client was made before a fork; its sockets belong to the parent process."""
