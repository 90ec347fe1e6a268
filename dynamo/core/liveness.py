"""Who answers: this node's own opinion of its peers, from direct probes and from traffic.

    UP       something was heard within the last probe
    SUSPECT  a probe went unanswered, or a frame could not be handed over; reads ask it last
    DOWN     nothing heard for `suspicion_ms`; writes go straight to a stand-in

The opinion picks fallbacks and the order of reads. It never changes who owns what (L1), and it is
never told to others: a node that cannot be reached from here may be fine from there.

A node that was itself stopped heard nothing either, so the time that passed between two of its own
turns, beyond a probe, does not count against anybody (L2). History: after a pause of 10 s a node
would call all its peers dead at once and answer reads from nowhere.

Source: Das et al., SWIM, 2002 (direct probes only; indirect ones come with gossip); Dynamo §4.8.
"""

from __future__ import annotations

from typing import Any

from dynamo.core.config import Config
from dynamo.core.messages import PING, PONG, Message

UP, SUSPECT, DOWN = "up", "suspect", "down"


class _Peer:
    __slots__ = ("heard_ms", "probe_due_ms", "probed_ms", "state")

    def __init__(self, now_ms: int) -> None:
        self.state = SUSPECT  # until heard for the first time
        self.heard_ms = now_ms
        self.probed_ms = -1  # when the unanswered probe left, -1 for none
        self.probe_due_ms = now_ms


class Liveness:
    """Opinions on all peers; `came_up` lists those heard again since it was last cleared."""

    __slots__ = (
        "_config",
        "_due_ms",
        "_events",
        "_outbox",
        "_peers",
        "_ran_ms",
        "_seq",
        "came_up",
        "doubts",
    )

    def __init__(
        self,
        config: Config,
        peers: list[str],
        outbox: list[tuple[Any, Message]],
        events: list[tuple[Any, ...]],
        now_ms: int,
    ) -> None:
        self._config = config
        self._outbox = outbox
        self._events = events
        self._peers = {name: _Peer(now_ms) for name in peers}
        self._ran_ms = now_ms
        self._due_ms = now_ms  # before it, `run` finds nothing to do; a sign of life makes it later
        self._seq = 0
        self.came_up: list[str] = []
        self.doubts = len(peers)  # how many are not UP: while 0, nobody need be looked at

    def state(self, name: str) -> str:
        """UP, SUSPECT or DOWN; a name that is no peer is this node itself, UP."""
        peer = self._peers.get(name)
        return peer.state if peer is not None else UP

    def usable(self, name: str) -> bool:
        """Whether it is worth sending to: not DOWN."""
        peer = self._peers.get(name)
        return peer is None or peer.state is not DOWN

    def states(self) -> dict[str, str]:
        return {name: peer.state for name, peer in self._peers.items()}

    def silent_ms(self, now_ms: int) -> dict[str, int]:
        """For how long nothing was heard of those that are not UP; before, since the start."""
        return {
            name: now_ms - peer.heard_ms
            for name, peer in self._peers.items()
            if peer.state is not UP
        }

    def follow(self, peers: list[str], now_ms: int) -> None:
        """Watch these peers, and no others."""
        self._peers = {name: self._peers.get(name) or _Peer(now_ms) for name in peers}
        self.doubts = sum(peer.state is not UP for peer in self._peers.values())
        self._due_ms = now_ms

    def heard(self, name: str, now_ms: int) -> None:
        """Any message of a peer is a sign of life."""
        peer = self._peers.get(name)
        if peer is None:
            return
        peer.heard_ms = now_ms
        peer.probed_ms = -1
        if peer.state is not UP:
            peer.state = UP
            self.doubts -= 1
            self.came_up.append(name)
            self._events.append(("up", name))

    def lost(self, name: str) -> None:
        """A frame could not be handed over: doubt the peer now, not at the next probe."""
        peer = self._peers.get(name)
        if peer is not None and peer.state is UP:
            self._suspect(name, peer)

    def on_ping(self, sender: str, message: Message, born_ms: int) -> None:
        self._outbox.append((sender, (PONG, message[1])))

    def on_pong(self, sender: str, message: Message, born_ms: int) -> None:
        """Nothing to do: having been heard is the point."""

    def run(self, now_ms: int) -> None:
        """Send the probes that are due and draw conclusions from silence."""
        stalled_ms = now_ms - self._ran_ms - self._config.probe_ms
        self._ran_ms = now_ms
        if now_ms < self._due_ms and stalled_ms <= 0:
            return
        for name, peer in self._peers.items():
            if stalled_ms > 0:  # L2
                peer.heard_ms += stalled_ms
                peer.probed_ms = -1
            unanswered = 0 <= peer.probed_ms <= now_ms - self._config.probe_timeout_ms
            if unanswered and peer.state is UP:
                self._suspect(name, peer)
            if peer.state is SUSPECT and now_ms - peer.heard_ms >= self._config.suspicion_ms:
                peer.state = DOWN
                self._events.append(("down", name))
            if now_ms >= peer.probe_due_ms:
                self._probe(name, peer, now_ms)
        self._due_ms = self._next_due_ms()

    def _probe(self, name: str, peer: _Peer, now_ms: int) -> None:
        self._seq += 1
        self._outbox.append((name, (PING, self._seq)))
        peer.probe_due_ms = now_ms + self._config.probe_ms
        if peer.probed_ms < 0:
            peer.probed_ms = now_ms

    def _suspect(self, name: str, peer: _Peer) -> None:
        peer.state = SUSPECT
        self._due_ms = min(self._due_ms, peer.heard_ms + self._config.suspicion_ms)
        self.doubts += 1
        self._events.append(("suspect", name))

    def next_due_ms(self) -> int:
        """When `run` has something to do next."""
        return self._due_ms

    def _next_due_ms(self) -> int:
        due = self._ran_ms + self._config.probe_ms
        for peer in self._peers.values():
            due = min(due, peer.probe_due_ms)
            if peer.state is UP and peer.probed_ms >= 0:
                due = min(due, peer.probed_ms + self._config.probe_timeout_ms)
            elif peer.state is SUSPECT:
                due = min(due, peer.heard_ms + self._config.suspicion_ms)
        return due
