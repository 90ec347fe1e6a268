"""The demo on a terminal: a picture of the ring, and keys that do things to it.

Five threads. The main one draws and reads keys, and never waits for the ring. The *loader* stores
the records and ends. The *worker* carries out what keys ask for, one after the other. The *watcher*
asks the nodes every half second how they are. The *comparer* finds out when all copies are equal
again after trouble, and reads back what was acknowledged until then. What goes wrong in any of them
becomes an event on the screen.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from dynamo.client.errors import DynamoError, NotConverged
from dynamo.core.ring import full_key, storage_key
from dynamo.demo import scene as sc
from dynamo.demo.records import LICENCE
from dynamo.demo.scene import Event, NodeScene, Scene
from dynamo.demo.stage import CART, SIDES, Cannot, Stage, State, listed, words
from dynamo.localshape import LOCAL

EVENTS_MAX = 200
WAITING_MAX = 3  # keys whose acts have not begun
WATCH_EVERY_S = 0.5
COMPARE_S = 2.0
DRAWN_S = 0.03
SIDE_NAMES = ("A", "B")
QUIT = "q"


class Director:
    """Keys in, scenes out. A context manager; its threads are gone in the end."""

    def __init__(self, stage: Stage, program: str) -> None:
        self.over = threading.Event()
        self._stage = stage
        self._program = program
        self._began = time.monotonic()
        self._acts: dict[str, tuple[str, Callable[[], None]]] = {
            "k": ("Killing a node", self._kill),
            "r": ("Starting what is down", self._revive),
            "p": ("Cutting the network in two, and writing on both sides", self._split),
            "h": ("Healing the network", self._heal),
            "w": ("Switching reads and writes", self._switch),
            "s": ("Reading cart:7", self._siblings),
        }
        self._asked: queue.Queue[str] = queue.Queue(WAITING_MAX)
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._states: dict[str, State] = {}
        self._starting: tuple[str, ...] = ()
        self._busy = ""
        self._died_at: dict[str, float] = {}
        self._unsettled = threading.Event()
        self._troubles = 0  # made so far; equality found before the latest says nothing about it
        self._lock = threading.Lock()
        self._trouble_over_at = 0.0
        self._undecided = self._shown = False
        self._cart: tuple[str, ...] = ()
        self._cart_note = ""
        self._checked, self._lost = "", 0
        self._done: frozenset[str] = frozenset()
        self._threads = [
            threading.Thread(target=self._guarded, args=(body,), daemon=True)
            for body in (self._load, self._work, self._watch, self._compare)
        ]

    def __enter__(self) -> Self:
        self._tell("5 nodes are up, each a process with a disk store of its own.")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        self._unsettled.set()
        # An act under way is waited for: a node that it is about to start must not be left behind.
        for thread in self._threads:
            thread.join()

    # --- for the main thread --------------------------------------------------------------------

    def press(self, key: str) -> None:
        """Take a key; whatever it asks for is done elsewhere."""
        if key == QUIT:
            self.over.set()
        elif key in self._acts:
            try:
                self._asked.put_nowait(key)
                self._busy = self._busy or self._acts[key][0]  # a key is seen to work at once
            except queue.Full:
                self._tell("One thing at a time: the last keys are still being carried out.")

    def scene(self) -> Scene:
        """This moment."""
        stage, traffic = self._stage, self._stage.traffic
        return Scene(
            elapsed_s=time.monotonic() - self._began,
            nodes=tuple(self._node(name) for name in stage.addresses),
            owners=tuple(stage.owners),
            cart_arc=_arc(CART),
            loaded=stage.loaded,
            records=len(stage.records.cities),
            load_on=traffic.on,
            writes=traffic.writes.rate(),
            reads=traffic.reads.rate(),
            counts=traffic.counts(),
            checked=self._checked,
            cart=self._cart,
            cart_note=self._cart_note,
            undecided=self._undecided,
            shown=self._shown,
            settled=not self._unsettled.is_set(),
            busy=self._busy,
            done=self._done,
            events=tuple(self._events),
            url=stage.url,
            program=self._program,
        )

    def last_words(self, path: Path | None) -> tuple[bool, str]:
        """Whether nothing was lost, and a sentence for the terminal that is left."""
        counts = self._stage.traffic.counts()
        held = not counts.wrong and not self._lost
        text = f"{counts.writes:,} writes were acknowledged; " + (
            "none that was read back was missing." if held else "SOME WERE LOST."
        )
        if path is None:
            return held, f"{text} The nodes are stopped, and nothing is left behind."
        return held, f"{text} The ring is kept: {self._program} demo --path {path}"

    def _node(self, name: str) -> NodeScene:
        states = self._states
        owed = sum(state["hints"].get(name, 0) for state in states.values())
        side = next((n for n, names in enumerate(self._stage.sides) if name in names), -1)
        if name in self._starting:
            return NodeScene(name, sc.STARTING, owed=owed, side=side)
        if name in self._stage.down:
            dead_s = time.monotonic() - self._died_at.get(name, time.monotonic())
            return NodeScene(name, sc.KILLED, dead_s, owed=owed)
        mine = states.get(name)
        if mine is None:
            return NodeScene(name, sc.SILENT, owed=owed, side=side)
        behind = side < 0 and (owed > 0 or not mine["ready"]) and self._unsettled.is_set()
        state = sc.BEHIND if behind else sc.UP
        return NodeScene(name, state, None, mine["keys"], owed, mine["hints"], side)

    def _tell(self, text: str, mood: str = sc.PLAIN) -> None:
        self._events.append(Event(time.monotonic() - self._began, text, mood))

    # --- the threads ----------------------------------------------------------------------------

    def _guarded(self, body: Callable[[], bool]) -> None:
        """Run a thread's body again and again while it says so; an error is an event."""
        while not self.over.is_set():
            try:
                if not body():
                    return
            except Exception as error:
                if self.over.is_set():
                    return
                self._tell(_first_line(error), sc.PLAIN if isinstance(error, Cannot) else sc.BAD)
                self.over.wait(0.2)

    def _load(self) -> bool:
        stage = self._stage
        began = time.monotonic()
        stage.load(self._check_over)
        took = time.monotonic() - began
        self._tell(f"{stage.loaded:,} cities loaded in {took:.1f} s ({LICENCE}).", sc.GOOD)
        self._show_cart()
        stage.traffic.switch(True)
        self._tell("Reads and writes go on from here, in the background.")
        return False

    def _check_over(self, loaded: int) -> None:
        if self.over.is_set():
            raise Cannot("loading was given up")

    def _work(self) -> bool:
        try:
            key = self._asked.get(timeout=0.1)
        except queue.Empty:
            return True
        self._busy, act = self._acts[key]
        # First the frame that shows the key: starting a process holds up all threads of this one.
        self.over.wait(DRAWN_S)
        try:
            act()
        finally:
            self._busy = ""
        return True

    def _watch(self) -> bool:
        self._states = self._stage.ask()
        return not self.over.wait(WATCH_EVERY_S)

    def _compare(self) -> bool:
        """After trouble: until all copies are equal, then the reckoning."""
        stage = self._stage
        if not self._unsettled.wait(0.2) or self.over.is_set():
            return True
        troubles = self._troubles
        if stage.down or stage.sides or self._starting:
            self.over.wait(0.1)  # equality must wait for whoever is away
            return True
        try:
            stage.wait_equal(COMPARE_S)
        except NotConverged:
            return True
        with self._lock:
            if troubles != self._troubles:
                return True
            self._unsettled.clear()
        took = time.monotonic() - self._trouble_over_at
        self._tell(f"All copies are equal again after {took:.1f} s; no hints are left.", sc.GOOD)
        self._reckon()
        return True

    def _unsettle(self) -> None:
        with self._lock:
            self._troubles += 1
            self._unsettled.set()

    def _reckon(self) -> None:
        verdict = self._stage.traffic.verify(self._stage.kv)
        if not verdict.keys:
            return
        if verdict.lost:
            self._checked, self._lost = "", self._lost + len(verdict.lost)
            self._tell(
                f"LOST: {len(verdict.lost):,} of {verdict.keys:,} acknowledged writes.", sc.BAD
            )
        else:
            self._checked = f"{verdict.keys:,} keys verified"
            self._tell(
                f"All 3 copies of {verdict.keys:,} keys were read: no acknowledged write is lost.",
                sc.GOOD,
            )

    # --- the acts, in the worker ----------------------------------------------------------------

    def _kill(self) -> None:
        self._unsettle()
        name = self._stage.kill()
        self._died_at[name] = time.monotonic()
        self._tell(f"{name} was killed with kill -9. What it misses, others keep as hints.", sc.BAD)

    def _revive(self) -> None:
        stage = self._stage
        self._starting = stage.down
        self._trouble_over_at = time.monotonic()
        try:
            names = stage.revive()
        finally:
            self._starting = ()
        self._tell(f"{listed(names)} came back with what the disk had, and gets what it missed.")
        self._done |= {"kill"}

    def _split(self) -> None:
        stage = self._stage
        self._unsettle()
        sides = stage.split()
        self._undecided, self._shown = True, False
        shown = "  |  ".join(
            f"{name}: {' '.join(names)}" for name, names in zip(SIDE_NAMES, SIDES, strict=True)
        )
        self._tell(f"The network is split. {shown}", sc.BAD)
        for name, side in zip(SIDE_NAMES, sides, strict=True):
            kept = listed(side.acked_by)
            self._tell(f"Side {name} took {CART} = {words(side.value)}; kept by {kept}.")
        self._cart = tuple(words(side.value) for side in sides)
        self._cart_note = "side A  |  side B"  # in the order of the values
        self._done |= {"split"}

    def _heal(self) -> None:
        self._trouble_over_at = time.monotonic()
        self._stage.heal()
        self._tell("The network is whole again; both sides tell what they have.")

    def _switch(self) -> None:
        traffic = self._stage.traffic
        traffic.switch(not traffic.on)
        self._tell(f"Reads and writes {'go on' if traffic.on else 'pause'}.")

    def _siblings(self) -> None:
        if self._stage.sides:
            raise Cannot("While the network is split, each side has its own value. Press h first.")
        if self._shown and self._undecided:
            merged = self._stage.resolve()
            self._undecided = self._shown = False
            self._show_cart()
            self._tell(f"Resolved by one write that has seen both: {words(merged)}.", sc.GOOD)
            return
        several = self._show_cart()
        self._undecided = self._shown = several
        if several:
            self._tell(f"{CART} has {len(self._cart)} values, for neither write knew the other.")
        else:
            self._tell(f"{CART} has one value." if self._cart else f"{CART} has no value yet.")

    def _show_cart(self) -> bool:
        values = self._stage.cart()
        self._cart = tuple(words(value) for value in values)
        several = len(values) > 1
        self._cart_note = "siblings" if several else ""
        return several


def _arc(key: str) -> int:
    full = full_key(b"default", key.encode())
    return int.from_bytes(storage_key(full, LOCAL["partitions"])[:2], "big")


def _first_line(error: Exception) -> str:
    text = str(error).split("\n")[0] or type(error).__name__
    return text if isinstance(error, DynamoError) else f"{type(error).__name__}: {text}"
