"""Many seeds in several processes: bounded, watched, and nothing left behind.

Each worker is `python -m dynamo.sim.farm`. It reads jobs from its standard input, one JSON object a
line, and answers each with one. Why not a pool from the standard library: three things must hold
that a pool does not give.

    A seed that never ends is a finding.     A worker that is silent for `limit_s` is killed, its
    A process that dies is one, too.         seed has failed, and the campaign goes on.
    Nothing outlives the parent.             A worker ends when its input does, in the middle of a
                                             seed too; Ctrl-C reaches the parent alone.
    A run depends on its seed alone (I16).   Every worker has a PYTHONHASHSEED of its own, and a
                                             job that says `twice` runs again in another worker: the
                                             digests must agree.

This is the one module of the simulator that sees processes, threads and clocks.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from dynamo.sim.campaign import run
from dynamo.sim.jobs import BROKEN, CRASHED, DIFFERS, HUNG, Job, Outcome
from dynamo.sim.zoo import ENTRIES

LIMIT_S = 60.0
COMMAND = ("-m", "dynamo.sim.farm")
TICK_S = 0.2
ENDING_S = 2.0
TAIL_BYTES = 2_000
GARBAGE_FROM = 200_000  # objects
HASH_SEEDS = 4_294_967_295  # PYTHONHASHSEED goes up to here


def perform(job: Job) -> Outcome:
    """Run a job in this process."""
    began_s = time.process_time()
    with ENTRIES[job.plant].planted() if job.plant else contextlib.nullcontext():
        report = run(job.drawn(), tracing=job.digest or job.twice)
        cpu_s = time.process_time() - began_s
        failed = bool(report.violations)
        return Outcome(
            seed=job.seed,
            failure=BROKEN if failed else "",
            violations=[
                (number, key[4:].decode(errors="replace"), text)
                for number, key, text in report.violations
            ],
            digest=report.digest,
            nodes=report.draw.nodes,
            ops=report.ops,
            marks=report.marks,
            steps=report.steps,
            events=report.events,
            simulated_ms=report.simulated_ms,
            broke_ms=report.world.broke_ms,
            retry_siblings=report.retry_siblings,
            cpu_s=cpu_s,
            draw=report.draw.story() if failed else "",
            story=report.story() if failed and job.story else "",
            profile=job.profile,
            plant=job.plant,
        )


# Which worker, in which of its processes, said what; b"" is its end.
Answer = tuple["Worker", "subprocess.Popen[bytes]", bytes]


class Worker:
    """One process, as its parent sees it."""

    def __init__(
        self, hash_seed: int, answers: queue.Queue[Answer], command: Sequence[str]
    ) -> None:
        self.hash_seed = hash_seed
        self.job: Job | None = None
        self.until_s = 0.0
        self._answers = answers
        self._command = command
        self._popen: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None  # what the process prints
        self._listener: threading.Thread | None = None

    def give(self, job: Job, limit_s: float) -> None:
        """Let the process run a job; starts the process if there is none."""
        popen = self._popen or self._start()
        self.job = job
        self.until_s = time.monotonic() + limit_s
        assert popen.stdin is not None
        with suppress(BrokenPipeError):  # it died: the end of its output tells
            popen.stdin.write(msgspec.json.encode(job) + b"\n")
            popen.stdin.flush()

    def _start(self) -> subprocess.Popen[bytes]:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed when the process is stopped
        popen = self._popen = subprocess.Popen(
            [sys.executable, *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=_environment(self.hash_seed),
            process_group=0,  # Ctrl-C is for the parent, which says what becomes of the campaign
        )
        self._listener = threading.Thread(target=self._listen, args=(popen,), daemon=True)
        self._listener.start()
        return popen

    def _listen(self, popen: subprocess.Popen[bytes]) -> None:
        assert popen.stdout is not None
        with popen.stdout as lines:
            for line in lines:
                self._answers.put((self, popen, line))
        self._answers.put((self, popen, b""))

    def is_current(self, popen: subprocess.Popen[bytes]) -> bool:
        """Whether this process is the worker's; else it was stopped, and its answer is too late."""
        return popen is self._popen

    def stop(self, ended: bool = False) -> str:
        """End the process, whatever it does; returns how it ended and what it last printed.

        `ended`: it closed its output by itself, and is about to be gone.
        """
        popen, self._popen = self._popen, None
        self.job = None
        if popen is None or self._said is None or self._listener is None:
            return ""
        if ended:
            with suppress(subprocess.TimeoutExpired):
                popen.wait(ENDING_S)
        code = popen.poll()
        popen.kill()
        popen.wait()
        self._listener.join()
        assert popen.stdin is not None
        with suppress(BrokenPipeError):
            popen.stdin.close()
        with self._said as said:
            said.seek(max(0, said.seek(0, os.SEEK_END) - TAIL_BYTES))
            last = said.read().decode(errors="replace")
        how = "killed" if code is None else f"exit code {code}" if code >= 0 else f"signal {-code}"
        return f"{how}\n{last}".rstrip()


