"""The wire between simulated nodes and clients: frames that are late, lost, doubled or cut off.

One frame carries all messages of one step for one receiver, as in production, and every fate here
is a frame's. Each frame draws its own delay, so two frames of one sender may overtake each other;
real connections keep their order, but a connection that breaks and comes back does not.

How long a frame takes is drawn by the shape of the weather: always the same, evenly spread, or
with a heavy tail (most frames are quick, one in a hundred takes twenty times as long).

A corrupted frame is delivered with some of its bytes changed, where frames travel as bytes at all;
elsewhere nothing is corrupted. Its receiver must notice, count it, and be none the worse for it.

Links are directed. A cut may drop what passes it, as a lost host does, or hold it until the cut
is lifted, as a full socket buffer does: held frames arrive minutes old, all at once, and a node
that acts on them spreads the past.

All randomness comes from the one generator handed in, in the order of calls.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Frame = tuple[str, int, int, Any]  # sender, boot, sent_ms on the sender's clock, messages or bytes
Delivery = tuple[int, str, str, Frame]  # at_ms, from, to, frame


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad the network is while faults are on. Rates are per frame."""

    delay_ms: int = 1  # every frame takes at least this long
    jitter_ms: int = 1  # and up to this much more, as `shape` says
    loss: float = 0.0
    double: float = 0.0  # a second copy, with a delay of its own
    straggle: float = 0.0  # a delay of up to `straggle_ms`
    straggle_ms: int = 0
    replay: float = 0.0  # the frame is remembered, and sent again with a later one
    shape: str = (
        "even"  # "fixed": always all of jitter_ms; "even"; "tail": mostly little, rarely much
    )
    corrupt: float = 0.0  # a few bytes are changed on the way


TAIL = 1.3  # the Pareto exponent of a heavy tail: the mean exists, the variance does not
TAIL_MS_MAX = 5_000

COUNTED = ("sent", "lost", "cut", "held", "doubled", "replayed", "corrupted")


