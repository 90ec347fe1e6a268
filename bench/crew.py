"""The worker processes of a run as their parent sees them: start, steer, gather, end.

Spawned, not forked: a fork would share sockets and random numbers. What they say is MessagePack,
never pickle. Each holds the reading end of a pipe from here and ends when that is closed, so none
is left behind.
"""

from __future__ import annotations

import contextlib
import queue
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from bench.figures import ROOT
from bench.values import Corrupt
from bench.worker import Plan

CONNECT_S = 30.0
LOAD_S = 600.0
# Beyond the planned end of a run, for what is under way and for the logs.
GRACE_S = 60.0
END_S = 5.0
# Between "go" and the first operation, so that all workers have heard it.
LEAD_S = 0.2


class CrewFailed(Exception):
    """A worker process did not do its part."""


class Crew:
    """Worker processes of one run. A context manager; leaving it ends them all."""

    def __init__(self, plans: Sequence[Plan], on_progress: Callable[[int], None] | None = None):
        self._plans = plans
        self._on_progress = on_progress or (lambda done: None)
        self._popens: list[subprocess.Popen[bytes]] = []
        self._messages: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        self._done = [0] * len(plans)

    @property
    def pids(self) -> list[int]:
        return [popen.pid for popen in self._popens]

    def __enter__(self) -> Self:
        try:
            for number, plan in enumerate(self._plans):
                self._popens.append(_spawn())
                threading.Thread(target=self._listen, args=(number,), daemon=True).start()
                self._say(number, msgspec.json.encode(asdict(plan)))
            self._all("connected", CONNECT_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def load(self) -> None:
        """Every worker stores its share of the keys."""
        for number in range(len(self._popens)):
            self._say(number, b"load")
        self._all("loaded", LOAD_S)

    def go(self, planned_s: float) -> tuple[float, list[dict[str, Any]]]:
        """Run; the time at which it began, and the logs of all workers."""
        began = self.start()
        return began, self.logs(planned_s)

    def start(self) -> float:
        """Begin soon; when, by `time.monotonic()`."""
        began = time.monotonic() + LEAD_S
        for number in range(len(self._popens)):
            self._say(number, b"go %.9f" % began)
        return began

    def logs(self, planned_s: float) -> list[dict[str, Any]]:
        """Wait for the end of what `start` began."""
        return self._all("logs", planned_s + GRACE_S)

    def close(self) -> None:
        """End them; again: nothing happens."""
        for popen in self._popens:
            assert popen.stdin
            with contextlib.suppress(BrokenPipeError):
                popen.stdin.close()
        deadline = time.monotonic() + END_S
        for popen in self._popens:
            try:
                popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
            assert popen.stdout
            popen.stdout.close()
        self._popens.clear()

    def _say(self, number: int, line: bytes) -> None:
        stdin = self._popens[number].stdin
        assert stdin
        try:
            stdin.write(line + b"\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # its end is noticed where its answer is awaited

    def _listen(self, number: int) -> None:
        stdout = self._popens[number].stdout
        assert stdout
        while len(head := stdout.read(4)) == 4:
            data = stdout.read(struct.unpack(">I", head)[0])
            self._messages.put((number, msgspec.msgpack.decode(data)))
        self._messages.put((number, {"is": "ended"}))

    def _all(self, what: str, seconds: float) -> list[dict[str, Any]]:
        """One message of that kind from each worker."""
        found: dict[int, dict[str, Any]] = {}
        deadline = time.monotonic() + seconds
        while len(found) < len(self._plans):
            try:
                number, message = self._messages.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                raise CrewFailed(f"a worker was not {what} within {seconds:.0f} s") from None
            kind = message["is"]
            if kind == what:
                found[number] = message
            elif kind == "progress":
                self._done[number] = message["done"]
                self._on_progress(sum(self._done))
            elif kind == "corrupt":
                raise Corrupt(message["text"])
            elif number not in found:
                raise CrewFailed(message.get("text", "a worker process ended by itself"))
        return [found[number] for number in range(len(self._plans))]


def _spawn() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(ROOT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path.cwd(),
        process_group=0,
    )


# dynamo is what an outer PYTHONPATH says, for comparisons; bench is always this one.
_LAUNCH = """
import asyncio, sys
import dynamo
sys.path.insert(0, sys.argv[1])
from bench import worker
try:
    asyncio.run(worker.main())
except (KeyboardInterrupt, BrokenPipeError):
    sys.exit(1)
"""
