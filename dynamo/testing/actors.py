"""Plain blocking functions side by side, without any two of them ever running at once.

Each function has a thread, and exactly one thread of all has the *turn*. Who waits, for a call to
end or for time to pass, gives the turn back; the conductor lets virtual time run until somebody has
what it waits for, and gives the turn to one of those, drawn from the seed. Between two such points
nothing else runs, so the same seed gives the same interleaving, instruction for instruction.

    conductor    | give .......... | run the world ...... | give ......
    alice        ........ put, wait |                      |
    bob                                                    | get, wait

Why threads. Code under test is plain blocking code, so its stack must be put aside in the middle
of a call. Generators cannot do that, greenlets can and are a dependency in C; a thread that sleeps
on a lock costs some 50 us a switch, and debuggers, coverage and tracebacks know what it is.

What the functions share they may share without locks. A lock of their own that one of them holds
across a call stops everything, as nobody else can take the turn to release it: that is found out
after `TURN_S_MAX` and said.
"""

from __future__ import annotations

import random
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Any

TURN_S_MAX = 60.0
JOIN_S = 5.0


class ActorStopped(BaseException):
    """Raised out of a call in a function whose fellow has failed: there is no point in going on."""


class StuckTurn(RuntimeError):
    """A function kept the turn without making a call: it waits for something outside the ring."""


class Actor:
    """One function, its thread, and what it waits for."""

    def __init__(self, cast: Cast, name: str, call: Callable[[], Any]) -> None:
        self.name = name
        self.ready: Callable[[], bool] = lambda: True
        self.done = False
        self.stopped = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.go = threading.Lock()
        self.go.acquire()
        self._cast = cast
        self._call = call
        context = copy_context()
        self.thread = threading.Thread(target=context.run, args=(self._play,), daemon=True)
        self.thread.name = f"dynamo-{name}"

    def _play(self) -> None:
        self.go.acquire()
        try:
            if not self.stopped:
                self.result = self._call()
        except ActorStopped:
            pass
        except BaseException as error:
            self.error = error
        self.done = True
        with suppress(RuntimeError):  # nobody waits: the run was interrupted meanwhile
            self._cast.back.release()

    def wait(self, ready: Callable[[], bool]) -> None:
        """Give the turn back until `ready()`."""
        if not self.stopped:
            self.ready = ready
            self._cast.back.release()
            self.go.acquire()
        if self.stopped:
            raise ActorStopped


class Cast:
    """All functions of one `run`, and who has the turn."""

    def __init__(self, rng: random.Random, turn: Callable[[], None]) -> None:
        self.back = threading.Lock()
        self.back.acquire()
        self.current: Actor | None = None
        self._rng = rng
        self._turn = turn  # lets the world's next moment happen
        self.actors: list[Actor] = []

    def run(self, calls: Sequence[tuple[str, Callable[[], Any]]]) -> list[Any]:
        """Run every call to its end; the first failure stops the others and is raised."""
        self.actors = [Actor(self, name, call) for name, call in calls]
        for actor in self.actors:
            actor.thread.start()
        try:
            while not all(actor.done for actor in self.actors):
                waiting = [a for a in self.actors if not a.done and a.ready()]
                if not waiting:
                    self._turn()
                    continue
                actor = waiting[self._rng.randrange(len(waiting))]
                self._give(actor)
                if actor.error is not None:
                    actor.error.add_note(f"raised by {actor.name!r}, one of the functions of run()")
                    raise actor.error
        finally:
            self._stop()
        return [actor.result for actor in self.actors]

    def _give(self, actor: Actor) -> None:
        self.current = actor
        actor.go.release()
        if not self.back.acquire(timeout=TURN_S_MAX):
            raise StuckTurn(
                f"{actor.name!r} has not made a call for {TURN_S_MAX:g} s and keeps everybody "
                "waiting. Functions of run() may only wait for calls on the ring and for "
                f"ring.advance(); a lock or a queue of their own never comes. It is at:\n"
                f"{_where(actor)}"
            )
        self.current = None

    def _stop(self) -> None:
        """Get rid of those that are not done; none is, but after a failure."""
        for actor in self.actors:
            actor.stopped = True
            if not actor.done and actor is not self.current:
                self.current = actor
                actor.go.release()
                if not self.back.acquire(timeout=JOIN_S):
                    continue  # its cleaning up hangs; it is a daemon, and has lost its ring
                self.current = None
        for actor in self.actors:
            if actor.done:
                actor.thread.join(JOIN_S)


def _where(actor: Actor) -> str:
    frame = sys._current_frames().get(actor.thread.ident or 0)
    return "".join(traceback.format_stack(frame, 5)) if frame is not None else "(nowhere)"
