"""Who answers: this node's own opinion of its peers, from probes and from traffic.

    UP       something was heard since the last probe
    SUSPECT  a probe went unanswered, or a frame could not be handed over; reads ask it last
    DOWN     nothing heard for `suspicion_ms`; writes go straight to a stand-in

The opinion picks fallbacks and the order of reads. It never changes who owns what (L1), and it is
never told to others: a node that cannot be reached from here may be fine from there.

A peer that leaves a probe unanswered is also probed through others, once per probe:

    a -> b       PING              lost, or b is not there
    a -> c, d, e PING_FOR b        `probe_helpers` peers that are UP, drawn anew each time
    c -> b       PING              an ordinary probe, with a number of c's own
    b -> c       PONG
    c -> a       PONG_FOR b        "it answered me"

What c says is a fact, not c's opinion: b lived when it answered. So the count of silence begins
anew, and b stays SUSPECT. It does not become UP, because nothing shows that b can be reached from
here. And silence on the direct road makes it DOWN after 2 x `suspicion_ms` whatever the helpers
say. History: with the link a - b cut and everybody vouching for b, a would have gone on sending
each write to b, waited for it, and looked for a stand-in only then, for as long as the cut lasted.

A node that was itself stopped heard nothing either, so the time that passed between two of its own
turns, beyond a probe, does not count against anybody (L2). History: after a pause of 10 s a node
would call all its peers dead at once and answer reads from nowhere.

Cost: up to PROBES_MAX peers are probed every `probe_ms` each. In a larger ring as many probes
leave per `probe_ms`, evenly spread, and everybody has a turn; a suspect is probed every `probe_ms`
all the same, since silence counts only from a probe on. A turn of this node touches only the peers
whose time has come.

Sources: Das et al., SWIM, 2002; Dynamo §4.8; `suspicion_ms` against false verdicts: a suspicion
longer than the longest pause that should pass decides them, a health multiplier adds nothing.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Any

from dynamo.core.config import Config
from dynamo.core.messages import PING, PING_FOR, PONG, PONG_FOR, Message

UP, SUSPECT, DOWN = "up", "suspect", "down"

# Peers of which each is probed every `probe_ms`; beyond it, they take turns.
PROBES_MAX = 32
# Probes under way for others, of which the oldest are forgotten first.
RELAYS_MAX = 256


class _Peer:
    __slots__ = (
        "ask_due_ms", "asked_seq", "heard_ms", "ordinal", "probe_due_ms", "probed_ms", "sent_ms",
        "state", "vouched_ms",
    )  # fmt: skip

    def __init__(self, now_ms: int) -> None:
        self.state = SUSPECT  # until heard for the first time
        self.heard_ms = now_ms
        self.vouched_ms = now_ms  # when a helper last had an answer of it
        self.probed_ms = -1  # when the first unanswered probe left, -1 for none
        self.sent_ms = now_ms  # when the latest probe left
        self.ask_due_ms = -1  # when others are asked to probe it, unless it is heard; -1 for never
        self.asked_seq = -1  # under which number they were asked last
        self.probe_due_ms = now_ms
        self.ordinal = -1  # of its timer that counts


class Liveness:
    """Opinions on all peers; `came_up` lists those heard again since it was last cleared."""

    __slots__ = (
        "_absent",
        "_config",
        "_due_ms",
        "_events",
        "_me",
        "_ordinal",
        "_outbox",
        "_pace_ms",
        "_peers",
        "_ran_ms",
        "_relays",
        "_rng",
        "_seq",
        "_slot_ms",
        "_timers",
        "came_up",
        "doubts",
        "stats",
    )

    def __init__(
        self,
        config: Config,
        me: str,
        peers: Iterable[str],
        outbox: list[tuple[Any, Message]],
        events: list[tuple[Any, ...]],
        stats: dict[str, int],
        rng: random.Random,
        now_ms: int,
    ) -> None:
        self._config = config
        self._me = me
        self._outbox = outbox
        self._events = events
        self._rng = rng
        self._peers: dict[str, _Peer] = {}
        # (when, ordinal, name): one that counts per peer, and left-overs that are passed by.
        self._timers: list[tuple[int, int, str]] = []
        self._ordinal = 0
        self._pace_ms = config.probe_ms // PROBES_MAX
        self._slot_ms = now_ms  # the last one that was given to a probe
        # own probe -> (who asked for it, under which number, of whom, until when it matters)
        self._relays: OrderedDict[int, tuple[str, int, str, int]] = OrderedDict()
        self._ran_ms = now_ms
        self._due_ms = now_ms  # before it, `run` finds nothing to do; a sign of life makes it later
        self._seq = 0
        self._absent = 0
        self.stats = stats
        self.came_up: list[str] = []
        self.doubts = 0  # how many are not UP: while 0, nobody need be looked at
        self.follow(peers, now_ms)

    # --- whom to watch ------------------------------------------------------------------------

    def follow(self, peers: Iterable[str], now_ms: int, absent: int = 0) -> None:
        """Watch these peers and no others from now on.

        A new one is SUSPECT and probed at once; one that is not among them any more is forgotten,
        and DOWN like any name that nobody ever heard of. `absent` is how many of those the owner
        lists still mention: they count as doubts, or nobody would look before asking them.
        """
        wanted = dict.fromkeys(peers)
        for name in [name for name in self._peers if name not in wanted]:
            if self._peers.pop(name).state is not UP:
                self.doubts -= 1
        self.came_up = [name for name in self.came_up if name in wanted]
        new = [name for name in wanted if name not in self._peers and name != self._me]
        for i, name in enumerate(new):
            peer = self._peers[name] = _Peer(now_ms)
            self.doubts += 1
            peer.probe_due_ms = now_ms + max(0, i + 1 - PROBES_MAX) * self._pace_ms
            self._slot_ms = max(self._slot_ms, peer.probe_due_ms)
            self._set_timer(name, peer, peer.probe_due_ms)
        self.doubts += absent - self._absent
        self._absent = absent

    # --- opinions -----------------------------------------------------------------------------

    def state(self, name: str) -> str:
        """UP, SUSPECT or DOWN. This node itself is UP, and a name that is no peer DOWN."""
        peer = self._peers.get(name)
        if peer is not None:
            return peer.state
        return UP if name == self._me else DOWN

    def usable(self, name: str) -> bool:
        """Whether it is worth sending to: not DOWN."""
        return self.state(name) is not DOWN

    def in_order(self, names: list[str]) -> list[str]:
        """Those that are UP first, SUSPECT ones after, DOWN ones not at all."""
        if not self.doubts:
            return names
        up, suspect = [], []
        for name in names:
            state = self.state(name)
            if state is UP:
                up.append(name)
            elif state is not DOWN:
                suspect.append(name)
        return up + suspect

    def states(self) -> dict[str, str]:
        return {name: peer.state for name, peer in self._peers.items()}

    def silent_ms(self, now_ms: int) -> dict[str, int]:
        """For how long nothing was heard of those that are not UP; before, since the start."""
        return {
            name: now_ms - peer.heard_ms
            for name, peer in self._peers.items()
            if peer.state is not UP
        }

    # --- signs of life ------------------------------------------------------------------------

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
            if len(self._peers) > PROBES_MAX:  # no suspect any more: it has turns again
                peer.probe_due_ms = self._slot(now_ms + self._config.probe_ms, len(self._peers))

    def lost(self, name: str) -> None:
        """A frame could not be handed over: doubt the peer now, not at the next probe."""
        peer = self._peers.get(name)
        if peer is not None and peer.state is UP:
            self._suspect(name, peer)
            peer.probe_due_ms = self._ran_ms  # silence counts from a probe on
            self._set_timer(name, peer, self._ran_ms)

    def on_ping(self, sender: str, message: Message, born_ms: int) -> None:
        self._outbox.append((sender, (PONG, message[1])))

    def on_pong(self, sender: str, message: Message, born_ms: int) -> None:
        """Having been heard is the point, unless the probe was for somebody else."""
        relay = self._relays.get(message[1])
        if relay is not None and relay[2] == sender:
            asker, seq, target, due_ms = self._relays.pop(message[1])
            if born_ms < due_ms:
                self._outbox.append((asker, (PONG_FOR, seq, target)))

    def on_ping_for(self, sender: str, message: Message, born_ms: int) -> None:
        """Probe somebody for a peer that had no answer."""
        _, seq, target = message
        if sender not in self._peers or target not in self._peers or target == sender:
            return
        self.stats["probes_for_others"] += 1
        self._seq += 1
        if len(self._relays) >= RELAYS_MAX:
            self._relays.popitem(last=False)
        self._relays[self._seq] = (sender, seq, target, born_ms + self._config.suspicion_ms)
        self._outbox.append((target, (PING, self._seq)))

    def on_pong_for(self, sender: str, message: Message, born_ms: int) -> None:
        """A helper had an answer: the peer lives, though it cannot be heard here."""
        _, seq, target = message
        peer = self._peers.get(target)
        if peer is not None and peer.asked_seq == seq and peer.probed_ms >= 0:
            peer.vouched_ms = max(peer.vouched_ms, born_ms)
            self.stats["peers_vouched_for"] += 1

    # --- probes and silence -------------------------------------------------------------------

    def run(self, now_ms: int) -> None:
        """Send the probes that are due and draw conclusions from silence."""
        stalled_ms = now_ms - self._ran_ms - self._config.probe_ms
        self._ran_ms = now_ms
        if now_ms < self._due_ms and stalled_ms <= 0:
            return
        if stalled_ms > 0:  # L2
            for peer in self._peers.values():
                peer.heard_ms += stalled_ms
                peer.vouched_ms += stalled_ms
                peer.probed_ms = -1
        timers = self._timers
        while timers and timers[0][0] <= now_ms:
            _, ordinal, name = heappop(timers)
            found = self._peers.get(name)
            if found is not None and found.ordinal == ordinal:
                self._look(name, found, now_ms)
        self._due_ms = now_ms + self._config.probe_ms  # whoever is late for it was stopped
        if timers:
            self._due_ms = min(self._due_ms, timers[0][0])

    def _look(self, name: str, peer: _Peer, now_ms: int) -> None:
        if 0 <= peer.probed_ms <= now_ms - self._config.probe_timeout_ms and peer.state is UP:
            self._suspect(name, peer)
        if peer.state is SUSPECT and now_ms >= self._down_ms(peer):
            peer.state = DOWN
            self._events.append(("down", name))
        if 0 <= peer.ask_due_ms <= now_ms:
            peer.ask_due_ms = -1
            if peer.state is SUSPECT and peer.probed_ms >= 0:
                self._ask_helpers(name, peer)
        if now_ms >= peer.probe_due_ms:
            self._probe(name, peer, now_ms)
        self._set_timer(name, peer, self._next_ms(peer))

    def _down_ms(self, peer: _Peer) -> int:
        """When silence makes a suspect DOWN, as things stand."""
        if peer.probed_ms < 0:
            return 1 << 62
        patience_ms = self._config.suspicion_ms
        # Silence counts from the first probe that was not answered, or from a probe before: in a
        # large ring nothing at all passes between most nodes.
        heard_ms = max(peer.heard_ms, peer.probed_ms - self._config.probe_ms)
        due_ms = min(max(heard_ms, peer.vouched_ms) + patience_ms, heard_ms + 2 * patience_ms)
        return max(due_ms, peer.probed_ms + 2 * self._config.probe_timeout_ms)  # time for helpers

    def _next_ms(self, peer: _Peer) -> int:
        due_ms = peer.probe_due_ms
        if peer.state is SUSPECT:
            due_ms = min(due_ms, self._down_ms(peer))
        if peer.state is UP and peer.probed_ms >= 0:
            due_ms = min(due_ms, peer.probed_ms + self._config.probe_timeout_ms)
        if peer.ask_due_ms >= 0:
            due_ms = min(due_ms, peer.ask_due_ms)
        return due_ms

    def _probe(self, name: str, peer: _Peer, now_ms: int) -> None:
        self._seq += 1
        self._outbox.append((name, (PING, self._seq)))
        peer.sent_ms = now_ms
        if peer.ask_due_ms < 0:
            peer.ask_due_ms = now_ms + self._config.probe_timeout_ms
        if peer.probed_ms < 0:
            peer.probed_ms = now_ms
        wait_ms = self._config.probe_ms
        if peer.state is SUSPECT:
            peer.probe_due_ms = now_ms + wait_ms
        else:
            peer.probe_due_ms = self._slot(now_ms + wait_ms, len(self._peers))

    def _slot(self, wanted_ms: int, peers: int) -> int:
        """When a probe may leave: at once among few peers, one after the other among many."""
        if peers <= PROBES_MAX:
            return wanted_ms
        self._slot_ms = max(wanted_ms, self._slot_ms + self._pace_ms)
        return self._slot_ms

    def _ask_helpers(self, name: str, peer: _Peer) -> None:
        peer.asked_seq = self._seq
        up = [other for other, it in self._peers.items() if it.state is UP]
        for helper in self._rng.sample(up, min(len(up), self._config.probe_helpers)):
            self._outbox.append((helper, (PING_FOR, peer.asked_seq, name)))

    def _suspect(self, name: str, peer: _Peer) -> None:
        peer.state = SUSPECT
        # In a large ring its next turn may be far off, and one probe is no evidence.
        peer.probe_due_ms = min(peer.probe_due_ms, peer.sent_ms + self._config.probe_ms)
        self.doubts += 1
        self._events.append(("suspect", name))

    def _set_timer(self, name: str, peer: _Peer, due_ms: int) -> None:
        self._ordinal += 1
        peer.ordinal = self._ordinal
        heappush(self._timers, (due_ms, self._ordinal, name))
        self._due_ms = min(self._due_ms, due_ms)

    def next_due_ms(self) -> int:
        """When `run` has something to do next."""
        return self._due_ms
