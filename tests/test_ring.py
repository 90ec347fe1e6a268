"""Keys to arcs, arcs to owners."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from dynamo.core import ring
from dynamo.core.ring import Member, Register, Table


def members(count: int) -> list[Member]:
    return [Member(f"n{i}", "127.0.0.1", 7000 + i, 7100 + i) for i in range(count)]


def test_a_full_key_splits_into_what_it_was_made_of():
    assert ring.split_key(ring.full_key(b"shop", b"cart:7")) == (b"shop", b"cart:7")
    for bad in (b"", b"\0", b"\0k", b"\x05shop", b"\x04shop", b"\xff" + b"x" * 300):
        with pytest.raises(ValueError, match="full key"):
            ring.split_key(bad)


@pytest.mark.parametrize("partitions", [1, 2, 64, 1024, 65536])
def test_an_arc_is_one_range_of_storage_keys(partitions):
    for i in range(300):
        full = ring.full_key(b"b", str(i).encode())
        skey = ring.storage_key(full, partitions)
        arc = ring.arc_of(full, partitions)
        start, end = ring.arc_range(arc)
        assert start <= skey < end
        assert int.from_bytes(skey[:2], "big") == arc < partitions
        assert int.from_bytes(skey[2:4], "big") < ring.LEAVES
        assert skey[4:] == full


def test_keys_spread_evenly_over_arcs():
    counts = Counter(ring.arc_of(ring.full_key(b"b", b"%d" % i), 64) for i in range(64_000))
    assert len(counts) == 64
    assert max(counts.values()) < 1_150


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_every_node_computes_the_same_table_from_members_in_any_order(count):
    """R1, R2."""
    some = members(count)
    table = Table(some, 3, 64)
    table.check()
    random.Random(1).shuffle(some)
    assert Table(some, 3, 64).registers == table.registers
    assert len(table.owners(0)) == min(3, count)


def test_fallbacks_are_the_nodes_beyond_the_owners_that_are_usable():
    """Dynamo §4.6: walk on clockwise over distinct nodes."""
    table = Table(members(7), 3, 64)
    for arc in range(64):
        owners = table.owners(arc)
        found = table.fallbacks(arc, lambda name: True)
        assert sorted([*found, *owners]) == [f"n{i}" for i in range(7)]
        usable = table.fallbacks(arc, found[0].__ne__)
        assert usable == found[1:]
    assert Table(members(3), 3, 64).fallbacks(0, lambda name: True) == []
    assert len({tuple(table.fallbacks(arc, lambda name: True)) for arc in range(64)}) > 8


def test_a_register_never_falls():
    """R3: merge is the maximum of (ver, phase, tie), in any order."""
    table = Table(members(4), 3, 8)
    old = table.registers[5]
    new = Register(2, 1, 9, old.cur, ("n0", "n1", "n3"))
    assert table.adopt(5, new)
    assert table.version == 2
    for lower in (old, new, new._replace(tie=8), new._replace(phase=0, tie=99)):
        assert not table.adopt(5, lower)
    assert table.registers[5] == new


def test_clients_can_read_the_packed_owners():
    table = Table(members(5), 3, 16)
    names, packed = table.packed_owners()
    at = 0
    for arc in range(16):
        count = packed[at]
        indices = [int.from_bytes(packed[i : i + 2], "big") for i in range(at + 1, at + 7, 2)]
        assert tuple(names[i] for i in indices) == table.owners(arc)
        at += 1 + 2 * count
    assert at == len(packed)
