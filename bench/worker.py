"""One worker process of a run: `python -m bench.worker`, started by `bench.crew` alone.

    stdin    the plan, then "load", then "go T" with the time to begin; its end means: stop now
    stdout   messages in MessagePack, each after its length: loaded, ready, progress, the logs

An open loop sends each operation when it is due, whatever became of those before it; a closed loop
has so many tasks that each wait for an answer before they ask again. Nothing is summed up here:
every operation leaves when it was due, sent and answered, and its outcome, in plain arrays, which
costs a microsecond; histograms are made of them afterwards, elsewhere.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import struct
import sys
import time
from array import array
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from bench.alarm import Alarm
from bench.drivers import ERROR, MAYBE, OK, OUTCOMES, make
from bench.generators import arrivals
from bench.values import ACKED, FAILED, Corrupt, Reads, Writes, packed, value_of
from bench.values import MAYBE as MAYBE_STATE
from bench.workloads import KINDS, Workload, from_json

# Operations of one open-loop worker under way at once; what is due beyond them is not sent, and
# counted as such: a harness whose own queue grows without end measures its own queue.
IN_FLIGHT_MAX = 4_096
LOAD_IN_FLIGHT = 64
LOAD_TRIES = 20
# What one writer puts into one cart before it goes on to the next: values stay small.
ITEMS_PER_CART = 20
# Keys that a writer inserts are its own, by distance.
STRIDE = 1_000_000_000
# Overdue operations that are sent before the loop looks for answers.
BATCH = 16
DRAIN_S = 5.0
PROGRESS_S = 0.25
OPS_MAX = 5_000_000

UNSENT = len(OUTCOMES)  # beyond the outcomes, in the log of operations
CODE = {outcome: code for code, outcome in enumerate(OUTCOMES)}
STATE = {OK: ACKED, MAYBE: MAYBE_STATE}


@dataclass
class Plan:
    """What one worker does; everything is plain, for JSON."""

    driver: dict[str, Any]
    workload: dict[str, Any]
    writer: int
    workers: int
    number: int  # of this worker among them
    seed: int
    rate: float  # of this worker; 0: a closed loop
    arrivals: str
    in_flight: int  # of this worker, in a closed loop
    warm_up_s: float
    seconds: float
    ops: int = 0  # a closed loop may end by count; 0: by time
    check: bool = True


class Ops:
    """When every operation was due, sent and answered, and what became of it."""

    COLUMNS = ("kind", "outcome", "due", "sent", "ended")

    def __init__(self) -> None:
        self.kind = array("b")
        self.outcome = array("b")
        self.due = array("d")
        self.sent = array("d")
        self.ended = array("d")

    def __len__(self) -> int:
        return len(self.kind)

    def note(self, kind: int, outcome: int, due: float, sent: float, ended: float) -> None:
        self.kind.append(kind)
        self.outcome.append(outcome)
        self.due.append(due)
        self.sent.append(sent)
        self.ended.append(ended)


class Hand:
    """Carries out operations of one workload and logs them."""

    def __init__(self, plan: Plan, workload: Workload, driver: Any) -> None:
        self.ops, self.writes, self.reads = Ops(), Writes(), Reads()
        self.errors: Counter[str] = Counter()
        self.under_way = 0
        self._driver = driver
        self._workload = workload
        self._writer = plan.writer
        self._adds = workload.adds
        self._size = workload.value_bytes
        rng = random.Random(f"{plan.seed} worker {plan.writer}")
        self._random = rng.random
        self._keys = workload.choose(rng, plan.seed)
        self._inserted: list[int] = []
        self._begun_inserts = 0
        self._grows = workload.chooser == "latest"
        self._counts: Counter[int] = Counter()
        kinds = [kind for kind, share in workload.mix if share]
        bounds = list(accumulate(share for _, share in workload.mix if share))
        self._kinds = [(bound, kind) for bound, kind in zip(bounds, kinds, strict=True)]
        self._do = {
            "read": self._read_fields if self._adds else self._read,
            "update": self._update,
            "insert": self._insert,
            "modify": self._modify,
            "delete": self._delete,
            "add": self._add,
        }

    def choose(self) -> str:
        at = self._random()
        for bound, kind in self._kinds:
            if at < bound:
                return kind
        return self._kinds[-1][1]

    async def perform(self, kind: str, due: float) -> None:
        """One operation from now to its end. Only a corrupt value gets out of here."""
        sent = time.monotonic()
        self.under_way += 1
        try:
            outcome = await self._do[kind](sent)
        finally:
            self.under_way -= 1
        self.ops.note(KINDS.index(kind), CODE[outcome], due, sent, time.monotonic())

    def _failed(self, error: Exception, writing: bool) -> str:
        if isinstance(error, Corrupt):
            raise error
        self.errors[type(error).__name__] += 1
        return str(self._driver.outcome(error, writing))

    def _key(self) -> int:
        key: int = self._keys.next()
        count = self._workload.count
        return key if key < count else self._inserted[key - count]

    # --- reads --------------------------------------------------------------------------------

    async def _read(self, begun: float) -> str:
        key = self._key()
        try:
            values = await self._driver.read(f"user{key}")
        except Exception as error:
            return self._failed(error, False)
        self.reads.note(key, begun, time.monotonic(), values)
        return OK

    async def _read_fields(self, begun: float) -> str:
        try:
            await self._driver.fields(f"user{self._cart(self._key())}")
        except Exception as error:
            return self._failed(error, False)
        return OK

    # --- writes -------------------------------------------------------------------------------

    async def write(self, key: int, begun: float, insert: bool) -> str:
        seq = self.writes.begin(key, begun)
        value = value_of(key, self._writer, seq, self._size)
        call = self._driver.insert if insert else self._driver.update
        return await self._finish(seq, call(f"user{key}", value))

    async def _finish(self, seq: int, call: Any) -> str:
        outcome = MAYBE  # also where this task is cut off
        try:
            await call
            outcome = OK
        except Exception as error:
            outcome = self._failed(error, True)
        finally:
            self.writes.end(seq, time.monotonic(), STATE.get(outcome, FAILED))
        return outcome

    async def _update(self, begun: float) -> str:
        return await self.write(self._key(), begun, False)

    async def _insert(self, begun: float) -> str:
        key = self._workload.count + self._writer * STRIDE + self._begun_inserts
        self._begun_inserts += 1
        outcome = await self.write(key, begun, True)
        if outcome == OK and self._grows:
            self._inserted.append(key)
            self._keys.grow(self._workload.count + len(self._inserted))
        return outcome

    async def _delete(self, begun: float) -> str:
        key = self._key()
        seq = self.writes.begin(key, begun, gone=1)
        return await self._finish(seq, self._driver.delete(f"user{key}"))

    async def _modify(self, begun: float) -> str:
        key = self._key()
        seq = -1

        def change(values: list[bytes]) -> bytes:
            nonlocal seq
            now = time.monotonic()
            self.reads.note(key, begun, now, values)
            seq = self.writes.begin(key, now)
            return value_of(key, self._writer, seq, self._size)

        outcome = MAYBE
        try:
            await self._driver.modify(f"user{key}", change)
            outcome = OK
        except Exception as error:
            outcome = self._failed(error, seq >= 0)
        finally:
            if seq >= 0:
                self.writes.end(seq, time.monotonic(), STATE.get(outcome, FAILED))
        return outcome

    async def _add(self, begun: float) -> str:
        base = self._key()
        key = self._cart(base)
        self._counts[base] += 1
        count = 1 if self._adds == "item" else self._counts[base]
        seq = self.writes.begin(key, begun, count=count)
        field = f"{self._writer}.{seq}" if self._adds == "item" else f"w{self._writer}"
        return await self._finish(seq, self._driver.add(f"user{key}", {field: count}))

    def _cart(self, base: int) -> int:
        """A cart that is full of this writer's items is left for the next of the same shopper."""
        if self._adds != "item":
            return base
        return base + self._workload.count * (self._counts[base] // ITEMS_PER_CART)

    # --- before the run -----------------------------------------------------------------------

    async def load(self, plan: Plan) -> None:
        """Store this worker's share of the keys. A key that cannot be stored ends the run."""
        numbers = iter(range(plan.number, self._workload.count, plan.workers))

        async def lane() -> None:
            for key in numbers:
                for _ in range(LOAD_TRIES):
                    if await self.write(key, time.monotonic(), True) == OK:
                        break
                    await asyncio.sleep(0.1)
                else:
                    raise RuntimeError(f"key {key} could not be stored: {dict(self.errors)}")

        async with asyncio.TaskGroup() as group:
            for _ in range(LOAD_IN_FLIGHT):
                group.create_task(lane())
        self.errors.clear()


async def open_loop(hand: Hand, plan: Plan, began: float) -> None:
    """Send every operation when it is due."""
    rng = random.Random(f"{plan.seed} arrivals {plan.writer}")
    # Evenly spaced workers take turns instead of all sending at once.
    shift = plan.number / plan.workers / plan.rate if plan.arrivals == "fixed" else 0.0
    until = began + plan.warm_up_s + plan.seconds
    alarm = Alarm()
    tasks: set[asyncio.Task[None]] = set()
    broken: list[BaseException] = []
    behind = 0

    def over(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            broken.append(error)

    try:
        for offset in arrivals(plan.arrivals, rng, plan.rate):
            due = began + shift + offset
            if due >= until or broken or len(hand.ops) >= OPS_MAX:
                break
            if time.monotonic() < due:
                await alarm.until(due)
            else:
                # Behind: overdue operations go out in batches, and between them answers get in.
                behind += 1
                if behind % BATCH == 0:
                    await asyncio.sleep(0)
            kind = hand.choose()
            if hand.under_way >= IN_FLIGHT_MAX:
                hand.ops.note(KINDS.index(kind), UNSENT, due, due, due)
                # Let answers in, or nothing would ever be sent again.
                await asyncio.sleep(0)
                continue
            task = asyncio.create_task(hand.perform(kind, due))
            tasks.add(task)
            task.add_done_callback(over)
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_S)
    finally:
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        alarm.close()
    if broken:
        raise broken[0]


async def closed_loop(hand: Hand, plan: Plan, began: float) -> None:
    """So many tasks, each waiting for its answer before it asks again."""
    until = began + plan.warm_up_s + plan.seconds if not plan.ops else float("inf")
    left = iter(range(plan.ops)) if plan.ops else iter(range(OPS_MAX))

    async def lane() -> None:
        while (now := time.monotonic()) < until and next(left, None) is not None:
            await hand.perform(hand.choose(), now)

    await asyncio.sleep(max(0.0, began - time.monotonic()))
    async with asyncio.TaskGroup() as group:
        for _ in range(plan.in_flight):
            group.create_task(lane())


# --- the process ------------------------------------------------------------------------------


def say(message: dict[str, Any]) -> None:
    """One message to the parent."""
    data = msgspec.msgpack.encode(message)
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
    sys.stdout.buffer.flush()


async def _progress(hand: Hand, lines: asyncio.StreamReader) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        if lines.at_eof():  # the parent has gone, and nobody will read what this run finds
            os._exit(1)
        say({"is": "progress", "done": len(hand.ops), "loaded": len(hand.writes)})


async def serve(plan: Plan, lines: asyncio.StreamReader) -> None:
    """Load when told to, run when told to, hand over the logs."""
    driver = make(plan.driver)
    await driver.connect()
    hand = Hand(plan, from_json(plan.workload), driver)
    progress = asyncio.create_task(_progress(hand, lines))
    try:
        say({"is": "connected"})
        while line := (await lines.readline()).split():
            if line[0] == b"load":
                await hand.load(plan)
                say({"is": "loaded"})
                continue
            gc.collect()
            gc.freeze()
            began = float(line[1])
            loop = open_loop if plan.rate else closed_loop
            cpu = asyncio.create_task(_cpu_between(began + plan.warm_up_s, plan))
            await loop(hand, plan, began)
            cpu.cancel()
            with suppress(asyncio.CancelledError):
                await cpu
            say(_logs(hand, plan))
    finally:
        progress.cancel()
        await driver.close()


CPU: list[float] = []


async def _cpu_between(start: float, plan: Plan) -> None:
    """Note this process's own processor time over the measured part."""
    await asyncio.sleep(max(0.0, start - time.monotonic()))
    CPU[:] = [time.monotonic(), time.process_time()]
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(plan.seconds if not plan.ops else 1e6)
    CPU.extend([time.monotonic(), time.process_time()])


def _logs(hand: Hand, plan: Plan) -> dict[str, Any]:
    wall, busy = (CPU[2] - CPU[0], CPU[3] - CPU[1]) if len(CPU) == 4 else (0.0, 0.0)
    return {
        "is": "logs",
        "writer": plan.writer,
        "ops": {name: getattr(hand.ops, name).tobytes() for name in Ops.COLUMNS},
        "writes": packed(hand.writes) if plan.check else {},
        "reads": packed(hand.reads) if plan.check else {},
        "extras": hand.reads.extras if plan.check else [],
        "reads_n": len(hand.reads),
        "with_siblings": hand.reads.with_siblings,
        "errors": dict(hand.errors),
        "cpu_s": busy,
        "wall_s": wall,
    }


async def main() -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    plan = Plan(**msgspec.json.decode(await lines.readline()))
    try:
        await serve(plan, lines)
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        _broken(first)
    except Exception as error:
        _broken(error)


def _broken(error: BaseException) -> None:
    kind = "corrupt" if isinstance(error, Corrupt) else ERROR
    say({"is": kind, "text": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    asyncio.run(main())
