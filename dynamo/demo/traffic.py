"""Reads and writes that go on in the background, each remembered, so that a loss would show.

Some threads write visits (which city was visited, and the visit's number), as many others read
visits and cities. The book keeps, per key, the last number that was acknowledged and the last
that was tried. Later every key is read again, and must hold one from the first to the second: below
it an acknowledged write was lost, above it or beside it somebody made a value up.

Keys are used again after a while, so a demo may run for hours. Each belongs to one thread, and
writers share a client that never reads; so its puts are one line of succession per key. (History:
a first version read through the same client. While the network was split such a read showed an
older value, the next put took that for all its user had seen, and rightly became a sibling.)
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from dynamo.client.blocking import Client
from dynamo.demo.records import City
from dynamo.localring import Ring

THREADS = 4  # of either kind
KEYS = 4_000  # fewer than a client remembers (client.memory), and a multiple of THREADS
CALLS_PER_S = 200  # of either kind
# Longer than the client's default: the promise under test is that a write gets through.
TIMEOUT_S = 5.0
WINDOW_S = 2.0
SAMPLES_MAX = 4_000
BATCH = 500
VISITS, CITIES = "visits", "cities"


class Rate(NamedTuple):
    """The last moments of one kind of call. Times are None where there were no calls."""

    per_s: float
    p50_ms: float | None
    p99_ms: float | None


IDLE = Rate(0.0, None, None)


class Meter:
    """Counts calls, and remembers how long the latest took."""

    def __init__(self) -> None:
        self.count = 0
        self.slowest_ms = 0.0  # since `forget_slowest`
        self._latest: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        self._lock = threading.Lock()

    def add(self, took_s: float) -> None:
        with self._lock:
            self.count += 1
            self.slowest_ms = max(self.slowest_ms, took_s * 1000)
            self._latest.append((time.monotonic(), took_s * 1000))

    def forget_slowest(self) -> None:
        self.slowest_ms = 0.0

    def rate(self) -> Rate:
        since = time.monotonic() - WINDOW_S
        with self._lock:
            took_ms = sorted(ms for at, ms in self._latest if at >= since)
        if not took_ms:
            return IDLE
        last = len(took_ms) - 1
        return Rate(len(took_ms) / WINDOW_S, took_ms[last // 2], took_ms[round(last * 0.99)])


class Counts(NamedTuple):
    """What the load has done since it began."""

    writes: int = 0  # acknowledged
    reads: int = 0
    failed: int = 0  # calls that ended with an error; of a write, nothing is promised then
    older: int = 0  # reads that showed an older value than one acknowledged before
    wrong: int = 0  # reads that showed what nobody had written: never

    def since(self, earlier: Counts) -> Counts:
        return Counts(*(now - then for now, then in zip(self, earlier, strict=True)))


NOTHING = Counts()


class Verdict(NamedTuple):
    """Every key that was written, read again."""

    keys: int
    lost: tuple[str, ...]  # keys that hold less than what was acknowledged

    @property
    def kept(self) -> int:
        return self.keys - len(self.lost)


class Book:
    """Per key the last visit that was acknowledged, and the last that was tried; -1 for none."""

    def __init__(self) -> None:
        self.acked = [-1] * KEYS
        self.tried = [-1] * KEYS

    def written(self) -> list[tuple[int, int]]:
        """(slot, last acknowledged visit) of all keys that have one."""
        return [(slot, visit) for slot, visit in enumerate(self.acked) if visit >= 0]

    def plausible(self, slot: int, visit: object, at_least: int) -> bool:
        """Whether a key may hold this visit, given what was acknowledged before the read."""
        if type(visit) is not int or visit % KEYS != slot:
            return False
        return at_least <= visit <= self.tried[slot]


class Traffic:
    """The load. A context manager: it starts paused, and its threads are gone in the end."""

    def __init__(self, ring: Ring, cities: Mapping[str, City]) -> None:
        self.writes, self.reads = Meter(), Meter()
        self.book = Book()
        self.error = ""  # the latest failure, in words
        self._cities = cities
        self._names = list(cities)
        # Apart from other runs on the same --path, whose visits are another book's.
        self._run = random.SystemRandom().randrange(16**4)
        self._writer = ring.client(timeout=TIMEOUT_S, merge=latest)
        self._reader = ring.client(timeout=TIMEOUT_S)
        self._going, self._over = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._failed = self._older = self._wrong = self._under_way = 0
        self._threads = [
            threading.Thread(target=self._work, args=(number, call), daemon=True)
            for number in range(THREADS)
            for call in (self._write, self._read)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._going.set()  # wakes those that pause
        # Calls under way end with ClientClosed: nobody waits for a node that is not there.
        self._writer.close()
        self._reader.close()
        for thread in self._threads:
            thread.join()

    @property
    def on(self) -> bool:
        return self._going.is_set()

    def switch(self, on: bool) -> None:
        """Go on, or pause."""
        if on:
            self._going.set()
        else:
            self._going.clear()

    def stop(self) -> Counts:
        """Pause, and return when the calls under way have ended."""
        self.switch(False)
        deadline = time.monotonic() + 2 * TIMEOUT_S
        while self._under_way and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.counts()

    def counts(self) -> Counts:
        with self._lock:
            failed, older, wrong = self._failed, self._older, self._wrong
        return Counts(self.writes.count, self.reads.count, failed, older, wrong)

    # --- one thread -----------------------------------------------------------------------------

    def _work(self, number: int, call: Callable[[int, random.Random], None]) -> None:
        rng = random.Random(number)
        visit = number  # and every THREADS-th from here: no two writers share a key
        period_s = THREADS / CALLS_PER_S
        due = time.monotonic()
        while True:
            self._going.wait()
            self._count(under_way=1)
            if self._over.is_set():
                return
            try:
                if self.on:
                    call(visit, rng)
            except Exception as error:  # a call that fails is counted, whatever it was
                if not self._over.is_set():
                    self.error = str(error)
                    self._count(failed=1)
            self._count(under_way=-1)
            visit += THREADS
            # A pace, not a backlog: what a slow moment missed is not made up for.
            due = max(due + period_s, time.monotonic())
            self._over.wait(due - time.monotonic())

    def _count(self, failed: int = 0, older: int = 0, wrong: int = 0, under_way: int = 0) -> None:
        with self._lock:
            self._under_way += under_way
            self._failed += failed
            self._older += older
            self._wrong += wrong

    def _key(self, slot: int) -> str:
        return f"visit:{self._run:04x}-{slot:04}"

    def _value(self, visit: int) -> dict[str, Any]:
        return {"visit": visit, "city": self._names[visit % len(self._names)]}

    def _write(self, visit: int, rng: random.Random) -> None:
        slot = visit % KEYS
        self.book.tried[slot] = visit
        began = time.monotonic()
        self._writer.bucket(VISITS).put(self._key(slot), self._value(visit))
        self.writes.add(time.monotonic() - began)
        self.book.acked[slot] = visit

    def _read(self, visit: int, rng: random.Random) -> None:
        slot = rng.randrange(KEYS)
        if self.book.tried[slot] < 0 or rng.random() < 0.5:
            self._read_city(rng.choice(self._names))
        else:
            self._read_visit(slot)

    def _read_visit(self, slot: int) -> None:
        acked = self.book.acked[slot]
        began = time.monotonic()
        value = self._reader.bucket(VISITS).get(self._key(slot), merge=latest)
        self.reads.add(time.monotonic() - began)
        if value is None:
            self._count(older=acked >= 0)
        elif not self._known(slot, value, 0):
            self._count(wrong=1)
        elif value["visit"] < acked:
            self._count(older=1)

    def _read_city(self, name: str) -> None:
        began = time.monotonic()
        value = self._reader.bucket(CITIES).get(name)
        self.reads.add(time.monotonic() - began)
        if value is None:
            self._count(older=1)
        elif value != self._cities[name]:
            self._count(wrong=1)

    def _known(self, slot: int, value: Any, at_least: int) -> bool:
        """Whether this is a visit that was written to this key, at or after `at_least`."""
        visit: Any = value.get("visit") if isinstance(value, dict) else None
        return self.book.plausible(slot, visit, at_least) and value == self._value(visit)

    # --- the reckoning --------------------------------------------------------------------------

    def verify(self, kv: Client) -> Verdict:
        """Read every acknowledged visit again from all its owners; also while writes go on."""
        written = self.book.written()
        visits = kv.bucket(VISITS, merge=latest).with_options(write_back=False)
        lost = []
        for at in range(0, len(written), BATCH):
            part = {self._key(slot): (slot, visit) for slot, visit in written[at : at + BATCH]}
            found = visits.get_many(list(part), r="all", raise_on_error=True).found
            for key, (slot, visit) in part.items():
                if not self._known(slot, found.get(key), visit):
                    lost.append(key)
        return Verdict(len(written), tuple(lost))


def latest(siblings: list[Any]) -> Any:
    """Of several values of a visit's key the one written last: they are numbered."""
    return max(siblings, key=lambda value: int(value["visit"]))
