"""The ring as a client sees it, and what it knows of each node's health.

Health is a local opinion of one client. A node is *avoided* after it was silent for the whole
patience of a try, after its connection broke, or when nothing can be sent to it; it is asked again
as soon as it answers a probe or its connection comes back. Avoiding only changes who is asked
first: with every node avoided, requests still go to the least bad one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo.client.errors import ConfigurationError
from dynamo.core.messages import Malformed, Message

if TYPE_CHECKING:
    from dynamo.client.op import Op, Try

NEVER_MS = 1 << 60
PROBE_MS_MIN = 100
PROBE_MS_MAX = 4_000
BLOCK_MS_MAX = 64
# A node that was never reached may need this long for its first connection; before that its
# refusals say nothing.
GRACE_MS = 150
# A node that said it does not belong to the ring is not believed to be back because it answers.
OUTSIDE_MS = 1_000
_MEMBERS_MAX = 4_096


class Node:
    """One address: what waits for it, what waits to be sent, how it has behaved."""

    __slots__ = (
        "address",
        "answered_ms",
        "avoided",
        "blocked_ms",
        "failures",
        "latency_ms",
        "name",
        "note",
        "outbox",
        "outside_ms",
        "probe_ms",
        "probe_req",
        "reached",
        "refused_ms",
        "resting",
        "waiting",
    )

    def __init__(self, address: str, name: str = "") -> None:
        self.address = address
        self.name = name
        self.outbox: list[Try] = []
        self.waiting: dict[int, Try] = {}  # by request number
        self.resting: dict[Op, None] = {}  # operations that wait for this node to be reachable
        self.latency_ms = 1.0  # moving average
        self.failures = 0  # in a row
        self.avoided = False
        self.probe_ms = 0  # not probed before
        self.probe_req = 0
        self.reached = False  # a frame has been handed over at least once
        self.blocked_ms = 0  # nothing can be handed over before
        self.refused_ms = -1  # when it first refused a frame, since it was last reachable
        self.answered_ms = -1
        self.outside_ms = 0  # it is no member, by its own word, until then
        self.note = "not tried"  # the reason given when nobody can be reached

    def __repr__(self) -> str:
        state = "avoided" if self.avoided else "ok"
        return f"<{self.name or self.address} {state}, {len(self.waiting)} waiting>"

    def failed(self, now_ms: int) -> None:
        """It was silent, or cannot be reached: ask others first until it shows life."""
        self.failures += 1
        self.avoided = True
        self.probe_ms = now_ms + min(PROBE_MS_MIN << min(self.failures - 1, 10), PROBE_MS_MAX)

    def outside(self, now_ms: int) -> None:
        """It says that it does not belong to the ring: ask others first."""
        self.failed(now_ms)
        self.outside_ms = now_ms + OUTSIDE_MS
        self.note = "does not belong to the ring"

    def answered(self, now_ms: int) -> None:
        """A message of it came."""
        self.answered_ms = now_ms
        if self.failures and now_ms >= self.outside_ms:
            self.alive()

    def alive(self) -> None:
        """It answered, or its connection came up."""
        self.failures = 0
        self.avoided = False

    def refused(self, now_ms: int) -> bool:
        """Nothing can be handed over now. True while that may still be its first connection."""
        if self.refused_ms < 0:
            self.refused_ms = now_ms
        waited_ms = now_ms - self.refused_ms
        self.blocked_ms = now_ms + max(1, min(waited_ms, BLOCK_MS_MAX))
        self.note = f"no connection for {waited_ms} ms"
        return not self.reached and waited_ms < GRACE_MS


class Ring:
    """Who owns what, learnt from one RING_IS. Immutable but for the health of its nodes."""

    __slots__ = (
        "by_name",
        "cluster",
        "key_bytes_max",
        "n",
        "nodes",
        "owners",
        "partitions",
        "r",
        "timeout_ms_max",
        "value_bytes_max",
        "version",
        "w",
    )

    def __init__(
        self, message: Message, nodes: dict[str, Node], before: Ring | None = None
    ) -> None:
        """Raises Malformed for a message that makes no ring. `nodes` keep what is known.

        An answer without owners means those of `before`, the ring of the same version.
        """
        _, _, cluster, version, n, partitions, r, w, members, owners, limits = message
        self.cluster: str = cluster
        self.version: int = version
        self.n: int = n
        self.partitions: int = partitions
        self.r: int = r or n // 2 + 1
        self.w: int = w or n // 2 + 1
        if not 1 <= len(members) <= _MEMBERS_MAX or n < 1 or not 1 <= partitions <= 1 << 16:
            raise Malformed("a ring without members, replicas or arcs")
        listed = tuple(_node(member, nodes) for member in members)
        self.nodes = tuple(node for node in listed if node.address)
        if not self.nodes:
            raise Malformed("a ring in which no node has an address")
        self.by_name = {node.name: node for node in self.nodes}
        self.owners: list[tuple[Node, ...]]
        if not owners and before is not None and before.version == version:
            self.owners = _renamed(before.owners, {node.name: node for node in listed})
        else:
            self.owners = _unpack(owners, partitions, listed)
        known = [limit for limit in limits[:3] if type(limit) is int and limit > 0]
        if len(known) < 3:
            raise Malformed("a ring without limits")
        self.key_bytes_max, self.value_bytes_max, self.timeout_ms_max = known

    def __repr__(self) -> str:
        return f"<Ring {self.cluster!r} version {self.version}, {len(self.nodes)} nodes>"

    def beyond(self, arc: int, asked: list[Node]) -> Node:
        """Whom to ask when no owner is left: another healthy node, else the least bad one."""
        for node in self.nodes:
            if not node.avoided and node not in asked:
                return node
        candidates = [node for node in (*self.owners[arc], *self.nodes) if node.address]
        return min(candidates, key=lambda node: (node.avoided, asked.count(node), node.blocked_ms))

    def pinned(self, name: str, nodes: dict[str, Node]) -> Node:
        """The one node that may be asked, by its name or its address."""
        node = self.by_name.get(name) or nodes.get(name)
        if node is None and ":" in name:
            node = nodes[name] = Node(name)
        if node is None:
            raise ConfigurationError(
                f"via={name!r} is no node of the ring; it has {', '.join(self.by_name)}"
            )
        return node


def _node(member: Any, nodes: dict[str, Node]) -> Node:
    if not isinstance(member, list | tuple) or len(member) < 3:
        raise Malformed("a member is [name, host, port]")
    name, host, port = member[:3]
    if type(name) is not str or type(host) is not str or type(port) is not int:
        raise Malformed("a member is [name, host, port]")
    if not host or not 0 < port < 1 << 16:
        return _nowhere(name)
    address = f"[{host}]:{port}" if ":" in host and host[0] != "[" else f"{host}:{port}"
    node = nodes.get(address)
    if node is None:
        node = nodes[address] = Node(address, name)
    node.name = name
    return node


def _nowhere(name: str) -> Node:
    """An owner of which nobody knows where it is: it counts as one, and is never asked."""
    node = Node("", name)
    node.avoided = True
    node.probe_ms = node.blocked_ms = NEVER_MS
    return node


def _renamed(owners: list[tuple[Node, ...]], by_name: dict[str, Node]) -> list[tuple[Node, ...]]:
    """The same owners, wherever they are now."""
    shared: dict[tuple[Node, ...], tuple[Node, ...]] = {}
    try:
        for arc in owners:
            if arc not in shared:
                shared[arc] = tuple(by_name[node.name] for node in arc)
    except KeyError as missing:
        raise Malformed(f"a list of nodes without the owner {missing}") from None
    return [shared[arc] for arc in owners]


def _unpack(owners: bytes, partitions: int, nodes: tuple[Node, ...]) -> list[tuple[Node, ...]]:
    found = []
    at = 0
    shared: dict[bytes, tuple[Node, ...]] = {}  # many arcs have the same owners
    try:
        for _ in range(partitions):
            end = at + 1 + 2 * owners[at]
            packed = owners[at + 1 : end]
            if end == at + 1 or end > len(owners):
                raise Malformed("an arc without owners")
            arc = shared.get(packed)
            if arc is None:
                places = range(0, len(packed), 2)
                arc = tuple(nodes[packed[i] << 8 | packed[i + 1]] for i in places)
                shared[packed] = arc
            found.append(arc)
            at = end
    except IndexError:
        raise Malformed("owners that do not fit the ring") from None
    return found
