"""How a client learns the ring, keeps it current, and finds out that a node is back.

The question is always RING. Before anything is known the seeds get it in turn, the next one as
soon as one refuses or has been silent for `ASK_MS`; any one answer is enough. Later a healthy
member gets it every `REFRESH_MS` under traffic, and at once when a node fails or says that it does
not belong to the ring: the ring may have moved on. When no member is healthy the seeds are asked
again, for every node that was known may have been replaced while this client slept.

The question says which version is known. A node that has no later one leaves the owners out of its
answer, which is most of it, so that asking once a second costs next to nothing.

An avoided node gets the question as a probe, now and then: an answer ends the avoiding without
risking a user's request on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from dynamo.client.outbox import Outbox
from dynamo.client.routing import Node, Ring
from dynamo.client.wheel import NEVER_MS
from dynamo.core import messages as m
from dynamo.core.messages import Malformed, Message

ASK_MS = 100
REFRESH_MS = 1_000
HURRY_MS = 100  # between two questions, however many nodes fail


class Finder:
    """Seeds, nodes, and the ring once there is one."""

    __slots__ = (
        "_asked_ms",
        "_hurried",
        "_next",
        "_outbox",
        "_raw",
        "_via",
        "due_ms",
        "nodes",
        "ring",
        "seeds",
    )

    def __init__(self, seeds: Iterable[str], via: str, outbox: Outbox) -> None:
        # A node that is pinned by its address is the only seed: nobody else is ever contacted.
        self.seeds = [Node(address) for address in ([via] if ":" in via else seeds)]
        self.nodes = {node.address: node for node in self.seeds}
        self.ring: Ring | None = None
        self.due_ms = NEVER_MS  # when the next seed is asked
        self._via = via
        self._outbox = outbox
        self._raw: Message = ()
        self._asked_ms = -NEVER_MS
        self._hurried = False  # somebody wants the ring asked for as soon as that may be
        self._next = 0

    def addresses(self) -> list[str]:
        """Every node that may be needed: the members, or the seeds while there is no ring."""
        if self.ring is None or ":" in self._via:
            return [node.address for node in self.seeds]
        if self._via:
            pinned = self.ring.by_name.get(self._via)
            return [pinned.address] if pinned is not None else []
        return [node.address for node in self.ring.nodes]

    def start(self, now_ms: int) -> None:
        """Somebody waits for the ring: ask, unless that is under way."""
        if self.due_ms == NEVER_MS:
            self.ask(now_ms)

    def ask(self, now_ms: int, node: Node | None = None) -> None:
        """Ask this node for the ring, or the next seed in turn."""
        if node is None:
            node = self.seeds[self._next % len(self.seeds)]
            self._next += 1
        self.probe(now_ms, node)
        self._asked_ms = now_ms
        self._hurried = False
        if self.ring is None:
            self.due_ms = now_ms + ASK_MS

    def probe(self, now_ms: int, node: Node) -> None:
        """Ask a node, also to see whether it answers. One question at a time."""
        node.waiting.pop(node.probe_req, None)
        node.probe_req = self._outbox.add(None, node).req
        if node.avoided:
            node.failed(now_ms)  # until it answers; the next probe comes later

    def unanswered(self, now_ms: int, node: Node) -> None:
        """The question could not be handed over, or was refused: on to the next seed."""
        if self.ring is None:
            self.due_ms = min(self.due_ms, max(node.blocked_ms, now_ms + 1))

    def refresh(self, now_ms: int, after_ms: int = 0) -> None:
        """Ask a healthy member, or a seed, if the last question is longer ago than `after_ms`.

        A question that comes too soon after another one is asked a little later.
        """
        if self.ring is None:
            return
        self._hurried = self._hurried or not after_ms
        waited_ms = now_ms - self._asked_ms
        if waited_ms < HURRY_MS:
            return
        if waited_ms < after_ms and not self._hurried and not self._via:
            for node in self.ring.nodes:
                if not node.avoided:
                    return  # as nearly always
        nodes = [self.nodes[address] for address in self.addresses()]
        healthy = [node for node in nodes if not node.avoided]
        if not healthy:
            self.ask(now_ms)
        elif self._hurried or waited_ms >= after_ms:
            self._next += 1
            self.ask(now_ms, healthy[self._next % len(healthy)])

    def outsiders(self) -> list[Node]:
        """Known nodes that the ring does not name: those that left it, and seeds elsewhere."""
        inside = dict.fromkeys(self.addresses())
        return [node for address, node in self.nodes.items() if address not in inside]

    def forget(self, node: Node) -> None:
        """Nothing waits for this outsider any more; a seed may be needed again."""
        node.waiting.clear()
        node.outbox.clear()
        if node not in self.seeds:
            self.nodes.pop(node.address, None)

    def learn(self, now_ms: int, node: Node, message: Message) -> bool:
        """Take in an answer; True if there is a new ring. Raises Malformed if it makes none."""
        if message[0] != m.RING_IS:
            self.unanswered(now_ms, node)
            return False
        if message[2:] == self._raw:
            return False
        if self.ring is not None and message[3] < self.ring.version:
            return False  # from a node that is behind
        if self._same(message):
            return False
        try:
            self.ring = Ring(message, self.nodes, self.ring)
        except Malformed as error:
            node.note = f"answered, but {error}"
            raise
        self._raw = message[2:]
        self.due_ms = NEVER_MS
        return True

    def _same(self, message: Message) -> bool:
        """Whether an answer without owners tells nothing new of the nodes either."""
        if self.ring is None or message[9] or message[3] != self.ring.version:
            return False
        return not message[8] or message[8] == self._raw[6]
