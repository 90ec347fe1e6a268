"""Keys to arcs, arcs to owners: the ring as one table.

    hash128(full key)   bits 0..15 of the digest | 12 bits | rest
                        top log2(Q) name the arc | leaf    |

The ring is Q equal arcs (Dynamo §6.2, strategy 3). Each arc has a register
`(ver, phase, tie, cur, next)`: its owners now, and its owners to be. Registers merge by maximum
of `(ver, phase, tie)`, arc by arc, so merge order never matters.

    phase        reads ask   writes need W of      what goes on (see `moves`)
    0 STABLE     cur         cur
    1 COPYING    cur         cur and of next       the gaining node copies
    2 SWITCHED   next        cur and of next       the copy is whole
    3 DONE       cur         cur                   cur is what next was, the losers may drop

A version is a ballot: a round above BALLOT_BITS bits of the hash of the lists it proposes. So two
proposals of one round never share a version, and equal proposals are one.

Every request between nodes carries `(ver, phase)`. Only under equal ones is it served: whoever is
behind is taught the other's register first.

A storage key is `arc u16 | leaf u16 | full key`, so that an arc, and a leaf of it, is one range
of the store. The leaf bits lie below all arc bits whatever Q is.

Invariants
  R1  The first table is a function of the founding members, n and Q alone: every founder computes
      the same one. Later ones are stored, never derived again.
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


STABLE, COPYING, SWITCHED, DONE = range(4)
FIRST_VER = 1  # of round 0: what the founders computed
BALLOT_BITS = 16


class Register(NamedTuple):
    """The owners of one arc, now (`cur`) and to be (`next`, empty while the arc is stable)."""

    ver: int
    phase: int
    tie: int
    cur: tuple[str, ...]
    next: tuple[str, ...]

    @property
    def readers(self) -> tuple[str, ...]:
        """Whom reads ask, first choice first."""
        return self.next if self.phase == SWITCHED else self.cur

    @property
    def write_sets(self) -> tuple[tuple[str, ...], ...]:
        """The owner lists of each of which a write needs W."""
        return (self.cur, self.next) if self.next else (self.cur,)

    @property
    def round(self) -> int:
        return self.ver >> BALLOT_BITS


def proposal(number: int, phase: int, cur: Sequence[str], nxt: Sequence[str]) -> Register:
    """The register that proposes these lists in round `number`, 1 or above."""
    tie = planner.tie_of(cur, nxt)
    ver = number << BALLOT_BITS | tie & (1 << BALLOT_BITS) - 1
    return Register(ver, phase, tie, tuple(cur), tuple(nxt))


def advanced(register: Register) -> Register:
    """The same version one phase on: COPYING to SWITCHED to DONE."""
    if register.phase == COPYING:
        return register._replace(phase=SWITCHED)
    assert register.phase == SWITCHED, "only a move advances"
    tie = planner.tie_of(register.next, ())
    return Register(register.ver, DONE, tie, register.next, ())


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
    return tuple(Register(FIRST_VER, STABLE, planner.tie_of(cur, ()), cur, ()) for cur in owners)


class Table:
    """All registers of a ring, and the lookups that requests need. Cost of a lookup: one index.

    `members` are the nodes that belong to the ring now; what a register names besides, such as a
    node that was removed and not yet replaced, is no member and nobody's fallback.
    """

    __slots__ = (
        "_others",
        "_readers",
        "_walks",
        "_writers",
        "changes",
        "members",
        "n",
        "names",
        "partitions",
        "registers",
        "replicas",
        "version",
    )

    def __init__(
        self,
        members: Sequence[Member],
        n: int,
        partitions: int,
        registers: Sequence[Register] | None = None,
    ) -> None:
        """`registers` as they were stored; without, those of a ring founded by `members`."""
        assert len({m.name for m in members}) == len(members), "member names are unique"
        self.replicas = n  # as configured; `n` is what the members make of it
        self.partitions = partitions
        self.changes = 0  # grows with whatever changes here: a cheap way to notice
        self._others: dict[int, tuple[Register, list[str]]] = {}
        self._walks: dict[int, list[str]] = {}  # arc -> the nodes beyond its owners, in order
        self.set_members(members)
        if registers is None:
            shape = tuple((m.name, m.zone, m.weight) for m in self.members.values())
            registers = _first_registers(shape, n, partitions)
        self.registers = list(registers)
        assert len(self.registers) == partitions, "a register per arc"
        self._readers = [register.readers for register in self.registers]
        self._writers = [_union(register) for register in self.registers]
        # A number for people and clients: how many steps the ring has made. It grows whenever a
        # register does, and equal tables have equal ones.
        self.version = 1 + sum(_steps(register) for register in self.registers)

    def set_members(self, members: Sequence[Member]) -> None:
        """Who belongs to the ring, from now on."""
        self.members = {m.name: m for m in sorted(members)}
        self.names = tuple(self.members)
        self.n = min(self.replicas, max(1, len(members)))
        self._walks.clear()
        self.changes += 1

    def owners(self, arc: int) -> tuple[str, ...]:
        """The preference list of the arc: whom reads ask, first choice first, dead or alive."""
        return self._readers[arc]

    def writers(self, arc: int) -> tuple[str, ...]:
        """Everybody a write is for: the owners now and, while the arc moves, the ones to be."""
        return self._writers[arc]

    def write_sets(self, arc: int) -> tuple[tuple[str, ...], ...]:
        """The owner lists of each of which a write needs W."""
        return self.registers[arc].write_sets

    def others(self, arc: int, me: str) -> list[str]:
        """The other owners of an arc, in the order of names after `me`, around; not to be changed.

        Not in the order of the list: a node that asks the same neighbour for most of its arcs
        sends one frame where it would send several, and every node is somebody's neighbour.
        """
        register = self.registers[arc]
        known = self._others.get(arc)
        if known is not None and known[0] is register:
            return known[1]
        names = [name for name in register.readers if name != me]
        names.sort(key=lambda name: (name < me, name))
        self._others[arc] = (register, names)
        return names

    def adopt(self, arc: int, register: Register) -> bool:
        """Take a register if it is above the one held (R3); say whether it was.

        Only `Roster` calls this: it also writes the register down.
        """
        held = self.registers[arc]
        if register[:3] <= held[:3]:
            return False
        self.registers[arc] = register
        self._readers[arc] = register.readers
        self._writers[arc] = _union(register)
        self._walks.clear()
        self.changes += 1
        self.version += _steps(register) - _steps(held)
        return True

    def fallbacks(self, arc: int, usable: Callable[[str], bool]) -> list[str]:
        """Members beyond the owners that `usable` accepts, nearest clockwise first.

        Dynamo §4.6: the walk over the following arcs meets the other nodes in an order that
        every node computes alike, so that hints for one arc gather on few stand-ins.
        Cost: O(partitions) at worst, once per arc.
        """
        known = self._walks.get(arc)
        if known is None:
            known = self._walks[arc] = self._walk(arc)
        return [name for name in known if usable(name)]

    def _walk(self, arc: int) -> list[str]:
        own = self._writers[arc]
        seen = dict.fromkeys(own)
        for step in range(1, self.partitions):
            seen.update(dict.fromkeys(self._readers[(arc + step) % self.partitions]))
            if len(seen) >= len(self.members) and all(name in seen for name in self.members):
                break
        # A member that owns nothing yet, or nothing any more, comes last.
        seen.update(dict.fromkeys(self.names))
        return [name for name in list(seen)[len(own) :] if name in self.members]

    def arcs_of(self, name: str) -> list[int]:
        """The arcs that a node owns, or is about to."""
        return [arc for arc, writers in enumerate(self._writers) if name in writers]

    def packed_owners(self) -> tuple[list[str], bytes]:
        """Owner lists as clients get them: names, and per arc a count byte and u16 indices."""
        names = list(dict.fromkeys((*self.names, *(n for r in self._readers for n in r))))
        index = {name: i.to_bytes(2, "big") for i, name in enumerate(names)}
        return names, b"".join(
            bytes([len(readers)]) + b"".join(index[name] for name in readers)
            for readers in self._readers
        )

    def check(self) -> None:
        for arc, register in enumerate(self.registers):
            assert len(set(register.cur)) == len(register.cur), "R2"
            assert len(set(register.next)) == len(register.next), "R2"
            assert 1 <= len(register.cur) <= self.replicas or not register.ver, "R2"
            assert bool(register.next) == (register.phase in (COPYING, SWITCHED)), "phases"
            assert self._readers[arc] == register.readers, "R3"


def _union(register: Register) -> tuple[str, ...]:
    if not register.next:
        return register.cur
    return (*register.cur, *(name for name in register.next if name not in register.cur))


def _steps(register: Register) -> int:
    return (register.ver >> BALLOT_BITS) * 4 + register.phase
