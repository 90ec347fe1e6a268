"""Keys and values as they are stored, for tools that move them: all buckets, payloads, contexts.

A *payload* is a codec's tag byte and its bytes (see `codec`). Nothing is decoded here, so what a
codec of users has written, or a newer version of this one, passes through unharmed. What is read
here counts as seen by nobody: the client's memory is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dynamo.client.batch import Flow, stream
from dynamo.client.blocking import Bucket
from dynamo.client.op import Op
from dynamo.client.scan import Found, Position, Walk
from dynamo.client.surface import answered
from dynamo.core import messages as m


class Raw:
    """A client, seen from below its codecs."""

    __slots__ = ("_bucket", "_core", "_options")

    def __init__(self, client: Bucket[Any]) -> None:
        self._bucket = client
        self._core = client._core
        self._options = client._options

    # --- all keys -----------------------------------------------------------------------------

    def walk(self, match: bytes = b"", after: Position | None = None) -> Walk:
        """A scan of all full keys that begin with `match`, through all buckets."""
        return self._bucket._walk_from(match, after, None)

    def fetch(self, walk: Walk) -> list[Found]:
        """The next keys of a walk; none when it is complete. Raises ScanUnavailable."""
        found = list(iter(walk.take, None))
        if not found:
            self._core.run_batch(walk.fetch())
            found = list(iter(walk.take, None))
        return found

    # --- single keys --------------------------------------------------------------------------

    def get(self, full: bytes, weight_bytes: int = 0) -> Flow[tuple[bytes, list[bytes]]]:
        """The context and the payloads of a key.

        `weight_bytes`: what else its caller holds in memory meanwhile, so that the batch counts it.
        """
        bucket = self._bucket
        op = bucket._get_op(full, bucket._until(None), None, None, None)
        op.size += weight_bytes
        yield op
        _, _, context, values, _ = answered(op)
        return context, [payload for _, payload in values]

    def put(self, full: bytes, payload: bytes, context: bytes | None) -> Flow[None]:
        """Write a payload over what `context` covers; None: beside whatever is there."""
        bucket = self._bucket
        tail = (*bucket._put_tail(None, None, None, None), payload)
        mode = m.BLIND if context is None else m.CAUSAL
        op = Op(
            m.PUT, full, bucket._until(None), tail,
            mode=mode, context=context or b"", tries=self._options.tries,
        )  # fmt: skip
        yield op
        answered(op)

    # --- many ---------------------------------------------------------------------------------

    def stream(
        self,
        flows: Iterable[tuple[Any, Flow[Any]]],
        ended: Callable[[Any, Any, Exception | None], None],
    ) -> None:
        """Carry flows out side by side, begun as there is room."""
        self._core.run_batch(stream(flows, ended, self._options))