class Farm:
    """At most `jobs` processes at work at once. Close it, or use it with `with`."""

    def __init__(
        self, jobs: int, *, limit_s: float = LIMIT_S, hash_seed: int = 1,
        command: Sequence[str] = COMMAND,
    ) -> None:  # fmt: skip
        self._jobs = jobs
        self.limit_s = limit_s
        self._answers: queue.Queue[Answer] = queue.Queue()
        # One core is enough to run a seed twice, but one process is not.
        self.workers = [
            Worker(1 + (hash_seed + i) % HASH_SEEDS, self._answers, command)
            for i in range(max(2, jobs))
        ]
        self._again: list[tuple[Job, Outcome, Worker]] = []  # to be run by another worker
        self._first: dict[Worker, tuple[Outcome, Worker]] = {}  # what a second run compares with

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """No worker is left; what they were doing is dropped."""
        for worker in self.workers:
            worker.stop()
        self._again.clear()
        self._first.clear()

    def run(self, more: Callable[[], Job | None]) -> Iterator[Outcome | None]:
        """Outcomes as they come in, until nothing is running and nothing more is to be done.

        `more` is asked for a job whenever there is room for one, and says None if there is none
        now. None among the outcomes is a moment's time for the caller.
        """
        while True:
            self._feed(more)
            if not any(worker.job for worker in self.workers):
                return
            try:
                worker, popen, line = self._answers.get(timeout=TICK_S)
            except queue.Empty:
                yield None
            else:
                if worker.is_current(popen) and (outcome := self._ended(worker, line)):
                    yield outcome
            for worker in self.workers:
                if worker.job is not None and time.monotonic() > worker.until_s:
                    yield self._hung(worker)

    def one(self, job: Job, tick: Callable[[], None] = lambda: None) -> Outcome:
        """Run this job alone; `tick` is called while it runs."""
        jobs = [job]
        for outcome in self.run(lambda: jobs.pop() if jobs else None):
            if outcome is not None:
                return outcome
            tick()
        raise AssertionError("every job has an outcome")

    def _feed(self, more: Callable[[], Job | None]) -> None:
        """Give work to idle workers, second runs first."""
        idle = [worker for worker in self.workers if worker.job is None]
        free = self._jobs - (len(self.workers) - len(idle))
        for job, outcome, ran in self._again[:]:
            other = next((worker for worker in idle if worker is not ran), None)
            if free > 0 and other is not None:
                self._again.remove((job, outcome, ran))
                idle.remove(other)
                self._first[other] = (outcome, ran)
                other.give(job, self.limit_s)
                free -= 1
        for worker in idle[: max(0, free)]:
            if (new := more()) is None:
                return
            worker.give(new, self.limit_s)

    def _ended(self, worker: Worker, line: bytes) -> Outcome | None:
        """A worker answered, or died (no line). None: the seed runs once more elsewhere."""
        job, worker.job = worker.job, None
        if job is None:  # it died while it had nothing to do; a new one starts when needed
            worker.stop()
            return None
        first = self._first.pop(worker, None)
        if not line:
            return _failed(job, CRASHED, f"its process ended by itself: {worker.stop(ended=True)}")
        outcome = msgspec.json.decode(line, type=Outcome)
        if first is not None:
            return _compared(first[0], first[1].hash_seed, outcome, worker.hash_seed)
        if job.twice and not outcome.failure:
            self._again.append((job, outcome, worker))
            return None
        return outcome

    def _hung(self, worker: Worker) -> Outcome:
        job, worker.job = worker.job, None
        assert job is not None
        self._first.pop(worker, None)
        worker.stop()
        return _failed(job, HUNG, f"it had not ended after {self.limit_s:g} s of real time")


def _failed(job: Job, failure: str, story: str) -> Outcome:
    drawn = job.drawn()
    return Outcome(
        job.seed, failure, nodes=drawn.nodes, draw=drawn.story(), story=f"{drawn.story()}\n{story}",
        profile=job.profile, plant=job.plant,
    )  # fmt: skip


def _compared(first: Outcome, hash_seed: int, second: Outcome, other: int) -> Outcome:
    """The first run, which fails if the second was another one."""
    first.twice = True
    if (first.digest, first.events) != (second.digest, second.events):
        first.failure = DIFFERS
        first.violations = [
            ("I16", "", f"PYTHONHASHSEED={hash_seed} gave {first.events} events and digest "
             f"{first.digest}, PYTHONHASHSEED={other} {second.events} and {second.digest}")
        ]  # fmt: skip
        first.story = first.violations[0][2]
    return first


def _environment(hash_seed: int) -> dict[str, str]:
    """The worker must run the code that this process runs, also from a checkout."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }


# --- in the worker ----------------------------------------------------------------------------


def serve() -> None:
    """Answer jobs until the input ends, and end with it even in the middle of a job."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not look like an answer
    jobs: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    # A seed keeps most of what it makes until it ends: looking for garbage meanwhile finds none.
    gc.freeze()
    gc.set_threshold(GARBAGE_FROM)
    decode = msgspec.json.Decoder(Job).decode
    while True:
        job = decode(jobs.get())
        try:
            outcome = perform(job)
        except Exception:
            outcome = _failed(job, CRASHED, traceback.format_exc())
        answers.write(msgspec.json.encode(outcome) + b"\n")
        answers.flush()


def _read(jobs: queue.Queue[bytes]) -> None:
    for line in sys.stdin.buffer:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    serve()
