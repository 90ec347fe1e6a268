"""Many flows side by side: get_many and put_many.

A batch is itself a flow, but of lists: it yields the operations to start now and gets back those
that have ended since. So many are under way at a time that neither this client nor the nodes have
to shed load, and each flow's deadline begins when its turn comes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from dynamo.client.op import Op
from dynamo.client.options import Options
from dynamo.client.results import Results

R = TypeVar("R")
Key = str | bytes
Flow = Generator[Op, Op, R]
BatchFlow = Generator[list[Op], list[Op], Results]

BATCH_OPS = 512
BATCH_BYTES = 16 << 20
MISSING: Any = object()  # what a get in a batch returns for a key without a value


class _Batch:
    """The flows under way, and what has come of the others."""

    __slots__ = ("active", "bytes", "issue", "results")

    def __init__(self) -> None:
        self.results = Results()
        self.issue: list[Op] = []
        self.active = 0
        self.bytes = 0

    def advance(self, key: Key, flow: Flow[Any], ended: Op | None) -> None:
        """Run one flow until it needs the next operation, or is over."""
        try:
            op = next(flow) if ended is None else flow.send(ended)
        except StopIteration as stop:
            if stop.value is MISSING:
                self.results.missing.append(key)
            else:
                self.results.found[key] = stop.value
        except Exception as error:
            self.results.failed[key] = error
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


def batch(
    flows: Iterable[tuple[Key, Flow[Any]]], raise_on_error: bool, options: Options
) -> BatchFlow:
    """Run `flows`, each under the key that its outcome goes to."""
    state = _Batch()
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
            break
        issue, state.issue = state.issue, []
        for op in (yield issue):
            state.resume(op)
    if raise_on_error:
        state.results.check()
    return state.results
