"""Load for rings that change: clients that read, modify and write, and remember what came of it.

A value is what its writer had seen and what it adds: `[id, [ids...]]`. A reader merges siblings by
the union of what they show, adds an id of its own, and writes over exactly what it read. Hence two
judgements without a model of the store:

    lost     an id whose write was acknowledged, and that no value at rest shows
    false    two values of one read of which one's writer had seen the other: it covers that one,
             so they are no siblings (nor are two under one id)

Every call is timed against its deadline, whatever came of it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import dynamo
from dynamo.client.errors import DynamoError
from dynamo.localring import Ring

TIMEOUT_S = 5.0
SLACK_S = 0.5  # for a busy machine: a deadline is met by the clock of the client, not of the test
CLIENTS = 40
CONNECTIONS = 8  # a client object each, shared by clients of the same event loop


class Load:
    """Clients in a thread of their own, from `__enter__` until `stop` or the end of the block."""

    def __init__(
        self,
        ring: Ring,
        keys: list[str],
        clients: int = CLIENTS,
        pause_s: float = 0.05,
        records: dict[str, Any] | None = None,
    ) -> None:
        """`records`: what was stored before and has to be read back equal all the while."""
        self._url = ring.url
        self._keys = keys
        self._clients = clients
        self._pause_s = pause_s
        self._records = list((records or {}).items())
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.acked: dict[str, list[str]] = {key: [] for key in keys}
        self.calls = 0
        self.failures: list[DynamoError] = []
        self.late: list[float] = []
        self.slowest_s = 0.0
        self.wrong: list[str] = []  # what must never be seen

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a call never ended"

    async def _run(self) -> None:
        connections = [
            dynamo.connect_async(self._url, timeout=TIMEOUT_S, merge=None)
            for _ in range(min(CONNECTIONS, self._clients))
        ]
        try:
            await asyncio.gather(
                *[
                    self._client(number, connections[number % len(connections)])
                    for number in range(self._clients)
                ]
            )
        finally:
            for kv in connections:
                await kv.aclose()

    async def _client(self, number: int, kv: dynamo.AsyncClient) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            key = self._keys[(number + count) % len(self._keys)]
            await self._modify(kv, key, f"{number}.{count}")
            if self._records:
                name, record = self._records[(number * 7919 + count * 104_729) % len(self._records)]
                found = await self._timed(kv.get(name))
                if found is not None and found[0] != record:
                    self.wrong.append(f"{name} read as {found[0]!r:.60}")
            await asyncio.sleep(self._pause_s)

    async def _modify(self, kv: dynamo.AsyncClient, key: str, mine: str) -> None:
        read = await self._timed(kv.read(key))
        if read is None:
            return
        entry = read[0]
        self.wrong += false_siblings(key, entry.siblings)
        value = [mine, sorted(shown(entry.siblings))]
        if await self._timed(kv.put(key, value, context=entry.context)) is not None:
            self.acked[key].append(mine)

    async def _timed(self, call: Any) -> tuple[Any] | None:
        began = time.monotonic()
        self.calls += 1
        try:
            return (await call,)
        except DynamoError as error:
            self.failures.append(error)
            return None
        finally:
            took = time.monotonic() - began
            self.slowest_s = max(self.slowest_s, took)
            if took > TIMEOUT_S + SLACK_S:
                self.late.append(took)

    # --- the verdict ------------------------------------------------------------------------------

    def check(self, ring: Ring, succeed: float = 0.999) -> None:
        """Raise unless everything that was promised holds. The load must have been stopped."""
        assert self.wrong == []
        assert self.late == [], "calls that were not answered within their deadline"
        kinds = Counter(f"{type(error).__name__}: {error}"[:200] for error in self.failures)
        allowed = (1 - succeed) * self.calls
        assert len(self.failures) <= allowed, f"of {self.calls}: {kinds.most_common(5)}"
        assert self.calls > 0
        with ring.client(timeout=10) as kv:
            for key, acked in self.acked.items():
                values = kv.read(key, r="all").siblings
                assert false_siblings(key, values) == []
                lost = sorted(set(acked) - shown(values))
                assert lost == [], f"{len(lost)} of {len(acked)} writes to {key} were lost"

    def __str__(self) -> str:
        return (
            f"{self.calls:,} calls, {sum(map(len, self.acked.values())):,} writes acknowledged, "
            f"{len(self.failures)} failures, the slowest took {self.slowest_s * 1000:.0f} ms"
        )


def shown(values: list[Any]) -> set[str]:
    """The ids of all writes that these values show."""
    return {name for mine, past in values for name in (mine, *past)}


def false_siblings(key: str, values: list[Any]) -> list[str]:
    """Sentences about values that stand beside one another and should not."""
    ids = [mine for mine, _ in values]
    bad = [f"{key} has {name} twice" for name, count in Counter(ids).items() if count > 1]
    return bad + [
        f"{key} has {one} beside {other}, whose writer had seen it"
        for one in ids
        for other, past in values
        if one in past
    ]