class Network:
    """Decides when, and whether, and how often a frame arrives."""

    REPLAY_KEPT = 16

    def __init__(self, rng: random.Random, weather: Weather) -> None:
        self._rng = rng
        self.weather = weather
        self._dropping: dict[tuple[str, str], int] = {}  # directed link -> cuts on it
        self._holding: dict[tuple[str, str], int] = {}
        self._held: dict[tuple[str, str], list[Frame]] = {}
        self._slow_ms: dict[str, int] = {}  # endpoint -> added to every frame from or to it
        self._kept: list[tuple[str, str, Frame]] = []
        self.counts = dict.fromkeys(COUNTED, 0)

    def send(
        self, now_ms: int, source: str, target: str, frame: Frame, again: bool = True
    ) -> list[Delivery]:
        """Hand over one frame; the deliveries that come of it, usually one.

        `again`: it may arrive more than once. Requests of clients, also forwarded ones, may not:
        a put that was refused and then came a second time would make a liar of the refusal, and
        no connection does that.
        """
        counts = self.counts
        counts["sent"] += 1
        if self._dropping or self._holding:
            link = (source, target)
            if link in self._dropping:
                counts["cut"] += 1
                return []
            if link in self._holding:
                counts["held"] += 1
                self._held.setdefault(link, []).append(frame)
                return []
        if self._every_frame_once:
            return [(now_ms + self._delay_ms(source, target), source, target, frame)]
        weather, draw = self._weather, self._rng.random
        found: list[Delivery] = []
        if again and weather.replay and draw() < weather.replay:
            found += self._replay(now_ms, source, target, frame)
        if weather.loss and draw() < weather.loss:
            counts["lost"] += 1
            return found
        if weather.corrupt and type(frame[3]) is bytes and draw() < weather.corrupt:
            frame = self._corrupted(frame)
        found.append((now_ms + self._delay_ms(source, target), source, target, frame))
        if again and weather.double and draw() < weather.double:
            counts["doubled"] += 1
            found.append((now_ms + self._delay_ms(source, target), source, target, frame))
        return found

    def _corrupted(self, frame: Frame) -> Frame:
        self.counts["corrupted"] += 1
        body = bytearray(frame[3])
        for _ in range(self._rng.randrange(1, 4)):
            body[self._rng.randrange(len(body))] ^= self._rng.randrange(1, 256)
        if body == frame[3]:
            body.pop()  # the changes met in one byte and undid each other
        return (*frame[:3], bytes(body))

    def _replay(self, now_ms: int, source: str, target: str, frame: Frame) -> list[Delivery]:
        kept = self._kept
        kept.append((source, target, frame))
        if len(kept) <= self.REPLAY_KEPT:
            return []
        old_source, old_target, old = kept.pop(self._rng.randrange(len(kept)))
        if (old_source, old_target) in self._dropping or (old_source, old_target) in self._holding:
            return []
        self.counts["replayed"] += 1
        return [(now_ms + self._delay_ms(old_source, old_target), old_source, old_target, old)]

    def _delay_ms(self, source: str, target: str) -> int:
        weather, draw = self._weather, self._rng.random
        delay, jitter_ms = weather.delay_ms, weather.jitter_ms
        if jitter_ms:
            if weather.shape == "even":
                delay += int(draw() * (jitter_ms + 1))
            elif weather.shape == "tail":
                delay += min(int(jitter_ms * (self._rng.paretovariate(TAIL) - 1)), TAIL_MS_MAX)
            else:
                delay += jitter_ms
        if weather.straggle and draw() < weather.straggle:
            delay += int(draw() * weather.straggle_ms)
        if self._slow_ms:
            delay += self._slow_ms.get(source, 0) + self._slow_ms.get(target, 0)
        return delay

    @property
    def weather(self) -> Weather:
        """What becomes of frames from now on, cuts apart."""
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        rates = weather.loss + weather.double + weather.replay + weather.corrupt
        self._every_frame_once = not rates

    # --- cuts ---------------------------------------------------------------------------------

    def cut(self, links: Iterable[tuple[str, str]], hold: bool) -> None:
        """Cut directed links. A link may be cut several times, and is open after as many mends."""
        cuts = self._holding if hold else self._dropping
        for link in links:
            cuts[link] = cuts.get(link, 0) + 1

    def mend(self, now_ms: int, links: Iterable[tuple[str, str]], hold: bool) -> list[Delivery]:
        """Take one cut off each link; what was held comes through now."""
        cuts = self._holding if hold else self._dropping
        found: list[Delivery] = []
        for link in links:
            left = cuts.get(link, 0) - 1
            if left > 0:
                cuts[link] = left
                continue
            cuts.pop(link, None)
            for frame in self._held.pop(link, ()) if link not in self._holding else ():
                found.append((now_ms + self._delay_ms(*link), *link, frame))
        return found

    # --- looking --------------------------------------------------------------------------------

    def is_open(self, source: str, target: str) -> bool:
        """Whether a frame that is sent now gets through, weather apart."""
        link = (source, target)
        return link not in self._dropping and link not in self._holding

    def are_joined(self, a: str, b: str) -> bool:
        return self.is_open(a, b) and self.is_open(b, a)

    def is_clear(self) -> bool:
        """Whether no frame is lost, damaged, or much later than others."""
        weather = self.weather
        rates = weather.loss + weather.straggle + weather.corrupt
        return not rates and weather.shape != "tail" and not self._slow_ms

    def slow(self, name: str, extra_ms: int) -> None:
        """Delay every frame from and to `name` by this much; 0 ends it."""
        if extra_ms:
            self._slow_ms[name] = extra_ms
        else:
            self._slow_ms.pop(name, None)

    def heal(self, now_ms: int) -> list[Delivery]:
        """Calm weather, no cuts, nothing slow; what was held comes through."""
        self.weather = Weather()
        self._dropping.clear()
        self._holding.clear()
        self._slow_ms.clear()
        self._kept.clear()
        held, self._held = self._held, {}
        return [
            (now_ms + self._delay_ms(*link), *link, frame)
            for link, frames in held.items()
            for frame in frames
        ]


def across(groups: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Every directed link between two different groups."""
    return [
        (a, b)
        for i, group in enumerate(groups)
        for j, other in enumerate(groups)
        if i != j
        for a in group
        for b in other
    ]


def one_way(sources: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str]]:
    """Every directed link from one of `sources` to one of `targets`."""
    return [(a, b) for a in sources for b in targets if a != b]
