"""What no change of the ring may do, watched on every disk (I10, I11).

    Registers  I10   a register never falls on a disk; its lists are distinct and no longer than N;
                     versions that switch form one chain: each begins with the owners that the one
                     before it ended with, so no two of them were ever switched to side by side
               I11   who is gone stays gone; incarnations rise; whoever is gone is given nothing

The chain is what promises and votes are for. History (DESIGN §8): one side of a split had finished
a move and a loser had dropped its rows; the other side wrote a higher version that began with the
old owners, and the merge would have brought back an empty one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dynamo.core.items import KINDS, LEFT, UNKNOWN
from dynamo.core.ring import DONE, SWITCHED, Register
from dynamo.core.spaces import RING
from dynamo.sim.judge import Changes, Judge
from dynamo.sim.machine import Host

if TYPE_CHECKING:
    from dynamo.sim.world import World

_decode = msgspec.msgpack.Decoder(list).decode


class Registers(Judge):
    """Registers, wishes and records only rise, and switched versions form one chain."""

    numbers = ("I10", "I11")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        # Per arc every version that was switched to: (version, owners before, owners after).
        self._chains: dict[int, dict[int, tuple[tuple[str, ...], tuple[str, ...]]]] = {}

    def committed(self, host: Host, first: Changes) -> None:
        for (space, key), before in first.items():
            if space == RING and key[1:2] == b"/" and key[:1] in b"nwr":
                after = host.disk.peek(RING, key)
                if after is None:
                    self.oracle.accuse("I10", b"", f"{host.name} forgets {key.decode()}")
                else:
                    self._compare(host, key.decode(), before, after)

    def _compare(self, host: Host, key: str, before: bytes | None, after: bytes) -> None:
        kind = KINDS[key[0]]
        new = kind.parse(tuple(_decode(after)))
        if before is not None:
            old = kind.parse(tuple(_decode(before)))
            if kind.order(new) < kind.order(old):
                number = "I10" if key[0] == "r" else "I11"
                self.oracle.accuse(number, b"", f"{host.name} lets {key} fall from {old} to {new}")
            if key[0] == "w" and old.status >= LEFT > new.status:
                self.oracle.accuse("I11", b"", f"{host.name} takes {key[2:]} back into the ring")
        if key[0] == "r":
            self._judge_register(host, int(key[2:]), new)

    def _judge_register(self, host: Host, arc: int, register: Register) -> None:
        config = self.world.config
        for names in (register.cur, register.next):
            if len(dict.fromkeys(names)) < len(names) or len(names) > config.n:
                self.oracle.accuse("I10", b"", f"{host.name} has arc {arc} at {register}")
        if register.phase == SWITCHED:
            self._switched(host, arc, register.ver, register.cur, register.next)
        elif register.phase == DONE and register.ver not in self._chains.get(arc, {}):
            self.oracle.accuse("I10", b"", f"{host.name}: arc {arc} is done and was never switched")

    def _switched(
        self, host: Host, arc: int, ver: int, cur: tuple[str, ...], coming: tuple[str, ...]
    ) -> None:
        chain = self._chains.setdefault(arc, {})
        if ver in chain:
            return
        last = max(chain, default=0)
        owners = chain[last][1] if chain else self.world.census.first[arc]
        if ver < last or cur != owners:
            self.oracle.accuse(
                "I10", b"", f"{host.name} switches arc {arc} from {cur} to {coming}, and {owners} "
                f"owned it since version {last}",
            )  # fmt: skip
        chain[ver] = (cur, coming)

    def at_rest(self) -> None:
        census = self.world.census
        for arc, register in enumerate(census.table.registers):
            if register == UNKNOWN:
                self.oracle.accuse("I10", b"", f"nobody knows arc {arc}")
            for name in register.cur:
                if not census.inside(name):
                    self.oracle.accuse("I11", b"", f"arc {arc} is owned by {name}, which is gone")
