"""Rare but legal branches, taken on purpose: at named points of the real code, with a drawn chance.

Faults from outside hardly ever meet two rare things at once: an owner that is slow to answer just
when a hint is refused. So a run may force what could have happened anyway: a timeout that comes
early, an answer that is lost, a page that never arrives, an actor retired for nothing. Whatever is
forced here must be something that the product may do, or suffer, at any time without breaking a
promise; if a promise breaks all the same, that is a finding.

Each point is a small wrapper around one method, put there while a run is on and taken away after
it. Production code knows nothing of it and pays nothing. Chances are drawn from generators of
their own, so that leaving out one point does not move another.

Source: FoundationDB's BUGGIFY.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from dynamo.core import gossip, serving
from dynamo.core import messages as m
from dynamo.core.ballots import Elector
from dynamo.core.exchange import Exchange
from dynamo.core.fanout import Fanout
from dynamo.core.gossip import Gossip
from dynamo.core.handoff import Handoff
from dynamo.core.liveness import UP, Liveness
from dynamo.core.reads import Reads
from dynamo.core.replica import Replica
from dynamo.core.requests import Refused, Requests
from dynamo.core.serving import Serving
from dynamo.core.writes import Writes

Roll = Callable[[], bool]
Real = Callable[..., Any]


class Marked(Protocol):
    """What counts how often a point was taken: a world."""

    seed: int

    def mark(self, what: str, count: int = 1) -> None: ...


class Point(NamedTuple):
    """Where, and how: `wrap` gets the real method and a die, and gives what takes its place."""

    owner: Any
    method: str
    wrap: Callable[[Any, Roll], Any]
    chance: float  # at most


def _dropped(real: Real, roll: Roll) -> Real:
    """The message is lost just before it is handled."""

    def handle(self: Any, sender: str, message: m.Message, born_ms: int) -> None:
        if not roll():
            real(self, sender, message, born_ms)

    return handle


def _silence_comes_early(real: Real, roll: Roll) -> Real:
    """Whoever was asked counts as silent after 1 ms: stand-ins, next owners, hedges."""

    def enter(self: Requests, op: Any, due_ms: int) -> None:
        real(self, op, self.now_ms + 1 if roll() else due_ms)

    return enter


def _hedge_at_once(real: Real, roll: Roll) -> Real:
    """A read asks the next owner without waiting for the first."""
    return lambda self: 1 if roll() else real(self)


def _hint_refused(real: Real, roll: Roll) -> Real:
    """A hint that no write needs is refused, as if the window were over."""

    def closed(self: Handoff, home: str, skey: bytes, wall_ms: int) -> bool:
        return roll() or real(self, home, skey, wall_ms)

    return closed


def _whole_object(real: Real, roll: Roll) -> Real:
    """A question by check is answered with the whole object, though it is the same."""

    def on_fetch(self: Serving, sender: str, message: m.Message, born_ms: int) -> None:
        real(self, sender, (*message[:6], b"another!") if roll() else message, born_ms)

    return on_fetch


def _overloaded(real: Real, roll: Roll) -> Real:
    """A node that has plenty to do refuses what it could have done."""

    def admit(self: Requests, key: bytes) -> None:
        if roll():
            raise Refused(m.OVERLOADED, f"{self.me} has {len(self.pending)} operations under way")
        real(self, key)

    return admit


def _asks_first(real: Real, roll: Roll) -> Real:
    """A first attempt is taken for a late one, and asks for its id before it mints."""

    def doubt(self: Writes, message: m.Message, deadline_ms: int) -> m.Message:
        if roll() and not message[9]:
            return (*message[:9], 1, *message[10:])
        found: m.Message = real(self, message, deadline_ms)
        return found

    return doubt


def _actor_retired(real: Real, roll: Roll) -> Real:
    """The actors of an arc are given up for nothing, and the next value has a new one."""

    def mint(self: Replica, arc: int, *rest: Any) -> Any:
        if roll():
            self.retire(arc, "forced")
        return real(self, arc, *rest)

    return mint


def _owner_left_out(real: Real, roll: Roll) -> Real:
    """One of the copies of a put is lost on its way."""

    def spread(self: Fanout, op: Any) -> None:
        real(self, op)
        outbox = self.requests.outbox
        if outbox and outbox[-1][1][0] == m.REPLICATE and roll():
            outbox.pop()

    return spread


def _answer_lost(real: Real, roll: Roll) -> Real:
    """The client's answer is lost on its way: it will ask again, or never know."""

    def reply(self: Requests, client: Any, message: m.Message) -> None:
        if not roll():
            real(self, client, message)

    return reply


def _repair_first(real: Real, roll: Roll) -> Real:
    """A read repairs whoever was behind before it answers, though nobody asked for that."""

    def start(self: Reads, client: Any, message: m.Message, *rest: Any) -> None:
        if roll():
            message = (*message[:8], message[8] | m.REPAIR_FIRST)
        real(self, client, message, *rest)

    return start


def _repair_lost(real: Real, roll: Roll) -> Real:
    """Repairs are lost on their way."""

    def repair(self: Reads, op: Any, names: list[str]) -> Any:
        sent = real(self, op, names)
        if sent and roll():
            del self.requests.outbox[-len(sent) :]
        return sent

    return repair


