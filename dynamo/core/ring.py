"""Keys to arcs, arcs to owners: the ring as one table.

    hash128(full key)   bits 0..15 of the digest | 12 bits | rest
                        top log2(Q) name the arc | leaf    |

The ring is Q equal arcs (Dynamo §6.2, strategy 3). Each arc has a register
`(ver, phase, tie, cur, next)`: its owners now, and its owners to be. Registers merge by maximum
of `(ver, phase, tie)`, arc by arc, so merge order never matters. Until ring changes exist every
register stays at version 1, phase 0, but every request between nodes carries `(ver, phase)` and
is refused when it is older than the receiver's.

A storage key is `arc u16 | leaf u16 | full key`, so that an arc, and a leaf of it, is one range
of the store. The leaf bits lie below all arc bits whatever Q is.

Invariants
  R1  The table is a function of members, n and Q alone: every node computes the same one.
  R2  The owners of an arc are distinct.
  R3  A register never falls: (ver, phase, tie) only rises.

Sources: DeCandia et al. 2007, §4.2-4.3, §6.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import mmh3

from dynamo.core import planner

BUCKET_BYTES_MAX = 128
LEAVES = 4096

_digest = mmh3.mmh3_x64_128_digest


class Member(NamedTuple):
    """One node as the configuration names it. Ports are on `host`; zone spreads replicas."""

    name: str
    host: str
    client_port: int
    peer_port: int
    zone: str = ""
    weight: int = 1


class Register(NamedTuple):
    """The owners of one arc, now (`cur`) and to be (`next`, empty while the arc is stable)."""

    ver: int
    phase: int
    tie: int
    cur: tuple[str, ...]
    next: tuple[str, ...]


def full_key(bucket: bytes, key: bytes) -> bytes:
    """Bucket and key as one byte string; bucket 1..128 bytes."""
    return b"%c%b%b" % (len(bucket), bucket, key)


def split_key(full: bytes) -> tuple[bytes, bytes]:
    """The (bucket, key) of a full key. Raises ValueError if it is not one."""
    end = 1 + full[0] if full else 0
    if not 1 < end < len(full) or end > 1 + BUCKET_BYTES_MAX:
        raise ValueError("not a full key: a bucket and a key of at least one byte each")
    return full[1:end], full[end:]


def arc_of(full: bytes, partitions: int) -> int:
    """The arc, 0..partitions-1, that holds this full key."""
    digest = _digest(full)
    return ((digest[0] << 8) | digest[1]) * partitions >> 16


def storage_key(full: bytes, partitions: int) -> bytes:
    """Where the key lies in a store: arc, leaf, full key."""
    digest = _digest(full)
    bits = int.from_bytes(digest[:4], "big")
    arc = (bits >> 16) * partitions >> 16
    return (arc << 16 | (bits >> 4 & 0xFFF)).to_bytes(4, "big") + full


def arc_range(arc: int) -> tuple[bytes, bytes]:
    """First storage key of an arc, and the first one beyond it."""
    # A leaf has 12 bits, so the third byte of a storage key is below 16: b"\xff" ends the last arc.
    end = (arc + 1).to_bytes(2, "big") if arc < 0xFFFF else b"\xff\xff\xff"
    return arc.to_bytes(2, "big"), end


@lru_cache(maxsize=8)
def _first_registers(
    shape: tuple[tuple[str, str, int], ...], n: int, partitions: int
) -> tuple[Register, ...]:
    """What every arc begins with. Kept, because a process that holds many nodes asks for the same
    one at each start: a simulated ring whose nodes die often spent a third of its time here."""
    members = {name: (zone, weight) for name, zone, weight in shape}
    owners = planner.plan([()] * partitions, members, n)
    return tuple(Register(1, 0, planner.tie_of(cur, ()), cur, ()) for cur in owners)


class Table:
    """All registers of a ring, and the lookups that requests need. Cost of a lookup: one index."""

    __slots__ = ("_others", "_walks", "members", "n", "names", "partitions", "registers", "version")

    def __init__(self, members: Sequence[Member], n: int, partitions: int) -> None:
        self.members = {m.name: m for m in sorted(members)}
        assert len(self.members) == len(members), "member names are unique"
        self.names = tuple(self.members)
        self.n = min(n, len(members))
        self.partitions = partitions
        self.version = 1
        shape = tuple((m.name, m.zone, m.weight) for m in self.members.values())
        self._others: dict[int, tuple[Register, list[str]]] = {}
        self._walks: dict[int, list[str]] = {}  # arc -> the nodes beyond its owners, in order
        self.registers = list(_first_registers(shape, n, partitions))

    def owners(self, arc: int) -> tuple[str, ...]:
        """The preference list of the arc: N distinct nodes, first choice first, dead or alive."""
        return self.registers[arc].cur

    def others(self, arc: int, me: str) -> list[str]:
        """The other owners of an arc, in the order of names after `me`, around; not to be changed.

        Not in the order of the list: a node that asks the same neighbour for most of its arcs
        sends one frame where it would send several, and every node is somebody's neighbour.
        """
        register = self.registers[arc]
        known = self._others.get(arc)
        if known is not None and known[0] is register:
            return known[1]
        names = [name for name in register.cur if name != me]
        names.sort(key=lambda name: (name < me, name))
        self._others[arc] = (register, names)
        return names

    def adopt(self, arc: int, register: Register) -> bool:
        """Take a register if it is above the one held (R3); say whether it was."""
        if register[:3] <= self.registers[arc][:3]:
            return False
        self.registers[arc] = register
        self._walks.clear()
        self.version = max(self.version, register.ver)
        return True

    def fallbacks(self, arc: int, usable: Callable[[str], bool]) -> list[str]:
        """Nodes beyond the owners that `usable` accepts, nearest clockwise first.

        Dynamo §4.6: the walk over the following arcs meets the other nodes in an order that
        every node computes alike, so that hints for one arc gather on few stand-ins.
        Cost: O(partitions) at worst, once per arc.
        """
        known = self._walks.get(arc)
        if known is None:
            known = self._walks[arc] = self._walk(arc)
        return [name for name in known if usable(name)]

    def _walk(self, arc: int) -> list[str]:
        seen = dict.fromkeys(self.registers[arc].cur)
        for step in range(1, self.partitions):
            seen.update(dict.fromkeys(self.registers[(arc + step) % self.partitions].cur))
            if len(seen) == len(self.members):
                break
        return list(seen)[len(self.registers[arc].cur) :]

    def arcs_of(self, name: str) -> list[int]:
        """The arcs that a node owns."""
        return [arc for arc, r in enumerate(self.registers) if name in r.cur]

    def packed_owners(self) -> bytes:
        """Owner lists as clients get them: per arc a count byte, then u16 indices into names."""
        index = {name: i.to_bytes(2, "big") for i, name in enumerate(self.names)}
        return b"".join(
            bytes([len(r.cur)]) + b"".join(index[name] for name in r.cur) for r in self.registers
        )

    def check(self) -> None:
        for register in self.registers:
            assert len(set(register.cur)) == len(register.cur), "R2"
            assert len(register.cur) == self.n, "R2"
