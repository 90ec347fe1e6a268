"""What waits to be handed over: tries per node, numbered, packed into frames."""

from __future__ import annotations

from dynamo.client.op import Op, Try
from dynamo.client.routing import Node, Ring
from dynamo.core.messages import Message

# A frame is cut here: a longer one would hold up everything behind it (32 KiB take 13 us to send).
FRAME_BYTES_MAX = 256 << 10


class Outbox:
    """All tries of one session that no driver has fetched yet, in order per node."""

    __slots__ = ("_dirty", "_req", "sent")

    def __init__(self) -> None:
        self._dirty: dict[Node, None] = {}
        self._req = 0
        self.sent = 0

    def __bool__(self) -> bool:
        return bool(self._dirty)

    def add(self, op: Op | None, node: Node) -> Try:
        """A new try under a number of its own. `op` None asks for the ring."""
        self._req += 1
        item = Try(self._req, op, node)
        node.waiting[self._req] = item
        node.outbox.append(item)
        self._dirty[node] = None
        return item

    def take(self, now_ms: int, ring: Ring | None) -> list[tuple[str, list[Message]]]:
        """Everything, as (address, messages of one frame). Tries count as sent from here on."""
        frames: list[tuple[str, list[Message]]] = []
        dirty, self._dirty = self._dirty, {}
        for node in dirty:
            tries, node.outbox = node.outbox, []
            batch: list[Message] = []
            size = 0
            for item in tries:
                if item.req not in node.waiting:
                    continue  # its operation has ended
                cost = 64 + item.op.size if item.op is not None else 64
                if batch and size + cost > FRAME_BYTES_MAX:
                    frames.append((node.address, batch))
                    batch, size = [], 0
                batch.append(item.message(now_ms, ring))
                self.sent += 1
                size += cost
            if batch:
                frames.append((node.address, batch))
                node.note = "connected, but it does not answer"
        return frames
