"""The client without I/O: requests in, frames out; frames in, finished requests out.

    submit(op) ─▶ route to an owner ─▶ outgoing() ─▶ (the driver sends) ─▶ handle() ─▶ completed
                     ▲      │ silent, refused, connection lost
                     └──────┘ another owner, same put id, attempt + 1

An operation is one `Op`; it ends exactly once, by its deadline at the latest, with `answer` or
`error`. Each time it is handed to a node is a *try* with a request number of its own. A try that
was silent stays open: the first good answer wins, and what arrives after the end is dropped by
its number (riak-python-client #425 gave it to the next caller). A connection breaking ends its
tries at once; nothing sent means nothing to worry about, so such tries do not count.

Time per try. The time that remains is shared out among the tries that remain, so that the next
owner is asked well before the deadline. Requests carry all of the remaining time, less a margin
in which the coordinator's own account of a timeout can still arrive. A read asks one more owner
early, at 8 times the node's usual latency, from a budget of one read in sixteen: hedging must not
double the load of a ring that is slow because it is loaded.

Routing. The first owner in the arc's preference list that is not avoided, the same for all
operations on a key, for read-your-writes; then the other owners; then any node. Nodes come and go
while the client runs: who is not in the ring any more is asked nothing new, its answers still
count, and it is forgotten when none is waited for (`let_go`).

maybe_applied. A put may have happened as soon as a try of it was handed over and no definite
answer says otherwise:

    tries of the put                                             maybe_applied
    never handed over                                            False
    all answered "nothing was done"                              False
    one silent, or its connection broke, whatever others say     True
    one answered "timed out", after it may have minted           True

Invariants
  S1  An operation ends exactly once, and not after its deadline.
  S2  All tries of a put carry its one id; the attempt number counts the tries handed over before.
  S3  An answer counts only from the node asked, under the try's number, while the operation runs.
  S4  Same calls, same times, same random source: same frames. No clock, no hash order.

Not here: what an answer means for values and contexts (`surface`), and sockets (`wires`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from dynamo.client import outcomes
from dynamo.client.errors import ConfigurationError, DynamoError, Overloaded
from dynamo.client.finder import REFRESH_MS, Finder
from dynamo.client.op import Op
from dynamo.client.outbox import Outbox
from dynamo.client.routing import Node, Ring
from dynamo.client.wheel import NEVER_MS, Wheel
from dynamo.core import messages as m
from dynamo.core.messages import Malformed, Message
from dynamo.core.ring import arc_of

NO_TAG = bytes(8)
BACKOFF_MS_MIN, BACKOFF_MS_MAX = 10, 200
HEDGE_MS_MIN = 30
HEDGE_LATENCIES = 8
HEDGE_SHARE, HEDGE_BURST = 1 / 16, 32.0

_ANSWERS = {
    m.PUT: (m.PUT_OK, m.CONFLICT),
    m.GET: (m.GET_OK,),
    m.RING: (m.RING_IS,),
    m.SCAN: (m.SCAN_IS,),
}


class Session:
    """All requests of one client. Every method takes the time; none takes long."""

    def __init__(
        self,
        seeds: Iterable[str],
        rng: random.Random,
        *,
        via: str = "",
        max_in_flight: int = 10_000,
        max_queued_bytes: int = 64 << 20,
    ) -> None:
        self.id = f"c{rng.getrandbits(64):016x}"
        self.ring: Ring | None = None
        self.tag = NO_TAG
        self.completed: list[Op] = []
        self.in_flight = 0
        self.queued_bytes = 0
        self.stats = dict.fromkeys(("retries", "hedges", "late", "malformed", "lost"), 0)
        self._rng = rng
        self._via = via
        self._max_in_flight = max_in_flight
        self._max_queued_bytes = max_queued_bytes
        self._outbox = Outbox()
        self._finder = Finder(seeds, via, self._outbox)
        self._nodes = self._finder.nodes
        self._ops: dict[Op, None] = {}
        self._parked: dict[Op, None] = {}  # until the ring is known
        self._put_ids = rng.getrandbits(64) << 64
        self._hedges = HEDGE_BURST
        self._wheel = Wheel()

    # --- requests in --------------------------------------------------------------------------

    def submit(self, now_ms: int, op: Op) -> None:
        """Take up an operation. It may be among `completed` already when this returns."""
        op.started_ms = now_ms
        self._ops[op] = None
        self.in_flight += 1
        self.queued_bytes += op.size
        if op.deadline_ms <= now_ms:
            self._end(now_ms, op, error=outcomes.late(op, now_ms))
        elif self.in_flight > self._max_in_flight or self.queued_bytes > self._max_queued_bytes:
            self._end(now_ms, op, error=self._overloaded(now_ms, op))
        else:
            if op.kind == m.PUT:
                self._put_ids += 1
                op.put_id = self._put_ids.to_bytes(16, "big")
            if self.ring is None:
                self._parked[op] = None
                self._wheel.add(op, op.deadline_ms)
                self._finder.start(now_ms)
            else:
                self._route(now_ms, op)
                self._finder.refresh(now_ms, REFRESH_MS)

    def _overloaded(self, now_ms: int, op: Op) -> Overloaded:
        others, others_bytes = self.in_flight - 1, self.queued_bytes - op.size
        return outcomes.overloaded(op, now_ms, others, others_bytes)

    def cancel(self, now_ms: int, op: Op) -> None:
        """Nobody waits any more: forget the operation. It is not reported as completed."""
        if not op.done:
            self._end(now_ms, op)
            self.completed.remove(op)

    def fail_all(self, now_ms: int, error: Callable[[], DynamoError]) -> None:
        """End everything under way, as when the client is closed."""
        for op in list(self._ops):
            failure = error()
            failure.maybe_applied = op.maybe_applied
            self._end(now_ms, op, error=failure)

    def take_completed(self) -> list[Op]:
        """Operations that have ended since the last call, in that order."""
        done, self.completed = self.completed, []
        return done

    # --- frames out ---------------------------------------------------------------------------

    def outgoing(self, now_ms: int) -> list[tuple[str, list[Message]]]:
        """What to send now: (address, messages of one frame). Each is handed over or `unsent`."""
        return self._outbox.take(now_ms, self.ring)

    @property
    def has_outgoing(self) -> bool:
        """Whether `outgoing` may have something."""
        return bool(self._outbox)

    def frame(self, now_ms: int, messages: list[Message]) -> bytes:
        """One batch of `outgoing` as bytes."""
        return m.encode_frame(self.tag, self.id, 0, now_ms, messages)

    def unsent(self, now_ms: int, address: str, messages: list[Message]) -> None:
        """The driver could not hand over a batch of `outgoing`: nobody will ever see it."""
        node = self._nodes.get(address)
        if node is None:
            return
        first = node.refused(now_ms)
        if not first and not node.avoided:
            node.failed(now_ms)
            self._finder.refresh(now_ms)
        for message in messages:
            item = node.waiting.pop(message[1], None)
            if item is None:
                continue
            op = item.op
            if op is None:
                self._finder.unanswered(now_ms, node)
                continue
            op.open.remove(item)
            op.asked.remove(node)
            op.sent -= 1
            if op.open:
                continue  # another try of it is under way
            if first:
                self._rest_at(now_ms, op, node)
            else:
                self._route(now_ms, op)

    # --- frames in ----------------------------------------------------------------------------

    def receive(self, now_ms: int, address: str, frame: bytes) -> None:
        """A frame from a node. What is malformed is counted and dropped."""
        node = self._nodes.get(address)
        if node is None:
            return
        tag = b"" if self.ring is None else self.tag
        try:
            sender, _, _, messages = m.decode_frame(frame, tag, m.TO_CLIENT)
            if self.ring is None and any(message[0] == m.RING_IS for message in messages):
                tag = m.frame_tag(frame)
        except Malformed as error:
            self.stats["malformed"] += 1
            node.note = f"answered, but {error}"
            return
        if not node.name:
            node.name = sender
        self.handle(now_ms, address, messages, tag)

    def handle(
        self, now_ms: int, address: str, messages: Iterable[Message], tag: bytes = b""
    ) -> None:
        """Answers of a node, already decoded. `tag` is pinned with the first ring."""
        node = self._nodes.get(address)
        if node is None:
            return
        node.answered(now_ms)
        for message in messages:
            item = node.waiting.pop(message[1], None)
            if item is None:
                self.stats["late"] += 1  # S3
                continue
            op = item.op
            if op is None:
                self._learn(now_ms, node, message, tag)
                continue
            op.open.remove(item)
            node.latency_ms += (now_ms - item.sent_ms - node.latency_ms) / 8
            kind = message[0]
            if kind == m.FAILED:
                self._refused(now_ms, op, node, message)
            elif kind in _ANSWERS[op.kind]:
                op.coordinator = node.name
                self._end(now_ms, op, answer=message)
            else:
                self.stats["malformed"] += 1
                op.uncertain = op.uncertain or op.kind == m.PUT
                self._again(now_ms, op, 0)

    def _refused(self, now_ms: int, op: Op, node: Node, failed: Message) -> None:
        code, maybe, retry_after_ms = failed[2], failed[8], failed[9]
        if outcomes.tells_more(failed, op.failure):
            op.failure = (node, failed)
        if maybe:
            op.uncertain = True
        if code not in outcomes.RETRIED:
            self._end(now_ms, op, error=outcomes.refused(op, node, failed, now_ms))
            return
        if code in outcomes.ELSEWHERE:
            op.asked.remove(node)  # it does not count: a ring that starts has many of them
            if code == m.NOT_A_MEMBER:
                node.outside(now_ms)
                self._finder.refresh(now_ms)
            else:
                node.failed(now_ms)
        self._again(now_ms, op, retry_after_ms)

    def _again(self, now_ms: int, op: Op, at_least_ms: int) -> None:
        """Try another node after a pause, unless another try is open or none is left."""
        if op.open:
            return
        step = min(BACKOFF_MS_MIN << min(max(op.sent - 1, 0), 8), BACKOFF_MS_MAX)
        due_ms = now_ms + max(at_least_ms, int(step * self._rng.uniform(0.5, 1.0)), 1)
        if len(op.asked) >= op.tries or due_ms >= op.deadline_ms:
            self._expire(now_ms, op)
        else:
            self._wheel.add(op, due_ms)

    # --- connections --------------------------------------------------------------------------

    def lost(self, now_ms: int, address: str) -> None:
        """The connection broke. Answers to what was sent will not come; ask others at once."""
        node = self._nodes.get(address)
        if node is None:
            return
        node.note = "its connection broke"
        if not node.avoided:
            node.failed(now_ms)
        for item in [item for item in node.waiting.values() if item.sent]:
            node.waiting.pop(item.req, None)
            op = item.op
            if op is None:
                self._finder.unanswered(now_ms, node)
                continue
            if op.done:
                continue  # ended by the loss of an earlier try
            self.stats["lost"] += 1
            op.uncertain = op.uncertain or op.kind == m.PUT
            op.open.remove(item)
            if op.open:
                continue
            if len(op.asked) >= op.tries:
                self._expire(now_ms, op)
            else:
                self._route(now_ms, op)
        self._finder.refresh(now_ms)

    def reachable(self, now_ms: int, address: str) -> None:
        """Frames can be handed over again: what rested for this node goes out."""
        node = self._nodes.get(address)
        if node is None:
            return
        node.reached = True
        node.refused_ms = -1
        node.blocked_ms = 0
        node.alive()
        for op in list(node.resting):
            self._route(now_ms, op)
        seeking = self._parked if self.ring is None else self.in_flight and self._outside(node)
        if seeking and not node.waiting:
            self._finder.ask(now_ms, node)

    def _outside(self, node: Node) -> bool:
        return self.ring is not None and node not in self.ring.nodes

    def addresses(self) -> list[str]:
        """Every node that may be needed: the members, or the seeds while there is no ring."""
        return self._finder.addresses()

    def let_go(self, address: str) -> bool:
        """Forget a node that is not needed any more; False while a request waits for it."""
        node = self._nodes.get(address)
        if node is None:
            return True
        if node.resting or any(item.op is not None for item in node.waiting.values()):
            return False
        self._finder.forget(node)
        return True

    # --- time ---------------------------------------------------------------------------------

    def next_due_ms(self) -> int:
        """When `tick` has something to do; a number far away if never."""
        return min(self._wheel.next_ms(), self._finder.due_ms)

    def tick(self, now_ms: int) -> None:
        """Do what is due: ask another node, end what has reached its deadline."""
        for op in self._wheel.due(now_ms):
            self._wake(now_ms, op)
        if self._finder.due_ms <= now_ms:
            self._finder.due_ms = NEVER_MS
            if self._parked:
                self._finder.ask(now_ms)
        if self.in_flight:
            self._finder.refresh(now_ms, REFRESH_MS)

    def _wake(self, now_ms: int, op: Op) -> None:
        if now_ms >= op.deadline_ms:
            self._expire(now_ms, op)
        elif op in self._parked:
            self._wheel.add(op, op.deadline_ms)
        elif not op.open:
            self._route(now_ms, op)
        elif now_ms < op.patience_ms:
            self._hedge(now_ms, op)
            self._wheel.add(op, op.patience_ms)
        else:
            self._silent(now_ms, op)

    def _hedge(self, now_ms: int, op: Op) -> None:
        """Ask one more node for a slow read, if the budget allows and there is another."""
        if self._hedges < 1 or op.pin or self._via:
            return  # nobody else is to be asked; and the one that is may have left the ring
        node = self._pick(now_ms, op)
        if node not in op.asked and node.blocked_ms <= now_ms:
            self._hedges -= 1
            self.stats["hedges"] += 1
            self._hand(op, node)

    def _silent(self, now_ms: int, op: Op) -> None:
        """The patience for a try is over: the node is asked no more, another is, if one is left."""
        for item in op.open:
            if item.sent and item.node.answered_ms <= item.sent_ms and not item.node.avoided:
                item.node.failed(now_ms)
                item.node.note = "silent"
                self._finder.refresh(now_ms)
        if len(op.asked) < op.tries:
            self._route(now_ms, op)
        else:
            self._wheel.add(op, op.deadline_ms)

    def _expire(self, now_ms: int, op: Op) -> None:
        nodes = self._finder.seeds if self.ring is None else self.ring.nodes
        if op.pin or self._via:
            nodes = [node for node in self._nodes.values() if node.note != "not tried"]
        self._end(now_ms, op, error=outcomes.expired(op, now_ms, self.ring, nodes))

    def _end(
        self, now_ms: int, op: Op, answer: Message | None = None, error: DynamoError | None = None
    ) -> None:
        assert not op.done  # S1
        op.uncertain = op.maybe_applied
        op.done = True
        op.answer = answer
        op.error = error
        op.ended_ms = now_ms
        del self._ops[op]
        self._parked.pop(op, None)
        self._rouse(op)
        for item in op.open:
            item.node.waiting.pop(item.req, None)
        op.open.clear()
        self.in_flight -= 1
        self.queued_bytes -= op.size
        self.completed.append(op)

    # --- routing ------------------------------------------------------------------------------

    def _route(self, now_ms: int, op: Op) -> None:
        """Hand the operation to the best node, or let it rest until that can be reached."""
        self._rouse(op)
        if op.arc < 0 and not self._admit(now_ms, op):
            return
        try:
            node = self._pick(now_ms, op)
        except ConfigurationError as error:
            self._end(now_ms, op, error=error)
            return
        if node.blocked_ms > now_ms:
            self._rest_at(now_ms, op, node)
            return
        if op.sent:
            self.stats["retries"] += 1
        self._hand(op, node)
        left = op.tries - len(op.asked)
        remaining_ms = op.deadline_ms - now_ms
        patience_ms = max(remaining_ms // (left + 1), 1) if left > 0 else remaining_ms
        op.patience_ms = now_ms + patience_ms
        if op.kind == m.GET and len(op.asked) == 1:
            self._hedges = min(self._hedges + HEDGE_SHARE, HEDGE_BURST)
            patience_ms = min(
                patience_ms, max(HEDGE_MS_MIN, int(HEDGE_LATENCIES * node.latency_ms))
            )
        self._wheel.add(op, now_ms + patience_ms)

    def _hand(self, op: Op, node: Node) -> None:
        op.open.append(self._outbox.add(op, node))
        op.asked.append(node)

    def _admit(self, now_ms: int, op: Op) -> bool:
        """First contact with the ring: its limits, and the arc of the key."""
        ring = self.ring
        assert ring is not None, "parked until there is one"
        error = outcomes.impossible(op, ring, now_ms)
        if error is not None:
            self._end(now_ms, op, error=error)
            return False
        op.arc = arc_of(op.key, ring.partitions) if op.key else 0
        if op.kind == m.PUT:
            # Nodes remember put ids for twice the longest deadline: no retry may come later.
            op.deadline_ms = min(op.deadline_ms, op.started_ms + ring.timeout_ms_max)
        return True

    def _pick(self, now_ms: int, op: Op) -> Node:
        ring = self.ring
        assert ring is not None, "parked until there is one"
        if op.pin or self._via:
            return ring.pinned(op.pin or self._via, self._nodes)
        for node in ring.owners[op.arc]:
            if not node.avoided:
                if not op.asked or node not in op.asked:
                    return node
            elif node.probe_ms <= now_ms:
                self._finder.probe(now_ms, node)
        return ring.beyond(op.arc, op.asked)

    def _rest_at(self, now_ms: int, op: Op, node: Node) -> None:
        # At one node only. History: an operation rested at two, ended at one, and the other,
        # when it came back, sent another try of what was over.
        self._rouse(op)
        op.resting_at = node
        node.resting[op] = None
        self._finder.refresh(now_ms, REFRESH_MS)
        self._wheel.add(op, max(node.blocked_ms, now_ms + 1))

    def _rouse(self, op: Op) -> None:
        if op.resting_at is not None:
            op.resting_at.resting.pop(op, None)
            op.resting_at = None

    def _learn(self, now_ms: int, node: Node, message: Message, tag: bytes) -> None:
        """Take in an answer to a question about the ring; with the first one all can begin."""
        try:
            if not self._finder.learn(now_ms, node, message):
                return
        except Malformed:
            self.stats["malformed"] += 1
            return
        if self.ring is None and tag:
            self.tag = tag
        self.ring = self._finder.ring
        parked, self._parked = self._parked, {}
        for op in parked:
            self._route(now_ms, op)
        for node in self._finder.outsiders():
            for op in list(node.resting):
                self._route(now_ms, op)  # whoever left need not be waited for
            self.let_go(node.address)
