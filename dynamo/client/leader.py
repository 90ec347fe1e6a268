"""How threads share one set of sockets without a thread of their own.

One of the calling threads is the *leader*. It sleeps on the descriptors of the sockets, with the
lock released, then takes the lock, receives for everybody and wakes whose operation has ended.
When its own operation is done it hands leadership to another sleeper. The others send for
themselves (under the lock) and sleep.

    thread A   lock: submit, send | no leader: lead | select ......... | lock: receive, wake B
    thread B          lock: submit, send | sleep ......................................| return

Rules
  * Sockets and session are touched under the lock only. The leader's select looks at bare
    descriptors, which is safe while others send.
  * A sender may take in frames too (see `wires`), the leader's answer among them. Then it rings
    the leader's bell, a socket pair that is part of every select.
  * Whoever leaves, by an answer, an error or Ctrl-C, gives up leadership and wakes a successor.
  * After a fork nothing here is touched in the child: the sockets are the parent's.
"""

from __future__ import annotations

import os
import random
import selectors
import socket
import threading
import warnings
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import TypeVar, cast

from dynamo.client import origin
from dynamo.client.batch import Flow
from dynamo.client.deadlines import now_ms
from dynamo.client.errors import ClientClosed, ClientForked
from dynamo.client.memory import Memory
from dynamo.client.op import Op
from dynamo.client.options import Options
from dynamo.client.session import Session
from dynamo.client.wires import Wires

R = TypeVar("R")


class Waiter:
    """One waiting call: the operations of its that have ended, and what it sleeps on."""

    __slots__ = ("asleep", "bell", "done")

    def __init__(self) -> None:
        self.done: list[Op] = []
        self.asleep = False
        self.bell = threading.Lock()


