"""Many flows side by side: get_many, put_many, scans, imports.

A batch is itself a flow, but of lists: it yields the operations to start now and gets back those
that have ended since. So many are under way at a time that neither this client nor the nodes have
to shed load, and each flow's deadline begins when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from dynamo.client.op import Op
from dynamo.client.options import Options
from dynamo.client.results import Results

R = TypeVar("R")
Key = str | bytes
Flow = Generator[Op, Op, R]
BatchFlow = Generator[list[Op], list[Op], Results]
Ended = Callable[[Any, Any, Exception | None], None]  # under which key, the value or the error

BATCH_OPS = 512
BATCH_BYTES = 16 << 20
MISSING: Any = object()  # what a get in a batch returns for a key without a value


class _Batch:
    """The flows under way; `ended` hears of the others."""

    __slots__ = ("active", "bytes", "ended", "issue")

    def __init__(self, ended: Ended) -> None:
        self.ended = ended
        self.issue: list[Op] = []
        self.active = 0
        self.bytes = 0

    def advance(self, key: Any, flow: Flow[Any], ended: Op | None) -> None:
        """Run one flow until it needs the next operation, or is over."""
        try:
            op = next(flow) if ended is None else flow.send(ended)
        except StopIteration as stop:
            self.ended(key, stop.value, None)
        except Exception as error:
            self.ended(key, None, error)
        else:
            op.slot = (key, flow)
            self.issue.append(op)
            self.active += 1
            self.bytes += op.size

    def resume(self, ended: Op) -> None:
        """Give an operation back to its flow."""
        self.active -= 1
        self.bytes -= ended.size
        key, flow = ended.slot
        self.advance(key, flow, ended)


def stream(
    flows: Iterable[tuple[Any, Flow[Any]]], ended: Ended, options: Options
) -> Generator[list[Op], list[Op], None]:
    """Run `flows`, begun one by one as there is room; `ended` hears of each under its key."""
    state = _Batch(ended)
    waiting = iter(flows)
    ops_max = min(BATCH_OPS, options.max_in_flight)
    bytes_max = min(BATCH_BYTES, options.max_queued_bytes // 2)
    exhausted = False
    while True:
        while not exhausted and state.active < ops_max and state.bytes < bytes_max:
            job = next(waiting, None)
            if job is None:
                exhausted = True
            else:
                state.advance(job[0], job[1], None)
        if not state.active:
            return
        issue, state.issue = state.issue, []
        for op in (yield issue):
            state.resume(op)


def batch(
    flows: Iterable[tuple[Any, Flow[Any]]], raise_on_error: bool, options: Options
) -> BatchFlow:
    """Run `flows`, each under the key that its outcome goes to."""
    results = Results()

    def ended(key: Any, value: Any, error: Exception | None) -> None:
        if error is not None:
            results.failed[key] = error
        elif value is MISSING:
            results.missing.append(key)
        else:
            results.found[key] = value

    yield from stream(flows, ended, options)
    if raise_on_error:
        results.check()
    return results