def _suspected(real: Real, roll: Roll) -> Real:
    """A peer that was heard just now is suspected all the same."""

    def heard(self: Liveness, name: str, now_ms: int) -> None:
        real(self, name, now_ms)
        if self.state(name) is UP and roll():
            self.lost(name)

    return heard


def _arc_doubted(real: Real, roll: Roll) -> Real:
    """An owner stops counting toward R on some arc, and has to compare with the others."""

    def begin_step(self: Replica, now_ms: int) -> None:
        real(self, now_ms)
        if roll():
            arc = now_ms % self._config.partitions
            self.set_synced(arc, False)
            self._doubted[arc] = None

    return begin_step


def _register_refused(real: Real, roll: Roll) -> Real:
    """A request is refused with the very register under which it was made, and made again."""

    def stale(self: Requests, sender: str, req: int, arc: int, ver: int, phase: int) -> bool:
        # The asker's register appears older by one, so that the real code refuses it.
        found: bool = real(self, sender, req, arc, ver - 1 if roll() else ver, phase)
        return found

    return stale


def _delivery_unacknowledged(real: Real, roll: Roll) -> Real:
    """The acknowledgement of a hint is lost: it is delivered once more."""

    def on_replicate_ok(self: Handoff, sender: str, message: m.Message) -> bool:
        if message[1] in self._sent and roll():
            del self._sent[message[1]]
            self._stirred = True
            return True
        found: bool = real(self, sender, message)
        return found

    return on_replicate_ok


def _news_lost(real: Real, roll: Roll) -> Real:
    """What a node is told of the ring unasked is lost; what it asked for is not."""

    def on_items(self: Gossip, sender: str, message: m.Message, born_ms: int) -> None:
        if message[4] != gossip.NEWS or not roll():
            real(self, sender, message, born_ms)

    return on_items


def _nothing_small(real: int, roll: Roll) -> int:
    """On a full disk no object is small enough to be taken."""
    return 0


POINTS: dict[str, Point] = {
    "silence comes early": Point(Requests, "enter", _silence_comes_early, 0.2),
    "hedge at once": Point(Reads, "_hedge_ms", _hedge_at_once, 0.5),
    "hint refused": Point(Handoff, "_closed", _hint_refused, 0.5),
    "whole object": Point(Serving, "on_fetch", _whole_object, 0.5),
    "overloaded": Point(Requests, "_admit", _overloaded, 0.05),
    "asks first": Point(Writes, "_doubt_if_late", _asks_first, 1.0),
    "actor retired": Point(Replica, "mint", _actor_retired, 0.05),
    "owner left out": Point(Fanout, "spread", _owner_left_out, 0.3),
    "answer lost": Point(Requests, "reply", _answer_lost, 0.05),
    "repair first": Point(Reads, "start", _repair_first, 0.5),
    "repair lost": Point(Reads, "_repair", _repair_lost, 0.5),
    "suspected": Point(Liveness, "heard", _suspected, 0.02),
    "arc doubted": Point(Replica, "begin_step", _arc_doubted, 0.005),
    "register refused": Point(Requests, "stale", _register_refused, 0.05),
    "delivery unacknowledged": Point(Handoff, "on_replicate_ok", _delivery_unacknowledged, 0.5),
    "comparison lost": Point(Exchange, "on_roots", _dropped, 0.3),
    "page lost": Point(Exchange, "on_keys", _dropped, 0.3),
    "page answer lost": Point(Exchange, "on_keys_are", _dropped, 0.2),
    "nothing small": Point(serving, "SMALL_BYTES", _nothing_small, 1.0),
}
# Never met in a ring that stays as it is, and so not among those that are drawn for any seed.
OF_MOVES: dict[str, Point] = {
    "register lost": Point(Elector, "on_register", _dropped, 0.6),
    "news lost": Point(Gossip, "on_items", _news_lost, 0.8),
    "promise lost": Point(Elector, "on_promise", _dropped, 0.3),
    "vote lost": Point(Elector, "on_vote", _dropped, 0.3),
}
Chances = Sequence[tuple[str, float]]


class Forced:
    """While it is entered, the points of `chances` are forced; `stop` lets them be earlier."""

    def __init__(self, world: Marked, chances: Chances) -> None:
        self._world = world
        self._chances = chances
        self._on = True
        self._real: list[tuple[Any, str, Any]] = []

    def stop(self) -> None:
        """From now on everything takes its ordinary course."""
        self._on = False

    def __enter__(self) -> Forced:
        for name, chance in self._chances:
            point = POINTS.get(name) or OF_MOVES[name]
            real = getattr(point.owner, point.method)
            self._real.append((point.owner, point.method, real))
            setattr(point.owner, point.method, point.wrap(real, self._roll(name, chance)))
        return self

    def __exit__(self, *error: object) -> None:
        # In reverse, should two points have wrapped one method.
        while self._real:
            owner, method, real = self._real.pop()
            setattr(owner, method, real)

    def _roll(self, name: str, chance: float) -> Roll:
        draw = random.Random(f"{self._world.seed}/force/{name}").random
        what = f"forced {name}"

        def roll() -> bool:
            if not self._on or draw() >= chance:
                return False
            self._world.mark(what)
            return True

        return roll


def draw_chances(rng: random.Random) -> tuple[tuple[str, float], ...]:
    """Some points, each with a chance below its own limit."""
    return tuple(
        (name, round(point.chance * rng.choice((0.1, 0.5, 1.0)), 4))
        for name, point in POINTS.items()
        if rng.random() < 0.25
    )