class Core:
    """Session, sockets, the lock and who leads. Shared by all views of one client."""

    def __init__(self, options: Options) -> None:
        self.memory = Memory()
        self.created_at = origin.creation_line()
        self.closed = False
        self.session = Session(
            options.seeds,
            random.Random(os.urandom(32)),
            via=options.via,
            max_in_flight=options.max_in_flight,
            max_queued_bytes=options.max_queued_bytes,
        )
        self._forks = origin.Lineage.forks
        self._lock = threading.Lock()
        self._leader: Waiter | None = None
        self._sleepers: dict[Waiter, None] = {}
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ, "")
        self._wires = Wires(self.session, self._opened, self._closing)

    # --- flows --------------------------------------------------------------------------------

    def run(self, flow: Flow[R]) -> R:
        """Carry out a flow in this thread."""
        try:
            op = next(flow)
            while True:
                op = flow.send(self.one(op))
        except StopIteration as stop:
            return cast(R, stop.value)

    def one(self, op: Op) -> Op:
        """Carry out one operation; returns it finished."""
        self._exchange([op], Waiter())
        return op

    def run_batch(self, flow: Generator[list[Op], list[Op], R]) -> R:
        """Carry out a batch in this thread."""
        waiter = Waiter()
        under_way: dict[Op, None] = {}
        try:
            ops = next(flow)
            while True:
                under_way.update(dict.fromkeys(ops))
                self._exchange(ops, waiter)
                done, waiter.done = waiter.done, []
                for op in done:
                    del under_way[op]
                ops = flow.send(done)
        except StopIteration as stop:
            return cast(R, stop.value)
        finally:
            if under_way and self._forks == origin.Lineage.forks:
                self._leave(waiter, under_way)  # it ended early, by an error or Ctrl-C

    # --- one exchange -------------------------------------------------------------------------

    def _exchange(self, ops: list[Op], waiter: Waiter) -> None:
        """Start `ops`; return when at least one operation of the waiter has ended."""
        if self._forks != origin.Lineage.forks:
            raise ClientForked(
                "this client was made before a fork, and its sockets belong to the parent. "
                "Make a client in the child"
            )
        finished = False
        try:
            with self._lock:
                if self.closed:
                    raise ClientClosed("the client is closed")
                now = now_ms()
                for op in ops:
                    op.waiter = waiter
                    self.session.submit(now, op)
                self._wires.flush()
                self._settle(waiter)
            while not waiter.done:
                self._wait(waiter)
            finished = True
        finally:
            self._leave(waiter, [] if finished else ops)

    def _wait(self, waiter: Waiter) -> None:
        """Lead, or sleep until woken: with an answer, or to lead."""
        with self._lock:
            if waiter.done:
                return
            if self._leader is None:
                self._leader = waiter
                pause_ms = self._wires.tick()
                self._settle(waiter)
                if waiter.done:
                    return
            else:
                self._sleepers[waiter] = None
                waiter.asleep = True
                waiter.bell.acquire(blocking=False)
        if self._leader is waiter:
            self._lead(waiter, pause_ms)
        else:
            waiter.bell.acquire()

    def _lead(self, waiter: Waiter, pause_ms: int | None) -> None:
        """Sleep on all descriptors, receive for everybody; until the leader's own call is done."""
        select = self._selector.select
        while not waiter.done:
            ready = select(None if pause_ms is None else pause_ms / 1000)
            with self._lock:
                for key, _ in ready:
                    if not key.data:
                        self._ear.recv(4096)
                        continue
                    while self._wires.arrived(key.data):
                        pass
                self._wires.flush()
                pause_ms = self._wires.tick()
                self._settle(waiter)

    def _settle(self, me: Waiter) -> None:
        """Hand ended operations to their callers, and wake those."""
        for op in self.session.take_completed():
            waiter: Waiter = op.waiter
            waiter.done.append(op)
            if waiter is not me:
                self._wake(waiter)

    def _wake(self, waiter: Waiter) -> None:
        if waiter is self._leader:
            self._ring_bell()
        elif waiter.asleep:
            waiter.asleep = False
            self._sleepers.pop(waiter, None)
            waiter.bell.release()

    def _ring_bell(self) -> None:
        with suppress(BlockingIOError):  # then it is ringing already
            self._bell.send(b"!")

    def _leave(self, waiter: Waiter, abandoned: Iterable[Op]) -> None:
        """Give up leadership, drop what nobody waits for, wake a successor."""
        with self._lock:
            waiter.asleep = False
            self._sleepers.pop(waiter, None)
            for op in abandoned:
                if op.waiter is waiter:
                    self.session.cancel(now_ms(), op)
            if self._leader is waiter:
                self._leader = None
            if self._leader is None:
                if self.closed:
                    self._shut()
                elif self._sleepers:
                    self._wake(next(iter(self._sleepers)))

    # --- descriptors and the end --------------------------------------------------------------

    def _opened(self, address: str, descriptor: int) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, address)
        if self._leader is not None:
            self._ring_bell()  # its select may not see the new descriptor

    def _closing(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def close(self) -> None:
        """Fail what is under way, close the sockets. In a forked child: only forget them."""
        if self.closed:
            return
        if self._forks != origin.Lineage.forks:
            self.closed = True
            return
        with self._lock:
            self.closed = True
            self.session.fail_all(now_ms(), _closed_meanwhile)
            for op in self.session.take_completed():
                op.waiter.done.append(op)
                self._wake(op.waiter)
            if self._leader is None:
                self._shut()

    def _shut(self) -> None:
        """Close everything, once, when nobody selects any more."""
        if self._bell.fileno() >= 0:
            self._wires.close()
            self._selector.close()
            self._bell.close()
            self._ear.close()

    def __del__(self) -> None:
        if not getattr(self, "closed", True) and self._forks == origin.Lineage.forks:
            warnings.warn(
                f"unclosed dynamo client, made at {self.created_at}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


def _closed_meanwhile() -> ClientClosed:
    return ClientClosed("the client was closed while this call was under way")
