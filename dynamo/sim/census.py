"""Who is who in a world, and the ring as it is: what the nodes know, taken together.

No node knows it all at every moment. Of each arc the highest register that any node has taken
counts, and of each node the latest wish: what is promised is promised by those.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from dynamo.core import ring
from dynamo.core.config import Config
from dynamo.core.items import DISCARD, IN, KINDS, LEAVING, OUT, REMOVED, Wish
from dynamo.core.node import Cluster, Node

CLUSTER = Cluster("sim", b"a secret of the simulated ring.")


class Census:
    """Addresses of hosts, the ring as it is, and how a node comes into it."""

    def __init__(self, names: Sequence[str], config: Config, zones: Sequence[str]) -> None:
        self._config = config
        self._zones = tuple(zones) or ("",)
        self.members: list[ring.Member] = []  # of every host, in the order of their coming
        # As clients know the nodes: by address; and as those do that want to join them.
        self.addresses: dict[str, str] = {}
        self.address_of: dict[str, str] = {}
        self.seeds: dict[str, str] = {}
        for name in names:
            self.enlist(name)
        self.founders = tuple(self.members)
        self.table = ring.Table(self.members, config.n, config.partitions)
        self.first = [register.cur for register in self.table.registers]  # what founders own
        self.wishes: dict[str, Wish] = {}

    def enlist(self, name: str) -> None:
        """Give a host its addresses."""
        at = len(self.members)
        zone = self._zones[at % len(self._zones)]
        member = ring.Member(name, "127.0.0.1", 7001 + at, 8001 + at, zone)
        self.members.append(member)
        address = f"{member.host}:{member.client_port}"
        self.addresses[address] = name
        self.address_of[name] = address
        self.seeds[f"@{member.host}:{member.peer_port}"] = name

    def rehouse(self, name: str) -> None:
        """Give a host another address: its machine was replaced. The old one is still known."""
        at = next(i for i, member in enumerate(self.members) if member.name == name)
        old = self.members[at]
        new = old._replace(client_port=old.client_port - 1_000, peer_port=old.peer_port - 1_000)
        self.members[at] = new
        address = f"{new.host}:{new.client_port}"
        self.addresses[address] = name
        self.address_of[name] = address
        self.seeds[f"@{new.host}:{new.peer_port}"] = name

    def node(self, name: str, disk: Any, rng: random.Random, clock_ms: int) -> Node:
        """The node of a host: a founder of the ring, or one that wants to join it."""
        me = next(member for member in self.members if member.name == name)
        founds = any(name == founder.name for founder in self.founders)
        return Node(
            self._config, me, self.founders if founds else (), CLUSTER, disk, rng, clock_ms,
            () if founds else [at[1:] for at in self.seeds],
        )  # fmt: skip

    def learn(self, node: Node) -> bool:
        """A node knows more of the ring than before; whether that is more than anybody did."""
        news = False
        for arc, register in enumerate(node.roster.table.registers):
            news |= self.table.adopt(arc, register)
        for name, wish in node.roster.wishes.items():
            known = self.wishes.get(name)
            if known is None or KINDS["w"].order(wish) > KINDS["w"].order(known):
                self.wishes[name] = wish
                news = True
        return news

    def status(self, name: str) -> int:
        """What people want of a node, as far as any node has heard of it."""
        wish = self.wishes.get(name)
        return OUT if wish is None else wish.status

    def discarded(self, name: str) -> bool:
        """Whether people said that nothing of this node is wanted any more."""
        wish = self.wishes.get(name)
        return wish is not None and wish.status == REMOVED and bool(wish.flags & DISCARD)

    @property
    def owners(self) -> dict[str, None]:
        """Everybody who owns any arc, or is about to."""
        arcs = range(self.table.partitions)
        return {name: None for arc in arcs for name in self.table.writers(arc)}

    def inside(self, name: str) -> bool:
        """Whether a node belongs to the ring."""
        return self.status(name) in (IN, LEAVING)
